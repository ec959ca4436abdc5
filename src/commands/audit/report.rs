//! `audit report`: one page for auditors and managers. It stands alone: no scripts, nothing from elsewhere, and it prints.

mod chart;
mod gather;
mod mapping;
mod page;
mod refused;

use super::{DAMAGED, DONE, Verify, show::is_time, unusable};
use crate::{audit::timestamp, clock};
use gather::Gathered;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Arguments of `audit report`.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The log, and what to compare it with: the page begins with the state of the chain.
    pub verify: Verify,
    /// `--html`: the page; an existing one is replaced.
    pub html: PathBuf,
    /// `--since`: first time, UTC, as much of `2026-11-24T06:05:00.123456Z` as needed. The chain is verified as a whole.
    pub since: Option<String>,
    /// `--until`: last time; `2026-11` means all of November.
    pub until: Option<String>,
}

/// Verifies the log and writes the page. Of a log that is not intact, only the records before the damage are counted.
pub fn report(arguments: &Report, out: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    for time in [&arguments.since, &arguments.until].into_iter().flatten() {
        if !is_time(time) {
            let error = format!(
                "{time:?} is no time: write as much of 2026-11-24T06:05:00.123456Z as needed"
            );
            return unusable(errors, "report", &error);
        }
    }
    let examined = match arguments.verify.examine(errors) {
        Ok(examined) => examined,
        Err(error) => return unusable(errors, "report", &error),
    };
    let written = Gathered::read(&examined, arguments).and_then(|gathered| {
        let page = page::Page {
            examined: &examined,
            gathered: &gathered,
            own_key: !arguments.verify.keys.is_empty(),
            now: timestamp(clock::wall()),
        };
        write(&arguments.html, &page.to_string())
    });
    let said = match (&written, &examined.finding) {
        (Err(error), _) => return unusable(errors, "report", error),
        (Ok(()), None) => writeln!(
            out,
            "{}: written; the log is intact",
            arguments.html.display()
        ),
        (Ok(()), Some(finding)) => writeln!(
            out,
            "{}: written; the log is NOT INTACT: {finding}",
            arguments.html.display()
        ),
    };
    match said {
        Err(error) => unusable(errors, "report", &error),
        Ok(()) if examined.intact() => DONE,
        Ok(()) => DAMAGED,
    }
}

fn write(path: &Path, page: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(page.as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
