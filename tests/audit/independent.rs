//! The log can be checked without this program, by the commands in the documentation of the schema.

use crate::support::{Directory, options, stop, verify, wait};
use starttls_proxy::{
    audit::{AuditLog, AuditOptions, rotated},
    flags::AuditVerifyFlags,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The commands in the documentation that begin with `# name`.
fn documented(name: &str) -> String {
    let text = include_str!("../../src/audit/record.rs");
    let lines = text
        .lines()
        .map(|line| line.strip_prefix("//!").unwrap_or_default());
    let lines = lines.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let script: Vec<_> = lines
        .skip_while(|line| !line.starts_with(&format!("# {name} ")))
        .take_while(|line| !line.starts_with("```"))
        .collect();
    assert!(script.len() > 5, "{name} is documented");
    script.join("\n")
}

fn run(script: &str, arguments: &[&Path]) -> Output {
    Command::new("bash")
        .args(["-c", script, "check"])
        .args(arguments)
        .output()
        .expect("bash is there")
}

/// A signed log in three files and its public key.
fn written(directory: &Directory) -> (Vec<PathBuf>, PathBuf) {
    let (key, public) = directory.key();
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        rotate_octets: 5000,
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..60 {
        wait(log.append_durable(&stop(n))).unwrap();
    }
    log.close();
    let mut files = rotated(&directory.file()).unwrap();
    files.push(directory.file());
    assert!(files.len() > 2);
    (files, public.into())
}

#[test]
fn jq_and_sha256sum_alone_can_check_the_chain() {
    let directory = Directory::new("independent");
    let (files, _) = written(&directory);
    let script = documented("check-chain");
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let output = run(&script, &paths);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (_, said) = verify(&AuditVerifyFlags {
        files: files.clone(),
        ..AuditVerifyFlags::default()
    });
    let head = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(head.trim()), "{head} is not in {said}");

    let whole = fs::read_to_string(&files[1]).unwrap();
    let line = whole.lines().nth(3).unwrap();
    let damaged = [
        whole.replacen("\"messages\":", "\"messages\":1", 1),
        whole.replacen(&format!("{line}\n"), "", 1),
        whole.replacen(&format!("{line}\n"), &format!("{line}\n{line}\n"), 1),
    ];
    for text in damaged {
        assert_ne!(text, whole);
        fs::write(&files[1], text).unwrap();
        assert!(!run(&script, &paths).status.success());
    }
}

#[test]
fn openssl_alone_can_check_a_checkpoint() {
    let directory = Directory::new("openssl");
    let (files, public) = written(&directory);
    let script = documented("check-checkpoint");
    for file in &files {
        let output = run(&script, &[file, &public]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let stranger = Directory::new("openssl-stranger");
    let (_, other) = stranger.key();
    assert!(
        !run(&script, &[&files[0], Path::new(&other)])
            .status
            .success()
    );
    let text = fs::read_to_string(&files[0]).unwrap();
    let note = text.rfind("outbound\\n").unwrap();
    let mut bytes = text.into_bytes();
    // The first digit of the number of records.
    bytes[note + 10] ^= 1;
    fs::write(&files[0], bytes).unwrap();
    assert!(!run(&script, &[&files[0], &public]).status.success());
}
