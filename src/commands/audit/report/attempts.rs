//! Attempts that were refused, or would have been, by reason.

use super::tally::{Tally, add, begin_at, entry, go_on_to, kept_apart};
use serde::Serialize;
use std::collections::BTreeMap;

/// The numbers of one reason for refusals.
#[derive(Default, Serialize)]
pub(super) struct ReasonCounts {
    pub(super) number: u64,
    /// The part of these attempts that was refused at the greeting because another session had been refused for the same reason.
    pub(super) remembered: u64,
    /// In observe mode: messages that were handed over nevertheless.
    pub(super) messages: u64,
    pub(super) domains: Tally,
    pub(super) first: String,
    pub(super) last: String,
    /// The last reply, as an example.
    pub(super) reply: String,
    /// When that was.
    #[serde(skip)]
    replied: String,
    /// What was done, by [`what_was_done`].
    pub(super) done: Tally,
}

/// Attempts that were refused; in observe mode, that enforcing would have refused.
pub(super) struct Attempts<'a> {
    pub(super) number: u64,
    pub(super) reason: &'a str,
    pub(super) domain: Option<&'a str>,
    pub(super) remembered: bool,
    /// The reply, or what went wrong.
    pub(super) words: &'a str,
    /// What was done, by [`what_was_done`].
    pub(super) done: &'static str,
}

/// What a refusal meant to the client, by its reply.
pub(super) fn what_was_done(reply: Option<&str>) -> &'static str {
    match reply.map(str::as_bytes) {
        Some([b'4', b'2', b'1', ..]) => "put off, connection closed",
        Some([b'4', ..]) => "put off",
        Some(_) => "refused for good",
        None => "connection ended without a reply",
    }
}

pub(super) fn add_attempts(
    reasons: &mut BTreeMap<String, ReasonCounts>,
    at: &str,
    attempts: &Attempts<'_>,
) {
    let reason = entry(reasons, attempts.reason);
    reason.number += attempts.number;
    reason.remembered += u64::from(attempts.remembered);
    begin_at(&mut reason.first, at);
    go_on_to(&mut reason.last, at);
    if !attempts.words.is_empty() && go_on_to(&mut reason.replied, at) {
        attempts.words.clone_into(&mut reason.reply);
    }
    add(&mut reason.done, attempts.done, attempts.number);
    if let Some(domain) = attempts.domain {
        let domain = kept_apart(&reason.domains, domain);
        add(&mut reason.domains, domain, attempts.number);
    }
}
