//! Text files with the marks that editors leave: those of Windows put a byte order mark in front, and some write UTF-16. Who else can
//! read a secret. And the room that is left for files.

use std::{env, fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The whole file, without the byte order mark.
///
/// # Errors
/// As the system says; `InvalidData` with the remedy if the file is not UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    let octets = octets(path)?;
    String::from_utf8(octets)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8; save it as UTF-8"))
}

/// The whole file, without byte order marks at the beginning of lines. A file that was joined from several has marks in the middle.
/// A mark would hide the text behind it, such as the first certificate of a PEM file.
///
/// # Errors
/// As the system says; `InvalidData` with the remedy if the file is UTF-16.
pub fn octets(path: &Path) -> io::Result<Vec<u8>> {
    let read = fs::read(path)?;
    if read.starts_with(b"\xff\xfe") || read.starts_with(b"\xfe\xff") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is UTF-16; save it as UTF-8",
        ));
    }
    let lines = read.split_inclusive(|octet| *octet == b'\n');
    Ok(lines
        .flat_map(|line| line.strip_prefix(MARK).unwrap_or(line))
        .copied()
        .collect())
}

/// Whether strangers on this host are kept away from a file with a secret. Returns a warning if its group needs not read it either.
/// systemd guards its credentials by itself.
///
/// # Errors
/// Says who can read or change it and how to mend that, or why it cannot be read.
pub(crate) fn guard(file: &Path) -> Result<Option<String>, String> {
    let name = file.display();
    // To open a pipe would wait for its writer.
    let metadata =
        fs::metadata(file).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{name}: is no regular file"));
    }
    let is_credential = env::var_os("CREDENTIALS_DIRECTORY")
        .is_some_and(|folder| file.parent() == Some(Path::new(&folder)));
    if metadata.mode() & 0o007 != 0 && !is_credential {
        return Err(format!(
            "{name}: everybody on this host may read or change it; chmod o= {name}"
        ));
    }
    let own = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == metadata.uid());
    Ok((metadata.mode() & 0o070 != 0 && own && !is_credential)
        .then(|| format!("{name}: its group may read or change it; chmod g= {name}")))
}

/// Octets that this process can still write to the file system of `path`.
///
/// # Errors
/// The system's error.
pub(crate) fn free_octets(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Days until `free` octets are full, if `written` octets took the time `after`. `None`: too little is known, because less than an hour
/// is over or nothing was written.
pub(crate) fn days_left(free: u64, written: u64, after: Duration) -> Option<f64> {
    const HOUR: Duration = Duration::from_secs(3600);
    let a_day = written as f64 / (after.as_secs_f64() / 86_400.0);
    (after >= HOUR && written > 0).then(|| free as f64 / a_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_what_df_calls_available() {
        let folder = std::env::temp_dir();
        let df = std::process::Command::new("df")
            .arg("-Pk")
            .arg(&folder)
            .output();
        let text = String::from_utf8(df.expect("df").stdout).expect("text");
        let last = text.lines().next_back().expect("a line");
        let available = last.split_ascii_whitespace().nth(3);
        let available = available.and_then(|octets| octets.parse::<u64>().ok());
        let free = free_octets(&folder).expect("the system says it") >> 10;
        // Other programs write to the same disk meanwhile.
        let difference = free.abs_diff(available.expect("a number"));
        assert!(difference < free / 10, "{free} KiB, and df says {text}");
        assert!(free_octets(Path::new("/nowhere/at/all")).is_err());
    }

    fn saved(name: &str, octets: &[u8]) -> std::path::PathBuf {
        let name = format!("starttls-proxy-files-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, octets).expect("a file");
        path
    }

    #[test]
    fn marks_are_passed_over_where_a_line_begins_and_nowhere_else() {
        let path = saved("marks", "\u{feff}a\n\u{feff}b\r\nc\u{feff}\n".as_bytes());
        assert_eq!(text(&path).expect("text"), "a\nb\r\nc\u{feff}\n");
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn other_encodings_are_errors_that_say_what_to_do() {
        for (name, octets, words) in [
            ("le", &b"\xff\xfea\0"[..], "UTF-16"),
            ("be", b"\xfe\xff\0a", "UTF-16"),
            ("latin1", b"reason=\"M\xfcller\"", "not UTF-8"),
        ] {
            let path = saved(name, octets);
            let error = text(&path).expect_err("an error").to_string();
            assert!(
                error.contains(words) && error.contains("save it as UTF-8"),
                "{error}"
            );
            fs::remove_file(path).expect("removed");
        }
    }

    #[test]
    fn the_days_left_are_those_at_the_speed_so_far_once_an_hour_is_over() {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        assert_eq!(days_left(480, 10, hours(12)), Some(24.0));
        assert_eq!(days_left(480, 10, hours(1)), Some(2.0));
        assert_eq!(days_left(0, 10, hours(12)), Some(0.0));
        assert_eq!(days_left(480, 10, Duration::from_secs(3599)), None);
        assert_eq!(days_left(480, 0, hours(12)), None);
        assert_eq!(days_left(480, 0, Duration::ZERO), None);
    }
}
