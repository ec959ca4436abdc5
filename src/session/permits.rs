//! The answers to a machine's questions that let it go on. The proofs in them are made here and nowhere else.

use super::journal::Written;
use crate::{
    policy::{Decision, Level, Verdict},
    smtp::{Answer, Authorised, Exempted, Refusal},
};

/// What a decision lets pass, for as long as a session may give it again. It proves nothing by itself: each answer needs a new
/// proof that the journal has counted the decision. Made here only.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastingPermit {
    passes: Passes,
}

/// How a decision lets mail pass.
#[derive(Clone, Copy, Debug)]
enum Passes {
    Authenticated,
    Encrypted,
    Exempted,
}

impl Passes {
    fn by(decision: &Decision) -> Result<Self, &Refusal> {
        if let Some(refusal) = decision.refused() {
            return Err(refusal);
        }
        let demand = decision.demand.as_ref();
        let authenticates = demand.is_some_and(|demand| demand.level > Level::Encrypt);
        Ok(match decision.verdict {
            Verdict::Authorised(_) if authenticates => Self::Authenticated,
            Verdict::Authorised(_) => Self::Encrypted,
            Verdict::Unprotected(_) | Verdict::Refused(..) => Self::Exempted,
        })
    }

    fn answer(self) -> Answer {
        match self {
            Self::Authenticated => Answer::Authorised(Authorised::assertion()),
            Self::Encrypted => Answer::Authorised(Authorised::unauthenticated()),
            Self::Exempted => Answer::Exempted(Exempted::assertion()),
        }
    }
}

/// The answer that a decision gives, once it is written down.
pub(super) fn by_decision(decision: &Decision, _: Written) -> Answer {
    match Passes::by(decision) {
        Ok(passes) => passes.answer(),
        Err(refusal) => Answer::Refused(refusal.clone()),
    }
}

/// What a decision lets pass. `None`: it refuses, if only in observe mode. A refusal is not given again without asking again.
pub(super) fn lasting(decision: &Decision) -> Option<LastingPermit> {
    let passes = Passes::by(decision).ok()?;
    decision
        .refusal
        .is_none()
        .then_some(LastingPermit { passes })
}

/// The answer that a decision gives again, once that is counted.
pub(super) fn again(permit: LastingPermit, _: Written) -> Answer {
    permit.passes.answer()
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
