//! The files of a log that a program may be writing just now.
//!
//! Meanwhile the program may begin a new file, and an administrator may compress old ones. The files are listed as they were at one
//! moment, and [`ListedFile`] finds each later. Only what an administrator does besides, such as copying files to where they are read,
//! can come in between: [`read_at_rest`] notices that.

use super::{
    damage::Finding,
    lines::{LogOrder, in_order},
    listed::{ListedFile, changed, in_any_form},
};
use crate::{
    audit::{
        known::KnownEnd,
        naming::{all_rotated, best_forms, first_record, rotated_from},
    },
    files::named,
};
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often the files are listed again because they changed in that moment, or the file that is written was not there.
const LISTINGS: usize = 50;
/// The pause before that. The program gives the old file its name, and then makes the new one.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a log is read because its files changed meanwhile.
const READINGS: usize = 5;

/// The files of one log as they were at one moment.
pub(crate) struct LogListing {
    named: Vec<PathBuf>,
    order: LogOrder,
    /// All rotated files in all their forms.
    rotated: Vec<PathBuf>,
    /// The named files that were not rotated. They are read as far as `order` has them.
    running: Vec<ListedFile>,
    known: Option<KnownEnd>,
}

impl LogListing {
    /// Lists the files. A file that was not rotated stands also for those that were rotated out of it: for all if it is alone or none of
    /// them is named, else for those that are newer than the named ones, because a shell may have listed the files before.
    ///
    /// # Errors
    /// A file or its directory cannot be read. The kind `ResourceBusy` says that the files are changing all the time.
    pub(crate) fn new(files: &[PathBuf]) -> io::Result<Self> {
        // What is remembered beside the log is read first, so that the files have at least that.
        let known = files.iter().filter(|file| first_record(file).is_none());
        let known = known.filter_map(|file| KnownEnd::of_log(file));
        // A file that is not read, because it adds nothing, may be what is left of the newest one.
        let known = known.max_by_key(|known| known.head.size);
        let mut last = Ok(None);
        for _ in 0..LISTINGS {
            last = list(files, known.as_ref());
            match &last {
                Ok(Some(_)) => break,
                Ok(None) => {}
                Err(error) => match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ResourceBusy => thread::sleep(PAUSE),
                    _ => break,
                },
            }
        }
        last?.ok_or_else(changed)
    }

    pub(crate) fn order(&self) -> &LogOrder {
        &self.order
    }

    pub(crate) fn into_order(self) -> LogOrder {
        self.order
    }

    /// The end that is remembered beside the files that were not rotated, the one with the most records.
    pub(super) fn known_end(&self) -> Option<KnownEnd> {
        self.known.clone()
    }

    /// Whether files of this list are not what they were, or there are others among them. That files were rotated since is no such change.
    fn has_changed(&self) -> bool {
        let Ok(now) = rotated_files(&self.named) else {
            return true;
        };
        let end = self.order.first_records.last();
        let is_listed = |file: &&PathBuf| first_record(file) < end.copied();
        let are_same = now
            .iter()
            .filter(is_listed)
            .eq(self.rotated.iter().filter(is_listed));
        !are_same
            || self
                .order
                .files
                .iter()
                .any(|file| file.has_changed(&self.running))
    }
}

/// Why what came of reading a log may not be what the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Something was not found.
    Lacking,
    /// The log is damaged.
    Damaged {
        /// The first record of the file, where its name has it, and the line.
        place: (Option<u64>, u64),
        /// Good records before that.
        good: u64,
    },
}

impl Doubt {
    pub(super) fn of(finding: &Finding, good: u64) -> Self {
        let place = (first_record(&finding.file), finding.line);
        Self::Damaged { place, good }
    }

    fn is_same_damage(self, before: Option<Self>) -> bool {
        match (self, before) {
            (Self::Damaged { place, .. }, Some(Self::Damaged { place: old, .. })) => place == old,
            _ => false,
        }
    }

    /// Whether the damage is where an old file ends or inside one, and more of the log is there than `before`.
    fn is_behind(self, before: Option<Self>) -> bool {
        let Self::Damaged { place, good } = self else {
            return false;
        };
        let more = match before {
            None => true,
            Some(Self::Damaged { good: old, .. }) => good > old,
            Some(Self::Lacking) => false,
        };
        more && (place.0.is_some() || place.1 == 1)
    }
}

/// Reads a log with `read`. Where there is a `doubt` about what comes of it, or a file was gone, and the files are not what they were when
/// they were listed, it is read again.
///
/// Damage that is found twice running at the same place is there, whatever else changes. Else the last result counts in the end. Only damage
/// that was further on in each reading is taken for that of files that are just arriving.
///
/// # Errors
/// Those of `read`, and those of [`LogListing::new`]. The kind `ResourceBusy` says that the files changed each time.
pub(crate) fn read_at_rest<T>(
    files: &[PathBuf],
    read: &mut dyn FnMut(&LogListing) -> io::Result<T>,
    doubt: impl Fn(&T) -> Option<Doubt>,
) -> io::Result<T> {
    let (mut last, mut before, mut behind) = (None, None, 0);
    for reading in 0..READINGS {
        let listing = match LogListing::new(files) {
            // It was there before.
            Err(error) if error.kind() == ErrorKind::NotFound && reading > 0 => break,
            Err(error) if error.kind() == ErrorKind::ResourceBusy && last.is_some() => continue,
            listing => listing?,
        };
        let result = match read(&listing) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => continue,
            result => result?,
        };
        let Some(now) = doubt(&result).filter(|_| listing.has_changed()) else {
            return Ok(result);
        };
        if now.is_same_damage(before) {
            return Ok(result);
        }
        behind += usize::from(now.is_behind(before));
        (last, before) = (Some(result), Some(now));
    }
    let is_arriving = behind == READINGS || before == Some(Doubt::Lacking);
    last.filter(|_| !is_arriving).ok_or_else(changed)
}

/// The files, and all rotated ones in all their forms. `None` where they changed meanwhile.
fn list(files: &[PathBuf], known: Option<&KnownEnd>) -> io::Result<Option<LogListing>> {
    // These are open before directories are read. What is written to the files that follow them is newer than this list.
    let running = files.iter().filter(|file| first_record(file).is_none());
    let running = running.map(|file| ListedFile::find(file).map_err(|error| named(file, &error)));
    let running: Vec<ListedFile> = running.collect::<io::Result<_>>()?;
    let rotated = rotated_files(files)?;
    // A file that gets another form while a directory is read may be missed in both.
    if rotated_files(files)? != rotated || !running.iter().all(ListedFile::has_its_name) {
        return Ok(None);
    }
    let mut all = rotated.clone();
    all.extend(running.iter().map(|file| file.path().to_owned()));
    let forms = best_forms(&all);
    let found =
        forms.files.iter().map(
            |path| match running.iter().find(|file| file.path() == path) {
                Some(held) => Ok(held.clone()),
                None => ListedFile::find(path).map_err(|error| named(path, &error)),
            },
        );
    let order = in_order(found.collect::<io::Result<_>>()?, forms.left_out)?;
    Ok(Some(LogListing {
        named: files.to_vec(),
        order,
        rotated,
        running,
        known: known.cloned(),
    }))
}

/// The rotated files that are named, in the form that is there, and those that belong to them: see [`LogListing::new`].
fn rotated_files(files: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let (rotated, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
        files.iter().partition(|file| first_record(file).is_some());
    let mut found = Vec::new();
    for file in &rotated {
        let (there, _) = in_any_form(file, |name| fs::symlink_metadata(name))
            .map_err(|error| named(file, &error))?;
        if !found.contains(&there) {
            found.push(there);
        }
    }
    let rotated = rotated
        .iter()
        .map(|file| (log_of(file), first_record(file)));
    let rotated: Vec<_> = rotated.collect();
    for file in others {
        let log = log_of(file);
        let of_this = rotated.iter().filter(|(other, _)| *other == log);
        let newest = of_this.map(|(_, first)| *first).max().flatten();
        let mut newer = match all_rotated(file) {
            // Whoever may not list the directory can still read what they named. Where a file in between was not named, its records lack.
            Err(error) if newest.is_some() && error.kind() == ErrorKind::PermissionDenied => {
                Vec::new()
            }
            listed => listed?,
        };
        newer.retain(|one| newest.is_none() || first_record(one) > newest);
        found.append(&mut newer);
    }
    Ok(found)
}

/// The log that a file belongs to by its name, whichever way its directory was named.
fn log_of(file: &Path) -> PathBuf {
    let log = rotated_from(file);
    let folder = log.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
    match (folder, log.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => log,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::listed::tests::Folder, *};
    use std::cell::Cell;

    impl Folder {
        fn paths(&self, names: &[&str]) -> Vec<PathBuf> {
            names.iter().map(|name| self.0.join(name)).collect()
        }
    }

    const ONE: &str = "log.20261129.000000000001";
    const TWO: &str = "log.20261129.000000000002";
    const THREE: &str = "log.20261129.000000000003";

    #[test]
    fn a_running_file_stands_for_rotated_ones_that_are_newer_than_those_that_are_named() {
        let folder = Folder::new("stands-for", &[ONE, TWO, THREE, "log", "aside"], "text\n");
        let listed = |names: &[&str]| {
            let order = LogListing::new(&folder.paths(names)).unwrap().into_order();
            let names = order.files.iter().map(|file| file.path().file_name());
            let names = names.map(|name| name.unwrap().to_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        for (named, read) in [
            (&["log"][..], &[ONE, TWO, THREE, "log"][..]),
            (&["log", TWO], &[TWO, THREE, "log"]),
            (&["aside", "log", TWO], &[TWO, THREE, "aside", "log"]),
            (&["log", THREE, ONE], &[ONE, THREE, "log"]),
            (&[ONE, TWO], &[ONE, TWO]),
            (&[TWO], &[TWO]),
        ] {
            assert_eq!(listed(named), read, "{named:?}");
        }
        // However the folder is named.
        let other = folder.0.join("../").join(folder.0.file_name().unwrap());
        let named = [folder.0.join(TWO), other.join("log")];
        let order = LogListing::new(&named).unwrap().into_order();
        assert_eq!(order.files.len(), 3);
    }

    /// How often a log is read in which each reading finds the damage that `change` says, and what comes of it.
    fn readings_of(folder: &Folder, change: &dyn Fn(u8) -> Doubt) -> (u8, Result<(), ErrorKind>) {
        let times = Cell::new(0);
        let mut read = |_: &LogListing| {
            times.set(times.get() + 1);
            Ok(change(times.get()))
        };
        let read = read_at_rest(&folder.paths(&["log"]), &mut read, |doubt| Some(*doubt));
        let read = read.map(|_| ()).map_err(|error| error.kind());
        (times.get(), read)
    }

    /// The same where it is further on each time.
    fn readings(folder: &Folder, change: &dyn Fn(u8)) -> (u8, Result<(), ErrorKind>) {
        readings_of(folder, &|time| {
            change(time);
            damaged(Some(2), time)
        })
    }

    fn damaged(file: Option<u64>, line: u8) -> Doubt {
        damaged_behind(line, (file, line))
    }

    fn damaged_behind(good: u8, (file, line): (Option<u64>, u8)) -> Doubt {
        Doubt::Damaged {
            place: (file, line.into()),
            good: good.into(),
        }
    }

    #[test]
    fn damage_is_told_unless_it_is_further_on_in_an_old_file_each_time() {
        let folder = Folder::new("told", &[TWO, "log"], "text\n");
        let two = &folder.paths(&[TWO])[0];
        let readings = |doubt: &dyn Fn(u8) -> Doubt| {
            readings_of(&folder, &|time| {
                fs::write(two, vec![b' '; 100 + usize::from(time)]).unwrap();
                doubt(time)
            })
        };
        let changing = (5, Err(ErrorKind::ResourceBusy));
        let told = (5, Ok(()));
        let places = [
            (Some(2), 7),
            (None, 1),
            (Some(2), 9),
            (None, 1),
            (Some(2), 11),
        ];
        let moves_on = |time| damaged_behind(time, places[usize::from(time) - 1]);
        assert_eq!(readings(&moves_on), changing);
        let stays = |time| damaged_behind(7, places[usize::from(time) - 1]);
        assert_eq!(readings(&stays), told);
        // What the log itself says of a cut stays where it is, however many records follow.
        let cut = |time| damaged_behind(time, (Some(2), 7));
        assert_eq!(readings(&cut), (2, Ok(())));
        assert_eq!(readings(&|_| Doubt::Lacking), changing);
        assert_eq!(readings(&|_| damaged(Some(2), 7)), (2, Ok(())));
        assert_eq!(readings(&|time| damaged(Some(2), time.min(3))), (4, Ok(())));
        assert_eq!(readings(&|time| damaged(Some(2), time % 2)), told);
        assert_eq!(readings(&|time| damaged(None, time + 1)), told);
        let back = |time| damaged(Some(2), if time == 5 { 1 } else { time });
        assert_eq!(readings(&back), told);
    }

    #[test]
    fn a_log_is_read_again_only_if_files_that_were_read_are_others() {
        let folder = Folder::new("again", &[TWO, "log"], "text\n");
        let [one, two, three, log] = &folder.paths(&[ONE, TWO, THREE, "log"])[..] else {
            unreachable!()
        };
        let (prev, at) = ("0".repeat(64), "2026-11-29T06:05:00.123456Z");
        let third =
            format!(r#"{{"v":1,"prev":"{prev}","seq":3,"at":"{at}","event":"stop"}}"#) + "\n";
        fs::write(log, &third).unwrap();
        let once = (1, Ok(()));
        assert_eq!(readings(&folder, &|_| ()), once);
        let grows = |_| fs::write(log, third.repeat(2)).unwrap();
        assert_eq!(readings(&folder, &grows), once);
        let longer = |time: u8| fs::write(two, vec![b' '; 100 + usize::from(time)]).unwrap();
        let always = (5, Err(ErrorKind::ResourceBusy));
        assert_eq!(readings(&folder, &longer), always);
        let at_first = |time: u8| {
            if time < 3 {
                longer(time);
            }
        };
        assert_eq!(readings(&folder, &at_first), (3, Ok(())));
        let arrives = |_| fs::write(one, "").unwrap();
        assert_eq!(readings(&folder, &arrives), (2, Ok(())));
        let is_rotated = |_| {
            fs::rename(log, three).unwrap();
            fs::write(log, "").unwrap();
        };
        assert_eq!(readings(&folder, &is_rotated), once);
    }

    #[test]
    fn a_file_that_was_never_there_is_not_found_and_no_change() {
        let folder = Folder::new("never", &[], "text\n");
        let listing = LogListing::new(&folder.paths(&["log"]));
        assert_eq!(listing.err().unwrap().kind(), ErrorKind::NotFound);
    }
}
