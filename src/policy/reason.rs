//! Why mail is refused: one list of reasons, each with its word, its TLSRPT result type and what a reply says about it.

/// Why mail was refused or a handshake failed, in the words of RFC 8460 §4.3 where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The server does not offer STARTTLS.
    StarttlsNotSupported,
    /// The server offers STARTTLS and refused the command.
    StarttlsRefused,
    /// The session goes on in the clear for a recipient whom the table allows that, and this recipient needs TLS.
    SessionInTheClear,
    /// The chain is good, but the certificate shows none of the demanded names.
    CertificateHostMismatch,
    /// Past notAfter or before notBefore.
    CertificateExpired,
    /// No chain to a trust anchor.
    CertificateNotTrusted,
    /// Anything else that is wrong with TLS or the certificate.
    ValidationFailure,
    /// There are TLSA records, and none of them matches.
    TlsaInvalid,
    /// A signed DNS answer failed validation.
    DnssecInvalid,
    /// `dane-only`, and no usable TLSA records.
    DaneRequired,
    /// The MTA-STS policy could not be fetched.
    StsPolicyFetchError,
    /// The MTA-STS policy could not be parsed, or lists none of the hosts.
    StsPolicyInvalid,
    /// The certificate of the MTA-STS policy host is wrong.
    StsWebpkiInvalid,
    /// Nothing authorises: no table line for a literal or `<postmaster>`, no MTA-STS policy where one is demanded.
    NoPolicy,
    /// A look-up gave no answer in time (not reportable, RFC 8460 §4.3.4).
    LookupFailed,
    /// The domain accepts no mail (RFC 7505).
    NullMx,
    /// The DNS has no such name (NXDOMAIN), so that no host can be the domain's.
    NoSuchDomain,
    /// The destination is no MX of the domain and proved nothing.
    NotAnMx,
    /// The proxy itself cannot go on: record, memory, limits.
    LocalFault,
}

/// A reason, and the words that explain it, in printable ASCII and short enough for a reply.
pub type Denial = (Reason, String);

/// Who a reason blames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The host at the destination address: the session ends, so that the MTA tries the next host.
    Host,
    /// This recipient's domain, or what is known about it.
    Recipient,
}

/// What there is to say about one reason.
pub(super) struct Row {
    pub(super) word: &'static str,
    /// The result type of RFC 8460 §4.3; `None` where it has none.
    reported: Option<&'static str>,
    pub(super) scope: Scope,
    /// Subject and detail of the enhanced status code (RFC 3463).
    pub(super) enhanced: (u16, u16),
    pub(super) sentence: &'static str,
}

impl Reason {
    pub(super) fn row(self) -> Row {
        use Scope::{Host, Recipient};
        let unreported = |word, scope, enhanced, sentence| Row {
            word,
            reported: None,
            scope,
            enhanced,
            sentence,
        };
        let row = |word, scope, enhanced, sentence| Row {
            reported: Some(word),
            ..unreported(word, scope, enhanced, sentence)
        };
        let unproved = |word| row(word, Host, (7, 5), "not authenticated");
        let nobody = |word, enhanced| row(word, Recipient, enhanced, "no host may receive");
        match self {
            Self::StarttlsNotSupported => row("starttls-not-supported", Host, (7, 4), "no TLS"),
            Self::StarttlsRefused => Row {
                reported: Some("starttls-not-supported"),
                ..unreported("starttls-refused", Host, (7, 4), "no TLS")
            },
            Self::SessionInTheClear => {
                unreported("session-in-the-clear", Recipient, (7, 5), "no TLS")
            }
            Self::CertificateHostMismatch => unproved("certificate-host-mismatch"),
            Self::CertificateExpired => unproved("certificate-expired"),
            Self::CertificateNotTrusted => unproved("certificate-not-trusted"),
            Self::ValidationFailure => unproved("validation-failure"),
            Self::TlsaInvalid => unproved("tlsa-invalid"),
            Self::DnssecInvalid => row("dnssec-invalid", Recipient, (7, 5), "look-up failed"),
            Self::DaneRequired => nobody("dane-required", (7, 5)),
            Self::StsPolicyFetchError => nobody("sts-policy-fetch-error", (7, 5)),
            Self::StsPolicyInvalid => nobody("sts-policy-invalid", (7, 5)),
            Self::StsWebpkiInvalid => nobody("sts-webpki-invalid", (7, 5)),
            Self::NoPolicy => unreported("no-policy", Recipient, (7, 5), "no host may receive"),
            Self::LookupFailed => unreported("lookup-failed", Recipient, (4, 3), "look-up failed"),
            Self::NullMx => unreported("null-mx", Recipient, (1, 10), "accepts no mail"),
            Self::NoSuchDomain => unreported("no-such-domain", Recipient, (1, 2), "does not exist"),
            Self::NotAnMx => unreported("not-an-mx", Host, (7, 5), "not authenticated"),
            Self::LocalFault => unreported("local-fault", Host, (3, 0), "not possible here now"),
        }
    }

    /// The reason as one word, in log, record and reply.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().word
    }

    /// The TLSRPT result type (RFC 8460 §4.3); `None` where the reason is not reportable.
    #[must_use]
    pub(crate) fn tlsrpt(self) -> Option<&'static str> {
        self.row().reported
    }

    /// Who the reason blames.
    #[must_use]
    pub(crate) fn scope(self) -> Scope {
        self.row().scope
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::Reason;

    pub(in crate::policy) const ALL: [Reason; 19] = [
        Reason::StarttlsNotSupported,
        Reason::StarttlsRefused,
        Reason::SessionInTheClear,
        Reason::CertificateHostMismatch,
        Reason::CertificateExpired,
        Reason::CertificateNotTrusted,
        Reason::ValidationFailure,
        Reason::TlsaInvalid,
        Reason::DnssecInvalid,
        Reason::DaneRequired,
        Reason::StsPolicyFetchError,
        Reason::StsPolicyInvalid,
        Reason::StsWebpkiInvalid,
        Reason::NoPolicy,
        Reason::LookupFailed,
        Reason::NullMx,
        Reason::NoSuchDomain,
        Reason::NotAnMx,
        Reason::LocalFault,
    ];

    #[test]
    fn each_reason_has_one_word_and_serde_agrees() {
        for reason in ALL {
            assert_eq!(
                serde_json::to_value(reason).expect("json"),
                reason.word(),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn each_word_has_the_result_type_of_rfc_8460_that_fits_or_none() {
        for (word, reported) in ALL.map(|reason| (reason.word(), reason.tlsrpt())) {
            let own = [
                "session-in-the-clear",
                "no-policy",
                "lookup-failed",
                "null-mx",
                "no-such-domain",
                "not-an-mx",
                "local-fault",
            ];
            let expected = match word {
                "starttls-refused" => Some("starttls-not-supported"),
                word if own.contains(&word) => None,
                word => Some(word),
            };
            assert_eq!(reported, expected, "{word}");
        }
    }
}
