//! The names of a log's files: `FILE` is being written, `FILE.YYYYMMDD.FIRSTRECORD` was rotated out of it, and an administrator may
//! have compressed that to the same name with `.gz` or `.zst` behind it.

use super::chain::timestamp;
use crate::files::named;
use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The endings of compressed files. Of several forms of one file the plain one is read, else the one that stands first here.
const COMPRESSED: [&str; 2] = ["gz", "zst"];

/// The parts of a rotated file's name.
struct RotatedName<'a> {
    log: &'a str,
    first: u64,
}

impl<'a> RotatedName<'a> {
    /// `name` is without the ending of a compressed file.
    fn read(name: &'a str) -> Option<Self> {
        let (rest, first) = name.rsplit_once('.')?;
        let (log, day) = rest.rsplit_once('.')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let is_rotated = day.len() == 8 && digits(day) && first.len() >= 12 && digits(first);
        (is_rotated && !log.is_empty())
            .then(|| first.parse().ok())
            .flatten()
            .map(|first| Self { log, first })
    }
}

/// The suffix of a rotated file: the day (UTC) of its records, and the number of its first record.
pub(super) fn suffix(day: u64, first: u64) -> String {
    let mut day = timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400));
    day.truncate("2026-11-24".len());
    format!("{}.{first:012}", day.replace('-', ""))
}

/// The name of a file that belongs to `path`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// What the names of the files end with that are kept beside a log: the one that keeps a second writer away, and the secrets.
pub(super) const LOCK: &str = "lock";
pub(super) const EPOCH: &str = "epoch";

/// Whether the program keeps `file` beside one of these logs: a shell's `*` names it too.
pub(super) fn is_kept_beside(file: &Path, logs: &[PathBuf]) -> bool {
    let suffix = file.extension().and_then(OsStr::to_str);
    suffix
        .filter(|suffix| [LOCK, EPOCH].contains(suffix))
        .is_some_and(|suffix| logs.iter().any(|log| with_suffix(log, suffix) == file))
}

/// The names that a file has in its forms: the plain one, then those of compressed files in the order in which they are read.
pub(super) fn forms(file: &Path) -> Vec<PathBuf> {
    let plain = plain_name(file).0;
    let compressed = COMPRESSED.map(|ending| with_suffix(&plain, ending));
    [plain].into_iter().chain(compressed).collect()
}

/// Whether a file of this name is there, or a compressed form of it.
pub(super) fn is_there(plain: &Path) -> io::Result<bool> {
    for name in forms(plain) {
        // A link that leads nowhere has the name, too.
        match fs::symlink_metadata(name) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The files that were rotated out of the log at `path`, oldest first. A compressed file is among them, unless the plain file of its
/// name is there, too.
///
/// # Errors
/// The directory cannot be read.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(best_forms(&all_rotated(path)?).files)
}

/// The same with every form of each file.
pub(super) fn all_rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let path = plain_name(path).0;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let Some(log) = path.file_name() else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    let of_this = |error| named(parent, &error);
    for entry in fs::read_dir(parent).map_err(of_this)? {
        let file = entry.map_err(of_this)?.path();
        let (plain, form) = plain_name(&file);
        let name = plain.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.and_then(RotatedName::read)
            && log == name.log
        {
            // Of those with one first record, the one of the later day was written later. A host that was restored can have both.
            files.push((name.first, plain.clone(), form, file));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(.., path)| path).collect())
}

/// The log that a file was rotated out of; the file itself, without the ending of a compressed one, where it has another name.
pub(super) fn rotated_from(file: &Path) -> PathBuf {
    let plain = plain_name(file).0;
    let name = plain.file_name().and_then(|name| name.to_str());
    match name.and_then(RotatedName::read) {
        Some(name) => plain.with_file_name(name.log),
        None => plain,
    }
}

/// The number of the first record, where a file's name has it.
pub(super) fn first_record(file: &Path) -> Option<u64> {
    let plain = plain_name(file).0;
    let name = RotatedName::read(plain.file_name()?.to_str()?)?;
    Some(name.first)
}

/// Whether the name is that of a compressed file.
pub(super) fn is_named_compressed(file: &Path) -> bool {
    plain_name(file).1 > 0
}

/// Files of which each is there in one form.
pub(super) struct BestForms {
    pub(super) files: Vec<PathBuf>,
    /// The other forms, each with the file that is read in its place.
    pub(super) left_out: Vec<(PathBuf, PathBuf)>,
}

/// Of the forms of one file, the plain one. It is what was written, and a compressed file beside it may not be finished yet.
pub(super) fn best_forms(files: &[PathBuf]) -> BestForms {
    let mut chosen: HashMap<PathBuf, (usize, &Path)> = HashMap::new();
    for file in files {
        let (name, rank) = plain_name(file);
        let best = chosen.entry(name).or_insert((rank, file));
        *best = (*best).min((rank, file));
    }
    let mut best = BestForms {
        files: Vec::new(),
        left_out: Vec::new(),
    };
    for file in files {
        let (name, rank) = plain_name(file);
        match chosen.get(&name) {
            Some((better, read)) if *better < rank => {
                best.left_out.push((file.clone(), read.to_path_buf()));
            }
            _ => best.files.push(file.clone()),
        }
    }
    best
}

/// The name without the ending of a compressed file, and the rank of that ending: 0 for none.
fn plain_name(file: &Path) -> (PathBuf, usize) {
    let ending = file.extension().and_then(|ending| ending.to_str());
    let place = COMPRESSED.iter().position(|one| Some(*one) == ending);
    match place {
        Some(place) => (file.with_extension(""), place + 1),
        None => (file.to_owned(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_rotated_file_is_known_by_its_name_in_each_form() {
        for name in [
            "a.jsonl.20261128.000000000042",
            "a.jsonl.20261128.000000000042.gz",
            "a.jsonl.20261128.000000000042.zst",
        ] {
            assert_eq!(rotated_from(Path::new(name)), Path::new("a.jsonl"));
            assert_eq!(first_record(Path::new(name)), Some(42));
        }
        for name in [
            "a.jsonl",
            "a.jsonl.20261128.42",
            "a.jsonl.2026112.000000000042",
            "a.jsonl.20261128.000000000042.gz.tmp",
            ".20261128.000000000042",
        ] {
            assert_eq!(rotated_from(Path::new(name)), Path::new(name));
            assert_eq!(first_record(Path::new(name)), None);
        }
        assert_eq!(rotated_from(Path::new("d/a.gz")), Path::new("d/a"));
    }

    /// A host that was restored from a backup can have them.
    #[test]
    fn of_files_with_the_same_first_record_the_one_of_the_latest_day_is_the_newest_in_whatever_form()
     {
        let folder = std::env::temp_dir().join(format!("naming-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let names = [
            "a.jsonl.20261127.000000000000",
            "a.jsonl.20261128.000000000042.gz",
            "a.jsonl.20261129.000000000042",
        ];
        for name in names {
            fs::write(folder.join(name), "").unwrap();
        }
        let found = rotated(&folder.join("a.jsonl")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, names.map(|name| folder.join(name)));
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_named() {
        let error = rotated(Path::new("/proc/no-such-directory/log")).unwrap_err();
        assert!(error.to_string().starts_with("/proc/no-such-directory: "));
    }

    #[test]
    fn of_the_forms_of_one_file_the_plain_one_is_read_else_gzip() {
        let best = best_forms(&paths(&["a.gz", "a", "b.zst", "b.gz", "c.zst", "a.zst"]));
        assert_eq!(best.files, paths(&["a", "b.gz", "c.zst"]));
        let out = [("a.gz", "a"), ("b.zst", "b.gz"), ("a.zst", "a")];
        let out = out.map(|(file, read)| (file.into(), read.into()));
        assert_eq!(best.left_out, out);
    }
}
