//! Octets on their way between a socket and the code that takes them.
//!
//! A buffer has memory only while it holds octets. The memory is a block that the worker thread lends and gets back, so that a step of
//! a session allocates nothing and a session that waits keeps nothing.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets that one read takes at most, and that one write offers to the system at least once so many wait.
pub(crate) const LARGE: usize = 64 * 1024;
/// Octets of a block: those of a large read, and what TLS adds to them as records (RFC 8446 §5.2).
const BLOCK: usize = LARGE + 1024;
/// Blocks that a thread keeps for the next step. One step of one session borrows no more than six.
const KEPT: usize = 8;

thread_local! {
    /// The blocks of this thread that nobody borrows.
    static BLOCKS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A block to be filled. Its octets are those of earlier use.
fn borrow_block() -> Vec<u8> {
    BLOCKS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BLOCK])
}

/// Gives memory back: to the thread if it is a block, else to the allocator.
fn give_back(bytes: Vec<u8>) {
    if bytes.len() == BLOCK {
        BLOCKS.with_borrow_mut(|blocks| {
            if blocks.len() < KEPT {
                blocks.push(bytes);
            }
        });
    }
}

/// Octets in the order of their arrival: `bytes[taken..filled]` are not taken yet, and behind `filled` is room.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    taken: usize,
    filled: usize,
}

impl Buffer {
    /// A buffer that holds these octets.
    #[must_use]
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        let filled = bytes.len();
        Self {
            bytes,
            taken: 0,
            filled,
        }
    }

    /// Number of octets that are not taken yet.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.filled - self.taken
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The octets that are not taken yet.
    #[must_use]
    pub(crate) fn octets(&self) -> &[u8] {
        &self.bytes[self.taken..self.filled]
    }

    /// The same, for a reader that decrypts in place.
    pub(crate) fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.taken..self.filled]
    }

    /// The first `len` octets are taken.
    pub(crate) fn take(&mut self, len: usize) {
        self.taken += len;
        assert!(self.taken <= self.filled, "no more is taken than is there");
    }

    /// Room for at least `least` octets; [`fill`](Self::fill) says how many were put there.
    pub(crate) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.len() - self.filled < least {
            self.make_room(least);
        }
        &mut self.bytes[self.filled..]
    }

    fn make_room(&mut self, least: usize) {
        let held = self.len();
        if held + least <= self.bytes.len() {
            self.bytes.copy_within(self.taken..self.filled, 0);
        } else {
            let mut bytes = match held + least {
                ..=BLOCK => borrow_block(),
                more => vec![0; more],
            };
            bytes[..held].copy_from_slice(self.octets());
            give_back(std::mem::replace(&mut self.bytes, bytes));
        }
        (self.taken, self.filled) = (0, held);
    }

    /// `len` octets were put into the room.
    pub(crate) fn fill(&mut self, len: usize) {
        self.filled += len;
        assert!(
            self.filled <= self.bytes.len(),
            "no more fits than there is room"
        );
    }

    /// Puts a copy of these octets behind the others.
    pub(crate) fn append(&mut self, octets: &[u8]) {
        self.room(octets.len())[..octets.len()].copy_from_slice(octets);
        self.fill(octets.len());
    }

    /// Reads once, up to `most` octets. `Ok(0)` is the end of the stream. Nothing is kept in memory while nothing is there to be read.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn poll_read_from<S: AsyncRead + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let was_empty = self.is_empty();
        let mut room = ReadBuf::new(&mut self.room(most)[..most]);
        let outcome = Pin::new(stream).poll_read(cx, &mut room);
        let got = room.filled().len();
        match outcome {
            Poll::Ready(Ok(())) if got > 0 => {
                self.fill(got);
                Poll::Ready(Ok(got))
            }
            outcome => {
                if was_empty {
                    self.clear();
                }
                outcome.map_ok(|()| 0)
            }
        }
    }

    /// Writes the octets until all are written or the stream takes no more.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn poll_write_to<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let wrote = ready!(Pin::new(&mut *stream).poll_write(cx, self.octets()))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.take(wrote);
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    /// Forgets all octets, and gives the memory back.
    pub(crate) fn clear(&mut self) {
        // Nearly always there is none.
        if !self.bytes.is_empty() {
            give_back(std::mem::take(&mut self.bytes));
        }
        (self.taken, self.filled) = (0, 0);
    }

    /// The step is over: gives back what is not needed while the session waits. A remainder of up to `most` octets moves to memory of its
    /// own size, because a block would be held as long as the other end likes.
    pub(crate) fn rest(&mut self, most: usize) {
        if self.is_empty() {
            self.clear();
        } else if self.bytes.len() >= BLOCK && self.len() <= most {
            let held = Self::holding(self.octets().to_vec());
            self.clear();
            *self = held;
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        BLOCKS.with_borrow(Vec::len)
    }

    #[test]
    fn octets_come_out_as_they_went_in_whatever_the_sizes() {
        let mut buffer = Buffer::default();
        let (mut next_in, mut next_out) = (0_u8, 0_u8);
        for step in 0..2000_usize {
            for _ in 0..step * 7919 % 700 {
                buffer.append(&[next_in]);
                next_in = next_in.wrapping_add(1);
            }
            if step % 5 == 0 {
                buffer.rest(step);
            }
            let taken = buffer.len() * (step % 4) / 3;
            for octet in &buffer.octets()[..taken] {
                assert_eq!(*octet, next_out);
                next_out = next_out.wrapping_add(1);
            }
            buffer.take(taken);
        }
    }

    #[test]
    fn room_is_made_by_moving_before_it_is_made_by_growing() {
        let mut buffer = Buffer::default();
        buffer.append(&[1; LARGE]);
        buffer.take(LARGE - 3);
        assert!(buffer.room(LARGE).len() >= LARGE);
        assert_eq!(buffer.bytes.len(), BLOCK);
        assert_eq!(buffer.octets(), [1; 3]);
        assert!(buffer.room(BLOCK).len() >= BLOCK);
        assert_eq!(buffer.octets(), [1; 3]);
    }

    #[test]
    fn who_waits_holds_no_more_than_the_octets_that_wait() {
        let mut buffer = Buffer::default();
        buffer.append(b"250 ");
        let before = kept();
        buffer.rest(16);
        assert_eq!((buffer.bytes.capacity(), kept()), (4, before + 1));
        buffer.append(b"ok\r\n");
        assert_eq!(buffer.octets(), b"250 ok\r\n");
        buffer.take(8);
        buffer.rest(0);
        assert_eq!((buffer.bytes.capacity(), kept()), (0, before + 1));
    }

    #[test]
    fn a_thread_keeps_few_blocks_and_no_other_memory() {
        let mut all: Vec<_> = (0..3 * KEPT).map(|_| Buffer::default()).collect();
        for buffer in &mut all {
            buffer.append(b"x");
        }
        let mut oversized = Buffer::default();
        oversized.append(&[0; 2 * BLOCK]);
        drop((all, oversized));
        assert_eq!(kept(), KEPT);
        assert!(BLOCKS.with_borrow(|all| all.iter().all(|block| block.len() == BLOCK)));
    }
}
