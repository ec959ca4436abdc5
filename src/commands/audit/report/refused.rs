//! The page's tables of what was refused, and of what observe mode let pass.

use super::{
    gather::{OBSERVED, Reason},
    page::{Page, Text, day, of, or_dash, plural},
};
use crate::commands::audit::quantity::grouped;
use std::{
    collections::BTreeMap,
    fmt::{self, Formatter},
};

impl Page<'_> {
    pub(super) fn refusals(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section>\n<h2>Refused</h2>\n")?;
        let only_counted = self.only_counted();
        if self.gathered.reasons.is_empty() {
            let words = only_counted
                .as_deref()
                .unwrap_or("Nothing was refused in this period.");
            return writeln!(f, "<p class=\"quiet\">{words}</p>\n</section>");
        }
        f.write_str("<p>Refused means: the proxy itself said no, to a recipient, a message, a command or a connection, and handed nothing of it over. Where RFC 8460 has a word for the reason, it is that one.</p>\n<table class=\"wide\"><thead><tr><th>Reason</th><th class=\"n\">Attempts</th><th>Most affected</th><th>First</th><th>Last</th><th>What the mail server was told last</th></tr></thead><tbody>\n")?;
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
        if let Some(words) = only_counted {
            writeln!(f, "<p>{words}</p>")?;
        }
        f.write_str("</section>\n")
    }

    /// What was refused and is listed nowhere, because it was too much to be recorded singly.
    pub(super) fn only_counted(&self) -> Option<String> {
        let of = |kind| of(&self.gathered.only_counted, kind);
        let (refusals, turned_away) = (of("refusal"), of("turned-away"));
        (refusals + turned_away > 0).then(|| {
            format!(
                "{} and {} were only counted, because they were too many to be recorded singly.",
                plural(refusals, "refusal", "refusals"),
                plural(
                    turned_away,
                    "connection that was turned away",
                    "connections that were turned away"
                )
            )
        })
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
