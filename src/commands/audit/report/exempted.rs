//! The section on mail without proof of identity: exemptions in force, and what they were used for.

use super::{
    counts::Counts,
    html::{Escaped, day, plural},
};
use crate::commands::audit::quantity::grouped;
use jiff::civil::DateTime;
use std::{
    fmt::{self, Formatter},
    time::Duration,
};

/// `now` is when the page is made.
pub(super) fn without_proof(f: &mut Formatter<'_>, counts: &Counts, now: &str) -> fmt::Result {
    f.write_str("<section id=\"exemptions\">\n<details class=\"fold\" open><summary><h2>Without proof of identity</h2></summary>\n<h3>Exemptions in force at the end of the period</h3>\n")?;
    if counts.exemptions.is_empty() {
        f.write_str("<p class=\"quiet\">None.</p>\n")?;
    } else {
        f.write_str("<table class=\"wide\"><thead><tr><th>For</th><th>Level</th><th>Ends</th><th>Why</th><th>Where</th></tr></thead><tbody>\n")?;
        for exemption in &counts.exemptions {
            writeln!(
                f,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                Escaped(&exemption.entry),
                Escaped(&exemption.level),
                end_date(exemption.until.as_deref(), now),
                Escaped(exemption.reason.as_deref().unwrap_or("–")),
                Escaped(&exemption.rule)
            )?;
        }
        f.write_str("</tbody></table>\n")?;
    }
    f.write_str("<h3>What they were used for</h3>\n")?;
    if counts.used.is_empty() {
        let messages = counts.messages();
        let none = if counts.observed_messages > 0 {
            "No rule was used: what went without it was only observed, as the section before says."
        } else if messages.all == messages.authenticated {
            "Nothing: no message went without it."
        } else {
            "No rule was used: a client from the world is asked for proof only where a rule says so."
        };
        return writeln!(f, "<p class=\"quiet\">{none}</p>\n</details>\n</section>");
    }
    f.write_str("<table class=\"wide\"><thead><tr><th>Domain or address</th><th class=\"n\">Messages</th><th class=\"n\">Sessions</th><th>Level</th><th>Rule</th><th>Ends</th><th>Why</th><th>Last</th></tr></thead><tbody>\n")?;
    for ((rule, domain), used) in &counts.used {
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n warn\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"when\">{}</td></tr>",
            Escaped(domain),
            grouped(used.messages),
            grouped(used.sessions),
            Escaped(&used.level),
            Escaped(rule),
            end_date(used.until.as_deref(), now),
            Escaped(used.why.as_deref().unwrap_or("–")),
            day(&used.last)
        )?;
    }
    f.write_str("</tbody></table>\n</details>\n</section>\n")
}

/// An end date, and how far off it is on the day the page is made.
fn end_date(until: Option<&str>, now: &str) -> String {
    let Some(until) = until else {
        return "<span class=\"badge warn\">no end</span>".into();
    };
    let moment = |text: &str| text.strip_suffix('Z')?.parse::<DateTime>().ok();
    let (Some(end), Some(now)) = (moment(&format!("{}T23:59:59Z", day(until))), moment(now)) else {
        return Escaped(until).to_string();
    };
    match Duration::try_from(end.duration_since(now)).map(|left| left.as_secs() / 86_400) {
        Ok(0) => format!("{} <span class=\"badge warn\">today</span>", Escaped(until)),
        Ok(left) => format!(
            "{} <span class=\"badge\">{}</span>",
            Escaped(until),
            plural(left, "day left", "days left")
        ),
        Err(_) => format!("{} <span class=\"badge good\">over</span>", Escaped(until)),
    }
}
