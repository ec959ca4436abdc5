//! What came out, as a table to read, a picture, and a file with all rounds.

mod machine;
mod picture;
mod tables;

use crate::{
    Outcome, measure,
    peers::Variant,
    rows::{Bench, Values},
};
use machine::Machine;
use serde::Serialize;
use std::{fs, path::Path};

/// The file with everything.
#[derive(Serialize)]
pub struct Report {
    /// The command line.
    command: String,
    rounds: usize,
    machine: Machine,
    /// Load average of a minute before and after.
    load: (f64, f64),
    variants: Vec<Column>,
    figures: Vec<Figure>,
    notes: Vec<String>,
    /// Whether a variant could not do what it was asked.
    pub has_failures: bool,
}

/// A variant as the report knows it.
#[derive(Serialize)]
struct Column {
    name: String,
    is_outbound: bool,
    version: String,
    /// The command line that was measured.
    command: String,
}

/// One figure of one variant, all rounds in their order.
#[derive(Serialize)]
struct Figure {
    name: String,
    variant: String,
    /// What the tables show.
    value: f64,
    rounds: Vec<f64>,
}

/// The figure of a session, of which that of a session without a proxy is subtracted.
const SESSION: &str = "one session: p50 ms";
const ADDED: &str = "one session: p50 ms more than direct";

impl Report {
    pub fn begin(bench: &Bench, variants: &[Variant], missing: Vec<String>) -> Self {
        let mut notes = missing;
        if !bench.options.intercepts {
            notes.push("no network namespace: nothing was intercepted".into());
        }
        if !bench.groups.exact() {
            notes.push("no control groups: CPU is counted in ticks of 10 ms".into());
        }
        Self {
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            rounds: bench.options.rounds,
            machine: Machine::look(),
            load: (measure::load(), f64::NAN),
            variants: variants
                .iter()
                .map(|variant| column(bench, variant))
                .collect(),
            figures: Vec::new(),
            notes,
            has_failures: false,
        }
    }

    pub fn add(&mut self, variant: &str, values: Values) {
        for (name, value) in values {
            let at = self
                .figures
                .iter()
                .position(|figure| figure.name == name && figure.variant == variant);
            let at = at.unwrap_or_else(|| {
                self.figures.push(Figure {
                    name,
                    variant: variant.to_owned(),
                    value,
                    rounds: Vec::new(),
                });
                self.figures.len() - 1
            });
            self.figures[at].round(value);
        }
    }

    pub fn note(&mut self, variant: &str, what: &str) {
        self.has_failures = true;
        let note = format!("{variant}: {}", what.trim_end());
        if !self.notes.contains(&note) {
            eprintln!("{note}");
            self.notes.push(note);
        }
    }

    pub fn end(&mut self) {
        self.load.1 = measure::load();
        let Some(direct) = self.value(SESSION, "direct") else {
            return;
        };
        let sessions = self.figures.iter().filter(|figure| figure.name == SESSION);
        let added: Vec<(String, f64)> = sessions
            .filter(|figure| adds_tls(&figure.variant))
            .map(|figure| (figure.variant.clone(), figure.value - direct))
            .collect();
        for (variant, value) in added {
            self.add(&variant, vec![(ADDED.into(), value)]);
        }
    }

    /// Everything, to read.
    pub fn text(&self) -> String {
        tables::all(self)
    }

    pub fn write(&self, folder: &Path) -> Outcome {
        fs::create_dir_all(folder)?;
        fs::write(
            folder.join("results.json"),
            serde_json::to_string_pretty(self)? + "\n",
        )?;
        fs::write(folder.join("table.md"), tables::all(self))?;
        fs::write(folder.join("summary.md"), tables::summary(self))?;
        fs::write(folder.join("picture.svg"), picture::draw(self))?;
        Ok(())
    }

    fn value(&self, name: &str, variant: &str) -> Option<f64> {
        let is_it = |figure: &&Figure| figure.name == name && figure.variant == variant;
        Some(self.figures.iter().find(is_it)?.value)
    }
}

fn column(bench: &Bench, variant: &Variant) -> Column {
    let (version, command) = match &variant.peer {
        Some(peer) => {
            let program = peer.program.display().to_string();
            let command = [vec![program], peer.arguments.clone()].concat().join(" ");
            (peer.version.clone(), command)
        }
        None => ("rustls 0.23".into(), String::new()),
    };
    Column {
        name: variant.name.clone(),
        is_outbound: variant.is_outbound(),
        version,
        // Where this clone and its files happen to be says nothing.
        command: command
            .replace(&bench.world.path(""), "")
            .replace(concat!(env!("CARGO_MANIFEST_DIR"), "/"), ""),
    }
}

impl Figure {
    /// The best round counts: what else a machine does makes a figure worse, never better. Of how many were served it is the worst
    /// one, because nobody may be left out in any.
    fn round(&mut self, value: f64) {
        self.rounds.push(value);
        let takes_most = self.name.ends_with("/s") || self.name.contains("not served");
        let choose = if takes_most { f64::max } else { f64::min };
        self.value = choose(self.value, value);
    }
}

/// Whether a variant is in the table of its direction only. The others are beside both.
fn adds_tls(variant: &str) -> bool {
    variant != "direct" && variant != "HAProxy plain"
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1.0 && value.fract() == 0.0 && size < 10_000.0 => format!("{value:.0}"),
        size if size >= 99.95 => {
            let digits = format!("{value:.0}");
            match digits.len() {
                // 12,345
                len @ 5.. if value > 0.0 => {
                    format!("{},{}", &digits[..len - 3], &digits[len - 3..])
                }
                _ => digits,
            }
        }
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
