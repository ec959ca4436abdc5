//! How many instructions the scanner of messages takes for a MiB. It is fast only as long as the compiler makes vector
//! instructions of its loops, and a compiler that stops doing so says nothing: then it takes twenty times as many. Counted by
//! valgrind, so the numbers are the same on a loaded machine. Without valgrind this says that it was skipped.

#![cfg(target_arch = "x86_64")]

use std::{path::Path, process::Command, sync::LazyLock};

/// The scanner alone, as a release build compiles it.
static SCAN: LazyLock<String> = LazyLock::new(|| {
    let binary = format!("{}/budget-scanner", env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budget_scanner/scan.rs");
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let status = Command::new(rustc)
        .args(["--edition=2024", "-Copt-level=3", "-o", &binary])
        .arg(source)
        .status()
        .expect("rustc is beside cargo");
    assert!(status.success(), "rustc: {status}");
    binary
});

/// Instructions of the whole process.
fn instructions(message: &str, segment: usize, times: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args([&SCAN, message, &segment.to_string(), &times.to_string()])
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let (_, counted) = said.split_once("Collected : ").expect("a count");
    let digits = counted.lines().next().unwrap_or_default().trim();
    digits.parse().expect("a number")
}

fn assert_at_most(thousands: u64, message: &str, segment: usize) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no valgrind here, no instructions were counted; install it");
        return;
    }
    let once = instructions(message, segment, 1);
    let per_mib = (instructions(message, segment, 3) - once) / 2 / 1000;
    println!("{message}, {segment} octets at a time: {per_mib} thousand instructions a MiB");
    assert!(
        per_mib <= thousands,
        "{per_mib} thousand instructions a MiB, not {thousands}"
    );
}

/// What one TLS record holds, and what the machine is offered at most.
const RECORD: usize = 16 * 1024;

/// Lines of 76 octets, as base64 has them, are passed a window at a time: 3 instructions for 16 octets, some for each line end,
/// and a tenth of the octets block by block. Looking for each line end with memchr takes 1,890.
#[test]
fn lines_of_equal_length_take_less_than_half_an_instruction_an_octet() {
    assert_at_most(400, "equal", RECORD);
}

/// Other lines are passed block by block: 16 instructions for 16 octets, some for each block, and now and then a search for
/// lines of equal length. With memchr 2,190.
#[test]
fn lines_of_any_length_take_one_and_a_half_instructions_an_octet() {
    assert_at_most(1_550, "text", RECORD);
}

/// Neither short lines nor dots at their start make a block cost much more. With memchr 33,600 and 25,200.
#[test]
fn no_line_is_so_short_that_it_costs_more_than_its_octets() {
    assert_at_most(1_550, "short", RECORD);
    assert_at_most(2_750, "dots", RECORD);
}

/// Where there is no line end, a block is passed at 2 instructions for 16 octets. With memchr, which uses registers twice as
/// wide where it finds them, 444 and 305.
#[test]
fn long_lines_take_less_than_twice_what_a_search_for_their_ends_takes() {
    assert_at_most(550, "long", RECORD);
    assert_at_most(340, "endless", RECORD);
}

/// A block is filled up where fewer octets come. With memchr 1,980 and 10,200; of both, 100 and 1,200 are this test's own.
#[test]
fn small_segments_take_less_than_twice_what_a_search_for_line_ends_takes() {
    assert_at_most(1_750, "equal", 1460);
    assert_at_most(19_500, "equal", 16);
}
