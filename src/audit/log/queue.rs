//! The records between the sessions that make them and the thread that writes them.

use super::{AuditError, Receipt, locked};
use crate::audit::chain::{Time, TimeWriter};
use std::{
    mem,
    sync::{Arc, Mutex},
    time::SystemTime,
};
use tokio::sync::oneshot;

/// Octets of records that are gathered at most before the writer is woken for them, though nobody waits.
const MAX_GATHERED: usize = 256 << 10;
/// Octets of memory that a buffer keeps for the next records. What it grew to beyond that, in an outage or for one large record, is
/// given back.
const BUFFER_KEPT: usize = 1 << 20;
/// The same for records beside their JSON.
const RECORDS_KEPT: usize = 4096;

/// Where the answer to a [`Durable`](super::Durable) goes. `None` once it was answered: by the writer, or by
/// [`AuditLog::give_up`](super::AuditLog::give_up).
pub(super) type AnswerSlot = Mutex<Option<oneshot::Sender<Result<Receipt, AuditError>>>>;

/// The first answer counts.
pub(super) fn answer(slot: &AnswerSlot, outcome: Result<Receipt, AuditError>) {
    if let Some(sender) = locked(slot).take() {
        let _ = sender.send(outcome); // nobody may be waiting any more
    }
}

/// Empties a buffer, and keeps its memory, within reason, for what comes next.
pub(super) fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(BUFFER_KEPT);
}

/// A record that waits to be written.
struct QueuedRecord {
    at: Time,
    /// Octets of its JSON.
    octets: usize,
    /// For a caller that waits for the record. Dropped without an answer, it answers that the writer is gone.
    slot: Option<Arc<AnswerSlot>>,
}

/// Records in the order in which they were queued. Their JSON stands in one buffer, so that no record needs memory of its own.
#[derive(Default)]
pub(super) struct Batch {
    records: Vec<QueuedRecord>,
    bodies: Vec<u8>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Hands each record to `take`: its time, its JSON, and the slot of a caller that waits for it. Leaves the batch empty.
    pub(super) fn drain(&mut self, mut take: impl FnMut(&Time, &[u8], Option<Arc<AnswerSlot>>)) {
        let mut bodies = self.bodies.as_slice();
        for QueuedRecord { at, octets, slot } in self.records.drain(..) {
            let (body, behind) = bodies.split_at(octets);
            bodies = behind;
            take(&at, body, slot);
        }
        self.records.shrink_to(RECORDS_KEPT);
        empty(&mut self.bodies);
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum WriterState {
    #[default]
    Running,
    /// The log is being closed: the writer ends once everything is written.
    Closing,
    /// Another process is to go on with the log: the writer ends once everything is written.
    HandingOver,
    /// Everything is written, and the file is about to be unlocked.
    Releasing,
    /// The writer has ended and the file is unlocked. Records are queued for [`forward`](super::forward).
    HandedOver,
    /// The writer takes no more records. `complete`: everything that was queued is durable.
    Ended { complete: bool },
}

impl WriterState {
    /// Whether the writer is to end.
    pub(super) fn is_ending(self) -> bool {
        matches!(self, Self::Closing | Self::HandingOver)
    }

    pub(super) fn has_ended(self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

/// Whether the writer comes to see by itself what is queued. Waking a thread costs more than making a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// It looks at the queue before it rests.
    #[default]
    Awake,
    /// It looks at the queue in time for records that nobody waits for.
    Gathering,
    /// It must be woken.
    Asleep,
}

/// What was appended and not yet taken by the writer.
#[derive(Default)]
pub(super) struct WriteQueue {
    batch: Batch,
    times: TimeWriter,
    /// A caller waits for one of the records, or they are many: the writer does not wait for more.
    urgent: bool,
    pub(super) rest: Rest,
    /// Records that were refused because too much was pending.
    pub(super) lost: u64,
    pub(super) writer: WriterState,
}

impl WriteQueue {
    /// Queues a record. Returns whether the writer must be woken for it.
    pub(super) fn push(
        &mut self,
        at: SystemTime,
        body: &[u8],
        slot: Option<Arc<AnswerSlot>>,
    ) -> bool {
        let at = self.times.time(at);
        self.push_dated(at, body, slot)
    }

    /// [`push`](Self::push) with a time that was written already.
    pub(super) fn push_dated(
        &mut self,
        at: Time,
        body: &[u8],
        slot: Option<Arc<AnswerSlot>>,
    ) -> bool {
        let octets = body.len();
        self.batch.bodies.extend_from_slice(body);
        self.urgent |= slot.is_some() || self.batch.bodies.len() > MAX_GATHERED;
        self.batch.records.push(QueuedRecord { at, octets, slot });
        let wakes = match self.rest {
            Rest::Awake => false,
            Rest::Gathering => self.urgent,
            Rest::Asleep => true,
        };
        if wakes {
            self.rest = Rest::Awake;
        }
        wakes
    }

    /// Octets of JSON that are queued.
    pub(super) fn octets(&self) -> usize {
        self.batch.bodies.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Takes all records, and leaves `spare`, which is empty, for the next ones.
    pub(super) fn take(&mut self, spare: Batch) -> Batch {
        self.urgent = false;
        mem::replace(&mut self.batch, spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resting(rest: Rest) -> WriteQueue {
        WriteQueue {
            rest,
            ..WriteQueue::default()
        }
    }

    /// Whether the writer is woken for each of these records; `true` stands for one that somebody waits for.
    fn woken(queue: &mut WriteQueue, records: &[bool]) -> Vec<bool> {
        let slot = || Arc::new(Mutex::new(None));
        let records = records.iter();
        records
            .map(|waits| queue.push(SystemTime::UNIX_EPOCH, b"{}", waits.then(slot)))
            .collect()
    }

    #[test]
    fn a_writer_that_is_awake_is_not_woken() {
        let mut queue = resting(Rest::Awake);
        assert_eq!(woken(&mut queue, &[false, true, true]), [false; 3]);
    }

    #[test]
    fn a_writer_that_sleeps_is_woken_once_by_whatever_comes_first() {
        for first in [false, true] {
            let mut queue = resting(Rest::Asleep);
            assert_eq!(
                woken(&mut queue, &[first, true, false]),
                [true, false, false]
            );
        }
    }

    #[test]
    fn a_writer_that_gathers_is_woken_once_and_only_for_a_record_that_somebody_waits_for() {
        let mut queue = resting(Rest::Gathering);
        let records = [false, false, true, false, true];
        assert_eq!(
            woken(&mut queue, &records),
            [false, false, true, false, false]
        );
    }

    #[test]
    fn a_writer_that_gathers_is_woken_when_much_is_gathered() {
        let mut queue = resting(Rest::Gathering);
        let body = vec![b' '; MAX_GATHERED / 4];
        let woken: Vec<bool> = (0..6)
            .map(|_| queue.push(SystemTime::UNIX_EPOCH, &body, None))
            .collect();
        assert_eq!(woken, [false, false, false, false, true, false]);
    }

    #[test]
    fn records_are_taken_in_their_order_and_what_follows_is_not_urgent_by_them() {
        let mut queue = resting(Rest::Awake);
        for body in [&b"{}"[..], b"{\"a\":1}", b"{ }"] {
            queue.push(SystemTime::UNIX_EPOCH, body, Some(Arc::default()));
        }
        assert!(queue.is_urgent() && queue.octets() == 12);
        let mut batch = queue.take(Batch::default());
        assert!(queue.is_empty() && !queue.is_urgent() && queue.octets() == 0);
        let mut taken = Vec::new();
        batch.drain(|_, body, slot| taken.push((body.to_owned(), slot.is_some())));
        let bodies = [&b"{}"[..], b"{\"a\":1}", b"{ }"];
        assert_eq!(taken, bodies.map(|body| (body.to_owned(), true)));
        assert!(batch.is_empty());
    }

    #[test]
    fn a_buffer_keeps_memory_for_the_next_records_but_not_what_an_outage_took() {
        let mut buffer = vec![0; 2 * BUFFER_KEPT];
        empty(&mut buffer);
        assert!(buffer.is_empty() && buffer.capacity() == BUFFER_KEPT);
        empty(&mut buffer);
        assert_eq!(buffer.capacity(), BUFFER_KEPT);
    }
}
