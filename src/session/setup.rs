//! What all sessions of a process share: flags, files and memory. It is made at start and at each reload. A session keeps the setup
//! it began with.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    clients::AllowedClients, credentials::UpstreamLogin, handshakes::Handshakes,
    memory::HostMemory, networks::TriedNetworks, write_budget::WriteBudget,
};
use crate::{
    audit::{AuditLog, PolicyField},
    lookup::Lookup,
    metrics::{self, Metrics},
    net::{Dial, Intercept, ServerAddr, proxy_header::Version},
    policy::{Prefix, Settings, table::Table},
    tls::{ClientTls, ServerTls},
    tlsrpt::Tlsrpt,
};

/// The part of the setup that both directions have. A reload keeps most of it.
#[derive(Clone)]
pub struct CommonSetup {
    /// `--hostname`: this proxy's name in greetings, and in the EHLO that it sends for itself.
    pub hostname: String,
    /// SHA-256 of everything that configures the process, 64 hexadecimal digits.
    pub configuration: Arc<str>,
    /// How connections to servers are made.
    pub dial: Dial,
    /// `--intercept`.
    pub intercept: Option<Intercept>,
    /// `--keep-client-address`.
    pub keep_client_address: bool,
    /// `--observe`.
    pub observe: bool,
    /// `--add-received`.
    pub add_received: bool,
    /// Ports that this process listens on.
    pub listening: Arc<[u16]>,
    /// The policy table's file as records show it.
    pub policy: Option<Arc<PolicyField>>,
    /// `--audit-log`.
    pub audit: Option<Arc<AuditLog>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How many octets strangers may make this proxy write.
    pub write_budget: Arc<WriteBudget>,
}

impl CommonSetup {
    /// Counts how long a handshake took. `direction` is a word of the session's direction.
    pub(super) fn handshake_took(&self, direction: &str, is_done: bool, took: Duration) {
        let outcome = if is_done { "done" } else { "failed" };
        let labels = [direction, outcome];
        self.metrics.took(metrics::HANDSHAKE_TOOK, &labels, took);
    }
}

/// `--upstream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The host as given: a name, or an address without brackets.
    pub host: String,
    /// The port: by default 25, for `smtps://` 465.
    pub port: u16,
    /// `smtps://`: TLS from the first octet (RFC 8314 §3.3).
    pub implicit_tls: bool,
}

impl Upstream {
    /// Reads `[smtps://]HOST[:PORT]`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (implicit_tls, rest) = match text.split_once("://") {
            Some(("smtps", rest)) => (true, rest),
            Some(("smtp", rest)) => (false, rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "--upstream: '{scheme}://' is neither smtp:// nor smtps://"
                ));
            }
            None => (false, text),
        };
        let default = if implicit_tls { 465 } else { 25 };
        let wrong = || {
            format!(
                "--upstream: '{text}' is not [smtps://]HOST[:PORT] (an IPv6 address stands in brackets)"
            )
        };
        if let Ok(address) = rest.parse::<SocketAddr>() {
            return Ok(Self {
                host: address.ip().to_string(),
                port: address.port(),
                implicit_tls,
            });
        }
        if let Ok(ip) = rest
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            return Ok(Self {
                host: ip.to_string(),
                port: default,
                implicit_tls,
            });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (
                host,
                port.parse()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(wrong)?,
            ),
            None => (rest, default),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let name = crate::smtp::Domain::parse(host).ok_or_else(wrong)?;
        Ok(Self {
            host: name.as_str().to_owned(),
            port,
            implicit_tls,
        })
    }

    /// The server at this address of the host.
    pub(super) fn server(&self, ip: IpAddr) -> ServerAddr {
        ServerAddr((ip, self.port).into())
    }

    /// The host's address, if it was given as one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// From a legacy server inside to the world.
pub struct OutboundSetup {
    /// The part that both directions have.
    pub common: Arc<CommonSetup>,
    /// The host that all mail goes to. `None` when intercepting.
    pub upstream: Option<Upstream>,
    /// `--level`, `--no-dane`, ...
    pub settings: Settings,
    /// `--policy`.
    pub table: Table,
    /// Trust anchors and client certificate.
    pub tls: Arc<ClientTls>,
    /// DNS and MTA-STS.
    pub lookup: Arc<Lookup>,
    /// Faults that hosts had a short while ago.
    pub memory: Arc<HostMemory>,
    /// `--tlsrpt-socket`.
    pub tlsrpt: Option<Arc<Tlsrpt>>,
    /// `--allow-client`: who may send mail through this proxy. `None`: whoever's connection is intercepted.
    pub clients: Option<AllowedClients>,
    /// How many octets strangers, who may not, can make this proxy write.
    pub strangers: Arc<WriteBudget>,
    /// `--upstream-auth`.
    pub login: Option<Arc<UpstreamLogin>>,
}

impl OutboundSetup {
    /// Whether TLS begins with the first octet, so that no session can be in the clear.
    pub(super) fn implicit_tls(&self) -> bool {
        let upstream = self.upstream.as_ref();
        upstream.is_some_and(|upstream| upstream.implicit_tls)
    }
}

/// From the world to a legacy server inside.
pub struct InboundSetup {
    /// The part that both directions have.
    pub common: Arc<CommonSetup>,
    /// The inside server. `None` when intercepting.
    pub upstream: Option<Upstream>,
    /// `--observe`, and the defaults of all else.
    pub settings: Settings,
    /// `--policy`: entries for senders and clients.
    pub table: Table,
    /// This proxy's certificates. `None`: none is usable, so STARTTLS is answered 454.
    pub tls: Option<ServerTls>,
    /// Looks up the name of the inside server.
    pub lookup: Arc<Lookup>,
    /// `--send-proxy`.
    pub send_proxy: Option<Version>,
    /// `--accept-proxy`.
    pub accept_proxy: Vec<Prefix>,
    /// `--exempt`.
    pub exempt: Vec<Prefix>,
    /// `--max-handshakes`.
    pub handshakes: Handshakes,
    /// Networks whose handshakes failed a short while ago.
    pub tried: Arc<TriedNetworks>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_read_as_it_is_written() {
        let read = |text: &str| Upstream::parse(text).map(|u| (u.host, u.port, u.implicit_tls));
        assert_eq!(
            read("relay.example"),
            Ok(("relay.example".into(), 25, false))
        );
        assert_eq!(
            read("Relay.Example.:587"),
            Ok(("relay.example".into(), 587, false))
        );
        assert_eq!(
            read("smtps://relay.example"),
            Ok(("relay.example".into(), 465, true))
        );
        assert_eq!(
            read("[2001:db8::1]:26"),
            Ok(("2001:db8::1".into(), 26, false))
        );
        assert_eq!(read("[2001:db8::1]"), Ok(("2001:db8::1".into(), 25, false)));
        assert_eq!(read("192.0.2.1"), Ok(("192.0.2.1".into(), 25, false)));
        for wrong in [
            "",
            "relay.example:0",
            "relay.example:x",
            "http://relay.example",
            "re lay",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
