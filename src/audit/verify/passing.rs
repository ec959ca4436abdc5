//! Verifies logs and lets somebody read them at the same time. What is read are the very octets that were verified, and they are read
//! from disk once.
//!
//! A log is verified by a thread of its own, because hashing takes as long as reading what the records say: where a second core is
//! idle, the two go on side by side. What is verified and not read yet is bounded by [`AHEAD`] pieces. One log is read after the
//! other, so that many logs take no more threads and memory than [`AT_ONCE`] do.

use super::{Expectations, Verification, verify_and_pass};
use crate::audit::packed::PackedLines;
use std::{
    cell::Cell,
    collections::VecDeque,
    io, mem,
    panic::resume_unwind,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, Scope, ScopedJoinHandle},
};

/// Pieces that are passed before they are asked for.
const AHEAD: usize = 4;
/// Logs that are being verified: the one that is read, and the next, so that its first piece need not be waited for.
const AT_ONCE: usize = 2;

/// Lines that were verified, and how far verification of their log is: the octets done and the octets in all.
type PassedLines = (PackedLines<()>, (u64, u64));

/// The verification of one log.
struct RunningVerification<'scope> {
    thread: ScopedJoinHandle<'scope, io::Result<Verification>>,
    passed: Receiver<PassedLines>,
}

impl<'scope> RunningVerification<'scope> {
    fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        files: &'env [PathBuf],
        expected: &'env Expectations,
    ) -> io::Result<Self> {
        let (send, passed) = sync_channel(AHEAD);
        let thread = thread::Builder::new().name("verify".into());
        let thread = thread.spawn_scoped(scope, move || verify_and_send(files, expected, &send))?;
        Ok(Self { thread, passed })
    }
}

fn verify_and_send(
    files: &[PathBuf],
    expected: &Expectations,
    send: &SyncSender<PassedLines>,
) -> io::Result<Verification> {
    let far = Cell::new((0, 0));
    let mut tell = |done, total| far.set((done, total));
    let mut lines = PackedLines::default();
    let verified = verify_and_pass(files, expected, &mut tell, &mut |line| {
        lines.push(line, ());
        if lines.is_full() {
            let _ = send.send((mem::take(&mut lines), far.get())); // nobody may want more of this log
        }
    });
    let _ = send.send((lines, far.get()));
    verified
}

/// Verifies logs, each of which is given as its files, and gives `take` each line that fits, log by log, with the place of its log in
/// the list. `take` returns whether it wants more of that log. Which of these lines are as they were written is known at the end: those
/// below [`Verification::good`]. `progress` is called with the octets done and the octets in all, of the log that is being read.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn verify_and_read(
    logs: &[Vec<PathBuf>],
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
    take: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> io::Result<Vec<Verification>> {
    thread::scope(|scope| {
        let mut waiting = logs.iter();
        let (mut begun, mut verified) = (VecDeque::new(), Vec::new());
        for log in 0..logs.len() {
            for files in waiting.by_ref().take(AT_ONCE - begun.len()) {
                begun.push_back(RunningVerification::begin(scope, files, expected)?);
            }
            let Some(RunningVerification { thread, passed }) = begun.pop_front() else {
                break;
            };
            for (lines, (done, total)) in passed {
                progress(done, total);
                if !lines.iter().all(|(line, ())| take(log, line)) {
                    break;
                }
            }
            let joined = thread.join();
            verified.push(joined.unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(verified)
    })
}
