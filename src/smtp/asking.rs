//! The asking client: the proxy itself in the role of an SMTP client that asks a question and never sends a message.
//!
//! Its commands are known beforehand. It reads replies by the rules that hold for the machines ([`ReplyReader`]): a bare CR or
//! LF, a reply beyond the limits and a reply to no command end the dialogue.

use super::reply::{Reply, ReplyPart, ReplyReader};
use std::{collections::VecDeque, fmt};

/// What the driver of an [`AskingClient`] does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send this command, CRLF included, then read.
    Send(Vec<u8>),
    /// Read: no reply is whole yet.
    Read,
    /// Nothing more: the dialogue is over.
    Over(LastReply),
}

/// The reply that ended a dialogue: the first one that is not 2yz, else the one to the last command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LastReply {
    /// Number of commands that were sent before it. 0: it is the greeting.
    pub(crate) commands_sent: usize,
    pub(crate) reply: Reply<'static>,
}

impl LastReply {
    /// Its lines as received, without CRLF and blanks before it.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self
            .reply
            .verbatim()
            .trim_ascii_end()
            .split(|b| *b == b'\n');
        lines.map(<[u8]>::trim_ascii_end)
    }

    /// The last line, with every octet escaped that is not printable ASCII.
    pub(crate) fn last_line(&self) -> String {
        self.lines()
            .last()
            .unwrap_or_default()
            .escape_ascii()
            .to_string()
    }
}

/// Why a reply is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyFault {
    /// Two parsers could read it differently, or it is beyond the limits of [`super::reply`].
    Malformed,
    /// It stands behind another reply, and no command asked for it.
    Unsolicited,
}

impl fmt::Display for ReplyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed reply",
            Self::Unsolicited => "a reply to nothing",
        })
    }
}

/// The code of a server that closes the connection. It may come without a command (RFC 5321 §3.8).
const CLOSING: &[u8] = b"421";

/// A dialogue: the greeting, then each command once the reply before it was 2yz.
#[derive(Debug, Default)]
pub(crate) struct AskingClient {
    commands: VecDeque<String>,
    commands_sent: usize,
    reader: ReplyReader,
    unread: Vec<u8>,
    /// A whole reply was read and no command was sent since, so bytes that are read now answer nothing.
    unasked: bool,
}

impl AskingClient {
    /// A client that sends these commands. They are given without CRLF.
    pub(crate) fn new(commands: impl IntoIterator<Item = String>) -> Self {
        Self {
            commands: commands.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Takes what the server sent.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Next, ReplyFault> {
        self.unread.extend_from_slice(bytes);
        loop {
            let (length, reply) = match self.reader.read(&self.unread) {
                ReplyPart::Partial => return Ok(Next::Read),
                ReplyPart::Malformed => return Err(ReplyFault::Malformed),
                ReplyPart::More(length) => (length, None),
                ReplyPart::Whole(length, reply) => (length, Some(reply.into_owned())),
            };
            self.unread.drain(..length);
            let Some(reply) = reply else { continue };
            if self.unasked && reply.code != 421 {
                return Err(ReplyFault::Unsolicited);
            }
            let behind = &self.unread[..self.unread.len().min(CLOSING.len())];
            if !CLOSING.starts_with(behind) {
                return Err(ReplyFault::Unsolicited);
            }
            self.unasked = !behind.is_empty();
            if !reply.is_positive() || self.commands.is_empty() {
                return Ok(Next::Over(LastReply {
                    commands_sent: self.commands_sent,
                    reply,
                }));
            }
            if !self.unasked
                && let Some(command) = self.commands.pop_front()
            {
                self.commands_sent += 1;
                return Ok(Next::Send((command + "\r\n").into_bytes()));
            }
        }
    }
}

/// Greetings that no asking client accepts, for the tests of all callers.
#[cfg(test)]
pub(crate) fn hostile_greetings() -> Vec<(Vec<u8>, ReplyFault)> {
    use super::{framing::MAX_REPLY_LINE, reply::MAX_LINES};
    vec![
        (b"220 bare\n".to_vec(), ReplyFault::Malformed),
        (b"220-a\r\n220 b\rc\r\n".to_vec(), ReplyFault::Malformed),
        (b"220-two\r\n250 codes\r\n".to_vec(), ReplyFault::Malformed),
        (
            [b"220 ", &[b'x'; MAX_REPLY_LINE][..], b"\r\n"].concat(),
            ReplyFault::Malformed,
        ),
        (b"220-line\r\n".repeat(MAX_LINES + 1), ReplyFault::Malformed),
        (
            b"220 mx\r\n250 injected\r\n".to_vec(),
            ReplyFault::Unsolicited,
        ),
        (b"220 mx\r\n2".to_vec(), ReplyFault::Unsolicited),
        (b"554 no\r\n250 yes\r\n".to_vec(), ReplyFault::Unsolicited),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> AskingClient {
        AskingClient::new(["EHLO us".into(), "MAIL FROM:<>".into()])
    }

    fn over(commands_sent: usize, code: u16, verbatim: &str) -> Result<Next, ReplyFault> {
        let ReplyPart::Whole(_, reply) = ReplyReader::default().read(verbatim.as_bytes()) else {
            panic!("{verbatim} is no reply");
        };
        assert_eq!(reply.code, code);
        Ok(Next::Over(LastReply {
            commands_sent,
            reply: reply.into_owned(),
        }))
    }

    #[test]
    fn each_command_is_sent_once_the_one_before_was_accepted() {
        let mut client = client();
        let ehlo = Ok(Next::Send(b"EHLO us\r\n".to_vec()));
        let mail = Ok(Next::Send(b"MAIL FROM:<>\r\n".to_vec()));
        assert_eq!(client.receive(b"220 mx\r"), Ok(Next::Read));
        assert_eq!(client.receive(b"\n"), ehlo);
        assert_eq!(client.receive(b"250-mx\r\n250 SIZE\r\n"), mail);
        assert_eq!(client.receive(b"250 ok\r\n"), over(2, 250, "250 ok\r\n"));
    }

    #[test]
    fn a_reply_that_is_not_positive_ends_the_dialogue() {
        assert_eq!(client().receive(b"554 no\r\n"), over(0, 554, "554 no\r\n"));
        let mut client = client();
        client.receive(b"220 mx\r\n").expect("a greeting");
        assert_eq!(client.receive(b"354 go\r\n"), over(1, 354, "354 go\r\n"));
    }

    #[test]
    fn a_server_that_closes_may_say_so_unasked() {
        let bytes = b"220 mx\r\n421 closing\r\n";
        for cut in 0..bytes.len() {
            let mut client = client();
            // If the cut is between the two replies, the first one is handled before the second one arrives.
            let first = client.receive(&bytes[..cut]).expect("well-formed");
            let sent = usize::from(matches!(first, Next::Send(_)));
            assert_eq!(
                client.receive(&bytes[cut..]),
                over(sent, 421, "421 closing\r\n"),
                "cut at {cut}"
            );
        }
        // The reply to the command stays the answer.
        assert_eq!(
            AskingClient::new([]).receive(bytes),
            over(0, 220, "220 mx\r\n")
        );
    }

    #[test]
    fn a_hostile_greeting_is_refused_and_nothing_is_sent() {
        for (bytes, fault) in hostile_greetings() {
            assert_eq!(client().receive(&bytes), Err(fault), "{bytes:?}");
        }
        let mut client = client();
        assert_eq!(client.receive(b"220 mx\r\n4"), Ok(Next::Read));
        assert_eq!(client.receive(b"50 no\r\n"), Err(ReplyFault::Unsolicited));
    }
}
