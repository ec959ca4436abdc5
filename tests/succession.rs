//! A new process in the place of the old one, under load: nobody is refused, and each message that was acknowledged was delivered and
//! recorded once.

#[path = "support/running.rs"]
mod running;

use running::{
    CLOSED, Client, HANG, Pair, Proxy, exit_code_and_words, free, metrics_page, nowhere, pair,
    written,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

const SENDERS: usize = 8;
/// Messages that the senders bring in between two steps of a test.
const SOME: usize = 100;

/// An inside server that counts how often each sender's message was accepted.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<BTreeMap<String, usize>>>);

impl Sink {
    fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let sink = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = sink.clone();
                thread::spawn(move || sink.talk(stream));
            }
        });
        address
    }

    fn talk(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        let (mut sender, mut content) = (String::new(), false);
        let mut answer = "220 inside\r\n";
        loop {
            stream.get_mut().write_all(answer.as_bytes()).ok()?;
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|got| *got > 0)?;
            answer = match (content, line.get(..4)) {
                (true, _) if line != ".\r\n" => "",
                (true, _) => {
                    let mut seen = self.0.lock().expect("whole");
                    *seen.entry(std::mem::take(&mut sender)).or_default() += 1;
                    "250 2.0.0 taken\r\n"
                }
                (_, Some("EHLO")) => "250-inside\r\n250 SIZE 1000000\r\n",
                (_, Some("DATA")) => "354 go\r\n",
                (_, Some("QUIT")) => "221 bye\r\n",
                (_, Some("MAIL")) => {
                    let name = line.split(['<', '>']).nth(1);
                    sender = name.unwrap_or_default().to_owned();
                    "250 2.1.0 ok\r\n"
                }
                _ => "250 2.1.0 ok\r\n",
            };
            content = answer.starts_with("354") || (content && answer.is_empty());
        }
    }
}

/// Senders that bring in messages until they are asked to stop.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    /// Connections that were refused, or ended before a greeting.
    refused: Arc<AtomicUsize>,
    /// Sessions that were asked to come again, outside of a message.
    put_off: Arc<AtomicUsize>,
    /// Messages whose fate their sender does not know.
    unsure: Arc<AtomicUsize>,
    /// The longest wait for a greeting, and for the acknowledgement of a message, in milliseconds.
    waits: [Arc<AtomicUsize>; 2],
}

/// How a session went.
enum Course {
    Whole,
    PutOff,
    Refused,
    Unsure,
}

impl Load {
    fn start(&self, to: SocketAddr) -> Vec<thread::JoinHandle<()>> {
        let one = |sender: usize| {
            let load = self.clone();
            thread::spawn(move || {
                let mut number = 0;
                while !load.stop.load(SeqCst) {
                    let counter = match load.session(to, sender, &mut number) {
                        Course::Whole => continue,
                        Course::PutOff => &load.put_off,
                        Course::Refused => &load.refused,
                        Course::Unsure => &load.unsure,
                    };
                    counter.fetch_add(1, SeqCst);
                }
            })
        };
        (0..SENDERS).map(one).collect()
    }

    /// Three messages in one session. A message that was not acknowledged is brought in again in the next one.
    fn session(&self, to: SocketAddr, sender: usize, number: &mut usize) -> Course {
        let Ok(stream) = TcpStream::connect(to) else {
            return Course::Refused;
        };
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        let mut stream = BufReader::new(stream);
        let mut ask = |line: &str| {
            let mut reply = String::from("-");
            stream.get_mut().write_all(line.as_bytes()).ok()?;
            // The last line of a reply has no hyphen behind its code.
            while reply.is_empty() || reply.as_bytes().get(3).is_none_or(|octet| *octet == b'-') {
                reply.clear();
                stream.read_line(&mut reply).ok().filter(|got| *got > 0)?;
            }
            Some(reply)
        };
        let is =
            |reply: Option<String>, code: &str| reply.is_some_and(|text| text.starts_with(code));
        let begin = starttls_proxy::clock::instant();
        let greeting = ask("");
        self.waits[0].fetch_max(begin.elapsed().as_millis() as usize, SeqCst);
        match greeting {
            Some(greeting) if greeting.starts_with("220") => {}
            Some(_) => return Course::PutOff,
            None => return Course::Refused,
        }
        if !is(ask("EHLO client.example\r\n"), "250") {
            return Course::PutOff;
        }
        for _ in 0..3 {
            let name = format!("m{sender}-{number}@ex.example");
            if !is(ask(&format!("MAIL FROM:<{name}>\r\n")), "250")
                || !is(ask("RCPT TO:<a@clinic.example>\r\n"), "250")
                || !is(ask("DATA\r\n"), "354")
            {
                return Course::PutOff;
            }
            let begin = starttls_proxy::clock::instant();
            let reply = ask("Subject: x\r\n\r\ntext\r\n.\r\n");
            self.waits[1].fetch_max(begin.elapsed().as_millis() as usize, SeqCst);
            match reply {
                Some(reply) if reply.starts_with("250") => {
                    self.acknowledged.lock().expect("whole").push(name);
                }
                _ => return Course::Unsure,
            }
            *number += 1;
        }
        is(ask("QUIT\r\n"), "221");
        Course::Whole
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("whole").len()
    }

    /// Waits until so many more messages were acknowledged.
    fn brings(&self, more: usize) {
        let mut before = self.count();
        let wanted = before + more;
        let mut begin = starttls_proxy::clock::instant();
        while before < wanted {
            assert!(begin.elapsed() < HANG, "no more mail gets through");
            thread::sleep(Duration::from_millis(10));
            let now = self.count();
            if now > before {
                (before, begin) = (now, starttls_proxy::clock::instant());
            }
        }
    }

    /// Stops the senders; everything acknowledged was delivered and recorded exactly once.
    fn assert_exactly_once(&self, senders: Vec<thread::JoinHandle<()>>, sink: &Sink) {
        self.stop.store(true, SeqCst);
        for sender in senders {
            sender.join().expect("no panic");
        }
        let [greeting, message] = &self.waits;
        eprintln!(
            "{} messages; the longest wait for a greeting {} ms, for an acknowledgement {} ms; {} sessions asked to come again",
            self.count(),
            greeting.load(SeqCst),
            message.load(SeqCst),
            self.put_off.load(SeqCst)
        );
        assert_eq!(self.refused.load(SeqCst), 0, "refused");
        assert_eq!(self.unsure.load(SeqCst), 0, "without an answer");
        let seen = sink.0.lock().expect("whole");
        let acknowledged = self.acknowledged.lock().expect("whole");
        let mut names: Vec<&String> = acknowledged.iter().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), acknowledged.len(), "acknowledged twice");
        for name in names {
            assert_eq!(seen.get(name), Some(&1), "{name}");
        }
        assert_eq!(
            seen.values().sum::<usize>(),
            acknowledged.len(),
            "delivered"
        );
    }
}

/// A process that is not a child of the test; ended with the test.
struct Successor(u32);

impl Successor {
    /// Reads its number from the log of the process before it.
    fn of(proxy: &mut Proxy) -> Self {
        let said = proxy.says("goes on; sessions that are open end here");
        let pid = said.split(' ').find_map(|word| word.parse().ok());
        Self(pid.expect("a number"))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // After a test that went well it is not there any more.
        let _ = Command::new("kill")
            .args(["-KILL", &self.0.to_string()])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// The records of one log, which must be whole; how often each sender's message is recorded as accepted.
fn records(log: &str) -> (Vec<Value>, BTreeMap<String, usize>) {
    let (code, said) = exit_code_and_words(&["audit", "verify", log]);
    assert_eq!(code, Some(0), "{said}");
    let text = written(log);
    let all: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut accepted = BTreeMap::new();
    let messages = all
        .iter()
        .filter(|one| one["event"] == "message" && one["outcome"] == "accepted");
    for message in messages {
        let sender = message["sender"].as_str().expect("a sender").to_owned();
        *accepted.entry(sender).or_default() += 1;
    }
    (all, accepted)
}

fn assert_recorded_once(acknowledged: &[String], accepted: &BTreeMap<String, usize>) {
    assert_eq!(accepted.len(), acknowledged.len());
    for name in acknowledged {
        assert_eq!(accepted.get(name), Some(&1), "{name}");
    }
}

#[test]
fn three_successors_under_load_refuse_nobody_and_lose_and_double_nothing() {
    let pair = pair();
    let sink = Sink::default();
    let (listen, metrics) = (free(), free());
    let log = pair.scratch.path("audit.jsonl");
    let key = pair.scratch.path("audit.key");
    exit_code_and_words(&["audit", "keygen", "--out", &key]);
    let metrics_at = metrics.to_string();
    let more = [
        "--exempt",
        "127.0.0.0/8",
        "--audit-log",
        &log,
        "--audit-key",
        &key,
        "--metrics",
        &metrics_at,
    ];
    let more = [&more[..], &["--max-sessions-per-client", "100"]].concat();
    let mut proxy = Proxy::ready(&pair.inbound(listen, sink.serve(), &more));
    let load = Load::default();
    let senders = load.start(listen);
    let mut pids = vec![proxy.child.id()];
    let mut successors = Vec::new();
    for _ in 0..3 {
        load.brings(SOME);
        // A session that is amid a message when the other process takes over.
        let mut long = Client::introduced(listen);
        let name = format!("long{}@ex.example", pids.len());
        long.begins_mail(&name, &["a@clinic.example"]);
        long.says("Subject: the first half");

        signal(pids[pids.len() - 1], "-USR2");
        successors.push(Successor::of(&mut proxy));
        pids.push(successors[successors.len() - 1].0);
        // The new one serves, records and acknowledges while the old one has a session.
        load.brings(SOME);
        long.says("").says("the second half").says(".").hears("250");
        long.says("NOOP").hears("250");
        load.acknowledged.lock().expect("whole").push(name);
        long.says("QUIT").hears("221");
        proxy.says("stopped: every session has ended");
    }
    assert!(proxy.ends().success(), "the first process");
    load.brings(SOME);
    assert!(metrics_page(metrics).contains("starttls_proxy_sessions_open"));
    load.assert_exactly_once(senders, &sink);
    assert_eq!(load.put_off.load(SeqCst), 0, "asked to come again");
    signal(pids[3], "-TERM");
    proxy.last_words();

    let (records, accepted) = records(&log);
    assert_recorded_once(&load.acknowledged.lock().expect("whole"), &accepted);
    let of = |event: &str, field: &str| -> Vec<Value> {
        let all = records.iter().filter(|one| one["event"] == event);
        all.map(|one| one[field].clone()).collect()
    };
    assert_eq!(of("start", "pid"), pids);
    let reasons: Vec<String> = pids[1..]
        .iter()
        .map(|pid| format!("SIGUSR2: process {pid} goes on"))
        .chain([String::from("SIGTERM")])
        .collect();
    assert_eq!(of("stop", "reason"), reasons);
    assert_eq!(of("log-opened", "torn"), vec![Value::Null; 4]);
    // Each goes on with the keys of the one before.
    let first = of("log-opened", "epoch")[0].as_str().map(str::to_owned);
    let first = first.expect("a first key");
    let (code, said) = exit_code_and_words(&["audit", "verify", "--first-key", &first, &log]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(of("key-lost", "epoch").len(), 0);
}

/// What systemd does for a socket unit: keeps the socket, and starts the service again when it has ended.
const SOCKET_UNIT: &str = r#"
import os, socket, sys
port, times, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
listener = socket.create_server(("127.0.0.1", port), backlog=4096)
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
for _ in range(times):
    pid = os.fork()
    if pid == 0:
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        os.execv(program[0], program)
    print(f"started {pid}", file=sys.stderr, flush=True)
    os.waitpid(pid, 0)
"#;

#[test]
fn three_restarts_behind_a_socket_of_systemd_refuse_nobody_and_lose_and_double_nothing() {
    let pair = pair();
    let sink = Sink::default();
    let listen = free();
    let log = pair.scratch.path("audit.jsonl");
    let upstream = sink.serve().to_string();
    let Pair { cert, key, .. } = &pair;
    let mut command = Command::new("python3");
    command
        .args(["-c", SOCKET_UNIT, &listen.port().to_string(), "4"])
        .arg(env!("CARGO_BIN_EXE_starttls-proxy"))
        .args([
            "inbound",
            "--upstream",
            &upstream,
            "--cert",
            cert,
            "--key",
            key,
        ])
        .args(["--hide-client-address", "--relay-probe", "off"])
        .args(["--exempt", "127.0.0.0/8", "--audit-log", &log])
        .args(["--max-sessions-per-client", "100"]);
    let mut unit = Proxy::start_as(command);
    let started = |unit: &mut Proxy| -> u32 {
        let said = unit.says("started ");
        let pid = said
            .trim()
            .split(' ')
            .next_back()
            .expect("a number")
            .parse();
        unit.says(": ready");
        pid.expect("a number")
    };
    let mut pid = started(&mut unit);
    let load = Load::default();
    let senders = load.start(listen);
    for _ in 0..3 {
        load.brings(SOME);
        signal(pid, "-TERM");
        pid = started(&mut unit);
    }
    load.brings(SOME);
    load.assert_exactly_once(senders, &sink);
    signal(pid, "-TERM");
    assert!(unit.ends().success());
    let (_, accepted) = records(&log);
    assert_recorded_once(&load.acknowledged.lock().expect("whole"), &accepted);
}

#[test]
fn a_successor_that_cannot_start_leaves_everything_as_it_was() {
    let pair = pair();
    let sink = Sink::default();
    let listen = free();
    let log = pair.scratch.path("audit.jsonl");
    let more = ["--exempt", "127.0.0.0/8", "--audit-log", &log];
    let mut proxy = Proxy::ready(&pair.inbound(listen, sink.serve(), &more));
    let key = fs::read(&pair.key).expect("a key");
    fs::write(&pair.key, "no key").expect("written");
    let load = Load::default();
    let senders = load.start(listen);
    proxy.signal("-USR2");
    let said = proxy.says("no private key in it");
    assert!(said.contains("starttls-proxy: "), "{said}");
    proxy.says("not handed over, this process goes on");
    load.brings(SOME);

    // The fault is mended, and it is asked for again.
    fs::write(&pair.key, key).expect("written");
    proxy.signal("-USR2");
    let successor = Successor::of(&mut proxy);
    assert!(proxy.ends().success());
    load.brings(SOME);
    load.assert_exactly_once(senders, &sink);
    signal(successor.0, "-TERM");
    proxy.last_words();
    let (_, accepted) = records(&log);
    assert_recorded_once(&load.acknowledged.lock().expect("whole"), &accepted);
}

#[test]
fn systemd_is_told_which_process_counts_before_that_process_speaks() {
    let pair = pair();
    let listen = free();
    let at = pair.scratch.path("notify");
    let systemd = UnixDatagram::bind(&at).expect("a socket");
    systemd.set_read_timeout(Some(HANG)).expect("a timeout");
    // What was said, line by line, up to this line.
    let told = |until: &str| -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        while !lines.iter().any(|line| line == until) {
            let mut message = [0; 4096];
            let length = systemd.recv(&mut message).expect("a message");
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            lines.extend(text.lines().map(str::to_owned));
        }
        lines
    };
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("export WATCHDOG_PID=$$; exec \"$@\" {CLOSED}"),
            "sh",
        ])
        .arg(env!("CARGO_BIN_EXE_starttls-proxy"))
        .args(pair.inbound(listen, nowhere(), &[]))
        .env("NOTIFY_SOCKET", &at)
        .env("WATCHDOG_USEC", "4000000");
    let mut proxy = Proxy::start_as(command);
    told("READY=1");
    told("WATCHDOG=1");
    proxy.signal("-USR2");
    let successor = Successor::of(&mut proxy);
    let pid = successor.0;
    assert!(proxy.ends().success());
    let before = told(&format!("MAINPID={pid}"));
    assert!(!before.contains(&String::from("READY=1")), "{before:?}");
    told("READY=1");
    // The old process has ended, so it is the new one that is alive.
    told("WATCHDOG=1");
    signal(pid, "-TERM");
    let last = told("STOPPING=1");
    assert!(
        last.iter().all(|line| !line.starts_with("MAINPID")),
        "{last:?}"
    );
    proxy.last_words();
}

/// A proxy with an audit log, and a client that has sent the envelope of a message.
fn amid_a_message() -> (Pair, String, Proxy, Client) {
    let pair = pair();
    let sink = Sink::default();
    let listen = free();
    let log = pair.scratch.path("audit.jsonl");
    let more = ["--exempt", "127.0.0.0/8", "--audit-log", &log];
    let proxy = Proxy::ready(&pair.inbound(listen, sink.serve(), &more));
    let mut long = Client::introduced(listen);
    long.begins_mail("a@ex.example", &["a@clinic.example"]);
    (pair, log, proxy, long)
}

#[test]
fn without_its_successor_an_old_process_acknowledges_nothing() {
    let (_pair, log, mut proxy, mut long) = amid_a_message();
    proxy.signal("-USR2");
    let successor = Successor::of(&mut proxy);
    signal(successor.0, "-KILL");
    // Its record can be nowhere, so the message stays with its sender.
    long.says("").says("text").says(".").hears("4");
    drop(long);
    assert_eq!(proxy.ends().code(), Some(74), "its last records are lost");
    let (_, accepted) = records(&log);
    assert!(accepted.is_empty());
}

#[test]
fn a_new_process_that_is_stopped_first_waits_for_the_records_of_the_old_one() {
    let (_pair, log, mut proxy, mut long) = amid_a_message();
    proxy.signal("-USR2");
    let successor = Successor::of(&mut proxy);
    // Systemd stops all processes of a unit at once.
    signal(successor.0, "-TERM");
    proxy.signal("-TERM");
    proxy.says("stopped: every session has ended");
    long.says("").says("text").says(".").hears("250");
    drop(long);
    assert!(proxy.ends().success());
    proxy.last_words();
    let (_, accepted) = records(&log);
    assert_eq!(
        accepted,
        BTreeMap::from([(String::from("a@ex.example"), 1)])
    );
}
