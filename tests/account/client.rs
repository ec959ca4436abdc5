//! A client with random mail that writes down what it says and hears.

use crate::{
    certs::{Certs, Shown},
    dice::{Dice, message, stuffed},
    wire::Wire,
};
use rustls::{ClientConnection, pki_types::ServerName};
use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

/// A wait this long means that something hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// The parts from which a client makes its mail.
pub struct Habits {
    /// Domains and address literals of recipients.
    pub recipients: &'static [&'static str],
    /// Domains of senders; an empty one stands for `<>`.
    pub senders: &'static [&'static str],
    /// Inbound: in this many of 100 sessions the client starts TLS.
    pub starts_tls: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Greeting,
    Hello,
    StartTls,
    /// MAIL with the reverse-path.
    Mail(String),
    /// RCPT with the forward-path.
    Rcpt(String),
    Data,
    /// DATA with the content of the attempt with this number.
    Content(usize),
    /// A BDAT chunk of the attempt with this number.
    Chunk {
        attempt: usize,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    /// A reply that came without a command.
    Unasked,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    /// Lines joined by `\r\n`.
    pub text: String,
}

impl Reply {
    /// Whether the reply is the server's: its replies have a mark behind code and enhanced code.
    pub fn is_servers(&self) -> bool {
        self.text.get(10..14) == Some("srv-") || self.text.get(4..8) == Some("srv-")
    }
}

/// A command and its reply.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub what: What,
    /// The command was sent inside TLS.
    pub secure: bool,
    pub reply: Option<Reply>,
}

impl Exchange {
    pub fn code(&self) -> Option<u16> {
        self.reply.as_ref().map(|reply| reply.code)
    }
}

/// A message that the client tried to send.
#[derive(Debug)]
pub struct Attempt {
    /// Forward-paths that were asked for in its transaction.
    pub recipients: Vec<String>,
    /// The octets that should be relayed: dot-stuffed for DATA, unchanged for BDAT.
    pub octets: Vec<u8>,
    /// The number of octets that were written, at least.
    pub sent: usize,
}

/// How the session ended, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The session is still open.
    Not,
    /// The client sent QUIT.
    Quit,
    /// The client closed or reset its connection without QUIT.
    Client,
    /// The other end closed the connection.
    Other,
    /// The client stayed until the program was stopped.
    Stopped,
}

#[derive(Debug)]
pub struct Session {
    pub number: usize,
    /// Just before the client connected.
    pub began: Instant,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub exchanges: Vec<Exchange>,
    pub attempts: Vec<Attempt>,
    pub ended: Ended,
    /// TLS came up as far as the client knows.
    pub secure: bool,
    /// The client's handshake was broken off; true if the other end must have seen that.
    pub broke_handshake: Option<bool>,
    /// The certificate that the client showed.
    pub certificate: Option<Shown>,
    /// The program is told to stop soon after this is over, and perhaps before it knows.
    pub last: bool,
    /// The client waited in vain for something.
    pub hung: bool,
    pub transcript: Vec<String>,
}

/// How a client leaves early.
#[derive(Clone, Copy, Debug)]
struct Fuse {
    /// Number of exchanges before it leaves.
    left: usize,
    /// The client does not wait for the reply to the last command.
    before_reply: bool,
    /// RST instead of FIN.
    reset: bool,
}

pub struct Client<'a> {
    wire: Wire,
    dice: Dice,
    habits: &'a Habits,
    certs: &'a Certs,
    fuse: Option<Fuse>,
    pipelining: bool,
    chunking: bool,
    starttls: bool,
    paths: usize,
    /// The client stays until the program is stopped.
    pub stays: bool,
    pub heard: Session,
}

impl<'a> Client<'a> {
    pub fn new(
        tcp: TcpStream,
        to: SocketAddr,
        number: usize,
        seed: u64,
        habits: &'a Habits,
        certs: &'a Certs,
        began: Instant,
    ) -> Self {
        let mut dice = Dice::new(seed);
        let fuse = Fuse {
            left: dice.below(14),
            before_reply: dice.chance(50),
            reset: dice.chance(50),
        };
        let fuse = dice.chance(25).then_some(fuse);
        let stays = fuse.is_none() && dice.chance(5);
        let from = tcp.local_addr().expect("an address");
        Self {
            wire: Wire::new(tcp, PATIENCE),
            dice,
            habits,
            certs,
            fuse,
            pipelining: false,
            chunking: false,
            starttls: false,
            paths: 0,
            stays,
            heard: Session {
                number,
                began,
                from,
                to,
                exchanges: Vec::new(),
                attempts: Vec::new(),
                ended: Ended::Not,
                secure: false,
                broke_handshake: None,
                certificate: None,
                last: false,
                hung: false,
                transcript: vec![format!("session {number}, from {from} to {to}, {fuse:?}")],
            },
        }
    }

    fn note(&mut self, line: String) {
        self.heard.transcript.push(line);
    }

    fn is_over(&self) -> bool {
        self.heard.ended != Ended::Not
    }

    fn read_reply(&mut self) -> Option<Reply> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = self.wire.line()?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                break;
            }
        }
        let text = lines.join("\r\n");
        self.note(format!("P: {}", lines.join(" / ")));
        let code = text.get(..3)?.parse().expect("a reply has a code");
        Some(Reply { code, text })
    }

    /// Reads the replies that are still owed to the client, up to the end of the connection.
    fn hear_the_rest(&mut self) {
        while let Some(reply) = self.read_reply() {
            let waiting = self
                .heard
                .exchanges
                .iter_mut()
                .find(|one| one.reply.is_none());
            let secure = self.heard.secure;
            match waiting {
                Some(waiting) => waiting.reply = Some(reply),
                None => self.heard.exchanges.push(Exchange {
                    what: What::Unasked,
                    secure,
                    reply: Some(reply),
                }),
            }
        }
        let how = if self.wire.hung { "hangs" } else { "closed" };
        self.note(format!("P: [{how}]"));
        self.heard.hung = self.wire.hung;
    }

    fn leave(&mut self, reset: bool) {
        self.heard.ended = Ended::Client;
        self.note(format!("C: [{}]", if reset { "resets" } else { "closes" }));
        if reset {
            self.wire.abort();
        } else {
            self.wire.finish();
            self.hear_the_rest();
        }
    }

    /// Sends commands in one write and reads their replies, unless it is time to leave.
    fn say(&mut self, group: Vec<(What, String)>) -> Vec<Option<u16>> {
        if self.is_over() {
            return vec![None; group.len()];
        }
        let first = self.heard.exchanges.len();
        let mut lines = String::new();
        for (what, line) in group {
            if !line.is_empty() {
                self.note(format!("C: {line}"));
                lines += &line;
                lines += "\r\n";
            }
            self.heard.exchanges.push(Exchange {
                what,
                secure: self.heard.secure,
                reply: None,
            });
        }
        // If the write fails, the other end's earlier replies can still be read.
        self.wire.write(lines.as_bytes());
        self.hear(first);
        self.heard.exchanges[first..]
            .iter()
            .map(Exchange::code)
            .collect()
    }

    /// Reads the replies to the commands from `first` on.
    fn hear(&mut self, first: usize) {
        for at in first..self.heard.exchanges.len() {
            let burnt = match &mut self.fuse {
                Some(fuse) if fuse.left == 0 => Some(*fuse),
                Some(fuse) => {
                    fuse.left -= 1;
                    None
                }
                None => None,
            };
            if let Some(fuse) = burnt.filter(|fuse| fuse.before_reply) {
                return self.leave(fuse.reset);
            }
            let reply = self.read_reply();
            let gone = reply.is_none();
            let closing = reply.as_ref().is_some_and(|reply| reply.code == 421);
            self.heard.exchanges[at].reply = reply;
            if gone || closing {
                self.hear_the_rest();
                self.heard.ended = Ended::Other;
                return self.wire.finish();
            }
            if let Some(fuse) = burnt {
                return self.leave(fuse.reset);
            }
        }
    }

    fn ask(&mut self, what: What, line: &str) -> Option<u16> {
        self.say(vec![(what, line.to_owned())])[0]
    }

    /// Runs the whole session. The end of a client that stays is not included.
    pub fn run(&mut self) {
        if self.ask(What::Greeting, "") != Some(220) {
            return self.quit();
        }
        self.hello('a');
        let tries = if self.heard.exchanges.last().and_then(Exchange::code) == Some(250) {
            4
        } else {
            1
        };
        if self.starttls && self.dice.chance(self.habits.starts_tls) {
            self.start_tls();
        }
        for _ in 0..self.dice.below(tries + 1) {
            match self.dice.below(12) {
                0 => self.hello('b'),
                1 => self.command(What::Rset, "RSET"),
                2 => self.command(What::Noop, "NOOP"),
                3 => self.command(What::Data, "DATA"),
                _ => self.transaction(),
            }
        }
        if self.stays && !self.is_over() {
            self.note(String::from("C: [stays]"));
            return;
        }
        self.quit();
    }

    fn command(&mut self, what: What, line: &str) {
        self.ask(what, line);
    }

    fn quit(&mut self) {
        if self.is_over() {
            return;
        }
        self.ask(What::Quit, "QUIT");
        if self.heard.ended == Ended::Not {
            self.hear_the_rest();
            self.wire.finish();
        }
        if self.heard.ended != Ended::Client {
            self.heard.ended = Ended::Quit;
        }
    }

    /// The program is being stopped: reads its last words to a client that stayed.
    pub fn hear_the_end(&mut self) {
        if !self.is_over() {
            self.hear_the_rest();
            self.heard.ended = Ended::Stopped;
            self.wire.finish();
        }
    }

    fn hello(&mut self, letter: char) {
        let name = format!("s{}{letter}.client.test", self.heard.number);
        let verb = if self.dice.chance(90) { "EHLO" } else { "HELO" };
        if self.ask(What::Hello, &format!("{verb} {name}")) == Some(250) {
            let reply = self
                .heard
                .exchanges
                .last()
                .and_then(|one| one.reply.clone());
            let text = reply.map(|reply| reply.text).unwrap_or_default();
            self.pipelining = text.contains("PIPELINING");
            self.chunking = text.contains("CHUNKING");
            self.starttls = text.contains("STARTTLS");
        }
    }

    fn start_tls(&mut self) {
        if self.ask(What::StartTls, "STARTTLS") != Some(220) || self.is_over() {
            return;
        }
        if self.dice.chance(8) {
            let (noise, reset) = (self.dice.chance(50), self.dice.chance(50));
            self.heard.broke_handshake = Some(noise && !reset);
            if noise {
                self.wire.write(b"this is no TLS at all, and never was\r\n");
            }
            return self.leave(reset);
        }
        let at = self.dice.pick(&[0, 1, 1, 1, 2, 3, 4]);
        let (shown, config) = self.certs.clients[at].clone();
        let name = ServerName::try_from("mx.secure.test").expect("a name");
        let connection = ClientConnection::new(Arc::clone(&config), name).expect("a connection");
        if !self.wire.start_tls(connection) {
            self.note(String::from("[no TLS]"));
            self.heard.broke_handshake = Some(false);
            self.heard.ended = Ended::Other;
            return;
        }
        self.note(format!("[TLS, shows {shown:?}]"));
        self.heard.secure = true;
        // What was offered before counts no more (RFC 3207 §4.2).
        (self.pipelining, self.chunking) = (false, false);
        self.heard.certificate = shown;
        let letter = self.dice.pick(&['a', 'c']);
        self.hello(letter);
    }

    fn path(&mut self, domain: &str) -> String {
        self.paths += 1;
        let domain = match self.dice.below(6) {
            0 => domain.to_ascii_uppercase().replace("IPV6:", "IPv6:"),
            _ => domain.to_owned(),
        };
        format!("u{}.{}@{domain}", self.heard.number, self.paths)
    }

    fn transaction(&mut self) {
        if self.is_over() {
            return;
        }
        let sender = match self.dice.pick(self.habits.senders) {
            "" => String::new(),
            domain => self.path(domain),
        };
        let mut group = vec![(What::Mail(sender.clone()), format!("MAIL FROM:<{sender}>"))];
        let mut recipients = Vec::new();
        for _ in 0..self.dice.below(4) {
            let domain = self.dice.pick(self.habits.recipients);
            let path = self.path(domain);
            group.push((What::Rcpt(path.clone()), format!("RCPT TO:<{path}>")));
            recipients.push(path);
        }
        let chunks = self.chunking && self.dice.chance(40);
        let resets = self.dice.chance(8);
        let pipelines = self.pipelining && self.dice.chance(50);
        if !chunks && !resets {
            group.push((What::Data, String::from("DATA")));
        }
        let mut go = None;
        let mut accepted = 0;
        if pipelines {
            let first = self.heard.exchanges.len();
            go = self.say(group).last().copied().flatten();
            let said = self.heard.exchanges[first..].iter();
            accepted = said
                .filter(|one| matches!(one.what, What::Rcpt(_)) && one.code() == Some(250))
                .count();
        } else {
            for (what, line) in group {
                let rcpt = matches!(what, What::Rcpt(_));
                // Now and then DATA is tried although no recipient was accepted.
                if what == What::Data && accepted == 0 && !self.dice.chance(30) {
                    break;
                }
                go = self.ask(what.clone(), &line);
                accepted += usize::from(rcpt && go == Some(250));
                if matches!(what, What::Mail(_)) && go != Some(250) && !self.dice.chance(20) {
                    return;
                }
            }
        }
        if self.is_over() {
            return;
        }
        if resets {
            return self.command(What::Rset, "RSET");
        }
        let octets = message(&mut self.dice);
        if chunks {
            if accepted > 0 || self.dice.chance(30) {
                self.chunks(recipients, octets);
            }
        } else if go == Some(354) {
            self.data(recipients, &octets);
        }
        // Else the next transaction would begin within this one.
        if !self.is_over()
            && self.heard.exchanges.last().is_none_or(|one| {
                one.code() != Some(250)
                    || !matches!(one.what, What::Content(_) | What::Chunk { last: true, .. })
            })
        {
            self.command(What::Rset, "RSET");
        }
    }

    /// Writes octets that may be cut off. Returns whether they were.
    fn content(&mut self, octets: &[u8]) -> bool {
        let fuse = self
            .fuse
            .filter(|fuse| fuse.left == 0 && !fuse.before_reply);
        if let Some(fuse) = fuse {
            let cut = self.dice.below(octets.len() + 1);
            self.wire.write(&octets[..cut]);
            self.note(format!("C: [{cut} of {} octets]", octets.len()));
            self.leave(fuse.reset);
            return true;
        }
        self.wire.write(octets);
        self.note(format!("C: [{} octets]", octets.len()));
        false
    }

    fn data(&mut self, recipients: Vec<String>, octets: &[u8]) {
        let octets = stuffed(octets);
        let attempt = self.heard.attempts.len();
        let sent = octets.len();
        self.heard.attempts.push(Attempt {
            recipients,
            octets: octets.clone(),
            sent,
        });
        if self.content(&octets) {
            return;
        }
        let first = self.heard.exchanges.len();
        self.heard.exchanges.push(Exchange {
            what: What::Content(attempt),
            secure: self.heard.secure,
            reply: None,
        });
        self.note(String::from("C: ."));
        self.wire.write(b".\r\n");
        self.hear(first);
    }

    fn chunks(&mut self, recipients: Vec<String>, octets: Vec<u8>) {
        let attempt = self.heard.attempts.len();
        let mut left = &octets[..];
        self.heard.attempts.push(Attempt {
            recipients,
            octets: octets.clone(),
            sent: 0,
        });
        loop {
            let size = if self.dice.chance(50) {
                left.len()
            } else {
                self.dice.below(left.len() + 1)
            };
            let last = size == left.len();
            // An empty chunk that is not the last one is not sent.
            let size = if size == 0 && !last {
                left.len().min(1)
            } else {
                size
            };
            let last = last || size == left.len();
            let (chunk, rest) = left.split_at(size);
            left = rest;
            let end = if last { " LAST" } else { "" };
            let line = format!("BDAT {size}{end}");
            self.note(format!("C: {line}"));
            self.wire.write(format!("{line}\r\n").as_bytes());
            self.heard.attempts[attempt].sent += size;
            let first = self.heard.exchanges.len();
            self.heard.exchanges.push(Exchange {
                what: What::Chunk { attempt, last },
                secure: self.heard.secure,
                reply: None,
            });
            if self.content(chunk) {
                return;
            }
            self.hear(first);
            let code = self.heard.exchanges[first].code();
            // A client that is refused mostly gives up.
            if self.is_over()
                || last
                || (code != Some(250) && self.dice.chance(80))
                || self.dice.chance(4)
            {
                return;
            }
        }
    }
}
