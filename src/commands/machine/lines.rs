//! The command lines that put interception on by hand, and the reason for each. Where the units are installed, they do the same.

use super::interfaces::NetInterface;
use crate::net::Intercept;

/// The mark of packets that are delivered here whatever their address.
pub(in crate::commands) const MARK: u32 = 0x19;
/// The routing table that delivers them.
pub(in crate::commands) const TABLE: u32 = 100;
/// Place of the rule for the mark among the routing rules, and of the lock behind it.
const MARK_PLACE: u32 = 24;
const LOCK_PLACE: u32 = 26;

/// A command line for a shell.
pub(in crate::commands) type CommandLine = String;

fn nft(words: &str) -> CommandLine {
    format!("nft '{words}'")
}

/// Names as an nft set. An interface's name has no quote and no white space that nft would read otherwise.
fn set(interfaces: &[&str]) -> String {
    let quoted: Vec<String> = interfaces
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect();
    format!("{{ {} }}", quoted.join(", "))
}

/// Hands port 25 of these interfaces to the port where the proxy listens.
pub(in crate::commands) fn hand_over(
    intercept: Intercept,
    interfaces: &[&str],
    port: u16,
) -> Vec<CommandLine> {
    let from = set(interfaces);
    let table = nft("add table inet starttls_proxy");
    match intercept {
        Intercept::Tproxy => vec![
            table,
            nft(
                "add chain inet starttls_proxy divert { type filter hook prerouting priority mangle; policy accept; }",
            ),
            nft(&format!(
                "insert rule inet starttls_proxy divert meta l4proto {{ tcp, icmp, icmpv6 }} socket transparent 1 socket wildcard 0 meta mark set {MARK:#x} accept"
            )),
            nft(&format!(
                "add rule inet starttls_proxy divert iifname {from} tcp dport 25 tproxy to :{port} meta mark set {MARK:#x} accept"
            )),
        ],
        Intercept::Redirect => vec![
            table,
            nft(
                "add chain inet starttls_proxy intercept { type nat hook prerouting priority dstnat; policy accept; }",
            ),
            nft(&format!(
                "add rule inet starttls_proxy intercept iifname {from} tcp dport 25 redirect to :{port}"
            )),
        ],
    }
}

/// The first lock: port 25 of these interfaces is never forwarded. It is a chain of its own, because what another chain accepts
/// still has to pass this one.
pub(in crate::commands) fn fail_closed(interfaces: &[&str]) -> Vec<CommandLine> {
    let from = set(interfaces);
    vec![
        nft("add table inet starttls_proxy"),
        nft(
            "add chain inet starttls_proxy closed { type filter hook forward priority filter; policy accept; }",
        ),
        nft(&format!(
            "add rule inet starttls_proxy closed iifname {from} tcp dport 25 reject with tcp reset"
        )),
    ]
}

/// What delivers marked packets here, in one family. `protocol kernel` keeps systemd-networkd from removing it.
pub(in crate::commands) fn mark_rule(is_v6: bool, mark: u32) -> CommandLine {
    let family = family(is_v6);
    format!(
        "ip {family} rule add pref {MARK_PLACE} fwmark {mark:#x} lookup {TABLE} protocol kernel"
    )
}

/// The route of the table that the mark's rule names.
pub(in crate::commands) fn mark_route(is_v6: bool, table: &str) -> CommandLine {
    let family = family(is_v6);
    format!("ip {family} route replace local default dev lo table {table} protocol kernel")
}

/// The second lock: the routing refuses port 25 of this interface. No flush of nft rules touches it.
pub(in crate::commands) fn second_lock(is_v6: bool, interface: &str) -> CommandLine {
    let family = family(is_v6);
    format!(
        "ip {family} rule add pref {LOCK_PLACE} iif {interface} ipproto tcp dport 25 prohibit protocol kernel"
    )
}

fn family(is_v6: bool) -> &'static str {
    if is_v6 { "-6" } else { "-4" }
}

/// The interfaces that mail of one direction comes in by: outgoing mail where no default route leads, incoming mail where one does.
pub(in crate::commands) fn guessed(interfaces: &[NetInterface], outbound: bool) -> Vec<&str> {
    // An interface without an address carries no mail, unless `ip` is not there to show the addresses.
    let shown = interfaces.iter().any(|one| !one.addresses.is_empty());
    let used = interfaces
        .iter()
        .filter(|one| !shown || !one.addresses.is_empty());
    let wanted = used.filter(|one| one.is_outside != outbound);
    wanted.map(|one| one.name.as_str()).collect()
}
