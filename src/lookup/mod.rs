//! What the world says about a domain: MX, addresses and TLSA records with their DNSSEC state, and the MTA-STS policy.
//!
//! [`Lookup::gather`] yields [`Findings`]; what they mean is for `policy` to say. An error is never an absence: what could not be
//! asked is `Failed`, what was asked and proved false is `Bogus`.

use crate::{
    policy::{Dns, Findings, Mx, MxHost, Needs, Sts},
    smtp::Domain,
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};

/// How to look things up.
pub struct Options {
    /// `--resolver`; empty: the `nameserver` lines of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
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
    _options: Options,
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
}

impl Lookup {
    /// Reads the configuration; asks nothing yet.
    ///
    /// # Errors
    /// In words, with the file's name, where the anchor, `/etc/resolv.conf` or the state directory cannot be used.
    pub fn new(options: Options) -> Result<Self, String> {
        Ok(Self { _options: options })
    }

    /// All that `needs` names about `domain`, within 30 s. What was not there by then is `Failed`.
    pub async fn gather(&self, domain: &Domain, needs: Needs) -> Findings {
        let _ = (domain, needs);
        Findings {
            mx: Dns::Failed("not implemented".into()),
            expanded: None,
            sts: Sts::NotAsked,
            age: 0,
        }
    }

    /// A fixed host (`--upstream`): its addresses, and its TLSA records at `tlsa_port` where one is given.
    pub async fn host(&self, name: &str, tlsa_port: Option<u16>) -> MxHost {
        let _ = tlsa_port;
        MxHost {
            name: name.to_ascii_lowercase(),
            preference: 0,
            addresses: Dns::Failed("not implemented".into()),
            tlsa_base: name.to_ascii_lowercase(),
            tlsa: Dns::NotAsked,
        }
    }

    /// The domain's TLSRPT record (`_smtp._tls.<domain>`, RFC 8460 §3), whole; `None`: it wants no reports, or could not be asked.
    pub async fn tlsrpt_record(&self, domain: &Domain) -> Option<String> {
        let _ = domain;
        None
    }

    /// Asks the resolvers for the root's keys and says in one line how DNSSEC is validated; `Err`: what is wrong with the
    /// resolver (no answer, strips signatures, anchor does not match) and what to do.
    ///
    /// # Errors
    /// DANE cannot work; every domain's mail would be deferred or treated as unsigned.
    pub async fn self_test(&self) -> Result<String, String> {
        Err("not implemented".into())
    }

    /// Refreshes cached MTA-STS policies once a day (RFC 8461 §5.1); for a task of its own, never returns.
    pub async fn refresh_daily(self: Arc<Self>) {
        std::future::pending().await
    }

    /// Every cached MTA-STS policy.
    pub fn sts_list(&self) -> Vec<StsEntry> {
        Vec::new()
    }

    /// The cached MTA-STS policy of a domain.
    pub fn sts_show(&self, domain: &Domain) -> Option<StsEntry> {
        self.sts_list()
            .into_iter()
            .find(|entry| entry.domain == domain.as_str())
    }

    /// Forgets the cached MTA-STS policy of a domain, in memory and on disk; false: there was none.
    ///
    /// # Errors
    /// The file could not be removed.
    pub fn sts_purge(&self, domain: &Domain) -> Result<bool, String> {
        let _ = domain;
        Ok(false)
    }
}

/// The hosts of an answer, in preference order; none for a null MX.
#[must_use]
pub fn hosts(mx: &Mx) -> &[MxHost] {
    match mx {
        Mx::Null => &[],
        Mx::Hosts(hosts) => hosts,
        Mx::Implicit(host) => std::slice::from_ref(host),
    }
}
