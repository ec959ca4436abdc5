//! The proxy logs in to the server with credentials of its own, between EHLO inside TLS and the reply to the client's EHLO.
//!
//! Whatever becomes of it, the client gets 4yz at most: a wrong password is the administrator's to correct, and the mail waits for
//! that. EHLO is not said again behind AUTH, because these mechanisms start no security layer (RFC 4954 §4).

use super::{Outbound, State};
use crate::smtp::{
    extensions::Offer,
    heard,
    login::{Login, LoginExchange},
    machine::{Action, Answer, End, Note, Question, Stage},
    refusal::{Cause, Refusal},
    relay::Permit,
    reply::Reply,
};

/// A server that was introduced inside TLS, and to which the proxy has to log in.
#[derive(Debug)]
pub(super) struct Introduction {
    /// Its reply to EHLO inside TLS.
    reply: Reply<'static>,
    permit: Permit,
}

impl Outbound {
    /// Asks for the credentials. Only a server that has proved who it is gets them.
    pub(super) fn log_in(&mut self, reply: &Reply, permit: Permit) {
        if !permit.is_authenticated() {
            let refusal = self.never_to_a_stranger();
            return self.relay.end_now(refusal);
        }
        self.state = State::AwaitCredentials(Box::new(Introduction {
            reply: reply.clone().into_owned(),
            permit,
        }));
        self.relay.ask(Question::Login);
    }

    /// What the policy's answer means where the proxy has to log in: nothing passes without TLS and a server that has proved who it is.
    pub(super) fn with_login(&self, answer: Answer) -> Answer {
        // Once the link is open, the login is done.
        if !self.config.login || matches!(self.state, State::Open { .. }) {
            return answer;
        }
        match answer {
            Answer::Authorised(authorised) if authorised.is_authenticated() => {
                Answer::Authorised(authorised)
            }
            Answer::Authorised(_) | Answer::Exempted(_) => {
                Answer::Refused(self.never_to_a_stranger())
            }
            Answer::Upgrade { .. } => Answer::Upgrade { or_plaintext: None },
            Answer::Login(_) | Answer::Refused(_) => answer,
        }
    }

    fn never_to_a_stranger(&self) -> Refusal {
        let what = "the proxy logs in only over TLS to a server that has proved who it is";
        self.relay
            .about_server(421, (7, 0), what)
            .because(Cause::LoginFailed)
    }

    /// The credentials are here, and the exchange begins.
    pub(super) fn credentials(&mut self, login: Login) {
        let introduction = match self.take_state() {
            State::AwaitCredentials(introduction) => introduction,
            state => {
                self.state = state;
                self.relay.incident("login-unasked");
                return self.unauthenticated((3, 0));
            }
        };
        // Bytes that are here already would be taken for the reply to AUTH.
        if self.relay.server_spoke() {
            return self.spoke_out_of_turn();
        }
        let offered = Offer::read(&introduction.reply, true).extensions;
        let usable = login.usable();
        match LoginExchange::begin(login, &offered) {
            Some((exchange, line)) => {
                // A server amid AUTH would take QUIT for an answer.
                self.relay.expect_command(false);
                self.relay.act(Action::SendSecret(line));
                self.state = State::LoggingIn(Box::new(exchange), introduction);
            }
            None => {
                let offers = offered.mechanisms().unwrap_or("none that is known here");
                let what = format!("the proxy can log in by {usable}, and is offered {offers}");
                self.cannot_log_in((7, 0), &what);
            }
        }
    }

    /// The server's reply to a line of the login.
    pub(super) fn login_replied(
        &mut self,
        reply: &Reply,
        mut exchange: LoginExchange,
        introduction: Box<Introduction>,
    ) {
        if reply.code == 235 {
            self.relay.note(Note::LoggedIn {
                user: exchange.user,
                mechanism: exchange.mechanism,
            });
            return self.open(&introduction.reply, introduction.permit);
        }
        if reply.is_intermediate() && self.relay.server_spoke() {
            return self.spoke_out_of_turn();
        }
        if reply.code == 334
            && let Some(line) = exchange.answer()
        {
            self.relay.act(Action::SendSecret(line));
            self.state = State::LoggingIn(Box::new(exchange), introduction);
            return;
        }
        // A server may quote the line that it refuses, so its words go nowhere.
        let codes = heard::codes(reply);
        self.relay.note(Note::Heard {
            stage: Stage::Login,
            reply: format!("{codes}\r\n").into_bytes(),
            proved: true,
        });
        if !reply.is_negative() {
            let what = format!("the proxy's login was answered with {codes}");
            return self.end_login((5, 0), &what);
        }
        let detail = if reply.code == 535 { (7, 8) } else { (7, 0) };
        let what = format!("the proxy's login was refused with {codes}");
        match reply.code {
            421 => {
                self.relay.set_end(End::ServerClosed);
                self.end_login(detail, &what);
            }
            _ => self.cannot_log_in(detail, &what),
        }
    }

    /// The session ends because there is no login. The server is told QUIT, and the client comes again.
    fn cannot_log_in(&mut self, enhanced: (u16, u16), what: &str) {
        let refusal = self.relay.about_server(421, enhanced, what);
        self.relay.expect_command(true);
        self.relay
            .end_after_replies(refusal.because(Cause::LoginFailed));
    }

    /// The session ends at once, amid the login.
    fn end_login(&mut self, enhanced: (u16, u16), what: &str) {
        let refusal = self.relay.about_server(421, enhanced, what);
        self.relay.end_now(refusal.because(Cause::LoginFailed));
    }
}
