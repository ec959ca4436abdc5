//! Listens, lets sessions in, reloads on SIGHUP and when files were renewed, hands over on SIGUSR2, drains on SIGTERM.

mod anchoring;
mod arrivals;
mod ending;
pub(crate) mod limits;
pub(crate) mod relay_probe;
mod renewal;
pub(crate) mod status;
mod succession;
mod workers;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

pub use self::{
    anchoring::AnchorOptions,
    succession::{Predecessor, take_sockets},
};
use self::{
    limits::Limits,
    status::{ServedState, StatusListener},
    succession::{Estate, SuccessionFault},
    workers::Workers,
};
use crate::{
    VERSION,
    audit::{self, Record, ReloadedFileField},
    clock,
    exit::Exit,
    lookup::{Lookup, hosts_file},
    metrics,
    net::{self, Intercept},
    session::{
        drive::Stop,
        records,
        setup::{CommonSetup, InboundSetup, OutboundSetup, Upstream},
    },
    tls::CRYPTO_MODULE,
};

/// What systemd shows as the state of the service while all is well.
const SERVING: &str = "serving";
/// How often the counts of unwritten events are written.
const REPORT: Duration = Duration::from_secs(60);
/// This proxy's own certificates that end within this many days are warned about.
pub(crate) const EXPIRY_WARNING: u32 = 14;

/// Why nothing listens at `address`. An address that is in use, an address or interface that is not there yet, and want of memory
/// pass by themselves; a missing right and an address that cannot be one do not.
pub(crate) fn no_listener(address: SocketAddr, error: &io::Error) -> Exit {
    let words = format!("cannot listen on {address}: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => Exit::Configuration(words),
        _ => Exit::Temporary(words),
    }
}

/// What a process serves. Cloned for each session; the setup in it is shared.
#[derive(Clone)]
pub enum Direction {
    /// From a legacy server inside to the world.
    Outbound(Arc<OutboundSetup>),
    /// From the world to a legacy server inside.
    Inbound(Arc<InboundSetup>),
}

impl Direction {
    pub(crate) fn common(&self) -> &CommonSetup {
        match self {
            Self::Outbound(setup) => &setup.common,
            Self::Inbound(setup) => &setup.common,
        }
    }

    pub(crate) fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::Outbound(setup) => setup.upstream.as_ref(),
            Self::Inbound(setup) => setup.upstream.as_ref(),
        }
    }

    pub(crate) fn lookup(&self) -> &Arc<Lookup> {
        match self {
            Self::Outbound(setup) => &setup.lookup,
            Self::Inbound(setup) => &setup.lookup,
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Outbound(_) => "outbound",
            Self::Inbound(_) => "inbound",
        }
    }
}

/// Why files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A person asked (SIGHUP): all files are read.
    Asked,
    /// Files have changed that programs write. The policy table stays as it was when a person last asked, because a person may be
    /// half-way through writing it.
    Noticed,
}

/// Reads the files again, and makes a new setup of them and the old one.
pub trait ReadAgain: Send {
    /// All of it or nothing changes. A reload that was asked for and failed is made up for at the next occasion, whatever it is.
    fn read(&mut self, running: &Direction, occasion: Occasion) -> Reloaded;
    /// The files and directories whose change is an [`Occasion::Noticed`].
    fn watched(&self) -> Vec<PathBuf>;
}

/// The result of a reload.
pub struct Reloaded {
    /// The new setup, or why the old one stays: all of it or nothing changes.
    pub outcome: Result<Direction, String>,
    /// The result for each file that was read.
    pub files: Vec<ReloadedFileField>,
    /// Whether anything differs from what is in force, or is wrong that was not wrong the last time.
    pub is_new: bool,
}

/// All that [`run`] needs. Every flag and file was read and checked to make it.
pub struct Plan {
    /// The bound sockets of `--listen` or of systemd.
    pub listeners: Vec<StdListener>,
    /// The bound socket of `--metrics`.
    pub status_listener: Option<StatusListener>,
    /// The process in whose place this one goes on.
    pub predecessor: Option<Predecessor>,
    /// The direction, with its setup.
    pub direction: Direction,
    /// Reads the files again.
    pub reload: Box<dyn ReadAgain>,
    /// Places for sessions.
    pub limits: Limits,
    /// `--drain-timeout`.
    pub drain_timeout: Duration,
    /// `--relay-probe`, inbound.
    pub relay_probe: Option<String>,
    /// Who is asked to vouch for the audit log.
    pub anchors: Option<AnchorOptions>,
}

/// Takes the sockets that systemd or the process before this one passes, and binds each address of `--listen` that is not among
/// them. So a socket unit can be enabled without a change of the flags. The second value is the passed socket of `--metrics`.
///
/// # Errors
/// The address that cannot be listened on, that there is none, or that a socket of systemd is unfit for TPROXY.
pub fn listeners(
    addresses: &[SocketAddr],
    intercept: Option<Intercept>,
) -> Result<(Vec<StdListener>, Option<StdListener>), Exit> {
    let passed = net::inherited().map_err(Exit::Configuration)?;
    let (metrics, mail): (Vec<_>, Vec<_>) = passed
        .into_iter()
        .partition(|(name, _)| name == succession::METRICS);
    let mut found: Vec<StdListener> = mail.into_iter().map(|(_, socket)| socket).collect();
    let passed: Vec<SocketAddr> = found.iter().flat_map(StdListener::local_addr).collect();
    if intercept == Some(Intercept::Tproxy)
        && let Some(socket) = found.iter().find(|socket| !net::is_transparent(socket))
    {
        let address = socket.local_addr().map(|own| own.to_string());
        return Err(Exit::Configuration(format!(
            "systemd's socket {} is not transparent, so that TPROXY does not find it\n\
             hint: Transparent=yes in the [Socket] section of its unit",
            address.unwrap_or_default()
        )));
    }
    for address in addresses.iter().filter(|own| !passed.contains(own)) {
        found
            .push(net::listen(*address, intercept).map_err(|error| no_listener(*address, &error))?);
    }
    if found.is_empty() {
        let words = "nothing to listen on\nhint: give --listen ADDR:PORT, or start it from a systemd socket unit";
        return Err(Exit::Configuration(words.into()));
    }
    let metrics = metrics.into_iter().next();
    Ok((found, metrics.map(|(_, socket)| socket)))
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Why it cannot start, or that the last records are not on disk.
pub async fn run(plan: Plan) -> Result<(), Exit> {
    let Plan {
        listeners,
        status_listener,
        predecessor,
        direction,
        mut reload,
        limits,
        drain_timeout,
        relay_probe,
        anchors,
    } = plan;
    direction.common().dial.never_to(&listeners);
    refuse_ourselves_as_upstream(&direction)?;
    let audit = direction.common().audit.clone();
    let current = Arc::new(RwLock::new(direction));
    let (stopping, stop) = watch::channel(Stop::Not);
    let words = |error: io::Error| Exit::Temporary(format!("cannot start: {error}"));

    let estate = Estate::new(
        &listeners,
        status_listener.as_ref().map(StatusListener::socket),
    )
    .map_err(words)?;
    let mut estate = Some(Arc::new(estate));
    let mut hangup = signal(SignalKind::hangup()).map_err(words)?;
    let mut successor_wanted = signal(SignalKind::user_defined2()).map_err(words)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(words)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(words)?;
    let workers = Workers::start().map_err(words)?;
    let mut taking_in = None;
    if let Some(predecessor) = predecessor {
        let audit = audit.clone();
        let made_room = spawn_blocking(move || predecessor.step_back(audit.as_deref()));
        taking_in = made_room.await.map_err(|error| words(error.into()))??;
    }
    // What another process does in the place of this one, once there is one.
    let mut handed_over: Vec<JoinHandle<()>> = Vec::new();
    if let Some(listener) = status_listener {
        let state = ServedState::new(Arc::clone(&current), limits.clone(), stop.clone());
        handed_over.push(tokio::spawn(async move {
            let Err(error) = status::serve(listener, state).await;
            log::error!("--metrics: {error}");
        }));
    }
    for (number, listener) in listeners.into_iter().enumerate() {
        let (current, limits, stop) = (Arc::clone(&current), limits.clone(), stop.clone());
        let accept = |listener, home| arrivals::accept(listener, current, limits, home, stop);
        handed_over.push(workers.accept(number, listener, accept).map_err(words)?);
    }
    handed_over.extend(background(&current, relay_probe));
    let anchoring = anchors.map(|options| anchoring::start(&now(&current), options));
    let anchoring = anchoring.unwrap_or_default();
    if let Some(audit) = audit.clone() {
        tokio::spawn(ending::give_up_on_a_stuck_disk(audit));
    }

    let (watched, watching) = watch::channel(reload.watched());
    let (tell, mut noticed) = mpsc::channel(1);
    tokio::spawn(renewal::notice(watching, tell));
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(SERVING)]);
    match now(&current) {
        Direction::Outbound(setup) => {
            log::info!("{limits}");
            if let Some(clients) = &setup.clients {
                log::info!("clients: {clients}");
            }
            if let Some(login) = &setup.login {
                log::info!("login: as {}, by {}", login.user(), login.kind());
            }
        }
        Direction::Inbound(setup) => log::info!("{limits}; {}", setup.handshakes),
    }
    log::info!(
        "{}: ready; version {VERSION}, cryptography: {CRYPTO_MODULE}",
        now(&current).word()
    );
    let (tell_outcome, mut outcomes) = mpsc::channel(1);
    let mut writer_died = false;
    let (reason, successor) = loop {
        tokio::select! {
            _ = hangup.recv() => reload_setup(&current, &mut *reload, Occasion::Asked),
            Some(()) = noticed.recv() => reload_setup(&current, &mut *reload, Occasion::Noticed),
            // Without the estate, a hand-over is under way.
            _ = successor_wanted.recv() => if let Some(estate) = estate.take() {
                log::info!("handing over: another process is started");
                let (audit, tell) = (audit.clone(), tell_outcome.clone());
                spawn_blocking(move || {
                    let outcome = estate.hand_over(audit.as_deref());
                    let _ = tell.blocking_send((outcome, estate)); // this process may be about to end
                });
            },
            Some((outcome, kept)) = outcomes.recv() => match outcome {
                Ok(pid) => break (format!("SIGUSR2: process {pid} goes on"), Some(pid)),
                Err(SuccessionFault::Stays(words)) => {
                    log::error!("not handed over, this process goes on: {words}");
                    estate = Some(kept);
                }
                Err(SuccessionFault::MustEnd(words)) => {
                    log::error!("the audit log was handed over, and nobody goes on with it: {words}");
                    break (String::from("SIGUSR2: failed"), None);
                }
            },
            () = ending::no_writer(audit.as_deref()), if estate.is_some() => {
                log::error!("the thread that writes the audit log has ended by a fault of this program, so this process ends: start it again");
                writer_died = true;
                break (String::from("the audit log's writer ended"), None);
            }
            _ = terminate.recv() => break (String::from("SIGTERM"), None),
            _ = interrupt.recv() => break (String::from("SIGINT"), None),
        }
        watched.send_replace(reload.watched());
    };
    drop(estate);
    anchoring.iter().for_each(JoinHandle::abort);
    let signals = (&mut terminate, &mut interrupt);
    if let Some(pid) = successor {
        handed_over.iter().for_each(JoinHandle::abort);
        // Whoever is being let in just now gets a session: settling takes all free places.
        for task in handed_over {
            let _ = task.await;
        }
        log::info!("process {pid} goes on; sessions that are open end here");
        ending::settle(&limits, drain_timeout, signals).await;
    } else {
        tell_systemd(&[NotifyState::Stopping]);
    }
    let signals = (&mut terminate, &mut interrupt);
    ending::drain(&limits, drain_timeout, audit.as_deref(), &stopping, signals).await;
    ending::await_predecessor(taking_in, drain_timeout).await;
    let direction = now(&current);
    let common = direction.common();
    write_counts(&direction);
    if let Some(audit) = audit {
        let (sessions, messages) = (
            common.metrics.total(metrics::SESSIONS),
            common.metrics.get(metrics::MESSAGES, "accepted"),
        );
        let is_recorded = records::stopped(audit, &reason, sessions, messages).await;
        if writer_died {
            return Err(Exit::Temporary(
                "nothing wrote the audit log any more; no message was acknowledged since".into(),
            ));
        }
        if !is_recorded {
            return Err(Exit::RecordsLost(
                "the last records are not in the audit log: its disk does not take them".into(),
            ));
        }
    }
    Ok(())
}

/// `--upstream` must not lead back to this process. A name is looked up in `/etc/hosts` only: its DNS addresses are checked when it is
/// connected to, because an answer from the network must not keep the process from starting.
fn refuse_ourselves_as_upstream(direction: &Direction) -> Result<(), Exit> {
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
            return Err(Exit::Configuration(format!(
                "--upstream {}:{} is this proxy itself ({address}, --listen): mail would go in circles\n\
                 hint: name the mail server that is to get it",
                upstream.host, upstream.port
            )));
        }
    }
    Ok(())
}

/// Writes one line and one record with the counts of events that were too many to write singly.
fn write_counts(direction: &Direction) {
    let common = direction.common();
    let mut counts = common.write_budget.report();
    if let Direction::Outbound(setup) = direction {
        counts.extend(setup.strangers.report());
    }
    if counts.is_empty() {
        return;
    }
    let total: u64 = counts.iter().map(|count| count.count).sum();
    let most = counts.iter().take(3).map(|count| {
        let prefix = count
            .prefix
            .map_or_else(|| String::from("others"), |prefix| prefix.to_string());
        format!("{} {} of {prefix}", count.count, count.event.word())
    });
    log::warn!(
        "not logged and not recorded singly: {total}, most of them {}",
        most.collect::<Vec<_>>().join(", ")
    );
    if let Some(audit) = &common.audit {
        let counts = counts.iter().map(|count| audit::CountField {
            prefix: count.prefix.map(|prefix| prefix.to_string()),
            kind: count.event.word().to_owned(),
            count: count.count,
            first: audit::timestamp(count.first),
            last: audit::timestamp(count.last),
        });
        audit.append(&Record::NotRecorded(audit::NotRecordedRecord {
            counts: counts.collect(),
        }));
    }
}

/// The setup that new sessions get. The lock is held for a clone only.
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

fn reload_setup(current: &RwLock<Direction>, reload: &mut dyn ReadAgain, occasion: Occasion) {
    if occasion == Occasion::Asked {
        match NotifyState::monotonic_usec_now() {
            Ok(moment) => tell_systemd(&[NotifyState::Reloading, moment]),
            Err(error) => log::warn!("no monotonic time for systemd: {error}"),
        }
    }
    let old = now(current);
    let Reloaded {
        outcome,
        files,
        is_new,
    } = reload.read(&old, occasion);
    let metrics = &old.common().metrics;
    metrics.files_read(outcome.is_ok(), clock::wall());
    let is_silent = occasion == Occasion::Noticed && !is_new;
    let status = match outcome {
        Err(_) if is_silent => return,
        Ok(_) if is_silent => String::from(SERVING),
        Ok(new) => {
            records::reloaded(new.common(), files);
            records::policy_changed(old.common(), new.common());
            *current
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = new;
            let why = match occasion {
                Occasion::Asked => "reloaded",
                Occasion::Noticed => "files have changed: reloaded",
            };
            log::info!("{why}; sessions that are open keep what they began with");
            String::from(SERVING)
        }
        Err(words) => {
            let why = match occasion {
                Occasion::Asked => "not reloaded",
                Occasion::Noticed => "files have changed: not reloaded",
            };
            log::error!("{why}, the old configuration stays until a file changes again: {words}");
            records::reloaded(old.common(), files);
            // In one line: the next one would be another message to systemd.
            let words = words.replace('\n', "; ");
            format!("serving, but {why}, the old configuration stays: {words}")
        }
    };
    // An answer to SIGHUP must be there in any case; READY=1 without RELOADING=1 before it changes nothing.
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Starts what goes on beside the sessions. Returns the task that speaks for this process.
fn background(
    current: &Arc<RwLock<Direction>>,
    relay_probe: Option<String>,
) -> Option<JoinHandle<()>> {
    let watchdog = sd_notify::watchdog_enabled().map(|period| {
        tokio::spawn(async move {
            loop {
                tell_systemd(&[NotifyState::Watchdog]);
                sleep(period / 2).await;
            }
        })
    });
    let counting = Arc::clone(current);
    tokio::spawn(async move {
        loop {
            sleep(REPORT).await;
            write_counts(&now(&counting));
        }
    });
    match now(current) {
        Direction::Outbound(setup) => {
            let lookup = Arc::clone(&setup.lookup);
            tokio::spawn(lookup.refresh_daily());
        }
        Direction::Inbound(setup) => {
            tokio::spawn(warn_of_expiry(Arc::clone(current)));
            if let (Some(domain), Some(_)) = (relay_probe, &setup.upstream) {
                tokio::spawn(relay_probe::hourly(setup, domain));
            }
        }
    }
    watchdog
}

/// Warns once a day of certificates that end soon, so that nobody has to restart the process to learn of them.
async fn warn_of_expiry(current: Arc<RwLock<Direction>>) {
    loop {
        sleep(Duration::from_secs(24 * 3600)).await;
        if let Direction::Inbound(setup) = now(&current)
            && let Some(tls) = &setup.tls
        {
            for warning in tls.expires_within(EXPIRY_WARNING, clock::wall()) {
                log::warn!("{warning}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_may_come_is_waited_for_and_a_right_that_is_missing_is_not() {
        let exit = |number| {
            let address = "192.0.2.1:25".parse().expect("an address");
            no_listener(address, &io::Error::from_raw_os_error(number)).code()
        };
        // EADDRINUSE, EADDRNOTAVAIL, ENODEV, ENOMEM, EMFILE; then EACCES, EPERM, EINVAL.
        assert_eq!([98, 99, 19, 12, 24].map(exit), [75; 5]);
        assert_eq!([13, 1, 22].map(exit), [78; 3]);
    }
}
