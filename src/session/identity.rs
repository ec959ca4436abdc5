//! Whose session it is: what stands in front of each log line of a session, and in each of its records.

use std::{fmt, net::SocketAddr};

use crate::{
    audit::{ConnectionField, DirectionField, SessionField, WireText},
    net::ClientAddr,
};

/// What names a session in log and records: twelve hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionId(u64);

impl SessionId {
    fn random() -> Self {
        let mut octets = [0; 8];
        // Without randomness the identifier is not unique. Only readers of the log depend on it.
        let _ = aws_lc_rs::rand::fill(&mut octets[2..]);
        Self(u64::from_be_bytes(octets))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// A session with its two ends, as far as they are known.
pub(super) struct SessionIdentity {
    pub(super) id: SessionId,
    pub(super) direction: DirectionField,
    pub(super) client: ClientAddr,
    /// Where the client meant to go; with `--upstream`, the address it connected to.
    intended: SocketAddr,
    pub(super) server: Option<ConnectionField>,
    /// The client's name in EHLO or HELO.
    pub(super) hello: Option<Vec<u8>>,
    /// As whom the proxy logged in to the server.
    pub(super) user: Option<Box<str>>,
}

impl SessionIdentity {
    /// A session that begins.
    pub(super) fn new(direction: DirectionField, client: ClientAddr, intended: SocketAddr) -> Self {
        Self {
            id: SessionId::random(),
            direction,
            client,
            intended,
            server: None,
            hello: None,
            user: None,
        }
    }

    pub(super) fn is_inbound(&self) -> bool {
        self.direction == DirectionField::Inbound
    }

    /// `out` or `in`.
    pub(super) fn word(&self) -> &'static str {
        match self.direction {
            DirectionField::Outbound => "out",
            DirectionField::Inbound => "in",
        }
    }

    /// The session, in its records.
    pub(super) fn field(&self) -> SessionField {
        SessionField {
            id: self.id.to_string(),
            direction: self.direction,
            client: ConnectionField {
                from: self.client.0,
                to: self.intended,
            },
            server: self.server,
            hello: self.hello.as_deref().map(WireText::escape),
        }
    }
}

/// The beginning of its log lines.
impl fmt::Display for SessionIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.server.map_or(self.intended, |server| server.to);
        let (word, id, client) = (self.word(), self.id, self.client);
        write!(f, "{word} s={id} client={client} to={to}")
    }
}
