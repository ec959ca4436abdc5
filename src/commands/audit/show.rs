//! `audit show`: records that match, for people or as they stand in the log.

use super::{DAMAGED, DONE, quantity::grouped, unusable};
use crate::audit::{self, Header, Lines, TIME, WireText, in_order, printable};
use serde_json::Value;
use std::{
    io::{self, Write},
    path::PathBuf,
};

/// Longest line for people, in octets.
const LONGEST: usize = 64 * 1024;

/// Arguments of `audit show`. A filter that is `None` lets all pass.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// Files of one log; a single one stands for itself and all that were rotated out of it.
    pub files: Vec<PathBuf>,
    /// `--domain`: of a decision, a refusal, or an address.
    pub domain: Option<String>,
    /// `--address`: as recorded. In a log with hashed addresses: give the private key too.
    pub address: Option<String>,
    /// `--key`: the log's private key, to find a hashed address.
    pub key: Option<PathBuf>,
    /// `--since`: first time, UTC, as much of `2026-11-24T06:05:00.123456Z` as needed.
    pub since: Option<String>,
    /// `--until`: last time; `2026-11` means all of November.
    pub until: Option<String>,
    /// `--verdict`: authorised, unprotected, refused, or observed (what only `--observe` let pass).
    pub verdict: Option<String>,
    /// `--session`: the id that the program's log names too.
    pub session: Option<String>,
    /// `--json`: the lines as they stand in the log.
    pub json: bool,
}

/// Prints the records that match all filters. Whether they are what was written is for `audit verify` to say.
pub fn show(arguments: &Show, out: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let filter = match Filter::new(arguments) {
        Ok(filter) => filter,
        Err(error) => return unusable(errors, "show", &error),
    };
    let mut out = io::BufWriter::new(out);
    match filter
        .all(&mut out, errors)
        .and_then(|unread| out.flush().map(|()| unread))
    {
        Ok(0) => DONE,
        Ok(_) => DAMAGED,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE, // `| head` has seen enough
        Err(error) => unusable(errors, "show", &error),
    }
}

struct Filter<'a> {
    arguments: &'a Show,
    /// The address in each form it can have in a log.
    addresses: Vec<String>,
}

impl<'a> Filter<'a> {
    fn new(arguments: &'a Show) -> Result<Self, String> {
        for time in [&arguments.since, &arguments.until].into_iter().flatten() {
            is_time(time).then_some(()).ok_or_else(|| {
                format!(
                    "{time:?} is no time: write as much of 2026-11-24T06:05:00.123456Z as needed"
                )
            })?;
        }
        if let Some(verdict) = &arguments.verdict
            && !["authorised", "unprotected", "refused", "observed"].contains(&verdict.as_str())
        {
            return Err(format!(
                "{verdict:?} is none of authorised, unprotected, refused, observed"
            ));
        }
        let mut addresses = Vec::new();
        if let Some(address) = &arguments.address {
            addresses.push(WireText::from(address.as_str()).as_str().to_owned());
            if let Some(key) = &arguments.key {
                let hashed = audit::hashed(key, address.as_bytes());
                addresses.push(hashed.map_err(|error| error.to_string())?);
            }
        }
        Ok(Self {
            arguments,
            addresses,
        })
    }

    /// Gives the number of lines that are no records.
    fn all(&self, out: &mut dyn Write, errors: &mut dyn Write) -> io::Result<u64> {
        let mut unread = 0;
        for file in in_order(&self.arguments.files)? {
            let mut lines = Lines::open(&file)?;
            while let Some(line) = lines.next()? {
                if self.is_out_of_time(line.bytes) {
                    continue;
                }
                match serde_json::from_slice::<Value>(line.bytes) {
                    Ok(record) if self.matches(&record) => {
                        if self.arguments.json {
                            out.write_all(line.bytes)?;
                            out.write_all(b"\n")?;
                        } else {
                            // A log that somebody else wrote into can hold anything.
                            let sentence = Sentence(&record).to_string();
                            writeln!(out, "{}", printable(&sentence, LONGEST))?;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => {
                        unread += 1;
                        writeln!(
                            errors,
                            "{}:{}: this is no record",
                            file.display(),
                            line.number
                        )?;
                    }
                }
            }
        }
        Ok(unread)
    }

    /// Told from the time's place in the line, before the rest of it is parsed.
    fn is_out_of_time(&self, line: &[u8]) -> bool {
        let Some(header) = Header::read(line) else {
            return false;
        };
        let begins = |time: &String| &header.at[..time.len()];
        let Show { since, until, .. } = self.arguments;
        let is_before = |since: &String| begins(since) < since.as_bytes();
        let is_after = |until: &String| begins(until) > until.as_bytes();
        since.as_ref().is_some_and(is_before) || until.as_ref().is_some_and(is_after)
    }

    fn matches(&self, record: &Value) -> bool {
        let Show {
            domain,
            address,
            verdict,
            session,
            ..
        } = self.arguments;
        session
            .as_ref()
            .is_none_or(|id| record["session"]["id"] == id.as_str())
            && verdict
                .as_ref()
                .is_none_or(|verdict| self::verdict(record) == Some(verdict))
            && domain
                .as_ref()
                .is_none_or(|domain| concerns(record, domain))
            && (address.is_none() || addresses(record).any(|address| self.is_asked_for(address)))
    }

    fn is_asked_for(&self, address: &str) -> bool {
        self.addresses
            .iter()
            .any(|asked| asked.eq_ignore_ascii_case(address))
    }
}

/// What the policy said in a record, in one word.
fn verdict(record: &Value) -> Option<&str> {
    let observed = |decision: &Value| decision["observed"] == true && !decision["reason"].is_null();
    let mut decisions = record["decisions"].as_array().into_iter().flatten();
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

fn addresses(record: &Value) -> impl Iterator<Item = &str> {
    let recipients = record["recipients"].as_array().into_iter().flatten();
    [&record["sender"], &record["address"]]
        .into_iter()
        .chain(recipients)
        .filter_map(Value::as_str)
}

/// Whether a record is about a domain, or one below it where that begins with a dot.
fn concerns(record: &Value, domain: &str) -> bool {
    let is_it = |name: &str| match domain.strip_prefix('.') {
        Some(_) => {
            name.len() > domain.len()
                && name
                    .to_ascii_lowercase()
                    .ends_with(&domain.to_ascii_lowercase())
        }
        None => name.eq_ignore_ascii_case(domain),
    };
    let decisions = record["decisions"].as_array().into_iter().flatten();
    let repeated = record["repeated"].as_array().into_iter().flatten();
    [&record["domain"], &record["decision"]["domain"]]
        .into_iter()
        .chain(repeated.map(|one| &one["domain"]))
        .chain(decisions.map(|decision| &decision["domain"]))
        .filter_map(Value::as_str)
        .any(is_it)
        || addresses(record).any(|address| {
            address
                .rsplit_once('@')
                .is_some_and(|(_, name)| is_it(name))
        })
}

/// Some beginning of an RFC 3339 time in UTC.
pub(super) fn is_time(text: &str) -> bool {
    (4..=TIME.len()).contains(&text.len())
        && text.bytes().zip(TIME).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *form,
        })
}

/// A record as one line for people.
struct Sentence<'a>(&'a Value);

impl std::fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
                tls(&record["tls"], f)
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
                repeated(&record["repeated"], f)
            }
            "checkpoint" => {
                let signed = if record["note"].is_null() {
                    "not signed"
                } else {
                    "signed"
                };
                write!(f, " head {} {signed}", text(&record["prev"]))
            }
            _ => rest(record, f),
        }
    }
}

fn refusal(record: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// What has no record of its own.
fn repeated(repeated: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    for one in repeated.as_array().into_iter().flatten() {
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

/// What was counted instead of being recorded singly.
fn counts(counts: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    for count in counts.as_array().into_iter().flatten() {
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

fn message(record: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let recipients: Vec<_> = record["recipients"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
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
    for each in record["decisions"].as_array().into_iter().flatten() {
        f.write_str(";")?;
        decision(each, f)?;
    }
    tls(&record["tls"], f)?;
    match record["peer"]["certificate"]["sha256"].as_str() {
        Some(sha256) => write!(f, " certificate {sha256}"),
        None => Ok(()),
    }
}

fn decision(decision: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

fn tls(tls: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    if tls.is_null() {
        return f.write_str("; no TLS");
    }
    write!(f, "; {} {}", text(&tls["version"]), text(&tls["suite"]))?;
    match tls["group"].as_str() {
        Some(group) => write!(f, " {group}"),
        None => Ok(()),
    }
}

/// The fields of a record that needs no sentence, by name.
fn rest(record: &Value, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let fields = record.as_object().into_iter().flatten();
    for (name, value) in fields {
        if !["v", "prev", "seq", "at", "event", "session"].contains(&name.as_str())
            && !value.is_null()
        {
            write!(f, " {name} {value}")?;
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_somebody_wrote_cannot_act_on_the_terminal() {
        let path = std::env::temp_dir().join(format!("shown-{}.jsonl", std::process::id()));
        let record = r#"{"v":1,"seq":1,"at":"2026-11-24T06:05:00.123456Z","event":"refusal","reason":"\u001b]0;x\u0007\u009b2J\u007f"}"#;
        std::fs::write(&path, record).expect("a file");
        let arguments = Show {
            files: vec![path.clone()],
            ..Show::default()
        };
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = show(&arguments, &mut out, &mut errors);
        std::fs::remove_file(path).expect("it is there");
        let told = String::from_utf8(out).expect("text");
        assert_eq!(code, DONE, "{told}");
        assert!(told.contains(r"\u{1b}]0;x\u{7}\u{9b}2J\u{7f}"), "{told}");
        assert!(
            told.trim_end()
                .chars()
                .all(|c| c.is_ascii_graphic() || c == ' '),
            "{told}"
        );
    }
}
