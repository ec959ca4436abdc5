//! How a session ends, and when: refusals, lost connections, time.

use super::{
    Relay,
    slots::Awaited,
    state::{AfterChunk, Pending, Phase, ServerEnding, Step},
};
use crate::smtp::{
    machine::{Action, End, Input, Note, Side},
    proof::Recorded,
    refusal::{Cause, Refusal},
    reply::Reply,
    timer::Timer,
};
use std::time::Duration;

impl Relay {
    /// Notes how the session ends; the first call counts.
    pub(in crate::smtp) fn set_end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Ends the session behind the replies that are owed: the client gets `refusal`, the server QUIT.
    pub(in crate::smtp) fn end_after_replies(&mut self, refusal: Refusal) {
        self.note(Note::Refused(refusal.clone()));
        self.end_with(Reply::from(&refusal));
    }

    /// Ends the session behind the replies that are owed, with this reply.
    pub(super) fn end_with(&mut self, reply: Reply<'static>) {
        if self.is_over() {
            return;
        }
        // A server in the middle of AUTH would take QUIT for an answer.
        if matches!(self.phase, Phase::AuthResponse | Phase::AwaitAuthReply) {
            self.server_ending = ServerEnding::Abort;
        }
        self.phase = Phase::Leaving;
        self.slots.ours_at_end(reply);
        self.pump();
    }

    /// Ends the session at once. `refusal` answers what the client waits for, unless the client is sending a message. The server's
    /// connection is dropped, so that half a message can never look whole.
    pub(in crate::smtp) fn end_now(&mut self, refusal: Refusal) {
        if self.is_over() {
            return;
        }
        self.server_ending = ServerEnding::Abort;
        // During a TLS handshake no text may be sent either.
        if !self.is_amid_message() && !self.is_amid_handshake() {
            self.note(Note::Refused(refusal.clone()));
            self.deliver(Reply::from(&refusal));
        }
        self.close_both();
    }

    /// Ends the session at once, because the server's connection is of no more use.
    pub(in crate::smtp) fn end_server_lost(&mut self, enhanced: (u16, u16), what: &str) {
        self.end_now(
            self.about_server(421, enhanced, what)
                .because(Cause::ServerGone),
        );
    }

    /// Ends the session at once, because this proxy cannot go on.
    pub(in crate::smtp) fn end_local_fault(&mut self, refusal: Refusal) {
        self.end_now(refusal.because(Cause::LocalFault));
    }

    /// Ends the session because the client sent something that may not stand here: one 554, and the server's connection is dropped.
    pub(super) fn end_out_of_step(&mut self, what: &'static str, why: &str) -> Step {
        self.incident(what);
        self.server_ending = ServerEnding::Abort;
        // The 554 stands in the place of the reply to DATA, behind those to the commands before it.
        if matches!(self.phase, Phase::AwaitGoAhead) {
            self.slots.forget_last();
        }
        self.end_after_replies(Refusal::new(554, (5, 0), why));
        Step::Took(0)
    }

    /// Closes both connections.
    pub(super) fn close_both(&mut self) {
        if self.is_over() {
            return;
        }
        let quiet = !self.slots.awaits_server() && !self.server_closed;
        let message_begun = self.end_transaction(None);
        self.act(Action::Close {
            side: Side::Client,
            abort: false,
        });
        let abort = message_begun || self.server_ending == ServerEnding::Abort;
        if quiet && !abort && self.server_ending == ServerEnding::Quit {
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

    /// Forgets the transaction, and records what is known of a message that had begun. Returns whether one had.
    pub(super) fn end_transaction(&mut self, reply: Option<&Reply>) -> bool {
        let unanswered = self.slots.unanswered_recipients();
        let completed = self
            .transaction
            .take()
            .and_then(|mut transaction| transaction.completed(reply, unanswered));
        let begun = completed.is_some();
        if let Some(completed) = completed {
            self.unawaited_records += 1;
            self.act(Action::Record(Box::new(completed)));
        }
        begun
    }

    // ----- events -----

    /// Handles what concerns client, message and end. Returns the input if the machine has to handle it.
    pub(in crate::smtp) fn handle(&mut self, input: Input) -> Option<Input> {
        match input {
            Input::Recorded(outcome) => self.recorded(outcome),
            Input::Drain => self.draining = true,
            // The server has given its final reply; it is passed on as soon as it is recorded.
            Input::Cut if matches!(self.phase, Phase::AwaitRecord(_)) => self.draining = true,
            Input::Cut => {
                self.set_end(End::Stopped);
                self.end_now(stopped());
            }
            Input::Closed(Side::Client) => self.client_closed = true,
            Input::Answer(answer) => return self.takes_answer().then_some(Input::Answer(answer)),
            input => return Some(input),
        }
        None
    }

    fn recorded(&mut self, outcome: Result<Recorded, Refusal>) {
        // A fault of ours is no verdict on the message, and only 421 may be sent at any time (RFC 5321 §3.8).
        let outcome = outcome.map_err(Refusal::closing);
        if self.unawaited_records > 0 {
            self.unawaited_records -= 1;
            if let Err(refusal) = outcome {
                self.end_after_replies(refusal);
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
            Ok(Recorded { .. }) => {
                let closes = reply.code == 421;
                self.deliver(reply);
                let reached_somebody = self.transaction.take().is_some_and(|t| t.reached_somebody);
                if reached_somebody {
                    self.abuse.message_done();
                } else if !self.allows_idle_command() {
                    return;
                }
                if closes {
                    self.set_end(End::ServerClosed);
                    self.expect_command(false);
                    self.close_both();
                } else if let Some(reply) = self.reply_after_record.take() {
                    self.end_with(reply);
                }
            }
            Err(refusal) => {
                self.transaction = None;
                self.end_after_replies(refusal);
            }
        }
    }

    /// The server's connection is closed, and the machine itself does not wait for the server.
    pub(in crate::smtp) fn server_gone(&mut self) {
        self.server_closed = true;
        match (&self.phase, self.slots.awaited()) {
            // The final reply is in; it is delivered first.
            (Phase::AwaitRecord(_), _) => {}
            // This proxy dropped the connection on purpose.
            (
                Phase::SkipMessage { .. }
                | Phase::SkipChunk {
                    then: AfterChunk::LastReply(_),
                    ..
                },
                _,
            ) => {}
            (_, Some(Awaited::Quit)) => self.say_goodbye(),
            _ => {
                self.set_end(End::ServerClosed);
                self.end_server_lost((4, 2), "connection closed");
            }
        }
    }

    /// Sends 221 to the client in place of a server that owes it.
    fn say_goodbye(&mut self) {
        self.deliver(Reply::goodbye());
        self.close_both();
    }

    /// Called after each input: ends the session if there is nothing left to wait for.
    pub(in crate::smtp) fn end_if_done(&mut self) {
        let at_command = matches!(
            self.phase,
            Phase::Commands | Phase::Overlong(_) | Phase::AuthResponse
        );
        let at_question = self.pending().is_some() && !self.is_amid_handshake();
        let message_begun = self.transaction.as_ref().is_some_and(|t| t.has_begun());
        if self.draining && (at_command || at_question) && !message_begun {
            self.set_end(End::Stopped);
            self.end_after_replies(stopped());
        }
        if self.server_closed && at_command && !self.is_over() {
            self.server_gone();
        }
        if self.client_closed && !self.client_blocked {
            self.end_client_gone();
        }
    }

    /// The client is gone and nothing of it is left. Replies that are owed are still awaited, because a whole message counts.
    fn end_client_gone(&mut self) {
        let idle = matches!(self.phase, Phase::Commands | Phase::Overlong(_));
        let half_sent = matches!(self.phase, Phase::AuthResponse)
            || self.is_amid_message()
            || self.is_amid_handshake();
        if half_sent {
            self.server_ending = ServerEnding::Abort;
        }
        if half_sent || (idle && self.slots.is_empty()) {
            self.set_end(End::ClientClosed);
            self.close_both();
        }
    }

    /// Whether the client is sending a message, taken or not.
    fn is_amid_message(&self) -> bool {
        matches!(
            self.phase,
            Phase::Message(_)
                | Phase::Chunk { .. }
                | Phase::SkipChunk { .. }
                | Phase::SkipMessage { .. }
        )
    }

    /// Whether the client's TLS handshake is under way.
    fn is_amid_handshake(&self) -> bool {
        matches!(self.pending(), Some(Pending::StartTls))
    }

    // ----- time -----

    /// What the relay waits for.
    pub(in crate::smtp) fn awaits(&self) -> Option<Timer> {
        Some(match (&self.phase, self.slots.awaited()) {
            (Phase::Over, _) => return None,
            (Phase::SkipMessage { .. }, _) => Timer::SkippedMessage,
            (Phase::Message(_) | Phase::Chunk { .. }, _) if self.timing.server_stalls => {
                Timer::Unread
            }
            (Phase::Message(_) | Phase::Chunk { .. } | Phase::SkipChunk { .. }, _) => {
                Timer::DataBlock
            }
            (Phase::AwaitRecord(_), _) => Timer::Record,
            // Replies to the commands in front of a message have their own time each.
            (
                _,
                Some(Awaited::HeldMail | Awaited::Mail | Awaited::Rcpt(_) | Awaited::SilentRset),
            ) => Timer::Reply,
            (_, Some(Awaited::EmptyMessage)) | (Phase::AwaitFinalReply, _) => Timer::FinalReply,
            (Phase::AwaitGoAhead, _) => Timer::GoAhead,
            (_, Some(Awaited::Quit)) => Timer::Farewell,
            (_, Some(_)) => Timer::Reply,
            (Phase::Pending { .. }, None) => Timer::Answer,
            // The next chunk is awaited, though not its octets yet.
            (Phase::Commands | Phase::Overlong(_), None)
                if self.transaction.as_ref().is_some_and(|t| t.is_in_chunks()) =>
            {
                Timer::DataBlock
            }
            (_, None) => Timer::Command,
        })
    }

    /// Ends the session if the timer has run out at `now`.
    pub(in crate::smtp) fn end_if_late(&mut self, now: Duration) {
        let Some(timer) = self.timing.expired(now) else {
            return;
        };
        self.set_end(End::Timeout);
        let too_late = |what| Refusal::new(421, (4, 2), what).because(Cause::Limit);
        match timer {
            Timer::Command | Timer::Cleartext => {
                self.end_after_replies(too_late("no command in time"));
            }
            Timer::DataBlock => self.end_now(too_late("the message comes too slowly")),
            Timer::Farewell => self.say_goodbye(),
            Timer::Record => {
                let what = "the audit record was not written in time";
                self.end_local_fault(Refusal::new(421, (3, 0), what));
            }
            Timer::Answer => {
                let what = "no answer about the policy in time";
                self.end_local_fault(Refusal::new(421, (4, 3), what));
            }
            _ => self.end_server_lost((4, 2), "no reply in time"),
        }
    }
}

fn stopped() -> Refusal {
    let text = "the proxy is being stopped, try again later";
    Refusal::new(421, (3, 2), text).because(Cause::Stopped)
}
