//! Compares the log with what was kept elsewhere: anchors, and the end that is remembered beside it.

use super::{
    anchor::LogAnchor,
    damage::{Damage, Misfit, rewritten},
    due::HybridDue,
    verifier::Verifier,
};
use crate::audit::{checkpoint::SignedNote, known::KnownEnd, tree::RecordTree};

impl Verifier<'_> {
    /// Called before the next record is accepted: an anchor of the chain's present size must name its present hash and root.
    pub(super) fn agrees_with_anchors(&mut self) -> Result<(), Misfit> {
        let head = self.result.head;
        let reached = self
            .anchors
            .partition_point(|anchor| anchor.size <= head.size);
        for anchor in self.anchors.drain(..reached) {
            let root = self.tree.as_ref().map(RecordTree::root);
            let agrees = anchor.hash.is_none_or(|hash| hash == head.hash)
                && anchor.root.is_none_or(|known| Some(known) == root);
            if anchor.size < head.size {
                continue;
            }
            if agrees {
                self.result.anchored += 1;
                self.agreed = head.size;
                self.vouched = self.vouched.max(head.size);
            } else if anchor.is_of(self.result.origin.as_deref()) {
                // Signatures behind the last anchor that agreed count for nothing now.
                self.vouched = self.agreed;
                let was = anchor.hash.filter(|hash| *hash != head.hash);
                let (what, was, is) = match was {
                    Some(was) => ("head", was, head.hash),
                    None => (
                        "root",
                        anchor.root.unwrap_or_default(),
                        root.unwrap_or_default(),
                    ),
                };
                return Err(rewritten(format!(
                    "when it had {} records the log's {what} was {was}, now it is {is}: it was written anew, or replaced",
                    head.size
                )));
            }
        }
        Ok(())
    }

    /// Called at the end: what is remembered beside the log must have been so.
    fn agrees_with_known(&self) -> Result<(), Misfit> {
        let Some(KnownEnd { head: known, .. }) = &self.known else {
            return Ok(());
        };
        let head = self.result.head;
        if known.size > head.size {
            let text = format!(
                "the file that ends in .lock knows {} records, here are {}: the end was cut off, an older copy was put in place, or both were copied while the log was written",
                known.size, head.size
            );
            return Err(Misfit::Damaged(Damage::Cut, text));
        }
        let there = match known.size == head.size {
            true => Some(head.hash),
            false => self.at_known,
        };
        match there.filter(|there| *there != known.hash) {
            Some(there) => Err(rewritten(format!(
                "when it had {} records the log's head was {}, as the file that ends in .lock says, now it is {there}: it was written \
                 anew, or replaced",
                known.size, known.hash
            ))),
            None => Ok(()),
        }
    }

    /// Called for a checkpoint that was written at the time `at`, if the key was given: its ML-DSA signature must be good, if it has one,
    /// and one that is due and not there is counted.
    pub(super) fn judge_hybrid(&mut self, note: &SignedNote<'_>, at: &[u8]) -> Result<(), Misfit> {
        let keys = self.expected.hybrid_keys.iter();
        let judged: Vec<bool> = keys.filter_map(|key| key.has_signed(note)).collect();
        if judged.contains(&true) {
            self.result.hybrid = (self.result.hybrid.0 + 1, note.size);
            self.hybrid_due = HybridDue::Since(at.to_vec());
        } else if !judged.is_empty() {
            let text = "this checkpoint's ML-DSA signature is wrong, or of another key";
            return Err(rewritten(text.to_owned()));
        } else if !self.expected.hybrid_keys.is_empty() && self.hybrid_due.is_due(at) {
            self.result.hybrid_missing += 1;
            self.hybrid_due = HybridDue::Since(at.to_vec());
        }
        Ok(())
    }

    /// Called at the end of the last file.
    pub(super) fn end(&mut self) -> Result<(), Misfit> {
        if self.before.is_none() {
            let text = format!(
                "no record is there; the first must be {}",
                self.expected.from
            );
            return Err(Misfit::Damaged(Damage::Missing, text));
        }
        self.agrees_with_anchors()?;
        self.agrees_with_known()?;
        let origin = self.result.origin.as_deref();
        let former = self.result.renamed.iter();
        let names: Vec<_> = former
            .map(|(_, name)| Some(&**name))
            .chain([origin])
            .collect();
        self.epochs.end(&names)?;
        if self.result.hybrid.0 == 0 && !self.expected.hybrid_keys.is_empty() {
            let text = "no checkpoint has a signature of the ML-DSA key that was given";
            return Err(Misfit::Damaged(Damage::Unsigned, text.into()));
        }
        let is_of = |anchor: &LogAnchor| names.iter().any(|name| anchor.is_of(*name));
        let ours = |anchor: &&LogAnchor| is_of(anchor) && anchor.size >= self.expected.from;
        self.result.anchors = self.expected.anchors.iter().filter(ours).count();
        if self.result.anchors == 0 && !self.expected.anchors.is_empty() {
            return Err(rewritten(format!(
                "no anchor is of this log, {}",
                origin.unwrap_or("which has no name")
            )));
        }
        if self.result.signed == 0
            && !self.expected.keys.is_empty()
            && self.keyless.never_signed().is_none()
        {
            let text = "no checkpoint is signed, although a key was given: the signatures were taken out, or there never were any";
            return Err(Misfit::Damaged(Damage::Unsigned, text.into()));
        }
        let Some(most) = self.anchors.iter().rev().find(|anchor| is_of(anchor)) else {
            return Ok(());
        };
        let text = format!(
            "an anchor knows {} records, here are {}: the end was cut off, or an older copy was put in place",
            most.size, self.result.head.size
        );
        Err(Misfit::Damaged(Damage::Cut, text))
    }
}
