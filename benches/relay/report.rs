//! What came out: a table to read.

use crate::{
    Outcome, measure,
    peers::Variant,
    rows::{Bench, Values},
};
use std::path::Path;

pub struct Report {
    pub variants: Vec<(String, String)>,
    pub figures: Vec<Figure>,
    pub notes: Vec<String>,
    pub load: (f64, f64),
}

/// One figure of one variant, all rounds.
pub struct Figure {
    pub name: String,
    pub variant: String,
    pub rounds: Vec<f64>,
}

impl Report {
    pub fn begin(bench: &Bench, variants: &[Variant], missing: Vec<String>) -> Self {
        let mut notes: Vec<String> = missing
            .into_iter()
            .map(|name| format!("{name} is not here; `benches/run` as root on Debian installs it"))
            .collect();
        if !bench.groups.exact() {
            notes.push("no control groups: the time of processes that have ended is not counted".into());
        }
        Self {
            variants: variants
                .iter()
                .map(|variant| {
                    let version = variant.peer.as_ref().map(|peer| peer.version.clone());
                    (variant.name.clone(), version.unwrap_or_default())
                })
                .collect(),
            figures: Vec::new(),
            notes,
            load: (measure::load(), f64::NAN),
        }
    }

    pub fn add(&mut self, variant: &str, values: Values) {
        for (name, value) in values {
            let known = self
                .figures
                .iter_mut()
                .find(|figure| figure.name == name && figure.variant == variant);
            match known {
                Some(figure) => figure.rounds.push(value),
                None => self.figures.push(Figure {
                    name,
                    variant: variant.to_owned(),
                    rounds: vec![value],
                }),
            }
        }
    }

    pub fn note(&mut self, variant: &str, what: &str) {
        let note = format!("{variant}: {}", what.trim_end());
        if !self.notes.contains(&note) {
            eprintln!("{note}");
            self.notes.push(note);
        }
    }

    pub fn end(&mut self) {
        self.load.1 = measure::load();
    }

    pub fn table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for figure in &self.figures {
            if !names.contains(&figure.name.as_str()) {
                names.push(&figure.name);
            }
        }
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut text = format!("\n{:width$}", "");
        for (variant, _) in &self.variants {
            text.push_str(&format!(" {variant:>12}"));
        }
        text.push('\n');
        for name in names {
            text.push_str(&format!("{name:width$}"));
            for (variant, _) in &self.variants {
                let value = self.value(name, variant).map(number).unwrap_or_default();
                text.push_str(&format!(" {value:>12}"));
            }
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(&format!("{note}\n"));
        }
        text.push_str(&format!("load {:.2} before, {:.2} after\n", self.load.0, self.load.1));
        text
    }

    /// The best round: what else the machine does makes a figure worse, never better.
    pub fn value(&self, name: &str, variant: &str) -> Option<f64> {
        let figure = self
            .figures
            .iter()
            .find(|figure| figure.name == name && figure.variant == variant)?;
        let more_is_better = name.ends_with("/s") || name.ends_with("served");
        let better = if more_is_better { f64::max } else { f64::min };
        figure.rounds.iter().copied().reduce(better)
    }

    pub fn write(&self, _folder: &Path) -> Outcome {
        Ok(())
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
