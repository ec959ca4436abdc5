//! Has the peer proved what was demanded?

use super::{
    demand::{Demand, ReferenceIdentity},
    level::Level,
    reason::{Denial, Reason},
};

/// What the peer showed of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The server does not offer STARTTLS.
    NoStartTls,
    /// There is no TLS in this session, for this reason.
    NoTls(Reason, String),
    /// The handshake failed; the certificate was not judged.
    HandshakeFailed(String),
    /// TLS is up. One result for each of `Demand::alternatives`, in order: what matched, or what was wrong.
    Tls(Vec<Result<String, Denial>>),
}

/// The answer on one question.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Allowed: over TLS, with a peer that proved what was demanded. The text says what matched.
    Authorised(String),
    /// Allowed without that proof. The text says why.
    Unprotected(String),
    /// Not allowed. The text says why.
    Refused(Reason, String),
}

impl Demand {
    /// What a peer shows in a session of TLS `version` (`TLSv1.3`): the result of `check` for each alternative. The session may have
    /// been set up for an earlier recipient, and its version may be too old for this one.
    pub fn shown(
        &self,
        version: &str,
        mut check: impl FnMut(&ReferenceIdentity) -> Result<String, Denial>,
    ) -> Shown {
        let too_old = self.tls13_only && version != "TLSv1.3";
        let results = self.alternatives().map(|reference| {
            if too_old {
                let why = format!("the session has {version}, and TLSv1.3 is demanded");
                Err((Reason::ValidationFailure, why))
            } else {
                check(reference)
            }
        });
        Shown::Tls(results.collect())
    }
}

/// Compares what the peer showed with what was demanded. Pure: `--observe` is applied by [`super::Decision`].
///
/// An alternative that was not checked has failed.
pub fn judge(demand: &Demand, shown: &Shown) -> Verdict {
    if demand.level == Level::None {
        return Verdict::Unprotected("level none".into());
    }
    match (proof(demand, shown), demand.is_enforced()) {
        (Ok(proof), true) => Verdict::Authorised(proof),
        (Ok(proof), false) => Verdict::Unprotected(proof),
        (Err((reason, why)), true) => {
            let (reason, why) = blame(demand, reason, why);
            Verdict::Refused(reason, why)
        }
        (Err((reason, why)), false) => Verdict::Unprotected(format!("{}: {why}", reason.word())),
    }
}

/// What matched, or the first alternative's failure.
fn proof(demand: &Demand, shown: &Shown) -> Result<String, Denial> {
    let results = match shown {
        Shown::NoStartTls => {
            return Err((
                Reason::StarttlsNotSupported,
                "STARTTLS is not offered".into(),
            ));
        }
        Shown::NoTls(reason, why) => return Err((*reason, why.clone())),
        Shown::HandshakeFailed(why) => {
            return Err((
                Reason::ValidationFailure,
                format!("TLS handshake failed: {why}"),
            ));
        }
        Shown::Tls(results) => &results[..results.len().min(demand.references.len())],
    };
    if let Some(Ok(proof)) = results.iter().find(|result| result.is_ok()) {
        return Ok(proof.clone());
    }
    let failure = results.iter().find_map(|result| result.clone().err());
    Err(failure.unwrap_or_else(|| (Reason::ValidationFailure, "nothing was checked".into())))
}

/// A destination that is none of the domain's MX hosts, and whose certificate does not prove it to be one, is rarely a broken MX. It
/// is mostly a smart host that the table does not know, so the reason becomes [`Reason::NotAnMx`]. An expired certificate keeps its
/// reason, since that peer did show the name.
fn blame(demand: &Demand, reason: Reason, why: String) -> Denial {
    match reason {
        Reason::CertificateHostMismatch | Reason::CertificateNotTrusted | Reason::TlsaInvalid
            if demand.not_an_mx =>
        {
            (Reason::NotAnMx, format!("{}: {why}", reason.word()))
        }
        _ => (reason, why),
    }
}

/// Why MTA-STS would have refused the peer if its policy were enforced, for TLSRPT. `None`: there is no policy in testing mode, or the
/// peer satisfies it (RFC 8461 §5, RFC 8460 §4.4).
#[must_use]
pub(crate) fn testing_failure(demand: &Demand, shown: &Shown) -> Option<Denial> {
    demand.testing.as_ref()?;
    match shown {
        Shown::Tls(results) => results.get(demand.references.len())?.clone().err(),
        other => proof(demand, other).err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::demand::Basis;

    fn demand(level: Level, alternatives: usize) -> Demand {
        Demand {
            level,
            basis: Basis::Mx,
            sni: None,
            host: None,
            references: vec![ReferenceIdentity::Anyone; alternatives],
            tls13_only: false,
            testing: None,
            not_an_mx: false,
        }
    }

    fn bad(reason: Reason) -> Result<String, Denial> {
        Err((reason, "names other.example".into()))
    }

    #[test]
    fn one_alternative_that_matched_suffices() {
        let shown = Shown::Tls(vec![bad(Reason::TlsaInvalid), Ok("mx.example".into())]);
        assert_eq!(
            judge(&demand(Level::Verify, 2), &shown),
            Verdict::Authorised("mx.example".into())
        );
    }

    #[test]
    fn what_nobody_checked_has_failed() {
        for (alternatives, shown) in [(0, vec![]), (1, vec![]), (0, vec![Ok("mx".to_owned())])] {
            assert!(matches!(
                judge(&demand(Level::Verify, alternatives), &Shown::Tls(shown)),
                Verdict::Refused(Reason::ValidationFailure, _)
            ));
        }
    }

    #[test]
    fn the_testing_alternative_authorises_nobody() {
        let tested = Demand {
            testing: Some(ReferenceIdentity::Anyone),
            ..demand(Level::Verify, 1)
        };
        let shown = Shown::Tls(vec![bad(Reason::CertificateHostMismatch), Ok("mx".into())]);
        assert!(matches!(judge(&tested, &shown), Verdict::Refused(..)));
        assert_eq!(testing_failure(&tested, &shown), None);
        let shown = Shown::Tls(vec![Ok("mx".into()), bad(Reason::CertificateHostMismatch)]);
        assert!(matches!(judge(&tested, &shown), Verdict::Authorised(_)));
        assert!(testing_failure(&tested, &shown).is_some());
        assert!(testing_failure(&tested, &Shown::NoStartTls).is_some());
    }

    #[test]
    fn a_session_of_an_older_version_does_not_do_where_tls_1_3_is_demanded() {
        let strict = Demand {
            tls13_only: true,
            ..demand(Level::Verify, 1)
        };
        let judged = |version| judge(&strict, &strict.shown(version, |_| Ok("mx".into())));
        assert!(matches!(judged("TLSv1.3"), Verdict::Authorised(_)));
        for version in ["TLSv1.2", "unknown", ""] {
            assert!(matches!(judged(version), Verdict::Refused(..)));
        }
        let lax = demand(Level::Verify, 1);
        let shown = lax.shown("TLSv1.2", |_| Ok("mx".into()));
        assert!(matches!(judge(&lax, &shown), Verdict::Authorised(_)));
    }

    #[test]
    fn none_and_may_are_unprotected_whatever_was_shown() {
        for shown in [
            Shown::NoStartTls,
            Shown::HandshakeFailed("reset".into()),
            Shown::Tls(vec![Ok("TLS".into())]),
        ] {
            for level in [Level::None, Level::May] {
                assert!(matches!(
                    judge(&demand(level, 1), &shown),
                    Verdict::Unprotected(_)
                ));
            }
        }
    }

    #[test]
    fn without_tls_nothing_that_is_enforced_is_authorised() {
        for level in [
            Level::Encrypt,
            Level::Verify,
            Level::DaneOnly,
            Level::MtaSts,
        ] {
            for (shown, reason) in [
                (Shown::NoStartTls, Reason::StarttlsNotSupported),
                (
                    Shown::HandshakeFailed("reset".into()),
                    Reason::ValidationFailure,
                ),
            ] {
                assert!(
                    matches!(judge(&demand(level, 1), &shown), Verdict::Refused(got, _) if got == reason)
                );
            }
        }
    }

    #[test]
    fn a_stranger_among_the_mx_hosts_is_called_one() {
        let stranger = Demand {
            not_an_mx: true,
            ..demand(Level::Verify, 1)
        };
        let judged = |reason| judge(&stranger, &Shown::Tls(vec![bad(reason)]));
        assert!(matches!(
            judged(Reason::CertificateHostMismatch),
            Verdict::Refused(Reason::NotAnMx, _)
        ));
        assert!(matches!(
            judged(Reason::CertificateExpired),
            Verdict::Refused(Reason::CertificateExpired, _)
        ));
    }
}
