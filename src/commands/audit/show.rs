//! `audit show`: records that match, for people or as they stand in the log.

mod anchored;
mod blocks;
mod workers;

use self::{
    anchored::AnchoredUntil,
    blocks::{FoundPlace, ShownLines},
    workers::work_in_order,
};
use super::{demand_files, json::LineValue, period::Period, quantity::grouped, unread, unusable};
use crate::{
    audit::{
        self, ListedFile, LogLine, LogListing, LogOrder, MergedLines, PackedLines, WireText, logs,
        printable,
    },
    exit::Exit,
    flags::AuditShowFlags,
};
use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

/// Longest line for people, in octets.
const LONGEST: usize = 64 * 1024;

/// Prints the records that match all filters, and names lines that are no records on `errors`. Whether the records are what was
/// written is for `audit verify` to say.
///
/// # Errors
/// A filter means nothing, a file cannot be read, or a line is no record.
pub fn show(
    flags: &AuditShowFlags,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Exit> {
    demand_files(&flags.files)?;
    let filter = Filter::new(flags).map_err(|error| unusable("show", error))?;
    let mut out = io::BufWriter::new(out);
    let printed = filter.print(&mut out, errors);
    match printed.and_then(|unread| out.flush().map(|()| unread)) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Exit::No),
        // The reader, such as `head`, has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(unread("show", error)),
    }
}

/// Which records are shown. A filter that was not given lets all pass.
struct Filter<'a> {
    flags: &'a AuditShowFlags,
    period: Period,
    /// The address in each form it can have in a log.
    addresses: Vec<String>,
}

impl<'a> Filter<'a> {
    fn new(flags: &'a AuditShowFlags) -> Result<Self, String> {
        let period = Period::new(flags.since.as_deref(), flags.until.as_deref())?;
        if let Some(verdict) = &flags.verdict
            && !["authorised", "unprotected", "refused", "observed"].contains(&verdict.as_str())
        {
            return Err(format!(
                "{verdict:?} is none of authorised, unprotected, refused, observed"
            ));
        }
        let mut addresses = Vec::new();
        if let Some(address) = &flags.address {
            addresses.push(WireText::from(address.as_str()).as_str().to_owned());
            if let Some(key) = &flags.key {
                let hashed = audit::hashed(key, address.as_bytes());
                addresses.push(hashed.map_err(|error| error.to_string())?);
            }
        }
        Ok(Self {
            flags,
            period,
            addresses,
        })
    }

    /// Prints the matching records of all logs, by time. Returns the number of lines that are no records.
    fn print(&self, out: &mut dyn Write, errors: &mut dyn Write) -> io::Result<u64> {
        let logs = logs(&self.flags.files)?;
        let orders = logs
            .iter()
            .map(|files| Ok(LogListing::new(files)?.into_order()));
        let orders: Vec<LogOrder> = orders.collect::<io::Result<_>>()?;
        for remark in orders.iter().flat_map(LogOrder::remarks) {
            writeln!(errors, "{remark}")?;
        }
        let files: Vec<Vec<_>> = orders.into_iter().map(|order| order.files).collect();
        let mut lines = MergedLines::new(files.iter().map(|files| &files[..]))?;
        let mut anchored: Vec<_> = files.iter().map(|_| AnchoredUntil::default()).collect();
        let mut unread = 0;
        let next = || {
            let mut block = PackedLines::default();
            while !block.is_full() {
                let Some((log, line)) = lines.next()? else {
                    break;
                };
                if line.fault.is_none() {
                    let is_rest = || LineValue::read(line.bytes).is_none();
                    if self.is_out_of_period(&line) || line.is_unfinished() && is_rest() {
                        continue;
                    }
                    anchored[log].see(&line);
                }
                let place = FoundPlace {
                    log,
                    file: line.position.file,
                    line: line.position.line,
                    fault: line.fault.map(str::to_owned),
                };
                block.push(line.bytes, place);
            }
            Ok((!block.is_empty()).then_some(block))
        };
        let work = |block: PackedLines<FoundPlace>| self.shown(&block, &files);
        work_in_order(next, work, |shown| {
            unread += shown.unread;
            errors.write_all(shown.errors.as_bytes())?;
            out.write_all(&shown.out)
        })?;
        for (one, files) in anchored.iter().zip(&files) {
            if let Some(words) = one.words() {
                let file = files.last().map(|file| file.path().display().to_string());
                writeln!(errors, "{}: {words}", file.unwrap_or_default())?;
            }
        }
        Ok(unread)
    }

    /// What there is to print of these lines.
    fn shown(&self, block: &PackedLines<FoundPlace>, files: &[Vec<ListedFile>]) -> ShownLines {
        let mut shown = ShownLines::default();
        let mut sentence = String::new();
        for (line, place) in block.iter() {
            let file = files[place.log][place.file].path();
            let (record, why) = match &place.fault {
                Some(fault) => (None, fault.as_str()),
                None => (LineValue::read(line), "this is no record"),
            };
            let Some(record) = record else {
                shown.unread += 1;
                let (file, line) = (file.display(), place.line);
                let _ = writeln!(shown.errors, "{file}:{line}: {why}"); // a String takes all
                continue;
            };
            if !self.matches(&record) {
                continue;
            }
            if self.flags.json {
                shown.out.extend_from_slice(line);
            } else {
                if files.len() > 1 {
                    shown
                        .out
                        .extend_from_slice(format!("{}: ", file.display()).as_bytes());
                }
                sentence.clear();
                let _ = write!(sentence, "{}", Sentence(&record)); // a String takes all
                // A log that somebody else wrote into can hold anything.
                shown
                    .out
                    .extend_from_slice(printable(&sentence, LONGEST).as_bytes());
            }
            shown.out.push(b'\n');
        }
        shown
    }

    /// Decided before the rest of the line is parsed.
    fn is_out_of_period(&self, line: &LogLine<'_>) -> bool {
        line.time()
            .is_some_and(|at| self.period.begins_after(at) || self.period.ends_before(at))
    }

    fn matches(&self, record: &LineValue<'_>) -> bool {
        let flags = self.flags;
        let passes = |asked: &Option<String>, found: &dyn Fn(&str) -> bool| {
            asked.as_deref().is_none_or(found)
        };
        passes(&flags.session, &|id| record["session"]["id"] == *id)
            && passes(&flags.verdict, &|word| verdict(record) == Some(word))
            && passes(&flags.domain, &|domain| concerns(record, domain))
            && passes(&flags.address, &|_| {
                addresses(record).any(|address| self.is_asked_for(address))
            })
    }

    fn is_asked_for(&self, address: &str) -> bool {
        self.addresses
            .iter()
            .any(|asked| asked.eq_ignore_ascii_case(address))
    }
}

/// The policy's verdict in a record, in one word.
fn verdict<'a>(record: &'a LineValue<'_>) -> Option<&'a str> {
    let observed =
        |decision: &LineValue<'_>| decision["observed"] == true && !decision["reason"].is_null();
    let mut decisions = record["decisions"].values().iter();
    if observed(&record["decision"]) || decisions.any(observed) {
        return Some("observed");
    }
    match record["event"].as_str()? {
        "message" => record["verdict"].as_str(),
        "refusal" => Some("refused"),
        "unprotected" => Some("unprotected"),
        _ => record["decision"]["verdict"].as_str(),
    }
}

fn addresses<'a>(record: &'a LineValue<'_>) -> impl Iterator<Item = &'a str> {
    let recipients = record["recipients"].values().iter();
    [&record["sender"], &record["address"]]
        .into_iter()
        .chain(recipients)
        .filter_map(|value| value.as_str())
}

/// Whether a record is about `domain`; about a domain below it where `domain` begins with a dot.
fn concerns(record: &LineValue<'_>, domain: &str) -> bool {
    let is_it = |name: &str| match domain.strip_prefix('.') {
        Some(_) => {
            name.len() > domain.len()
                && name
                    .to_ascii_lowercase()
                    .ends_with(&domain.to_ascii_lowercase())
        }
        None => name.eq_ignore_ascii_case(domain),
    };
    let decisions = record["decisions"].values().iter();
    let repeated = record["repeated"].values().iter();
    [&record["domain"], &record["decision"]["domain"]]
        .into_iter()
        .chain(repeated.map(|one| &one["domain"]))
        .chain(decisions.map(|decision| &decision["domain"]))
        .filter_map(|value| value.as_str())
        .any(is_it)
        || addresses(record).any(|address| {
            address
                .rsplit_once('@')
                .is_some_and(|(_, name)| is_it(name))
        })
}

/// A record as one line for people.
pub(super) struct Sentence<'a>(pub(super) &'a LineValue<'a>);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        let event = text(&record["event"]);
        write!(
            f,
            "{} {:>7} {event:<14}",
            text(&record["at"]),
            number(&record["seq"])
        )?;
        let session = &record["session"];
        if session.is_object() {
            write!(
                f,
                " {} {}",
                text(&session["id"]),
                text(&session["client"]["from"])
            )?;
            let to = match session["server"].is_null() {
                true => &session["client"]["to"],
                false => &session["server"]["to"],
            };
            write!(f, " > {}", text(to))?;
        }
        match event {
            "message" => message(record, f),
            "verdict" | "unprotected" => {
                decision(&record["decision"], f)?;
                if let Some(reply) = record["reply"].as_str() {
                    write!(f, "; reply {reply:?}")?;
                }
                // A peer is authorised over TLS only. A later record says of what kind it was.
                match record["tls"].is_null() && record["decision"]["verdict"] == "authorised" {
                    true => Ok(()),
                    false => tls(&record["tls"], f),
                }
            }
            "refusal" => refusal(record, f),
            "heard" => write!(
                f,
                " {} {}{}: \"{}\"",
                text(&record["stage"]),
                number(&record["code"]),
                if record["unproved"] == false {
                    ""
                } else {
                    ", unproved"
                },
                text(&record["text"])
            ),
            "session-opened" => Ok(()),
            "not-recorded" => counts(&record["counts"], f),
            "session-closed" => {
                let messages = number(&record["messages"]);
                write!(f, " {}, {messages} message(s)", text(&record["end"]))?;
                repeated(&record["repeated"], f)?;
                match record["peer"].is_null() {
                    true => Ok(()),
                    false => tls(&record["tls"], f).and_then(|()| certificate(record, f)),
                }
            }
            "checkpoint" => {
                let note = text(&record["note"]);
                let signed = match note.contains("\n\n\u{2014} ") {
                    true => "signed",
                    false => "not signed",
                };
                let root = note.lines().nth(2).unwrap_or_default();
                write!(f, " root {root} {signed}")
            }
            "stamp" => write!(
                f,
                " of checkpoint {}: {} by {}",
                number(&record["size"]),
                text(&record["time"]),
                text(&record["tsa"])
            ),
            "cosigned" => {
                let witness = text(&record["line"]).split(' ').nth(1);
                write!(
                    f,
                    " of checkpoint {}: {} by {}",
                    number(&record["size"]),
                    text(&record["time"]),
                    witness.unwrap_or("-")
                )
            }
            _ => all_fields(record, f),
        }
    }
}

fn refusal(record: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, " {}", text(&record["reason"]))?;
    if record["remembered"] == true {
        f.write_str(" remembered")?;
    }
    for name in ["domain", "level"] {
        if let Some(value) = record[name].as_str() {
            write!(f, " {name} {value}")?;
        }
    }
    let words = record["reply"].as_str().or(record["detail"].as_str());
    write!(f, ": {}", words.unwrap_or("-"))
}

/// Events that have no record of their own.
fn repeated(repeated: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for one in repeated.values() {
        write!(
            f,
            "; {} more {}",
            number(&one["times"]),
            text(&one["event"])
        )?;
        for name in ["domain", "verdict", "reason"] {
            if let Some(value) = one[name].as_str() {
                write!(f, " {value}")?;
            }
        }
    }
    Ok(())
}

/// Events that were counted instead of being recorded singly.
fn counts(counts: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for count in counts.values() {
        let prefix = count["prefix"].as_str().unwrap_or("others");
        write!(
            f,
            " {} {} of {prefix} ({} to {});",
            grouped(count["count"].as_u64().unwrap_or_default()),
            text(&count["kind"]),
            text(&count["first"]),
            text(&count["last"])
        )?;
    }
    Ok(())
}

fn message(record: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let recipients: Vec<_> = record["recipients"].values().iter().map(text).collect();
    write!(
        f,
        " from <{}> to <{}>",
        text(&record["sender"]),
        recipients.join(">, <")
    )?;
    write!(
        f,
        ", {} octets, sha256 {}; {}",
        grouped(record["octets"].as_u64().unwrap_or_default()),
        text(&record["sha256"]),
        text(&record["outcome"])
    )?;
    if let Some(reply) = record["reply"].as_str() {
        write!(f, " {reply:?}")?;
    }
    if let Some(user) = record["authenticated_as"].as_str() {
        write!(f, "; logged in as <{user}>")?;
    }
    for each in record["decisions"].values().iter() {
        f.write_str(";")?;
        decision(each, f)?;
    }
    tls(&record["tls"], f)?;
    certificate(record, f)
}

fn certificate(record: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match record["peer"]["certificate"]["sha256"].as_str() {
        Some(sha256) => write!(f, " certificate {sha256}"),
        None => Ok(()),
    }
}

fn decision(decision: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        " {} {}",
        text(&decision["domain"]),
        text(&decision["verdict"])
    )?;
    if decision["observed"] == true {
        f.write_str(" observed")?;
    }
    for name in ["reason", "level", "basis", "rule", "until"] {
        if let Some(value) = decision[name].as_str() {
            write!(f, " {name} {value}")?;
        }
    }
    if let Some(why) = decision["why"].as_str() {
        write!(f, " why {why:?}")?;
    }
    match text(&decision["detail"]) {
        "" => Ok(()),
        detail => write!(f, " ({detail})"),
    }
}

fn tls(tls: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if tls.is_null() {
        return f.write_str("; no TLS");
    }
    write!(f, "; {} {}", text(&tls["version"]), text(&tls["suite"]))?;
    match tls["group"].as_str() {
        Some(group) => write!(f, " {group}"),
        None => Ok(()),
    }
}

/// The fields of a record by name, for records that need no sentence.
fn all_fields(record: &LineValue<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (name, value) in record.fields() {
        if !["v", "prev", "seq", "at", "event", "session"].contains(&name) && !value.is_null() {
            write!(f, " {name} {value}")?;
        }
    }
    Ok(())
}

fn text<'a>(value: &'a LineValue<'_>) -> &'a str {
    value.as_str().unwrap_or("-")
}

fn number(value: &LineValue<'_>) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tls_and_certificate_are_shown_where_a_record_has_them() {
        let tls = json!({"version": "TLSv1.3", "suite": "S", "group": null});
        let peer = json!({"certificate": {"sha256": "ab"}});
        let verdict = |verdict: &str, tls: &Value| {
            let decision = json!({"domain": "a.example", "verdict": verdict, "detail": ""});
            json!({"event": "verdict", "decision": decision, "tls": tls})
        };
        let closed = |peer: &Value| json!({"event": "session-closed", "end": "quit", "messages": 0, "tls": tls, "peer": peer});
        for (record, end) in [
            // Older logs have the TLS of an authorised peer in the verdict, too.
            (verdict("authorised", &tls), "authorised; TLSv1.3 S"),
            (verdict("authorised", &Value::Null), "authorised"),
            (verdict("refused", &tls), "refused; TLSv1.3 S"),
            (verdict("refused", &Value::Null), "refused; no TLS"),
            (closed(&Value::Null), "quit, 0 message(s)"),
            (
                closed(&peer),
                "quit, 0 message(s); TLSv1.3 S certificate ab",
            ),
        ] {
            let line = record.to_string();
            let record = LineValue::read(line.as_bytes()).expect("JSON");
            let shown = Sentence(&record).to_string();
            assert!(shown.ends_with(end), "{shown}");
        }
    }

    #[test]
    fn a_record_that_somebody_wrote_cannot_act_on_the_terminal() {
        let path = std::env::temp_dir().join(format!("shown-{}.jsonl", std::process::id()));
        let record = r#"{"v":1,"seq":1,"at":"2026-11-24T06:05:00.123456Z","event":"refusal","reason":"\u001b]0;x\u0007\u009b2J\u007f"}"#;
        std::fs::write(&path, record).expect("a file");
        let flags = AuditShowFlags {
            files: vec![path.clone()],
            ..AuditShowFlags::default()
        };
        let mut out = Vec::new();
        let shown = show(&flags, &mut out, &mut io::sink());
        std::fs::remove_file(path).expect("it is there");
        let told = String::from_utf8(out).expect("text");
        assert!(shown.is_ok(), "{told}");
        assert!(told.contains(r"\u{1b}]0;x\u{7}\u{9b}2J\u{7f}"), "{told}");
        assert!(
            told.trim_end()
                .chars()
                .all(|c| c.is_ascii_graphic() || c == ' '),
            "{told}"
        );
    }
}
