//! The states of a relay.

use crate::smtp::{
    extensions::Extensions,
    framing::MessageSkipper,
    path::{ForwardPath, Sender},
    proof::{Authorised, Exempted},
    refusal::Refusal,
    reply::Reply,
    scanner::DataScanner,
};

/// What happened to the bytes that were offered.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::smtp) enum Step {
    /// This many octets were taken, or none but the phase changed. Offering the rest again may take more.
    Took(usize),
    /// Nothing can be decided without more bytes.
    Starved,
    /// The bytes have to wait for something else.
    Blocked,
}

/// A command that the machine must deal with before the next command is taken.
#[derive(Debug)]
pub(in crate::smtp) enum Pending {
    Hello {
        esmtp: bool,
    },
    Mail {
        line: Vec<u8>,
        sender: Sender,
    },
    Rcpt {
        line: Vec<u8>,
        to: ForwardPath<'static>,
        /// A parameter of DSN was given.
        dsn: bool,
    },
    StartTls,
}

/// Permission to hand one command over to the server.
#[derive(Debug)]
pub(in crate::smtp) enum Permit {
    Authorised(Authorised),
    Exempted(Exempted),
}

impl Permit {
    /// Whether the peer proved who it is, so that its words may decide.
    pub(in crate::smtp) fn is_authenticated(&self) -> bool {
        matches!(self, Self::Authorised(authorised) if authorised.is_authenticated())
    }
}

/// The commands that the client may use now.
#[derive(Debug, Default)]
pub(in crate::smtp) enum AllowedCommands {
    #[default]
    All,
    /// TLS is not up yet, so no command of a transaction is allowed (RFC 3207 §4: 530).
    BeforeTls,
    /// TLS is up but not good enough: only QUIT is allowed; every other command gets this refusal (RFC 3207 §4.1).
    QuitOnly(Refusal),
}

/// How the client's STARTTLS is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::smtp) enum StartTls {
    /// The client is inside, where STARTTLS is not offered.
    #[default]
    Unknown,
    Offered,
    /// There is no certificate (RFC 3207 §4: 454).
    Unavailable,
    /// TLS is up already (RFC 3207 §4.2).
    Up,
}

/// What differs between the directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::smtp) enum Role {
    /// MAIL waits for the first recipient that may be handed over; policy judges each RCPT.
    #[default]
    Outbound,
    /// Policy judges each MAIL.
    Inbound,
}

/// Whether AUTH may pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::smtp) enum Auth {
    #[default]
    Hidden,
    MayPass,
    /// AUTH may pass, but this session's link is in the clear, and AUTH was refused for that.
    RefusedInTheClear,
}

/// The server, as far as commands are concerned.
#[derive(Debug, Default)]
pub(super) enum Link {
    /// Nothing of a transaction may be sent.
    #[default]
    Shut,
    Open {
        pipelining: bool,
        /// Outbound, what the server offers inside TLS. `None`: commands pass unchecked.
        judged: Option<Extensions>,
        /// Something was permitted on this link, so the peer's replies count.
        permitted: bool,
    },
}

/// How the server's connection is closed when the session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ServerEnding {
    /// The server does not expect a command: close without a word.
    #[default]
    Close,
    /// The server expects a command: say QUIT.
    Quit,
    /// Drop the connection. This is never taken back.
    Abort,
}

/// What the relay does with the next bytes of the client.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Takes a command.
    #[default]
    Commands,
    /// A line that is too long is skipped; this many octets were.
    Overlong(usize),
    /// The machine must deal with this command.
    Pending {
        command: Pending,
        /// The policy was asked about the pending command, and has not answered.
        asked: bool,
    },
    AwaitAuthReply,
    /// The server said 334.
    AuthResponse,
    /// DATA was sent to the server, and its 354 has not arrived.
    AwaitGoAhead,
    Message(DataScanner),
    Chunk {
        left: u64,
        last: bool,
    },
    AwaitFinalReply,
    AwaitRecord(Reply<'static>),
    /// The octets of a refused chunk are skipped.
    SkipChunk {
        left: u64,
        last: bool,
        then: AfterChunk,
    },
    /// The rest of a message that was given up is skipped; then comes this reply, and the session ends.
    SkipMessage {
        skipper: MessageSkipper,
        then: Reply<'static>,
    },
    /// The last reply is on its way; nothing more is taken.
    Leaving,
    Over,
}

/// What the client is told when all octets of a refused chunk are skipped.
#[derive(Debug)]
pub(super) enum AfterChunk {
    Refusal(Refusal),
    Reply(Reply<'static>),
    /// The reply ends the session.
    LastReply(Reply<'static>),
}
