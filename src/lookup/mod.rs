//! Everything that is looked up about a domain: its MX, address and TLSA records with their DNSSEC state, and its MTA-STS policy.
//!
//! [`Lookup::gather`] returns [`Findings`]; `policy` decides what they mean. An error is never an absence: a question without a
//! usable answer is `Failed`, an answer that validation proved false is `Bogus`.

mod cache;
mod dns;
mod dnssec;
mod dnssec_support;
mod domain_state;
mod fetch_limits;
mod hosts;
pub(crate) mod hosts_file;
mod http;
mod https;
mod post;
mod resolver_config;
mod store;
mod sts;

use crate::{
    clock, files,
    metrics::Metrics,
    policy::{Dns, Findings, MxHost, Needs, Security, Sts},
    smtp::Domain,
};
use cache::Cache;
use dns::{Rdata, RecordType, Resolve};
pub use dnssec_support::DnssecSupport;
use hosts::DomainLookup;
pub use post::HttpUrl;
pub(crate) use post::{HttpAnswer, HttpQuestion, HttpRoots};
use resolver_config::ResolverConfig;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use sts::StsCache;
pub use sts::StsEntry;

/// Time for all questions of one decision. What is not answered by then is `Failed`.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time to fetch one MTA-STS policy. It is longer than a decision waits, so that the next decision finds the policy.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);
/// The file that names the system's resolvers.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How to look things up.
pub struct LookupOptions {
    /// `--resolver`, or what [`system_resolvers`] found.
    pub resolvers: Vec<SocketAddr>,
    /// DNSSEC is validated. Without it (`--no-dane`) every answer counts as unsigned, and no resolver is asked for signatures.
    pub dnssec: bool,
    /// `--dnssec-anchor`: a file of DS or DNSKEY records in zone file format; `None`: the root keys of IANA.
    pub anchor: Option<PathBuf>,
    /// `--state-dir`: where MTA-STS policies outlive a restart.
    pub state_dir: Option<PathBuf>,
    /// Port of MTA-STS policy hosts: 443, except in tests.
    pub https_port: u16,
    /// MTA-STS policy hosts may have private and loopback addresses; for test zones.
    pub allow_private: bool,
    /// Trust anchors for MTA-STS policy hosts.
    pub roots: Arc<rustls::RootCertStore>,
}

/// Asks questions and remembers the answers. One for the whole process; needs a running tokio runtime.
pub struct Lookup {
    dns: Arc<Cache>,
    sts: Arc<StsCache>,
    config: RwLock<Arc<ResolverConfig>>,
}

/// What a reload has read: the resolvers, the DNSSEC trust anchor, and the trust anchors for policy hosts.
pub struct Renewal {
    config: Arc<ResolverConfig>,
    resolver: Arc<dyn Resolve>,
    tls: Arc<rustls::ClientConfig>,
}

/// The resolvers that `/etc/resolv.conf` names.
///
/// # Errors
/// In words, with the file's name, if it cannot be used.
pub fn system_resolvers() -> Result<Vec<SocketAddr>, String> {
    let text = files::text(Path::new(RESOLV_CONF), files::SMALL)
        .map_err(|error| format!("{RESOLV_CONF}: {error}, name a resolver with --resolver"))?;
    dns::name_servers(RESOLV_CONF, &text)
}

impl Lookup {
    /// Reads the configuration; asks nothing yet.
    ///
    /// DNSSEC is validated in this process. The AD bit of an answer is never believed, wherever the resolver is: it claims that the
    /// answer was validated, and nothing shows whether that is true.
    ///
    /// # Errors
    /// In words, with the file's name, if the anchor or the state directory cannot be used.
    pub fn new(options: LookupOptions) -> Result<Self, String> {
        Self::build(options, ResolverConfig::resolver)
    }

    /// Uses a resolver with made-up answers.
    #[cfg(test)]
    fn with_resolver(options: LookupOptions, resolver: Arc<dyn Resolve>) -> Result<Self, String> {
        Self::build(options, |_| Ok(resolver))
    }

    fn build(
        options: LookupOptions,
        resolver: impl FnOnce(&ResolverConfig) -> Result<Arc<dyn Resolve>, String>,
    ) -> Result<Self, String> {
        let config = ResolverConfig {
            resolvers: options.resolvers,
            anchor: options.anchor,
            dnssec: options.dnssec,
        };
        let dns = Arc::new(Cache::new(resolver(&config)?));
        let store = options
            .state_dir
            .as_deref()
            .map(store::PolicyStore::open)
            .transpose()?;
        let client = https::PolicyClient {
            port: options.https_port,
            tls: Arc::new(https::client_config(options.roots)?).into(),
            patience: FETCH_PATIENCE,
        };
        let sts = StsCache::new(Arc::clone(&dns), client, options.allow_private, store)?;
        let sts = Arc::new(sts);
        let config = RwLock::new(Arc::new(config));
        Ok(Self { dns, sts, config })
    }

    /// Counts look-ups there from now on. Only the first call counts.
    pub(crate) fn count_in(&self, metrics: Arc<Metrics>) {
        self.dns.count_in(metrics);
    }

    /// Reads `--dnssec-anchor` again, for a reload. Nothing changes before [`adopt`](Self::adopt); `resolvers` are asked from then on
    /// (`None`: the same as before), and `roots` are the new trust anchors for policy hosts.
    ///
    /// # Errors
    /// The errors of [`Lookup::new`].
    pub fn renewal(
        &self,
        resolvers: Option<Vec<SocketAddr>>,
        roots: Arc<rustls::RootCertStore>,
    ) -> Result<Renewal, String> {
        let old = self.config();
        let config = ResolverConfig {
            resolvers: resolvers.unwrap_or_else(|| old.resolvers.clone()),
            anchor: old.anchor.clone(),
            dnssec: old.dnssec,
        };
        Ok(Renewal {
            resolver: config.resolver()?,
            config: Arc::new(config),
            tls: Arc::new(https::client_config(roots)?),
        })
    }

    /// Uses what a reload has read. Answers of the old resolvers and those that were validated with the old anchors are forgotten, and
    /// so are failures to fetch a policy; policies that were fetched stay. Returns whether other resolvers are asked from now on.
    pub fn adopt(&self, renewal: Renewal) -> bool {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let others = config.resolvers != renewal.config.resolvers;
        *config = renewal.config;
        drop(config);
        self.dns.ask_instead(renewal.resolver);
        self.sts.trust_instead(renewal.tls);
        others
    }

    fn config(&self) -> Arc<ResolverConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything about `domain` that `needs` names, within 30 s. What is not answered by then is `Failed`.
    pub async fn gather(&self, domain: &Domain, needs: Needs) -> Findings {
        let asking = self.asking();
        let mx = async {
            if needs.mx || needs.tlsa {
                asking.mx(domain, needs.tlsa.then_some(25)).await
            } else {
                (Dns::NotAsked, None)
            }
        };
        let sts = async {
            if !needs.sts {
                return Sts::NotAsked;
            }
            let (sts, end) = self.sts.policy(domain, asking.deadline).await;
            end.into_iter().for_each(|end| asking.ends(end));
            sts
        };
        let ((mx, expanded), sts) = tokio::join!(mx, sts);
        Findings {
            mx,
            expanded,
            sts,
            age: asking.age(),
            fresh_for: asking.fresh_for(),
        }
    }

    /// What is known about the `--upstream` host; see [`host`](Self::host).
    pub async fn upstream(&self, name: &str, tlsa_port: Option<u16>) -> Findings {
        let asking = self.asking();
        let host = Self::fixed(&asking, name, tlsa_port).await;
        Findings {
            fresh_for: asking.fresh_for(),
            ..Findings::of_upstream(host)
        }
    }

    /// A fixed host (`--upstream`): its addresses, and its TLSA records at `tlsa_port` if that is given.
    /// An IP address is used as it is, and a name in `/etc/hosts` with the addresses there: neither has TLSA records.
    pub async fn host(&self, name: &str, tlsa_port: Option<u16>) -> MxHost {
        Self::fixed(&self.asking(), name, tlsa_port).await
    }

    async fn fixed(asking: &DomainLookup, name: &str, tlsa_port: Option<u16>) -> MxHost {
        let given = match name.parse() {
            Ok(address) => vec![address],
            Err(_) => hosts_file::addresses(Path::new("/etc/hosts"), name),
        };
        if !given.is_empty() {
            return MxHost {
                name: name.to_ascii_lowercase(),
                preference: 0,
                addresses: Dns::Found(given, Security::Insecure),
                missing: None,
                tlsa_base: name.to_ascii_lowercase(),
                tlsa: Dns::NotAsked,
            };
        }
        asking.host(name, 0, tlsa_port).await
    }

    /// The domain's TLSRPT record (`_smtp._tls.<domain>`, RFC 8460 §3), whole. `None`: the domain wants no reports, or there was no
    /// answer.
    pub async fn tlsrpt_record(&self, domain: &Domain) -> Option<String> {
        let name = format!("_smtp._tls.{domain}");
        let Dns::Found(rrset, _) = self.asking().ask(&name, RecordType::Txt).await else {
            return None;
        };
        let mut ours = rrset.records.into_iter().filter_map(|record| match record {
            Rdata::Txt(text) if text.starts_with(b"v=TLSRPTv1;") => Some(text),
            _ => None,
        });
        match (ours.next(), ours.next()) {
            (Some(text), None) => String::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// Asks each resolver for signatures of the root and of a delegation below it, within 6 s, and reports what the answers show.
    /// For the start and for `check`.
    pub async fn dnssec_support(&self) -> DnssecSupport {
        dnssec_support::survey(&self.config()).await
    }

    /// Asks a service over HTTP, within half a minute beside the look-up of its addresses. `roots` are believed to name its host.
    ///
    /// # Errors
    /// Why there is no answer, in words. Whether an answer is a good one, its status says.
    pub(crate) async fn post(
        &self,
        roots: HttpRoots,
        url: &HttpUrl,
        question: HttpQuestion<'_>,
    ) -> Result<HttpAnswer, String> {
        let addresses = match self.host(url.host(), None).await.addresses {
            Dns::Found(addresses, _) => addresses,
            Dns::Absent(_) | Dns::NotAsked => return Err("the host has no address".into()),
            Dns::Bogus(why) | Dns::Failed(why) => return Err(format!("the host's address: {why}")),
        };
        post::post(roots, url, &addresses, question).await
    }

    /// Refreshes cached MTA-STS policies once a day (RFC 8461 §5.1). Runs in a task of its own and never returns.
    pub async fn refresh_daily(self: Arc<Self>) {
        Arc::clone(&self.sts).refresh_daily().await;
    }

    /// Every cached MTA-STS policy, by domain.
    #[must_use]
    pub fn sts_list(&self) -> Vec<StsEntry> {
        self.sts.list()
    }

    /// Forgets the cached MTA-STS policy of a domain: in memory, on disk, and in other processes that use the same directory.
    /// Returns false if there was none.
    ///
    /// # Errors
    /// A file could not be written or removed.
    pub fn sts_purge(&self, domain: &Domain) -> Result<bool, String> {
        self.sts.purge(domain)
    }

    fn asking(&self) -> Arc<DomainLookup> {
        let deadline = clock::instant() + PATIENCE;
        Arc::new(DomainLookup::new(Arc::clone(&self.dns), deadline))
    }
}

#[cfg(test)]
mod tests;
