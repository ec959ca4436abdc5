//! The sections on refused mail, and on mail that passed only because of observe mode.

use super::{
    attempts::ReasonCounts,
    counts::{Counts, OBSERVED},
    html::{Escaped, day, or_dash, plural},
    tally::number_of,
};
use crate::commands::audit::quantity::grouped;
use std::{
    collections::BTreeMap,
    fmt::{self, Formatter},
};

pub(super) fn refusals(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    f.write_str("<section id=\"refused\">\n<details class=\"fold\" open><summary><h2>Refused</h2></summary>\n")?;
    let only_counted = only_counted(counts);
    if counts.reasons.is_empty() {
        let words = only_counted
            .as_deref()
            .unwrap_or("Nothing was refused in this period.");
        return writeln!(f, "<p class=\"quiet\">{words}</p>\n</details>\n</section>");
    }
    f.write_str("<p>Refused means: the proxy itself said no, to a recipient, a message, a command or a connection, and handed nothing of it over. Where RFC 8460 has a word for the reason, it is that one.</p>\n<table class=\"wide\"><thead><tr><th>Reason</th><th class=\"n\">Attempts</th><th>What was done</th><th>Most affected</th><th>First</th><th>Last</th><th>What the mail server was told last</th></tr></thead><tbody>\n")?;
    for (word, reason) in by_number(&counts.reasons) {
        let remembered = match reason.remembered {
            0 => String::new(),
            number => format!(
                "<br><span class=\"quiet\">{} remembered</span>",
                grouped(number)
            ),
        };
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}{remembered}</td><td>{}</td><td>{}</td><td class=\"when\">{}</td><td class=\"when\">{}</td><td class=\"reply\">{}</td></tr>",
            Escaped(word),
            grouped(reason.number),
            what_was_done(reason),
            Escaped(&most_affected(reason)),
            day(&reason.first),
            day(&reason.last),
            Escaped(&reason.reply)
        )?;
    }
    f.write_str("</tbody></table>\n")?;
    if counts.reasons.values().any(|one| one.remembered > 0) {
        f.write_str("<p class=\"quiet\">Remembered: the server had been found wanting for that domain a short while before, so that the next session with it was refused at its greeting, whatever mail it had.</p>\n")?;
    }
    if let Some(words) = only_counted {
        writeln!(f, "<p>{words}</p>")?;
    }
    f.write_str("</details>\n</section>\n")
}

/// A sentence on refusals that are listed nowhere, because they were too many to be recorded singly.
pub(super) fn only_counted(counts: &Counts) -> Option<String> {
    let of = |kind| number_of(&counts.only_counted, kind);
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

pub(super) fn observed(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    if counts.observed.is_empty() {
        return Ok(());
    }
    f.write_str("<section id=\"observed\">\n<details class=\"fold\" open><summary><h2>Observed, not enforced</h2></summary>\n<p>The program was told to observe only. Enforcing would have refused this, for these reasons.</p>\n<table class=\"wide\"><thead><tr><th>Reason</th><th class=\"n\">Attempts</th><th class=\"n\">Messages handed over</th><th>Most affected</th><th>First</th><th>Last</th><th>What the mail server would have been told last</th></tr></thead><tbody>\n")?;
    for (word, reason) in by_number(&counts.observed) {
        writeln!(
            f,
            "<tr><th scope=\"row\">{OBSERVED}, {}</th><td class=\"n\">{}</td><td class=\"n warn\">{}</td><td>{}</td><td class=\"when\">{}</td><td class=\"when\">{}</td><td class=\"reply\">{}</td></tr>",
            Escaped(word),
            grouped(reason.number),
            grouped(reason.messages),
            Escaped(&most_affected(reason)),
            day(&reason.first),
            day(&reason.last),
            Escaped(&reason.reply)
        )?;
    }
    f.write_str("</tbody></table>\n</details>\n</section>\n")
}

/// The reasons, the most frequent first.
pub(super) fn by_number(reasons: &BTreeMap<String, ReasonCounts>) -> Vec<(&String, &ReasonCounts)> {
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, reason)| std::cmp::Reverse(reason.number));
    reasons
}

/// What the refusals meant to the client, each with its number.
fn what_was_done(reason: &ReasonCounts) -> String {
    let done = reason.done.iter();
    let done: Vec<String> = done
        .map(|(what, number)| format!("{} {what}", grouped(*number)))
        .collect();
    done.join("<br>")
}

/// The three most affected domains, and how many more there are.
fn most_affected(reason: &ReasonCounts) -> String {
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
