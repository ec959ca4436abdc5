//! Rotated files that an administrator compressed are read as they are.

use crate::support::{DAMAGED, DONE, Directory, code, intact, options, stop, verify, wait};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, OpenError, rotated},
    commands::audit as command,
    flags::{AuditReportFlags, AuditShowFlags, AuditVerifyFlags},
};
use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// Records of the log, apart from those about itself.
const RECORDS: u64 = 300;

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(octets).unwrap();
    writer.finish().unwrap()
}

fn zstd(octets: &[u8]) -> Vec<u8> {
    compress_to_vec(octets, CompressionLevel::Fastest)
}

type Pack = fn(&[u8]) -> Vec<u8>;
const FORMS: [(&str, Pack); 2] = [("gz", gzip), ("zst", zstd)];

fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".");
    name.push(ending);
    name.into()
}

/// A stopped log in several files.
fn written(name: &str) -> Directory {
    let directory = Directory::new(name);
    let log = open(&directory.file()).unwrap();
    for n in 0..RECORDS {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let files = rotated(&directory.file()).unwrap().len();
    assert!(files > 3, "not rotated: {files} files");
    directory
}

fn open(file: &Path) -> Result<AuditLog, OpenError> {
    AuditLog::open(AuditOptions {
        rotate_octets: 10_000,
        ..options(file)
    })
}

/// Puts a compressed file in place of a plain one. Returns its name.
fn pack(file: &Path, (ending, pack): (&str, Pack)) -> PathBuf {
    let packed = with_ending(file, ending);
    fs::write(&packed, pack(&fs::read(file).unwrap())).unwrap();
    fs::remove_file(file).unwrap();
    packed
}

/// Puts compressed files in place of all rotated ones, in both forms by turns.
fn pack_all(directory: &Directory) -> Vec<PathBuf> {
    let files = rotated(&directory.file()).unwrap();
    let forms = FORMS.into_iter().cycle();
    files
        .iter()
        .zip(forms)
        .map(|(file, form)| pack(file, form))
        .collect()
}

fn examine(files: Vec<PathBuf>) -> (u8, String) {
    verify(&AuditVerifyFlags {
        files,
        ..AuditVerifyFlags::default()
    })
}

/// Runs `audit show --json`. Returns the exit code, the records and what was said.
fn show(files: Vec<PathBuf>) -> (u8, String, String) {
    let flags = AuditShowFlags {
        files,
        json: true,
        ..AuditShowFlags::default()
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let result = command::show(&flags, &mut out, &mut errors);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code(&result), text(out), text(errors))
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn compressed_rotated_files_are_read_as_they_are_by_verify_show_and_report() {
    let directory = written("compressed");
    let file = directory.file();
    let said = intact(&file);
    let (_, shown, _) = show(vec![file.clone()]);
    let packed = pack_all(&directory);
    assert_eq!(rotated(&file).unwrap(), packed);
    // Sizes are those of what was written, in whatever form it is.
    assert_eq!(intact(&file), said);
    let (result, records, errors) = show(vec![file.clone()]);
    assert_eq!((result, errors.as_str()), (DONE, ""));
    assert_eq!(records, shown);
    let html = directory.0.join("html");
    let report = AuditReportFlags {
        files: vec![file.clone()],
        html: html.clone(),
        ..AuditReportFlags::default()
    };
    command::report(&report, &mut Vec::new(), None).unwrap();
    // Named one by one, in any order, and without the file that is being written.
    let mut all = [packed.clone(), vec![file.clone()]].concat();
    all.reverse();
    assert_eq!(examine(all).1, said);
    let (result, said) = examine(packed);
    assert_eq!(result, DONE, "{said}");
    // The last file, compressed after the end, stands for the whole log, too.
    let last = pack(&file, FORMS[0]);
    let (result, alone) = examine(vec![last]);
    assert_eq!(result, DONE, "{alone}");
}

#[test]
fn progress_is_in_octets_on_disk_and_ends_at_100_percent() {
    let directory = written("compressed-progress");
    pack_all(&directory);
    let mut terminal = Vec::new();
    let flags = AuditVerifyFlags {
        files: vec![directory.file()],
        ..AuditVerifyFlags::default()
    };
    command::verify(&flags, &mut Vec::new(), Some(&mut terminal)).unwrap();
    let drawn = String::from_utf8(terminal).unwrap();
    let last = drawn.split('\r').rfind(|text| text.starts_with('['));
    assert!(last.unwrap().contains("100 % of"), "{drawn}");
}

#[test]
fn what_a_file_begins_with_decides_about_its_form_and_not_its_name() {
    let directory = written("compressed-names");
    let files = rotated(&directory.file()).unwrap();
    // A plain file that is called compressed, two compressed ones that are called plain or by the other's name.
    fs::rename(&files[0], with_ending(&files[0], "gz")).unwrap();
    fs::write(&files[1], gzip(&fs::read(&files[1]).unwrap())).unwrap();
    let packed = pack(&files[2], ("gz", zstd));
    intact(&directory.file());
    assert!(rotated(&directory.file()).unwrap().contains(&packed));
}

#[test]
fn a_file_that_was_compressed_in_several_pieces_is_read_whole() {
    for (ending, pack) in FORMS {
        let directory = written("compressed-pieces");
        let file = rotated(&directory.file()).unwrap().remove(1);
        let octets = fs::read(&file).unwrap();
        let (one, two) = octets.split_at(octets.len() / 3);
        let pieces = [pack(one), pack(two)].concat();
        fs::write(with_ending(&file, ending), pieces).unwrap();
        fs::remove_file(&file).unwrap();
        intact(&directory.file());
    }
}

#[test]
fn where_the_plain_file_is_there_too_it_is_read_and_the_compressed_one_is_said() {
    for (ending, pack) in FORMS {
        let directory = written("compressed-beside");
        let file = directory.file();
        let plain = rotated(&file).unwrap().remove(1);
        let packed = with_ending(&plain, ending);
        // As gzip leaves it when it is killed.
        let octets = pack(&fs::read(&plain).unwrap());
        fs::write(&packed, &octets[..octets.len() / 2]).unwrap();
        let words = format!(
            "{} was not read, because {} is there, too",
            packed.display(),
            plain.display()
        );
        let mut all = rotated(&file).unwrap();
        assert!(!all.contains(&packed));
        all.extend([file.clone(), packed]);
        for files in [vec![file], all] {
            let (result, said) = examine(files.clone());
            assert_eq!(result, DONE, "{said}");
            assert!(said.contains(&words), "{said}");
            let (result, _, errors) = show(files);
            assert_eq!(result, DONE);
            assert!(errors.contains(&words), "{errors}");
        }
    }
}

/// One harm to a compressed file, with what is said of it.
type Harm = (&'static str, fn(Vec<u8>) -> Vec<u8>);

#[test]
fn a_damaged_compressed_file_is_a_finding_with_its_name() {
    let harms: [Harm; 4] = [
        ("empty", |_| Vec::new()),
        ("first-octet", |mut octets| {
            octets[0] = 0xff;
            octets
        }),
        ("cut", |mut octets| {
            octets.truncate(octets.len() / 2);
            octets
        }),
        ("checksum", |mut octets| {
            let at = octets.len() - 6;
            octets[at..].fill(0x55);
            octets
        }),
    ];
    for form in FORMS {
        for (name, harm) in harms {
            let directory = written("compressed-harm");
            let file = directory.file();
            let packed = pack(&rotated(&file).unwrap()[1], form);
            let behind = rotated(&file).unwrap().remove(2);
            fs::write(&packed, harm(fs::read(&packed).unwrap())).unwrap();
            let (result, said) = examine(vec![file.clone()]);
            assert_eq!(result, DAMAGED, "{name}: {said}");
            let begin = format!("NOT INTACT: {}:", packed.display());
            assert!(said.starts_with(&begin), "{name}: {said}");
            let words = ": unreadable: damaged as a compressed file: ";
            assert!(said.contains(words), "{name}: {said}");
            // `show` tells it, and goes on with the next file.
            let (result, shown, errors) = show(vec![file.clone()]);
            assert_eq!(result, DAMAGED, "{name}");
            let told = errors.lines().collect::<Vec<_>>();
            assert_eq!(told.len(), 1, "{name}: {errors}");
            assert!(told[0].starts_with(&packed.display().to_string()), "{name}");
            assert!(
                told[0].contains(": damaged as a compressed file: "),
                "{name}"
            );
            let next = fs::read_to_string(&behind).unwrap();
            assert!(shown.contains(next.lines().next().unwrap()), "{name}");
            // The page has what comes before it, and says so.
            let html = directory.0.join("html");
            let report = AuditReportFlags {
                files: vec![file],
                html: html.clone(),
                ..AuditReportFlags::default()
            };
            let result = command::report(&report, &mut Vec::new(), None);
            assert_eq!(code(&result), DAMAGED, "{name}");
            let page = fs::read_to_string(html).unwrap();
            assert!(page.contains("damaged as a compressed file"), "{name}");
        }
    }
}

#[test]
fn a_record_that_was_changed_before_the_file_was_compressed_is_found_at_its_line() {
    for form in FORMS {
        let directory = written("compressed-edited");
        let file = rotated(&directory.file()).unwrap().remove(1);
        let text = fs::read_to_string(&file).unwrap();
        let changed = text.replacen("\"messages\":", "\"messages\":1", 1);
        assert_ne!(text, changed);
        fs::write(&file, changed).unwrap();
        let packed = pack(&file, form);
        let (result, said) = examine(vec![directory.file()]);
        assert_eq!(result, DAMAGED, "{said}");
        let begin = format!("NOT INTACT: {}:2: edited", packed.display());
        assert!(said.starts_with(&begin), "{said}");
    }
}

/// Removes the file that is being written, and what is remembered of its end.
fn forget(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::remove_file(format!("{}.lock", file.display())).unwrap();
}

#[test]
fn the_chain_goes_on_behind_a_compressed_newest_rotated_file() {
    for form in FORMS {
        let directory = written("compressed-newest");
        let file = directory.file();
        let newest = rotated(&file).unwrap().pop().unwrap();
        // As a crash right after a rotation leaves it.
        forget(&file);
        let packed = pack(&newest, form);
        assert_eq!(rotated(&file).unwrap().pop(), Some(packed));
        let log = open(&file).unwrap();
        wait(log.append_durable(&stop(0))).unwrap();
        assert!(log.close());
        intact(&file);
    }
}

#[test]
fn behind_a_damaged_newest_rotated_file_no_log_begins_in_silence() {
    for form in FORMS {
        let directory = written("compressed-newest-cut");
        let file = directory.file();
        let newest = rotated(&file).unwrap().pop().unwrap();
        forget(&file);
        let plain = fs::read(&newest).unwrap();
        let packed = pack(&newest, form);
        let octets = fs::read(&packed).unwrap();
        fs::write(&packed, &octets[..octets.len() - 9]).unwrap();
        let Err(error) = open(&file) else {
            panic!("begun in silence");
        };
        let error = error.to_string();
        assert!(error.contains(&file_name(&packed)), "{error}");
        assert!(error.contains("damaged as a compressed file"), "{error}");
        // With the plain file beside it, as gzip leaves both when it is killed, the log goes on.
        fs::write(&newest, plain).unwrap();
        drop(open(&file).unwrap());
        intact(&file);
    }
}

/// A few octets that claim to be gigabytes. Only a bounded part of them is ever in memory: what is read ends at 16 MiB without a line.
#[test]
fn what_unpacks_to_a_line_without_end_is_left_at_16_mib() {
    for form in FORMS {
        let directory = written("compressed-bomb");
        let file = directory.file();
        let victim = rotated(&file).unwrap().remove(1);
        fs::write(&victim, vec![b' '; 64 << 20]).unwrap();
        let packed = pack(&victim, form);
        let (result, said) = examine(vec![file]);
        assert_eq!(result, DAMAGED, "{said}");
        let words = format!(
            "NOT INTACT: {}:1: unreadable: 16 MiB without the end of a line",
            packed.display()
        );
        assert!(said.starts_with(&words), "{said}");
    }
}
