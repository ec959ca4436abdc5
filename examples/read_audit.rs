//! Verifies a log and counts its messages by the server's answer, as another program would:
//! `cargo run --example read_audit -- /var/lib/starttls-proxy/audit.jsonl audit.key.pub`.

use serde::Deserialize;
use starttls_proxy::audit::{LogTrust, SavedLog};
use std::{collections::BTreeMap, env, error::Error, process::ExitCode};

/// The one field of a message that is counted. Texts stay where they stand in the line.
#[derive(Deserialize)]
struct Message<'a> {
    outcome: &'a str,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let file = arguments.next().ok_or("name the file of a log")?;
    let (words, is_good) = read_audit(&file, arguments.next().as_deref())?;
    print!("{words}");
    Ok(match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What there is to say about the logs, and whether all are intact. A key is that of all.
pub fn read_audit(file: &str, key: Option<&str>) -> Result<(String, bool), Box<dyn Error>> {
    let mut trust = LogTrust::default();
    if let Some(key) = key {
        trust = trust.key(key)?;
    }
    let (mut words, mut is_good) = (String::new(), true);
    for log in SavedLog::find(&[file])? {
        let mut outcomes = BTreeMap::<String, u64>::new();
        let mut failed = None;
        let verified = log.verify_and_read(&trust, |record| {
            if record.event() == "message" {
                match record.fields::<Message<'_>>() {
                    Ok(message) => *outcomes.entry(message.outcome.to_owned()).or_default() += 1,
                    Err(error) => failed = Some(error),
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let name = verified.origin().unwrap_or("a log without a name");
        match verified.finding() {
            Some(finding) => {
                is_good = false;
                words += &format!("{name}: NOT INTACT: {finding}\n");
            }
            None => {
                let (good, signed) = (verified.good(), verified.signed_below());
                words += &format!("{name}: intact, {good} records, {signed} of them signed\n");
                for (outcome, number) in outcomes {
                    words += &format!("{number} messages {outcome}\n");
                }
            }
        }
    }
    Ok((words, is_good))
}
