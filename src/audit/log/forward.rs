//! Records on their way to the process that goes on with the log, while the process before it still has sessions.
//!
//! A frame has the number of its records (4 octets, as all numbers in network order), and for each of them one octet that says whether
//! somebody waits for it, its time, the length of its JSON (4 octets) and the JSON. Once all records of a frame that somebody waits for
//! are durable, the answer has for each of those, in their order, one octet (1: durable), the record's number (8 octets) and its hash.
//! The next frame follows the answer. The last record of each frame counts as one that somebody waits for, so that the sender knows what
//! is durable.

use super::queue::{AnswerSlot, Batch, Rest, WriterState, answer};
use super::{AuditError, AuditLog, Durable, Receipt, SharedLog, WriterThread, locked};
use crate::audit::chain::{Hash, Time};
use crate::clock;
use std::{
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
};

/// Most octets of one record's JSON. It only keeps a damaged stream from asking for all memory.
const MAX_BODY: u32 = 16 << 20;
/// Octets of one answer.
const ANSWER: usize = 1 + 8 + 32;

impl AuditLog {
    /// Writes everything that was queued and a checkpoint, and unlocks the log, so that another process can open it and go on with the
    /// chain. Blocks for at most [`AuditOptions::close_within`](super::AuditOptions::close_within). Later records are kept until [`forward`](Self::forward) is called.
    /// Returns whether that was done; if not, this process goes on with the log.
    pub fn hand_over(&self) -> bool {
        self.thread.hand_over()
    }

    /// After [`hand_over`](Self::hand_over): sends all records to the process that goes on with the log, which must call
    /// [`take_in`](Self::take_in) with the other end of the stream. A record that somebody waits for is durable when that process says
    /// so.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn forward(&self, to: UnixStream) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name("audit-forward".into())
            .spawn(move || send_all(&shared, to))?;
        let before = locked(&self.thread.handle).replace(thread);
        drop(before); // it has ended
        Ok(())
    }

    /// Writes the records that the process before this one sends, among those of this process and with the times that they were made,
    /// until that process ends. So does the thread that is returned; as long as it has not, the log should not be closed.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn take_in(&self, from: UnixStream) -> io::Result<JoinHandle<()>> {
        let log = self.clone();
        thread::Builder::new()
            .name("audit-take-in".into())
            .spawn(move || receive_all(from, |at, body, waits| log.take_one(at, body, waits)))
    }

    /// Queues a record of the process before this one.
    fn take_one(&self, at: Time, body: &[u8], waits: bool) -> Option<Durable> {
        let (slot, durable) = match waits {
            true => {
                let (slot, durable) = self.waiting_slot();
                (Some(slot), Some(durable))
            }
            false => (None, None),
        };
        self.queue_body(body, slot, Some(at));
        durable
    }
}

impl WriterThread {
    fn hand_over(&self) -> bool {
        let shared = &self.shared;
        let mut queue = locked(&shared.queue);
        if queue.writer != WriterState::Running {
            return false;
        }
        queue.writer = WriterState::HandingOver;
        shared.wake.notify_one();
        let (mut queue, _) = shared
            .ended
            .wait_timeout_while(queue, shared.close_within, |queue| {
                queue.writer == WriterState::HandingOver
            })
            .unwrap_or_else(PoisonError::into_inner);
        if queue.writer == WriterState::HandingOver {
            // The disk does not answer.
            queue.writer = WriterState::Running;
        }
        let queue = shared
            .ended
            .wait_while(queue, |queue| queue.writer == WriterState::Releasing);
        queue.unwrap_or_else(PoisonError::into_inner).writer == WriterState::HandedOver
    }
}

/// Sends what is queued until the log is closed, and answers the callers that wait.
fn send_all(shared: &SharedLog, mut to: UnixStream) {
    // From here on another process takes the records.
    *locked(&shared.busy_since) = None;
    let mut batch = Batch::default();
    loop {
        let mut queue = locked(&shared.queue);
        while queue.is_empty() && queue.writer != WriterState::Closing {
            queue.rest = Rest::Asleep;
            let woken = shared.wake.wait(queue);
            queue = woken.unwrap_or_else(PoisonError::into_inner);
        }
        queue.rest = Rest::Awake;
        if queue.is_empty() {
            drop(queue);
            return end(shared, true);
        }
        batch = queue.take(batch);
        drop(queue);
        *locked(&shared.busy_since) = Some(clock::instant());
        let sent = send(&mut to, &mut batch);
        *locked(&shared.busy_since) = None;
        if sent.is_err() {
            shared.failing.store(true, Ordering::Release);
            return end(shared, false);
        }
    }
}

fn end(shared: &SharedLog, complete: bool) {
    let mut queue = locked(&shared.queue);
    queue.writer = WriterState::Ended { complete };
    // Dropped without an answer, the slots answer that the writer is gone.
    let left = queue.take(Batch::default());
    drop(queue);
    drop(left);
    shared.ended.notify_all();
}

/// Sends one frame, and waits for its answer.
fn send(to: &mut UnixStream, batch: &mut Batch) -> io::Result<()> {
    let mut count: u32 = 0;
    let mut frame = vec![0; 4];
    let mut slots: Vec<Option<Arc<AnswerSlot>>> = Vec::new();
    let mut last_flag = 0;
    batch.drain(|at, body, slot| {
        count += 1;
        last_flag = frame.len();
        frame.push(u8::from(slot.is_some()));
        frame.extend_from_slice(at);
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(body);
        slots.push(slot);
    });
    frame[..4].copy_from_slice(&count.to_be_bytes());
    frame[last_flag] = 1;
    let last = slots.len() - 1;
    let mut failed = false;
    let answered = to.write_all(&frame).and_then(|()| {
        for (number, slot) in slots.iter().enumerate() {
            if slot.is_none() && number != last {
                continue;
            }
            let mut said = [0; ANSWER];
            to.read_exact(&mut said)?;
            let outcome = receipt(&said);
            failed |= outcome.is_err();
            if let Some(slot) = slot {
                answer(slot, outcome);
            }
        }
        Ok(())
    });
    if let Err(error) = &answered {
        let words = format!("the process that goes on with the audit log is gone: {error}");
        for slot in slots.iter().flatten() {
            answer(slot, Err(AuditError(words.clone())));
        }
    }
    match failed {
        true => Err(io::ErrorKind::Other.into()),
        false => answered,
    }
}

fn receipt(said: &[u8; ANSWER]) -> Result<Receipt, AuditError> {
    let (mut seq, mut hash) = ([0; 8], [0; 32]);
    seq.copy_from_slice(&said[1..9]);
    hash.copy_from_slice(&said[9..]);
    match said[0] {
        1 => Ok(Receipt {
            seq: u64::from_be_bytes(seq),
            hash: Hash(hash),
        }),
        _ => Err(AuditError(
            "the process that goes on with the audit log cannot write it".into(),
        )),
    }
}

/// Hands each record that comes to `queue`, with whether somebody waits for it, and answers. Ends with the stream.
fn receive_all(from: UnixStream, queue: impl Fn(Time, &[u8], bool) -> Option<Durable>) {
    let mut from = BufReader::new(from);
    while let Ok(waiting) = receive(&mut from, &queue) {
        let mut said = Vec::with_capacity(waiting.len() * ANSWER);
        for durable in waiting {
            // The stream has a thread of its own, which may block.
            let outcome = durable.answer.blocking_recv();
            let receipt = outcome.ok().and_then(Result::ok);
            said.push(u8::from(receipt.is_some()));
            said.extend(receipt.map_or(0, |receipt| receipt.seq).to_be_bytes());
            said.extend(receipt.map_or([0; 32], |receipt| receipt.hash.0));
        }
        if from.get_mut().write_all(&said).is_err() {
            return;
        }
    }
}

/// Receives one frame. Returns the records that somebody waits for.
fn receive(
    from: &mut impl Read,
    queue: &impl Fn(Time, &[u8], bool) -> Option<Durable>,
) -> io::Result<Vec<Durable>> {
    let count = number(from)?;
    let mut waiting = Vec::new();
    let mut body = Vec::new();
    for _ in 0..count {
        let (mut waits, mut at): ([u8; 1], Time) = ([0], [0; size_of::<Time>()]);
        from.read_exact(&mut waits)?;
        from.read_exact(&mut at)?;
        let length = number(from)?;
        if length > MAX_BODY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        body.resize(length as usize, 0);
        from.read_exact(&mut body)?;
        waiting.extend(queue(at, &body, waits == [1]));
    }
    Ok(waiting)
}

fn number(from: &mut impl Read) -> io::Result<u32> {
    let mut octets = [0; 4];
    from.read_exact(&mut octets)?;
    Ok(u32::from_be_bytes(octets))
}
