//! The world of these tests: a name server, an authority, and mail exchangers that say what they are told to say.

use super::running::{
    HANG, Scratch,
    pki::{Authority, Leaf},
};
use rustls::{ServerConnection, StreamOwned};
use starttls_proxy::{
    commands::check::{CheckedDomain, CheckedUpstream, Checker},
    lookup::{Lookup, LookupOptions},
    net::Dial,
    policy::{Settings, table::Table},
    session::{credentials::UpstreamLogin, setup::Upstream},
    smtp::Domain,
    tls::{ClientOptions, ClientTls},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

pub const CLINIC: &str = "clinic.example";
pub const OFFER: &str = "250-mx.clinic.example\r\n250-STARTTLS\r\n250 SMTPUTF8\r\n";

/// What a server does after it has answered STARTTLS with 220.
pub enum Tls {
    /// The server never gets STARTTLS.
    Never,
    /// A handshake with this certificate, then this answer to EHLO inside TLS.
    With(Box<Leaf>),
    /// The same, but a ClientHello of more than 1,000 octets ends the connection.
    Small(Box<Leaf>),
    /// Bytes that are no TLS.
    Garbage,
    /// The connection ends.
    Ends,
}

/// The replies of a server.
pub struct Mx {
    /// Empty: nothing, for as long as the client stays.
    pub greeting: &'static str,
    /// To EHLO, in the clear and over TLS.
    pub ehlo: [&'static str; 2],
    pub starttls: &'static str,
    /// To AUTH.
    pub auth: &'static str,
    pub tls: Tls,
}

impl Default for Mx {
    fn default() -> Self {
        Self {
            greeting: "220 mx.clinic.example ESMTP\r\n",
            ehlo: [OFFER, "250-mx.clinic.example\r\n250 SMTPUTF8\r\n"],
            starttls: "220 go ahead\r\n",
            auth: "502 5.5.1 no\r\n",
            tls: Tls::Never,
        }
    }
}

/// An exchanger that differs from the default in its greeting.
pub fn greeting(greeting: &'static str) -> Mx {
    Mx {
        greeting,
        ..Mx::default()
    }
}

/// An exchanger that differs from the default in its reply to EHLO in the clear.
pub fn ehlo(ehlo: &'static str) -> Mx {
    Mx {
        ehlo: [ehlo, ""],
        ..Mx::default()
    }
}

/// An exchanger that differs from the default in its reply to STARTTLS.
pub fn starttls(starttls: &'static str) -> Mx {
    Mx {
        starttls,
        ..Mx::default()
    }
}

/// A name server for which each name below `clinic.example` has the addresses given, and the domain the exchangers given.
pub struct Names {
    pub at: SocketAddr,
    pub addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    /// What the domain's MX record holds.
    pub exchanger: Arc<Mutex<&'static [u8]>>,
    /// 0: answers; otherwise the response code that it gives to everything.
    pub rcode: Arc<AtomicU8>,
}

impl Names {
    pub fn serve() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let names = Self {
            at: socket.local_addr().expect("an address"),
            addresses: Arc::default(),
            exchanger: Arc::new(Mutex::new(b"\x00\x0a\x02mx\xc0\x0c")),
            rcode: Arc::default(),
        };
        let (addresses, rcode) = (Arc::clone(&names.addresses), Arc::clone(&names.rcode));
        let exchanger = Arc::clone(&names.exchanger);
        thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((len, client)) = socket.recv_from(&mut query) {
                let addresses = addresses.lock().expect("no panic").clone();
                let exchanger = *exchanger.lock().expect("no panic");
                let rcode = rcode.load(Ordering::SeqCst);
                if let Some(answer) = answer(&query[..len], &addresses, exchanger, rcode) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        names
    }
}

/// RFC 1035 §4.1: the question comes back, with records whose name is a pointer to it.
fn answer(query: &[u8], addresses: &[Ipv4Addr], exchanger: &[u8], rcode: u8) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|octet| *octet == 0)?;
    let mut answer = query.get(..HEADER + name + 5)?.to_vec();
    let kind = answer[HEADER + name + 2];
    let is_host = answer[HEADER..].starts_with(b"\x02mx");
    let mut records = Vec::new();
    let mut record = |kind: u8, data: &[u8]| {
        let length = u8::try_from(data.len()).expect("short");
        records.push(
            [
                &[0xc0, 0x0c, 0, kind, 0, 1, 0, 0, 0, 60, 0, length][..],
                data,
            ]
            .concat(),
        );
    };
    match kind {
        1 if rcode == 0 && is_host => addresses.iter().for_each(|ip| record(1, &ip.octets())),
        15 if rcode == 0 && !is_host => record(15, exchanger),
        _ => {}
    }
    answer[2..4].copy_from_slice(&[0x81, 0x80 | rcode]);
    answer[6..HEADER].copy_from_slice(&[0, u8::try_from(records.len()).expect("few"), 0, 0, 0, 0]);
    answer.extend(records.concat());
    Some(answer)
}

/// A name server, an authority, and mail exchangers on the same port of several loopback addresses.
pub struct World {
    pub names: Names,
    pub authority: Authority,
    pub port: u16,
    /// Held until a server takes it.
    first: Option<TcpListener>,
    pub settings: Settings,
    pub table: &'static str,
    pub patience: Duration,
    heard: mpsc::Receiver<String>,
    tell: mpsc::Sender<String>,
}

impl World {
    pub fn new() -> Self {
        Self::on("127.0.0.1:0")
    }

    /// With one mail exchanger.
    pub fn with(mx: Mx) -> Self {
        let mut world = Self::new();
        world.serve(mx);
        world
    }

    /// With one mail exchanger, to which mail passes.
    pub fn with_honest() -> Self {
        let mut world = Self::new();
        world.serve(world.honest());
        world
    }

    /// With its mail exchangers on this port.
    pub fn on(first: &str) -> Self {
        let first = TcpListener::bind(first).expect("a port");
        let (tell, heard) = mpsc::channel();
        Self {
            names: Names::serve(),
            authority: Authority::root("Test Root"),
            port: first.local_addr().expect("an address").port(),
            first: Some(first),
            settings: Settings {
                dane: false,
                mta_sts: false,
                ..Settings::default()
            },
            table: "",
            patience: HANG,
            heard,
            tell,
        }
    }

    /// The next address of loopback, with nobody there.
    fn address(&mut self) -> Ipv4Addr {
        let mut addresses = self.names.addresses.lock().expect("no panic");
        let last = u8::try_from(addresses.len()).expect("few") + 1;
        addresses.push(Ipv4Addr::new(127, 0, 0, last));
        addresses[addresses.len() - 1]
    }

    pub fn serve(&mut self, mx: Mx) {
        let ip = self.address();
        let listener = match self.first.take() {
            Some(first) if ip == Ipv4Addr::LOCALHOST => first,
            _ => TcpListener::bind((ip, self.port)).expect("the same port of another address"),
        };
        let tell = self.tell.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                mx.talk(stream.expect("a client"), &tell);
            }
        });
    }

    pub fn closed(&mut self) {
        self.address();
        self.first = None;
    }

    pub fn honest(&self) -> Mx {
        self.named("mx.clinic.example")
    }

    pub fn named(&self, name: &str) -> Mx {
        Mx {
            tls: Tls::With(Box::new(self.authority.leaf(&[name]))),
            ..Mx::default()
        }
    }

    pub async fn check(&self) -> CheckedDomain {
        let domain = Domain::parse(CLINIC).expect("a domain");
        CheckedDomain::new(domain, &self.checker(None)).await
    }

    /// Checks the host `mx.clinic.example` as a smart host, with the login of this file.
    pub async fn check_upstream(&self, auth: &Path) -> CheckedUpstream {
        let (login, _) = UpstreamLogin::read(auth).expect("a login");
        let checker = self.checker(Some(Arc::new(login)));
        let upstream = checker.upstream.as_ref().expect("it is one");
        CheckedUpstream::new(upstream, &checker).await
    }

    /// With a login for a smart host, or for domains.
    fn checker(&self, login: Option<Arc<UpstreamLogin>>) -> Checker {
        let scratch = Scratch::new();
        let ca_file = Some(self.authority.write(&scratch.0, "ca"));
        let options = ClientOptions {
            ca_file,
            ..ClientOptions::default()
        };
        let lookup = Lookup::new(LookupOptions {
            resolvers: vec![self.names.at],
            dnssec: self.settings.dane,
            anchor: None,
            state_dir: None,
            https_port: 443,
            allow_private: false,
            roots: Arc::new(rustls::RootCertStore::empty()),
        });
        Checker {
            hostname: "proxy.hospital.example".into(),
            dial: Dial::new(None, HANG),
            tls: Arc::new(ClientTls::new(&options).expect("an authority")),
            settings: self.settings,
            table: Table::parse("policy", self.table, &mut |_| Err("none".into()))
                .expect("a table"),
            lookup: Arc::new(lookup.expect("a lookup")),
            port: self.port,
            patience: self.patience,
            upstream: login.is_some().then(|| Upstream {
                host: "mx.clinic.example".into(),
                port: self.port,
                implicit_tls: false,
            }),
            login,
        }
    }

    /// The commands that the servers got; they have ended each connection.
    pub fn heard(self) -> Vec<String> {
        drop(self.tell);
        self.heard.try_iter().collect()
    }
}

impl Mx {
    fn talk(&self, mut stream: TcpStream, tell: &mpsc::Sender<String>) {
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        let _ = stream.write_all(self.greeting.as_bytes());
        if !self.serve(&stream, tell, 0) {
            return;
        }
        match &self.tls {
            Tls::Never | Tls::Ends => {}
            Tls::Garbage => {
                let _ = stream.write_all(&[0x55; 600]);
                let _ = stream.read(&mut [0; 4096]);
            }
            Tls::Small(_) if hello_length(&stream) > 1000 => {}
            Tls::With(leaf) | Tls::Small(leaf) => {
                let config = Arc::new(leaf.server_config());
                let connection = ServerConnection::new(config).expect("a connection");
                self.serve(StreamOwned::new(connection, stream), tell, 1);
            }
        }
    }

    /// True once the client has sent STARTTLS and may begin the handshake.
    fn serve(&self, stream: impl Read + Write, tell: &mpsc::Sender<String>, stage: usize) -> bool {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).is_ok_and(|got| got > 0) {
            let _ = tell.send(format!("{stage}:{}", line.trim_end()));
            let answer = match line.get(..4) {
                Some("EHLO") => self.ehlo[stage],
                Some("STAR") => self.starttls,
                Some("AUTH") => self.auth,
                Some("QUIT") => "221 bye\r\n",
                _ => "250 ok\r\n",
            };
            let starts = line.starts_with("STAR") && answer.starts_with("220");
            let client = stream.get_mut();
            let said = client
                .write_all(answer.as_bytes())
                .and_then(|()| client.flush());
            if said.is_err() || line.starts_with("QUIT") {
                return false;
            }
            if starts {
                return true;
            }
            line.clear();
        }
        false
    }
}

/// The length in the header of the first TLS record (RFC 8446 §5.1).
fn hello_length(stream: &TcpStream) -> u16 {
    let mut header = [0; 5];
    while stream
        .peek(&mut header)
        .is_ok_and(|got| (1..5).contains(&got))
    {}
    u16::from_be_bytes([header[3], header[4]])
}
