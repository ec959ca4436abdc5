//! A client and a server that do the same in each run, and the program between them. Each waits for what the other says, so the
//! program has one thing to do at a time, and what it does can be counted.

use crate::{
    name_server::name_server,
    running::{
        Scratch, free, nowhere,
        pki::{Authority, Leaf},
        written,
    },
    table::{Log, Unit, Way},
    wire::Wire,
};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, pki_types::ServerName,
};
use std::{
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A wait this long means that something hangs.
const HANG: Duration = Duration::from_secs(60);
/// The domain of the recipients, and its mail server.
const DOMAIN: &str = "clinic.example";
const NAME: &str = "mx.clinic.example";
const MAIL: &str = "MAIL FROM:<ward@hospital.example>\r\n";
const RCPT: &str = "RCPT TO:<lab@clinic.example>\r\n";
const DATA: &str = "DATA\r\n";
/// The number of the next message that is like no other.
static MESSAGE: AtomicUsize = AtomicUsize::new(0);

/// A program's arguments, the server behind it, and what its clients need.
pub struct Stage {
    pub arguments: Vec<String>,
    /// Variables of the program's environment that load `preload.c` before libc.
    pub preload: Vec<(&'static str, String)>,
    listen: SocketAddr,
    /// Inbound: clients start TLS.
    tls: Option<Arc<ClientConfig>>,
    files: Scratch,
}

impl Stage {
    pub fn new(way: Way, log: Log) -> Self {
        let files = Scratch::new();
        let authority = Authority::root("Budget Root");
        let leaf = authority.leaf(&[NAME]);
        let listen = free();
        let at = listen.to_string();
        let mut preload = vec![("LD_PRELOAD", compiled(&files))];
        let (arguments, tls) = match way {
            Way::Outbound => {
                let server = server(Some(Arc::new(server_config(&leaf))));
                preload.push(("SERVER_PORT", server.port().to_string()));
                let roots = files.file("roots.pem", authority.pem());
                let table = files.file("policy", format!("{DOMAIN} secure match={NAME}\n"));
                let own = ["outbound", "--intercept", "redirect", "--ca-file", &roots];
                let resolver = name_server().to_string();
                let fixed = ["--no-dane", "--no-mta-sts", "--policy", &table];
                let fixed = [&fixed[..], &["--resolver", &resolver]].concat();
                (owned(&[&own, &fixed]), None)
            }
            Way::Inbound => {
                let to = server(None).to_string();
                let (cert, key) = leaf.write(&files.0, "mx");
                let (cert, key) = (cert.display().to_string(), key.display().to_string());
                let own = ["inbound", "--upstream", &to, "--cert", &cert, "--key", &key];
                let fixed = ["--relay-probe", "off", "--hide-client-address"];
                let config = Arc::new(authority.client_config());
                (owned(&[&own, &fixed]), Some(config))
            }
        };
        let shared = ["--listen", &at, "--hostname", "proxy.hospital.example"];
        let many = ["--max-sessions-per-client", "1000"];
        let records = files.path("records/audit.jsonl");
        let log: &[&str] = match log {
            Log::Off => &[],
            Log::On => &["--audit-log", &records],
        };
        Self {
            arguments: [arguments, owned(&[&shared, &many, log])].concat(),
            preload,
            listen,
            tls,
            files,
        }
    }

    /// The same, with nobody where outbound mail is to go.
    pub fn without_server(mut self) -> Self {
        let mut variables = self.preload.iter_mut();
        let port = variables.find(|(name, _)| *name == "SERVER_PORT");
        port.expect("outbound").1 = nowhere().port().to_string();
        self
    }

    /// Where the program listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The audit log.
    pub fn records(&self) -> String {
        written(self.files.path("records/audit.jsonl"))
    }

    /// Before a run of the program: no records are there that it would read.
    pub fn clear(&self) {
        let records = self.files.0.join("records");
        // At first there are none.
        let _ = fs::remove_dir_all(&records);
        fs::create_dir(records).expect("a folder");
    }

    /// Does this work `times` times: cold sessions of one message each, messages in one session, or recipients of one message.
    pub fn play(&self, unit: Unit, times: usize) {
        match unit {
            Unit::ColdSession => {
                for _ in 0..times {
                    let mut client = self.client();
                    client.message_in_a_group();
                    client.quit();
                }
            }
            Unit::Recipient => {
                let mut client = self.client();
                client.message_to(times);
                client.quit();
            }
            Unit::GroupedMessage | Unit::LockStepMessage => {
                let mut client = self.client();
                for _ in 0..times {
                    match unit {
                        Unit::LockStepMessage => client.message_in_lock_step(),
                        _ => client.message_in_a_group(),
                    }
                }
                client.quit();
            }
        }
    }

    /// One session with so many messages to so many recipients each. No two messages are the same.
    pub fn session(&self, messages: usize, recipients: usize) {
        let mut client = self.client();
        for _ in 0..messages {
            let number = MESSAGE.fetch_add(1, Ordering::Relaxed);
            let sender = format!("MAIL FROM:<ward-{:02}@hospital.example>\r\n", number % 40);
            client.says(&sender, &["250"]);
            for other in 0..recipients {
                let address = format!("laboratory-{:02}@{DOMAIN}", (number * 7 + other) % 100);
                client.says(&format!("RCPT TO:<{address}>\r\n"), &["250"]);
            }
            client.says(DATA, &["354"]);
            // No two have the same digest.
            client.says(&format!("Number: {number:08}\r\n{}", content()), &["250"]);
        }
        client.quit();
    }

    /// A client that may send mail.
    pub fn client(&self) -> Client {
        let tcp = TcpStream::connect(self.listen).expect("the program listens");
        let mut client = Client(Wire::new(tcp, HANG));
        client.hears(&["220"]);
        client.says("EHLO client.example\r\n", &["250"]);
        if let Some(config) = &self.tls {
            client.says("STARTTLS\r\n", &["220"]);
            let name = ServerName::try_from(NAME).expect("a name");
            let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a connection");
            // Sent together with the end of the handshake. Sent after it, both would be one read or two.
            tls.writer()
                .write_all(b"EHLO client.example\r\n")
                .expect("room");
            assert!(client.0.start_tls(tls), "no TLS");
            client.hears(&["250"]);
        }
        client
    }
}

pub struct Client(Wire);

impl Client {
    pub fn says(&mut self, octets: &str, codes: &[&str]) {
        assert!(self.0.write(octets.as_bytes()), "the program is gone");
        self.hears(codes);
    }

    fn hears(&mut self, codes: &[&str]) {
        for code in codes {
            loop {
                let line = self.0.line().expect("a reply");
                assert!(line.starts_with(code), "wanted {code}, got {line:?}");
                if line.as_bytes().get(3) != Some(&b'-') {
                    break;
                }
            }
        }
    }

    pub fn message_in_a_group(&mut self) {
        self.message_to(1);
    }

    /// A message to so many recipients, with all commands in a group.
    fn message_to(&mut self, recipients: usize) {
        let replies = [&vec!["250"; 1 + recipients][..], &["354"]].concat();
        self.says(&[MAIL, &RCPT.repeat(recipients), DATA].concat(), &replies);
        self.says(&content(), &["250"]);
    }

    fn message_in_lock_step(&mut self) {
        self.says(MAIL, &["250"]);
        self.says(RCPT, &["250"]);
        self.says(DATA, &["354"]);
        self.says(&content(), &["250"]);
    }

    pub fn quit(mut self) {
        self.says("QUIT\r\n", &["221"]);
        assert_eq!(self.0.line(), None, "more than the reply to QUIT");
    }
}

/// A message of 4 KiB with the end of it.
fn content() -> String {
    let line = "x".repeat(76) + "\r\n";
    format!("Subject: budgets\r\n\r\n{}.\r\n", line.repeat(52))
}

/// A mail server that takes all mail. It answers everything that it reads at once in one write.
fn server(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let tls = tls.clone();
            thread::spawn(move || serve(Wire::new(tcp, HANG), tls));
        }
    });
    address
}

fn serve(mut wire: Wire, tls: Option<Arc<ServerConfig>>) {
    let mut replies = String::from("220 mx.clinic.example\r\n");
    let (mut heard, mut message) = (Vec::new(), false);
    while wire.write(replies.as_bytes()) {
        replies.clear();
        let piece = wire.piece(64 * 1024);
        if piece.is_empty() {
            return;
        }
        heard.extend(piece);
        while let Some(end) = heard.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = heard.drain(..end + 2).collect();
            if message {
                if line == b".\r\n" {
                    message = false;
                    replies += "250 2.0.0 queued\r\n";
                }
                continue;
            }
            replies += match line.get(..4).unwrap_or_default() {
                b"EHLO" if tls.is_some() => {
                    "250-mx.clinic.example\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250 STARTTLS\r\n"
                }
                b"EHLO" => {
                    "250-mx.clinic.example\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250 8BITMIME\r\n"
                }
                b"DATA" => "354 go on\r\n",
                b"STAR" => "220 2.0.0 go on\r\n",
                b"QUIT" => "221 2.0.0 bye\r\n",
                _ => "250 2.1.0 ok\r\n",
            };
            message = line.starts_with(b"DATA");
            if line.starts_with(b"STAR") {
                let config = Arc::clone(tls.as_ref().expect("it was offered"));
                let connection = ServerConnection::new(config).expect("a connection");
                if !wire.write(replies.as_bytes()) || !wire.start_tls(connection) {
                    return;
                }
                replies.clear();
            }
        }
    }
}

fn owned(parts: &[&[&str]]) -> Vec<String> {
    parts.concat().into_iter().map(str::to_owned).collect()
}

/// Why `preload.c` cannot be compiled here.
pub fn no_compiler() -> Option<String> {
    match compile(&Scratch::new()) {
        Ok((_, made)) if made.status.success() => None,
        Ok((_, made)) => Some(String::from_utf8_lossy(&made.stderr).into_owned()),
        Err(error) => Some(format!("cc: {error}")),
    }
}

/// The library made of `preload.c`.
pub fn compiled(files: &Scratch) -> String {
    let (library, made) = compile(files).expect("a compiler");
    assert!(made.status.success(), "{made:?}");
    library
}

fn compile(files: &Scratch) -> io::Result<(String, Output)> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/budgets/preload.c");
    let library = files.path("preload.so");
    let mut command = Command::new("cc");
    // Else the compiler would know what malloc does, and leave some of it out.
    command.args([
        "-shared",
        "-fPIC",
        "-O2",
        "-Wall",
        "-Wextra",
        "-fno-builtin",
    ]);
    let made = command.args([source, "-o", &library]).output()?;
    Ok((library, made))
}

fn server_config(leaf: &Leaf) -> ServerConfig {
    let mut config = leaf.server_config();
    // Tickets come whenever the server likes. They would make one read more, or not.
    config.send_tls13_tickets = 0;
    config
}
