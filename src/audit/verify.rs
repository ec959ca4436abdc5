//! Finds out whether a log is still what was written.
//!
//! One pass over the files, bounded by the disk and SHA-256. A thread of its own reads ahead and looks at the form of each line. Of most
//! lines only the header is read then, from its fixed place. The other fields are read only in checkpoints and in the records about the
//! log itself.
//!
//! Two things the chain alone cannot show: that its end was cut off, and that an older copy of the whole log was put in its
//! place. An [`LogAnchor`] shows both. It is a head that was kept where nobody who can write the log can write.

mod agreement;
mod ahead;
mod anchor;
mod checkpoints;
mod completeness;
mod damage;
mod due;
mod fields;
mod form;
mod gaps;
mod keyless;
mod lines;
mod listed;
mod listing;
mod logs;
mod outside;
mod passing;
mod recent;
mod starts;
mod unvouched;
mod verifier;

pub(crate) use anchor::LogAnchor;
pub(crate) use completeness::Completeness;
pub use damage::{Damage, Finding};
pub(crate) use keyless::KeylessBeginning;
pub(crate) use lines::{LogLine, LogLines, LogOrder, first_time};
pub(crate) use listed::{ListedFile, changed};
pub(crate) use listing::{Doubt, LogListing, read_at_rest};
pub(crate) use logs::{MergedLines, logs};
pub(crate) use outside::{OutsideAnchor, OutsideAnchors, ReadStamp, StampFacts, judged};
pub(crate) use passing::verify_and_read;
pub(crate) use starts::tree_start;
pub(crate) use unvouched::{AskedVoucher, UnvouchedTime};

use super::{
    PublicKey, WitnessPolicy,
    chain::Head,
    hybrid::HybridPublic,
    kept::{EpochsFound, KeptKey},
    tree::RecordTree,
};
use damage::Misfit;
use std::{collections::BTreeSet, io, mem, path::PathBuf};
use verifier::Verifier;

/// Octets between two reports of progress.
const PROGRESS_STEP: u64 = 1 << 20;

/// What the log is compared with, besides itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expectations {
    /// Number of the first record that must be there; 0 unless older files are knowingly left out.
    pub(crate) from: u64,
    /// Public keys, one of which must have signed each checkpoint. Without any, the key that the log itself names is used. That
    /// shows only that the log agrees with itself.
    pub(crate) keys: Vec<PublicKey>,
    /// Heads that were kept elsewhere.
    pub(crate) anchors: Vec<LogAnchor>,
    /// Public keys of ML-DSA signatures.
    pub(crate) hybrid_keys: Vec<HybridPublic>,
    /// Epoch keys that were kept elsewhere.
    pub(crate) kept_keys: Vec<KeptKey>,
    /// Reads time-stamps; without it they are passed over.
    pub(crate) read_stamp: Option<ReadStamp>,
    /// Certificate authorities (DER) that are believed as to who may stamp.
    pub(crate) stampers: Vec<Vec<u8>>,
    /// The witnesses whose signatures are checked, and how many must have signed.
    pub(crate) witnesses: Option<WitnessPolicy>,
}

/// The result of [`verify`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Verification {
    /// The files that were read, oldest first.
    pub(crate) files: Vec<ListedFile>,
    /// What is to be said about files that were not read.
    pub(crate) remarks: Vec<String>,
    /// Number of the first record.
    pub(crate) from: u64,
    /// The end of the chain, as far as it was followed.
    pub(crate) head: Head,
    /// Records below this number are as they were written, as far as verification can tell.
    pub(crate) good: u64,
    /// Octets of the lines that were read, unpacked where a file is compressed.
    pub(crate) octets: u64,
    /// Time of the first and of the last record.
    pub(crate) span: Option<(String, String)>,
    /// The log's name.
    pub(crate) origin: Option<String>,
    /// The log's earlier names, each with the number of the `log-opened` record that changed it. A log is renamed when its host is.
    pub(crate) renamed: Vec<(u64, String)>,
    /// Number of checkpoints.
    pub(crate) checkpoints: u64,
    /// Number of checkpoints with a good signature.
    pub(crate) signed: u64,
    /// Records below this number are covered by the last good signature, or are its own checkpoint. The time of that one line is vouched
    /// for by the next checkpoint only.
    pub(crate) signed_size: u64,
    /// The note with the last good signature.
    pub(crate) note: Option<String>,
    /// Names of keys whose signatures stand beside those and were not checked.
    pub(crate) other_signatures: BTreeSet<String>,
    /// The beginning of the log, if it was written without a key.
    pub(crate) keyless: Option<KeylessBeginning>,
    /// Keys that signed, each once, in order.
    pub(crate) signers: Vec<PublicKey>,
    /// Number of checkpoints with a good ML-DSA signature, and of records that the last of them covers.
    pub(crate) hybrid: (u64, u64),
    /// Number of ML-DSA signatures that were due and are not there; counted if the key was given.
    pub(crate) hybrid_missing: u64,
    /// The keys that signed one checkpoint each.
    pub(crate) epochs: EpochsFound,
    /// Number of anchors of this log.
    pub(crate) anchors: usize,
    /// Number of anchors that agree.
    pub(crate) anchored: usize,
    /// Octets of a torn last line.
    pub(crate) torn: u64,
    /// Torn lines that were cut off when the log was opened again after a crash.
    pub(crate) crashes: u64,
    /// Times that the disk failed and came back.
    pub(crate) outages: u64,
    /// Records lost in those outages.
    pub(crate) lost: u64,
    /// Times that the file was deleted or replaced while it was written, and brought back.
    pub(crate) brought_back: u64,
    /// The places where the log itself says that records were cut off, and that they are not here.
    pub(crate) cuts: Vec<Finding>,
    /// Records that are missing there.
    pub(crate) cut_off: u64,
    /// Times that the log was elsewhere when the program looked for it, and is here.
    pub(crate) elsewhere: u64,
    /// What others said of checkpoints.
    pub(crate) outside: OutsideAnchors,
    /// What an honest run without faults could not have left.
    pub(crate) completeness: Completeness,
    /// Files of the log changed while it was read, so it was read again.
    pub(crate) reread: bool,
    /// The program had stopped in good order when the last record was written.
    pub(crate) stopped: bool,
    /// The first thing that is not as it was written. Behind a cut of which the log itself says so, it was read on.
    pub(crate) finding: Option<Finding>,
}

impl Verification {
    /// Nothing was found.
    #[must_use]
    pub(crate) fn intact(&self) -> bool {
        self.finding.is_none()
    }

    /// Nothing was found, and an honest run without faults can have left it.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.intact()
            && self.completeness.is_whole()
            && self.hybrid_missing == 0
            && (self.crashes, self.outages, self.lost, self.brought_back) == (0, 0, 0, 0)
    }

    /// Number of good records.
    #[must_use]
    pub(crate) fn records(&self) -> u64 {
        self.good
            .saturating_sub(self.from)
            .saturating_sub(self.cut_off)
    }
}

/// Verifies the log in `files`, which may come in any order. A single file stands for itself and all files that were rotated out of
/// it. `progress` is called with the octets done and the octets in all, both as they are on disk.
///
/// # Errors
/// A file cannot be read. What is wrong with the log itself is [`Verification::finding`]. The kind `ResourceBusy` says that the files
/// changed each time that they were read.
pub(crate) fn verify(
    files: &[PathBuf],
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<Verification> {
    verify_and_pass(files, expected, progress, &mut |_| ())
}

/// The same, and each line that fits goes to `pass`, without its LF. What is found later may be about lines that were passed:
/// only those below [`Verification::good`] count. Where the log was read again ([`Verification::reread`]), nothing is passed that time.
fn verify_and_pass(
    files: &[PathBuf],
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
    pass: &mut dyn FnMut(&[u8]),
) -> io::Result<Verification> {
    let mut is_first = true;
    let mut read = |listing: &LogListing| {
        if mem::take(&mut is_first) {
            return verify_listed(listing, expected, progress, pass);
        }
        let verification = verify_listed(listing, expected, progress, &mut |_| ())?;
        Ok(Verification {
            reread: true,
            ..verification
        })
    };
    read_at_rest(files, &mut read, |verification| {
        let finding = verification.finding.as_ref()?;
        Some(Doubt::of(finding, verification.good))
    })
}

fn verify_listed(
    listing: &LogListing,
    expected: &Expectations,
    progress: &mut dyn FnMut(u64, u64),
    pass: &mut dyn FnMut(&[u8]),
) -> io::Result<Verification> {
    let order = listing.order();
    let mut remarks: Vec<_> = order.remarks().collect();
    let (files, older) = order.behind(expected.from)?;
    if older > 0 {
        let text = format!(
            "{older} file(s) with records before {} were not read, as --from says",
            expected.from
        );
        remarks.push(text);
    }
    let files = files.to_vec();
    let mut verifier = Verifier::new(expected);
    verifier.known = listing.known_end();
    let misfit = verifier.walk(&files, progress, pass)?;
    verifier.result.epochs = verifier.epochs.found().clone();
    let head = verifier.result.head;
    verifier
        .result
        .keyless
        .clone_from(&verifier.keyless.beginning);
    let last_at = String::from_utf8_lossy(&verifier.at).into_owned();
    verifier.result.outside.unvouched.close_all(&last_at);
    if let Some((_, last)) = &mut verifier.result.span {
        *last = last_at;
    }
    verifier.result.completeness = mem::take(&mut verifier.account).end();
    let finding = match misfit {
        None => None,
        Some((at, Misfit::Unlinked)) => {
            let root = verifier.tree.as_ref().map(RecordTree::root);
            let finding = damage::diagnose(at, &files, &head, root, verifier.before)?;
            Some((at, finding))
        }
        Some((at, Misfit::Damaged(damage, text))) => {
            Some((at, Finding::at(&files, at, damage, text)))
        }
    };
    verifier.result.good = match &finding {
        Some((_, finding)) if finding.damage == Damage::Rewritten => verifier.vouched,
        // The last line that was accepted turned out to be the one that was changed.
        Some((at, finding)) if finding.damage == Damage::Edited && finding.line != at.line => {
            head.size - 1
        }
        None => verifier.keyless.never_signed().unwrap_or(head.size),
        Some(_) => head.size,
    };
    let first_cut = || verifier.result.cuts.first().cloned();
    let finding = finding.map(|(_, finding)| finding).or_else(first_cut);
    let has_kept_epoch = verifier.result.epochs.vouched > 0;
    let keyless = &verifier.keyless;
    let finding = finding.or_else(|| keyless.finding(&files, verifier.agreed, has_kept_epoch));
    Ok(Verification {
        files,
        remarks,
        finding,
        ..verifier.result
    })
}
