//! The answers to a machine's questions that let it go on. The proofs in them are made here and nowhere else.

use super::journal::Written;
use crate::{
    policy::{Decision, Level, Verdict},
    smtp::{Answer, Authorised, Exempted},
};

/// The answer that a decision gives, once it is written down.
pub(super) fn by_decision(decision: &Decision, _: Written) -> Answer {
    if let Some(refusal) = decision.refused() {
        return Answer::Refused(refusal.clone());
    }
    let demand = decision.demand.as_ref();
    let authenticates = demand.is_some_and(|demand| demand.level > Level::Encrypt);
    match decision.verdict {
        Verdict::Authorised(_) if authenticates => Answer::Authorised(Authorised::assertion()),
        Verdict::Authorised(_) => Answer::Authorised(Authorised::unauthenticated()),
        Verdict::Unprotected(_) | Verdict::Refused(..) => Answer::Exempted(Exempted::assertion()),
    }
}

/// Inbound: a rule of the administrator lets this client send in the clear, and that is written down.
pub(super) fn in_the_clear(_: Written) -> Answer {
    Answer::Exempted(Exempted::assertion())
}

/// Inbound: nothing is demanded of the client but TLS, which is up, or which the sender's own answer has settled.
pub(super) fn nothing_demanded() -> Answer {
    Answer::Authorised(Authorised::unauthenticated())
}

/// Outbound: TLS must come up before the question can be answered. `or_plaintext`: if it cannot be had, mail goes on in the clear.
pub(super) fn after_tls(or_plaintext: bool) -> Answer {
    Answer::Upgrade {
        or_plaintext: or_plaintext.then(Exempted::assertion),
    }
}
