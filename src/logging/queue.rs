//! The queue in front of stderr, and the thread that empties it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use log::{Level, Record};

use super::{CHECKPOINT, line::formatted};

/// Time until a full pipe is tried again, if stderr is a pipe that does not block.
const FULL_PIPE: Duration = Duration::from_millis(50);
/// Most octets of lines that are written at once. A longer line is written alone.
const BATCH: usize = 64 * 1024;
/// How long the thread lets lines gather behind those that it has written. The first line after a pause is written at once.
const GATHERING: Duration = Duration::from_millis(2);

/// Importance of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Ordinary,
    /// Errors, panics, and the reason why the program ends.
    Error,
    /// Heads of checkpoints: one a minute, or one in 1,000 records. There is room for about 20,000.
    Checkpoint,
}

impl Class {
    const ALL: [Self; 3] = [Self::Ordinary, Self::Error, Self::Checkpoint];

    /// Most octets of waiting lines.
    fn room(self) -> usize {
        match self {
            Self::Ordinary => 1 << 20,
            Self::Error | Self::Checkpoint => 4 << 20,
        }
    }

    pub(super) fn of(record: &Record<'_>) -> Self {
        if record.target() == CHECKPOINT {
            Self::Checkpoint
        } else if record.level() == Level::Error {
            Self::Error
        } else {
            Self::Ordinary
        }
    }
}

/// The lines that wait to be written.
#[derive(Default)]
pub(super) struct QueueState {
    lines: VecDeque<(Class, Vec<u8>)>,
    /// Their octets, by class.
    octets: [usize; 3],
    /// Classes that were full. A class takes lines again when half of its room is free. Otherwise a slow reader would see a line about
    /// dropped lines after each line.
    full: [bool; 3],
    /// Dropped lines that no line has reported yet.
    untold: u64,
    /// Lines dropped since the start.
    pub(super) dropped: u64,
    /// Lines are being written.
    writing: bool,
    /// The thread waits for a line. Only then must it be woken, which is a system call.
    waits: bool,
}

impl QueueState {
    fn put(&mut self, class: Class, line: Vec<u8>) -> bool {
        let index = class as usize;
        if self.octets[index] + line.len() > class.room() {
            self.full[index] = true;
        }
        if self.full[index] {
            self.untold += 1;
            self.dropped += 1;
            return false;
        }
        self.octets[index] += line.len();
        self.lines.push_back((class, line));
        true
    }

    /// Takes lines in their order, as many as `batch` has room for but at least one, and returns their number.
    fn take(&mut self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        let mut lines = 0;
        while let Some((_, next)) = self.lines.front()
            && (lines == 0 || batch.len() + next.len() <= BATCH)
            && let Some(line) = self.take_one()
        {
            batch.extend_from_slice(&line);
            lines += 1;
        }
        lines
    }

    fn take_one(&mut self) -> Option<Vec<u8>> {
        let (class, line) = self.lines.pop_front()?;
        self.octets[class as usize] -= line.len();
        for class in Class::ALL {
            self.full[class as usize] &= self.octets[class as usize] > class.room() / 2;
        }
        if self.untold > 0 && self.full == [false; 3] {
            let line = formatted(
                Level::Warn,
                format_args!(
                    "{} log lines were dropped here: nobody read them in time",
                    self.untold
                ),
            );
            self.untold = 0;
            self.put(Class::Error, line);
        }
        Some(line)
    }
}

/// The queue in front of stderr.
#[derive(Default)]
pub(super) struct LineQueue {
    waiting: Mutex<QueueState>,
    /// Signals that there is something to write.
    filled: Condvar,
    /// Signals that everything is written.
    emptied: Condvar,
}

impl LineQueue {
    pub(super) fn locked(&self) -> MutexGuard<'_, QueueState> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, class: Class, line: Vec<u8>) {
        let mut waiting = self.locked();
        let wake = waiting.put(class, line) && std::mem::take(&mut waiting.waits);
        drop(waiting);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Writes the lines in their order. Never returns.
    fn write_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let lines = self.next(&mut batch);
            let written = write_whole(&mut out, &batch);
            // A long line leaves no memory behind.
            batch.shrink_to(BATCH);
            let mut waiting = self.locked();
            waiting.writing = false;
            // A reader that closed the pipe cannot be told. The counter tells the administrator.
            waiting.dropped += if written.is_err() { lines } else { 0 };
            let all = waiting.lines.is_empty();
            drop(waiting);
            if all {
                self.emptied.notify_all();
                thread::sleep(GATHERING);
            }
        }
    }

    /// Waits for lines and takes them. Returns their number.
    fn next(&self, batch: &mut Vec<u8>) -> u64 {
        let mut waiting = self.locked();
        loop {
            let lines = waiting.take(batch);
            if lines > 0 {
                waiting.writing = true;
                return lines;
            }
            waiting.waits = true;
            waiting = self
                .filled
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all lines are written, but no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let busy = |waiting: &mut QueueState| waiting.writing || !waiting.lines.is_empty();
        // A time-out makes no difference: the process ends.
        let _ = self
            .emptied
            .wait_timeout_while(self.locked(), limit, busy)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

fn write_whole(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PIPE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The process has one stderr and one queue in front of it.
pub(super) fn queue() -> &'static LineQueue {
    static QUEUE: OnceLock<Arc<LineQueue>> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let queue = Arc::<LineQueue>::default();
        let writer = Arc::clone(&queue);
        // This does not write through `std::io::Stderr`, because another thread may hold its lock.
        let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let write = move || match stderr {
            Ok(file) => writer.write_to(file),
            Err(_) => writer.write_to(io::sink()),
        };
        // Without threads nothing can be served. Lines until then are lost.
        let _ = thread::Builder::new().name("log".into()).spawn(write);
        queue
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A pipe whose reader takes what is written at once only when the test allows it.
    struct Pipe {
        may: Receiver<()>,
        read: Sender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.may.recv().map_err(io::Error::other)?;
            let _ = self.read.send(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A line of 1000 octets.
    fn long_line(octet: u8) -> Vec<u8> {
        [vec![octet; 999], vec![b'\n']].concat()
    }

    fn behind_a_pipe() -> (Arc<LineQueue>, Sender<()>, Receiver<String>) {
        let ((reads, may), (read, lines)) = (channel(), channel());
        let queue = Arc::<LineQueue>::default();
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_to(Pipe { may, read }));
        (queue, reads, lines)
    }

    /// Lets the reader read until it has all these lines.
    fn read_until(
        reads: &Sender<()>,
        lines: &Receiver<String>,
        all: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let mut read = Vec::new();
        while !all(&read) {
            reads.send(()).expect("the writer lives");
            let written = lines.recv().expect("lines");
            assert!(written.ends_with('\n'), "whole lines");
            read.extend(written.lines().map(str::to_owned));
        }
        read
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_was_dropped_is_told_when_there_is_room() {
        let (queue, reads, lines) = behind_a_pipe();
        for _ in 0..5000 {
            queue.put(Class::Ordinary, long_line(b'x'));
        }
        let dropped = queue.locked().dropped;
        // Up to 65 lines are with the thread, which took them before the reader stopped.
        assert!((3880..3960).contains(&dropped), "{dropped}");
        let all = read_until(&reads, &lines, |all| all.len() as u64 + dropped >= 5001);
        let told: Vec<_> = all.iter().filter(|line| line.contains("dropped")).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(&format!("{dropped} log lines")),
            "{told:?}"
        );
        assert_eq!(all.len() as u64 + dropped, 5001);
        queue.put(Class::Ordinary, b"behind it\n".to_vec());
        let rest = read_until(&reads, &lines, |rest| !rest.is_empty());
        assert_eq!(rest, ["behind it"]);
    }

    #[test]
    fn no_flood_displaces_an_error_or_the_head_of_a_checkpoint() {
        let (queue, reads, lines) = behind_a_pipe();
        for number in 0..10_000 {
            queue.put(Class::Ordinary, long_line(b'x'));
            if number % 100 == 0 {
                queue.put(Class::Error, format!("error {number}\n").into_bytes());
                queue.put(Class::Checkpoint, format!("head {number}\n").into_bytes());
            }
        }
        // Errors may be a flood, too.
        for _ in 0..10_000 {
            queue.put(Class::Error, long_line(b'e'));
        }
        queue.put(Class::Checkpoint, b"head of all\n".to_vec());
        let octets: usize = queue.locked().octets.iter().sum();
        assert!(octets < 9 << 20, "{octets}");
        let all = read_until(&reads, &lines, |all| {
            all.iter().any(|line| line == "head of all")
        });
        for number in (0..10_000).step_by(100) {
            assert!(all.contains(&format!("error {number}")));
            assert!(all.contains(&format!("head {number}")));
        }
    }

    #[test]
    fn the_end_waits_for_the_last_lines_but_not_for_ever() {
        let (queue, reads, lines) = behind_a_pipe();
        queue.put(Class::Ordinary, b"last\n".to_vec());
        queue.flush(Duration::from_millis(1)); // nobody reads, and yet it returns
        reads.send(()).expect("the writer lives");
        queue.flush(Duration::from_secs(60));
        assert_eq!(lines.try_recv().as_deref(), Ok("last\n"));
    }

    #[test]
    fn lines_that_wait_are_written_together_whole_and_in_bounds() {
        let (queue, reads, lines) = behind_a_pipe();
        queue.put(Class::Ordinary, b"first\n".to_vec());
        // Once the thread writes the first line, the others wait for it.
        while !queue.locked().writing {
            thread::yield_now();
        }
        let longer_than_all = [vec![b'l'; 2 * BATCH], vec![b'\n']].concat();
        for _ in 0..100 {
            queue.put(Class::Ordinary, long_line(b'x'));
        }
        queue.put(Class::Ordinary, longer_than_all.clone());
        queue.put(Class::Ordinary, b"behind it\n".to_vec());
        let mut written = Vec::new();
        while written
            .last()
            .is_none_or(|last: &String| last != "behind it\n")
        {
            reads.send(()).expect("the writer lives");
            written.push(lines.recv().expect("lines"));
        }
        let lengths: Vec<usize> = written.iter().map(String::len).collect();
        let batch = BATCH / 1000 * 1000;
        let expected = [6, batch, 100_000 - batch, longer_than_all.len(), 10];
        assert_eq!(lengths, expected);
    }
}
