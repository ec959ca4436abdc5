//! From flags to what is served: every flag and file is read and checked here, before the first socket is bound.

mod families;
mod inbound;
mod outbound;
mod reading;

pub use inbound::inbound;
pub use outbound::outbound;

use reading::Reading;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    audit::{self, AuditLog},
    clock,
    exit::Exit,
    files, flags, logging,
    lookup::{self, DnssecSupport, Lookup},
    policy::{
        Level, RefuseWith, Settings,
        table::{Table, TablePurpose},
    },
    serve::{
        self, Direction, Plan, ServeError,
        limits::{self, Limits},
        metrics_page,
    },
    session::{
        records,
        setup::{CommonSetup, OutboundSetup, Upstream},
    },
    tls::{ClientOptions, MinTls, Trust},
};

/// One attempt to connect to a server.
const CONNECT: Duration = Duration::from_secs(30);

/// Resolvers that were silent at the start are asked again after this long.
const AGAIN: Duration = Duration::from_secs(60);

/// A whole configuration, read and checked; nothing is bound yet.
pub struct PreparedProxy {
    direction: Direction,
    listen: Vec<SocketAddr>,
    metrics: Option<SocketAddr>,
    audit: Option<audit::AuditOptions>,
    reload: serve::Reload,
    limits: Limits,
    drain_timeout: Duration,
    relay_probe: Option<String>,
    warnings: Vec<String>,
    /// What it does, in lines for people.
    summary: Vec<String>,
}

impl PreparedProxy {
    /// For `--dry-run`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.summary.join("\n");
        for warning in &self.warnings {
            let _ = write!(text, "\nwarning: {warning}");
        }
        text + "\n"
    }

    /// Says how DNSSEC is validated; needs the runtime.
    ///
    /// # Errors
    /// DANE is on, and the resolvers' answers show that signatures cannot be had.
    pub async fn reach_out(&self) -> Result<(), Exit> {
        match &self.direction {
            Direction::Outbound(site) => say_how_dnssec_goes(site).await,
            Direction::Inbound(_) => Ok(()),
        }
    }

    /// Opens the audit log and binds the sockets; needs the runtime.
    ///
    /// # Errors
    /// In words.
    pub async fn bind(self) -> Result<Plan, ServeError> {
        let Self {
            direction,
            listen,
            metrics,
            audit,
            reload,
            limits,
            ..
        } = self;
        let intercept = common(&direction).intercept;
        let audit = match audit {
            Some(options) => Some(Arc::new(AuditLog::open(options).map_err(
                |error| match error {
                    audit::OpenError::Wrong(words) => ServeError::configuration(words),
                    audit::OpenError::Temporary(words) => ServeError::temporary(words),
                },
            )?)),
            None => None,
        };
        let listeners = serve::listeners(&listen, intercept)?;
        let metrics_listener = metrics
            .map(|address| {
                metrics_page::bind(address)
                    .map_err(|error| ServeError::no_listener(address, &error))
            })
            .transpose()?;
        let bound: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        // Only now is it known what systemd passed; what `--listen` says was looked at before.
        let mismatch = families::check(
            common(&direction),
            upstream(&direction),
            is_balanced(&direction),
            &bound,
        )
        .map_err(ServeError::configuration)?;
        let unknown_before = mismatch.filter(|_| listen.is_empty());
        let listening: Vec<u16> = bound.iter().map(SocketAddr::port).collect();
        let direction = with_common(direction, |common| {
            common.audit = audit.clone();
            common.listening = listening.clone().into();
        });
        for warning in self.warnings.iter().chain(&unknown_before) {
            log::warn!("{warning}");
        }
        let which = match &direction {
            Direction::Outbound(_) => audit::DirectionField::Outbound,
            Direction::Inbound(_) => audit::DirectionField::Inbound,
        };
        records::started(common(&direction), which);
        let (drain_timeout, relay_probe) = (self.drain_timeout, self.relay_probe);
        Ok(Plan {
            listeners,
            metrics_listener,
            direction,
            reload,
            limits,
            drain_timeout,
            relay_probe,
        })
    }
}

/// Where DANE counts on signatures that no resolver gives, nothing is started: the unit tries again, since one forged answer at a
/// start must not stop mail for good.
async fn say_how_dnssec_goes(site: &OutboundSetup) -> Result<(), Exit> {
    let by_address = site.upstream.as_ref().is_some_and(|to| to.ip().is_some());
    if by_address {
        return Ok(());
    }
    match site.lookup.dnssec_support().await {
        DnssecSupport::Off => {}
        DnssecSupport::Available { words, faults } => {
            log::info!("{words}");
            faults.iter().for_each(|fault| log::warn!("{fault}"));
        }
        DnssecSupport::Unknown(words) => {
            log::error!("{words}");
            tokio::spawn(say_later(Arc::clone(&site.lookup)));
        }
        DnssecSupport::Missing(words) => return Err(ServeError::temporary(words).into()),
    }
    Ok(())
}

/// Where no resolver answered at the start, what the first that answers shows.
async fn say_later(lookup: Arc<Lookup>) {
    loop {
        tokio::time::sleep(AGAIN).await;
        match lookup.dnssec_support().await {
            DnssecSupport::Unknown(_) => {}
            DnssecSupport::Available { words, .. } => return log::info!("{words}"),
            DnssecSupport::Missing(words) => return log::error!("{words}"),
            DnssecSupport::Off => return,
        }
    }
}

fn common(direction: &Direction) -> &CommonSetup {
    match direction {
        Direction::Outbound(site) => &site.common,
        Direction::Inbound(site) => &site.common,
    }
}

/// Load balancers tell whose connection it is.
fn is_balanced(direction: &Direction) -> bool {
    matches!(direction, Direction::Inbound(site) if !site.accept_proxy.is_empty())
}

fn upstream(direction: &Direction) -> Option<&Upstream> {
    match direction {
        Direction::Outbound(site) => site.upstream.as_ref(),
        Direction::Inbound(site) => site.upstream.as_ref(),
    }
}

/// The sites are not shared with anybody yet where this is called.
fn with_common(direction: Direction, change: impl Fn(&mut CommonSetup)) -> Direction {
    match direction {
        Direction::Outbound(mut site) => {
            if let Some(site) = Arc::get_mut(&mut site) {
                change(&mut site.common);
            }
            Direction::Outbound(site)
        }
        Direction::Inbound(mut site) => {
            if let Some(site) = Arc::get_mut(&mut site) {
                change(&mut site.common);
            }
            Direction::Inbound(site)
        }
    }
}

fn wrong(words: impl Into<String>) -> Exit {
    Exit::Configuration(words.into())
}

fn parsed<T: std::str::FromStr<Err = String>>(
    flag: &str,
    word: Option<&str>,
) -> Result<Option<T>, Exit> {
    word.map(|word| {
        word.parse()
            .map_err(|words| Exit::Usage(format!("--{flag}: {words}")))
    })
    .transpose()
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}

/// `--resolver` stands on the command line; without it, the file that names them shapes decisions, too.
fn resolvers_in_force(given: &[SocketAddr]) -> String {
    match (given, fs::read("/etc/resolv.conf")) {
        ([], Ok(octets)) => crate::tls::sha256(&octets),
        _ => String::new(),
    }
}

fn where_to(intercept: bool, upstream: Option<&str>) -> Result<Option<Upstream>, Exit> {
    match (intercept, upstream) {
        (true, Some(_)) => Err(Exit::Usage("--intercept and --upstream exclude each other: one says where mail goes".into())),
        (false, None) => Err(Exit::Usage(
            "nothing says where mail goes\nhint: --intercept tproxy on a router, --upstream HOST for a fixed server".into(),
        )),
        (_, upstream) => upstream.map(Upstream::parse).transpose().map_err(Exit::Usage),
    }
}

/// The flags that say whom to trust.
///
/// # Errors
/// `--min-tls` is no version.
pub fn client_options(
    ca_file: &Option<PathBuf>,
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
    min_tls: Option<&str>,
) -> Result<ClientOptions, Exit> {
    Ok(ClientOptions {
        ca_file: ca_file.clone(),
        pair: cert.clone().zip(key.clone()),
        min_tls: parsed::<MinTls>("min-tls", min_tls)?.unwrap_or_default(),
    })
}

/// What the command line says for all domains.
///
/// # Errors
/// A word that is none of a flag's.
pub fn settings(
    level: Option<&str>,
    refuse_with: Option<&str>,
    no_dane: bool,
    no_mta_sts: bool,
    observe: bool,
    min_tls: MinTls,
) -> Result<Settings, Exit> {
    let level = parsed::<Level>("level", level)?.unwrap_or(Level::Verify);
    let refuse_with = match refuse_with {
        None | Some("defer") => RefuseWith::Defer,
        Some("reject") => RefuseWith::Reject,
        Some(word) => {
            return Err(Exit::Usage(format!(
                "--refuse-with: '{word}' is neither defer nor reject"
            )));
        }
    };
    Ok(Settings {
        level,
        dane: !no_dane,
        mta_sts: !no_mta_sts,
        refuse_with,
        observe,
        tls13_only: min_tls == MinTls::Tls13,
    })
}

/// Look-ups as the flags say; MTA-STS policy hosts are trusted as mail hosts are.
///
/// # Errors
/// A file that cannot be read.
pub fn lookup_of(
    resolvers: &[SocketAddr],
    dnssec: bool,
    anchor: Option<&PathBuf>,
    state_dir: Option<&PathBuf>,
    allow_private: bool,
    trust: &Trust,
) -> Result<Lookup, Exit> {
    Lookup::new(lookup::LookupOptions {
        resolvers: resolvers.to_vec(),
        dnssec,
        anchor: anchor.cloned(),
        state_dir: state_dir.cloned(),
        https_port: 443,
        allow_private,
        roots: trust.anchors(),
    })
    .map_err(wrong)
}

/// Reads the table, with the files it names; `None` without `--policy`.
///
/// # Errors
/// All that is wrong with it, with file, line and column. With a `way`, that includes keys that are about the other one, and
/// levels that the `settings` rule out.
pub fn table_of(
    path: Option<&Path>,
    way: Option<&TablePurpose>,
    settings: &Settings,
) -> Result<Table, Exit> {
    table_noting(path, way, settings, &mut |_| ()).map_err(wrong)
}

/// The same; `note` is told of each file that the table names, before it is read.
fn table_noting(
    path: Option<&Path>,
    way: Option<&TablePurpose>,
    settings: &Settings,
    note: &mut dyn FnMut(&Path),
) -> Result<Table, String> {
    let Some(path) = path else {
        return Ok(Table::default());
    };
    let name = path.display().to_string();
    let text = files::text(path).map_err(|error| format!("{name}: {error}"))?;
    let table = Table::parse(&name, &text, &mut |file| {
        note(Path::new(file));
        crate::tls::anchors_in(Path::new(file))
    });
    let table = table.and_then(|table| {
        let unfit = way.map_or_else(Vec::new, |way| table.unfit(way, settings));
        if unfit.is_empty() {
            Ok(table)
        } else {
            Err(unfit)
        }
    });
    table.map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

/// The table as part of a whole configuration, with what records show of it.
fn table_in(
    reading: &mut Reading,
    path: Option<&Path>,
    way: &TablePurpose,
    settings: &Settings,
    exempt: &[String],
) -> Option<(Table, Option<audit::PolicyField>)> {
    let read = table_noting(path, Some(way), settings, &mut |file| reading.note(file));
    let table = reading.take(read)?;
    let shown = (path.is_some() || !exempt.is_empty()).then(|| {
        let name = path.map(|path| path.display().to_string());
        let sha256 = |file: &Path| reading.sha256(file).unwrap_or_default();
        let whole = path.map_or_else(|| crate::tls::sha256(b""), sha256);
        let mut policy = records::policy_file(
            &name.unwrap_or_default(),
            whole,
            &table,
            exempt,
            clock::wall(),
        );
        let mut named: Vec<&String> = table.entries().iter().flat_map(|e| &e.tafile).collect();
        named.sort();
        named.dedup();
        policy.tafiles = named
            .into_iter()
            .map(|file| audit::TrustFileField {
                file: file.clone(),
                sha256: sha256(Path::new(file)),
            })
            .collect();
        policy
    });
    Some((table, shown))
}

/// `--max-sessions`, as far as there are descriptors for it, with a warning where there are not.
fn sessions(wanted: usize) -> (usize, Option<String>) {
    limits::fitting(wanted, limits::open_files())
}

/// `--hostname`, else this host's.
///
/// # Errors
/// What was given is no host name.
pub fn hostname(given: Option<&str>) -> Result<String, Exit> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned(),
    };
    match crate::smtp::Domain::parse(&name) {
        Some(name) => Ok(name.as_str().to_owned()),
        None if given.is_none() => Ok(String::from("localhost")),
        None => Err(Exit::Usage(format!("--hostname: '{name}' is no host name"))),
    }
}

fn audit_of(
    file: Option<&PathBuf>,
    key: Option<&PathBuf>,
    addresses: Option<&str>,
    hostname: &str,
    word: &str,
) -> Result<Option<audit::AuditOptions>, Exit> {
    let form = parsed::<audit::AddressForm>("audit-addresses", addresses)?.unwrap_or_default();
    let Some(file) = file else {
        if key.is_some() || addresses.is_some() {
            return Err(Exit::Usage(
                "--audit-key and --audit-addresses say how --audit-log is written: give that, too"
                    .into(),
            ));
        }
        return Ok(None);
    };
    let mut options = audit::AuditOptions::new(file.clone(), format!("{hostname}/{word}"));
    options.key = key.cloned();
    options.addresses = form;
    options
        .check_key()
        .map_err(|error| wrong(error.to_string()))?;
    options.notice = Box::new(|notice| match notice {
        audit::Notice::Failing(_) => log::error!("{notice}"),
        audit::Notice::Torn(_) | audit::Notice::Moved | audit::Notice::Recovered { .. } => {
            log::warn!("{notice}")
        }
        audit::Notice::Checkpoint(_) => log::info!(target: logging::CHECKPOINT, "{notice}"),
    });
    Ok(Some(options))
}

fn listens(
    listen: &[SocketAddr],
    intercept: Option<crate::net::Intercept>,
    upstream: Option<&str>,
) -> Vec<String> {
    let addresses: Vec<String> = listen.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() {
        String::from("systemd's sockets")
    } else {
        addresses.join(", ")
    };
    let to = match (intercept, upstream) {
        (Some(intercept), _) => {
            format!("where the client meant to go ({intercept:?})").to_lowercase()
        }
        (None, upstream) => upstream.unwrap_or("nowhere").to_owned(),
    };
    vec![format!("listen: {addresses}"), format!("to: {to}")]
}

fn on(name: &str, is: bool) -> String {
    if is {
        format!(", {name}")
    } else {
        format!(", no {name}")
    }
}

/// TLS to a peer that need not prove who it is is no way to plaintext, and no proof either.
fn policy_line(policy: &audit::PolicyField) -> String {
    let unauthenticated = policy
        .exemptions
        .iter()
        .filter(|exemption| exemption.level == Level::Encrypt.as_str())
        .count();
    let file = match policy.file.as_str() {
        "" => String::new(),
        file => format!("{file}: "),
    };
    format!(
        "policy: {file}{} entries; ways to plaintext: {}, to TLS without authentication: {unauthenticated}",
        policy.entries,
        policy.exemptions.len() - unauthenticated
    )
}

fn evidence_line(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("audit log: {}", path.display()),
        None => String::from("audit log: none kept (--audit-log)"),
    }
}
