//! What the watcher of the interception has written down: whether port 25 is still led through the proxy or shut.

use std::{fs::File, io::Read as _, path::Path};

/// Where the watcher writes, one `key=value` on a line, times in seconds since 1970. `alive=yes` or `alive=no` says whether the locks
/// stand, and `since=` since when. Without them, `locks=held` or `locks=failing` says the same, and `restored_at=` when something was
/// put back last. `checked=` is the time of the last check.
pub(super) const STATE: &str = "/run/starttls-proxy/interception.state";
/// A watcher checks every few seconds. One that has not for this long is gone, and nobody restores a lock.
const STALE: u64 = 60;
/// Most octets that are read.
const LONGEST: u64 = 4096;

/// What the watcher found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InterceptionState {
    /// Both locks on port 25 stand.
    pub(super) alive: bool,
    /// Since when, in seconds since 1970.
    pub(super) since: Option<u64>,
}

/// Reads the file. `None`: nobody watches, or the file says nothing that can be read. `now` is in seconds since 1970.
pub(super) fn read(file: &Path, now: u64) -> Option<InterceptionState> {
    let mut text = String::new();
    let file = File::open(file).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    parse(&text, now)
}

fn parse(text: &str, now: u64) -> Option<InterceptionState> {
    let value = |key: &str| {
        let mut values = text.lines().filter_map(|line| line.split_once('='));
        let value = values.find(|(name, _)| name.trim() == key);
        value.map(|(_, value)| value.trim())
    };
    let time = |key: &str| value(key).and_then(|time| time.parse::<u64>().ok());
    let stands = match value("alive").or_else(|| value("locks"))? {
        "yes" | "held" => true,
        "no" | "failing" => false,
        _ => return None,
    };
    let is_watched = time("checked").is_none_or(|checked| now.saturating_sub(checked) <= STALE);
    Some(InterceptionState {
        alive: stands && is_watched,
        since: time("since").or_else(|| time("restored_at")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_764_362_646;

    fn state(alive: bool, since: Option<u64>) -> Option<InterceptionState> {
        Some(InterceptionState { alive, since })
    }

    #[test]
    fn the_file_says_whether_the_locks_stand_and_since_when() {
        for (text, expected) in [
            (
                "alive=yes\nsince=1764362000\n",
                state(true, Some(1_764_362_000)),
            ),
            ("# x\nwhat=nft\n alive = no \n", state(false, None)),
            ("alive=no\nsince=yesterday\n", state(false, None)),
            ("locks=held\nnft=held\nrestored_at=\n", state(true, None)),
            (
                "locks=failing\nrestored_at=1764362000\n",
                state(false, Some(1_764_362_000)),
            ),
        ] {
            assert_eq!(parse(text, NOW), expected, "{text:?}");
        }
        for nothing in [
            "",
            "alive\n",
            "alive=maybe\n",
            "since=1\n",
            "alive=\n",
            "locks=unset\n",
        ] {
            assert_eq!(parse(nothing, NOW), None, "{nothing:?}");
        }
        assert_eq!(read(Path::new("/nowhere/interception.state"), NOW), None);
    }

    #[test]
    fn locks_that_nobody_watches_any_more_do_not_count_as_standing() {
        for (checked, alive) in [(NOW, true), (NOW - STALE, true), (NOW - STALE - 1, false)] {
            let text = format!("locks=held\nchecked={checked}\n");
            assert_eq!(parse(&text, NOW), state(alive, None), "{text}");
        }
    }
}
