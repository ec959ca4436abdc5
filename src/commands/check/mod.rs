//! `check DOMAIN...`: what each mail exchanger of a domain shows, what is demanded of it, and what mail would get, word for word.
//! No mail is sent.

mod page;
mod probe;
mod upstream;

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

pub(super) use self::page::cached_policy_words;
use self::{page::clean, probe::CheckedAddress};
pub use self::{probe::Checker, upstream::CheckedUpstream};
use super::runtime;
use crate::{
    clock, configure,
    exit::Exit,
    files,
    flags::CheckFlags,
    lookup::DnssecSupport,
    net::Dial,
    policy::{Ask, Dns, Findings, MxHost, Needs, NextHop, needs, table::TablePurpose},
    session::{
        credentials::{UpstreamLogin, located},
        setup::Upstream,
    },
    smtp::{Domain, Recipient},
    tls::ClientTls,
};

/// Longest duration of one connection attempt.
const CONNECT: Duration = Duration::from_secs(15);
/// About the longest duration of everything with one address.
const PATIENCE: Duration = Duration::from_secs(40);
/// Number of domains that are checked at the same time.
const AT_ONCE: usize = 8;
/// Number of addresses of one domain that are asked. A domain with more needs no further proof.
const ADDRESSES: usize = 20;

/// A domain and what mail for it would get.
pub struct CheckedDomain {
    domain: Domain,
    findings: Arc<Findings>,
    hosts: Vec<(MxHost, Vec<CheckedAddress>)>,
    /// The decision in place of addresses, where there is no host to ask.
    unasked: Option<CheckedAddress>,
}

impl CheckedDomain {
    /// Asks all mail exchangers of `domain`.
    pub async fn new(domain: Domain, checker: &Checker) -> Self {
        // The page shows the MX hosts whatever decides about mail. What decides may need other facts, too.
        let ask = Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
            server: [0, 0, 0, 0].into(),
            port: checker.port,
        };
        let entry = checker.table.find(&ask, clock::wall());
        let needs = Needs {
            mx: true,
            ..needs(&ask, entry, &checker.settings)
        };
        let findings = Arc::new(checker.lookup.gather(&domain, needs).await);
        let mut checked = Vec::new();
        let mut left = ADDRESSES;
        if let Dns::Found(mx, _) = &findings.mx {
            for host in mx.hosts() {
                let mut of_host = Vec::new();
                if let Dns::Found(addresses, _) = &host.addresses {
                    for address in addresses.iter().take(left) {
                        of_host.push(checker.ask(&domain, *address, &findings).await);
                    }
                    left = left.saturating_sub(addresses.len());
                }
                checked.push((host.clone(), of_host));
            }
        }
        let none_asked = checked.iter().all(|(_, addresses)| addresses.is_empty());
        Self {
            unasked: none_asked.then(|| checker.unasked(&domain, &findings)),
            domain,
            findings,
            hosts: checked,
        }
    }

    fn all(&self) -> impl Iterator<Item = &CheckedAddress> {
        let of_hosts = self.hosts.iter().flat_map(|(_, addresses)| addresses);
        of_hosts.chain(&self.unasked)
    }

    /// Mail is refused: no address accepts it. An MTA tries all of them.
    #[must_use]
    pub fn refused(&self) -> bool {
        !self.all().any(|address| address.passes)
    }

    /// Some address refuses mail.
    #[must_use]
    pub fn any_refused(&self) -> bool {
        !self.all().all(|address| address.passes)
    }
}

/// The command.
///
/// # Errors
/// Wrong flags or files; exit 1 if mail for any domain would be refused.
pub(crate) fn check(flags: &CheckFlags) -> Result<(), Exit> {
    let upstream = upstream(flags)?;
    let domains = match upstream {
        Some(_) => Vec::new(),
        None => domains(flags)?,
    };
    let options = configure::client_options(
        &flags.ca_file,
        &flags.client_cert,
        &flags.client_key,
        flags.min_tls.as_deref(),
    )?;
    let settings = configure::settings(
        flags.level.as_deref(),
        flags.refuse_with.as_deref(),
        flags.no_dane,
        flags.no_mta_sts,
        false,
        options.min_tls,
    )?;
    settings.check(upstream.is_some()).map_err(Exit::Usage)?;
    let purpose = match &upstream {
        Some(upstream) => TablePurpose::Upstream(upstream.host.clone(), upstream.port),
        None => TablePurpose::Outbound,
    };
    let table = configure::table_of(flags.policy.as_deref(), Some(&purpose), &settings)?;
    let login = flags.upstream_auth.as_deref().map(|file| {
        let (login, warnings) = UpstreamLogin::read(&located(file))?;
        warnings
            .iter()
            .for_each(|words| eprintln!("warning: {words}"));
        Ok(Arc::new(login))
    });
    let login = login.transpose().map_err(Exit::Configuration)?;
    let tls = ClientTls::new(&options).map_err(Exit::Configuration)?;
    let hostname = configure::hostname(flags.hostname.as_deref())?;
    runtime()?.block_on(async {
        let lookup = configure::lookup_of(
            &flags.resolver,
            settings.dane,
            flags.dnssec_anchor.as_ref(),
            flags.state_dir.as_ref(),
            flags.mta_sts_private,
            &tls.trust,
        )?;
        let checker = Checker {
            hostname,
            dial: Dial::new(None, CONNECT),
            tls: Arc::new(tls),
            settings,
            table,
            lookup: Arc::new(lookup),
            port: 25,
            patience: PATIENCE,
            upstream,
            login,
        };
        if let DnssecSupport::Missing(words) = checker.lookup.dnssec_support().await {
            let words = clean(&words);
            match flags.json {
                true => eprintln!("starttls-proxy: {words}"),
                false => println!("{words}"),
            }
        }
        // The page says what the log of a session would say.
        log::set_max_level(log::LevelFilter::Error);
        if let Some(upstream) = &checker.upstream {
            return check_upstream(upstream, &checker, flags.json).await;
        }
        check_all(domains, Arc::new(checker), flags.json).await
    })
}

/// `--upstream`, and whether it goes with the other flags.
fn upstream(flags: &CheckFlags) -> Result<Option<Upstream>, Exit> {
    let wrong = |words: &str| Err(Exit::Usage(words.into()));
    match &flags.upstream {
        None if flags.upstream_auth.is_some() => wrong(
            "--upstream-auth: the proxy logs in to its own smart host only; give --upstream HOST",
        ),
        Some(_) if !flags.domains.is_empty() || flags.file.is_some() => wrong(
            "check: give either --upstream or domains; what a smart host gets does not depend on the recipient",
        ),
        host => host
            .as_deref()
            .map(Upstream::parse)
            .transpose()
            .map_err(Exit::Usage),
    }
}

/// Checks the smart host and prints what it showed.
async fn check_upstream(upstream: &Upstream, checker: &Checker, as_json: bool) -> Result<(), Exit> {
    let checked = CheckedUpstream::new(upstream, checker).await;
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = match as_json {
        true => format!("{}\n", checked.json()),
        false => checked.page(colour),
    };
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        return Ok(());
    }
    if checked.refused() {
        Err(Exit::No)
    } else {
        Ok(())
    }
}

fn domains(flags: &CheckFlags) -> Result<Vec<Domain>, Exit> {
    let mut names = flags.domains.clone();
    if let Some(path) = &flags.file {
        let text = files::text(path, files::LARGE)
            .map_err(|error| Exit::Configuration(format!("{}: {error}", path.display())))?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        names.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Exit::Usage(
            "check: name a domain\nhint: starttls-proxy check example.com".into(),
        ));
    }
    let parse = |name: &String| {
        let bare = name
            .rsplit_once('@')
            .map_or(name.as_str(), |(_, domain)| domain);
        Domain::parse(bare.strip_suffix('.').unwrap_or(bare)).ok_or_else(|| {
            Exit::Usage(format!(
                "check: '{name}' is no domain (write international names as xn--...)"
            ))
        })
    };
    names.iter().map(parse).collect()
}

/// Checks the domains and prints each in the order asked for.
async fn check_all(domains: Vec<Domain>, checker: Arc<Checker>, as_json: bool) -> Result<(), Exit> {
    let total = domains.len();
    let progress = total > 1 && std::io::stderr().is_terminal();
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut waiting = domains.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut done: Vec<Option<CheckedDomain>> = (0..total).map(|_| None).collect();
    let (mut printed, mut finished, mut refused) = (0, 0, 0);
    loop {
        while running.len() < AT_ONCE
            && let Some((index, domain)) = waiting.next()
        {
            let checker = Arc::clone(&checker);
            running.spawn(async move { (index, CheckedDomain::new(domain, &checker).await) });
        }
        let Some(joined) = running.join_next().await else {
            break;
        };
        let (index, checked) =
            joined.map_err(|error| Exit::Configuration(format!("a check broke off: {error}")))?;
        finished += 1;
        refused += usize::from(checked.any_refused());
        done[index] = Some(checked);
        if progress {
            eprint!("\r{finished} of {total} domains, {refused} with refusals\x1b[K");
        }
        while let Some(Some(checked)) = done.get(printed) {
            if progress {
                eprint!("\r\x1b[K");
            }
            let text = if as_json {
                format!("{}\n", checked.json())
            } else {
                checked.page(colour)
            };
            if std::io::stdout().write_all(text.as_bytes()).is_err() {
                return Ok(());
            }
            printed += 1;
        }
    }
    if total > 1 && !as_json {
        println!(
            "{total} domains: {} without refusals, {refused} with",
            total - refused
        );
    }
    if refused > 0 { Err(Exit::No) } else { Ok(()) }
}
