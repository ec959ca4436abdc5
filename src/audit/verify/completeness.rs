//! What an honest run without faults could not have left: runs without a stop, sessions without an end, times that run backwards, and
//! stretches without a checkpoint. None of it is damage. Each of it is what remains if somebody cuts a log and lets it go on.

use crate::audit::chain::Header;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::HashMap;

/// Clocks that are set back by less than this many seconds are not counted.
const CLOCK_SLACK: f64 = 1.0;
/// Seconds that a checkpoint may be late, because a disk may take that long.
const CHECKPOINT_SLACK: f64 = 10.0;
/// Runs without a stop among which the heir of one that hands over is looked for, the newest first. Two run at once, not more.
const MOST_OPEN: usize = 100;

/// The counts, as far as the log was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Completeness {
    /// Starts of the program.
    pub(crate) runs: u64,
    /// Runs that have no `stop` although another one began. The last one may still be going on.
    pub(crate) unstopped: u64,
    /// Sessions without an end in runs that are over.
    pub(crate) unended: u64,
    /// Times that a record is dated before the one before it, other than where one process takes over from another.
    pub(crate) backwards: u64,
    /// Stretches that were without a checkpoint for longer than the log was told.
    pub(crate) gaps: u64,
    /// Seconds in which the program did not run, in all, and the longest time of that with its beginning.
    pub(crate) down: f64,
    pub(crate) longest_down: Option<(f64, String)>,
    /// The last run was stopped, and the checkpoint that belongs behind that is not there.
    pub(crate) unsealed_stop: bool,
}

impl Completeness {
    /// Whether an honest run without faults can have left this.
    pub(crate) fn is_whole(&self) -> bool {
        self.unstopped + self.unended + self.backwards + self.gaps == 0 && !self.unsealed_stop
    }
}

/// One run of the program whose `stop` has not come.
struct OpenRun {
    number: u64,
    pid: u64,
    /// Steps back in time since the next run began: none, if it turns out that this one handed the log over.
    backwards: u64,
}

/// Counts while a log is read.
#[derive(Default)]
pub(super) struct RunAccount {
    counts: Completeness,
    open: Vec<OpenRun>,
    /// Sessions whose end has not come, with the number of the run in which each began; and how many there are of each run that goes on.
    sessions: HashMap<Vec<u8>, u64>,
    unended: HashMap<u64, u64>,
    /// Ends of sessions that were counted only.
    uncounted_ends: u64,
    /// Time of the last record that is not about the log itself, and of the last of all.
    at: Vec<u8>,
    last: Vec<u8>,
    /// Time of the first record behind the last checkpoint.
    unsigned_since: Option<Vec<u8>>,
    /// Seconds within which a checkpoint must come.
    interval: Option<f64>,
    excuse: LateExcuse,
}

/// Why a checkpoint may be late: the log could not be written for a time that it tells of itself. No more than that time is excused, and
/// only as far as it lies behind the last checkpoint.
#[derive(Default)]
struct LateExcuse {
    seconds: f64,
    /// The last such time.
    from: Vec<u8>,
    to: Vec<u8>,
}

impl LateExcuse {
    /// Adds a time. Two that overlap count once.
    fn add(&mut self, from: &[u8], to: &[u8]) {
        let is_apart = self.to.is_empty() || from >= self.to.as_slice();
        if is_apart {
            self.seconds += seconds(from, to).max(0.0);
            (self.from, self.to) = (from.to_vec(), to.to_vec());
            return;
        }
        if from < self.from.as_slice() {
            self.seconds += seconds(from, &self.from).max(0.0);
            self.from = from.to_vec();
        }
        if to > self.to.as_slice() {
            self.seconds += seconds(&self.to, to).max(0.0);
            self.to = to.to_vec();
        }
    }
}

#[derive(Deserialize)]
struct RunFields {
    pid: Option<u64>,
    reason: Option<String>,
    checkpoint_after: Option<f64>,
    since: Option<String>,
    #[serde(default)]
    counts: Vec<NotRecordedFields>,
}

#[derive(Deserialize)]
struct NotRecordedFields {
    kind: String,
    count: u64,
}

/// Seconds from `one` to `other`.
pub(super) fn seconds(one: &[u8], other: &[u8]) -> f64 {
    let parse = |at: &[u8]| str::from_utf8(at).ok()?.parse::<Timestamp>().ok();
    match (parse(one), parse(other)) {
        (Some(one), Some(other)) => other.duration_since(one).as_secs_f64(),
        _ => 0.0,
    }
}

/// The id of a session, which stands behind the event.
fn session<'a>(event: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let begin = memchr::memmem::find(line, b"\",\"session\":{\"id\":\"")?;
    let named = line[..begin].ends_with(event);
    let rest = &line[begin + 19..];
    let end = memchr::memchr(b'"', rest)?;
    named.then_some(&rest[..end])
}

impl RunAccount {
    /// Takes a record that follows those before it.
    pub(super) fn see(&mut self, header: &Header<'_>, line: &[u8]) {
        let fields = || serde_json::from_slice::<RunFields>(line).ok();
        let is_own = match header.event {
            b"checkpoint" => {
                self.end_stretch(header.at);
                self.counts.unsealed_stop = false;
                self.unsigned_since = None;
                true
            }
            b"log-opened" => {
                // What came before was not signed by the run that wrote it, but it could not wait any longer.
                self.end_stretch(&self.last.clone());
                self.unsigned_since = None;
                self.note_down(header.at);
                self.interval = fields().and_then(|fields| fields.checkpoint_after);
                true
            }
            b"log-recovered" | b"log-brought-back" => {
                let since = fields().and_then(|fields| fields.since);
                self.excuse_since(since.unwrap_or_default().as_bytes(), header.at);
                true
            }
            b"log-continued" | b"log-cut" | b"key-lost" => true,
            event => {
                match event {
                    b"start" => self.start(fields().and_then(|fields| fields.pid)),
                    b"stop" => self.stop(fields().and_then(|fields| fields.reason)),
                    b"session-opened" => {
                        if let Some(id) = session(event, line) {
                            self.begin_session(id.to_vec());
                        }
                    }
                    b"session-closed" => {
                        if let Some(id) = session(event, line) {
                            self.end_session(id);
                        }
                    }
                    b"not-recorded" => {
                        let counts = fields().map(|fields| fields.counts).unwrap_or_default();
                        let ends = counts.iter().filter(|one| one.kind == "session-closed");
                        self.uncounted_ends += ends.map(|one| one.count).sum::<u64>();
                    }
                    _ => {}
                }
                false
            }
        };
        if header.event != b"checkpoint" && self.unsigned_since.is_none() {
            self.unsigned_since = Some(header.at.to_vec());
        }
        if !is_own {
            self.date(header.at);
        }
        self.last.clear();
        self.last.extend_from_slice(header.at);
    }

    fn begin_session(&mut self, id: Vec<u8>) {
        let run = self.counts.runs;
        *self.unended.entry(run).or_default() += 1;
        if let Some(before) = self.sessions.insert(id, run) {
            self.forget_one_of(before);
        }
    }

    fn end_session(&mut self, id: &[u8]) {
        if let Some(run) = self.sessions.remove(id) {
            self.forget_one_of(run);
        }
    }

    fn forget_one_of(&mut self, run: u64) {
        if let Some(number) = self.unended.get_mut(&run) {
            *number = number.saturating_sub(1);
        }
    }

    /// Times have a fixed form, so that their order is that of their octets.
    fn date(&mut self, at: &[u8]) {
        if self.at.as_slice() > at && -seconds(&self.at, at) > CLOCK_SLACK {
            // The process before the last one may be handing over.
            match self.open.len().checked_sub(2) {
                Some(before) => self.open[before].backwards += 1,
                None => self.counts.backwards += 1,
            }
        }
        self.at.clear();
        self.at.extend_from_slice(at);
    }

    fn end_stretch(&mut self, at: &[u8]) {
        if let (Some(since), Some(interval)) = (&self.unsigned_since, self.interval)
            && seconds(since, at) - self.excuse.seconds > interval + CHECKPOINT_SLACK
        {
            self.counts.gaps += 1;
        }
        self.excuse = LateExcuse::default();
    }

    /// The log could not be written between these times.
    fn excuse_since(&mut self, since: &[u8], at: &[u8]) {
        // Times of another form would not have their order.
        if since.len() == at.len()
            && let Some(unsigned) = &self.unsigned_since
        {
            self.excuse.add(since.max(unsigned), at);
        }
    }

    fn note_down(&mut self, at: &[u8]) {
        if self.last.is_empty() {
            return;
        }
        let down = seconds(&self.last, at).max(0.0);
        self.counts.down += down;
        if self
            .counts
            .longest_down
            .as_ref()
            .is_none_or(|(longest, _)| down > *longest)
        {
            let since = String::from_utf8_lossy(&self.last).into_owned();
            self.counts.longest_down = Some((down, since));
        }
    }

    fn start(&mut self, pid: Option<u64>) {
        self.counts.runs += 1;
        self.open.push(OpenRun {
            number: self.counts.runs,
            pid: pid.unwrap_or_default(),
            backwards: 0,
        });
    }

    fn stop(&mut self, reason: Option<String>) {
        let reason = reason.unwrap_or_default();
        let heir: Option<u64> = reason
            .strip_prefix("SIGUSR2: process ")
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        let newest = self.open.len().saturating_sub(MOST_OPEN);
        let mut newest = self.open.iter().enumerate().skip(newest);
        let heir = heir.and_then(|heir| newest.find(|(_, run)| run.pid == heir));
        let place = heir.map(|(place, _)| place);
        let place = match place {
            Some(heir) => heir.checked_sub(1),
            None => self.open.len().checked_sub(1),
        };
        let Some(place) = place else { return };
        let run = self.open.remove(place);
        self.counts.unsealed_stop = self.open.len() == place;
        self.counts.unended += self.unended.remove(&run.number).unwrap_or_default();
    }

    /// The counts at the end of the log, where the last run may be going on.
    pub(super) fn end(mut self) -> Completeness {
        let last = self.last.clone();
        self.end_stretch(&last);
        if !self.counts.unsealed_stop {
            // The last run may be going on.
            self.open.pop_if(|run| run.number == self.counts.runs);
        }
        self.counts.unstopped = self.open.len() as u64;
        for run in &self.open {
            self.counts.backwards += run.backwards;
            self.counts.unended += self.unended.get(&run.number).copied().unwrap_or_default();
        }
        self.counts.unended = self.counts.unended.saturating_sub(self.uncounted_ends);
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts a log whose records are `(seconds, rest of the line from the event on)`.
    fn counted(records: &[(u64, &str)]) -> Completeness {
        let mut account = RunAccount::default();
        for (at, rest) in records {
            let (minute, second) = (at / 60, at % 60);
            let line = format!(
                "{{\"v\":1,\"prev\":\"{}\",\"seq\":0,\"at\":\"2026-11-24T{:02}:{:02}:{second:02}.000000Z\",\"event\":\"{rest}}}",
                "0".repeat(64),
                minute / 60,
                minute % 60,
            );
            account.see(&Header::read(line.as_bytes()).unwrap(), line.as_bytes());
        }
        account.end()
    }

    const OPENED: &str = "log-opened\",\"checkpoint_after\":60";
    const CHECKPOINT: &str = "checkpoint\",\"note\":\"\"";
    const START: &str = "start\",\"pid\":7";
    const NEXT: &str = "start\",\"pid\":8";
    const STOP: &str = "stop\",\"reason\":\"SIGTERM\"";
    const HANDED_OVER: &str = "stop\",\"reason\":\"SIGUSR2: process 8 goes on\"";
    const BEGINS: &str = "session-opened\",\"session\":{\"id\":\"aa\"";
    const ENDS: &str = "session-closed\",\"session\":{\"id\":\"aa\"";
    const MESSAGE: &str = "message\",\"session\":{\"id\":\"aa\"";

    #[test]
    fn an_honest_run_and_one_that_goes_on_are_whole() {
        let run = [
            (0, OPENED),
            (0, CHECKPOINT),
            (1, START),
            (2, BEGINS),
            (3, MESSAGE),
            (3, ENDS),
            (60, CHECKPOINT),
            (90, STOP),
            (90, CHECKPOINT),
        ];
        for length in 0..=run.len() {
            let counts = counted(&run[..length]);
            assert_eq!(counts.is_whole(), length != run.len() - 1, "{length}");
        }
        let counts = counted(
            &[
                run.as_slice(),
                &[(150, OPENED), (150, CHECKPOINT), (150, START)],
            ]
            .concat(),
        );
        assert!(counts.is_whole());
        assert_eq!((counts.runs, counts.down), (2, 60.0));
    }

    #[test]
    fn a_run_without_a_stop_and_its_sessions_are_counted() {
        let counts = counted(&[
            (0, OPENED),
            (1, START),
            (2, BEGINS),
            (40, OPENED),
            (41, NEXT),
            (42, STOP),
            (42, CHECKPOINT),
        ]);
        assert_eq!((counts.unstopped, counts.unended), (1, 1));
        assert_eq!(
            counts.longest_down,
            Some((38.0, "2026-11-24T00:00:02.000000Z".into()))
        );
    }

    #[test]
    fn a_hand_over_leaves_nothing_open_and_may_step_back_in_time() {
        let counts = counted(&[
            (0, OPENED),
            (1, START),
            (2, BEGINS),
            (10, OPENED),
            (20, NEXT),
            (12, MESSAGE),
            (21, ENDS),
            (22, HANDED_OVER),
            (23, STOP),
            (23, CHECKPOINT),
        ]);
        assert!(counts.is_whole(), "{counts:?}");
    }

    #[test]
    fn a_clock_that_runs_back_is_counted_once() {
        let counts = counted(&[
            (0, OPENED),
            (1, START),
            (50, MESSAGE),
            (40, MESSAGE),
            (41, MESSAGE),
        ]);
        assert_eq!(counts.backwards, 1);
    }

    #[test]
    fn a_stretch_without_a_checkpoint_is_counted_unless_nothing_was_to_be_signed() {
        let late = [
            (0, OPENED),
            (0, CHECKPOINT),
            (500, MESSAGE),
            (600, CHECKPOINT),
        ];
        assert_eq!(counted(&late).gaps, 1);
        assert_eq!(counted(&late[..3]).gaps, 0, "nothing was to be signed");
        let cut = [(0, OPENED), (0, CHECKPOINT), (5, MESSAGE), (100, MESSAGE)];
        assert_eq!(counted(&cut).gaps, 1, "the end");
    }

    #[test]
    fn a_late_checkpoint_is_excused_by_no_more_time_than_the_log_could_not_be_written() {
        let since = |event: &str, minute: u64| {
            format!("{event}\",\"since\":\"2026-11-24T00:{minute:02}:00.000000Z\"")
        };
        let gaps = |excuses: &[(u64, &str)]| {
            let mut run = vec![(0, OPENED), (0, CHECKPOINT), (500, MESSAGE)];
            run.extend(excuses);
            run.push((900, CHECKPOINT));
            counted(&run).gaps
        };
        for event in ["log-recovered", "log-brought-back"] {
            let (whole, short, early) = (since(event, 9), since(event, 14), since(event, 0));
            // From second 540 to 900; a checkpoint was due at 560.
            assert_eq!(gaps(&[(900, &whole)]), 0, "{event}");
            assert_eq!(gaps(&[(900, &early)]), 0, "{event}");
            assert_eq!(gaps(&[(900, &short)]), 1, "{event}");
            assert_eq!(gaps(&[(520, &early)]), 1, "what was before excuses nothing");
            // One in the other: the log was deleted while the disk failed.
            assert_eq!(gaps(&[(880, &short), (900, &whole)]), 0, "{event}");
            assert_eq!(gaps(&[(880, &whole), (900, &short)]), 0, "{event}");
            let half = since(event, 12);
            assert_eq!(gaps(&[(900, &half), (900, &half)]), 1, "counted twice");
        }
        assert_eq!(gaps(&[(900, "log-recovered\",\"lost\":0")]), 1);
    }

    #[test]
    fn ends_that_were_counted_only_are_no_missing_ends() {
        let uncounted = "not-recorded\",\"counts\":[{\"kind\":\"session-closed\",\"count\":1}]";
        let run = [(0, START), (1, BEGINS), (2, uncounted), (3, STOP)];
        assert_eq!(counted(&run).unended, 0);
        assert_eq!(counted(&[run[0], run[1], run[3]]).unended, 1);
    }
}
