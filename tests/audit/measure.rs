//! Measurements, which assert nothing: `cargo test --release --test audit measure -- --ignored --nocapture --test-threads 1`.

use crate::support::{DONE, Directory, message, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions},
    flags::AuditVerifyFlags,
};
use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

#[expect(clippy::disallowed_methods, reason = "this measures")]
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let made = work();
    let taken = begin.elapsed();
    println!("{what}: {:.3} s", taken.as_secs_f64());
    (made, taken)
}

/// Runs a program, and prints how long it takes and how much memory it takes at most.
const RUN: &str = "
import resource, subprocess, sys, time
begin = time.monotonic()
code = subprocess.call(sys.argv[2:], stdout=subprocess.DEVNULL)
taken = time.monotonic() - begin
used = resource.getrusage(resource.RUSAGE_CHILDREN)
megabytes = int(sys.argv[1]) / 1e6
print(f'{taken:.2f} s, {megabytes / taken:.0f} MB/s, {used.ru_utime + used.ru_stime:.2f} s of processors, {used.ru_maxrss / 1024:.0f} MiB of memory')
sys.exit(code)
";

fn measured(octets: u64, program: &str, arguments: &[&str]) {
    let mut command = Command::new("python3");
    command.args(["-c", RUN, &octets.to_string(), program]);
    let out = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let name = Path::new(program).file_name().unwrap_or_default();
    println!(
        "{} {}: {}",
        name.display(),
        arguments.join(" "),
        said.trim_end()
    );
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A million message records: how long they take to write, to verify (also compressed), to show and to report, and how long hashing alone
/// takes. The file can be kept: `KEEP_MILLION=FILE`.
#[test]
#[ignore = "a measurement of a gigabyte"]
fn a_million_records() {
    let directory = Directory::new("million");
    let (key, public) = directory.key();
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        rotate_octets: u64::MAX,
        ..options(&directory.file())
    })
    .unwrap();
    timed("written", || {
        for n in 0..1_000_000 {
            let record = message(&log, n);
            if n % 1000 == 999 {
                wait(log.append_durable(&record)).unwrap();
            } else {
                log.append(&record);
            }
        }
        log.close();
    });
    let file = directory.file();
    let (bytes, _) = timed("read", || fs::read(&file).unwrap());
    let octets = bytes.len() as u64;
    println!("{octets} octets");
    timed("hashed in one piece", || {
        black_box(starttls_proxy::audit::Hash::of(&bytes))
    });
    timed("hashed line by line", || {
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            black_box(starttls_proxy::audit::Hash::of(&line[..line.len() - 1]));
        }
    });
    drop(bytes);
    let (path, html, json) = (
        file.display().to_string(),
        directory.0.join("html"),
        directory.0.join("json"),
    );
    let (html, json) = (html.display().to_string(), json.display().to_string());
    for _ in 0..3 {
        measured(octets, "sha256sum", &[&path]);
        let audit = |arguments: &[&str]| {
            measured(
                octets,
                env!("CARGO_BIN_EXE_starttls-proxy"),
                &[&["audit"], arguments, &[&*path]].concat(),
            );
        };
        audit(&["verify", "--key", &public]);
        audit(&["report", "--key", &public, "--html", &html]);
        audit(&["report", "--key", &public, "--html", &html, "--json", &json]);
        audit(&["show", "--domain", "hospice.example"]);
        audit(&["show", "--json"]);
        audit(&["show"]);
    }
    if let Ok(kept) = std::env::var("KEEP_MILLION") {
        fs::copy(&file, kept).unwrap();
    }
    let arguments = AuditVerifyFlags {
        files: vec![file.clone()],
        key: vec![public],
        ..AuditVerifyFlags::default()
    };
    for (ending, program) in [
        ("gz", &["gzip", "--keep"][..]),
        ("zst", &["zstd", "--quiet"]),
    ] {
        compressed(&file, ending, program, &arguments);
    }
}

/// What compressing saves, and how long verifying the compressed file takes.
fn compressed(file: &Path, ending: &str, program: &[&str], plain: &AuditVerifyFlags) {
    let program_line = program.join(" ");
    let packed = PathBuf::from(format!("{}.{ending}", file.display()));
    let status = timed(&program_line, || {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(file).status().unwrap()
    });
    assert!(status.0.success());
    println!("{} octets", fs::metadata(&packed).unwrap().len());
    let arguments = AuditVerifyFlags {
        files: vec![packed],
        key: plain.key.clone(),
        ..AuditVerifyFlags::default()
    };
    for _ in 0..3 {
        let ((code, said), _) = timed("verified", || verify(&arguments));
        assert_eq!(code, DONE, "{said}");
    }
}

/// The cost of waiting for durability, by the number of sessions that wait at once, without and with a key.
#[test]
#[ignore = "a measurement of the disk"]
fn group_commit() {
    for (sessions, records) in [(1, 2000), (4, 4000), (16, 16_000), (64, 64_000)] {
        for signed in [false, true, false, true] {
            let directory = Directory::new("commit");
            let log = AuditLog::open(AuditOptions {
                key: signed.then(|| directory.key().0),
                ..options(&directory.file())
            })
            .unwrap();
            let words = if signed { "signed" } else { "unsigned" };
            let ((), taken) = timed(&format!("{sessions} sessions, {words}"), || {
                thread::scope(|scope| {
                    for _ in 0..sessions {
                        scope.spawn(|| {
                            for n in 0..records / sessions {
                                wait(log.append_durable(&stop(n))).unwrap();
                            }
                        });
                    }
                });
            });
            println!("  {:.0} records/s", records as f64 / taken.as_secs_f64());
        }
    }
}
