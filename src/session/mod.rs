//! One session, told top to bottom.
pub mod drive;
pub mod leg;
pub mod memory;
