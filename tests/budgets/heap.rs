//! What the program takes from the heap, as a library sees it that is loaded before libc.

use crate::{
    play::{self, Stage},
    running::{Proxy, Scratch},
    table::Unit,
};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

/// Octets of the file of counts.
const COUNTS: usize = 24;

/// Numbers at one moment.
#[derive(Clone, Copy)]
struct Counts {
    allocations: u64,
    /// May lie beyond 2^64: only differences count.
    octets: u64,
    /// The most that these ever were.
    most: u64,
}

/// The program with a counted heap.
struct Counted {
    /// Runs until this goes.
    _proxy: Proxy,
    counts: PathBuf,
    _scratch: Scratch,
}

impl Counted {
    fn start(stage: &Stage) -> Self {
        stage.clear();
        let scratch = Scratch::new();
        let counts = scratch.write("counts", [0; COUNTS]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"));
        command.args(&stage.arguments);
        command.envs(stage.preload.iter().cloned());
        command.env("HEAP_COUNTS", &counts);
        let mut proxy = Proxy::start_as(command);
        proxy.says(": ready");
        let mut log = proxy.take_log();
        thread::spawn(move || log.read_to_end(&mut Vec::new()));
        Self {
            _proxy: proxy,
            counts,
            _scratch: scratch,
        }
    }

    fn counts(&self) -> Counts {
        counts_in(&self.counts)
    }
}

fn counts_in(file: &Path) -> Counts {
    let octets = fs::read(file).expect("counts");
    let number = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().expect("8"));
    Counts {
        allocations: number(0),
        octets: number(8),
        most: number(16),
    }
}

/// Runs the program to its end. Gives what it said, and the most octets of heap that it held at a time.
pub fn most_octets_of(arguments: &[&str]) -> (Output, u64) {
    let scratch = Scratch::new();
    let counts = scratch.write("counts", [0; COUNTS]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"));
    command.args(arguments).env("HEAP_COUNTS", &counts);
    command.env("LD_PRELOAD", play::compiled(&scratch));
    let output = command.output().expect("it runs");
    (output, counts_in(&counts).most)
}

/// Allocations of one unit: the difference between one unit and `times` more, by unit, when all has happened once before.
pub fn allocations_of_one(stage: &Stage, unit: Unit, times: usize) -> f64 {
    let program = Counted::start(stage);
    let cost = |times| {
        let before = program.counts().allocations;
        stage.play(unit, times);
        (program.counts().allocations - before) as f64
    };
    cost(1);
    let few = cost(1);
    (cost(1 + times) - few) / times as f64
}

/// Octets of heap that one more idle session holds: it has sent a message and says nothing more. A worker thread may take another block
/// for its buffers while a batch of sessions is made, and keeps it for all sessions, so the smallest of several batches counts.
pub fn octets_of_an_idle_session(stage: &Stage, sessions: usize) -> f64 {
    let program = Counted::start(stage);
    let mut idle = Vec::new();
    let mut batches = [0.0; 4];
    let mut before = 0;
    for batch in &mut batches {
        for _ in 0..sessions {
            let mut client = stage.client();
            client.message_in_a_group();
            idle.push(client);
        }
        let now = program.counts().octets;
        *batch = now.wrapping_sub(before) as i64 as f64 / sessions as f64;
        before = now;
    }
    // The first batch also makes what all sessions share.
    batches[1..].iter().copied().fold(f64::MAX, f64::min)
}
