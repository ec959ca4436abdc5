//! A client that sends as Postfix does: the envelope and DATA in one write where the server offers PIPELINING, and each message
//! after the verdict on the one before.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

/// Octets of one write of a long message.
const CHUNK: usize = 64 * 1024;

/// Octets of one read of replies.
const REPLIES: usize = 2 * 1024;

/// Where to send, and how.
#[derive(Clone)]
pub struct Sender {
    pub to: SocketAddr,
    /// By STARTTLS to a server of this name.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The address to send from, where it matters.
    pub from: Option<IpAddr>,
}

/// One message and its envelope.
pub struct Mail {
    /// MAIL, RCPT... and DATA.
    commands: Vec<Vec<u8>>,
    together: Vec<u8>,
    /// Up to `CHUNK` octets of the message, which are repeated.
    chunk: Vec<u8>,
    repeat: usize,
}

/// One session, from the greeting on.
pub struct Session {
    connection: Connection,
    received: Vec<u8>,
    offers_pipelining: bool,
}

enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Mail {
    /// A message of about that many octets, in lines of 76, as an attachment has them.
    pub fn new(octets: usize, recipients: usize) -> Arc<Self> {
        let line = [
            b"0123456789abcdef".repeat(5)[..76].to_vec(),
            b"\r\n".to_vec(),
        ]
        .concat();
        let lines = (octets / line.len()).max(1);
        let lines_of_chunk = lines.min(CHUNK / line.len());
        let mut commands = vec![b"MAIL FROM:<a@inside.example>\r\n".to_vec()];
        for recipient in 0..recipients {
            commands.push(format!("RCPT TO:<b{recipient}@outside.example>\r\n").into_bytes());
        }
        commands.push(b"DATA\r\n".to_vec());
        Arc::new(Self {
            together: commands.concat(),
            commands,
            chunk: line.repeat(lines_of_chunk),
            repeat: lines.div_ceil(lines_of_chunk),
        })
    }

    pub fn octets(&self) -> usize {
        self.chunk.len() * self.repeat
    }
}

impl Sender {
    /// A session that is ready for its first message.
    pub async fn open(&self) -> io::Result<Session> {
        let socket = if self.to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(from) = self.from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        let mut session = Session {
            connection: Connection::Plain(stream),
            received: Vec::with_capacity(REPLIES),
            offers_pipelining: false,
        };
        session.replies(1).await?;
        session.hello().await?;
        if let Some((connector, name)) = &self.tls {
            session.say(b"STARTTLS\r\n").await?;
            session = session.secure(connector, name).await?;
            session.hello().await?;
        }
        Ok(session)
    }

    /// One session with one message.
    pub async fn deliver(&self, mail: &Mail) -> io::Result<()> {
        let mut session = self.open().await?;
        session.send(mail).await?;
        session.quit().await
    }
}

impl Session {
    async fn secure(
        self,
        connector: &TlsConnector,
        name: &ServerName<'static>,
    ) -> io::Result<Self> {
        let Connection::Plain(stream) = self.connection else {
            return Err(io::Error::other("TLS is there"));
        };
        let stream = connector.connect(name.clone(), stream).await?;
        Ok(Self {
            connection: Connection::Tls(Box::new(stream)),
            received: Vec::with_capacity(REPLIES),
            offers_pipelining: false,
        })
    }

    async fn hello(&mut self) -> io::Result<()> {
        self.write(b"EHLO inside.example\r\n").await?;
        self.offers_pipelining = self.replies(1).await?;
        Ok(())
    }

    pub async fn send(&mut self, mail: &Mail) -> io::Result<()> {
        if self.offers_pipelining {
            self.write(&mail.together).await?;
            self.replies(mail.commands.len()).await?;
        } else {
            for command in &mail.commands {
                self.say(command).await?;
            }
        }
        if mail.repeat == 1 {
            self.write(&[&mail.chunk, &b".\r\n"[..]].concat()).await?;
        } else {
            for _ in 0..mail.repeat {
                self.write(&mail.chunk).await?;
            }
            self.write(b".\r\n").await?;
        }
        self.replies(1).await?;
        Ok(())
    }

    /// To the end: a connection that is closed over unread session tickets is reset.
    pub async fn quit(mut self) -> io::Result<()> {
        self.say(b"QUIT\r\n").await?;
        // What comes behind the reply to QUIT is the peer's affair, and so is how the connection ends.
        while self.read().await.is_ok_and(|len| len > 0) {
            self.received.clear();
        }
        Ok(())
    }

    async fn say(&mut self, command: &[u8]) -> io::Result<()> {
        self.write(command).await?;
        self.replies(1).await?;
        Ok(())
    }

    async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match &mut self.connection {
            Connection::Plain(stream) => stream.write_all(octets).await,
            Connection::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.received.reserve(REPLIES / 2);
        match &mut self.connection {
            Connection::Plain(stream) => stream.read_buf(&mut self.received).await,
            Connection::Tls(stream) => stream.read_buf(&mut self.received).await,
        }
    }

    /// Waits for that many replies, none of which may refuse anything. Returns whether one of them offers PIPELINING.
    async fn replies(&mut self, mut expected: usize) -> io::Result<bool> {
        let (mut at, mut offers) = (0, false);
        loop {
            while expected > 0 {
                let Some(len) = memchr::memchr(b'\n', &self.received[at..]) else {
                    break;
                };
                let line = &self.received[at..at + len];
                at += len + 1;
                match line {
                    [b'2' | b'3', _, _, b'-', ..] => {}
                    [b'2' | b'3', ..] => expected -= 1,
                    _ => {
                        let line = String::from_utf8_lossy(line).trim_end().to_owned();
                        return Err(io::Error::other(line));
                    }
                }
                offers |= line
                    .get(4..)
                    .is_some_and(|word| word.starts_with(b"PIPELINING"));
            }
            if expected == 0 {
                self.received.drain(..at);
                return Ok(offers);
            }
            if self.read().await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "closed without a reply",
                ));
            }
        }
    }
}
