//! Inbound: the reply to MAIL from a sender domain whose client had to prove itself and did not.

use super::{Reason, refusal};
use crate::smtp::{Cause, Domain, Refusal};

/// 530 5.7.0 where TLS would be the first step (RFC 3207 §4), else 550 5.7.1: the certificate decided, and it is authenticated
/// by the handshake.
#[must_use]
pub fn refuse_client(
    sender: Option<&Domain>,
    reason: Reason,
    words: &str,
    secured: bool,
) -> Refusal {
    let whose = sender.map_or_else(|| String::from("this client"), ToString::to_string);
    let (code, enhanced, what) = match secured {
        false => (
            530,
            (7, 0),
            "must issue STARTTLS and show its certificate first",
        ),
        true => (550, (7, 1), "client not authenticated"),
    };
    let words = if secured {
        format!(": {}: {words}", reason.word())
    } else {
        String::new()
    };
    Refusal {
        code,
        enhanced,
        text: refusal::one_line(&format!("{whose}: {what}{words}"), refusal::LONGEST_TEXT),
        cause: Cause::Verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_in_the_clear_is_sent_to_tls_and_one_with_the_wrong_certificate_away() {
        let sender = Domain::parse("partner.example");
        let refuse = |secured| {
            refuse_client(
                sender.as_ref(),
                Reason::CertificateHostMismatch,
                "names other.example",
                secured,
            )
            .to_string()
        };
        assert_eq!(
            refuse(false),
            "530 5.7.0 partner.example: must issue STARTTLS and show its certificate first"
        );
        assert_eq!(
            refuse(true),
            "550 5.7.1 partner.example: client not authenticated: certificate-host-mismatch: names other.example"
        );
    }
}
