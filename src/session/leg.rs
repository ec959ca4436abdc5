//! One of a session's two connections: its stream (in the clear or over TLS), the octets that were read and that the machine has
//! not taken yet, and the octets that are still to be written.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{client, server};

use crate::smtp::MAX_UNTAKEN;

/// Octets that one read takes at most while commands and replies flow.
const DIALOGUE_READ: usize = 4 * 1024;
/// Octets that one read takes at most while a message flows. The room for them is allocated only then.
const MESSAGE_READ: usize = 64 * 1024;
/// Octets that may wait to be written. When that many wait, nothing more is read that would add to them.
const BACKED_UP: usize = 64 * 1024;
/// A connection that this proxy ends is still read, for at most this long and this many octets. Without that, a reset could overtake
/// our last reply.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 1024 * 1024);

/// The connection of a leg.
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// TLS in which this proxy is the client.
    ToServer(Box<client::TlsStream<TcpStream>>),
    /// TLS in which this proxy is the server.
    ToClient(Box<server::TlsStream<TcpStream>>),
    /// In the clear and within this process, to a client that this process plays itself.
    Memory(DuplexStream),
}

/// What a leg needs of a stream, whatever its kind.
trait Octets: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Octets for T {}

impl Stream {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::ToServer(tls) => Some(tls.get_ref().0),
            Self::ToClient(tls) => Some(tls.get_ref().0),
            Self::Memory(_) => None,
        }
    }

    fn octets(&mut self) -> &mut dyn Octets {
        match self {
            Self::Plain(stream) => stream,
            Self::ToServer(stream) => stream,
            Self::ToClient(stream) => stream,
            Self::Memory(stream) => stream,
        }
    }
}

/// Octets that were read. The machine has not taken `bytes[taken..filled]` yet. The rest behind `filled` is room for the next read;
/// it is cleared once, not for each read.
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

    /// Room for up to `more` octets. Gives memory back that only a message needed.
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

/// One of the session's two connections, if it is open.
#[derive(Default)]
pub struct Leg {
    stream: Option<Stream>,
    input: Inbox,
    /// Octets to write. Those in `output[sent..]` are not written yet.
    output: Vec<u8>,
    sent: usize,
    unflushed: bool,
    /// The other end will send no more.
    ended: bool,
    /// Nothing more is read, because TLS is about to start.
    pub(super) paused: bool,
    /// A message flows from this side.
    pub(super) in_message: bool,
    /// Octets read and written so far.
    pub(super) octets: [u64; 2],
}

impl Leg {
    /// A leg with a connection, from which `first` was already read.
    #[must_use]
    pub fn new(stream: Stream, first: Vec<u8>) -> Self {
        Self {
            stream: Some(stream),
            input: Inbox::holding(first),
            ..Self::default()
        }
    }

    /// Takes a new connection, or the same one with TLS on it. Octets of the connection before are thrown away.
    pub(super) fn open(&mut self, stream: Stream) {
        *self = Self {
            octets: self.octets,
            ..Self::new(stream, Vec::new())
        };
    }

    /// The connection, for a handshake. Octets that are untaken then are lost, so there must be none.
    pub(super) fn take_stream(&mut self) -> Option<Stream> {
        self.stream.take()
    }

    /// Whether there is a connection.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Octets that were read and that the machine has not taken yet.
    pub(super) fn untaken(&self) -> &[u8] {
        self.input.untaken()
    }

    /// The machine took the first `len` untaken octets. Returns them.
    pub(super) fn take(&mut self, len: usize) -> &[u8] {
        self.input.take(len)
    }

    /// Puts octets behind those that are to be written.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.stream.is_some() {
            self.output.extend_from_slice(bytes);
        }
    }

    /// Whether so many octets wait to be written that nothing more may be read that adds to them.
    pub(super) fn backed_up(&self) -> bool {
        self.output.len() - self.sent >= BACKED_UP
    }

    /// Whether all octets that were to be written have reached the operating system.
    pub(super) fn flushed(&self) -> bool {
        self.sent == self.output.len() && !self.unflushed
    }

    /// Whether more may be read now.
    pub(super) fn wants_input(&self) -> bool {
        self.stream.is_some() && !self.paused && !self.ended && self.untaken().len() < MAX_UNTAKEN
    }

    /// Reads the octets that are there, as far as there is room. `Ok(0)` is the end of the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
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
            match Pin::new(stream.octets()).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if room.filled().len() > got => got = room.filled().len(),
                // Octets in front of an end or an error count first. The next read meets the end or the error again.
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

    /// Writes the octets that wait. Ready when all of them are flushed.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        while self.sent < self.output.len() {
            let wrote =
                ready!(Pin::new(stream.octets()).poll_write(cx, &self.output[self.sent..]))?;
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
            ready!(Pin::new(stream.octets()).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the connection with a reset, so that the other end cannot take half a message for a whole one.
    pub(super) fn abort(&mut self) {
        if let Some(stream) = self.stream.take()
            && let Some(tcp) = stream.tcp()
        {
            // If this fails, an ordinary close in the middle of a message is left. No server takes that for the message's end.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
        self.output.clear();
        self.sent = 0;
    }

    /// Writes what is left, says goodbye, and reads to the end for a moment. Returns the octets it wrote.
    pub(super) async fn finish(mut self) -> u64 {
        let before = self.octets[1];
        let (limit, mut octets) = LINGER;
        let farewell = async {
            poll_fn(|cx| self.poll_write(cx)).await?;
            let Some(stream) = self.stream.as_mut() else {
                return Ok(());
            };
            let stream = stream.octets();
            stream.shutdown().await?;
            let mut sink = [0_u8; 4096];
            while octets > 0 && !self.ended {
                let got = stream.read(&mut sink).await?;
                self.ended = got == 0;
                octets = octets.saturating_sub(got);
            }
            io::Result::Ok(())
        };
        // How the other end takes our leaving changes nothing any more.
        let _ = timeout(limit, farewell).await;
        self.octets[1] - before
    }
}
