//! `benches/run` or `cargo bench --bench relay`: what mail costs through the proxy, beside other programs.
//!
//! Sender and sink run in this process, and what is measured runs in its own processes between them, all on loopback. Each round of a
//! row takes every variant in turn, so that what else the machine does falls on all alike: compare figures of one run, not of two.
//! Nothing is asserted about time. Run by `cargo test --benches` it makes one short round, to see that it works.

mod certs;
mod hand_fed;
mod measure;
mod namespace;
mod options;
mod peers;
mod report;
mod rows;
mod sender;
mod sink;
mod world;

use options::Options;
use peers::{Running, Variant};
use report::Report;
use rows::{Bench, ROWS, Row};
use std::{collections::HashMap, error::Error, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// No measurement of one round takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((word, arguments)) = arguments.split_first()
        && word == "hand-fed"
    {
        return hand_fed::run(arguments).await;
    }
    let Some(options) = Options::parse(&arguments)? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    if !options.intercepts && !options.is_smoke {
        eprintln!("no interception: {}", namespace::enter());
    }
    let world = world::World::new(&options).await?;
    let bench = Bench {
        options,
        world,
        groups: measure::Groups::new(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = run(bench) => outcome,
        // All peers end, and what they had is removed.
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

async fn run(bench: Bench) -> Outcome {
    let (mut variants, missing) = peers::variants(&bench.world, &bench.options).await?;
    let mut report = Report::begin(&bench, &variants, missing);
    for (row, name, title) in ROWS {
        if !bench.options.wants_row(name) {
            continue;
        }
        eprintln!("{name}: {title}");
        let lost = measure_row(&bench, row, &variants, &mut report).await;
        variants.retain(|variant| !lost.contains(&variant.name));
    }
    report.end();
    print!("\n{}", report.text());
    if let Some(folder) = &bench.options.write {
        report.write(folder)?;
    }
    if bench.options.is_smoke && report.has_failures {
        return Err("not all of it works".into());
    }
    Ok(())
}

/// All rounds of a row. What a variant cannot do is said in the report, and the others go on. Returns those that do not even start.
async fn measure_row(
    bench: &Bench,
    row: Row,
    variants: &[Variant],
    report: &mut Report,
) -> Vec<String> {
    let mut lost = Vec::new();
    let mut variants: Vec<&Variant> = variants
        .iter()
        .filter(|variant| row.takes(variant))
        .collect();
    let mut started: HashMap<&str, Running> = HashMap::new();
    if !row.starts_peers() {
        for variant in &variants {
            if variant.peer.is_some() {
                match bench.ready(variant).await {
                    Ok(running) => drop(started.insert(&variant.name, running)),
                    Err(error) => {
                        report.note(&variant.name, &error.to_string());
                        lost.push(variant.name.clone());
                    }
                }
            }
        }
        variants.retain(|variant| variant.peer.is_none() || started.contains_key(&*variant.name));
    }
    let cores = measure::cores();
    let last = cores.rsplit([',', '-']).next().unwrap_or("0");
    for round in 0..row.rounds(bench.options.rounds) {
        let mut stuck = Vec::new();
        for variant in &variants {
            let running = started.get(&*variant.name);
            if row.is_on_one_core(variant) && !measure::place(&with_itself(running), last) {
                report.note("one session, one message", "the scheduler chose the cores");
            }
            let measured = row.measure(bench, variant, running, round);
            match tokio::time::timeout(PATIENCE, measured).await {
                Ok(Ok(values)) => report.add(&variant.name, values),
                Ok(Err(error)) => report.note(&variant.name, &error.to_string()),
                Err(_) => {
                    report.note(&variant.name, "does not come to an end");
                    stuck.push(variant.name.as_str());
                }
            }
            if row.is_on_one_core(variant) {
                measure::place(&[std::process::id()], &cores);
            }
        }
        variants.retain(|variant| !stuck.contains(&variant.name.as_str()));
    }
    lost
}

/// The processes of a peer, and this one.
fn with_itself(running: Option<&Running>) -> Vec<u32> {
    let peer = running.map_or(Vec::new(), |running| running.meter.processes());
    [peer, vec![std::process::id()]].concat()
}
