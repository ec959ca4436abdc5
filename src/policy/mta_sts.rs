//! MTA-STS policies (RFC 8461 §3).

/// A policy as published.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Policy {
    /// What failing it means.
    pub mode: Mode,
    /// `mx` patterns, in lower case.
    pub mx: Vec<String>,
    /// Seconds, at most 31,557,600 (RFC 8461 §3.2).
    pub max_age: u64,
}

/// RFC 8461 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Do not deliver.
    Enforce,
    /// Deliver and report.
    Testing,
    /// As if there were no policy.
    None,
}
