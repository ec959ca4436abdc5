//! The one writer of a chain.
//!
//! Records are queued in the order of the calls; one thread writes them. A caller that must know that a record is durable waits
//! for its [`Receipt`]. While the disk is busy with one `fdatasync`, other records queue up and share the next one (group commit).
//! Waking a thread costs more than making a record, so records that nobody waits for are gathered: they go with the next record that
//! somebody waits for, or after a tenth of [`AuditOptions::sync_after`].
//!
//! When the disk fails, every waiting caller is told at once and the log is no longer [`healthy`](AuditLog::healthy). Lines that are
//! not known to be durable stay in memory. Writing is tried again every second: the file is cut to its durable part, and the rest is
//! written anew. A failed `fdatasync` may have lost pages, even if a second one succeeds.
//!
//! A file that is moved away (`mv`, as logrotate does) keeps the lines that were written to it, and the chain goes on in a new
//! file. Both together are the log. A process that goes on in the place of this one takes the log over, and this one's last records
//! go to it: see [`AuditLog::hand_over`]. A disk that neither works nor fails holds nobody up for ever: see
//! [`AuditLog::give_up`] and [`AuditLog::close`].

mod forward;
mod notice;
mod pending;
mod queue;
mod signing;
mod writer;

pub use notice::Notice;

use super::{
    Address, AddressForm, Checkpoint, Disk, FileDisk, Hash, OpenError, Record, WireText,
    address::Addresses,
    chain::Time,
    checkpoint::{SigningKey, is_origin},
    epoch::{RandomSource, system_random},
};
use crate::{
    clock,
    metrics::{self, Metrics},
};
use queue::{AnswerSlot, WriteQueue, WriterState, answer, empty};
use signing::{LogSigner, epoch_keys};
use std::{
    cell::RefCell,
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{oneshot, watch};

/// Largest number of records between two checkpoints. The format fixes it, so that a longer stretch without a signature is damage.
pub(super) const CHECKPOINT_RECORDS: u64 = 1000;
/// Largest number of octets before the event in a line.
const LINE_HEAD: usize = 160;
/// Memory for records that are not durable yet, in octets. Beyond it, no record is taken.
const MAX_PENDING: usize = 32 << 20;

thread_local! {
    /// Where this thread makes the next record's JSON, so that no record needs memory of its own.
    static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How an audit log is kept.
pub struct AuditOptions {
    /// The log's file. Rotated files get its name and a suffix; `FILE.lock` keeps a second writer away.
    pub file: PathBuf,
    /// Private key that signs the checkpoints (Ed25519, PKCS#8, PEM); without it they are not signed.
    pub key: Option<PathBuf>,
    /// Form in which people's addresses are recorded.
    pub addresses: AddressForm,
    /// Name of the log in its checkpoints, e.g. `mail.clinic.example/outbound`: printable ASCII without blanks, `+`, `"` and `\`.
    pub origin: String,
    /// Records between two checkpoints, 1 to `CHECKPOINT_RECORDS`.
    pub checkpoint_records: u64,
    /// Time after which records get a checkpoint even if they are few.
    pub checkpoint_after: Duration,
    /// Size at which the file is rotated, in octets.
    pub rotate_octets: u64,
    /// Rotate when a day (UTC) is over.
    pub rotate_daily: bool,
    /// How long a record may wait for the disk before the log counts as unhealthy.
    pub stall_after: Duration,
    /// How soon records that no caller waits for are made durable.
    pub sync_after: Duration,
    /// Time between a failure and the next try.
    pub retry_after: Duration,
    /// How long [`AuditLog::close`] waits for a disk that does not answer.
    pub close_within: Duration,
    /// The clock that records are dated by.
    pub clock: fn() -> SystemTime,
    /// Where the secret keys of the checkpoints come from.
    pub random: RandomSource,
    /// How often a checkpoint has an ML-DSA-44 signature of the log key, too; `None`: never.
    pub hybrid_every: Option<Duration>,
    /// Called by the writing thread with what the program's log should say.
    pub notice: Box<dyn Fn(Notice) + Send>,
    /// Where records and the time they take are counted.
    pub metrics: Arc<Metrics>,
}

impl AuditOptions {
    /// The defaults: a checkpoint every 1,000 records or minute, files of 256 MiB or a day, no key, addresses in full.
    #[must_use]
    pub fn new(file: PathBuf, origin: String) -> Self {
        Self {
            file,
            key: None,
            addresses: AddressForm::Full,
            origin,
            checkpoint_records: CHECKPOINT_RECORDS,
            checkpoint_after: Duration::from_secs(60),
            rotate_octets: 256 << 20,
            rotate_daily: true,
            stall_after: Duration::from_secs(5),
            sync_after: Duration::from_secs(1),
            retry_after: Duration::from_secs(1),
            close_within: Duration::from_secs(5),
            clock: clock::wall,
            random: system_random,
            hybrid_every: Some(Duration::from_secs(3600)),
            notice: Box::new(|_| ()),
            metrics: Arc::default(),
        }
    }

    /// Checks whether the key can sign, before anything is written.
    ///
    /// # Errors
    /// The file cannot be read, or holds no Ed25519 private key.
    pub fn check_key(&self) -> Result<(), OpenError> {
        self.key
            .as_deref()
            .map_or(Ok(()), |key| SigningKey::read(key).map(drop))
    }
}

/// Position of a durable record in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The record's number.
    pub seq: u64,
    /// The hash of the record's line.
    pub hash: Hash,
}

/// Why a record is not known to be durable. It may still turn up in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditError(String);

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AuditError {}

/// One record on its way to the disk. Resolves when the record is durable, or when that failed. The record is queued already;
/// dropping this only means not to wait. Needs no particular runtime.
#[derive(Debug)]
#[must_use = "the record counts as durable only once this resolves to a receipt"]
pub struct Durable {
    answer: oneshot::Receiver<Result<Receipt, AuditError>>,
    began: Instant,
    metrics: Arc<Metrics>,
}

impl Future for Durable {
    type Output = Result<Receipt, AuditError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || AuditError("the audit log's writer is gone".into());
        let answer = Pin::new(&mut self.answer).poll(context);
        if answer.is_ready() {
            let took = clock::instant().duration_since(self.began);
            self.metrics.took(metrics::RECORD_TOOK, &[], took);
        }
        answer.map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

/// What [`AuditLog`] and the writing thread share.
struct SharedLog {
    queue: Mutex<WriteQueue>,
    wake: Condvar,
    /// Signalled when the writer has ended.
    ended: Condvar,
    /// Slots of callers that may still wait for a record.
    waiting: Mutex<Vec<Weak<AnswerSlot>>>,
    failing: AtomicBool,
    /// Octets that the writer has taken and that are not durable yet.
    unwritten: AtomicUsize,
    /// Since when the writer has been busy with one batch of records; `None` while it waits for more.
    busy_since: Mutex<Option<Instant>>,
    /// When the oldest record that is not durable yet came to the writer.
    undurable_since: Mutex<Option<Instant>>,
    /// When the last checkpoint became durable, by the clock of the records.
    checkpoint_at: Mutex<Option<SystemTime>>,
    /// The last checkpoint that is durable.
    checkpoint: watch::Sender<Option<Checkpoint>>,
    /// The writer has ended though nobody asked it to.
    died: watch::Sender<bool>,
    file: PathBuf,
    metrics: Arc<Metrics>,
    stall_after: Duration,
    close_within: Duration,
    clock: fn() -> SystemTime,
    addresses: Addresses,
}

/// Locks even if a panic poisoned the mutex: every change behind these mutexes is one step, so it is whole or not there.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log that is being written. Clones write the same chain.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<SharedLog>,
    thread: Arc<WriterThread>,
}

/// Ends the writing thread when the last clone of the log is dropped.
struct WriterThread {
    shared: Arc<SharedLog>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl AuditLog {
    /// Opens or begins a log, and continues its chain. On return, a `log-opened` record and a checkpoint are durable.
    ///
    /// # Errors
    /// Says what is wrong with the options, the key or the file, and what to do. The caller then serves nothing (fail closed).
    pub fn open(options: AuditOptions) -> Result<Self, OpenError> {
        Self::open_on(options, |disk| Box::new(disk))
    }

    /// [`open`](Self::open), with `wrap` between the log and its disk.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_on(
        options: AuditOptions,
        wrap: impl FnOnce(FileDisk) -> Box<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let file = options.file.display().to_string();
        if !is_origin(&options.origin) {
            return Err(OpenError::Wrong(format!(
                "{:?} cannot name an audit log: printable ASCII without blanks and + \" \\",
                options.origin
            )));
        }
        if !(1..=CHECKPOINT_RECORDS).contains(&options.checkpoint_records) {
            return Err(OpenError::Wrong(format!(
                "checkpoints come every 1 to {CHECKPOINT_RECORDS} records"
            )));
        }
        let key = options.key.as_deref().map(SigningKey::read).transpose()?;
        let secret = key.as_ref().and_then(SigningKey::secret);
        let octets = secret.as_ref().map(|secret| secret.as_slice());
        let addresses = Addresses::new(options.addresses, octets).ok_or_else(|| {
            OpenError::Wrong(
                "hashed addresses need --audit-key, from which the hashing key is derived".into(),
            )
        })?;
        let (disk, found) = FileDisk::open(&options.file)?;
        if let Some(place) = found.copied.clone() {
            (options.notice)(Notice::Copied(place));
        }
        if let Some(how) = found.damaged.clone() {
            (options.notice)(Notice::Damaged(how));
        }
        let shared = Arc::new(SharedLog {
            queue: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            waiting: Mutex::default(),
            failing: AtomicBool::new(false),
            unwritten: AtomicUsize::new(0),
            busy_since: Mutex::new(None),
            undurable_since: Mutex::new(None),
            checkpoint_at: Mutex::new(None),
            checkpoint: watch::Sender::new(None),
            died: watch::Sender::new(false),
            file: options.file.clone(),
            metrics: Arc::clone(&options.metrics),
            stall_after: options.stall_after,
            close_within: options.close_within,
            clock: options.clock,
            addresses,
        });
        let (keys, start) = match key {
            Some(key) => {
                let seed = secret.unwrap_or_default();
                let (epochs, start) = epoch_keys(&options, &disk, &seed, &found)?;
                (Some((key, epochs)), Some(start))
            }
            None => (None, None),
        };
        let signer = LogSigner::new(&options.origin, keys, options.hybrid_every);
        let mut writer =
            writer::LogWriter::new(shared.clone(), options, signer, wrap(disk), &found);
        writer
            .begin(found.cut, found.torn, start)
            .map_err(|error| OpenError::of(&file, &error))?;
        let thread = thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run())
            .map_err(|error| {
                OpenError::Temporary(format!("{file}: no thread to write it: {error}"))
            })?;
        Ok(Self {
            shared: shared.clone(),
            thread: Arc::new(WriterThread {
                shared,
                handle: Mutex::new(Some(thread)),
            }),
        })
    }

    /// The address in the form that this log keeps. `path` is the text between `<` and `>`.
    #[must_use]
    pub fn address(&self, path: &[u8]) -> Address {
        self.shared.addresses.address(path)
    }

    /// The approximate number of octets that the line of this record will have, for budgets.
    #[must_use]
    pub fn octets(&self, record: &Record) -> usize {
        self.with_body(record, |body| body.len()) + LINE_HEAD
    }

    /// Queues a record. It is written in order and durable within [`AuditOptions::sync_after`]; the caller does not wait for it.
    pub fn append(&self, record: &Record) {
        self.queue(record, None);
    }

    /// Queues a record that the caller waits for: `log.append_durable(&record).await`. The call itself queues it.
    pub fn append_durable(&self, record: &Record) -> Durable {
        let (slot, durable) = self.waiting_slot();
        self.queue(record, Some(slot));
        durable
    }

    fn waiting_slot(&self) -> (Arc<AnswerSlot>, Durable) {
        let (sender, receiver) = oneshot::channel();
        let slot = Arc::new(Mutex::new(Some(sender)));
        let mut waiting = locked(&self.shared.waiting);
        if waiting.len() == waiting.capacity() {
            waiting.retain(|one| one.strong_count() > 0);
        }
        waiting.push(Arc::downgrade(&slot));
        let durable = Durable {
            answer: receiver,
            began: clock::instant(),
            metrics: Arc::clone(&self.shared.metrics),
        };
        (slot, durable)
    }

    /// For a disk that does not answer: tells every waiting caller that its record is not known to be durable. The records stay
    /// queued, so they may still turn up in the log.
    pub fn give_up(&self) {
        let waiting = std::mem::take(&mut *locked(&self.shared.waiting));
        for slot in waiting.iter().filter_map(Weak::upgrade) {
            answer(
                &slot,
                Err(AuditError("the audit log's disk does not answer".into())),
            );
        }
    }

    /// Whether a record appended now can be expected to become durable soon. While it is not, new sessions are refused.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let stalled = locked(&self.shared.busy_since)
            .is_some_and(|since| clock::instant().duration_since(since) > self.shared.stall_after);
        !self.shared.failing.load(Ordering::Acquire) && !stalled
    }

    /// Age of the oldest record that is not on disk yet; zero if all are.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let since = *locked(&self.shared.undurable_since);
        since.map_or(Duration::ZERO, |since| {
            clock::instant().duration_since(since)
        })
    }

    /// When the last checkpoint became durable.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<SystemTime> {
        *locked(&self.shared.checkpoint_at)
    }

    /// The newest checkpoint that is durable, each time there is a newer one.
    #[must_use]
    pub fn checkpoints(&self) -> watch::Receiver<Option<Checkpoint>> {
        self.shared.checkpoint.subscribe()
    }

    /// Returns when the thread that writes the log has ended by a fault of this program. No record becomes durable any more then, and only
    /// another process can go on with the log.
    pub async fn writer_died(&self) {
        let mut died = self.shared.died.subscribe();
        // The sender lives as long as this log.
        let _ = died.wait_for(|died| *died).await;
    }

    /// Whether [`writer_died`](Self::writer_died) would return.
    #[must_use]
    pub fn has_died(&self) -> bool {
        *self.shared.died.borrow()
    }

    /// The file that is being written.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.shared.file
    }

    /// Text with each address in it in the form that this log keeps, as printable ASCII.
    #[must_use]
    pub fn masked_text(&self, text: &str) -> String {
        let text = WireText::from(text);
        self.shared.addresses.reply(&text).as_str().to_owned()
    }

    /// Writes everything that was queued and a last checkpoint, and ends the log; later records are refused. Blocks until that is
    /// durable or has failed, at most for [`AuditOptions::close_within`]. Returns whether everything is durable.
    pub fn close(&self) -> bool {
        self.thread.end()
    }

    /// Hands the record to `take` as JSON. Addresses in replies get the log's form too.
    fn with_body<T>(&self, record: &Record, take: impl FnOnce(&[u8]) -> T) -> T {
        let masked = self.masked(record);
        BODY.with_borrow_mut(|body| {
            empty(body);
            masked.as_ref().unwrap_or(record).write(body);
            take(body)
        })
    }

    /// The record with the addresses of its reply in the log's form; `None` where it is in that form already.
    fn masked(&self, record: &Record) -> Option<Record> {
        let addresses = &self.shared.addresses;
        let has_reply = matches!(
            record,
            Record::Message(_) | Record::Refusal(_) | Record::Verdict(_) | Record::Heard(_)
        );
        if !has_reply || !addresses.masks() {
            return None;
        }
        let mut masked = record.clone();
        match &mut masked {
            Record::Message(message) => addresses.mask(message.reply.as_mut()),
            Record::Refusal(refusal) => addresses.mask(refusal.reply.as_mut()),
            Record::Verdict(verdict) => addresses.mask(verdict.reply.as_mut()),
            Record::Heard(heard) => addresses.mask(Some(&mut heard.text)),
            _ => {}
        }
        Some(masked)
    }

    fn queue(&self, record: &Record, slot: Option<Arc<AnswerSlot>>) {
        self.with_body(record, |body| self.queue_body(body, slot, None));
    }

    /// `at`: when it happened, if that was not now.
    fn queue_body(&self, body: &[u8], slot: Option<Arc<AnswerSlot>>, at: Option<Time>) {
        let mut queue = locked(&self.shared.queue);
        let pending = queue.octets() + self.shared.unwritten.load(Ordering::Acquire);
        if queue.writer.has_ended() || pending + body.len() > MAX_PENDING {
            queue.lost += 1;
            self.shared.metrics.count(metrics::RECORDS_LOST, "");
            drop(queue);
            if let Some(slot) = slot {
                let full = AuditError("the audit log cannot take more".into());
                answer(&slot, Err(full));
            }
            return;
        }
        let wakes = match at {
            None => queue.push((self.shared.clock)(), body, slot),
            Some(at) => queue.push_dated(at, body, slot),
        };
        drop(queue);
        if wakes {
            self.shared.wake.notify_one();
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

impl WriterThread {
    fn end(&self) -> bool {
        let shared = &self.shared;
        let mut queue = locked(&shared.queue);
        if [WriterState::Running, WriterState::HandedOver].contains(&queue.writer) {
            queue.writer = WriterState::Closing;
        }
        shared.wake.notify_one();
        let (queue, _) = shared
            .ended
            .wait_timeout_while(queue, shared.close_within, |queue| {
                !queue.writer.has_ended()
            })
            .unwrap_or_else(PoisonError::into_inner);
        let state = queue.writer;
        drop(queue);
        // A thread that still waits for its disk is left running until the process ends.
        if state.has_ended()
            && let Some(thread) = locked(&self.handle).take()
        {
            let _ = thread.join(); // a writer that panicked has answered everyone who waits
        }
        state == WriterState::Ended { complete: true }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        // Where it is closing, `close` has waited already, and its caller was told.
        if locked(&self.shared.queue).writer != WriterState::Closing {
            self.end();
        }
    }
}
