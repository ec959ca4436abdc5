//! The machine between a legacy client inside and a server outside.
//!
//! Nothing but the EHLO name crosses the outside link before the recipients' policy is known: MAIL waits here for the first
//! recipient that policy allows. The client is never shown the server's words from before TLS. It gets our own 220, an
//! offer by the rule of `heard.rs`, or the digits of a refusal in a 421, so that nobody on the path can make mail bounce.

mod failed;
mod logging_in;

use super::{
    extensions::Keyword,
    heard::{self, HeardOffer, OfferRule},
    login::LoginExchange,
    machine::{Action, Answer, End, Question, Side, Stage},
    proof::Exempted,
    refusal::{Cause, Refusal},
    relay::{Auth, Pending, Permit, Relay, Role},
    reply::Reply,
    setup::LinkSetup,
    timer::Timer,
};
use logging_in::Introduction;
use std::time::Duration;

/// What an outbound session knows before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundConfig {
    /// Our name in the greeting (RFC 5321 §4.2).
    pub hostname: String,
    /// The server in words, e.g. `mx1.example[203.0.113.9]` or `203.0.113.9`.
    pub server: String,
    /// The peer is known from its address alone, so TLS comes up at the client's EHLO.
    pub known_at_connect: bool,
    /// AUTH may pass (only where the peer is known at connect time).
    pub auth: bool,
    /// The proxy logs in with credentials of its own (only where the peer is known at connect time). Then the client is not offered
    /// AUTH, and no mail passes without TLS and a server that has proved who it is.
    pub login: bool,
    /// Some entry could allow plaintext, so a missing STARTTLS is decided with the recipient, not at EHLO.
    pub plaintext_possible: bool,
    /// TLS comes first (RFC 8314 §3.3), before the server's greeting.
    pub implicit_tls: bool,
    /// Extensions that are not shown before TLS, because this server lacked them in an earlier session of this client
    /// ([`Note::MissingExtension`](super::Note::MissingExtension)).
    pub hidden: Vec<Keyword>,
}

/// How far the link to the server is. The client's command that waits for it is pending in the relay.
#[derive(Debug)]
enum OutboundState {
    AwaitConnect(Attempt),
    /// Implicit TLS: the handshake before the greeting.
    AwaitImplicitTls,
    AwaitGreeting(Attempt),
    /// The server has greeted; the client's EHLO comes next.
    AwaitHello,
    AwaitHelloReply(Attempt),
    /// The server refused EHLO for this reason, and some entry could allow plaintext: HELO is tried (RFC 5321 §3.2).
    AwaitHeloReply(Attempt, String),
    /// EHLO has been exchanged in the clear; the policy is asked next.
    Introduced(HeardOffer),
    /// The entry, if there is one, allows mail to go on in the clear without TLS.
    AwaitStartTlsReply(HeardOffer, Option<Exempted>),
    AwaitUpgrade(HeardOffer, Option<Exempted>),
    /// TLS is up, and the peer is judged before it gets another word (RFC 3207 §4.1). The client is still shown the offer in the
    /// clear.
    Secured(HeardOffer),
    AwaitSecureHelloReply(Permit),
    /// The server is to be logged in to, and the session is asked for the credentials.
    AwaitCredentials(Box<Introduction>),
    LoggingIn(Box<LoginExchange>, Box<Introduction>),
    /// Commands go through.
    Open {
        /// TLS is up.
        secure: bool,
    },
}

use OutboundState as State;

/// The purpose of a connection to the server.
#[derive(Debug)]
enum Attempt {
    /// The client's greeting and EHLO.
    First,
    /// TLS failed, and an entry lets the pending command go on in the clear.
    InTheClear(Exempted),
}

/// The outbound machine; the text of this module describes it.
#[derive(Debug)]
pub struct Outbound {
    config: OutboundConfig,
    state: State,
    relay: Relay,
}

impl Outbound {
    /// A session whose client has just connected; it begins with [`Action::Connect`].
    #[must_use]
    pub fn new(mut config: OutboundConfig) -> Self {
        config.login &= config.known_at_connect;
        config.plaintext_possible &= !config.login;
        let auth = config.auth && config.known_at_connect && !config.login;
        let mut relay = Relay::new(
            Role::Outbound,
            config.server.clone(),
            config.hostname.clone(),
            if auth { Auth::MayPass } else { Auth::Hidden },
        );
        relay.rule = Some(OfferRule {
            hidden: config.hidden.clone(),
            eight_bit_as_heard: config.known_at_connect,
            auth,
        });
        relay.act(Action::Connect);
        let mut machine = Self {
            config,
            state: State::AwaitConnect(Attempt::First),
            relay,
        };
        machine.set_timer(Duration::ZERO);
        machine
    }

    /// Takes the state out. The caller puts another one in, or the session ends.
    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::AwaitHello)
    }

    // ----- the dialogue before the link is open -----

    fn greeted(&mut self, attempt: Attempt) {
        self.relay.expect_command(true);
        match attempt {
            Attempt::First => {
                self.relay.greet();
                self.state = if self.config.implicit_tls {
                    State::Secured(HeardOffer::default())
                } else {
                    State::AwaitHello
                };
            }
            Attempt::InTheClear(_) if self.relay.server_spoke() => self.spoke_out_of_turn(),
            Attempt::InTheClear(_) => {
                self.relay.send_hello();
                self.state = State::AwaitHelloReply(attempt);
            }
        }
    }

    fn try_helo(&mut self, attempt: Attempt, reply: &Reply) {
        self.relay.heard(Stage::Ehlo, reply, false);
        if self.relay.server_spoke() {
            return self.spoke_out_of_turn();
        }
        self.relay.send_helo();
        let refused = format!("EHLO was refused with {}", heard::told(reply));
        self.state = State::AwaitHeloReply(attempt, refused);
    }

    /// The server has accepted EHLO or HELO in the clear.
    fn introduced(&mut self, attempt: Attempt, offer: HeardOffer) {
        if let Attempt::InTheClear(exempted) = attempt {
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
        self.state = State::Introduced(offer);
    }

    fn starttls_accepted(&mut self, offer: HeardOffer, or_plaintext: Option<Exempted>) {
        if self.relay.server_spoke() {
            return self.injected();
        }
        self.relay.act(Action::Upgrade(Side::Server));
        self.state = State::AwaitUpgrade(offer, or_plaintext);
    }

    /// The reply to EHLO over TLS. What was said before does not count any more (RFC 3207 §4.2).
    fn introduced_securely(&mut self, reply: &Reply, permit: Permit) {
        if reply.code != 250 {
            let proved = permit.is_authenticated();
            let what = "EHLO over TLS was refused with";
            let refusal = self
                .relay
                .refused_by_server(Stage::Ehlo, reply, proved, what);
            return self.relay.end_now(refusal);
        }
        match self.config.login {
            true => self.log_in(reply, permit),
            false => self.open(reply, permit),
        }
    }

    /// Commands go through from now on; `reply` is the server's offer inside TLS.
    fn open(&mut self, reply: &Reply, permit: Permit) {
        let offered = self.relay.offer(reply);
        self.relay
            .open_link(offered.has(Keyword::Pipelining), Some(offered.clone()));
        self.state = State::Open { secure: true };
        if !self.relay.is_hello_pending() {
            return self.relay.admit(permit);
        }
        // The client is shown a peer's own words only if the peer has proved who it is: a recipient with a stricter rule may follow.
        if permit.is_authenticated() {
            self.relay.rule = None;
        }
        self.relay.permit(permit);
        match &self.relay.rule {
            None => self.relay.welcome(reply.first_line(), &offered),
            Some(rule) => {
                let shown = rule.shown(&offered);
                self.relay.welcome_as_ourselves(&shown);
            }
        }
    }

    // ----- what the policy decides -----

    /// Asks about the pending command.
    fn ask(&mut self) {
        let question = match self.relay.pending() {
            Some(Pending::Hello { .. }) => Question::Peer,
            Some(Pending::Rcpt { to, .. }) => Question::Recipient(to.recipient()),
            _ => return,
        };
        self.relay.ask(question);
    }

    /// TLS must come first.
    fn upgrade(&mut self, or_plaintext: Option<Exempted>) {
        match (self.take_state(), or_plaintext) {
            (State::Introduced(offer), or_plaintext) if offer.starttls() => {
                if self.relay.server_spoke() {
                    return self.injected();
                }
                self.relay.send(Side::Server, b"STARTTLS\r\n".to_vec());
                self.relay.expect_command(false);
                self.state = State::AwaitStartTlsReply(offer, or_plaintext);
            }
            (State::Introduced(offer), Some(exempted)) => {
                self.note_no_tls(Cause::StarttlsNotSupported, &offer.without_starttls());
                self.go_on_in_the_clear(offer, exempted);
            }
            (State::Introduced(offer), None) => self.not_offered(&offer),
            (state @ State::Open { secure: false }, or_plaintext) => {
                self.state = state;
                match or_plaintext {
                    Some(exempted) => self.admit(Permit::Exempted(exempted)),
                    None => {
                        let why = "needs TLS, and this session has begun without";
                        let refusal = self.relay.about_server(451, (7, 5), why);
                        self.relay.refuse(refusal.because(Cause::StarttlsRequired));
                    }
                }
            }
            (state, _) => {
                self.state = state;
                self.unauthenticated((7, 5));
            }
        }
    }

    fn authorised(&mut self, permit: Permit) {
        if matches!(self.state, State::Open { secure: true } | State::Secured(_)) {
            return self.admit(permit);
        }
        // In the clear nobody can have proved anything yet.
        self.relay.incident("authorised-without-tls");
        self.unauthenticated((3, 0));
    }

    fn exempted(&mut self, exempted: Exempted) {
        match self.take_state() {
            State::Introduced(offer) => self.go_on_in_the_clear(offer, exempted),
            state => {
                self.state = state;
                self.admit(Permit::Exempted(exempted));
            }
        }
    }

    /// The pending command was permitted.
    fn admit(&mut self, permit: Permit) {
        match &self.state {
            // Bytes that are here already would be taken for the reply to our EHLO.
            State::Secured(_) if self.relay.server_spoke() => self.spoke_out_of_turn(),
            // The peer is judged, so it may learn who we are.
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
            return self.spoke_out_of_turn();
        }
        let pipelining = self.relay.shown_of(&offer).has(Keyword::Pipelining);
        self.relay.open_link(pipelining, None);
        self.state = State::Open { secure: false };
        let permit = Permit::Exempted(exempted);
        if self.relay.is_hello_pending() {
            self.relay.permit(permit);
            self.relay.welcome_by(&offer);
        } else {
            self.relay.admit(permit);
        }
    }

    /// This connection cannot be used any more, and an entry lets mail go on without TLS: over a new connection.
    fn begin_again_in_the_clear(&mut self, exempted: Exempted) {
        self.relay.close_link(true);
        self.relay.act(Action::Connect);
        self.state = State::AwaitConnect(Attempt::InTheClear(exempted));
    }
}

impl LinkSetup for Outbound {
    const TLS_SIDE: Side = Side::Server;

    fn relay(&self) -> &Relay {
        &self.relay
    }

    fn relay_mut(&mut self) -> &mut Relay {
        &mut self.relay
    }

    fn takes_commands(&self) -> bool {
        !matches!(
            self.state,
            State::AwaitConnect(Attempt::First)
                | State::AwaitImplicitTls
                | State::AwaitGreeting(Attempt::First)
        )
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn begin_pending(&mut self) {
        let is_hello = self.relay.is_hello_pending();
        match &self.state {
            State::AwaitHello if is_hello && self.relay.server_spoke() => self.spoke_out_of_turn(),
            State::AwaitHello if is_hello => {
                self.relay.send_hello();
                self.state = State::AwaitHelloReply(Attempt::First);
            }
            State::Open { .. } if is_hello => self.relay.forward_hello(),
            State::Secured(_) if self.config.known_at_connect => self.ask(),
            State::Introduced(offer) | State::Secured(offer) if is_hello => {
                self.relay.welcome_by(offer);
            }
            State::Introduced(_) | State::Secured(_) | State::Open { .. } => self.ask(),
            _ => {}
        }
    }

    fn ends_at_bytes(&mut self) -> bool {
        let handshake = matches!(
            self.state,
            State::AwaitUpgrade(..) | State::AwaitImplicitTls
        );
        if handshake {
            self.injected();
        }
        handshake
    }

    fn connected(&mut self, outcome: Result<(), Refusal>) {
        match (self.take_state(), outcome) {
            (State::AwaitConnect(_), Err(refusal)) => self.relay.end_now(refusal.closing()),
            (State::AwaitConnect(Attempt::First), Ok(())) if self.config.implicit_tls => {
                self.relay.act(Action::Upgrade(Side::Server));
                self.state = State::AwaitImplicitTls;
            }
            (State::AwaitConnect(attempt), Ok(())) => self.state = State::AwaitGreeting(attempt),
            (state, _) => self.state = state,
        }
    }

    fn upgraded(&mut self, outcome: Result<(), Refusal>) {
        match (self.take_state(), outcome) {
            (State::AwaitImplicitTls, Ok(())) => {
                self.state = State::AwaitGreeting(Attempt::First);
            }
            (State::AwaitUpgrade(offer, _), Ok(())) => {
                self.relay.expect_command(true);
                self.state = State::Secured(offer);
                self.ask();
            }
            (State::AwaitUpgrade(_, Some(exempted)), Err(_)) => {
                self.begin_again_in_the_clear(exempted);
            }
            (State::AwaitUpgrade(_, None) | State::AwaitImplicitTls, Err(refusal)) => {
                self.relay.end_now(refusal.closing());
            }
            (state, _) => self.state = state,
        }
    }

    fn replied(&mut self, reply: &Reply) {
        match self.take_state() {
            State::AwaitGreeting(attempt) if reply.code == 220 => self.greeted(attempt),
            State::AwaitGreeting(_) => self.refused(Stage::Greeting, reply),
            State::AwaitHelloReply(attempt) if reply.code == 250 => {
                self.introduced(attempt, HeardOffer::read(reply));
            }
            State::AwaitHelloReply(attempt)
                if reply.class() == 5 && self.config.plaintext_possible =>
            {
                self.try_helo(attempt, reply);
            }
            // A 5yz would make the client try HELO, which cannot start TLS (RFC 5321 §3.2).
            State::AwaitHelloReply(_) => self.refused(Stage::Ehlo, reply),
            State::AwaitHeloReply(attempt, refused) if reply.code == 250 => {
                self.introduced(attempt, HeardOffer::of_helo(refused));
            }
            State::AwaitHeloReply(_, refused) => self.ehlo_refused(&refused),
            State::AwaitStartTlsReply(offer, or_plaintext) if reply.code == 220 => {
                self.starttls_accepted(offer, or_plaintext);
            }
            State::AwaitStartTlsReply(offer, or_plaintext) => {
                self.starttls_refused(reply, offer, or_plaintext);
            }
            State::AwaitSecureHelloReply(permit) => self.introduced_securely(reply, permit),
            State::LoggingIn(exchange, introduction) => {
                self.login_replied(reply, *exchange, introduction);
            }
            _ if reply.code == 421 => {
                self.relay.set_end(End::ServerClosed);
                self.relay.end_server_lost((4, 2), "closes the connection");
            }
            _ => self.spoke_out_of_turn(),
        }
    }

    fn answered(&mut self, answer: Answer) {
        match self.with_login(answer) {
            Answer::Refused(refusal) => self.relay.refuse(refusal),
            Answer::Upgrade { or_plaintext } => self.upgrade(or_plaintext),
            Answer::Authorised(authorised) => self.authorised(Permit::Authorised(authorised)),
            Answer::Exempted(exempted) => self.exempted(exempted),
            Answer::Login(login) => self.credentials(login),
        }
    }

    fn server_closed(&mut self) {
        match self.take_state() {
            State::AwaitStartTlsReply(_, Some(exempted))
            | State::AwaitUpgrade(_, Some(exempted)) => {
                let what = "the server closed the connection at STARTTLS";
                self.note_no_tls(Cause::StarttlsRefused, what);
                self.begin_again_in_the_clear(exempted);
            }
            // The connection that closed is the previous one.
            state @ State::AwaitConnect(_) => self.state = state,
            State::AwaitUpgrade(..) | State::AwaitImplicitTls => {
                self.relay.set_end(End::ServerClosed);
                let what = "closed the connection during the TLS handshake";
                self.relay.end_server_lost((7, 5), what);
            }
            State::AwaitHeloReply(_, refused) => {
                self.relay.set_end(End::ServerClosed);
                let refusal = self.ehlo_refusal(&refused);
                self.relay.end_now(refusal);
            }
            State::Secured(_) | State::AwaitSecureHelloReply(_)
                if self.relay.pending().is_some() =>
            {
                self.relay.set_end(End::ServerClosed);
                let what = "closed the connection right after the TLS handshake, it may have rejected our certificate";
                self.relay.end_server_lost((7, 5), what);
            }
            state => {
                self.state = state;
                self.relay.server_gone();
            }
        }
    }

    fn awaits(&self) -> Option<Timer> {
        match &self.state {
            State::AwaitConnect(Attempt::First)
            | State::AwaitImplicitTls
            | State::AwaitGreeting(Attempt::First) => Some(Timer::Greeting),
            State::AwaitConnect(_)
            | State::AwaitGreeting(_)
            | State::AwaitHelloReply(_)
            | State::AwaitHeloReply(..)
            | State::AwaitStartTlsReply(..)
            | State::AwaitUpgrade(..)
            | State::AwaitSecureHelloReply(_)
            | State::AwaitCredentials(_)
            | State::LoggingIn(..) => Some(Timer::Opening),
            // Judging the peer and its first recipient counts as one unit together with the upgrade.
            _ if self.relay.pending().is_some() && !self.relay.is_permitted() => {
                Some(Timer::Opening)
            }
            State::AwaitHello | State::Introduced(_) | State::Secured(_) | State::Open { .. } => {
                self.relay.awaits()
            }
        }
    }
}

#[cfg(test)]
mod tests;
