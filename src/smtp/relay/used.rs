//! What a client uses because it was shown, and the judged server lacks: it was shown before anybody was judged.

use super::{Link, Relay, Role};
use crate::smtp::{Cause, Note, Refusal, command::refusal, extensions::Keyword, path::Sender};

impl Relay {
    /// The session goes on in the clear, because an entry lets it.
    pub(super) fn is_clear(&self) -> bool {
        matches!(self.role, Role::Outbound) && matches!(self.link, Link::Open { judged: None, .. })
    }

    /// Whether this MAIL is refused because its AUTH would cross the outside link in the clear, or has not for that reason:
    /// a server that wants AUTH would answer 530 without it, and the client would give up (RFC 4954 §6).
    pub(super) fn lacks_auth(&self, sender: &Sender) -> bool {
        self.auth_denied || (self.is_clear() && sender.used.contains(&Keyword::Auth))
    }

    /// Why the pending recipient cannot be handed over: its transaction uses what the server lacks. `dsn`: so does its RCPT.
    pub(super) fn lacking(&mut self, dsn: bool, authenticated: bool) -> Option<Refusal> {
        let Link::Open {
            judged: Some(offered),
            ..
        } = &self.link
        else {
            return None;
        };
        let used = self.transaction.as_ref()?.sender.used.iter().copied();
        let missing: Vec<Keyword> = used
            .chain(dsn.then_some(Keyword::Dsn))
            .filter(|keyword| !offered.has(*keyword))
            .collect();
        let first = *missing.first()?;
        if missing.contains(&Keyword::SmtpUtf8) {
            // What cannot come right is said, and needs no lesson.
            return Some(self.lacks(Keyword::SmtpUtf8, authenticated));
        }
        // All is taught at once, so that one retry is enough.
        for keyword in missing {
            self.teach(keyword, authenticated);
        }
        Some(self.lacks(first, authenticated))
    }

    /// The same of BDAT.
    pub(super) fn lacks_chunking(&mut self) -> Option<Refusal> {
        let Link::Open {
            judged: Some(offered),
            ..
        } = &self.link
        else {
            return None;
        };
        if offered.has(Keyword::Chunking) {
            return None;
        }
        let authenticated = self.transaction.as_ref().is_some_and(|t| t.authenticated);
        self.teach(Keyword::Chunking, authenticated);
        Some(self.lacks(Keyword::Chunking, authenticated))
    }

    /// What an authenticated server lacks is shown to this client's next sessions no more, so that its retry does without.
    /// Never SMTPUTF8: without that a client bounces mail, which may be for another domain.
    fn teach(&mut self, missing: Keyword, authenticated: bool) {
        if authenticated && !self.taught.contains(&missing) {
            self.taught.push(missing);
            self.note(Note::MissingExtension(missing));
        }
    }

    /// Only an authenticated server decides, and only about SMTPUTF8: no retry can do without that.
    fn lacks(&self, missing: Keyword, authenticated: bool) -> Refusal {
        if missing == Keyword::SmtpUtf8 && authenticated {
            let text = self.says("does not offer SMTPUTF8 (RFC 6531), which this message needs");
            return refusal(553, (6, 7), &text).because(Cause::ExtensionMissing);
        }
        let text = format!(
            "does not offer {} over TLS, and this message uses it",
            missing.name()
        );
        refusal(451, (3, 3), &self.says(&text)).because(Cause::ExtensionMissing)
    }
}
