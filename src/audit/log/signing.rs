//! What signs the checkpoints of a log that is being written.

use super::AuditOptions;
use crate::audit::{
    Disk, FileDisk, Hash, KeyLostRecord, OpenError,
    checkpoint::{SignedNote, SigningKey},
    disk::LogEnd,
    epoch::{EpochKeys, EpochStart, NamedEpoch},
    hybrid::HybridKey,
};
use std::{
    io,
    time::{Duration, SystemTime},
};

/// The keys of a log, if it has any: the fixed one, and those that sign one checkpoint each.
pub(super) struct LogSigner {
    origin: String,
    keys: Option<(SigningKey, EpochKeys)>,
    /// The second kind of signature, how often there is one, and when the last was made.
    hybrid: Option<(HybridKey, Duration, Option<SystemTime>)>,
    /// The secrets on the disk are not those that must be there.
    is_stale: bool,
}

impl LogSigner {
    /// `hybrid_every`: how often a checkpoint has an ML-DSA signature, if ever.
    pub(super) fn new(
        origin: &str,
        keys: Option<(SigningKey, EpochKeys)>,
        hybrid_every: Option<Duration>,
    ) -> Self {
        let hybrid = hybrid_every.and_then(|every| {
            let secret = keys.as_ref()?.0.secret()?;
            Some((HybridKey::of(&secret)?, every, None))
        });
        Self {
            hybrid,
            origin: origin.to_owned(),
            is_stale: keys.is_some(),
            keys,
        }
    }

    /// The verifier key of the fixed key.
    pub(super) fn key(&self) -> Option<String> {
        let (key, _) = self.keys.as_ref()?;
        Some(key.public().verifier(&self.origin))
    }

    /// The verifier key of the key that signs the next checkpoint.
    pub(super) fn epoch(&self) -> Option<String> {
        let (_, epochs) = self.keys.as_ref()?;
        Some(epochs.present()?.verifier(&self.origin))
    }

    /// What is recorded where the secret of the key that the log names is gone.
    pub(super) fn lost(&self, start: Option<EpochStart>) -> Option<KeyLostRecord> {
        let Some(EpochStart::Lost(key, error)) = start else {
            return None;
        };
        let epoch = key.verifier(&self.origin);
        Some(KeyLostRecord { epoch, error })
    }

    /// The next checkpoint, with its signature lines.
    pub(super) fn note(&mut self, size: u64, root: Hash, now: SystemTime) -> String {
        let origin = &self.origin;
        let text = SignedNote::text(origin, size, root);
        let lines = self.keys.as_mut().map(|(key, epochs)| {
            let epoch_line = epochs.sign(origin, &text).unwrap_or_default();
            key.signature_line(origin, &text) + &epoch_line
        });
        let hybrid_line = self.hybrid_line(size, root, now);
        let lines = lines.unwrap_or_default();
        format!("{text}\n{lines}{}", hybrid_line.unwrap_or_default())
    }

    /// The ML-DSA signature, which is so long that only some checkpoints have it: the first of a run, and then one at times.
    fn hybrid_line(&mut self, size: u64, root: Hash, now: SystemTime) -> Option<String> {
        let (key, every, last) = self.hybrid.as_mut()?;
        // A clock that was ahead before is no reason to wait for that time.
        let since = last.and_then(|last| now.duration_since(last).ok());
        if since.is_some_and(|since| since < *every) {
            return None;
        }
        *last = Some(now);
        key.signature_line(&self.origin, size, root)
    }

    /// The oldest checkpoint that was not durable is durable now.
    pub(super) fn erase(&mut self) {
        if let Some((_, epochs)) = &mut self.keys {
            epochs.erase();
            self.is_stale = true;
        }
    }

    /// Overwrites the secret of each checkpoint that is durable, and keeps the next one, before another checkpoint is written.
    pub(super) fn keep(&mut self, disk: &mut dyn Disk) -> io::Result<()> {
        if let Some((_, epochs)) = self.keys.as_ref().filter(|_| self.is_stale) {
            let kept = disk.keep_secrets(&epochs.content());
            kept.map_err(|error| {
                io::Error::new(error.kind(), format!("secret keys beside it: {error}"))
            })?;
            self.is_stale = false;
        }
        Ok(())
    }
}

/// The keys that sign one checkpoint each, as the log and the file beside it have them.
pub(super) fn epoch_keys(
    options: &AuditOptions,
    disk: &FileDisk,
    seed: &[u8],
    found: &LogEnd,
) -> Result<(EpochKeys, EpochStart), OpenError> {
    let kept = disk.secrets()?;
    let named = match &found.cut {
        // What is left of the log is not its end.
        Some(_) => NamedEpoch::Unknown,
        None if found.end.head.size == 0 => NamedEpoch::Nothing,
        None => disk.named_epoch()?,
    };
    let kept = kept.as_ref().map(|kept| kept.as_slice());
    EpochKeys::begin(kept, named, seed, options.random)
        .ok_or_else(|| OpenError::Temporary("no random numbers to be had for a key".into()))
}
