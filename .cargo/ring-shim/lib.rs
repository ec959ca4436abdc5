//! ring 0.17's API is the one that aws-lc-rs was made to mirror.
pub use aws_lc_rs::*;
