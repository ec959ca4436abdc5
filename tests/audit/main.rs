//! The audit log from outside. An acknowledged record is on disk, whatever happens to the disk, the process or the file; and any
//! change to the file is found.

mod attacks;
#[path = "../support/browser.rs"]
mod browser;
mod compressed;
mod crash;
mod cut;
mod damage;
mod faults;
mod files;
mod forged;
mod golden;
mod independent;
mod inventory;
mod keys;
mod larger;
mod later_key;
mod library;
mod meanwhile;
mod measure;
mod moved;
mod nodes;
mod page;
mod proof;
mod regimes;
mod renamed;
mod support;
mod theft;
mod write;
