//! Hands the OCSP response that a server stapled (RFC 6066 §8) from the verifier, which all connections share, to its connection.
//!
//! rustls shows a staple to the verifier alone. It calls the verifier while it processes records, in the thread that has asked for that.
//! So a response that was handed over during one such step belongs to the connection of that step.

use std::{cell::RefCell, sync::Arc};

thread_local! {
    /// The response that was handed over during the step that this thread does now.
    static STAPLE: RefCell<Option<Arc<[u8]>>> = const { RefCell::new(None) };
}

/// The verifier was shown this response; empty if the server stapled none.
pub(super) fn hand_over(response: &[u8]) {
    STAPLE.with_borrow_mut(|staple| *staple = (!response.is_empty()).then(|| response.into()));
}

/// Does one step of a connection, and returns the response that was handed over in it.
pub(super) fn during<T>(step: impl FnOnce() -> T) -> (T, Option<Arc<[u8]>>) {
    // A step that panicked may have left one.
    STAPLE.take();
    let outcome = step();
    (outcome, STAPLE.take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_belongs_to_the_step_in_which_it_was_handed_over_and_to_no_other() {
        let panicked = std::panic::catch_unwind(|| {
            during(|| {
                hand_over(b"of one that panicked");
                panic!("on purpose");
            })
        });
        assert!(panicked.is_err());
        assert_eq!(during(|| 1), (1, None));
        let (_, own) = during(|| hand_over(b"own"));
        assert_eq!(own.as_deref(), Some(&b"own"[..]));
        assert_eq!(during(|| ()).1, None);
        assert_eq!(during(|| hand_over(b"")).1, None);
    }
}
