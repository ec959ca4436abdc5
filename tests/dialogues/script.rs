//! The dialogue files: how they are read, and how a session found by other means is written as one.
//!
//! A file is a session in the order of time. Its first line is a comment that states the rule and where it stands.
//!
//! ```text
//! # A sentence that states the rule (RFC 5321 §4.1.1).
//! outbound                  the direction; `both` plays the file once for each; words behind it are options
//! each VERB: VRFY | EXPN    plays the file once for each value of $VERB
//! whole                     the rule is about segments: do not play it cut up
//! use envelope              play openings/outbound-envelope.smtp (or inbound-envelope.smtp) first
//!
//! c -> NOOP                 the client sends the line and CR LF in one segment
//! c +> NOOP                 ... in the same segment as the line above
//! c => NOO                  the client sends exactly this (\r \n \t \0 \xFF \\ and {1000*text} are understood)
//! c +=> P\r\n               ... in the same segment as the line above
//! c <- 250 2.0.0 ok         the client gets this line
//! c <~ 250 2.0.0 *          ... a line like it, * stands for anything
//! c <= 250 ok\r\n           ... exactly these bytes
//! c <? 250 ok\r\n           ... any beginning of these bytes, or nothing: how much depends on the cut
//! s ->, s <- and so on      the same for the server
//! c closes                  FIN from the client
//! c is closed               the proxy ends the connection, after what it sent
//! c is dropped              ... at once
//!
//! connect                   the proxy opens the connection to the server
//! connected                 it stands;                 or: unreachable 421 4.4.1 text
//! ask recipient d.example   the proxy asks the policy; or: ask peer, ask postmaster, ask literal [192.0.2.1],
//!                           ask sender d.example, ask sender none
//! answer authorised         or: unauthenticated (encrypted is enough), exempted, upgrade, upgrade or plaintext,
//!                           refused 451 4.7.5 text
//! ask login                 the proxy asks for its own credentials
//! answer login password pw  they are the user `nurse` and this password; or: login token t0k (or refused, as above)
//! handshake server          the proxy starts TLS on that side
//! secured server            it is up;                  or: insecure server 421 4.7.5 text
//! record from <a@b> to <c@d> <e@f> octets 12 reply 250 2.0.0 ok      (* as above; reply unknown: the server never said)
//! recorded                  it is durable;             or: unrecorded 421 4.3.0 text
//! note incident some-name   told to the administrator; or: note hello x, note transaction, note message,
//!                           note refused 451 4.7.5, note host-fault 421 4.7.4 (passing-fault: it may pass),
//!                           note heard Greeting 554 no\r\n (Ehlo, StartTls, Login), note logged-in nurse PLAIN, note lacking Dsn, note ends quit;
//!                           `no note lacking*`: nothing like it has been told
//! trace Received: ...       --add-received: the line that goes in front of messages from now on
//! conditions overloaded     inbound: no handshake may begin now; or: tried-lately (mail in the clear may be of a client whose
//!                           handshake failed), normal
//! s stalls                  the server does not read, so the client's bytes are held back; and then: s reads
//! wait 300s                 time passes
//! drain                     the process is asked to stop; or: cut, now at last
//! repeat 100 .. end         plays the lines between as often
//! ```
//!
//! Everything the proxy does must be expected before the next thing happens to it, except notes. So what is not written
//! was not sent.

use starttls_proxy::smtp::{Cause, Domain, Question, Recipient, Refusal, Side};
use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

#[path = "answer.rs"]
mod answer;

pub use answer::Answer;
use answer::answer;

/// Which machine plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Outbound,
    Inbound,
}

/// One session to play.
#[derive(Clone, Debug)]
pub struct Script {
    pub direction: Direction,
    pub options: Vec<String>,
    /// The segments must not be cut.
    pub whole: bool,
    /// Its name in failures: the file, and the values of its `each` lines.
    pub name: String,
    pub lines: Vec<Line>,
}

/// One step and where it is written.
#[derive(Clone, Debug)]
pub struct Line {
    pub place: String,
    pub step: Step,
}

impl Line {
    /// What and where, for a failure: `why`.
    pub fn failed(&self, why: &str) -> String {
        let step = self.step.to_string();
        let shown: String = step.trim_end().chars().take(200).collect();
        format!("{}: {shown}\n    {why}", self.place)
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Sends(Side, Vec<u8>),
    Gets(Side, Expected),
    Closes(Side),
    Ends {
        side: Side,
        abort: bool,
    },
    Connect,
    Connected(Result<(), Refusal>),
    Ask(Question),
    Answer(Answer),
    Handshake(Side),
    Secured(Side, Result<(), Refusal>),
    Record(String),
    Recorded(Result<(), Refusal>),
    Note(String),
    Trace(Vec<u8>),
    /// No note like this came since the last note that was looked for.
    NoNote(String),
    Conditions {
        overloaded: bool,
        may_have_tried: bool,
    },
    /// The server does not read.
    Stalls(bool),
    Wait(Duration),
    Drain,
    Cut,
}

/// Bytes that somebody gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Line(Vec<u8>),
    Like(Vec<u8>),
    Bytes(Vec<u8>),
    Beginning(Vec<u8>),
}

type Values = BTreeMap<String, String>;

/// Reads a file into the sessions it stands for.
pub fn load(root: &Path, file: &Path) -> Result<Vec<Script>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let shown = file
        .strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string();
    let first = text.lines().next().unwrap_or_default();
    if !(first.starts_with("# ") && first.contains("RFC ") && first.contains('§')) {
        return Err(format!(
            "{shown}:1: the first line states the rule and its RFC section"
        ));
    }
    let header = Header::read(&shown, &text)?;
    let mut scripts = Vec::new();
    for direction in &header.directions {
        for values in product(&header.each) {
            let label: Vec<&str> = values.values().map(String::as_str).collect();
            let mut name = format!("{shown} {direction:?}");
            if !label.is_empty() {
                name.push_str(&format!(" [{}]", label.join(", ")));
            }
            let mut script = Script {
                direction: *direction,
                options: header.options.clone(),
                whole: header.whole,
                name,
                lines: Vec::new(),
            };
            let mut reader = Reader {
                root,
                direction: *direction,
                values: &values,
                lines: &mut script.lines,
            };
            reader.read(&shown, &text)?;
            scripts.push(script);
        }
    }
    Ok(scripts)
}

/// Every combination of the values.
fn product(each: &[(String, Vec<String>)]) -> Vec<Values> {
    each.iter()
        .fold(vec![Values::new()], |sofar, (name, values)| {
            sofar
                .iter()
                .flat_map(|known| {
                    values.iter().map(move |value| {
                        let mut known = known.clone();
                        known.insert(name.clone(), value.clone());
                        known
                    })
                })
                .collect()
        })
}

#[derive(Default)]
struct Header {
    directions: Vec<Direction>,
    options: Vec<String>,
    each: Vec<(String, Vec<String>)>,
    whole: bool,
}

impl Header {
    fn read(shown: &str, text: &str) -> Result<Self, String> {
        let mut header = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let directions = match words.next() {
                Some("outbound") => vec![Direction::Outbound],
                Some("inbound") => vec![Direction::Inbound],
                Some("both") => vec![Direction::Outbound, Direction::Inbound],
                Some("whole") => {
                    header.whole = true;
                    continue;
                }
                Some("each") => {
                    let (name, values) = line["each".len()..]
                        .split_once(": ")
                        .ok_or_else(|| format!("{shown}: each NAME: value | value"))?;
                    let values = values.split(" | ").map(str::to_owned).collect();
                    header.each.push((name.trim().to_owned(), values));
                    continue;
                }
                _ => continue,
            };
            header.directions = directions;
            header.options = words.map(str::to_owned).collect();
        }
        if header.directions.is_empty() {
            return Err(format!("{shown}: no line says outbound, inbound or both"));
        }
        Ok(header)
    }
}

struct Reader<'a> {
    root: &'a Path,
    direction: Direction,
    values: &'a Values,
    lines: &'a mut Vec<Line>,
}

impl Reader<'_> {
    fn read(&mut self, shown: &str, text: &str) -> Result<(), String> {
        let mut repeats: Vec<(usize, usize)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let place = format!("{shown}:{}", index + 1);
            let line = self
                .values
                .iter()
                .fold(line.to_owned(), |line, (name, value)| {
                    line.replace(&format!("${name}"), value)
                });
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "" | "#" | "outbound" | "inbound" | "both" | "each" | "whole" => {}
                "use" => self.include(rest, &place)?,
                "repeat" => {
                    let times = rest.parse().map_err(|_| format!("{place}: repeat COUNT"))?;
                    repeats.push((self.lines.len(), times));
                }
                "end" => {
                    let (from, times) = repeats.pop().ok_or(format!("{place}: end of nothing"))?;
                    let body = self.lines[from..].to_vec();
                    for _ in 1..times {
                        self.lines.extend_from_slice(&body);
                    }
                }
                _ => self.step(&line, place)?,
            }
        }
        match repeats.is_empty() {
            true => Ok(()),
            false => Err(format!("{shown}: repeat without end")),
        }
    }

    fn include(&mut self, name: &str, place: &str) -> Result<(), String> {
        let prefix = match self.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        let shown = format!("openings/{prefix}-{name}.smtp");
        let text = fs::read_to_string(self.root.join(&shown))
            .map_err(|e| format!("{place}: {shown}: {e}"))?;
        self.read(&shown, &text)
    }

    fn step(&mut self, line: &str, place: String) -> Result<(), String> {
        let said = |what: &str| format!("{place}: {what}: {line:?}");
        if let Some((side, text, raw)) = continuation(line) {
            let Some(Line {
                step: Step::Sends(before, bytes),
                ..
            }) = self.lines.last_mut()
            else {
                return Err(said("no segment to add to"));
            };
            if *before != side {
                return Err(said("the segment above is of the other side"));
            }
            bytes.extend_from_slice(&unescape(text).map_err(|e| said(&e))?);
            if !raw {
                bytes.extend_from_slice(b"\r\n");
            }
            return Ok(());
        }
        let step = parse(line).map_err(|e| said(&e))?;
        self.lines.push(Line { place, step });
        Ok(())
    }
}

/// `c +> text` and `c +=> text`.
fn continuation(line: &str) -> Option<(Side, &str, bool)> {
    let side = side_of(line.get(..1)?)?;
    let rest = line.get(1..)?;
    if let Some(text) = rest.strip_prefix(" +=>") {
        return Some((side, text.strip_prefix(' ').unwrap_or(text), true));
    }
    let text = rest.strip_prefix(" +>")?;
    Some((side, text.strip_prefix(' ').unwrap_or(text), false))
}

fn side_of(word: &str) -> Option<Side> {
    match word {
        "c" | "client" => Some(Side::Client),
        "s" | "server" => Some(Side::Server),
        _ => None,
    }
}

fn parse(line: &str) -> Result<Step, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if let "c" | "s" = word {
        return parse_side(side_of(word).ok_or("no side")?, rest);
    }
    Ok(match (word, rest) {
        ("connect", "") => Step::Connect,
        ("connected", "") => Step::Connected(Ok(())),
        ("unreachable", _) => Step::Connected(Err(refusal(rest)?)),
        ("ask", _) => Step::Ask(question(rest)?),
        ("answer", _) => Step::Answer(answer(rest)?),
        ("handshake", _) => Step::Handshake(side_of(rest).ok_or("handshake SIDE")?),
        ("secured", _) => Step::Secured(side_of(rest).ok_or("secured SIDE")?, Ok(())),
        ("insecure", _) => {
            let (side, why) = rest.split_once(' ').ok_or("insecure SIDE CODE TEXT")?;
            Step::Secured(side_of(side).ok_or("insecure SIDE")?, Err(refusal(why)?))
        }
        ("record", _) => Step::Record(rest.to_owned()),
        ("recorded", "") => Step::Recorded(Ok(())),
        ("unrecorded", _) => Step::Recorded(Err(refusal(rest)?)),
        ("note", _) => Step::Note(rest.to_owned()),
        ("trace", _) => Step::Trace([&unescape(rest)?[..], b"\r\n"].concat()),
        ("no", _) => Step::NoNote(rest.strip_prefix("note ").ok_or("no note TEXT")?.to_owned()),
        ("conditions", _) => Step::Conditions {
            overloaded: rest == "overloaded",
            may_have_tried: rest == "tried-lately",
        },
        ("wait", _) => Step::Wait(duration(rest)?),
        ("drain", "") => Step::Drain,
        ("cut", "") => Step::Cut,
        _ => return Err("not understood".to_owned()),
    })
}

fn parse_side(side: Side, rest: &str) -> Result<Step, String> {
    let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok(match (word, text) {
        ("->", _) => Step::Sends(side, [&unescape(text)?[..], b"\r\n"].concat()),
        ("=>", _) => Step::Sends(side, unescape(text)?),
        ("<-", _) => Step::Gets(side, Expected::Line(unescape(text)?)),
        ("<~", _) => Step::Gets(side, Expected::Like(unescape(text)?)),
        ("<=", _) => Step::Gets(side, Expected::Bytes(unescape(text)?)),
        ("<?", _) => Step::Gets(side, Expected::Beginning(unescape(text)?)),
        ("closes", "") => Step::Closes(side),
        ("stalls", "") if side == Side::Server => Step::Stalls(true),
        ("reads", "") if side == Side::Server => Step::Stalls(false),
        ("is", "closed") => Step::Ends { side, abort: false },
        ("is", "dropped") => Step::Ends { side, abort: true },
        _ => return Err("not understood".to_owned()),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').and_then(|n| n.parse().ok());
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "wait SECONDSs".to_owned())
}

/// `421 4.7.5 text`.
fn refusal(text: &str) -> Result<Refusal, String> {
    let read = || {
        let mut words = text.splitn(3, ' ');
        let code: u16 = words.next()?.parse().ok()?;
        let mut numbers = words.next()?.split('.').map(|n| n.parse::<u16>().ok());
        let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (class == code / 100).then(|| Refusal {
            code,
            enhanced: (subject, detail),
            text: words.next().unwrap_or("refused").to_owned(),
            cause: Cause::Verdict,
        })
    };
    read().ok_or_else(|| "a refusal is CODE X.Y.Z TEXT".to_owned())
}

fn question(text: &str) -> Result<Question, String> {
    let domain = |name: &str| Domain::parse(name).ok_or_else(|| format!("no domain: {name:?}"));
    Ok(match text.split_once(' ').unwrap_or((text, "")) {
        ("peer", "") => Question::Peer,
        ("login", "") => Question::Login,
        ("postmaster", "") => Question::Recipient(Recipient::Postmaster),
        ("recipient", name) => Question::Recipient(Recipient::Domain(domain(name)?)),
        ("literal", name) => Question::Recipient(Recipient::Literal(name.to_owned())),
        ("sender", "none") => Question::Sender(None),
        ("sender", name) => Question::Sender(Some(domain(name)?)),
        _ => return Err("no such question".to_owned()),
    })
}

/// Text as it stands in a file, as bytes.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escaped = rest.chars().next().ok_or("a backslash at the end")?;
                rest = &rest[escaped.len_utf8()..];
                bytes.push(match escaped {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '0' => 0,
                    '\\' | '{' => escaped as u8,
                    'x' => {
                        let digits = rest.get(..2).ok_or("\\x takes two digits")?;
                        rest = &rest[2..];
                        u8::from_str_radix(digits, 16).map_err(|e| e.to_string())?
                    }
                    _ => return Err(format!("no such escape: \\{escaped}")),
                });
            }
            '{' => {
                let (inside, behind) = braced(rest).ok_or("{ without }")?;
                let (times, text) = inside.split_once('*').ok_or("{COUNT*text}")?;
                let times = times.parse().map_err(|_| "{COUNT*text}")?;
                bytes.extend_from_slice(&unescape(text)?.repeat(times));
                rest = behind;
            }
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(bytes)
}

/// The text before the closing brace, and the text behind it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// Bytes as they stand in a file.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            0 => text.push_str("\\0"),
            b'\\' | b'{' => {
                text.push('\\');
                text.push(*byte as char);
            }
            0x20..=0x7e => text.push(*byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

pub fn show_question(question: &Question) -> String {
    match question {
        Question::Peer => "peer".to_owned(),
        Question::Login => "login".to_owned(),
        Question::Recipient(Recipient::Domain(name)) => format!("recipient {name}"),
        Question::Recipient(Recipient::Literal(name)) => format!("literal {name}"),
        Question::Recipient(Recipient::Postmaster) => "postmaster".to_owned(),
        Question::Sender(Some(name)) => format!("sender {name}"),
        Question::Sender(None) => "sender none".to_owned(),
    }
}

fn show_side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |side: &Side| &show_side(*side)[..1];
        match self {
            Self::Sends(side, bytes) => {
                let side = short(side);
                let mut arrow = ["=>", "->"];
                for line in bytes.split_inclusive(|b| *b == b'\n') {
                    match line.strip_suffix(b"\r\n") {
                        Some(line) => writeln!(f, "{side} {} {}", arrow[1], escape(line))?,
                        None => writeln!(f, "{side} {} {}", arrow[0], escape(line))?,
                    }
                    arrow = ["+=>", "+>"];
                }
                Ok(())
            }
            Self::Gets(side, Expected::Line(line)) => {
                writeln!(f, "{} <- {}", short(side), escape(line))
            }
            Self::Gets(side, Expected::Like(line)) => {
                writeln!(f, "{} <~ {}", short(side), escape(line))
            }
            Self::Gets(side, Expected::Bytes(bytes)) => {
                writeln!(f, "{} <= {}", short(side), escape(bytes))
            }
            Self::Gets(side, Expected::Beginning(bytes)) => {
                writeln!(f, "{} <? {}", short(side), escape(bytes))
            }
            Self::Closes(side) => writeln!(f, "{} closes", short(side)),
            Self::Ends { side, abort } => {
                let how = if *abort { "dropped" } else { "closed" };
                writeln!(f, "{} is {how}", short(side))
            }
            Self::Connect => writeln!(f, "connect"),
            Self::Connected(Ok(())) => writeln!(f, "connected"),
            Self::Connected(Err(why)) => writeln!(f, "unreachable {why}"),
            Self::Ask(question) => writeln!(f, "ask {}", show_question(question)),
            Self::Answer(answer) => writeln!(f, "answer {answer}"),
            Self::Handshake(side) => writeln!(f, "handshake {}", show_side(*side)),
            Self::Secured(side, Ok(())) => writeln!(f, "secured {}", show_side(*side)),
            Self::Secured(side, Err(why)) => writeln!(f, "insecure {} {why}", show_side(*side)),
            Self::Record(what) => writeln!(f, "record {what}"),
            Self::Recorded(Ok(())) => writeln!(f, "recorded"),
            Self::Recorded(Err(why)) => writeln!(f, "unrecorded {why}"),
            Self::Note(what) => writeln!(f, "note {what}"),
            Self::Trace(line) => writeln!(f, "trace {}", escape(line.trim_ascii_end())),
            Self::NoNote(what) => writeln!(f, "no note {what}"),
            Self::Conditions {
                overloaded: true, ..
            } => writeln!(f, "conditions overloaded"),
            Self::Conditions {
                may_have_tried: true,
                ..
            } => writeln!(f, "conditions tried-lately"),
            Self::Conditions { .. } => writeln!(f, "conditions normal"),
            Self::Stalls(true) => writeln!(f, "s stalls"),
            Self::Stalls(false) => writeln!(f, "s reads"),
            Self::Wait(time) => writeln!(f, "wait {}s", time.as_secs()),
            Self::Drain => writeln!(f, "drain"),
            Self::Cut => writeln!(f, "cut"),
        }
    }
}
