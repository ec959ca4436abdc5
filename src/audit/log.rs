//! The one writer of a chain.
//!
//! Records are queued in the order of the calls; one thread writes them. Whoever must know that a record is durable waits
//! for its [`Receipt`]. While the disk is busy with one `fdatasync`, others queue up and share the next one (group commit).
//!
//! When the disk fails, those who wait are told at once and the log is not [`healthy`](AuditLog::healthy); the lines
//! that are not known to be durable stay in memory. Writing is tried again every second: the file is cut to what is
//! durable (a failed `fdatasync` may have lost pages, whatever a second one says) and all else is written anew.
//!
//! A file that is moved away (`mv`, as logrotate does) keeps what was handed over to it, and the chain goes on in a new
//! one: both together are the log. A disk that neither works nor fails holds up nobody for ever: see
//! [`AuditLog::give_up`] and [`AuditLog::close`].

mod writer;

use super::{
    Address, AddressForm, Checkpoint, Disk, FileDisk, Hash, OpenError, Record, TornField,
    address::Addresses,
    chain::timestamp,
    checkpoint::{SigningKey, is_origin},
};
use crate::clock;
use std::{
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

/// Records between two checkpoints, at most. Fixed in the format, so that a longer stretch without a signature is a finding.
pub const CHECKPOINT_RECORDS: u64 = 1000;
/// Octets of a line before its event, at most.
const LINE_HEAD: usize = 160;
/// Memory for records that are not durable yet, in octets. Beyond it, nothing is taken.
const MAX_PENDING: usize = 32 << 20;

/// How a log is kept.
pub struct AuditOptions {
    /// The log; rotated files get its name and a suffix, `FILE.lock` keeps a second writer away.
    pub file: PathBuf,
    /// Private key of the checkpoints (Ed25519, PKCS#8, PEM); without it they are not signed.
    pub key: Option<PathBuf>,
    /// Form of addresses.
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
    /// How soon records that nothing waits for are made durable.
    pub sync_after: Duration,
    /// How long after a failure it is tried again.
    pub retry_after: Duration,
    /// How long the end of the log waits for a disk that does not answer.
    pub close_within: Duration,
    /// Time of day.
    pub clock: fn() -> SystemTime,
    /// Gets what the program's log should say; called by the writing thread.
    pub notice: Box<dyn Fn(Notice) + Send>,
}

impl AuditOptions {
    /// The usual: checkpoints every 1,000 records or minute, files of 256 MiB or a day, no key, addresses in full.
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
            notice: Box::new(|_| ()),
        }
    }

    /// Whether the key can sign, before anything is written.
    ///
    /// # Errors
    /// The file cannot be read, or holds no Ed25519 private key.
    pub fn check_key(&self) -> Result<(), OpenError> {
        self.key
            .as_deref()
            .map_or(Ok(()), |key| SigningKey::read(key).map(drop))
    }
}

/// What the program's log should say. `Display` is that line, without the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A checkpoint is durable. Where this line is kept on another machine, it anchors the chain.
    Checkpoint(Checkpoint),
    /// A crash had left a torn last line; it was cut off, and a record says so.
    Torn(TornField),
    /// Someone moved the file away; the chain goes on in a new one.
    Moved,
    /// The log cannot be written: no new sessions, and nothing is acknowledged.
    Failing(String),
    /// It can be written again.
    Recovered {
        /// Records that could not be kept in memory meanwhile.
        lost: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.fmt(f),
            Self::Torn(torn) => write!(
                f,
                "audit log had a torn last line of {} octets, cut off",
                torn.octets
            ),
            Self::Moved => f.write_str("audit log was moved away, it goes on in a new file"),
            Self::Failing(error) => {
                write!(f, "audit log cannot be written, mail is deferred: {error}")
            }
            Self::Recovered { lost } => {
                write!(f, "audit log can be written again, {lost} records lost")
            }
        }
    }
}

/// Where a durable record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its number.
    pub seq: u64,
    /// The hash of its line.
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

/// One record on its way to the disk: resolves when it is durable, or when that failed. The record was queued when this
/// was made; dropping it only means not to wait. Needs no particular runtime.
#[derive(Debug)]
#[must_use = "the record counts as durable only once this resolves to a receipt"]
pub struct Durable(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    outcome: Option<Result<Receipt, AuditError>>,
    waker: Option<Waker>,
}

impl Future for Durable {
    type Output = Result<Receipt, AuditError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = locked(&self.0);
        if let Some(outcome) = slot.outcome.clone() {
            return Poll::Ready(outcome);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The writer's end of a [`Durable`]; dropped without an answer, it answers that the writer is gone.
#[derive(Debug)]
struct Ticket(Arc<Mutex<Slot>>);

impl Ticket {
    fn answer(&self, outcome: Result<Receipt, AuditError>) {
        answer(&self.0, outcome);
    }
}

/// The first answer counts.
fn answer(slot: &Mutex<Slot>, outcome: Result<Receipt, AuditError>) {
    let waker = {
        let mut slot = locked(slot);
        slot.outcome.get_or_insert(outcome);
        slot.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer(Err(AuditError("the audit log's writer is gone".into())));
    }
}

/// A record that waits to be written.
struct Entry {
    at: String,
    body: Vec<u8>,
    ticket: Option<Ticket>,
}

#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    octets: usize,
    lost: u64,
    closing: bool,
    /// The writer has ended; nothing will be taken out any more.
    gone: bool,
    /// All that was queued was durable when it ended.
    complete: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The writer has ended.
    ended: Condvar,
    /// Who may still wait for a record.
    waiting: Mutex<Vec<Weak<Mutex<Slot>>>>,
    failing: AtomicBool,
    /// Octets that the writer has taken and that are not durable yet.
    unwritten: AtomicUsize,
    /// Since when the writer has been busy with what someone waits for.
    busy_since: Mutex<Option<Instant>>,
    stall_after: Duration,
    close_within: Duration,
    clock: fn() -> SystemTime,
    addresses: Addresses,
}

/// A panic elsewhere does not make the queue wrong: every change of it is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log that is being written. Clones write the same chain.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<Shared>,
    writer: Arc<Writer>,
}

/// Ends the writing thread when the last clone of the log goes.
struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AuditLog {
    /// Opens or begins a log, continuing its chain. When this returns, `log-opened` and a checkpoint are durable.
    ///
    /// # Errors
    /// What is wrong with the options, the key or the file, and what to do. Nothing is served then (fail closed).
    pub fn open(options: AuditOptions) -> Result<Self, OpenError> {
        Self::open_on(options, |disk| Box::new(disk))
    }

    /// [`open`](Self::open) with something between the log and its disk.
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
        let addresses = Addresses::new(options.addresses, secret.as_deref()).ok_or_else(|| {
            OpenError::Wrong(
                "hashed addresses need --audit-key, from which the hashing key is derived".into(),
            )
        })?;
        let (disk, found) = FileDisk::open(&options.file)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            waiting: Mutex::default(),
            failing: AtomicBool::new(false),
            unwritten: AtomicUsize::new(0),
            busy_since: Mutex::new(None),
            stall_after: options.stall_after,
            close_within: options.close_within,
            clock: options.clock,
            addresses,
        });
        let mut writing = writer::Writing::new(shared.clone(), options, key, wrap(disk), &found);
        writing
            .begin(found.torn)
            .map_err(|error| OpenError::of(&file, &error))?;
        let thread = thread::Builder::new()
            .name("audit".into())
            .spawn(move || writing.run())
            .map_err(|error| {
                OpenError::Temporary(format!("{file}: no thread to write it: {error}"))
            })?;
        Ok(Self {
            shared: shared.clone(),
            writer: Arc::new(Writer {
                shared,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// The address in the form that this log keeps. `path` is what stood between `<` and `>`.
    #[must_use]
    pub fn address(&self, path: &[u8]) -> Address {
        self.shared.addresses.address(path)
    }

    /// Octets of the line that this record becomes, nearly: for budgets.
    #[must_use]
    pub fn octets(&self, record: &Record) -> usize {
        self.body(record).len() + LINE_HEAD
    }

    /// Queues a record: it is written in order, within a second, and nothing waits for it.
    pub fn append(&self, record: &Record) {
        self.queue(record, None);
    }

    /// Queues a record that the caller waits for: `log.append_durable(&record).await`. It is queued by the call.
    pub fn append_durable(&self, record: &Record) -> Durable {
        let slot = Arc::<Mutex<Slot>>::default();
        {
            let mut waiting = locked(&self.shared.waiting);
            if waiting.len() == waiting.capacity() {
                waiting.retain(|one| one.strong_count() > 0);
            }
            waiting.push(Arc::downgrade(&slot));
        }
        self.queue(record, Some(Ticket(slot.clone())));
        Durable(slot)
    }

    /// Tells everyone who waits for a record that it is not known to be durable: for a disk that does not answer. The
    /// records stay queued, so they may still turn up in the log.
    pub fn give_up(&self) {
        let waiting = std::mem::take(&mut *locked(&self.shared.waiting));
        for slot in waiting.iter().filter_map(Weak::upgrade) {
            answer(
                &slot,
                Err(AuditError("the audit log's disk does not answer".into())),
            );
        }
    }

    /// Whether what is appended now can be expected to become durable soon. New sessions are refused while not.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let stalled = locked(&self.shared.busy_since)
            .is_some_and(|since| clock::instant().duration_since(since) > self.shared.stall_after);
        !self.shared.failing.load(Ordering::Acquire) && !stalled
    }

    /// Writes all that was queued and a last checkpoint, and ends the log; later records are refused. Blocks until that is
    /// durable or has failed, and no longer than [`AuditOptions::close_within`]. Whether all is durable.
    pub fn close(&self) -> bool {
        self.writer.end()
    }

    /// Replies may name addresses, which then get the log's form too.
    fn body(&self, record: &Record) -> Vec<u8> {
        let addresses = &self.shared.addresses;
        let mut record = record.clone();
        match &mut record {
            Record::Message(message) => addresses.mask(message.reply.as_mut()),
            Record::Refusal(refusal) => addresses.mask(refusal.reply.as_mut()),
            Record::Verdict(verdict) => addresses.mask(verdict.reply.as_mut()),
            Record::Heard(heard) => addresses.mask(Some(&mut heard.text)),
            _ => {}
        }
        serde_json::to_vec(&record).expect("records have string keys only")
    }

    fn queue(&self, record: &Record, ticket: Option<Ticket>) {
        let body = self.body(record);
        let mut queue = locked(&self.shared.queue);
        let pending = queue.octets + self.shared.unwritten.load(Ordering::Acquire);
        if queue.gone || pending + body.len() > MAX_PENDING {
            queue.lost += 1;
            if let Some(ticket) = ticket {
                ticket.answer(Err(AuditError("the audit log cannot take more".into())));
            }
            return;
        }
        queue.octets += body.len();
        let at = timestamp((self.shared.clock)());
        queue.entries.push(Entry { at, body, ticket });
        drop(queue);
        self.shared.wake.notify_one();
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

impl Writer {
    fn end(&self) -> bool {
        let shared = &self.shared;
        let mut queue = locked(&shared.queue);
        queue.closing = true;
        shared.wake.notify_one();
        let (queue, _) = shared
            .ended
            .wait_timeout_while(queue, shared.close_within, |queue| !queue.gone)
            .unwrap_or_else(PoisonError::into_inner);
        let (gone, complete) = (queue.gone, queue.complete);
        drop(queue);
        // A thread that waits for its disk is left to the end of the process.
        if gone && let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join(); // a writer that panicked has answered everyone who waits
        }
        gone && complete
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever closed it has waited already, and was told.
        if !locked(&self.shared.queue).closing {
            self.end();
        }
    }
}
