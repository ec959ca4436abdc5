//! Extensions that the client uses because it was shown them, and that the judged server lacks.
//!
//! The client is shown its offer before anybody is judged, so this can happen with an honest server.

use super::{
    Relay,
    state::{Auth, Link},
};
use crate::smtp::{
    extensions::{Extensions, Keyword},
    machine::Note,
    path::Sender,
    refusal::{Cause, Refusal},
};

impl Relay {
    /// Whether this MAIL is refused because its AUTH parameter would cross the outside link in the clear, or because the client was
    /// refused AUTH for that. A server that wants AUTH would answer 530 without it, and the client would give up (RFC 4954 §6).
    pub(super) fn lacks_auth(&self, sender: &Sender) -> bool {
        self.auth == Auth::RefusedInTheClear
            || (self.is_clear() && sender.used.contains(&Keyword::Auth))
    }

    pub(super) fn auth_needs_tls(&self, code: u16) -> Refusal {
        let why = "AUTH needs TLS, and this session has begun without";
        self.about_server(code, (7, 0), why)
            .because(Cause::StarttlsRequired)
    }

    /// What the judged server offers inside TLS; `None`: nothing is checked.
    fn judged_offer(&self) -> Option<&Extensions> {
        match &self.link {
            Link::Open { judged, .. } => judged.as_ref(),
            Link::Shut => None,
        }
    }

    /// Why the pending recipient cannot be handed over: its transaction uses what the server lacks. `dsn`: its RCPT uses DSN.
    pub(super) fn lacking(&mut self, dsn: bool, authenticated: bool) -> Option<Refusal> {
        let offered = self.judged_offer()?;
        let used = self.transaction.as_ref()?.sender.used.iter().copied();
        let missing: Vec<Keyword> = used
            .chain(dsn.then_some(Keyword::Dsn))
            .filter(|keyword| !offered.has(*keyword))
            .collect();
        let first = *missing.first()?;
        if missing.contains(&Keyword::SmtpUtf8) {
            // No retry can succeed without SMTPUTF8, so the next sessions need not learn anything.
            return Some(self.missing(Keyword::SmtpUtf8, authenticated));
        }
        // All missing extensions are told at once, so that one retry is enough.
        for keyword in missing {
            self.tell_missing(keyword, authenticated);
        }
        Some(self.missing(first, authenticated))
    }

    /// Whether BDAT can be handed over.
    pub(super) fn takes_chunks(&self) -> bool {
        self.judged_offer()
            .is_none_or(|offered| offered.has(Keyword::Chunking))
    }

    /// Why BDAT cannot be handed over.
    pub(super) fn lacks_chunking(&mut self) -> Option<Refusal> {
        if self.takes_chunks() {
            return None;
        }
        let authenticated = self.transaction.as_ref().is_some_and(|t| t.authenticated);
        self.tell_missing(Keyword::Chunking, authenticated);
        Some(self.missing(Keyword::Chunking, authenticated))
    }

    /// Notes what an authenticated server lacks, so that this client is not shown it in its next sessions and does not use it.
    /// Never called for SMTPUTF8: a client that is not shown it bounces mail, which may be for another domain.
    fn tell_missing(&mut self, missing: Keyword, authenticated: bool) {
        if authenticated && !self.told_missing.contains(&missing) {
            self.told_missing.push(missing);
            self.note(Note::MissingExtension(missing));
        }
    }

    /// The refusal for a missing extension. It is final only if an authenticated server lacks SMTPUTF8: then every retry
    /// would fail.
    fn missing(&self, missing: Keyword, authenticated: bool) -> Refusal {
        let refusal = if missing == Keyword::SmtpUtf8 && authenticated {
            let text = "does not offer SMTPUTF8 (RFC 6531), which this message needs";
            self.about_server(553, (6, 7), text)
        } else {
            let name = missing.name();
            let text = format!("does not offer {name} over TLS, and this message uses it");
            self.about_server(451, (3, 3), &text)
        };
        refusal.because(Cause::ExtensionMissing)
    }
}
