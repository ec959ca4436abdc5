//! One decision as one object, for the log, `check`, the reply and the record.

use super::{
    ask::Ask,
    demand::Demand,
    findings::Findings,
    judge::Verdict,
    refusal::{Moment, refusal},
    settings::Settings,
};
use crate::smtp::Refusal;
use std::{sync::Arc, time::SystemTime};

/// One decision as a whole: what was asked, found and demanded, and the verdict.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What was asked.
    pub ask: Ask,
    /// What was found.
    pub findings: Option<Arc<Findings>>,
    /// What was demanded; `None` where no peer could have satisfied any demand.
    pub demand: Option<Demand>,
    /// The verdict on what the peer showed.
    pub verdict: Verdict,
    /// The reply, if the verdict is a refusal.
    pub refusal: Option<Refusal>,
    /// `--observe`: the decision is made and recorded as without it, but mail flows.
    pub observed: bool,
    /// When the decision was made.
    pub at: SystemTime,
}

impl Decision {
    /// Puts the decision together, and words the reply if it is a refusal.
    #[must_use]
    pub fn new(
        ask: Ask,
        findings: Option<Arc<Findings>>,
        demand: Option<Demand>,
        verdict: Verdict,
        moment: Moment,
        settings: &Settings,
        at: SystemTime,
    ) -> Self {
        let refusal = match &verdict {
            Verdict::Refused(reason, text) => Some(refusal(
                &ask,
                findings.as_deref(),
                demand.as_ref(),
                *reason,
                text,
                moment,
                settings,
            )),
            Verdict::Authorised(_) | Verdict::Unprotected(_) => None,
        };
        Self {
            ask,
            findings,
            demand,
            verdict,
            refusal,
            observed: settings.observe,
            at,
        }
    }

    /// The refusal that must be given; `None` where mail may flow (also with `--observe`).
    #[must_use]
    pub(crate) fn refused(&self) -> Option<&Refusal> {
        self.refusal.as_ref().filter(|_| !self.observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{ask::NextHop, reason::Reason},
        smtp::{Domain, Recipient},
    };

    #[test]
    fn observing_decides_the_same_and_lets_mail_flow() {
        let decide = |observe| {
            let domain = Domain::parse("clinic.example").expect("domain");
            Decision::new(
                Ask {
                    next_hop: NextHop::Recipient(Recipient::Domain(domain)),
                    server: "203.0.113.9".parse().expect("address"),
                    port: 25,
                },
                None,
                None,
                Verdict::Refused(Reason::CertificateHostMismatch, "names a.example".into()),
                Moment::FirstRecipient,
                &Settings {
                    observe,
                    ..Settings::default()
                },
                SystemTime::UNIX_EPOCH,
            )
        };
        let (enforced, observed) = (decide(false), decide(true));
        assert_eq!(enforced.refusal, observed.refusal);
        assert!(enforced.refused().is_some() && observed.refused().is_none());
        assert_eq!(enforced.verdict, observed.verdict);
    }
}
