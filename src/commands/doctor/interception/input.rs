//! The firewall's chains for local input, through which intercepted mail and the answers of servers come.

use std::collections::BTreeMap;

use super::{
    super::{
        super::machine::{
            lines,
            walk::{Journey, Packet},
        },
        finding::MachineFinding,
    },
    Handed, Site, family, legacy_rules,
};

impl Site<'_> {
    /// Where nothing is intercepted, clients must still reach the port.
    pub(super) fn direct(&self, port: u16) -> Vec<MachineFinding> {
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
                MachineFinding::fail(
                    CHECK,
                    format!("the chain {place} drops what comes to port {port} over {}, so that clients wait until they give up", family(*is_v6)),
                )
                .run(format!("nft insert rule {place} tcp dport {port} accept"))
                .advise(kept(place)),
            );
        }
        if findings.is_empty() {
            findings.push(MachineFinding::ok(
                CHECK,
                format!("the firewall lets port {port} in"),
            ));
        }
        findings.extend(legacy_rules());
        findings
    }

    /// What was handed over is local input, which a firewall may drop.
    pub(super) fn input(&self, handed: &[Handed]) -> MachineFinding {
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
        let mend = |finding: MachineFinding, dropping: &BTreeMap<String, String>| {
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
            return mend(MachineFinding::fail(CHECK, words), &surely);
        }
        if !perhaps.is_empty() {
            let words = format!(
                "the chain {} lets intercepted mail in only where its own conditions hold",
                places(&perhaps)
            );
            return mend(MachineFinding::warn(CHECK, words), &perhaps);
        }
        MachineFinding::ok(CHECK, "the firewall lets intercepted mail in")
    }

    /// Answers of servers (outbound) and of the mail server (inbound) are input, too.
    pub(super) fn replies(&self, handed: &[Handed]) -> Option<MachineFinding> {
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
        let finding = MachineFinding::fail(
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
}

fn kept(place: &str) -> String {
    format!(
        "write the same rule into the file that loads the chain {place} (on Debian /etc/nftables.conf), so that it outlasts a restart"
    )
}
