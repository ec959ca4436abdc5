//! Links with a tap: tiny relays that note what crosses, in the order in which it does.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Between the legacy server and the proxy.
    Inside,
    /// Between the proxy and the world.
    Outside,
}

/// The side that spoke, by SMTP role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    Client,
    Server,
}

/// The part of it that an eavesdropper can read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// A line in the clear, without its CRLF.
    Line(String),
    /// A TLS record (RFC 8446 §5.1): the description from its header, and its size in octets.
    Record(String, usize),
}

pub struct Crossing {
    pub link: Link,
    pub speaker: Speaker,
    pub seen: Seen,
}

/// What crossed all taps since the last look.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Vec<Crossing>>>);

impl Wire {
    /// Opens a link to `server` and returns the address of its near end. `masked`: on it stands a firewall that
    /// overwrites the offer of STARTTLS.
    pub async fn tap(
        &self,
        link: Link,
        server: SocketAddr,
        masked: bool,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let near = listener.local_addr()?;
        let wire = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(wire.clone().relay(
                    link,
                    Speaker::Client,
                    false,
                    from_client,
                    to_server,
                ));
                tokio::spawn(wire.clone().relay(
                    link,
                    Speaker::Server,
                    masked,
                    from_server,
                    to_client,
                ));
            }
        });
        Ok(near)
    }

    async fn relay(
        self,
        link: Link,
        speaker: Speaker,
        masked: bool,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) {
        let mut chunk = vec![0; 64 * 1024];
        let mut unread = Vec::new();
        while let Ok(len @ 1..) = from.read(&mut chunk).await {
            let octets = &mut chunk[..len];
            if masked {
                mask(octets);
            }
            unread.extend_from_slice(octets);
            self.note(link, speaker, &mut unread);
            if to.write_all(octets).await.is_err() {
                return;
            }
        }
        // If this fails, the other end is gone too.
        let _ = to.shutdown().await;
    }

    fn note(&self, link: Link, speaker: Speaker, unread: &mut Vec<u8>) {
        let mut crossings = self.0.lock().expect("no tap panics while it notes");
        while let Some((seen, len)) = first(unread) {
            unread.drain(..len);
            crossings.push(Crossing {
                link,
                speaker,
                seen,
            });
        }
    }

    /// All that crossed since the last call.
    pub fn take(&self) -> Vec<Crossing> {
        std::mem::take(&mut self.0.lock().expect("no tap panics while it notes"))
    }
}

/// Overwrites the word and keeps its length, as firewalls that inspect SMTP do.
fn mask(octets: &mut [u8]) {
    const OFFER: &[u8] = b"STARTTLS\r\n";
    if let Some(at) = octets
        .windows(OFFER.len())
        .position(|window| window == OFFER)
    {
        octets[at..at + 8].copy_from_slice(b"XXXXXXXA");
    }
}

/// The first whole line or record, and its length in octets.
fn first(octets: &[u8]) -> Option<(Seen, usize)> {
    match octets {
        [kind @ 20..=23, 3, _, high, low, body @ ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let body = body.get(..len)?;
            Some((Seen::Record(record(*kind, body), len + 5), len + 5))
        }
        // Whether the octets may be the beginning of a record.
        [20..=23, ..] => None,
        _ => {
            let end = octets.windows(2).position(|pair| pair == b"\r\n")?;
            let line = String::from_utf8_lossy(&octets[..end]).into_owned();
            Some((Seen::Line(line), end + 2))
        }
    }
}

fn record(kind: u8, body: &[u8]) -> String {
    match (kind, body.first()) {
        (22, Some(1)) => match server_name(body) {
            Some(name) => format!("ClientHello for {name}"),
            None => "ClientHello".into(),
        },
        (22, Some(2)) => "ServerHello".into(),
        (21, _) => "alert".into(),
        (20, _) => "change cipher spec".into(),
        _ => "encrypted".into(),
    }
}

/// The name in a ClientHello's server_name extension (RFC 6066 §3).
fn server_name(hello: &[u8]) -> Option<String> {
    let skip = |octets: &'_ [u8], width: usize| -> Option<usize> {
        let len = octets
            .get(..width)?
            .iter()
            .fold(0, |len, octet| len << 8 | usize::from(*octet));
        Some(width + len)
    };
    // Type and length, version and random; then session id, cipher suites, compression methods.
    let mut rest = hello.get(4 + 2 + 32..)?;
    for width in [1, 2, 1] {
        rest = rest.get(skip(rest, width)?..)?;
    }
    rest = rest.get(2..)?;
    while let [kind_high, kind_low, extension @ ..] = rest {
        let len = skip(extension, 2)?;
        if [*kind_high, *kind_low] == [0, 0] {
            // List length, name type, name length.
            return String::from_utf8(extension.get(2 + 5..len)?.to_vec()).ok();
        }
        rest = extension.get(len..)?;
    }
    None
}
