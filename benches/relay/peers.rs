//! A sender and a sink that do as little as SMTP allows, and a relay that only copies.

use std::{io, net::SocketAddr};
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
        BufReader, copy_bidirectional_with_sizes,
    },
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

/// Octets of one read or write.
const CHUNK: usize = 64 * 1024;
/// Ends a message (RFC 5321 §4.1.1.4).
const END: &[u8] = b"\r\n.\r\n";

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Starts a server that accepts every message and keeps none.
pub async fn sink(tls: Option<TlsAcceptor>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // The sender notices a session that breaks.
            tokio::spawn(session(client, tls.clone()));
        }
    });
    Ok(address)
}

async fn session(client: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::with_capacity(CHUNK, client);
    client.write_all(b"220 sink ESMTP\r\n").await?;
    if let Some(tls) = tls {
        dialogue(&mut client, true).await?;
        let mut client = BufReader::with_capacity(CHUNK, tls.accept(client.into_inner()).await?);
        dialogue(&mut client, false).await?;
        client.shutdown().await
    } else {
        dialogue(&mut client, false).await?;
        client.shutdown().await
    }
}

/// Serves commands up to QUIT, or up to STARTTLS where that is offered.
async fn dialogue(client: &mut BufReader<impl Connection>, offers_tls: bool) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if client.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4).unwrap_or_default() {
            "EHLO" if offers_tls => b"250-sink\r\n250 STARTTLS\r\n",
            "EHLO" => b"250 sink\r\n",
            "STAR" => b"220 go\r\n",
            "DATA" => b"354 go\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        answer(client, reply).await?;
        match line.get(..4).unwrap_or_default() {
            "STAR" | "QUIT" => return Ok(()),
            "DATA" => {
                swallow(client).await?;
                answer(client, b"250 accepted\r\n").await?;
            }
            _ => {}
        }
    }
}

/// Flushed, because TLS keeps what the socket would not take at once, as it may after a long read.
async fn answer(client: &mut BufReader<impl Connection>, reply: &[u8]) -> io::Result<()> {
    client.write_all(reply).await?;
    client.flush().await
}

/// Reads to the end of the message. The sender sends nothing behind it before the reply.
async fn swallow(client: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let mut tail = Vec::with_capacity(2 * END.len());
    loop {
        let octets = client.fill_buf().await?;
        if octets.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tail.extend_from_slice(&octets[octets.len().saturating_sub(END.len())..]);
        tail.drain(..tail.len().saturating_sub(END.len()));
        let len = octets.len();
        client.consume(len);
        if tail == END {
            return Ok(());
        }
    }
}

/// Sends messages of a given size; with `tls` by STARTTLS to a server of that name.
#[derive(Clone)]
pub struct Sender {
    pub tls: Option<(TlsConnector, &'static str)>,
}

impl Sender {
    /// One session with one message.
    pub async fn send(&self, to: SocketAddr, octets: usize) -> io::Result<()> {
        let server = TcpStream::connect(to).await?;
        server.set_nodelay(true)?;
        let mut server = BufReader::new(server);
        reply(&mut server).await?;
        let Some((connector, name)) = &self.tls else {
            return transaction(&mut server, octets).await;
        };
        say(&mut server, "EHLO sender.example").await?;
        say(&mut server, "STARTTLS").await?;
        let name = ServerName::try_from(*name).map_err(io::Error::other)?;
        let mut server = BufReader::new(connector.connect(name, server.into_inner()).await?);
        transaction(&mut server, octets).await
    }
}

async fn transaction(server: &mut BufReader<impl Connection>, octets: usize) -> io::Result<()> {
    for command in [
        "EHLO sender.example",
        "MAIL FROM:<a@sender.example>",
        "RCPT TO:<b@sink.example>",
        "DATA",
    ] {
        say(server, command).await?;
    }
    let chunk =
        b"0123456789 0123456789 0123456789 0123456789 0123456789 0123456\r\n".repeat(CHUNK / 64);
    let mut left = octets;
    while left > 0 {
        let len = left.min(chunk.len());
        // Takes whole lines from the end of the chunk.
        server.write_all(&chunk[chunk.len() - len..]).await?;
        left -= len;
    }
    say(server, ".").await?;
    say(server, "QUIT").await?;
    // To the end: a connection that is closed over unread session tickets is reset.
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await?;
    Ok(())
}

async fn say(server: &mut BufReader<impl Connection>, command: &str) -> io::Result<()> {
    server
        .write_all(format!("{command}\r\n").as_bytes())
        .await?;
    server.flush().await?;
    reply(server).await
}

async fn reply(server: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if server.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.as_bytes() {
            [b'2' | b'3', _, _, b'-', ..] => {}
            [b'2' | b'3', ..] => return Ok(()),
            _ => return Err(io::Error::other(line.trim_end().to_owned())),
        }
    }
}

/// Copies both ways between each client and `target`, 64 KiB at once, until the process is killed.
pub async fn copy(
    listen: SocketAddr,
    target: SocketAddr,
) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut server = TcpStream::connect(target).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut client, &mut server, CHUNK, CHUNK).await
        });
    }
}

/// An address that nobody listens on at this moment.
pub async fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()
}
