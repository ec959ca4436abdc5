//! What both directions share: their common flags, and the way from flags and files to what is served, at the start and at each
//! reload.

use std::{cell::RefCell, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{
    PreparedProxy, families,
    reading::FileReading,
    table::policy_line,
    values::{hostname, parsed},
};
use crate::{
    audit, clock,
    exit::Exit,
    logging,
    lookup::{Lookup, Renewal},
    metrics::Metrics,
    net::{Dial, Intercept},
    policy::{Prefix, table::Table},
    serve::{
        self, Direction, Reloaded,
        limits::{self, Limits},
        status::StatusOptions,
    },
    session::{setup::CommonSetup, write_budget::WriteBudget},
};

/// Time for one attempt to connect to a server.
const CONNECT: Duration = Duration::from_secs(30);

/// The flags that both directions have.
pub(super) struct SharedFlags<'a> {
    pub(super) listen: &'a [SocketAddr],
    pub(super) intercept: Option<Intercept>,
    pub(super) upstream: Option<&'a str>,
    pub(super) keep_client_address: bool,
    pub(super) fwmark: Option<u32>,
    pub(super) hostname: Option<&'a str>,
    pub(super) observe: bool,
    pub(super) audit_log: Option<&'a PathBuf>,
    pub(super) audit_key: Option<&'a PathBuf>,
    pub(super) audit_addresses: Option<&'a str>,
    pub(super) add_received: bool,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) status_from: &'a [Prefix],
    pub(super) max_sessions: Option<usize>,
    pub(super) max_sessions_per_client: usize,
    pub(super) drain_timeout: u64,
}

/// Picks [`SharedFlags`] out of the flags of a direction.
macro_rules! shared_flags {
    ($flags:expr) => {
        SharedFlags {
            listen: &$flags.listen,
            intercept: $flags.intercept,
            upstream: $flags.upstream.as_deref(),
            keep_client_address: $flags.keep_client_address,
            fwmark: $flags.fwmark,
            hostname: $flags.hostname.as_deref(),
            observe: $flags.observe,
            audit_log: $flags.audit_log.as_ref(),
            audit_key: $flags.audit_key.as_ref(),
            audit_addresses: $flags.audit_addresses.as_deref(),
            add_received: $flags.add_received,
            metrics: $flags.metrics,
            status_from: &$flags.status_from,
            max_sessions: $flags.max_sessions,
            max_sessions_per_client: $flags.max_sessions_per_client,
            drain_timeout: $flags.drain_timeout,
        }
    };
}
pub(super) use shared_flags;

/// What one reading of all files gave.
pub(super) struct FileContent<T> {
    pub(super) table: Table,
    /// The table as records show it.
    pub(super) policy: Option<audit::PolicyField>,
    pub(super) tls: T,
    /// At a reload, trust anchors for look-ups.
    pub(super) renewal: Option<Renewal>,
}

/// What one direction has of its own: flags that hold until the process ends, and files that are read at the start and at each
/// reload.
pub(super) trait DirectionFiles: Send + 'static {
    /// What is made of certificates, keys and authorities.
    type Tls;
    /// The first line of `--dry-run`.
    const HEADLINE: &'static str;
    /// The line of `--dry-run` about `--observe`.
    const OBSERVED: &'static str;

    /// All files that the command line names. The table may name more.
    fn paths(&self) -> Vec<PathBuf>;
    /// Which of them hold private keys.
    fn private_keys(&self) -> Vec<PathBuf>;
    /// Reads each file, whatever is wrong with the others. `running`: the look-ups in force, at a reload.
    fn read(
        &self,
        reading: &mut FileReading,
        running: Option<&Lookup>,
    ) -> Option<FileContent<Self::Tls>>;
    /// The look-ups, which last until the process ends.
    fn lookup(&self, tls: &Self::Tls) -> Result<Lookup, Exit>;
    /// What shapes decisions and stands neither on the command line nor in [`paths`](Self::paths): SHA-256 of each part.
    fn surroundings(&self, tls: &Self::Tls) -> Vec<String>;
    /// Lines of the table that are allowed and yet worth a warning.
    fn table_remarks(&self, table: &Table) -> Vec<String>;
    /// Certificates that will soon be worth an error.
    fn certificate_remarks(&self, tls: &Self::Tls) -> Vec<String>;
    /// Lines of `--dry-run` between those about connections and policy.
    fn summary(&self, tls: &Self::Tls) -> Vec<String>;
    /// What is served with these files in force.
    fn direction(
        &self,
        common: CommonSetup,
        table: Table,
        tls: Self::Tls,
        lookup: Arc<Lookup>,
    ) -> Direction;
}

/// Reads all files and checks all shared flags.
pub(super) fn prepare<D: DirectionFiles>(
    shared: &SharedFlags,
    files: D,
    write_budget: WriteBudget,
) -> Result<PreparedProxy, Exit> {
    let (reading, content) = read(&files, None);
    let Some(content) = content else {
        return Err(Exit::Configuration(reading.words()));
    };
    let common = CommonSetup {
        hostname: hostname(shared.hostname)?,
        configuration: Arc::from(""),
        dial: Dial::new(shared.fwmark, CONNECT),
        intercept: shared.intercept,
        keep_client_address: shared.keep_client_address,
        observe: shared.observe,
        add_received: shared.add_received,
        listening: Arc::from([]),
        policy: None,
        audit: None,
        metrics: Arc::new(Metrics::default()),
        write_budget: Arc::new(write_budget),
    };
    let lookup = Arc::new(files.lookup(&content.tls)?);
    lookup.count_in(Arc::clone(&common.metrics));
    common.metrics.files_read(true, clock::wall());
    let mut summary = vec![String::from(D::HEADLINE)];
    summary.extend(connection_lines(shared));
    summary.extend(files.summary(&content.tls));
    summary.extend(content.policy.as_ref().map(policy_line));
    summary.push(audit_line(shared.audit_log));
    summary.extend(shared.observe.then(|| D::OBSERVED.into()));
    let mut warnings = files.table_remarks(&content.table);
    let expiry = files.certificate_remarks(&content.tls);
    let direction = in_force(&files, common, &reading, content, &lookup);
    warnings.extend(families::check(&direction, shared.listen).map_err(Exit::Configuration)?);
    let (max_sessions, too_few) = limits::fitting(shared.max_sessions, limits::open_files());
    warnings.extend(too_few);
    warnings.extend(expiry);
    let mut audit = audit_options(shared, &direction.common().hostname, direction.word())?;
    if let Some(audit) = &mut audit {
        audit.metrics = Arc::clone(&direction.common().metrics);
    }
    Ok(PreparedProxy {
        direction,
        listen: shared.listen.to_vec(),
        status: status_options(shared)?,
        audit,
        reload: reload(files, lookup, reading),
        limits: Limits::new(max_sessions, shared.max_sessions_per_client),
        drain_timeout: Duration::from_secs(shared.drain_timeout),
        relay_probe: None,
        warnings,
        summary,
    })
}

/// Reads the files again for SIGHUP; `first` was their reading at the start.
fn reload<D: DirectionFiles>(files: D, lookup: Arc<Lookup>, first: FileReading) -> serve::Reload {
    let digests = RefCell::new(first.digests());
    Box::new(move |running: &Direction| {
        let (reading, content) = read(&files, Some(&lookup));
        let outcomes = reading.outcomes(&digests.borrow());
        let outcome = content.ok_or_else(|| reading.words()).map(|content| {
            digests.replace(reading.digests());
            let remarks = files.table_remarks(&content.table);
            let expiry = files.certificate_remarks(&content.tls);
            for warning in remarks.iter().chain(&expiry) {
                log::warn!("{warning}");
            }
            in_force(&files, running.common().clone(), &reading, content, &lookup)
        });
        Reloaded {
            outcome,
            files: outcomes,
        }
    })
}

fn read<D: DirectionFiles>(
    files: &D,
    running: Option<&Lookup>,
) -> (FileReading, Option<FileContent<D::Tls>>) {
    FileReading::consistent(&files.paths(), |reading| files.read(reading, running))
}

/// What is served with this content of the files; all else stays as it is in `common` and `lookup`.
fn in_force<D: DirectionFiles>(
    files: &D,
    common: CommonSetup,
    reading: &FileReading,
    content: FileContent<D::Tls>,
    lookup: &Arc<Lookup>,
) -> Direction {
    let surroundings = files.surroundings(&content.tls);
    let configuration = reading.configuration(&files.private_keys(), &surroundings);
    if let Some(renewal) = content.renewal {
        lookup.adopt(renewal);
    }
    let common = CommonSetup {
        configuration: configuration.into(),
        policy: content.policy.map(Arc::new),
        ..common
    };
    files.direction(common, content.table, content.tls, Arc::clone(lookup))
}

/// Where the process shows itself; `None` without `--metrics`.
fn status_options(shared: &SharedFlags) -> Result<Option<StatusOptions>, Exit> {
    let readers = shared.status_from.to_vec();
    match shared.metrics {
        Some(address) => Ok(Some(StatusOptions { address, readers })),
        None if readers.is_empty() => Ok(None),
        None => Err(Exit::Usage(
            "--status-from says who may read the page of --metrics: give that, too".into(),
        )),
    }
}

/// How the audit log is written; `None` without `--audit-log`. The log's name is `hostname/command`.
fn audit_options(
    shared: &SharedFlags,
    hostname: &str,
    command: &str,
) -> Result<Option<audit::AuditOptions>, Exit> {
    let form = parsed::<audit::AddressForm>("audit-addresses", shared.audit_addresses)?
        .unwrap_or_default();
    let Some(file) = shared.audit_log else {
        if shared.audit_key.is_some() || shared.audit_addresses.is_some() {
            return Err(Exit::Usage(
                "--audit-key and --audit-addresses say how --audit-log is written: give that, too"
                    .into(),
            ));
        }
        return Ok(None);
    };
    let mut options = audit::AuditOptions::new(file.clone(), format!("{hostname}/{command}"));
    options.key = shared.audit_key.cloned();
    options.addresses = form;
    options
        .check_key()
        .map_err(|error| Exit::Configuration(error.to_string()))?;
    options.notice = Box::new(|notice| match notice {
        audit::Notice::Failing(_) => log::error!("{notice}"),
        audit::Notice::Torn(_) | audit::Notice::Moved | audit::Notice::Recovered { .. } => {
            log::warn!("{notice}")
        }
        audit::Notice::Checkpoint(_) => log::info!(target: logging::CHECKPOINT, "{notice}"),
    });
    Ok(Some(options))
}

/// The lines of `--dry-run` about connections.
fn connection_lines(shared: &SharedFlags) -> [String; 2] {
    let addresses: Vec<String> = shared.listen.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() {
        String::from("systemd's sockets")
    } else {
        addresses.join(", ")
    };
    let to = match (shared.intercept, shared.upstream) {
        (Some(intercept), _) => {
            format!("where the client meant to go ({intercept:?})").to_lowercase()
        }
        (None, upstream) => upstream.unwrap_or("nowhere").to_owned(),
    };
    [format!("listen: {addresses}"), format!("to: {to}")]
}

fn audit_line(path: Option<&PathBuf>) -> String {
    match path {
        Some(path) => format!("audit log: {}", path.display()),
        None => String::from("audit log: none kept (--audit-log)"),
    }
}
