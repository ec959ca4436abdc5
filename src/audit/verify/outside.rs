//! What others said of checkpoints, as the log has it: time-stamps, and times without any.

use super::{
    damage::{Misfit, edited, rewritten},
    verifier::Verifier,
};
use crate::audit::{
    Hash,
    chain::{Header, timestamp},
    checkpoint::unbase64,
};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// What a token says, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StampFacts {
    /// SHA-256 of the text that was stamped.
    pub(crate) imprint: Hash,
    /// When.
    pub(crate) at: SystemTime,
    /// Who stamped it, if that is proved; else why not.
    pub(crate) proved: Result<String, String>,
}

/// Reads a token (DER), and tries to prove it by these certificate authorities (DER). `None`: it is no token, or not signed by the
/// certificate that it brings.
pub(crate) type ReadStamp = fn(&[u8], &[Vec<u8>]) -> Option<StampFacts>;

/// What others said of the log's checkpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutsideAnchors {
    /// Time-stamps of checkpoints that are here.
    pub(crate) stamps: u64,
    /// Those of them whose time is proved.
    pub(crate) proved: u64,
    /// Why the last one that is not is not.
    pub(crate) unproved: Option<String>,
    /// The newest of those that are proved; where none is, of all.
    pub(crate) newest: Option<OutsideAnchor>,
    /// Times during which nobody could be had who vouches.
    pub(crate) outages: u64,
}

/// One checkpoint for which somebody else vouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutsideAnchor {
    /// The number of records before the checkpoint.
    pub(crate) size: u64,
    /// When, as the other one says.
    pub(crate) at: SystemTime,
    /// Whom the log names.
    pub(crate) by: String,
}

impl OutsideAnchors {
    /// How long before the last record the newest anchor is, by its own time.
    pub(crate) fn age(&self, last: &str) -> Option<Duration> {
        let last: jiff::Timestamp = last.parse().ok()?;
        let age = SystemTime::from(last).duration_since(self.newest.as_ref()?.at);
        Some(age.unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct StampFields {
    size: u64,
    time: String,
    tsa: String,
    token: String,
}

impl Verifier<'_> {
    /// `stamp` and `not-anchored`.
    pub(super) fn said_by_others(
        &mut self,
        line: &[u8],
        header: &Header<'_>,
    ) -> Result<(), Misfit> {
        if header.event == b"not-anchored" {
            self.result.outside.outages += 1;
            return Ok(());
        }
        let Some(read) = self.expected.read_stamp else {
            return Ok(());
        };
        let fields: StampFields = serde_json::from_slice(line)
            .map_err(|error| edited(format!("this is no record: {error}")))?;
        // The checkpoint may stand in a file that was knowingly left out, or that was cut off.
        let Some(text) = self.texts.get(&fields.size) else {
            return Ok(());
        };
        let facts = unbase64(&fields.token).and_then(|token| read(&token, &self.expected.stampers));
        let facts = facts.ok_or_else(|| edited("this time-stamp cannot be read"))?;
        if facts.imprint != *text || timestamp(facts.at) != fields.time {
            return Err(rewritten(format!(
                "this time-stamp is of something else than the checkpoint of {} records: what it was given for was written anew",
                fields.size
            )));
        }
        let outside = &mut self.result.outside;
        outside.stamps += 1;
        let is_proved = facts.proved.is_ok();
        match facts.proved {
            Ok(_) => outside.proved += 1,
            Err(why) => outside.unproved = Some(why),
        }
        if is_proved || outside.proved == 0 {
            outside.newest = Some(OutsideAnchor {
                size: fields.size,
                at: facts.at,
                by: fields.tsa,
            });
        }
        Ok(())
    }
}
