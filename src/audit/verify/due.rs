//! When a checkpoint must have its ML-DSA signature. It is so long that only some checkpoints have it.

use super::completeness::seconds;

/// Seconds within which a checkpoint has an ML-DSA signature, and how much later one may be.
const HYBRID_EVERY: f64 = 3600.0;
const HYBRID_SLACK: f64 = 10.0;

/// When the next ML-DSA signature must come.
#[derive(Debug, Default)]
pub(super) enum HybridDue {
    /// Nobody knows: the log is not signed, or records are missing.
    #[default]
    Unknown,
    /// With the next checkpoint, which is the first of a run.
    Next,
    /// An hour after a checkpoint that was written at this time.
    Since(Vec<u8>),
}

impl HybridDue {
    /// Whether a checkpoint that is written at this time has one.
    pub(super) fn is_due(&self, at: &[u8]) -> bool {
        match self {
            Self::Unknown => false,
            Self::Next => true,
            Self::Since(last) => seconds(last, at) >= HYBRID_EVERY + HYBRID_SLACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_due_with_the_first_checkpoint_of_a_run_and_an_hour_after_the_last() {
        let at = |minute: u32, second: u32| {
            format!(
                "2026-11-24T{:02}:{:02}:{second:02}.000000Z",
                6 + minute / 60,
                minute % 60
            )
        };
        let since = HybridDue::Since(at(0, 0).into_bytes());
        assert!(!since.is_due(at(59, 59).as_bytes()));
        assert!(
            !since.is_due(at(60, 9).as_bytes()),
            "a disk may take that long"
        );
        assert!(since.is_due(at(60, 10).as_bytes()));
        assert!(HybridDue::Next.is_due(at(0, 0).as_bytes()));
        assert!(!HybridDue::Unknown.is_due(at(0, 0).as_bytes()));
    }
}
