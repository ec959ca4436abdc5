//! The vocabulary between a machine and its driver: what a machine is told and asked, and what it wants done.

use super::{
    domain::Domain,
    extensions::Keyword,
    login::{Login, Secret},
    path::{ForwardPaths, Recipient},
    proof::{Authorised, Exempted, Recorded},
    refusal::{Cause, Refusal},
};
use std::time::Duration;

/// Largest number of untaken bytes of one side that a driver has to keep, in octets. It is more than the longest line that any
/// state takes (an AUTH response, RFC 4954 §4: 12,288 octets), so the machine can always decide about a full buffer.
pub const MAX_UNTAKEN: usize = 16 * 1024;

/// What both machines can do. See the contract in the module `smtp`.
pub trait Machine {
    /// Offers all bytes of `side` that were not taken yet; the machine may take none. [`Action::Pass`] and [`Action::Drop`] name
    /// the bytes it takes, together never more than `bytes`.
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration);
    /// Tells the machine what happened.
    fn handle(&mut self, input: Input, now: Duration);
    /// The next thing to do.
    fn next_action(&mut self) -> Option<Action>;
    /// When `Input::Deadline` is due, as time since the session began.
    fn deadline(&self) -> Option<Duration>;
    /// Inbound: called before the client's bytes are offered. Outbound it has no effect.
    fn set_conditions(&mut self, _now: StartTlsConditions) {}
    /// Whether the driver holds the client's bytes back because the server has not read what was sent to it. Called when that
    /// changes. The server uses up that time, so it does not count against a client that must send its message in time.
    fn set_held_back(&mut self, _held: bool, _now: Duration) {}
    /// `--add-received`: the trace line, CRLF included, that goes in front of each message from now on.
    fn set_trace(&mut self, line: Vec<u8>);
    /// Whether the octets for the client may wait for the next reply of the server. They are then only our own replies to MAIL and
    /// RCPT, and the server has everything that it must answer of the same group (RFC 2920 §3.2: a server may store the replies of a
    /// group). Asked when the machine has no action left and the client's bytes were offered; a driver may always write at once.
    fn holds_replies(&self) -> bool {
        false
    }
    /// Both sides are closed and no action is left.
    fn finished(&self) -> bool;
}

/// The two ends of a session by SMTP role (RFC 5321 §2.3.2). Outbound the client is inside; inbound it is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected to this proxy.
    Client,
    /// The end that this proxy connects to.
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
    /// Answer to [`Action::Connect`]: the connection to the server is up, or why it is not.
    Connected(Result<(), Refusal>),
    /// Answer to [`Action::Upgrade`]: TLS is up on that side and every later byte comes out of it, or why not. It says nothing
    /// about who the peer is; [`Action::Authorise`] asks that. On the client's side an error means that TLS is up but not
    /// good enough (RFC 3207 §4.1: every command but QUIT gets that refusal). A handshake that failed there is
    /// `Closed(Side::Client)`.
    Upgraded(Side, Result<(), Refusal>),
    /// Answer to [`Action::Authorise`].
    Answer(Answer),
    /// Answer to [`Action::Record`]: the record is on disk, or why it cannot be written.
    Recorded(Result<Recorded, Refusal>),
    /// That side sent FIN, or its connection broke.
    Closed(Side),
    /// The time that [`Machine::deadline`] named has come.
    Deadline,
    /// The process is asked to stop: end the session at the next reply point (RFC 5321 §3.8: 421).
    Drain,
    /// No time is left for draining: end the session now.
    Cut,
}

/// What a machine wants done. The driver carries actions out in order.
#[derive(Debug)]
pub enum Action {
    /// Open the connection to the server.
    Connect,
    /// Write these bytes: a reply or a command that the machine made or held.
    Send(Side, Vec<u8>),
    /// Write this line of the proxy's own login to the server, inside TLS. No log may show it.
    SendSecret(Secret),
    /// Of the slice just offered from `from`, the next `len` bytes go to the other side unchanged.
    Pass {
        /// The side that sent the bytes.
        from: Side,
        /// Their number, in octets.
        len: usize,
        /// They are octets of a message (the digest takes them), not protocol.
        content: bool,
    },
    /// Of the slice just offered from `from`, the next `len` bytes were taken and go nowhere.
    Drop {
        /// The side that sent the bytes.
        from: Side,
        /// Their number, in octets.
        len: usize,
    },
    /// Start TLS on that side, as client towards the server, as server towards the client. The driver first flushes what was sent
    /// before. No byte of that side may be untaken (the machine has checked what it was offered).
    Upgrade(Side),
    /// Say whether the pending command may go to the peer.
    Authorise(Question),
    /// Make the evidence of a message durable, then answer; the message's final reply waits for that.
    Record(Box<Completed>),
    /// Something an administrator should see in the log or the audit record; nothing waits for it.
    Note(Note),
    /// Close that side once what was sent to it is flushed.
    Close {
        /// Which side.
        side: Side,
        /// Drop the connection at once instead of flushing, so that the other end can never take half a message for a whole one.
        abort: bool,
    },
}

/// What the machine asks the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Outbound, the peer is known at connect time: what must happen before the client's EHLO is answered?
    Peer,
    /// Outbound: may mail for this recipient be handed to the peer, or must TLS come up first?
    Recipient(Recipient),
    /// Inbound: may this client send as this domain (`None`: the null reverse-path)?
    Sender(Option<Domain>),
    /// Outbound: with which credentials does the proxy log in to the server? Asked only once the server has proved who it is, inside TLS.
    Login,
}

/// Answer to a [`Question`].
#[derive(Debug)]
pub enum Answer {
    /// TLS must come up with the peer first; ask again then. The policy never answers so once TLS is up.
    Upgrade {
        /// Level `may` and observe mode: where TLS cannot be had (not offered, refused, handshake failed), go on in the
        /// clear, after a failed handshake over a new connection ([`Action::Connect`] again).
        or_plaintext: Option<Exempted>,
    },
    /// The peer proved what policy demands.
    Authorised(Authorised),
    /// A table entry (or `--exempt`, `--observe`) allows it as things are, even in the clear.
    Exempted(Exempted),
    /// The credentials that [`Question::Login`] asks for.
    Login(Login),
    /// No.
    Refused(Refusal),
}

/// One message, as far as the machine knows it, when the server's final reply is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The reverse-path as written between `<` and `>`; empty for `<>`.
    pub sender: Vec<u8>,
    /// Its domain; `None` for the null reverse-path and for address literals.
    pub sender_domain: Option<Domain>,
    /// The recipients that the server accepted; without a reply also those that it had not answered when the connection ended.
    pub recipients: ForwardPaths,
    /// Octets of the message as relayed: DATA with dot-stuffing and without the final `.` CRLF line, or the sum of BDAT chunks.
    pub octets: u64,
    /// The server's final reply, verbatim, CRLFs included. `None`: the connection ended before it (outcome unknown). Where the server
    /// accepted no recipient, this is never an acceptance: a refusal of the message, or else the last refusal of a recipient.
    pub reply: Option<Vec<u8>>,
}

/// Things that an administrator should know and that change no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The server is told this name of the client's EHLO or HELO; the last one counts. It is the name as the client wrote it: towards
    /// the outside our own may replace it, and not every name fits a trace line (`fits_a_trace`).
    Hello(Vec<u8>),
    /// A transaction begins. Decisions for an earlier transaction do not concern it.
    TransactionBegins,
    /// A message's first byte is about to pass (the digest starts afresh).
    MessageBegins,
    /// The client got this refusal of our own.
    Refused(Refusal),
    /// A reason for hanging up or refusing that the log should name, e.g. `starttls-response-injection`.
    Incident(&'static str),
    /// The server does not offer STARTTLS, or refused it: a fault of the host, remembered for its address.
    HostFault {
        /// What the client was answered.
        refusal: Refusal,
        /// The host refused for good (5yz). A 4yz, or one missing offer, is a fault only after several times.
        lasting: bool,
    },
    /// The server refused at this stage. The refusal decides nothing; the administrator is told.
    Heard {
        /// The stage that the reply answers.
        stage: Stage,
        /// The reply as received, CRLFs included.
        reply: Vec<u8>,
        /// It came inside TLS from a peer that had proved who it is. Otherwise anybody on the path can have sent it.
        proved: bool,
    },
    /// TLS cannot be had from the server. This note comes before the refusal that says so, and also before mail that goes on in the
    /// clear all the same.
    NoTls {
        /// What is missing, in words.
        words: String,
        /// The refusal for it. Its cause says whether STARTTLS was not offered or refused.
        refusal: Refusal,
    },
    /// An authenticated server lacks this extension inside TLS, and the client used it. The client's next session with this server
    /// is not shown the extension.
    MissingExtension(Keyword),
    /// The server has accepted the proxy's own login.
    LoggedIn {
        /// As whom.
        user: String,
        /// The SASL mechanism.
        mechanism: &'static str,
    },
    /// How the session ends. Comes once.
    Ends(End),
}

/// A stage of the dialogue at which a server can refuse the whole session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The connection: its greeting.
    Greeting,
    /// EHLO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// The proxy's own login. Only the codes of such a reply are told, because a server may quote what it refuses.
    Login,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The client said QUIT.
    Quit,
    /// The client closed its connection, or the connection broke.
    ClientClosed,
    /// The server closed its connection or said 421, or its connection broke.
    ServerClosed,
    /// A wait took too long.
    Timeout,
    /// This proxy refused to go on.
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

/// Inbound: how STARTTLS can be answered at this moment, and how mail in the clear is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartTlsConditions {
    /// There is no place for another handshake: STARTTLS gets 421 and the session ends. STARTTLS stays offered, because real
    /// MTAs go on in the clear after 454 or a missing offer, and bounce.
    pub overloaded: bool,
    /// A handshake of this client's network failed a short while ago, or this process has just started. The client may have
    /// tried TLS, so mail in the clear gets 4yz instead of 530.
    pub may_have_tried: bool,
}

impl StartTlsConditions {
    /// The reply to mail from a client that has not started TLS. 530 makes a real MTA give up, so a client that may have tried
    /// TLS gets 4yz.
    pub(crate) fn starttls_first(&self) -> Refusal {
        let (code, text) = match self.may_have_tried {
            true => (451, "mail is taken over TLS only, try again with STARTTLS"),
            false => (530, "must issue a STARTTLS command first"),
        };
        Refusal::new(code, (7, 0), text).because(Cause::StarttlsRequired)
    }
}
