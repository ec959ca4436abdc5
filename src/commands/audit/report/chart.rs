//! Bar charts over time, and tables of shares, as inline SVG.

use super::{
    counts::HourCounts,
    html::{Escaped, percent},
    tally::Tally,
};
use crate::commands::audit::quantity::grouped;
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

const WIDTH: u64 = 960;
const HEIGHT: u64 = 190;
const LEFT: u64 = 52;
const BOTTOM: u64 = 26;
const TOP: u64 = 10;

/// One kind of event that is stacked in the bars: its name, and the class that colours it.
pub(super) type Series = (String, &'static str);

/// One part of a bar.
struct Part<'a> {
    name: &'a str,
    class: &'static str,
    number: u64,
}

/// Bars over time: hours, days or months, whichever gives a readable number of them.
pub(super) struct Bars {
    /// Octets of a time that name a bar: 13 for an hour, 10 for a day, 7 for a month.
    unit: usize,
    bars: BTreeMap<String, Tally>,
}

impl Bars {
    pub(super) fn new(
        span: &(String, String),
        hours: &BTreeMap<String, HourCounts>,
        of: impl Fn(&HourCounts) -> &Tally,
    ) -> Self {
        let (first, last) = (instant(&span.0), instant(&span.1));
        let days = last.duration_since(first).unwrap_or_default().as_secs() / 86_400;
        let unit = match days {
            0..=2 => 13,
            3..=92 => 10,
            _ => 7,
        };
        let step = if unit == 13 { 3600 } else { 86_400 };
        let mut bars = BTreeMap::new();
        let mut at = first;
        while at < last {
            bars.insert(crate::audit::timestamp(at)[..unit].to_owned(), Tally::new());
            at += Duration::from_secs(step);
        }
        bars.entry(span.1[..unit].to_owned()).or_default();
        for (hour, counted) in hours {
            let bar: &mut Tally = bars.entry(hour[..unit].to_owned()).or_default();
            for (word, number) in of(counted) {
                *bar.entry(word.clone()).or_default() += number;
            }
        }
        Self { unit, bars }
    }

    pub(super) fn unit(&self) -> &'static str {
        match self.unit {
            13 => "hour",
            10 => "day",
            _ => "month",
        }
    }

    /// The chart; words that no series names are stacked under `rest`.
    pub(super) fn svg(&self, label: &str, series: &[Series], rest: &'static str) -> String {
        let stacks = self
            .bars
            .iter()
            .map(|(bar, tally)| (bar, stack(tally, series, rest)));
        let stacks: Vec<(&String, Vec<Part<'_>>)> = stacks.collect();
        let total = |tally: &Tally| tally.values().sum::<u64>();
        let most = self.bars.values().map(total).max().unwrap_or(0);
        let top = ceiling(most);
        let (plot, width) = (HEIGHT - BOTTOM - TOP, WIDTH - LEFT);
        let mut svg = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            Escaped(label)
        );
        for quarter in 0..=2 {
            let y = TOP + plot - plot * quarter / 2;
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/><text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                LEFT - 8,
                y + 4,
                grouped(top * quarter / 2)
            );
        }
        let number = stacks.len().max(1) as u64;
        // At most eleven bars get a tick.
        let every = number.div_ceil(11);
        for (place, (bar, stack)) in (0..).zip(&stacks) {
            let x = LEFT + width * place / number;
            let next = LEFT + width * (place + 1) / number;
            let gap = if next - x > 5 { (next - x) / 5 } else { 0 };
            let wide = (next - x - gap).clamp(1, 44);
            let mut y = (TOP + plot) as f64;
            for part in stack.iter().filter(|part| part.number > 0) {
                let high = plot as f64 * part.number as f64 / top as f64;
                y -= high;
                let _ = writeln!(
                    svg,
                    "<rect class=\"{}\" x=\"{}\" y=\"{y:.1}\" width=\"{wide}\" height=\"{high:.1}\"><title>{} {}: {}</title></rect>",
                    part.class,
                    x + (next - x - wide) / 2,
                    bar.replace('T', " "),
                    Escaped(part.name),
                    grouped(part.number)
                );
            }
            if place % every == 0 {
                let _ = writeln!(
                    svg,
                    "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    (x + next) / 2,
                    HEIGHT - 8,
                    self.tick(bar)
                );
            }
        }
        svg + "</svg>\n"
    }

    fn tick(&self, bar: &str) -> String {
        match self.unit {
            13 => format!("{}:00", &bar[11..]),
            10 => bar[5..].to_owned(),
            _ => bar.to_owned(),
        }
    }
}

fn stack<'a>(tally: &Tally, series: &'a [Series], rest: &'static str) -> Vec<Part<'a>> {
    let named = series.iter().map(|(name, class)| Part {
        name,
        class,
        number: tally.get(name).copied().unwrap_or_default(),
    });
    let mut stack: Vec<_> = named.collect();
    let all: u64 = tally.values().sum();
    stack.push(Part {
        name: "other",
        class: rest,
        number: all - stack.iter().map(|part| part.number).sum::<u64>(),
    });
    stack
}

/// The least of 2, 4, 10, 20, 40, 100, ... that is not below `number`: half of it is a whole number too.
fn ceiling(number: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for factor in [2, 4, 10] {
            let top = power.saturating_mul(factor);
            if top >= number {
                return top;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn instant(at: &str) -> SystemTime {
    at.parse::<Timestamp>().unwrap_or_default().into()
}

/// A table of shares of a whole: one row each, with a bar.
pub(super) fn shares(title: &str, tally: &Tally, classes: &dyn Fn(&str) -> &'static str) -> String {
    let whole: u64 = tally.values().sum();
    let mut rows: Vec<_> = tally.iter().collect();
    rows.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let mut table = format!(
        "<table class=\"shares\"><caption>{}</caption><tbody>\n",
        Escaped(title)
    );
    for (word, number) in &rows {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th><td class=\"bar\"><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"track\" width=\"100\" height=\"8\"/><rect class=\"{}\" width=\"{:.2}\" height=\"8\"/></svg></td><td class=\"n\">{}</td><td class=\"n share\">{}</td></tr>",
            Escaped(word),
            classes(word),
            **number as f64 * 100.0 / whole.max(1) as f64,
            grouped(**number),
            percent(**number, whole)
        );
    }
    if rows.is_empty() {
        table += "<tr><td class=\"quiet\">–</td></tr>\n";
    }
    table + "</tbody></table>\n"
}

/// A key to the colours of a chart.
pub(super) fn legend(entries: &[(&str, &str)]) -> String {
    entries.iter().fold(String::new(), |mut legend, (name, class)| {
        let _ = write!(legend, " <span class=\"key\"><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"10\" height=\"10\" rx=\"2\"/></svg>{}</span>", Escaped(name));
        legend
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number_not_below_the_highest_bar() {
        for (number, top) in [
            (0, 2),
            (1, 2),
            (3, 4),
            (5, 10),
            (10, 10),
            (11, 20),
            (399, 400),
            (401, 1000),
        ] {
            assert_eq!(ceiling(number), top);
        }
    }

    #[test]
    fn bars_stand_for_every_hour_day_or_month_also_those_without_anything() {
        let bars = |first: &str, last: &str| {
            let span = (format!("{first}.000000Z"), format!("{last}.000000Z"));
            let bars = Bars::new(&span, &BTreeMap::new(), |hour| &hour.protections);
            bars.bars.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(
            bars("2026-11-24T06:59:59", "2026-11-24T08:00:00"),
            ["2026-11-24T06", "2026-11-24T07", "2026-11-24T08"]
        );
        assert_eq!(bars("2026-02-27T23:00:00", "2026-03-02T23:30:00").len(), 4);
        assert_eq!(bars("2026-01-31T00:00:00", "2027-01-01T00:00:00").len(), 13);
    }
}
