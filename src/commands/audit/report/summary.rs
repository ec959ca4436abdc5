//! The section "In short": a sentence, and the main numbers.

use super::{
    counts::{Counts, MessageCounts},
    html::{percent, plural},
    refused::only_counted,
    tally::number_of,
};
use crate::commands::audit::quantity::{grouped, size};
use std::fmt::{self, Formatter};

/// The section with its lead and its tiles.
pub(super) fn summary(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    let messages = counts.messages();
    let reasons = counts.reasons.values();
    let refused: u64 = reasons.map(|reason| reason.number).sum();
    let unknown = grouped(number_of(&counts.outcomes, "unknown"));
    let sessions = plural(counts.sessions, "session", "sessions");
    let encrypted = messages.authenticated + messages.encrypted;
    let over_tls = plural(encrypted, "message", "messages");
    let proved = plural(messages.authenticated, "message", "messages");
    let octets = format!("{} in {sessions}", size(counts.octets));
    let name = if counts.is_inbound() {
        "Received"
    } else {
        "Handed over"
    };
    let clear = if messages.clear == 0 { "" } else { "warn" };
    write!(
        f,
        "<section>\n<h2>In short</h2>\n<p class=\"lead\">{} {}</p>\n<div class=\"tiles\">\n",
        by_protection(counts, &messages),
        not_handed_over(counts, refused)
    )?;
    for (class, name, value, note) in [
        ("", name, grouped(messages.all), octets.as_str()),
        (
            "good",
            "Encrypted",
            percent(encrypted, messages.all),
            &over_tls,
        ),
        (
            "good",
            "Peer authenticated",
            percent(messages.authenticated, messages.all),
            &proved,
        ),
        (
            clear,
            "In the clear",
            grouped(messages.clear),
            &percent(messages.clear, messages.all),
        ),
        (
            "stop",
            "Refused",
            grouped(refused),
            "attempts; a deferred message is tried again",
        ),
        (
            "",
            "Outcome unknown",
            unknown,
            "the connection ended before the final reply",
        ),
    ] {
        writeln!(
            f,
            "<div class=\"tile {class}\"><p class=\"name\">{name}</p><p class=\"value\">{value}</p><p class=\"note\">{note}</p></div>"
        )?;
    }
    f.write_str("</div>\n</section>\n")
}

/// All messages in one sentence, by protection.
fn by_protection(counts: &Counts, messages: &MessageCounts) -> String {
    let (verbs, way, unasked) = match counts.is_inbound() {
        true => (
            ("message was received", "messages were received"),
            "from",
            "from a party that no rule asks for proof",
        ),
        false => (
            ("message was handed over", "messages were handed over"),
            "to",
            match messages.authenticated {
                0 => "without proof of the other side's identity",
                _ => "without that proof",
            },
        ),
    };
    let all = plural(messages.all, verbs.0, verbs.1);
    if messages.all == 0 {
        return format!("No {}.", verbs.0);
    }
    if messages.all == messages.authenticated {
        return format!("{all}, every one over TLS {way} a party that proved its identity.");
    }
    let parts = [
        (
            messages.authenticated,
            format!("over TLS {way} a party that proved its identity"),
        ),
        (messages.encrypted, format!("over TLS {unasked}")),
        (messages.clear, "in the clear".into()),
    ];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    let parts: Vec<_> = parts
        .map(|(number, how)| format!("{} {how}", grouped(*number)))
        .collect();
    format!("{all}: {}.", parts.join(", "))
}

/// Sentences on mail that was refused, or would have been, or whose outcome is not known.
fn not_handed_over(counts: &Counts, refused: u64) -> String {
    let mut text = match refused {
        0 => "Nothing was refused.".to_owned(),
        _ => format!(
            "{} refused.",
            plural(refused, "attempt was", "attempts were")
        ),
    };
    let them = |number| if number == 1 { "it" } else { "them" };
    if counts.observed_messages > 0 {
        text += &format!(
            " {} only because nothing was enforced (<code>--observe</code>): enforcing would have refused {}.",
            plural(
                counts.observed_messages,
                "message passed",
                "messages passed"
            ),
            them(counts.observed_messages)
        );
    }
    text = match (refused, only_counted(counts)) {
        (_, None) => text,
        (0, Some(counted)) => counted,
        (_, Some(counted)) => format!("{text} {counted}"),
    };
    match number_of(&counts.outcomes, "unknown") {
        0 => text,
        number => format!(
            "Of the messages, {} no final reply: whether the other side took {} is not known. {text}",
            plural(number, "has", "have"),
            them(number)
        ),
    }
}
