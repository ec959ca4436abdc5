//! Who may receive mail for a domain? Two pure questions: [`require`] (what must the server prove) and [`judge`] (has it done so).
//!
//! `lookup` gathers [`Findings`]; this module only reads them. One object, [`Decision`], carries the answer: `check`, the log, the
//! reply and the record all show that same object.
//!
//! Imports go one way: [`table`], `require`, `judge`, `refusal` and `decision` stand on the plain data in `reason`, `level`,
//! `settings`, `ask`, `names`, `findings` and `demand`.

mod ask;
pub(crate) mod dane;
mod decision;
mod demand;
mod findings;
mod judge;
mod level;
pub mod mta_sts;
mod names;
mod prefix;
mod reason;
mod refusal;
mod require;
mod settings;
pub mod table;
mod validity;

pub use ask::{Ask, NextHop};
pub use decision::Decision;
pub use demand::{Basis, Demand, ReferenceIdentity};
pub use findings::{Dns, Findings, Missing, Mx, MxHost, Needs, Security, Sts, Tlsa};
pub(crate) use judge::testing_failure;
pub use judge::{Shown, Verdict, judge};
pub use level::Level;
pub use names::NamePattern;
pub use prefix::Prefix;
pub use reason::{Denial, Reason, Scope};
pub use refusal::Moment;
pub(crate) use refusal::{LONGEST_TEXT, one_line, refuse_client};
pub(crate) use require::require_client;
pub use require::{needs, require};
pub use settings::{RefuseWith, Settings};
pub use validity::Validity;
