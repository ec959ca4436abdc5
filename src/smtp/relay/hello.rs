//! How both sides are introduced: the client's EHLO towards the server, and the server's offer towards the client.

use super::{
    Relay,
    slots::Awaited,
    state::{AllowedCommands, Auth, Link, Pending, Phase, Role, StartTls},
};
use crate::smtp::{
    command,
    extensions::{Extensions, Keyword, Offer},
    heard::{self, HeardOffer},
    machine::{End, Note, Side, Stage},
    refusal::{Cause, Refusal},
    reply::Reply,
};

impl Relay {
    // ----- towards the server -----

    /// Sends EHLO with the client's name as the client wrote it. To the outside goes only a name without blank, control and 8-bit
    /// octets.
    pub(in crate::smtp) fn send_hello(&mut self) {
        self.send_hello_as(b"EHLO ");
    }

    /// Sends HELO, for a server that knows nothing else.
    pub(in crate::smtp) fn send_helo(&mut self) {
        self.send_hello_as(b"HELO ");
    }

    fn send_hello_as(&mut self, verb: &[u8]) {
        let name = self.hello_name.clone();
        let sent = match self.role {
            Role::Outbound if !command::may_cross(&name) => self.hostname.as_bytes(),
            _ => name.as_slice(),
        };
        let line = [verb, sent, b"\r\n"].concat();
        self.note(Note::Hello(name));
        self.send(Side::Server, line);
    }

    /// The pending EHLO goes to a server that had one before; its reply is passed on.
    pub(in crate::smtp) fn forward_hello(&mut self) {
        self.send_hello();
        self.slots.sent(Awaited::Hello);
    }

    /// The reply to a forwarded EHLO.
    pub(super) fn hello_again(&mut self, reply: &Reply) {
        if reply.code != 250 {
            let proved = self.rule.is_none() && !self.is_clear();
            let refusal =
                self.refused_by_server(Stage::Ehlo, reply, proved, "EHLO was refused with");
            return self.end_now(refusal);
        }
        let offered = self.offer(reply);
        let shown = match &self.rule {
            None => offered.clone(),
            Some(_) if self.is_clear() => self.shown_of(&HeardOffer::read(reply)),
            Some(rule) => rule.shown(&offered),
        };
        if let Link::Open {
            pipelining, judged, ..
        } = &mut self.link
        {
            *pipelining = offered.has(Keyword::Pipelining);
            *judged = judged.take().map(|_| offered);
        }
        match self.rule {
            None => self.welcome(reply.first_line(), &shown),
            Some(_) => self.welcome_as_ourselves(&shown),
        }
    }

    /// Reads an EHLO reply of a server whose words may be believed or are shown by the rule.
    pub(in crate::smtp) fn offer(&self, reply: &Reply) -> Extensions {
        Offer::read(reply, self.auth != Auth::Hidden).extensions
    }

    // ----- refusals -----

    /// Notes that the server refused at this stage: the administrator is told, and the refusal decides nothing.
    pub(in crate::smtp) fn heard(&mut self, stage: Stage, reply: &Reply, proved: bool) {
        let reply = reply.verbatim().to_vec();
        self.note(Note::Heard {
            stage,
            reply,
            proved,
        });
    }

    /// Notes that the server refused at this stage, and so ends the session.
    pub(in crate::smtp) fn note_refusal(&mut self, stage: Stage, reply: &Reply, proved: bool) {
        self.heard(stage, reply, proved);
        if reply.code == 421 {
            self.set_end(End::ServerClosed);
        }
    }

    /// The server refused the connection or EHLO. Returns the refusal for the client, `what` and the digits of the reply; the log
    /// gets the server's words.
    pub(in crate::smtp) fn refused_by_server(
        &mut self,
        stage: Stage,
        reply: &Reply,
        proved: bool,
        what: &str,
    ) -> Refusal {
        self.note_refusal(stage, reply, proved);
        let cause = match stage {
            Stage::Greeting => Cause::GreetingRefused,
            _ => Cause::EhloRefused,
        };
        self.about_server(421, (4, 0), &format!("{what} {}", heard::told(reply)))
            .because(cause)
    }

    // ----- towards the client -----

    /// Greets the client (RFC 5321 §4.2).
    pub(in crate::smtp) fn greet(&mut self) {
        let greeting = format!("220 {} ESMTP\r\n", self.hostname);
        self.send(Side::Client, greeting.into_bytes());
    }

    /// Answers the pending EHLO or HELO; `greeting` is the text of its first line.
    pub(in crate::smtp) fn welcome(&mut self, greeting: &[u8], extensions: &Extensions) {
        let Some(Pending::Hello { esmtp }) = self.pending() else {
            return;
        };
        // HELO must not be answered as EHLO is, and offers nothing (RFC 5321 §4.1.1.1).
        let (shown, reply) = if *esmtp {
            let more = match self.starttls {
                StartTls::Offered => &["STARTTLS"][..],
                _ => &[],
            };
            (extensions.clone(), extensions.reply(greeting, more))
        } else {
            (Extensions::default(), Reply::of_lines(250, [greeting]))
        };
        self.phase = Phase::Commands;
        self.shown = Some(shown);
        self.slots.ours(reply);
        self.pump();
    }

    /// Answers the pending EHLO or HELO with our own name in the first line.
    pub(in crate::smtp) fn welcome_as_ourselves(&mut self, extensions: &Extensions) {
        let greeting = self.hostname.clone().into_bytes();
        self.welcome(&greeting, extensions);
    }

    /// Answers the pending EHLO or HELO by the rule for an offer that nobody has proved.
    pub(in crate::smtp) fn welcome_by(&mut self, offer: &HeardOffer) {
        let shown = self.shown_of(offer);
        self.welcome_as_ourselves(&shown);
    }

    /// The extensions that the client is shown of an offer in the clear.
    pub(in crate::smtp) fn shown_of(&self, offer: &HeardOffer) -> Extensions {
        self.rule
            .as_ref()
            .map_or_else(Extensions::default, |rule| offer.shown(rule))
    }

    /// TLS with the client is up, and nothing from before counts (RFC 3207 §4.2). `refusal`: TLS is not good enough.
    pub(in crate::smtp) fn forget_cleartext(&mut self, refusal: Option<Refusal>) {
        self.end_transaction(None);
        self.shown = None;
        self.hello_name = Vec::new();
        self.phase = Phase::Commands;
        self.starttls = StartTls::Up;
        self.allowed = match refusal {
            None => AllowedCommands::All,
            Some(refusal) => AllowedCommands::QuitOnly(refusal),
        };
    }
}
