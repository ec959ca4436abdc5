//! What must hold in every session, whatever its script says. The watch reads the bytes of both sides for itself and
//! knows nothing of how the machine came to its actions.
//!
//! - Nothing of an envelope or message, and no AUTH, goes to a server in the clear, or inbound comes from a client in the
//!   clear, unless an entry exempts it (RFC 3207 §6).
//! - A client gets one reply per command, in order (RFC 5321 §4.2); only 421 comes unasked (§3.8).
//! - A message is acknowledged only after the server did, and after its record is durable (RFC 5321 §6.1).
//! - Nothing from before TLS is known after it: no byte is kept over a handshake, and the server is told only what the
//!   client said in the protected part (RFC 3207 §4.2).
//! - AUTH never crosses the outside link in the clear, whatever an entry allows (RFC 4954 §6).
//! - What a server says in the clear never reaches the client but by the rule of `src/smtp/heard.rs`: keywords without numbers,
//!   SMTPUTF8 always. Scripts mark other text with the word `evil`. Inside TLS the same holds for a server whose words are
//!   not of a peer that is known at connect time and has proved who it is: other domains' recipients may follow.
//! - What a server says of a recipient reaches the client only behind an answer for that recipient.
//! - A message of which a chunk was refused is never accepted (RFC 3030 §2).
//! - DATA and BDAT go only to a server that got a recipient of the same transaction, which needed an answer for that recipient
//!   (RFC 2920 §3.1).
//! - What a client sends as DATA goes only to a server that accepted a recipient: before that the client does not see 354. A server
//!   that says 354 without having accepted anybody gets one dot (RFC 2920 §3.1). What a client sends as BDAT may be with a server
//!   that then refuses all its recipients, because its octets come with the command (RFC 3030 §2): it went to a peer that may
//!   have it, for recipients for whom that was answered. No such message is accepted, towards the client or in a record.
//! - How a session ends is told once.
//! - What an unauthenticated server says or does never becomes a 5yz (RFC 7672 §2.2, RFC 8461 §5).
//! - A recipient is handed over only after an answer for its own domain; and byte for byte as it was judged.
//! - No server is given the end of a message that its client did not end.
//! - Replies wait for the server only while it owes one, and for no question (RFC 2920 §3.2).
//! - Every wait has an end.

use super::{
    machine::HOSTNAME,
    script::{Answer, Direction, escape},
};
use starttls_proxy::smtp::{Completed, Note, Question, Recipient, Refusal, Side};
use std::{collections::HashSet, time::Duration};

#[path = "conversation.rs"]
mod conversation;
#[path = "watched_login.rs"]
mod watched_login;

use conversation::{Conversation, Envelope, Replied, Unit, domain_of, find, is_verb, texts};
use watched_login::WatchedLogin;

type Outcome = Result<(), String>;

/// See the module.
#[derive(Debug)]
pub struct Watch {
    direction: Direction,
    /// TLS on the outside link from the first byte, or plaintext allowed there.
    outside_may_be_clear: bool,
    /// Some entry could allow plaintext.
    plaintext_possible: bool,
    outside_is_secure: bool,
    authenticated: bool,
    client: Conversation,
    server: Conversation,
    server_is_open: bool,
    /// Lines that the client said; inbound those inside TLS.
    client_lines: HashSet<Vec<u8>>,
    /// Domains that were answered for, each good for one recipient (outbound) or sender (inbound).
    permits: Vec<String>,
    /// The same where TLS cannot be had.
    permits_in_the_clear: Vec<String>,
    /// Codes of the refusals that were handed to the machine.
    may_refuse: Vec<u16>,
    /// The event that the machine is reacting to.
    cause: &'static str,
    server_accepted: usize,
    recorded: usize,
    acknowledged: usize,
    records_due: usize,
    /// The server refused a chunk: the client is not answered for its end.
    chunk_refused: bool,
    client_is_closed: bool,
    /// The peer is known at connect time; AUTH may pass; what is hidden from this client.
    known: bool,
    auth: bool,
    hidden: String,
    login: WatchedLogin,
    /// The peer of a session that is known at connect time proved who it is.
    proved: bool,
    /// Texts of the server's replies.
    said_by_server: HashSet<Vec<Vec<u8>>>,
    /// Recipients' domains that were answered for, each good for one reply of the server.
    judged: Vec<String>,
    /// A chunk was refused; neither MAIL, RSET nor EHLO has come since.
    dead: bool,
    ends: usize,
    /// For some recipient only encryption was demanded, so any peer may be its server.
    undemanding: bool,
    /// The transaction under way with the server.
    envelope: Envelope,
    /// Refusals of messages by us are not the server's replies, so they need no record.
    evil: Vec<u8>,
}

impl Watch {
    pub fn new(direction: Direction, options: &[String]) -> Self {
        let has = |option: &str| options.iter().any(|o| o == option);
        Self {
            direction,
            outside_may_be_clear: has("exempt"),
            plaintext_possible: has("plaintext-possible"),
            outside_is_secure: false,
            authenticated: false,
            client: Conversation::default(),
            server: Conversation::default(),
            server_is_open: false,
            client_lines: HashSet::new(),
            permits: Vec::new(),
            permits_in_the_clear: Vec::new(),
            may_refuse: Vec::new(),
            cause: "the beginning",
            server_accepted: 0,
            recorded: 0,
            acknowledged: 0,
            records_due: 0,
            chunk_refused: false,
            client_is_closed: false,
            known: has("known"),
            auth: has("auth") && has("known") && !has("login"),
            login: WatchedLogin::new(has("login") && has("known")),
            hidden: options.concat(),
            proved: false,
            said_by_server: HashSet::new(),
            judged: Vec::new(),
            dead: false,
            ends: 0,
            undemanding: false,
            envelope: Envelope::default(),
            evil: Vec::new(),
        }
    }

    fn outside(&self) -> Side {
        match self.direction {
            Direction::Outbound => Side::Server,
            Direction::Inbound => Side::Client,
        }
    }

    pub fn happens(&mut self, cause: &'static str) {
        self.cause = cause;
    }

    pub fn may_refuse(&mut self, refusal: &Refusal) {
        self.may_refuse.push(refusal.code);
    }

    pub fn answered(&mut self, question: &Question, answer: &Answer) {
        let whom = match question {
            Question::Recipient(Recipient::Domain(name)) => name.as_str().to_owned(),
            Question::Recipient(Recipient::Literal(name)) => name.to_ascii_lowercase(),
            Question::Recipient(Recipient::Postmaster) => "postmaster".to_owned(),
            Question::Sender(Some(name)) => name.as_str().to_owned(),
            Question::Sender(None) => String::new(),
            Question::Peer | Question::Login => "the peer".to_owned(),
        };
        match answer {
            Answer::Authorised | Answer::Unauthenticated | Answer::Exempted => {
                self.judged.push(whom.clone());
                self.permits.push(whom);
                self.authenticated |= *answer == Answer::Authorised && self.outside_is_secure;
                self.proved |= *answer == Answer::Authorised && *question == Question::Peer;
                self.undemanding |= *answer == Answer::Unauthenticated && self.outside_is_secure;
                self.outside_may_be_clear |= *answer == Answer::Exempted;
            }
            Answer::Upgrade { or_plaintext } => {
                self.outside_may_be_clear |= *or_plaintext;
                self.judged.extend(or_plaintext.then(|| whom.clone()));
                self.permits_in_the_clear
                    .extend(or_plaintext.then_some(whom));
            }
            Answer::Login { secret, .. } => self.login.knows(secret.as_bytes()),
            Answer::Refused(refusal) => self.may_refuse(refusal),
        }
    }

    pub fn sends_secret(&mut self, line: &[u8]) -> Outcome {
        self.login
            .is_told(line, self.outside_is_secure && self.proved)?;
        self.client_lines.insert(line.trim_ascii_end().to_vec());
        self.output(Side::Server, line)
    }

    pub fn recorded(&mut self) {
        self.recorded += 1;
    }

    pub fn records(&mut self, completed: &Completed) -> Outcome {
        let for_nobody = completed.recipients.is_empty();
        if let Some(reply) = completed.reply.as_ref().filter(|_| for_nobody) {
            if reply.starts_with(b"2") {
                return Err(format!("accepted for nobody: {}", escape(reply)));
            }
            // Without a final reply, the refusal of the recipients is what the server said about the message.
            if self.records_due == 0 && self.said_by_server.contains(&texts(reply)) {
                return Ok(());
            }
        }
        match (&completed.reply, self.records_due) {
            (Some(_), 0) if std::mem::take(&mut self.chunk_refused) => Ok(()),
            (Some(reply), 0) => Err(format!(
                "a record without a reply of the server: {}",
                escape(reply)
            )),
            (Some(_), _) => {
                self.records_due -= 1;
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    pub fn connects(&mut self) -> Outcome {
        if self.direction == Direction::Inbound
            && !self.outside_is_secure
            && !self.outside_may_be_clear
        {
            return Err("the inside server is connected for a client in the clear".to_owned());
        }
        Ok(())
    }

    pub fn connected(&mut self, stands: bool) {
        self.server = Conversation::default();
        self.envelope = Envelope::default();
        self.server_is_open = stands;
        if self.direction == Direction::Outbound {
            self.authenticated = false;
            self.outside_is_secure = false;
        }
    }

    /// The machine starts TLS.
    pub fn upgrades(&mut self, side: Side) -> Outcome {
        if side != self.outside() {
            return Err("TLS on the inside".to_owned());
        }
        if self.outside_is_secure {
            return Err("TLS in TLS".to_owned());
        }
        if !self.server.owed.is_empty() && side == Side::Server {
            return Err("TLS starts with replies outstanding".to_owned());
        }
        Ok(())
    }

    pub fn secured(&mut self, side: Side, up: bool) {
        self.outside_is_secure |= up || side == Side::Client;
        match side {
            Side::Client => {
                let greeted = std::mem::take(&mut self.client).greeted;
                self.client.greeted = greeted;
                self.client_lines.clear();
            }
            Side::Server => {
                self.server = Conversation {
                    greeted: true,
                    ..Conversation::default()
                };
            }
        }
    }

    pub fn dropped(&mut self, from: Side, bytes: &[u8]) -> Outcome {
        self.taken(from, bytes, false)
    }

    pub fn passed(&mut self, from: Side, bytes: &[u8], content: bool) -> Outcome {
        if from == Side::Client && content && !self.may_relay() {
            return Err(format!("message bytes in the clear: {}", escape(bytes)));
        }
        if content && self.envelope.handed_over == 0 {
            return Err("content for a server that got no recipient".to_owned());
        }
        if content && self.server.in_data && self.envelope.accepted == 0 {
            return Err("content for a server that accepted nobody".to_owned());
        }
        self.taken(from, bytes, content)?;
        self.output(from.other(), bytes)
    }

    pub fn sent(&mut self, side: Side, bytes: &[u8]) -> Outcome {
        if !bytes.ends_with(b"\r\n") {
            return Err(format!(
                "sends half a line to the {side:?}: {}",
                escape(bytes)
            ));
        }
        self.output(side, bytes)
    }

    fn may_relay(&self) -> bool {
        self.outside_is_secure || self.outside_may_be_clear
    }

    /// The machine took bytes of a side.
    fn taken(&mut self, from: Side, bytes: &[u8], content: bool) -> Outcome {
        match from {
            Side::Client => {
                for unit in self.client.said(bytes) {
                    if let Unit::Command(line) = unit
                        && !content
                    {
                        self.client_lines.insert(line);
                    }
                }
            }
            Side::Server => {
                if !self.outside_is_secure && self.direction == Direction::Outbound {
                    self.evil.extend_from_slice(bytes);
                }
                if !self.server_is_open {
                    return Ok(());
                }
                // In some scripts the server sends malformed replies; the client must not get them.
                for Replied { code, unit, lines } in self.server.replied(bytes).unwrap_or_default()
                {
                    self.said_by_server.insert(lines);
                    self.chunk_refused |=
                        matches!(unit, Some(Unit::Chunk { .. })) && code / 100 > 3;
                    let Some(unit) = unit else { continue };
                    if unit.ends_message() {
                        let accepted = code / 100 == 2 && self.envelope.accepted > 0;
                        self.server_accepted += usize::from(accepted);
                        self.records_due += 1;
                    }
                    self.envelope.is_answered(&unit, code / 100 == 2);
                }
            }
        }
        Ok(())
    }

    /// Bytes went to a side.
    fn output(&mut self, to: Side, bytes: &[u8]) -> Outcome {
        match to {
            Side::Client => self.client_gets(bytes),
            Side::Server => {
                let empty = bytes == b".\r\n"
                    && self.server.in_data
                    && !self.client.in_data
                    && self.envelope.accepted == 0;
                for unit in self.server.said(bytes) {
                    self.server_gets(&unit)?;
                }
                if empty && let Some(owed) = self.server.owed.back_mut() {
                    // The end of a message that nobody sent, so it counts like a command.
                    *owed = Unit::Command(b".".to_vec());
                    self.server.ended -= 1;
                }
                if self.server.ended > self.client.ended {
                    return Err(
                        "the server is given the end of a message that the client did not end"
                            .to_owned(),
                    );
                }
                Ok(())
            }
        }
    }

    fn server_gets(&mut self, unit: &Unit) -> Outcome {
        if !self.envelope.takes(unit) {
            return Err("a message for a server that got no recipient".to_owned());
        }
        let Unit::Command(line) = unit else {
            return match self.may_relay() {
                true => Ok(()),
                false => Err("a message or a secret in the clear".to_owned()),
            };
        };
        let shown = escape(line);
        let is = |verb: &str| is_verb(line, verb.as_bytes());
        // HELO cannot lead to TLS, so it is useful only where an entry could allow plaintext.
        let helo = is("HELO") && self.plaintext_possible;
        let clear = is("EHLO") || helo || is("STARTTLS") || is("QUIT");
        if !self.may_relay() && (self.direction == Direction::Inbound || !clear) {
            return Err(format!("in the clear: {shown}"));
        }
        let secret =
            is("AUTH") || (is("MAIL") && find(&line.to_ascii_uppercase(), b" AUTH=").is_some());
        if secret && !self.outside_is_secure {
            return Err(format!("AUTH in the clear: {shown}"));
        }
        if is("MAIL") || is("RCPT") || is("AUTH") || is("VRFY") {
            if !self.client_lines.contains(line) {
                return Err(format!("the client did not say: {shown}"));
            }
        } else if is("EHLO") || is("HELO") {
            let name = &line[4..];
            let said = |verb: &[u8]| {
                self.client_lines
                    .iter()
                    .any(|said| is_verb(said, verb) && said[4..].trim_ascii() == name.trim_ascii())
            };
            let unfit = |said: &Vec<u8>| {
                let hello = is_verb(said, b"EHLO") || is_verb(said, b"HELO");
                hello && !said[4..].trim_ascii().iter().all(u8::is_ascii_graphic)
            };
            let ours = self.direction == Direction::Outbound
                && name.trim_ascii() == HOSTNAME.as_bytes()
                && self.client_lines.iter().any(unfit);
            if !said(b"EHLO") && !said(b"HELO") && !ours {
                return Err(format!("the client did not say: {shown}"));
            }
        }
        let gated = match self.direction {
            Direction::Outbound => is("RCPT"),
            Direction::Inbound => is("MAIL"),
        };
        if gated {
            let domain = match domain_of(line) {
                literal if self.direction == Direction::Inbound && literal.starts_with('[') => {
                    String::new()
                }
                domain => domain,
            };
            let permits = match self.outside_is_secure || self.permits.contains(&domain) {
                true => &mut self.permits,
                false => &mut self.permits_in_the_clear,
            };
            match permits.iter().position(|permit| *permit == domain) {
                Some(at) => drop(permits.remove(at)),
                None => return Err(format!("nobody answered for: {shown}")),
            }
        }
        Ok(())
    }

    fn client_gets(&mut self, bytes: &[u8]) -> Outcome {
        self.login.is_hidden_from_client(bytes)?;
        if let Some(bad) = bytes
            .iter()
            .find(|b| !matches!(b, b'\t' | b'\r' | b'\n' | 0x20..=0x7e | 0x80..))
        {
            return Err(format!(
                "a reply with the octet {bad:#x}: {}",
                escape(bytes)
            ));
        }
        let lower = bytes.to_ascii_lowercase();
        if self.direction == Direction::Outbound
            && !self.evil.is_empty()
            && find(&lower, b"evil").is_some()
            && !self.outside_is_secure
            && !self.outside_may_be_clear
        {
            return Err(format!(
                "what the server said in the clear reaches the client: {}",
                escape(bytes)
            ));
        }
        let mut greeted = self.client.greeted;
        for Replied { code, unit, lines } in self.client.replied(bytes)? {
            let asked = match (&unit, code) {
                (Some(_), _) | (None, 421) => true,
                // The greeting is the only reply to nothing that the conversation hands out.
                (None, 220 | 554) => self.client.owed.is_empty(),
                // Bytes that are no line are refused at once.
                (None, 500 | 550) => self.client.in_auth || !self.client.commands.is_empty(),
                (None, _) => false,
            };
            if !asked {
                return Err(format!("a reply to nothing: {}", escape(bytes)));
            }
            self.no_unauthenticated_verdict(code, unit.as_ref(), greeted)?;
            if self.client.in_data && code / 100 == 3 && self.envelope.accepted == 0 {
                return Err("354 although nobody was accepted".to_owned());
            }
            greeted = true;
            if let Some(Unit::Command(line)) = &unit {
                self.shows_nothing_unproved(code, line, &lines)?;
                self.quotes_whom_it_may(code, line, &lines)?;
                let renewed = ["MAIL", "RSET", "EHLO", "HELO"]
                    .iter()
                    .any(|verb| is_verb(line, verb.as_bytes()));
                self.dead &= !(renewed && code / 100 == 2);
            }
            if let Some(Unit::Chunk { .. }) = &unit {
                self.dead |= code >= 400;
            }
            if let Some(unit) = unit
                && unit.ends_message()
                && code / 100 == 2
            {
                self.acknowledged += 1;
                if self.dead {
                    return Err("a message is acknowledged of which a chunk was refused".to_owned());
                }
                if self.acknowledged > self.server_accepted {
                    return Err(
                        "a message is acknowledged that the server did not accept".to_owned()
                    );
                }
                if self.acknowledged > self.recorded {
                    return Err("a message is acknowledged without its record".to_owned());
                }
            }
        }
        Ok(())
    }

    /// The reply to EHLO of a server whose words nobody can rely on.
    fn shows_nothing_unproved(&self, code: u16, line: &[u8], lines: &[Vec<u8>]) -> Outcome {
        let believed = self.known && self.proved && self.outside_is_secure;
        if self.direction == Direction::Inbound
            || !is_verb(line, b"EHLO")
            || code != 250
            || believed
        {
            return Ok(());
        }
        let shown: Vec<String> = lines.iter().map(|line| escape(line)).collect();
        let bare = [
            "PIPELINING",
            "SIZE",
            "8BITMIME",
            "SMTPUTF8",
            "DSN",
            "CHUNKING",
            "BINARYMIME",
            "ENHANCEDSTATUSCODES",
        ];
        let allowed = |line: &String| {
            bare.contains(&line.as_str()) || (self.auth && line.starts_with("AUTH "))
        };
        let has = |keyword: &str| shown[1..].iter().any(|line| line == keyword);
        let eight_bit = has("8BITMIME") || self.known || self.hidden.contains("8BITMIME");
        let auth =
            !self.auth || self.outside_is_secure || shown.iter().any(|l| l.starts_with("AUTH "));
        match shown[0] == HOSTNAME && shown[1..].iter().all(allowed) {
            true if has("SMTPUTF8") && eight_bit && auth => Ok(()),
            _ => Err(format!("unproved words are shown: {shown:?}")),
        }
    }

    /// The client gets the server's reply about a recipient only after the policy's answer for that recipient.
    fn quotes_whom_it_may(&mut self, code: u16, line: &[u8], lines: &[Vec<u8>]) -> Outcome {
        if self.direction == Direction::Inbound
            || !is_verb(line, b"RCPT")
            || code == 421
            || !self.said_by_server.contains(lines)
        {
            return Ok(());
        }
        let domain = domain_of(line);
        match self.judged.iter().position(|judged| *judged == domain) {
            Some(at) => {
                self.judged.remove(at);
                Ok(())
            }
            None => Err(format!(
                "{code} of a server that nobody judged for {domain}"
            )),
        }
    }

    pub fn noted(&mut self, note: &Note) -> Outcome {
        self.ends += usize::from(matches!(note, Note::Ends(_)));
        self.login.is_hidden_in(note)?;
        match self.ends {
            ..=1 => Ok(()),
            _ => Err("how it ends is told twice".to_owned()),
        }
    }

    /// RFC 7672 §2.2, RFC 8461 §5: an attacker on the path must not be able to bounce mail.
    fn no_unauthenticated_verdict(&self, code: u16, unit: Option<&Unit>, greeted: bool) -> Outcome {
        let unprotected = self.direction == Direction::Outbound
            && !self.authenticated
            && !self.undemanding
            && !self.outside_may_be_clear;
        let caused = !matches!(self.cause, "client bytes" | "answer" | "record");
        if code / 100 == 5 && unprotected && caused && !self.may_refuse.contains(&code) {
            // Our own words about what the client said wrong may wait for the server's.
            let about_syntax = matches!(code, 501 | 503 | 553 | 555);
            let local = match unit {
                Some(Unit::Command(line)) => {
                    about_syntax
                        || !["EHLO", "HELO", "MAIL", "RCPT"]
                            .iter()
                            .any(|verb| is_verb(line, verb.as_bytes()))
                }
                // Bytes that are no command.
                None => greeted,
                // A chunk for which there is no recipient.
                Some(_) => true,
            };
            if !local {
                return Err(format!(
                    "{code} from an unauthenticated server, after {}",
                    self.cause
                ));
            }
        }
        Ok(())
    }

    pub fn closed(&mut self, side: Side, abort: bool) -> Outcome {
        match side {
            Side::Client => self.client_is_closed = true,
            Side::Server => {
                self.server_is_open = false;
                let cut = self.server.in_data || self.server.chunk.is_some();
                if cut && !abort {
                    return Err("a half message is closed cleanly: the server could take it for a whole one".to_owned());
                }
            }
        }
        Ok(())
    }

    /// The server owes a reply.
    pub fn awaits_server(&self) -> bool {
        self.server_is_open && !self.server.owed.is_empty()
    }

    /// Nothing is owed to the client, not even its greeting.
    pub fn idle(&self) -> bool {
        self.client.greeted && self.client.owed.is_empty()
    }

    /// The machine has nothing to do until something happens.
    pub fn settled(
        &mut self,
        finished: bool,
        deadline: Option<Duration>,
        now: Duration,
    ) -> Outcome {
        if !finished && deadline.is_none() {
            return Err("a wait without an end".to_owned());
        }
        if !finished && deadline.is_some_and(|due| due > now + Duration::from_secs(1200)) {
            return Err(format!("a wait too long: until {deadline:?}, at {now:?}"));
        }
        if finished && !(self.client_is_closed) {
            return Err("finished with the client's connection open".to_owned());
        }
        if finished && self.ends != 1 {
            return Err("nobody is told how it ends".to_owned());
        }
        if finished && self.server_is_open {
            return Err("finished with the server's connection open".to_owned());
        }
        Ok(())
    }
}
