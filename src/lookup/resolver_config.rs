//! Which resolvers are asked, and from which keys DNSSEC is validated.

use super::{
    dns::{Resolve, Transport, Unvalidated},
    dnssec::Validators,
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};

/// What one reading of the files gave. A reload makes a new one.
pub(super) struct ResolverConfig {
    /// Asked in this order, the one that answered last first.
    pub(super) resolvers: Vec<SocketAddr>,
    /// File of the trust anchor; `None`: the root keys of IANA.
    pub(super) anchor: Option<PathBuf>,
    /// Whether DNSSEC is validated.
    pub(super) dnssec: bool,
}

impl ResolverConfig {
    /// Reads the trust anchor; asks nothing yet.
    ///
    /// # Errors
    /// In words, with the file's name, where the anchor cannot be used.
    pub(super) fn resolver(&self) -> Result<Arc<dyn Resolve>, String> {
        let resolvers = self.resolvers.clone();
        // The anchor is read even without DNSSEC, so that a wrong file is noticed at the start.
        let validators = Validators::new(resolvers.clone(), self.anchor.as_deref())?;
        Ok(match self.dnssec {
            true => Arc::new(validators),
            false => Arc::new(Unvalidated(Transport::new(resolvers))),
        })
    }
}
