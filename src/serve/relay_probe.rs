//! Inbound: does the inside server relay for strangers who come through us? Asked at start and every hour, from the
//! proxy's own address, with a recipient in a foreign domain; no message is ever sent.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{net::ServerAddr, policy::Dns, session::setup::InboundSetup};

/// Between two probes.
const EVERY: Duration = Duration::from_secs(3600);
/// A whole probe.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest reply line that is read, in octets.
const LINE: u64 = 2048;
/// Most lines of one reply.
const LINES: usize = 128;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It takes mail for anybody from us: the reply.
    OpenRelay(String),
    /// It refuses: the reply.
    Refuses(String),
    /// It answered otherwise before it could be asked.
    Unclear(String),
}

/// Probes now and every hour, and says what it found.
pub async fn hourly(site: Arc<InboundSetup>, domain: String) {
    loop {
        match timeout(LIMIT, probe(&site, &domain)).await {
            Ok(Ok(ProbeResult::OpenRelay(reply))) => log::error!(
                "in: OPEN RELAY: the inside server takes mail for {domain} from this proxy's address ({reply}); all the \
                 world can send through it. hint: let it relay only for addresses that are not this proxy's, or use \
                 --keep-client-address"
            ),
            Ok(Ok(ProbeResult::Refuses(reply))) => {
                log::info!("in: relay probe: the inside server refuses {domain} ({reply})")
            }
            Ok(Ok(ProbeResult::Unclear(words))) => {
                log::warn!("in: relay probe: no answer to judge by: {words}")
            }
            Ok(Err(error)) => log::warn!("in: relay probe: {error}"),
            Err(_) => log::warn!("in: relay probe: not finished within 60 s"),
        }
        sleep(EVERY).await;
    }
}

async fn probe(site: &InboundSetup, domain: &str) -> io::Result<ProbeResult> {
    let upstream = site.upstream.as_ref().ok_or(io::ErrorKind::NotFound)?;
    let ip = match upstream.ip() {
        Some(ip) => ip,
        None => match site.lookup.host(&upstream.host, None).await.addresses {
            Dns::Found(addresses, _) => *addresses.first().ok_or(io::ErrorKind::NotFound)?,
            other => {
                return Err(io::Error::other(format!(
                    "{}: address look-up: {other:?}",
                    upstream.host
                )));
            }
        },
    };
    let (mut stream, _dialled) = site
        .common
        .dial
        .connect(ServerAddr((ip, upstream.port).into()), None)
        .await?;
    if let Some(version) = site.send_proxy {
        let (own, server) = (stream.local_addr()?, stream.peer_addr()?);
        stream
            .write_all(&crate::net::proxy_header::header(version, own, server))
            .await?;
    }
    ask(&mut BufReader::new(stream), &site.common.hostname, domain).await
}

/// The dialogue.
async fn ask(
    server: &mut BufReader<TcpStream>,
    hostname: &str,
    domain: &str,
) -> io::Result<ProbeResult> {
    let steps = [
        (None, "greeting"),
        (Some(format!("EHLO {hostname}\r\n")), "EHLO"),
        (Some(String::from("MAIL FROM:<>\r\n")), "MAIL"),
    ];
    for (command, name) in steps {
        if let Some(command) = command {
            server.get_mut().write_all(command.as_bytes()).await?;
        }
        let answer = reply(server).await?;
        if !answer.starts_with('2') {
            return Ok(ProbeResult::Unclear(format!("{name}: {answer}")));
        }
    }
    server
        .get_mut()
        .write_all(format!("RCPT TO:<relay-probe@{domain}>\r\n").as_bytes())
        .await?;
    let answer = reply(server).await?;
    server.get_mut().write_all(b"QUIT\r\n").await?;
    Ok(match answer.as_bytes().first() {
        Some(b'2') => ProbeResult::OpenRelay(answer),
        Some(b'5' | b'4') => ProbeResult::Refuses(answer),
        _ => ProbeResult::Unclear(answer),
    })
}

/// The last line of the next reply, printable.
async fn reply(server: &mut BufReader<TcpStream>) -> io::Result<String> {
    use tokio::io::AsyncReadExt as _;
    for _ in 0..LINES {
        let mut line = Vec::new();
        (&mut *server)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.get(3) != Some(&b'-') {
            return Ok(line.trim_ascii_end().escape_ascii().to_string());
        }
    }
    Err(io::Error::other("a reply without end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn probe_server_that_says(rcpt: &'static str) -> ProbeResult {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut stream = BufReader::new(stream);
            stream
                .get_mut()
                .write_all(b"220 inside\r\n")
                .await
                .expect("write");
            let mut line = String::new();
            while stream.read_line(&mut line).await.expect("read") > 0 {
                let answer = match &line[..4] {
                    "EHLO" => "250-inside\r\n250 SIZE\r\n",
                    "RCPT" => rcpt,
                    _ => "250 ok\r\n",
                };
                stream
                    .get_mut()
                    .write_all(answer.as_bytes())
                    .await
                    .expect("write");
                line.clear();
            }
        });
        let stream = TcpStream::connect(address).await.expect("connect");
        let outcome = ask(
            &mut BufReader::new(stream),
            "proxy.example",
            "probe.invalid",
        )
        .await
        .expect("answered");
        server.abort();
        outcome
    }

    #[tokio::test]
    async fn a_server_that_takes_a_foreign_recipient_is_an_open_relay() {
        assert_eq!(
            probe_server_that_says("250 ok\r\n").await,
            ProbeResult::OpenRelay("250 ok".into())
        );
        assert_eq!(
            probe_server_that_says("550-no\r\n550 relaying denied\r\n").await,
            ProbeResult::Refuses("550 relaying denied".into())
        );
    }
}
