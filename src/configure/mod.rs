//! From flags to what is served: every flag and file is read and checked here, before the first socket is bound.
//!
//! [`outbound`] and [`inbound`] say what is special to a direction, `direction` does what both share.

mod direction;
mod families;
mod inbound;
mod outbound;
mod reading;
mod smart_host;
mod table;
mod values;

pub use inbound::inbound;
pub use outbound::outbound;

pub(crate) use {
    table::table_of,
    values::{client_options, hostname, lookup_of, settings},
};

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    audit::{self, AuditLog},
    exit::Exit,
    lookup::{DnssecSupport, Lookup},
    serve::{
        self, Direction, Plan, Predecessor,
        limits::Limits,
        status::{self, StatusOptions},
    },
    session::{
        records,
        setup::{CommonSetup, OutboundSetup},
    },
};

/// Resolvers that did not answer at the start are asked again after this time.
const ASK_RESOLVERS_AGAIN: Duration = Duration::from_secs(60);

/// A whole configuration, read and checked; nothing is bound yet.
pub struct PreparedProxy {
    direction: Direction,
    listen: Vec<SocketAddr>,
    status: Option<StatusOptions>,
    audit: Option<audit::AuditOptions>,
    reload: Box<dyn serve::ReadAgain>,
    limits: Limits,
    drain_timeout: Duration,
    relay_probe: Option<String>,
    anchors: Option<serve::AnchorOptions>,
    warnings: Vec<String>,
    /// Lines of `--dry-run`.
    summary: Vec<String>,
}

impl PreparedProxy {
    /// What would be served, for `doctor`.
    pub(crate) fn direction(&self) -> &Direction {
        &self.direction
    }

    /// What is allowed and yet worth a look.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What `--dry-run` prints.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.summary.join("\n");
        for warning in &self.warnings {
            let _ = write!(text, "\nwarning: {warning}");
        }
        text + "\n"
    }

    /// Logs how DNSSEC is validated. Needs the runtime.
    ///
    /// # Errors
    /// [`Exit::Temporary`]: DANE is on, and the resolvers' answers show that they give no signatures.
    pub(crate) async fn reach_out(&self) -> Result<(), Exit> {
        match &self.direction {
            Direction::Outbound(setup) => check_dnssec(setup).await,
            Direction::Inbound(_) => Ok(()),
        }
    }

    /// Binds the sockets and opens the audit log. Needs the runtime.
    ///
    /// # Errors
    /// The log cannot be opened, or an address cannot be listened on.
    pub async fn bind(self) -> Result<Plan, Exit> {
        let Self {
            direction,
            listen,
            status,
            audit,
            reload,
            limits,
            ..
        } = self;
        let (listeners, passed) = serve::listeners(&listen, direction.common().intercept)?;
        let status_listener = status
            .map(|options| {
                let address = options.address;
                status::bind(options, passed).map_err(|error| serve::no_listener(address, &error))
            })
            .transpose()?;
        let mut predecessor = Predecessor::of_this_process()?;
        if let Some(predecessor) = &mut predecessor {
            // All else was read and bound, so the other process stops recording for a moment only.
            predecessor.free_the_log()?;
        }
        let audit = match audit {
            Some(options) => Some(Arc::new(AuditLog::open(options)?)),
            None => None,
        };
        let bound: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        // The addresses of `--listen` were checked before; those of systemd's sockets are known only now.
        let mismatch = families::check(&direction, &bound).map_err(Exit::Configuration)?;
        let unknown_before = mismatch.filter(|_| listen.is_empty());
        let listening: Arc<[u16]> = bound.iter().map(SocketAddr::port).collect();
        let direction = with_common(direction, |common| {
            common.audit = audit;
            common.listening = listening;
        });
        for warning in self.warnings.iter().chain(&unknown_before) {
            log::warn!("{warning}");
        }
        let which = match &direction {
            Direction::Outbound(_) => audit::DirectionField::Outbound,
            Direction::Inbound(_) => audit::DirectionField::Inbound,
        };
        records::started(direction.common(), which);
        let (drain_timeout, relay_probe) = (self.drain_timeout, self.relay_probe);
        Ok(Plan {
            listeners,
            status_listener,
            predecessor,
            direction,
            reload,
            limits,
            drain_timeout,
            relay_probe,
            anchors: self.anchors,
        })
    }
}

/// With DANE on and no resolver that gives signatures, nothing is started. The exit code makes systemd try again: one forged answer
/// at a start must not stop mail for good.
async fn check_dnssec(setup: &OutboundSetup) -> Result<(), Exit> {
    let by_address = setup.upstream.as_ref().is_some_and(|to| to.ip().is_some());
    if by_address {
        return Ok(());
    }
    match setup.lookup.dnssec_support().await {
        DnssecSupport::Off => {}
        DnssecSupport::Available { words, faults } => {
            log::info!("{words}");
            faults.iter().for_each(|fault| log::warn!("{fault}"));
        }
        DnssecSupport::Unknown(words) => {
            log::error!("{words}");
            tokio::spawn(log_dnssec_later(Arc::clone(&setup.lookup)));
        }
        DnssecSupport::Missing(words) => return Err(Exit::Temporary(words)),
    }
    Ok(())
}

/// Asks until a resolver answers, and logs what its answer shows.
async fn log_dnssec_later(lookup: Arc<Lookup>) {
    loop {
        tokio::time::sleep(ASK_RESOLVERS_AGAIN).await;
        match lookup.dnssec_support().await {
            DnssecSupport::Unknown(_) => {}
            DnssecSupport::Available { words, .. } => return log::info!("{words}"),
            DnssecSupport::Missing(words) => return log::error!("{words}"),
            DnssecSupport::Off => return,
        }
    }
}

/// Changes what no session has seen yet: the setup is not shared before the proxy serves.
fn with_common(direction: Direction, change: impl FnOnce(&mut CommonSetup)) -> Direction {
    match direction {
        Direction::Outbound(mut setup) => {
            if let Some(setup) = Arc::get_mut(&mut setup) {
                change(Arc::make_mut(&mut setup.common));
            }
            Direction::Outbound(setup)
        }
        Direction::Inbound(mut setup) => {
            if let Some(setup) = Arc::get_mut(&mut setup) {
                change(Arc::make_mut(&mut setup.common));
            }
            Direction::Inbound(setup)
        }
    }
}
