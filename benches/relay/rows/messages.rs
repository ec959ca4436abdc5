//! Messages in sessions that are already there.

use super::{Bench, SHORT, Usage, Values, quantile};
use crate::{
    Outcome,
    peers::{Running, Variant},
    sender::Mail,
};
use starttls_proxy::clock;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Number of long sessions.
const SESSIONS: usize = 16;
/// Octets of a big message.
const BULK: usize = 50 << 20;

/// One session, one message after another.
pub async fn alone(bench: &Bench, variant: &Variant, running: Option<&Running>) -> Outcome<Values> {
    let mail = Mail::new(SHORT, 1);
    let mut session = variant.sender.open().await?;
    for _ in 0..3 {
        session.send(&mail).await?;
    }
    let usage = Usage::begin(variant, running)?;
    let until = clock::instant() + bench.options.time;
    let mut latencies = Vec::new();
    while clock::instant() < until {
        let began = clock::instant();
        session.send(&mail).await?;
        latencies.push(began.elapsed().as_secs_f64() * 1e3);
    }
    usage.delivered(variant, latencies.len() as u64).await?;
    let cpu = usage.cpu().await?;
    session.quit().await?;
    let count = latencies.len() as f64;
    let mut values = vec![("one message: p50 ms".into(), quantile(&mut latencies, 0.5))];
    if let Some(cpu) = cpu {
        values.push(("one message: CPU µs".into(), cpu / count * 1e6));
    }
    Ok(values)
}

/// As many messages as sixteen sessions can send.
pub async fn together(
    bench: &Bench,
    variant: &Variant,
    running: Option<&Running>,
) -> Outcome<Values> {
    let mail = Mail::new(SHORT, 1);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut session = variant.sender.open().await?;
        session.send(&mail).await?;
        sessions.push(session);
    }
    let usage = Usage::begin(variant, running)?;
    let (began, mut senders) = (clock::instant(), JoinSet::new());
    let until = began + bench.options.time;
    for mut session in sessions {
        let mail = Arc::clone(&mail);
        senders.spawn(async move {
            let mut sent = 0_u64;
            while clock::instant() < until {
                session.send(&mail).await?;
                sent += 1;
            }
            std::io::Result::Ok((session, sent))
        });
    }
    let (mut sent, mut sessions) = (0, Vec::new());
    while let Some(outcome) = senders.join_next().await {
        let (session, more) = outcome??;
        sessions.push(session);
        sent += more;
    }
    usage.delivered(variant, sent).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = usage.cpu().await?;
    for session in sessions {
        session.quit().await?;
    }
    let row = format!("messages in {SESSIONS} sessions");
    let mut values = vec![(format!("{row}: messages/s"), sent as f64 / seconds)];
    if let Some(cpu) = cpu {
        values.push((format!("{row}: CPU µs"), cpu / sent as f64 * 1e6));
    }
    Ok(values)
}

pub async fn bulk(bench: &Bench, variant: &Variant, running: Option<&Running>) -> Outcome<Values> {
    let mail = Mail::new(BULK / if bench.options.is_smoke { 50 } else { 1 }, 1);
    let short = Mail::new(SHORT, 1);
    let mut session = variant.sender.open().await?;
    session.send(&short).await?;
    let usage = Usage::begin(variant, running)?;
    let began = clock::instant();
    let messages = if bench.options.scale == 1 { 3 } else { 1 };
    for _ in 0..messages {
        session.send(&mail).await?;
    }
    usage.delivered(variant, messages).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = usage.cpu().await?;
    session.quit().await?;
    let gigabytes = (mail.octets() as u64 * messages) as f64 / 1e9;
    let mut values = vec![("bulk: MB/s".into(), gigabytes * 1e3 / seconds)];
    if let Some(cpu) = cpu {
        values.push(("bulk: CPU s/GB".into(), cpu / gigabytes));
    }
    Ok(values)
}

/// Messages with one recipient and with many.
pub async fn recipients(
    bench: &Bench,
    variant: &Variant,
    running: Option<&Running>,
) -> Outcome<Values> {
    let mut values = Values::new();
    for (recipients, messages) in [(1, 200_u64), (10, 100), (100, 100), (1_000, 30)] {
        let mail = Mail::new(SHORT, recipients);
        let messages = (messages / bench.options.scale as u64).max(1);
        let mut session = variant.sender.open().await?;
        session.send(&mail).await?;
        let usage = Usage::begin(variant, running)?;
        for _ in 0..messages {
            session.send(&mail).await?;
        }
        usage.delivered(variant, messages).await?;
        if let Some(cpu) = usage.cpu().await? {
            let milliseconds = cpu / messages as f64 * 1e3;
            values.push((
                format!("recipients {recipients}: CPU ms/message"),
                milliseconds,
            ));
        }
        session.quit().await?;
    }
    Ok(values)
}
