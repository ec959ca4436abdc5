//! The running process, as the pages read it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::{
    super::{Direction, limits::Limits, now},
    interception::{self, InterceptionState},
};
use crate::{
    clock, files,
    metrics::Metrics,
    policy::table::{Entry, Table},
    session::{drive::Stop, setup::CommonSetup},
    tls::CertFacts,
};

/// Lines of the table whose end is shown.
const ENDS: usize = 50;

/// What the pages read.
pub(crate) struct ServedState {
    current: Arc<RwLock<Direction>>,
    limits: Limits,
    stop: watch::Receiver<Stop>,
    started: SystemTime,
    interception: PathBuf,
    /// Held while a file system is asked for its room: one that does not answer holds up one question, and no more.
    asking_disk: Mutex<()>,
}

impl ServedState {
    pub(crate) fn new(
        current: Arc<RwLock<Direction>>,
        limits: Limits,
        stop: watch::Receiver<Stop>,
    ) -> Self {
        Self {
            current,
            limits,
            stop,
            started: clock::wall(),
            interception: interception::STATE.into(),
            asking_disk: Mutex::new(()),
        }
    }

    /// What new sessions get now.
    pub(super) fn direction(&self) -> Direction {
        now(&self.current)
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.direction().common().metrics)
    }

    pub(super) fn hostname(&self) -> String {
        self.direction().common().hostname.clone()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// What the watcher of the interception found. `None`: nobody watches.
    pub(super) fn interception(&self) -> Option<InterceptionState> {
        let now = clock::wall().duration_since(UNIX_EPOCH);
        interception::read(&self.interception, now.unwrap_or_default().as_secs())
    }

    /// Free octets of the file system that has this file. `None`: it does not say.
    pub(super) fn free_octets(&self, file: &Path) -> Option<u64> {
        let _asking = self.asking_disk.try_lock().ok()?;
        files::free_octets(file).ok()
    }

    /// Why a new session would get no mail through. `None`: it would.
    pub(super) fn not_ready(&self) -> Option<&'static str> {
        let direction = self.direction();
        let CommonSetup { audit, .. } = direction.common();
        if *self.stop.borrow() > Stop::Not {
            return Some("the proxy is being stopped");
        }
        if audit.as_ref().is_some_and(|audit| !audit.healthy()) {
            return Some("the audit log cannot be written");
        }
        if matches!(&direction, Direction::Inbound(setup) if setup.tls.is_none()) {
            return Some("there is no certificate, so STARTTLS is refused");
        }
        (!self.limits.has_room()).then_some("--max-sessions is reached")
    }
}

/// The certificates of this proxy, each with its file.
pub(super) fn certificates(direction: &Direction) -> Vec<(&Path, &CertFacts)> {
    match direction {
        Direction::Outbound(setup) => setup.tls.own_certificates().collect(),
        Direction::Inbound(setup) => {
            let tls = setup.tls.iter();
            tls.flat_map(|tls| tls.own_certificates()).collect()
        }
    }
}

/// The policy table.
pub(super) fn table(direction: &Direction) -> &Table {
    match direction {
        Direction::Outbound(setup) => &setup.table,
        Direction::Inbound(setup) => &setup.table,
    }
}

/// The lines of the table that apply and have an end: those that end next, the soonest first.
pub(super) fn table_ends(direction: &Direction, now: SystemTime) -> Vec<(&Entry, SystemTime)> {
    let applying = table(direction).applying(now);
    let mut ends: Vec<_> = applying
        .filter_map(|entry| Some((entry, entry.end()?)))
        .collect();
    ends.sort_by_key(|(_, end)| *end);
    ends.truncate(ENDS);
    ends
}
