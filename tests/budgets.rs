//! The work that a message and a session may cost, in numbers that other work on the machine does not change: system calls, and blocks
//! and octets of the heap. More than a budget is a failure. `tests/budgets/table.rs` has the budgets and their reasons.
//!
//! `cargo test --test budgets -- --nocapture` prints what was measured. System calls need strace and the right to use it, the heap
//! needs a C compiler and glibc. Without them nothing is measured, which is a failure where CI=true.

#[path = "budgets/calls.rs"]
mod calls;
#[path = "../examples/demo/dns.rs"]
mod dns;
#[path = "budgets/heap.rs"]
mod heap;
#[path = "budgets/logs.rs"]
mod logs;
#[path = "support/name_server.rs"]
mod name_server;
#[path = "budgets/octets.rs"]
mod octets;
#[path = "budgets/play.rs"]
mod play;
#[path = "support/running.rs"]
mod running;
#[path = "budgets/table.rs"]
mod table;
#[allow(dead_code, reason = "nobody who takes this in uses all of it")]
#[path = "account/wire.rs"]
mod wire;

use calls::Kind;
use play::Stage;
use running::Scratch;
use table::{
    Allocations, Files, IDLE, Idle, LogLines, MANY_LOGS, ManyLogs, OCTETS, Octets, READ, Read,
    Setup, Sockets, Unit, WORK, Way, Work,
};

/// Messages of a run. What is counted too often or not at all at the ends of the run then makes less than half a call a message.
const MESSAGES: usize = 50;
/// Recipients of a message. What makes room for all of them is then far less than half a block a recipient.
const RECIPIENTS: usize = 500;
/// Cold sessions of a run.
const SESSIONS: usize = 20;
/// Idle sessions of a run, and as many again.
const IDLE_SESSIONS: usize = 100;

#[test]
fn a_message_and_a_session_make_no_more_system_calls_than_their_budget() {
    if !can_measure(play::no_compiler().or_else(calls::missing)) {
        return;
    }
    let mut over = Over::default();
    for Work(unit, way, log, sockets, log_lines, files, setup, _) in WORK {
        let calls = calls::of_one(&Stage::new(way, log), unit, times(unit));
        let (Sockets(sockets), LogLines(log_lines)) = (sockets, log_lines);
        let (Files(files), Setup(setup)) = (files, setup);
        let what = format!("{way:?}, audit log {log:?}, {unit:?}");
        for (kind, budget) in [
            (Kind::Sockets, sockets),
            (Kind::LogLines, log_lines),
            (Kind::Files, files),
            (Kind::Setup, setup),
        ] {
            let what = format!("{what}, {kind:?} ({})", calls.split(kind));
            over.compare(&what, calls.of(kind), budget);
        }
        let chance = calls.split(Kind::Chance);
        println!("{what}, without a budget: {chance}");
    }
    over.fail_if_any();
}

#[test]
fn a_message_and_a_session_take_no_more_blocks_of_the_heap_than_their_budget() {
    if !can_measure(play::no_compiler()) {
        return;
    }
    let mut over = Over::default();
    for Work(unit, way, log, .., Allocations(budget)) in WORK {
        let measured = heap::allocations_of_one(&Stage::new(way, log), unit, times(unit));
        let what = format!("{way:?}, audit log {log:?}, {unit:?}, allocations");
        over.compare(&what, measured, budget);
    }
    over.fail_if_any();
}

#[test]
fn an_idle_session_holds_no_more_octets_of_the_heap_than_its_budget() {
    if !can_measure(play::no_compiler()) {
        return;
    }
    let mut over = Over::default();
    for Idle(way, log, budget) in IDLE {
        let measured = heap::octets_of_an_idle_session(&Stage::new(way, log), IDLE_SESSIONS);
        let what = format!("{way:?}, audit log {log:?}, idle session, octets");
        over.compare(&what, measured, budget);
    }
    over.fail_if_any();
}

#[test]
fn a_session_leaves_no_more_octets_in_the_audit_log_than_its_budget() {
    if !can_measure(play::no_compiler()) {
        return;
    }
    let mut over = Over::default();
    for Octets(way, deed, budget) in OCTETS {
        let left = octets::left_by(way, deed);
        let what = format!(
            "{way:?}, {deed:?}, octets of the audit log ({})",
            left.split
        );
        over.compare(&what, left.octets, budget);
    }
    over.fail_if_any();
}

#[test]
fn what_reads_a_log_holds_a_bounded_part_of_it_whatever_stands_in_the_file() {
    if !can_measure(play::no_compiler()) {
        return;
    }
    let mut over = Over::default();
    for Read(filling, words, budget) in READ {
        let files = Scratch::new();
        let (log, out) = (logs::filled(&files, filling), files.path("out"));
        let mail = ["audit", "prove", "--message", "0/1", &log];
        for arguments in [
            &["audit", "verify", &log][..],
            &["audit", "show", &log],
            &["audit", "report", "--html", &out, &log],
            &mail,
            &["policy", "suggest", &log],
        ] {
            let (output, measured) = heap::most_octets_of(arguments);
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8_lossy(&told).into_owned();
            if let Some(words) = words {
                // Whoever asks for a proof gets no answer from a file that cannot be read.
                let code = if arguments == mail { 78 } else { 1 };
                assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
                assert!(told.contains(words), "{arguments:?}: {told}");
            }
            let what = format!("{filling:?}, {}, octets", arguments[1]);
            over.compare(&what, measured as f64, budget);
        }
    }
    over.fail_if_any();
}

#[test]
fn a_report_over_the_logs_of_many_hosts_holds_no_more_than_one_over_a_few() {
    if !can_measure(play::no_compiler()) {
        return;
    }
    let mut over = Over::default();
    for ManyLogs(number, budget) in MANY_LOGS {
        let files = Scratch::new();
        let (logs, out) = (logs::of_hosts(&files, number), files.path("out"));
        let logs: Vec<&str> = logs.iter().map(String::as_str).collect();
        let arguments = [&["audit", "report", "--html", &out], &logs[..]].concat();
        let (output, measured) = heap::most_octets_of(&arguments);
        assert!(output.status.success(), "{output:?}");
        let what = format!("report over {number} logs, octets");
        over.compare(&what, measured as f64, budget);
    }
    over.fail_if_any();
}

/// `cargo test --test budgets compressed -- --ignored --nocapture`; needs gzip and zstd.
#[test]
#[ignore = "a measurement, which asserts nothing"]
fn what_sessions_leave_in_the_audit_log_plain_and_compressed() {
    for (way, sessions, messages, recipients) in [
        (Way::Outbound, 1000, 1, 1),
        (Way::Outbound, 100, 10, 1),
        (Way::Outbound, 100, 10, 5),
        (Way::Inbound, 1000, 1, 1),
        (Way::Inbound, 100, 10, 1),
    ] {
        octets::print_compressed(way, sessions, messages, recipients);
    }
}

fn times(unit: Unit) -> usize {
    match unit {
        Unit::ColdSession => SESSIONS,
        Unit::GroupedMessage | Unit::LockStepMessage => MESSAGES,
        Unit::Recipient => RECIPIENTS,
    }
}

/// Whether nothing is missing.
fn can_measure(missing: Option<String>) -> bool {
    let Some(why) = missing else {
        return true;
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "the budgets cannot be measured: {why}"
    );
    println!("NOT MEASURED: {why}");
    false
}

/// What is over its budget.
#[derive(Default)]
struct Over(Vec<String>);

impl Over {
    fn compare(&mut self, what: &str, measured: f64, budget: u32) {
        // Never -0.
        let measured = measured.round() + 0.0;
        let line = format!("{what}: measured {measured}, budget {budget}");
        println!("{line}");
        if measured > f64::from(budget) {
            self.0.push(line);
        }
    }

    fn fail_if_any(self) {
        assert!(self.0.is_empty(), "over budget:\n{}", self.0.join("\n"));
    }
}
