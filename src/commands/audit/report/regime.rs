//! A set of rules that an auditor goes through clause by clause, and how the page answers it.

use super::{
    command::Commands,
    counts::Counts,
    figures::{Figure, FigureValue},
    html::{END_FOLD, Escaped, begin_fold},
};
use crate::commands::audit::quantity::grouped;
use std::fmt::{self, Formatter};

/// A law, standard or guideline.
pub(super) struct Regime {
    /// Its word for `--regime`.
    pub(super) word: &'static str,
    pub(super) title: &'static str,
    /// Whom it binds, and what must be known to read the rest.
    pub(super) about: &'static str,
    pub(super) clauses: &'static [Clause],
    /// Where the facts are from, and what could not be confirmed there.
    pub(super) sources: &'static [&'static str],
}

/// One clause. All words are our own; nothing is quoted.
pub(super) struct Clause {
    pub(super) number: &'static str,
    pub(super) name: &'static str,
    /// What the clause asks for.
    pub(super) asks: &'static str,
    pub(super) figures: &'static [&'static Figure],
    /// Anchors of sections of the page that say more, with their names.
    pub(super) see: &'static [(&'static str, &'static str)],
    pub(super) not_shown: &'static str,
}

pub(super) const CERTIFICATES: (&str, &str) = ("certificates", "Certificates of peers");
pub(super) const TRUST: (&str, &str) = ("trust", "Trusted keys and certificates");
pub(super) const EXEMPTIONS: (&str, &str) = ("exemptions", "Without proof of identity");
pub(super) const REFUSALS: (&str, &str) = ("refused", "Refused");
pub(super) const ANCHORS: (&str, &str) = ("anchors", "Anchors, breaks and outages");
pub(super) const OPERATION: (&str, &str) = ("operation", "Operation");
pub(super) const DOMAINS: (&str, &str) = ("domains", "By domain");
pub(super) const LIMITS: (&str, &str) = ("limits", "What this rests on");

/// Writes the section. `intact`: all logs are.
pub(super) fn regime(
    f: &mut Formatter<'_>,
    regime: &Regime,
    counts: &Counts,
    commands: &Commands,
    intact: bool,
    open: bool,
) -> fmt::Result {
    begin_fold(f, regime.word, regime.title, open)?;
    writeln!(
        f,
        "<p>{}</p>\n<p class=\"quiet\">These are figures from this log, with the command that repeats each. They are evidence, not an assessment: whether they suffice is for the assessor to say.</p>",
        Escaped(regime.about)
    )?;
    if !intact {
        f.write_str("<p><strong>The log is not intact.</strong> The figures count only the records that are surely as they were written. The commands count all that is there, so they can give more.</p>\n")?;
    }
    for clause in regime.clauses {
        writeln!(
            f,
            "<article class=\"clause\">\n<h3><span class=\"number\">{}</span> {}</h3>\n<p><strong>Asks:</strong> {}</p>",
            Escaped(clause.number),
            Escaped(clause.name),
            Escaped(clause.asks)
        )?;
        if !clause.figures.is_empty() {
            f.write_str("<ul class=\"figures\">\n")?;
            for figure in clause.figures {
                row(
                    f,
                    figure,
                    figure.value(&counts.figures, &counts.inventory, intact),
                    &figure.command(commands),
                )?;
            }
            f.write_str("</ul>\n")?;
        }
        see(f, clause.see)?;
        writeln!(
            f,
            "<p class=\"not\"><strong>Not shown:</strong> {}</p>\n</article>",
            Escaped(clause.not_shown)
        )?;
    }
    f.write_str("<p class=\"sources\">Sources:</p>\n<ul class=\"sources\">\n")?;
    for source in regime.sources {
        writeln!(f, "<li>{}</li>", Escaped(source))?;
    }
    f.write_str("</ul>\n")?;
    f.write_str(END_FOLD)
}

fn see(f: &mut Formatter<'_>, sections: &[(&str, &str)]) -> fmt::Result {
    if sections.is_empty() {
        return Ok(());
    }
    let links = sections.iter();
    let links: Vec<String> = links
        .map(|(anchor, name)| format!("<a href=\"#{anchor}\">{name}</a>"))
        .collect();
    writeln!(f, "<p class=\"see\">More: {}</p>", links.join(", "))
}

/// A figure with its command.
fn row(f: &mut Formatter<'_>, figure: &Figure, value: FigureValue, command: &str) -> fmt::Result {
    let (machine, people) = match value {
        FigureValue::Number(number) => (number.to_string(), grouped(number)),
        FigureValue::AtLeast(number) => (format!("{number}+"), format!("≥ {}", grouped(number))),
        FigureValue::Fact(true) => ("yes".into(), "yes".into()),
        FigureValue::Fact(false) => ("no".into(), "NO".into()),
    };
    writeln!(
        f,
        "<li><data value=\"{machine}\">{people}</data><div>{}<code class=\"command\">{}</code></div></li>",
        Escaped(figure.words),
        Escaped(command)
    )
}
