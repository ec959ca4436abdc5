//! The machine between the world outside and a legacy server inside.
//!
//! Before TLS this machine answers everything itself, and it remembers nothing that was said then (RFC 3207 §4.2). The server
//! learns of a client with the EHLO that came over TLS, on a connection that is opened for that EHLO.

use super::{
    extensions::{Extensions, Keyword},
    machine::{Action, Answer, Question, Side, Stage},
    refusal::Refusal,
    relay::{AllowedCommands, Auth, Pending, Permit, Relay, Role, StartTls},
    reply::Reply,
    setup::LinkSetup,
    timer::Timer,
};
use std::time::Duration;

/// What an inbound session knows before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundConfig {
    /// Our name in the greeting (RFC 5321 §4.2).
    pub hostname: String,
    /// A certificate is at hand. Without one, STARTTLS gets 454 and mail stays refused.
    pub tls_available: bool,
    /// An exemption or observe mode: mail passes in the clear too.
    pub plaintext_allowed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InboundState {
    /// TLS is not up; this machine answers EHLO, unless plaintext is allowed.
    Cleartext,
    /// The client's handshake is under way.
    AwaitUpgrade,
    /// TLS is up; EHLO opens the connection to the server.
    AwaitHello,
    AwaitConnect,
    AwaitGreeting,
    AwaitHelloReply,
    /// Commands go through.
    Open,
}

/// The server inside, in words. The world outside must not learn its name or address.
const SERVER: &str = "the mail server behind this proxy";

/// The inbound machine; the text of this module describes it.
#[derive(Debug)]
pub struct Inbound {
    config: InboundConfig,
    state: InboundState,
    relay: Relay,
}

impl Inbound {
    /// A session whose client has just connected; it begins with our greeting.
    #[must_use]
    pub fn new(config: InboundConfig) -> Self {
        let hostname = config.hostname.clone();
        let mut relay = Relay::new(Role::Inbound, SERVER.to_owned(), hostname, Auth::Hidden);
        if !config.plaintext_allowed {
            relay.allowed = AllowedCommands::BeforeTls;
        }
        relay.starttls = if config.tls_available {
            StartTls::Offered
        } else {
            StartTls::Unavailable
        };
        relay.greet();
        let mut machine = Self {
            config,
            state: InboundState::Cleartext,
            relay,
        };
        machine.set_timer(Duration::ZERO);
        machine
    }

    fn hello(&mut self) {
        match self.state {
            InboundState::Cleartext if !self.config.plaintext_allowed => {
                let extensions = Extensions::only(Keyword::EnhancedStatusCodes);
                self.relay.welcome_as_ourselves(&extensions);
            }
            InboundState::Open => self.relay.forward_hello(),
            _ => {
                self.relay.act(Action::Connect);
                self.state = InboundState::AwaitConnect;
            }
        }
    }

    /// Starts TLS. A server that heard of the client in the clear is left, so that it cannot remember (RFC 3207 §4.2).
    fn start_tls(&mut self) {
        if self.is_open() {
            self.relay.send(Side::Server, b"QUIT\r\n".to_vec());
            self.relay.close_link(false);
        }
        let go = Reply::new(220, "2.0.0 ready to start TLS");
        self.relay.send(Side::Client, go.into_bytes(false));
        self.relay.act(Action::Upgrade(Side::Client));
        self.state = InboundState::AwaitUpgrade;
    }

    /// The server inside does not want the session: the client learns the code, the log the words.
    fn refused(&mut self, stage: Stage, reply: &Reply, what: &str) {
        let refusal = self.relay.refused_by_server(stage, reply, false, what);
        self.relay.end_after_replies(refusal);
    }
}

impl LinkSetup for Inbound {
    const TLS_SIDE: Side = Side::Client;

    fn relay(&self) -> &Relay {
        &self.relay
    }

    fn relay_mut(&mut self) -> &mut Relay {
        &mut self.relay
    }

    fn is_open(&self) -> bool {
        self.state == InboundState::Open
    }

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

    fn connected(&mut self, outcome: Result<(), Refusal>) {
        if self.state != InboundState::AwaitConnect {
            return;
        }
        match outcome {
            Ok(()) => self.state = InboundState::AwaitGreeting,
            Err(refusal) => self.relay.refuse(refusal),
        }
    }

    fn upgraded(&mut self, outcome: Result<(), Refusal>) {
        if self.state == InboundState::AwaitUpgrade {
            self.relay.forget_cleartext(outcome.err());
            self.state = InboundState::AwaitHello;
        }
    }

    fn replied(&mut self, reply: &Reply) {
        match self.state {
            InboundState::AwaitGreeting if reply.code == 220 => {
                self.relay.expect_command(true);
                self.relay.send_hello();
                self.state = InboundState::AwaitHelloReply;
            }
            InboundState::AwaitHelloReply if reply.code == 250 => {
                let extensions = self.relay.offer(reply);
                self.relay
                    .open_link(extensions.has(Keyword::Pipelining), None);
                self.state = InboundState::Open;
                self.relay.welcome(reply.first_line(), &extensions);
            }
            InboundState::AwaitGreeting => self.refused(Stage::Greeting, reply, "greeted with"),
            InboundState::AwaitHelloReply => self.refused(Stage::Ehlo, reply, "refused EHLO with"),
            _ => {
                self.relay.incident("unsolicited-reply");
                self.relay.end_server_lost((5, 0), "a reply to nothing");
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        let refusal = match answer {
            Answer::Authorised(authorised) => {
                return self.relay.admit(Permit::Authorised(authorised));
            }
            Answer::Exempted(exempted) => return self.relay.admit(Permit::Exempted(exempted)),
            // Only the client can start TLS.
            Answer::Upgrade { .. } => self.relay.conditions.starttls_first(),
            // The answer may have been decided before the conditions changed.
            Answer::Refused(Refusal { code: 530, .. })
                if self.relay.starttls != StartTls::Up && self.relay.conditions.may_have_tried =>
            {
                self.relay.conditions.starttls_first()
            }
            Answer::Refused(refusal) => refusal,
            // The inside server is not logged in to.
            Answer::Login(_) => return self.relay.incident("login-unasked"),
        };
        self.relay.refuse(refusal);
    }

    fn server_closed(&mut self) {
        match self.state {
            // The connection that closed is the one from before TLS.
            InboundState::Cleartext
            | InboundState::AwaitUpgrade
            | InboundState::AwaitHello
            | InboundState::AwaitConnect => {}
            InboundState::AwaitGreeting | InboundState::AwaitHelloReply | InboundState::Open => {
                self.relay.server_gone();
            }
        }
    }

    fn awaits(&self) -> Option<Timer> {
        match self.state {
            InboundState::Cleartext => Some(Timer::Cleartext),
            InboundState::AwaitUpgrade => Some(Timer::Handshake),
            InboundState::AwaitConnect
            | InboundState::AwaitGreeting
            | InboundState::AwaitHelloReply => Some(Timer::Opening),
            InboundState::AwaitHello | InboundState::Open => self.relay.awaits(),
        }
    }
}

#[cfg(test)]
mod tests;
