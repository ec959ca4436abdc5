//! What this machine has: interfaces, firewall and routing rules, processes, accounts and units. All of it is read, and nothing is
//! changed. `doctor` judges it, and `setup` says what would fit it.

pub(super) mod accounts;
pub(super) mod interfaces;
pub(super) mod lines;
pub(super) mod processes;
pub(super) mod programs;
pub(super) mod routing;
pub(super) mod ruleset;
pub(super) mod units;
pub(super) mod walk;
