//! The command line of the benchmark.

use crate::Outcome;
use std::{path::PathBuf, time::Duration};

pub const HELP: &str = "\
What mail costs through starttls-proxy, beside other programs, on this machine.

  benches/run [OPTION...]                 installs the other programs (root, Debian), builds what ships, measures
  cargo bench --bench relay -- [OPTION...]    measures with what is there

  --only ROW,...     these rows: cold cold-16 session message messages bulk idle standing crowd recipients table burst
  --peers WORD,...   these peers, by a part of their names: direct, ours, hand-fed, stunnel, nginx, HAProxy, Postfix
  --proxy PATH       the binary to measure; given twice, the second one is \"ours B\"
  --rounds N         rounds of each row (default 3)
  --quick            short rounds, for a first look; the figures are worth little
  --write FOLDER     write results.json, table.md and picture.svg there
";

pub struct Options {
    pub only: Vec<String>,
    pub peers: Vec<String>,
    pub proxies: Vec<PathBuf>,
    pub rounds: usize,
    /// How long one measurement sends.
    pub time: Duration,
    /// Part of the idle sessions and of the crowds that are set up.
    pub scale: usize,
    pub write: Option<PathBuf>,
    /// Whether this process is in a network namespace in which connections are intercepted.
    pub intercepts: bool,
    /// Neither a bench nor a person asked for it: it must only be seen to work.
    pub is_smoke: bool,
}

impl Options {
    /// `None`: help was asked for.
    pub fn parse(arguments: &[String]) -> Outcome<Option<Self>> {
        let mut options = Self {
            only: Vec::new(),
            peers: Vec::new(),
            proxies: Vec::new(),
            rounds: 3,
            time: Duration::from_secs(1),
            scale: 1,
            write: None,
            intercepts: std::env::var_os(crate::namespace::INSIDE).is_some(),
            is_smoke: true,
        };
        let mut rounds = None;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let words = |text: &String| text.split(',').map(String::from).collect::<Vec<_>>();
            match argument.as_str() {
                "--only" => options.only.extend(words(value()?)),
                "--peers" => options.peers.extend(words(value()?)),
                "--proxy" => options.proxies.push(value()?.into()),
                "--rounds" => rounds = Some(value()?.parse()?),
                "--write" => options.write = Some(value()?.into()),
                "--quick" => {
                    options.rounds = 1;
                    options.time = Duration::from_millis(200);
                    options.scale = 10;
                    options.is_smoke = false;
                }
                // What cargo says when it runs a benchmark.
                "--bench" => options.is_smoke = false,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("no option {argument}\n\n{HELP}").into()),
            }
        }
        if options.proxies.is_empty() {
            options
                .proxies
                .push(env!("CARGO_BIN_EXE_starttls-proxy").into());
        }
        if options.is_smoke {
            options.rounds = 1;
            options.time = Duration::from_millis(50);
            options.scale = 200;
            if options.peers.is_empty() {
                options.peers = ["direct", "ours", "hand-fed"].map(String::from).to_vec();
            }
        }
        options.rounds = rounds.unwrap_or(options.rounds);
        let is_row = |only: &&String| crate::rows::ROWS.iter().any(|(_, name, _)| name == only);
        if let Some(other) = options.only.iter().find(|only| !is_row(only)) {
            return Err(format!("no row {other}\n\n{HELP}").into());
        }
        Ok(Some(options))
    }

    pub fn wants_row(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }

    pub fn wants_peer(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let matches = |word: &String| name.contains(&word.to_lowercase());
        self.peers.is_empty() || self.peers.iter().any(matches)
    }
}
