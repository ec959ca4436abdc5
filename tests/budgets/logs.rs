//! Files that nobody would take for a log, as large as somebody likes who can write where a log is; they take no room on the disk. And
//! the logs of many hosts.

use crate::running::Scratch;
use starttls_proxy::audit::{AuditLog, AuditOptions, Record, StopRecord};
use std::{
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
};

/// Octets of each file.
const LENGTH: u64 = 256 << 20;
/// Octets of a line that is just short enough to be looked at.
const LONG: u64 = 15 << 20;

/// What stands in the file.
#[derive(Clone, Copy, Debug)]
pub enum Filling {
    /// No end of a line.
    Endless,
    /// A record, and behind it no end of a line.
    RecordThenEndless,
    /// Lines that are nearly as long as a line may be.
    LongLines,
}

/// Makes the file, and gives its path.
pub fn filled(files: &Scratch, filling: Filling) -> String {
    let path = files.path("audit.jsonl");
    let mut file = File::create(&path).expect("a file");
    match filling {
        Filling::Endless => {}
        Filling::RecordThenEndless => {
            let prev = "0".repeat(64);
            let at = "2026-11-24T06:05:00.123456Z";
            writeln!(
                file,
                r#"{{"v":1,"prev":"{prev}","seq":0,"at":"{at}","event":"stop","reason":"none","sessions":0,"messages":0}}"#
            )
            .expect("written");
        }
        Filling::LongLines => {
            for line in 1..LENGTH / LONG {
                file.seek(SeekFrom::Start(line * LONG)).expect("a place");
                file.write_all(b"\n").expect("written");
            }
        }
    }
    file.set_len(LENGTH).expect("a length");
    path
}

/// Makes logs of as many hosts, each larger than what is read of it ahead. Gives their paths.
pub fn of_hosts(files: &Scratch, number: usize) -> Vec<String> {
    let host = |number| {
        let path = files.path(&format!("host-{number}.jsonl"));
        let origin = format!("host-{number}.example/outbound");
        let log = AuditLog::open(AuditOptions::new(path.clone().into(), origin)).expect("a log");
        for sessions in 0..1500 {
            log.append(&Record::Stop(StopRecord {
                reason: "x".repeat(4000),
                sessions,
                messages: 0,
            }));
        }
        assert!(log.close());
        path
    };
    (0..number).map(host).collect()
}
