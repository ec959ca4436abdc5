//! HAProxy, which copies octets in the clear: the floor of what a relay in a process of its own costs.

use super::{Kind, Peer, Variant, find, version};
use crate::{
    Outcome, measure,
    world::{self, World},
};

pub async fn variants(world: &World) -> Outcome<Vec<Variant>> {
    let Some(program) = find("haproxy") else {
        return Ok(Vec::new());
    };
    let listen = world::free_address().await?;
    let configuration = format!(
        "global
    maxconn {connections}
    maxpipes 50
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 10m
    timeout server 10m
listen smtp
    bind {listen} backlog 4096
    server inside {inside}
",
        connections = measure::descriptors() / 2 - 200,
        inside = world.inside.address,
    );
    let file = world.file("haproxy.cfg", &configuration)?;
    let peer = Peer {
        version: version(&program, "-v"),
        program,
        arguments: ["-db", "-f", &file].map(String::from).to_vec(),
        listen,
        for_crowds: Vec::new(),
    };
    Ok(vec![Variant {
        name: "HAProxy plain".into(),
        kind: Kind::HaProxy,
        sender: world.plain_sender(listen),
        sink: world.inside.clone(),
        peer: Some(peer),
    }])
}
