//! What the watcher of port 25's locks says in its file.

use std::{fs, time::UNIX_EPOCH};

use super::{super::machine::units::ProxyUnits, finding::MachineFinding};
use crate::clock;

/// Where the watcher says how the locks are.
const STATE: &str = "/run/starttls-proxy/interception.state";
/// A state that is older than this, in seconds, means that nobody watches.
const WATCHED: u64 = 30;
const WATCH: &str = "starttls-proxy-watch";

pub(super) fn check(units: &ProxyUnits) -> Option<MachineFinding> {
    const CHECK: &str = "watcher";
    let start = |finding: MachineFinding| finding.run(format!("systemctl enable --now {WATCH}"));
    let Ok(text) = fs::read_to_string(STATE) else {
        units.named(WATCH)?;
        let words = "nobody watches that the locks of port 25 stay on";
        return Some(start(MachineFinding::warn(CHECK, words)));
    };
    Some(match watched(&text, seconds_now()) {
        Watched::Held => MachineFinding::ok(CHECK, "the watcher says that both locks hold"),
        Watched::Late => start(MachineFinding::warn(
            CHECK,
            format!("{STATE} is old, so that nobody watches the locks of port 25"),
        )),
        Watched::Lost(words) => MachineFinding::fail(
            CHECK,
            format!("the watcher says that a lock of port 25 is gone: {words}"),
        )
        .run("systemctl restart starttls-proxy-routing")
        .run(format!("journalctl -n 20 -u {WATCH}")),
    })
}

fn seconds_now() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What the watcher's file says.
#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Held,
    Late,
    Lost(String),
}

/// Reads `key=value` lines. `locks=held` or `alive=yes` is well; `checked=` is when it was looked at, in seconds since 1970.
fn watched(text: &str, now: u64) -> Watched {
    let value = |wanted: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| value)
    };
    let checked: Option<u64> = value("checked").and_then(|value| value.parse().ok());
    let holds = match (value("locks"), value("alive")) {
        (Some(locks), _) => locks == "held",
        (None, alive) => alive == Some("yes"),
    };
    match (holds, checked) {
        (false, _) => {
            let error = value("error").filter(|words| !words.trim().is_empty());
            Watched::Lost(error.unwrap_or("it does not say why").trim().to_owned())
        }
        (true, Some(checked)) if checked.saturating_add(WATCHED) < now => Watched::Late,
        (true, _) => Watched::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchers_file_is_believed_while_it_is_fresh() {
        for (text, expected) in [
            ("locks=held\nchecked=1000\nerror=\n", Watched::Held),
            ("alive=yes\n", Watched::Held),
            ("locks=held\nchecked=900\n", Watched::Late),
            (
                "locks=failing\nchecked=1000\nerror=no ip -4 rule\n",
                Watched::Lost("no ip -4 rule".into()),
            ),
            ("alive=no\n", Watched::Lost("it does not say why".into())),
            (
                "locks=unset\nalive=yes\n",
                Watched::Lost("it does not say why".into()),
            ),
            ("", Watched::Lost("it does not say why".into())),
        ] {
            assert_eq!(watched(text, 1010), expected, "{text}");
        }
    }
}
