//! stunnel, which adds TLS to a protocol without judging what is said in it. It verifies the chain and the name of the server. It
//! would wait for more octets before it sends, if both its sockets were not told otherwise.

use super::{Kind, Peer, Variant, find, version};
use crate::{
    Outcome,
    world::{self, INSIDE, OUTSIDE, World},
};

pub async fn variants(world: &World) -> Outcome<Vec<Variant>> {
    let Some(program) = find("stunnel") else {
        return Ok(Vec::new());
    };
    let mut variants = Vec::new();
    for direction in ["out", "in"] {
        let listen = world::free_address().await?;
        let (target, role) = if direction == "out" {
            let ca = world.path("ca.pem");
            let role = format!(
                "client = yes\nverifyChain = yes\nCAfile = {ca}\ncheckHost = {OUTSIDE}\nsni = {OUTSIDE}\n"
            );
            (&world.outside, role)
        } else {
            let certificate = world.path(INSIDE);
            (
                &world.inside,
                format!("cert = {certificate}.pem\nkey = {certificate}.key\n"),
            )
        };
        let configuration = format!(
            "foreground = yes\npid =\nsyslog = no\noutput = {log}\n\
             socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
             [smtp]\nprotocol = smtp\naccept = {listen}\nconnect = {target}\n{role}",
            log = world.path(&format!("stunnel-{direction}-own.log")),
            target = target.address,
        );
        let file = world.file(&format!("stunnel-{direction}.conf"), &configuration)?;
        let peer = Peer {
            version: version(&program, "-version"),
            program: program.clone(),
            arguments: vec![file],
            listen,
            for_crowds: Vec::new(),
        };
        variants.push(Variant::between(
            world,
            "stunnel",
            Kind::Stunnel,
            direction,
            peer,
        )?);
    }
    Ok(variants)
}
