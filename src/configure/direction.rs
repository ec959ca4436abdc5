//! What both directions share: their common flags, and the way from flags and files to what is served, at the start and at each
//! reload.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    PreparedProxy, families,
    reading::{FileDigests, FileReading, TableText},
    table::policy_line,
    values::{hostname, parsed},
};
use crate::{
    audit, clock,
    exit::Exit,
    files, logging,
    lookup::{HttpUrl, Lookup, Renewal},
    metrics::Metrics,
    net::{Dial, Intercept},
    policy::{Prefix, table::Table},
    serve::{
        AnchorOptions, Direction, Occasion, ReadAgain, Reloaded,
        limits::{self, Limits},
        status::StatusOptions,
    },
    session::{setup::CommonSetup, write_budget::WriteBudget},
};

/// Time for one attempt to connect to a server.
const CONNECT: Duration = Duration::from_secs(30);
/// `--audit-stamp-every`.
const STAMP_EVERY: Duration = Duration::from_secs(600);

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
    pub(super) audit_tsa: &'a [HttpUrl],
    pub(super) audit_witness: Option<&'a PathBuf>,
    pub(super) audit_stamp_every: Option<u64>,
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
            audit_tsa: &$flags.audit_tsa,
            audit_witness: $flags.audit_witness.as_ref(),
            audit_stamp_every: $flags.audit_stamp_every,
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
    /// At a reload, resolvers and trust anchors for look-ups.
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

    /// All files that the command line names or that stand for a flag that was not given. The table may name more.
    fn paths(&self) -> Vec<PathBuf>;
    /// Which of them hold private keys.
    fn private_keys(&self) -> Vec<PathBuf>;
    /// Which of them a person writes: the policy table.
    fn table(&self) -> Option<&PathBuf>;
    /// Files and directories that are read and that no flag names: the system's trust store, where it is used.
    fn places_beside(&self) -> Vec<PathBuf>;
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
    let (reading, content) = read(&files, None, None);
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
    summary.extend(stamps_line(shared.audit_tsa));
    summary.extend(shared.audit_witness.map(|file| {
        format!(
            "its checkpoints are signed by the witnesses in: {}",
            file.display()
        )
    }));
    summary.extend(shared.observe.then(|| D::OBSERVED.into()));
    let mut warnings = files.table_remarks(&content.table);
    let expiry = files.certificate_remarks(&content.tls);
    let configuration = configuration(&files, &common.hostname, &reading, &content.tls);
    let direction = in_force(&files, common, configuration, content, &lookup);
    warnings.extend(families::check(&direction, shared.listen).map_err(Exit::Configuration)?);
    let (max_sessions, too_few) = limits::fitting(shared.max_sessions, limits::open_files());
    warnings.extend(too_few);
    warnings.extend(expiry);
    let origin = log_name(&direction.common().hostname, direction.word());
    let anchors = anchor_options(shared, &origin)?;
    let audit = audit_options(shared, direction.common(), direction.word())?;
    warnings.extend(audit_remarks(shared)?);
    Ok(PreparedProxy {
        direction,
        listen: shared.listen.to_vec(),
        status: status_options(shared)?,
        audit,
        reload: Box::new(Rereading::new(files, lookup, &reading)),
        limits: Limits::new(max_sessions, shared.max_sessions_per_client),
        drain_timeout: Duration::from_secs(shared.drain_timeout),
        relay_probe: None,
        anchors,
        warnings,
        summary,
    })
}

/// Reads the files of a running process again.
struct Rereading<D> {
    files: D,
    lookup: Arc<Lookup>,
    /// What is in force.
    digests: FileDigests,
    table: Option<TableText>,
    /// What the last reading read, in force or not.
    named: Vec<PathBuf>,
    /// A person asked for a reload, and a fault kept it from being done.
    still_asked: bool,
    /// The fault of the last reading, with what was read.
    fault: Option<(String, FileDigests)>,
}

impl<D: DirectionFiles> Rereading<D> {
    /// `first`: the reading at the start.
    fn new(files: D, lookup: Arc<Lookup>, first: &FileReading) -> Self {
        Self {
            files,
            lookup,
            digests: first.digests(),
            table: first.table(),
            named: first.named().map(Path::to_owned).collect(),
            still_asked: false,
            fault: None,
        }
    }
}

impl<D: DirectionFiles> ReadAgain for Rereading<D> {
    fn read(&mut self, running: &Direction, occasion: Occasion) -> Reloaded {
        let asked = occasion == Occasion::Asked || self.still_asked;
        let kept = self.table.as_ref().filter(|_| !asked);
        let (reading, content) = read(&self.files, kept, Some(&self.lookup));
        let files = reading.outcomes(&self.digests);
        self.named = reading.named().map(Path::to_owned).collect();
        let Some(content) = content else {
            self.still_asked = asked;
            let words = reading.words();
            let fault = Some((words.clone(), reading.digests()));
            let is_new = self.fault != fault;
            self.fault = fault;
            return Reloaded {
                outcome: Err(words),
                files,
                is_new,
            };
        };
        (self.still_asked, self.fault) = (false, None);
        let common = running.common();
        let configuration = configuration(&self.files, &common.hostname, &reading, &content.tls);
        let digests = reading.digests();
        let is_new = digests != self.digests || *configuration != *common.configuration;
        if !is_new && !asked {
            return Reloaded {
                outcome: Ok(running.clone()),
                files,
                is_new,
            };
        }
        (self.digests, self.table) = (digests, reading.table());
        let remarks = self.files.table_remarks(&content.table);
        let expiry = self.files.certificate_remarks(&content.tls);
        for warning in remarks.iter().chain(&expiry) {
            log::warn!("{warning}");
        }
        let common = common.clone();
        Reloaded {
            outcome: Ok(in_force(
                &self.files,
                common,
                configuration,
                content,
                &self.lookup,
            )),
            files,
            is_new,
        }
    }

    fn watched(&self) -> Vec<PathBuf> {
        let unwatched = self.files.table().filter(|_| !self.still_asked);
        let named = self.named.iter().filter(|file| Some(*file) != unwatched);
        named.cloned().chain(self.files.places_beside()).collect()
    }
}

fn read<D: DirectionFiles>(
    files: &D,
    kept: Option<&TableText>,
    running: Option<&Lookup>,
) -> (FileReading, Option<FileContent<D::Tls>>) {
    FileReading::consistent(&files.paths(), kept, |reading| files.read(reading, running))
}

/// The hash of the configuration that this reading makes. Its octets count, and not what they mean: another comment in the table is
/// another configuration, so that nothing that could matter is left out.
fn configuration<D: DirectionFiles>(
    files: &D,
    hostname: &str,
    reading: &FileReading,
    tls: &D::Tls,
) -> String {
    let mut surroundings = files.surroundings(tls);
    surroundings.push(hostname.to_owned());
    reading.configuration(&files.private_keys(), &surroundings)
}

/// What is served with this content of the files; all else stays as it is in `common` and `lookup`.
fn in_force<D: DirectionFiles>(
    files: &D,
    common: CommonSetup,
    configuration: String,
    content: FileContent<D::Tls>,
    lookup: &Arc<Lookup>,
) -> Direction {
    if let Some(renewal) = content.renewal
        && lookup.adopt(renewal)
    {
        log::info!("other resolvers are asked from now on");
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

/// The name of the audit log.
fn log_name(hostname: &str, command: &str) -> String {
    format!("{hostname}/{command}")
}

/// How the audit log is written; `None` without `--audit-log`. The log's name is `hostname/command`.
fn audit_options(
    shared: &SharedFlags,
    common: &CommonSetup,
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
    let mut options = audit::AuditOptions::new(file.clone(), log_name(&common.hostname, command));
    options.metrics = Arc::clone(&common.metrics);
    options.key = shared.audit_key.cloned();
    options.addresses = form;
    options
        .check_key()
        .map_err(|error| Exit::Configuration(error.to_string()))?;
    let metrics = Arc::clone(&common.metrics);
    options.notice = Box::new(move |notice| {
        remember(&metrics, &notice);
        tell(&notice);
    });
    Ok(Some(options))
}

/// Keeps for the status page what somebody did to the log.
fn remember(metrics: &Metrics, notice: &audit::Notice) {
    let is_loss = match notice {
        audit::Notice::Cut { .. } => true,
        audit::Notice::LockGone
        | audit::Notice::Copied(_)
        | audit::Notice::BroughtBack { .. }
        | audit::Notice::Damaged(_)
        | audit::Notice::KeyLost(_)
        | audit::Notice::NotRemembered(_) => false,
        // The page says by itself whether the log can be written. The others are no harm.
        audit::Notice::Failing(_)
        | audit::Notice::Recovered { .. }
        | audit::Notice::Torn(_)
        | audit::Notice::Moved
        | audit::Notice::Checkpoint(_)
        | audit::Notice::EpochKey(_) => return,
    };
    let now = clock::wall();
    metrics.evidence.happened(notice.to_string(), is_loss, now);
}

/// Says it in the program's log.
fn tell(notice: &audit::Notice) {
    match notice {
        audit::Notice::Failing(_)
        | audit::Notice::Cut { .. }
        | audit::Notice::LockGone
        | audit::Notice::Copied(_)
        | audit::Notice::BroughtBack { .. } => log::error!("{notice}"),
        audit::Notice::Torn(_)
        | audit::Notice::Moved
        | audit::Notice::NotRemembered(_)
        | audit::Notice::Damaged(_)
        | audit::Notice::KeyLost(_)
        | audit::Notice::Recovered { .. } => {
            log::warn!("{notice}")
        }
        audit::Notice::Checkpoint(_) | audit::Notice::EpochKey(_) => {
            log::info!(target: logging::CHECKPOINT, "{notice}");
        }
    }
}

/// What is worth a look about the audit log's files before it is opened.
fn audit_remarks(shared: &SharedFlags) -> Result<Vec<String>, Exit> {
    let key = shared.audit_key.map(|key| files::guard(key)).transpose();
    let key = key.map_err(Exit::Configuration)?.flatten();
    let folder = shared.audit_log.and_then(|log| log.parent());
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.is_dir();
    let folder = folder.filter(is_missing).map(|folder| {
        format!(
            "--audit-log: there is no folder {}, and without it the proxy does not start; make it, or have systemd make it \
             (StateDirectory=)",
            folder.display()
        )
    });
    Ok(key.into_iter().chain(folder).collect())
}

/// Who is asked to vouch for the audit log; `None` where nobody is.
fn anchor_options(shared: &SharedFlags, origin: &str) -> Result<Option<AnchorOptions>, Exit> {
    let usage = |words: &str| Err(Exit::Usage(words.into()));
    if shared.audit_tsa.is_empty() && shared.audit_witness.is_none() {
        return match shared.audit_stamp_every {
            None => Ok(None),
            Some(_) => usage(
                "--audit-stamp-every says how often --audit-tsa and --audit-witness are asked: give one of them, too",
            ),
        };
    }
    if shared.audit_log.is_none() {
        return usage("--audit-tsa and --audit-witness vouch for --audit-log: give that, too");
    }
    if shared.audit_witness.is_some() && shared.audit_key.is_none() {
        return usage(
            "--audit-witness: a witness signs only what the log has signed: give --audit-key, too",
        );
    }
    let witnesses = shared.audit_witness.map(|file| {
        let policy = audit::WitnessPolicy::read(file).map_err(|error| error.to_string())?;
        let wrong = |words: String| Err(format!("{}: {words}", file.display()));
        if !policy.is_for(origin) {
            return wrong(format!("none of its logs has the name {origin}"));
        }
        let fault = policy.urls().find_map(|url| url.parse::<HttpUrl>().err());
        let has_none = policy.urls().next().is_none();
        match fault {
            Some(words) => wrong(words),
            None if has_none => wrong("no witness in it has an address".into()),
            None => Ok(policy),
        }
    });
    Ok(Some(AnchorOptions {
        authorities: shared.audit_tsa.to_vec(),
        witnesses: witnesses.transpose().map_err(Exit::Configuration)?,
        stamp_every: shared
            .audit_stamp_every
            .map_or(STAMP_EVERY, Duration::from_secs),
        ca_file: None,
    }))
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

fn stamps_line(authorities: &[HttpUrl]) -> Option<String> {
    let names: Vec<String> = authorities.iter().map(HttpUrl::to_string).collect();
    (!names.is_empty())
        .then(|| format!("its checkpoints are stamped by: {}", names.join(", else ")))
}
