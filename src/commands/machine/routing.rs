//! The rules and routes that decide where a packet goes, as `ip` shows them.

use serde_json::{Map, Value};

use super::programs;

/// The port that the locks are for.
const SMTP: u64 = 25;
/// What a file in `pass.d` lets pass has this mark, and goes around the lock.
const PASS: u32 = 0x1b;

/// What a rule does with the packets that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RuleAction {
    /// They are routed by this table.
    Table(String),
    /// They go on at a later rule.
    Goto,
    /// They are refused.
    Refuse,
    /// Nothing.
    Nothing,
}

/// One routing rule. A selector that it does not have fits every packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct RoutingRule {
    /// Lower ones are asked first, and of equals the one that is shown first.
    pub(in crate::commands) place: u64,
    action: RuleAction,
    /// The mark that it is for, if each of its bits counts.
    mark: Option<u32>,
    /// The interface that packets came in by.
    interface: Option<String>,
    /// Whether TCP to port 25 can be among its packets, by protocol and destination port.
    fits_smtp: bool,
    /// Whether only packets that this host makes are its.
    is_for_own: bool,
    /// Whether it has a selector beside those above, so that nobody here can say which packets it is for.
    is_narrower: bool,
}

/// What the rules make of port 25 of an interface where no firewall rule hands it to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum SecondLock {
    /// It is refused by a rule at this place, and intercepted mail is let through before that.
    Holds,
    /// The rule at this place refuses it, and intercepted mail, too.
    BeforeTheMark(u64),
    /// The rule at this place routes it before any rule refuses it, or may do so.
    Opened(u64),
    /// No rule refuses it.
    Missing,
}

impl RoutingRule {
    /// The table that it leads to.
    pub(in crate::commands) fn table(&self) -> Option<&str> {
        match &self.action {
            RuleAction::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Whether it is for all packets with this mark, perhaps of one interface only.
    fn is_for_mark(&self, mark: u32) -> bool {
        self.mark == Some(mark) && !self.is_narrower && self.fits_smtp
    }

    /// Whether it routes every packet that comes to it, as the one for the table `main` does.
    fn routes_all(&self) -> bool {
        let is_bare = self.mark.is_none() && self.interface.is_none() && !self.is_narrower;
        is_bare && !self.is_for_own && self.leads_away()
    }

    /// Whether its packets are routed, other than by the host's own addresses.
    fn leads_away(&self) -> bool {
        match &self.action {
            RuleAction::Table(table) => table != "local",
            RuleAction::Goto => true,
            RuleAction::Refuse | RuleAction::Nothing => false,
        }
    }

    /// Whether it refuses all that comes in by this interface for port 25.
    fn refuses(&self, interface: &str) -> bool {
        let is_all = self.mark.is_none() && !self.is_narrower && !self.is_for_own;
        let is_of_it = self.interface.as_deref() == Some(interface) && self.fits_smtp;
        is_all && is_of_it && self.action == RuleAction::Refuse
    }

    /// Whether it may route something that comes in by this interface for port 25 and was not handed to the proxy, which sets `mark`.
    fn may_open(&self, interface: &str, mark: u32) -> bool {
        let is_elsewhere = self.interface.as_ref().is_some_and(|own| own != interface);
        let is_known = self.mark == Some(mark) || self.mark == Some(PASS);
        let can_be = self.fits_smtp && !self.is_for_own && !is_elsewhere && !is_known;
        can_be && self.leads_away()
    }
}

/// Follows the rules for port 25 of an interface. `mark` is that of intercepted mail; `None` where it needs none.
pub(in crate::commands) fn second_lock(
    rules: &[RoutingRule],
    interface: &str,
    mark: Option<u32>,
) -> SecondLock {
    let mut has_mark = mark.is_none();
    for rule in rules {
        if mark.is_some_and(|mark| rule.is_for_mark(mark)) && rule.table().is_some() {
            has_mark = true;
        } else if rule.refuses(interface) {
            return match has_mark {
                true => SecondLock::Holds,
                false => SecondLock::BeforeTheMark(rule.place),
            };
        } else if rule.may_open(interface, mark.unwrap_or(PASS)) {
            let locks = rules.iter().any(|rule| rule.refuses(interface));
            return match locks {
                true => SecondLock::Opened(rule.place),
                false => SecondLock::Missing,
            };
        }
    }
    SecondLock::Missing
}

/// The table that all packets with this mark are routed by.
///
/// # Errors
/// There is no such rule: `None`; or the one at this place takes the packets before.
pub(in crate::commands) fn table_of_mark(
    rules: &[RoutingRule],
    mark: u32,
) -> Result<&str, Option<u64>> {
    let own = rules
        .iter()
        .position(|rule| rule.is_for_mark(mark) && rule.table().is_some());
    let before = rules[..own.unwrap_or(0)].iter();
    if let Some(rule) = before.clone().find(|rule| rule.routes_all()) {
        return Err(Some(rule.place));
    }
    own.and_then(|own| rules[own].table()).ok_or(None)
}

/// The rules of a family, in their order.
///
/// # Errors
/// In words: `ip` is not there or failed.
pub(in crate::commands) fn rules(is_v6: bool) -> Result<Vec<RoutingRule>, String> {
    let family = if is_v6 { "-6" } else { "-4" };
    let text = programs::output("ip", &[family, "-j", "rule", "show"])?;
    Ok(read(&serde_json::from_str(&text).unwrap_or_default()))
}

fn read(shown: &Value) -> Vec<RoutingRule> {
    let rules = shown.as_array().into_iter().flatten();
    rules
        .filter_map(|rule| Some(one(rule.as_object()?)))
        .collect()
}

fn one(shown: &Map<String, Value>) -> RoutingRule {
    /// What is neither selector nor unknown: the rule's place and action, and those selectors that are read here.
    const KNOWN: [&str; 19] = [
        "priority",
        "action",
        "table",
        "goto",
        "nop",
        "protocol",
        "unresolved",
        "suppress_prefixlen",
        "suppress_ifgroup",
        "src",
        "fwmark",
        "iif",
        "iif_detached",
        "oif",
        "oif_detached",
        "ipproto",
        "dport",
        "dport_start",
        "dport_end",
    ];
    let text = |key: &str| shown.get(key).and_then(Value::as_str);
    let whole = |key: &str| shown.get(key).and_then(Value::as_u64);
    let action = match (text("action"), text("table")) {
        (Some("prohibit" | "unreachable" | "blackhole"), _) => RuleAction::Refuse,
        _ if shown.contains_key("goto") => RuleAction::Goto,
        (_, Some(table)) => RuleAction::Table(table.to_owned()),
        _ => RuleAction::Nothing,
    };
    // iproute2 shows the protocol by its name only where /etc/protocols has it.
    let is_tcp = text("ipproto").is_none_or(|name| matches!(name, "tcp" | "ipproto-6" | "6"));
    let is_port = match (whole("dport"), whole("dport_start"), whole("dport_end")) {
        (Some(port), ..) => port == SMTP,
        (None, Some(first), Some(last)) => (first..=last).contains(&SMTP),
        _ => true,
    };
    let is_from_all = text("src").is_none_or(|source| source == "all");
    // What a rule with `not` is for is not what its selectors say.
    let is_not = shown.contains_key("not");
    let is_exact = !is_not && !shown.contains_key("fwmask");
    let interface = text("iif").filter(|_| !is_not);
    RoutingRule {
        place: whole("priority").unwrap_or_default(),
        action,
        mark: text("fwmark").filter(|_| is_exact).and_then(number),
        interface: interface.map(str::to_owned),
        fits_smtp: (is_tcp && is_port) || is_not,
        is_for_own: !is_not && (shown.contains_key("oif") || interface == Some("lo")),
        is_narrower: !is_from_all || shown.keys().any(|key| !KNOWN.contains(&key.as_str())),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether a table delivers every packet to this machine.
pub(in crate::commands) fn delivers_here(is_v6: bool, table: &str) -> bool {
    let family = if is_v6 { "-6" } else { "-4" };
    let shown = programs::output("ip", &[family, "-j", "route", "show", "table", table]);
    let shown: Value = serde_json::from_str(&shown.unwrap_or_default()).unwrap_or_default();
    let mut routes = shown.as_array().into_iter().flatten();
    routes.any(|route| route["type"] == "local" && route["dst"] == "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The rules of a machine, as iproute2 6.1 shows them: the kernel's own, and these.
    fn with(more: &[Value]) -> Vec<RoutingRule> {
        let mut all = vec![json!({"priority": 0, "src": "all", "table": "local"})];
        all.extend_from_slice(more);
        all.push(json!({"priority": 32766, "src": "all", "table": "main"}));
        all.push(json!({"priority": 32767, "src": "all", "table": "default"}));
        all.sort_by_key(|rule| rule["priority"].as_u64());
        read(&Value::Array(all))
    }

    fn mark(place: u64) -> Value {
        json!({"priority": place, "src": "all", "fwmark": "0x19", "table": "100"})
    }

    fn lock(place: u64) -> Value {
        json!({"priority": place, "src": "all", "iif": "eth1", "ipproto": "tcp", "dport": 25, "action": "prohibit"})
    }

    /// A rule with these words more, or in the place of its own.
    fn but(mut rule: Value, words: &Value) -> Value {
        for (key, value) in words.as_object().expect("an object") {
            rule[key] = value.clone();
        }
        rule
    }

    #[test]
    fn a_lock_is_one_that_refuses_all_of_its_interface_behind_the_mark() {
        let pass = json!({"priority": 25, "src": "all", "fwmark": "0x1b", "goto": 27});
        let nop = json!({"priority": 27, "src": "all", "nop": null});
        let found = |more: &[Value]| second_lock(&with(more), "eth1", Some(0x19));
        assert_eq!(found(&[mark(24), pass, lock(26), nop]), SecondLock::Holds);
        for same in [
            json!({"ipproto": "ipproto-6"}),
            json!({"protocol": "static"}),
            json!({"action": "blackhole"}),
            json!({"dport": null, "dport_start": 20, "dport_end": 30}),
        ] {
            let rules = [mark(24), but(lock(26), &same)];
            assert_eq!(found(&rules), SecondLock::Holds, "{same}");
        }
        let before = [lock(5), mark(24), lock(26)];
        assert_eq!(found(&before), SecondLock::BeforeTheMark(5));
        assert_eq!(found(&[lock(26)]), SecondLock::BeforeTheMark(26));
        assert_eq!(found(&[mark(24)]), SecondLock::Missing);
        assert_eq!(read(&Value::Null), []);
    }

    #[test]
    fn a_lock_that_does_not_refuse_all_of_its_interface_is_none() {
        for words in [
            json!({"src": "10.0.0.0", "srclen": 8}),
            json!({"dst": "192.0.2.0", "dstlen": 24}),
            json!({"iif": "eth0"}),
            json!({"fwmark": "0x77"}),
            json!({"uid_start": 0, "uid_end": 5}),
            json!({"sport": 1}),
            json!({"tos": "0x10"}),
            json!({"oif": "eth0"}),
            json!({"not": null}),
            json!({"tun_id": 5}),
            json!({"of_a_later_iproute2": 1}),
            json!({"dport": 26}),
            json!({"ipproto": "udp"}),
            json!({"iif_detached": null, "iif": "eth9"}),
        ] {
            let rules = with(&[mark(24), but(lock(26), &words)]);
            let found = second_lock(&rules, "eth1", Some(0x19));
            assert_eq!(found, SecondLock::Missing, "{words}");
        }
    }

    #[test]
    fn a_lock_behind_a_rule_that_routes_its_packets_is_open() {
        let behind = |words: Value| {
            let other = but(json!({"priority": 30, "src": "all", "table": "77"}), &words);
            second_lock(&with(&[mark(24), other, lock(40)]), "eth1", Some(0x19))
        };
        for opens in [
            json!({}),
            json!({"table": "main"}),
            json!({"src": "10.0.0.0", "srclen": 8}),
            json!({"iif": "eth1"}),
            json!({"fwmark": "0x77"}),
            json!({"fwmark": "0x19", "fwmask": "0xff", "not": null}),
            json!({"not": null, "dport": 80, "ipproto": "tcp"}),
            json!({"dport": 25, "ipproto": "tcp"}),
            json!({"dport_start": 1, "dport_end": 1023}),
            json!({"table": null, "goto": 50}),
        ] {
            assert_eq!(behind(opens.clone()), SecondLock::Opened(30), "{opens}");
        }
        for harmless in [
            json!({"table": null, "action": "prohibit", "src": "10.0.0.0", "srclen": 8}),
            json!({"table": null, "nop": null}),
            json!({"table": "local"}),
            json!({"iif": "eth0"}),
            json!({"iif": "lo"}),
            json!({"oif": "eth0"}),
            json!({"dport": 80, "ipproto": "tcp"}),
            json!({"ipproto": "udp"}),
            json!({"fwmark": "0x1b"}),
        ] {
            assert_eq!(behind(harmless.clone()), SecondLock::Holds, "{harmless}");
        }
        // The table `main` routes all that there is.
        let rules = with(&[mark(24), lock(32767)]);
        let found = second_lock(&rules, "eth1", Some(0x19));
        assert_eq!(found, SecondLock::Opened(32766));
    }

    #[test]
    fn the_rule_for_the_mark_is_for_all_its_packets_and_nobody_takes_them_before() {
        let narrow = |words: Value| vec![but(mark(24), &words)];
        let main = json!({"priority": 9, "src": "all", "table": "main"});
        for (more, expected) in [
            (vec![mark(24)], Ok("100")),
            (vec![], Err(None)),
            (narrow(json!({"fwmark": "0x18"})), Err(None)),
            (narrow(json!({"src": "10.0.0.0", "srclen": 8})), Err(None)),
            (narrow(json!({"ipproto": "udp"})), Err(None)),
            (vec![main, mark(24)], Err(Some(9))),
            (vec![mark(32767)], Err(Some(32766))),
        ] {
            let rules = with(&more);
            assert_eq!(table_of_mark(&rules, 0x19), expected, "{more:?}");
        }
    }
}
