//! One decision as one object: for the log, `check`, and the record.

use super::{Ask, Decision, Demand, Findings, Moment, Settings, Verdict};
use crate::smtp::Refusal;
use std::{sync::Arc, time::SystemTime};

impl Decision {
    /// Puts it together and words the refusal, if it is one.
    #[must_use]
    pub fn new(
        _ask: Ask,
        _findings: Option<Arc<Findings>>,
        _demand: Option<Demand>,
        _verdict: Verdict,
        _moment: Moment,
        _settings: &Settings,
        _at: SystemTime,
    ) -> Self {
        todo!()
    }

    /// The refusal that must be given; `None` where mail may flow (also with `--observe`).
    #[must_use]
    pub fn refused(&self) -> Option<&Refusal> {
        self.refusal.as_ref().filter(|_| !self.observed)
    }
}

impl Demand {
    /// `--observe`, where [`super::require`] made no demand: TLS if it can be had, nobody authenticated, nothing enforced.
    #[must_use]
    pub fn observing(_ask: &Ask, _findings: &Findings) -> Self {
        todo!()
    }
}
