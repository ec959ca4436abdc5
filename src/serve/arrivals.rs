//! New connections: each gets a session or one reply, and no client's connections keep other clients out.

use std::{
    borrow::Cow,
    fs::File,
    future::poll_fn,
    io,
    sync::{Arc, RwLock},
    task::Poll,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    Direction,
    limits::{Limits, OncePerMinute, SessionPlace},
    now,
    workers::{Home, Share},
};
use crate::{
    clock,
    metrics::{self, Metrics},
    net::{self, ClientAddr, Forbidden, IntendedAddr, ServerAddr, proxy_header},
    session::{Arrival, budget::BudgetedEvent, drive::Stop, inbound, outbound, setup::CommonSetup},
};

/// Longest time until a load balancer has sent its PROXY header.
const PROXY_HEADER: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Clients that are turned away before the sessions of the same thread go on: some 0.2 ms.
const TURNED_AWAY_AT_ONCE: usize = 8;
/// Most octets of a log line in front of its words.
const LINE_HEAD: usize = 32;
/// Reply to a client that finds no place.
const TOO_MANY: &str = "421 4.3.2 too many sessions, try again later\r\n";
/// Why a client without a budget is turned away, in the word of log and counters.
const NO_BUDGET: &str = "budget";
/// Why a client that `--allow-client` does not name is turned away, in the word of log and counters.
const STRANGER: &str = "allow-client";
/// Reply to a client that has used up its budget.
const TOO_OFTEN: &str =
    "421 4.7.0 too many connections without mail from your address, try again later\r\n";

/// Accepts until the process is asked to stop.
pub(super) async fn accept(
    listener: TcpListener,
    current: Arc<RwLock<Direction>>,
    limits: Limits,
    home: Home,
    mut stop: watch::Receiver<Stop>,
) {
    let mut spare = Spare::new();
    let mut faults = OncePerMinute::default();
    let mut turned_away_so_far: usize = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop > Stop::Not) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let client = ClientAddr(net::canonical(address));
                let direction = now(&current);
                match admit(&direction, &limits, client) {
                    Ok(place) => {
                        let (limits, stop) = (limits.clone(), stop.clone());
                        let carried = home.carry(stream, move |stream, share| {
                            session(direction, stream, client, limits, (place, share), stop)
                        });
                        if let Err(error) = carried {
                            log::error!("cannot serve client={client}: {error}");
                        }
                    }
                    Err(turned_away) => {
                        turned_away.carry_out(&direction, &stream);
                        // However fast such clients come, the sessions of this thread go on, and so does whoever comes behind them.
                        turned_away_so_far += 1;
                        if turned_away_so_far.is_multiple_of(TURNED_AWAY_AT_ONCE) {
                            yield_now().await;
                        }
                    }
                }
            }
            Err(error) => {
                let metrics = Arc::clone(&now(&current).common().metrics);
                metrics.count(metrics::TURNED_AWAY, "cannot-accept");
                if let Some(before) = faults.due(clock::instant()) {
                    log::error!(
                        "cannot accept: {error} ({before} more times since this was last said)"
                    );
                }
                let answered = is_out_of_descriptors(&error) && spare.turn_away(&listener).await;
                if !answered {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether this process (EMFILE) or the whole system (ENFILE) has no file descriptors left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// A spare file descriptor. When there is no other, it is given up to answer a client.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Gives the descriptor up for one client, which gets 421. Returns whether a client was there.
    async fn turn_away(&mut self, listener: &TcpListener) -> bool {
        if self.0.take().is_none() {
            *self = Self::new();
            return false;
        }
        let accepted = poll_fn(|context| {
            Poll::Ready(match listener.poll_accept(context) {
                Poll::Ready(accepted) => accepted.ok(),
                Poll::Pending => None,
            })
        });
        let stream = accepted.await.map(|(stream, _)| stream);
        if let Some(stream) = &stream {
            send_at_once(stream, TOO_MANY);
        }
        let answered = stream.is_some();
        drop(stream);
        *self = Self::new();
        answered
    }
}

/// Sends a reply if it fits into the socket right now. The kernel is asked itself, because tokio calls a socket that came from another
/// thread not ready, until it has looked.
fn send_at_once(stream: &TcpStream, reply: &str) {
    // Best effort: a client that does not get the reply sees the close.
    let _ = SockRef::from(stream).send(reply.as_bytes());
}

/// Whether this client is a load balancer listed by `--accept-proxy`.
fn is_balancer(direction: &Direction, client: ClientAddr) -> bool {
    match direction {
        Direction::Outbound(_) => false,
        Direction::Inbound(setup) => {
            let mut listed = setup.accept_proxy.iter();
            listed.any(|prefix| prefix.contains(client.0.ip()))
        }
    }
}

/// Whether this client may not use the smart host.
fn is_stranger(direction: &Direction, client: ClientAddr) -> bool {
    match direction {
        Direction::Outbound(setup) => {
            let clients = setup.clients.as_ref();
            clients.is_some_and(|clients| !clients.contains(client.0.ip()))
        }
        Direction::Inbound(_) => false,
    }
}

/// Why a connection gets no session.
struct TurnedAway {
    client: ClientAddr,
    /// One word for log and counters.
    why: &'static str,
    /// More for the log.
    detail: String,
    /// The reply, one line with its CRLF. Empty: none.
    reply: Cow<'static, str>,
}

impl TurnedAway {
    fn new(client: ClientAddr, why: &'static str, reply: impl Into<Cow<'static, str>>) -> Self {
        Self {
            client,
            why,
            detail: String::new(),
            reply: reply.into(),
        }
    }

    /// Counts it, logs it if the client's budget pays for that, and sends the reply if it fits into the socket right now.
    fn carry_out(&self, direction: &Direction, stream: &TcpStream) {
        let Self {
            client,
            why,
            detail,
            reply,
        } = self;
        let common = direction.common();
        common.metrics.count(metrics::TURNED_AWAY, why);
        // A client without a budget was counted when that was found.
        if *why != NO_BUDGET {
            let line = format!("turned away client={client} why={why}{detail}");
            let budget = match direction {
                Direction::Outbound(setup) if *why == STRANGER => &setup.strangers,
                _ => &common.write_budget,
            };
            let octets = line.len() + LINE_HEAD;
            if budget.may_write(client.0.ip(), BudgetedEvent::TurnedAway, octets) {
                log::warn!("{line}");
            }
        }
        if !reply.is_empty() {
            send_at_once(stream, reply);
        }
    }
}

fn admit(
    direction: &Direction,
    limits: &Limits,
    client: ClientAddr,
) -> Result<SessionPlace, TurnedAway> {
    let common = direction.common();
    if is_stranger(direction, client) {
        // 4yz, so that no mail bounces because somebody forgot a prefix.
        let reply = format!(
            "421 4.7.1 {} may not send mail through this proxy (--allow-client)\r\n",
            client.0.ip()
        );
        return Err(TurnedAway::new(client, STRANGER, reply));
    }
    // A balancer's own address would count all the world as one client.
    let place = if is_balancer(direction, client) {
        limits.enter_uncounted()
    } else if common.write_budget.admit(client.0.ip()) {
        limits.enter(client.0.ip())
    } else {
        return Err(TurnedAway::new(client, NO_BUDGET, TOO_OFTEN));
    };
    let place = place.map_err(|limit| TurnedAway::new(client, limit.word(), TOO_MANY))?;
    if common.audit.as_ref().is_some_and(|audit| !audit.healthy()) {
        let reply = "421 4.3.0 the audit log cannot be written, no mail can pass\r\n";
        return Err(TurnedAway::new(client, "audit-log", reply));
    }
    Ok(place)
}

async fn session(
    direction: Direction,
    mut stream: TcpStream,
    client: ClientAddr,
    limits: Limits,
    place: (SessionPlace, Share),
    stop: watch::Receiver<Stop>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("client={client} went before it was served: {error}");
        return;
    }
    let (arrival, clients_place) = match arrive(&direction, &limits, &mut stream, client).await {
        Ok(arrived) => arrived,
        Err(turned_away) => return turned_away.carry_out(&direction, &stream),
    };
    let metrics = Arc::clone(&direction.common().metrics);
    metrics.count(metrics::SESSIONS, direction.word());
    let places = (place, clients_place);
    match direction {
        Direction::Outbound(setup) => {
            begin(outbound::run(setup, stream, arrival, stop), places, metrics);
        }
        Direction::Inbound(setup) => {
            begin(inbound::run(setup, stream, arrival, stop), places, metrics);
        }
    }
}

/// Begins a session, which holds the places until it ends. It has a task of its own, so that it keeps no room for its arrival.
fn begin(
    session: impl Future<Output = ()> + Send + 'static,
    places: ((SessionPlace, Share), Option<SessionPlace>),
    metrics: Arc<Metrics>,
) {
    tokio::spawn(async move {
        let open = metrics.session();
        session.await;
        drop((open, places));
    });
}

/// Finds out who connected and where the connection is to go. Behind a load balancer the client gets a place of its own.
async fn arrive(
    direction: &Direction,
    limits: &Limits,
    stream: &mut TcpStream,
    client: ClientAddr,
) -> Result<(Arrival, Option<SessionPlace>), TurnedAway> {
    let is_outbound = matches!(direction, Direction::Outbound(_));
    let server = target(direction.common(), stream, client, is_outbound)?;
    let own = stream.local_addr();
    let own = own.map_err(|_| TurnedAway::new(client, "gone", ""))?;
    let mut arrival = Arrival {
        client,
        intended: IntendedAddr(server.map_or(net::canonical(own), |ServerAddr(to)| to)),
        server,
        first: Vec::new(),
    };
    if !is_balancer(direction, client) {
        return Ok((arrival, None));
    }
    // A client that does not speak the agreed protocol gets no reply.
    let no_header = |detail| TurnedAway {
        detail,
        ..TurnedAway::new(client, "proxy-header", "")
    };
    let origin = match timeout(PROXY_HEADER, read_header(stream)).await {
        Ok(Ok((origin, first))) => {
            arrival.first = first;
            origin
        }
        Ok(Err(error)) => return Err(no_header(format!(": {error}"))),
        Err(_) => return Err(no_header(": none came within 5 s".into())),
    };
    let proxy_header::Origin::Addresses(source, destination) = origin else {
        return Ok((arrival, None));
    };
    let client = ClientAddr(net::canonical(source));
    arrival.client = client;
    arrival.intended = IntendedAddr(net::canonical(destination));
    if !direction.common().write_budget.admit(client.0.ip()) {
        return Err(TurnedAway::new(client, NO_BUDGET, TOO_OFTEN));
    }
    match limits.enter_client(client.0.ip()) {
        Ok(place) => Ok((arrival, Some(place))),
        Err(limit) => Err(TurnedAway::new(client, limit.word(), TOO_MANY)),
    }
}

/// The server behind an intercepted connection. `None` with `--upstream`.
fn target(
    common: &CommonSetup,
    stream: &TcpStream,
    client: ClientAddr,
    outbound: bool,
) -> Result<Option<ServerAddr>, TurnedAway> {
    let refuse = |why, reply: String| Err(TurnedAway::new(client, why, reply + "\r\n"));
    let loops = || {
        let reply = "421 4.4.6 this connection is the proxy's own: loop";
        refuse("loop", reply.into())
    };
    let Some(intercept) = common.intercept else {
        return match stream.local_addr() {
            Ok(own)
                if common
                    .dial
                    .is_ours(client, IntendedAddr(net::canonical(own)), stream) =>
            {
                loops()
            }
            _ => Ok(None),
        };
    };
    let Ok(intended) = net::intended(stream, intercept) else {
        let reply = "421 4.4.6 this connection was not redirected here";
        return refuse("not-intercepted", reply.into());
    };
    if common.dial.is_ours(client, intended, stream) {
        return loops();
    }
    match net::may_connect(intended, &common.listening, outbound) {
        Ok(server) => Ok(Some(server)),
        Err(Forbidden::Port) => {
            let reply = format!("421 4.7.0 {intended}: only port 25 is carried on");
            refuse("port", reply)
        }
        Err(Forbidden::Ourselves) => {
            let reply = format!("421 4.4.6 {intended} is this proxy itself: loop");
            refuse("loop", reply)
        }
        Err(Forbidden::Unroutable) => {
            let reply = format!("421 4.7.0 {intended} is no mail host's address");
            refuse("address", reply)
        }
    }
}

/// Reads a PROXY header, and returns it with the octets that came behind it.
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
