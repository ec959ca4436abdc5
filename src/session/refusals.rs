//! Refusals that both directions give for themselves.

use crate::smtp::{Cause, Refusal};

/// 421: the server cannot be reached.
pub(super) fn unreachable(text: String) -> Refusal {
    Refusal {
        code: 421,
        enhanced: (4, 1),
        text,
        cause: Cause::ServerUnreachable,
    }
}

/// 421: this proxy cannot go on.
pub(super) fn local_fault(text: impl Into<String>) -> Refusal {
    Refusal {
        code: 421,
        enhanced: (3, 0),
        text: text.into(),
        cause: Cause::LocalFault,
    }
}
