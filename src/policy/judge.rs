//! Has the peer proved it?

use super::{Demand, Shown, Verdict};

/// Compares what the peer showed with what was demanded. Pure: `--observe` is applied by [`super::Decision::new`].
pub fn judge(_demand: &Demand, _shown: &Shown) -> Verdict {
    todo!()
}
