//! One log line: its time or priority, and its text; or the same as a JSON object.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    sync::OnceLock,
};

use log::Level;
use serde_json::{Map, Value};

use crate::clock;

/// Octets of memory that a line gets before its length is known: most lines fit.
const USUAL_LINE: usize = 256;
/// Keys whose values are numbers in JSON.
const NUMBERS: [&str; 7] = [
    "accepted", "code", "message", "messages", "octets", "repeated", "seconds",
];

/// What `--log` says: how lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level and text.
    #[default]
    Text,
    /// For programs: one JSON object a line. What is `key=value` in text is a member of it.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{word}' is neither text nor json")),
        }
    }
}

/// Set once, before the first line.
pub(super) static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// An event as one line. If stderr goes to the journal, it begins with its priority, and the journal adds the time.
pub(super) fn formatted(level: Level, text: fmt::Arguments<'_>) -> Vec<u8> {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    let journal = *JOURNAL.get_or_init(|| std::env::var_os("JOURNAL_STREAM").is_some());
    let format = FORMAT.get().copied().unwrap_or_default();
    line(format, journal, level, text)
}

fn line(format: LogFormat, journal: bool, level: Level, text: fmt::Arguments<'_>) -> Vec<u8> {
    let mut line = OneLine(Vec::with_capacity(USUAL_LINE));
    if journal {
        line.0.extend(format!("<{}>", priority(level)).as_bytes());
    }
    // Writing to memory cannot fail. What a value refuses to format is missing in the line.
    let _ = match format {
        LogFormat::Text if journal => line.write_fmt(text),
        LogFormat::Text => write!(line, "{} {level:5} {text}", now()),
        LogFormat::Json => write!(line, "{}", json(level, &text.to_string())),
    };
    line.0.push(b'\n');
    line.0
}

/// As syslog numbers them (RFC 5424 §6.2.1).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// The time in milliseconds, UTC. A clock beyond the calendar is no reason to lose the line.
fn now() -> impl fmt::Display {
    let at = jiff::Timestamp::try_from(clock::wall()).unwrap_or_default();
    fmt::from_fn(move |f| write!(f, "{at:.3}"))
}

/// A line as an object: the members of a session's line, or the text of any other as `message`.
fn json(level: Level, text: &str) -> Value {
    let mut object = members(text).unwrap_or_else(|| {
        let message = text.replace('\n', "; ");
        Map::from_iter([("message".to_owned(), message.into())])
    });
    object.insert("time".to_owned(), now().to_string().into());
    let level = level.as_str().to_ascii_lowercase();
    object.insert("level".to_owned(), level.into());
    object.into()
}

/// The `key=value` pairs of a session's line, which begins with `out` or `in`. `None`: it is another line.
fn members(text: &str) -> Option<Map<String, Value>> {
    let (direction, mut rest) = text.split_once(' ')?;
    if !matches!(direction, "out" | "in") {
        return None;
    }
    let mut members = Map::from_iter([("direction".to_owned(), direction.into())]);
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=')?;
        let is_key = |octet: u8| octet.is_ascii_lowercase() || octet == b'_';
        if key.is_empty() || !key.bytes().all(is_key) {
            return None;
        }
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = behind.find(' ').unwrap_or(behind.len());
                (behind[..end].to_owned(), &behind[end..])
            }
        };
        let value = match value.parse::<serde_json::Number>() {
            Ok(number) if NUMBERS.contains(&key) => Value::Number(number),
            _ => Value::String(value),
        };
        if members.insert(key.to_owned(), value).is_some() {
            return None;
        }
        rest = match behind.strip_prefix(' ') {
            Some(rest) => rest,
            None if behind.is_empty() => "",
            None => return None,
        };
    }
    Some(members)
}

/// Takes a value up to its closing quotation mark, and undoes its escapes. Returns what follows, too.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => match rest.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '0' => value.push('\0'),
                'u' => {
                    let (digits, behind) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    value.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                    rest = behind.chars();
                }
                // An octet that need not be UTF-8 stays as it is written.
                'x' => value.push_str("\\x"),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
}

/// A line that is being written. It escapes control characters: the text may quote a policy host or a resolver, and must not
/// control the terminal of the log's reader.
struct OneLine(Vec<u8>);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        for c in text.chars() {
            match c {
                '\n' => self.0.extend_from_slice(b"; "),
                // A change of the writing direction makes a line look like another (Unicode TR 36 §3.1).
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    self.escape(c);
                }
                c if c.is_control() => self.escape(c),
                c => {
                    let mut octets = [0; 4];
                    self.0
                        .extend_from_slice(c.encode_utf8(&mut octets).as_bytes());
                }
            }
        }
        Ok(())
    }
}

impl OneLine {
    /// An escaped character is ASCII.
    fn escape(&mut self, c: char) {
        self.0.extend(c.escape_default().map(|c| c as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_line(text: &str) -> String {
        let mut line = OneLine(Vec::new());
        line.write_str(text).expect("memory");
        String::from_utf8(line.0).expect("UTF-8")
    }

    #[test]
    fn nothing_in_a_line_acts_on_the_terminal_of_who_reads_it() {
        assert_eq!(
            one_line("a\nb\r\u{1b}[2J\u{9b}1m\u{202e}\u{7f} (§4)"),
            "a; b\\r\\u{1b}[2J\\u{9b}1m\\u{202e}\\u{7f} (§4)"
        );
    }

    fn as_json(text: &str) -> Value {
        let line = line(LogFormat::Json, false, Level::Warn, format_args!("{text}"));
        let mut object: Value = serde_json::from_slice(&line).expect("JSON");
        let members = object.as_object_mut().expect("an object");
        assert_eq!(members.remove("level"), Some("warn".into()));
        let time = members.remove("time").expect("a time");
        assert!(time.as_str().expect("text").ends_with('Z'));
        object
    }

    #[test]
    fn in_json_the_pairs_of_a_sessions_line_are_members_and_other_text_is_a_message() {
        let line = r#"out s=0123456789ab client=10.0.0.5:4711 messages=2 seconds=0.250 sni=- detail="no \"x\" \u{1b}[1m\n""#;
        assert_eq!(
            as_json(line),
            serde_json::json!({
                "direction": "out", "s": "0123456789ab", "client": "10.0.0.5:4711", "messages": 2, "seconds": 0.25, "sni": "-",
                "detail": "no \"x\" \u{1b}[1m\n",
            })
        );
        for other in [
            "out: ready",
            "in: relay probe: a=b",
            "out s=1 s=2",
            "out s=\"open",
            "out s=\"1\"x",
            "out of files=1 is more",
            "two\nlines",
        ] {
            let message = other.replace('\n', "; ");
            assert_eq!(as_json(other), serde_json::json!({ "message": message }));
        }
        let octets = as_json(r#"in s=000000000001 reply="250 \xff \'ok\'\\""#);
        assert_eq!(octets["reply"], r"250 \xff 'ok'\");
        assert_eq!(octets["s"], "000000000001", "an identifier is no number");
    }

    #[test]
    fn the_journal_is_told_the_priority_and_adds_the_time_itself() {
        let text = |format, level| {
            let line = line(format, true, level, format_args!("x"));
            String::from_utf8(line).expect("UTF-8")
        };
        assert_eq!(text(LogFormat::Text, Level::Error), "<3>x\n");
        assert_eq!(text(LogFormat::Text, Level::Warn), "<4>x\n");
        assert_eq!(text(LogFormat::Text, Level::Info), "<6>x\n");
        assert_eq!(text(LogFormat::Text, Level::Debug), "<7>x\n");
        assert!(text(LogFormat::Json, Level::Info).starts_with("<6>{"));
    }
}
