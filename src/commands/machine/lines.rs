//! The command lines that put interception on by hand, and the reason for each. Where the units are installed, they do the same.

use super::{interfaces::NetInterface, programs::shell_word};
use crate::net::Intercept;

/// The mark of packets that are delivered here whatever their address.
pub(in crate::commands) const MARK: u32 = 0x19;
/// The routing table that delivers them.
pub(in crate::commands) const TABLE: u32 = 100;
/// Place of the rule for the mark among the routing rules, and of the lock behind it.
pub(in crate::commands) const MARK_PLACE: u32 = 24;
pub(in crate::commands) const LOCK_PLACE: u32 = 26;

/// A command line for a shell.
pub(in crate::commands) type CommandLine = String;

fn nft(words: &str) -> CommandLine {
    format!("nft '{words}'")
}

/// Whether an interface's name can stand in rules, in the files of the units and in command lines, and means this interface only.
/// The kernel takes nearly any octet in a name; nft and shells read some of them in ways of their own. `interception` takes the same
/// names.
pub(in crate::commands) fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !name.is_empty() && name.chars().all(is_plain)
}

/// What to do about an interface whose name is not plain.
pub(in crate::commands) fn rename(name: &str) -> String {
    format!(
        "the interface '{name}' cannot stand in rules: give it a name of letters, digits, '_', '.' and '-' (with systemd: Name= in a \
         .link file)"
    )
}

/// Names as an nft set; `None` where there is no plain one.
fn set(interfaces: &[&str]) -> Option<String> {
    let plain = interfaces.iter().filter(|name| is_plain(name));
    let quoted: Vec<String> = plain.map(|name| format!("\"{name}\"")).collect();
    (!quoted.is_empty()).then(|| format!("{{ {} }}", quoted.join(", ")))
}

/// Hands port 25 of these interfaces to the port where the proxy listens.
pub(in crate::commands) fn hand_over(
    intercept: Intercept,
    interfaces: &[&str],
    port: u16,
) -> Vec<CommandLine> {
    let Some(from) = set(interfaces) else {
        return Vec::new();
    };
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
    let Some(from) = set(interfaces) else {
        return Vec::new();
    };
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
    let (family, interface) = (family(is_v6), shell_word(interface));
    format!(
        "ip {family} rule add pref {LOCK_PLACE} iif {interface} ipproto tcp dport 25 prohibit protocol kernel"
    )
}

/// The flag of `ip` for a family.
pub(in crate::commands) fn family(is_v6: bool) -> &'static str {
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

/// Ends a switch of IPv4 of an interface. In a key of sysctl, a dot of the name is a slash (sysctl.d(5)).
pub(in crate::commands) fn switched_off(interface: &str, switch: &str) -> CommandLine {
    let name = interface.replace('.', "/");
    let setting = shell_word(&format!("net.ipv4.conf.{name}.{switch}=0"));
    format!("sysctl -w {setting}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel takes as names.
    const NAMES: [&str; 12] = [
        "a'b",
        "a\"b",
        "a%sb",
        "a$b",
        "$(id)",
        "a`b",
        "a;b",
        "a*",
        "a\\b",
        "\u{1b}[2J",
        "e@f",
        "a&b",
    ];

    #[test]
    fn a_name_that_nft_or_a_shell_reads_in_a_way_of_its_own_stands_in_no_rule() {
        for name in NAMES {
            assert!(!is_plain(name), "{name}");
            let lines = [
                hand_over(Intercept::Tproxy, &[name], 2525),
                hand_over(Intercept::Redirect, &[name], 2525),
                fail_closed(&[name]),
            ];
            assert_eq!(lines.concat(), Vec::<String>::new(), "{name}");
            let beside = fail_closed(&["eth1", name]).concat();
            assert!(beside.contains("iifname { \"eth1\" } tcp"), "{beside}");
        }
        for name in ["eth0", "eth0.25", "br-lan", "wg_1", "enp1s0f0np0"] {
            assert!(is_plain(name), "{name}");
        }
    }

    #[test]
    fn a_shell_gives_ip_and_sysctl_the_name_as_it_is() {
        for name in NAMES {
            let said = |line: String| {
                let line = line.replacen("ip -4", "printf '%s\\n'", 1);
                let line = line.replacen("sysctl -w", "printf '%s\\n'", 1);
                let shell = std::process::Command::new("sh")
                    .arg("-c")
                    .arg(&line)
                    .output();
                let words = String::from_utf8(shell.expect("a shell").stdout).expect("text");
                words.lines().map(str::to_owned).collect::<Vec<_>>()
            };
            assert!(said(second_lock(false, name)).contains(&name.to_owned()));
            let setting = format!("net.ipv4.conf.{name}.rp_filter=0");
            assert_eq!(said(switched_off(name, "rp_filter")), [setting]);
        }
        let vlan = switched_off("eth0.25", "src_valid_mark");
        assert_eq!(vlan, "sysctl -w net.ipv4.conf.eth0/25.src_valid_mark=0");
    }
}
