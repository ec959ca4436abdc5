//! A long policy table: what it costs at the start, in memory, and in each session whose recipient is looked up in it.

use super::{Bench, Usage, Values, sessions};
use crate::{
    Outcome,
    peers::{Variant, ours},
};

pub async fn long(bench: &Bench, variant: &Variant) -> Outcome<Values> {
    let peer = variant.peer.as_ref().ok_or("nothing to start")?;
    let mut values = Values::new();
    for lines in [1, 100_000 / bench.options.scale] {
        let mut table = String::new();
        for number in 1..lines {
            table.push_str(&format!(
                "partner{number}.example secure match=mx{number}.example\n"
            ));
        }
        table.push_str("outside.example verify\n");
        let policy = bench.world.file(&format!("policy-{lines}"), &table)?;
        let running = ours::with_policy(peer, &policy)
            .start(&variant.name, true, &bench.groups, &bench.world)
            .await?;
        let row = format!("policy table of {lines} lines");
        values.push((
            format!("{row}: start ms"),
            running.start.as_secs_f64() * 1e3,
        ));
        values.push((
            format!("{row}: RSS MiB"),
            running.meter.memory() as f64 / f64::from(1 << 20),
        ));
        sessions::run(bench, variant, 1).await?;
        let usage = Usage::begin(variant, Some(&running))?;
        let tally = sessions::run(bench, variant, 16).await?;
        if let Some(cpu) = usage.cpu().await? {
            values.push((
                format!("{row}: CPU ms/session"),
                cpu / tally.served as f64 * 1e3,
            ));
        }
        values.extend(tally.refusals(&row));
    }
    Ok(values)
}
