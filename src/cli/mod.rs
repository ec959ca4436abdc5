//! From the command line to an exit code.
//!
//! Errors go to stderr as `starttls-proxy: words`, lower case, no full stop, with file:line:column for files, then a
//! `hint:` line where something can be done.

pub mod configure;
pub mod flags;
pub mod help;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use argh::FromArgs as _;
use log::Level;

use self::flags::{AuditVerb, Command, PolicyVerb, Top};
use crate::{audit::command, clock, report, serve};

/// Why the program ends without having done what was asked.
#[derive(Debug)]
pub enum Failure {
    /// Exit 64: the command line.
    Usage(String),
    /// Exit 78: a flag's value, a file, an address.
    Configuration(String),
    /// Exit 75: what is needed cannot be had now; the unit tries again.
    Temporary(String),
    /// Exit 1: it was done, and the answer is no.
    No,
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Configuration(_) => 78,
            Self::Temporary(_) => 75,
            Self::No => 1,
        }
    }
}

/// Runs the program; a panic that nothing confined is exit code 70.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match std::panic::catch_unwind(|| run(&arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            if let Failure::Usage(words) | Failure::Configuration(words) | Failure::Temporary(words) =
                &failure
                && !words.is_empty()
            {
                eprintln!("starttls-proxy: {}", words.trim_end());
            }
            ExitCode::from(failure.code())
        }
        Err(_) => ExitCode::from(70),
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let arguments = apart(arguments);
    if let Some(text) = help_asked_for(&arguments) {
        print(text);
        return Ok(());
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words == ["--version"] {
        print(concat!("starttls-proxy ", env!("CARGO_PKG_VERSION"), "\n"));
        return Ok(());
    }
    let top = Top::from_args(&["starttls-proxy"], &words)
        .map_err(|early| usage(&early.output, &arguments))?;
    begin_logging();
    match top.command {
        Command::Outbound(flags) => served(configure::outbound(&flags)?, flags.dry_run),
        Command::Inbound(flags) => served(configure::inbound(&flags)?, flags.dry_run),
        Command::Check(flags) => report::check(&flags),
        Command::Policy(policy) => match policy.verb {
            PolicyVerb::Test(flags) => report::policy_test(&flags),
            PolicyVerb::Show(flags) => report::policy_show(&flags),
            PolicyVerb::Purge(flags) => report::policy_purge(&flags),
        },
        Command::Audit(audit) => evidence(audit.verb),
    }
}

fn served(prepared: configure::Prepared, dry_run: bool) -> Result<(), Failure> {
    if dry_run {
        print(&prepared.summary());
        return Ok(());
    }
    runtime()?.block_on(async {
        prepared.reach_out().await?;
        let plan = prepared.bind().await.map_err(Failure::Configuration)?;
        serve::run(plan).await.map_err(Failure::Configuration)
    })
}

/// The multi-thread runtime that every command uses.
///
/// # Errors
/// No threads can be had.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Configuration(format!("cannot start threads: {error}")))
}

fn evidence(verb: AuditVerb) -> Result<(), Failure> {
    let (out, errors) = (&mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    let progress = std::io::stderr().is_terminal();
    if let AuditVerb::Verify(flags::AuditVerify { files, .. })
    | AuditVerb::Report(flags::AuditReport { files, .. })
    | AuditVerb::Show(flags::AuditShow { files, .. }) = &verb
        && files.is_empty()
    {
        return Err(Failure::Usage("audit: name at least one file".into()));
    }
    let verify = |files, anchors, keys, from| command::Verify {
        files,
        anchors,
        keys,
        from,
        progress,
    };
    let code = match verb {
        AuditVerb::Verify(f) => {
            command::verify(&verify(f.files, f.anchor, f.key, f.from), out, errors)
        }
        AuditVerb::Report(f) => {
            let verify = verify(f.files, f.anchor, f.key, f.from);
            command::report(
                &command::Report {
                    verify,
                    html: f.html,
                    since: f.since,
                    until: f.until,
                },
                out,
                errors,
            )
        }
        AuditVerb::Show(f) => {
            let flags::AuditShow {
                domain,
                address,
                key,
                since,
                until,
                verdict,
                session,
                json,
                files,
            } = f;
            let show = command::Show {
                files,
                domain,
                address,
                key,
                since,
                until,
                verdict,
                session,
                json,
            };
            command::show(&show, out, errors)
        }
        AuditVerb::Keygen(f) => command::keygen(&command::Keygen { out: f.out }, out, errors),
    };
    match code {
        command::DONE => Ok(()),
        command::DAMAGED => Err(Failure::No),
        // The command has said why.
        _ => Err(Failure::Configuration(String::new())),
    }
}

/// `--flag=value` as `--flag value`, which is what the parser reads.
fn apart(arguments: &[String]) -> Vec<String> {
    arguments
        .iter()
        .flat_map(|argument| match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                vec![flag.to_owned(), value.to_owned()]
            }
            _ => vec![argument.clone()],
        })
        .collect()
}

fn help_asked_for(arguments: &[String]) -> Option<&'static str> {
    let asked = arguments.is_empty()
        || arguments
            .iter()
            .any(|argument| argument == "--help" || argument == "-h" || argument == "help");
    asked.then(|| help_of(arguments))
}

fn help_of(arguments: &[String]) -> &'static str {
    match arguments
        .iter()
        .map(String::as_str)
        .find(|argument| !argument.starts_with('-') && *argument != "help")
    {
        Some("outbound") => help::OUTBOUND,
        Some("inbound") => help::INBOUND,
        Some("check") => help::CHECK,
        Some("policy") => help::POLICY,
        Some("audit") => help::AUDIT,
        _ => help::TOP,
    }
}

/// The parser's complaint in our form, with where to read on.
fn usage(complaint: &str, arguments: &[String]) -> Failure {
    let complaint = complaint
        .lines()
        .next()
        .unwrap_or("wrong usage")
        .trim_end_matches('.');
    let mut words = complaint.chars();
    let lower: String = words
        .next()
        .map(char::to_lowercase)
        .into_iter()
        .flatten()
        .chain(words)
        .collect();
    let command = arguments
        .first()
        .filter(|first| !first.starts_with('-'))
        .map_or(String::new(), |c| format!(" {c}"));
    Failure::Usage(format!("{lower}\nhint: starttls-proxy{command} --help"))
}

/// To stdout; who closed it does not want to know.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// One line an event on stderr: with the journal's priority where it reads along, else with the time.
fn begin_logging() {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(log::LevelFilter::Info)
        .parse_default_env();
    builder.format(move |out, record| {
        let text = record.args().to_string();
        let text = text.replace('\n', "; ");
        if journal {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{text}")
        } else {
            let at = humantime::format_rfc3339_millis(clock::wall());
            writeln!(out, "{at} {:5} {text}", record.level())
        }
    });
    // A second logger in one process (tests) is none of a user's business.
    let _ = builder.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_of(command: &[&str]) -> Vec<String> {
        let mut words = command.to_vec();
        words.push("--help");
        let text = Top::from_args(&["starttls-proxy"], &words)
            .expect_err("help ends early")
            .output;
        let flags = text
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
            .map(|word| {
                word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
                    .trim_start_matches('[')
                    .to_owned()
            });
        let mut flags: Vec<String> = flags.filter(|flag| flag != "--help").collect();
        flags.sort();
        flags.dedup();
        flags
    }

    #[test]
    fn every_flag_is_explained_and_none_is_explained_that_is_not_there() {
        let texts: [(&[&[&str]], &str); 5] = [
            (&[&["outbound"]], help::OUTBOUND),
            (&[&["inbound"]], help::INBOUND),
            (&[&["check"]], help::CHECK),
            (
                &[
                    &["policy", "test"],
                    &["policy", "show"],
                    &["policy", "purge"],
                ],
                help::POLICY,
            ),
            (
                &[
                    &["audit", "verify"],
                    &["audit", "show"],
                    &["audit", "report"],
                    &["audit", "keygen"],
                ],
                help::AUDIT,
            ),
        ];
        for (commands, text) in texts {
            let mut parsed: Vec<String> = commands
                .iter()
                .flat_map(|command| flags_of(command))
                .collect();
            parsed.sort();
            parsed.dedup();
            let mut explained: Vec<String> = text
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                .filter(|word| word.starts_with("--") && word.len() > 2)
                .map(str::to_owned)
                .collect();
            explained.sort();
            explained.dedup();
            assert_eq!(parsed, explained);
        }
    }

    #[test]
    fn help_fits_eighty_columns() {
        for text in [
            help::TOP,
            help::OUTBOUND,
            help::INBOUND,
            help::CHECK,
            help::POLICY,
            help::AUDIT,
        ] {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn a_wrong_flag_says_where_to_read_on() {
        let arguments = ["outbound".to_owned(), "--nonsense".to_owned()];
        let Err(Failure::Usage(words)) = run(&arguments) else {
            panic!("accepted")
        };
        assert!(
            words.contains("--nonsense") && words.contains("starttls-proxy outbound --help"),
            "{words}"
        );
    }
}
