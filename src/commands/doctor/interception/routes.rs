//! The routing: the second lock, and the way of marked packets.

use std::fs;

use super::{
    super::{
        super::machine::{
            lines,
            routing::{self, RoutingRule},
        },
        finding::MachineFinding,
    },
    Handed, Site, family,
};

impl Site<'_> {
    pub(super) fn second_lock(&self, handed: &[Handed]) -> Option<MachineFinding> {
        const CHECK: &str = "second lock";
        let (mut missing, mut commands) = (Vec::new(), Vec::new());
        for is_v6 in self.families {
            let rules = match routing::rules(*is_v6) {
                Ok(rules) => rules,
                Err(words) => return Some(MachineFinding::warn(CHECK, words)),
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
                            MachineFinding::fail(
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
            true => MachineFinding::ok(CHECK, "the routing refuses port 25 even where the firewall's rules are flushed"),
            false => MachineFinding::warn(
                CHECK,
                format!("whoever flushes the firewall's rules opens port 25, because no routing rule refuses it: {}", missing.join(", ")),
            )
            .with(self.restore(|_| commands.clone())),
        })
    }

    /// Marked packets must be delivered here.
    pub(super) fn routes(&self, handed: &[Handed]) -> Option<MachineFinding> {
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
                    return Some(MachineFinding::warn(CHECK, words).run("apt install iproute2"));
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
            true => MachineFinding::ok(
                CHECK,
                format!("packets with the mark {mark:#x} are delivered here"),
            ),
            false => MachineFinding::fail(
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
    pub(super) fn source_check(&self) -> Option<MachineFinding> {
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
            let finding = MachineFinding::fail(
                "source check",
                "src_valid_mark=1 makes the kernel drop intercepted IPv4 packets",
            );
            marked.iter().fold(finding, |finding, name| {
                finding.run(format!("sysctl -w net.ipv4.conf.{name}.src_valid_mark=0"))
            })
        })
    }
}

fn place_of_mark(rules: &[RoutingRule], mark: u32) -> Option<u64> {
    let own = rules.iter().find(|rule| rule.mark == Some(mark));
    own.map(|rule| rule.place)
}
