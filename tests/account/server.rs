//! A server with random habits that writes down what it hears and says.

use crate::{
    certs::Certs,
    dice::Dice,
    heard::{Connection, Fatal, Transaction},
    wire::Wire,
};
use rustls::ServerConnection;
use starttls_proxy::clock;
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The server waits longer than clients do, so that clients notice first if the program hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a server does that ends a session, or keeps it from beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Greeting(u16),
    CloseAtGreeting,
    Hello(u16),
    CloseAtHello,
    NoStartTls,
    Masked,
    StartTls(u16),
    CloseAtStartTls,
    CloseAmidHandshake,
    NoiseAmidHandshake,
    SecureHello(u16),
    CloseAtSecureHello,
    /// At the command with this number in a transaction, EHLO included.
    CloseAt(usize),
    ClosesWith421At(usize),
    CloseAmidContent,
    CloseBehindContent,
    FinalReply421,
}

/// The listening server; [`Server::finish`] gives what all its connections heard.
pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepting: JoinHandle<Vec<JoinHandle<Connection>>>,
}

impl Server {
    /// `outside`: it has STARTTLS, and the flaws that go with it.
    pub fn start(listen: &str, seed: u64, outside: bool, certs: Arc<Certs>) -> Self {
        let listener = TcpListener::bind(listen).expect("a port for the server");
        let address = listener.local_addr().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let accepting = thread::spawn(move || {
            let mut dice = Dice::new(seed);
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (stream, seed) = (stream.expect("a connection"), dice.roll());
                let (number, certs) = (connections.len(), Arc::clone(&certs));
                let began = clock::instant();
                connections.push(thread::spawn(move || {
                    let mut talk = Talk::new(stream, number, began, seed, outside, certs);
                    talk.serve();
                    talk.heard
                }));
            }
            connections
        });
        Self {
            address,
            stop,
            accepting,
        }
    }

    pub fn finish(self) -> Vec<Connection> {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the server up.
        drop(TcpStream::connect(("127.0.0.1", self.address.port())));
        let connections = self.accepting.join().expect("the server runs on");
        let heard = connections.into_iter().map(JoinHandle::join);
        heard.map(|one| one.expect("no connection fails")).collect()
    }
}

struct Talk {
    wire: Wire,
    dice: Dice,
    replies: usize,
    flaw: Option<Flaw>,
    certificate: usize,
    pipelining: bool,
    chunking: bool,
    outside: bool,
    certs: Arc<Certs>,
    commands: usize,
    /// A transaction is open; it is the last one in the list.
    open: bool,
    secure: bool,
    heard: Connection,
}

/// The result of serving one command.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    End,
}

impl Talk {
    fn new(
        tcp: TcpStream,
        number: usize,
        began: Instant,
        seed: u64,
        outside: bool,
        certs: Arc<Certs>,
    ) -> Self {
        let mut dice = Dice::new(seed);
        let code = dice.pick(&[421, 450, 550, 554]);
        let at = dice.below(8);
        let flaw = match dice.below(if outside { 52 } else { 36 }) {
            0 => Some(Flaw::Greeting(dice.pick(&[421, 554]))),
            1 => Some(Flaw::CloseAtGreeting),
            2 => Some(Flaw::Hello(code)),
            3 => Some(Flaw::CloseAtHello),
            4 | 5 => Some(Flaw::CloseAt(at)),
            6 | 7 => Some(Flaw::ClosesWith421At(at)),
            8 | 9 => Some(Flaw::CloseAmidContent),
            10 => Some(Flaw::CloseBehindContent),
            11 => Some(Flaw::FinalReply421),
            12..36 => None,
            36..39 => Some(Flaw::NoStartTls),
            39 => Some(Flaw::Masked),
            40..43 => Some(Flaw::StartTls(dice.pick(&[421, 454, 500]))),
            43 => Some(Flaw::CloseAtStartTls),
            44 | 45 => Some(Flaw::CloseAmidHandshake),
            46 | 47 => Some(Flaw::NoiseAmidHandshake),
            48 => Some(Flaw::SecureHello(code)),
            49 => Some(Flaw::CloseAtSecureHello),
            _ => None,
        };
        let certificate = match dice.below(10) {
            0..=6 => 0,
            7 => 1,
            8 => 2,
            _ => 3,
        };
        let (from, to) = (
            tcp.peer_addr().expect("an address"),
            tcp.local_addr().expect("an address"),
        );
        Self {
            wire: Wire::new(tcp, PATIENCE),
            replies: 0,
            flaw,
            certificate,
            pipelining: dice.chance(60),
            chunking: dice.chance(60),
            dice,
            outside,
            certs,
            commands: 0,
            open: false,
            secure: false,
            heard: Connection {
                number,
                began,
                from,
                to,
                hellos: Vec::new(),
                offered: false,
                shown: None,
                transactions: Vec::new(),
                fatal: None,
                refused: Vec::new(),
                transcript: vec![format!("connection of {from}, flaw {flaw:?}")],
            },
        }
    }

    fn note(&mut self, line: String) {
        self.heard.transcript.push(line);
    }

    /// Each reply is unlike any other, so that the client's are known to be ours: `250 2.1.0 srv-3.7 ok`. The last line is given.
    fn reply(&mut self, code: u16, words: &str) -> String {
        self.replies += 1;
        let class = code / 100;
        let last = format!(
            "{code} {class}.0.0 srv-{}.{} {words}",
            self.heard.number, self.replies
        );
        let more = self.dice.chance(10) && code != 354;
        let first = if more {
            format!(
                "{code}-{class}.0.0 srv-{}.{} more\r\n",
                self.heard.number, self.replies
            )
        } else {
            String::new()
        };
        let reply = first + &last;
        self.say(&reply);
        reply
    }

    fn say(&mut self, reply: &str) {
        self.note(format!("S: {}", reply.replace("\r\n", " / ")));
        self.wire.write(format!("{reply}\r\n").as_bytes());
    }

    fn end(&mut self, fatal: Fatal) -> Next {
        self.heard.fatal.get_or_insert(fatal);
        self.note(String::from("S: [closes]"));
        self.wire.finish();
        self.wire.drain();
        Next::End
    }

    fn serve(&mut self) {
        match self.flaw {
            Some(Flaw::CloseAtGreeting) => {
                self.end(Fatal::Closed);
                return;
            }
            Some(Flaw::Greeting(code)) => {
                self.reply(code, "no service for you");
                self.heard.fatal = Some(Fatal::Greeting(code));
                self.heard.refused.push(("greeting", code, false));
            }
            _ => {
                self.reply(220, "ready");
            }
        }
        while let Some(line) = self.wire.line() {
            self.note(format!("P: {line}"));
            if self.command(&line) == Next::End {
                return;
            }
        }
        self.note(String::from("P: [closed]"));
        self.wire.finish();
    }

    fn command(&mut self, line: &str) -> Next {
        let verb = line.split(' ').next().unwrap_or_default();
        let later =
            verb != "STARTTLS" && !matches!(verb, "EHLO" | "HELO" if !self.secure && self.outside);
        if later && verb != "QUIT" {
            self.commands += 1;
            match self.flaw {
                Some(Flaw::CloseAt(at)) if at + 1 == self.commands => {
                    if verb == "BDAT" {
                        self.begin();
                        if let Some(transaction) = self.transaction() {
                            transaction.whole = false;
                        }
                    }
                    return self.end(Fatal::Closed);
                }
                Some(Flaw::ClosesWith421At(at)) if at + 1 == self.commands => {
                    let mut last = None;
                    if let Some(chunk) = line.strip_prefix("BDAT ") {
                        self.begin();
                        last = self.chunk(chunk);
                    }
                    let reply = self.reply(421, "that is all for today");
                    if let (Some(true), Some(transaction)) = (last, self.transaction()) {
                        transaction.verdict = Some(reply);
                    }
                    let hello = matches!(verb, "EHLO" | "HELO");
                    if hello {
                        self.heard.refused.push(("ehlo", 421, self.secure));
                    }
                    let fatal = if hello {
                        Fatal::Hello(421)
                    } else {
                        Fatal::Said421
                    };
                    return self.end(fatal);
                }
                _ => {}
            }
        }
        match verb {
            "EHLO" | "HELO" => return self.hello(line),
            "STARTTLS" => return self.start_tls(),
            "MAIL" => self.mail(line),
            "RCPT" => self.recipient(line),
            "DATA" => return self.data(),
            "BDAT" => return self.bdat(&line[5..]),
            "RSET" | "NOOP" => {
                self.open &= verb == "NOOP";
                self.reply(250, "done");
            }
            "QUIT" => {
                self.reply(221, "bye");
                self.note(String::from("S: [closes]"));
                self.wire.finish();
                self.wire.drain();
                return Next::End;
            }
            _ => {
                self.reply(500, "what?");
            }
        }
        Next::Go
    }

    fn hello(&mut self, line: &str) -> Next {
        let (flaw, secure) = (self.flaw, self.secure);
        match flaw {
            Some(Flaw::CloseAtHello) if !secure => return self.end(Fatal::Closed),
            Some(Flaw::CloseAtSecureHello) if secure => return self.end(Fatal::Closed),
            Some(Flaw::Hello(code)) if !secure => return self.no_hello(line, code),
            Some(Flaw::SecureHello(code)) if secure => return self.no_hello(line, code),
            _ => {}
        }
        self.open = false;
        self.heard.hellos.push(line[5..].to_owned());
        self.replies += 1;
        let mut lines = vec![format!("srv-{}.{} hello", self.heard.number, self.replies)];
        lines.extend(
            [
                "8BITMIME",
                "SMTPUTF8",
                "SIZE 10000000",
                "ENHANCEDSTATUSCODES",
            ]
            .map(Into::into),
        );
        lines.extend(self.pipelining.then(|| "PIPELINING".into()));
        lines.extend(self.chunking.then(|| "CHUNKING".into()));
        if self.outside && !secure {
            self.heard.offered = !matches!(flaw, Some(Flaw::NoStartTls | Flaw::Masked));
            lines.extend(self.heard.offered.then(|| "STARTTLS".into()));
            lines.extend((flaw == Some(Flaw::Masked)).then(|| "XXXXXXXA".into()));
        }
        let last = lines.len() - 1;
        let lines: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }))
            .collect();
        self.say(&lines.join("\r\n"));
        Next::Go
    }

    fn no_hello(&mut self, line: &str, code: u16) -> Next {
        self.heard.fatal.get_or_insert(Fatal::Hello(code));
        // The proxy tries HELO where EHLO was refused for good; the record says why EHLO was refused.
        if line.starts_with("EHLO") {
            self.heard.refused.push(("ehlo", code, self.secure));
        }
        self.reply(code, "I do not know you");
        Next::Go
    }

    fn start_tls(&mut self) -> Next {
        match self.flaw {
            Some(Flaw::StartTls(code)) => {
                self.heard.fatal.get_or_insert(Fatal::StartTls(code));
                self.heard.refused.push(("starttls", code, false));
                self.reply(code, "not now");
                return Next::Go;
            }
            Some(Flaw::CloseAtStartTls) => return self.end(Fatal::Closed),
            _ => {}
        }
        self.reply_plain("220 2.0.0 go");
        match self.flaw {
            Some(Flaw::CloseAmidHandshake) => {
                self.wire.piece(1);
                return self.end(Fatal::Handshake);
            }
            Some(Flaw::NoiseAmidHandshake) => {
                self.wire.piece(1);
                self.wire.write(b"this is no TLS at all, and never was\r\n");
                return self.end(Fatal::Handshake);
            }
            _ => {}
        }
        let (shown, config) = self.certs.servers[self.certificate].clone();
        let connection = ServerConnection::new(config).expect("a connection");
        if !self.wire.start_tls(connection) {
            return self.end(Fatal::Handshake);
        }
        self.note(format!("[TLS with certificate {}]", self.certificate));
        self.secure = true;
        self.heard.shown = Some(shown);
        Next::Go
    }

    fn reply_plain(&mut self, reply: &str) {
        self.say(reply);
    }

    fn mail(&mut self, line: &str) {
        let refused = self.dice.chance(8);
        let code = if refused {
            self.dice.pick(&[450, 550])
        } else {
            250
        };
        self.reply(code, "sender");
        self.open = !refused;
        if self.open {
            self.heard.transactions.push(Transaction {
                hello: self.heard.hellos.last().cloned().unwrap_or_default(),
                secure: self.secure,
                sender: path(line),
                recipients: Vec::new(),
                begun: false,
                go: None,
                content: Vec::new(),
                whole: false,
                verdict: None,
            });
        }
    }

    fn transaction(&mut self) -> Option<&mut Transaction> {
        self.heard.transactions.last_mut().filter(|_| self.open)
    }

    fn recipient(&mut self, line: &str) {
        if !self.open {
            self.reply(503, "who sends?");
            return;
        }
        let refused = self.dice.chance(15);
        let code = if refused {
            self.dice.pick(&[450, 550])
        } else {
            250
        };
        self.reply(code, "recipient");
        if let Some(transaction) = self.transaction() {
            transaction.recipients.push((path(line), !refused));
        }
    }

    fn begin(&mut self) {
        if let Some(transaction) = self.transaction() {
            transaction.begun = true;
        }
    }

    fn data(&mut self) -> Next {
        if self.dice.chance(8) || !self.open {
            let code = self.dice.pick(&[451, 554]);
            self.reply(code, "no data");
            return Next::Go;
        }
        self.begin();
        let go = self.reply(354, "go ahead");
        if let Some(transaction) = self.transaction() {
            transaction.go = Some(go);
        }
        let (mut content, mut ended) = (Vec::new(), false);
        while !ended {
            let piece = self.wire.piece(usize::MAX);
            if piece.is_empty() {
                break;
            }
            let before = content.len().saturating_sub(4);
            content.extend(piece);
            let end = if content.starts_with(b".\r\n") {
                Some(0)
            } else {
                let found = content[before..]
                    .windows(5)
                    .position(|five| five == b"\r\n.\r\n");
                found.map(|at| before + at + 2)
            };
            if let Some(end) = end {
                self.wire.unread(&content[end + 3..]);
                content.truncate(end);
                ended = true;
            }
            if !ended && self.flaw == Some(Flaw::CloseAmidContent) {
                break;
            }
        }
        // The server cannot know whether a dot at the end begins a line of the content or ends the content.
        for begun in [&b".\r"[..], b"."] {
            let before = content.strip_suffix(begun).map(<[u8]>::len);
            let cut = before.filter(|&at| at == 0 || content[..at].ends_with(b"\r\n"));
            content.truncate(cut.filter(|_| !ended).unwrap_or(content.len()));
        }
        let octets = content.len();
        self.note(format!("P: [{octets} octets of data, whole: {ended}]"));
        if let Some(transaction) = self.transaction() {
            transaction.content = content;
            transaction.whole = ended;
        }
        if !ended {
            return self.end(Fatal::Closed);
        }
        self.decide()
    }

    /// The final reply.
    fn decide(&mut self) -> Next {
        let code = match self.flaw {
            Some(Flaw::CloseBehindContent) => return self.end(Fatal::Closed),
            Some(Flaw::FinalReply421) => 421,
            _ if self.dice.chance(15) => self.dice.pick(&[452, 550]),
            _ => 250,
        };
        let reply = self.reply(code, "message");
        if let Some(transaction) = self.transaction() {
            transaction.verdict = Some(reply);
        }
        self.open = false;
        if code == 421 {
            return self.end(Fatal::Said421);
        }
        Next::Go
    }

    /// Reads a chunk. Returns whether it is the last one; `None` if it did not arrive whole.
    fn chunk(&mut self, arguments: &str) -> Option<bool> {
        let (octets, last) = match arguments.split_once(' ') {
            Some((octets, _)) => (octets, true),
            None => (arguments, false),
        };
        let mut left: usize = octets.parse().expect("the proxy lets only numbers pass");
        let mut content = Vec::new();
        while left > 0 && (content.is_empty() || self.flaw != Some(Flaw::CloseAmidContent)) {
            let piece = self.wire.piece(left);
            if piece.is_empty() {
                break;
            }
            left -= piece.len();
            content.extend(piece);
        }
        self.note(format!(
            "P: [{} octets of a chunk, missing: {left}]",
            content.len()
        ));
        if let Some(transaction) = self.transaction() {
            transaction.content.extend(content);
            transaction.whole = left == 0;
        }
        (left == 0).then_some(last)
    }

    fn bdat(&mut self, arguments: &str) -> Next {
        self.begin();
        let Some(last) = self.chunk(arguments) else {
            return self.end(Fatal::Closed);
        };
        if last {
            return self.decide();
        }
        let refused = self.dice.chance(10);
        let code = if refused {
            self.dice.pick(&[452, 552])
        } else {
            250
        };
        let reply = self.reply(code, "chunk");
        if let (true, Some(transaction)) = (refused, self.transaction()) {
            transaction.verdict = Some(reply);
        }
        Next::Go
    }
}

/// The text between `<` and `>`.
fn path(line: &str) -> String {
    let inside = line
        .split_once('<')
        .and_then(|(_, rest)| rest.rsplit_once('>'));
    inside.map_or_else(String::new, |(path, _)| path.to_owned())
}
