//! A driver of machines for unit tests. Both sides are text, and the clock moves only when a test moves it.

use super::{machine::*, path::Recipient, proof::*, refusal::*};
use std::time::Duration;

/// Drives a machine by the contract of [`crate::smtp`] and keeps what it does.
pub(crate) struct Script<M> {
    pub(crate) machine: M,
    pub(crate) now: Duration,
    /// By side: bytes that it sent and the machine has not taken.
    untaken: [Vec<u8>; 2],
    /// By side: bytes that the machine sent to it.
    sent: [Vec<u8>; 2],
    /// Message octets that passed to the server.
    pub(crate) content: Vec<u8>,
    /// Everything but bytes, in order.
    pub(crate) events: Vec<String>,
    pub(crate) records: Vec<Completed>,
    /// By side: `Some` once it is closed; true if its connection was dropped.
    pub(crate) closed: [Option<bool>; 2],
}

impl<M: Machine> Script<M> {
    pub(crate) fn new(machine: M) -> Self {
        let mut script = Self {
            machine,
            now: Duration::ZERO,
            untaken: Default::default(),
            sent: Default::default(),
            content: Vec::new(),
            events: Vec::new(),
            records: Vec::new(),
            closed: [None, None],
        };
        script.drain(None);
        script
    }

    fn drain(&mut self, offered: Option<Side>) {
        while let Some(action) = self.machine.next_action() {
            match action {
                Action::Send(side, bytes) => {
                    assert_eq!(
                        self.closed[side as usize], None,
                        "sent to a closed side: {bytes:?}"
                    );
                    self.sent[side as usize].extend(bytes);
                }
                Action::SendSecret(line) => self.sent[Side::Server as usize].extend(line.expose()),
                Action::Pass { from, len, content } => {
                    assert_eq!(offered, Some(from), "passed what was not offered");
                    assert_eq!(
                        self.closed[from.other() as usize],
                        None,
                        "passed to a closed side"
                    );
                    let bytes: Vec<u8> = self.untaken[from as usize].drain(..len).collect();
                    if content {
                        self.content.extend(&bytes);
                    }
                    self.sent[from.other() as usize].extend(bytes);
                }
                Action::Drop { from, len } => {
                    assert_eq!(offered, Some(from), "dropped what was not offered");
                    self.untaken[from as usize].drain(..len);
                }
                Action::Upgrade(side) => {
                    assert!(
                        self.untaken[side as usize].is_empty(),
                        "bytes behind the upgrade"
                    );
                    self.events.push(format!("upgrade {side:?}"));
                }
                Action::Connect => {
                    self.closed[Side::Server as usize] = None;
                    self.untaken[Side::Server as usize].clear();
                    self.events.push("connect".to_owned());
                }
                Action::Authorise(question) => self.events.push(match question {
                    Question::Peer => "ask peer".to_owned(),
                    Question::Login => "ask login".to_owned(),
                    Question::Recipient(Recipient::Domain(d)) => format!("ask {d}"),
                    Question::Recipient(Recipient::Literal(l)) => format!("ask {l}"),
                    Question::Recipient(Recipient::Postmaster) => "ask postmaster".to_owned(),
                    Question::Sender(Some(d)) => format!("ask sender {d}"),
                    Question::Sender(None) => "ask sender <>".to_owned(),
                }),
                Action::Record(completed) => {
                    self.records.push(*completed);
                    self.events.push("record".to_owned());
                }
                Action::Note(Note::Incident(what)) => self.events.push(what.to_owned()),
                Action::Note(Note::HostFault { .. }) => self.events.push("host fault".to_owned()),
                Action::Note(Note::MessageBegins) => self.events.push("message".to_owned()),
                Action::Note(
                    Note::Hello(_)
                    | Note::Refused(_)
                    | Note::TransactionBegins
                    | Note::Heard { .. }
                    | Note::NoTls { .. }
                    | Note::MissingExtension(_)
                    | Note::LoggedIn { .. }
                    | Note::Ends(_),
                ) => {}
                Action::Close { side, abort } => self.closed[side as usize] = Some(abort),
            }
        }
    }

    fn offer(&mut self) {
        loop {
            let before = [self.untaken[0].len(), self.untaken[1].len()];
            for side in [Side::Server, Side::Client] {
                if !self.untaken[side as usize].is_empty() {
                    let bytes = self.untaken[side as usize].clone();
                    self.machine.receive(side, &bytes, self.now);
                    self.drain(Some(side));
                }
            }
            if before == [self.untaken[0].len(), self.untaken[1].len()] {
                return;
            }
        }
    }

    fn says(&mut self, side: Side, text: &str) -> &mut Self {
        self.untaken[side as usize].extend(text.replace('⏎', "\r\n").into_bytes());
        self.offer();
        self
    }

    /// The client sends; `⏎` is CR LF.
    pub(crate) fn client(&mut self, text: &str) -> &mut Self {
        self.says(Side::Client, text)
    }

    /// The server sends; `⏎` is CR LF.
    pub(crate) fn server(&mut self, text: &str) -> &mut Self {
        self.says(Side::Server, text)
    }

    pub(crate) fn input(&mut self, input: Input) -> &mut Self {
        self.machine.handle(input, self.now);
        self.drain(None);
        self.offer();
        self
    }

    pub(crate) fn connected(&mut self) -> &mut Self {
        self.input(Input::Connected(Ok(())))
    }

    pub(crate) fn upgraded(&mut self, side: Side) -> &mut Self {
        self.input(Input::Upgraded(side, Ok(())))
    }

    pub(crate) fn authorised(&mut self) -> &mut Self {
        self.input(Input::Answer(Answer::Authorised(Authorised::assertion())))
    }

    pub(crate) fn upgrade(&mut self) -> &mut Self {
        self.input(Input::Answer(Answer::Upgrade { or_plaintext: None }))
    }

    pub(crate) fn refused(&mut self, code: u16) -> &mut Self {
        self.input(Input::Answer(Answer::Refused(refusal(code))))
    }

    pub(crate) fn recorded(&mut self) -> &mut Self {
        self.input(Input::Recorded(Ok(Recorded::assertion())))
    }

    /// Moves the clock to the machine's deadline.
    pub(crate) fn late(&mut self) -> &mut Self {
        self.now = self.machine.deadline().expect("a deadline");
        self.input(Input::Deadline)
    }

    /// Asserts what that side got since the last call.
    #[track_caller]
    pub(crate) fn got(&mut self, side: Side, text: &str) -> &mut Self {
        let got = std::mem::take(&mut self.sent[side as usize]);
        let got = String::from_utf8_lossy(&got).replace("\r\n", "⏎");
        assert_eq!(got, text, "to the {side:?}");
        self
    }

    /// Asserts what the client got since the last call.
    #[track_caller]
    pub(crate) fn client_got(&mut self, text: &str) -> &mut Self {
        self.got(Side::Client, text)
    }

    /// Asserts what the server got since the last call.
    #[track_caller]
    pub(crate) fn server_got(&mut self, text: &str) -> &mut Self {
        self.got(Side::Server, text)
    }

    /// The codes that the client got since the last call: one for each line.
    pub(crate) fn codes(&mut self) -> Vec<u16> {
        let got = std::mem::take(&mut self.sent[Side::Client as usize]);
        String::from_utf8_lossy(&got)
            .lines()
            .map(|line| line[..3].parse().expect("a code"))
            .collect()
    }

    /// Asserts what happened besides bytes since the last call.
    #[track_caller]
    pub(crate) fn events(&mut self, events: &[&str]) -> &mut Self {
        assert_eq!(std::mem::take(&mut self.events), events);
        self
    }

    /// Asserts that the session is over. `dropped`: the server's connection was dropped.
    #[track_caller]
    pub(crate) fn over(&mut self, dropped: bool) -> &mut Self {
        assert!(self.machine.finished(), "not finished");
        assert_eq!(self.closed, [Some(false), Some(dropped)]);
        self
    }
}

/// A refusal by the policy.
pub(crate) fn refusal(code: u16) -> Refusal {
    Refusal {
        code,
        enhanced: (7, 5),
        text: "policy".to_owned(),
        cause: Cause::Verdict,
    }
}
