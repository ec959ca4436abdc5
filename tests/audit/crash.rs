//! kill -9 at any time: every acknowledged record is in the log, and the log goes on.

use crate::support::{DONE, Directory, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, Hash, Notice, rotated},
    flags::AuditVerifyFlags,
};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// Names the log to the process that is to be killed.
const FILE: &str = "AUDIT_CRASH_FILE";
const KILLS: u64 = 300;

/// The process that is killed: four sessions append records, and print each acknowledgement as a whole line.
#[test]
#[ignore = "is run, and killed, by the test below"]
fn writer() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let say = |text: String| {
        // One write of less than PIPE_BUF octets is never torn.
        std::io::stdout().write_all(text.as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
    };
    let log = AuditLog::open(AuditOptions {
        checkpoint_records: 20,
        rotate_octets: 40_000,
        notice: Box::new(move |notice| {
            if let Notice::Checkpoint(checkpoint) = notice {
                say(format!(
                    "anchor {}:{}\n",
                    checkpoint.head.size, checkpoint.head.hash
                ));
            }
        }),
        ..options(Path::new(&file))
    })
    .unwrap();
    thread::scope(|scope| {
        for session in 0..4 {
            let log = log.clone();
            scope.spawn(move || {
                for n in 0.. {
                    log.append(&stop(session));
                    let receipt = wait(log.append_durable(&stop(n))).unwrap();
                    say(format!("acknowledged {}:{}\n", receipt.seq, receipt.hash));
                }
            });
        }
    });
}

/// The acknowledgements before the process died.
#[derive(Default)]
struct Promised {
    acknowledged: BTreeMap<usize, String>,
    anchors: Vec<String>,
}

impl Promised {
    /// Lets the writer run until it has acknowledged that many records, kills it, and reads everything it printed.
    fn run_and_kill(&mut self, file: &Path, after: u64) {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "crash::writer",
                "--exact",
                "--ignored",
                "--nocapture",
                "--quiet",
            ])
            .env(FILE, file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        let mut lines = 0;
        while lines < after {
            let read = pipe.read(&mut buffer).unwrap();
            assert_ne!(
                read,
                0,
                "the writer died by itself: {}",
                String::from_utf8_lossy(&said)
            );
            said.extend(&buffer[..read]);
            lines += buffer[..read].iter().filter(|&&b| b == b'\n').count() as u64;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        pipe.read_to_end(&mut said).unwrap();
        for line in String::from_utf8(said).unwrap().lines() {
            if let Some((seq, hash)) = line
                .strip_prefix("acknowledged ")
                .and_then(|line| line.split_once(':'))
            {
                self.acknowledged
                    .insert(seq.parse().unwrap(), hash.to_owned());
            } else if let Some(anchor) = line.strip_prefix("anchor ") {
                self.anchors.push(anchor.to_owned());
            }
        }
    }
}

/// The machine goes down too: behind the last acknowledged line, any part may be missing or zero.
fn lose_power(file: &Path, promised: &Promised, chance: u64) {
    // If it was killed after one file was put aside and before the next was made, the log counts as empty.
    let bytes = fs::read(file).unwrap_or_default();
    let hashes: Vec<&String> = promised.acknowledged.values().rev().take(50).collect();
    // What is remembered outside the log was durable when it was written.
    let lock = fs::read_to_string(format!("{}.lock", file.display())).unwrap_or_default();
    let known: Option<u64> = lock.split(' ').nth(1).and_then(|size| size.parse().ok());
    let last_known = format!("\"seq\":{},", known.unwrap_or_default().saturating_sub(1));
    let mut durable = 0;
    let mut end = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        end += line.len();
        let hash = line
            .strip_suffix(b"\n")
            .map(|line| Hash::of(line).to_string());
        let anchored = line
            .windows(22)
            .any(|part| part == b"\"event\":\"checkpoint\",\"");
        let is_known = String::from_utf8_lossy(line).contains(&last_known);
        if anchored || is_known || hash.is_some_and(|hash| hashes.contains(&&hash)) {
            durable = end;
        }
    }
    let behind = bytes.len() - durable;
    let keep = durable + usize::try_from(chance).unwrap() % (behind + 1);
    let mut left = bytes[..keep].to_vec();
    if chance.is_multiple_of(3) {
        left.resize(bytes.len(), 0);
    }
    fs::write(file, left).unwrap();
}

#[test]
fn acknowledged_implies_recorded_over_hundreds_of_kills() {
    let directory = Directory::new("crash");
    let file = directory.file();
    let mut promised = Promised::default();
    let mut torn = 0;
    for kill in 0..KILLS {
        promised.run_and_kill(&file, 1 + kill * 7 % 40);
        if kill % 2 == 1 {
            lose_power(&file, &promised, kill * 7919);
            torn += 1;
        }
    }
    let mut files = rotated(&file).unwrap();
    files.push(file.clone());
    let text: String = files
        .iter()
        .map(|file| {
            fs::read_to_string(file)
                .unwrap_or_else(|_| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned())
        })
        .collect();
    let lines: Vec<&str> = text.lines().collect();
    for (seq, hash) in &promised.acknowledged {
        let line = lines
            .get(*seq)
            .unwrap_or_else(|| panic!("record {seq} was acknowledged and is not there"));
        assert_eq!(Hash::of(line.as_bytes()).to_string(), *hash, "record {seq}");
    }
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![file],
        anchor: promised.anchors.clone(),
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    assert!(!text.contains("\"event\":\"log-cut\""));
    assert!(
        said.contains(&format!("all {} agree", promised.anchors.len())),
        "{said}"
    );
    println!(
        "{KILLS} kills, {torn} of them with the power gone: {} acknowledged of {} records, {} anchors, all there\n{said}",
        promised.acknowledged.len(),
        lines.len(),
        promised.anchors.len()
    );
}
