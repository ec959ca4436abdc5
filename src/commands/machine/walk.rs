//! What the firewall's rules do with one packet, without sending it.
//!
//! Some conditions cannot be judged from here (addresses of strangers, extensions of iptables). A walk is therefore done twice. The
//! lenient one lets such a condition help a rule that accepts and hinder one that drops; the strict one does the opposite. Where
//! both agree, the answer is certain.

use serde_json::Value;

use super::ruleset::{RuleChain, Ruleset};

/// Most jumps of one packet, as in the kernel.
const DEPTH: usize = 16;

/// A TCP packet over IPv4 or IPv6.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Packet {
    /// The interface by which it came.
    pub(in crate::commands) interface: String,
    /// The interface by which it would leave, if that is known.
    pub(in crate::commands) leaves_by: Option<String>,
    /// IPv6.
    pub(in crate::commands) is_v6: bool,
    /// Destination port.
    pub(in crate::commands) port: u16,
    /// Its mark.
    pub(in crate::commands) mark: u32,
    /// It belongs to a connection that the connection tracking knows.
    pub(in crate::commands) is_established: bool,
    /// It was redirected (NAT).
    pub(in crate::commands) is_redirected: bool,
    /// A transparent socket here will get it.
    pub(in crate::commands) has_socket: bool,
}

impl Packet {
    /// The first packet of a connection to port 25.
    pub(in crate::commands) fn first(interface: &str, is_v6: bool) -> Self {
        Self {
            interface: interface.to_owned(),
            leaves_by: None,
            is_v6,
            port: 25,
            mark: 0,
            is_established: false,
            is_redirected: false,
            has_socket: false,
        }
    }
}

/// How a walk ended.
#[derive(Debug)]
pub(in crate::commands) struct Journey {
    /// The packet as the rules have changed it.
    pub(in crate::commands) packet: Packet,
    /// The chain that the kernel called and in which the packet was dropped, as nft's commands name it.
    pub(in crate::commands) dropped_in: Option<String>,
    /// The port of the transparent listener that gets it.
    pub(in crate::commands) handed_to: Option<u16>,
}

impl Ruleset {
    /// Sends a packet through all chains of a hook.
    pub(in crate::commands) fn journey(
        &self,
        hook: &str,
        packet: Packet,
        lenient: bool,
    ) -> Journey {
        let chains = self.at(hook, packet.is_v6);
        let mut walker = Walker {
            ruleset: self,
            packet,
            lenient,
            handed_to: None,
        };
        let mut dropped_in = None;
        for chain in chains {
            let dropped = match walker.through(chain, 0) {
                WalkStep::Drop => true,
                WalkStep::Accept => false,
                WalkStep::Next | WalkStep::Return => chain.drops,
            };
            if dropped {
                dropped_in = Some(chain.place());
                break;
            }
        }
        Journey {
            packet: walker.packet,
            dropped_in,
            handed_to: walker.handed_to,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalkStep {
    Next,
    Accept,
    Drop,
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Unknown,
}

impl From<bool> for Truth {
    fn from(is_true: bool) -> Self {
        if is_true { Self::Yes } else { Self::No }
    }
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// What a packet has where a rule looks.
enum PacketValue {
    Number(u64),
    Text(String),
    /// Any of these words counts.
    Words(Vec<&'static str>),
    /// The packet has no such field, so the rule does not match, whatever it compares with.
    Absent,
    Unknown,
}

struct Walker<'a> {
    ruleset: &'a Ruleset,
    packet: Packet,
    lenient: bool,
    handed_to: Option<u16>,
}

impl Walker<'_> {
    fn through(&mut self, chain: &RuleChain, depth: usize) -> WalkStep {
        for rule in &chain.rules {
            match self.rule(chain, rule, depth) {
                WalkStep::Next => {}
                WalkStep::Return => return WalkStep::Next,
                end => return end,
            }
        }
        WalkStep::Next
    }

    fn rule(&mut self, chain: &RuleChain, rule: &[Value], depth: usize) -> WalkStep {
        let mut unsure = false;
        for statement in rule {
            let Some((word, value)) = statement.as_object().and_then(|all| all.iter().next())
            else {
                continue;
            };
            match word.as_str() {
                "match" => match self.matches(chain, value) {
                    Truth::No => return WalkStep::Next,
                    Truth::Unknown => unsure = true,
                    Truth::Yes => {}
                },
                // A match or target of iptables that nft cannot show.
                "xt" => unsure = true,
                "mangle" if value["key"]["meta"]["key"] == "mark" => {
                    if let (Some(mark), false) = (value["value"].as_u64(), unsure) {
                        self.packet.mark = u32::try_from(mark).unwrap_or_default();
                    }
                }
                "tproxy" if !unsure || self.lenient => {
                    let port = value["port"]
                        .as_u64()
                        .and_then(|port| u16::try_from(port).ok());
                    self.handed_to = port;
                }
                "redirect" if !unsure || self.lenient => {
                    let port = value["port"]
                        .as_u64()
                        .and_then(|port| u16::try_from(port).ok());
                    self.packet.port = port.unwrap_or(self.packet.port);
                    self.packet.is_redirected = true;
                    return WalkStep::Accept;
                }
                "vmap" => {
                    let step = self.by_map(chain, value, depth);
                    match self.believed(step, unsure) {
                        WalkStep::Next => {}
                        end => return end,
                    }
                }
                "queue" => {
                    return if self.lenient {
                        WalkStep::Accept
                    } else {
                        WalkStep::Drop
                    };
                }
                _ => {
                    let step = self.verdict(chain, word, value, depth);
                    match self.believed(step, unsure) {
                        WalkStep::Next => {}
                        end => return end,
                    }
                }
            }
        }
        WalkStep::Next
    }

    /// What a statement ends with; `Next` where it is no verdict.
    fn verdict(&mut self, chain: &RuleChain, word: &str, value: &Value, depth: usize) -> WalkStep {
        match word {
            "accept" | "dnat" | "snat" | "masquerade" => WalkStep::Accept,
            "drop" | "reject" => WalkStep::Drop,
            "return" => WalkStep::Return,
            "jump" | "goto" if depth < DEPTH => {
                let name = value["target"].as_str().unwrap_or_default();
                let Some(target) = self.ruleset.target(chain, name) else {
                    return WalkStep::Next;
                };
                match self.through(target, depth + 1) {
                    // Who goes does not come back.
                    WalkStep::Next if word == "goto" => WalkStep::Return,
                    end => end,
                }
            }
            _ => WalkStep::Next,
        }
    }

    /// A verdict behind a condition that cannot be judged counts if it is what the walk leans to.
    fn believed(&self, step: WalkStep, unsure: bool) -> WalkStep {
        match step {
            WalkStep::Accept if unsure && !self.lenient => WalkStep::Next,
            WalkStep::Drop | WalkStep::Return if unsure && self.lenient => WalkStep::Next,
            step => step,
        }
    }

    fn by_map(&mut self, chain: &RuleChain, value: &Value, depth: usize) -> WalkStep {
        let own = value["data"]["set"].as_array().map(Vec::as_slice);
        let named = value["data"]
            .as_str()
            .and_then(|name| name.strip_prefix('@'));
        let ruleset = self.ruleset;
        let pairs = own.or_else(|| named.map(|name| ruleset.elements(chain, name)));
        for pair in pairs.unwrap_or_default() {
            let found = self.value(&value["key"]);
            let truth = self.holds(chain, &found, &pair[0]);
            let verdict = pair[1].as_object().and_then(|all| all.iter().next());
            if let (Truth::Yes | Truth::Unknown, Some((word, value))) = (truth, verdict) {
                let step = self.verdict(chain, word, value, depth);
                match self.believed(step, truth == Truth::Unknown) {
                    WalkStep::Next => {}
                    end => return end,
                }
            }
        }
        WalkStep::Next
    }

    fn matches(&self, chain: &RuleChain, condition: &Value) -> Truth {
        let found = self.value(&condition["left"]);
        let right = &condition["right"];
        if matches!(found, PacketValue::Absent) {
            return Truth::No;
        }
        let compared = |holds: fn(u64, u64) -> bool| match (&found, right.as_u64()) {
            (PacketValue::Number(own), Some(other)) => holds(*own, other).into(),
            _ => Truth::Unknown,
        };
        match condition["op"].as_str().unwrap_or("==") {
            "==" | "in" => self.holds(chain, &found, right),
            "!=" => !self.holds(chain, &found, right),
            "<" => compared(|own, other| own < other),
            ">" => compared(|own, other| own > other),
            "<=" => compared(|own, other| own <= other),
            ">=" => compared(|own, other| own >= other),
            _ => Truth::Unknown,
        }
    }

    /// Whether what the packet has is what a rule wants: a value, or one of several.
    fn holds(&self, chain: &RuleChain, found: &PacketValue, wanted: &Value) -> Truth {
        let any = |all: &[Value]| {
            let truths: Vec<Truth> = all
                .iter()
                .map(|one| self.holds(chain, found, one))
                .collect();
            match truths.contains(&Truth::Yes) {
                true => Truth::Yes,
                false if truths.contains(&Truth::Unknown) => Truth::Unknown,
                false => Truth::No,
            }
        };
        if matches!(found, PacketValue::Unknown) {
            return Truth::Unknown;
        }
        match wanted {
            Value::Array(all) => any(all),
            Value::Object(object) => {
                if let Some(Value::Array(all)) = object.get("set") {
                    return any(all);
                }
                if let Some(element) = object.get("elem") {
                    return self.holds(chain, found, &element["val"]);
                }
                match (object.get("range"), found) {
                    (Some(range), PacketValue::Number(own)) => {
                        match (range[0].as_u64(), range[1].as_u64()) {
                            (Some(least), Some(most)) => (least..=most).contains(own).into(),
                            _ => Truth::Unknown,
                        }
                    }
                    _ => Truth::Unknown,
                }
            }
            Value::Number(number) => match found {
                PacketValue::Number(own) => (number.as_u64() == Some(*own)).into(),
                // Protocols may be shown by their numbers.
                PacketValue::Text(own) => (own == "tcp" && number.as_u64() == Some(6)).into(),
                _ => Truth::Unknown,
            },
            Value::String(text) => match (text.strip_prefix('@'), found) {
                (Some(name), _) => any(self.ruleset.elements(chain, name)),
                (None, PacketValue::Text(own)) => match text.strip_suffix('*') {
                    Some(begin) => own.starts_with(begin).into(),
                    None => (own == text).into(),
                },
                (None, PacketValue::Words(words)) => words.contains(&text.as_str()).into(),
                // Services may be shown by their names.
                (None, PacketValue::Number(own)) => (text == "smtp" && *own == 25).into(),
                _ => Truth::Unknown,
            },
            _ => Truth::Unknown,
        }
    }

    /// What the packet has at the place that an expression names.
    fn value(&self, expression: &Value) -> PacketValue {
        use PacketValue::{Absent, Number, Text, Unknown, Words};
        let packet = &self.packet;
        let word = |kind: &str, name: &str| expression[kind][name].as_str();
        if let Some([inner, mask]) = expression["&"].as_array().map(Vec::as_slice) {
            return match (self.value(inner), mask.as_u64()) {
                (Number(own), Some(mask)) => Number(own & mask),
                (Absent, _) => Absent,
                _ => Unknown,
            };
        }
        if let Some(key) = word("meta", "key") {
            let (network, protocol) = match packet.is_v6 {
                true => ("ipv6", "ip6"),
                false => ("ipv4", "ip"),
            };
            return match key {
                "iifname" | "iif" => Text(packet.interface.clone()),
                "oifname" | "oif" => packet.leaves_by.clone().map_or(Unknown, Text),
                "l4proto" => Text("tcp".into()),
                "nfproto" => Text(network.into()),
                "protocol" => Text(protocol.into()),
                "mark" => Number(packet.mark.into()),
                _ => Unknown,
            };
        }
        if let Some(key) = word("ct", "key") {
            return match (key, packet.is_established, packet.is_redirected) {
                ("state", true, _) => Words(vec!["established"]),
                ("state", false, _) => Words(vec!["new"]),
                ("status", _, true) => Words(vec!["dnat"]),
                ("status", ..) => Words(Vec::new()),
                _ => Unknown,
            };
        }
        if let Some(key) = word("socket", "key") {
            return match (key, packet.has_socket) {
                (_, false) => Absent,
                ("transparent", true) => Number(1),
                // A listener on the unspecified address; a connection's socket has one.
                ("wildcard", true) => Number(u64::from(!packet.is_established)),
                _ => Unknown,
            };
        }
        let field = word("payload", "field").unwrap_or_default();
        match (word("payload", "protocol"), field) {
            (Some("tcp" | "th"), "dport") => Number(packet.port.into()),
            (Some("ip"), _) if packet.is_v6 => Absent,
            (Some("ip6"), _) if !packet.is_v6 => Absent,
            (Some("ip"), "protocol") | (Some("ip6"), "nexthdr") => Text("tcp".into()),
            (Some("tcp" | "th" | "ip" | "ip6"), _) | (None, _) => Unknown,
            (Some(_), _) => Absent,
        }
    }
}

#[cfg(test)]
mod tests;
