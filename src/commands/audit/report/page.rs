//! The page as a whole.

use super::{
    counts::Counts,
    exempted::without_proof,
    html::{Escaped, day, list, minute, or_dash},
    protection::{domains, over_time, protection},
    refused::{observed, refusals},
    standards::standards,
    state::{limits, state},
    summary::summary,
};
use crate::{
    audit::Verification,
    commands::audit::{quantity::grouped, verify::name},
};
use std::{
    collections::BTreeSet,
    fmt::{self, Display, Formatter},
};

/// Rows of the table of changes; older ones are left out.
const CHANGES: usize = 50;

/// Everything that the page shows.
pub(super) struct ReportPage<'a> {
    /// One, or those of several nodes.
    pub(super) logs: &'a [Verification],
    pub(super) counts: &'a Counts,
    /// The public key was given, not taken from the log.
    pub(super) own_key: bool,
    /// When the page is made, RFC 3339.
    pub(super) now: String,
}

impl Display for ReportPage<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            logs,
            counts,
            own_key,
            now,
        } = self;
        let names: BTreeSet<String> = logs.iter().map(name).collect();
        let names = list(&names);
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>Mail transmission report: {}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
            Escaped(&names),
            include_str!("style.css")
        )?;
        heading(f, &names, counts, now)?;
        f.write_str("<main>\n")?;
        for log in *logs {
            state(f, log, logs.len() > 1, *own_key)?;
        }
        summary(f, counts)?;
        over_time(f, counts)?;
        protection(f, counts)?;
        domains(f, counts)?;
        refusals(f, counts)?;
        observed(f, counts)?;
        without_proof(f, counts, now)?;
        operation(f, counts)?;
        standards(f)?;
        limits(f, logs, counts)?;
        f.write_str("</main>\n</body>\n</html>\n")
    }
}

fn heading(f: &mut Formatter<'_>, names: &str, counts: &Counts, now: &str) -> fmt::Result {
    let span = counts.span.as_ref();
    let (first, last) = span.map_or(("–", "–"), |(first, last)| (day(first), day(last)));
    let direction = match list(&counts.directions).as_str() {
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
        Escaped(names),
        Escaped(&or_dash(list(&counts.hosts))),
        Escaped(&list(&counts.versions)),
        minute(now)
    )
}

fn operation(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    f.write_str("<section>\n<h2>Operation</h2>\n")?;
    let changes = &counts.changes;
    if changes.is_empty() {
        return f.write_str(
            "<p class=\"quiet\">No start, stop or change in this period.</p>\n</section>\n",
        );
    }
    let shown = changes.len().min(CHANGES);
    f.write_str(
        "<table class=\"wide\"><thead><tr><th>When (UTC)</th><th>What</th></tr></thead><tbody>\n",
    )?;
    for (at, text) in &changes[changes.len() - shown..] {
        writeln!(
            f,
            "<tr><td class=\"when\">{}</td><td>{}</td></tr>",
            minute(at),
            Escaped(text)
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
