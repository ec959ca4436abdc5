//! Who may read the page for people.

use std::net::{IpAddr, Ipv6Addr};

use crate::policy::Prefix;

/// Whether the page is for this client.
pub(super) fn may_read(client: IpAddr, readers: &[Prefix]) -> bool {
    client.is_loopback() || readers.iter().any(|prefix| prefix.contains(client))
}

/// Whether `host`, the Host header of a request, is an address, `localhost` or our own name. A browser that was led here by another
/// name runs the scripts of whoever owns that name, and would hand them the page.
pub(super) fn asks_for_us(host: Option<&str>, own: &str) -> bool {
    let Some(host) = host else {
        return false;
    };
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split_once(']');
        return address.is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port))
        });
    }
    let name = match host.rfind(':') {
        Some(colon) if is_port(&host[colon..]) => &host[..colon],
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(own)
}

fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or_default();
    (1..=5).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_localhost_and_our_own_name_are_ours() {
        for ours in [
            "127.0.0.1",
            "127.0.0.1:9100",
            "192.0.2.7:9100",
            "[::1]",
            "[::1]:9100",
            "localhost",
            "LOCALHOST:9100",
            "Proxy.Clinic.Example:9100",
            "proxy.clinic.example.",
        ] {
            assert!(asks_for_us(Some(ours), "proxy.clinic.example"), "{ours}");
        }
        for foreign in [
            "",
            "evil.example",
            "evil.example:9100",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9100",
            "proxy.clinic.example.evil.example",
            "localhost:",
            "localhost:80@evil.example",
            "[::1].evil.example",
            "[evil.example]",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(
                !asks_for_us(Some(foreign), "proxy.clinic.example"),
                "{foreign}"
            );
        }
        assert!(!asks_for_us(None, "proxy.clinic.example"));
    }

    #[test]
    fn the_page_is_for_loopback_and_for_those_who_were_named() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let named = ["192.0.2.0/24".parse().expect("a prefix")];
        assert!(may_read(ip("127.0.0.9"), &[]) && may_read(ip("::1"), &[]));
        assert!(!may_read(ip("192.0.2.7"), &[]));
        assert!(may_read(ip("192.0.2.7"), &named) && !may_read(ip("192.0.3.7"), &named));
    }
}
