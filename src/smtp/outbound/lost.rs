//! What is said and told when the way to a protected session ends: refusals in the clear, a missing STARTTLS, a server that speaks
//! out of turn.

use super::{HeardOffer, Outbound};
use crate::smtp::{Cause, End, Note, Refusal, Stage, command::refusal, heard, reply::Reply};

impl Outbound {
    /// The server refuses to go on before it was judged. Its words are told to the administrator, its code to the client, which
    /// waits: nobody can have proved anything.
    pub(super) fn refused(&mut self, stage: Stage, reply: &Reply) {
        self.relay.heard(stage, reply, false);
        if reply.code == 421 {
            self.relay.ends(End::ServerClosed);
        }
        let told = heard::told(reply);
        let (cause, detail, what) = match stage {
            Stage::Greeting => (
                Cause::GreetingRefused,
                (4, 0),
                format!("greeted with {told}"),
            ),
            Stage::Ehlo => (
                Cause::EhloRefused,
                (4, 0),
                format!("EHLO was refused with {told}"),
            ),
            Stage::StartTls => {
                let what = starttls_refused(reply);
                return self.no_tls(Cause::StarttlsRefused, &what, reply.class() == 5);
            }
        };
        let refusal = refusal(421, detail, &self.relay.says(&what)).because(cause);
        if stage == Stage::Ehlo && reply.code == 421 {
            self.relay.dead(refusal);
        } else {
            self.relay.courteous = stage == Stage::Ehlo;
            self.relay.part(refusal);
        }
    }

    /// The server said something before it was its turn: it would be taken for the reply to what is said next.
    pub(super) fn early(&mut self) {
        self.relay.incident("unsolicited-reply");
        self.lost((5, 0), "a reply to nothing");
    }

    /// Without EHLO there is no TLS, and nothing goes on without that.
    pub(super) fn ehlo_refused(&mut self, refused: &str) {
        let refusal = refusal(421, (4, 0), &self.relay.says(refused));
        self.relay.courteous = true;
        self.relay.part(refusal.because(Cause::EhloRefused));
    }

    /// The session ends at once: the server is of no more use.
    pub(super) fn lost(&mut self, detail: (u16, u16), what: &str) {
        self.relay.lost(detail, what);
    }

    /// The session and the machine do not agree about what was proved.
    pub(super) fn unauthenticated(&mut self, detail: (u16, u16)) {
        let what = self.relay.says("not authenticated");
        self.relay.fails(detail, &what);
    }

    pub(super) fn not_offered(&mut self, offer: &HeardOffer) {
        match offer.refused() {
            Some(refused) => self.ehlo_refused(refused),
            None => self.no_tls(
                Cause::StarttlsNotSupported,
                &offer.without_starttls(),
                false,
            ),
        }
    }

    /// TLS cannot be had: a fault of the host.
    pub(super) fn no_tls(&mut self, cause: Cause, what: &str, lasting: bool) {
        let refusal = self.lost_tls(cause, what);
        self.relay.courteous = true;
        self.relay.note(Note::HostFault {
            refusal: refusal.clone(),
            lasting,
        });
        self.relay.part(refusal);
    }

    /// Tells that TLS cannot be had; gives the refusal for it, which is told too where mail goes on all the same.
    pub(super) fn lost_tls(&mut self, cause: Cause, what: &str) -> Refusal {
        let text = format!("no TLS: {}: {what}", cause.word());
        let refusal = refusal(421, (7, 4), &self.relay.says(&text)).because(cause);
        self.relay.note(Note::NoTls {
            words: what.to_owned(),
            refusal: refusal.clone(),
        });
        refusal
    }

    /// Bytes of the server stand where only its ClientHello's answer may.
    pub(super) fn injected(&mut self) {
        self.relay.incident("starttls-response-injection");
        self.lost((7, 5), "text in the clear behind the reply to STARTTLS");
    }
}

pub(super) fn starttls_refused(reply: &Reply) -> String {
    format!("STARTTLS was refused with {}", heard::told(reply))
}
