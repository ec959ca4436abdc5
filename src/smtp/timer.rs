//! How long each wait may take (RFC 5321 §4.5.3.2), without a clock.

use super::Side;
use std::time::Duration;

/// What is waited for. One runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// When to stop waiting for the connection to the server and its whole greeting. Less than the five minutes that the
    /// client gives us for ours (RFC 5321 §4.5.3.2.1), so that it learns why.
    Greeting,
    /// When to stop trying to get ready for one command: all of EHLO, STARTTLS, handshake, EHLO and the policy's answers,
    /// together. Less than the five minutes the client gives a command.
    Opening,
    /// When to stop waiting for a client that has not started TLS yet; all it says before that is one unit.
    Cleartext,
    /// When to stop waiting for the client's TLS handshake.
    Handshake,
    /// When to stop waiting for the policy's answer to one question. A late answer must not meet a later question, so
    /// the session ends.
    Answer,
    /// When to hang up on a client that sends no whole command (RFC 5321 §4.5.3.2.7).
    Command,
    /// When to count what has come of a client's message in the minute that is over (a least rate is demanded).
    DataBlock,
    /// When to give up on a server that does not read the message it is sent.
    Unread,
    /// When to stop swallowing the rest of a message that was refused: all of it is one unit.
    Rest,
    /// When to give up on the whole reply to a command (RFC 5321 §4.5.3.2.2, .3).
    Reply,
    /// When to give up on the 354 (RFC 5321 §4.5.3.2.4).
    Go,
    /// When to give up on the final reply to a message (RFC 5321 §4.5.3.2.6).
    FinalReply,
    /// When to say 221 in place of a server that does not.
    Farewell,
    /// When to stop waiting for a message's evidence to be durable.
    Record,
}

impl Timer {
    /// Its length.
    #[must_use]
    pub const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Greeting | Self::Opening => 240,
            Self::Cleartext | Self::Go => 120,
            Self::Handshake | Self::Answer | Self::Record | Self::DataBlock => 60,
            Self::Command | Self::Unread | Self::Rest | Self::Reply => 300,
            Self::FinalReply => 600,
            Self::Farewell => 30,
        })
    }

    /// Whose whole lines restart it; `None`: it runs from beginning to end.
    #[must_use]
    pub const fn restarted_by(self) -> Option<Side> {
        match self {
            Self::Command => Some(Side::Client),
            Self::Reply | Self::FinalReply => Some(Side::Server),
            _ => None,
        }
    }
}
