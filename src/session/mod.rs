//! One session, told top to bottom.
//!
//! [`serve`](crate::serve) lets a connection in and calls [`outbound::run`] or [`inbound::run`]. That makes a machine
//! ([`smtp`](crate::smtp)), the hands that know what its actions mean in this direction, and hands both to [`drive::drive`], which
//! moves bytes between two [`leg`]s and the machine until it is finished.
//!
//! What a session knows stands in one place: what all share in its [`site`], which hosts have failed of late in [`memory`],
//! what it leaves behind in its [`evidence`], which tells [`facts`]: each makes log line, counter and record of one thing that happened.
//!
//! What `check` shows is a session, too: a [`rehearsal`] that is stopped where its mail would go out.
//!
//! A session is one task. Its hands own all that it knows; what takes time is a job that owns what it needs, and what a job learned
//! is written down when it comes back ([`drive::ActionHandler::done`]).
//!
//! The tokens that let a machine forward, exempt and acknowledge are made here and nowhere else:
//! [`Authorised`](crate::smtp::Authorised) and [`Exempted`](crate::smtp::Exempted) behind a verdict that was written down,
//! [`Recorded`](crate::smtp::Recorded) behind the disk.

pub mod budget;
pub mod drive;
pub mod evidence;
pub mod facts;
mod fading;
pub mod handshakes;
pub mod inbound;
#[cfg(test)]
mod kept;
pub mod leg;
pub mod memory;
pub mod networks;
pub mod outbound;
pub mod records;
pub mod rehearsal;
mod repeats;
pub mod setup;
pub mod tlsrpt;
pub mod write_budget;

use crate::net::{ClientAddr, IntendedAddr, ServerAddr};

/// A connection for which a session is to begin.
pub struct Arrival {
    /// Who connected, or who connected to the listed load balancer in front of us.
    pub client: ClientAddr,
    /// Where the client meant to go: the server behind an intercepted connection, otherwise the address it connected to.
    pub intended: IntendedAddr,
    /// The server to connect to. `None` with `--upstream`, whose host is looked up when it is connected to.
    pub server: Option<ServerAddr>,
    /// Octets that were already read behind a PROXY header.
    pub first: Vec<u8>,
}
