//! The page as a whole.

use super::{
    breaks::anchors_and_breaks,
    command::Commands,
    counts::Counts,
    exempted::without_proof,
    html::{Escaped, day, list, minute, or_dash},
    inventory::inventory,
    observing::observe_box,
    protection::{domains, over_time, protection},
    refused::{observed, refusals},
    regime::{Regime, regime},
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
    pub(super) commands: &'a Commands,
    /// Which sets of rules the page answers.
    pub(super) regimes: Vec<&'static Regime>,
    /// Whose mail it is about, and for whom the page is made, as given.
    pub(super) organisation: Option<&'a str>,
    pub(super) auditor: Option<&'a str>,
}

impl ReportPage<'_> {
    /// All logs are.
    pub(super) fn is_intact(&self) -> bool {
        self.logs.iter().all(Verification::intact)
    }
}

impl Display for ReportPage<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            logs,
            counts,
            own_key,
            now,
            commands,
            regimes,
            ..
        } = self;
        let names: BTreeSet<String> = logs.iter().map(name).collect();
        let names = list(&names);
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>Mail transmission report: {}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n",
            Escaped(&names),
            include_str!("style.css"),
            self.paper(&names)
        )?;
        self.heading(f, &names)?;
        f.write_str("<main>\n")?;
        let would_refuse = counts.observed.values().map(|one| one.number).sum();
        observe_box(f, &counts.observing, would_refuse, counts.observed_messages)?;
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
        inventory(f, &counts.inventory, now)?;
        anchors_and_breaks(f, logs, &counts.outages)?;
        operation(f, counts)?;
        for one in regimes {
            regime(
                f,
                one,
                counts,
                commands,
                self.is_intact(),
                regimes.len() == 1,
            )?;
        }
        limits(f, logs, counts)?;
        f.write_str("</main>\n</body>\n</html>\n")
    }
}

impl ReportPage<'_> {
    fn heading(&self, f: &mut Formatter<'_>, names: &str) -> fmt::Result {
        let counts = self.counts;
        let span = counts.span.as_ref();
        let (first, last) = span.map_or(("–", "–"), |(first, last)| (day(first), day(last)));
        write!(
            f,
            "<header>\n<p class=\"kicker\">Mail transmission report</p>\n<h1>{}</h1>\n\
             <p class=\"period\"><time>{first}</time> to <time>{last}</time></p>\n<dl class=\"meta\">",
            direction(counts)
        )?;
        for (name, value) in [
            ("Organisation", self.organisation.map(str::to_owned)),
            ("Made for", self.auditor.map(str::to_owned)),
            ("Log", Some(names.to_owned())),
            ("Host", Some(or_dash(list(&counts.hosts)))),
            (
                "Program",
                Some(format!("starttls-proxy {}", list(&counts.versions))),
            ),
            ("Report made", Some(format!("{} UTC", minute(&self.now)))),
        ] {
            let Some(value) = value else { continue };
            let value = Escaped(&value);
            write!(f, "<div><dt>{name}</dt><dd>{value}</dd></div>")?;
        }
        f.write_str("</dl>\n<nav>")?;
        for one in &self.regimes {
            let title = one
                .title
                .split(&[':', ',', '('][..])
                .next()
                .unwrap_or(one.title);
            write!(f, "<a href=\"#{}\">{}</a>", one.word, Escaped(title.trim()))?;
        }
        f.write_str("</nav>\n</header>\n")
    }

    /// What stands at the top and the bottom of each printed page.
    fn paper(&self, names: &str) -> String {
        let span = self.counts.span.as_ref();
        let span = span.map_or_else(String::new, |(first, last)| {
            format!("{} to {}", day(first), day(last))
        });
        let whose = self.organisation.unwrap_or(names);
        let auditor = self.auditor.map(|auditor| format!("Made for {auditor}"));
        format!(
            "@page {{\n  @top-left {{ content: {}; }}\n  @top-right {{ content: {}; }}\n  @bottom-left {{ content: {}; }}\n}}\n",
            CssText(&format!("Mail transmission report · {whose}")),
            CssText(&span),
            CssText(&auditor.unwrap_or_else(|| names.to_owned()))
        )
    }
}

fn direction(counts: &Counts) -> &'static str {
    match list(&counts.directions).as_str() {
        "outbound" => "Mail sent to the outside",
        "inbound" => "Mail received from the outside",
        _ => "Mail",
    }
}

/// Text as a string of a style sheet that stands in a page. Everything but letters, digits and spaces is escaped, so that it can end
/// neither the string nor the style sheet.
struct CssText<'a>(&'a str);

impl Display for CssText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for letter in self.0.chars() {
            match letter {
                ' ' => f.write_str(" ")?,
                _ if letter.is_alphanumeric() => write!(f, "{letter}")?,
                _ => write!(f, "\\{:x} ", u32::from(letter))?,
            }
        }
        f.write_str("\"")
    }
}

fn operation(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    f.write_str("<section id=\"operation\">\n<details class=\"fold\" open><summary><h2>Operation</h2></summary>\n")?;
    let changes = &counts.changes;
    if changes.is_empty() {
        return f.write_str(
            "<p class=\"quiet\">No start, stop or change in this period.</p>\n</details>\n</section>\n",
        );
    }
    let shown = changes.len().min(CHANGES);
    f.write_str(
        "<table class=\"wide\"><thead><tr><th>When (UTC)</th><th>What</th></tr></thead><tbody>\n",
    )?;
    for change in changes.iter().skip(changes.len() - shown) {
        writeln!(
            f,
            "<tr><td class=\"when\">{}</td><td>{}</td></tr>",
            minute(&change.at),
            Escaped(&change.text)
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
    f.write_str("</details>\n</section>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_end_the_style_sheet_that_holds_it() {
        let hostile = CssText("a \"</style>\\").to_string();
        assert_eq!(hostile, r#""a \22 \3c \2f style\3e \5c ""#);
    }
}
