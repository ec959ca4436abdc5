//! `cargo bench --bench relay`: what the proxy costs, beside a direct STARTTLS session and a relay that only copies.
//!
//! Sender and sink run in this process, and the relay between them runs in its own process, all on loopback. Each round takes
//! every variant in turn, and the table has medians over the rounds, so that what else the machine does falls on all alike:
//! compare lines of one run, not of two. CPU is user and system time of the process between. Nothing is asserted about time.
//! Run by `cargo test --benches` it makes one short round, to see that it works.

#[path = "../../examples/demo/certs.rs"]
mod certs;
#[path = "../../examples/demo/dns.rs"]
mod dns;
mod peers;

use certs::Authority;
use peers::Sender;
use starttls_proxy::clock;
use std::{
    error::Error,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Number of sessions at the same time.
const SENDERS: usize = 16;
/// Octets of the message of a short session.
const SHORT: usize = 4 * 1024;

/// The amount of work in one round.
struct Load {
    rounds: usize,
    sessions: usize,
    /// Octets of the one message of the bulk session.
    bulk: usize,
}

/// One path from sender to sink.
struct Variant {
    name: &'static str,
    between: Option<Between>,
    to: SocketAddr,
    sender: Sender,
    results: Vec<Measured>,
}

/// The process between sender and sink.
struct Between(Child);

#[derive(Clone, Copy, Default)]
struct Measured {
    sessions_per_second: f64,
    cpu_per_session: Duration,
    bulk_per_second: f64,
    cpu_per_gigabyte: Duration,
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, listen, target] = arguments.as_slice()
        && word == "copy"
    {
        return peers::copy(listen.parse()?, target.parse()?).await;
    }
    let load = if arguments.iter().any(|argument| argument == "--bench") {
        Load {
            rounds: 9,
            sessions: 400,
            bulk: 128 << 20,
        }
    } else {
        Load {
            rounds: 1,
            sessions: 16,
            bulk: 1 << 20,
        }
    };
    let folder = std::env::temp_dir().join(format!("starttls-proxy-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = run(&load, &folder).await;
    fs::remove_dir_all(&folder)?;
    outcome
}

async fn run(load: &Load, folder: &Path) -> Outcome {
    let mut variants = variants(folder).await?;
    for _ in 0..load.rounds {
        for variant in &mut variants {
            let measured = variant
                .measure(load)
                .await
                .map_err(|error| format!("{}: {error}", variant.name))?;
            variant.results.push(measured);
        }
    }
    print(load, &variants);
    Ok(())
}

async fn variants(folder: &Path) -> Outcome<Vec<Variant>> {
    let path = |name: &str| folder.join(name).display().to_string();
    let authority = Authority::new()?;
    fs::write(path("ca.pem"), authority.pem())?;
    let identity = authority.issue("mx.inside.example")?;
    fs::write(path("mx.pem"), identity.cert)?;
    fs::write(path("mx.key"), identity.key)?;
    let resolver = dns::serve().await?.to_string();
    let tls_sink = peers::sink(Some(authority.acceptor("mx.outside.example")?)).await?;
    let plain_sink = peers::sink(None).await?;
    let upstream = format!("mx.outside.example:{}", tls_sink.port());
    let plain = Sender { tls: None };
    let with_tls = |name| -> Outcome<Sender> {
        Ok(Sender {
            tls: Some((authority.connector()?, name)),
        })
    };

    let outbound = [
        "outbound",
        "--upstream",
        &upstream,
        "--ca-file",
        &path("ca.pem"),
        "--resolver",
        &resolver,
        "--no-dane",
    ]
    .map(String::from);
    let inbound = [
        "inbound",
        "--upstream",
        &plain_sink.to_string(),
        "--hide-client-address",
        "--relay-probe",
        "off",
        "--cert",
        &path("mx.pem"),
        "--key",
        &path("mx.key"),
    ]
    .map(String::from);
    let audited =
        |flags: &[String], file: &str| [flags, &["--audit-log".into(), path(file)]].concat();

    Ok(vec![
        Variant::new(
            "direct STARTTLS",
            None,
            tls_sink,
            with_tls("mx.outside.example")?,
        ),
        Variant::copy("copy, in the clear", plain_sink, plain.clone()).await?,
        Variant::copy("copy, STARTTLS", tls_sink, with_tls("mx.outside.example")?).await?,
        Variant::proxy("outbound", &outbound, plain.clone()).await?,
        Variant::proxy(
            "outbound, audit log",
            &audited(&outbound, "outbound.jsonl"),
            plain,
        )
        .await?,
        Variant::proxy("inbound", &inbound, with_tls("mx.inside.example")?).await?,
        Variant::proxy(
            "inbound, audit log",
            &audited(&inbound, "inbound.jsonl"),
            with_tls("mx.inside.example")?,
        )
        .await?,
    ])
}

impl Variant {
    fn new(name: &'static str, between: Option<Between>, to: SocketAddr, sender: Sender) -> Self {
        Self {
            name,
            between,
            to,
            sender,
            results: Vec::new(),
        }
    }

    async fn copy(name: &'static str, target: SocketAddr, sender: Sender) -> Outcome<Self> {
        let listen = peers::free_address().await?;
        let program = std::env::current_exe()?;
        let between = Between::start(
            Command::new(program).args(["copy", &listen.to_string(), &target.to_string()]),
            listen,
        )
        .await?;
        Ok(Self::new(name, Some(between), listen, sender))
    }

    async fn proxy(name: &'static str, flags: &[String], sender: Sender) -> Outcome<Self> {
        let listen = peers::free_address().await?;
        let program = env!("CARGO_BIN_EXE_starttls-proxy");
        let between = Between::start(
            Command::new(program)
                .args(flags)
                .args(["--listen", &listen.to_string()]),
            listen,
        )
        .await?;
        Ok(Self::new(name, Some(between), listen, sender))
    }
}

impl Variant {
    async fn measure(&self, load: &Load) -> Outcome<Measured> {
        let (cpu, began) = (self.cpu()?, clock::instant());
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..SENDERS {
            let (sender, to, sessions) = (self.sender.clone(), self.to, load.sessions / SENDERS);
            senders.spawn(async move {
                for _ in 0..sessions {
                    sender.send(to, SHORT).await?;
                }
                std::io::Result::Ok(())
            });
        }
        while let Some(sent) = senders.join_next().await {
            sent??;
        }
        let sessions = (load.sessions / SENDERS * SENDERS) as u32;
        let (session_time, session_cpu) = (began.elapsed(), self.cpu()? - cpu);

        let (cpu, began) = (self.cpu()?, clock::instant());
        self.sender.send(self.to, load.bulk).await?;
        let (bulk_time, bulk_cpu) = (began.elapsed(), self.cpu()? - cpu);
        Ok(Measured {
            sessions_per_second: f64::from(sessions) / session_time.as_secs_f64(),
            cpu_per_session: session_cpu / sessions,
            bulk_per_second: load.bulk as f64 / 1e6 / bulk_time.as_secs_f64(),
            cpu_per_gigabyte: bulk_cpu.mul_f64(1e9 / load.bulk as f64),
        })
    }

    /// User and system time of the process between sender and sink.
    fn cpu(&self) -> Outcome<Duration> {
        let Some(Between(child)) = &self.between else {
            return Ok(Duration::ZERO);
        };
        // proc(5): the 14th and 15th field, in ticks of 10 ms; the second is in brackets and may have spaces.
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        let fields = stat
            .rsplit_once(')')
            .ok_or("unreadable /proc/PID/stat")?
            .1
            .split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>())
            .sum::<Result<_, _>>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    fn median(&self, value: impl Fn(&Measured) -> f64) -> f64 {
        let mut values: Vec<f64> = self.results.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

impl Between {
    async fn start(command: &mut Command, listen: SocketAddr) -> Outcome<Self> {
        let mut between = Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::inherit())
                .env("RUST_LOG", "error")
                .spawn()?,
        );
        while tokio::net::TcpStream::connect(listen).await.is_err() {
            if let Some(status) = between.0.try_wait()? {
                return Err(format!("{command:?} ended at once: {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(between)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        // The process may have ended by itself, which the measurement would have shown.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn print(load: &Load, variants: &[Variant]) {
    println!(
        "{} rounds: {} sessions of one {SHORT}-octet message, {SENDERS} at once; then one message of {} MiB\n",
        load.rounds,
        load.sessions,
        load.bulk >> 20
    );
    println!(
        "{:20} {:>10} {:>9} {:>14} {:>9} {:>9} {:>9}",
        "", "sessions/s", "of direct", "CPU ms/session", "MB/s", "of direct", "CPU s/GB"
    );
    let direct = &variants[0];
    for variant in variants {
        let ratio = |value: fn(&Measured) -> f64| variant.median(value) / direct.median(value);
        let cpu = |value: f64| {
            if variant.between.is_some() {
                format!("{value:.2}")
            } else {
                "-".into()
            }
        };
        println!(
            "{:20} {:>10.0} {:>9.2} {:>14} {:>9.0} {:>9.2} {:>9}",
            variant.name,
            variant.median(|m| m.sessions_per_second),
            ratio(|m| m.sessions_per_second),
            cpu(variant.median(|m| m.cpu_per_session.as_secs_f64() * 1e3)),
            variant.median(|m| m.bulk_per_second),
            ratio(|m| m.bulk_per_second),
            cpu(variant.median(|m| m.cpu_per_gigabyte.as_secs_f64())),
        );
    }
}
