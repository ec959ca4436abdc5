//! Random sessions at the machine, judged by a far simpler reference (`model/reference.rs`) and by what must hold in every
//! session (`dialogues/watch.rs`).
//!
//! The sessions are the same each time; `MODEL_SEED=7 MODEL_CASES=100000 cargo test --test model` plays others. A failure
//! prints the smallest session that fails, as a dialogue.

#[path = "dialogues/machine.rs"]
mod machine;
#[expect(dead_code, reason = "shared with the dialogues, which use all of it")]
#[path = "dialogues/script.rs"]
mod script;
#[path = "dialogues/stage.rs"]
mod stage;
#[path = "dialogues/watch.rs"]
mod watch;

#[path = "model/reference.rs"]
mod reference;
#[path = "model/sim.rs"]
mod sim;
#[path = "model/world.rs"]
mod world;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestError, TestRunner},
};
use script::Direction;
use sim::Schedule;
use std::fmt::Debug;
use world::{ops, worlds};

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(otherwise)
}

/// Checks `property` for many values; the message of a failure is that of the smallest.
fn holds<S: Strategy>(strategy: S, property: impl Fn(&S::Value) -> Result<(), String>)
where
    S::Value: Debug,
{
    let config = Config {
        cases: u32::try_from(number("MODEL_CASES", 3000)).unwrap_or(u32::MAX),
        rng_seed: RngSeed::Fixed(number("MODEL_SEED", 1)),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |value| {
        property(&value).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, _)) => panic!("{}", why.message()),
        Err(other) => panic!("{other}"),
    }
}

fn serial(direction: Direction) {
    holds((worlds(direction), ops()), |(world, ops)| {
        sim::compare(world, ops, &Schedule::Serial)
    });
}

fn mixed(direction: Direction) {
    let schedule =
        (1..12usize, any::<u64>()).prop_map(|(group, seed)| Schedule::Mixed { group, seed });
    holds(
        (worlds(direction), ops(), schedule),
        |(world, ops, schedule)| {
            let world = world::World {
                refuses_mail: false,
                ..world.clone()
            };
            sim::compare(&world, ops, schedule)
        },
    );
}

fn disturbed(direction: Direction) {
    let line = proptest::sample::select(
        &[
            "EHLO a.example\r\n",
            "MAIL FROM:<a@d0.example>\r\n",
            "RCPT TO:<a@d0.example>\r\n",
            "RCPT TO:<b@d1.example>\r\n",
            "DATA\r\n",
            "text\r\n.\r\n",
            "text\r\n",
            ".\r\n",
            "a\nb\r\n.\r\n",
            "BDAT 3\r\nabc",
            "BDAT 3 LAST\r\nabc",
            "BDAT 9 LAST\r\n",
            "RSET\r\n",
            "NOOP\r\n",
            "QUIT\r\n",
            "STARTTLS\r\n",
            "FOO\r\n",
            "NOOP\n",
            "\0",
            "HELO b.example\r\n",
            "EHLO my scanner\r\n",
            "MAIL FROM:<a@d0.example> SMTPUTF8\r\n",
            "MAIL FROM:<a@d0.example> BODY=8BITMIME SIZE=9\r\n",
            "MAIL FROM:<a@d0.example> AUTH=<>\r\n",
            "RCPT TO:<c@d0.example> NOTIFY=NEVER\r\n",
            "RCPT TO: d@d2.example\r\n",
            "AUTH PLAIN AA==\r\n",
        ][..],
    );
    let start = "EHLO a.example\r\nMAIL FROM:<a@d0.example>\r\nRCPT TO:<a@d0.example>\r\n";
    let client =
        (proptest::collection::vec(line, 0..20), any::<bool>()).prop_map(move |(lines, likely)| {
            [if likely { start } else { "" }, &lines.concat()].concat()
        });
    let options: &[&[&str]] = match direction {
        Direction::Outbound => &[
            &[],
            &["plaintext-possible"],
            &["known"],
            &["known", "auth", "plaintext-possible"],
            &["known", "auth", "implicit-tls"],
            &["hidden=DSN,CHUNKING"],
        ],
        Direction::Inbound => &[&[], &["exempt"], &["no-tls"]],
    };
    let options = proptest::sample::select(options);
    holds(
        (worlds(direction), client, any::<u64>(), options),
        |(world, client, seed, options)| sim::chaos(world, client.as_bytes(), *seed, options),
    );
}

#[test]
fn one_command_after_the_other_outbound() {
    serial(Direction::Outbound);
}

#[test]
fn one_command_after_the_other_inbound() {
    serial(Direction::Inbound);
}

#[test]
fn groups_pieces_and_delays_change_nothing_outbound() {
    mixed(Direction::Outbound);
}

#[test]
fn groups_pieces_and_delays_change_nothing_inbound() {
    mixed(Direction::Inbound);
}

#[test]
fn whatever_goes_wrong_nothing_opens_outbound() {
    disturbed(Direction::Outbound);
}

#[test]
fn whatever_goes_wrong_nothing_opens_inbound() {
    disturbed(Direction::Inbound);
}
