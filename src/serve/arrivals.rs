//! Who comes in: each connection gets a session or one reply, and nobody's connections keep others from theirs.

use std::{
    fs::File,
    future::poll_fn,
    io,
    sync::{Arc, RwLock},
    task::Poll,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Direction,
    limits::{Limits, Place, Seldom},
    now,
};
use crate::{
    clock,
    metrics::{self, Metrics},
    net::{self, ClientAddr, Forbidden, IntendedAddr, ServerAddr, proxy_header},
    session::{Arrival, budget::Kind, drive::Stop, inbound, outbound, setup::CommonSetup},
};

/// A load balancer must have sent its PROXY header by then.
const PROXY_HEADER: Duration = Duration::from_secs(5);
/// After an accept that failed for want of descriptors or memory, wait so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Octets of a log line before its words, at most.
const LINE_HEAD: usize = 32;
/// What who finds no place is told.
const TOO_MANY: &str = "421 4.3.2 too many sessions, try again later\r\n";
/// What who has used up his budget is told.
const TOO_OFTEN: &str =
    "421 4.7.0 too many connections without mail from your address, try again later\r\n";

/// Accepts until the process is asked to stop.
pub(super) async fn accept(
    listener: TcpListener,
    current: Arc<RwLock<Direction>>,
    limits: Limits,
    mut stop: watch::Receiver<Stop>,
) {
    let mut spare = Spare::new();
    let mut faults = Seldom::default();
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
                        turn_away(direction.common(), &stream, client, why, &refusal);
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

/// EMFILE of this process, ENFILE of the whole system.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// A descriptor that is kept, so that a client can still be answered when there is no other.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Gives the descriptor up for one client, who gets 421. Whether that went well.
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
            // Best effort: who does not get the reply sees the close.
            let _ = stream.try_write(TOO_MANY.as_bytes());
        }
        let answered = stream.is_some();
        drop(stream);
        *self = Self::new();
        answered
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
) -> Result<Place, (&'static str, String)> {
    let common = direction.common();
    // A load balancer's own address would count all the world as one client.
    let balancer = listed(direction, client);
    if !balancer && !common.write_budget.admit(client.0.ip()) {
        return Err(("budget", TOO_OFTEN.into()));
    }
    let place = if balancer {
        limits.enter_uncounted()
    } else {
        limits.enter(client.0.ip())
    };
    let place = place.map_err(|full| (full.word(), TOO_MANY.into()))?;
    if common.audit.as_ref().is_some_and(|audit| !audit.healthy()) {
        return Err((
            "audit-log",
            "421 4.3.0 the audit log cannot be written, no mail can pass\r\n".into(),
        ));
    }
    Ok(place)
}

/// One reply, if it fits into the socket right now, and no session.
fn turn_away(
    common: &CommonSetup,
    stream: &TcpStream,
    client: ClientAddr,
    why: &'static str,
    refusal: &str,
) {
    turned_away(common, client, why, "");
    // Best effort: who does not get the reply sees the close.
    let _ = stream.try_write(refusal.as_bytes());
}

/// Counts it, and says it in the log if this client may still make us.
fn turned_away(common: &CommonSetup, client: ClientAddr, why: &'static str, words: &str) {
    common.metrics.count(metrics::TURNED_AWAY, why);
    // Who has no budget left was counted when that was found.
    if why == "budget" {
        return;
    }
    let line = format!("turned away client={client} why={why}{words}");
    let octets = line.len() + LINE_HEAD;
    if common
        .write_budget
        .may_write(client.0.ip(), Kind::TurnedAway, octets)
    {
        log::warn!("{line}");
    }
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
    let is_outbound = matches!(direction, Direction::Outbound(_));
    let mut arrival = match arrival(&common, &stream, client, is_outbound) {
        Ok(arrival) => arrival,
        Err((why, refusal)) => return turn_away(&common, &stream, client, why, &refusal),
    };
    let metrics = Arc::clone(&common.metrics);
    match direction {
        Direction::Outbound(site) => {
            let _open = begin(&metrics, "outbound");
            outbound::run(site, stream, arrival, stop).await;
        }
        Direction::Inbound(site) => {
            let mut places = vec![place];
            if site
                .accept_proxy
                .iter()
                .any(|prefix| prefix.contains(client.0.ip()))
            {
                match timeout(PROXY_HEADER, read_header(&mut stream)).await {
                    Ok(Ok((origin, first))) => {
                        if let proxy_header::Origin::Addresses(source, destination) = origin {
                            arrival.client = ClientAddr(net::canonical(source));
                            arrival.intended = IntendedAddr(net::canonical(destination));
                            let client = arrival.client;
                            if !common.write_budget.admit(client.0.ip()) {
                                return turn_away(&common, &stream, client, "budget", TOO_OFTEN);
                            }
                            match limits.enter_client(client.0.ip()) {
                                Ok(place) => places.push(place),
                                Err(full) => {
                                    let why = full.word();
                                    return turn_away(&common, &stream, client, why, TOO_MANY);
                                }
                            }
                        }
                        arrival.first = first;
                    }
                    // Not a word of SMTP to who does not speak the agreed protocol.
                    Ok(Err(error)) => {
                        let words = format!(": {error}");
                        return turned_away(&common, client, "proxy-header", &words);
                    }
                    Err(_) => {
                        let words = ": none came within 5 s";
                        return turned_away(&common, client, "proxy-header", words);
                    }
                }
            }
            let _open = begin(&metrics, "inbound");
            inbound::run(site, stream, arrival, stop).await;
        }
    }
}

fn begin<'a>(metrics: &'a Metrics, direction: &str) -> metrics::OpenSession<'a> {
    metrics.count(metrics::SESSIONS, direction);
    metrics.session()
}

fn arrival(
    common: &CommonSetup,
    stream: &TcpStream,
    client: ClientAddr,
    outbound: bool,
) -> Result<Arrival, (&'static str, String)> {
    let server = target(common, stream, client, outbound)?;
    let own = stream.local_addr().map_err(|_| ("gone", String::new()))?;
    let intended = server.map_or(IntendedAddr(net::canonical(own)), |ServerAddr(to)| {
        IntendedAddr(to)
    });
    Ok(Arrival {
        client,
        intended,
        server,
        first: Vec::new(),
    })
}

/// Where an intercepted connection is to go on to; `None` with `--upstream`.
fn target(
    common: &CommonSetup,
    stream: &TcpStream,
    client: ClientAddr,
    outbound: bool,
) -> Result<Option<ServerAddr>, (&'static str, String)> {
    let refuse = |why, code: &str, words: String| Err((why, format!("{code} {words}\r\n")));
    let loops = || {
        let words = "this connection is the proxy's own: loop";
        refuse("loop", "421 4.4.6", words.into())
    };
    let Some(intercept) = common.intercept else {
        let own = stream
            .local_addr()
            .map(|own| IntendedAddr(net::canonical(own)));
        return match own {
            Ok(own) if common.dial.is_ours(client, own, stream) => loops(),
            _ => Ok(None),
        };
    };
    let Ok(intended) = net::intended(stream, intercept) else {
        return refuse(
            "not-intercepted",
            "421 4.4.6",
            "this connection was not redirected here".into(),
        );
    };
    if common.dial.is_ours(client, intended, stream) {
        return loops();
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
