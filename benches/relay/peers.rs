//! The programs that are compared, each with what is said to be best for it.

mod haproxy;
mod nginx;
pub mod ours;
mod postfix;
mod stunnel;

use crate::{
    Outcome,
    measure::{Groups, Meter},
    options::Options,
    sender::Sender,
    sink::Sink,
    world::{self, INSIDE, OUTSIDE, World},
};
use starttls_proxy::clock;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long a peer may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// One way from sender to sink.
pub struct Variant {
    pub name: String,
    pub kind: Kind,
    pub sender: Sender,
    pub sink: Sink,
    /// What stands between them.
    pub peer: Option<Peer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Ours,
    /// Ours, with an audit log.
    Audited,
    /// Ours, with intercepted connections.
    Gate,
    HandFed,
    Stunnel,
    Nginx,
    HaProxy,
    Postfix,
}

/// How a program is started.
#[derive(Clone)]
pub struct Peer {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub listen: SocketAddr,
    pub version: String,
    /// What lets it take more sessions from one address than it would by default.
    pub for_crowds: Vec<String>,
}

/// A started program and its descendants.
pub struct Running {
    child: Child,
    pub meter: Meter,
    /// Time until it listened.
    pub start: Duration,
}

/// All variants that can run here, and what is missing.
pub async fn variants(world: &World, options: &Options) -> Outcome<(Vec<Variant>, Vec<String>)> {
    let mut variants = vec![Variant {
        name: "direct".into(),
        kind: Kind::Direct,
        sender: world.tls_sender(world.outside.address, OUTSIDE)?,
        sink: world.outside.clone(),
        peer: None,
    }];
    let mut missing = Vec::new();
    for (number, proxy) in options.proxies.iter().enumerate() {
        variants.extend(ours::variants(world, proxy, number).await?);
    }
    variants.extend(hand_fed(world).await?);
    for (name, found) in [
        ("stunnel", stunnel::variants(world).await),
        ("nginx with its mail module", nginx::variants(world).await),
        ("HAProxy", haproxy::variants(world).await),
        ("Postfix", postfix::variants(world).await),
    ] {
        match found {
            Ok(found) if found.is_empty() => missing.push(format!(
                "{name} cannot be measured here; as root on Debian benches/run installs it"
            )),
            Ok(found) => variants.extend(found),
            Err(error) => missing.push(format!("{name} cannot be measured here: {error}")),
        }
    }
    variants.retain(|variant| options.wants_peer(&variant.name));
    Ok((variants, missing))
}

async fn hand_fed(world: &World) -> Outcome<Vec<Variant>> {
    let mut variants = Vec::new();
    for direction in ["out", "in"] {
        let listen = world::free_address().await?;
        let (target, first, second) = if direction == "out" {
            (&world.outside, world.path("ca.pem"), OUTSIDE.to_owned())
        } else {
            let key = world.path(&format!("{INSIDE}.key"));
            (&world.inside, world.path(&format!("{INSIDE}.pem")), key)
        };
        let peer = Peer {
            program: std::env::current_exe()?,
            arguments: vec![
                "hand-fed".into(),
                direction.into(),
                listen.to_string(),
                target.address.to_string(),
                first,
                second,
            ],
            listen,
            version: "rustls 0.23, unbuffered".into(),
            for_crowds: Vec::new(),
        };
        variants.push(Variant::between(
            world,
            "hand-fed",
            Kind::HandFed,
            direction,
            peer,
        )?);
    }
    Ok(variants)
}

impl Variant {
    /// A peer between a sender and the sink of this direction, `out` or `in`.
    fn between(
        world: &World,
        name: &str,
        kind: Kind,
        direction: &str,
        peer: Peer,
    ) -> Outcome<Self> {
        let (sender, sink) = if direction == "out" {
            (world.plain_sender(peer.listen), &world.outside)
        } else {
            (world.tls_sender(peer.listen, INSIDE)?, &world.inside)
        };
        Ok(Self {
            name: format!("{name} {direction}"),
            kind,
            sender,
            sink: sink.clone(),
            peer: Some(peer),
        })
    }

    pub fn is_outbound(&self) -> bool {
        !self.name.ends_with(" in")
    }
}

impl Peer {
    /// With `crowd` it lets in any number of sessions from one address.
    pub async fn start(
        &self,
        name: &str,
        crowd: bool,
        groups: &Groups,
        world: &World,
    ) -> Outcome<Running> {
        let (mut command, group) = groups.enter(name, &self.program)?;
        let log = world.path(&format!("{}.log", name.replace(' ', "-")));
        let log = fs::File::create(log)?;
        let began = clock::instant();
        let child = command
            .args(&self.arguments)
            .env_remove("RUST_LOG")
            .args(self.for_crowds.iter().filter(|_| crowd))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let mut running = Running {
            meter: Meter::new(group, child.id()),
            child,
            start: Duration::ZERO,
        };
        while tokio::net::TcpStream::connect(self.listen).await.is_err() {
            if let Some(status) = running.child.try_wait()? {
                return Err(
                    format!("{name} ended at once: {status}\n{}", self.said(name, world)).into(),
                );
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{name} does not listen\n{}", self.said(name, world)).into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        running.start = began.elapsed();
        // What a program still does at its start is not part of what is measured.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(running)
    }

    fn said(&self, name: &str, world: &World) -> String {
        let log = world.path(&format!("{}.log", name.replace(' ', "-")));
        fs::read_to_string(log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process may have ended by itself, which the measurement would have shown.
        self.meter.end();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is, also where only root's PATH has it.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(program))
        .find(|file| file.is_file())
}

/// The first line that a program says of its version.
fn version(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return "unknown".into();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines()
        .find(|line| line.contains(|c: char| c.is_ascii_digit()))
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}
