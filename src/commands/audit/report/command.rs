//! The commands that repeat the figures, with the files and the period of this page.

use crate::flags::AuditReportFlags;
use std::fmt::Write as _;

/// The parts of all commands.
pub(super) struct Commands {
    /// Prints the records that the page counts, as they stand in the log.
    pub(super) show: String,
    /// Verifies the logs as it was done for the page.
    pub(super) verify: String,
}

impl Commands {
    pub(super) fn new(flags: &AuditReportFlags) -> Self {
        let mut show = String::from("starttls-proxy audit show --json");
        for (flag, value) in [("--since", &flags.since), ("--until", &flags.until)] {
            if let Some(value) = value {
                let _ = write!(show, " {flag} {}", for_the_shell(value));
            }
        }
        let mut verify = String::from("starttls-proxy audit verify");
        for (flag, values) in [("--key", &flags.key), ("--anchor", &flags.anchor)] {
            for value in values {
                let _ = write!(verify, " {flag} {}", for_the_shell(value));
            }
        }
        if flags.from > 0 {
            let _ = write!(verify, " --from {}", flags.from);
        }
        for file in &flags.files {
            let file = for_the_shell(&file.display().to_string());
            let _ = write!(show, " {file}");
            let _ = write!(verify, " {file}");
        }
        Self { show, verify }
    }
}

/// A word as a shell reads it back.
fn for_the_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+=,@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_file_name_as_one_word_and_runs_nothing_in_it() {
        assert_eq!(
            for_the_shell("/var/log/a-b_1.jsonl"),
            "/var/log/a-b_1.jsonl"
        );
        assert_eq!(for_the_shell("a b; $(x)"), "'a b; $(x)'");
        assert_eq!(for_the_shell("it's"), r"'it'\''s'");
        assert_eq!(for_the_shell(""), "''");
    }
}
