//! System calls of the program, as strace sees them from outside.

use crate::{
    play::Stage,
    running::{Proxy, Scratch},
    table::Unit,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

const READS_AND_WRITES: &[&str] = &[
    "read", "readv", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "sendto", "sendmsg",
    "sendmmsg", "splice", "sendfile",
];
/// How threads wait for each other, and how threads and memory come and go. This depends on what else the machine does.
const SCHEDULING: &[&str] = &[
    "futex",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "ppoll",
    "poll",
    "sched_yield",
    "sched_getaffinity",
    "restart_syscall",
    "clock_nanosleep",
    "clone3",
    "clone",
    "exit",
    "set_robust_list",
    "rseq",
    "sigaltstack",
    "rt_sigprocmask",
    "prctl",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "mremap",
    "brk",
];

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads and writes of connections.
    Sockets,
    /// Lines on stderr, which is a pipe.
    LogLines,
    /// Files, which means the audit log.
    Files,
    /// What opens, sets up and closes connections, and whatever else comes.
    Setup,
    /// What differs from run to run, and has no budget.
    Chance,
}

/// Numbers of calls by kind and name.
#[derive(Default)]
pub struct Calls(BTreeMap<(Kind, String), f64>);

impl Calls {
    pub fn of(&self, kind: Kind) -> f64 {
        let chosen = self.0.iter().filter(|((its, _), _)| *its == kind);
        chosen.map(|(_, number)| number).sum()
    }

    /// The numbers of this kind by name, in words.
    pub fn split(&self, kind: Kind) -> String {
        let chosen = self.0.iter().filter(|((its, _), _)| *its == kind);
        let words = chosen
            .filter(|(_, number)| number.abs() >= 0.05)
            .map(|((_, name), number)| format!("{name} {number:.1}"));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// Why strace cannot be used here.
pub fn missing() -> Option<String> {
    let tried = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(format!("strace: {error}")),
    }
}

/// The calls of one unit: the difference between a run of one unit and a run of `times` more, by unit. Start and end of the
/// program, of the session that messages are sent in, and what happens only the first time, cancel out.
pub fn of_one(stage: &Stage, unit: Unit, times: usize) -> Calls {
    let few = of_a_run(stage, unit, 1);
    let mut many = of_a_run(stage, unit, 1 + times);
    for (name, number) in few.0 {
        *many.0.entry(name).or_default() -= number;
    }
    many.0
        .values_mut()
        .for_each(|number| *number /= times as f64);
    many
}

fn of_a_run(stage: &Stage, unit: Unit, times: usize) -> Calls {
    stage.clear();
    let scratch = Scratch::new();
    let trace = scratch.0.join("trace");
    let mut command = Command::new("strace");
    // -y tells what each descriptor is.
    command.args(["-f", "-qq", "-y", "-e", "signal=none", "-o"]);
    command.arg(&trace);
    for (name, value) in &stage.preload {
        command.arg("-E").arg(format!("{name}={value}"));
    }
    // A signal to strace would end strace alone, so the shell tells the process number that the program will have.
    command.args(["sh", "-c", "echo $$; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_starttls-proxy"));
    command.args(&stage.arguments).stdout(Stdio::piped());
    let mut proxy = Proxy::start_as(command);
    let mut pid = String::new();
    BufReader::new(proxy.child.stdout.take().expect("piped"))
        .read_line(&mut pid)
        .expect("a process number");
    let mut traced = Traced(Some(pid));
    proxy.says(": ready");
    let mut log = proxy.take_log();
    let log = thread::spawn(move || {
        let mut text = Vec::new();
        log.read_to_end(&mut text).expect("the log");
        String::from_utf8_lossy(&text).into_owned()
    });
    stage.play(unit, times);
    traced.signal("-TERM");
    let status = proxy.child.wait().expect("a child");
    traced.0 = None;
    let log = log.join().expect("a log");
    assert!(status.success(), "{status}: {log}");
    count(&trace, unit)
}

/// The process number of the program, while it runs. Without this it would outlive a test that fails, because it is strace's child.
struct Traced(Option<String>);

impl Traced {
    fn signal(&self, name: &str) {
        if let Some(pid) = &self.0 {
            let told = Command::new("kill").args([name, pid.trim()]).status();
            assert!(told.expect("kill").success());
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if let Some(pid) = &self.0 {
            // It may have ended by itself.
            let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
        }
    }
}

/// Counts the calls of a trace.
fn count(trace: &Path, unit: Unit) -> Calls {
    let trace = fs::read(trace).expect("a trace");
    let mut calls = Calls::default();
    // By thread, the call that has begun.
    let mut begun = BTreeMap::new();
    for line in String::from_utf8_lossy(&trace).lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if !call.starts_with("<... ") {
            let Some((name, arguments)) = call.split_once('(') else {
                continue; // A thread has ended.
            };
            if arguments.contains("F_GETFD") {
                continue; // Debug builds ask whether a descriptor is open before they close it.
            }
            begun.insert(thread.to_owned(), (kind(name, arguments), name.to_owned()));
        }
        if call.ends_with("<unfinished ...>") {
            continue;
        }
        let Some((mut kind, mut name)) = begun.remove(thread) else {
            continue;
        };
        // The first octets of a new connection are there at the first attempt to read them, or not. Within a session each read
        // waits until there is something, so there an attempt in vain is a call like others.
        if unit == Unit::ColdSession && call.contains("= -1 EAGAIN") {
            (kind, name) = (Kind::Chance, name + " in vain");
        }
        *calls.0.entry((kind, name)).or_default() += 1.0;
    }
    calls
}

fn kind(name: &str, arguments: &str) -> Kind {
    if SCHEDULING.contains(&name) {
        return Kind::Chance;
    }
    let descriptor = arguments.split([',', ')']).next().unwrap_or_default();
    match descriptor.split_once('<') {
        Some((_, what)) if what.contains("eventfd") => Kind::Chance,
        Some((_, what)) if what.starts_with("pipe:") => Kind::LogLines,
        Some((_, what)) if what.starts_with('/') => Kind::Files,
        _ if READS_AND_WRITES.contains(&name) => Kind::Sockets,
        _ => Kind::Setup,
    }
}
