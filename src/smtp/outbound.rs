//! The machine between a legacy client inside and a server outside.
//!
//! Nothing but the EHLO name crosses the outside link before it is known who may receive: MAIL waits here for the first
//! recipient that policy allows. What the server says before TLS reaches the client only as our 220, by the rule of `heard.rs`,
//! or as the digits in a 421, so that nobody on the path can make mail bounce.

mod lost;

use super::{
    Action, Answer, Cause, End, Exempted, Input, Machine, Question, Refusal, Side, Stage,
    command::refusal,
    extensions::Keyword,
    heard::{self, HeardOffer, Rule},
    relay::{Pending, Permit, Relay, Role, Step},
    reply::Reply,
    timer::Timer,
};
use lost::starttls_refused;
use std::time::Duration;

/// What an outbound session knows before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundConfig {
    /// Our name in the greeting (RFC 5321 §4.2).
    pub hostname: String,
    /// The server in words, e.g. `mx1.example[203.0.113.9]` or `203.0.113.9`.
    pub server: String,
    /// The peer is known from its address alone: TLS comes up at the client's EHLO.
    pub known_at_connect: bool,
    /// AUTH may pass (only where the peer is known at connect time).
    pub auth: bool,
    /// Some entry could allow plaintext, so a missing STARTTLS is decided with the recipient, not at EHLO.
    pub plaintext_possible: bool,
    /// TLS comes first (RFC 8314 §3.3), before the server's greeting.
    pub implicit_tls: bool,
    /// What [`Note::MissingExtension`](super::Note::MissingExtension) told of this server in an earlier session of this client: not shown before TLS.
    pub hidden: Vec<Keyword>,
}

/// What the link to the server waits for. While the client waits for a command, that command is pending in the relay.
#[derive(Debug)]
enum State {
    AwaitConnect(Aim),
    /// Implicit TLS.
    AwaitEarlyUpgrade,
    AwaitGreeting(Aim),
    /// Greeted; the client's EHLO comes next.
    AwaitHello,
    AwaitHelloReply(Aim),
    /// EHLO was refused with this, and some entry could allow plaintext: HELO is tried (RFC 5321 §3.2).
    AwaitHeloReply(Aim, String),
    /// EHLO has been exchanged in the clear; who may receive is asked next.
    Gate(HeardOffer),
    AwaitStartTlsReply(HeardOffer, Option<Exempted>),
    AwaitUpgrade(HeardOffer, Option<Exempted>),
    /// TLS is up, and the peer is judged before it hears another word (RFC 3207 §4.1). What the client is shown is still
    /// what the server said in the clear.
    Secured(HeardOffer),
    AwaitSecureHelloReply(Permit),
    /// Commands go through.
    Open {
        /// TLS is up.
        secure: bool,
    },
}

/// What a connection to the server is for.
#[derive(Debug)]
enum Aim {
    /// The client's greeting and EHLO.
    Introduce,
    /// TLS failed, and an entry lets the pending command go on in the clear.
    Plaintext(Exempted),
}

/// See the module.
#[derive(Debug)]
pub struct Outbound {
    config: OutboundConfig,
    state: State,
    relay: Relay,
}

impl Outbound {
    /// A session whose client has just connected; it begins with [`Action::Connect`].
    #[must_use]
    pub fn new(config: OutboundConfig) -> Self {
        let auth = config.auth && config.known_at_connect;
        let mut relay = Relay::new(
            Role::Outbound,
            config.server.clone(),
            config.hostname.clone(),
            auth,
        );
        relay.rule = Some(Rule {
            hidden: config.hidden.clone(),
            eight_bit_as_heard: config.known_at_connect,
            auth,
        });
        relay.act(Action::Connect);
        let mut machine = Self {
            config,
            state: State::AwaitConnect(Aim::Introduce),
            relay,
        };
        machine.wind(Duration::ZERO);
        machine
    }

    // ----- bytes -----

    fn client(&mut self, bytes: &[u8]) -> Step {
        let greeted = !matches!(
            self.state,
            State::AwaitConnect(Aim::Introduce)
                | State::AwaitEarlyUpgrade
                | State::AwaitGreeting(Aim::Introduce)
        );
        if !greeted && !self.relay.is_over() {
            return if bytes.is_empty() {
                Step::Starved
            } else {
                Step::Blocked
            };
        }
        let waited = self.relay.pending().is_some();
        let step = self.relay.client(bytes);
        if !waited && self.relay.pending().is_some() {
            self.begin_pending();
        }
        step
    }

    /// Does the first thing about a command that the relay has just left pending.
    fn begin_pending(&mut self) {
        let hello = self.relay.pending_hello();
        match &self.state {
            State::AwaitHello if hello && self.relay.server_spoke() => self.early(),
            State::AwaitHello if hello => {
                self.relay.send_hello();
                self.state = State::AwaitHelloReply(Aim::Introduce);
            }
            State::Open { .. } if hello => self.relay.forward_hello(),
            State::Secured(_) if self.config.known_at_connect => self.ask(),
            State::Gate(offer) | State::Secured(offer) if hello => self.relay.welcome_by(offer),
            State::Gate(_) | State::Secured(_) | State::Open { .. } => self.ask(),
            _ => {}
        }
    }

    fn server(&mut self, bytes: &[u8]) -> Step {
        if self.relay.is_over() || matches!(self.state, State::Open { .. }) {
            return self.relay.server(bytes);
        }
        if bytes.is_empty() {
            return Step::Starved;
        }
        if matches!(
            self.state,
            State::AwaitUpgrade(..) | State::AwaitEarlyUpgrade
        ) {
            self.injected();
            return Step::Took(0);
        }
        let (step, reply) = self.relay.read_reply(bytes);
        if let (Some(reply), Step::Took(len)) = (reply, &step) {
            let behind = &bytes[*len..];
            self.relay.left_untaken(Side::Server, behind.len());
            self.replied(&reply, behind);
        }
        step
    }

    // ----- replies before the relay has the link -----

    fn replied(&mut self, reply: &Reply, behind: &[u8]) {
        match std::mem::replace(&mut self.state, State::AwaitHello) {
            State::AwaitGreeting(aim) if reply.code == 220 => self.greeted(aim),
            State::AwaitGreeting(_) => self.refused(Stage::Greeting, reply),
            State::AwaitHelloReply(aim) if reply.code == 250 => {
                self.introduced(aim, HeardOffer::read(reply));
            }
            State::AwaitHelloReply(aim) if reply.class() == 5 && self.config.plaintext_possible => {
                self.try_helo(aim, reply);
            }
            State::AwaitHeloReply(aim, refused) if reply.code == 250 => {
                self.introduced(aim, HeardOffer::of_helo(refused));
            }
            State::AwaitHeloReply(_, refused) => self.ehlo_refused(&refused),
            // A 5yz would make the client try HELO, which cannot start TLS (RFC 5321 §3.2).
            State::AwaitHelloReply(_) => self.refused(Stage::Ehlo, reply),
            State::AwaitStartTlsReply(..) if reply.code == 220 && !behind.is_empty() => {
                self.injected();
            }
            State::AwaitStartTlsReply(offer, or_plaintext) if reply.code == 220 => {
                self.relay.act(Action::Upgrade(Side::Server));
                self.state = State::AwaitUpgrade(offer, or_plaintext);
            }
            State::AwaitStartTlsReply(offer, Some(exempted)) => {
                self.relay.heard(Stage::StartTls, reply, false);
                self.lost_tls(Cause::StarttlsRefused, &starttls_refused(reply));
                if reply.code == 421 {
                    self.begin_again_in_the_clear(exempted);
                } else {
                    self.go_on_in_the_clear(offer, exempted);
                }
            }
            State::AwaitStartTlsReply(..) => self.refused(Stage::StartTls, reply),
            State::AwaitSecureHelloReply(permit) => self.introduced_securely(reply, permit),
            _ if reply.code == 421 => {
                self.relay.ends(End::ServerClosed);
                self.lost((4, 2), "closes the connection");
            }
            _ => self.early(),
        }
    }

    fn greeted(&mut self, aim: Aim) {
        self.relay.courteous = true;
        match aim {
            Aim::Introduce => {
                let greeting = format!("220 {} ESMTP\r\n", self.config.hostname);
                self.relay.send(Side::Client, greeting.into_bytes());
                self.state = if self.config.implicit_tls {
                    State::Secured(HeardOffer::default())
                } else {
                    State::AwaitHello
                };
            }
            Aim::Plaintext(_) if self.relay.server_spoke() => self.early(),
            Aim::Plaintext(_) => {
                self.relay.send_hello();
                self.state = State::AwaitHelloReply(aim);
            }
        }
    }

    fn try_helo(&mut self, aim: Aim, reply: &Reply) {
        self.relay.heard(Stage::Ehlo, reply, false);
        if self.relay.server_spoke() {
            return self.early();
        }
        self.relay.send_helo();
        let refused = format!("EHLO was refused with {}", heard::told(reply));
        self.state = State::AwaitHeloReply(aim, refused);
    }

    /// The reply to EHLO or HELO in the clear is here.
    fn introduced(&mut self, aim: Aim, offer: HeardOffer) {
        if let Aim::Plaintext(exempted) = aim {
            return self.go_on_in_the_clear(offer, exempted);
        }
        if !offer.starttls() && !self.config.plaintext_possible {
            return self.not_offered(&offer);
        }
        if self.config.known_at_connect {
            self.ask();
        } else {
            self.relay.welcome_by(&offer);
        }
        self.state = State::Gate(offer);
    }

    /// The EHLO reply over TLS is here: what was said before does not count any more (RFC 3207 §4.2).
    fn introduced_securely(&mut self, reply: &Reply, permit: Permit) {
        if reply.code != 250 {
            let proved = permit.is_authenticated();
            self.relay.heard(Stage::Ehlo, reply, proved);
            if reply.code == 421 {
                self.relay.ends(End::ServerClosed);
            }
            let what = format!("EHLO over TLS was refused with {}", heard::told(reply));
            let refusal = refusal(421, (4, 0), &self.relay.says(&what));
            return self.relay.dead(refusal.because(Cause::EhloRefused));
        }
        let offered = self.relay.offer(reply);
        self.relay
            .open(offered.has(Keyword::Pipelining), Some(offered.clone()));
        self.state = State::Open { secure: true };
        if !self.relay.pending_hello() {
            return self.relay.admit(permit);
        }
        // The client sees a peer's own words only if that has proved who it is: a recipient with a stricter rule may follow.
        if permit.is_authenticated() {
            self.relay.rule = None;
        }
        self.relay.permit(permit);
        match &self.relay.rule {
            None => self.relay.welcome(&reply.lines[0], &offered),
            Some(rule) => {
                let shown = rule.shown(&offered);
                self.relay.welcome_as_ourselves(&shown);
            }
        }
    }

    // ----- questions and answers -----

    /// Asks about the pending command.
    fn ask(&mut self) {
        let question = match self.relay.pending() {
            Some(Pending::Hello { .. }) => Question::Peer,
            Some(Pending::Rcpt { target, .. }) => Question::Recipient(target.recipient.clone()),
            _ => return,
        };
        self.relay.ask(question);
    }

    fn answered(&mut self, answer: Answer) {
        if !self.relay.takes_answer() {
            return;
        }
        match answer {
            Answer::Refused(refusal) => self.relay.refuse(refusal),
            Answer::Upgrade { or_plaintext } => self.upgrade(or_plaintext),
            Answer::Authorised(authorised) => {
                if self.is_secure() {
                    self.admit(Permit::Authorised(authorised));
                } else {
                    // Nobody can have proved anything yet.
                    self.relay.incident("authorised-without-tls");
                    self.unauthenticated((3, 0));
                }
            }
            Answer::Exempted(exempted) => {
                match std::mem::replace(&mut self.state, State::AwaitHello) {
                    State::Gate(offer) => self.go_on_in_the_clear(offer, exempted),
                    state => {
                        self.state = state;
                        self.admit(Permit::Exempted(exempted));
                    }
                }
            }
        }
    }

    fn is_secure(&self) -> bool {
        matches!(self.state, State::Open { secure: true } | State::Secured(_))
    }

    /// TLS must come first.
    fn upgrade(&mut self, or_plaintext: Option<Exempted>) {
        match std::mem::replace(&mut self.state, State::AwaitHello) {
            State::Gate(offer) if offer.starttls() => {
                if self.relay.server_spoke() {
                    return self.injected();
                }
                self.relay.send(Side::Server, b"STARTTLS\r\n".to_vec());
                self.relay.courteous = false;
                self.state = State::AwaitStartTlsReply(offer, or_plaintext);
            }
            State::Gate(offer) => match or_plaintext {
                Some(exempted) => {
                    self.lost_tls(Cause::StarttlsNotSupported, &offer.without_starttls());
                    self.go_on_in_the_clear(offer, exempted);
                }
                None => self.not_offered(&offer),
            },
            State::Open { secure: false } => {
                self.state = State::Open { secure: false };
                match or_plaintext {
                    Some(exempted) => self.admit(Permit::Exempted(exempted)),
                    None => {
                        let why = "needs TLS, and this session has begun without";
                        let refusal = refusal(451, (7, 5), &self.relay.says(why));
                        self.relay.refuse(refusal.because(Cause::StarttlsRequired));
                    }
                }
            }
            state => {
                self.state = state;
                self.unauthenticated((7, 5));
            }
        }
    }

    /// The pending command was permitted.
    fn admit(&mut self, permit: Permit) {
        match &self.state {
            // What is here already would be taken for the reply to our EHLO.
            State::Secured(_) if self.relay.server_spoke() => self.early(),
            // The peer is who it must be, so it is told who we are.
            State::Secured(_) => {
                self.relay.send_hello();
                self.state = State::AwaitSecureHelloReply(permit);
            }
            State::Open { .. } => self.relay.admit(permit),
            _ => self.unauthenticated((3, 0)),
        }
    }

    fn go_on_in_the_clear(&mut self, offer: HeardOffer, exempted: Exempted) {
        if self.relay.server_spoke() {
            return self.early();
        }
        let pipelining = self.relay.shown(&offer).has(Keyword::Pipelining);
        self.relay.open(pipelining, None);
        self.state = State::Open { secure: false };
        let permit = Permit::Exempted(exempted);
        if self.relay.pending_hello() {
            self.relay.permit(permit);
            self.relay.welcome_by(&offer);
        } else {
            self.relay.admit(permit);
        }
    }

    /// This connection is of no more use, and an entry lets the mail go on without TLS: over a new one.
    fn begin_again_in_the_clear(&mut self, exempted: Exempted) {
        self.relay.act(Action::Close {
            side: Side::Server,
            abort: true,
        });
        self.relay.shut();
        self.relay.act(Action::Connect);
        self.state = State::AwaitConnect(Aim::Plaintext(exempted));
    }

    fn upgraded(&mut self, outcome: Result<(), Refusal>) {
        match (
            std::mem::replace(&mut self.state, State::AwaitHello),
            outcome,
        ) {
            (State::AwaitEarlyUpgrade, Ok(())) => {
                self.state = State::AwaitGreeting(Aim::Introduce);
            }
            (State::AwaitUpgrade(told, _), Ok(())) => {
                self.relay.courteous = true;
                self.state = State::Secured(told);
                self.ask();
            }
            (State::AwaitUpgrade(_, Some(exempted)), Err(_)) => {
                self.begin_again_in_the_clear(exempted);
            }
            (State::AwaitUpgrade(_, None) | State::AwaitEarlyUpgrade, Err(refusal)) => {
                self.relay.dead(transient(refusal));
            }
            (state, _) => self.state = state,
        }
    }

    fn connected(&mut self, outcome: Result<(), Refusal>) {
        match (
            std::mem::replace(&mut self.state, State::AwaitHello),
            outcome,
        ) {
            (State::AwaitConnect(_), Err(refusal)) => self.relay.dead(transient(refusal)),
            (State::AwaitConnect(Aim::Introduce), Ok(())) if self.config.implicit_tls => {
                self.relay.act(Action::Upgrade(Side::Server));
                self.state = State::AwaitEarlyUpgrade;
            }
            (State::AwaitConnect(aim), Ok(())) => self.state = State::AwaitGreeting(aim),
            (state, _) => self.state = state,
        }
    }

    fn server_closed(&mut self) {
        match &mut self.state {
            State::AwaitStartTlsReply(_, or_plaintext) | State::AwaitUpgrade(_, or_plaintext)
                if or_plaintext.is_some() =>
            {
                if let Some(exempted) = or_plaintext.take() {
                    let what = "the server closed the connection at STARTTLS";
                    self.lost_tls(Cause::StarttlsRefused, what);
                    self.begin_again_in_the_clear(exempted);
                }
            }
            // That was the connection before this one.
            State::AwaitConnect(_) => {}
            State::AwaitUpgrade(..) | State::AwaitEarlyUpgrade => {
                self.relay.ends(End::ServerClosed);
                self.lost((7, 5), "closed the connection during the TLS handshake");
            }
            State::AwaitHeloReply(_, refused) => {
                let refused = std::mem::take(refused);
                self.relay.ends(End::ServerClosed);
                let refusal = refusal(421, (4, 0), &self.relay.says(&refused));
                self.relay.dead(refusal.because(Cause::EhloRefused));
            }
            State::Secured(_) if self.relay.pending().is_none() => self.relay.server_gone(),
            State::Secured(_) | State::AwaitSecureHelloReply(_) => {
                self.relay.ends(End::ServerClosed);
                self.lost(
                    (7, 5),
                    "closed the connection right after the TLS handshake, it may have rejected our certificate",
                );
            }
            _ => self.relay.server_gone(),
        }
    }

    fn wind(&mut self, now: Duration) {
        let awaits = match &self.state {
            _ if self.relay.is_over() => None,
            State::AwaitConnect(Aim::Introduce)
            | State::AwaitEarlyUpgrade
            | State::AwaitGreeting(Aim::Introduce) => Some(Timer::Greeting),
            State::AwaitConnect(_)
            | State::AwaitGreeting(_)
            | State::AwaitHelloReply(_)
            | State::AwaitHeloReply(..)
            | State::AwaitStartTlsReply(..)
            | State::AwaitUpgrade(..)
            | State::AwaitSecureHelloReply(_) => Some(Timer::Opening),
            // Judging the peer and its first recipient is part of one unit with the upgrade.
            _ if self.relay.pending().is_some() && !self.relay.is_permitted() => {
                Some(Timer::Opening)
            }
            State::AwaitHello | State::Gate(_) | State::Secured(_) | State::Open { .. } => {
                self.relay.awaits()
            }
        };
        self.relay.wind(awaits, now);
    }
}

impl Machine for Outbound {
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
            Some(Input::Upgraded(Side::Server, outcome)) => self.upgraded(outcome),
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

/// What a host that cannot be reached or authenticated is answered with: never a 5yz.
fn transient(refusal: Refusal) -> Refusal {
    Refusal {
        code: 421,
        ..refusal
    }
}

#[cfg(test)]
mod tests;
