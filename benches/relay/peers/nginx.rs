//! nginx's mail proxy, inbound only: it has no TLS towards a server. It asks a program, here one that answers at once, where each
//! mail goes to. It has no way to switch Nagle's algorithm off, and offers PIPELINING, which spares it most of what that costs.

use super::{Kind, Peer, Variant, find, version};
use crate::{
    Outcome, measure,
    world::{self, INSIDE, World},
};
use std::path::Path;

const MODULE: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";

pub async fn variants(world: &World) -> Outcome<Vec<Variant>> {
    let Some(program) = find("nginx").filter(|_| Path::new(MODULE).exists()) else {
        return Ok(Vec::new());
    };
    let listen = world::free_address().await?;
    let (folder, descriptors) = (world.folder.display(), measure::descriptors());
    let configuration = format!(
        "load_module {MODULE};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log notice;
worker_processes 2;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {descriptors}; }}
mail {{
    server_name relay.example;
    auth_http {auth};
    proxy_smtp_auth off;
    xclient off;
    server {{
        listen {listen} backlog=4096;
        protocol smtp;
        smtp_auth none;
        smtp_capabilities PIPELINING;
        starttls only;
        ssl_certificate {folder}/{INSIDE}.pem;
        ssl_certificate_key {folder}/{INSIDE}.key;
        ssl_protocols TLSv1.2 TLSv1.3;
    }}
}}
",
        auth = world.auth_http,
    );
    let file = world.file("nginx.conf", &configuration)?;
    let error_log = world.path("nginx-error.log");
    let peer = Peer {
        version: version(&program, "-v"),
        program,
        arguments: ["-c", &file, "-e", &error_log].map(String::from).to_vec(),
        listen,
        for_crowds: Vec::new(),
    };
    Ok(vec![Variant::between(
        world,
        "nginx",
        Kind::Nginx,
        "in",
        peer,
    )?])
}
