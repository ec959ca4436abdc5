//! One session, told top to bottom.
//!
//! [`serve`](crate::serve) lets a connection in and calls [`outbound::run`] or [`inbound::run`]. That makes a machine
//! ([`smtp`](crate::smtp)), the hands that know what its actions mean in this direction, and hands both to [`drive::drive`], which
//! moves bytes between two [`leg`]s and the machine until it is finished.
//!
//! What a session knows stands in one place: what all share in its [`site`], which hosts have failed of late in [`memory`],
//! what it leaves behind in its [`evidence`], which writes log line, counter and record of the same fact together.
//!
//! The tokens that let a machine forward, exempt and acknowledge are made here and nowhere else:
//! [`Authorised`](crate::smtp::Authorised) and [`Exempted`](crate::smtp::Exempted) behind a verdict that was written down,
//! [`Recorded`](crate::smtp::Recorded) behind the disk.

pub mod drive;
pub mod evidence;
mod fading;
pub mod inbound;
pub mod leg;
pub mod memory;
pub mod networks;
pub mod outbound;
pub mod records;
pub mod rehearsal;
pub mod site;
pub mod tlsrpt;
