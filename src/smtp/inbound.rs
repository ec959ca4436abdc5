//! The machine between the world outside and a legacy server inside.
//!
//! Before TLS everything is answered here, and of what was said then nothing is remembered (RFC 3207 §4.2): the server
//! hears of a client with the EHLO that came over TLS, on a connection that is opened for it.

use super::{
    Action, Answer, Cause, End, Input, Machine, Question, Refusal, Side, Stage, StartTlsConditions,
    command::refusal,
    extensions::{Extensions, Keyword},
    heard,
    relay::{Manner, Pending, Permit, Relay, Role, StartTls, Step},
    reply::Reply,
    timer::Timer,
};
use std::time::Duration;

/// What an inbound session knows before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundConfig {
    /// Our name in the greeting (RFC 5321 §4.2).
    pub hostname: String,
    /// A certificate is at hand; if not, STARTTLS gets 454 and mail stays refused.
    pub tls_available: bool,
    /// An exemption or observe mode: mail passes in the clear too.
    pub plaintext_allowed: bool,
}

#[derive(Debug)]
enum State {
    /// TLS is not up; EHLO is answered here, unless plaintext is allowed.
    Cleartext,
    /// The client's handshake.
    AwaitUpgrade,
    /// TLS is up; EHLO opens the connection to the server.
    AwaitHello,
    AwaitConnect,
    AwaitGreeting,
    AwaitHelloReply,
    /// Commands go through.
    Open,
}

/// The server inside, in words: the world outside reads neither its name nor its address.
const SERVER: &str = "the mail server behind this proxy";

/// See the module.
#[derive(Debug)]
pub struct Inbound {
    config: InboundConfig,
    state: State,
    /// TLS is up.
    secured: bool,
    relay: Relay,
}

impl Inbound {
    /// A session whose client has just connected; it begins with our greeting.
    #[must_use]
    pub fn new(config: InboundConfig) -> Self {
        let mut relay = Relay::new(
            Role::Inbound,
            SERVER.to_owned(),
            config.hostname.clone(),
            false,
        );
        if !config.plaintext_allowed {
            relay.manner = Manner::TlsFirst;
        }
        relay.starttls = if config.tls_available {
            StartTls::Offered
        } else {
            StartTls::Unavailable
        };
        let greeting = format!("220 {} ESMTP\r\n", config.hostname);
        relay.send(Side::Client, greeting.into_bytes());
        let mut machine = Self {
            config,
            state: State::Cleartext,
            secured: false,
            relay,
        };
        machine.wind(Duration::ZERO);
        machine
    }

    fn client(&mut self, bytes: &[u8]) -> Step {
        let waited = self.relay.pending().is_some();
        let step = self.relay.client(bytes);
        if !waited {
            self.begin_pending();
        }
        step
    }

    /// Does the first thing about a command that the relay has just left pending.
    fn begin_pending(&mut self) {
        match self.relay.pending() {
            None | Some(Pending::Rcpt { .. }) => {}
            Some(Pending::Hello { .. }) => self.hello(),
            Some(Pending::Mail { sender, .. }) => {
                let question = Question::Sender(sender.domain.clone());
                self.relay.ask(question);
            }
            Some(Pending::StartTls) => self.start_tls(),
        }
    }

    fn hello(&mut self) {
        if matches!(self.state, State::Cleartext) && !self.config.plaintext_allowed {
            let greeting = self.config.hostname.clone().into_bytes();
            let extensions = Extensions::only(Keyword::EnhancedStatusCodes);
            return self.relay.welcome(&greeting, &extensions);
        }
        if matches!(self.state, State::Open) {
            self.relay.forward_hello();
        } else {
            self.relay.act(Action::Connect);
            self.state = State::AwaitConnect;
        }
    }

    /// A server that heard of the client in the clear is left, so that it cannot remember (RFC 3207 §4.2).
    fn start_tls(&mut self) {
        if matches!(self.state, State::Open) {
            self.relay.send(Side::Server, b"QUIT\r\n".to_vec());
            self.relay.act(Action::Close {
                side: Side::Server,
                abort: false,
            });
            self.relay.shut();
        }
        let go = Reply::new(220, "2.0.0 ready to start TLS");
        self.relay.send(Side::Client, go.to_bytes(false));
        self.relay.act(Action::Upgrade(Side::Client));
        self.state = State::AwaitUpgrade;
    }

    fn upgraded(&mut self, outcome: Result<(), Refusal>) {
        if !matches!(self.state, State::AwaitUpgrade) {
            return;
        }
        self.relay.forget();
        self.secured = true;
        self.relay.manner = match outcome {
            Ok(()) => Manner::Mail,
            Err(refusal) => Manner::QuitOnly(refusal),
        };
        self.state = State::AwaitHello;
    }

    fn connected(&mut self, outcome: Result<(), Refusal>) {
        if !matches!(self.state, State::AwaitConnect) {
            return;
        }
        match outcome {
            Ok(()) => self.state = State::AwaitGreeting,
            Err(refusal) => self.relay.refuse(refusal),
        }
    }

    fn server(&mut self, bytes: &[u8]) -> Step {
        if self.relay.is_over() || matches!(self.state, State::Open) {
            return self.relay.server(bytes);
        }
        if bytes.is_empty() {
            return Step::Starved;
        }
        let (step, reply) = self.relay.read_reply(bytes);
        if let Some(reply) = reply {
            self.replied(&reply);
        }
        step
    }

    /// A reply before the relay has the link.
    fn replied(&mut self, reply: &Reply) {
        match self.state {
            State::AwaitGreeting if reply.code == 220 => {
                self.relay.courteous = true;
                self.relay.send_hello();
                self.state = State::AwaitHelloReply;
            }
            State::AwaitHelloReply if reply.code == 250 => {
                let extensions = self.relay.offer(reply);
                self.relay.open(extensions.has(Keyword::Pipelining), None);
                self.state = State::Open;
                self.relay.welcome(&reply.lines[0], &extensions);
            }
            State::AwaitGreeting => {
                self.refused(
                    Stage::Greeting,
                    reply,
                    Cause::GreetingRefused,
                    "greeted with",
                );
            }
            State::AwaitHelloReply => {
                self.refused(Stage::Ehlo, reply, Cause::EhloRefused, "refused EHLO with");
            }
            _ => {
                self.relay.incident("unsolicited-reply");
                self.relay.lost((5, 0), "a reply to nothing");
            }
        }
    }

    /// The server inside does not want the session: the client learns its code, the log its words.
    fn refused(&mut self, stage: Stage, reply: &Reply, cause: Cause, what: &str) {
        self.relay.heard(stage, reply, false);
        if reply.code == 421 {
            self.relay.ends(End::ServerClosed);
        }
        let what = self.relay.says(&format!("{what} {}", heard::told(reply)));
        self.relay.part(refusal(421, (4, 0), &what).because(cause));
    }

    fn answered(&mut self, answer: Answer) {
        if !self.relay.takes_answer() {
            return;
        }
        match answer {
            Answer::Authorised(authorised) => self.relay.admit(Permit::Authorised(authorised)),
            Answer::Exempted(exempted) => self.relay.admit(Permit::Exempted(exempted)),
            // TLS is the client's to start.
            Answer::Upgrade { .. } => self.relay.refuse(self.relay.conditions.starttls_first()),
            // Whoever answered may have thought of an earlier moment.
            Answer::Refused(Refusal { code: 530, .. })
                if !self.secured && self.relay.conditions.may_have_tried =>
            {
                self.relay.refuse(self.relay.conditions.starttls_first());
            }
            Answer::Refused(refusal) => self.relay.refuse(refusal),
        }
    }

    fn server_closed(&mut self) {
        match self.state {
            // That was the connection before TLS.
            State::Cleartext | State::AwaitUpgrade | State::AwaitHello | State::AwaitConnect => {}
            State::AwaitGreeting | State::AwaitHelloReply | State::Open => self.relay.server_gone(),
        }
    }

    fn wind(&mut self, now: Duration) {
        let awaits = match self.state {
            _ if self.relay.is_over() => None,
            State::Cleartext => Some(Timer::Cleartext),
            State::AwaitUpgrade => Some(Timer::Handshake),
            State::AwaitConnect | State::AwaitGreeting | State::AwaitHelloReply => {
                Some(Timer::Opening)
            }
            State::AwaitHello | State::Open => self.relay.awaits(),
        };
        self.relay.wind(awaits, now);
    }
}

impl Machine for Inbound {
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration) {
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
        self.relay.settle(Some((side, rest.len(), &last)));
        self.wind(now);
    }

    fn handle(&mut self, input: Input, now: Duration) {
        match self.relay.handle(input) {
            _ if self.relay.is_over() => {}
            Some(Input::Connected(outcome)) => self.connected(outcome),
            Some(Input::Upgraded(Side::Client, outcome)) => self.upgraded(outcome),
            Some(Input::Answer(answer)) => self.answered(answer),
            Some(Input::Closed(Side::Server)) => self.server_closed(),
            Some(Input::Deadline) => self.relay.late(now),
            _ => {}
        }
        self.relay.settle(None);
        self.wind(now);
    }

    fn next_action(&mut self) -> Option<Action> {
        self.relay.action()
    }

    fn deadline(&self) -> Option<Duration> {
        self.relay.deadline()
    }

    fn set_conditions(&mut self, now: StartTlsConditions) {
        self.relay.conditions = now;
    }

    fn set_held_back(&mut self, held: bool, now: Duration) {
        self.relay.hold_back(held);
        self.wind(now);
    }

    fn set_trace(&mut self, line: Vec<u8>) {
        self.relay.set_trace(line);
    }

    fn finished(&self) -> bool {
        self.relay.finished()
    }
}

#[cfg(test)]
mod tests;
