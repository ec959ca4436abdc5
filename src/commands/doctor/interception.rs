//! Is port 25 handed to the proxy, and refused where it cannot be? Do intercepted packets arrive?
//!
//! The firewall's rules are followed as the kernel would follow them, so that it does not matter who wrote them and in which table.

mod input;
mod routes;

use std::{collections::BTreeMap, fs};

use super::{
    super::machine::{
        interfaces::{NetInterface, has_ipv6, interfaces},
        lines, programs,
        ruleset::Ruleset,
        units::{ProxyUnits, ServiceUnit},
        walk::{Journey, Packet},
    },
    finding::{MachineFinding, Remedy},
    service::ProxyService,
};
use crate::net::Intercept;

const ROUTING: &str = "starttls-proxy-routing";

pub(super) fn check(service: &ProxyService, units: &ProxyUnits) -> Vec<MachineFinding> {
    let ruleset = match Ruleset::read() {
        Ok(ruleset) => ruleset,
        Err(words) => return vec![unreadable(service, &words)],
    };
    let families: &[bool] = if has_ipv6() { &[false, true] } else { &[false] };
    let site = Site {
        service,
        units,
        ruleset,
        interfaces: interfaces(),
        families,
    };
    match (service.intercept(), service.ports().first()) {
        (Some(intercept), Some(port)) => site.intercepted(intercept, *port),
        (None, Some(port)) => site.direct(*port),
        (_, None) => Vec::new(),
    }
}

fn unreadable(service: &ProxyService, words: &str) -> MachineFinding {
    const CHECK: &str = "rules";
    if programs::found("nft").is_none() {
        let finding = match service.intercept() {
            Some(_) => MachineFinding::fail(
                CHECK,
                "nft is not installed, so that nothing can be intercepted",
            ),
            None => MachineFinding::warn(
                CHECK,
                "nft is not installed, so that the firewall's rules cannot be read",
            ),
        };
        return finding.run("apt install nftables");
    }
    MachineFinding::warn(
        CHECK,
        format!("the firewall's rules cannot be read: {words}"),
    )
    .run("sudo starttls-proxy doctor")
}

/// A packet that the rules hand to this service.
struct Handed {
    interface: String,
    is_v6: bool,
    journey: Journey,
}

impl Handed {
    fn words(&self) -> String {
        format!("{} of {}", family(self.is_v6), self.interface)
    }
}

struct Site<'a> {
    service: &'a ProxyService,
    units: &'a ProxyUnits,
    ruleset: Ruleset,
    interfaces: Vec<NetInterface>,
    families: &'a [bool],
}

impl Site<'_> {
    fn intercepted(&self, intercept: Intercept, port: u16) -> Vec<MachineFinding> {
        let all = self.interfaces.iter().flat_map(|one| {
            let families = self.families.iter();
            families.map(move |is_v6| (one.name.clone(), *is_v6))
        });
        let handed: Vec<Handed> = all
            .map(|(interface, is_v6)| Handed {
                journey: self.ruleset.journey(
                    "prerouting",
                    Packet::first(&interface, is_v6),
                    false,
                ),
                interface,
                is_v6,
            })
            .filter(|one| match intercept {
                Intercept::Tproxy => one.journey.handed_to == Some(port),
                Intercept::Redirect => {
                    one.journey.packet.is_redirected && one.journey.packet.port == port
                }
            })
            .collect();
        let mut findings = vec![self.rules(intercept, port, &handed)];
        if !handed.is_empty() {
            findings.push(self.first_lock(intercept, &handed));
            findings.extend(self.second_lock(&handed));
        }
        if intercept == Intercept::Tproxy {
            findings.extend(self.routes(&handed));
            findings.extend(self.source_check());
        }
        if !handed.is_empty() {
            findings.push(self.input(&handed));
            findings.extend(self.replies(&handed));
        }
        findings.extend(legacy_rules());
        findings
    }

    fn rules(&self, intercept: Intercept, port: u16, handed: &[Handed]) -> MachineFinding {
        const CHECK: &str = "rules";
        let word = format!("{intercept:?}").to_lowercase();
        if handed.is_empty() {
            return MachineFinding::fail(
                CHECK,
                format!("no firewall rule hands port 25 of any interface here to port {port} ({word}); mail goes past the proxy, or nowhere"),
            )
            .with(self.restore(|inside| lines::hand_over(intercept, inside, port)));
        }
        let mut by_interface: BTreeMap<&str, usize> = BTreeMap::new();
        for one in handed {
            *by_interface.entry(&one.interface).or_default() += 1;
        }
        let names: Vec<&str> = by_interface.keys().copied().collect();
        let partly: Vec<&str> = by_interface
            .iter()
            .filter(|(_, families)| **families < self.families.len())
            .map(|(name, _)| *name)
            .collect();
        if !partly.is_empty() {
            let names = partly.join(", ");
            return MachineFinding::fail(
                CHECK,
                format!("port 25 of {names} is handed to port {port} in one address family only"),
            )
            .with(self.restore(|_| lines::hand_over(intercept, &partly, port)));
        }
        MachineFinding::ok(
            CHECK,
            format!(
                "port 25 of {} goes to port {port} ({word})",
                names.join(", ")
            ),
        )
    }

    /// While the proxy is not there, nothing may be forwarded.
    fn first_lock(&self, intercept: Intercept, handed: &[Handed]) -> MachineFinding {
        const CHECK: &str = "first lock";
        let open: Vec<&Handed> = handed.iter().filter(|one| self.is_forwarded(one)).collect();
        if open.is_empty() {
            return MachineFinding::ok(
                CHECK,
                "the firewall forwards nothing to port 25 while the proxy is down",
            );
        }
        let words: Vec<String> = open.iter().map(|one| one.words()).collect();
        let words = words.join(", ");
        let mut names: Vec<&str> = open.iter().map(|one| one.interface.as_str()).collect();
        names.dedup();
        let finding = match intercept {
            Intercept::Tproxy => MachineFinding::fail(
                CHECK,
                format!(
                    "while the proxy is down, port 25 is forwarded past it in the clear: {words}"
                ),
            ),
            Intercept::Redirect => MachineFinding::warn(
                CHECK,
                format!(
                    "connections to port 25 that are older than the rules are forwarded past the proxy: {words}"
                ),
            ),
        };
        finding.with(self.restore(|_| lines::fail_closed(&names)))
    }

    fn is_forwarded(&self, one: &Handed) -> bool {
        let others = self
            .interfaces
            .iter()
            .filter(|other| other.name != one.interface);
        let mut ways: Vec<Option<String>> = others.map(|other| Some(other.name.clone())).collect();
        if ways.is_empty() {
            ways.push(Some(one.interface.clone()));
        }
        ways.into_iter().any(|leaves_by| {
            let packet = Packet {
                leaves_by,
                ..Packet::first(&one.interface, one.is_v6)
            };
            // Certain is only what even a lenient reading drops.
            self.ruleset
                .journey("forward", packet, true)
                .dropped_in
                .is_none()
        })
    }

    /// What puts the rules back: the routing unit where there is one, else command lines.
    fn restore(&self, by_hand: impl FnOnce(&[&str]) -> Vec<String>) -> Vec<Remedy> {
        let outbound = self.service.is_outbound();
        let (guessed, odd): (Vec<&str>, Vec<&str>) = lines::guessed(&self.interfaces, outbound)
            .into_iter()
            .partition(|name| lines::is_plain(name));
        let renamed = odd.into_iter().map(|name| Remedy::Do(lines::rename(name)));
        let Some(unit) = self
            .units
            .named(ROUTING)
            .filter(|_| programs::is_systemd_running())
        else {
            let mut remedies: Vec<Remedy> = renamed.collect();
            if guessed.is_empty() {
                let words = "name the interface that mail comes in by: starttls-proxy setup --inside INTERFACE";
                remedies.push(Remedy::Do(words.into()));
                return remedies;
            }
            remedies.extend(by_hand(&guessed).into_iter().map(Remedy::Run));
            remedies.push(Remedy::Do(
                "these lines last until the machine is restarted; starttls-proxy setup explains them, and the units of the package keep them"
                    .into(),
            ));
            return remedies;
        };
        let misnamed = self.misnamed(unit, &guessed);
        let mut remedies: Vec<Remedy> = misnamed.into_iter().chain(renamed).collect();
        remedies.push(Remedy::Run(format!("systemctl enable {ROUTING}")));
        remedies.push(Remedy::Run(format!("systemctl restart {ROUTING}")));
        remedies
    }

    /// The routing unit names no interface, or one that is not here.
    fn misnamed(&self, unit: &ServiceUnit, guessed: &[&str]) -> Option<Remedy> {
        let variable = if self.service.is_outbound() {
            "INSIDE"
        } else {
            "OUTSIDE"
        };
        let named = unit.environment.get(variable).map_or("", String::as_str);
        let mut names = named.split_ascii_whitespace();
        let is_here = |name: &str| self.interfaces.iter().any(|one| one.name == name);
        let wrong = named.trim().is_empty() || names.any(|name| !is_here(name));
        let place = match &unit.environment_file {
            Some(file) => file.display().to_string(),
            None => format!("systemctl edit {ROUTING}"),
        };
        wrong.then(|| {
            Remedy::Do(format!(
                "{place} has {variable}={named}; write the interface that mail comes in by, probably {variable}=\"{}\"",
                guessed.join(" ")
            ))
        })
    }
}

fn family(is_v6: bool) -> &'static str {
    if is_v6 { "IPv6" } else { "IPv4" }
}

/// Rules of the old iptables stand beside those of nft, and nft does not show them.
fn legacy_rules() -> Option<MachineFinding> {
    let tables = [
        "/proc/self/net/ip_tables_names",
        "/proc/self/net/ip6_tables_names",
    ];
    let mut texts = tables
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts
        .any(|text| text.lines().any(|line| line == "filter"))
        .then(|| {
            MachineFinding::warn(
                "old iptables",
                "there are rules of the old iptables, too, which nft does not show",
            )
            .run("iptables-legacy -S INPUT; ip6tables-legacy -S INPUT")
            .advise("see that none of them drops port 25")
        })
}
