//! The thread that writes the log.

use super::{
    AuditError, AuditOptions, Notice, Receipt, SharedLog, locked,
    pending::PendingLines,
    queue::{AnswerSlot, Batch, Rest, WriterState, answer},
    signing::LogSigner,
};
use crate::audit::{
    BroughtBack, Checkpoint, CheckpointRecord, Disk, EndKept, Head, LogBroughtBackRecord,
    LogContinuedRecord, LogCutRecord, LogOpenedRecord, LogRecoveredRecord, Record, Reopened,
    TornField,
    chain::timestamp,
    disk::{LogEnd, Placement, day_of},
    epoch::EpochStart,
    naming::suffix,
};
use crate::{clock, metrics};
use data_encoding::BASE64;
use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

/// How many names are tried for a rotated file.
const FREE_NAMES: usize = 1000;

/// The writing thread's state.
pub(super) struct LogWriter {
    shared: Arc<SharedLog>,
    options: AuditOptions,
    signer: LogSigner,
    disk: Box<dyn Disk>,
    /// The chain's end, and the lines that are not known to be durable.
    pending: PendingLines,
    /// Where that is made into a line.
    known_line: Vec<u8>,
    /// It cannot be remembered at present.
    forgetful: bool,
    /// The records that were taken from the queue last; afterwards its memory, for the next ones.
    batch: Batch,
    /// Octets of the current file that are durable.
    durable: u64,
    /// How many octets of the lines behind those octets were handed to the system.
    written: usize,
    /// Callers that wait for one of those lines, each with the place where its line ends.
    waiting: Vec<(usize, Arc<AnswerSlot>, Receipt)>,
    /// The checkpoints among those lines, with the place where each begins.
    checkpoints: Vec<(usize, Checkpoint)>,
    /// Number of the first record in the current file.
    first: u64,
    /// The day (UTC) of the current file, in days since 1970.
    day: u64,
    /// Number of records behind the last checkpoint.
    unsigned: u64,
    checkpoint_due: Instant,
    /// When lines that no caller waits for must be durable.
    sync_due: Option<Instant>,
    outage: Option<Outage>,
    /// Another process goes on with the log.
    handed_over: bool,
}

/// A time during which the log cannot be written.
struct Outage {
    /// When the outage began, as RFC 3339 text.
    since: String,
    error: String,
    /// When writing is tried again.
    retry: Instant,
}

impl LogWriter {
    pub(super) fn new(
        shared: Arc<SharedLog>,
        options: AuditOptions,
        signer: LogSigner,
        disk: Box<dyn Disk>,
        found: &LogEnd,
    ) -> Self {
        let now = clock::instant();
        let day = found.modified.unwrap_or_else(options.clock);
        Self {
            checkpoint_due: now + options.checkpoint_after,
            day: day_of(day),
            shared,
            options,
            signer,
            disk,
            pending: PendingLines::behind(found.end.clone()),
            known_line: Vec::new(),
            forgetful: false,
            batch: Batch::default(),
            durable: found.length,
            written: 0,
            waiting: Vec::new(),
            checkpoints: Vec::new(),
            first: found.first,
            unsigned: 0,
            sync_due: None,
            outage: None,
            handed_over: false,
        }
    }

    /// Writes `log-opened`, which also shows whether the log can be written.
    pub(super) fn begin(
        &mut self,
        cut: Option<Head>,
        torn: Option<TornField>,
        start: Option<EpochStart>,
    ) -> io::Result<()> {
        let opened = LogOpenedRecord {
            origin: self.options.origin.clone(),
            key: self.signer.key(),
            epoch: self.signer.epoch(),
            addresses: self.options.addresses,
            checkpoint_after: self.options.checkpoint_after.as_secs(),
            torn: torn.clone(),
        };
        if let Some(found) = cut {
            self.note_cut(found, false);
        } else if self.durable == 0 && self.pending.head().size > 0 {
            self.continue_in_file();
        }
        let lost = self.signer.lost(start);
        if let Some(lost) = &lost {
            self.add_own(&Record::KeyLost(lost.clone()));
        }
        let epoch = opened.epoch.clone();
        self.add_own(&Record::LogOpened(opened));
        self.checkpoint();
        self.signer.keep(&mut *self.disk)?;
        self.write(true)?;
        let lost = lost.map(|lost| Notice::KeyLost(lost.error));
        let told = [lost, epoch.map(Notice::EpochKey), torn.map(Notice::Torn)];
        told.into_iter().flatten().for_each(&self.options.notice);
        Ok(())
    }

    pub(super) fn run(mut self) {
        loop {
            let closing = self.wait();
            *locked(&self.shared.busy_since) = Some(clock::instant());
            if self.outage.is_none() && self.rotation_is_due() {
                let rotated = self.rotate();
                self.note_result(rotated);
            }
            self.add_batch();
            if closing && self.outage.is_none() {
                // Whoever opens the log next must find it under its name.
                let placed = self.see_that_it_is_in_place();
                self.note_result(placed);
            }
            let now = clock::instant();
            if self.unsigned > 0 && (closing || now >= self.checkpoint_due) {
                self.checkpoint();
            }
            if self.is_worth_trying(now, closing) {
                let result = self.commit(closing);
                self.note_result(result);
            }
            *locked(&self.shared.busy_since) = None;
            if closing {
                let complete = self.outage.is_none() && self.pending.octets() == 0;
                let mut queue = locked(&self.shared.queue);
                if queue.writer == WriterState::HandingOver {
                    if complete {
                        queue.writer = WriterState::Releasing;
                        drop(queue);
                        return self.end_for_another();
                    }
                    // Whoever waits is told that nothing was handed over.
                    queue.writer = WriterState::Running;
                    self.shared.ended.notify_all();
                } else if queue.writer == WriterState::Closing && queue.is_empty() {
                    queue.writer = WriterState::Ended { complete };
                    return;
                }
            }
        }
    }

    /// Unlocks the log. Records that are queued from here on wait for the process that goes on with it.
    fn end_for_another(mut self) {
        self.handed_over = true;
        let shared = Arc::clone(&self.shared);
        // Until the other process takes records, the log is like one whose disk does not answer.
        *locked(&shared.busy_since) = Some(clock::instant());
        drop(self); // and with it the file and its lock
        locked(&shared.queue).writer = WriterState::HandedOver;
        shared.ended.notify_all();
    }

    /// Blocks until there is something to do, and takes the queued records. Returns whether the log is being closed.
    fn wait(&mut self) -> bool {
        let mut queue = locked(&self.shared.queue);
        // Records often follow each other. Up to then they wake nobody, unless somebody waits for one of them.
        let mut gathers_until = Some(clock::instant() + self.gather_for());
        loop {
            let now = clock::instant();
            let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
            let due = self.due();
            let closing = queue.writer.is_ending();
            let has_records = !queue.is_empty();
            let gathered = has_records && is_over(gathers_until);
            if closing || queue.is_urgent() || gathered || is_over(due) {
                self.batch = queue.take(std::mem::take(&mut self.batch));
                return closing;
            }
            if is_over(gathers_until) {
                gathers_until = None;
            } else if has_records && gathers_until.is_none() {
                gathers_until = Some(now + self.gather_for());
            }
            queue.rest = match gathers_until {
                Some(_) => Rest::Gathering,
                None => Rest::Asleep,
            };
            let wake = &self.shared.wake;
            queue = match [gathers_until, due].into_iter().flatten().min() {
                Some(end) => {
                    let waited = wake.wait_timeout(queue, end - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.rest = Rest::Awake;
        }
    }

    /// How long records that nobody waits for may wait for others before they are written.
    fn gather_for(&self) -> Duration {
        self.options.sync_after / 10
    }

    fn due(&self) -> Option<Instant> {
        if let Some(outage) = &self.outage {
            return Some(outage.retry);
        }
        let checkpoint = (self.unsigned > 0).then_some(self.checkpoint_due);
        [checkpoint, self.sync_due].into_iter().flatten().min()
    }

    /// During an outage, writing is tried when the next try is due or a caller waits.
    fn is_worth_trying(&self, now: Instant, closing: bool) -> bool {
        match &self.outage {
            Some(outage) => closing || !self.waiting.is_empty() || now >= outage.retry,
            None => self.pending.octets() > 0,
        }
    }

    /// Adds the records that were taken from the queue.
    fn add_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        batch.drain(|at, body, slot| self.add(at, body, slot));
        self.batch = batch;
        self.note_added();
    }

    fn add(&mut self, at: &[u8], body: &[u8], slot: Option<Arc<AnswerSlot>>) {
        self.pending.append(at, body);
        self.unsigned += 1;
        if let Some(slot) = slot {
            let receipt = Receipt {
                seq: self.pending.head().size - 1,
                hash: self.pending.head().hash,
            };
            self.waiting.push((self.pending.octets(), slot, receipt));
        }
        if self.unsigned + 1 >= self.options.checkpoint_records {
            self.checkpoint();
        }
    }

    fn note_added(&mut self) {
        if self.sync_due.is_none() && self.pending.octets() > 0 {
            // They may have been gathered for a while.
            let left = self.options.sync_after - self.gather_for();
            let now = clock::instant();
            self.sync_due = Some(now + left);
            *locked(&self.shared.undurable_since) = Some(now);
        }
        self.shared
            .unwritten
            .store(self.pending.octets(), Ordering::Release);
    }

    /// Adds a record about the log itself.
    fn add_own(&mut self, record: &Record) {
        let body = record.body();
        let at = timestamp((self.options.clock)());
        self.add(at.as_bytes(), &body, None);
        self.note_added();
    }

    fn checkpoint(&mut self) {
        let now = (self.options.clock)();
        let at = timestamp(now);
        let root = self.pending.root();
        let origin = &self.options.origin;
        let note = self.signer.note(self.pending.head().size, root, now);
        let checkpoint = Checkpoint {
            origin: origin.clone(),
            head: self.pending.head(),
            root,
            note: note.clone(),
            events: self.pending.events(),
        };
        self.checkpoints.push((self.pending.octets(), checkpoint));
        let body = Record::Checkpoint(CheckpointRecord { note }).body();
        self.pending.append(at.as_bytes(), &body);
        self.unsigned = 0;
        self.checkpoint_due = clock::instant() + self.options.checkpoint_after;
    }

    /// Writes the lines in memory. After an outage, also records that it is over.
    fn commit(&mut self, closing: bool) -> io::Result<()> {
        let now = clock::instant();
        let sync = closing
            || self.outage.is_some()
            || !self.waiting.is_empty()
            || !self.checkpoints.is_empty()
            || self.sync_due.is_some_and(|due| due <= now);
        if self.outage.is_some() {
            self.signer.keep(&mut *self.disk)?;
            let since = timestamp((self.options.clock)());
            let reopened = self.disk.reopen(self.durable, self.pending.lines())?;
            self.written = 0;
            self.note_reopened(reopened, since);
        }
        self.write(sync)?;
        if let Some(outage) = self.outage.take() {
            let lost = std::mem::take(&mut locked(&self.shared.queue).lost);
            self.add_own(&Record::LogRecovered(LogRecoveredRecord {
                since: outage.since,
                error: outage.error,
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
            // A checkpoint is written only when all records it vouches for are durable, so none of them can be missing after a crash.
            let mut places = self.checkpoints.iter().map(|(place, _)| *place);
            let checkpoint = places.find(|place| *place > 0);
            let end = checkpoint.unwrap_or(self.pending.octets());
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
        let place = self
            .disk
            .append(length, &self.pending.lines()[self.written..end])?;
        if place == Placement::InPlace {
            self.written = end;
        }
        Ok(place)
    }

    /// Makes durable what was handed over, and answers the callers that wait for it.
    fn sync(&mut self) -> io::Result<()> {
        let began = clock::instant();
        self.disk.sync()?;
        let written = std::mem::take(&mut self.written);
        let records = self.count(written, clock::instant().duration_since(began));
        self.durable += written as u64;
        self.pending.settle(written, records);
        self.shared
            .unwritten
            .store(self.pending.octets(), Ordering::Release);
        if self.pending.octets() == 0 {
            self.sync_due = None;
            *locked(&self.shared.undurable_since) = None;
        }
        let later = self.waiting.partition_point(|(end, ..)| *end <= written);
        for (_, slot, receipt) in self.waiting.drain(..later) {
            answer(&slot, Ok(receipt));
        }
        for (end, ..) in &mut self.waiting {
            *end -= written;
        }
        let later = self
            .checkpoints
            .partition_point(|(begin, _)| *begin < written);
        if later > 0 {
            *locked(&self.shared.checkpoint_at) = Some((self.options.clock)());
        }
        for (_, checkpoint) in self.checkpoints.drain(..later) {
            let newest = Some(checkpoint.clone());
            self.shared.checkpoint.send_replace(newest);
            (self.options.notice)(Notice::Checkpoint(checkpoint));
            self.signer.erase();
        }
        for (begin, _) in &mut self.checkpoints {
            *begin -= written;
        }
        self.remember();
        self.signer.keep(&mut *self.disk)
    }

    /// Keeps the end of the durable records outside the log's files. That is no reason to refuse mail: the records are on disk.
    fn remember(&mut self) {
        self.pending.durable().write(&mut self.known_line);
        let remembered = self.disk.remember(&self.known_line);
        let was_forgetful = std::mem::replace(&mut self.forgetful, remembered.is_err());
        match remembered {
            Ok(EndKept::InPlace) => {}
            Ok(EndKept::Anew) => (self.options.notice)(Notice::LockGone),
            Err(_) if was_forgetful => {}
            Err(error) => (self.options.notice)(Notice::NotRemembered(error.to_string())),
        }
    }

    /// Counts the octets at the beginning of the lines that a flush made durable. Returns the number of their records.
    fn count(&self, octets: usize, took: Duration) -> usize {
        let metrics = &self.options.metrics;
        metrics.took(metrics::SYNC_TOOK, &[], took);
        let records = memchr::memchr_iter(b'\n', &self.pending.lines()[..octets]).count();
        metrics.add(metrics::RECORDS, "", records as u64);
        metrics.add(metrics::RECORD_OCTETS, "", octets as u64);
        records
    }

    /// Goes on in a new file if someone moved this one away.
    fn see_that_it_is_in_place(&mut self) -> io::Result<()> {
        let length = self.durable + self.written as u64;
        match self.disk.append(length, &[])? {
            Placement::InPlace => Ok(()),
            Placement::MovedAway => self.go_on_in_a_new_file(),
        }
    }

    /// Someone moved the file away. The lines handed over stay in it; the rest goes into a new file.
    fn go_on_in_a_new_file(&mut self) -> io::Result<()> {
        self.sync()?;
        let since = timestamp((self.options.clock)());
        let reopened = self.disk.begin(self.durable)?;
        let is_moved = reopened.back.is_none();
        if !self.note_reopened(reopened, since) && is_moved {
            (self.options.notice)(Notice::Moved);
        }
        Ok(())
    }

    /// Notes what became of a file that was opened again, which began at the time `since`. Returns whether records are missing.
    fn note_reopened(&mut self, Reopened { kept, found, back }: Reopened, since: String) -> bool {
        if let Some(back) = back {
            self.note_brought_back(back, since);
        }
        let Some(found) = found else {
            if kept != self.durable {
                self.note_new_file();
            }
            return false;
        };
        (self.durable, self.written) = (kept, 0);
        if found == self.pending.durable().head {
            if kept == 0 {
                self.note_new_file();
            }
            return false;
        }
        // The file counts from here on, whatever stands in it before.
        self.first = self.pending.durable().head.size;
        if kept == 0 {
            self.day = day_of((self.options.clock)());
        }
        self.note_cut(found, true);
        true
    }

    /// Records that the file had been deleted.
    fn note_brought_back(&mut self, BroughtBack { aside }: BroughtBack, since: String) {
        self.add_own(&Record::LogBroughtBack(LogBroughtBackRecord {
            since,
            aside: aside.as_ref().map(|aside| aside.display().to_string()),
        }));
        (self.options.notice)(Notice::BroughtBack { aside });
    }

    /// Records that durable records are not there any more. The chain goes on behind them.
    fn note_cut(&mut self, found: Head, running: bool) {
        let expected = self.pending.durable().head.size;
        self.add_own(&Record::LogCut(LogCutRecord {
            first: expected,
            range: BASE64.encode(&self.pending.durable().tree.range()),
            found: found.size,
            found_hash: found.hash.to_string(),
            running,
        }));
        self.options.metrics.count(metrics::LOG_CUTS, "");
        (self.options.notice)(Notice::Cut {
            expected,
            found: found.size,
        });
    }

    /// Notes that the current file is empty. It will begin with the first line that is not durable.
    fn note_new_file(&mut self) {
        (self.durable, self.written) = (0, 0);
        self.first = self.pending.durable().head.size;
        self.day = day_of((self.options.clock)());
        self.continue_in_file();
    }

    /// Records the tree over what stands in older files. Lines that are on their way stand before that record: each of them names the
    /// line before it, so nothing can be put in front of them.
    fn continue_in_file(&mut self) {
        self.add_own(&Record::LogContinued(LogContinuedRecord {
            first: self.pending.durable().head.size,
            range: BASE64.encode(&self.pending.durable().tree.range()),
        }));
    }

    /// On failure: answers every waiting caller, and remembers when to try again.
    fn note_result(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        let text = format!("{}: {error}", self.options.file.display());
        self.shared.failing.store(true, Ordering::Release);
        for (_, slot, _) in self.waiting.drain(..) {
            answer(&slot, Err(AuditError(text.clone())));
        }
        let retry = clock::instant() + self.options.retry_after;
        match &mut self.outage {
            Some(outage) if outage.error == text => outage.retry = retry,
            outage => {
                let since = outage
                    .take()
                    .map_or_else(|| timestamp((self.options.clock)()), |old| old.since);
                *outage = Some(Outage {
                    since,
                    error: text.clone(),
                    retry,
                });
                (self.options.notice)(Notice::Failing(text));
            }
        }
    }

    fn rotation_is_due(&self) -> bool {
        let length = self.durable + self.pending.octets() as u64;
        let today = || day_of((self.options.clock)());
        length > 0
            && (length >= self.options.rotate_octets
                || self.options.rotate_daily && self.day != today())
    }

    /// Puts the current file aside and begins a new one. Every file ends in a checkpoint.
    fn rotate(&mut self) -> io::Result<()> {
        if self.unsigned > 0 {
            self.checkpoint();
        }
        self.write(true)?;
        let mut rotated = Err(io::ErrorKind::AlreadyExists.into());
        // A name that is taken is no reason to stop. The next ones stand behind it in order.
        for day in (self.day..).take(FREE_NAMES) {
            rotated = self.disk.rotate(&suffix(day, self.first));
            if !matches!(&rotated, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
                break;
            }
        }
        match rotated? {
            Placement::InPlace => self.note_new_file(),
            Placement::MovedAway => self.go_on_in_a_new_file()?,
        }
        Ok(())
    }
}

impl Drop for LogWriter {
    /// However the thread ends, no caller may go on waiting for it.
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        self.shared.failing.store(true, Ordering::Release);
        let mut queue = locked(&self.shared.queue);
        let has_died = !queue.writer.has_ended();
        if has_died {
            queue.writer = WriterState::Ended { complete: false };
        }
        let left = queue.take(Batch::default());
        drop(queue);
        drop(left);
        self.shared.died.send_replace(has_died);
        self.shared.ended.notify_all();
    }
}
