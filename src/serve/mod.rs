//! Listens, lets sessions in, reloads on SIGHUP, drains on SIGTERM.

mod arrivals;
mod ending;
pub mod limits;
pub mod metrics_page;
pub mod relay_probe;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::{Arc, RwLock},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use self::limits::Limits;
use crate::{
    audit::{self, Record, ReloadedFileField},
    clock,
    lookup::hosts_file,
    metrics,
    net::{self, Intercept},
    session::{
        drive::Stop,
        records,
        setup::{CommonSetup, InboundSetup, OutboundSetup, Upstream},
    },
};

/// Exit code: the configuration is wrong, and starting again does not help.
pub const EX_CONFIG: u8 = 78;
/// Exit code: something that may come right by itself, so that whoever started the process starts it again.
pub const EX_TEMPFAIL: u8 = 75;
/// Exit code: the process ended and its last records are not on disk.
pub const EX_IOERR: u8 = 74;

/// How often what was not written singly is told.
const REPORT: Duration = Duration::from_secs(60);
/// Certificates of ours that end sooner are warned about, in days.
pub const EXPIRY_WARNING: u32 = 14;
/// Why the process does not serve, or did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeError {
    /// The exit code: one of [`EX_CONFIG`], [`EX_TEMPFAIL`] and [`EX_IOERR`].
    pub code: u8,
    /// In words, for the administrator.
    pub words: String,
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    /// The configuration is wrong.
    #[must_use]
    pub fn configuration(words: impl Into<String>) -> Self {
        Self {
            code: EX_CONFIG,
            words: words.into(),
        }
    }

    /// It may come right by itself.
    #[must_use]
    pub fn temporary(words: impl Into<String>) -> Self {
        Self {
            code: EX_TEMPFAIL,
            words: words.into(),
        }
    }

    /// No listening at this address: it may be free, or there, a moment later.
    #[must_use]
    pub fn no_listener(address: SocketAddr, error: &io::Error) -> Self {
        let words = format!("cannot listen on {address}: {error}");
        match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => Self::temporary(words),
            _ => Self::configuration(words),
        }
    }
}

/// What a process serves. Cloned for each session; the sites are shared.
#[derive(Clone)]
pub enum Direction {
    /// Legacy server to world.
    Outbound(Arc<OutboundSetup>),
    /// World to legacy server.
    Inbound(Arc<InboundSetup>),
}

impl Direction {
    fn common(&self) -> &CommonSetup {
        match self {
            Self::Outbound(site) => &site.common,
            Self::Inbound(site) => &site.common,
        }
    }

    fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::Outbound(site) => site.upstream.as_ref(),
            Self::Inbound(site) => site.upstream.as_ref(),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Outbound(_) => "outbound",
            Self::Inbound(_) => "inbound",
        }
    }
}

/// Reads the files again and makes a new site of them and the old one.
pub type Reload = Box<dyn Fn(&Direction) -> Reloaded + Send>;

/// What came of a reload.
pub struct Reloaded {
    /// The new site, or why the old one stays; all or nothing.
    pub outcome: Result<Direction, String>,
    /// What came of each file.
    pub files: Vec<ReloadedFileField>,
}

/// All that running takes; making it has read and checked every flag and file.
pub struct Plan {
    /// Bound sockets.
    pub listeners: Vec<StdListener>,
    /// `--metrics`, bound.
    pub metrics_listener: Option<StdListener>,
    /// What is served.
    pub direction: Direction,
    /// Reads the configuration again, for SIGHUP. An error keeps what is there.
    pub reload: Reload,
    /// Places for sessions.
    pub limits: Limits,
    /// `--drain-timeout`.
    pub drain_timeout: Duration,
    /// `--relay-probe`, inbound.
    pub relay_probe: Option<String>,
}

/// Binds `--listen`, or takes the sockets that systemd passes.
///
/// # Errors
/// In words, with the address and what to do.
pub fn listeners(
    addresses: &[SocketAddr],
    intercept: Option<Intercept>,
) -> Result<Vec<StdListener>, ServeError> {
    let mut found = net::inherited().map_err(ServeError::configuration)?;
    for address in addresses {
        found.push(
            net::listen(*address, intercept)
                .map_err(|error| ServeError::no_listener(*address, &error))?,
        );
    }
    if found.is_empty() {
        let words = "nothing to listen on\nhint: give --listen ADDR:PORT, or start it from a systemd socket unit";
        return Err(ServeError::configuration(words));
    }
    Ok(found)
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// What kept it from starting, or that the last records are not on disk.
pub async fn run(plan: Plan) -> Result<(), ServeError> {
    let Plan {
        listeners,
        metrics_listener,
        direction,
        reload,
        limits,
        drain_timeout,
        relay_probe,
    } = plan;
    direction.common().dial.never_to(&listeners);
    not_itself(&direction)?;
    let audit = direction.common().audit.clone();
    let current = Arc::new(RwLock::new(direction));
    let (stopping, stop) = watch::channel(Stop::Not);
    let words = |error: io::Error| ServeError::temporary(format!("cannot start: {error}"));

    if let Some(listener) = metrics_listener {
        let metrics = Arc::clone(&now(&current).common().metrics);
        tokio::spawn(async move { metrics_page::serve(listener, metrics).await });
    }
    for listener in listeners {
        let listener = net::into_tokio(listener).map_err(words)?;
        tokio::spawn(arrivals::accept(
            listener,
            Arc::clone(&current),
            limits.clone(),
            stop.clone(),
        ));
    }
    background(&current, relay_probe);
    if let Some(audit) = audit.clone() {
        tokio::spawn(ending::give_up_on_a_stuck_disk(audit));
    }

    let mut hangup = signal(SignalKind::hangup()).map_err(words)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(words)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(words)?;
    tell_systemd(&[NotifyState::Ready]);
    log::info!("{limits}");
    log::info!("{}: ready", now(&current).word());
    let reason = loop {
        tokio::select! {
            _ = hangup.recv() => take_new(&current, &reload),
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        }
    };
    tell_systemd(&[NotifyState::Stopping]);
    let signals = (&mut terminate, &mut interrupt);
    ending::drain(&limits, drain_timeout, &audit, &stopping, signals).await;
    let direction = now(&current);
    let common = direction.common();
    tell_what_was_not_written(common);
    if let Some(audit) = audit {
        let (sessions, messages) = (
            common.metrics.total(metrics::SESSIONS),
            common.metrics.get(metrics::MESSAGES, "accepted"),
        );
        if !records::stopped(audit, reason, sessions, messages).await {
            return Err(ServeError {
                code: EX_IOERR,
                words: "the last records are not in the audit log: its disk does not take them"
                    .into(),
            });
        }
    }
    Ok(())
}

/// `--upstream` must lead somewhere else. What a name's DNS says is looked at when it is connected to: an answer from the
/// network must not keep the process from starting.
fn not_itself(direction: &Direction) -> Result<(), ServeError> {
    let Some(upstream) = direction.upstream() else {
        return Ok(());
    };
    let addresses: Vec<IpAddr> = match upstream.ip() {
        Some(ip) => vec![ip],
        None => hosts_file::addresses(Path::new("/etc/hosts"), &upstream.host),
    };
    let dial = &direction.common().dial;
    for ip in addresses {
        let address = SocketAddr::new(ip, upstream.port);
        if dial.is_ourselves(address) {
            return Err(ServeError::configuration(format!(
                "--upstream {}:{} is this proxy itself ({address}, --listen): mail would go in circles\n\
                 hint: name the mail server that is to get it",
                upstream.host, upstream.port
            )));
        }
    }
    Ok(())
}

/// One line and one record for all that strangers did too often to be written singly.
fn tell_what_was_not_written(common: &CommonSetup) {
    let counts = common.write_budget.report();
    if counts.is_empty() {
        return;
    }
    let total: u64 = counts.iter().map(|count| count.count).sum();
    let most = counts.iter().take(3).map(|count| {
        let prefix = count
            .prefix
            .map_or_else(|| String::from("others"), |prefix| prefix.to_string());
        format!("{} {} of {prefix}", count.count, count.kind.word())
    });
    log::warn!(
        "not logged and not recorded singly: {total}, most of them {}",
        most.collect::<Vec<_>>().join(", ")
    );
    if let Some(audit) = &common.audit {
        let counts = counts.iter().map(|count| audit::CountField {
            prefix: count.prefix.map(|prefix| prefix.to_string()),
            kind: count.kind.word().to_owned(),
            count: count.count,
            first: audit::timestamp(count.first),
            last: audit::timestamp(count.last),
        });
        audit.append(&Record::NotRecorded(audit::NotRecordedRecord {
            counts: counts.collect(),
        }));
    }
}

/// The site that new sessions get. The lock is held for a clone only and never across a panic.
fn now(current: &RwLock<Direction>) -> Direction {
    current
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone()
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("systemd does not listen: {error}");
    }
}

fn take_new(current: &RwLock<Direction>, reload: &Reload) {
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => tell_systemd(&[NotifyState::Reloading, moment]),
        Err(error) => log::warn!("no monotonic time for systemd: {error}"),
    }
    let old = now(current);
    let Reloaded { outcome, files } = reload(&old);
    match outcome {
        Ok(new) => {
            records::reloaded(new.common(), files);
            records::policy_changed(old.common(), new.common());
            *current
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = new;
            log::info!("reloaded; sessions that are open keep what they began with");
        }
        Err(words) => {
            log::error!("not reloaded, the old configuration stays: {words}");
            records::reloaded(old.common(), files);
        }
    }
    tell_systemd(&[NotifyState::Ready]);
}

fn background(current: &Arc<RwLock<Direction>>, relay_probe: Option<String>) {
    if let Some(period) = sd_notify::watchdog_enabled() {
        tokio::spawn(async move {
            loop {
                tell_systemd(&[NotifyState::Watchdog]);
                sleep(period / 2).await;
            }
        });
    }
    let common = now(current).common().clone();
    tokio::spawn(async move {
        loop {
            sleep(REPORT).await;
            tell_what_was_not_written(&common);
        }
    });
    match now(current) {
        Direction::Outbound(site) => {
            let lookup = Arc::clone(&site.lookup);
            tokio::spawn(lookup.refresh_daily());
        }
        Direction::Inbound(site) => {
            tokio::spawn(warn_of_expiry(Arc::clone(current)));
            if let (Some(domain), Some(_)) = (relay_probe, &site.upstream) {
                tokio::spawn(relay_probe::hourly(site, domain));
            }
        }
    }
}

/// Once a day, so that nobody has to restart to hear of it.
async fn warn_of_expiry(current: Arc<RwLock<Direction>>) {
    loop {
        sleep(Duration::from_secs(24 * 3600)).await;
        if let Direction::Inbound(site) = now(&current)
            && let Some(tls) = &site.tls
        {
            for warning in tls.expires_within(EXPIRY_WARNING, clock::wall()) {
                log::warn!("{warning}");
            }
        }
    }
}
