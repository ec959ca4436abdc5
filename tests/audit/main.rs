//! The audit log from outside: what is acknowledged is on disk, whatever happens to the disk, the process or the file, and
//! whatever is done to the file is found.

mod crash;
mod damage;
mod faults;
mod independent;
mod measure;
mod moved;
mod page;
mod renamed;
mod support;
mod write;
