//! The tables, in Markdown that can be read as it is.

use super::{ADDED, Column, Report, adds_tls, number};
use crate::rows::Row;

/// The figures of the short table.
const SUMMARY: [&str; 10] = [
    "cold session, 200 at once: CPU ms",
    "cold session, 200 at once: sessions/s",
    ADDED,
    "one message: p50 ms",
    "one message: CPU µs",
    "messages in 16 sessions: messages/s",
    "messages in 16 sessions: CPU µs",
    "bulk: CPU s/GB",
    "bulk: MB/s",
    "idle session: RSS KiB",
];

/// All figures, and what a reader must know of the run.
pub fn all(report: &Report) -> String {
    let mut names: Vec<&str> = Vec::new();
    for figure in &report.figures {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let mut text = both(report, &names);
    text.push_str(&run(report));
    for column in report
        .variants
        .iter()
        .filter(|column| !column.version.is_empty())
    {
        text.push_str(&format!("- {}: {}\n", column.name, column.version));
    }
    for note in &report.notes {
        text.push_str(&format!("- {}\n", note.replace('\n', " ")));
    }
    text
}

/// The figures that README.md has.
pub fn summary(report: &Report) -> String {
    let known = |name: &&str| report.figures.iter().any(|figure| figure.name == **name);
    let names: Vec<&str> = SUMMARY.into_iter().filter(known).collect();
    both(report, &names) + &run(report)
}

fn run(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "{} UTC, {} cores ({}), Linux {}; best of {} rounds, in 16 sessions of {}; load average {:.2} before, {:.2} after.\n\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.kernel,
        report.rounds,
        Row::Messages.rounds(report.rounds),
        report.load.0,
        report.load.1
    )
}

/// A table for each direction.
fn both(report: &Report, names: &[&str]) -> String {
    [("outbound", true), ("inbound", false)]
        .map(|(direction, is_outbound)| {
            let columns: Vec<&Column> = report
                .variants
                .iter()
                .filter(|column| column.is_outbound == is_outbound && adds_tls(&column.name))
                .chain(
                    report
                        .variants
                        .iter()
                        .filter(|column| !adds_tls(&column.name)),
                )
                .collect();
            if columns.iter().all(|column| !adds_tls(&column.name)) && !is_outbound {
                return String::new();
            }
            table(report, direction, &columns, names)
        })
        .concat()
}

fn table(report: &Report, direction: &str, columns: &[&Column], names: &[&str]) -> String {
    let mut lines = vec![vec![direction.to_owned()]];
    lines[0].extend(columns.iter().map(|column| title(&column.name)));
    for name in names {
        let values: Vec<String> = columns
            .iter()
            .map(|column| {
                report
                    .value(name, &column.name)
                    .map(number)
                    .unwrap_or_default()
            })
            .collect();
        // A figure of one of the variants that are in this table.
        let has_own = columns
            .iter()
            .zip(&values)
            .any(|(column, value)| adds_tls(&column.name) && !value.is_empty());
        if has_own || columns.len() == 1 {
            lines.push([vec![(*name).to_owned()], values].concat());
        }
    }
    let width = |at: usize| {
        lines
            .iter()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
            .max(4)
    };
    let widths: Vec<usize> = (0..=columns.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        text.push_str(&format!("| {:1$} |", line[0], widths[0]));
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            text.push_str(&format!(" {cell:>width$} |"));
        }
        text.push('\n');
        if number == 0 {
            text.push_str(&format!("| {} |", "-".repeat(widths[0])));
            for width in &widths[1..] {
                text.push_str(&format!(" {}: |", "-".repeat(width - 1)));
            }
            text.push('\n');
        }
    }
    text + "\n"
}

/// Without the direction, which the table has.
fn title(name: &str) -> String {
    name.trim_end_matches(" out")
        .trim_end_matches(" in")
        .to_owned()
}
