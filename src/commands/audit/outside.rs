//! What others said of the log, in words: time-stamps, signatures of witnesses, and times without any.

use super::quantity::grouped;
use crate::{
    audit::{
        Expectations, Hash, LONGEST_UNVOUCHED, OpenError, OutsideAnchors, StampFacts,
        UnvouchedTime, Verification, WitnessPolicy, timestamp,
    },
    tls::{StampFault, StampToken, anchors_in},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Reads and judges a time-stamp, for verification.
fn read_stamp(token: &[u8], authorities: &[Vec<u8>]) -> Option<StampFacts> {
    let stamp = StampToken::read(token)?;
    let proved = match (stamp.check_signature(), authorities) {
        (Err(StampFault::Wrong(_)), _) => return None,
        (Err(StampFault::Unknown(why)), _) => Err(why),
        (Ok(()), []) => Err("--tsa-ca was not given".into()),
        (Ok(()), _) => stamp.proved_by(authorities),
    };
    Some(StampFacts {
        imprint: Hash(stamp.imprint),
        at: stamp.at(),
        proved,
    })
}

/// Adds what others said of the log to what it is compared with: certificate authorities of time-stamps, and a policy with witnesses.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub(super) fn expect(
    expected: Expectations,
    tsa_ca: &[PathBuf],
    witness: Option<&Path>,
) -> Result<Expectations, OpenError> {
    let authorities: Result<Vec<_>, String> = tsa_ca.iter().map(|file| anchors_in(file)).collect();
    Ok(Expectations {
        read_stamp: Some(read_stamp),
        stampers: authorities.map_err(OpenError::Wrong)?.concat(),
        witnesses: witness.map(WitnessPolicy::read).transpose()?,
        ..expected
    })
}

/// What others said of a log, as names and values. Nothing where nobody was asked.
pub(super) fn describe(verification: &Verification) -> Vec<(&'static str, String)> {
    let outside = &verification.outside;
    let mut facts = Vec::new();
    if outside.stamps > 0 {
        facts.push(("time-stamps", stamps(outside)));
    }
    if outside.cosignatures > 0 {
        facts.push(("witnesses", witnesses(outside)));
    }
    if let Some(newest) = newest(verification) {
        facts.push(("vouched for", newest));
    }
    if outside.unvouched.number > 0 {
        facts.push(("unvouched", unvouched(outside)));
    }
    facts
}

/// When nobody could be had who vouches: the longest times, the longest first.
fn unvouched(outside: &OutsideAnchors) -> String {
    let times = &outside.unvouched;
    let told: Vec<_> = times.longest.iter().map(in_words_of_time).collect();
    let number = grouped(times.number);
    let more = match times.number.saturating_sub(told.len() as u64) {
        0 => String::new(),
        more => format!("; and {} more, which were shorter", grouped(more)),
    };
    format!(
        "{number} time(s) nobody could be had who vouches for new checkpoints: {}{more}",
        told.join("; ")
    )
}

fn in_words_of_time(time: &UnvouchedTime) -> String {
    let since = to_the_second(&time.since);
    let long = in_words(Duration::try_from_secs_f64(time.seconds).unwrap_or_default());
    let until = match &time.until {
        Some(until) => format!("from {since} to {} ({long})", to_the_second(until)),
        None => format!("from {since} on, to the end ({long})"),
    };
    format!("no {} {until}", time.asked)
}

/// A time of a record without the fraction of its second.
fn to_the_second(at: &str) -> String {
    at.get(..19)
        .map_or_else(|| at.to_owned(), |at| format!("{at}Z"))
}

fn stamps(outside: &OutsideAnchors) -> String {
    let number = grouped(outside.stamps);
    match (&outside.unproved, outside.proved) {
        (None, _) => format!("{number}, all by authorities that --tsa-ca names"),
        (Some(why), 0) => {
            let check = outside.newest.as_ref().map_or_else(String::new, |newest| {
                let size = newest.size;
                format!("; docs/evidence.md has the commands that check one with openssl, such as that of checkpoint {size}")
            });
            format!("{number}, their times are not proved: {why}{check}")
        }
        (Some(why), proved) => format!(
            "{number}, {} of them proved, others not: {why}",
            grouped(proved)
        ),
    }
}

fn witnesses(outside: &OutsideAnchors) -> String {
    let number = grouped(outside.cosignatures);
    match (outside.checked, outside.witnessed) {
        (0, _) => format!("{number} signatures, not checked: --witness names none of their keys"),
        (checked, witnessed) => format!(
            "{number} signatures, {} of them checked; {} checkpoints have as many as --witness asks for",
            grouped(checked),
            grouped(witnessed)
        ),
    }
}

/// How old the newest anchor is that others gave, with a warning where it is too old.
fn newest(verification: &Verification) -> Option<String> {
    let newest = verification.outside.newest.as_ref()?;
    let (_, last) = verification.span.as_ref()?;
    let age = verification.outside.age(last)?;
    let behind = verification.good.saturating_sub(newest.size);
    let warning = match age > LONGEST_UNVOUCHED {
        true => "WARNING: more than a day. ",
        false => "",
    };
    let proved = match verification.outside.is_proved {
        false => " (not proved)",
        true => "",
    };
    Some(format!(
        "{warning}until {}{proved}, {} before the last record, by {}; {} records came after it",
        timestamp(newest.at),
        in_words(age),
        newest.by,
        grouped(behind)
    ))
}

/// A duration for people, in its two largest units.
fn in_words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::OutsideAnchor;
    use std::time::UNIX_EPOCH;

    #[test]
    fn an_anchor_older_than_a_day_is_a_warning() {
        let stamped = |at: u64, last: &str| {
            let outside = OutsideAnchors {
                stamps: 1,
                proved: 1,
                is_proved: true,
                newest: Some(OutsideAnchor {
                    size: 40,
                    at: UNIX_EPOCH + Duration::from_secs(at),
                    by: "http://tsa.example/".into(),
                }),
                ..OutsideAnchors::default()
            };
            newest(&Verification {
                outside,
                good: 100,
                span: Some((String::new(), last.into())),
                ..Verification::default()
            })
            .expect("there is one")
        };
        let text = stamped(0, "1970-01-02T00:00:00.000000Z");
        assert_eq!(
            text,
            "until 1970-01-01T00:00:00.000000Z, 1 d 0 h before the last record, by http://tsa.example/; 60 records came after it"
        );
        let text = stamped(0, "1970-01-02T01:02:03.000000Z");
        assert!(
            text.starts_with("WARNING: more than a day. until"),
            "{text}"
        );
        let text = stamped(0, "1970-01-01T05:07:00.000000Z");
        assert!(text.contains(", 5 h 7 min before"), "{text}");
        // The authority's clock may be ahead.
        let text = stamped(9, "1970-01-01T00:00:00.000000Z");
        assert!(text.contains(", 0 min before"), "{text}");
    }
}
