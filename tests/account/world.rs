//! The running program between random clients and servers, set up anew for each seed.

use crate::{
    certs::Certs,
    client::{Client, Habits, Session},
    compare::Run,
    dice::Dice,
    heard::Connection,
    pki::Scratch,
    rules::{Line, Proof, Rules, Way},
    server::Server,
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use starttls_proxy::clock;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread::{self, JoinHandle},
};

/// Sessions of one run.
const SESSIONS: usize = 100;
/// Clients at a time, unless `ACCOUNT_CLIENTS` says how many.
const CLIENTS: usize = 4;
/// The number of sessions that the program may not have ended when it is told to stop, although their clients have left.
const LAST: usize = 12;
/// A port that was free may be somebody else's when the program asks for it.
const STARTS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Inbound,
    Upstream,
    UpstreamObserved,
    Gate,
    GateObserved,
}

fn certs() -> Arc<Certs> {
    static CERTS: OnceLock<Arc<Certs>> = OnceLock::new();
    Arc::clone(CERTS.get_or_init(|| Arc::new(Certs::new())))
}

/// The program and its log lines.
struct Program {
    child: Child,
    log: JoinHandle<String>,
}

impl Program {
    /// Returns when the program is ready, else returns its log lines.
    fn start(arguments: &[String]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (tell, told) = mpsc::channel();
        let log = thread::spawn(move || {
            let mut log = String::new();
            for line in stderr.lines() {
                let line = line.expect("a log is text");
                if line.contains(": ready") {
                    // The receiver may have given up waiting.
                    let _ = tell.send(());
                }
                log += &line;
                log.push('\n');
            }
            log
        });
        let program = Self { child, log };
        match told.recv() {
            Ok(()) => Ok(program),
            Err(_) => Err(program.log.join().expect("a log")),
        }
    }

    fn signal(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.expect("kill").success());
    }

    fn wait(mut self) {
        let status = self.child.wait().expect("it ends");
        let log = self.log.join().expect("a log");
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// What differs between the kinds.
struct Setting {
    rules: Rules,
    arguments: Vec<String>,
    habits: Habits,
    /// For sessions whose recipients need no entry of their own.
    habits_by_address: Habits,
    server: Server,
    /// Where the program listens, if it does not intercept.
    listen: Option<SocketAddr>,
}

/// Plays the sessions of this seed and stops the program. Returns what clients and servers wrote down.
pub fn run(kind: Kind, seed: u64) -> Run {
    let mut why = String::new();
    for _ in 0..STARTS {
        match try_run(kind, seed) {
            Ok(run) => return run,
            Err(words) if words.contains("in use") => why = words,
            Err(words) => panic!("ACCOUNT_SEED={seed} {kind:?}: {words}"),
        }
    }
    panic!("no port was to be had {STARTS} times: {why}");
}

fn try_run(kind: Kind, seed: u64) -> Result<Run, String> {
    let scratch = Scratch::new();
    let certs = certs();
    let mut setting = setting(kind, seed, &scratch.0, &certs);
    let log = scratch.0.join("audit.jsonl").display().to_string();
    // No client is in the middle of a message when the program is stopped. A session that hangs is cut off.
    let always = words(&["--audit-log", &log, "--drain-timeout", "60"]);
    setting.arguments.extend(always);
    let program = match Program::start(&setting.arguments) {
        Ok(program) => program,
        Err(words) => {
            setting.server.finish();
            return Err(words);
        }
    };
    let sessions = sessions(&setting, seed, &certs, || program.signal());
    program.wait();
    let connections: Vec<Connection> = setting.server.finish();
    let verified = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"))
        .args(["audit", "verify", &log])
        .output()
        .expect("it runs");
    assert!(
        verified.status.success(),
        "ACCOUNT_SEED={seed} {kind:?}: {verified:?}"
    );
    let text = fs::read_to_string(&log).expect("a log");
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    Ok(Run {
        rules: setting.rules,
        sessions,
        connections,
        records: records.collect(),
    })
}

/// Plays all sessions; `stop` is called when only those are left that stay.
fn sessions(setting: &Setting, seed: u64, certs: &Certs, stop: impl FnOnce()) -> Vec<Session> {
    let next = Mutex::new((0, Dice::new(seed)));
    let (done, staying) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let client = || {
        loop {
            let (number, seed) = {
                let mut next = next.lock().expect("nobody panics");
                next.0 += 1;
                (next.0 - 1, next.1.roll())
            };
            if number >= SESSIONS {
                return;
            }
            // Now and then a client comes again at once, to the same place.
            let again = setting.listen.is_none() && seed % 5 == 0;
            for number in [number, number + SESSIONS]
                .into_iter()
                .take(1 + usize::from(again))
            {
                let mut client = connect(setting, number, seed, certs);
                client.stays &= !again;
                client.run();
                client.heard.last = next.lock().expect("nobody panics").0 + LAST > SESSIONS;
                if client.stays {
                    staying.lock().expect("nobody panics").push(client);
                } else {
                    done.lock().expect("nobody panics").push(client.heard);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..crate::variable("ACCOUNT_CLIENTS").unwrap_or(CLIENTS) {
            scope.spawn(client);
        }
    });
    stop();
    let mut done = done.into_inner().expect("nobody panicked");
    for mut client in staying.into_inner().expect("nobody panicked") {
        client.hear_the_end();
        done.push(client.heard);
    }
    done.sort_by_key(|session| session.number);
    done
}

/// Each session has ends of its own: intercepted, where it goes, else where it comes from.
fn connect<'a>(setting: &'a Setting, number: usize, seed: u64, certs: &'a Certs) -> Client<'a> {
    let began = clock::instant();
    // A client that comes again goes to the same place, with other mail.
    let mut dice = Dice::new(!seed);
    let seed = seed.wrapping_add(number as u64);
    let place = number % SESSIONS;
    let (third, fourth) = (place / 250, place % 250 + 1);
    let octet = |value: usize| u8::try_from(value).expect("there are few sessions");
    let ip = |first, second| Ipv4Addr::new(first, second, octet(third), octet(fourth));
    let Some(listen) = setting.listen else {
        let network = match dice.below(20) {
            0 => 255,
            1..=4 => 192,
            5..=8 => 200,
            _ => 128,
        };
        let to = SocketAddr::from((ip(10, network), 25));
        let tcp = TcpStream::connect(to).expect("the program listens");
        let habits = if matches!(network, 192 | 200) {
            &setting.habits_by_address
        } else {
            &setting.habits
        };
        return Client::new(tcp, to, number, seed, habits, certs, began);
    };
    let network = dice.pick(&[66, 70, 70, 70, 70, 77]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((ip(127, network), 0));
    socket
        .bind(&from.into())
        .expect("loopback has many addresses");
    socket.connect(&listen.into()).expect("the program listens");
    let habits = &setting.habits;
    Client::new(socket.into(), listen, number, seed, habits, certs, began)
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0");
    listener
        .and_then(|listener| listener.local_addr())
        .expect("a port")
}

fn file(scratch: &Path, name: &str, text: &str) -> String {
    let path = scratch.join(name);
    fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// Makes a table of these lines, and the rules of the model for the same lines.
struct Table {
    file: String,
    text: String,
    lines: Vec<Line>,
}

impl Table {
    fn line(
        &mut self,
        key: &'static str,
        written: &str,
        level: &'static str,
        proof: Proof,
        attributes: &str,
    ) {
        let number = self.text.lines().count() + 1;
        self.text += &format!("{written} {level} {attributes}\n");
        self.lines.push(Line {
            key,
            level,
            proof,
            basis: "table",
            rule: format!("{}:{number}", self.file),
        });
    }
}

fn setting(kind: Kind, seed: u64, scratch: &Path, certs: &Arc<Certs>) -> Setting {
    match kind {
        Kind::Inbound => inbound(seed, scratch, certs),
        Kind::Upstream | Kind::UpstreamObserved => {
            upstream(seed, scratch, certs, kind == Kind::UpstreamObserved)
        }
        Kind::Gate | Kind::GateObserved => gate(seed, scratch, certs, kind == Kind::GateObserved),
    }
}

const SENDERS: &[&str] = &["client.test", "Other-Client.test", ""];

fn outbound_habits(recipients: &'static [&'static str]) -> Habits {
    Habits {
        recipients,
        senders: SENDERS,
        starts_tls: 0,
    }
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

fn table(scratch: &Path) -> Table {
    Table {
        file: scratch.join("policy").display().to_string(),
        text: String::from("# The rules of this run.\n\n"),
        lines: Vec::new(),
    }
}

fn gate(seed: u64, scratch: &Path, certs: &Arc<Certs>, observe: bool) -> Setting {
    let server = Server::start("0.0.0.0:25", seed, true, Arc::clone(certs));
    let pin = &certs.servers[0].0.sha256;
    let pinned = || Proof::Certificate(pin.clone());
    let mut table = table(scratch);
    const SNI: &str = "servername=mx.secure.test";
    table.line(
        "pinned.test",
        "pinned.test",
        "fingerprint",
        pinned(),
        &format!("match={pin} {SNI}"),
    );
    table.line(
        "secure.test",
        "secure.test",
        "secure",
        Proof::Name("mx.secure.test"),
        &format!("match=mx.secure.test {SNI}"),
    );
    table.line(
        "other.test",
        "other.test",
        "secure",
        Proof::Name("mx.other.test"),
        &format!("match=mx.other.test {SNI}"),
    );
    table.line(
        "verify.test",
        "verify.test",
        "verify",
        Proof::Name("mx.verify.test"),
        &format!("match=mx.verify.test {SNI}"),
    );
    table.line("enc.test", "enc.test", "encrypt", Proof::Nothing, SNI);
    let plaintext = seed % 2 == 1;
    if plaintext {
        table.line(
            "clear.test",
            "clear.test",
            "none",
            Proof::Nothing,
            "until=2099-12-31 reason=\"a scanner, ticket 4711\"",
        );
        table.line("may.test", "may.test", "may", Proof::Nothing, SNI);
        table.line("perhaps.test", "perhaps.test", "may", Proof::Nothing, SNI);
    }
    table.line("10.192.", "10.192.0.0/16", "encrypt", Proof::Nothing, SNI);
    table.line(
        "10.200.",
        "10.200.0.0/16",
        "fingerprint",
        pinned(),
        &format!("match={pin}"),
    );
    let policy = file(scratch, "policy", &table.text);
    let roots = file(scratch, "roots.pem", &certs.root.pem());
    let mut arguments = words(&[
        "outbound",
        "--listen",
        "0.0.0.0:2525",
        "--intercept",
        "redirect",
        "--fwmark",
        "1",
    ]);
    arguments.extend(words(&[
        "--no-dane",
        "--no-mta-sts",
        "--hostname",
        "proxy.test",
        "--ca-file",
        &roots,
        "--policy",
        &policy,
    ]));
    arguments.extend(observe.then(|| "--observe".into()));
    let (recipients, by_address): (&'static [&'static str], &'static [&'static str]) = if plaintext
    {
        (
            &[
                "secure.test",
                "pinned.test",
                "enc.test",
                "verify.test",
                "other.test",
                "clear.test",
                "clear.test",
                "may.test",
                "perhaps.test",
                "[192.0.2.1]",
                "[IPv6:2001:db8::1]",
            ],
            &[
                "secure.test",
                "pinned.test",
                "clear.test",
                "may.test",
                "nowhere.test",
                "[192.0.2.1]",
                "[IPv6:2001:db8::1]",
            ],
        )
    } else {
        (
            &[
                "secure.test",
                "secure.test",
                "pinned.test",
                "enc.test",
                "verify.test",
                "other.test",
                "[192.0.2.1]",
                "[IPv6:2001:db8::1]",
            ],
            &[
                "secure.test",
                "pinned.test",
                "nowhere.test",
                "[192.0.2.1]",
                "[IPv6:2001:db8::1]",
            ],
        )
    };
    Setting {
        rules: Rules {
            way: Way::Gate,
            observe,
            lines: table.lines,
        },
        arguments,
        habits: outbound_habits(recipients),
        habits_by_address: outbound_habits(by_address),
        server,
        listen: None,
    }
}

fn upstream(seed: u64, scratch: &Path, certs: &Arc<Certs>, observe: bool) -> Setting {
    const RECIPIENTS: &[&str] = &[
        "secure.test",
        "other.test",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
    ];
    let server = Server::start("127.0.0.1:0", seed, true, Arc::clone(certs));
    let listen = free();
    let (at, to) = (listen.to_string(), server.address.to_string());
    let roots = file(scratch, "roots.pem", &certs.root.pem());
    let mut arguments = words(&[
        "outbound",
        "--listen",
        &at,
        "--upstream",
        &to,
        "--no-dane",
        "--no-mta-sts",
        "--hostname",
        "proxy.test",
        "--ca-file",
        &roots,
    ]);
    arguments.extend(observe.then(|| "--observe".into()));
    let lines = if seed % 2 == 1 {
        arguments.extend(words(&["--level", "verify"]));
        vec![Line {
            key: "127.0.0.1",
            level: "verify",
            proof: Proof::Name("127.0.0.1"),
            basis: "upstream",
            rule: String::from("--upstream"),
        }]
    } else {
        let mut table = table(scratch);
        let pin = certs.servers[0].0.sha256.clone();
        let attributes = format!("match={pin}");
        table.line(
            "127.0.0.1",
            "[127.0.0.1]",
            "fingerprint",
            Proof::Certificate(pin),
            &attributes,
        );
        arguments.extend(words(&["--policy", &file(scratch, "policy", &table.text)]));
        table.lines
    };
    Setting {
        rules: Rules {
            way: Way::Upstream,
            observe,
            lines,
        },
        arguments,
        habits: outbound_habits(RECIPIENTS),
        habits_by_address: outbound_habits(RECIPIENTS),
        server,
        listen: Some(listen),
    }
}

fn inbound(seed: u64, scratch: &Path, certs: &Arc<Certs>) -> Setting {
    let server = Server::start("127.0.0.1:0", seed, false, Arc::clone(certs));
    let listen = free();
    let (at, to) = (listen.to_string(), server.address.to_string());
    let (cert, key) = certs.root.leaf(&["mx.secure.test"]).write(scratch, "own");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let roots = file(scratch, "roots.pem", &certs.root.pem());
    let pin = certs.clients[1]
        .0
        .as_ref()
        .expect("it shows one")
        .sha256
        .clone();
    let mut table = table(scratch);
    table.line(
        "@partner.test",
        "@partner.test",
        "verify",
        Proof::Name("partner.test"),
        "match=partner.test",
    );
    let attributes = format!("match={pin}");
    table.line(
        "@pinned.test",
        "@pinned.test",
        "fingerprint",
        Proof::Certificate(pin),
        &attributes,
    );
    table.line(
        "127.77.",
        "127.77.0.0/16",
        "verify",
        Proof::Name("partner.test"),
        "match=partner.test",
    );
    if seed % 2 == 1 {
        table.line(
            "@clear.test",
            "@clear.test",
            "none",
            Proof::Nothing,
            "until=2099-12-31 reason=\"a scanner, ticket 4711\"",
        );
    }
    let policy = file(scratch, "policy", &table.text);
    let mut arguments = words(&[
        "inbound",
        "--listen",
        &at,
        "--upstream",
        &to,
        "--hide-client-address",
        "--relay-probe",
        "off",
    ]);
    arguments.extend(words(&[
        "--hostname",
        "proxy.test",
        "--cert",
        &cert,
        "--key",
        &key,
        "--client-auth",
        "request",
    ]));
    arguments.extend(words(&[
        "--client-ca",
        &roots,
        "--policy",
        &policy,
        "--exempt",
        "127.66.0.0/16",
    ]));
    let mut lines = table.lines;
    lines.push(Line {
        key: "127.66.",
        level: "exempt",
        proof: Proof::Nothing,
        basis: "exempt",
        rule: String::from("--exempt 127.66.0.0/16"),
    });
    let habits = || Habits {
        recipients: &["clinic.test", "Clinic.test", "[192.0.2.1]"],
        senders: &[
            "partner.test",
            "partner.test",
            "pinned.test",
            "clear.test",
            "stranger.test",
            "[192.0.2.1]",
            "",
        ],
        starts_tls: 75,
    };
    Setting {
        rules: Rules {
            way: Way::Inbound,
            observe: false,
            lines,
        },
        arguments,
        habits: habits(),
        habits_by_address: habits(),
        server,
        listen: Some(listen),
    }
}
