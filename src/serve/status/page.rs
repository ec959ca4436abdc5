//! The page for people: what passes now, the last refusals with what to do about each, certificates, limits.
//!
//! Strangers choose names in certificates, domains and replies, so each text is escaped, and the page allows the browser nothing but
//! its own style: no script, no picture, no frame, no form. Written by hand, because it has a dozen elements.

use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;

use super::{
    super::Direction,
    advice,
    evidence::{anchor_gap, event_of_log},
    moment::{UtcTime, at},
    state::{ServedState, certificates, table, table_ends},
};
use crate::{
    VERSION, clock,
    html::Escaped,
    metrics::{self, RefusedRow},
    tls::Date,
};

const STYLE: &str = include_str!("style.css");
/// Own certificates and lines of the table that end within this time are marked.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What the browser may do with the page: show it in its own style, and nothing else.
pub(super) fn content_security_policy() -> String {
    let style = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page as of now.
pub(super) fn page(state: &ServedState) -> String {
    let (direction, now) = (state.direction(), clock::wall());
    let look = Look {
        state,
        direction: &direction,
        now,
    };
    let mut out = String::new();
    // A String takes whatever is written to it.
    let _ = look.write(&mut out);
    out
}

/// One look at the process.
struct Look<'a> {
    state: &'a ServedState,
    direction: &'a Direction,
    now: SystemTime,
}

impl Look<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        let host = self.state.hostname();
        let (word, host) = (self.direction.word(), Escaped(&host));
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{host} {word}: starttls-proxy</title><style>{STYLE}</style></head>\n<body>\
             <header><p class=\"kicker\">starttls-proxy {} {word}, {}</p><h1>{host}</h1>\n",
            VERSION,
            UtcTime(self.now),
        )?;
        self.verdict(out)?;
        self.evidence(out)?;
        out.push_str("</header>\n<main>\n");
        self.passes(out)?;
        self.refusals(out)?;
        self.ends(out)?;
        self.limits(out)?;
        out.push_str(
            "<p class=\"quiet\">Counters for Prometheus are at <a href=\"/metrics\">/metrics</a>.</p>\n</main></body></html>\n",
        );
        Ok(())
    }

    /// Whether mail passes, in one sentence.
    fn verdict(&self, out: &mut String) -> fmt::Result {
        let observing = self.direction.common().observe;
        match self.state.not_ready() {
            Some(why) => state(out, "stop", &format!("No new mail passes: {why}."))?,
            None if observing => {
                let words =
                    "Mail passes. Nothing is refused, because the proxy only observes (--observe).";
                state(out, "warn", words)?;
            }
            None => state(out, "good", "Mail passes, as far as the policy allows it.")?,
        }
        if let Some(found) = self.state.interception()
            && !found.alive
        {
            let since = found.since.map(at);
            let since = since.map_or_else(String::new, |at| format!(" since {}", UtcTime(at)));
            let words = format!(
                "The interception of port 25 is incomplete{since}. Look at `systemctl status starttls-proxy-routing`."
            );
            state(out, "stop", &words)?;
        }
        Ok(())
    }

    /// What was done to the audit log, and who does not vouch for it, as far as this process knows.
    fn evidence(&self, out: &mut String) -> fmt::Result {
        let common = self.direction.common();
        let Some(audit) = &common.audit else {
            return Ok(());
        };
        let file = audit.file().display().to_string();
        for event in common.metrics.evidence.events() {
            event_of_log(out, &event, &file)?;
        }
        for gap in common.metrics.evidence.gaps() {
            anchor_gap(out, &gap, self.now)?;
        }
        Ok(())
    }

    /// Until when others vouch for the log.
    fn vouched_for(&self) -> String {
        let metrics = &self.direction.common().metrics;
        let Some(last) = metrics.last_anchor().map(at) else {
            return "nobody is asked to (--audit-tsa, --audit-witness)".into();
        };
        match metrics.total(metrics::ANCHORS) {
            0 => format!(
                "not since this process began, {}; audit verify says what was before",
                UtcTime(last)
            ),
            _ => format!("until {}", UtcTime(last)),
        }
    }

    fn passes(&self, out: &mut String) -> fmt::Result {
        let common = self.direction.common();
        let metrics = &common.metrics;
        let [accepted, rejected, unknown] =
            ["accepted", "rejected", "unknown"].map(|word| metrics.get(metrics::MESSAGES, word));
        let last = metrics.last_message().map(at);
        let last = last.map_or_else(|| "none yet".into(), |at| UtcTime(at).to_string());
        let (sessions, clients) = (metrics.open_sessions(), self.state.limits().clients());
        let mut facts = Facts(String::from("<section><h2>What passes now</h2><dl>"));
        facts.fact("running since", &UtcTime(self.state.started()))?;
        facts.fact("mail goes", &self.way())?;
        facts.fact(
            "sessions open",
            &format!("{sessions}, of {clients} clients"),
        )?;
        if let Direction::Inbound(setup) = self.direction {
            let [places, running, waiting] = setup.handshakes.use_now();
            let words = format!("{running} of {places} places taken, {waiting} clients wait");
            facts.fact("handshakes", &words)?;
        }
        facts.fact(
            "messages",
            &format!("{accepted} accepted, {rejected} rejected by the server, {unknown} without an answer"),
        )?;
        facts.fact("last message accepted", &last)?;
        let verdict = |word| metrics.get(metrics::VERDICTS, word);
        facts.fact(
            "decisions",
            &format!(
                "{} authorised, {} unprotected, {} refused, {} only observed",
                verdict("authorised"),
                verdict("unprotected"),
                verdict("refused"),
                verdict("observed"),
            ),
        )?;
        let table = table(self.direction);
        let (all, applying) = (table.entries().len(), table.applying(self.now).count());
        facts.fact(
            "policy table",
            &format!("{all} lines, {} past their date", all - applying),
        )?;
        let (reload, took_effect) = metrics.last_reload();
        let mut words = reload
            .map(at)
            .map_or_else(String::new, |at| UtcTime(at).to_string());
        if !took_effect {
            words += "; the last reload failed, and the old configuration stays in force";
        }
        facts.fact("files read", &words)?;
        facts.fact("audit log", &self.audit_log())?;
        if self.direction.common().audit.is_some() {
            facts.fact("others vouch for it", &self.vouched_for())?;
        }
        let watched = match self.state.interception() {
            Some(found) if found.alive => "both locks on port 25 stand",
            Some(_) => "a lock on port 25 is gone",
            None => "not watched on this host",
        };
        facts.fact("interception", &watched)?;
        out.push_str(&facts.0);
        out.push_str("</dl></section>\n");
        Ok(())
    }

    fn way(&self) -> String {
        let to = self
            .direction
            .upstream()
            .map(|to| format!("to {}:{}", to.host, to.port));
        let how = match self.direction.common().intercept {
            Some(how) => format!("where the client meant to go ({how:?})").to_lowercase(),
            None => String::from("nowhere"),
        };
        let level = match self.direction {
            Direction::Outbound(setup) => format!(", level {}", setup.settings.level),
            Direction::Inbound(_) => String::new(),
        };
        to.unwrap_or(how) + &level
    }

    fn audit_log(&self) -> String {
        let Some(audit) = &self.direction.common().audit else {
            return String::from("none kept (--audit-log)");
        };
        let is = if audit.healthy() {
            "written"
        } else {
            "CANNOT BE WRITTEN"
        };
        let lag = audit.lag().as_secs_f64();
        let checkpoint = audit.last_checkpoint();
        let checkpoint = checkpoint.map_or_else(|| "none".into(), |at| UtcTime(at).to_string());
        format!(
            "{}: {is}, the oldest record that is not on disk is {lag:.1} s old; last checkpoint: {checkpoint}",
            audit.file().display()
        )
    }

    fn refusals(&self, out: &mut String) -> fmt::Result {
        out.push_str("<section><h2>Last refusals, and what to do</h2>");
        let rows = self.direction.common().metrics.refused.rows();
        if rows.is_empty() {
            out.push_str("<p>None since the start.</p>");
        }
        for row in &rows {
            refusal(out, row)?;
        }
        out.push_str("</section>\n");
        Ok(())
    }

    /// Certificates and lines of the table, and when they end.
    fn ends(&self, out: &mut String) -> fmt::Result {
        out.push_str("<section><h2>Certificates and lines that end</h2>");
        let certificates = certificates(self.direction);
        let ends = table_ends(self.direction, self.now);
        if certificates.is_empty() && ends.is_empty() {
            out.push_str("<p>None.</p></section>\n");
            return Ok(());
        }
        out.push_str(
            "<table><thead><tr><th>ends</th><th>what</th><th>where</th></tr></thead><tbody>",
        );
        for (file, facts) in certificates {
            let Date(seconds) = facts.not_after;
            let end = at(u64::try_from(seconds).unwrap_or_default());
            let what = format!("certificate of {}", facts.names_in_words());
            self.end(out, end, &what, &file.display().to_string())?;
        }
        for (entry, end) in ends {
            let place = format!("{}:{}", entry.file, entry.line);
            self.end(out, end, &format!("{} {}", entry.key, entry.level), &place)?;
        }
        out.push_str("</tbody></table></section>\n");
        Ok(())
    }

    fn end(&self, out: &mut String, end: SystemTime, what: &str, place: &str) -> fmt::Result {
        let left = end.duration_since(self.now).unwrap_or_default();
        let days = left.as_secs() / (24 * 3600);
        let class = match left {
            Duration::ZERO => "stop",
            left if left < SOON => "warn",
            _ => "",
        };
        write!(
            out,
            "<tr class=\"{class}\"><td class=\"when\">{}, in {days} days</td><td>{}</td><td>{}</td></tr>",
            UtcTime(end),
            Escaped(what),
            Escaped(place)
        )
    }

    fn limits(&self, out: &mut String) -> fmt::Result {
        let (sessions, of_one) = self.state.limits().most();
        write!(
            out,
            "<section><h2>Limits</h2><p>At most {sessions} sessions at once (<code>--max-sessions</code>), {of_one} of one client \
             (<code>--max-sessions-per-client</code>)."
        )?;
        if let Direction::Inbound(setup) = self.direction {
            let [places, ..] = setup.handshakes.use_now();
            write!(
                out,
                " At most {places} TLS handshakes at once (<code>--max-handshakes</code>)."
            )?;
        }
        out.push_str(
            "</p><table><thead><tr><th>turned away by</th><th class=\"n\">since the start</th></tr></thead><tbody>",
        );
        for (labels, count) in self
            .direction
            .common()
            .metrics
            .counters(metrics::TURNED_AWAY)
        {
            let why = labels.first().copied().unwrap_or_default();
            write!(
                out,
                "<tr><td>{}</td><td class=\"n\">{count}</td></tr>",
                Escaped(why)
            )?;
        }
        out.push_str("</tbody></table></section>\n");
        Ok(())
    }
}

fn state(out: &mut String, class: &str, words: &str) -> fmt::Result {
    writeln!(out, "<p class=\"state {class}\">{}</p>", Markdown(words))
}

fn refusal(out: &mut String, row: &RefusedRow) -> fmt::Result {
    let refused = &row.refused;
    let about = refused.domain.as_deref().unwrap_or("no domain known");
    let how = if refused.observed {
        ", only observed"
    } else {
        ""
    };
    let times = match row.times {
        1 => String::new(),
        times => format!(", {times} times"),
    };
    write!(
        out,
        "<div class=\"refusal\"><h3>{}: <code>{}</code></h3><p class=\"quiet\">{}{times}{how}, client {}</p><p><code>{}</code></p>",
        Escaped(about),
        Escaped(&refused.reason),
        UtcTime(row.last),
        row.client,
        Escaped(&refused.text),
    )?;
    match advice::about(&refused.reason, &refused.text) {
        Some(advice) => {
            write!(out, "<p>It means: {}.</p>", Markdown(advice.meaning))?;
            if !advice.to_do.is_empty() {
                write!(out, "<p>Do: {}.</p>", Markdown(advice.to_do))?;
            }
        }
        None => out.push_str("<p>The log and the record of the session say more.</p>"),
    }
    out.push_str("</div>");
    Ok(())
}

/// A list of facts.
struct Facts(String);

impl Facts {
    fn fact(&mut self, name: &str, value: &dyn fmt::Display) -> fmt::Result {
        let value = value.to_string();
        write!(
            self.0,
            "<dt>{}</dt><dd>{}</dd>",
            Escaped(name),
            Escaped(&value)
        )
    }
}

/// The manual's Markdown as HTML: code and emphasis.
struct Markdown<'a>(&'a str);

impl fmt::Display for Markdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split('`').enumerate() {
            if at % 2 == 1 {
                write!(f, "<code>{}</code>", Escaped(part))?;
                continue;
            }
            for (at, part) in part.split('*').enumerate() {
                match at % 2 {
                    1 => write!(f, "<em>{}</em>", Escaped(part))?,
                    _ => Escaped(part).fmt(f)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RefusedMail;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_refusal_is_shown_with_the_words_of_the_manual() {
        let mut out = String::new();
        let row = RefusedRow {
            refused: RefusedMail {
                reason: "certificate-host-mismatch".into(),
                domain: Some("clinic.example".into()),
                text: "421 4.7.5 clinic.example: mx1 not authenticated".into(),
                observed: false,
            },
            client: [10, 0, 0, 5].into(),
            last: at(1_764_362_646),
            times: 3,
        };
        refusal(&mut out, &row).expect("a String takes it");
        for part in [
            "clinic.example: <code>certificate-host-mismatch</code>",
            "2025-11-28 20:44:06 UTC, 3 times, client 10.0.0.5",
            "It means: a good certificate, for other names.",
            "<code>partner.example secure match=.hoster.example</code>",
        ] {
            assert!(out.contains(part), "{part}: {out}");
        }
    }

    #[test]
    fn what_strangers_chose_stays_text() {
        let hostile =
            "</code></style><script>alert(1)</script><img src=x onerror=alert(2)>`*\u{202e}";
        let row = RefusedRow {
            refused: RefusedMail {
                reason: hostile.into(),
                domain: Some(hostile.into()),
                text: hostile.into(),
                observed: true,
            },
            client: [10, 0, 0, 5].into(),
            last: UNIX_EPOCH,
            times: 1,
        };
        let mut out = String::new();
        refusal(&mut out, &row).expect("a String takes it");
        assert!(!out.contains("<script") && !out.contains("<img"), "{out}");
        assert_eq!(out.matches("&lt;script&gt;").count(), 3);
    }

    #[test]
    fn the_policy_allows_the_style_of_the_page_and_nothing_else() {
        let policy = content_security_policy();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains("script"),
            "{policy}"
        );
        assert!(!STYLE.contains("</") && !STYLE.contains("url("));
    }
}
