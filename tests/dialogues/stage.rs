//! A machine on a stage: both sides, the policy, the disk and the clock are played for it, and what it does is kept
//! until somebody asks for it. Every step is watched by [`Watch`].

use super::{
    script::{Answer, Step, escape, show_question},
    watch::Watch,
};
use starttls_proxy::smtp::{
    Action, Completed, Input, MAX_UNTAKEN, Machine, Note, Question, Recorded, Refusal, Side,
    StartTlsConditions,
};
use std::{collections::VecDeque, time::Duration};

/// The actions of the machine other than bytes. Bytes are in [`End::out`].
#[derive(Debug, PartialEq)]
pub enum Deed {
    Connect,
    Ask(Question),
    Handshake(Side),
    Record(Completed),
    Ends { side: Side, abort: bool },
}

impl Deed {
    /// The action in the words of a script.
    pub fn step(&self) -> Step {
        match self {
            Self::Connect => Step::Connect,
            Self::Ask(question) => Step::Ask(question.clone()),
            Self::Handshake(side) => Step::Handshake(*side),
            Self::Record(completed) => Step::Record(show_record(completed)),
            Self::Ends { side, abort } => Step::Ends {
                side: *side,
                abort: *abort,
            },
        }
    }
}

pub fn show_record(completed: &Completed) -> String {
    let recipients: Vec<String> = completed
        .recipients
        .iter()
        .map(|to| format!("<{}>", escape(to.path())))
        .collect();
    let reply = completed
        .reply
        .as_ref()
        .map_or("unknown".to_owned(), |reply| {
            escape(reply.strip_suffix(b"\r\n").unwrap_or(reply))
        });
    format!(
        "from <{}> to {} octets {} reply {reply}",
        escape(&completed.sender),
        recipients.join(" "),
        completed.octets
    )
}

/// One connection as the machine's driver sees it.
#[derive(Debug, Default)]
pub struct End {
    /// Sent by that side, not read by the driver yet.
    wire: VecDeque<u8>,
    /// Read, not taken by the machine.
    untaken: Vec<u8>,
    /// Sent by the machine, not expected by anybody yet.
    pub out: Vec<u8>,
    open: bool,
    /// TLS is being negotiated.
    paused: bool,
}

pub struct Stage {
    machine: Box<dyn Machine>,
    client: End,
    server: End,
    pub now: Duration,
    pub deeds: VecDeque<Deed>,
    pub notes: VecDeque<Note>,
    pub watch: Watch,
    /// The question that is not answered yet.
    asked: Option<Question>,
    /// Number of records that were asked for and not answered yet.
    recording: usize,
    /// The server does not read.
    stalled: bool,
}

type Outcome = Result<(), String>;

impl Stage {
    /// The client has just connected.
    pub fn new(machine: Box<dyn Machine>, watch: Watch) -> Result<Self, String> {
        let mut stage = Self {
            machine,
            client: End {
                open: true,
                ..End::default()
            },
            server: End::default(),
            now: Duration::ZERO,
            deeds: VecDeque::new(),
            notes: VecDeque::new(),
            watch,
            asked: None,
            recording: 0,
            stalled: false,
        };
        stage.settle()?;
        Ok(stage)
    }

    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    pub fn finished(&self) -> bool {
        self.machine.finished()
    }

    /// TLS is being negotiated with that side, and its connection still exists.
    #[allow(dead_code, reason = "only the model and the fuzz targets ask")]
    pub fn in_handshake(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.paused,
            Side::Server => self.server.paused,
        }
    }

    /// Something happens to the machine.
    pub fn happen(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Sends(side, bytes) => self.send(*side, bytes),
            Step::Closes(side) => self.close(*side),
            Step::Connected(outcome) => self.connected(outcome.clone()),
            Step::Secured(side, outcome) => self.secured(*side, outcome.clone()),
            Step::Answer(answer) => self.answer(answer.clone()),
            Step::Recorded(outcome) => self.recorded(outcome.clone()),
            Step::Wait(time) => self.wait(*time),
            Step::Drain => self.stop(Input::Drain),
            Step::Cut => self.stop(Input::Cut),
            Step::Trace(line) => {
                self.machine.set_trace(line.clone());
                Ok(())
            }
            Step::Conditions {
                overloaded,
                may_have_tried,
            } => {
                self.machine.set_conditions(StartTlsConditions {
                    overloaded: *overloaded,
                    may_have_tried: *may_have_tried,
                });
                Ok(())
            }
            Step::Stalls(stalls) => {
                self.stalled = *stalls;
                self.machine.set_held_back(*stalls, self.now);
                self.carry_out()?;
                self.settle()
            }
            _ => Err("this is not for the machine to be told".to_owned()),
        }
    }

    /// Bytes from a side. Bytes for a connection that has ended are lost, as in reality.
    pub fn send(&mut self, side: Side, bytes: &[u8]) -> Outcome {
        self.watch.happens(if side == Side::Server {
            "server bytes"
        } else {
            "client bytes"
        });
        if self.end(side).open {
            self.end(side).wire.extend(bytes);
        }
        self.settle()
    }

    fn close(&mut self, side: Side) -> Outcome {
        self.watch.happens("close");
        if self.end(side).open {
            self.tell(Input::Closed(side))?;
        }
        self.settle()
    }

    fn connected(&mut self, outcome: Result<(), Refusal>) -> Outcome {
        self.watch.happens("connection");
        if let Err(refusal) = &outcome {
            self.watch.may_refuse(refusal);
        }
        self.server = End {
            open: outcome.is_ok(),
            ..End::default()
        };
        self.watch.connected(outcome.is_ok());
        self.tell(Input::Connected(outcome))?;
        self.settle()
    }

    fn secured(&mut self, side: Side, outcome: Result<(), Refusal>) -> Outcome {
        self.watch.happens("handshake");
        if !self.end(side).paused {
            return Err(format!("no handshake is under way with the {side:?}"));
        }
        if let Err(refusal) = &outcome {
            self.watch.may_refuse(refusal);
        }
        // What was sent in the clear behind the last line before the handshake garbles it.
        if !self.end(side).wire.is_empty() {
            return Err("clear bytes met the handshake: the script should say `whole`".to_owned());
        }
        self.end(side).paused = false;
        self.watch.secured(side, outcome.is_ok());
        self.tell(Input::Upgraded(side, outcome))?;
        self.settle()
    }

    fn answer(&mut self, answer: Answer) -> Outcome {
        self.watch.happens("answer");
        let question = self.asked.take().ok_or("nothing was asked")?;
        self.watch.answered(&question, &answer);
        let answer = answer.to_machine();
        self.tell(Input::Answer(answer))?;
        self.settle()
    }

    fn recorded(&mut self, outcome: Result<(), Refusal>) -> Outcome {
        self.watch.happens("record");
        self.recording = self
            .recording
            .checked_sub(1)
            .ok_or("nothing is being recorded")?;
        match &outcome {
            Ok(()) => self.watch.recorded(),
            Err(refusal) => self.watch.may_refuse(refusal),
        }
        self.tell(Input::Recorded(outcome.map(|()| Recorded::assertion())))?;
        self.settle()
    }

    fn stop(&mut self, how: Input) -> Outcome {
        self.watch.happens("stop");
        self.tell(how)?;
        self.settle()
    }

    /// Time passes; deadlines on the way are kept.
    fn wait(&mut self, time: Duration) -> Outcome {
        let end = self.now + time;
        while let Some(due) = self
            .machine
            .deadline()
            .filter(|due| *due <= end && !self.finished())
        {
            self.watch.happens("deadline");
            self.now = self.now.max(due);
            self.tell(Input::Deadline)?;
            self.settle()?;
            if self.machine.deadline() == Some(due) && !self.finished() {
                return Err(format!(
                    "the deadline of {due:?} does not move when it is kept"
                ));
            }
        }
        self.now = end;
        Ok(())
    }

    fn tell(&mut self, input: Input) -> Outcome {
        self.machine.handle(input, self.now);
        self.carry_out()
    }

    /// Offers the untaken bytes until the machine takes no more, as the driver does.
    fn settle(&mut self) -> Outcome {
        self.carry_out()?;
        loop {
            let mut moved = false;
            for side in [Side::Server, Side::Client] {
                let end = match side {
                    Side::Client => &mut self.client,
                    Side::Server => &mut self.server,
                };
                if end.paused || !end.open || (side == Side::Client && self.stalled) {
                    continue;
                }
                let room = MAX_UNTAKEN
                    .saturating_sub(end.untaken.len())
                    .min(end.wire.len());
                end.untaken.extend(end.wire.drain(..room));
                if end.untaken.is_empty() || self.machine.finished() {
                    continue;
                }
                let offered = end.untaken.len();
                self.machine.receive(side, &end.untaken, self.now);
                self.carry_out()?;
                moved |= self.end(side).untaken.len() < offered;
            }
            if !moved {
                break;
            }
        }
        self.watch
            .settled(self.machine.finished(), self.machine.deadline(), self.now)?;
        if self.machine.holds_replies() && (self.asked.is_some() || !self.watch.awaits_server()) {
            return Err("replies may wait although nothing of the server is awaited".to_owned());
        }
        for side in [Side::Server, Side::Client] {
            let waiting = self.asked.is_some()
                || self.recording > 0
                || self.client.paused
                || self.server.paused;
            if self.end(side).untaken.len() >= MAX_UNTAKEN && !waiting && self.watch.idle() {
                return Err(format!(
                    "stuck: the {side:?}'s bytes fill the buffer and nothing is waited for"
                ));
            }
        }
        Ok(())
    }

    fn carry_out(&mut self) -> Outcome {
        for _ in 0..100_000 {
            match self.machine.next_action() {
                Some(action) => self.act(action)?,
                None => return Ok(()),
            }
        }
        Err("the machine never runs out of actions".to_owned())
    }

    fn act(&mut self, action: Action) -> Outcome {
        match action {
            Action::Connect => {
                self.server = End::default();
                self.watch.connects()?;
                self.deeds.push_back(Deed::Connect);
            }
            Action::Send(side, bytes) => {
                if !self.end(side).open || self.end(side).paused {
                    return Err(format!(
                        "sends to the {side:?}, which cannot be written to: {bytes:?}"
                    ));
                }
                self.watch.sent(side, &bytes)?;
                self.end(side).out.extend_from_slice(&bytes);
            }
            Action::SendSecret(line) => {
                if !self.server.open || self.server.paused {
                    return Err("sends a secret to a server that cannot be written to".to_owned());
                }
                self.watch.sends_secret(line.expose())?;
                self.server.out.extend_from_slice(line.expose());
            }
            Action::Pass { from, len, content } => {
                let bytes = self.take(from, len)?;
                let to = from.other();
                if !self.end(to).open || self.end(to).paused {
                    return Err(format!(
                        "passes to the {to:?}, which cannot be written to: {bytes:?}"
                    ));
                }
                self.watch.passed(from, &bytes, content)?;
                self.end(to).out.extend_from_slice(&bytes);
            }
            Action::Drop { from, len } => {
                let bytes = self.take(from, len)?;
                self.watch.dropped(from, &bytes)?;
            }
            Action::Upgrade(side) => {
                let end = self.end(side);
                if !end.untaken.is_empty() {
                    return Err(format!(
                        "TLS starts with {} untaken bytes of the {side:?}",
                        end.untaken.len()
                    ));
                }
                end.paused = true;
                self.watch.upgrades(side)?;
                self.deeds.push_back(Deed::Handshake(side));
            }
            Action::Authorise(question) => {
                if let Some(before) = self.asked.replace(question.clone()) {
                    return Err(format!(
                        "asks twice at once: {} first",
                        show_question(&before)
                    ));
                }
                self.deeds.push_back(Deed::Ask(question));
            }
            Action::Record(completed) => {
                self.recording += 1;
                self.watch.records(&completed)?;
                self.deeds.push_back(Deed::Record(*completed));
            }
            Action::Note(note) => {
                self.watch.noted(&note)?;
                self.notes.push_back(note);
            }
            Action::Close { side, abort } => {
                let end = self.end(side);
                let was_open = std::mem::take(&mut end.open);
                end.wire.clear();
                end.untaken.clear();
                end.paused = false;
                if was_open {
                    self.watch.closed(side, abort)?;
                    self.deeds.push_back(Deed::Ends { side, abort });
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, from: Side, len: usize) -> Result<Vec<u8>, String> {
        let untaken = &mut self.end(from).untaken;
        if len > untaken.len() {
            return Err(format!(
                "takes {len} bytes of the {from:?}, offered were {}",
                untaken.len()
            ));
        }
        Ok(untaken.drain(..len).collect())
    }
}
