//! Is port 25 handed to the proxy, and refused where it cannot be? Do intercepted packets arrive?
//!
//! The firewall's rules are followed as the kernel would follow them, so that it does not matter who wrote them and in which table.

use std::{collections::BTreeMap, fs};

use super::{
    super::machine::{
        interfaces::{NetInterface, has_ipv6, interfaces},
        lines, programs,
        routing::{self, RoutingRule},
        ruleset::Ruleset,
        units::{ProxyUnits, ServiceUnit},
        walk::{Journey, Packet},
    },
    finding::{Finding, Remedy},
    service::ProxyService,
};
use crate::{clock, net::Intercept};

/// Where the watcher says how the locks are.
const STATE: &str = "/run/starttls-proxy/interception.state";
/// A state that is older than this, in seconds, means that nobody watches.
const WATCHED: u64 = 30;
const ROUTING: &str = "starttls-proxy-routing";
const WATCH: &str = "starttls-proxy-watch";

pub(super) fn check(service: &ProxyService, units: &ProxyUnits) -> Vec<Finding> {
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

fn unreadable(service: &ProxyService, words: &str) -> Finding {
    const CHECK: &str = "rules";
    if programs::found("nft").is_none() {
        let finding = match service.intercept() {
            Some(_) => Finding::fail(
                CHECK,
                "nft is not installed, so that nothing can be intercepted",
            ),
            None => Finding::warn(
                CHECK,
                "nft is not installed, so that the firewall's rules cannot be read",
            ),
        };
        return finding.run("apt install nftables");
    }
    Finding::warn(
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
    fn intercepted(&self, intercept: Intercept, port: u16) -> Vec<Finding> {
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
        findings.extend(self.watcher());
        findings
    }

    /// Where nothing is intercepted, clients must still reach the port.
    fn direct(&self, port: u16) -> Vec<Finding> {
        const CHECK: &str = "input chain";
        let journeys = |is_v6: bool, lenient: bool| {
            let interfaces = self.interfaces.iter();
            let journeys = interfaces.map(move |one| {
                let packet = Packet {
                    port,
                    ..Packet::first(&one.name, is_v6)
                };
                self.ruleset.journey("input", packet, lenient)
            });
            journeys.collect::<Vec<Journey>>()
        };
        let mut findings = Vec::new();
        for is_v6 in self.families {
            let lenient = journeys(*is_v6, true);
            let dropped: Vec<&str> = lenient
                .iter()
                .filter_map(|one| one.dropped_in.as_deref())
                .collect();
            // A firewall that lets the port in on one side only may be meant.
            if dropped.len() < lenient.len() || dropped.is_empty() {
                continue;
            }
            let place = dropped[0];
            findings.push(
                Finding::fail(
                    CHECK,
                    format!("the chain {place} drops what comes to port {port} over {}, so that clients wait until they give up", family(*is_v6)),
                )
                .run(format!("nft insert rule {place} tcp dport {port} accept"))
                .advise(kept(place)),
            );
        }
        if findings.is_empty() {
            findings.push(Finding::ok(
                CHECK,
                format!("the firewall lets port {port} in"),
            ));
        }
        findings.extend(legacy_rules());
        findings
    }

    fn rules(&self, intercept: Intercept, port: u16, handed: &[Handed]) -> Finding {
        const CHECK: &str = "rules";
        let word = format!("{intercept:?}").to_lowercase();
        if handed.is_empty() {
            return Finding::fail(
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
            return Finding::fail(
                CHECK,
                format!("port 25 of {names} is handed to port {port} in one address family only"),
            )
            .with(self.restore(|_| lines::hand_over(intercept, &partly, port)));
        }
        Finding::ok(
            CHECK,
            format!(
                "port 25 of {} goes to port {port} ({word})",
                names.join(", ")
            ),
        )
    }

    /// While the proxy is not there, nothing may be forwarded.
    fn first_lock(&self, intercept: Intercept, handed: &[Handed]) -> Finding {
        const CHECK: &str = "first lock";
        let open: Vec<&Handed> = handed.iter().filter(|one| self.is_forwarded(one)).collect();
        if open.is_empty() {
            return Finding::ok(
                CHECK,
                "the firewall forwards nothing to port 25 while the proxy is down",
            );
        }
        let words: Vec<String> = open.iter().map(|one| one.words()).collect();
        let words = words.join(", ");
        let mut names: Vec<&str> = open.iter().map(|one| one.interface.as_str()).collect();
        names.dedup();
        let finding = match intercept {
            Intercept::Tproxy => Finding::fail(
                CHECK,
                format!(
                    "while the proxy is down, port 25 is forwarded past it in the clear: {words}"
                ),
            ),
            Intercept::Redirect => Finding::warn(
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

    fn second_lock(&self, handed: &[Handed]) -> Option<Finding> {
        const CHECK: &str = "second lock";
        let (mut missing, mut commands) = (Vec::new(), Vec::new());
        for is_v6 in self.families {
            let rules = match routing::rules(*is_v6) {
                Ok(rules) => rules,
                Err(words) => return Some(Finding::warn(CHECK, words)),
            };
            let mark = place_of_mark(&rules, lines::MARK);
            for one in handed.iter().filter(|one| one.is_v6 == *is_v6) {
                let lock = rules
                    .iter()
                    .find(|rule| rule.locks.as_deref() == Some(&one.interface));
                let needs_mark = one.journey.handed_to.is_some();
                match lock {
                    Some(lock) if needs_mark && mark.is_none_or(|mark| mark > lock.place) => {
                        return Some(
                            Finding::fail(
                                CHECK,
                                format!("the routing rule that refuses port 25 of {} stands before the one for the mark, and refuses intercepted mail, too", one.words()),
                            )
                            .with(self.restore(|_| vec![lines::mark_rule(*is_v6, lines::MARK)])),
                        );
                    }
                    Some(_) => {}
                    None => {
                        missing.push(one.words());
                        // The rule for the mark must stand before the lock.
                        if needs_mark && mark.is_none_or(|mark| mark > 25) {
                            commands.push(lines::mark_rule(*is_v6, lines::MARK));
                        }
                        commands.push(lines::second_lock(*is_v6, &one.interface));
                    }
                }
            }
        }
        commands.dedup();
        Some(match missing.is_empty() {
            true => Finding::ok(CHECK, "the routing refuses port 25 even where the firewall's rules are flushed"),
            false => Finding::warn(
                CHECK,
                format!("whoever flushes the firewall's rules opens port 25, because no routing rule refuses it: {}", missing.join(", ")),
            )
            .with(self.restore(|_| commands.clone())),
        })
    }

    /// Marked packets must be delivered here.
    fn routes(&self, handed: &[Handed]) -> Option<Finding> {
        const CHECK: &str = "routes";
        let marks = handed.iter().map(|one| one.journey.packet.mark);
        let mark = marks
            .into_iter()
            .find(|mark| *mark != 0)
            .unwrap_or(lines::MARK);
        let (mut missing, mut commands) = (Vec::new(), Vec::new());
        for is_v6 in self.families {
            let rules = match routing::rules(*is_v6) {
                Ok(rules) => rules,
                Err(words) => {
                    return Some(Finding::warn(CHECK, words).run("apt install iproute2"));
                }
            };
            let own = rules
                .iter()
                .find(|rule| rule.mark == Some(mark) && rule.table.is_some());
            let table = own.and_then(|rule| rule.table.clone());
            if table.is_none() {
                missing.push(format!("no {} rule for the mark {mark:#x}", family(*is_v6)));
                commands.push(lines::mark_rule(*is_v6, mark));
            }
            let table = table.unwrap_or_else(|| lines::TABLE.to_string());
            if !routing::delivers_here(*is_v6, &table) {
                missing.push(format!(
                    "no local {} route in table {table}",
                    family(*is_v6)
                ));
                commands.push(lines::mark_route(*is_v6, &table));
            }
        }
        Some(match missing.is_empty() {
            true => Finding::ok(
                CHECK,
                format!("packets with the mark {mark:#x} are delivered here"),
            ),
            false => Finding::fail(
                CHECK,
                format!(
                    "intercepted packets are lost, so that connections hang: {}",
                    missing.join(", ")
                ),
            )
            .with(self.restore(|_| commands.clone())),
        })
    }

    /// `src_valid_mark` makes the kernel check a packet's source by its mark, which finds the local table.
    fn source_check(&self) -> Option<Finding> {
        let of = |interface: &str, name: &str| -> u32 {
            let file = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
            let text = fs::read_to_string(file).unwrap_or_default();
            text.trim().parse().unwrap_or_default()
        };
        let names = self.interfaces.iter().map(|one| one.name.as_str());
        let strict = names
            .clone()
            .any(|name| of(name, "rp_filter").max(of("all", "rp_filter")) > 0);
        let marked: Vec<&str> = ["all"]
            .into_iter()
            .chain(names)
            .filter(|name| strict && of(name, "src_valid_mark") == 1)
            .collect();
        (!marked.is_empty()).then(|| {
            let finding = Finding::fail(
                "source check",
                "src_valid_mark=1 makes the kernel drop intercepted IPv4 packets",
            );
            marked.iter().fold(finding, |finding, name| {
                finding.run(format!("sysctl -w net.ipv4.conf.{name}.src_valid_mark=0"))
            })
        })
    }

    /// What was handed over is local input, which a firewall may drop.
    fn input(&self, handed: &[Handed]) -> Finding {
        const CHECK: &str = "input chain";
        let (mut surely, mut perhaps) = (BTreeMap::new(), BTreeMap::new());
        for one in handed {
            let packet = Packet {
                has_socket: one.journey.handed_to.is_some(),
                ..one.journey.packet.clone()
            };
            let by = |lenient| {
                self.ruleset
                    .journey("input", packet.clone(), lenient)
                    .dropped_in
            };
            let lets_in = match packet.is_redirected {
                true => format!("ct status dnat tcp dport {} accept", packet.port),
                false => format!("meta mark {:#x} tcp dport 25 accept", packet.mark),
            };
            if let Some(place) = by(true) {
                surely.insert(place, lets_in);
            } else if let Some(place) = by(false) {
                perhaps.insert(place, lets_in);
            }
        }
        let places = |dropping: &BTreeMap<String, String>| {
            dropping.keys().cloned().collect::<Vec<_>>().join(", ")
        };
        let mend = |finding: Finding, dropping: &BTreeMap<String, String>| {
            dropping.iter().fold(finding, |finding, (place, lets_in)| {
                finding
                    .run(format!("nft insert rule {place} {lets_in}"))
                    .advise(kept(place))
            })
        };
        if !surely.is_empty() {
            let words = format!(
                "the chain {} drops intercepted mail, so that connections hang",
                places(&surely)
            );
            return mend(Finding::fail(CHECK, words), &surely);
        }
        if !perhaps.is_empty() {
            let words = format!(
                "the chain {} lets intercepted mail in only where its own conditions hold",
                places(&perhaps)
            );
            return mend(Finding::warn(CHECK, words), &perhaps);
        }
        Finding::ok(CHECK, "the firewall lets intercepted mail in")
    }

    /// Answers of servers (outbound) and of the mail server (inbound) are input, too.
    fn replies(&self, handed: &[Handed]) -> Option<Finding> {
        let transparent = self.service.keeps_client_address();
        let mut dropping: Vec<String> = Vec::new();
        for one in &self.interfaces {
            if handed.iter().any(|handed| handed.interface == one.name) && self.interfaces.len() > 1
            {
                continue;
            }
            for is_v6 in self.families {
                let packet = Packet {
                    port: 40_000,
                    is_established: true,
                    mark: if transparent { lines::MARK } else { 0 },
                    has_socket: transparent,
                    ..Packet::first(&one.name, *is_v6)
                };
                dropping.extend(self.ruleset.journey("input", packet, true).dropped_in);
            }
        }
        dropping.dedup();
        if dropping.is_empty() {
            return None;
        }
        let finding = Finding::fail(
            "input replies",
            format!(
                "the chain {} drops the answers to the proxy's own connections",
                dropping.join(", ")
            ),
        );
        Some(dropping.iter().fold(finding, |finding, place| {
            finding
                .run(format!(
                    "nft insert rule {place} ct state established,related accept"
                ))
                .advise(kept(place))
        }))
    }

    fn watcher(&self) -> Option<Finding> {
        const CHECK: &str = "watcher";
        let start = |finding: Finding| finding.run(format!("systemctl enable --now {WATCH}"));
        let Ok(text) = fs::read_to_string(STATE) else {
            self.units.named(WATCH)?;
            let words = "nobody watches that the locks of port 25 stay on";
            return Some(start(Finding::warn(CHECK, words)));
        };
        Some(match watched(&text, seconds_now()) {
            Watched::Held => Finding::ok(CHECK, "the watcher says that both locks hold"),
            Watched::Late => start(Finding::warn(
                CHECK,
                format!("{STATE} is old, so that nobody watches the locks of port 25"),
            )),
            Watched::Lost(words) => Finding::fail(
                CHECK,
                format!("the watcher says that a lock of port 25 is gone: {words}"),
            )
            .run(format!("systemctl restart {ROUTING}"))
            .run(format!("journalctl -n 20 -u {WATCH}")),
        })
    }

    /// What puts the rules back: the routing unit where there is one, else command lines.
    fn restore(&self, by_hand: impl FnOnce(&[&str]) -> Vec<String>) -> Vec<Remedy> {
        let outbound = self.service.is_outbound();
        let guessed = lines::guessed(&self.interfaces, outbound);
        let Some(unit) = self
            .units
            .named(ROUTING)
            .filter(|_| programs::is_systemd_running())
        else {
            if guessed.is_empty() {
                let words = "name the interface that mail comes in by: starttls-proxy setup --inside INTERFACE";
                return vec![Remedy::Do(words.into())];
            }
            return by_hand(&guessed).into_iter().map(Remedy::Run).collect();
        };
        let mut remedies: Vec<Remedy> = self.misnamed(unit, &guessed).into_iter().collect();
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
                "{place} has {variable}={named}; write the interface that mail comes in by, probably {variable}={}",
                guessed.join(" ")
            ))
        })
    }
}

fn family(is_v6: bool) -> &'static str {
    if is_v6 { "IPv6" } else { "IPv4" }
}

fn place_of_mark(rules: &[RoutingRule], mark: u32) -> Option<u64> {
    let own = rules.iter().find(|rule| rule.mark == Some(mark));
    own.map(|rule| rule.place)
}

fn kept(place: &str) -> String {
    format!(
        "write the same rule into the file that loads the chain {place} (on Debian /etc/nftables.conf), so that it outlasts a restart"
    )
}

/// Rules of the old iptables stand beside those of nft, and nft does not show them.
fn legacy_rules() -> Option<Finding> {
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
            Finding::warn(
                "old iptables",
                "there are rules of the old iptables, too, which nft does not show",
            )
            .run("iptables-legacy -S INPUT; ip6tables-legacy -S INPUT")
            .advise("see that none of them drops port 25")
        })
}

fn seconds_now() -> u64 {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What the watcher's file says.
#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Held,
    Late,
    Lost(String),
}

/// Reads `key=value` lines. `locks=held` or `alive=yes` is well; `checked=` is when it was looked at, in seconds since 1970.
fn watched(text: &str, now: u64) -> Watched {
    let value = |wanted: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| value)
    };
    let checked: Option<u64> = value("checked").and_then(|value| value.parse().ok());
    let holds = match (value("locks"), value("alive")) {
        (Some(locks), _) => locks == "held",
        (None, alive) => alive == Some("yes"),
    };
    match (holds, checked) {
        (false, _) => {
            let error = value("error").filter(|words| !words.trim().is_empty());
            Watched::Lost(error.unwrap_or("it does not say why").trim().to_owned())
        }
        (true, Some(checked)) if checked.saturating_add(WATCHED) < now => Watched::Late,
        (true, _) => Watched::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchers_file_is_believed_while_it_is_fresh() {
        for (text, expected) in [
            ("locks=held\nchecked=1000\nerror=\n", Watched::Held),
            ("alive=yes\n", Watched::Held),
            ("locks=held\nchecked=900\n", Watched::Late),
            (
                "locks=failing\nchecked=1000\nerror=no ip -4 rule\n",
                Watched::Lost("no ip -4 rule".into()),
            ),
            ("alive=no\n", Watched::Lost("it does not say why".into())),
            (
                "locks=unset\nalive=yes\n",
                Watched::Lost("it does not say why".into()),
            ),
            ("", Watched::Lost("it does not say why".into())),
        ] {
            assert_eq!(watched(text, 1010), expected, "{text}");
        }
    }
}
