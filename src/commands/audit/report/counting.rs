//! Counts the records of all logs while they are verified, in one pass. Only where other records turn out to be good than those that
//! were counted, because a log is damaged or its files changed meanwhile, all are counted a second time.

use super::{
    counts::Counts,
    fields::{ReadExemption, ReadRecord},
    observing::Runs,
};
use crate::{
    audit::{LogLines, Verification, changed},
    commands::audit::{period::Period, verify::name},
};
use std::{io, mem};

/// Counts the records of several logs, which come one behind the other.
pub(super) struct Counting<'a> {
    period: &'a Period,
    counts: Counts,
    logs: Vec<LogCounting>,
}

/// What is kept of each log while its records are counted.
#[derive(Default)]
struct LogCounting {
    /// What its last policy exempts.
    exemptions: Vec<ReadExemption>,
    runs: Runs,
    /// The number of the record behind the last one that was counted.
    next: u64,
    /// Lines that could not be read as records.
    unread: u64,
}

impl<'a> Counting<'a> {
    /// Of so many logs.
    pub(super) fn new(logs: usize, period: &'a Period) -> Self {
        Self {
            period,
            counts: Counts::default(),
            logs: (0..logs).map(|_| LogCounting::default()).collect(),
        }
    }

    /// Counts one line of log number `log`, if it is a record below `end`. Returns whether it was, and so whether more of the log is
    /// wanted.
    pub(super) fn see(&mut self, log: usize, line: &[u8], end: u64) -> bool {
        let own = &mut self.logs[log];
        let Some(record) = ReadRecord::read(line) else {
            // The remains of a crash, or what another build has to say in a known field. What stands behind it counts.
            own.unread += 1;
            return true;
        };
        if record.seq >= end {
            return false;
        }
        if !self.period.ends_before(record.at.as_bytes()) {
            own.runs.see(&record);
        }
        own.next = record.seq + 1;
        mem::swap(&mut self.counts.exemptions, &mut own.exemptions);
        self.counts.add(&record, log, self.period);
        mem::swap(&mut self.counts.exemptions, &mut own.exemptions);
        true
    }

    /// Whether other records were counted than verification has found to be good in the end.
    fn has_others(&self, verified: &[Verification]) -> bool {
        let mut logs = self.logs.iter().zip(verified);
        logs.any(|(own, log)| own.next != log.good || log.reread)
    }

    /// The numbers, once verification has ended. Of a log that is damaged, the records before the damage count.
    ///
    /// # Errors
    /// A file cannot be read again.
    pub(super) fn end(mut self, verified: &[Verification]) -> io::Result<Counts> {
        if self.has_others(verified) {
            self = self.again(verified)?;
            let mut logs = self.logs.iter().zip(verified);
            if logs.any(|(own, log)| own.next + own.unread < log.good) {
                return Err(changed());
            }
        }
        let mut counts = self.counts;
        counts.put_in_order();
        let names: Vec<String> = verified.iter().map(name).collect();
        let is_one = names.len() == 1;
        for (own, name) in self.logs.into_iter().zip(&names) {
            let whose = (!is_one).then_some(name.as_str());
            let mut periods = own.runs.periods(whose, self.period);
            counts.observing.append(&mut periods);
            for exemption in own.exemptions {
                if !counts.exemptions.contains(&exemption) {
                    counts.exemptions.push(exemption);
                }
            }
        }
        for change in counts.changes.iter_mut().filter(|_| !is_one) {
            change.text = format!("{}: {}", names[change.log], change.text);
        }
        Ok(counts)
    }

    /// Counts anew, now that it is known up to where the records are as they were written.
    fn again(self, verified: &[Verification]) -> io::Result<Self> {
        let mut counting = Self::new(verified.len(), self.period);
        for (number, log) in verified.iter().enumerate() {
            let mut lines = LogLines::new(&log.files);
            while let Some(line) = lines.next()?
                && counting.see(number, line.bytes, log.good)
            {}
        }
        Ok(counting)
    }
}
