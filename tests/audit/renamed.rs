//! A host that gets another name goes on with its log, which is no damage. A name that somebody else wrote into the log is.

use crate::support::{DAMAGED, DONE, Directory, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions},
    flags::AuditVerifyFlags,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Opens the log under this name and writes a few records.
fn write(file: &Path, origin: &str, key: Option<PathBuf>) {
    let log = AuditLog::open(AuditOptions {
        origin: origin.into(),
        key,
        ..options(file)
    })
    .unwrap();
    for n in 0..5 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    log.close();
}

fn verified(file: &Path, keys: &[&str], anchors: &[String]) -> (u8, String) {
    verify(&AuditVerifyFlags {
        files: vec![file.to_owned()],
        key: keys.iter().map(|key| (*key).to_owned()).collect(),
        anchor: anchors.to_vec(),
        ..AuditVerifyFlags::default()
    })
}

/// The head of the log as `verify` prints it, as a line of another machine's journal.
fn anchor(file: &Path, origin: &str) -> String {
    let (_, said) = verified(file, &[], &[]);
    let head = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("head"));
    let (size, hash) = head.unwrap().trim().split_once(':').unwrap();
    let line = format!("audit checkpoint origin={origin} size={size} head={hash}\n");
    let path = file.with_extension(format!("anchor-{size}"));
    fs::write(&path, line).unwrap();
    path.display().to_string()
}

#[test]
fn a_host_with_a_new_name_goes_on_with_its_log_and_verify_says_so() {
    for signed in [true, false] {
        let directory = Directory::new("renamed");
        let (key, public) = directory.key();
        let file = directory.file();
        let key = || signed.then(|| key.clone());
        let keys = [public.as_str()];
        let keys = if signed { &keys[..] } else { &[] };
        write(&file, "4f1c2a.local/inbound", key());
        let old = anchor(&file, "4f1c2a.local/inbound");
        write(&file, "9bd077.local/inbound", key());
        write(&file, "mx.clinic.example/inbound", key());
        let new = anchor(&file, "mx.clinic.example/inbound");
        for keys in [keys, &[]] {
            let (code, said) = verified(&file, keys, &[old.clone(), new.clone()]);
            assert_eq!(code, DONE, "{said}");
            for words in [
                "mx.clinic.example/inbound",
                "4f1c2a.local/inbound until record 8",
                "9bd077.local/inbound until record 16",
            ] {
                assert!(said.contains(words), "{said}");
            }
        }
        // An anchor of a former name still shows that the end was cut off.
        let text = fs::read_to_string(&file).unwrap();
        let cut: String = text.split_inclusive('\n').take(4).collect();
        fs::write(&file, cut).unwrap();
        let (code, said) = verified(&file, keys, &[old]);
        assert_eq!(code, DAMAGED, "{said}");
        assert!(said.contains("cut:"), "{said}");
    }
}

#[test]
fn a_new_name_with_a_new_key_or_of_the_other_direction_is_not_taken_for_the_same_log() {
    for (origin, other_key) in [
        ("mx.example/inbound", true),
        ("host.example/outbound", false),
    ] {
        let directory = Directory::new("other-name");
        let (key, public) = directory.key();
        let other = Directory::new("other-key");
        let (mallorys, mallorys_public) = other.key();
        let file = directory.file();
        write(&file, "host.example/inbound", Some(key.clone()));
        write(&file, origin, Some(if other_key { mallorys } else { key }));
        for keys in [&[][..], &[public.as_str()]] {
            let (code, said) = verified(&file, keys, &[]);
            assert_eq!(code, DAMAGED, "{said}");
            assert!(said.contains("rewritten:"), "{said}");
        }
        if other_key {
            // Both keys are the administrator's.
            let (code, said) = verified(&file, &[&public, &mallorys_public], &[]);
            assert_eq!(code, DONE, "{said}");
        }
    }
}

/// A checkpoint must have the name under which the log was opened, whichever key signed it.
#[test]
fn a_checkpoint_of_another_name_is_found() {
    let (directory, elsewhere) = (Directory::new("grafted"), Directory::new("grafted-from"));
    let (key, public) = directory.key();
    write(&directory.file(), "host.example/inbound", Some(key.clone()));
    write(&elsewhere.file(), "evil.example/inbound", Some(key));
    let lines = |file: &Path| -> Vec<String> {
        let text = fs::read_to_string(file).unwrap();
        text.split_inclusive('\n').map(str::to_owned).collect()
    };
    let (mut ours, theirs) = (lines(&directory.file()), lines(&elsewhere.file()));
    ours[1] = theirs[1].clone();
    fs::write(directory.file(), ours.concat()).unwrap();
    let (code, said) = verified(&directory.file(), &[&public], &[]);
    assert_eq!(code, DAMAGED, "{said}");
}
