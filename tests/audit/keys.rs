//! Keys that sign one checkpoint each and are erased: when they are, and that no crash, outage or move ends their chain.

use crate::support::{DAMAGED, DONE, Directory, options, stop, verify, wait};
use data_encoding::BASE64;
use starttls_proxy::{
    audit::{
        AuditLog, AuditOptions, Disk, EndKept, FileDisk, Notice, Placement, Reopened, rotated,
    },
    flags::AuditVerifyFlags,
};
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

/// A signed log, and what it says.
fn signed(file: &Path, key: &Path) -> (AuditOptions, Receiver<Notice>) {
    let (sender, notices) = channel();
    let options = AuditOptions {
        key: Some(key.to_owned()),
        checkpoint_records: 4,
        retry_after: Duration::from_millis(1),
        notice: Box::new(move |notice| sender.send(notice).unwrap_or_default()),
        ..options(file)
    };
    (options, notices)
}

/// Appends that many records to the log, and ends it. Returns what the log said.
pub fn write(file: &Path, key: &Path, records: u64) -> Vec<Notice> {
    let (options, notices) = signed(file, key);
    let log = AuditLog::open(options).unwrap();
    for n in 0..records {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    notices.try_iter().collect()
}

/// The key that the log told at its start, to be kept elsewhere.
pub fn told(notices: &[Notice]) -> String {
    let keys = notices.iter().filter_map(|notice| match notice {
        Notice::EpochKey(key) => Some(key.clone()),
        _ => None,
    });
    let [key] = &keys.collect::<Vec<_>>()[..] else {
        panic!("one key is told: {notices:?}")
    };
    key.clone()
}

pub fn check(file: &Path, first_key: &[String]) -> (u8, String) {
    verify(&AuditVerifyFlags {
        files: vec![file.to_owned()],
        first_key: first_key.to_vec(),
        ..AuditVerifyFlags::default()
    })
}

#[track_caller]
pub fn is_good(file: &Path, first_key: &[String]) -> String {
    let (code, said) = check(file, first_key);
    assert_eq!(code, DONE, "{said}");
    said
}

pub fn secrets(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.epoch", file.display()))
}

/// The secrets in the file, in base64.
fn kept(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(secrets(file)).unwrap();
    let lines = text.lines().skip(1);
    lines
        .map(|line| line.split(' ').nth(1).unwrap().to_owned())
        .collect()
}

#[test]
fn the_first_key_that_the_log_names_once_verifies_it_over_restarts_and_rotations() {
    let directory = Directory::new("keys-restart");
    let (key, public) = directory.key();
    let file = directory.file();
    let first = told(&write(&file, &key, 9));
    assert!(first.starts_with("mail.hospital.example/outbound/epoch+"));
    let mut all = vec![first.clone()];
    for _ in 0..3 {
        all.push(told(&write(&file, &key, 9)));
    }
    let (mut options, _notices) = signed(&file, &key);
    options.rotate_octets = 3000;
    let log = AuditLog::open(options).unwrap();
    for n in 0..40 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    assert!(rotated(&file).unwrap().len() > 2);
    all.push(told(&write(&file, &key, 1)));
    // Each of them vouches alone, and all together.
    for key in &all {
        is_good(&file, std::slice::from_ref(key));
    }
    is_good(&file, &all);
    let first = vec![first];
    let said = is_good(&file, &first);
    assert!(said.contains("whoever took the host"), "{said}");
    let said = is_good(&file, &[]);
    assert!(
        said.contains(&format!("first key    {}, named by record 0", first[0])),
        "{said}"
    );
    assert!(
        said.contains("keep its first key on another machine"),
        "{said}"
    );
    // Both signatures are asked for, if both keys are given.
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![file.clone()],
        first_key: first,
        key: vec![public],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    assert!(!said.contains("/epoch: not checked"), "{said}");
}

#[test]
fn a_lost_file_of_secrets_is_recorded_and_both_first_keys_verify_the_log() {
    let directory = Directory::new("keys-lost");
    let (key, _) = directory.key();
    let file = directory.file();
    let mut first = vec![told(&write(&file, &key, 9))];
    fs::remove_file(secrets(&file)).unwrap();
    let said = write(&file, &key, 9);
    let lost = said
        .iter()
        .find(|notice| matches!(notice, Notice::KeyLost(_)));
    assert!(
        lost.unwrap().to_string().contains("is not there"),
        "{lost:?}"
    );
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\"event\":\"key-lost\"").count(), 1);
    assert_eq!(check(&file, &first).0, DAMAGED);
    first.push(told(&said));
    let said = is_good(&file, &first);
    assert!(
        said.contains("a secret was lost, and a new first key made"),
        "{said}"
    );
    is_good(&file, &[]);
}

#[test]
fn a_new_log_key_is_named_and_the_first_key_vouches_for_it() {
    let directory = Directory::new("keys-rotated");
    let (key, _) = directory.key();
    let other = Directory::new("keys-rotated-other");
    let (new_key, _) = other.key();
    let file = directory.file();
    let first = vec![told(&write(&file, &key, 5))];
    write(&file, &new_key, 5);
    is_good(&file, &first);
}

#[test]
fn the_first_checkpoint_of_a_run_and_one_an_hour_is_signed_with_ml_dsa_too() {
    let directory = Directory::new("keys-hybrid");
    let (key, public) = directory.key();
    let hybrid = public.replace(".pub", ".ml-dsa.pub");
    let file = directory.file();
    for _ in 0..2 {
        write(&file, &key, 20);
    }
    let judged = |keys: &[&String]| {
        verify(&AuditVerifyFlags {
            files: vec![file.clone()],
            key: keys.iter().map(ToString::to_string).collect(),
            ..AuditVerifyFlags::default()
        })
    };
    let (code, said) = judged(&[&public, &hybrid]);
    assert_eq!(code, DONE, "{said}");
    assert!(
        said.contains("2 checkpoints signed with ML-DSA-44 too"),
        "{said}"
    );
    // It is optional: without the key, nothing is said of it but its name.
    let (code, said) = judged(&[&public]);
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("/ml-dsa-44: not checked"), "{said}");
    // With that key alone, the other one is not taken for given.
    let (code, said) = judged(&[&hybrid]);
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("as the log itself names it"), "{said}");
    let other = Directory::new("keys-hybrid-other");
    let stranger = other.key().1.replace(".pub", ".ml-dsa.pub");
    let (code, said) = judged(&[&public, &stranger]);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("ML-DSA signature is wrong"), "{said}");
}

#[test]
fn without_a_log_key_there_are_no_secrets() {
    let directory = Directory::new("keys-none");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    wait(log.append_durable(&stop(1))).unwrap();
    log.close();
    assert!(!secrets(&directory.file()).exists());
    let said = is_good(&directory.file(), &[]);
    assert!(said.contains("can sign any past"), "{said}");
}

#[test]
fn each_secret_is_overwritten_where_it_stood_once_its_checkpoint_is_durable() {
    let directory = Directory::new("keys-erased");
    let (key, _) = directory.key();
    let file = directory.file();
    let (sender, seen) = channel();
    let of = file.clone();
    let (mut options, _) = signed(&file, &key);
    // A checkpoint is told of before its secret is erased, so the file still has it here.
    options.notice = Box::new(move |notice| {
        if let Notice::Checkpoint(_) = notice {
            sender.send(kept(&of)).unwrap_or_default();
        }
    });
    let log = AuditLog::open(options).unwrap();
    let inode = fs::metadata(secrets(&file)).unwrap().ino();
    let mode = fs::metadata(secrets(&file)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for n in 0..20 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let mut before: Vec<Vec<String>> = seen.try_iter().collect();
    assert!(before.len() > 5);
    before.push(kept(&file));
    for pair in before.windows(2) {
        let stays: Vec<_> = pair[0].iter().filter(|one| pair[1].contains(one)).collect();
        assert_eq!(stays.len(), 1, "one of two is overwritten");
    }
    // Nothing of those that were used stands anywhere in the directory.
    let last = kept(&file);
    let used = before.iter().flatten().filter(|one| !last.contains(one));
    for secret in used {
        let raw = BASE64.decode(secret.as_bytes()).unwrap();
        for entry in fs::read_dir(&directory.0).unwrap() {
            let content = fs::read(entry.unwrap().path()).unwrap();
            assert!(
                !content
                    .windows(44)
                    .any(|octets| octets == secret.as_bytes())
            );
            assert!(!content.windows(32).any(|octets| octets == raw));
        }
    }
    assert_eq!(fs::metadata(secrets(&file)).unwrap().ino(), inode);
}

#[test]
fn a_key_that_cannot_be_written_works() {
    let directory = Directory::new("keys-read-only");
    let (key, _) = directory.key();
    let credentials = directory.0.join("credentials");
    fs::create_dir(&credentials).unwrap();
    let credential = credentials.join("audit-key");
    fs::rename(&key, &credential).unwrap();
    let before = fs::read(&credential).unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o500)).unwrap();
    let first = vec![told(&write(&directory.file(), &credential, 9))];
    write(&directory.file(), &credential, 9);
    is_good(&directory.file(), &first);
    assert_eq!(fs::read(&credential).unwrap(), before);
    assert_eq!(fs::read_dir(&credentials).unwrap().count(), 1);
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Copies the files of a log as they are before each step of its disk: what a crash leaves there.
struct Crashing {
    disk: FileDisk,
    from: PathBuf,
    to: PathBuf,
    taken: Arc<Mutex<u32>>,
    /// Octets of the log that are on stable storage.
    synced: u64,
}

impl Crashing {
    /// As after a crash of the program, and as after a power failure.
    fn step(&self) {
        let mut taken = self.taken.lock().unwrap();
        for loses_power in [false, true] {
            self.copy(*taken);
            let file = self.to.join(format!("{}/audit.jsonl", *taken));
            let octets = fs::metadata(&file).map_or(0, |metadata| metadata.len());
            if loses_power && octets > self.synced {
                let log = fs::OpenOptions::new().write(true).open(&file).unwrap();
                log.set_len(self.synced).unwrap();
            }
            *taken += 1;
        }
    }

    fn length(&self) -> u64 {
        fs::metadata(self.from.join("audit.jsonl")).unwrap().len()
    }

    /// As after a crash in the middle of a write of `octets` at `offset` to the file with this suffix.
    fn torn(&self, suffix: &str, offset: u64, octets: &[u8]) {
        let mut taken = self.taken.lock().unwrap();
        self.copy(*taken);
        let file = self.to.join(format!("{}/audit.jsonl{suffix}", *taken));
        let mut content = fs::read(&file).unwrap_or_default();
        let begin = usize::try_from(offset).unwrap();
        let half = octets.len() / 2;
        content.resize(content.len().max(begin + half), 0);
        content[begin..begin + half].copy_from_slice(&octets[..half]);
        fs::write(&file, content).unwrap();
        *taken += 1;
    }

    fn copy(&self, number: u32) {
        let to = self.to.join(number.to_string());
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(&self.from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

impl Disk for Crashing {
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<Reopened> {
        self.step();
        self.disk.reopen(durable, unsure)
    }
    fn begin(&mut self, durable: u64) -> io::Result<Reopened> {
        self.step();
        self.disk.begin(durable)
    }
    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement> {
        self.torn("", length, lines);
        self.disk.append(length, lines)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.step();
        self.disk.sync()?;
        self.synced = self.length();
        self.step();
        Ok(())
    }
    fn rotate(&mut self, suffix: &str) -> io::Result<Placement> {
        self.step();
        let placement = self.disk.rotate(suffix)?;
        self.synced = self.length();
        Ok(placement)
    }
    fn remember(&mut self, line: &[u8]) -> io::Result<EndKept> {
        self.torn(".lock", 0, line);
        self.disk.remember(line)
    }
    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        self.torn(".epoch", 0, content);
        self.disk.keep_secrets(content)?;
        self.step();
        Ok(())
    }
}

#[test]
fn secrets_that_cannot_be_written_are_an_outage_and_the_chain_of_keys_goes_on_behind_it() {
    let directory = Directory::new("keys-outage");
    let (key, _) = directory.key();
    let file = directory.file();
    let first = told(&write(&file, &key, 3));
    let (options, notices) = signed(&file, &key);
    let fails = Arc::new(Mutex::new(false));
    let log = AuditLog::open_on(options, |disk| Box::new(Forgetful(disk, fails.clone()))).unwrap();
    *fails.lock().unwrap() = true;
    // So many that they need a checkpoint, behind which its secret cannot be erased.
    for n in 0..9 {
        log.append(&stop(n));
    }
    let failing = |notice| matches!(notice, Notice::Failing(_));
    let mut told = notices.iter();
    assert!(told.any(failing));
    assert!(!log.healthy());
    wait(log.append_durable(&stop(10))).unwrap_err();
    *fails.lock().unwrap() = false;
    assert!(told.any(|notice| matches!(notice, Notice::Recovered { lost: 0 })));
    wait(log.append_durable(&stop(11))).unwrap();
    assert!(log.close());
    is_good(&file, &[first]);
}

/// A disk that cannot keep secrets once it is told so.
struct Forgetful(FileDisk, Arc<Mutex<bool>>);

impl Disk for Forgetful {
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<Reopened> {
        self.0.reopen(durable, unsure)
    }
    fn begin(&mut self, durable: u64) -> io::Result<Reopened> {
        self.0.begin(durable)
    }
    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement> {
        self.0.append(length, lines)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
    fn rotate(&mut self, suffix: &str) -> io::Result<Placement> {
        self.0.rotate(suffix)
    }
    fn remember(&mut self, line: &[u8]) -> io::Result<EndKept> {
        self.0.remember(line)
    }
    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        match *self.1.lock().unwrap() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.0.keep_secrets(content),
        }
    }
}

#[test]
fn a_file_of_secrets_that_is_deleted_while_the_log_is_written_is_there_again() {
    let directory = Directory::new("keys-deleted");
    let (key, _) = directory.key();
    let file = directory.file();
    let (options, notices) = signed(&file, &key);
    let log = AuditLog::open(options).unwrap();
    for n in 0..9 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    fs::remove_file(secrets(&file)).unwrap();
    for n in 0..9 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let first = told(&notices.try_iter().collect::<Vec<_>>());
    write(&file, &key, 3);
    is_good(&file, &[first]);
}

#[test]
fn a_log_that_was_moved_away_while_the_program_did_not_run_goes_on_with_the_same_keys() {
    let directory = Directory::new("keys-moved");
    let (key, _) = directory.key();
    let file = directory.file();
    let first = told(&write(&file, &key, 9));
    let away = directory.0.join("away.jsonl");
    fs::rename(&file, &away).unwrap();
    let said = write(&file, &key, 9);
    assert!(
        !said
            .iter()
            .any(|notice| matches!(notice, Notice::KeyLost(_)))
    );
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![away, file],
        first_key: vec![first],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
}

#[test]
fn a_crash_between_any_two_writes_or_within_one_never_ends_the_chain_of_keys() {
    let directory = Directory::new("keys-crash");
    let crashes = Directory::new("keys-crashes");
    let (key, _) = directory.key();
    let file = directory.file();
    let (mut options, notices) = signed(&file, &key);
    options.rotate_octets = 4000;
    let taken = Arc::new(Mutex::new(0));
    let log = AuditLog::open_on(options, |disk| {
        Box::new(Crashing {
            disk,
            from: directory.0.clone(),
            to: crashes.0.clone(),
            taken: taken.clone(),
            synced: 0,
        })
    })
    .unwrap();
    for n in 0..12 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    assert!(log.close());
    let first = told(&notices.try_iter().collect::<Vec<_>>());
    let taken = *taken.lock().unwrap();
    assert!(taken > 40, "{taken}");
    for number in 0..taken {
        let place = crashes.0.join(number.to_string());
        let file = place.join("audit.jsonl");
        let said = write(&file, &place.join("key.pem"), 6);
        let lost = |notice: &Notice| matches!(notice, Notice::KeyLost(_));
        assert!(!said.iter().any(lost), "{number}: {said:?}");
        // The key of the first start was told before this crash if its checkpoint was durable; the second is told now.
        let text = fs::read_to_string(&file).unwrap();
        let mut given = vec![told(&said)];
        if text.contains(&first) {
            given.push(first.clone());
        }
        let (code, said) = check(&file, &given);
        assert_eq!(code, DONE, "crash {number}: {said}");
    }
}
