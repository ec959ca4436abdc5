//! What the client and the administrator are told when no protected session can be had: refusals in the clear, a missing STARTTLS,
//! a server that speaks out of turn.

use super::Outbound;
use crate::smtp::{
    heard::{self, HeardOffer},
    machine::{Note, Stage},
    proof::Exempted,
    refusal::{Cause, Refusal},
    reply::Reply,
};

impl Outbound {
    /// The server refuses the connection or EHLO before it was judged. The administrator is told its words, the client its code. The
    /// client waits and tries again, because nobody can have proved anything.
    pub(super) fn refused(&mut self, stage: Stage, reply: &Reply) {
        let what = match stage {
            Stage::Greeting => "greeted with",
            _ => "EHLO was refused with",
        };
        let refusal = self.relay.refused_by_server(stage, reply, false, what);
        if stage == Stage::Ehlo && reply.code == 421 {
            self.relay.end_now(refusal);
        } else {
            self.relay.expect_command(stage == Stage::Ehlo);
            self.relay.end_after_replies(refusal);
        }
    }

    /// The server refuses STARTTLS. Mail goes on only in the clear, and only where an entry allows that.
    pub(super) fn starttls_refused(
        &mut self,
        reply: &Reply,
        offer: HeardOffer,
        or_plaintext: Option<Exempted>,
    ) {
        let cause = Cause::StarttlsRefused;
        let what = format!("STARTTLS was refused with {}", heard::told(reply));
        let Some(exempted) = or_plaintext else {
            self.relay.note_refusal(Stage::StartTls, reply, false);
            return self.no_tls(cause, &what, reply.class() == 5);
        };
        self.relay.heard(Stage::StartTls, reply, false);
        self.note_no_tls(cause, &what);
        if reply.code == 421 {
            self.begin_again_in_the_clear(exempted);
        } else {
            self.go_on_in_the_clear(offer, exempted);
        }
    }

    /// The server said something before it was its turn. It would be taken for the reply to our next command.
    pub(super) fn spoke_out_of_turn(&mut self) {
        self.relay.incident("unsolicited-reply");
        self.relay.end_server_lost((5, 0), "a reply to nothing");
    }

    /// Without EHLO there is no TLS, and nothing may go on without TLS.
    pub(super) fn ehlo_refused(&mut self, refused: &str) {
        let refusal = self.ehlo_refusal(refused);
        self.relay.expect_command(true);
        self.relay.end_after_replies(refusal);
    }

    pub(super) fn ehlo_refusal(&self, refused: &str) -> Refusal {
        self.relay
            .about_server(421, (4, 0), refused)
            .because(Cause::EhloRefused)
    }

    /// Session and machine disagree about what was proved.
    pub(super) fn unauthenticated(&mut self, enhanced: (u16, u16)) {
        let refusal = self.relay.about_server(421, enhanced, "not authenticated");
        self.relay.end_local_fault(refusal);
    }

    pub(super) fn not_offered(&mut self, offer: &HeardOffer) {
        match &offer.refused {
            Some(refused) => self.ehlo_refused(refused),
            None => self.no_tls(
                Cause::StarttlsNotSupported,
                &offer.without_starttls(),
                false,
            ),
        }
    }

    /// TLS cannot be had, which is a fault of the host, and the session ends.
    fn no_tls(&mut self, cause: Cause, what: &str, lasting: bool) {
        let refusal = self.note_no_tls(cause, what);
        self.relay.expect_command(true);
        self.relay.note(Note::HostFault {
            refusal: refusal.clone(),
            lasting,
        });
        self.relay.end_after_replies(refusal);
    }

    /// Notes that TLS cannot be had, with the refusal for that, even where mail goes on all the same.
    pub(super) fn note_no_tls(&mut self, cause: Cause, what: &str) -> Refusal {
        let text = format!("no TLS: {}: {what}", cause.word());
        let refusal = self.relay.about_server(421, (7, 4), &text).because(cause);
        self.relay.note(Note::NoTls {
            words: what.to_owned(),
            refusal: refusal.clone(),
        });
        refusal
    }

    /// Bytes of the server stand where only its part of the TLS handshake may.
    pub(super) fn injected(&mut self) {
        self.relay.incident("starttls-response-injection");
        self.relay
            .end_server_lost((7, 5), "text in the clear behind the reply to STARTTLS");
    }
}
