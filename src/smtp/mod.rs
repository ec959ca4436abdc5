//! The protocol: bytes in, decisions out, no I/O and no clock.
//!
//! # The contract of driving a machine
//!
//! [`Outbound`] and [`Inbound`] are driven alike (the trait [`Machine`]):
//!
//! 1. give one input: [`Machine::receive`] with all bytes of a side that were not taken yet, or [`Machine::handle`];
//! 2. drain [`Machine::next_action`] until it is `None`, carrying out each action in order;
//! 3. wait for bytes, a close, an answer, or [`Machine::deadline`] (then `handle(Input::Deadline, now)`).
//!
//! After [`Action::Close`] nothing more is taken from that side or sent to it; closing it again changes nothing, and
//! [`Action::Connect`] opens the server's side anew. Each [`Action::Authorise`] and each [`Action::Record`] gets one
//! answer.
//!
//! `now` is the time since the session began. Bytes that the machine does not take stay with the driver, which offers
//! them again, with what came behind them, after any other input; it stops reading a side whose untaken bytes
//! reach [`MAX_UNTAKEN`]. A driver also stops reading a side while its output to the other side is backed up, and says so
//! of the client's ([`Machine::set_held_back`]).
//!
//! Message bytes never enter the machine as owned data: [`Action::Pass`] moves bytes of the slice just offered from
//! one side to the other as they are, so that "verbatim" is visible in the type.

mod command;
mod extensions;
mod framing;
mod heard;
mod inbound;
mod outbound;
mod path;
mod relay;
mod reply;
#[cfg(test)]
mod script;
mod timer;

pub(crate) use command::fits_a_trace;
pub use extensions::Keyword;
pub use inbound::{Inbound, InboundConfig};
pub use outbound::{Outbound, OutboundConfig};
pub use path::ForwardPath;
pub use reply::{Reply, ReplyPart, ReplyReader};

use std::{fmt, time::Duration};

/// Largest number of bytes of one side that a driver has to keep untaken, in octets. More than the longest line that
/// any state takes (an AUTH response, RFC 4954 §4: 12,288 octets), so a full buffer is always decidable.
pub const MAX_UNTAKEN: usize = 16 * 1024;

/// The two ends of a session by SMTP role (RFC 5321 §2.3.2): outbound the client is inside, inbound it is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connect to.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a machine is told, besides bytes (those come by [`Machine::receive`]).
#[derive(Debug)]
pub enum Input {
    /// Answer to [`Action::Connect`]: the connection to the server stands, or why it does not.
    Connected(Result<(), Refusal>),
    /// Answer to [`Action::Upgrade`]: TLS is up on that side and every byte from now on comes out of it, or why not.
    /// Authentication of the peer is a different question, asked by [`Action::Authorise`]. An error on the client's
    /// side says that TLS is up but not good enough (RFC 3207 §4.1: all but QUIT gets that refusal); a handshake that
    /// failed there is `Closed(Side::Client)`.
    Upgraded(Side, Result<(), Refusal>),
    /// Answer to [`Action::Authorise`].
    Answer(Answer),
    /// Answer to [`Action::Record`]: the record is on disk, or it cannot be written.
    Recorded(Result<Recorded, Refusal>),
    /// That side sent FIN, or its connection broke.
    Closed(Side),
    /// The time that [`Machine::deadline`] named has come.
    Deadline,
    /// The process is asked to stop: end the session at the next reply point (RFC 5321 §3.8: 421).
    Drain,
    /// There is no more time for that: end the session now.
    Cut,
}

/// What a machine wants done. Carried out in order.
#[derive(Debug)]
pub enum Action {
    /// Open the connection to the server.
    Connect,
    /// Write these bytes: a reply or a command that the machine made or held.
    Send(Side, Vec<u8>),
    /// Of the slice just offered from `from`, the next `len` bytes go to the other side exactly as they are.
    Pass {
        /// Where the bytes came from.
        from: Side,
        /// How many, in octets.
        len: usize,
        /// They are octets of a message (the digest takes them), not protocol.
        content: bool,
    },
    /// Of the slice just offered from `from`, the next `len` bytes were taken and go nowhere.
    Drop {
        /// Where the bytes came from.
        from: Side,
        /// How many, in octets.
        len: usize,
    },
    /// Start TLS on that side, as client towards the server, as server towards the client. What was sent before must be
    /// flushed first; no byte of that side may be untaken (the machine has checked what it was offered).
    Upgrade(Side),
    /// Say whether what follows may go to the peer.
    Authorise(Question),
    /// Make the evidence of a message durable, then say so; its final reply waits.
    Record(Completed),
    /// Something an administrator should see in the log or the audit record; nothing waits for it.
    Note(Note),
    /// Close that side once what was sent to it is flushed. `abort`: drop the connection at once, so that the other end
    /// can never take a half message for a whole one.
    Close {
        /// Which side.
        side: Side,
        /// Drop instead of flushing.
        abort: bool,
    },
}

/// What the machine asks the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Outbound, the peer is known at connect time: what must come before the client's EHLO is answered?
    Peer,
    /// Outbound: may mail for this recipient be handed to the peer (or: must TLS come up first)?
    Recipient(Recipient),
    /// Inbound: may this client send as this domain (`None`: the null reverse-path)?
    Sender(Option<Domain>),
}

/// The part of a RCPT path that policy judges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// `local@domain`.
    Domain(Domain),
    /// `local@[192.0.2.1]` or any other address literal, brackets included: only the table can authorise it.
    Literal(String),
    /// `<postmaster>` without a domain (RFC 5321 §4.5.1): only a peer known at connect time can have it.
    Postmaster,
}

/// Answer to a [`Question`].
#[derive(Debug)]
pub enum Answer {
    /// TLS must come up with the peer first; ask again then. Never given once TLS is up.
    Upgrade {
        /// Level `may` and observe mode: where TLS cannot be had (not offered, refused, handshake failed), go on in the
        /// clear, after a failed handshake over a new connection ([`Action::Connect`] again).
        or_plaintext: Option<Exempted>,
    },
    /// The peer proved what was demanded.
    Authorised(Authorised),
    /// A table entry (or `--exempt`, `--observe`) allows it as things are, even in the clear.
    Exempted(Exempted),
    /// No.
    Refused(Refusal),
}

/// Proof that policy authorised the peer for what was asked. Made only in `policy::judge`'s caller, the session.
#[derive(Debug, PartialEq, Eq)]
pub struct Authorised {
    authenticated: bool,
}

/// Proof that an entry of the administrator allows going on without an authenticated peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Exempted(());

/// Proof that a message's evidence is durable (or that no audit log is kept).
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded(());

impl Authorised {
    /// States that the peer was judged under a level that authenticates it, and is authorised. Only the session may call this.
    #[must_use]
    pub fn assertion() -> Self {
        Self {
            authenticated: true,
        }
    }

    /// States that the link is encrypted and that policy demands no more of the peer (level `encrypt`, or an inbound client
    /// of whom nothing is demanded). Only the session may call this.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self {
            authenticated: false,
        }
    }

    /// Whether the peer proved who it is. Only what such a peer says inside TLS may decide more than the command it answers.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }
}
impl Exempted {
    /// States that an entry allows it. One file may call this: `session.rs`.
    #[must_use]
    pub fn assertion() -> Self {
        Self(())
    }
}
impl Recorded {
    /// States that the record is durable. One file may call this: `session.rs`.
    #[must_use]
    pub fn assertion() -> Self {
        Self(())
    }
}

/// Why something was refused, in one word that log, counter and record share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The policy decided it; the session wrote its verdict down before it answered.
    Verdict,
    /// The client broke a rule of the protocol.
    Protocol,
    /// The client asked for more than one session may have.
    Limit,
    /// Inbound: mail needs TLS first (RFC 3207 §4). Outbound: AUTH or this recipient needs it, and the session has begun without.
    StarttlsRequired,
    /// The server cannot be reached.
    ServerUnreachable,
    /// The server's connection ended, or it gave no usable reply in time.
    ServerGone,
    /// The server greeted with something else than 220.
    GreetingRefused,
    /// The server refused EHLO.
    EhloRefused,
    /// The server refused STARTTLS that it had offered.
    StarttlsRefused,
    /// The server does not offer STARTTLS.
    StarttlsNotSupported,
    /// The server lacks inside TLS what it offered before, and the client used it.
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
    /// The same refusal for this cause.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
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

/// One message, as far as the machine knows it, when the server's final reply is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The reverse-path as written between `<` and `>`; empty for `<>`.
    pub sender: Vec<u8>,
    /// Its domain; `None` for the null reverse-path and for address literals.
    pub sender_domain: Option<Domain>,
    /// The accepted recipients: what policy judged, and the path as written between `<` and `>`.
    pub recipients: Vec<ForwardPath>,
    /// Octets of the message as relayed: DATA with dot-stuffing and without the final `.` CRLF line, or the sum of BDAT chunks.
    pub octets: u64,
    /// The server's final reply, verbatim, CRLFs included. `None`: the connection ended before it (outcome unknown).
    pub reply: Option<Vec<u8>>,
}

/// Things worth telling that change no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The server is told this name of the client's EHLO or HELO; the last one counts. As the client wrote it: towards the outside
    /// our own may stand in its place, and not every name fits a trace line (`fits_a_trace`).
    Hello(Vec<u8>),
    /// A transaction begins: what was decided for an earlier one does not concern it.
    TransactionBegins,
    /// A message's first byte is about to pass (digest starts afresh).
    MessageBegins,
    /// A refusal of our own was given, as the reply says.
    Refused(Refusal),
    /// A reason for hanging up or refusing that the log should name, e.g. `starttls-response-injection`.
    Incident(&'static str),
    /// The server does not offer STARTTLS, or refused it: a fault of the host, remembered for its address.
    HostFault {
        /// What the client was answered.
        refusal: Refusal,
        /// The host said so for good (5yz). A 4yz, or one missing offer, is a fault only after several times.
        lasting: bool,
    },
    /// The server refused at this stage. That decides nothing, and is told.
    Heard {
        /// What it answers.
        stage: Stage,
        /// The reply as it came, CRLFs included.
        reply: Vec<u8>,
        /// It came inside TLS from a peer that had proved who it is. Else anybody on the path can have said it.
        proved: bool,
    },
    /// TLS cannot be had from the server. Told before the refusal that says so, and before mail goes on in the clear all the same.
    NoTls {
        /// What is missing, in words.
        words: String,
        /// The refusal for it. Its cause says whether STARTTLS was not offered or refused.
        refusal: Refusal,
    },
    /// An authenticated server lacks this inside TLS, and the client used it: the client's next session there is not shown it.
    MissingExtension(extensions::Keyword),
    /// How the session ends. Told once.
    Ends(End),
}

/// A stage of the dialogue in the clear at which a server can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The connection: its greeting.
    Greeting,
    /// EHLO.
    Ehlo,
    /// STARTTLS.
    StartTls,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The client said QUIT.
    Quit,
    /// The client closed its connection, or it broke.
    ClientClosed,
    /// The server closed its connection or said 421, or its connection broke.
    ServerClosed,
    /// Somebody did not do in time what was waited for.
    Timeout,
    /// We refused to go on.
    Refused,
    /// The process is being stopped.
    Stopped,
}

impl End {
    /// The word for log and record.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::ClientClosed => "client-closed",
            Self::ServerClosed => "server-closed",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// Inbound: what STARTTLS can be answered at this moment, and how mail in the clear is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartTlsConditions {
    /// No place for a handshake can be had: STARTTLS gets 421 and the session ends. STARTTLS stays offered, because real MTAs go
    /// on in the clear after 454 or a missing offer, and bounce.
    pub overloaded: bool,
    /// A handshake of this client's network failed a short while ago, or this process has just started: mail in the clear gets
    /// 4yz instead of 530, because the client may have tried.
    pub may_have_tried: bool,
}

impl StartTlsConditions {
    /// What a client is answered that has not started TLS: 530 ends the matter for a real MTA, so whoever may have tried gets 4yz.
    #[must_use]
    pub fn starttls_first(&self) -> Refusal {
        let (code, text) = match self.may_have_tried {
            true => (451, "mail is taken over TLS only, try again with STARTTLS"),
            false => (530, "must issue a STARTTLS command first"),
        };
        command::refusal(code, (7, 0), text).because(Cause::StarttlsRequired)
    }
}

/// What both machines can do. See the module's contract.
pub trait Machine {
    /// Offers all bytes of `side` that were not taken yet; may take none. What is taken is named by [`Action::Pass`] and
    /// [`Action::Drop`], which together never exceed `bytes`.
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration);
    /// Tells it what happened.
    fn handle(&mut self, input: Input, now: Duration);
    /// The next thing to do.
    fn next_action(&mut self) -> Option<Action>;
    /// When `Input::Deadline` is due, as time since the session began.
    fn deadline(&self) -> Option<Duration>;
    /// Inbound: said before the client's bytes are offered. Outbound it says nothing.
    fn set_conditions(&mut self, _now: StartTlsConditions) {}
    /// Whether the driver holds the client's bytes back, because the server has not read what was sent to it. Said when it
    /// changes. That time is the server's: it does not count against a client that must send its message in time.
    fn set_held_back(&mut self, _held: bool, _now: Duration) {}
    /// `--add-received`: the trace line, CRLF included, that goes in front of each message from now on.
    fn set_trace(&mut self, line: Vec<u8>);
    /// Both sides are done with.
    fn finished(&self) -> bool;
}

/// A domain name in lower case, without a trailing dot, in A-labels (RFC 5890): the form DNS and certificates use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// Takes letters, digits, `-` and `_`, labels of 1 to 63 octets that neither begin nor end with `-`, 253 octets in
    /// all (RFC 5321 §4.1.2, §4.5.3.1.2), no trailing dot; folds ASCII case. `None` for anything else.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let well_formed = name.len() <= 253
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        well_formed.then(|| Self(name.to_ascii_lowercase()))
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its first label; `None` for a single label.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0
            .split_once('.')
            .map(|(_, rest)| Self(rest.to_owned()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
