//! Files that are read whole, up to a limit: whoever can change one must not be able to fill the memory with it. Text files have the
//! marks that editors leave: those of Windows put a byte order mark in front, and some write UTF-16. Who else can read a secret. And
//! the room that is left for files.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

/// Most octets of a key, a checkpoint, an answer that was stored, or a list that somebody writes by hand.
pub(crate) const SMALL: u64 = 1 << 20;
/// Most octets of a file with certificates. The trust store of a system has a quarter of a MiB.
pub(crate) const CERTIFICATES: u64 = 16 << 20;
/// Most octets of what programs make: a table, a list of hosts or domains. A million lines of a table have 64 MiB.
pub(crate) const LARGE: u64 = 256 << 20;
/// Most octets of a line that a program has logged.
const LOGGED_LINE: usize = 1 << 16;

/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The next octets of a file, at most so many. Their memory does not move while they are read, so that no copy of a secret is left
/// behind.
pub(crate) fn beginning(file: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::with_capacity(usize::try_from(most).unwrap_or_default());
    file.take(most).read_to_end(&mut octets)?;
    Ok(octets)
}

/// The error with the name of the file or directory in front.
pub(crate) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Opens a file for reading. What is no file, such as a pipe with a name, is refused: whoever opens it may wait for ever.
///
/// # Errors
/// As the system says; `InvalidInput` if it is no regular file.
pub(crate) fn regular(path: &Path) -> io::Result<File> {
    // With this flag a pipe is open at once. It changes nothing for a file.
    let flag = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flag)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => {
            let words = "it is no regular file";
            Err(io::Error::new(io::ErrorKind::InvalidInput, words))
        }
    }
}

/// The whole file as it is. There is room for a regular file at first, so that no copy of a secret is left behind by growing.
///
/// # Errors
/// As the system says; `FileTooLarge` if it has more than `most` octets.
pub(crate) fn whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let words = match most >> 20 {
            0 => format!("larger than {most} octets"),
            mebibytes => format!("larger than {mebibytes} MiB"),
        };
        io::Error::new(io::ErrorKind::FileTooLarge, words)
    };
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_large());
    }
    // What is no regular file has no length, and any file may grow meanwhile.
    let mut octets = Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1);
    file.take(most + 1).read_to_end(&mut octets)?;
    match octets.len() as u64 > most {
        true => Err(too_large()),
        false => Ok(octets),
    }
}

/// Hands each line to `take` of a text that a program has logged, such as a journal, which may have any length. Lines that are longer
/// than what this program logs are passed over.
///
/// # Errors
/// As the system says; `InvalidData` with the remedy if the text is UTF-16.
pub(crate) fn each_logged_line(file: impl Read, mut take: impl FnMut(&str)) -> io::Result<()> {
    let mut file = BufReader::new(file);
    refuse_utf16(file.fill_buf()?)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = LOGGED_LINE as u64;
        if (&mut file).take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.ends_with(b"\n") || line.len() < LOGGED_LINE {
            let text = line.strip_prefix(MARK).unwrap_or(&line);
            take(String::from_utf8_lossy(text).trim_end());
        } else {
            file.skip_until(b'\n')?;
        }
    }
}

/// The whole file, without the byte order mark.
///
/// # Errors
/// As the system says; `FileTooLarge` if it has more than `most` octets, `InvalidData` with the remedy if it is not UTF-8.
pub(crate) fn text(path: &Path, most: u64) -> io::Result<String> {
    let octets = octets(path, most)?;
    String::from_utf8(octets)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8; save it as UTF-8"))
}

/// The whole file, without byte order marks at the beginning of lines. A file that was joined from several has marks in the middle.
/// A mark would hide the text behind it, such as the first certificate of a PEM file.
///
/// # Errors
/// As the system says; `FileTooLarge` if it has more than `most` octets, `InvalidData` with the remedy if it is UTF-16.
pub(crate) fn octets(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let read = whole(path, most)?;
    refuse_utf16(&read)?;
    let lines = read.split_inclusive(|octet| *octet == b'\n');
    Ok(lines
        .flat_map(|line| line.strip_prefix(MARK).unwrap_or(line))
        .copied()
        .collect())
}

fn refuse_utf16(begin: &[u8]) -> io::Result<()> {
    match begin.starts_with(b"\xff\xfe") || begin.starts_with(b"\xfe\xff") {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is UTF-16; save it as UTF-8",
        )),
        false => Ok(()),
    }
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
        assert_eq!(text(&path, SMALL).expect("text"), "a\nb\r\nc\u{feff}\n");
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_file_that_is_larger_than_it_may_be_is_an_error_and_is_not_read() {
        let path = saved("large", b"12345678");
        assert_eq!(whole(&path, 8).expect("read"), b"12345678");
        let error = whole(&path, 7).expect_err("an error").to_string();
        assert_eq!(error, "larger than 7 octets");
        let sparse = fs::OpenOptions::new().write(true).open(&path);
        sparse.expect("opened").set_len(1 << 40).expect("a length");
        for read in [whole(&path, SMALL), octets(&path, SMALL)] {
            let error = read.expect_err("an error");
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert_eq!(error.to_string(), "larger than 1 MiB");
        }
        let begin = beginning(File::open(&path).expect("opened"), 10).expect("read");
        assert_eq!(begin, b"12345678\0\0");
        fs::remove_file(path).expect("removed");
        // A device has no length.
        let error = whole(Path::new("/dev/zero"), SMALL).expect_err("an error");
        assert_eq!(error.to_string(), "larger than 1 MiB");
    }

    #[test]
    fn what_was_logged_is_read_line_by_line_and_lines_that_are_too_long_are_passed_over() {
        let long = "x".repeat(LOGGED_LINE);
        let text = format!("\u{feff}one\r\n{long}\n\n{long}{long}\ntwo\n{}", &long[1..]);
        let mut lines = Vec::new();
        each_logged_line(text.as_bytes(), |line| lines.push(line.to_owned())).expect("read");
        assert_eq!(lines, ["one", "", "two", &long[1..]]);
        assert!(each_logged_line(&b"\xff\xfea\0"[..], |_| ()).is_err());
    }

    #[test]
    fn other_encodings_are_errors_that_say_what_to_do() {
        for (name, octets, words) in [
            ("le", &b"\xff\xfea\0"[..], "UTF-16"),
            ("be", b"\xfe\xff\0a", "UTF-16"),
            ("latin1", b"reason=\"M\xfcller\"", "not UTF-8"),
        ] {
            let path = saved(name, octets);
            let error = text(&path, SMALL).expect_err("an error").to_string();
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
