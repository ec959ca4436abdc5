//! Who may send mail through a smart host: `--allow-client`.

use std::{fmt, net::IpAddr};

use crate::policy::Prefix;

/// The clients of a smart host. Anybody else is turned away before a session begins, because a relay that all the world reaches is an
/// open relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedClients {
    /// Nobody was named: this host itself, and addresses that the Internet does not carry.
    Private,
    /// Those in these prefixes.
    Named(Vec<Prefix>),
}

impl AllowedClients {
    /// Whether this client may send mail.
    #[must_use]
    pub fn contains(&self, client: IpAddr) -> bool {
        match self {
            Self::Private => is_private(client.to_canonical()),
            Self::Named(prefixes) => prefixes.iter().any(|prefix| prefix.contains(client)),
        }
    }
}

/// For the start and `--dry-run`.
impl fmt::Display for AllowedClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str(
                "loopback, private and link-local addresses only (--allow-client names others)",
            ),
            Self::Named(prefixes) => {
                let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
                write!(f, "{} only (--allow-client)", prefixes.join(", "))
            }
        }
    }
}

/// Loopback, RFC 1918, RFC 3927, RFC 4193 and IPv6 link-local addresses. Those of RFC 6598 (100.64.0.0/10) are not among them: behind
/// a provider's address translation the neighbours are other customers.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            ip.is_loopback() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(clients: &AllowedClients, text: &str) -> bool {
        clients.contains(text.parse().expect("an address"))
    }

    #[test]
    fn without_names_the_private_addresses_are_meant_and_no_others() {
        for private in [
            "127.0.0.1",
            "127.9.9.9",
            "10.25.0.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.3.4",
            "::1",
            "fd25::2",
            "fc00::1",
            "fe80::1",
            "febf::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(allowed(&AllowedClients::Private, private), "{private}");
        }
        for stranger in [
            "100.64.0.1",
            "172.32.0.1",
            "172.15.255.255",
            "192.169.0.1",
            "192.0.2.1",
            "8.8.8.8",
            "0.0.0.0",
            "2001:db8::1",
            "fec0::1",
            "::",
            "::ffff:8.8.8.8",
        ] {
            assert!(!allowed(&AllowedClients::Private, stranger), "{stranger}");
        }
    }

    #[test]
    fn named_prefixes_take_the_place_of_the_default() {
        let prefix = |text: &str| text.parse().expect("a prefix");
        let named = AllowedClients::Named(vec![prefix("192.0.2.0/24"), prefix("2001:db8::/32")]);
        for inside in ["192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9"] {
            assert!(allowed(&named, inside), "{inside}");
        }
        for stranger in ["127.0.0.1", "10.0.0.1", "192.0.3.1", "fd25::2"] {
            assert!(!allowed(&named, stranger), "{stranger}");
        }
        let words = "192.0.2.0/24, 2001:db8::/32 only (--allow-client)";
        assert_eq!(named.to_string(), words);
    }
}
