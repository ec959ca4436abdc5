//! What verification reads of the records about the log itself.

use serde::Deserialize;

/// The fields of `log-opened`, `log-recovered` and `checkpoint`.
#[derive(Deserialize)]
pub(super) struct LogRecordFields {
    pub(super) note: Option<String>,
    pub(super) key: Option<String>,
    pub(super) origin: Option<String>,
    pub(super) torn: Option<serde::de::IgnoredAny>,
    pub(super) lost: Option<u64>,
}

impl LogRecordFields {
    pub(super) fn read(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}
