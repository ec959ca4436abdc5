//! A server that accepts every message and keeps none. It does as little as SMTP allows, because it shares the processor with what
//! is measured.

use memchr::memmem;
use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Octets of one read.
const CHUNK: usize = 64 * 1024;
/// Ends a message (RFC 5321 §4.1.1.4). Its first two octets end the message's last line.
const END: &[u8] = b"\r\n.\r\n";

thread_local! {
    /// What is read is used at once, so one buffer a thread serves all sessions.
    static CHUNK_OF_THREAD: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Where a server of this process listens.
#[derive(Clone)]
pub struct Sink {
    pub address: SocketAddr,
    accepted: Arc<AtomicU64>,
}

impl Sink {
    /// With `tls` the sink offers STARTTLS.
    pub async fn start(address: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener: TcpListener = socket.listen(16 * 1024)?;
        let sink = Self {
            address: listener.local_addr()?,
            accepted: Arc::default(),
        };
        let accepted = Arc::clone(&sink.accepted);
        tokio::spawn(async move {
            loop {
                // Without a descriptor for one more client, those who are served go on.
                if let Ok((client, _)) = listener.accept().await {
                    // The sender notices a session that breaks.
                    tokio::spawn(session(client, tls.clone(), Arc::clone(&accepted)));
                } else {
                    tokio::task::yield_now().await;
                }
            }
        });
        Ok(sink)
    }

    /// Number of messages that were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn session(
    mut client: TcpStream,
    tls: Option<TlsAcceptor>,
    accepted: Arc<AtomicU64>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.write_all(b"220 sink ESMTP\r\n").await?;
    let mut dialogue = Dialogue::new(tls.is_some(), accepted);
    let next = dialogue.serve(&mut client).await?;
    if let (Next::Tls, Some(tls)) = (next, tls) {
        let mut client = tls.accept(client).await?;
        dialogue.offers_tls = false;
        dialogue.serve(&mut client).await?;
        client.shutdown().await
    } else {
        client.shutdown().await
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Next {
    More,
    Tls,
    End,
}

struct Dialogue {
    offers_tls: bool,
    /// Begin of a command, or up to four octets of a message, that were read before.
    before: Vec<u8>,
    is_message: bool,
    replies: Vec<u8>,
    accepted: Arc<AtomicU64>,
}

impl Dialogue {
    fn new(offers_tls: bool, accepted: Arc<AtomicU64>) -> Self {
        Self {
            offers_tls,
            before: Vec::new(),
            is_message: false,
            replies: Vec::new(),
            accepted,
        }
    }

    /// Serves commands up to QUIT or STARTTLS.
    async fn serve(
        &mut self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> io::Result<Next> {
        loop {
            let next = std::future::poll_fn(|context| {
                CHUNK_OF_THREAD.with_borrow_mut(|chunk| {
                    let mut read = ReadBuf::new(chunk);
                    ready!(Pin::new(&mut *client).poll_read(context, &mut read))?;
                    if read.filled().is_empty() {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Poll::Ready(io::Result::Ok(self.take(read.filled())))
                })
            })
            .await?;
            if !self.replies.is_empty() {
                client.write_all(&self.replies).await?;
                // TLS keeps what the socket would not take at once, as it may after a long read.
                client.flush().await?;
                self.replies.clear();
            }
            if next != Next::More {
                return Ok(next);
            }
        }
    }

    fn take(&mut self, mut octets: &[u8]) -> Next {
        while !octets.is_empty() {
            if self.is_message {
                octets = self.message(octets);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', octets) else {
                self.before.extend_from_slice(octets);
                break;
            };
            let next = if self.before.is_empty() {
                self.command(&octets[..end])
            } else {
                let mut command = std::mem::take(&mut self.before);
                command.extend_from_slice(&octets[..end]);
                self.command(&command)
            };
            octets = &octets[end + 1..];
            if next != Next::More {
                return next;
            }
        }
        Next::More
    }

    fn command(&mut self, command: &[u8]) -> Next {
        let (reply, next): (&[u8], Next) = match command.get(..4).unwrap_or_default() {
            b"EHLO" if self.offers_tls => (
                b"250-sink\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
                Next::More,
            ),
            b"EHLO" => (b"250-sink\r\n250 PIPELINING\r\n", Next::More),
            b"STAR" => (b"220 go\r\n", Next::Tls),
            b"DATA" => {
                self.is_message = true;
                // The end may follow at once.
                self.before.extend_from_slice(b"\r\n");
                (b"354 go\r\n", Next::More)
            }
            b"QUIT" => (b"221 bye\r\n", Next::End),
            _ => (b"250 ok\r\n", Next::More),
        };
        self.replies.extend_from_slice(reply);
        next
    }

    /// Returns what is behind the message.
    fn message<'octets>(&mut self, octets: &'octets [u8]) -> &'octets [u8] {
        let known = self.before.len();
        self.before
            .extend_from_slice(&octets[..octets.len().min(END.len())]);
        let behind = if let Some(at) = memmem::find(&self.before, END) {
            at + END.len() - known
        } else if let Some(at) = memmem::find(octets, END) {
            at + END.len()
        } else {
            let last = octets.len().saturating_sub(END.len() - 1);
            if last > 0 {
                self.before.clear();
                self.before.extend_from_slice(&octets[last..]);
            }
            let surplus = self.before.len().saturating_sub(END.len() - 1);
            self.before.drain(..surplus);
            return &[];
        };
        self.is_message = false;
        self.before.clear();
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.replies.extend_from_slice(b"250 accepted\r\n");
        &octets[behind..]
    }
}
