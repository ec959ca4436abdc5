//! What the demo prints: 80 columns, two links side by side, time running down. Colour is used only on a terminal that wants it.

use crate::wire::{Crossing, Link, Seen, Speaker};
use std::io::IsTerminal;

/// Width of a column, and of the page.
const COLUMN: usize = 38;
const PAGE: usize = 2 * COLUMN + 4;

pub struct Page {
    colour: bool,
    /// Expectations that were not met.
    pub failures: usize,
}

#[derive(Clone, Copy)]
enum Paint {
    Bold,
    Dim,
    Clear,
    Sealed,
    Good,
    Bad,
}

impl Page {
    pub fn new() -> Self {
        Self {
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            failures: 0,
        }
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Clear => "33",
            Paint::Sealed => "36",
            Paint::Good => "32",
            Paint::Bad => "1;31",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn title(&self, title: &str, words: &str) {
        println!("{}\n", self.paint(Paint::Bold, title));
        print(words);
    }

    pub fn chapter(&self, title: &str, words: &str) {
        println!("\n{}", self.paint(Paint::Dim, &"-".repeat(PAGE)));
        println!("{}\n", self.paint(Paint::Bold, title));
        print(words);
        println!();
    }

    /// The link on which the client is stands left: mail goes from left to right.
    pub fn wire(&self, left: Link, crossings: &[Crossing]) {
        let head = |link| match link {
            Link::Inside => "inside link, in the clear",
            Link::Outside => "outside link",
        };
        let right = if left == Link::Inside {
            Link::Outside
        } else {
            Link::Inside
        };
        let rule = "-".repeat(COLUMN);
        let heads = format!(
            "{:COLUMN$}    {}\n{rule}    {rule}",
            head(left),
            head(right)
        );
        println!("{}", self.paint(Paint::Dim, &heads));
        let mut crossings = crossings.iter().peekable();
        while let Some(crossing) = crossings.next() {
            let arrow = match crossing.speaker {
                Speaker::Client => ">",
                Speaker::Server => "<",
            };
            let (paint, text) = match &crossing.seen {
                Seen::Line(line) => (Paint::Clear, format!("{arrow} {line}")),
                Seen::Record(what, len) => {
                    let mut octets = *len;
                    while let Some(next) = crossings.next_if(|next| continues(next, crossing)) {
                        if let Seen::Record(_, len) = next.seen {
                            octets += len;
                        }
                    }
                    (
                        Paint::Sealed,
                        format!("{arrow} TLS {what}, {octets} octets"),
                    )
                }
            };
            for piece in fold(&text, COLUMN) {
                self.row(crossing.link == left, paint, &piece);
            }
        }
        println!();
    }

    fn row(&self, left: bool, paint: Paint, text: &str) {
        let indent = if left { 0 } else { COLUMN + 4 };
        println!("{}{}", " ".repeat(indent), self.paint(paint, text));
    }

    /// What the proxy logged of its verdicts and of messages.
    pub fn log(&self, lines: &[String]) {
        let telling = |line: &&String| line.contains(" verdict=") || line.contains(" message=");
        for line in lines.iter().filter(telling) {
            self.quote(&format!("log: {line}"));
        }
    }

    /// Prints words of the program, set to the width of the page.
    pub fn quote(&self, text: &str) {
        for line in text.lines() {
            for piece in fold(line, PAGE) {
                println!("{}", self.paint(Paint::Dim, &piece));
            }
        }
        println!();
    }

    /// Prints an expectation and whether it was met.
    pub fn expect(&mut self, met: bool, what: &str) {
        if met {
            println!("{} {what}", self.paint(Paint::Good, "  ok "));
        } else {
            self.failures += 1;
            println!("{} {what}", self.paint(Paint::Bad, "  NO "));
        }
    }
}

/// The same kind of record in the same direction of the same link.
fn continues(next: &Crossing, first: &Crossing) -> bool {
    match (&next.seen, &first.seen) {
        (Seen::Record(next_kind, _), Seen::Record(kind, _)) => {
            next_kind == kind && next.link == first.link && next.speaker == first.speaker
        }
        _ => false,
    }
}

/// A line in pieces of at most `width`, broken at spaces where there are some; all but the first are indented.
fn fold(text: &str, width: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest: Vec<char> = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    while rest.len() > width {
        let at = rest[..=width]
            .iter()
            .rposition(|c| *c == ' ')
            .filter(|at| *at > 4)
            .unwrap_or(width);
        pieces.push(rest[..at].iter().collect());
        let next = rest[at..].iter().skip_while(|c| **c == ' ');
        rest = "    ".chars().chain(next.copied()).collect();
    }
    pieces.push(rest.into_iter().collect());
    pieces
}

/// Prints prose, set to the width of the page.
fn print(words: &str) {
    let mut line = String::new();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > PAGE {
            println!("{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("{line}");
}
