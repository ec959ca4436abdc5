//! `policy suggest`: from what observe mode recorded to lines of the table. The output is itself a table, with what a person must
//! know of each line in comments above it.
//!
//! A log can hold anything that strangers sent. What is printed as a line was read by the table's own parser first and written anew
//! from what it read; what is printed as a comment is printable ASCII on one line.

mod advice;
mod partners;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use self::{
    advice::LineAdvice,
    partners::{Partner, Partners},
};
use crate::{
    audit::{LogLines, LogListing, OpenError, logs, printable},
    clock,
    exit::Exit,
    flags::PolicySuggestFlags,
    policy::table::{Entry, Table},
    tls::Date,
};

/// Days from today to the last day of a suggested line.
const DAYS: i64 = 30;
/// Longest comment about one thing, in octets.
const LONGEST: usize = 400;

/// Prints the suggestions.
///
/// # Errors
/// Wrong usage, or a file cannot be read; exit 1 if a line is no record.
pub(super) fn suggest(
    flags: &PolicySuggestFlags,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Exit> {
    if flags.files.is_empty() {
        return Err(Exit::Usage(
            "policy suggest: name the audit log of a proxy with --observe\n\
             hint: starttls-proxy policy suggest /var/lib/starttls-proxy/outbound/audit.jsonl"
                .into(),
        ));
    }
    let until = until(flags.until.as_deref())?;
    let unreadable = |error: io::Error| -> Exit {
        let error = OpenError::from(error);
        error
            .with(|words| format!("policy suggest: {words}"))
            .into()
    };
    let (partners, unread) = read(&flags.files, errors).map_err(unreadable)?;
    let mut out = io::BufWriter::new(out);
    let printed = print(&partners, &until, &mut out).and_then(|()| out.flush());
    match printed {
        Ok(()) if unread > 0 => Err(Exit::No),
        // The reader, such as `head`, has closed the pipe.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
        _ => Ok(()),
    }
}

/// The last day of the lines, as the table reads it.
fn until(given: Option<&str>) -> Result<String, Exit> {
    let Some(day) = given else {
        let today = Date::of(clock::wall());
        return Ok(Date(today.0.saturating_add(DAYS * 86_400)).day());
    };
    entry(&format!("day.example may until={day}"))
        .filter(|entry| {
            entry
                .until
                .as_ref()
                .is_some_and(|until| until.to_string() == day)
        })
        .map(|_| day.to_owned())
        .ok_or_else(|| Exit::Usage(format!("--until: '{day}' is no day (write 2027-03-31)")))
}

/// The one entry of a text; `None` where the text is anything else.
fn entry(text: &str) -> Option<Entry> {
    let table = Table::parse("", text, &mut |_| Err("no file is read here".into())).ok()?;
    match table.entries() {
        [entry] => Some(entry.clone()),
        _ => None,
    }
}

/// What the records say, and the number of lines that are no records.
fn read(files: &[PathBuf], errors: &mut dyn Write) -> io::Result<(Partners, u64)> {
    let (mut partners, mut unread) = (Partners::default(), 0);
    for log in logs(files)? {
        let order = LogListing::new(&log)?.into_order();
        for remark in order.remarks() {
            writeln!(errors, "{remark}")?;
        }
        let files = order.files;
        let mut lines = LogLines::new(&files);
        while let Some(line) = lines.next()? {
            match serde_json::from_slice(line.bytes) {
                Ok(record) if line.fault.is_none() => partners.add(&record),
                Err(_) if line.is_unfinished() => {}
                _ => {
                    unread += 1;
                    let file = files[line.position.file].path().display();
                    let fault = line.fault.unwrap_or("this is no record");
                    writeln!(errors, "{file}:{}: {fault}", line.position.line)?;
                }
            }
        }
    }
    Ok((partners, unread))
}

fn print(partners: &Partners, until: &str, out: &mut dyn Write) -> io::Result<()> {
    let refused = partners.refused();
    let Some((first, last)) = partners.period() else {
        return writeln!(out, "# The log has no record of mail.");
    };
    let messages: u64 = refused.iter().map(|partner| partner.messages).sum();
    let days = format!("from {} to {}", printable(first, 32), printable(last, 32));
    if refused.is_empty() {
        return writeln!(out, "# Nothing would be refused: {days}.");
    }
    writeln!(
        out,
        "# {} would be refused, with {messages} message(s), {days}.\n\
         # Read each before you copy its line into the policy table. A line of the level none or may lets mail\n\
         # pass in the clear. What a certificate shows below is what was seen, not what is right: ask the partner\n\
         # by telephone, not by mail.",
        match refused.len() {
            1 => String::from("1 partner"),
            n => format!("{n} partners"),
        }
    )?;
    refused
        .iter()
        .try_for_each(|partner| one(partner, until, out))
}

fn one(partner: &Partner, until: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\n# {}: {} session(s), {} message(s)",
        partner.key,
        partner.sessions.len(),
        partner.messages
    )?;
    for (word, seen) in &partner.reasons {
        let word = printable(word, 40);
        writeln!(
            out,
            "#   reason: {word}: {}",
            printable(&seen.detail, LONGEST)
        )?;
        writeln!(out, "#   do: {}", advice::what_to_do(&word))?;
    }
    if !partner.names.is_empty() {
        let names: Vec<&str> = partner.names.iter().map(String::as_str).collect();
        let names = printable(&names.join(", "), LONGEST);
        writeln!(out, "#   names in its certificates: {names}")?;
    }
    if let Some(rule) = &partner.rule {
        let rule = printable(rule, LONGEST);
        writeln!(
            out,
            "#   {rule} decides today; if that line begins with {}, put this one in its place",
            partner.key
        )?;
    }
    match advice::line(partner, until) {
        LineAdvice::Line(text) => {
            // Only what the parser has read is printed, in the parser's words.
            match entry(&text).filter(|read| read.key == partner.key) {
                Some(read) => writeln!(out, "{read}"),
                None => writeln!(out, "#   no line of the table can be written for this"),
            }
        }
        LineAdvice::WouldSwitchOff => writeln!(
            out,
            "#   no line: it would switch off what the partner has published, or may have, about its servers (TLSA records,\n\
             #   DNSSEC, MTA-STS), and that is what keeps others from posing as it; mail waits until the fault is mended"
        ),
        LineAdvice::WouldNotHelp => writeln!(out, "#   no line of the table would help"),
    }
}

#[cfg(test)]
mod tests;
