//! Log lines on their way to stderr. Mail never waits for the reader of stderr: a line goes into a bounded queue, and a thread of
//! its own writes it. Lines that come while it writes go out together in its next write, so that many lines cost few system calls.
//!
//! When nobody reads (a full pipe, a journal that is stuck), the queue fills and lines are dropped. They are counted
//! (`starttls_proxy_log_lines_dropped_total`), and as soon as there is room again a line tells how many were dropped. Each class of
//! lines has room of its own: a flood of ordinary lines displaces no error, and no flood displaces the head of a checkpoint, with
//! which another machine anchors the audit log.

mod line;
mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
    thread,
    time::Duration,
};

use log::{LevelFilter, Log, Metadata, Record};

pub use line::LogFormat;
use line::{FORMAT, formatted};
use queue::{Class, queue};

/// Target of log records with the head of a checkpoint. It begins with the crate's name, as RUST_LOG expects.
pub const CHECKPOINT: &str = "starttls_proxy::checkpoint";

/// How long the end of the process waits until the last lines are read.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Number of lines since the start that nobody read in time or that could not be written.
#[must_use]
pub fn dropped() -> u64 {
    queue().locked().dropped
}

/// Puts a text on stderr unchanged, after the lines that wait.
pub fn write_raw(text: &str) {
    queue().put(Class::Error, text.as_bytes().to_vec());
}

/// Waits up to 2 s until the last lines are written; for the end of the process.
pub fn flush() {
    queue().flush(LAST_LINES);
}

/// The logger behind `log`'s macros. env_logger reads RUST_LOG and decides which lines are wanted.
struct QueueLogger(env_logger::Logger);

impl Log for QueueLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.0.matches(record) {
            let line = formatted(record.level(), *record.args());
            queue().put(Class::of(record), line);
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// Sends `log`'s macros and panics through the queue from now on. RUST_LOG stands above `level`.
pub fn install(format: LogFormat, level: LevelFilter) {
    // Tests set it several times in one process. The first one counts.
    let _ = FORMAT.set(format);
    let filter = env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .build();
    let most = filter.filter();
    // Tests set a logger several times in one process. That is no error.
    if log::set_boxed_logger(Box::new(QueueLogger(filter))).is_ok() {
        log::set_max_level(most);
        std::panic::set_hook(Box::new(panicked));
    }
}

/// Logs the usual words of a panic. The standard hook would wait for the reader of stderr.
fn panicked(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let mut words = format!("thread '{}' {info}", thread.name().unwrap_or("<unnamed>"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        words = format!("{words}\n{backtrace}");
    }
    log::error!("{words}");
}
