//! Sessions that have sent a message and wait: their memory, and what a new session notices of them.

use super::{
    Bench, SHORT, Values, quantile,
    sessions::{self, sessions_at_most},
};
use crate::{
    Outcome,
    peers::{Running, Variant},
    sender::{Mail, Session},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// How many sessions begin at the same time: fewer than any peer refuses.
const OPENERS: usize = 32;
/// In this time a peer gives back what it gives back.
const REST: Duration = Duration::from_millis(700);

pub async fn memory(bench: &Bench, variant: &Variant) -> Outcome<Values> {
    let running = bench.ready(variant).await?;
    let count = (2_000 / bench.options.scale).max(10);
    let before = warm(variant, &running).await?;
    let sessions = open(variant, count).await?;
    tokio::time::sleep(REST).await;
    let with = running.meter.memory();
    drop(sessions);
    Ok(vec![(
        "idle session: RSS KiB".into(),
        with.saturating_sub(before) as f64 / 1024.0 / count as f64,
    )])
}

pub async fn standing(bench: &Bench, variant: &Variant) -> Outcome<Values> {
    let running = bench.ready(variant).await?;
    let count = (sessions_at_most(10_000) / bench.options.scale).max(10);
    let before = warm(variant, &running).await?;
    let mut alone = sessions::run(bench, variant, 1).await?;
    let sessions = open(variant, count).await?;
    tokio::time::sleep(REST).await;
    let with = running.meter.memory();
    let mut beside = sessions::run(bench, variant, 1).await?;
    for session in sessions {
        // The peer may have ended it for its own reasons, which is no part of this row.
        let _ = tokio::time::timeout(REST, session.quit()).await;
    }
    tokio::time::sleep(REST).await;
    let row = format!("{count} idle sessions");
    let kibibytes = |octets: u64| octets as f64 / 1024.0;
    let mut values = vec![
        (
            format!("{row}: RSS KiB each"),
            kibibytes(with.saturating_sub(before)) / count as f64,
        ),
        (
            format!("{row}: RSS KiB each, after they are gone"),
            kibibytes(running.meter.memory().saturating_sub(before)) / count as f64,
        ),
        (
            "no idle session: a new session, p50 ms".into(),
            quantile(&mut alone.latencies, 0.5),
        ),
        (
            format!("{row}: a new session, p50 ms"),
            quantile(&mut beside.latencies, 0.5),
        ),
    ];
    values.extend(beside.refusals(&row));
    Ok(values)
}

/// Some sessions that come and go; returns the octets in memory after them.
async fn warm(variant: &Variant, running: &Running) -> Outcome<u64> {
    let mail = Mail::new(SHORT, 1);
    for _ in 0..20 {
        variant.sender.deliver(&mail).await?;
    }
    tokio::time::sleep(REST).await;
    Ok(running.meter.memory())
}

async fn open(variant: &Variant, count: usize) -> Outcome<Vec<Session>> {
    let (mail, next) = (Mail::new(SHORT, 1), Arc::new(AtomicUsize::new(0)));
    let mut openers = JoinSet::new();
    for _ in 0..OPENERS {
        let (sender, mail, next) = (variant.sender.clone(), Arc::clone(&mail), Arc::clone(&next));
        openers.spawn(async move {
            let mut sessions = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let mut session = sender.open().await?;
                session.send(&mail).await?;
                sessions.push(session);
            }
            std::io::Result::Ok(sessions)
        });
    }
    let mut sessions = Vec::new();
    while let Some(opened) = openers.join_next().await {
        sessions.extend(opened??);
    }
    Ok(sessions)
}
