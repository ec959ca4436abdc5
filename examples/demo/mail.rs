//! Very simple mail servers and senders: just enough SMTP (RFC 5321) to carry a message.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

/// Where a server puts what it accepted: each message as it came, dots and all.
#[derive(Clone, Default)]
pub struct Mailbox(Arc<Mutex<Vec<Vec<u8>>>>);

impl Mailbox {
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().expect("no server panics while it delivers"))
    }
}

/// Both directions of a connection, in the clear or over TLS.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Starts a server of that name; with `tls` it offers STARTTLS.
pub async fn serve(
    name: &'static str,
    tls: Option<TlsAcceptor>,
    mailbox: Mailbox,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (tls, mailbox) = (tls.clone(), mailbox.clone());
            tokio::spawn(async move {
                // The other end notices a connection that breaks, so the error is not reported here.
                let _ = session(name, tls, client, mailbox).await;
            });
        }
    });
    Ok(address)
}

async fn session(
    name: &str,
    tls: Option<TlsAcceptor>,
    client: TcpStream,
    mailbox: Mailbox,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    client
        .write_all(format!("220 {name} ESMTP\r\n").as_bytes())
        .await?;
    match (
        dialogue(name, tls.is_some(), &mut client, &mailbox).await?,
        tls,
    ) {
        (Next::Handshake, Some(tls)) => {
            let mut client = BufReader::new(tls.accept(client.into_inner()).await?);
            dialogue(name, false, &mut client, &mailbox).await?;
            client.shutdown().await
        }
        _ => client.shutdown().await,
    }
}

enum Next {
    Handshake,
    Close,
}

async fn dialogue(
    name: &str,
    offers_tls: bool,
    client: &mut BufReader<impl Connection>,
    mailbox: &Mailbox,
) -> io::Result<Next> {
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? == 0 {
            return Ok(Next::Close);
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" if offers_tls => format!("250-{name}\r\n250-8BITMIME\r\n250 STARTTLS"),
            "EHLO" => format!("250-{name}\r\n250 8BITMIME"),
            "STAR" if offers_tls => "220 go ahead".into(),
            "MAIL" | "RCPT" | "RSET" | "NOOP" | "HELO" => "250 ok".into(),
            "DATA" => "354 go ahead".into(),
            "QUIT" => "221 bye".into(),
            _ => "502 not here".into(),
        };
        client.write_all(format!("{reply}\r\n").as_bytes()).await?;
        client.flush().await?;
        match verb.as_str() {
            "STAR" if offers_tls => return Ok(Next::Handshake),
            "QUIT" => return Ok(Next::Close),
            "DATA" => {
                let message = message(client).await?;
                let reply = format!("250 {} octets, accepted by {name}\r\n", message.len());
                mailbox
                    .0
                    .lock()
                    .expect("no server panics while it delivers")
                    .push(message);
                client.write_all(reply.as_bytes()).await?;
                client.flush().await?;
            }
            _ => {}
        }
    }
}

/// Reads a message up to the final dot, which is left out.
async fn message(client: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let begin = message.len();
        if client.read_until(b'\n', &mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if &message[begin..] == b".\r\n" {
            message.truncate(begin);
            return Ok(message);
        }
    }
}

/// One message from one sender to one recipient.
pub struct Letter {
    pub from: &'static str,
    pub to: &'static str,
    /// The message as sent: lines end in CRLF, and leading dots are doubled.
    pub content: String,
}

/// Sends a letter as the server `name` would, and returns the line with which it was accepted or refused. With `tls` it
/// starts TLS first and demands that certificate name.
pub async fn send(
    name: &str,
    server: SocketAddr,
    tls: Option<(&TlsConnector, &'static str)>,
    letter: &Letter,
) -> io::Result<String> {
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let mut server = BufReader::new(server);
    let greeting = reply(&mut server).await?;
    if !greeting.starts_with("220") {
        return Ok(greeting);
    }
    let Some((connector, peer)) = tls else {
        return transaction(name, &mut server, letter).await;
    };
    for command in [format!("EHLO {name}"), "STARTTLS".into()] {
        let answer = say(&mut server, &command).await?;
        if !answer.starts_with('2') {
            return Ok(answer);
        }
    }
    let peer = ServerName::try_from(peer).map_err(io::Error::other)?;
    let mut server = BufReader::new(connector.connect(peer, server.into_inner()).await?);
    transaction(name, &mut server, letter).await
}

async fn transaction(
    name: &str,
    server: &mut BufReader<impl Connection>,
    letter: &Letter,
) -> io::Result<String> {
    let Letter { from, to, content } = letter;
    for (command, expected) in [
        (format!("EHLO {name}"), '2'),
        (format!("MAIL FROM:<{from}>"), '2'),
        (format!("RCPT TO:<{to}>"), '2'),
        ("DATA".into(), '3'),
    ] {
        let answer = say(server, &command).await?;
        if !answer.starts_with(expected) {
            if !answer.starts_with("421") {
                say(server, "QUIT").await?;
            }
            return Ok(answer);
        }
    }
    let outcome = say(server, &format!("{content}.")).await?;
    say(server, "QUIT").await?;
    Ok(outcome)
}

/// Sends a command and returns the last line of its reply.
async fn say(server: &mut BufReader<impl Connection>, command: &str) -> io::Result<String> {
    server
        .write_all(format!("{command}\r\n").as_bytes())
        .await?;
    server.flush().await?;
    reply(server).await
}

/// The last line of a reply, without CRLF.
async fn reply(server: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    loop {
        let mut line = String::new();
        if server.read_line(&mut line).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "closed without a reply",
            ));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line.trim_end().to_owned());
        }
    }
}
