//! Refusals that this proxy gives in its own words.

use std::fmt;

/// Why something was refused, as one word that the log, the counters and the audit record share.
///
/// The policy has a word list of its own, [`Reason`](crate::policy::Reason), for the verdicts behind [`Cause::Verdict`]. The
/// two stay apart, because each says what the other cannot: a `Reason` blames a host or a domain, and has a scope, an
/// enhanced code and an RFC 8460 result type; a `Cause` is what happened in the dialogue, about which nothing was judged
/// (`protocol`, `limit`, `stopped`). The machines must not know policy words either. Both lists write `starttls-not-supported`,
/// `starttls-refused` and `local-fault` alike, since policy and dialogue can find the same fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The policy decided it. The session wrote the verdict down before it answered.
    Verdict,
    /// The client broke a rule of the protocol.
    Protocol,
    /// The client asked for more than one session may have.
    Limit,
    /// Inbound: mail needs TLS first (RFC 3207 §4). Outbound: AUTH or this recipient needs TLS, and the session has begun in the
    /// clear.
    StarttlsRequired,
    /// The server cannot be reached.
    ServerUnreachable,
    /// The server's connection ended, or the server gave no usable reply in time.
    ServerGone,
    /// The server's greeting was not 220.
    GreetingRefused,
    /// The server refused EHLO.
    EhloRefused,
    /// The server refused STARTTLS that it had offered.
    StarttlsRefused,
    /// The server does not offer STARTTLS.
    StarttlsNotSupported,
    /// The proxy cannot log in to the server, and the server takes no mail without that.
    LoginFailed,
    /// The server lacks inside TLS an extension that it offered before, and the client used the extension.
    ExtensionMissing,
    /// This proxy has no place left at the moment.
    Overload,
    /// This proxy cannot go on: record, memory, files.
    LocalFault,
    /// The process is being stopped.
    Stopped,
}

impl Cause {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Verdict => "policy",
            Self::Protocol => "protocol",
            Self::Limit => "limit",
            Self::StarttlsRequired => "starttls-required",
            Self::ServerUnreachable => "server-unreachable",
            Self::ServerGone => "server-gone",
            Self::GreetingRefused => "greeting-refused",
            Self::EhloRefused => "ehlo-refused",
            Self::StarttlsRefused => "starttls-refused",
            Self::StarttlsNotSupported => "starttls-not-supported",
            Self::LoginFailed => "login-failed",
            Self::ExtensionMissing => "extension-missing",
            Self::Overload => "overload",
            Self::LocalFault => "local-fault",
            Self::Stopped => "stopped",
        }
    }
}

/// A refusal in our own words: one reply line (RFC 5321 §4.2) with its enhanced code (RFC 3463).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Basic code, e.g. 421. 421 closes the session.
    pub code: u16,
    /// Enhanced code without the class digit, e.g. `(7, 5)`; the class is the code's first digit.
    pub enhanced: (u16, u16),
    /// One line of printable ASCII that says who, what and why; without CR, LF and the codes.
    pub text: String,
    /// Why, in one word.
    pub cause: Cause,
}

impl Refusal {
    /// A refusal of a client that broke a rule of the protocol; [`because`](Self::because) names any other cause.
    pub(crate) fn new(code: u16, enhanced: (u16, u16), text: impl Into<String>) -> Self {
        Self {
            code,
            enhanced,
            text: text.into(),
            cause: Cause::Protocol,
        }
    }

    /// The same refusal for this cause.
    #[must_use]
    pub(crate) fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// The same refusal as 421, which ends the session: the answer where a 5yz would be no verdict on the mail.
    #[must_use]
    pub(crate) fn closing(self) -> Self {
        Self { code: 421, ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, detail) = self.enhanced;
        write!(
            f,
            "{} {}.{subject}.{detail} {}",
            self.code,
            self.code / 100,
            self.text
        )
    }
}
