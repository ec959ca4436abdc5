//! The network interfaces, and which of them leads to the world.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::programs;

/// An interface other than the loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct NetInterface {
    /// Its name.
    pub(in crate::commands) name: String,
    /// Its addresses with their prefix lengths; empty too where `ip` is not installed.
    pub(in crate::commands) addresses: Vec<String>,
    /// Whether a default route leads through it.
    pub(in crate::commands) is_outside: bool,
}

/// All interfaces of this network namespace.
pub(in crate::commands) fn interfaces() -> Vec<NetInterface> {
    // A name may have any octet but a few; one that is no text must not hide the others.
    let text =
        |file: &str| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let addresses = programs::output("ip", &["-j", "addr"]).unwrap_or_default();
    of(
        &text("/proc/self/net/dev"),
        &text("/proc/self/net/route"),
        &text("/proc/self/net/ipv6_route"),
        &serde_json::from_str(&addresses).unwrap_or_default(),
    )
}

/// Whether this network namespace has IPv6.
pub(in crate::commands) fn has_ipv6() -> bool {
    fs::read_to_string("/proc/self/net/if_inet6").is_ok_and(|text| !text.trim().is_empty())
}

fn of(devices: &str, routes: &str, routes6: &str, shown: &Value) -> Vec<NetInterface> {
    let mut outside: BTreeSet<&str> = BTreeSet::new();
    for line in routes.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
            outside.insert(name);
        }
    }
    for line in routes6.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let nowhere = "00000000000000000000000000000000";
        if let [to, "00", _, _, gateway, .., name] = fields[..]
            && to == nowhere
            && gateway != nowhere
        {
            outside.insert(name);
        }
    }
    let names = devices.lines().filter_map(|line| line.split_once(':'));
    let names = names
        .map(|(name, _)| name.trim())
        .filter(|name| *name != "lo");
    names
        .map(|name| NetInterface {
            name: name.to_owned(),
            addresses: addresses(shown, name),
            is_outside: outside.contains(name),
        })
        .collect()
}

fn addresses(shown: &Value, name: &str) -> Vec<String> {
    let links = shown.as_array().into_iter().flatten();
    let own = links.filter(|link| link["ifname"] == name);
    let all = own.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    all.filter(|address| address["scope"] != "link")
        .filter_map(|address| {
            let (local, length) = (address["local"].as_str()?, address["prefixlen"].as_u64()?);
            Some(format!("{local}/{length}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_interface_with_a_default_route_leads_outside() {
        let devices =
            "Inter-|   Receive\n face |bytes\n    lo: 1 2\n  eth0: 1 2\n  eth1: 1 2\n eth2: 0\n";
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\n\
                      eth1\t0000190A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n";
        let zero = "00000000000000000000000000000000";
        let six = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth2\n\
             {zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n"
        );
        let shown = json!([{"ifname": "eth1", "addr_info": [
            {"local": "10.25.0.1", "prefixlen": 24, "scope": "global"},
            {"local": "fe80::1", "prefixlen": 64, "scope": "link"}]}]);
        let found = of(devices, routes, &six, &shown);
        let words: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.is_outside, one.addresses.join(" ")))
            .collect();
        assert_eq!(
            words,
            [
                ("eth0", true, String::new()),
                ("eth1", false, "10.25.0.1/24".into()),
                ("eth2", true, String::new())
            ]
        );
    }
}
