//! Proofs: values that a machine demands before it goes on, and that nothing but the function named here can make.
//!
//! Their fields are private to this file, so that not even the machines can make one. `tests/layering.rs` names the files of
//! the session that may call these functions.

/// Proof that policy authorised the peer for what was asked. Made from a verdict of the policy.
#[derive(Debug, PartialEq, Eq)]
pub struct Authorised {
    authenticated: bool,
}

/// Proof that an entry of the administrator allows mail to go on without an authenticated peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Exempted(());

/// Proof that a message's evidence is durable (or that no audit log is kept).
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded(());

impl Authorised {
    /// States that the peer was judged under a level that authenticates it, and is authorised.
    #[must_use]
    pub fn assertion() -> Self {
        Self {
            authenticated: true,
        }
    }

    /// States that the link is encrypted and that policy demands no more of the peer (level `encrypt`, or an inbound client
    /// that need not prove anything).
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self {
            authenticated: false,
        }
    }

    /// Whether the peer proved who it is. Only the words of such a peer inside TLS may decide more than the command they answer.
    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated
    }
}

impl Exempted {
    /// States that an entry allows it.
    #[must_use]
    pub fn assertion() -> Self {
        Self(())
    }
}

impl Recorded {
    /// States that the record is durable.
    #[must_use]
    pub fn assertion() -> Self {
        Self(())
    }
}
