//! Text files with the marks that editors leave: those of Windows put a byte order mark in front, and some write UTF-16. And the room
//! that is left for files.

use std::{fs, io, path::Path};

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

/// Octets that this process can still write to the file system of `path`.
///
/// # Errors
/// The system's error.
pub(crate) fn free_octets(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
