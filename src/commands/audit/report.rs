//! `audit report`: one page for auditors and managers. The page stands alone: it has no scripts, loads nothing, and can be printed.

mod attempts;
mod breaks;
mod chart;
mod command;
mod counting;
mod counts;
mod exempted;
mod fields;
mod figures;
mod html;
mod inventory;
mod observing;
mod page;
mod protection;
mod refused;
mod regime;
mod regimes;
mod state;
mod summary;
mod tally;
mod twin;

use super::{
    demand_files, outside,
    period::Period,
    unread, unusable,
    verify::{expectations, name, separate, with_bar},
};
use crate::{
    audit::{self, Verification, timestamp},
    clock,
    exit::Exit,
    files,
    flags::AuditReportFlags,
};
use command::Commands;
use counting::Counting;
use page::ReportPage;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use twin::ReportTwin;

/// Verifies the log and writes the page, and its twin in JSON where one is asked for; existing files are replaced. Of a log that is not intact, only the records before the
/// damage are counted. A progress bar goes to `progress`, which is the error stream where that is a terminal.
///
/// # Errors
/// The log is not intact (the page says so too), or a file, key or anchor cannot be read or written.
pub fn report(
    flags: &AuditReportFlags,
    out: &mut dyn Write,
    mut progress: Option<&mut dyn Write>,
) -> Result<(), Exit> {
    demand_files(&flags.files)?;
    let AuditReportFlags {
        html,
        anchor,
        key,
        first_key,
        from,
        since,
        until,
        regime,
        organisation,
        auditor,
        json,
        tsa_ca,
        witness,
        files,
    } = flags;
    let regimes = regimes::named(regime.as_deref()).map_err(|error| unusable("report", error))?;
    let period = Period::new(since.as_deref(), until.as_deref())
        .map_err(|error| unusable("report", error))?;
    let expected = expectations(*from, key, first_key, anchor)
        .and_then(|expected| outside::expect(expected, tsa_ca, witness.as_deref()))
        .map_err(|error| unread("report", error))?;
    let separated = separate(files, &expected).map_err(|error| unread("report", error))?;
    let mut counting = Counting::new(separated.len(), &period);
    let verified = with_bar(&mut progress, |draw| {
        let mut count = |log: usize, line: &[u8]| counting.see(log, line, u64::MAX);
        audit::verify_and_read(&separated, &expected, draw, &mut count)
    });
    let mut logs = verified.map_err(|error| unread("report", error))?;
    let counted = counting.end(&logs);
    logs.sort_by(|one, other| one.origin.cmp(&other.origin));
    let written = counted.and_then(|counts| {
        let page = ReportPage {
            logs: &logs,
            counts: &counts,
            own_key: !expected.keys.is_empty(),
            now: timestamp(clock::wall()),
            commands: &Commands::new(flags),
            regimes,
            organisation: organisation.as_deref(),
            auditor: auditor.as_deref(),
        };
        write(html, |file| write!(file, "{page}"))?;
        if let Some(json) = json {
            write(json, |file| {
                serde_json::to_writer_pretty(&mut *file, &ReportTwin::of(&page))?;
                writeln!(file)
            })?;
        }
        tell(html, &logs, out)
    });
    written.map_err(|error| unread("report", error))?;
    let intact = logs.iter().all(Verification::intact);
    intact.then_some(()).ok_or(Exit::No)
}

/// Says where the page is, and which log is damaged.
fn tell(html: &Path, logs: &[Verification], out: &mut dyn Write) -> io::Result<()> {
    let html = html.display();
    let subject = match logs {
        [_] => "the log is".to_owned(),
        logs => format!("all {} logs are", logs.len()),
    };
    if logs.iter().all(Verification::intact) {
        return writeln!(out, "{html}: written; {subject} intact");
    }
    for log in logs {
        let subject = match logs {
            [_] => "the log".into(),
            _ => name(log),
        };
        if let Some(finding) = &log.finding {
            writeln!(out, "{html}: written; {subject} is NOT INTACT: {finding}")?;
        }
    }
    Ok(())
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| {
            let mut file = BufWriter::new(file);
            content(&mut file)?;
            file.flush()
        })
        .map_err(|error| files::named(path, &error))
}
