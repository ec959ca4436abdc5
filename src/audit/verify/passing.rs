//! Verifies logs and lets somebody read them at the same time. What is read are the very octets that were verified, and they are read
//! from disk once.
//!
//! Each log is verified by a thread of its own, because hashing takes as long as reading what the records say: where a second core
//! is idle, the two go on side by side. What is verified and not read yet is bounded by [`AHEAD`] blocks for each log.

use super::{
    Expectations, Verification,
    logs::{LineSource, MergedLines, time_in},
    verify_and_pass,
};
use crate::audit::chain::Time;
use std::{
    io, mem,
    panic::resume_unwind,
    path::PathBuf,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// Octets of lines that are passed in one go.
const BLOCK: usize = 256 * 1024;
/// Blocks of one log that are passed before they are asked for.
const AHEAD: usize = 4;

/// Lines that were verified, one behind the other, without LF.
#[derive(Default)]
struct LineBlock {
    octets: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

/// Collects lines in blocks, and sends these.
struct BlockSender {
    block: LineBlock,
    send: SyncSender<LineBlock>,
}

impl BlockSender {
    fn pass(&mut self, line: &[u8]) {
        if self.block.octets.len() + line.len() > BLOCK {
            self.send();
        }
        let block = &mut self.block;
        if block.octets.is_empty() {
            block.octets.reserve(BLOCK.max(line.len()));
        }
        block.octets.extend_from_slice(line);
        block.ends.push(block.octets.len());
    }

    fn send(&mut self) {
        if !self.block.ends.is_empty() {
            let _ = self.send.send(mem::take(&mut self.block)); // nobody may want more of this log
        }
    }
}

/// The lines of one log, as its verification passes them.
struct PassedLines {
    blocks: Receiver<LineBlock>,
    block: LineBlock,
    /// The next line of the block.
    next: usize,
}

impl PassedLines {
    /// Waits for the next line; false at the end.
    fn wait(&mut self) -> bool {
        if self.next == self.block.ends.len() {
            let Ok(block) = self.blocks.recv() else {
                return false;
            };
            (self.block, self.next) = (block, 0);
        }
        true
    }

    fn line(&self, at: usize) -> &[u8] {
        let begin = at
            .checked_sub(1)
            .map_or(0, |before| self.block.ends[before]);
        &self.block.octets[begin..self.block.ends[at]]
    }
}

impl LineSource for PassedLines {
    type Line<'a> = &'a [u8];

    fn next_time(&mut self) -> io::Result<Option<Time>> {
        Ok(self.wait().then(|| time_in(self.line(self.next))))
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.wait() {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(self.line(self.next - 1)))
    }
}

/// How far one thread is, in octets on disk.
#[derive(Default)]
struct DoneOctets {
    done: AtomicU64,
    total: AtomicU64,
}

/// Verifies logs, each of which is given as its files, and gives `take` each line that fits, merged by time, with the place of its log
/// in the list. `take` returns whether it wants more of that log. Which of these lines are as they were written is known at the end:
/// those below [`Verification::good`]. `progress` is called with the octets done and the octets in all.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn verify_and_read(
    logs: &[Vec<PathBuf>],
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
    take: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> io::Result<Vec<Verification>> {
    let far: Vec<DoneOctets> = logs.iter().map(|_| DoneOctets::default()).collect();
    let sum = |of: fn(&DoneOctets) -> &AtomicU64| -> u64 {
        far.iter().map(|one| of(one).load(Ordering::Relaxed)).sum()
    };
    thread::scope(|scope| {
        let mut sources = Vec::new();
        let mut threads = Vec::new();
        for (files, far) in logs.iter().zip(&far) {
            let (send, blocks) = sync_channel(AHEAD);
            sources.push(PassedLines {
                blocks,
                block: LineBlock::default(),
                next: 0,
            });
            let verify = move || {
                let mut sender = BlockSender {
                    block: LineBlock::default(),
                    send,
                };
                let mut tell = |done, total| {
                    far.done.store(done, Ordering::Relaxed);
                    far.total.store(total, Ordering::Relaxed);
                };
                let verified =
                    verify_and_pass(files, expected, &mut tell, &mut |line| sender.pass(line));
                sender.send();
                verified
            };
            let thread = thread::Builder::new().name("verify".into());
            threads.push(thread.spawn_scoped(scope, verify)?);
        }
        let mut lines = MergedLines::of(sources)?;
        let mut told = 0;
        while let Some((log, line)) = lines.next()? {
            if !take(log, line) {
                lines.leave(log);
            }
            let done = sum(|one| &one.done);
            if done != told {
                told = done;
                progress(done, sum(|one| &one.total));
            }
        }
        drop(lines);
        let verified = threads.into_iter().map(|thread| match thread.join() {
            Ok(verified) => verified,
            Err(panic) => resume_unwind(panic),
        });
        verified.collect()
    })
}
