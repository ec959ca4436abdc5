//! The times during which nobody could be had who vouches for new checkpoints, as the log has them.

use super::completeness::seconds;
use std::{collections::BTreeMap, fmt};

/// Of so many times, the longest ones, it is told when they were.
pub(crate) const LONGEST: usize = 8;
/// Witnesses whose times are followed at once. A log that names more is no honest one; of further ones nothing but their number is told.
const MOST_OPEN: usize = 100;

/// Who was asked to vouch: a time-stamp authority, or a witness. `Display` is what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AskedVoucher {
    Authority,
    /// By its name; `None` in logs of older builds.
    Witness(Option<String>),
}

impl fmt::Display for AskedVoucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => f.write_str("time-stamp"),
            Self::Witness(Some(name)) => write!(f, "signature of the witness {name}"),
            Self::Witness(None) => f.write_str("signature of a witness"),
        }
    }
}

/// One time during which one of them could not be had.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnvouchedTime {
    pub(crate) asked: AskedVoucher,
    /// The time of the record that says so.
    pub(crate) since: String,
    /// The time of the next record with a stamp or signature of the same; `None` if there is none.
    pub(crate) until: Option<String>,
    /// How long it was; up to the last record if it has no end.
    pub(crate) seconds: f64,
}

/// All such times of a log. Who is asked in vain before and after a restart was not to be had in between either.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnvouchedTimes {
    pub(crate) number: u64,
    /// The longest of them, the longest first.
    pub(crate) longest: Vec<UnvouchedTime>,
    /// Since when those could not be had that cannot be had now.
    open: BTreeMap<AskedVoucher, String>,
}

impl UnvouchedTimes {
    /// A record of the time `at` says that this one was asked in vain.
    pub(super) fn begin(&mut self, asked: AskedVoucher, at: &str) {
        if self.open.contains_key(&asked) {
            return;
        }
        self.number += 1;
        if self.open.len() < MOST_OPEN {
            self.open.insert(asked, at.to_owned());
        }
    }

    /// A record of the time `at` has what this one was asked for.
    pub(super) fn end(&mut self, asked: &AskedVoucher, at: &str) {
        self.close(asked, at);
        if let AskedVoucher::Witness(Some(_)) = asked {
            self.close(&AskedVoucher::Witness(None), at);
        }
    }

    fn close(&mut self, asked: &AskedVoucher, at: &str) {
        if let Some((asked, since)) = self.open.remove_entry(asked) {
            self.add(asked, since, Some(at), at);
        }
    }

    /// The end of the log, whose last record has the time `at`.
    pub(super) fn close_all(&mut self, at: &str) {
        for (asked, since) in std::mem::take(&mut self.open) {
            self.add(asked, since, None, at);
        }
    }

    fn add(&mut self, asked: AskedVoucher, since: String, until: Option<&str>, at: &str) {
        let time = UnvouchedTime {
            seconds: seconds(since.as_bytes(), at.as_bytes()).max(0.0),
            until: until.map(str::to_owned),
            asked,
            since,
        };
        let longer = |one: &UnvouchedTime| one.seconds >= time.seconds;
        let place = self.longest.partition_point(longer);
        self.longest.insert(place, time);
        self.longest.truncate(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> String {
        format!(
            "2026-11-24T{:02}:{:02}:00.000000Z",
            minute / 60,
            minute % 60
        )
    }

    fn witness(name: &str) -> AskedVoucher {
        AskedVoucher::Witness(Some(name.into()))
    }

    fn told(times: &UnvouchedTimes) -> Vec<(AskedVoucher, String, Option<String>)> {
        let longest = times.longest.iter().cloned();
        longest
            .map(|time| (time.asked, time.since, time.until))
            .collect()
    }

    #[test]
    fn a_time_ends_with_what_was_asked_for_and_not_with_what_another_gave() {
        let mut times = UnvouchedTimes::default();
        times.begin(AskedVoucher::Authority, &at(0));
        times.begin(witness("north"), &at(1));
        times.begin(AskedVoucher::Witness(None), &at(2));
        times.end(&witness("south"), &at(9));
        times.end(&AskedVoucher::Authority, &at(5));
        times.end(&AskedVoucher::Authority, &at(6));
        times.close_all(&at(60));
        assert_eq!(times.number, 3);
        assert_eq!(
            told(&times),
            [
                (witness("north"), at(1), None),
                (AskedVoucher::Witness(None), at(2), Some(at(9))),
                (AskedVoucher::Authority, at(0), Some(at(5))),
            ]
        );
    }

    #[test]
    fn a_restart_in_which_nobody_can_be_had_either_makes_no_other_time_of_it() {
        let mut times = UnvouchedTimes::default();
        times.begin(AskedVoucher::Authority, &at(0));
        times.begin(AskedVoucher::Authority, &at(30));
        times.end(&AskedVoucher::Authority, &at(40));
        times.close_all(&at(50));
        assert_eq!(times.number, 1);
        let whole = (AskedVoucher::Authority, at(0), Some(at(40)));
        assert_eq!(told(&times), [whole]);
    }

    #[test]
    fn of_many_times_the_longest_are_told_and_all_are_counted() {
        let mut times = UnvouchedTimes::default();
        for n in 0..1000 {
            let begin = n * 60 % 1380;
            times.begin(AskedVoucher::Authority, &at(begin));
            times.end(&AskedVoucher::Authority, &at(begin + n % 50));
        }
        assert_eq!(times.number, 1000);
        assert_eq!(times.longest.len(), LONGEST);
        assert!(times.longest.iter().all(|time| time.seconds == 2940.0));
        for n in 0..1000 {
            times.begin(witness(&n.to_string()), &at(0));
        }
        assert_eq!(times.number, 2000);
        assert_eq!(times.open.len(), MOST_OPEN);
    }
}
