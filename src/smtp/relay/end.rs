//! How a session ends, and when: refusals, lost connections, time.

use super::{Pending, Phase, Relay, Skipped, Step, goodbye, slots::Awaited, transaction::Message};
use crate::smtp::{
    Action, Cause, End, Input, Note, Recorded, Refusal, Side, command::refusal, reply::Reply,
    timer::Timer,
};
use std::time::Duration;

impl Relay {
    /// Ends the session behind the replies that are owed: the client gets `refusal`, the server QUIT.
    pub(in crate::smtp) fn part(&mut self, refusal: Refusal) {
        self.refused(&refusal);
        self.leave(Reply::from(&refusal));
    }

    pub(super) fn leave(&mut self, reply: Reply) {
        if self.is_over() {
            return;
        }
        // What is said to a server amid AUTH is an answer, not QUIT.
        self.abrupt |= matches!(self.phase, Phase::AuthResponse | Phase::AwaitAuthReply);
        self.phase = Phase::Leaving;
        self.slots.ours(reply, true);
        self.pump();
    }

    /// Ends the session at once: `refusal` answers what the client waits for, unless it is amid a message; the server's
    /// connection is dropped, so that no half message can look whole.
    pub(in crate::smtp) fn dead(&mut self, refusal: Refusal) {
        if self.is_over() {
            return;
        }
        self.abrupt = true;
        let amid = matches!(
            self.phase,
            Phase::Message(_)
                | Phase::Chunk { .. }
                | Phase::SkipChunk { .. }
                | Phase::SkipMessage { .. }
                // Its handshake is under way.
                | Phase::Pending(Pending::StartTls)
        );
        if !amid {
            self.refused(&refusal);
            self.deliver(&Reply::from(&refusal));
        }
        self.over();
    }

    /// Ends the session at once, because the server's connection is of no more use.
    pub(in crate::smtp) fn lost(&mut self, detail: (u16, u16), what: &str) {
        self.dead(refusal(421, detail, &self.says(what)).because(Cause::ServerGone));
    }

    /// The client sent what it must not send here: one 554, the server's connection is dropped.
    pub(super) fn out_of_step(&mut self, what: &'static str, why: &str) -> Step {
        self.incident(what);
        self.abrupt = true;
        if matches!(self.phase, Phase::AwaitGo) {
            self.slots.clear();
        }
        self.part(refusal(554, (5, 0), why));
        Step::Took(0)
    }

    pub(super) fn over(&mut self) {
        if self.is_over() {
            return;
        }
        let quiet = !self.slots.awaits_server() && !self.gone[Side::Server as usize];
        let amid_message = self.end_transaction(None);
        self.act(Action::Close {
            side: Side::Client,
            abort: false,
        });
        let abort = self.abrupt || amid_message;
        if self.courteous && quiet && !abort {
            self.send(Side::Server, b"QUIT\r\n".to_vec());
        }
        self.act(Action::Close {
            side: Side::Server,
            abort,
        });
        self.slots.clear();
        self.phase = Phase::Over;
        self.note(Note::Ends(self.end.unwrap_or(End::Refused)));
    }

    /// The transaction is no more; what is known of a message that had begun is recorded. True if one had.
    pub(super) fn end_transaction(&mut self, reply: Option<&Reply>) -> bool {
        let completed = self.transaction.take().and_then(|mut t| t.completed(reply));
        let begun = completed.is_some();
        if let Some(completed) = completed {
            self.unawaited_records += 1;
            self.act(Action::Record(completed));
        }
        begun
    }

    // ----- events -----

    /// Handles what concerns client, message and end; gives back what the machine has to handle.
    pub(in crate::smtp) fn handle(&mut self, input: Input) -> Option<Input> {
        match input {
            Input::Recorded(outcome) => self.recorded(outcome),
            Input::Drain => self.draining = true,
            // The server has its final reply out; it is passed on as soon as it is recorded.
            Input::Cut if matches!(self.phase, Phase::AwaitRecord(_)) => self.draining = true,
            Input::Cut => {
                self.ends(End::Stopped);
                self.dead(stopped());
            }
            Input::Closed(Side::Client) => {
                self.gone[Side::Client as usize] = true;
                self.starved |= self.left[Side::Client as usize] == 0;
            }
            input => return Some(input),
        }
        None
    }

    pub(super) fn recorded(&mut self, outcome: Result<Recorded, Refusal>) {
        // A fault of ours is no verdict on the message, and 421 alone may answer nothing (RFC 5321 §3.8).
        let outcome = outcome.map_err(|refusal| Refusal {
            code: 421,
            ..refusal
        });
        if self.unawaited_records > 0 {
            self.unawaited_records -= 1;
            if let Err(refusal) = outcome {
                self.part(refusal);
            }
            return;
        }
        let reply = match std::mem::replace(&mut self.phase, Phase::Commands) {
            Phase::AwaitRecord(reply) => reply,
            phase => {
                self.phase = phase;
                return;
            }
        };
        match outcome {
            Ok(Recorded(())) => {
                self.deliver(&reply);
                self.transaction = None;
                self.budget.message_done();
                if reply.code == 421 {
                    self.ends(End::ServerClosed);
                    self.courteous = false;
                    self.over();
                } else if let Some(reply) = self.last_words.take() {
                    self.leave(reply);
                }
            }
            Err(refusal) => {
                self.transaction = None;
                self.part(refusal);
            }
        }
    }

    /// The server's connection is closed while nobody but the relay waits for it.
    pub(in crate::smtp) fn server_gone(&mut self) {
        self.gone[Side::Server as usize] = true;
        match (&self.phase, self.slots.awaited()) {
            // The final reply is in; it is delivered first.
            (Phase::AwaitRecord(_), _) => {}
            // It was dropped on purpose.
            (
                Phase::SkipMessage { .. }
                | Phase::SkipChunk {
                    then: Skipped::Farewell(_),
                    ..
                },
                _,
            ) => {}
            (_, Some(Awaited::Quit)) => self.farewell(),
            _ => {
                self.ends(End::ServerClosed);
                self.lost((4, 2), "connection closed");
            }
        }
    }

    /// 221 in place of a server that owes it.
    pub(super) fn farewell(&mut self) {
        self.deliver(&goodbye());
        self.over();
    }

    /// After each input: ends what has nothing to wait for.
    pub(in crate::smtp) fn settle(&mut self, side: Option<(Side, usize, &Step)>) {
        if let Some((side, left, step)) = side {
            self.left[side as usize] = left;
            if side == Side::Client {
                // Who has nothing left to be taken is done, whatever the last command waits for.
                self.starved = *step == Step::Starved || left == 0;
            }
        }
        let at_command = matches!(
            self.phase,
            Phase::Commands | Phase::Overlong(_) | Phase::AuthResponse
        );
        let asked = !matches!(self.pending(), None | Some(Pending::StartTls));
        if self.draining && (at_command || asked) {
            let amid = self
                .transaction
                .as_ref()
                .is_some_and(|t| t.message != Message::Ahead);
            if !amid {
                self.ends(End::Stopped);
                self.part(stopped());
            }
        }
        if self.gone[Side::Server as usize] && at_command && !self.is_over() {
            self.server_gone();
        }
        if self.gone[Side::Client as usize] && self.starved {
            match self.phase {
                Phase::Commands | Phase::Overlong(_) if self.slots.is_empty() => {
                    self.ends(End::ClientClosed);
                    self.over();
                }
                Phase::AuthResponse
                | Phase::Pending(Pending::StartTls)
                | Phase::Message(_)
                | Phase::Chunk { .. }
                | Phase::SkipChunk { .. }
                | Phase::SkipMessage { .. } => {
                    self.ends(End::ClientClosed);
                    self.abrupt = true;
                    self.over();
                }
                _ => {}
            }
        }
    }

    // ----- time -----

    /// What the relay waits for.
    pub(in crate::smtp) fn awaits(&self) -> Option<Timer> {
        Some(match (&self.phase, self.slots.awaited()) {
            (Phase::Over, _) => return None,
            (Phase::SkipMessage { .. }, _) => Timer::Rest,
            (Phase::Message(_) | Phase::Chunk { .. }, _) if self.held_back => Timer::Unread,
            (Phase::Message(_) | Phase::Chunk { .. } | Phase::SkipChunk { .. }, _) => {
                Timer::DataBlock
            }
            (Phase::AwaitRecord(_), _) => Timer::Record,
            (Phase::AwaitFinalReply, _) => Timer::FinalReply,
            (Phase::AwaitGo, _) => Timer::Go,
            (_, Some(Awaited::Quit)) => Timer::Farewell,
            (_, Some(_)) => Timer::Reply,
            (Phase::Pending(_), None) => Timer::Answer,
            // The rest of the message is awaited, if not its octets yet.
            (Phase::Commands | Phase::Overlong(_), None) if self.is_between_chunks() => {
                Timer::DataBlock
            }
            (_, None) => Timer::Command,
        })
    }

    fn is_between_chunks(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|t| matches!(t.message, Message::Traced | Message::Chunks))
    }

    /// See [`crate::smtp::Machine::set_held_back`].
    pub(in crate::smtp) fn hold_back(&mut self, held: bool) {
        self.held_back = held;
    }

    /// Starts, restarts or stops the timer; `awaits` is what the whole machine waits for.
    pub(in crate::smtp) fn wind(&mut self, awaits: Option<Timer>, now: Duration) {
        let moved = std::mem::take(&mut self.moved);
        self.pace.runs(awaits == Some(Timer::DataBlock), now);
        self.timer = awaits.map(|timer| match self.timer {
            // Its minute goes on where it was left.
            _ if timer == Timer::DataBlock => {
                (timer, self.pace.due().unwrap_or(now + timer.length()))
            }
            Some((running, due))
                if running == timer
                    && !timer
                        .restarted_by()
                        .is_some_and(|side| moved[side as usize]) =>
            {
                (running, due)
            }
            _ => (timer, now + timer.length()),
        });
    }

    pub(in crate::smtp) fn deadline(&self) -> Option<Duration> {
        self.timer.map(|(_, due)| due)
    }

    /// If the timer is due at `now`, it has run out.
    pub(in crate::smtp) fn late(&mut self, now: Duration) {
        let Some((timer, _)) = self.timer.filter(|(_, due)| *due <= now) else {
            return;
        };
        if timer == Timer::DataBlock && !self.pace.minute_is_over(now) {
            return;
        }
        self.ends(End::Timeout);
        match timer {
            Timer::Command | Timer::Cleartext => {
                let refusal = refusal(421, (4, 2), "no command in time");
                self.part(refusal.because(Cause::Limit));
            }
            Timer::DataBlock => {
                let refusal = refusal(421, (4, 2), "the message comes too slowly");
                self.dead(refusal.because(Cause::Limit));
            }
            Timer::Farewell => self.farewell(),
            Timer::Record => self.fails((3, 0), "the audit record was not written in time"),
            Timer::Answer => self.fails((4, 3), "no answer about the policy in time"),
            _ => self.lost((4, 2), "no reply in time"),
        }
    }

    /// Ends the session at once, because this proxy cannot go on.
    pub(in crate::smtp) fn fails(&mut self, detail: (u16, u16), what: &str) {
        self.dead(refusal(421, detail, what).because(Cause::LocalFault));
    }
}

fn stopped() -> Refusal {
    let text = "the proxy is being stopped, try again later";
    refusal(421, (3, 2), text).because(Cause::Stopped)
}
