//! Sessions with one message, each a connection and a full handshake of its own.

use super::{Bench, SHORT, Usage, Values, quantile};
use crate::{
    Outcome, measure,
    peers::{Running, Variant},
    sender::{Mail, Sender},
};
use starttls_proxy::clock;
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::Barrier, task::JoinSet};

/// Where more connections come than a listener can queue, the kernel may lose one that its client believes in.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of sessions.
#[derive(Default)]
pub struct Tally {
    pub served: u64,
    pub refused: u64,
    pub why: Option<io::Error>,
    /// Milliseconds of each session that was served.
    pub latencies: Vec<f64>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.served += other.served;
        self.refused += other.refused;
        self.why = self.why.take().or(other.why);
        self.latencies.extend(other.latencies);
    }

    fn count(&mut self, outcome: io::Result<()>, milliseconds: f64) {
        match outcome {
            Ok(()) => {
                self.served += 1;
                self.latencies.push(milliseconds);
            }
            Err(error) => {
                self.refused += 1;
                self.why = self.why.take().or(Some(error));
            }
        }
    }

    /// How many were not served, and a reason; nothing if there are none.
    pub fn refusals(&self, row: &str) -> Option<(String, f64)> {
        let why = self.why.as_ref()?;
        Some((format!("{row}: not served ({why})"), self.refused as f64))
    }
}

/// A number of senders, each of which begins its next session when the one before has ended.
pub async fn cold(
    bench: &Bench,
    variant: &Variant,
    running: Option<&Running>,
    at_once: usize,
) -> Outcome<Values> {
    let usage = Usage::begin(variant, running)?;
    let began = clock::instant();
    let tally = run(bench, variant, at_once).await?;
    usage.delivered(variant, tally.served).await?;
    let seconds = began.elapsed().as_secs_f64();
    if tally.served == 0 {
        return Err(tally
            .why
            .map_or("no session".into(), |why| why.to_string())
            .into());
    }
    let row = format!("cold session, {at_once} at once");
    let mut values = vec![(format!("{row}: sessions/s"), tally.served as f64 / seconds)];
    if let Some(cpu) = usage.cpu().await? {
        values.push((format!("{row}: CPU ms"), cpu / tally.served as f64 * 1e3));
    }
    values.extend(tally.refusals(&row));
    Ok(values)
}

pub async fn run(bench: &Bench, variant: &Variant, at_once: usize) -> Outcome<Tally> {
    let mail = Mail::new(SHORT, 1);
    let until = clock::instant() + bench.options.time;
    let mut senders = JoinSet::new();
    for _ in 0..at_once {
        let (sender, mail) = (variant.sender.clone(), Arc::clone(&mail));
        senders.spawn(async move {
            let mut tally = Tally::default();
            while clock::instant() < until {
                one(&sender, &mail, &mut tally).await;
                if tally.why.is_some() {
                    // As a mail server, whose queue makes a pause.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = senders.join_next().await {
        sum.add(tally?);
    }
    Ok(sum)
}

async fn one(sender: &Sender, mail: &Mail, tally: &mut Tally) {
    let began = clock::instant();
    let outcome = match tokio::time::timeout(PATIENCE, sender.deliver(mail)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    };
    tally.count(outcome, began.elapsed().as_secs_f64() * 1e3);
}

/// One sender alone.
pub async fn alone(bench: &Bench, variant: &Variant, running: Option<&Running>) -> Outcome<Values> {
    let usage = Usage::begin(variant, running)?;
    let mut tally = run(bench, variant, 1).await?;
    usage.delivered(variant, tally.served).await?;
    let cpu = usage.cpu().await?;
    let mut values = vec![(
        "one session: p50 ms".into(),
        quantile(&mut tally.latencies, 0.5),
    )];
    if let Some(cpu) = cpu {
        values.push((
            "one session: CPU ms".into(),
            cpu / tally.served as f64 * 1e3,
        ));
    }
    values.extend(tally.refusals("one session"));
    Ok(values)
}

/// Crowds of growing size. The biggest one is there in the first round only.
pub async fn crowds(bench: &Bench, variant: &Variant, round: usize) -> Outcome<Values> {
    let most = sessions_at_most(10_000);
    let mut values = Values::new();
    for (size, repeat) in [(1, 50), (10, 20), (100, 5), (1_000, 1), (most, 1)] {
        if size > 1_000 && (round > 0 || bench.options.scale > 1)
            || size > 100 && bench.options.is_smoke
        {
            continue;
        }
        let began = clock::instant();
        let mut sum = Tally::default();
        for _ in 0..repeat {
            // A peer that is slow alone is measured fewer times.
            if sum.served > 0 && began.elapsed() > bench.options.time / 2 {
                break;
            }
            let senders = std::iter::repeat_with(|| variant.sender.clone());
            sum.add(crowd(senders.take(size)).await?);
        }
        let (row, seconds) = (
            format!("{size} at the same time"),
            began.elapsed().as_secs_f64(),
        );
        values.push((format!("{row}: sessions/s"), sum.served as f64 / seconds));
        if size >= 1_000 {
            values.push((format!("{row}: p99 ms"), quantile(&mut sum.latencies, 0.99)));
        }
        values.extend(sum.refusals(&row));
    }
    Ok(values)
}

/// One session of each sender, all at the same time.
pub async fn crowd(senders: impl Iterator<Item = Sender>) -> Outcome<Tally> {
    let senders: Vec<Sender> = senders.collect();
    let (mail, start) = (Mail::new(SHORT, 1), Arc::new(Barrier::new(senders.len())));
    let mut sessions = JoinSet::new();
    for sender in senders {
        let (mail, start) = (Arc::clone(&mail), Arc::clone(&start));
        sessions.spawn(async move {
            start.wait().await;
            let mut tally = Tally::default();
            one(&sender, &mail, &mut tally).await;
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = sessions.join_next().await {
        sum.add(tally?);
    }
    Ok(sum)
}

/// Each session needs two descriptors of a peer and two of this process.
pub fn sessions_at_most(wanted: usize) -> usize {
    wanted.min(measure::descriptors().saturating_sub(600) / 2)
}
