//! From flags to what is served: every flag and file is read and checked here, before the first socket is bound.

mod inbound;
mod outbound;

pub use inbound::inbound;
pub use outbound::outbound;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;

use super::{Failure, flags};
use crate::{
    audit::{self, AuditLog},
    clock,
    lookup::{self, Lookup, Signatures},
    policy::{Level, RefuseWith, Settings, table::Table},
    serve::{self, Direction, Plan, limits::Limits, metrics_page},
    session::{
        records,
        site::{Common, Outbound, Upstream},
    },
    tls::{ClientOptions, MinTls, Trust},
};

/// One attempt to connect to a server.
const CONNECT: Duration = Duration::from_secs(30);

/// A whole configuration, read and checked; nothing is bound yet.
pub struct Prepared {
    direction: Direction,
    listen: Vec<SocketAddr>,
    metrics: Option<SocketAddr>,
    audit: Option<audit::Options>,
    reload: serve::Reload,
    files: Vec<String>,
    limits: Limits,
    drain_timeout: Duration,
    relay_probe: Option<String>,
    warnings: Vec<String>,
    /// What it does, in lines for people.
    summary: Vec<String>,
}

impl Prepared {
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
    pub async fn reach_out(&self) -> Result<(), Failure> {
        match &self.direction {
            Direction::Outbound(site) => say_how_dnssec_goes(site).await,
            Direction::Inbound(_) => Ok(()),
        }
    }

    /// Opens the audit log and binds the sockets; needs the runtime.
    ///
    /// # Errors
    /// In words.
    pub async fn bind(self) -> Result<Plan, String> {
        let Self {
            direction,
            listen,
            metrics,
            audit,
            reload,
            files,
            limits,
            ..
        } = self;
        let intercept = common(&direction).intercept;
        let audit = match audit {
            Some(options) => Some(Arc::new(
                AuditLog::open(options).map_err(|error| error.to_string())?,
            )),
            None => None,
        };
        let listeners = serve::listeners(&listen, intercept)?;
        let metrics_listener = metrics
            .map(|address| {
                metrics_page::bind(address)
                    .map_err(|error| format!("cannot listen on {address}: {error}"))
            })
            .transpose()?;
        let listening: Vec<u16> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .map(|own| own.port())
            .collect();
        let direction = with_common(direction, |common| {
            common.audit = audit.clone();
            common.listening = listening.clone().into();
        });
        for warning in &self.warnings {
            log::warn!("{warning}");
        }
        let which = match &direction {
            Direction::Outbound(_) => audit::Direction::Outbound,
            Direction::Inbound(_) => audit::Direction::Inbound,
        };
        records::started(common(&direction), which);
        let (drain_timeout, relay_probe) = (self.drain_timeout, self.relay_probe);
        Ok(Plan {
            listeners,
            metrics_listener,
            direction,
            reload,
            files,
            limits,
            drain_timeout,
            relay_probe,
        })
    }
}

/// Where DANE counts on signatures that no resolver gives, nothing is started: the unit tries again, since one forged answer at a
/// start must not stop mail for good.
async fn say_how_dnssec_goes(site: &Outbound) -> Result<(), Failure> {
    let by_address = site.upstream.as_ref().is_some_and(|to| to.ip().is_some());
    if by_address {
        return Ok(());
    }
    match site.lookup.signatures().await {
        Signatures::NotUsed => {}
        Signatures::Come { words, faults } => {
            log::info!("{words}");
            faults.iter().for_each(|fault| log::warn!("{fault}"));
        }
        Signatures::Silence(words) => log::error!("{words}"),
        Signatures::CannotBeHad(words) => return Err(Failure::Temporary(words)),
    }
    Ok(())
}

fn common(direction: &Direction) -> &Common {
    match direction {
        Direction::Outbound(site) => &site.common,
        Direction::Inbound(site) => &site.common,
    }
}

/// The sites are not shared with anybody yet where this is called.
fn with_common(direction: Direction, change: impl Fn(&mut Common)) -> Direction {
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

fn wrong(words: impl Into<String>) -> Failure {
    Failure::Configuration(words.into())
}

fn parsed<T: std::str::FromStr<Err = String>>(
    flag: &str,
    word: Option<&str>,
) -> Result<Option<T>, Failure> {
    word.map(|word| {
        word.parse()
            .map_err(|words| Failure::Usage(format!("--{flag}: {words}")))
    })
    .transpose()
}

fn words_of(failure: Failure) -> String {
    match failure {
        Failure::Usage(words) | Failure::Configuration(words) | Failure::Temporary(words) => words,
        Failure::No => String::from("no"),
    }
}

fn where_to(intercept: bool, upstream: Option<&str>) -> Result<Option<Upstream>, Failure> {
    match (intercept, upstream) {
        (true, Some(_)) => Err(Failure::Usage("--intercept and --upstream exclude each other: one says where mail goes".into())),
        (false, None) => Err(Failure::Usage(
            "nothing says where mail goes\nhint: --intercept tproxy on a router, --upstream HOST for a fixed server".into(),
        )),
        (_, upstream) => upstream.map(Upstream::parse).transpose().map_err(Failure::Usage),
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
) -> Result<ClientOptions, Failure> {
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
) -> Result<Settings, Failure> {
    let level = parsed::<Level>("level", level)?.unwrap_or(Level::Verify);
    let refuse_with = match refuse_with {
        None | Some("defer") => RefuseWith::Defer,
        Some("reject") => RefuseWith::Reject,
        Some(word) => {
            return Err(Failure::Usage(format!(
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
) -> Result<Lookup, Failure> {
    Lookup::new(lookup::Options {
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

/// Reads the table, with the files it names.
///
/// # Errors
/// All that is wrong with it, with file, line and column.
pub fn table_of(
    path: Option<&Path>,
    exempt: &[String],
) -> Result<(Table, Option<audit::PolicyFile>), Failure> {
    let Some(path) = path else {
        let policy =
            (!exempt.is_empty()).then(|| records::policy_file("", b"", &Table::default(), exempt));
        return Ok((Table::default(), policy));
    };
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("{name}: {error}")))?;
    let table = Table::parse(&name, &text, &mut |file| {
        crate::tls::anchors_in(Path::new(file))
    })
    .map_err(|errors| {
        wrong(
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        )
    })?;
    let policy = records::policy_file(&name, text.as_bytes(), &table, exempt);
    Ok((table, Some(policy)))
}

/// DANE is what `--no-dane` switches off, for every line of the table.
fn no_dane_lines(table: &Table, path: Option<&Path>, settings: &Settings) -> Result<(), Failure> {
    let mut lines = table.entries().iter();
    let line = lines.find(|entry| matches!(entry.level, Level::Dane | Level::DaneOnly));
    match (line, path) {
        (Some(entry), Some(path)) if !settings.dane => Err(wrong(format!(
            "{}:{}: level {} cannot be had with --no-dane; leave that away, or change the line",
            path.display(),
            entry.line,
            entry.level
        ))),
        _ => Ok(()),
    }
}

fn table_warnings(table: &Table, path: Option<&Path>) -> Vec<String> {
    let file = path
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    table
        .expired(clock::wall())
        .map(|entry| {
            format!(
                "{file}:{}: the entry is past its until= date and does not apply any more",
                entry.line
            )
        })
        .collect()
}

/// Two descriptors a session, and some for files and look-ups. Running out refuses sessions and nothing worse.
fn descriptors(sessions: usize) -> Option<String> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let limit: usize = line.split_whitespace().nth(3)?.parse().ok()?;
    let wanted = 2 * sessions + 64;
    (limit < wanted).then(|| {
        format!("{limit} open files are too few for --max-sessions {sessions}; raise LimitNOFILE= (ulimit -n) to {wanted}")
    })
}

/// `--hostname`, else this host's.
///
/// # Errors
/// What was given is no host name.
pub fn hostname(given: Option<&str>) -> Result<String, Failure> {
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
        None => Err(Failure::Usage(format!(
            "--hostname: '{name}' is no host name"
        ))),
    }
}

/// SHA-256 over the command line and the files it names, without keys.
fn configuration(files: &[PathBuf]) -> Result<Arc<str>, Failure> {
    let mut context = digest::Context::new(&digest::SHA256);
    for argument in std::env::args().skip(1) {
        context.update(argument.as_bytes());
        context.update(&[0]);
    }
    for file in files {
        let bytes =
            fs::read(file).map_err(|error| wrong(format!("{}: {error}", file.display())))?;
        context.update(digest::digest(&digest::SHA256, &bytes).as_ref());
    }
    Ok(audit::hex(context.finish().as_ref()).into())
}

fn audit_of(
    file: Option<&PathBuf>,
    key: Option<&PathBuf>,
    addresses: Option<&str>,
    hostname: &str,
    word: &str,
) -> Result<Option<audit::Options>, Failure> {
    let form = parsed::<audit::AddressForm>("audit-addresses", addresses)?.unwrap_or_default();
    let Some(file) = file else {
        if key.is_some() || addresses.is_some() {
            return Err(Failure::Usage(
                "--audit-key and --audit-addresses say how --audit-log is written: give that, too"
                    .into(),
            ));
        }
        return Ok(None);
    };
    let mut options = audit::Options::new(file.clone(), format!("{hostname}/{word}"));
    options.key = key.cloned();
    options.addresses = form;
    options
        .check_key()
        .map_err(|error| wrong(error.to_string()))?;
    options.notice = Box::new(|notice| match notice {
        audit::Notice::Failing(_) => log::error!("{notice}"),
        audit::Notice::Torn(_) | audit::Notice::Recovered { .. } => log::warn!("{notice}"),
        audit::Notice::Checkpoint(_) => log::info!("{notice}"),
    });
    Ok(Some(options))
}

fn names(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .map(|file| file.display().to_string())
        .collect()
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

fn policy_line(policy: &audit::PolicyFile) -> String {
    format!(
        "policy: {}: {} entries, {} ways to plaintext",
        policy.file,
        policy.entries,
        policy.exemptions.len()
    )
}

fn evidence_line(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("audit log: {}", path.display()),
        None => String::from("audit log: none kept (--audit-log)"),
    }
}
