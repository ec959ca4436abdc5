//! Drives both machines: until the link to the server is open the machine itself decides, then its relay does.

use super::{
    machine::{Action, Answer, Input, Machine, Side, StartTlsConditions},
    refusal::Refusal,
    relay::{Relay, Step},
    reply::Reply,
    timer::Timer,
};
use std::time::Duration;

/// What differs between the machines: how the link to the server is opened, and how pending commands are answered.
pub(super) trait LinkSetup {
    /// The side with which this machine starts TLS.
    const TLS_SIDE: Side;
    fn relay(&self) -> &Relay;
    fn relay_mut(&mut self) -> &mut Relay;
    /// Whether the client is greeted, so that its commands are taken.
    fn takes_commands(&self) -> bool {
        true
    }
    /// Whether the link is open, so that the server's replies belong to the client's commands.
    fn is_open(&self) -> bool;
    /// A command was just left pending: takes the first step towards its answer.
    fn begin_pending(&mut self);
    /// The server sent bytes although the link is not open. Returns whether that ended the session.
    fn ends_at_bytes(&mut self) -> bool {
        false
    }
    /// The server's reply to what the machine sent.
    fn replied(&mut self, reply: &Reply);
    /// The connection to the server is up, or why it is not.
    fn connected(&mut self, outcome: Result<(), Refusal>);
    /// TLS with [`Self::TLS_SIDE`] is up, or why it is not.
    fn upgraded(&mut self, outcome: Result<(), Refusal>);
    /// The policy's answer about the pending command.
    fn answered(&mut self, answer: Answer);
    /// The server's connection is closed.
    fn server_closed(&mut self);
    /// What the session waits for.
    fn awaits(&self) -> Option<Timer>;

    /// Takes what the client's bytes begin with.
    fn client(&mut self, bytes: &[u8]) -> Step {
        if !self.takes_commands() && !self.relay().is_over() {
            return if bytes.is_empty() {
                Step::Starved
            } else {
                Step::Blocked
            };
        }
        let was_pending = self.relay().pending().is_some();
        let step = self.relay_mut().client(bytes);
        if !was_pending && self.relay().pending().is_some() {
            self.begin_pending();
        }
        step
    }

    /// Takes what the server's bytes begin with.
    fn server(&mut self, bytes: &[u8]) -> Step {
        if self.relay().is_over() || self.is_open() {
            return self.relay_mut().server(bytes);
        }
        if bytes.is_empty() {
            return Step::Starved;
        }
        if self.ends_at_bytes() {
            return Step::Took(0);
        }
        let (step, reply) = self.relay_mut().read_reply(bytes);
        if let (Some(reply), Step::Took(len)) = (reply, &step) {
            self.relay_mut().server_untaken = bytes.len() - len;
            self.relay_mut().drop_reply();
            self.replied(&reply);
        }
        step
    }

    /// Sets the timer for what the session waits for now.
    fn set_timer(&mut self, now: Duration) {
        let awaits = match self.relay().is_over() {
            true => None,
            false => self.awaits(),
        };
        self.relay_mut().timing.set(awaits, now);
    }
}

impl<S: LinkSetup> Machine for S {
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration) {
        if side == Side::Client {
            self.relay_mut().hears_client();
        }
        let mut rest = bytes;
        let last = loop {
            let step = match side {
                Side::Client => self.client(rest),
                Side::Server => self.server(rest),
            };
            match step {
                Step::Took(len) => rest = &rest[len..],
                step => break step,
            }
        };
        let relay = self.relay_mut();
        match side {
            Side::Client => relay.client_blocked = last == Step::Blocked && !rest.is_empty(),
            Side::Server => relay.server_untaken = rest.len(),
        }
        relay.end_if_done();
        self.set_timer(now);
    }

    fn handle(&mut self, input: Input, now: Duration) {
        let input = self.relay_mut().handle(input);
        if !self.relay().is_over() {
            match input {
                Some(Input::Connected(outcome)) => self.connected(outcome),
                Some(Input::Upgraded(side, outcome)) if side == S::TLS_SIDE => {
                    self.upgraded(outcome);
                }
                Some(Input::Answer(answer)) => self.answered(answer),
                Some(Input::Closed(Side::Server)) => self.server_closed(),
                Some(Input::Deadline) => self.relay_mut().end_if_late(now),
                _ => {}
            }
        }
        self.relay_mut().end_if_done();
        self.set_timer(now);
    }

    fn next_action(&mut self) -> Option<Action> {
        self.relay_mut().next_action()
    }

    fn deadline(&self) -> Option<Duration> {
        self.relay().timing.due()
    }

    fn set_conditions(&mut self, now: StartTlsConditions) {
        self.relay_mut().conditions = now;
    }

    fn set_held_back(&mut self, held: bool, now: Duration) {
        self.relay_mut().timing.server_stalls = held;
        self.set_timer(now);
    }

    fn set_trace(&mut self, line: Vec<u8>) {
        self.relay_mut().trace = line;
    }

    fn holds_replies(&self) -> bool {
        self.relay().holds_replies()
    }

    fn finished(&self) -> bool {
        self.relay().finished()
    }
}
