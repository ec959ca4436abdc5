//! The machine of the design's §3.
