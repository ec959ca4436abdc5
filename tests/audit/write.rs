//! Writing: order, durability, rotation, one writer.

use crate::support::{Directory, options, stop, verify, wait};
use starttls_proxy::audit::{AuditLog, Hash, Options, command};

#[test]
fn what_is_acknowledged_is_in_the_file() {
    let directory = Directory::new("acknowledged");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for n in 0..10 {
        let receipt = wait(log.append_durable(&stop(n))).unwrap();
        let text = std::fs::read_to_string(directory.file()).unwrap();
        let line = text
            .lines()
            .nth(usize::try_from(receipt.seq).unwrap())
            .unwrap();
        assert!(line.contains(&format!("record {n}")));
        assert_eq!(Hash::of(line.as_bytes()), receipt.hash);
    }
}

#[test]
fn a_stopped_log_is_intact_and_says_so() {
    let directory = Directory::new("stopped");
    let (key, public) = directory.key();
    let log = AuditLog::open(Options {
        key: Some(key),
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..2500 {
        log.append(&stop(n));
    }
    log.close();
    let (code, said) = verify(&command::Verify {
        files: vec![directory.file()],
        keys: vec![public],
        ..command::Verify::default()
    });
    assert_eq!(code, command::DONE, "{said}");
    for part in [
        "intact\n",
        "2,505 (0 to 2504)",
        "(as given); all records are signed",
        "stopped in good order",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}
