//! One conversation (commands one way, replies the other), read as a plain parser would that knows nothing of the machine.

use super::super::script::escape;
use std::collections::VecDeque;

/// A unit that the side with the commands has sent, and that gets a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A command line without CRLF.
    Command(Vec<u8>),
    /// A line of an AUTH exchange.
    Secret,
    /// The end of DATA.
    EndOfData,
    /// A chunk.
    Chunk { last: bool },
}

impl Unit {
    pub fn ends_message(&self) -> bool {
        matches!(self, Self::EndOfData | Self::Chunk { last: true })
    }
}

/// Reads one conversation (commands one way, replies the other) as a plain parser would.
#[derive(Debug, Default)]
pub struct Conversation {
    pub commands: Vec<u8>,
    pub replies: Vec<u8>,
    /// Octets of a chunk that are still to come, and whether it is the last.
    pub chunk: Option<(u64, bool)>,
    pub in_data: bool,
    pub in_auth: bool,
    pub owed: VecDeque<Unit>,
    pub greeted: bool,
    /// Messages ended by the side that gives commands.
    pub ended: usize,
    /// The last octets of content, in which an end of data may have begun.
    pub tail: Vec<u8>,
    /// Lines of a reply whose last is not here yet, without codes.
    pub lines: Vec<Vec<u8>>,
}

/// A whole reply, and the unit that it answers.
pub struct Replied {
    pub code: u16,
    pub unit: Option<Unit>,
    /// Without codes.
    pub lines: Vec<Vec<u8>>,
}

impl Conversation {
    /// Bytes of the side that gives commands; the units that they complete.
    pub fn said(&mut self, bytes: &[u8]) -> Vec<Unit> {
        self.commands.extend_from_slice(bytes);
        let mut units = Vec::new();
        while let Some(unit) = self.next_unit() {
            self.ended += usize::from(unit.ends_message());
            self.owed.push_back(unit.clone());
            units.push(unit);
        }
        units
    }

    fn next_unit(&mut self) -> Option<Unit> {
        if let Some((left, last)) = self.chunk {
            let here = self
                .commands
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            self.commands.drain(..here);
            let left = left - here as u64;
            self.chunk = (left > 0).then_some((left, last));
            return (left == 0).then_some(Unit::Chunk { last });
        }
        if self.in_data {
            // The end may have begun in earlier bytes, of which only the last octets can belong to it.
            let before = self.tail.len();
            self.tail.append(&mut self.commands);
            let Some(end) = find(&self.tail, b"\r\n.\r\n") else {
                let old = self.tail.len().saturating_sub(4);
                self.tail.drain(..old);
                return None;
            };
            debug_assert!(end + 5 > before, "found in what was searched already");
            self.commands = self.tail.split_off(end + 5);
            self.in_data = false;
            return Some(Unit::EndOfData);
        }
        let end = find(&self.commands, b"\r\n")?;
        let line: Vec<u8> = self.commands.drain(..end + 2).take(end).collect();
        if !self.in_auth
            && let Some((octets, last)) = chunk_size(&line)
        {
            self.chunk = Some((octets, last));
            return self.next_unit();
        }
        Some(match std::mem::take(&mut self.in_auth) {
            true => Unit::Secret,
            false => Unit::Command(line),
        })
    }

    /// Bytes of the side that gives replies; the replies that they complete, each with what it answers.
    pub fn replied(&mut self, bytes: &[u8]) -> Result<Vec<Replied>, String> {
        self.replies.extend_from_slice(bytes);
        let mut replies = Vec::new();
        while let Some(end) = find(&self.replies, b"\r\n") {
            let line: Vec<u8> = self.replies.drain(..end + 2).take(end).collect();
            self.lines.push(line.get(4..).unwrap_or_default().to_vec());
            if line.get(3) == Some(&b'-') {
                continue;
            }
            let lines = std::mem::take(&mut self.lines);
            let code = line
                .get(..3)
                .and_then(|c| std::str::from_utf8(c).ok()?.parse().ok());
            let code: u16 = code.ok_or_else(|| format!("no reply: {}", escape(&line)))?;
            if !std::mem::replace(&mut self.greeted, true) {
                let unit = None;
                replies.push(Replied { code, unit, lines });
                continue;
            }
            let mut unit = self.owed.pop_front();
            if unit.is_none() && code >= 400 && self.chunk.take().is_some() {
                // A chunk that was not offered, or that nobody may send now: no octets are awaited.
                unit = Some(Unit::Command(b"BDAT".to_vec()));
            }
            if code / 100 == 3 {
                match &unit {
                    Some(Unit::Command(line)) if is_verb(line, b"DATA") => {
                        self.in_data = true;
                        // A dot in the first line ends an empty message.
                        self.tail = b"\r\n".to_vec();
                    }
                    Some(Unit::Command(line)) => self.in_auth = is_verb(line, b"AUTH"),
                    Some(Unit::Secret) => self.in_auth = true,
                    _ => {}
                }
            }
            replies.push(Replied { code, unit, lines });
        }
        Ok(replies)
    }
}

/// The transaction under way with a server, by the commands that it got and by its replies.
#[derive(Debug, Default)]
pub struct Envelope {
    /// Recipients that it got.
    pub handed_over: usize,
    mail_accepted: bool,
    /// Recipients that it accepted behind a MAIL that it accepted.
    pub accepted: usize,
}

impl Envelope {
    /// The server gets this unit; false: a message that belongs to no recipient.
    pub fn takes(&mut self, unit: &Unit) -> bool {
        let is = |verb: &str| matches!(unit, Unit::Command(line) if is_verb(line, verb.as_bytes()));
        let begins_message = is("DATA") || matches!(unit, Unit::Chunk { .. });
        let belongs = !begins_message || self.handed_over > 0;
        if is("RCPT") {
            self.handed_over += 1;
        } else if unit.ends_message() || is("MAIL") || is("RSET") || is("EHLO") || is("HELO") {
            self.handed_over = 0;
        }
        belongs
    }

    /// The server answers this unit.
    pub fn is_answered(&mut self, unit: &Unit, positive: bool) {
        let is = |verb: &str| matches!(unit, Unit::Command(line) if is_verb(line, verb.as_bytes()));
        let resets = is("RSET") || is("EHLO") || is("HELO");
        if is("RCPT") {
            self.accepted += usize::from(positive && self.mail_accepted);
        } else if is("MAIL") || unit.ends_message() || (resets && positive) {
            self.accepted = 0;
            self.mail_accepted = is("MAIL") && positive;
        }
    }
}

/// The lines of a reply as it was received, without codes.
pub fn texts(reply: &[u8]) -> Vec<Vec<u8>> {
    let lines = reply.strip_suffix(b"\r\n").unwrap_or(reply);
    let lines = lines.split(|b| *b == b'\n');
    let texts = lines.map(|line| line.get(4..).unwrap_or_default());
    texts
        .map(|text| text.strip_suffix(b"\r").unwrap_or(text).to_vec())
        .collect()
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub fn is_verb(line: &[u8], verb: &[u8]) -> bool {
    line.get(..verb.len())
        .is_some_and(|v| v.eq_ignore_ascii_case(verb))
        && line.get(verb.len()).is_none_or(|b| *b == b' ')
}

pub fn chunk_size(line: &[u8]) -> Option<(u64, bool)> {
    let line = std::str::from_utf8(line).ok()?.to_ascii_uppercase();
    let mut words = line.strip_prefix("BDAT ")?.trim().split(' ');
    let digits = words.next()?;
    let octets = digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    match (words.next(), words.next()) {
        (None, None) => Some((octets, false)),
        (Some("LAST"), None) => Some((octets, true)),
        _ => None,
    }
}

/// The domain of `RCPT TO:<local@domain>`, as a very simple reader sees it.
pub fn domain_of(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line).to_ascii_lowercase();
    let path = match (line.split_once('<'), line.split_once(':')) {
        (Some((_, path)), _) => path,
        (None, Some((_, path))) => path.trim(),
        (None, None) => "",
    };
    let path = path.rsplit_once('>').map_or(path, |(path, _)| path);
    path.rsplit_once('@')
        .map_or(path, |(_, domain)| domain)
        .to_owned()
}
