//! The rows of the table: what is done with each peer, and what is then measured.

pub mod burst;
pub mod idle;
pub mod messages;
pub mod sessions;
pub mod table;

use crate::{
    Outcome,
    measure::Groups,
    options::Options,
    peers::{Kind, Running, Variant},
    sender::Mail,
    world::World,
};
use starttls_proxy::clock;
use std::time::Duration;

/// Octets of an ordinary message.
pub const SHORT: usize = 4 * 1024;
/// How long a queue may take to deliver what it has accepted, at most.
const DELIVERY: Duration = Duration::from_secs(60);

/// The first session of a peer takes no longer.
const START: Duration = Duration::from_secs(10);

/// What one round of a row has measured of one variant: by the name of the figure.
pub type Values = Vec<(String, f64)>;

/// What all measurements need.
pub struct Bench {
    pub options: Options,
    pub world: World,
    pub groups: Groups,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    Cold,
    Cold16,
    Session,
    Message,
    Messages,
    Bulk,
    Idle,
    Standing,
    Crowd,
    Recipients,
    Table,
    Burst,
}

pub const ROWS: [(Row, &str, &str); 12] = [
    (
        Row::Cold,
        "cold",
        "sessions with one 4 KiB message, 200 at once",
    ),
    (
        Row::Cold16,
        "cold-16",
        "sessions with one 4 KiB message, 16 at once",
    ),
    (
        Row::Session,
        "session",
        "sessions with one 4 KiB message, one after another",
    ),
    (
        Row::Message,
        "message",
        "4 KiB messages in one long session",
    ),
    (
        Row::Messages,
        "messages",
        "4 KiB messages in 16 long sessions",
    ),
    (Row::Bulk, "bulk", "a message of 50 MiB"),
    (
        Row::Idle,
        "idle",
        "2,000 sessions that have sent a message and wait",
    ),
    (
        Row::Standing,
        "standing",
        "a new session while 10,000 others wait",
    ),
    (
        Row::Crowd,
        "crowd",
        "sessions that all begin at the same time",
    ),
    (Row::Recipients, "recipients", "recipients of one message"),
    (Row::Table, "table", "a policy table of 100,000 lines"),
    (
        Row::Burst,
        "burst",
        "1,000 sessions at once from 50 addresses, default limits",
    ),
];

impl Row {
    pub fn takes(self, variant: &Variant) -> bool {
        use Kind::{Audited, Direct, Gate, HaProxy, HandFed, Nginx, Ours, Postfix, Stunnel};
        match self {
            Self::Cold
            | Self::Cold16
            | Self::Session
            | Self::Message
            | Self::Messages
            | Self::Bulk => true,
            Self::Idle => !matches!(variant.kind, Direct | Postfix),
            Self::Standing => matches!(variant.kind, Ours | HandFed | Stunnel | Nginx),
            Self::Crowd => !matches!(variant.kind, Gate | Audited | Postfix),
            Self::Recipients => !matches!(variant.kind, Direct | HaProxy),
            Self::Table => variant.kind == Gate,
            Self::Burst => {
                matches!(variant.kind, Ours | HandFed | Stunnel | Nginx) && !variant.is_outbound()
            }
        }
    }

    /// Whether it starts the peers by itself, each alone.
    pub fn starts_peers(self) -> bool {
        matches!(
            self,
            Self::Idle | Self::Standing | Self::Table | Self::Burst
        )
    }

    /// Whether sender, peer and sink are on one core. One session needs no more, and whether a scheduler spreads it over two is
    /// chance, which makes a message take up to four times as long. Who waits for a disk gives the core away, and may have another.
    pub fn is_on_one_core(self, variant: &Variant) -> bool {
        matches!(self, Self::Session | Self::Message | Self::Recipients)
            && variant.kind != Kind::Audited
    }

    /// What takes long, or what noise does not touch, is done less often. How a scheduler spreads sixteen sessions over the cores is
    /// chance, and makes a message cost up to a third more, so that is done more often.
    pub fn rounds(self, rounds: usize) -> usize {
        match self {
            Self::Messages => rounds * 3,
            Self::Standing | Self::Table => 1,
            Self::Idle => rounds.min(2),
            _ => rounds,
        }
    }

    pub async fn measure(
        self,
        bench: &Bench,
        variant: &Variant,
        running: Option<&Running>,
        round: usize,
    ) -> Outcome<Values> {
        match self {
            Self::Cold => sessions::cold(bench, variant, running, 200).await,
            Self::Cold16 => sessions::cold(bench, variant, running, 16).await,
            Self::Session => sessions::alone(bench, variant, running).await,
            Self::Message => messages::alone(bench, variant, running).await,
            Self::Messages => messages::together(bench, variant, running).await,
            Self::Bulk => messages::bulk(bench, variant, running).await,
            Self::Idle => idle::memory(bench, variant).await,
            Self::Standing => idle::standing(bench, variant).await,
            Self::Crowd => sessions::crowds(bench, variant, round).await,
            Self::Recipients => messages::recipients(bench, variant, running).await,
            Self::Table => table::long(bench, variant).await,
            Self::Burst => burst::from_many(bench, variant).await,
        }
    }
}

impl Bench {
    /// Starts a peer, which must be there, for a measurement in which it is alone.
    pub async fn start(&self, variant: &Variant, crowd: bool) -> Outcome<Running> {
        let peer = variant.peer.as_ref().ok_or("nothing to start")?;
        peer.start(&variant.name, crowd, &self.groups, &self.world)
            .await
    }

    /// Starts a peer that lets in any number of sessions. Its first session fills its caches, and shows that it works.
    pub async fn ready(&self, variant: &Variant) -> Outcome<Running> {
        let running = self.start(variant, true).await?;
        let mail = Mail::new(SHORT, 1);
        tokio::time::timeout(START, variant.sender.deliver(&mail))
            .await
            .map_err(|_| "it does not answer")??;
        Ok(running)
    }
}

/// Counts what a peer uses from one moment on.
pub struct Usage<'running> {
    running: Option<&'running Running>,
    before: Duration,
    accepted: u64,
}

impl<'running> Usage<'running> {
    pub fn begin(variant: &Variant, running: Option<&'running Running>) -> Outcome<Self> {
        Ok(Self {
            running,
            before: running.map_or(Ok(Duration::ZERO), |running| running.meter.cpu())?,
            accepted: variant.sink.accepted(),
        })
    }

    /// Waits until the sink has accepted that many messages more; for a peer without a queue they are there already.
    pub async fn delivered(&self, variant: &Variant, messages: u64) -> Outcome {
        let began = clock::instant();
        while variant.sink.accepted() < self.accepted + messages {
            if began.elapsed() > DELIVERY {
                let there = variant.sink.accepted() - self.accepted;
                return Err(format!("{there} of {messages} messages were delivered").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// CPU seconds, with what a peer does behind the end of the last session; `None` without a peer.
    pub async fn cpu(self) -> Outcome<Option<f64>> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let Some(running) = self.running else {
            return Ok(None);
        };
        Ok(Some((running.meter.cpu()? - self.before).as_secs_f64()))
    }
}

/// The value that this part of the values, from 0 to 1, does not exceed.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
