//! `audit verify`: whether the log is intact, or the first line that is not.

use super::{
    DAMAGED, DONE,
    quantity::{grouped, size},
    unusable,
};
use crate::audit::{self, Anchor, Damage, Examined, Expected, OpenError, PublicKey, printable};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Longest value that is printed, in octets.
const LONGEST_VALUE: usize = 4096;

/// Arguments of `audit verify`, and of the verification that `audit report` begins with.
#[derive(Clone, Debug, Default)]
pub struct Verify {
    /// Files of one log, in any order; a single one stands for itself and all that were rotated out of it.
    pub files: Vec<PathBuf>,
    /// `--anchor`, each `SIZE:HASH` or a file (see [`Anchor::read`]).
    pub anchors: Vec<String>,
    /// `--key`, each a file (PEM, public or private) or a verifier key (`name+id+base64`).
    pub keys: Vec<String>,
    /// `--from`: number of the first record that must be there; 0 unless older files are knowingly left out.
    pub from: u64,
    /// Draw a progress bar on the error stream. For terminals.
    pub progress: bool,
}

impl Verify {
    /// Reads keys and anchors.
    ///
    /// # Errors
    /// One of them is none.
    pub(in crate::commands::audit) fn expected(&self) -> Result<Expected, OpenError> {
        let mut expected = Expected {
            from: self.from,
            ..Expected::default()
        };
        for key in &self.keys {
            let read =
                PublicKey::from_verifier(key).map_or_else(|| PublicKey::read(Path::new(key)), Ok);
            expected.keys.push(read?);
        }
        for anchor in &self.anchors {
            expected.anchors.append(&mut Anchor::read(anchor)?);
        }
        Ok(expected)
    }

    /// Verifies, with a progress bar where one is wanted.
    pub(in crate::commands::audit) fn examine(
        &self,
        errors: &mut dyn Write,
    ) -> Result<Examined, OpenError> {
        if self.files.is_empty() {
            return Err(OpenError::Wrong("name at least one file".into()));
        }
        let expected = self.expected()?;
        let mut shown = u64::MAX;
        let mut progress = |done: u64, total: u64| {
            let percent = done * 100 / total.max(1);
            if self.progress && percent != shown {
                shown = percent;
                let bar = "#".repeat(usize::try_from(percent / 4).unwrap_or(25));
                let _ = write!(errors, "\r[{bar:<25}] {percent:3} % of {}", size(total));
            }
        };
        let result = audit::verify(&self.files, &expected, &mut progress);
        if self.progress {
            let _ = write!(errors, "\r{:60}\r", ""); // a terminal that is gone is no reason to stop
        }
        result.map_err(|error| OpenError::Wrong(error.to_string()))
    }
}

/// Says whether the log is intact, or the first line that is not and what was done to it.
pub fn verify(arguments: &Verify, out: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let examined = match arguments.examine(errors) {
        Ok(examined) => examined,
        Err(error) => return unusable(errors, "verify", &error),
    };
    match print(&examined, !arguments.keys.is_empty(), out) {
        Ok(()) if examined.intact() => DONE,
        Ok(()) => DAMAGED,
        Err(error) => unusable(errors, "verify", &error),
    }
}

fn print(examined: &Examined, own_key: bool, out: &mut dyn Write) -> io::Result<()> {
    match &examined.finding {
        None => writeln!(out, "intact")?,
        Some(finding) => {
            let finding = printable(&finding.to_string(), LONGEST_VALUE);
            writeln!(out, "NOT INTACT: {finding}\ngood, as far as this can tell:")?;
        }
    }
    for (name, value) in facts(examined, own_key) {
        // Names and heads come from the log.
        let value = printable(&value, LONGEST_VALUE);
        writeln!(out, "  {name:<12} {value}")?;
    }
    Ok(())
}

/// What there is to say about a log's chain, for people; also for the report.
pub(in crate::commands::audit) fn facts(
    examined: &Examined,
    own_key: bool,
) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(origin) = &examined.origin {
        facts.push(("log", origin.clone()));
    }
    for (record, name) in &examined.renamed {
        let text = format!("{name} until record {record}, where the host got another name");
        facts.push(("once", text));
    }
    if let Some((first, last)) = &examined.span
        && examined.records() > 0
    {
        facts.push((
            "records",
            format!(
                "{} ({} to {}), {} in {} file{}, {first} to {last}",
                grouped(examined.records()),
                examined.from,
                examined.good - 1,
                size(examined.octets),
                examined.files.len(),
                if examined.files.len() == 1 { "" } else { "s" },
            ),
        ));
        if examined.intact() {
            let head = examined.head;
            facts.push(("head", format!("{}:{}", head.size, head.hash)));
        }
    }
    facts.push(("checkpoints", checkpoints(examined, own_key)));
    facts.push(("anchors", anchors(examined)));
    facts.push(("end", end(examined)));
    if examined.crashes + examined.outages > 0 {
        facts.push((
            "faults",
            format!(
                "{} torn line(s) after a crash, {} time(s) the disk failed, {} record(s) lost by it; none of them was acknowledged",
                examined.crashes, examined.outages, examined.lost
            ),
        ));
    }
    facts
}

fn checkpoints(examined: &Examined, own_key: bool) -> String {
    let number = grouped(examined.checkpoints);
    if examined.signed == 0 {
        return format!(
            "{number}, no signature checked: whoever can write the log can make it anew"
        );
    }
    let signers: Vec<_> = examined
        .signers
        .iter()
        .map(|key| key.fingerprint().to_string())
        .collect();
    let trust = match own_key {
        true => "as given",
        false => "as the log itself names it: compare the fingerprint, or give --key",
    };
    let open = examined.head.size.saturating_sub(examined.signed_size);
    let open = match open {
        0 => "all records are signed".to_owned(),
        1 => "the last record is not signed yet".to_owned(),
        _ => format!("the last {open} records are not signed yet"),
    };
    format!(
        "{number}, signed by {} ({trust}); {open}",
        signers.join(", ")
    )
}

fn anchors(examined: &Examined) -> String {
    let cut = matches!(&examined.finding, Some(finding) if finding.damage == Damage::Cut);
    match (examined.anchors.max(examined.anchored), examined.anchored) {
        (0, _) => "none given: that nothing was cut off the end, or all replaced by an older copy, is not shown".into(),
        (all, agree) if cut || all > agree => format!("{agree} of {all} agree"),
        (all, _) => format!("all {all} agree"),
    }
}

fn end(examined: &Examined) -> String {
    match (examined.torn, examined.stopped) {
        (0, true) => "stopped in good order".into(),
        (0, false) => "no stop: still being written, ended by a crash, or cut".into(),
        (torn, _) => format!(
            "a torn line of {torn} octets: being written just now, ended by a crash, or cut"
        ),
    }
}
