//! Sockets: listening with and without interception, the original destination of a connection, connecting with a chosen source.
//!
//! Interception (Linux): with TPROXY the original destination is the accepted socket's own address; with REDIRECT conntrack knows it
//! (`SO_ORIGINAL_DST`). Both need rules outside this program: `systemd/*.nft`.

pub(crate) mod buffer;
pub(crate) mod passing;
pub mod proxy_header;

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket},
    os::fd::IntoRawFd as _,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The only port that interception connects to.
pub const SMTP_PORT: u16 = 25;

/// The most connections that may wait in the kernel to be accepted.
const BACKLOG: i32 = 4096;

/// How the kernel diverts connections to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// nft `tproxy`: needs CAP_NET_RAW in this process; no address is rewritten.
    Tproxy,
    /// nft `redirect`: needs no capability; the kernel's NAT table remembers the destination.
    Redirect,
}

impl FromStr for Intercept {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "tproxy" => Ok(Self::Tproxy),
            "redirect" => Ok(Self::Redirect),
            _ => Err(format!("'{word}' is neither tproxy nor redirect")),
        }
    }
}

/// Address of the client, by its connection or by the PROXY header of a listed load balancer. IPv4 in IPv6 is shown as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// Address that the client meant to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntendedAddr(pub SocketAddr);

/// Address that the proxy connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddr(pub SocketAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for IntendedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `::ffff:192.0.2.1` is 192.0.2.1.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Binds a listening socket. `[::]` takes IPv4 too.
///
/// # Errors
/// As the system says; for TPROXY without CAP_NET_RAW the error says so.
pub fn listen(address: SocketAddr, intercept: Option<Intercept>) -> io::Result<StdListener> {
    let family = if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(family, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    if intercept == Some(Intercept::Tproxy) {
        set_transparent(&SockRef::from(&socket), address.ip())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The listeners that a systemd socket unit or the process before this one passes to this process (`sd_listen_fds(3)`), each with the
/// name that was given to it. Must be called once only: the caller owns them.
///
/// # Errors
/// An explanation in words if one of them is not a TCP socket.
pub fn inherited() -> Result<Vec<(String, StdListener)>, String> {
    let sockets = sd_listen_fds::get().unwrap_or_default();
    let listener = |(index, (name, socket)): (usize, (Option<String>, sd_listen_fds::OwnedFd))| {
        let socket = Socket::from(socket.into_std());
        let tcp = |kind| {
            let domain = socket.domain()?;
            socket.set_cloexec(true)?;
            Ok::<_, io::Error>(
                kind == Type::STREAM && [Domain::IPV4, Domain::IPV6].contains(&domain),
            )
        };
        let why = match socket.r#type().map(tcp) {
            Ok(Ok(true)) => return Ok((name.unwrap_or_default(), socket.into())),
            Ok(_) => "a valid tcp socket",
            Err(_) => "a socket",
        };
        // This descriptor is not closed, because it may not belong to this process.
        let _ = socket.into_raw_fd();
        Err(format!(
            "socket {index} of systemd is no TCP listener: fd {} is not {why}",
            index + 3
        ))
    };
    sockets.into_iter().enumerate().map(listener).collect()
}

/// Whether TPROXY can hand connections to this listener. A socket that cannot be asked counts as one.
#[must_use]
pub fn is_transparent(listener: &StdListener) -> bool {
    let socket = SockRef::from(listener);
    let v4 = listener.local_addr().is_ok_and(|own| own.is_ipv4());
    let asked = if v4 {
        socket.ip_transparent_v4()
    } else {
        socket.ip_transparent_v6()
    };
    asked.unwrap_or(true)
}

/// Hands a bound socket to the runtime.
///
/// # Errors
/// As the system says.
pub fn into_tokio(listener: StdListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn set_transparent(socket: &SockRef<'_>, family: IpAddr) -> io::Result<()> {
    let outcome = if family.is_ipv4() {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    };
    outcome.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "IP_TRANSPARENT is not permitted: the process needs CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW)",
        ),
        _ => error,
    })
}

/// The address that the client of an intercepted connection meant to connect to.
///
/// # Errors
/// `NotFound` if a connection reached a REDIRECT listener without being redirected: a client connected to the listener itself.
pub fn intended(stream: &TcpStream, intercept: Intercept) -> io::Result<IntendedAddr> {
    let address = match intercept {
        Intercept::Tproxy => stream.local_addr()?,
        Intercept::Redirect => {
            let socket = SockRef::from(stream);
            let v6 = stream.local_addr()?.is_ipv6();
            let found = if v6 {
                socket
                    .original_dst_v6()
                    .or_else(|_| socket.original_dst_v4())
            } else {
                socket.original_dst_v4()
            };
            found?.as_socket().ok_or(io::ErrorKind::NotFound)?
        }
    };
    Ok(IntendedAddr(canonical(address)))
}

/// Why an intercepted connection is not carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// Intercepted for a port that is not SMTP's.
    Port,
    /// The destination is this program, or this host.
    Ourselves,
    /// The destination is loopback, link-local, multicast, unspecified or broadcast: never somebody else's mail host.
    Unroutable,
}

/// Whether an intercepted connection may be carried on to the address that its client meant to connect to.
///
/// `listening` are the ports that this process listens on. `outbound` is the direction: inbound, the server may be this host.
///
/// # Errors
/// The reason why it may not.
pub fn may_connect(
    intended: IntendedAddr,
    listening: &[u16],
    outbound: bool,
) -> Result<ServerAddr, Forbidden> {
    let IntendedAddr(address) = intended;
    let ip = address.ip();
    let on_our_port = listening.contains(&address.port());
    if on_our_port && (address.port() != SMTP_PORT || is_this_host(ip)) {
        return Err(Forbidden::Ourselves);
    }
    if address.port() != SMTP_PORT {
        return Err(Forbidden::Port);
    }
    if !outbound {
        return Ok(ServerAddr(address));
    }
    if is_unroutable(ip) {
        return Err(Forbidden::Unroutable);
    }
    if is_this_host(ip) {
        return Err(Forbidden::Ourselves);
    }
    Ok(ServerAddr(address))
}

fn is_unroutable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => {
            let link_local = ip.segments()[0] & 0xffc0 == 0xfe80;
            ip.is_loopback() || ip.is_multicast() || ip == Ipv6Addr::UNSPECIFIED || link_local
        }
    }
}

/// Towards an address of this host, the kernel chooses the same address as the source. No packet is sent.
fn is_this_host(ip: IpAddr) -> bool {
    let any: SocketAddr = if ip.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    if ip.is_loopback() {
        return true;
    }
    UdpSocket::bind(any)
        .and_then(|socket| {
            socket.connect((ip, 9))?;
            socket.local_addr()
        })
        .is_ok_and(|own| own.ip() == ip)
}

/// Why a connection is not tried at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTried {
    /// This process listens on the address.
    Ourselves,
    /// The client's address is to be kept, and its family is not the server's.
    OtherFamily,
}

impl fmt::Display for NotTried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ourselves => "this is the proxy itself: loop",
            Self::OtherFamily => {
                "--keep-client-address cannot keep an IPv4 client's address towards an IPv6 server, nor the reverse"
            }
        })
    }
}

impl std::error::Error for NotTried {}

impl NotTried {
    /// The reason in an error of [`Dial::connect`], if it has one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<NotTried> for io::Error {
    fn from(why: NotTried) -> Self {
        Self::other(why)
    }
}

/// An address that this process listens on.
#[derive(Clone, Copy, Debug)]
struct Listening {
    address: SocketAddr,
    v6_only: bool,
}

impl Listening {
    /// Whether a connection to that address would come here.
    fn takes(&self, to: SocketAddr) -> bool {
        let own = self.address.ip();
        if to.port() != self.address.port() {
            return false;
        }
        // A connection to the unspecified address goes to loopback.
        let loopback = to.ip().is_unspecified() && (own.is_loopback() || own.is_unspecified());
        let to = to.ip();
        let family = own.is_ipv4() == to.is_ipv4() || (own.is_ipv6() && !self.v6_only);
        own.to_canonical() == to
            || (family && loopback)
            || (family && own.is_unspecified() && is_this_host(to))
    }
}

/// Makes connections to servers.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    /// `--fwmark`: SO_MARK on each.
    pub fwmark: Option<u32>,
    /// Time for one attempt.
    pub timeout: Option<Duration>,
    /// Open connections, so that one that comes back to a listener of this process is recognised.
    open: Arc<Mutex<HashSet<(SocketAddr, SocketAddr)>>>,
    /// Addresses that this process listens on. They are never connected to.
    own: Arc<Mutex<Vec<Listening>>>,
}

/// Lists a connection of this process as open, until it is dropped.
#[derive(Debug)]
pub struct Dialled {
    ends: (SocketAddr, SocketAddr),
    open: Arc<Mutex<HashSet<(SocketAddr, SocketAddr)>>>,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.ends);
    }
}

impl Dial {
    /// Makes connections with these options.
    #[must_use]
    pub fn new(fwmark: Option<u32>, timeout: Duration) -> Self {
        Self {
            fwmark,
            timeout: Some(timeout),
            ..Self::default()
        }
    }

    /// Makes no connection to the addresses of these listeners from now on.
    pub fn never_to(&self, listeners: &[StdListener]) {
        let listening = listeners.iter().filter_map(|listener| {
            let address = listener.local_addr().ok()?;
            let v6_only = address.is_ipv6() && SockRef::from(listener).only_v6().unwrap_or(false);
            Some(Listening { address, v6_only })
        });
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(listening);
    }

    /// Whether a connection to that address would come back to this process, by the addresses that it listens on.
    #[must_use]
    pub fn is_ourselves(&self, to: SocketAddr) -> bool {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.iter().any(|own| own.takes(canonical(to)))
    }

    /// Connects to `server`, from `source` if that is given (`--keep-client-address`; needs CAP_NET_RAW and the divert rule).
    ///
    /// # Errors
    /// As the system says; `TimedOut` after the timeout; [`NotTried`] if a connection would be wrong.
    pub async fn connect(
        &self,
        server: ServerAddr,
        source: Option<IpAddr>,
    ) -> io::Result<(TcpStream, Dialled)> {
        let address = canonical(server.0);
        if self.is_ourselves(address) {
            return Err(NotTried::Ourselves.into());
        }
        if source.is_some_and(|source| source.to_canonical().is_ipv4() != address.is_ipv4()) {
            return Err(NotTried::OtherFamily.into());
        }
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_nodelay(true)?;
        if let Some(mark) = self.fwmark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        if let Some(source) = source.map(|source| source.to_canonical()) {
            set_transparent(&SockRef::from(&socket), source)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let connecting = socket.connect(address);
        let stream = match self.timeout {
            Some(limit) => tokio::time::timeout(limit, connecting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
            None => connecting.await?,
        };
        let ends = (
            canonical(stream.local_addr()?),
            canonical(stream.peer_addr()?),
        );
        if ends.0 == ends.1 {
            return Err(NotTried::Ourselves.into());
        }
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(ends);
        Ok((
            stream,
            Dialled {
                ends,
                open: Arc::clone(&self.open),
            },
        ))
    }

    /// Whether this process itself made this accepted connection. Its addresses tell it, and its mark if the kernel passes marks on
    /// (`net.ipv4.tcp_fwmark_accept`).
    #[must_use]
    pub fn is_ours(
        &self,
        client: ClientAddr,
        intended: IntendedAddr,
        accepted: &TcpStream,
    ) -> bool {
        if self.fwmark.is_some_and(|mark| {
            mark != 0 && SockRef::from(accepted).mark().is_ok_and(|own| own == mark)
        }) {
            return true;
        }
        let intended = intended.0;
        // A rule on this host may have redirected the connection here from the address that was dialled.
        let redirected = self::intended(accepted, Intercept::Redirect).map(|to| to.0);
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.contains(&(client.0, intended))
            || redirected.is_ok_and(|to| open.contains(&(client.0, to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &str) -> IntendedAddr {
        IntendedAddr(address.parse().expect("an address"))
    }

    #[test]
    fn only_port_25_of_another_host_is_connected_to() {
        let ports = [2525];
        assert_eq!(
            may_connect(to("203.0.113.9:587"), &ports, true),
            Err(Forbidden::Port)
        );
        assert_eq!(
            may_connect(to("203.0.113.9:3306"), &ports, true),
            Err(Forbidden::Port)
        );
        assert_eq!(
            may_connect(to("203.0.113.9:2525"), &ports, true),
            Err(Forbidden::Ourselves)
        );
        for address in [
            "127.0.0.1:25",
            "[::1]:25",
            "169.254.169.254:25",
            "224.0.0.1:25",
            "0.0.0.0:25",
            "[fe80::1]:25",
            "[::ffff:127.0.0.1]:25",
            "[::ffff:169.254.169.254]:25",
        ] {
            assert_eq!(
                may_connect(to(address), &ports, true),
                Err(Forbidden::Unroutable),
                "{address}"
            );
        }
        assert!(may_connect(to("203.0.113.9:25"), &ports, true).is_ok());
    }

    #[test]
    fn a_listener_on_port_25_is_not_connected_to_itself() {
        assert_eq!(
            may_connect(to("127.0.0.1:25"), &[25], false),
            Err(Forbidden::Ourselves)
        );
        assert!(
            may_connect(to("127.0.0.1:25"), &[2526], false).is_ok(),
            "inbound, the server may be this host"
        );
    }

    fn bound(address: &str) -> StdListener {
        listen(address.parse().expect("address"), None).expect("bind")
    }

    #[tokio::test]
    async fn nothing_is_connected_to_where_this_process_listens() {
        let one = bound("127.0.0.1:0");
        let any = bound("0.0.0.0:0");
        let both = bound("[::]:0");
        let port = |listener: &StdListener| listener.local_addr().expect("address").port();
        let ports = [port(&one), port(&any), port(&both)];
        let dial = Dial::new(None, Duration::from_secs(5));
        dial.never_to(&[one, any, both]);
        let ourselves = [
            (0, "127.0.0.1"),
            (0, "::ffff:127.0.0.1"),
            (0, "0.0.0.0"),
            (1, "127.0.0.1"),
            (1, "127.8.8.8"),
            (1, "0.0.0.0"),
            (2, "127.0.0.1"),
            (2, "::1"),
            (2, "::"),
        ];
        for (which, ip) in ourselves {
            let to = SocketAddr::new(ip.parse().expect("address"), ports[which]);
            let error = dial.connect(ServerAddr(to), None).await.expect_err(ip);
            assert_eq!(NotTried::of(&error), Some(NotTried::Ourselves), "{to}");
        }
        for (which, ip) in [(0, "127.0.0.2"), (0, "::1"), (1, "::1"), (1, "192.0.2.1")] {
            let to = SocketAddr::new(ip.parse().expect("address"), ports[which]);
            assert!(!dial.is_ourselves(to), "{to}");
        }
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_kept_is_refused_and_never_replaced_by_our_own() {
        let (v4, v6) = (bound("127.0.0.1:0"), bound("[::1]:0"));
        let dial = Dial::new(None, Duration::from_secs(5));
        for (server, client) in [
            (&v4, "2001:db8::1"),
            (&v6, "192.0.2.1"),
            (&v6, "::ffff:192.0.2.1"),
        ] {
            let to = ServerAddr(server.local_addr().expect("address"));
            let client = client.parse().expect("address");
            let error = dial.connect(to, Some(client)).await.expect_err("refused");
            assert_eq!(NotTried::of(&error), Some(NotTried::OtherFamily));
        }
    }

    #[tokio::test]
    async fn a_connection_of_ours_is_known_when_it_comes_back() {
        let listener =
            into_tokio(listen("127.0.0.1:0".parse().expect("address"), None).expect("bind"))
                .expect("tokio");
        let address = listener.local_addr().expect("address");
        let dial = Dial::new(None, Duration::from_secs(5));
        let (stream, listed) = dial
            .connect(ServerAddr(address), None)
            .await
            .expect("connect");
        let (accepted, client) = listener.accept().await.expect("accept");
        assert!(dial.is_ours(ClientAddr(client), IntendedAddr(address), &accepted));
        drop((stream, listed));
        assert!(!dial.is_ours(ClientAddr(client), IntendedAddr(address), &accepted));
    }
}
