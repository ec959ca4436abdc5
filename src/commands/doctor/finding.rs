//! What one check found, in words for a person who has never seen the proxy.

use std::io::{self, Write};

use crate::audit::printable;

/// Longest line of the page, in octets.
const LONGEST: usize = 2_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    /// As it must be.
    Ok,
    /// Mail moves and nothing is open, but that may not last, or something could not be looked at.
    Warn,
    /// Mail does not move, or it may move unprotected.
    Fail,
}

/// One step that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// A command line for root's shell.
    Run(String),
    /// What no command can do.
    Do(String),
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MachineFinding {
    /// How bad it is.
    pub(super) health: Health,
    /// What was looked at, in a few words.
    pub(super) check: &'static str,
    /// One sentence.
    pub(super) words: String,
    /// What mends it, in this order.
    pub(super) remedies: Vec<Remedy>,
}

impl MachineFinding {
    fn new(health: Health, check: &'static str, words: impl Into<String>) -> Self {
        Self {
            health,
            check,
            // A finding is one line; some errors have one for each file.
            words: words.into().trim().replace('\n', "; "),
            remedies: Vec::new(),
        }
    }

    pub(super) fn ok(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(Health::Ok, check, words)
    }

    pub(super) fn warn(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(Health::Warn, check, words)
    }

    pub(super) fn fail(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(Health::Fail, check, words)
    }

    pub(super) fn run(mut self, command: impl Into<String>) -> Self {
        self.remedies.push(Remedy::Run(command.into()));
        self
    }

    pub(super) fn advise(mut self, words: impl Into<String>) -> Self {
        self.remedies.push(Remedy::Do(words.into()));
        self
    }

    pub(super) fn with(mut self, remedies: impl IntoIterator<Item = Remedy>) -> Self {
        self.remedies.extend(remedies);
        self
    }

    /// Prints it. Names of files, interfaces and programs may hold anything, so that only printable ASCII is printed.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let health = match self.health {
            Health::Ok => "ok",
            Health::Warn => "WARN",
            Health::Fail => "FAIL",
        };
        let words = printable(&self.words, LONGEST);
        writeln!(out, "  {health:<4}  {:<14} {words}", self.check)?;
        for remedy in &self.remedies {
            match remedy {
                Remedy::Run(command) => {
                    writeln!(out, "        run: {}", printable(command, LONGEST))?
                }
                Remedy::Do(words) => writeln!(out, "        do: {}", printable(words, LONGEST))?,
            }
        }
        Ok(())
    }
}
