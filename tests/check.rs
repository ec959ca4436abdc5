//! `check` says what mail would get, word for word, and sends none: against hostile and honest servers on loopback, found
//! through a scripted name server.

#[path = "support/pki.rs"]
mod pki;

use pki::{Authority, Leaf, Scratch};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use starttls_proxy::{
    lookup::{Lookup, Options},
    net::Dial,
    policy::{Level, Settings, table::Table},
    report::{Asker, Checked},
    smtp::Domain,
    tls::{ClientOptions, ClientTls},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

const CLINIC: &str = "clinic.example";
const OFFER: &str = "250-mx.clinic.example\r\n250-STARTTLS\r\n250 SMTPUTF8\r\n";
/// Nothing here takes that long unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// What a server does once it was told STARTTLS and said 220.
enum Tls {
    /// It never comes to that.
    Never,
    /// A handshake with this certificate, then what it answers inside TLS.
    With(Box<Leaf>),
    /// Bytes that are no TLS.
    Garbage,
    /// The connection ends.
    Ends,
}

/// What a server says.
struct Mx {
    /// Empty: nothing, for as long as the client stays.
    greeting: &'static str,
    /// To EHLO, in the clear and over TLS.
    ehlo: [&'static str; 2],
    starttls: &'static str,
    tls: Tls,
}

impl Default for Mx {
    fn default() -> Self {
        Self {
            greeting: "220 mx.clinic.example ESMTP\r\n",
            ehlo: [OFFER, "250-mx.clinic.example\r\n250 SMTPUTF8\r\n"],
            starttls: "220 go ahead\r\n",
            tls: Tls::Never,
        }
    }
}

/// A name server for which each name below `clinic.example` has the addresses given, and the domain the exchangers given.
struct Names {
    at: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    /// 0: answers; otherwise the response code that it gives to everything.
    rcode: Arc<AtomicU8>,
}

impl Names {
    fn serve() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let names = Self {
            at: socket.local_addr().expect("an address"),
            addresses: Arc::default(),
            rcode: Arc::default(),
        };
        let (addresses, rcode) = (Arc::clone(&names.addresses), Arc::clone(&names.rcode));
        thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((len, client)) = socket.recv_from(&mut query) {
                let addresses = addresses.lock().expect("no panic").clone();
                if let Some(answer) =
                    answer(&query[..len], &addresses, rcode.load(Ordering::SeqCst))
                {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        names
    }
}

/// RFC 1035 §4.1: the question comes back, with records whose name is a pointer to it.
fn answer(query: &[u8], addresses: &[Ipv4Addr], rcode: u8) -> Option<Vec<u8>> {
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
        15 if rcode == 0 && !is_host => record(15, b"\x00\x0a\x02mx\xc0\x0c"),
        _ => {}
    }
    answer[2..4].copy_from_slice(&[0x81, 0x80 | rcode]);
    answer[6..HEADER].copy_from_slice(&[0, u8::try_from(records.len()).expect("few"), 0, 0, 0, 0]);
    answer.extend(records.concat());
    Some(answer)
}

/// A name server, an authority, and mail exchangers on the same port of several loopback addresses.
struct World {
    names: Names,
    authority: Authority,
    port: u16,
    /// Held until a server takes it.
    first: Option<TcpListener>,
    settings: Settings,
    table: &'static str,
    patience: Duration,
    heard: mpsc::Receiver<String>,
    tell: mpsc::Sender<String>,
}

impl World {
    fn new() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").expect("a port");
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

    fn serve(&mut self, mx: Mx) {
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

    fn closed(&mut self) {
        self.address();
        self.first = None;
    }

    fn honest(&self) -> Mx {
        self.named("mx.clinic.example")
    }

    fn named(&self, name: &str) -> Mx {
        Mx {
            tls: Tls::With(Box::new(self.authority.leaf(&[name]))),
            ..Mx::default()
        }
    }

    async fn check(&self) -> Checked {
        let scratch = Scratch::new();
        let ca_file = Some(self.authority.write(&scratch.0, "ca"));
        let options = ClientOptions {
            ca_file,
            ..ClientOptions::default()
        };
        let lookup = Lookup::new(Options {
            resolvers: vec![self.names.at],
            anchor: None,
            state_dir: None,
            https_port: 443,
            allow_private: false,
            roots: Arc::new(rustls::RootCertStore::empty()),
        });
        let asker = Asker {
            hostname: "proxy.hospital.example".into(),
            dial: Dial::new(None, HANG),
            tls: Arc::new(ClientTls::new(&options).expect("an authority")),
            settings: self.settings,
            table: Table::parse("policy", self.table, &mut |_| Err("none".into()))
                .expect("a table"),
            lookup: Arc::new(lookup.expect("a lookup")),
            port: self.port,
            patience: self.patience,
        };
        let domain = Domain::parse(CLINIC).expect("a domain");
        Checked::new(domain, &asker).await
    }

    /// What the servers were told; they have ended each connection.
    fn heard(self) -> Vec<String> {
        drop(self.tell);
        self.heard.try_iter().collect()
    }
}

impl Mx {
    fn talk(&self, mut stream: TcpStream, tell: &mpsc::Sender<String>) {
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        let _ = stream.write_all(self.greeting.as_bytes());
        if !self.serve(&mut BufReader::new(&stream), tell, 0) {
            return;
        }
        match &self.tls {
            Tls::Never | Tls::Ends => {}
            Tls::Garbage => {
                let _ = stream.write_all(&[0x55; 600]);
                let _ = stream.read(&mut [0; 4096]);
            }
            Tls::With(leaf) => {
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let config = ServerConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .expect("versions")
                    .with_no_client_auth()
                    .with_single_cert(leaf.chain.clone(), leaf.private_key())
                    .expect("a certificate");
                let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
                let tls = StreamOwned::new(connection, stream);
                self.serve(&mut BufReader::new(tls), tell, 1);
            }
        }
    }

    /// True once the client said STARTTLS and may begin.
    fn serve(&self, stream: &mut impl Served, tell: &mpsc::Sender<String>, stage: usize) -> bool {
        let mut line = String::new();
        while stream.read_line(&mut line).is_ok_and(|got| got > 0) {
            let _ = tell.send(format!("{stage}:{}", line.trim_end()));
            let answer = match line.get(..4) {
                Some("EHLO") => self.ehlo[stage],
                Some("STAR") => self.starttls,
                Some("QUIT") => "221 bye\r\n",
                _ => "250 ok\r\n",
            };
            let starts = line.starts_with("STAR") && answer.starts_with("220");
            if stream.say(answer).is_err() || line.starts_with("QUIT") {
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

/// Reads lines and can be written to.
trait Served: BufRead {
    fn say(&mut self, words: &str) -> std::io::Result<()>;
}

impl Served for BufReader<&TcpStream> {
    fn say(&mut self, words: &str) -> std::io::Result<()> {
        self.get_mut().write_all(words.as_bytes())
    }
}

impl Served for BufReader<StreamOwned<ServerConnection, TcpStream>> {
    fn say(&mut self, words: &str) -> std::io::Result<()> {
        self.get_mut().write_all(words.as_bytes())?;
        self.get_mut().flush()
    }
}

/// The value of a key on the page; the last one where there are several.
fn said<'a>(page: &'a str, key: &str) -> Option<&'a str> {
    let lines = page
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(' '));
    lines.map(str::trim).last()
}

#[track_caller]
fn assert_refused(checked: &Checked, reason: &str, reply: &str) -> String {
    let page = checked.page(false);
    assert!(checked.refused() && checked.any_refused(), "{page}");
    let verdict = said(&page, "verdict").expect("a verdict");
    assert!(verdict.starts_with(&format!("refused: {reason}")), "{page}");
    let gets = said(&page, "mail gets").expect("a reply");
    assert!(gets.starts_with(reply), "{page}");
    assert!(page.ends_with("\n  mail is refused\n\n"), "{page}");
    let json = checked.json();
    assert_eq!(json["addresses"][0]["reason"], reason, "{json}");
    assert_eq!(json["addresses"][0]["reply"], gets, "{json}");
    assert_eq!(json["addresses"][0]["verdict"], "refused", "{json}");
    page
}

#[track_caller]
fn assert_nothing_of_mail_was_sent(world: World) {
    let heard = world.heard();
    for line in &heard {
        let (_, command) = line.split_once(':').expect("a stage");
        let harmless = ["EHLO proxy.hospital.example", "STARTTLS", "QUIT"];
        assert!(harmless.contains(&command), "{heard:?}");
    }
}

#[tokio::test]
async fn mail_passes_at_an_honest_server_which_hears_of_no_mail() {
    let mut world = World::new();
    world.serve(world.honest());
    let checked = world.check().await;
    let page = checked.page(false);
    assert!(!checked.any_refused(), "{page}");
    assert!(page.ends_with("\n  mail passes\n\n"), "{page}");
    assert_eq!(
        said(&page, "verdict"),
        Some("authorised: name mx.clinic.example, issuer CN=Test Root"),
        "{page}"
    );
    assert_eq!(said(&page, "level"), Some("verify, from mx"), "{page}");
    assert_eq!(
        said(&page, "certificate"),
        Some("names mx.clinic.example"),
        "{page}"
    );
    assert!(
        said(&page, "tls").is_some_and(|tls| tls.ends_with("sni=mx.clinic.example")),
        "{page}"
    );
    assert_eq!(said(&page, "mail gets"), None, "{page}");
    let json = checked.json();
    assert_eq!(json["addresses"][0]["verdict"], "authorised");
    assert_eq!(json["addresses"][0]["peer"]["facts"]["version"], "TLSv1.3");
    let heard = world.heard();
    let hello = "EHLO proxy.hospital.example";
    let told = [
        format!("0:{hello}"),
        "0:STARTTLS".into(),
        format!("1:{hello}"),
        "1:QUIT".into(),
    ];
    assert_eq!(heard, told);
}

#[tokio::test]
async fn a_greeting_that_refuses_is_told_and_blames_no_resolver() {
    let mut world = World::new();
    let greeting = "554 5.7.1 Blocked by RBL, see http://rbl.example/\x1b[2J\r\n";
    world.serve(Mx {
        greeting,
        ..Mx::default()
    });
    let checked = world.check().await;
    let page = assert_refused(&checked, "greeting-refused", "421 4.");
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains("554 5.7.1")),
        "{page}"
    );
    let heard = said(&page, "greeting").expect("it is told");
    assert!(
        heard.contains("unproved") && heard.contains("see http://rbl.example/\\x1b[2J"),
        "{page}"
    );
    assert!(!page.contains("look-up"), "{page}");
    assert_eq!(checked.json()["addresses"][0]["heard"][0]["unproved"], true);
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_greeting_421_is_told_with_its_words() {
    let mut world = World::new();
    let greeting = "421 4.7.0 too many connections from you\r\n";
    world.serve(Mx {
        greeting,
        ..Mx::default()
    });
    let checked = world.check().await;
    let page = assert_refused(&checked, "greeting-refused", "421 4.");
    assert!(
        said(&page, "greeting")
            .is_some_and(|heard| heard.contains("too many connections from you")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named() {
    let mut world = World::new();
    world.closed();
    let checked = world.check().await;
    let page = assert_refused(&checked, "server-unreachable", "421 4.4.1 ");
    let named = format!("127.0.0.1:{}: connection refused", world.port);
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains(&named)),
        "{page}"
    );
    assert!(checked.json()["addresses"][0]["unreachable"].is_string());
}

#[tokio::test]
async fn ehlo_550_is_told_and_is_no_missing_starttls() {
    let mut world = World::new();
    let ehlo = ["550 5.7.1 Helo name rejected\r\n", ""];
    world.serve(Mx {
        ehlo,
        ..Mx::default()
    });
    let checked = world.check().await;
    let page = assert_refused(&checked, "ehlo-refused", "421 4.");
    assert!(
        said(&page, "EHLO").is_some_and(|heard| heard.contains("550 5.7.1 Helo name rejected")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn starttls_454_is_told_and_is_no_missing_offer() {
    let mut world = World::new();
    let starttls = "454 4.7.0 certificate being renewed\r\n";
    world.serve(Mx {
        starttls,
        ..Mx::default()
    });
    let checked = world.check().await;
    let page = assert_refused(&checked, "starttls-refused", "421 4.");
    assert!(
        said(&page, "STARTTLS")
            .is_some_and(|heard| heard.contains("454 4.7.0 certificate being renewed")),
        "{page}"
    );
    assert!(!page.contains("not offered"), "{page}");
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_missing_offer_of_starttls_is_told_and_a_masked_one_for_what_it_is() {
    let mut world = World::new();
    let ehlo = ["250-mx.clinic.example\r\n250 SIZE 1000\r\n", ""];
    world.serve(Mx {
        ehlo,
        ..Mx::default()
    });
    let page = assert_refused(&world.check().await, "starttls-not-supported", "421 4.7.4 ");
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains("not offered")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);

    let mut world = World::new();
    let ehlo = ["250-mx.clinic.example\r\n250 XXXXXXXA\r\n", ""];
    world.serve(Mx {
        ehlo,
        ..Mx::default()
    });
    let page = assert_refused(&world.check().await, "starttls-not-supported", "421 4.7.4 ");
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains("XXXXXXXA")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_wrong_certificate_is_shown_and_refused() {
    let mut world = World::new();
    world.serve(world.named("mx.impostor.example"));
    let page = assert_refused(
        &world.check().await,
        "certificate-host-mismatch",
        "421 4.7.5 clinic.example: mx.clinic.example[127.0.0.1] ",
    );
    assert_eq!(
        said(&page, "certificate"),
        Some("names mx.impostor.example"),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn handshakes_that_break_are_told_as_such() {
    for tls in [Tls::Garbage, Tls::Ends] {
        let mut world = World::new();
        world.serve(Mx {
            tls,
            ..Mx::default()
        });
        let page = assert_refused(&world.check().await, "validation-failure", "421 4.7.5 ");
        assert_eq!(said(&page, "tls"), None, "{page}");
        assert_nothing_of_mail_was_sent(world);
    }
}

#[tokio::test]
async fn ehlo_that_is_refused_over_tls_is_no_passing() {
    let mut world = World::new();
    let mut mx = world.honest();
    mx.ehlo[1] = "550 5.7.1 not you\r\n";
    world.serve(mx);
    let checked = world.check().await;
    assert!(checked.refused(), "{}", checked.page(false));
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_silent_server_is_told_as_one_without_the_minutes_that_mail_would_wait() {
    let mut world = World::new();
    world.serve(Mx {
        greeting: "",
        ..Mx::default()
    });
    world.patience = Duration::from_millis(300);
    let page = assert_refused(&world.check().await, "server-gone", "421 4.4.2 127.0.0.1: ");
    assert!(
        said(&page, "waited").is_some_and(|words| words.contains("silent")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn one_address_that_takes_mail_is_enough_and_the_other_is_named() {
    let mut world = World::new();
    let greeting = "554 no\r\n";
    world.serve(Mx {
        greeting,
        ..Mx::default()
    });
    world.serve(world.honest());
    let checked = world.check().await;
    let page = checked.page(false);
    assert!(checked.any_refused() && !checked.refused(), "{page}");
    assert!(
        page.ends_with("\n  mail passes by some of the addresses only\n\n"),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn an_entry_that_allows_plaintext_passes_as_unprotected_and_sends_no_mail() {
    for (table, ehlo) in [
        ("clinic.example none\n", OFFER),
        ("clinic.example may\n", "250 mx.clinic.example\r\n"),
        ("[127.0.0.1] none\n", OFFER),
        ("[127.0.0.1] may\n", "250 mx.clinic.example\r\n"),
    ] {
        let mut world = World::new();
        world.table = table;
        world.serve(Mx {
            ehlo: [ehlo, ""],
            ..Mx::default()
        });
        let checked = world.check().await;
        let page = checked.page(false);
        assert!(!checked.any_refused(), "{table}: {page}");
        assert!(
            said(&page, "verdict").is_some_and(|words| words.starts_with("unprotected")),
            "{table}: {page}"
        );
        assert!(
            said(&page, "level").is_some_and(|words| words.contains("policy:1")),
            "{table}: {page}"
        );
        assert_nothing_of_mail_was_sent(world);
    }
}

#[tokio::test]
async fn an_entry_for_the_address_is_judged_at_ehlo_and_the_recipient_after_it() {
    let mut world = World::new();
    world.table = "[127.0.0.1] verify match=mx.clinic.example\n";
    world.serve(world.honest());
    let checked = world.check().await;
    assert!(!checked.any_refused(), "{}", checked.page(false));
    assert_nothing_of_mail_was_sent(world);

    // The recipient's own entry stands above that of the address, and what it demands is not shown.
    let mut world = World::new();
    world.table =
        "[127.0.0.1] verify match=mx.clinic.example\nclinic.example secure match=other.example\n";
    world.serve(world.honest());
    let page = assert_refused(
        &world.check().await,
        "certificate-host-mismatch",
        "451 4.7.5 clinic.example: ",
    );
    assert!(
        said(&page, "level").is_some_and(|words| words.contains("policy:2")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn what_a_resolver_fails_at_is_the_look_ups_fault() {
    let world = World::new();
    world.names.rcode.store(2, Ordering::SeqCst);
    let page = assert_refused(
        &world.check().await,
        "lookup-failed",
        "451 4.4.3 clinic.example: look-up failed: lookup-failed",
    );
    assert!(
        said(&page, "mx").is_some_and(|words| words.contains("look-up failed")),
        "{page}"
    );
}

#[tokio::test]
async fn level_none_for_all_is_asked_for_without_tls() {
    let mut world = World::new();
    world.settings.level = Level::Encrypt;
    world.serve(world.named("anybody.example"));
    let checked = world.check().await;
    assert!(!checked.any_refused(), "{}", checked.page(false));
    assert_nothing_of_mail_was_sent(world);
}
