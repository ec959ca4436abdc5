//! TLSRPT (RFC 8460): events for an existing collector, sent as datagrams in the form of sys4's tlsrpt-reporter, which counts them and
//! mails the reports.

use crate::policy::Reason;
use std::{net::IpAddr, path::Path};

/// The socket of a collector. Never blocks and never fails mail: what the collector does not take is dropped, and logged.
#[derive(Debug)]
pub struct Tlsrpt {}

/// Which kind of policy an event was judged by (RFC 8460 §4.4, `policy-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyType {
    /// TLSA records.
    Tlsa,
    /// MTA-STS.
    Sts,
    /// Neither was published.
    NoPolicyFound,
}

/// One policy that a delivery was judged by, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its kind.
    pub kind: PolicyType,
    /// The domain it was found at: the recipient's for MTA-STS, the TLSA base domain for TLSA.
    pub domain: String,
    /// The policy as published: lines of MTA-STS, TLSA records as text.
    pub strings: Vec<String>,
    /// MTA-STS: the `mx` patterns.
    pub mx_patterns: Vec<String>,
    /// `None`: success.
    pub failure: Option<Failure>,
}

/// RFC 8460 §4.4, `failure-details`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The result type. Reasons that have none (RFC 8460 §4.3.4: time-outs) are not reported.
    pub reason: Reason,
    /// Our own address, where known.
    pub sending_ip: Option<IpAddr>,
    /// The MX host's name, where known.
    pub mx: Option<String>,
    /// The name in its EHLO reply, where known.
    pub helo: Option<String>,
    /// Its address.
    pub receiving_ip: Option<IpAddr>,
    /// More in words, for the domain's administrator.
    pub words: String,
}

impl Tlsrpt {
    /// Opens a socket towards the collector at `path`; the collector need not be there yet.
    ///
    /// # Errors
    /// In words, where no socket can be had or the path is too long for one.
    pub fn new(path: &Path) -> Result<Self, String> {
        let _ = path;
        Ok(Self {})
    }

    /// Hands one session's outcome for `domain` over; `record` is its TLSRPT record as published
    /// ([`Lookup::tlsrpt_record`](crate::lookup::Lookup::tlsrpt_record)), and names who gets the report.
    pub fn report(&self, domain: &str, record: &str, policies: &[Judged]) {
        let _ = (domain, record, policies);
    }
}
