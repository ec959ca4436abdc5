//! The policy table as a file of the configuration.

use std::{io, path::Path};

use super::reading::FileReading;
use crate::{
    audit, clock,
    exit::Exit,
    files,
    policy::{
        Level, Settings,
        table::{Table, TablePurpose},
    },
    session::records,
    tls,
};

/// Reads the table and the files that it names. Without `--policy` the table is empty.
///
/// # Errors
/// All that is wrong with it, with file, line and column. With a `purpose`, keys that do not fit it are wrong, and so are levels
/// that the `settings` rule out.
pub(crate) fn table_of(
    path: Option<&Path>,
    purpose: Option<&TablePurpose>,
    settings: &Settings,
) -> Result<Table, Exit> {
    let Some(path) = path else {
        return Ok(Table::default());
    };
    table_noting(
        path,
        files::text(path, files::LARGE),
        purpose,
        settings,
        &mut |_| (),
    )
    .map_err(Exit::Configuration)
}

/// The table with this text. Tells `note` each file that the table names before it reads that file.
fn table_noting(
    path: &Path,
    text: io::Result<String>,
    purpose: Option<&TablePurpose>,
    settings: &Settings,
    note: &mut dyn FnMut(&Path),
) -> Result<Table, String> {
    let name = path.display().to_string();
    let text = text.map_err(|error| format!("{name}: {error}"))?;
    let table = Table::parse(&name, &text, &mut |file| {
        note(Path::new(file));
        tls::anchors_in(Path::new(file))
    });
    let table = table.and_then(|table| {
        let unfit = purpose.map_or_else(Vec::new, |purpose| table.unfit(purpose, settings));
        if unfit.is_empty() {
            Ok(table)
        } else {
            Err(unfit)
        }
    });
    table.map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

/// Reads the table together with the other files of a direction. Returns it with what records show of it: nothing where the
/// command line names neither a table nor an exemption.
pub(super) fn table_in(
    reading: &mut FileReading,
    path: Option<&Path>,
    purpose: &TablePurpose,
    settings: &Settings,
    exempt: &[String],
) -> Option<(Table, Option<audit::PolicyField>)> {
    let read = match path {
        None => Ok(Table::default()),
        Some(path) => {
            let text = reading.table_text(path);
            table_noting(path, text, Some(purpose), settings, &mut |file| {
                reading.note(file)
            })
        }
    };
    let table = reading.take(read)?;
    let shown = (path.is_some() || !exempt.is_empty()).then(|| {
        let name = path.map(|path| path.display().to_string());
        let sha256 = |file: &Path| reading.sha256(file).unwrap_or_default();
        let whole = path.map_or_else(|| tls::sha256(b""), sha256);
        let mut policy = records::policy_file(
            &name.unwrap_or_default(),
            whole,
            &table,
            exempt,
            clock::wall(),
        );
        let mut named: Vec<&String> = table.entries().iter().flat_map(|e| &e.tafile).collect();
        named.sort();
        named.dedup();
        policy.tafiles = named
            .into_iter()
            .map(|file| audit::TrustFileField {
                file: file.clone(),
                sha256: sha256(Path::new(file)),
            })
            .collect();
        policy
    });
    Some((table, shown))
}

/// The line of `--dry-run` about the table. TLS to a peer that need not prove who it is counts for itself: it is no plaintext, and
/// no authentication either.
pub(super) fn policy_line(policy: &audit::PolicyField) -> String {
    let unauthenticated = policy
        .exemptions
        .iter()
        .filter(|exemption| exemption.level == Level::Encrypt.as_str())
        .count();
    let file = match policy.file.as_str() {
        "" => String::new(),
        file => format!("{file}: "),
    };
    format!(
        "policy: {file}{} entries; ways to plaintext: {}, to TLS without authentication: {unauthenticated}",
        policy.entries,
        policy.exemptions.len() - unauthenticated
    )
}
