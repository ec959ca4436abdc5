//! `check --upstream`: what mail would get at the smart host, and whether the proxy's login is accepted there.

use serde_json::{Value, json};

use super::{
    page::{BOLD, CheckPage, GREEN, RED, address_json},
    probe::{CheckedAddress, Checker},
};
use crate::session::setup::Upstream;

/// A smart host and what mail would get there.
pub struct CheckedUpstream {
    /// Host and port.
    name: String,
    /// As whom the proxy logs in.
    user: Option<String>,
    checked: CheckedAddress,
}

impl CheckedUpstream {
    /// Holds the session that mail would have, up to MAIL.
    pub async fn new(upstream: &Upstream, checker: &Checker) -> Self {
        Self {
            name: format!("{}:{}", upstream.host, upstream.port),
            user: checker.login.as_ref().map(|login| login.user().to_owned()),
            checked: checker.ask_upstream(upstream).await,
        }
    }

    /// The smart host would get no mail.
    #[must_use]
    pub fn refused(&self) -> bool {
        !self.checked.passes
    }

    /// The page for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "upstream": self.name,
            "refused": self.refused(),
            "login": self.user.as_ref().map(|user| json!({
                "user": user,
                "accepted": self.checked.login.is_some(),
                "mechanism": self.checked.login,
            })),
            "address": address_json(&self.checked),
        })
    }

    /// For people, with terminal colours if `colour`.
    #[must_use]
    pub fn page(&self, colour: bool) -> String {
        let mut page = CheckPage::new(colour);
        let name = page.paint(BOLD, &self.name);
        page.put(&name);
        page.put(&format!("    {}", self.checked.address));
        page.address(&self.checked);
        if let Some(user) = &self.user {
            let words = match self.checked.login {
                Some(mechanism) => format!("accepted as {user}, by {mechanism}"),
                None => format!("not accepted as {user}"),
            };
            page.detail("login", &words);
        }
        page.verdict(&self.checked);
        let outcome = match self.refused() {
            false => page.paint(GREEN, "mail passes"),
            true => page.paint(RED, "mail is refused"),
        };
        page.put(&format!("\n  {outcome}\n"));
        page.text
    }
}
