//! What the world says about a domain: MX, addresses and TLSA records with their DNSSEC state, and the MTA-STS policy.
//!
//! [`Lookup::gather`] yields [`Findings`]; what they mean is for `policy` to say. An error is never an absence: what could not be
//! asked is `Failed`, what was asked and proved false is `Bogus`.

mod cache;
pub mod dns;
mod dnssec;
mod dnssec_support;
mod fetch_limits;
mod hosts;
pub mod hosts_file;
mod https;
mod store;
mod sts;

use crate::{
    clock, files,
    policy::{Dns, Findings, MxHost, Needs, Security, Sts},
    smtp::Domain,
};
use cache::Cache;
use dns::{Rdata, RecordType, Resolve, Transport, Unvalidated};
use dnssec::Validators;
pub use dnssec_support::DnssecSupport;
use hosts::DomainLookup;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use sts::StsCache;

/// What is not known by then is `Failed`.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one MTA-STS policy; longer than a decision waits, for the next who asks.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);
/// Where the system's resolvers stand.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How to look things up.
pub struct LookupOptions {
    /// `--resolver`; empty: the `nameserver` lines of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// DNSSEC is validated; without it (`--no-dane`) every answer counts as unsigned, and no resolver is asked for signatures.
    pub dnssec: bool,
    /// `--dnssec-anchor`: a file of DS or DNSKEY records in zone file format; `None`: the root keys of IANA.
    pub anchor: Option<PathBuf>,
    /// `--state-dir`: where MTA-STS policies outlive a restart.
    pub state_dir: Option<PathBuf>,
    /// 443, but for tests.
    pub https_port: u16,
    /// MTA-STS policy hosts may have private and loopback addresses; for test zones.
    pub allow_private: bool,
    /// Trust anchors for MTA-STS policy hosts.
    pub roots: Arc<rustls::RootCertStore>,
}

/// Asks, and remembers the answers. One for the whole process; needs a running tokio runtime.
pub struct Lookup {
    dns: Arc<Cache>,
    sts: Arc<StsCache>,
    config: ResolverConfig,
}

/// Who is asked, and what DNSSEC is validated from.
struct ResolverConfig {
    resolvers: Vec<SocketAddr>,
    anchor: Option<PathBuf>,
    dnssec: bool,
}

/// Whom the DNS and policy hosts are believed by after a reload.
pub struct Renewal {
    resolver: Arc<dyn Resolve>,
    tls: Arc<rustls::ClientConfig>,
}

/// A cached MTA-STS policy, for `policy show`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StsEntry {
    /// The policy domain.
    pub domain: String,
    /// The policy with its id and age.
    pub sts: Sts,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// As it was fetched.
    pub text: String,
}

impl Lookup {
    /// Reads the configuration; asks nothing yet.
    ///
    /// DNSSEC is validated here. An AD bit is never believed, wherever the resolver is: it says that somebody claims to have
    /// validated, and no resolver tells whether it does.
    ///
    /// # Errors
    /// In words, with the file's name, where the anchor, `/etc/resolv.conf` or the state directory cannot be used.
    pub fn new(mut options: LookupOptions) -> Result<Self, String> {
        if options.resolvers.is_empty() {
            let text = files::text(Path::new(RESOLV_CONF)).map_err(|error| {
                format!("{RESOLV_CONF}: {error}, name a resolver with --resolver")
            })?;
            options.resolvers = dns::name_servers(RESOLV_CONF, &text)?;
        }
        let config = ResolverConfig {
            resolvers: options.resolvers.clone(),
            anchor: options.anchor.clone(),
            dnssec: options.dnssec,
        };
        let resolver = config.resolver(options.resolvers.clone())?;
        Self::build(options, config, resolver)
    }

    /// With somebody else to answer: for tests.
    ///
    /// # Errors
    /// As [`Lookup::new`].
    pub fn with_resolver(
        options: LookupOptions,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, String> {
        let config = ResolverConfig {
            resolvers: options.resolvers.clone(),
            anchor: options.anchor.clone(),
            dnssec: options.dnssec,
        };
        Self::build(options, config, resolver)
    }

    fn build(
        options: LookupOptions,
        config: ResolverConfig,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, String> {
        let dns = Arc::new(Cache::new(resolver));
        let store = options
            .state_dir
            .as_deref()
            .map(store::Store::open)
            .transpose()?;
        let client = https::PolicyClient {
            port: options.https_port,
            tls: Arc::new(https_config(options.roots)?).into(),
            patience: FETCH_PATIENCE,
        };
        let sts = StsCache::new(Arc::clone(&dns), client, options.allow_private, store)?;
        let sts = Arc::new(sts);
        Ok(Self { dns, sts, config })
    }

    /// Reads `--dnssec-anchor` again and takes these trust anchors for policy hosts; nothing changes before [`adopt`](Self::adopt).
    ///
    /// # Errors
    /// As [`Lookup::new`].
    pub fn renewal(&self, roots: Arc<rustls::RootCertStore>) -> Result<Renewal, String> {
        Ok(Renewal {
            resolver: self.config.resolver(self.config.resolvers.clone())?,
            tls: Arc::new(https_config(roots)?),
        })
    }

    /// Trusts what a reload read. Answers that were validated before, and failures to fetch a policy, are forgotten;
    /// policies that were fetched hold.
    pub fn adopt(&self, renewal: Renewal) {
        self.dns.ask_instead(renewal.resolver);
        self.sts.trust_instead(renewal.tls);
    }

    /// All that `needs` names about `domain`, within 30 s. What was not there by then is `Failed`.
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
            if needs.sts {
                self.sts.policy(domain, asking.deadline).await
            } else {
                Sts::NotAsked
            }
        };
        let ((mx, expanded), sts) = tokio::join!(mx, sts);
        Findings {
            mx,
            expanded,
            sts,
            age: asking.age(),
        }
    }

    /// A fixed host (`--upstream`): its addresses, and its TLSA records at `tlsa_port` where one is given.
    /// An address is taken as it is, and a name in `/etc/hosts` as it stands there: neither has TLSA records.
    pub async fn host(&self, name: &str, tlsa_port: Option<u16>) -> MxHost {
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
        self.asking().host(name, 0, tlsa_port).await
    }

    /// The domain's TLSRPT record (`_smtp._tls.<domain>`, RFC 8460 §3), whole; `None`: it wants no reports, or could not be asked.
    pub async fn tlsrpt_record(&self, domain: &Domain) -> Option<String> {
        let asking = self.asking();
        let answer = asking
            .ask(&format!("_smtp._tls.{domain}"), RecordType::Txt)
            .await;
        let Dns::Found(rrset, _) = answer else {
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

    /// Asks each resolver for signatures of the root and of a delegation below it, within 6 s, and says what the answers show. For a
    /// start and for `check`.
    pub async fn dnssec_support(&self) -> DnssecSupport {
        self.config.dnssec_support().await
    }

    /// Refreshes cached MTA-STS policies once a day (RFC 8461 §5.1); for a task of its own, never returns.
    pub async fn refresh_daily(self: Arc<Self>) {
        Arc::clone(&self.sts).refresh_daily().await;
    }

    /// Every cached MTA-STS policy, by domain.
    #[must_use]
    pub fn sts_list(&self) -> Vec<StsEntry> {
        self.sts.list()
    }

    /// The cached MTA-STS policy of a domain.
    #[must_use]
    pub fn sts_show(&self, domain: &Domain) -> Option<StsEntry> {
        self.sts_list()
            .into_iter()
            .find(|entry| entry.domain == domain.as_str())
    }

    /// Forgets the cached MTA-STS policy of a domain, in memory, on disk, and in other processes that use the same directory; false:
    /// there was none.
    ///
    /// # Errors
    /// A file could not be written or removed.
    pub fn sts_purge(&self, domain: &Domain) -> Result<bool, String> {
        self.sts.purge(domain)
    }

    fn asking(&self) -> Arc<DomainLookup> {
        Arc::new(DomainLookup::new(
            Arc::clone(&self.dns),
            clock::instant() + PATIENCE,
        ))
    }
}

impl ResolverConfig {
    fn resolver(&self, resolvers: Vec<SocketAddr>) -> Result<Arc<dyn Resolve>, String> {
        let anchor = self.anchor.as_deref();
        let validators = Validators::new(resolvers.clone(), anchor)?;
        Ok(match self.dnssec {
            true => Arc::new(validators),
            false => Arc::new(Unvalidated(Transport::new(resolvers))),
        })
    }
}

/// Octets of words that repeat what others sent: enough to tell what it is.
const WORDS: usize = 300;

/// Words of a failure, which go into log and record each time: not longer than is good for them, whatever was sent.
fn bounded(mut words: String) -> String {
    if words.len() > WORDS {
        words.truncate(words.floor_char_boundary(WORDS - 3));
        words += "...";
    }
    words
}

/// TLS towards policy hosts: WebPKI, TLS 1.2 or 1.3 (RFC 8461 §3.3).
fn https_config(roots: Arc<rustls::RootCertStore>) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
