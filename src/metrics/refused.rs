//! The last refusals, for people who look. Their number and their octets are bounded, because strangers cause them.

use std::{
    borrow::Cow,
    collections::VecDeque,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// Refusals that are remembered. One that repeats is one row.
pub(super) const ROWS: usize = 40;
/// Most octets of a text.
pub(super) const TEXT: usize = 512;

/// A refusal, as it is remembered.
#[derive(Clone, Debug)]
pub struct RefusedMail {
    /// Why, in the one word of log and counters.
    pub reason: Cow<'static, str>,
    /// The domain of the mail, if it is known.
    pub domain: Option<String>,
    /// The reply, or what happened where there was none. With addresses in the form that records have.
    pub text: String,
    /// Nothing was refused (`--observe`); this is what enforcing would have said.
    pub observed: bool,
}

/// A row of the last refusals.
#[derive(Clone, Debug)]
pub struct RefusedRow {
    /// The last one of its kind.
    pub refused: RefusedMail,
    /// Who was refused.
    pub client: IpAddr,
    /// When.
    pub last: SystemTime,
    /// How often, since the first of its kind that is remembered.
    pub times: u64,
}

/// The last refusals, oldest first.
#[derive(Debug, Default)]
pub struct LastRefusals(Mutex<VecDeque<RefusedRow>>);

impl LastRefusals {
    /// Remembers a refusal. Of the same reason, domain and client, only the last is kept, with how many there were.
    pub(crate) fn remember(&self, mut refused: RefusedMail, client: IpAddr, now: SystemTime) {
        shorten(&mut refused.text);
        refused.domain.as_mut().into_iter().for_each(shorten);
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |row: &RefusedRow| {
            row.client == client
                && row.refused.reason == refused.reason
                && row.refused.domain == refused.domain
                && row.refused.observed == refused.observed
        };
        let known = rows.iter().position(same).and_then(|at| rows.remove(at));
        let times = known.map_or(0, |row| row.times) + 1;
        if rows.len() >= ROWS {
            make_room(&mut rows);
        }
        rows.push_back(RefusedRow {
            refused,
            client,
            last: now,
            times,
        });
    }

    /// All of them, the last first.
    #[must_use]
    pub fn rows(&self) -> Vec<RefusedRow> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().rev().cloned().collect()
    }
}

/// Forgets the oldest row of the client that has the most, so that one stranger cannot push everybody else's out.
fn make_room(rows: &mut VecDeque<RefusedRow>) {
    let of = |client: IpAddr| rows.iter().filter(|row| row.client == client).count();
    let most = rows.iter().map(|row| of(row.client)).max();
    let oldest = rows.iter().position(|row| Some(of(row.client)) == most);
    if let Some(oldest) = oldest {
        rows.remove(oldest);
    }
}

pub(super) fn shorten(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT - 3));
        text.push_str("...");
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn refused(reason: &'static str, domain: &str) -> RefusedMail {
        RefusedMail {
            reason: reason.into(),
            domain: Some(domain.to_owned()),
            text: format!("421 4.7.5 {domain}"),
            observed: false,
        }
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_refusal_that_repeats_is_one_row_with_its_number_and_stands_first() {
        let (last, now) = (LastRefusals::default(), clock::wall());
        for _ in 0..3 {
            last.remember(refused("certificate-expired", "a.example"), ip(1), now);
            last.remember(refused("certificate-expired", "b.example"), ip(1), now);
        }
        last.remember(refused("null-mx", "a.example"), ip(1), now);
        last.remember(refused("certificate-expired", "a.example"), ip(1), now);
        let rows = last.rows();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    &*row.refused.reason,
                    row.refused.domain.as_deref(),
                    row.times,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("certificate-expired", Some("a.example"), 4),
                ("null-mx", Some("a.example"), 1),
                ("certificate-expired", Some("b.example"), 3),
            ]
        );
    }

    #[test]
    fn rows_and_octets_are_bounded_and_one_client_pushes_only_its_own_rows_out() {
        let (last, now) = (LastRefusals::default(), clock::wall());
        last.remember(refused("null-mx", "kept.example"), ip(1), now);
        for n in 0..1000 {
            let long = RefusedMail {
                text: "ä".repeat(100_000),
                ..refused("no-policy", &format!("{n}.{}", "x".repeat(100_000)))
            };
            last.remember(long, ip(2), now);
        }
        let rows = last.rows();
        assert_eq!(rows.len(), ROWS);
        assert!(rows.iter().any(|row| row.client == ip(1)));
        let octets = |row: &RefusedRow| {
            row.refused.text.capacity() + row.refused.domain.as_ref().map_or(0, String::capacity)
        };
        assert!(rows.iter().map(octets).sum::<usize>() <= ROWS * 2 * TEXT);
    }
}
