//! The one map from reasons to replies, and the words of a refusal.

use super::{Ask, Demand, Findings, Moment, Reason, Settings};
use crate::smtp::Refusal;

/// Whom a reason blames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The host at the destination address: the session ends, so that the MTA goes to the next one.
    Host,
    /// This recipient's domain, or what is known about it.
    Recipient,
}

impl Reason {
    /// The TLSRPT result type (RFC 8460 §4.3); `None` where it is not reportable.
    #[must_use]
    pub fn tlsrpt(self) -> Option<&'static str> {
        todo!()
    }
    /// Whom it blames.
    #[must_use]
    pub fn scope(self) -> Scope {
        todo!()
    }
}

/// The reply for a verdict that is `Refused(reason, text)`.
#[must_use]
pub fn refusal(
    _ask: &Ask,
    _findings: Option<&Findings>,
    _demand: Option<&Demand>,
    _reason: Reason,
    _text: &str,
    _moment: Moment,
    _settings: &Settings,
) -> Refusal {
    todo!()
}
