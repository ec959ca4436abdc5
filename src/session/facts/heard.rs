//! What a server says before TLS.

use super::{Fact, Keep, Kind, without_crlf};
use crate::{
    audit::{self, AuditLog, Record, WireText},
    smtp::Stage,
};

/// Most octets of a reply heard in the clear that are told, after escaping.
pub(super) const HEARD: usize = 512;

/// A server said something in the clear that keeps the session from going on. Anybody on the path can say it, so it is told and
/// decides nothing.
pub struct Heard<'a> {
    /// What it answers.
    pub stage: Stage,
    /// The reply as it came.
    pub reply: &'a [u8],
    /// It came inside TLS from a peer that had proved who it is.
    pub proved: bool,
}

impl Heard<'_> {
    /// What it answers, in one word.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Greeting => "greeting",
            Stage::Ehlo => "ehlo",
            Stage::StartTls => "starttls",
        }
    }

    /// The reply's code.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        let digits = self.reply.get(..3)?;
        std::str::from_utf8(digits)
            .ok()?
            .parse()
            .ok()
            .filter(|code| (200..600).contains(code))
    }

    /// Its enhanced code (RFC 3463 §2): class, subject and detail, right behind the code.
    #[must_use]
    pub fn enhanced(&self) -> Option<String> {
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

    /// The reply, escaped, and cut where it is long.
    #[must_use]
    pub fn text(&self) -> WireText {
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

impl Fact for Heard<'_> {
    fn kind(&self) -> Option<Kind> {
        Some(Kind {
            event: "heard",
            domain: None,
            verdict: None,
            reason: None,
            observed: false,
            more: self.stage().to_owned(),
        })
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let code = self.code().map_or_else(|| "-".into(), |c| c.to_string());
        let line = format!(
            "heard={} code={code} enhanced={} unproved={} text=\"{}\"",
            self.stage(),
            self.enhanced().as_deref().unwrap_or("-"),
            if self.proved { "no" } else { "yes" },
            self.text().as_str().replace('"', "\\\""),
        );
        Some((log::Level::Warn, line))
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
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}
