//! The proxy's own login to its smart host.

use std::fmt;

use super::{Fact, Printable, Writing};

/// The server has accepted the proxy's login. The record of each message names the user.
pub(crate) struct LoginFact<'a> {
    /// As whom, in the form in which the audit log keeps addresses.
    pub(crate) user: &'a str,
    /// The SASL mechanism.
    pub(crate) mechanism: &'static str,
}

impl Fact for LoginFact<'_> {
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Info)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = Printable(self.user);
        write!(
            out,
            "login=accepted user={user} mechanism={}",
            self.mechanism
        )
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}
