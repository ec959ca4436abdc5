//! From the command line to an exit code.
//!
//! Errors go to stderr as `starttls-proxy: words`: lower case, no full stop, and file:line:column if they are about a file. A line
//! `hint: words` follows if something can be done.

pub mod help;
mod usage;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use argh::FromArgs as _;
use log::LevelFilter;

use crate::{
    VERSION,
    commands::{self, audit, runtime},
    configure,
    exit::{self, Exit},
    flags::{AuditCommandFlags, CommandFlags, PolicyCommandFlags, ProgramFlags, split_values},
    logging::{self, LogFormat},
    serve,
    tls::{self, CRYPTO_MODULE},
};

/// How long the end of the program waits for tasks that nobody asked to end.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Runs the program. A panic outside of a session ends it.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // First of all, because the sockets take the first free numbers.
    let taken = serve::take_sockets();
    let code = match std::panic::catch_unwind(|| taken.and_then(|()| run(&arguments))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            let words = failure.to_string();
            if !words.is_empty() {
                logging::write_raw(&format!("starttls-proxy: {}\n", words.trim_end()));
            }
            ExitCode::from(failure.code())
        }
        Err(_) => ExitCode::from(exit::SOFTWARE),
    };
    logging::flush();
    code
}

fn run(arguments: &[String]) -> Result<(), Exit> {
    let arguments = split_values(arguments);
    if let Some(text) = usage::help_asked_for(&arguments) {
        print(&text);
        return Ok(());
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words == ["--version"] {
        print(&format!(
            "starttls-proxy {VERSION} (cryptography: {CRYPTO_MODULE})\n"
        ));
        return Ok(());
    }
    let top = ProgramFlags::from_args(&["starttls-proxy"], &words)
        .map_err(|early| usage::failure(&early.output, &arguments))?;
    let (format, level) = match &top.command {
        CommandFlags::Outbound(flags) => (flags.log, flags.log_level),
        CommandFlags::Inbound(flags) => (flags.log, flags.log_level),
        _ => (LogFormat::Text, LevelFilter::Info),
    };
    logging::install(format, level);
    match top.command {
        CommandFlags::Outbound(flags) => served(configure::outbound(&flags)?, flags.dry_run),
        CommandFlags::Inbound(flags) => served(configure::inbound(&flags)?, flags.dry_run),
        CommandFlags::Check(flags) => commands::check::check(&flags),
        CommandFlags::Policy(policy) => match policy.verb {
            PolicyCommandFlags::Test(flags) => commands::policy::test(&flags),
            PolicyCommandFlags::Show(flags) => commands::policy::show(&flags),
            PolicyCommandFlags::Purge(flags) => commands::policy::purge(&flags),
            PolicyCommandFlags::Suggest(flags) => commands::policy::suggest(&flags),
        },
        CommandFlags::Audit(audit) => evidence(&audit.verb),
        CommandFlags::Doctor(flags) => commands::doctor::doctor(&flags),
        CommandFlags::Setup(flags) => commands::setup::setup(&flags),
    }
}

fn served(prepared: configure::PreparedProxy, dry_run: bool) -> Result<(), Exit> {
    tls::check_crypto_module().map_err(Exit::Configuration)?;
    if dry_run {
        print(&prepared.summary());
        return Ok(());
    }
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        prepared.reach_out().await?;
        let plan = prepared.bind().await?;
        serve::run(plan).await
    });
    // A look-up or a disk that does not answer is left behind.
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
        AuditCommandFlags::Prove(flags) => audit::prove(flags, &mut out),
        AuditCommandFlags::CheckProof(flags) => audit::check_proof(flags, &mut out),
    }
}

/// Prints to stdout. A reader that closed it does not want the text, so that is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serve::limits::MOST_BY_DEFAULT, session::handshakes::FOR_EACH_CORE};

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

    /// What `starttls-proxy COMMAND --help` prints.
    fn page(command: &str) -> String {
        let words = [command.to_owned(), String::from("--help")];
        usage::help_asked_for(&words).expect("it is asked for")
    }

    #[test]
    fn every_flag_is_explained_and_none_is_explained_that_is_not_there() {
        let commands: [(&[&[&str]], &str); 7] = [
            (&[&["doctor"]], "doctor"),
            (&[&["setup"]], "setup"),
            (&[&["outbound"]], "outbound"),
            (&[&["inbound"]], "inbound"),
            (&[&["check"]], "check"),
            (
                &[
                    &["policy", "test"],
                    &["policy", "show"],
                    &["policy", "purge"],
                    &["policy", "suggest"],
                ],
                "policy",
            ),
            (
                &[
                    &["audit", "verify"],
                    &["audit", "show"],
                    &["audit", "report"],
                    &["audit", "keygen"],
                    &["audit", "prove"],
                    &["audit", "check-proof"],
                ],
                "audit",
            ),
        ];
        for (commands, command) in commands {
            let mut parsed: Vec<String> = commands
                .iter()
                .flat_map(|command| flags_of(command))
                .collect();
            parsed.sort();
            parsed.dedup();
            let mut explained: Vec<String> = page(command)
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
    fn help_is_grouped_tells_the_defaults_and_fits_eighty_columns() {
        let pages = [
            "help", "outbound", "inbound", "check", "policy", "audit", "doctor", "setup",
        ];
        let pages = pages.map(page);
        for page in &pages {
            for line in page.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
            // Each `as for COMMAND` in a declaration names a flag that exists.
            let words: Vec<&str> = page.split_whitespace().collect();
            assert!(!words.join(" ").contains(" as for "), "{page}");
        }
        let headings = |page: &str| -> Vec<String> {
            let lines = page.lines().skip(4);
            let lines = lines.filter(|line| line.starts_with(char::is_uppercase));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(headings(&pages[0])[0], "Exit codes");
        assert_eq!(
            headings(&pages[1])[..5],
            [
                "Connections",
                "Policy and trust",
                "Refusals",
                "Evidence",
                "Operation"
            ]
        );
        assert_eq!(
            headings(&pages[2])[..5],
            [
                "Connections",
                "Certificates and policy",
                "Refusals",
                "Evidence",
                "Operation"
            ]
        );
        let outbound =
            crate::flags::OutboundFlags::from_args(&[], &[]).expect("no flag is required");
        let inbound = crate::flags::InboundFlags::from_args(&[], &[]).expect("no flag is required");
        let ruled = |page: usize, text: &str, end: &str| {
            let words: Vec<&str> = pages[page].split_whitespace().collect();
            let words = words.join(" ");
            let rule = words.split_once(&format!("{text} (default: "));
            let rule = rule.and_then(|(_, rule)| rule.split_inclusive(')').next());
            assert!(rule.is_some_and(|rule| rule.ends_with(end)), "{rule:?}");
        };
        let told = |page: usize, text: &str, default: &dyn std::fmt::Display| {
            let words: Vec<&str> = pages[page].split_whitespace().collect();
            let words = words.join(" ");
            let expected = format!("{text} (default {default}");
            assert!(words.contains(&expected), "{expected}");
        };
        for (page, of_one_client, drain) in [
            (1, outbound.max_sessions_per_client, outbound.drain_timeout),
            (2, inbound.max_sessions_per_client, inbound.drain_timeout),
        ] {
            ruled(page, "in all", &format!("at most {MOST_BY_DEFAULT})"));
            told(page, "one client address", &of_one_client);
            told(page, "under way", &drain);
        }
        let rule = format!("{FOR_EACH_CORE} for each core)");
        ruled(2, "handshakes at a time", &rule);
        told(2, "for strangers", &inbound.relay_probe);
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
            (
                &["audit"],
                "verify, show, report, keygen, prove, check-proof",
            ),
            (&["policy"], "test, show, purge, suggest"),
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
                &["doctor", "outbound", "--hostname", value, "--nonsense"],
            ] {
                said(arguments);
            }
            let one = format!("--hostname={value}");
            said(&["outbound", &one]);
        }
        for (arguments, begins) in [
            (&["help"][..], "starttls-proxy outbound|"),
            (&["-h"], "starttls-proxy outbound|"),
            (&[], "starttls-proxy outbound|"),
            (&["help", "outbound"], "starttls-proxy outbound [flags]\n"),
            (&["outbound", "--help"], "starttls-proxy outbound [flags]\n"),
            (
                &["outbound", "--hostname", "mx", "--observe", "help"],
                "starttls-proxy outbound [flags]\n",
            ),
            (
                &["outbound", "--nonsense", "--help"],
                "starttls-proxy outbound [flags]\n",
            ),
            (&["policy", "test", "-h"], "starttls-proxy policy test|"),
            (&["audit", "help"], "starttls-proxy audit verify|"),
            (
                &["doctor", "outbound", "--help"],
                "starttls-proxy doctor COMMAND...\n",
            ),
        ] {
            let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
            let page = usage::help_asked_for(&arguments).expect("it is asked for");
            assert!(page.starts_with(begins), "{arguments:?}: {page}");
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
