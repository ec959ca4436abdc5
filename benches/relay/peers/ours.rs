//! starttls-proxy.

use super::{Kind, Peer, Variant, version};
use crate::{
    Outcome,
    namespace::INTERCEPTED,
    world::{self, INSIDE, OUTSIDE, World},
};
use std::{net::SocketAddr, path::Path, process::Command};

/// All sessions of the benchmark come from one address.
const CROWD: [&str; 4] = [
    "--max-sessions",
    "100000",
    "--max-sessions-per-client",
    "100000",
];

/// Variants of the binary with that number on the command line.
pub async fn variants(world: &World, binary: &Path, number: usize) -> Outcome<Vec<Variant>> {
    let label = match number {
        0 => "ours".to_owned(),
        1 => "ours B".to_owned(),
        _ => format!("ours {}", number + 1),
    };
    let key = world.path("audit.key");
    if !Path::new(&key).exists() {
        let made = Command::new(binary)
            .args(["audit", "keygen", "--out", &key])
            .output()?;
        if !made.status.success() {
            return Err(format!("audit keygen: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
    }
    let mut variants = Vec::new();
    for direction in ["out", "in"] {
        for (name, kind) in [
            (label.clone(), Kind::Ours),
            (format!("{label} log"), Kind::Audited),
        ] {
            let listen = world::free_address().await?;
            let mut arguments = if direction == "out" {
                let upstream = format!("{OUTSIDE}:{}", world.outside.address.port());
                [words(&["outbound", "--upstream", &upstream]), trust(world)].concat()
            } else {
                inbound(world)
            };
            if kind == Kind::Audited {
                let log = world.path(&format!("{name} {direction}.jsonl"));
                arguments.extend(words(&["--audit-log", &log, "--audit-key", &key]));
            }
            let peer = peer(binary, arguments, listen);
            variants.push(Variant::between(world, &name, kind, direction, peer)?);
        }
    }
    if let (Some(sink), Some((address, _))) = (&world.intercepted, INTERCEPTED.get(number)) {
        let policy = world.file("policy", "outside.example verify\n")?;
        variants.push(Variant {
            name: format!("{label} gate"),
            kind: Kind::Gate,
            sender: world.plain_sender(SocketAddr::from((*address, 25))),
            sink: sink.clone(),
            peer: Some(gate(world, binary, &policy, INTERCEPTED[number].1)),
        });
    }
    Ok(variants)
}

/// Intercepts connections to port 25. Which peer is right for a recipient is looked up in the DNS, whose answers are in the cache
/// after the first session.
fn gate(world: &World, binary: &Path, policy: &str, port: u16) -> Peer {
    let listen = SocketAddr::from(([0, 0, 0, 0], port));
    let flags = [
        "outbound",
        "--intercept",
        "redirect",
        "--fwmark",
        "1",
        "--policy",
        policy,
    ];
    peer(binary, [words(&flags), trust(world)].concat(), listen)
}

/// With the same flags but another policy table.
pub fn with_policy(peer: &Peer, policy: &str) -> Peer {
    let mut peer = peer.clone();
    if let Some(at) = peer
        .arguments
        .iter()
        .position(|argument| argument == "--policy")
    {
        peer.arguments[at + 1] = policy.to_owned();
    }
    peer
}

fn peer(binary: &Path, mut arguments: Vec<String>, listen: SocketAddr) -> Peer {
    arguments.extend(words(&["--listen", &listen.to_string()]));
    Peer {
        program: binary.to_owned(),
        arguments,
        for_crowds: words(&CROWD),
        listen,
        version: version(binary, "--version"),
    }
}

fn trust(world: &World) -> Vec<String> {
    let resolver = world.resolver.to_string();
    words(&[
        "--ca-file",
        &world.path("ca.pem"),
        "--resolver",
        &resolver,
        "--no-dane",
        "--no-mta-sts",
    ])
}

fn inbound(world: &World) -> Vec<String> {
    words(&[
        "inbound",
        "--upstream",
        &world.inside.address.to_string(),
        "--hide-client-address",
        "--relay-probe",
        "off",
        "--cert",
        &world.path(&format!("{INSIDE}.pem")),
        "--key",
        &world.path(&format!("{INSIDE}.key")),
    ])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
