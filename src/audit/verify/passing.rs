//! Verifies logs and lets somebody read them at the same time. What is read are the very octets that were verified, and they are read
//! from disk once.
//!
//! A log is verified by a thread of its own, because hashing takes as long as reading what the records say: where a second core is
//! idle, the two go on side by side. What is verified and not read yet is bounded by [`AHEAD`] pieces. One log follows the other, so
//! that many logs take no more threads and memory than one.

use super::{Expectations, Verification, verify_and_pass};
use crate::audit::packed::PackedLines;
use std::{
    io, mem,
    panic::resume_unwind,
    path::PathBuf,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

/// Pieces that are passed before they are asked for.
const AHEAD: usize = 4;

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
    let logs = logs.iter().enumerate();
    let verified = logs
        .map(|(log, files)| verify_one(files, expected, progress, &mut |line| take(log, line)));
    verified.collect()
}

fn verify_one(
    files: &[PathBuf],
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<Verification> {
    let far = [const { AtomicU64::new(0) }; 2];
    let [done, total] = &far;
    let (send, pieces) = sync_channel::<PackedLines<()>>(AHEAD);
    thread::scope(|scope| {
        let mut tell = |now, all| {
            done.store(now, Ordering::Relaxed);
            total.store(all, Ordering::Relaxed);
        };
        let verify = move || {
            let mut piece = PackedLines::default();
            let verified = verify_and_pass(files, expected, &mut tell, &mut |line| {
                piece.push(line, ());
                if piece.is_full() {
                    let _ = send.send(mem::take(&mut piece)); // nobody may want more of this log
                }
            });
            let _ = send.send(piece);
            verified
        };
        let thread = thread::Builder::new().name("verify".into());
        let thread = thread.spawn_scoped(scope, verify)?;
        for piece in pieces {
            if !piece.iter().all(|(line, ())| take(line)) {
                break;
            }
            progress(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        }
        thread
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    })
}
