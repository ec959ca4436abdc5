//! Refusals of a server before mail can pass.

use std::fmt;

use super::{Fact, RepeatKey, Writing, without_crlf};
use crate::{
    audit::{self, AuditLog, Record, WireText},
    smtp::Stage,
};

/// Most octets of such a reply that are logged and recorded, after escaping.
pub(super) const HEARD: usize = 512;

/// A server's reply keeps the session from going on. In the clear anybody on the path can have said it, so it is written down and
/// decides nothing.
pub(crate) struct HeardFact<'a> {
    /// The command that it answers.
    pub(crate) stage: Stage,
    /// The reply as it came.
    pub(crate) reply: &'a [u8],
    /// It came inside TLS from an authenticated peer.
    pub(crate) proved: bool,
}

impl HeardFact<'_> {
    /// The command that it answers, in one word.
    pub(crate) fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Greeting => "greeting",
            Stage::Ehlo => "ehlo",
            Stage::StartTls => "starttls",
            Stage::Login => "login",
        }
    }

    /// The reply's code.
    pub(crate) fn code(&self) -> Option<u16> {
        let digits = self.reply.get(..3)?;
        std::str::from_utf8(digits)
            .ok()?
            .parse()
            .ok()
            .filter(|code| (200..600).contains(code))
    }

    /// The enhanced code right behind the code: class, subject and detail (RFC 3463 §2).
    pub(crate) fn enhanced(&self) -> Option<String> {
        let text = self.reply.get(4..)?;
        let end = text
            .iter()
            .position(|b| !b.is_ascii_digit() && *b != b'.')
            .unwrap_or(text.len());
        let enhanced = std::str::from_utf8(&text[..end]).ok()?;
        let parts: Vec<&str> = enhanced.split('.').collect();
        let fits = |part: &&str| (1..=3).contains(&part.len());
        (parts.len() == 3 && parts[0].len() == 1 && parts.iter().all(fits))
            .then(|| enhanced.to_owned())
    }

    /// The reply, escaped, and cut if it is long.
    pub(crate) fn text(&self) -> WireText {
        let reply = without_crlf(self.reply);
        let whole = WireText::escape(reply);
        if whole.as_str().len() <= HEARD {
            return whole;
        }
        let mut length = 0;
        let fitting = reply.iter().take_while(|byte| {
            length += WireText::escape(&[**byte]).as_str().len();
            length <= HEARD - 3
        });
        let fitting = fitting.count();
        WireText::escape(&[&reply[..fitting], b"..."].concat())
    }
}

impl Fact for HeardFact<'_> {
    fn repeat_key(&self) -> Option<RepeatKey> {
        Some(RepeatKey::Heard(self.stage))
    }
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Warn)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code().map_or_else(|| "-".into(), |c| c.to_string());
        write!(
            out,
            "heard={} code={code} enhanced={} unproved={} text=\"{}\"",
            self.stage(),
            self.enhanced().as_deref().unwrap_or("-"),
            if self.proved { "no" } else { "yes" },
            self.text().as_str().replace('"', "\\\""),
        )
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::Heard(Box::new(audit::HeardRecord {
            session,
            stage: self.stage().to_owned(),
            code: self.code(),
            enhanced: self.enhanced(),
            text: self.text(),
            unproved: !self.proved,
        })))
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}
