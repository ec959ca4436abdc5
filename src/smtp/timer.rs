//! How long each wait may take (RFC 5321 §4.5.3.2). No clock is read here.

use super::machine::Side;
use std::time::Duration;

/// What the session waits for. One timer runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Total time for the connection to the server and its whole greeting. It is less than the five minutes that the client waits
    /// for our greeting (RFC 5321 §4.5.3.2.1), so that the client learns why.
    Greeting,
    /// Total time for preparing one client command: EHLO, STARTTLS, handshake, EHLO again and the policy's answers. It is less than
    /// the five minutes that the client waits for a reply.
    Opening,
    /// Total time for everything that a client says before it starts TLS.
    Cleartext,
    /// Total time for the client's TLS handshake.
    Handshake,
    /// Time for the policy's answer to one question. A late answer must not meet a later question, so the session ends then.
    Answer,
    /// Time in which the client must send a whole command (RFC 5321 §4.5.3.2.7).
    Command,
    /// One minute of a client's message; at its end the octets are counted, because a least rate is demanded.
    DataBlock,
    /// Time in which the server must read what it was sent of a message.
    Unread,
    /// Total time for skipping the rest of a message that was refused.
    SkippedMessage,
    /// Time for the whole reply to a command (RFC 5321 §4.5.3.2.2, .3).
    Reply,
    /// Time for the 354 to DATA (RFC 5321 §4.5.3.2.4).
    GoAhead,
    /// Time for the final reply to a message (RFC 5321 §4.5.3.2.6).
    FinalReply,
    /// Time for the reply to QUIT; after it, our own 221 replaces it.
    Farewell,
    /// Time for a message's evidence to become durable.
    Record,
}

impl Timer {
    /// How long the timer runs.
    pub(super) const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Greeting | Self::Opening => 240,
            Self::Cleartext | Self::GoAhead => 120,
            Self::Handshake | Self::Answer | Self::Record | Self::DataBlock => 60,
            Self::Command | Self::Unread | Self::SkippedMessage | Self::Reply => 300,
            Self::FinalReply => 600,
            Self::Farewell => 30,
        })
    }

    /// The side whose whole lines restart the timer; `None`: nothing restarts it.
    pub(super) const fn restarted_by(self) -> Option<Side> {
        match self {
            Self::Command => Some(Side::Client),
            Self::Reply | Self::FinalReply => Some(Side::Server),
            _ => None,
        }
    }
}
