//! For how long a decision answers the same question about the same peer again.

use super::findings::Findings;
use std::time::{Duration, SystemTime};

/// Longest time, whatever the decision rests on.
const MOST: Duration = Duration::from_secs(60);

/// The time in which a decision that lets mail pass may be given again. It begins before the first fact is looked up, and ends with
/// the first fact that ends, after a minute at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    from: SystemTime,
    span: Duration,
}

impl Validity {
    /// A minute from `now` on.
    #[must_use]
    pub fn beginning(now: SystemTime) -> Self {
        Self {
            from: now,
            span: MOST,
        }
    }

    /// When it begins.
    #[must_use]
    pub fn from(&self) -> SystemTime {
        self.from
    }

    /// No longer than all that was found about the domain is known. Over at once if something could not be found out: it is asked
    /// again for each recipient.
    #[must_use]
    pub fn while_known(self, findings: &Findings) -> Self {
        Self {
            span: self.span.min(findings.known_for()),
            ..self
        }
    }

    /// Not beyond `end`, if there is one.
    #[must_use]
    pub fn until(self, end: Option<SystemTime>) -> Self {
        let left = |end: SystemTime| end.duration_since(self.from).unwrap_or_default();
        Self {
            span: end.map_or(self.span, |end| self.span.min(left(end))),
            ..self
        }
    }

    /// Whether a decision may be given again at `now`, when a steady clock has counted `age` since the beginning. Both clocks
    /// count: the steady one may stand still while the machine sleeps, and a time of day that was set back shows no age at all.
    #[must_use]
    pub fn holds(&self, now: SystemTime, age: Duration) -> bool {
        let by_day = now.duration_since(self.from);
        age < self.span && by_day.is_ok_and(|age| age < self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        findings::{Dns, Missing, Mx, MxHost, Security, Sts},
        mta_sts::{Mode, Policy},
        reason::Reason,
    };

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The number of whole seconds for which it holds.
    fn holds_for(validity: Validity) -> u64 {
        let holds = |age: &u64| validity.holds(START + seconds(*age), seconds(*age));
        let first = (0..1000).find(|age| !holds(age)).expect("it ends");
        assert!((first..1000).all(|age| !holds(&age)), "it begins once");
        first
    }

    fn found(fresh_for: u64) -> Findings {
        let host = MxHost {
            name: "mx.clinic.example".into(),
            preference: 10,
            addresses: Dns::Found(Vec::new(), Security::Secure),
            missing: None,
            tlsa_base: "mx.clinic.example".into(),
            tlsa: Dns::Absent(Security::Secure),
        };
        Findings {
            mx: Dns::Found(Mx::Hosts(vec![host]), Security::Secure),
            sts: Sts::Absent,
            fresh_for: seconds(fresh_for),
            ..Findings::none()
        }
    }

    fn by_findings(findings: &Findings) -> u64 {
        holds_for(Validity::beginning(START).while_known(findings))
    }

    fn policy(max_age: u64, age: u64, refresh_failed: bool) -> Sts {
        Sts::Policy {
            policy: Policy {
                mode: Mode::Enforce,
                mx: vec!["mx.clinic.example".into()],
                max_age,
            },
            id: "1".into(),
            age,
            refresh_failed: refresh_failed.then(|| (Reason::StsPolicyFetchError, "404".into())),
        }
    }

    #[test]
    fn a_minute_is_the_most() {
        assert_eq!(holds_for(Validity::beginning(START)), 60);
        assert_eq!(by_findings(&Findings::none()), 60);
        assert_eq!(by_findings(&found(86_400)), 60);
        let far = Some(START + seconds(86_400));
        assert_eq!(holds_for(Validity::beginning(START).until(far)), 60);
    }

    #[test]
    fn the_first_end_counts_in_whatever_order_the_ends_are_known() {
        let at = |end| Some(START + seconds(end));
        let validity = Validity::beginning(START);
        assert_eq!(holds_for(validity.until(at(30)).until(None)), 30);
        assert_eq!(holds_for(validity.until(at(30)).until(at(40))), 30);
        assert_eq!(holds_for(validity.until(at(40)).until(at(30))), 30);
        let answers = found(20);
        assert_eq!(holds_for(validity.while_known(&answers).until(at(30))), 20);
        assert_eq!(holds_for(validity.until(at(10)).while_known(&answers)), 10);
    }

    #[test]
    fn what_has_ended_already_holds_for_no_recipient_more() {
        assert_eq!(holds_for(Validity::beginning(START).until(Some(START))), 0);
        let later = START + seconds(100);
        let validity = Validity::beginning(later).until(Some(START));
        assert!(!validity.holds(later, Duration::ZERO));
        assert_eq!(by_findings(&found(0)), 0);
    }

    #[test]
    fn both_clocks_count() {
        let now = START + seconds(1000);
        let validity = Validity::beginning(now);
        assert!(validity.holds(now + seconds(59), seconds(59)));
        assert!(
            !validity.holds(now + seconds(60), seconds(1)),
            "the machine slept"
        );
        assert!(
            !validity.holds(now - seconds(1), seconds(1)),
            "the time was set back"
        );
        assert!(!validity.holds(now + seconds(1), seconds(60)));
    }

    #[test]
    fn an_mta_sts_policy_counts_for_as_long_as_it_lives() {
        let with = |sts| by_findings(&Findings { sts, ..found(300) });
        assert_eq!(with(policy(604_800, 0, false)), 60);
        assert_eq!(with(policy(604_800, 604_790, false)), 10);
        assert_eq!(with(policy(604_800, 604_800, false)), 0);
    }

    #[test]
    fn what_could_not_be_found_out_is_asked_again_for_each_recipient() {
        let with_host = |change: &dyn Fn(&mut MxHost)| {
            let mut findings = found(300);
            if let Dns::Found(Mx::Hosts(hosts), _) = &mut findings.mx {
                let mut other = hosts[0].clone();
                change(&mut other);
                hosts.push(other);
            }
            findings
        };
        let with_sts = |sts| Findings { sts, ..found(300) };
        let missing = Missing {
            ipv6: true,
            reason: Reason::LookupFailed,
            why: "timeout".into(),
        };
        let mut failed = vec![
            with_sts(policy(604_800, 0, true)),
            with_sts(Sts::Unavailable(Reason::StsPolicyFetchError, "404".into())),
            with_host(&|host| host.missing = Some(missing.clone())),
        ];
        for mx in [Dns::Failed("timeout".into()), Dns::Bogus("expired".into())] {
            failed.push(Findings { mx, ..found(300) });
        }
        for bad in ["timeout", "SERVFAIL"] {
            failed.push(with_host(&|host| host.addresses = Dns::Failed(bad.into())));
            failed.push(with_host(&|host| host.addresses = Dns::Bogus(bad.into())));
            failed.push(with_host(&|host| host.tlsa = Dns::Failed(bad.into())));
            failed.push(with_host(&|host| host.tlsa = Dns::Bogus(bad.into())));
        }
        for findings in &failed {
            assert_eq!(by_findings(findings), 0, "{findings:?}");
        }
        let same = with_host(&|_| {});
        assert_eq!(by_findings(&same), 60);
    }
}
