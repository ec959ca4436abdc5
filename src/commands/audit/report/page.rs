//! The page.

use super::{
    chart::{Bars, Series, percent, shares},
    gather::{AUTHENTICATED, CLEAR, Domain, ENCRYPTED, Gathered, OBSERVED, Tally},
    mapping::STANDARDS,
    refused::by_number,
};
use crate::{
    audit::Examined,
    commands::audit::{
        quantity::{grouped, size},
        verify::facts,
    },
};
use jiff::civil::DateTime;
use std::{
    collections::BTreeSet,
    fmt::{self, Display, Formatter, Write as _},
    time::Duration,
};

/// Rows of the table of domains; more are summed up.
const DOMAINS: usize = 200;

/// Text between tags or quotes.
pub(super) struct Text<'a>(pub(super) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// All that the page shows.
pub(super) struct Page<'a> {
    pub(super) examined: &'a Examined,
    pub(super) gathered: &'a Gathered,
    /// The public key was given, not taken from the log.
    pub(super) own_key: bool,
    /// When the page is made.
    pub(super) now: String,
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let origin = self.examined.origin.as_deref().unwrap_or("an unnamed log");
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>Mail transmission report: {}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
            Text(origin),
            include_str!("style.css")
        )?;
        self.head(f)?;
        f.write_str("<main>\n")?;
        self.chain(f)?;
        self.figures(f)?;
        self.over_time(f)?;
        self.how(f)?;
        self.domains(f)?;
        self.refusals(f)?;
        self.observed(f)?;
        self.without_proof(f)?;
        self.changes(f)?;
        self.standards(f)?;
        self.limits(f)?;
        f.write_str("</main>\n</body>\n</html>\n")
    }
}

/// Messages that were, or may have been, handed over.
struct Handed {
    all: u64,
    authenticated: u64,
    encrypted: u64,
    clear: u64,
}

pub(super) fn of(tally: &Tally, word: &str) -> u64 {
    tally.get(word).copied().unwrap_or_default()
}

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

pub(super) fn day(at: &str) -> &str {
    at.get(..10).unwrap_or(at)
}

fn minute(at: &str) -> String {
    at.get(..16).unwrap_or(at).replace('T', " ")
}

pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

fn list(words: &BTreeSet<String>) -> String {
    words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Page<'_> {
    fn handed(&self) -> Handed {
        let protections = &self.gathered.protections;
        Handed {
            all: protections.values().sum(),
            authenticated: of(protections, AUTHENTICATED),
            encrypted: of(protections, ENCRYPTED),
            clear: of(protections, CLEAR),
        }
    }

    fn is_inbound(&self) -> bool {
        self.gathered.directions.iter().eq(["inbound"])
    }

    fn period(&self) -> (&str, &str) {
        let span = self.gathered.span.as_ref();
        span.map_or(("–", "–"), |(first, last)| (day(first), day(last)))
    }

    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (first, last) = self.period();
        let direction = match list(&self.gathered.directions).as_str() {
            "outbound" => "Mail sent to the outside",
            "inbound" => "Mail received from the outside",
            _ => "Mail",
        };
        write!(
            f,
            "<header>\n<p class=\"kicker\">Mail transmission report</p>\n<h1>{direction}</h1>\n\
             <p class=\"period\"><time>{first}</time> to <time>{last}</time></p>\n\
             <dl class=\"meta\"><div><dt>Log</dt><dd>{}</dd></div><div><dt>Host</dt><dd>{}</dd></div>\
             <div><dt>Program</dt><dd>starttls-proxy {}</dd></div><div><dt>Report made</dt><dd>{} UTC</dd></div></dl>\n</header>\n",
            Text(self.examined.origin.as_deref().unwrap_or("–")),
            Text(&or_dash(list(&self.gathered.hosts))),
            Text(&list(&self.gathered.versions)),
            minute(&self.now)
        )
    }

    fn chain(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let examined = self.examined;
        let (class, mark, title, text) = match &examined.finding {
            None if examined.signed + examined.anchored as u64 == 0 => (
                "ok",
                "✓",
                "The log agrees with itself",
                format!(
                    "The chain of all {} holds. No signature and no anchor was checked, so this does not show a change by someone who made the chain anew.",
                    plural(examined.records(), "record", "records")
                ),
            ),
            // Records behind the last signature, and a key that only the log names, vouch for nothing.
            None if examined.anchored == 0
                && !(self.own_key && examined.signed_size >= examined.head.size) =>
            {
                (
                    "ok",
                    "✓",
                    "The log is intact",
                    format!(
                        "The chain of all {} holds. By whose key, and how far, it is vouched for, stands below.",
                        plural(examined.records(), "record", "records")
                    ),
                )
            }
            None => (
                "ok",
                "✓",
                "The log is intact",
                format!(
                    "All {} are what was written: none is changed, missing or moved.",
                    plural(examined.records(), "record", "records")
                ),
            ),
            Some(finding) => (
                "bad",
                "✗",
                "The log is not intact",
                format!(
                    "{}. This page counts only the {} before that.",
                    Text(&finding.to_string()),
                    plural(examined.records(), "record", "records")
                ),
            ),
        };
        write!(
            f,
            "<section class=\"chain {class}\" aria-label=\"State of the log\">\n<div class=\"mark\" aria-hidden=\"true\">{mark}</div>\n<div>\n<h2>{title}</h2>\n<p>{text}</p>\n<dl class=\"facts\">\n"
        )?;
        for (name, value) in facts(examined, self.own_key) {
            if name != "log" {
                writeln!(f, "<dt>{}</dt><dd>{}</dd>", Text(name), Text(&value))?;
            }
        }
        f.write_str("</dl>\n")?;
        if let Some(note) = &examined.note {
            writeln!(
                f,
                "<details open><summary>The last checkpoint</summary><pre>{}</pre></details>",
                Text(note)
            )?;
        }
        f.write_str("</div>\n</section>\n")
    }

    fn figures(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let handed = self.handed();
        let reasons = self.gathered.reasons.values();
        let refused: u64 = reasons.map(|reason| reason.number).sum();
        let refusals = match refused {
            0 => "Nothing was refused.".to_owned(),
            _ => format!(
                "{} refused.",
                plural(refused, "attempt was", "attempts were")
            ),
        };
        let refusals = match self.gathered.observed_messages {
            0 => refusals,
            number => format!(
                "{refusals} {} only because nothing was enforced (<code>--observe</code>): enforcing would have refused {}.",
                plural(number, "message passed", "messages passed"),
                if number == 1 { "it" } else { "them" }
            ),
        };
        let refusals = match (refused, self.only_counted()) {
            (_, None) => refusals,
            (0, Some(counted)) => counted,
            (_, Some(counted)) => format!("{refusals} {counted}"),
        };
        let unknown = of(&self.gathered.outcomes, "unknown");
        let refusals = match unknown {
            0 => refusals,
            number => format!(
                "Of the messages, {} no final reply: whether the other side took {} is not known. {refusals}",
                plural(number, "has", "have"),
                if number == 1 { "it" } else { "them" }
            ),
        };
        let unknown = grouped(unknown);
        let sessions = plural(self.gathered.sessions, "session", "sessions");
        let encrypted = handed.authenticated + handed.encrypted;
        let over_tls = plural(encrypted, "message", "messages");
        let proved = plural(handed.authenticated, "message", "messages");
        let octets = format!("{} in {sessions}", size(self.gathered.octets));
        let name = if self.is_inbound() {
            "Received"
        } else {
            "Handed over"
        };
        let clear = if handed.clear == 0 { "" } else { "warn" };
        write!(
            f,
            "<section>\n<h2>In short</h2>\n<p class=\"lead\">{} {refusals}</p>\n<div class=\"tiles\">\n",
            self.summary(&handed)
        )?;
        for (class, name, value, note) in [
            ("", name, grouped(handed.all), octets.as_str()),
            (
                "good",
                "Encrypted",
                percent(encrypted, handed.all),
                &over_tls,
            ),
            (
                "good",
                "Peer authenticated",
                percent(handed.authenticated, handed.all),
                &proved,
            ),
            (
                clear,
                "In the clear",
                grouped(handed.clear),
                &percent(handed.clear, handed.all),
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

    fn summary(&self, handed: &Handed) -> String {
        let (verbs, way, unasked) = match self.is_inbound() {
            true => (
                ("message was received", "messages were received"),
                "from",
                "from a party that no rule asks for proof",
            ),
            false => (
                ("message was handed over", "messages were handed over"),
                "to",
                match handed.authenticated {
                    0 => "without proof of the other side's identity",
                    _ => "without that proof",
                },
            ),
        };
        let all = plural(handed.all, verbs.0, verbs.1);
        if handed.all == 0 {
            return format!("No {}.", verbs.0);
        }
        if handed.all == handed.authenticated {
            return format!("{all}, every one over TLS {way} a party that proved its identity.");
        }
        let parts = [
            (
                handed.authenticated,
                format!("over TLS {way} a party that proved its identity"),
            ),
            (handed.encrypted, format!("over TLS {unasked}")),
            (handed.clear, "in the clear".into()),
        ];
        let parts = parts.iter().filter(|(number, _)| *number > 0);
        let parts: Vec<_> = parts
            .map(|(number, how)| format!("{} {how}", grouped(*number)))
            .collect();
        format!("{all}: {}.", parts.join(", "))
    }

    fn over_time(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(span) = &self.gathered.span else {
            return Ok(());
        };
        let kinds = [(AUTHENTICATED, "good"), (ENCRYPTED, "c2"), (CLEAR, "warn")];
        let series: Vec<Series> = kinds
            .iter()
            .map(|(name, class)| ((*name).to_owned(), *class))
            .collect();
        let bars = Bars::new(span, &self.gathered.hours, |hour| &hour.protections);
        write!(
            f,
            "<section>\n<h2>Over time</h2>\n<figure><figcaption>Messages, by {} (UTC){}</figcaption>\n{}</figure>\n",
            bars.unit(),
            legend(&kinds),
            bars.svg("Messages by protection", &series, "quiet")
        )?;
        if !self.gathered.reasons.is_empty() {
            let series = self.reasons();
            let bars = Bars::new(span, &self.gathered.hours, |hour| &hour.reasons);
            let mut named: Vec<(&str, &str)> = series
                .iter()
                .map(|(name, class)| (name.as_str(), *class))
                .collect();
            if self.gathered.reasons.len() > series.len() {
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
        f.write_str("</section>\n")
    }

    /// The most frequent reasons, each with its colour.
    fn reasons(&self) -> Vec<Series> {
        let classes = ["stop", "c1", "c4", "c2", "c3"];
        by_number(&self.gathered.reasons)
            .into_iter()
            .zip(classes)
            .map(|((word, _), class)| (word.clone(), class))
            .collect()
    }

    fn how(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let gathered = self.gathered;
        f.write_str("<section>\n<h2>How it was protected</h2>\n<div class=\"columns\">\n")?;
        for (title, tally) in [
            ("Protection, by message", &gathered.protections),
            ("Verdict, by message", &gathered.verdicts),
            ("TLS version, by message", &gathered.tls_versions),
            ("Level, by message and domain", &gathered.levels),
            ("Where the level comes from", &gathered.bases),
            ("Key exchange group, by message", &gathered.groups),
            ("Cipher suite, by message", &gathered.suites),
        ] {
            f.write_str(&shares(title, tally, &colour))?;
        }
        f.write_str("</div>\n</section>\n")
    }

    fn domains(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let messages = |domain: &Domain| domain.protections.values().sum::<u64>();
        let mut domains: Vec<_> = self.gathered.domains.iter().collect();
        domains.sort_by_key(|(_, domain)| std::cmp::Reverse(messages(domain)));
        f.write_str("<section>\n<h2>By domain</h2>\n")?;
        if domains.is_empty() {
            return f.write_str(
                "<p class=\"quiet\">No message and no decision in this period.</p>\n</section>\n",
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
                Text(name),
                grouped(all),
                if all == 0 {
                    "–".into()
                } else {
                    size(domain.octets)
                },
                percent(of(&domain.protections, AUTHENTICATED), all),
                cell(of(&domain.protections, ENCRYPTED), ""),
                cell(of(&domain.protections, CLEAR), "warn"),
                cell(domain.refused, "stop"),
                Text(&or_dash(list(&domain.levels))),
                Text(&or_dash(list(&domain.tls).replace("TLSv", ""))),
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
        f.write_str("</section>\n")
    }

    fn without_proof(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section>\n<h2>Without proof of identity</h2>\n<h3>Exemptions in force at the end of the period</h3>\n")?;
        if self.gathered.exemptions.is_empty() {
            f.write_str("<p class=\"quiet\">None.</p>\n")?;
        } else {
            f.write_str("<table class=\"wide\"><thead><tr><th>For</th><th>Level</th><th>Ends</th><th>Why</th><th>Where</th></tr></thead><tbody>\n")?;
            for exemption in &self.gathered.exemptions {
                writeln!(
                    f,
                    "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    Text(&exemption.entry),
                    Text(&exemption.level),
                    self.ends(exemption.until.as_deref()),
                    Text(exemption.reason.as_deref().unwrap_or("–")),
                    Text(&exemption.rule)
                )?;
            }
            f.write_str("</tbody></table>\n")?;
        }
        f.write_str("<h3>What they were used for</h3>\n")?;
        if self.gathered.unprotected.is_empty() {
            let handed = self.handed();
            let none = if self.gathered.observed_messages > 0 {
                "No rule was used: what went without it was only observed, as the section before says."
            } else if handed.all == handed.authenticated {
                "Nothing: no message went without it."
            } else {
                "No rule was used: a client from the world is asked for proof only where a rule says so."
            };
            return writeln!(f, "<p class=\"quiet\">{none}</p>\n</section>");
        }
        f.write_str("<table class=\"wide\"><thead><tr><th>Domain or address</th><th class=\"n\">Messages</th><th class=\"n\">Sessions</th><th>Level</th><th>Rule</th><th>Ends</th><th>Why</th><th>Last</th></tr></thead><tbody>\n")?;
        for ((rule, domain), used) in &self.gathered.unprotected {
            writeln!(
                f,
                "<tr><th scope=\"row\">{}</th><td class=\"n warn\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"when\">{}</td></tr>",
                Text(domain),
                grouped(used.messages),
                grouped(used.sessions.len() as u64),
                Text(&used.level),
                Text(rule),
                self.ends(used.until.as_deref()),
                Text(used.why.as_deref().unwrap_or("–")),
                day(&used.last)
            )?;
        }
        f.write_str("</tbody></table>\n</section>\n")
    }

    /// An end date, and how far off it is on the day the page is made.
    fn ends(&self, until: Option<&str>) -> String {
        let Some(until) = until else {
            return "<span class=\"badge warn\">no end</span>".into();
        };
        let moment = |text: &str| text.strip_suffix('Z')?.parse::<DateTime>().ok();
        let (Some(end), Some(now)) = (
            moment(&format!("{}T23:59:59Z", day(until))),
            moment(&self.now),
        ) else {
            return Text(until).to_string();
        };
        match Duration::try_from(end.duration_since(now)).map(|left| left.as_secs() / 86_400) {
            Ok(0) => format!("{} <span class=\"badge warn\">today</span>", Text(until)),
            Ok(left) => format!(
                "{} <span class=\"badge\">{}</span>",
                Text(until),
                plural(left, "day left", "days left")
            ),
            Err(_) => format!("{} <span class=\"badge good\">over</span>", Text(until)),
        }
    }

    fn changes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section>\n<h2>Operation</h2>\n")?;
        let changes = &self.gathered.changes;
        if changes.is_empty() {
            return f.write_str(
                "<p class=\"quiet\">No start, stop or change in this period.</p>\n</section>\n",
            );
        }
        let shown = changes.len().min(50);
        f.write_str("<table class=\"wide\"><thead><tr><th>When (UTC)</th><th>What</th></tr></thead><tbody>\n")?;
        for (at, text) in &changes[changes.len() - shown..] {
            writeln!(
                f,
                "<tr><td class=\"when\">{}</td><td>{}</td></tr>",
                minute(at),
                Text(text)
            )?;
        }
        f.write_str("</tbody></table>\n")?;
        if changes.len() > shown {
            writeln!(
                f,
                "<p class=\"quiet\">The last {shown} of {}.</p>",
                grouped(changes.len() as u64)
            )?;
        }
        f.write_str("</section>\n")
    }

    fn standards(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<section>\n<h2>45 CFR 164.312, technical safeguards</h2>\n<p>What this log can show for each standard, and what must be shown by other means. It is evidence, not an assessment.</p>\n<table class=\"wide standards\"><thead><tr><th>Section</th><th>Standard</th><th>This log shows</th><th>It does not show</th></tr></thead><tbody>\n")?;
        for standard in &STANDARDS {
            writeln!(
                f,
                "<tr><th scope=\"row\">{}</th><td>{}<br><span class=\"quiet\">{}</span></td><td>{}</td><td>{}</td></tr>",
                standard.section, standard.name, standard.kind, standard.shown, standard.not_shown
            )?;
        }
        f.write_str("</tbody></table>\n</section>\n")
    }

    fn limits(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = self.examined.head;
        write!(
            f,
            "<section class=\"limits\">\n<h2>What this rests on</h2>\n<ul>\n\
             <li>The chain shows that no record was changed, taken out, put in or moved since it was written. Whoever holds the log's private key could write a new chain; a checkpoint kept on another machine shows that too.</li>\n\
             <li>That nothing was cut off the end is shown only as far as the newest checkpoint kept elsewhere (an anchor) reaches.</li>\n\
             <li>Times are those of the host's clock. Addresses are recorded in the form “{}”.</li>\n\
             <li>“Peer authenticated” means that the other side proved what the level demands: <i>verify</i> and <i>secure</i> a certificate of a trusted authority for the right name, <i>dane</i> a match with DNSSEC-signed records, <i>fingerprint</i> a listed certificate. “Encrypted only” is TLS with whoever answered, or called.</li>\n\
             </ul>\n<p>To check it yourself, with the files of the log and its public key:</p>\n\
             <pre>starttls-proxy audit verify FILE... --key KEY.pub --anchor {}:{}</pre>\n</section>\n",
            Text(&or_dash(self.gathered.addresses.clone())),
            head.size,
            head.hash
        )
    }
}

/// A number in a table: coloured by `class`, or quiet if it is 0.
fn cell(number: u64, class: &str) -> String {
    let class = if number == 0 { "quiet" } else { class };
    format!("<td class=\"n {class}\">{}</td>", grouped(number))
}

pub(super) fn or_dash(text: String) -> String {
    if text.is_empty() { "–".into() } else { text }
}

fn legend(entries: &[(&str, &str)]) -> String {
    entries.iter().fold(String::new(), |mut legend, (name, class)| {
        let _ = write!(legend, " <span class=\"key\"><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"10\" height=\"10\" rx=\"2\"/></svg>{}</span>", Text(name));
        legend
    })
}
