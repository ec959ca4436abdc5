//! The SMTP protocol as two pure machines: bytes in, decisions out, no I/O and no clock.
//!
//! # How to drive a machine
//!
//! [`Outbound`] and [`Inbound`] are driven alike, through the trait [`Machine`]:
//!
//! 1. Give the machine one input: [`Machine::receive`] with all bytes of one side that it has not taken yet, or
//!    [`Machine::handle`].
//! 2. Call [`Machine::next_action`] until it returns `None`, and carry out each action in order.
//! 3. Wait for bytes, a close, an answer, or the time of [`Machine::deadline`] (then call `handle(Input::Deadline, now)`).
//!
//! After [`Action::Close`] the machine takes nothing more from that side and sends nothing to it. Closing the side again
//! changes nothing; [`Action::Connect`] opens the server's side anew. Each [`Action::Authorise`] and each
//! [`Action::Record`] gets exactly one answer.
//!
//! `now` is the time since the session began. The driver keeps the bytes that the machine does not take, and offers them
//! again together with newer bytes after any other input. It stops reading a side when that side's untaken bytes reach
//! [`MAX_UNTAKEN`]. It also stops reading a side while its output to the other side is backed up; if that side is the
//! client, it tells the machine ([`Machine::set_held_back`]).
//!
//! A machine never owns message bytes: [`Action::Pass`] moves bytes of the slice just offered from one side to the other
//! unchanged. So the type shows that messages are relayed verbatim.
//!
//! # The files
//!
//! Each file uses only files above it in this list. `inbound.rs` and `outbound.rs` open the link to the server; `setup.rs`
//! drives both; `relay` does what both have in common once commands can go through.

mod domain;

mod refusal;

mod proof;

mod scanner;

mod framing;

mod reply;

mod extensions;

mod path;

mod login;

pub(crate) mod asking;
mod command;

mod machine;

mod heard;

mod timer;

mod relay;

mod setup;

mod inbound;
mod outbound;

#[cfg(test)]
mod script;

pub(crate) use command::fits_a_trace;
pub use domain::Domain;
pub use extensions::Keyword;
pub use inbound::{Inbound, InboundConfig};
pub use login::{Login, LoginMeans, Secret};
pub use machine::{
    Action, Answer, Completed, End, Input, MAX_UNTAKEN, Machine, Note, Question, Side, Stage,
    StartTlsConditions,
};
pub use outbound::{Outbound, OutboundConfig};
pub use path::{ForwardPath, ForwardPaths, Recipient};
pub use proof::{Authorised, Exempted, Recorded};
pub use refusal::{Cause, Refusal};
pub use reply::{Reply, ReplyPart, ReplyReader};
