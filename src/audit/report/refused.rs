//! The page's tables of what was refused, and of what observe mode let pass.

use super::{
    gather::{OBSERVED, Reason},
    page::{Page, Text, day, or_dash},
};
use crate::audit::command::grouped;
use std::{
    collections::BTreeMap,
    fmt::{self, Formatter},
};

impl Page<'_> {
    pub(super) fn refusals(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section>\n<h2>Refused</h2>\n")?;
        if self.gathered.reasons.is_empty() {
            return f.write_str(
                "<p class=\"quiet\">Nothing was refused in this period.</p>\n</section>\n",
            );
        }
        f.write_str("<p>Refused means: the message was not handed over, and its sender's server was told so. Where RFC 8460 has a word for the reason, it is that one.</p>\n<table class=\"wide\"><thead><tr><th>Reason</th><th class=\"n\">Attempts</th><th>Most affected</th><th>First</th><th>Last</th><th>What the mail server was told last</th></tr></thead><tbody>\n")?;
        for (word, reason) in by_number(&self.gathered.reasons) {
            let remembered = match reason.remembered {
                0 => String::new(),
                number => format!(
                    "<br><span class=\"quiet\">{} remembered</span>",
                    grouped(number)
                ),
            };
            writeln!(
                f,
                "<tr><th scope=\"row\">{}</th><td class=\"n\">{}{remembered}</td><td>{}</td><td class=\"when\">{}</td><td class=\"when\">{}</td><td class=\"reply\">{}</td></tr>",
                Text(word),
                grouped(reason.number),
                Text(&most_affected(reason)),
                day(&reason.first),
                day(&reason.last),
                Text(&reason.reply)
            )?;
        }
        f.write_str("</tbody></table>\n")?;
        if self.gathered.reasons.values().any(|one| one.remembered > 0) {
            f.write_str("<p class=\"quiet\">Remembered: the server had been found wanting for that domain a short while before, so that the next session with it was refused at its greeting, whatever mail it had.</p>\n")?;
        }
        f.write_str("</section>\n")
    }

    /// What `--observe` let pass.
    pub(super) fn observed(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.gathered.observed.is_empty() {
            return Ok(());
        }
        f.write_str("<section>\n<h2>Observed, not enforced</h2>\n<p>The program was told to observe only. Enforcing would have refused this, for these reasons.</p>\n<table class=\"wide\"><thead><tr><th>Reason</th><th class=\"n\">Attempts</th><th class=\"n\">Messages handed over</th><th>Most affected</th><th>First</th><th>Last</th><th>What the mail server would have been told last</th></tr></thead><tbody>\n")?;
        for (word, reason) in by_number(&self.gathered.observed) {
            writeln!(
                f,
                "<tr><th scope=\"row\">{OBSERVED}, {}</th><td class=\"n\">{}</td><td class=\"n warn\">{}</td><td>{}</td><td class=\"when\">{}</td><td class=\"when\">{}</td><td class=\"reply\">{}</td></tr>",
                Text(word),
                grouped(reason.number),
                grouped(reason.messages),
                Text(&most_affected(reason)),
                day(&reason.first),
                day(&reason.last),
                Text(&reason.reply)
            )?;
        }
        f.write_str("</tbody></table>\n</section>\n")
    }
}

/// The most frequent first.
pub(super) fn by_number(reasons: &BTreeMap<String, Reason>) -> Vec<(&String, &Reason)> {
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, reason)| std::cmp::Reverse(reason.number));
    reasons
}

/// Three domains, and how many more there are.
fn most_affected(reason: &Reason) -> String {
    let mut domains: Vec<_> = reason.domains.iter().collect();
    domains.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let named = domains.iter().take(3);
    let mut names: Vec<String> = named
        .map(|(name, number)| format!("{name} ({})", grouped(**number)))
        .collect();
    match domains.len().saturating_sub(3) {
        0 => {}
        more => names.push(format!("{more} more")),
    }
    or_dash(names.join(", "))
}
