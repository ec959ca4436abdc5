//! Listens, lets sessions in, reloads on SIGHUP, drains on SIGTERM.

pub mod limits;
pub mod metrics_page;
pub mod relay_probe;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, RwLock},
    time::Duration,
};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};

use self::limits::{Limits, Place};
use crate::{
    clock,
    metrics::{self, Metrics},
    net::{self, ClientAddr, Forbidden, IntendedAddr, Intercept, ServerAddr, proxy_header},
    session::{
        drive::Stop,
        inbound::{self, Ends},
        outbound, records,
        site::{Common, Inbound, Outbound},
    },
};

/// A load balancer must have sent its PROXY header by then.
const PROXY_HEADER: Duration = Duration::from_secs(5);
/// Certificates of ours that end sooner are warned about, in days.
pub const EXPIRY_WARNING: u32 = 14;
/// Sessions that are cut off have so long to write down what they know.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// After an accept that failed for want of descriptors or memory, wait so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a process serves. Cloned for each session; the sites are shared.
#[derive(Clone)]
pub enum Direction {
    /// Legacy server to world.
    Outbound(Arc<Outbound>),
    /// World to legacy server.
    Inbound(Arc<Inbound>),
}

impl Direction {
    fn common(&self) -> &Common {
        match self {
            Self::Outbound(site) => &site.common,
            Self::Inbound(site) => &site.common,
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
pub type Reload = Box<dyn Fn(&Direction) -> Result<Direction, String> + Send>;

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
    /// The files that a reload reads, as given.
    pub files: Vec<String>,
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
) -> Result<Vec<StdListener>, String> {
    let mut inherited = ListenFd::from_env();
    let mut found = Vec::new();
    for index in 0..inherited.len() {
        match inherited.take_tcp_listener(index) {
            Ok(Some(listener)) => found.push(listener),
            Ok(None) => {}
            Err(error) => {
                return Err(format!(
                    "socket {index} of systemd is no TCP listener: {error}"
                ));
            }
        }
    }
    for address in addresses {
        found.push(
            net::listen(*address, intercept)
                .map_err(|error| format!("cannot listen on {address}: {error}"))?,
        );
    }
    if found.is_empty() {
        return Err("nothing to listen on\nhint: give --listen ADDR:PORT, or start it from a systemd socket unit".into());
    }
    Ok(found)
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// What kept it from starting.
pub async fn run(plan: Plan) -> Result<(), String> {
    let Plan {
        listeners,
        metrics_listener,
        direction,
        reload,
        files,
        limits,
        drain_timeout,
        relay_probe,
    } = plan;
    let current = Arc::new(RwLock::new(direction));
    let (stopping, stop) = watch::channel(Stop::Not);
    let words = |error: io::Error| format!("cannot start: {error}");

    if let Some(listener) = metrics_listener {
        let metrics = Arc::clone(&now(&current).common().metrics);
        tokio::spawn(async move { metrics_page::serve(listener, metrics).await });
    }
    for listener in listeners {
        let listener = net::into_tokio(listener).map_err(words)?;
        tokio::spawn(accept(
            listener,
            Arc::clone(&current),
            limits.clone(),
            stop.clone(),
        ));
    }
    background(&current, relay_probe);

    let mut hangup = signal(SignalKind::hangup()).map_err(words)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(words)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(words)?;
    tell_systemd(&[NotifyState::Ready]);
    log::info!("{}: ready", now(&current).word());
    let reason = loop {
        tokio::select! {
            _ = hangup.recv() => take_new(&current, &reload, &files),
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        }
    };
    tell_systemd(&[NotifyState::Stopping]);
    log::info!(
        "stopping: sessions may finish their message within {} s",
        drain_timeout.as_secs()
    );
    stopping.send_replace(Stop::Drain);
    let cut_off = tokio::select! {
        () = limits.empty() => None,
        () = sleep(drain_timeout) => Some("sessions were cut off; their messages stay with the senders"),
        _ = terminate.recv() => Some("at once, asked a second time"),
        _ = interrupt.recv() => Some("at once, asked a second time"),
    };
    match cut_off {
        None => log::info!("stopped: every session has ended"),
        Some(how) => {
            stopping.send_replace(Stop::Cut);
            if timeout(LAST_RECORDS, limits.empty()).await.is_err() {
                log::error!("some sessions did not end; what they know is not recorded");
            }
            log::warn!("stopped: {how}");
        }
    }
    let direction = now(&current);
    if let Some(audit) = &direction.common().audit {
        let metrics = &direction.common().metrics;
        let (sessions, messages) = (
            metrics.total(metrics::SESSIONS),
            metrics.get(metrics::MESSAGES, "accepted"),
        );
        records::stopped(Arc::clone(audit), reason, sessions, messages).await;
    }
    Ok(())
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

fn take_new(current: &RwLock<Direction>, reload: &Reload, files: &[String]) {
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => tell_systemd(&[NotifyState::Reloading, moment]),
        Err(error) => log::warn!("no monotonic time for systemd: {error}"),
    }
    let old = now(current);
    match reload(&old) {
        Ok(new) => {
            records::reloaded(new.common(), files, None);
            records::policy_changed(old.common(), new.common());
            *current
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = new;
            log::info!("reloaded; sessions that are open keep what they began with");
        }
        Err(words) => {
            log::error!("not reloaded, the old configuration stays: {words}");
            records::reloaded(old.common(), files, Some(&words));
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

async fn accept(
    listener: TcpListener,
    current: Arc<RwLock<Direction>>,
    limits: Limits,
    mut stop: watch::Receiver<Stop>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop > Stop::Not) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let client = ClientAddr(net::canonical(address));
                let direction = now(&current);
                // A load balancer's own address would count all the world as one client.
                let counted = !listed(&direction, client);
                match admit(&direction, &limits, client, counted) {
                    Ok(place) => {
                        tokio::spawn(session(
                            direction,
                            stream,
                            client,
                            limits.clone(),
                            place,
                            stop.clone(),
                        ));
                    }
                    Err((why, refusal)) => {
                        turn_away(direction.common(), &stream, client, why, &refusal)
                    }
                }
            }
            Err(error) => {
                log::error!("cannot accept: {error}; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn listed(direction: &Direction, client: ClientAddr) -> bool {
    match direction {
        Direction::Outbound(_) => false,
        Direction::Inbound(site) => site
            .accept_proxy
            .iter()
            .any(|prefix| prefix.contains(client.0.ip())),
    }
}

fn admit(
    direction: &Direction,
    limits: &Limits,
    client: ClientAddr,
    counted: bool,
) -> Result<Place, (&'static str, String)> {
    let place = if counted {
        limits.enter(client.0.ip())
    } else {
        limits.enter_uncounted()
    };
    let place = place.map_err(|full| {
        (
            full.word(),
            String::from("421 4.3.2 too many sessions, try again later\r\n"),
        )
    })?;
    if direction
        .common()
        .audit
        .as_ref()
        .is_some_and(|audit| !audit.healthy())
    {
        return Err((
            "audit-log",
            "421 4.3.0 the audit log cannot be written, no mail can pass\r\n".into(),
        ));
    }
    Ok(place)
}

/// One reply, if it fits into the socket right now, and no session.
fn turn_away(
    common: &Common,
    stream: &TcpStream,
    client: ClientAddr,
    why: &'static str,
    refusal: &str,
) {
    common.metrics.count(metrics::TURNED_AWAY, why);
    log::warn!("turned away client={client} why={why}");
    // Best effort: who does not get the reply sees the close.
    let _ = stream.try_write(refusal.as_bytes());
}

async fn session(
    direction: Direction,
    mut stream: TcpStream,
    client: ClientAddr,
    limits: Limits,
    place: Place,
    stop: watch::Receiver<Stop>,
) {
    let common = direction.common().clone();
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("client={client} went before it was served: {error}");
        return;
    }
    let metrics = Arc::clone(&common.metrics);
    match direction {
        Direction::Outbound(site) => {
            let server = match target(&common, &stream, client, true) {
                Ok(server) => server,
                Err((why, refusal)) => return turn_away(&common, &stream, client, why, &refusal),
            };
            let _open = begin(&metrics, "outbound");
            outbound::run(site, stream, client, server, stop).await;
        }
        Direction::Inbound(site) => {
            let mut ends = match inbound_ends(&common, &mut stream, client) {
                Ok(ends) => ends,
                Err((why, refusal)) => return turn_away(&common, &stream, client, why, &refusal),
            };
            let mut places = vec![place];
            if site
                .accept_proxy
                .iter()
                .any(|prefix| prefix.contains(client.0.ip()))
            {
                match timeout(PROXY_HEADER, read_header(&mut stream)).await {
                    Ok(Ok((origin, first))) => {
                        if let proxy_header::Origin::Addresses(source, destination) = origin {
                            ends.client = ClientAddr(net::canonical(source));
                            ends.intended = IntendedAddr(net::canonical(destination));
                            match limits.enter_client(ends.client.0.ip()) {
                                Ok(place) => places.push(place),
                                Err(full) => {
                                    let refusal =
                                        "421 4.3.2 too many sessions, try again later\r\n";
                                    return turn_away(
                                        &common,
                                        &stream,
                                        ends.client,
                                        full.word(),
                                        refusal,
                                    );
                                }
                            }
                        }
                        ends.first = first;
                    }
                    Ok(Err(error)) => {
                        // Not a word of SMTP to who does not speak the agreed protocol.
                        log::warn!("turned away client={client} why=proxy-header: {error}");
                        return metrics.count(metrics::TURNED_AWAY, "proxy-header");
                    }
                    Err(_) => {
                        log::warn!(
                            "turned away client={client} why=proxy-header: none came within 5 s"
                        );
                        return metrics.count(metrics::TURNED_AWAY, "proxy-header");
                    }
                }
            }
            let _open = begin(&metrics, "inbound");
            inbound::run(site, stream, ends, stop).await;
        }
    }
}

fn begin<'a>(metrics: &'a Metrics, direction: &str) -> metrics::OpenSession<'a> {
    metrics.count(metrics::SESSIONS, direction);
    metrics.session()
}

fn inbound_ends(
    common: &Common,
    stream: &mut TcpStream,
    client: ClientAddr,
) -> Result<Ends, (&'static str, String)> {
    let server = target(common, stream, client, false)?;
    let own = stream.local_addr().map_err(|_| ("gone", String::new()))?;
    let intended = server.map_or(IntendedAddr(net::canonical(own)), |ServerAddr(to)| {
        IntendedAddr(to)
    });
    Ok(Ends {
        client,
        intended,
        server,
        first: Vec::new(),
    })
}

/// Where an intercepted connection is to go on to; `None` with `--upstream`.
fn target(
    common: &Common,
    stream: &TcpStream,
    client: ClientAddr,
    outbound: bool,
) -> Result<Option<ServerAddr>, (&'static str, String)> {
    let refuse = |why, code: &str, words: String| Err((why, format!("{code} {words}\r\n")));
    let Some(intercept) = common.intercept else {
        return Ok(None);
    };
    let Ok(intended) = net::intended(stream, intercept) else {
        return refuse(
            "not-intercepted",
            "421 4.4.6",
            "this connection was not redirected here".into(),
        );
    };
    if common.dial.is_ours(client, intended, stream) {
        return refuse(
            "loop",
            "421 4.4.6",
            "this connection is the proxy's own: loop".into(),
        );
    }
    match net::may_connect(intended, &common.listening, outbound) {
        Ok(server) => Ok(Some(server)),
        Err(Forbidden::Port) => refuse(
            "port",
            "421 4.7.0",
            format!("{intended}: only port 25 is carried on"),
        ),
        Err(Forbidden::Ourselves) => refuse(
            "loop",
            "421 4.4.6",
            format!("{intended} is this proxy itself: loop"),
        ),
        Err(Forbidden::Unroutable) => refuse(
            "address",
            "421 4.7.0",
            format!("{intended} is no mail host's address"),
        ),
    }
}

/// Reads a PROXY header, and what came behind it.
async fn read_header(stream: &mut TcpStream) -> io::Result<(proxy_header::Origin, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        match proxy_header::parse(&bytes) {
            proxy_header::Parsed::Whole(origin, length) => {
                return Ok((origin, bytes.split_off(length)));
            }
            proxy_header::Parsed::Malformed => return Err(io::Error::other("no PROXY header")),
            proxy_header::Parsed::Partial => {}
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
