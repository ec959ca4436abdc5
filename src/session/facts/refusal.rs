//! Refusals of this proxy that are no verdicts.

use std::fmt;

use super::{Fact, Printable, RepeatKey, Writing, quoted};
use crate::{
    audit::{self, AuditLog, Record},
    metrics::{self, Metrics, RefusedMail},
    session::memory::Remembered,
    smtp::Refusal,
};

/// A refusal of this proxy that is no verdict. Refusals by verdict ([`Cause::Verdict`](crate::smtp::Cause::Verdict)) are written as a
/// [`VerdictFact`] only.
pub(crate) struct RefusalFact<'a> {
    /// The reply to the client.
    pub(crate) refusal: &'a Refusal,
    /// The domain of the mail, if it is known.
    pub(crate) domain: Option<&'a str>,
}

impl Fact for RefusalFact<'_> {
    fn repeat_key(&self) -> Option<RepeatKey> {
        Some(RepeatKey::Refusal {
            domain: self.domain.map(str::to_owned),
            cause: self.refusal.cause,
            code: self.refusal.code,
        })
    }
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::REFUSALS, self.refusal.cause.word());
    }
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Warn)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("verdict=refused")?;
        if let Some(domain) = self.domain {
            write!(out, " domain={}", Printable(domain))?;
        }
        let reason = self.refusal.cause.word();
        write!(out, " reason={reason} reply={}", quoted(self.refusal))
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::Refusal(Box::new(audit::RefusalRecord {
            session,
            domain: self.domain.map(str::to_owned),
            level: None,
            reason: self.refusal.cause.word().to_owned(),
            remembered: false,
            reply: Some(self.refusal.to_string().as_str().into()),
            detail: None,
        })))
    }
    fn refused(&self) -> Option<RefusedMail> {
        Some(RefusedMail {
            reason: self.refusal.cause.word().into(),
            domain: self.domain.map(str::to_owned),
            text: self.refusal.to_string(),
            observed: false,
        })
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// A session is refused at its greeting for a fault that another session met a short while ago.
pub(crate) struct RepeatedRefusalFact<'a> {
    /// That fault.
    pub(crate) first: &'a Remembered,
    /// The reply to the client.
    pub(crate) refusal: &'a Refusal,
}

impl Fact for RepeatedRefusalFact<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::REFUSALS, self.first.reason);
    }
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Warn)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "domain={} verdict=refused reason={} level={} remembered=yes reply={}",
            Printable(self.first.domain.as_deref().unwrap_or("-")),
            self.first.reason,
            self.first.level.as_deref().unwrap_or("-"),
            quoted(self.refusal),
        )
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::Refusal(Box::new(audit::RefusalRecord {
            session,
            domain: self.first.domain.clone(),
            level: self.first.level.clone(),
            reason: self.first.reason.to_owned(),
            remembered: true,
            reply: Some(self.refusal.to_string().as_str().into()),
            detail: None,
        })))
    }
    fn refused(&self) -> Option<RefusedMail> {
        Some(RefusedMail {
            reason: self.first.reason.into(),
            domain: self.first.domain.clone(),
            text: self.refusal.to_string(),
            observed: false,
        })
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}
