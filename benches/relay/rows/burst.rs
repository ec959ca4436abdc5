//! Many servers that send at the same moment, and one among them that wants more than its share. Limits are those that a program has
//! by default.

use super::{
    Bench, Values, quantile,
    sessions::{Tally, crowd},
};
use crate::{Outcome, peers::Variant, sender::Sender};
use std::net::{IpAddr, Ipv4Addr};

/// Number of client addresses, and of sessions from each.
const ADDRESSES: u8 = 50;
const EACH: usize = 20;
/// Sessions of the one address that wants more.
const GREEDY: usize = 500;

pub async fn from_many(bench: &Bench, variant: &Variant) -> Outcome<Values> {
    let each = (EACH / bench.options.scale).max(1);
    let all = usize::from(ADDRESSES) * each;
    let senders = || {
        let of =
            |number| std::iter::repeat_n(from(variant, Ipv4Addr::new(127, 0, 1, number)), each);
        (1..=ADDRESSES).flat_map(of)
    };
    let mut values = Values::new();
    {
        let _running = bench.start(variant, false).await?;
        let tally = crowd(senders()).await?;
        figures(&format!("burst of {all} sessions"), tally, &mut values);
    }
    // Another process, so that nothing is left of the burst before.
    let _running = bench.start(variant, false).await?;
    let count = GREEDY / bench.options.scale;
    let greedy = from(variant, Ipv4Addr::new(127, 0, 2, 1));
    let (others, of_greedy) =
        tokio::join!(crowd(senders()), crowd(std::iter::repeat_n(greedy, count)));
    let row = format!("the same, with {count} more from one address");
    figures(&row, others?, &mut values);
    values.push((format!("{row}: of them served"), of_greedy?.served as f64));
    Ok(values)
}

fn from(variant: &Variant, address: Ipv4Addr) -> Sender {
    Sender {
        from: Some(IpAddr::V4(address)),
        ..variant.sender.clone()
    }
}

fn figures(row: &str, mut tally: Tally, values: &mut Values) {
    values.push((format!("{row}: served"), tally.served as f64));
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("last", 1.0)] {
        values.push((
            format!("{row}: {name} ms"),
            quantile(&mut tally.latencies, part),
        ));
    }
    values.extend(tally.refusals(row));
}
