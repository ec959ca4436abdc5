//! From the command line to an exit code.
//!
//! Errors go to stderr as `starttls-proxy: words`, lower case, no full stop, with file:line:column for files, then a
//! `hint:` line where something can be done.

pub mod help;
mod usage;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use argh::FromArgs as _;

use crate::{
    commands::{self, audit, runtime},
    configure,
    exit::Exit,
    flags::{AuditCommandFlags, CommandFlags, PolicyCommandFlags, ProgramFlags},
    logging, serve,
};

/// How long the end of the program waits for tasks that were not asked to end.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Runs the program; a panic that nothing confined is exit code 70.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let code = match std::panic::catch_unwind(|| run(&arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            if let Exit::Usage(words)
            | Exit::Configuration(words)
            | Exit::Serving(serve::ServeError { words, .. }) = &failure
                && !words.is_empty()
            {
                logging::write_raw(&format!("starttls-proxy: {}\n", words.trim_end()));
            }
            ExitCode::from(failure.code())
        }
        Err(_) => ExitCode::from(70),
    };
    logging::flush();
    code
}

fn run(arguments: &[String]) -> Result<(), Exit> {
    let arguments = apart(arguments);
    if let Some(text) = usage::help_asked_for(&arguments) {
        print(text);
        return Ok(());
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words == ["--version"] {
        print(concat!("starttls-proxy ", env!("CARGO_PKG_VERSION"), "\n"));
        return Ok(());
    }
    let top = ProgramFlags::from_args(&["starttls-proxy"], &words)
        .map_err(|early| usage::failure(&early.output, &arguments))?;
    logging::install();
    match top.command {
        CommandFlags::Outbound(flags) => served(configure::outbound(&flags)?, flags.dry_run),
        CommandFlags::Inbound(flags) => served(configure::inbound(&flags)?, flags.dry_run),
        CommandFlags::Check(flags) => commands::check::check(&flags),
        CommandFlags::Policy(policy) => match policy.verb {
            PolicyCommandFlags::Test(flags) => commands::policy::test(&flags),
            PolicyCommandFlags::Show(flags) => commands::policy::show(&flags),
            PolicyCommandFlags::Purge(flags) => commands::policy::purge(&flags),
        },
        CommandFlags::Audit(audit) => evidence(&audit.verb),
    }
}

fn served(prepared: configure::PreparedProxy, dry_run: bool) -> Result<(), Exit> {
    if dry_run {
        print(&prepared.summary());
        return Ok(());
    }
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        prepared.reach_out().await?;
        let plan = prepared.bind().await?;
        serve::run(plan).await.map_err(Exit::from)
    });
    // What still hangs (a look-up, a disk) is left behind.
    runtime.shutdown_timeout(LEFT_BEHIND);
    outcome
}

fn evidence(command: &AuditCommandFlags) -> Result<(), Exit> {
    let (mut out, mut errors) = (std::io::stdout().lock(), std::io::stderr().lock());
    let progress = match errors.is_terminal() {
        true => Some(&mut errors as &mut dyn std::io::Write),
        false => None,
    };
    match command {
        AuditCommandFlags::Verify(flags) => audit::verify(flags, &mut out, progress),
        AuditCommandFlags::Report(flags) => audit::report(flags, &mut out, progress),
        AuditCommandFlags::Show(flags) => audit::show(flags, &mut out, &mut errors),
        AuditCommandFlags::Keygen(flags) => audit::keygen(flags, &mut out),
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

/// To stdout; who closed it does not want to know.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_of(command: &[&str]) -> Vec<String> {
        let mut words = command.to_vec();
        words.push("--help");
        let text = ProgramFlags::from_args(&["starttls-proxy"], &words)
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

    fn said(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        match run(&arguments) {
            Err(Exit::Usage(words)) => words,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (arguments, words) in [
            (
                &["audit", "report", "log"][..],
                "required options not provided: --html",
            ),
            (&["audit", "keygen"], "required options not provided: --out"),
            (
                &["policy", "purge", "a.example"],
                "required options not provided: --state-dir",
            ),
            (
                &["outbound", "--listen"],
                "no value provided for option '--listen'",
            ),
            (&["audit"], "verify, show, report, keygen"),
            (&["policy"], "test, show, purge"),
        ] {
            let said = said(arguments);
            assert!(said.starts_with(words) || said.contains(words), "{said}");
            assert!(said.contains("\nhint: starttls-proxy"), "{said}");
        }
    }

    #[test]
    fn a_misspelt_word_is_answered_with_the_one_that_was_meant() {
        for (arguments, hint) in [
            (&["outbond", "--listen", "x"][..], "did you mean outbound?"),
            (&["inbund"], "did you mean inbound?"),
            (&["chek", "a.example"], "did you mean check?"),
            (&["outbuond"], "did you mean outbound?"),
            (&["Outbound"], "did you mean outbound?"),
            (&["policy", "tset"], "did you mean test?"),
            (&["audit", "verfy"], "did you mean verify?"),
            (&["outbound", "--polcy", "x"], "did you mean --policy?"),
            (&["outbound", "--listn", "x"], "did you mean --listen?"),
            (
                &["outbound", "--keep-client-adress"],
                "did you mean --keep-client-address?",
            ),
            (&["outbound", "--no_dane"], "did you mean --no-dane?"),
            (&["outbound", "-listen", "x"], "did you mean --listen?"),
            (
                &["policy", "test", "--polcy", "x"],
                "did you mean --policy?",
            ),
            (
                &["outbound", "--exempt", "x"],
                "--exempt is a flag of inbound",
            ),
            (
                &["inbound", "--level", "x"],
                "--level is a flag of outbound",
            ),
            (
                &["inbound", "--levle", "x"],
                "did you mean --level? it is a flag of outbound",
            ),
        ] {
            let said = said(arguments);
            assert!(said.contains(hint), "{arguments:?}: {said}");
        }
        for arguments in [&["frobnicate"][..], &["outbound", "--frobnicate"]] {
            assert!(
                !said(arguments).contains("did you mean"),
                "{}",
                said(arguments)
            );
        }
    }

    #[test]
    fn a_flags_value_is_never_taken_for_help() {
        for value in ["help", "--help", "-h"] {
            for arguments in [
                &["outbound", "--listen", "nonsense", "--hostname", value][..],
                &["check", "--hostname", value, "a b"],
                &[
                    "inbound",
                    "--cert",
                    value,
                    "--key",
                    value,
                    "--relay-probe",
                    value,
                ],
                &["--policy", value],
            ] {
                said(arguments);
            }
            let one = format!("--hostname={value}");
            said(&["outbound", &one]);
        }
        for (arguments, text) in [
            (&["help"][..], help::TOP),
            (&["-h"], help::TOP),
            (&[], help::TOP),
            (&["help", "outbound"], help::OUTBOUND),
            (&["outbound", "--help"], help::OUTBOUND),
            (
                &["outbound", "--hostname", "mx", "--observe", "help"],
                help::OUTBOUND,
            ),
            (&["outbound", "--nonsense", "--help"], help::OUTBOUND),
            (&["policy", "test", "-h"], help::POLICY),
            (&["audit", "help"], help::AUDIT),
        ] {
            let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
            assert_eq!(
                usage::help_asked_for(&arguments),
                Some(text),
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn a_wrong_flag_says_where_to_read_on() {
        let arguments = ["outbound".to_owned(), "--nonsense".to_owned()];
        let Err(Exit::Usage(words)) = run(&arguments) else {
            panic!("accepted")
        };
        assert!(
            words.contains("--nonsense") && words.contains("starttls-proxy outbound --help"),
            "{words}"
        );
    }
}
