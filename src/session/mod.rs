//! One session, told from its beginning to its end.
//!
//! [`serve`](crate::serve) lets a connection in and calls [`outbound::run`] or [`inbound::run`]. These make a machine
//! ([`smtp`](crate::smtp)) and a session that carries out the machine's actions in this direction. [`drive::drive`] moves octets
//! between two [`leg`]s and the machine until both connections are closed.
//!
//! A session is one task, and owns all that it knows. An action that takes time is a job: it owns all that it needs, and its result
//! comes back to the session ([`drive::ActionHandler::finish`]). Sessions share the [`setup`] only: flags and files, and behind locks
//! the faults of hosts (`memory`), the places for `handshakes`, the `networks` that tried TLS and the [`budget`] of
//! strangers.
//!
//! What happens in a session is one of the [`facts`]. Its `journal` counts, logs and records them.
//!
//! `check` rehearses a session: the same machine and session, stopped where mail would go out ([`rehearsal`]).
//!
//! The proofs that let a machine go on are made here and nowhere else: [`Authorised`](crate::smtp::Authorised) and
//! [`Exempted`](crate::smtp::Exempted) in `permits`, for a decision that is written down; [`Recorded`](crate::smtp::Recorded) in
//! `journal`, when the record is on disk.

pub(crate) mod asking;
pub mod budget;
pub mod clients;
mod connecting;
pub mod credentials;
pub mod drive;
pub mod facts;
mod fading;
pub(crate) mod fields;
pub(crate) mod handshakes;
mod identity;
pub mod inbound;
pub mod job;
pub(crate) mod journal;
pub mod leg;
pub(crate) mod memory;
pub(crate) mod networks;
pub mod outbound;
mod permits;
pub(crate) mod records;
mod refusals;
pub mod rehearsal;
mod repeats;
pub mod setup;
#[cfg(test)]
mod test_log;
mod tlsrpt;
mod trace;
mod transaction;
pub(crate) mod write_budget;

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
