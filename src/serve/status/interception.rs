//! What the watcher of the interception has written down: whether port 25 is still led through the proxy or shut.

use std::{fs::File, io::Read as _, path::Path};

/// Where the watcher writes, one `key=value` on a line, times in seconds since 1970. `alive=yes` or `alive=no` says whether the locks
/// stand, and `since=` since when. Without them, `locks=held` or `locks=failing` says the same, `locks=unset` that nobody has put the
/// locks on, and `restored_at=` when something was put back last. `checked=` is the time of the last check.
pub(crate) const STATE: &str = "/run/starttls-proxy/interception.state";
/// Seconds. A watcher checks every few of them. One that has not for this long is gone, and nobody restores a lock.
const STALE: u64 = 30;
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

/// Reads the file. `None`: nobody watches, or the file says nothing that can be read. `now` is in seconds since 1970. `intercepts` says
/// whether this process waits for intercepted connections: if not, a host without locks is as it should be.
pub(super) fn read(file: &Path, now: u64, intercepts: bool) -> Option<InterceptionState> {
    let mut text = String::new();
    let file = File::open(file).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    parse(&text, now, intercepts)
}

/// The value of a line of the file.
pub(crate) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| line.split_once('='));
    let value = values.find(|(name, _)| name.trim() == key);
    value.map(|(_, value)| value.trim())
}

/// Whether the last check is so young that somebody still watches. A file without its time is believed. `now` is in seconds since 1970.
pub(crate) fn is_watched(text: &str, now: u64) -> bool {
    let checked = value(text, "checked").and_then(|time| time.parse::<u64>().ok());
    checked.is_none_or(|checked| now.saturating_sub(checked) <= STALE)
}

fn parse(text: &str, now: u64, intercepts: bool) -> Option<InterceptionState> {
    let value = |key: &str| value(text, key);
    let time = |key: &str| value(key).and_then(|time| time.parse::<u64>().ok());
    let stands = match value("alive").or_else(|| value("locks"))? {
        "yes" | "held" => true,
        "no" | "failing" => false,
        "unset" if intercepts => false,
        _ => return None,
    };
    let alive = stands && is_watched(text, now);
    // When something was put back says since when the locks stand, not since when they are gone.
    let since = time("since").or_else(|| time("restored_at").filter(|_| alive));
    Some(InterceptionState { alive, since })
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
                "locks=held\nrestored_at=1764362000\n",
                state(true, Some(1_764_362_000)),
            ),
        ] {
            assert_eq!(parse(text, NOW, false), expected, "{text:?}");
        }
        for nothing in [
            "",
            "alive\n",
            "alive=maybe\n",
            "since=1\n",
            "alive=\n",
            "locks=unset\n",
        ] {
            assert_eq!(parse(nothing, NOW, false), None, "{nothing:?}");
        }
        let nowhere = Path::new("/nowhere/interception.state");
        assert_eq!(read(nowhere, NOW, true), None);
    }

    #[test]
    fn locks_that_nobody_has_put_on_are_missing_where_connections_are_intercepted() {
        for locks in ["unset", "failing"] {
            let text = format!("locks={locks}\nchecked={NOW}\n");
            assert_eq!(parse(&text, NOW, true), state(false, None), "{text}");
        }
        assert_eq!(parse("locks=unset\n", NOW, false), None);
    }

    #[test]
    fn when_something_was_put_back_is_not_since_when_locks_are_gone() {
        let stale = NOW - STALE - 1;
        for text in [
            "locks=failing\nrestored_at=1764362000\n",
            "locks=unset\nrestored_at=1764362000\n",
            &format!("locks=held\nrestored_at=1764362000\nchecked={stale}\n"),
        ] {
            assert_eq!(parse(text, NOW, true), state(false, None), "{text}");
        }
    }

    #[test]
    fn nobody_watches_after_as_many_seconds_as_the_script_says() {
        let script = include_str!("../../../systemd/interception");
        let words = format!("If that is older than {STALE} seconds, nobody watches");
        assert!(script.contains(&words), "{words}");
    }

    #[test]
    fn locks_that_nobody_watches_any_more_do_not_count_as_standing() {
        for (checked, alive) in [(NOW, true), (NOW - STALE, true), (NOW - STALE - 1, false)] {
            let text = format!("locks=held\nchecked={checked}\n");
            assert_eq!(parse(&text, NOW, true), state(alive, None), "{text}");
        }
    }
}
