//! One of a session's two connections: what was read and not yet taken, what is to be written, and the stream, in the
//! clear or over TLS.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{client, server};

use crate::smtp::MAX_UNTAKEN;

/// Read at once in dialogue, in octets.
const DIALOGUE_READ: usize = 4 * 1024;
/// Read at once while message octets flow, in octets. Allocated only then.
const MESSAGE_READ: usize = 64 * 1024;
/// Written but not yet sent: beyond this nothing more is read that would add to it, in octets.
pub const BACKED_UP: usize = 64 * 1024;
/// A connection that we end is read to its end for at most this long and this much, so that a reset does not overtake our last reply.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 1024 * 1024);

/// A connection's bytes.
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// TLS, we are the client.
    ToServer(Box<client::TlsStream<TcpStream>>),
    /// TLS, we are the server.
    ToClient(Box<server::TlsStream<TcpStream>>),
    /// In the clear and within this process: a client that we play ourselves.
    Memory(DuplexStream),
}

impl Stream {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::ToServer(tls) => Some(tls.get_ref().0),
            Self::ToClient(tls) => Some(tls.get_ref().0),
            Self::Memory(_) => None,
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buffer),
            Self::ToServer(s) => Pin::new(s).poll_read(cx, buffer),
            Self::ToClient(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Memory(s) => Pin::new(s).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_write(cx, bytes),
            Self::ToServer(s) => Pin::new(s).poll_write(cx, bytes),
            Self::ToClient(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Memory(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::ToServer(s) => Pin::new(s).poll_flush(cx),
            Self::ToClient(s) => Pin::new(s).poll_flush(cx),
            Self::Memory(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::ToServer(s) => Pin::new(s).poll_shutdown(cx),
            Self::ToClient(s) => Pin::new(s).poll_shutdown(cx),
            Self::Memory(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// Octets that were read: `bytes[taken..filled]` are not yet taken by the machine, what is behind them is room that was
/// cleared once and not for each read.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
    filled: usize,
}

impl Inbox {
    fn holding(bytes: Vec<u8>) -> Self {
        let filled = bytes.len();
        Self {
            bytes,
            taken: 0,
            filled,
        }
    }

    fn untaken(&self) -> &[u8] {
        &self.bytes[self.taken..self.filled]
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let from = self.taken;
        self.taken += len;
        assert!(
            self.taken <= self.filled,
            "a machine takes no more than it was offered"
        );
        &self.bytes[from..self.taken]
    }

    /// Room for up to `more` octets; gives back what a message needed and dialogue does not.
    fn room(&mut self, more: usize) -> &mut [u8] {
        self.bytes.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        let wanted = self.filled + more;
        if self.bytes.len() > 2 * wanted {
            self.bytes.truncate(wanted);
            self.bytes.shrink_to_fit();
        } else if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.filled..wanted]
    }

    fn fill(&mut self, got: usize) {
        self.filled += got;
    }
}

/// One side of the session.
#[derive(Default)]
pub struct Leg {
    stream: Option<Stream>,
    input: Inbox,
    /// To be written, `output[sent..]` not yet written.
    output: Vec<u8>,
    sent: usize,
    unflushed: bool,
    /// The other end will send no more.
    ended: bool,
    /// Nothing more is read: TLS is about to start, or the connection is being closed.
    pub paused: bool,
    /// Message octets flow from here.
    pub in_message: bool,
    /// Read and written so far, in octets.
    pub octets: [u64; 2],
}

impl Leg {
    /// A leg with a connection; `first` was read from it already.
    #[must_use]
    pub fn new(stream: Stream, first: Vec<u8>) -> Self {
        Self {
            stream: Some(stream),
            input: Inbox::holding(first),
            ..Self::default()
        }
    }

    /// Takes a new connection, or the same one with TLS on it; nothing of before is kept.
    pub fn open(&mut self, stream: Stream) {
        *self = Self {
            octets: self.octets,
            ..Self::new(stream, Vec::new())
        };
    }

    /// The connection, for a handshake. What is untaken then is lost, so there must be none.
    pub fn take_stream(&mut self) -> Option<Stream> {
        self.stream.take()
    }

    /// Is there a connection?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Read and not yet taken.
    #[must_use]
    pub fn untaken(&self) -> &[u8] {
        self.input.untaken()
    }

    /// The machine took the first `len` untaken octets; returns them.
    pub fn take(&mut self, len: usize) -> &[u8] {
        self.input.take(len)
    }

    /// Octets to be written.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.stream.is_some() {
            self.output.extend_from_slice(bytes);
        }
    }

    /// Is so much waiting to be written that nothing more should be read that adds to it?
    #[must_use]
    pub fn backed_up(&self) -> bool {
        self.output.len() - self.sent >= BACKED_UP
    }

    /// Has all that was to be written reached the system?
    #[must_use]
    pub fn flushed(&self) -> bool {
        self.sent == self.output.len() && !self.unflushed
    }

    /// May more be read now?
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.stream.is_some() && !self.paused && !self.ended && self.untaken().len() < MAX_UNTAKEN
    }

    /// Reads what there is, as far as there is room. `Ok(0)` is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Pending;
        };
        let more = if self.in_message {
            MESSAGE_READ
        } else {
            DIALOGUE_READ
        };
        let mut room = ReadBuf::new(self.input.room(more));
        let mut got = 0;
        while room.remaining() > 0 {
            match stream.poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if room.filled().len() > got => got = room.filled().len(),
                // What came before an end or an error counts first; both are met again at the next read.
                _ if got > 0 => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => {
                    self.ended = true;
                    return Poll::Ready(outcome.map(|()| 0));
                }
            }
        }
        self.input.fill(got);
        self.octets[0] += got as u64;
        Poll::Ready(Ok(got))
    }

    /// Writes what there is to write; ready when all of it is flushed.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        while self.sent < self.output.len() {
            let wrote = ready!(stream.poll_write(cx, &self.output[self.sent..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += wrote;
            self.octets[1] += wrote as u64;
            self.unflushed = true;
        }
        self.sent = 0;
        if self.output.capacity() > 2 * BACKED_UP {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
        if self.unflushed {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the connection with a reset, so that the other end cannot take what it has for the whole.
    pub fn abort(&mut self) {
        if let Some(stream) = self.stream.take()
            && let Some(tcp) = stream.tcp()
        {
            // A failure here leaves an ordinary close, in the middle of a message, which no server takes for its end.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
        self.output.clear();
        self.sent = 0;
    }

    /// Writes what is left, says goodbye, and reads to the end for a moment. Gives the octets that it wrote.
    pub async fn finish(mut self) -> u64 {
        let before = self.octets[1];
        let (limit, mut octets) = LINGER;
        let farewell = async {
            poll_fn(|cx| self.poll_write(cx)).await?;
            let Some(stream) = self.stream.as_mut() else {
                return Ok(());
            };
            poll_fn(|cx| stream.poll_shutdown(cx)).await?;
            let mut sink = [0_u8; 4096];
            while octets > 0 && !self.ended {
                let mut buffer = ReadBuf::new(&mut sink);
                poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await?;
                let got = buffer.filled().len();
                self.ended = got == 0;
                octets = octets.saturating_sub(got.max(1));
            }
            io::Result::Ok(())
        };
        // How the other end takes our leaving changes nothing any more.
        let _ = timeout(limit, farewell).await;
        self.octets[1] - before
    }
}
