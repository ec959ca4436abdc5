//! The writing thread.

use super::{AuditError, AuditOptions, Checkpoint, Entry, Notice, Receipt, Shared, Ticket, locked};
use crate::audit::{
    CheckpointRecord, Disk, Head, LogOpenedRecord, LogRecoveredRecord, Record, TornField,
    chain::timestamp,
    checkpoint::{Note, SigningKey},
    disk::{Found, Placement, suffix},
};
use crate::clock;
use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Instant,
};

/// What the thread keeps: the chain's end, and the lines that are not known to be durable.
pub(super) struct Writing {
    shared: Arc<Shared>,
    options: AuditOptions,
    key: Option<SigningKey>,
    disk: Box<dyn Disk>,
    head: Head,
    /// Octets of the current file that are durable.
    durable: u64,
    /// The lines behind them, and how many octets of these were handed to the system.
    lines: Vec<u8>,
    written: usize,
    /// Who waits for which of those lines, with the place where each ends.
    waiting: Vec<(usize, Ticket, Receipt)>,
    /// The checkpoints among those lines, with the place where each begins.
    checkpoints: Vec<(usize, Checkpoint)>,
    /// Number of the first record in the current file.
    first: u64,
    /// The day (UTC) that the current file is of.
    day: String,
    /// Records behind the last checkpoint.
    unsigned: u64,
    checkpoint_due: Instant,
    /// When lines that nobody waits for must be durable.
    sync_due: Option<Instant>,
    failure: Option<Failure>,
}

struct Failure {
    since: String,
    error: String,
    retry: Instant,
}

impl Writing {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: AuditOptions,
        key: Option<SigningKey>,
        disk: Box<dyn Disk>,
        found: &Found,
    ) -> Self {
        let now = clock::instant();
        let day = found.modified.unwrap_or_else(options.clock);
        Self {
            checkpoint_due: now + options.checkpoint_after,
            day: day_of(&timestamp(day)),
            shared,
            options,
            key,
            disk,
            head: found.head,
            durable: found.length,
            lines: Vec::new(),
            written: 0,
            waiting: Vec::new(),
            checkpoints: Vec::new(),
            first: found.first,
            unsigned: 0,
            sync_due: None,
            failure: None,
        }
    }

    /// Says in the log that it was opened, and by that tries whether it can be written.
    pub(super) fn begin(&mut self, torn: Option<TornField>) -> io::Result<()> {
        let opened = LogOpenedRecord {
            origin: self.options.origin.clone(),
            key: self
                .key
                .as_ref()
                .map(|key| key.public().verifier(&self.options.origin)),
            addresses: self.options.addresses,
            torn: torn.clone(),
        };
        self.add_own(&Record::LogOpened(opened));
        self.checkpoint();
        self.write(true)?;
        if let Some(torn) = torn {
            (self.options.notice)(Notice::Torn(torn));
        }
        Ok(())
    }

    pub(super) fn run(mut self) {
        loop {
            let (entries, closing) = self.wait();
            *locked(&self.shared.busy_since) = Some(clock::instant());
            if self.failure.is_none() && self.rotation_is_due() {
                let rotated = self.rotate();
                self.note(rotated);
            }
            self.add(entries);
            let now = clock::instant();
            if self.unsigned > 0 && (closing || now >= self.checkpoint_due) {
                self.checkpoint();
            }
            if self.is_worth_trying(now, closing) {
                let result = self.commit(closing);
                self.note(result);
            }
            *locked(&self.shared.busy_since) = None;
            if closing && locked(&self.shared.queue).entries.is_empty() {
                let complete = self.failure.is_none() && self.lines.is_empty();
                locked(&self.shared.queue).complete = complete;
                return;
            }
        }
    }

    /// Returns with what was queued once there is something to do.
    fn wait(&self) -> (Vec<Entry>, bool) {
        let mut queue = locked(&self.shared.queue);
        loop {
            let now = clock::instant();
            let due = self.due();
            if !queue.entries.is_empty() || queue.closing || due.is_some_and(|due| due <= now) {
                queue.octets = 0;
                return (std::mem::take(&mut queue.entries), queue.closing);
            }
            queue = match due {
                Some(due) => {
                    let waited = self.shared.wake.wait_timeout(queue, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.shared.wake.wait(queue);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn due(&self) -> Option<Instant> {
        if let Some(failure) = &self.failure {
            return Some(failure.retry);
        }
        let checkpoint = (self.unsigned > 0).then_some(self.checkpoint_due);
        [checkpoint, self.sync_due].into_iter().flatten().min()
    }

    /// While it fails, the next try comes when it is due, or when someone waits.
    fn is_worth_trying(&self, now: Instant, closing: bool) -> bool {
        match &self.failure {
            Some(failure) => closing || !self.waiting.is_empty() || now >= failure.retry,
            None => !self.lines.is_empty(),
        }
    }

    fn add(&mut self, entries: Vec<Entry>) {
        for Entry { at, body, ticket } in entries {
            self.head.append(&mut self.lines, &at, &body);
            self.unsigned += 1;
            if let Some(ticket) = ticket {
                let receipt = Receipt {
                    seq: self.head.size - 1,
                    hash: self.head.hash,
                };
                self.waiting.push((self.lines.len(), ticket, receipt));
            }
            if self.unsigned + 1 >= self.options.checkpoint_records {
                self.checkpoint();
            }
        }
        if self.sync_due.is_none() && !self.lines.is_empty() {
            self.sync_due = Some(clock::instant() + self.options.sync_after);
        }
        self.shared
            .unwritten
            .store(self.lines.len(), Ordering::Release);
    }

    fn add_own(&mut self, record: &Record) {
        let body = serde_json::to_vec(record).expect("records have string keys only");
        let at = timestamp((self.options.clock)());
        self.add(vec![Entry {
            at,
            body,
            ticket: None,
        }]);
    }

    fn checkpoint(&mut self) {
        let at = timestamp((self.options.clock)());
        let text = Note::text(&self.options.origin, self.head, &at);
        let signed = self
            .key
            .as_ref()
            .map(|key| key.note(&self.options.origin, &text));
        let (note, signature) = signed.unzip();
        let checkpoint = Checkpoint {
            origin: self.options.origin.clone(),
            head: self.head,
            signature,
        };
        self.checkpoints.push((self.lines.len(), checkpoint));
        let body = serde_json::to_vec(&Record::Checkpoint(CheckpointRecord { note }))
            .expect("records have string keys only");
        self.head.append(&mut self.lines, &at, &body);
        self.unsigned = 0;
        self.checkpoint_due = clock::instant() + self.options.checkpoint_after;
    }

    /// Writes what is there; after a failure, says that it is over.
    fn commit(&mut self, closing: bool) -> io::Result<()> {
        let now = clock::instant();
        let sync = closing
            || self.failure.is_some()
            || !self.waiting.is_empty()
            || !self.checkpoints.is_empty()
            || self.sync_due.is_some_and(|due| due <= now);
        if self.failure.is_some() {
            let kept = self.disk.reopen(self.durable)?;
            self.written = 0;
            if kept != self.durable {
                self.is_in_a_new_file();
            }
        }
        self.write(sync)?;
        if let Some(failure) = self.failure.take() {
            let lost = std::mem::take(&mut locked(&self.shared.queue).lost);
            self.add_own(&Record::LogRecovered(LogRecoveredRecord {
                since: failure.since,
                error: failure.error,
                lost,
            }));
            self.checkpoint();
            self.write(true)?;
            self.shared.failing.store(false, Ordering::Release);
            (self.options.notice)(Notice::Recovered { lost });
        }
        Ok(())
    }

    fn write(&mut self, sync: bool) -> io::Result<()> {
        loop {
            // A checkpoint is not written before all it vouches for is durable: so nothing before one can be missing after a crash.
            let places = self.checkpoints.iter().map(|(place, _)| *place);
            let checkpoint = { places }.find(|place| *place > 0);
            let end = checkpoint.unwrap_or(self.lines.len());
            if self.hand_over(end)? == Placement::MovedAway {
                self.go_on_in_a_new_file()?;
            } else if checkpoint.is_some() {
                self.sync()?;
            } else {
                break;
            }
        }
        if sync { self.sync() } else { Ok(()) }
    }

    /// Writes the lines up to `end`.
    fn hand_over(&mut self, end: usize) -> io::Result<Placement> {
        if self.written >= end {
            return Ok(Placement::InPlace);
        }
        let length = self.durable + self.written as u64;
        let place = self.disk.append(length, &self.lines[self.written..end])?;
        if place == Placement::InPlace {
            self.written = end;
        }
        Ok(place)
    }

    /// Makes durable what was handed over, and tells everyone who waits for it.
    fn sync(&mut self) -> io::Result<()> {
        self.disk.sync()?;
        let written = std::mem::take(&mut self.written);
        self.durable += written as u64;
        self.lines.drain(..written);
        self.shared
            .unwritten
            .store(self.lines.len(), Ordering::Release);
        if self.lines.is_empty() {
            self.sync_due = None;
        }
        let later = self.waiting.partition_point(|(end, ..)| *end <= written);
        for (_, ticket, receipt) in self.waiting.drain(..later) {
            ticket.answer(Ok(receipt));
        }
        for (end, ..) in &mut self.waiting {
            *end -= written;
        }
        let later = self
            .checkpoints
            .partition_point(|(begin, _)| *begin < written);
        for (_, checkpoint) in self.checkpoints.drain(..later) {
            (self.options.notice)(Notice::Checkpoint(checkpoint));
        }
        for (begin, _) in &mut self.checkpoints {
            *begin -= written;
        }
        Ok(())
    }

    /// Someone moved the file away. What was handed over stands in it and stays there; the rest goes into a new one.
    fn go_on_in_a_new_file(&mut self) -> io::Result<()> {
        self.sync()?;
        let kept = self.disk.begin(self.durable)?;
        if kept != self.durable {
            self.is_in_a_new_file();
        }
        (self.options.notice)(Notice::Moved);
        Ok(())
    }

    /// The current file is empty: it begins with the first line that is not durable.
    fn is_in_a_new_file(&mut self) {
        let pending = self.lines.iter().filter(|&&b| b == b'\n').count();
        (self.durable, self.written) = (0, 0);
        self.first = self.head.size - pending as u64;
        self.day = day_of(&timestamp((self.options.clock)()));
    }

    /// Tells everyone of a failure, and remembers when to try again.
    fn note(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        let text = format!("{}: {error}", self.options.file.display());
        self.shared.failing.store(true, Ordering::Release);
        for (_, ticket, _) in self.waiting.drain(..) {
            ticket.answer(Err(AuditError(text.clone())));
        }
        let retry = clock::instant() + self.options.retry_after;
        match &mut self.failure {
            Some(failure) if failure.error == text => failure.retry = retry,
            failure => {
                let since = failure
                    .take()
                    .map_or_else(|| timestamp((self.options.clock)()), |old| old.since);
                *failure = Some(Failure {
                    since,
                    error: text.clone(),
                    retry,
                });
                (self.options.notice)(Notice::Failing(text));
            }
        }
    }

    fn rotation_is_due(&self) -> bool {
        let length = self.durable + self.lines.len() as u64;
        let today = || day_of(&timestamp((self.options.clock)()));
        length > 0
            && (length >= self.options.rotate_octets
                || self.options.rotate_daily && self.day != today())
    }

    /// Every file ends in a checkpoint.
    fn rotate(&mut self) -> io::Result<()> {
        if self.unsigned > 0 {
            self.checkpoint();
        }
        self.write(true)?;
        match self.disk.rotate(&suffix(&self.day, self.first))? {
            Placement::InPlace => self.is_in_a_new_file(),
            Placement::MovedAway => self.go_on_in_a_new_file()?,
        }
        Ok(())
    }
}

impl Drop for Writing {
    /// However the thread ends, nobody waits for it any more.
    fn drop(&mut self) {
        self.shared.failing.store(true, Ordering::Release);
        let mut queue = locked(&self.shared.queue);
        queue.gone = true;
        let left = std::mem::take(&mut queue.entries);
        drop(queue);
        drop(left);
        self.shared.ended.notify_all();
    }
}

/// The day of a timestamp.
fn day_of(at: &str) -> String {
    at[..10].to_owned()
}
