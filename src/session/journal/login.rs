//! The proxy's own login to the server, in the journal.

use super::{super::facts::LoginFact, Journal};

impl Journal {
    /// The server has accepted the proxy's own login.
    pub(super) fn logged_in(&mut self, user: String, mechanism: &'static str) {
        let audit = self.common.audit.as_ref();
        let shown = audit.map(|audit| audit.address(user.as_bytes()));
        let words = shown.as_ref().map_or(user.as_str(), |shown| shown.as_str());
        self.tell(&LoginFact {
            user: words,
            mechanism,
        });
        self.session.user = Some(user.into());
    }
}
