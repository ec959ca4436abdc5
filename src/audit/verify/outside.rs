//! What others said of checkpoints, as the log has it: time-stamps, cosignatures, and times without any.

use super::{
    Expectations,
    checkpoints::KnownCheckpoint,
    damage::{Misfit, edited, rewritten},
    unvouched::{AskedVoucher, UnvouchedTimes},
    verifier::{Verifier, fields},
};
use crate::audit::{
    Hash,
    chain::{Header, timestamp},
    checkpoint::{SignedNote, unbase64},
    witness::time_of_cosignature,
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
    /// Signatures of witnesses on checkpoints that are here.
    pub(crate) cosignatures: u64,
    /// Those of them that a given key has made.
    pub(crate) checked: u64,
    /// Checkpoints that as many witnesses have signed as the given policy asks for.
    pub(crate) witnessed: u64,
    /// The newest of those that are proved: by a time-stamp, or by enough witnesses. Where none is, of all.
    pub(crate) newest: Option<OutsideAnchor>,
    /// Whether that one is proved.
    pub(crate) is_proved: bool,
    /// Times during which nobody could be had who vouches.
    pub(crate) unvouched: UnvouchedTimes,
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

impl OutsideAnchors {
    fn found(&mut self, is_proved: bool, anchor: OutsideAnchor) {
        let was_proved = self.is_proved;
        let is_newer = |newest: &OutsideAnchor| newest.at <= anchor.at;
        if (is_proved && !was_proved)
            || (is_proved == was_proved && self.newest.as_ref().is_none_or(is_newer))
        {
            self.newest = Some(anchor);
        }
        self.is_proved |= is_proved;
    }
}

#[derive(Deserialize)]
struct StampFields {
    size: u64,
    time: String,
    tsa: String,
    token: String,
}

#[derive(Deserialize)]
struct CosignedFields {
    size: u64,
    time: String,
    line: String,
}

impl CosignedFields {
    /// The name of the witness.
    fn witness(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// The fields of `not-anchored`. All must be there but `witness`, which older builds did not write.
#[derive(Deserialize)]
struct NotAnchoredFields {
    wanted: String,
    #[serde(default)]
    witness: Option<String>,
    #[serde(rename = "size")]
    _size: u64,
    #[serde(rename = "error")]
    _error: String,
}

/// What a `stamp` or `cosigned` record says of a checkpoint with that text and size, if it is proved.
///
/// # Errors
/// What it does not prove, and why.
pub(crate) fn judged(
    line: &[u8],
    text: &str,
    size: u64,
    expected: &Expectations,
) -> Result<OutsideAnchor, String> {
    let no_record = || String::from("it cannot be read");
    if let Ok(fields) = serde_json::from_slice::<StampFields>(line) {
        let token = unbase64(&fields.token).ok_or_else(no_record)?;
        let read = expected.read_stamp.ok_or_else(no_record)?;
        let facts = read(&token, &expected.stampers).ok_or_else(no_record)?;
        if facts.imprint != Hash::of(text.as_bytes()) {
            return Err(format!("a time-stamp of {} for something else", fields.tsa));
        }
        let by = facts
            .proved
            .map_err(|why| format!("a time-stamp of {}, which is not proved: {why}", fields.tsa))?;
        let at = facts.at;
        return Ok(OutsideAnchor { size, at, by });
    }
    let fields: CosignedFields = serde_json::from_slice(line).map_err(|_| no_record())?;
    let name = fields.witness();
    let witnesses = expected
        .witnesses
        .iter()
        .flat_map(|policy| &policy.witnesses);
    let key = witnesses
        .map(|witness| &witness.key)
        .find(|key| key.is_of(&fields.line));
    let key =
        key.ok_or_else(|| format!("a signature of {name}, whose key was not given (--witness)"))?;
    match key.cosigned(text, &fields.line) {
        Some(cosignature) => Ok(OutsideAnchor {
            size,
            at: cosignature.at,
            by: format!("the witness {name}"),
        }),
        None => Err(format!("a signature of {name} for something else")),
    }
}

impl Verifier<'_> {
    /// `stamp`, `cosigned` and `not-anchored`.
    pub(super) fn said_by_others(
        &mut self,
        line: &[u8],
        header: &Header<'_>,
    ) -> Result<(), Misfit> {
        let at = String::from_utf8_lossy(header.at);
        match header.event {
            b"stamp" => {
                self.stamp(fields(line)?, header.seq)?;
                let unvouched = &mut self.result.outside.unvouched;
                unvouched.end(&AskedVoucher::Authority, &at);
            }
            b"cosigned" => {
                let fields: CosignedFields = fields(line)?;
                let witness = AskedVoucher::Witness(Some(fields.witness().to_owned()));
                self.cosigned(fields, header.seq)?;
                self.result.outside.unvouched.end(&witness, &at);
            }
            _ => {
                let fields: NotAnchoredFields = fields(line)?;
                let asked = match fields.wanted.as_str() {
                    "stamp" => AskedVoucher::Authority,
                    _ => AskedVoucher::Witness(fields.witness),
                };
                self.result.outside.unvouched.begin(asked, &at);
            }
        }
        Ok(())
    }

    fn stamp(&mut self, fields: StampFields, number: u64) -> Result<(), Misfit> {
        let unreadable = || edited("this time-stamp cannot be read");
        let token = unbase64(&fields.token).ok_or_else(unreadable)?;
        let named = self.checkpoints.named(fields.size, number)?;
        let Some(read) = self.expected.read_stamp else {
            return Ok(());
        };
        let facts = read(&token, &self.expected.stampers).ok_or_else(unreadable)?;
        if timestamp(facts.at) != fields.time {
            return Err(edited(
                "this time-stamp is of another time than its record says",
            ));
        }
        // The checkpoint may stand in a file that was knowingly left out, or that was cut off.
        let Some(named) = named else {
            return Ok(());
        };
        if facts.imprint != named.digest {
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
        let anchor = OutsideAnchor {
            size: fields.size,
            at: facts.at,
            by: fields.tsa,
        };
        outside.found(is_proved, anchor);
        Ok(())
    }

    fn cosigned(&mut self, fields: CosignedFields, number: u64) -> Result<(), Misfit> {
        let at = time_of_cosignature(&fields.line);
        let at = at.ok_or_else(|| edited("this is no signature of a witness"))?;
        if timestamp(at) != fields.time {
            return Err(edited(
                "the witness signed at another time than the record says",
            ));
        }
        let named = self.checkpoints.named(fields.size, number)?;
        let Some((digest, text)) = named.map(|named| self.text_of(fields.size, named)) else {
            return Ok(());
        };
        self.result.outside.cosignatures += 1;
        let name = fields.witness().to_owned();
        let witnesses = self.expected.witnesses.as_ref();
        let place = witnesses.and_then(|policy| {
            let mut keys = policy.witnesses.iter().map(|witness| &witness.key);
            keys.position(|key| key.is_of(&fields.line))
        });
        let (Some(policy), Some(place)) = (witnesses, place) else {
            return Ok(());
        };
        let key = &policy.witnesses[place].key;
        let Some(cosignature) = key.cosigned(&text, &fields.line) else {
            return Err(rewritten(format!(
                "this signature of the witness {name} is of something else than the checkpoint of {} records: what it was given for was written anew",
                fields.size
            )));
        };
        self.result.outside.checked += 1;
        let signed = self.cosigners.entry(digest).or_default();
        let was_met = policy.is_met(&|place| signed.contains(&place));
        signed.insert(place);
        let is_met = policy.is_met(&|place| signed.contains(&place));
        self.result.outside.witnessed += u64::from(is_met && !was_met);
        let anchor = OutsideAnchor {
            size: fields.size,
            at: cosignature.at,
            by: name,
        };
        self.result.outside.found(is_met, anchor);
        Ok(())
    }

    /// The text of that checkpoint, and its digest.
    fn text_of(&self, size: u64, checkpoint: &KnownCheckpoint) -> (Hash, String) {
        // A log that was renamed meanwhile had another name in it.
        let former = self.result.renamed.get(checkpoint.renamed);
        let origin = former.map(|(_, name)| name.as_str());
        let origin = origin.or(self.result.origin.as_deref()).unwrap_or_default();
        let text = SignedNote::text(origin, size, checkpoint.root);
        (checkpoint.digest, text)
    }
}
