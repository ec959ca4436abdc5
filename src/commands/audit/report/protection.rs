//! The sections on how mail was protected: over time, by kind, and by domain.

use super::{
    chart::{Bars, Series, legend, shares},
    counts::{AUTHENTICATED, CLEAR, Counts, DomainCounts, ENCRYPTED, OBSERVED},
    html::{Escaped, cell, day, list, or_dash, percent, plural},
    refused::by_number,
    tally::number_of,
};
use crate::commands::audit::quantity::{grouped, size};
use std::fmt::{self, Formatter};

/// Rows of the table of domains; the rest is summed up.
const DOMAINS: usize = 200;

pub(super) fn over_time(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    let Some(span) = &counts.span else {
        return Ok(());
    };
    let kinds = [(AUTHENTICATED, "good"), (ENCRYPTED, "c2"), (CLEAR, "warn")];
    let series: Vec<Series> = kinds
        .iter()
        .map(|(name, class)| ((*name).to_owned(), *class))
        .collect();
    let bars = Bars::new(span, &counts.hours, |hour| &hour.protections);
    write!(
        f,
        "<section id=\"time\">\n<details class=\"fold\" open><summary><h2>Over time</h2></summary>\n<figure><figcaption>Messages, by {} (UTC){}</figcaption>\n{}</figure>\n",
        bars.unit(),
        legend(&kinds),
        bars.svg("Messages by protection", &series, "quiet")
    )?;
    if !counts.reasons.is_empty() {
        let series = frequent_reasons(counts);
        let bars = Bars::new(span, &counts.hours, |hour| &hour.reasons);
        let mut named: Vec<(&str, &str)> = series
            .iter()
            .map(|(name, class)| (name.as_str(), *class))
            .collect();
        if counts.reasons.len() > series.len() {
            named.push(("other", "quiet"));
        }
        write!(
            f,
            "<figure><figcaption>Attempts refused, by {} (UTC){}</figcaption>\n{}</figure>\n",
            bars.unit(),
            legend(&named),
            bars.svg("Attempts refused, by reason", &series, "quiet")
        )?;
    }
    f.write_str("</details>\n</section>\n")
}

/// The most frequent reasons, each with its colour.
fn frequent_reasons(counts: &Counts) -> Vec<Series> {
    let classes = ["stop", "c1", "c4", "c2", "c3"];
    by_number(&counts.reasons)
        .into_iter()
        .zip(classes)
        .map(|((word, _), class)| (word.clone(), class))
        .collect()
}

pub(super) fn protection(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    f.write_str("<section id=\"protection\">\n<details class=\"fold\" open><summary><h2>How it was protected</h2></summary>\n<div class=\"columns\">\n")?;
    for (title, tally) in [
        ("Protection, by message", &counts.protections),
        ("Verdict, by message", &counts.verdicts),
        ("TLS version, by message", &counts.tls_versions),
        ("Level, by message and domain", &counts.levels),
        ("Where the level comes from", &counts.bases),
        ("Key exchange group, by message", &counts.groups),
        ("Cipher suite, by message", &counts.suites),
    ] {
        f.write_str(&shares(title, tally, &colour))?;
    }
    f.write_str("</div>\n</details>\n</section>\n")
}

/// The class that colours a word.
fn colour(word: &str) -> &'static str {
    match word {
        AUTHENTICATED | "authorised" | "TLSv1.3" => "good",
        ENCRYPTED => "c2",
        CLEAR | OBSERVED | "unprotected" | "none" | "may" | "no TLS" => "warn",
        "encrypt" => "c4",
        "TLSv1.2" => "c2",
        _ => "c1",
    }
}

pub(super) fn domains(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    let messages = |domain: &DomainCounts| domain.protections.values().sum::<u64>();
    let mut domains: Vec<_> = counts.domains.iter().collect();
    domains.sort_by_key(|(_, domain)| std::cmp::Reverse(messages(domain)));
    f.write_str("<section id=\"domains\">\n<details class=\"fold\" open><summary><h2>By domain</h2></summary>\n")?;
    if domains.is_empty() {
        return f.write_str(
            "<p class=\"quiet\">No message and no decision in this period.</p>\n</details>\n</section>\n",
        );
    }
    f.write_str(
        "<table class=\"wide\"><thead><tr><th>Domain</th><th class=\"n\">Messages</th><th class=\"n\">Octets</th><th class=\"n\">Authenticated</th><th class=\"n\">Encrypted only</th><th class=\"n\">Clear</th><th class=\"n\">Refused</th><th>Level</th><th>TLS</th><th>Last</th></tr></thead><tbody>\n",
    )?;
    for (name, domain) in domains.iter().take(DOMAINS) {
        let all = messages(domain);
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>{}{}{}<td>{}</td><td>{}</td><td class=\"when\">{}</td></tr>",
            Escaped(name),
            grouped(all),
            if all == 0 {
                "–".into()
            } else {
                size(domain.octets)
            },
            percent(number_of(&domain.protections, AUTHENTICATED), all),
            cell(number_of(&domain.protections, ENCRYPTED), ""),
            cell(number_of(&domain.protections, CLEAR), "warn"),
            cell(domain.refused, "stop"),
            Escaped(&or_dash(list(&domain.levels))),
            Escaped(&or_dash(list(&domain.tls).replace("TLSv", ""))),
            day(&domain.last)
        )?;
    }
    f.write_str("</tbody></table>\n")?;
    if let Some(more) = domains.get(DOMAINS..).filter(|more| !more.is_empty()) {
        let messages: u64 = more.iter().map(|(_, domain)| messages(domain)).sum();
        writeln!(
            f,
            "<p class=\"quiet\">{} more with {} in all; <code>audit show --domain</code> lists them.</p>",
            plural(more.len() as u64, "domain", "domains"),
            plural(messages, "message", "messages")
        )?;
    }
    f.write_str("</details>\n</section>\n")
}
