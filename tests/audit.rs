//! The audit log from outside: what is acknowledged is on disk, whatever happens to the disk, the process or the file.

use starttls_proxy::audit::{AuditLog, Options, Record, Stop, command};
use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// A directory of its own for each test, gone afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn stop(n: u64) -> Record {
    Record::Stop(Stop {
        reason: format!("record {n}"),
        sessions: n,
        messages: n,
    })
}

fn options(file: &Path) -> Options {
    Options::new(file.to_owned(), "mail.example/outbound".into())
}

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
        assert_eq!(
            starttls_proxy::audit::Hash::of(line.as_bytes()),
            receipt.hash
        );
    }
}

#[test]
fn a_stopped_log_is_intact_and_says_so() {
    let directory = Directory::new("stopped");
    let key = directory.0.join("key.pem");
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let keygen = command::Keygen { out: key.clone() };
    assert_eq!(
        command::keygen(&keygen, &mut out, &mut errors),
        command::DONE
    );
    let log = AuditLog::open(Options {
        key: Some(key),
        ..options(&directory.file())
    })
    .unwrap();
    for n in 0..2500 {
        log.append(&stop(n));
    }
    log.close();
    let verify = command::Verify {
        files: vec![directory.file()],
        keys: vec![directory.0.join("key.pem.pub").display().to_string()],
        ..command::Verify::default()
    };
    assert_eq!(
        command::verify(&verify, &mut out, &mut errors),
        command::DONE
    );
    println!("{}", String::from_utf8(out).unwrap());
    let show = command::Show {
        files: vec![directory.file()],
        ..Default::default()
    };
    let mut out = Vec::new();
    assert_eq!(command::show(&show, &mut out, &mut errors), command::DONE);
    println!("{}", &String::from_utf8(out).unwrap()[..600]);
}
