//! One message is proved to a stranger, who verifies it with and without this program. The page `docs/evidence.md` suffices for that: a
//! verifier that was written from it alone judges as this program does.

use crate::support::{
    DAMAGED, DONE, Directory, closed, code, message, options, session, stop, verify, wait,
};
use data_encoding::BASE64;
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Record, SessionOpenedRecord, rotated},
    commands::audit as command,
    exit::Exit,
    flags::{AuditCheckProofFlags, AuditProveFlags, AuditVerifyFlags},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

/// A log of messages in several files, and its keys.
struct SignedLog {
    directory: Directory,
    public: String,
    files: Vec<PathBuf>,
}

fn written(name: &str, messages: u64) -> SignedLog {
    let directory = Directory::new(name);
    let (key, public) = directory.key();
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        rotate_octets: 40_000,
        checkpoint_records: 50,
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..messages {
        log.append(&Record::SessionOpened(SessionOpenedRecord {
            session: session(n),
        }));
        wait(log.append_durable(&message(&log, n))).unwrap();
        log.append(&closed(n));
    }
    assert!(log.close());
    let mut files = rotated(&directory.file()).unwrap();
    files.push(directory.file());
    assert!(files.len() > 1);
    SignedLog {
        directory,
        public,
        files,
    }
}

fn prove(flags: AuditProveFlags) -> (Result<(), Exit>, String) {
    let mut out = Vec::new();
    let result = command::prove(&flags, &mut out);
    (result, String::from_utf8(out).unwrap())
}

fn proof_of(log: &SignedLog, n: u64) -> String {
    let (result, proof) = prove(AuditProveFlags {
        message: Some(format!("{n:08x}/1")),
        files: log.files.clone(),
        ..AuditProveFlags::default()
    });
    result.unwrap();
    proof
}

fn check(proof: &Path, key: &str) -> (u8, String) {
    let mut out = Vec::new();
    let flags = AuditCheckProofFlags {
        key: vec![key.to_owned()],
        files: vec![proof.to_owned()],
        ..AuditCheckProofFlags::default()
    };
    let result = command::check_proof(&flags, &mut out);
    (code(&result), String::from_utf8(out).unwrap())
}

/// The verifier that knows the page only.
fn independent(arguments: &[&str], files: &[PathBuf]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit/stranger.py");
    Command::new("python3")
        .arg(script)
        .args(arguments)
        .args(files)
        .output()
        .expect("python3 is there")
}

fn accepts(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The record that a proof carries, unpacked.
fn record_in(proof: &str) -> Option<String> {
    let extra = proof.lines().nth(1)?.strip_prefix("extra ")?;
    let packed = BASE64.decode(extra.as_bytes()).ok()?;
    io::read_to_string(flate2::read::GzDecoder::new(&packed[..])).ok()
}

#[test]
fn a_message_is_proved_in_4_kib_with_nothing_of_any_other() {
    let log = written("proved", 100);
    let file = log.directory.0.join("proof");
    for n in [0, 1, 42, 99] {
        let proof = proof_of(&log, n);
        assert!(proof.len() <= 4096, "{} octets", proof.len());
        fs::write(&file, &proof).unwrap();
        let (code, said) = check(&file, &log.public);
        assert_eq!(code, DONE, "{said}");
        let id = format!("\"id\": \"{n:08x}\"");
        assert!(said.starts_with("proved\n") && said.contains(&id), "{said}");
        let extra = record_in(&proof).unwrap();
        assert_eq!(extra.lines().count(), 1);
        assert_eq!(extra.matches("\"event\":\"message\"").count(), 1);
        assert!(fs::read_to_string(&log.files[0]).unwrap().contains(&extra) || n > 1);

        let record = accepts(&independent(
            &["proof", &log.public],
            std::slice::from_ref(&file),
        ));
        assert_eq!(record.trim_end(), extra);
    }
}

/// With a million records before it, the path has 20 hashes.
#[test]
fn a_proof_from_a_long_log_is_not_longer_than_4_kib() {
    let log = written("proved-long", 40);
    let longest = (0..40).map(|n| {
        let proof = proof_of(&log, n);
        let (head, note) = proof.split_once("\n\n").unwrap();
        let fixed: usize = head.lines().take(3).map(|line| line.len() + 1).sum();
        fixed + note.len() + 1 + 20 * 45 + 2 * "1000000".len()
    });
    let longest = longest.max().unwrap();
    println!("{longest} octets");
    assert!(longest <= 4096, "{longest} octets");
}

#[test]
fn no_changed_proof_holds() {
    let log = written("proof-changed", 60);
    let file = log.directory.0.join("proof");
    let proof = proof_of(&log, 31);
    let record = record_in(&proof);
    let packed = proof.lines().take(2).map(|line| line.len() + 1).sum();
    // The same record can be packed in more than one way: a repetition in it may be taken from here or from there.
    let is_the_same = |place: usize, changed: &str| place < packed && record_in(changed) == record;
    for place in 0..proof.len() {
        let mut octets = proof.clone().into_bytes();
        octets[place] ^= 1;
        if str::from_utf8(&octets).is_ok_and(|changed| is_the_same(place, changed)) {
            continue;
        }
        fs::write(&file, &octets).unwrap();
        let (code, said) = check(&file, &log.public);
        assert_ne!(code, DONE, "octet {place}: {said}");
    }
    for place in [
        70,
        proof.len() / 3,
        proof.len() / 2,
        proof.len() - 100,
        proof.len() - 10,
    ] {
        let mut octets = proof.clone().into_bytes();
        octets[place] ^= 1;
        if str::from_utf8(&octets).is_ok_and(|changed| is_the_same(place, changed)) {
            continue;
        }
        fs::write(&file, &octets).unwrap();
        let output = independent(&["proof", &log.public], std::slice::from_ref(&file));
        assert!(!output.status.success(), "octet {place}");
    }
    let other = proof_of(&log, 32);
    let mixed: Vec<&str> = other.lines().take(3).chain(proof.lines().skip(3)).collect();
    fs::write(&file, mixed.join("\n") + "\n").unwrap();
    assert_eq!(check(&file, &log.public).0, DAMAGED);
    fs::write(&file, &proof).unwrap();
    let stranger = Directory::new("proof-stranger");
    let (code, said) = check(&file, &stranger.key().1);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("none of the keys given has signed"), "{said}");
}

#[test]
fn several_proofs_are_checked_at_once_and_one_that_does_not_hold_is_the_answer() {
    let log = written("proofs", 30);
    let files: Vec<PathBuf> = [3, 4, 5]
        .map(|n| {
            let file = log.directory.0.join(n.to_string());
            fs::write(&file, proof_of(&log, n)).unwrap();
            file
        })
        .to_vec();
    let check = || {
        let mut out = Vec::new();
        let flags = AuditCheckProofFlags {
            key: vec![log.public.clone()],
            files: files.clone(),
            ..AuditCheckProofFlags::default()
        };
        let result = command::check_proof(&flags, &mut out);
        (code(&result), String::from_utf8(out).unwrap())
    };
    let (good, said) = check();
    assert_eq!(
        (good, said.matches("proved\n").count()),
        (DONE, 3),
        "{said}"
    );
    let mixed = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], mixed.replacen("index 1", "index 2", 1)).unwrap();
    let (bad, said) = check();
    assert_eq!(bad, DAMAGED, "{said}");
    assert_eq!(said.matches("NOT PROVED").count(), 1, "{said}");
    assert_eq!(said.matches("\nproved\n").count(), 2, "{said}");
}

#[test]
fn a_session_is_proved_record_by_record() {
    let log = written("proof-session", 30);
    let out = log.directory.0.join("proofs");
    let (result, _) = prove(AuditProveFlags {
        session: Some("0000000b".into()),
        out: Some(out.clone()),
        files: log.files.clone(),
        ..AuditProveFlags::default()
    });
    result.unwrap();
    let proofs: Vec<_> = fs::read_dir(out)
        .unwrap()
        .map(|one| one.unwrap().path())
        .collect();
    assert_eq!(proofs.len(), 3, "{proofs:?}");
    for proof in proofs {
        let (code, said) = check(&proof, &log.public);
        assert_eq!(code, DONE, "{said}");
    }
}

#[test]
fn a_proof_is_made_while_older_files_are_elsewhere() {
    let log = written("proof-newest", 100);
    let (result, proof) = prove(AuditProveFlags {
        message: Some(format!("{:08x}", 99)),
        files: log.files[log.files.len() - 2..].to_vec(),
        ..AuditProveFlags::default()
    });
    result.unwrap();
    assert_eq!(proof, proof_of(&log, 99));
}

#[test]
fn what_cannot_be_proved_is_said() {
    let log = written("proof-none", 30);
    let refused = |message: &str, files: &[PathBuf]| {
        let (result, _) = prove(AuditProveFlags {
            message: Some(message.into()),
            files: files.to_vec(),
            ..AuditProveFlags::default()
        });
        let exit = result.unwrap_err();
        let is_no = !message.ends_with('x');
        assert_eq!(exit.code(), if is_no { 1 } else { 64 }, "{message}");
        exit.to_string()
    };
    assert!(refused("ffffffff/1", &log.files).contains("no such record"));
    assert!(refused("0000000a/2", &log.files).contains("no such record"));
    assert!(refused("0000000a/x", &log.files).contains("SESSION/NUMBER"));
    let text = fs::read_to_string(&log.files[0]).unwrap();
    let (first, behind) = text.split_once('\n').unwrap();
    let junk = "x".repeat(17 << 20);
    fs::write(&log.files[0], format!("{first}\n{junk}\n{behind}")).unwrap();
    let (result, _) = prove(AuditProveFlags {
        message: Some("0000000a/1".into()),
        files: log.files.clone(),
        ..AuditProveFlags::default()
    });
    let words = result.unwrap_err().to_string();
    let place = format!("{}:2: ", log.files[0].display());
    assert!(
        words.contains(&place) && words.contains("16 MiB"),
        "{words}"
    );
    let unsigned = Directory::new("proof-unsigned");
    let keyless = AuditLog::open(options(&unsigned.file())).unwrap();
    wait(keyless.append_durable(&message(&keyless, 1))).unwrap();
    assert!(keyless.close());
    assert!(refused("00000001", &[unsigned.file()]).contains("no signed checkpoint"));
}

/// What this program takes for the log's size, as the other verifier prints it.
fn size(files: &[PathBuf], public: &str) -> u64 {
    let (code, said) = verify(&AuditVerifyFlags {
        files: files.to_vec(),
        key: vec![public.to_owned()],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    let head = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("head"));
    head.unwrap()
        .trim()
        .split_once(':')
        .unwrap()
        .0
        .parse()
        .unwrap()
}

#[test]
fn a_verifier_written_from_the_page_alone_judges_a_log_as_this_program_does() {
    let log = written("independent-log", 100);
    let whole = accepts(&independent(&["log", &log.public], &log.files));
    let expected = size(&log.files, &log.public);
    assert!(whole.starts_with(&format!("{expected} ")), "{whole}");
    // Without the older files it comes to the same root.
    let newest = log.files.last().unwrap();
    let first = fs::read_to_string(newest).unwrap();
    let first = first
        .split("\"seq\":")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let part = accepts(&independent(
        &["log-from", first, &log.public],
        std::slice::from_ref(newest),
    ));
    assert_eq!(part, whole);
    // What this program calls damage, the other one does not take either.
    let text = fs::read_to_string(&log.files[1]).unwrap();
    let line = text.lines().nth(5).unwrap();
    for changed in [
        text.replacen("ward3", "ward4", 1),
        text.replacen(&format!("{line}\n"), "", 1),
        text.replacen(&format!("{line}\n"), &format!("{line}\n{line}\n"), 1),
    ] {
        assert_ne!(changed, text);
        fs::write(&log.files[1], changed).unwrap();
        let output = independent(&["log", &log.public], &log.files);
        assert!(!output.status.success());
        let (code, _) = verify(&AuditVerifyFlags {
            files: log.files.clone(),
            key: vec![log.public.clone()],
            ..AuditVerifyFlags::default()
        });
        assert_eq!(code, DAMAGED);
    }
}

#[test]
fn a_log_only_grew_since_a_checkpoint_that_was_kept() {
    let directory = Directory::new("since");
    let (key, public) = directory.key();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&notes);
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        checkpoint_records: 10,
        notice: Box::new(move |notice| {
            if let starttls_proxy::audit::Notice::Checkpoint(checkpoint) = notice {
                kept.lock().unwrap().push(checkpoint.note);
            }
        }),
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..50 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let since = |note: &str, file: PathBuf| {
        let kept = directory.0.join("note");
        fs::write(&kept, note).unwrap();
        verify(&AuditVerifyFlags {
            files: vec![file],
            key: vec![public.clone()],
            since: Some(kept.display().to_string()),
            ..AuditVerifyFlags::default()
        })
    };
    let notes = notes.lock().unwrap();
    assert!(notes.len() > 4);
    for note in notes.iter() {
        let (code, said) = since(note, directory.file());
        assert_eq!(code, DONE, "{said}");
        let size = note.lines().nth(1).unwrap();
        assert!(
            said.contains(&format!("the first {size} are as they were")),
            "{said}"
        );
    }
    // The older log of the same name, and a checkpoint that somebody else signed.
    let older = Directory::new("since-older");
    let text = fs::read_to_string(directory.file()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').take(20).collect();
    fs::write(older.file(), lines.concat()).unwrap();
    let (code, said) = since(notes.last().unwrap(), older.file());
    assert_eq!(code, DAMAGED, "{said}");
    let forged = notes[2].replace("\n\n\u{2014} mail", "\n\n\u{2014} other");
    let (code, said) = since(&forged, directory.file());
    assert_ne!(code, DONE, "{said}");
}
