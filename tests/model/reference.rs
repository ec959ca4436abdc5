//! The reference: the outcome that a session must have, computed as if everything happened in turn and nothing ever waited.
//!
//! No bytes, no segments, no queue, no pipelining: one command, its consequences, its reply. What the machine does must
//! come to the same. Only one thing depends on time: whether a message behind recipients of its own group went to the server
//! before the server had refused them all. Then the server's log says which of the two happened, and the rest follows.

use crate::{
    script::Direction,
    world::{BINARYMIME, CHUNKING, DSN, HELLO, Op, PARAMETERS, SMTPUTF8, To, Verdict, World, line},
};
use starttls_proxy::smtp::{Domain, Question, Recipient};
use std::collections::HashMap;

/// A reply that the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A reply in our own words, with this code.
    Ours(u16),
    /// The server's reply, unchanged.
    Theirs(String),
}

/// What comes of one op: the bytes the client sends for it, all in one segment, and behind a 354 the message.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub bytes: Vec<u8>,
    pub message: Option<Vec<u8>>,
    pub replies: Vec<Expected>,
}

#[derive(Clone, Debug)]
enum Message {
    Ahead,
    Chunks,
    /// A chunk was refused. Holds the refusal, if later chunks get it again.
    Broken(Option<Expected>),
}

#[derive(Clone, Debug)]
struct Transaction {
    sender: String,
    /// The MAIL line, while the server knows nothing of it.
    held: Option<String>,
    refused: Option<String>,
    recipients: Vec<String>,
    /// The server got a recipient in the group under way.
    in_group: bool,
    /// The last refusal of a recipient by the server.
    last_refusal: Option<String>,
    message: Message,
    /// What MAIL used.
    uses: Option<usize>,
    /// Some recipient was handed to a peer that had proved who it is.
    authenticated: bool,
    begun: bool,
    octets: usize,
}

/// The reference; the text of this module describes it.
#[derive(Clone)]
pub struct Reference<'w> {
    world: &'w World,
    /// EHLO was answered; with what of [`EXTENSIONS`].
    told: Option<u8>,
    secure: bool,
    /// The protected EHLO was exchanged.
    introduced: bool,
    /// The peer was authorised for some recipient.
    permitted: bool,
    transaction: Option<Transaction>,
    faults: usize,
    counts: HashMap<String, usize>,
    messages: usize,
    pub over: bool,
    /// What the server gets: lines, and messages behind `DATA:` and `CHUNK:`.
    pub server: Vec<String>,
    pub records: Vec<String>,
    /// MAILs that were taken.
    pub transactions: usize,
    /// The extensions that this server was found to lack, as the notes name them.
    pub taught: Vec<&'static str>,
    replies: Vec<Expected>,
    /// What the server really got, as soon as that is known.
    log: Vec<String>,
}

impl<'w> Reference<'w> {
    pub fn new(world: &'w World) -> Self {
        let mut reference = Self {
            world,
            told: None,
            secure: false,
            introduced: false,
            permitted: false,
            transaction: None,
            faults: 0,
            counts: HashMap::new(),
            messages: 0,
            over: false,
            server: Vec::new(),
            records: Vec::new(),
            transactions: 0,
            taught: Vec::new(),
            replies: Vec::new(),
            log: Vec::new(),
        };
        if reference.outbound() && !world.connects {
            reference.ends(421);
        } else {
            reference.ours(220);
        }
        reference
    }

    fn outbound(&self) -> bool {
        self.world.direction == Direction::Outbound
    }

    /// The greeting.
    pub fn greeting(&mut self) -> Vec<Expected> {
        std::mem::take(&mut self.replies)
    }

    /// A group begins. Everything before it is answered, and `log` is what the server has got at its end.
    pub fn group(&mut self, log: &[String]) {
        self.log = log.to_vec();
        if let Some(t) = &mut self.transaction {
            t.in_group = false;
        }
    }

    /// Whether a message for nobody went to the server as `line` all the same, because recipients of its group were unanswered.
    fn went_for_nobody(&self, line: &str) -> bool {
        let in_group = self.transaction.as_ref().is_some_and(|t| t.in_group);
        let got = self.log.get(self.server.len()).map(String::as_str);
        self.world.pipelining && in_group && got == Some(line)
    }

    /// The client says something.
    pub fn says(&mut self, op: &Op) -> Said {
        let line = line(op);
        let mut said = Said {
            bytes: format!("{line}\r\n").into_bytes(),
            ..Said::default()
        };
        if !self.outbound() && !self.secure {
            self.before_tls(op);
        } else {
            match op {
                Op::Hello { esmtp } => self.hello(*esmtp),
                Op::Mail {
                    id,
                    domain,
                    wrong,
                    uses,
                } => self.mail(&line, *id, *domain, *wrong, *uses),
                Op::Rcpt { to, dsn, .. } => self.rcpt(&line, *to, *dsn),
                Op::Data { lines } => said.message = self.data(*lines),
                Op::Chunk { octets, last } => {
                    let content = "z".repeat(usize::from(*octets));
                    if self.shown(CHUNKING) {
                        said.bytes.extend_from_slice(content.as_bytes());
                    }
                    self.chunk(&line, &content, *last);
                }
                Op::Quit => self.quit(),
                Op::StartTls if self.outbound() => self.fault(502),
                Op::StartTls => self.fault(503),
                Op::Other(line) => self.other(line),
            }
        }
        said.replies = std::mem::take(&mut self.replies);
        said
    }

    fn before_tls(&mut self, op: &Op) {
        match op {
            Op::Hello { .. } => self.ours(250),
            Op::StartTls => {
                self.ours(220);
                self.secure = self.world.handshake;
                self.over = !self.secure;
            }
            Op::Quit => self.ends(221),
            Op::Other("NOOP" | "NOOP x" | "RSET") => self.ours(250),
            Op::Other("HELP") => self.ours(214),
            Op::Other("RSET x" | "QUIT x") => self.fault(501),
            Op::Other("XCLIENT ADDR=1") => self.fault(502),
            _ => self.fault(530),
        }
    }

    fn hello(&mut self, esmtp: bool) {
        self.end_transaction();
        let world = self.world;
        if self.permitted {
            self.server.push(HELLO.to_owned());
        } else if self.told.is_none() && self.outbound() {
            self.server.push(HELLO.to_owned());
            if world.ehlo != 250 || !world.offers_starttls {
                return self.ends(421);
            }
        } else if self.told.is_none() {
            if !world.connects {
                return self.ends(421);
            }
            self.server.push(HELLO.to_owned());
            if world.ehlo != 250 {
                return self.ends(421);
            }
            // The server inside need not prove anything.
            self.permitted = true;
        }
        // What is shown is what was heard in the clear, and later what was heard inside TLS; but nobody gives up for want of
        // what is always shown.
        let lacking = if self.introduced { world.lacks } else { 0 };
        let mut shown = !lacking | 0b110;
        if shown & (1 << CHUNKING) == 0 {
            shown &= !(1 << BINARYMIME);
        }
        self.told = Some(if esmtp { shown } else { 0 });
        self.ours(250);
    }

    fn shown(&self, extension: usize) -> bool {
        self.told.is_some_and(|told| told & (1 << extension) != 0)
    }

    fn lacks(&self, extension: usize) -> bool {
        self.world.lacks & (1 << extension) != 0
    }

    fn mail(&mut self, line: &str, id: u8, domain: u8, wrong: Option<&str>, uses: Option<usize>) {
        let uses = uses.filter(|uses| !PARAMETERS[*uses].0.is_empty());
        let is_dead = |t: &Transaction| matches!(t.message, Message::Broken(_));
        match wrong {
            Some(" SIZE=x") if uses == Some(0) => return self.fault(501),
            _ if uses.is_some_and(|uses| !self.shown(uses)) => return self.fault(555),
            Some(" SIZE=x") if self.shown(0) => return self.fault(501),
            Some(_) => return self.fault(555),
            None if self.told.is_none() => return self.fault(503),
            None if self.transaction.as_ref().is_some_and(|t| !is_dead(t)) => {
                return self.fault(503);
            }
            None => {}
        }
        if self.transaction.is_some() {
            self.reset();
        }
        self.transactions += 1;
        let held = self.outbound().then(|| line.to_owned());
        if held.is_none() {
            let question = Question::Sender(Domain::parse(&format!("d{domain}.example")));
            match self.world.verdict(&question) {
                Verdict::Refused(421) | Verdict::FoundWanting(421) => return self.ends(421),
                Verdict::Refused(code) | Verdict::FoundWanting(code) => return self.ours(code),
                Verdict::Authorised | Verdict::Encrypted => {}
            }
            let reply = self.forward(line);
            self.theirs(&reply);
            if !reply.starts_with('2') {
                return;
            }
        } else {
            self.ours(250);
        }
        self.transaction = Some(Transaction {
            sender: format!("m{id}@d{domain}.example"),
            held,
            refused: None,
            recipients: Vec::new(),
            in_group: false,
            last_refusal: None,
            message: Message::Ahead,
            uses,
            authenticated: false,
            begun: false,
            octets: 0,
        });
    }

    fn rcpt(&mut self, line: &str, to: To, dsn: bool) {
        if matches!(to, To::Broken) {
            return self.ours(501);
        }
        if dsn && !self.shown(DSN) {
            return self.ours(555);
        }
        match &self.transaction {
            None => return self.ours(503),
            Some(t) if !matches!(t.message, Message::Ahead) => return self.ours(503),
            Some(_) => {}
        }
        if self.outbound() {
            let recipient = match to {
                To::Domain(n) => Domain::parse(&format!("d{n}.example")).map(Recipient::Domain),
                _ => Some(Recipient::Postmaster),
            };
            let question = Question::Recipient(recipient.expect("a domain"));
            match self.world.verdict(&question) {
                Verdict::Refused(421) => return self.ends(421),
                Verdict::Refused(code) => return self.ours(code),
                _ if !self.secure && !self.upgrade() => return,
                Verdict::FoundWanting(421) => return self.ends(421),
                Verdict::FoundWanting(code) => return self.ours(code),
                _ if !self.introduced && !self.introduce() => return,
                verdict => {
                    self.permitted = true;
                    if self.answered_already(dsn, verdict == Verdict::Authorised) {
                        return;
                    }
                }
            }
        }
        if let Some(mail) = self.transaction.as_mut().and_then(|t| t.held.take()) {
            let reply = self.forward(&mail);
            if !reply.starts_with('2') {
                if self.world.pipelining {
                    self.forward(line);
                }
                self.theirs(&reply);
                if let Some(t) = &mut self.transaction {
                    t.refused = Some(reply);
                }
                return;
            }
        }
        let reply = self.forward(line);
        let path = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        if let Some(t) = &mut self.transaction {
            t.in_group = true;
            match reply.starts_with('2') {
                true => t.recipients.push(path),
                false => t.last_refusal = Some(reply.clone()),
            }
        }
        self.theirs(&reply);
    }

    /// A recipient is not handed over although policy allows it, because of what its transaction uses.
    fn answered_already(&mut self, dsn: bool, authenticated: bool) -> bool {
        let Some(t) = &self.transaction else {
            return false;
        };
        let used = t.uses.into_iter().chain(dsn.then_some(DSN));
        let lacking: Vec<usize> = used.filter(|used| self.lacks(*used)).collect();
        match (t.refused.clone(), lacking.first()) {
            (Some(reply), _) => self.theirs(&reply),
            (None, Some(&SMTPUTF8)) if authenticated => self.ours(553),
            (None, Some(_)) => {
                for lacking in lacking {
                    self.taught(lacking, authenticated);
                }
                self.ours(451);
            }
            (None, None) => {
                if let Some(t) = &mut self.transaction {
                    t.authenticated |= authenticated;
                }
                return false;
            }
        }
        true
    }

    fn taught(&mut self, extension: usize, authenticated: bool) {
        let name = PARAMETERS[extension].1;
        if authenticated && !self.taught.contains(&name) {
            self.taught.push(name);
        }
    }

    /// TLS comes up for the first recipient. False: it does not, and the session is over.
    fn upgrade(&mut self) -> bool {
        self.server.push("STARTTLS".to_owned());
        self.secure = self.world.starttls == 220 && self.world.handshake;
        if !self.secure {
            self.ends(421);
        }
        self.secure
    }

    /// The peer is who it must be, and hears EHLO; false: what it says to that ends the session.
    fn introduce(&mut self) -> bool {
        self.server.push(HELLO.to_owned());
        self.introduced = self.world.secure_ehlo == 250;
        if !self.introduced {
            self.ends(421);
        }
        self.introduced
    }

    fn data(&mut self, lines: u8) -> Option<Vec<u8>> {
        match &self.transaction {
            None => {
                self.fault(503);
                return None;
            }
            Some(t) if !matches!(t.message, Message::Ahead) => {
                self.fault(503);
                return None;
            }
            Some(t) if t.uses == Some(BINARYMIME) => {
                self.fault(503);
                return None;
            }
            Some(t) if t.recipients.is_empty() => {
                self.data_for_nobody();
                return None;
            }
            Some(_) => {}
        }
        let reply = self.forward("DATA");
        self.theirs(&reply);
        if !reply.starts_with('3') {
            self.reset();
            return None;
        }
        let content = "a line\r\n..stuffed\r\n".repeat(usize::from(lines));
        self.server.push(format!("DATA:{content}"));
        let reply = self.world.reply("DOT.", self.messages);
        self.verdict(content.len(), reply);
        Some(format!("{content}.\r\n").into_bytes())
    }

    fn data_for_nobody(&mut self) {
        if !self.went_for_nobody("DATA") {
            self.ours(554);
            return self.reset();
        }
        let reply = self.forward("DATA");
        if !reply.starts_with('3') {
            self.theirs(&reply);
            return self.reset();
        }
        self.ours(554);
        self.server.push("DATA:".to_owned());
        let reply = self.world.reply("DOT.", self.messages);
        self.messages += 1;
        self.reset();
        if reply.starts_with("421") {
            self.theirs(&reply);
            self.over = true;
        }
    }

    fn chunk(&mut self, line: &str, content: &str, last: bool) {
        if !self.shown(CHUNKING) {
            return self.ends(521);
        }
        match &self.transaction {
            None => return self.ours(503),
            Some(Transaction {
                message: Message::Broken(reply),
                ..
            }) => {
                let reply = reply.clone().unwrap_or(Expected::Ours(503));
                return self.dead(reply, last);
            }
            Some(t) if t.recipients.is_empty() && !self.went_for_nobody(line) => {
                return self.dead(Expected::Ours(554), last);
            }
            Some(t) if self.lacks(CHUNKING) && self.outbound() => {
                let authenticated = t.authenticated;
                self.taught(CHUNKING, authenticated);
                return self.dead(Expected::Ours(451), last);
            }
            Some(_) => {}
        }
        let Some(t) = &mut self.transaction else {
            return;
        };
        if content.is_empty() && !last {
            t.message = Message::Broken(None);
            return self.fault(551);
        }
        (t.begun, t.message) = (true, Message::Chunks);
        t.octets += content.len();
        let (octets, for_nobody) = (t.octets, t.recipients.is_empty());
        let key = if last { "LAST" } else { line };
        let count = if last {
            self.messages
        } else {
            self.count("BDAT")
        };
        self.server.push(line.to_owned());
        self.server.push(format!("CHUNK:{content}"));
        let reply = self.world.reply(key, count);
        if last {
            return self.verdict(octets, reply);
        }
        let refusal = match reply.starts_with('2') {
            true if for_nobody => Some(Expected::Ours(554)),
            true => None,
            false => Some(Expected::Theirs(reply.clone())),
        };
        self.replies
            .push(refusal.clone().unwrap_or(Expected::Theirs(reply)));
        if refusal.is_some()
            && let Some(t) = &mut self.transaction
        {
            t.message = Message::Broken(refusal);
        }
    }

    /// A chunk is refused, and its message is dead.
    fn dead(&mut self, reply: Expected, last: bool) {
        self.replies.push(reply.clone());
        if last {
            return self.reset();
        }
        let Some(t) = &mut self.transaction else {
            return;
        };
        if !matches!(t.message, Message::Broken(_)) {
            t.message = Message::Broken(Some(reply));
        }
        if !t.begun && t.held.is_none() {
            t.held = Some(String::new());
            self.forward("RSET");
        }
    }

    /// The server's reply to a message, and its record.
    fn verdict(&mut self, octets: usize, reply: String) {
        self.messages += 1;
        let Some(mut t) = self.transaction.take() else {
            return;
        };
        (t.begun, t.octets) = (true, octets);
        if t.recipients.is_empty() && reply.starts_with('2') {
            self.record(&t, t.last_refusal.as_deref());
            return self.ours(554);
        }
        self.record(&t, Some(&reply));
        if reply.starts_with('2') && self.world.unrecorded == Some(self.messages - 1) {
            return self.ends(421);
        }
        self.theirs(&reply);
        self.over |= reply.starts_with("421");
    }

    fn record(&mut self, t: &Transaction, reply: Option<&str>) {
        let to: Vec<String> = t
            .recipients
            .iter()
            .map(|path| format!("<{path}>"))
            .collect();
        let reply = reply.map_or("unknown", |reply| reply.trim_end());
        self.records.push(format!(
            "from <{}> to {} octets {} reply {reply}",
            t.sender,
            to.join(" "),
            t.octets
        ));
    }

    fn end_transaction(&mut self) {
        if let Some(t) = self.transaction.take()
            && t.begun
        {
            let refusal = match &t.message {
                Message::Broken(Some(Expected::Theirs(reply))) => Some(reply.clone()),
                _ if t.recipients.is_empty() => t.last_refusal.clone(),
                _ => None,
            };
            self.record(&t, refusal.as_deref());
        }
    }

    /// The transaction ends on both sides, and the client is not told.
    fn reset(&mut self) {
        let known = self.transaction.as_ref().is_some_and(|t| t.held.is_none());
        self.end_transaction();
        if known && !self.over {
            self.forward("RSET");
        }
    }

    fn quit(&mut self) {
        if self.permitted {
            let reply = self.forward("QUIT");
            self.theirs(&reply);
            self.end_transaction();
            self.over = true;
        } else {
            self.ends(221);
        }
    }

    fn other(&mut self, line: &'static str) {
        match line {
            "NOOP" | "RSET" => {
                if line == "RSET" {
                    self.end_transaction();
                }
                if self.permitted {
                    let reply = self.forward(line);
                    self.theirs(&reply);
                } else {
                    self.ours(250);
                }
            }
            "NOOP x" => self.ours(250),
            "HELP" => self.ours(214),
            "VRFY a" => self.ours(252),
            "RSET x" | "DATA x" | "QUIT x" => self.fault(501),
            "FOO" | "" => self.fault(500),
            _ => self.fault(502),
        }
    }

    fn count(&mut self, line: &str) -> usize {
        let count = self.counts.entry(line.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// The server gets the line; its reply.
    fn forward(&mut self, line: &str) -> String {
        self.server.push(line.to_owned());
        let count = self.count(line);
        self.world.reply(line, count)
    }

    fn ours(&mut self, code: u16) {
        self.replies.push(Expected::Ours(code));
    }

    fn theirs(&mut self, reply: &str) {
        self.replies.push(Expected::Theirs(reply.to_owned()));
    }

    fn fault(&mut self, code: u16) {
        self.faults += 1;
        match self.faults {
            ..=20 => self.ours(code),
            _ => self.ends(421),
        }
    }

    fn ends(&mut self, code: u16) {
        if !self.over {
            self.ours(code);
            self.end_transaction();
            self.over = true;
        }
    }
}
