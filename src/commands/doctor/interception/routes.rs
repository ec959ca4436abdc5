//! The routing: the second lock, and the way of marked packets.

use std::fs;

use super::{
    super::{
        super::machine::{
            lines,
            routing::{self, SecondLock},
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
            for one in handed.iter().filter(|one| one.is_v6 == *is_v6) {
                let needs_mark = one.journey.handed_to.is_some();
                let mark = needs_mark.then_some(lines::MARK);
                let lock = || {
                    let mark = needs_mark.then(|| routing::table_of_mark(&rules, lines::MARK));
                    // The rule for the mark must stand before the lock.
                    let mark = mark.filter(Result::is_err);
                    let mark = mark.map(|_| lines::mark_rule(*is_v6, lines::MARK));
                    mark.into_iter()
                        .chain([lines::second_lock(*is_v6, &one.interface)])
                };
                match routing::second_lock(&rules, &one.interface, mark) {
                    SecondLock::Holds => {}
                    SecondLock::Missing => {
                        missing.push(one.words());
                        commands.extend(lock());
                    }
                    SecondLock::BeforeTheMark(place) => {
                        let words = format!(
                            "the routing rule that refuses port 25 of {} stands before the one for the mark, and refuses intercepted mail, too",
                            one.words()
                        );
                        let finding = MachineFinding::fail(CHECK, words);
                        let mend = vec![lines::mark_rule(*is_v6, lines::MARK)];
                        return Some(self.put_in_front(
                            finding,
                            *is_v6,
                            (place, lines::MARK_PLACE),
                            mend,
                        ));
                    }
                    SecondLock::Opened(place) => {
                        let words = format!(
                            "whoever flushes the firewall's rules opens port 25, because the routing rule at place {place} may route port 25 of {} before another rule refuses it",
                            one.words()
                        );
                        let finding = MachineFinding::warn(CHECK, words);
                        return Some(self.put_in_front(
                            finding,
                            *is_v6,
                            (place, lines::LOCK_PLACE),
                            lock().collect(),
                        ));
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

    /// What mends it that a rule at a place is asked before ours. Behind the place that ours would have, ours does.
    fn put_in_front(
        &self,
        finding: MachineFinding,
        is_v6: bool,
        (place, ours): (u64, u32),
        commands: Vec<String>,
    ) -> MachineFinding {
        match place > u64::from(ours) {
            true => finding.with(self.restore(|_| commands)),
            false => finding
                .run(format!(
                    "ip {} rule show pref {place}",
                    lines::family(is_v6)
                ))
                .advise(format!(
                    "let whoever made that rule give it a place behind {}",
                    lines::LOCK_PLACE
                )),
        }
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
            let table = match routing::table_of_mark(&rules, mark) {
                Ok(table) => table.to_owned(),
                Err(before) => {
                    missing.push(match before {
                        None => format!("no {} rule for the mark {mark:#x}", family(*is_v6)),
                        Some(place) => format!("the {} rule at place {place} takes them before the one for the mark {mark:#x}", family(*is_v6)),
                    });
                    commands.push(lines::mark_rule(*is_v6, mark));
                    lines::TABLE.to_string()
                }
            };
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
                finding.run(lines::switched_off(name, "src_valid_mark"))
            })
        })
    }
}
