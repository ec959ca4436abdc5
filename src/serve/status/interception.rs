//! What the watcher of the interception has written down: whether port 25 is still led through the proxy or shut.

use std::{fs::File, io::Read as _, path::Path};

/// Where the watcher writes. Lines of `key=value`: `alive=yes` or `alive=no`, and `since=` with seconds since 1970.
pub(super) const STATE: &str = "/run/starttls-proxy/interception.state";
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

/// Reads the file. `None`: nobody watches, or the file says nothing that can be read.
pub(super) fn read(file: &Path) -> Option<InterceptionState> {
    let mut text = String::new();
    let file = File::open(file).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<InterceptionState> {
    let value = |key: &str| {
        let mut values = text.lines().filter_map(|line| line.split_once('='));
        values
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim())
    };
    Some(InterceptionState {
        alive: match value("alive")? {
            "yes" => true,
            "no" => false,
            _ => return None,
        },
        since: value("since").and_then(|since| since.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_whether_the_locks_stand_and_since_when() {
        let state = |alive, since| Some(InterceptionState { alive, since });
        assert_eq!(
            parse("alive=yes\nsince=1764362646\n"),
            state(true, Some(1_764_362_646))
        );
        assert_eq!(parse("# x\nwhat=nft\n alive = no \n"), state(false, None));
        assert_eq!(parse("alive=no\nsince=yesterday\n"), state(false, None));
        for nothing in ["", "alive\n", "alive=maybe\n", "since=1\n", "alive=\n"] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
        assert_eq!(read(Path::new("/nowhere/interception.state")), None);
    }
}
