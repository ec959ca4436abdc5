//! One of a session's two connections: its stream (in the clear or with TLS on it), the octets that were read and that the machine has
//! not taken yet, and the octets that are still to be written.
//!
//! This is the only place that knows whether a connection has TLS. The octets of the leg are always those of SMTP; its channel makes
//! records of them and back. A leg that waits has memory only for octets that wait, too.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
    time::timeout,
};

use crate::{
    net::buffer::{Buffer, LARGE},
    smtp::MAX_UNTAKEN,
    tls::{Channel, Secured},
};

/// Octets that one read takes at most while commands and replies flow.
const DIALOGUE_READ: usize = 4 * 1024;
/// Octets that may wait to be written. When that many wait, nothing more is read that would add to them.
const BACKED_UP: usize = LARGE;
/// A record of TLS that has not arrived whole: more of it may be kept only while a message flows (RFC 8446 §5.2).
const PARTIAL_RECORD: usize = 17 * 1024;
/// A connection that this proxy ends is still read, for at most this long and this many octets. Without that, a reset could overtake
/// our last reply.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 1024 * 1024);

/// The connection below a leg.
pub enum Stream {
    /// A socket.
    Tcp(TcpStream),
    /// Within this process, to a client that this process plays itself.
    Memory(DuplexStream),
}

/// What a leg needs of a stream, whatever its kind.
trait Octets: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Octets for T {}

impl Stream {
    fn octets(&mut self) -> &mut dyn Octets {
        match self {
            Self::Tcp(stream) => stream,
            Self::Memory(stream) => stream,
        }
    }
}

/// One of the session's two connections, if it is open.
#[derive(Default)]
pub struct Leg {
    stream: Option<Stream>,
    /// TLS, if it is up. While its records are opened the session holds it.
    channel: Option<Box<Channel>>,
    /// Octets that the machine has not taken yet.
    input: Buffer,
    /// Octets to write. With TLS they are not encrypted yet.
    output: Buffer,
    /// Records were read that are not opened yet.
    unopened: bool,
    /// The end of the connection or its fault. The machine takes the octets in front of it first.
    fate: Option<io::Result<()>>,
    /// Octets could not be encrypted, and are lost.
    unsealed: Option<io::Error>,
    /// The connection broke. What was read before still counts.
    broken: bool,
    /// The other end will send no more.
    ended: bool,
    /// There was nothing to read in this step. The connection wakes the session when there is, so it need not be asked again.
    quiet: bool,
    /// Nothing more is read, because TLS is about to start.
    pub(super) paused: bool,
    /// A message flows from this side.
    pub(super) in_message: bool,
    /// Octets of SMTP read and written so far.
    pub(super) octets: [u64; 2],
}

impl Leg {
    /// A leg with a connection in the clear, from which `first` was already read.
    #[must_use]
    pub fn new(stream: Stream, first: Vec<u8>) -> Self {
        Self {
            stream: Some(stream),
            input: Buffer::holding(first),
            ..Self::default()
        }
    }

    /// Takes a new connection. Octets of the connection before are thrown away.
    pub(super) fn open(&mut self, stream: Stream) {
        *self = Self {
            octets: self.octets,
            ..Self::new(stream, Vec::new())
        };
    }

    /// Takes the same connection with TLS on it. Octets from before are thrown away.
    pub(super) fn secure(&mut self, secured: Secured<TcpStream>) {
        self.open(Stream::Tcp(secured.stream));
        self.channel = Some(secured.channel);
        // The first records may have come with the last ones of the handshake.
        self.unopened = true;
    }

    /// The connection, for a handshake. Octets that are untaken then are lost, so there must be none.
    pub(super) fn take_stream(&mut self) -> Option<Stream> {
        self.stream.take().filter(|_| self.channel.is_none())
    }

    /// Whether there is a connection.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    // ----- what was read -----

    /// Number of octets that the machine has not taken yet.
    pub(super) fn untaken(&self) -> usize {
        self.input.len()
    }

    /// The octets that the machine has not taken yet, to be offered. [`give_back`](Self::give_back) returns what it leaves.
    pub(super) fn lend_input(&mut self) -> Buffer {
        std::mem::take(&mut self.input)
    }

    /// Keeps octets that the machine has not taken yet. If the machine has closed the connection, nobody takes them any more.
    pub(super) fn give_back(&mut self, input: Buffer) {
        if self.is_open() || self.broken {
            self.input = input;
        }
    }

    /// Keeps these octets of an opened record until the machine takes them.
    pub(super) fn keep(&mut self, octets: &[u8]) {
        if self.is_open() && !octets.is_empty() {
            self.input.append(octets);
        }
    }

    /// TLS, to open the records that were read. [`return_channel`](Self::return_channel) gives it back.
    pub(super) fn lend_channel(&mut self) -> Option<Box<Channel>> {
        if std::mem::take(&mut self.unopened) {
            self.channel.take()
        } else {
            None
        }
    }

    /// Takes the channel back. `outcome` says how the opening of its records ended.
    pub(super) fn return_channel(&mut self, channel: Box<Channel>, outcome: io::Result<()>) {
        if !self.is_open() {
            return;
        }
        match outcome {
            Err(error) => {
                self.fate = Some(Err(error));
            }
            Ok(()) if channel.has_ended() => self.fate = Some(Ok(())),
            Ok(()) => {}
        }
        self.channel = Some(channel);
    }

    /// Whether more may be read now.
    pub(super) fn wants_input(&self) -> bool {
        self.stream.is_some() && !self.paused && !self.ended && self.untaken() < MAX_UNTAKEN
    }

    /// Reads once what is there. `Ok(0)` is the end of the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(fate) = self.fate.take() {
            self.ended = true;
            if fate.is_err() {
                // The alert that tells the peer. The connection is dropped then, whether the system takes it or not.
                let _ = self.poll_write(cx);
            }
            return Poll::Ready(fate.map(|()| 0));
        }
        let Some(stream) = self.stream.as_mut().filter(|_| !self.quiet) else {
            return Poll::Pending;
        };
        let most = if self.in_message {
            LARGE
        } else {
            DIALOGUE_READ
        };
        let into = match self.channel.as_mut() {
            Some(channel) => channel.incoming(),
            None => &mut self.input,
        };
        let outcome = into.poll_read_from(stream.octets(), most, cx);
        self.quiet = outcome.is_pending();
        let outcome = ready!(outcome);
        match (&outcome, &self.channel) {
            (Ok(1..), Some(_)) => self.unopened = true,
            (Ok(got @ 1..), None) => self.octets[0] += *got as u64,
            (Ok(0), Some(_)) => {
                // The end was not announced, so anybody may have made it (RFC 8446 §6.1).
                self.ended = true;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            (Ok(0), None) | (Err(_), _) => self.ended = true,
        }
        Poll::Ready(outcome)
    }

    // ----- what is to be written -----

    /// Puts octets behind those that wait to be written.
    pub(super) fn send(&mut self, octets: &[u8]) {
        if self.stream.is_some() {
            self.output.append(octets);
        }
    }

    /// The same for octets of a message: with TLS they are encrypted where they are.
    pub(super) fn send_message(&mut self, octets: &[u8]) {
        if self.channel.is_none() {
            return self.send(octets);
        }
        self.seal_output();
        self.seal(octets);
    }

    /// With TLS: makes a record of the octets that wait.
    fn seal_output(&mut self) {
        if self.channel.is_some() && !self.output.is_empty() {
            let output = std::mem::take(&mut self.output);
            self.seal(output.octets());
        }
    }

    fn seal(&mut self, octets: &[u8]) {
        let Some(channel) = self.channel.as_mut() else {
            return;
        };
        match channel.seal(octets) {
            Ok(()) => self.octets[1] += octets.len() as u64,
            Err(error) => self.unsealed = Some(error),
        }
    }

    /// Octets that wait to be written.
    fn unwritten(&mut self) -> usize {
        let records = self
            .channel
            .as_mut()
            .map_or(0, |channel| channel.outgoing().len());
        self.output.len() + records
    }

    /// Whether too many octets wait to be written: nothing that adds to them may be read now.
    pub(super) fn backed_up(&mut self) -> bool {
        self.unwritten() >= BACKED_UP
    }

    /// Writes the octets that wait. Ready when the system has all of them.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal_output();
        if let Some(error) = self.unsealed.take() {
            return Poll::Ready(Err(error));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        match self.channel.as_mut() {
            Some(channel) => channel.outgoing().poll_write_to(stream.octets(), cx),
            None => {
                let before = self.output.len();
                let outcome = self.output.poll_write_to(stream.octets(), cx);
                self.octets[1] += (before - self.output.len()) as u64;
                outcome
            }
        }
    }

    /// The session waits from now on: gives back the memory that it does not need for that.
    pub(super) fn rest(&mut self) {
        self.quiet = false;
        self.input
            .rest(MAX_UNTAKEN + DIALOGUE_READ + PARTIAL_RECORD);
        self.output.rest(DIALOGUE_READ);
        if let Some(channel) = self.channel.as_mut() {
            channel
                .incoming()
                .rest(if self.in_message { 0 } else { PARTIAL_RECORD });
            channel.outgoing().rest(DIALOGUE_READ);
        }
    }

    // ----- the end -----

    /// Drops the connection with a reset, so that the other end cannot take half a message for a whole one.
    pub(super) fn abort(&mut self) {
        if let Some(Stream::Tcp(tcp)) = self.stream.take() {
            // If this fails, an ordinary close in the middle of a message is left. No server takes that for the message's end.
            let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
        }
        self.channel = None;
        self.unsealed = None;
        self.input.clear();
        self.output.clear();
    }

    /// The connection broke: drops it. The machine still takes what was read before.
    pub(super) fn break_off(&mut self) {
        self.broken = true;
        let input = self.lend_input();
        self.abort();
        self.give_back(input);
    }

    /// Writes what is left, says goodbye, and reads to the end for a moment. Returns the octets it wrote.
    pub(super) async fn finish(mut self) -> u64 {
        let before = self.octets[1];
        let (limit, mut octets) = LINGER;
        self.rest();
        let farewell = async {
            self.seal_output();
            // What was sealed before is written all the same.
            self.unsealed = None;
            if let Some(channel) = self.channel.as_mut() {
                channel.close();
            }
            poll_fn(|cx| self.poll_write(cx)).await?;
            let Some(stream) = self.stream.as_mut() else {
                return Ok(());
            };
            let stream = stream.octets();
            stream.shutdown().await?;
            let mut unread = Buffer::default();
            while octets > 0 && !self.ended {
                let got = poll_fn(|cx| unread.poll_read_from(stream, DIALOGUE_READ, cx)).await?;
                unread.clear();
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
