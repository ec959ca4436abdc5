//! What the watcher of port 25's locks says in its file.

use std::path::Path;

use super::{super::machine::units::ProxyUnits, finding::MachineFinding};
use crate::{
    clock, files,
    serve::status::interception::{STATE, is_watched, value},
};

const WATCH: &str = "starttls-proxy-watch";

pub(super) fn check(units: &ProxyUnits) -> Option<MachineFinding> {
    const CHECK: &str = "watcher";
    let start = |finding: MachineFinding| finding.run(format!("systemctl enable --now {WATCH}"));
    let Ok(text) = files::text(Path::new(STATE), files::SMALL) else {
        units.named(WATCH)?;
        let words = "nobody watches that the locks of port 25 stay on";
        return Some(start(MachineFinding::warn(CHECK, words)));
    };
    Some(match watched(&text, clock::unix_seconds(clock::wall())) {
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

/// What the watcher's file says.
#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Held,
    Late,
    Lost(String),
}

/// Reads `key=value` lines. `locks=held` or `alive=yes` is well; `checked=` is when it was looked at, in seconds since 1970.
fn watched(text: &str, now: u64) -> Watched {
    let value = |key: &str| value(text, key);
    let holds = match (value("locks"), value("alive")) {
        (Some(locks), _) => locks == "held",
        (None, alive) => alive == Some("yes"),
    };
    match (holds, is_watched(text, now)) {
        (false, _) => {
            let error = value("error").filter(|words| !words.is_empty());
            Watched::Lost(error.unwrap_or("it does not say why").to_owned())
        }
        (true, false) => Watched::Late,
        (true, true) => Watched::Held,
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
            ("locks=held\nchecked=980\n", Watched::Held),
            // The file's own description says thirty seconds.
            ("locks=held\nchecked=979\n", Watched::Late),
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
