//! The picture for README.md: bars, ours beside the others. Plain SVG that is readable on a dark page and on a light one.

use super::{Report, number};

/// One field of the picture: its figure, its words, and the variants whose bars are drawn, if they were measured.
struct Panel {
    figure: &'static str,
    title: &'static str,
    hint: &'static str,
}

const PANELS: [Panel; 6] = [
    Panel {
        figure: "cold session, 200 at once: CPU ms",
        title: "A session with one message",
        hint: "CPU ms, less is better",
    },
    Panel {
        figure: "messages in 16 sessions: CPU µs",
        title: "One more message in a session",
        hint: "CPU µs, less is better",
    },
    Panel {
        figure: "bulk: CPU s/GB",
        title: "Bulk",
        hint: "CPU s per GB, less is better",
    },
    Panel {
        figure: "idle session: RSS KiB",
        title: "A session that waits",
        hint: "KiB of memory, less is better",
    },
    Panel {
        figure: "one session: p50 ms more than direct",
        title: "What a session takes longer",
        hint: "ms more than without a proxy, less is better",
    },
    Panel {
        figure: "messages in 16 sessions: messages/s",
        title: "Messages a second, 16 sessions",
        hint: "more is better",
    },
];
const VARIANTS: [&str; 8] = [
    "ours out",
    "hand-fed out",
    "stunnel out",
    "Postfix out",
    "ours in",
    "hand-fed in",
    "stunnel in",
    "nginx in",
];
const COLUMNS: usize = 2;
/// Sizes in units of the picture.
const PANEL: (usize, usize) = (430, 226);
const NAMES: usize = 96;
const BAR: usize = 240;
const LINE: usize = 20;

pub fn draw(report: &Report) -> String {
    let rows = PANELS.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * COLUMNS, PANEL.1 * rows + 30);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <title>What mail costs through starttls-proxy and other programs</title>\n\
         <style>\n\
         text {{ fill: #1f2328 }} .hint {{ fill: #636c76 }} .ours {{ fill: #0969da }} .hand {{ fill: #8c959f }} .other {{ fill: #d4a72c }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .hint {{ fill: #9198a1 }} .ours {{ fill: #4493f8 }} \
         .hand {{ fill: #6e7681 }} .other {{ fill: #bb8009 }} }}\n\
         </style>\n"
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let (x, y) = (
            number % COLUMNS * PANEL.0 + 10,
            number / COLUMNS * PANEL.1 + 20,
        );
        svg.push_str(&format!(
            "<text x=\"{x}\" y=\"{y}\" font-weight=\"600\" font-size=\"14\">{}</text>\n\
             <text x=\"{x}\" y=\"{}\" class=\"hint\">{}</text>\n",
            panel.title,
            y + 16,
            panel.hint
        ));
        bars(report, panel.figure, x, y + 24, &mut svg);
    }
    svg.push_str(&format!(
        "<text x=\"10\" y=\"{}\" class=\"hint\">hand-fed: rustls and sockets with nothing around them. {} cores, {}, best of {} rounds.</text>\n</svg>\n",
        height - 12,
        report.machine.cores,
        report.machine.date.split(' ').next().unwrap_or_default(),
        report.rounds
    ));
    svg
}

fn bars(report: &Report, figure: &str, x: usize, mut y: usize, svg: &mut String) {
    let values: Vec<(&str, f64)> = VARIANTS
        .into_iter()
        .filter_map(|variant| Some((variant, report.value(figure, variant)?)))
        .collect();
    let longest = longest(values.iter().map(|(_, value)| *value).collect());
    for (variant, value) in values {
        let class = match variant.split([' ', '-']).next() {
            Some("ours") => "ours",
            Some("hand") => "hand",
            _ => "other",
        };
        let (bar, is_cut) = if value > longest {
            (BAR as f64, true)
        } else {
            ((value / longest * BAR as f64).max(1.0), false)
        };
        let from = x + NAMES;
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{variant}</text>\
             <rect x=\"{from}\" y=\"{y}\" width=\"{bar:.1}\" height=\"{}\" rx=\"2\" class=\"{class}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}{}</text>\n",
            from - 6,
            y + 12,
            LINE - 5,
            from as f64 + bar + 5.0,
            y + 12,
            number(value),
            if is_cut { " (cut)" } else { "" }
        ));
        y += LINE;
    }
}

/// The value of the longest bar. A bar that would leave no room for the others is cut.
fn longest(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let limit = values
        .get(values.len() / 2)
        .map_or(1.0, |median| 5.0 * median);
    let is_drawn = |value: &&f64| **value <= limit;
    values
        .iter()
        .rev()
        .find(is_drawn)
        .copied()
        .unwrap_or(1.0)
        .max(f64::MIN_POSITIVE)
}
