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
        let (mut early, mut open) = (Vec::new(), Vec::new());
        let (mut commands, mut in_front) = (Vec::new(), Vec::new());
        for is_v6 in self.families {
            let rules = match routing::rules(*is_v6) {
                Ok(rules) => rules,
                Err(words) => return Some(MachineFinding::warn(CHECK, words)),
            };
            for one in handed.iter().filter(|one| one.is_v6 == *is_v6) {
                let needs_mark = one.journey.handed_to.is_some();
                let mark = needs_mark.then_some(lines::MARK);
                let lacks_mark = mark
                    .is_some_and(|mark| routing::table_of_mark(&rules, mark).is_err())
                    .then(|| lines::mark_rule(*is_v6, lines::MARK));
                let lock = lines::second_lock(*is_v6, &one.interface);
                // Rules at our places mend it where what is in the way stands behind them.
                match routing::second_lock(&rules, &one.interface, mark) {
                    SecondLock::Holds => {}
                    SecondLock::Missing => {
                        open.push(format!("no routing rule refuses it: {}", one.words()));
                        commands.extend(lacks_mark.into_iter().chain([lock]));
                    }
                    SecondLock::BeforeTheMark(place) => {
                        early.push(one.words());
                        match place > u64::from(lines::MARK_PLACE) {
                            true => commands.push(lines::mark_rule(*is_v6, lines::MARK)),
                            false => in_front.push((*is_v6, place)),
                        }
                    }
                    SecondLock::Opened(place) => {
                        open.push(format!(
                            "the rule at place {place} may route it before another refuses it: {}",
                            one.words()
                        ));
                        match place > u64::from(lines::LOCK_PLACE) {
                            true => commands.extend(lacks_mark.into_iter().chain([lock])),
                            false => in_front.push((*is_v6, place)),
                        }
                    }
                }
            }
        }
        let finding = match (early.is_empty(), open.is_empty()) {
            (true, true) => {
                return Some(MachineFinding::ok(
                    CHECK,
                    "the routing refuses port 25 even where the firewall's rules are flushed",
                ));
            }
            (false, _) => MachineFinding::fail(
                CHECK,
                format!(
                    "the routing rule that refuses port 25 stands before the one for the mark, and refuses intercepted mail, too: {}",
                    early.join(", ")
                ),
            ),
            (true, false) => MachineFinding::warn(
                CHECK,
                format!(
                    "whoever flushes the firewall's rules opens port 25, because {}",
                    open.join("; ")
                ),
            ),
        };
        commands.dedup();
        let finding = match commands.is_empty() {
            true => finding,
            false => finding.with(self.restore(|_| commands)),
        };
        in_front.dedup();
        Some(in_front.iter().fold(finding, |finding, (is_v6, place)| {
            finding
                .run(format!(
                    "ip {} rule show pref {place}",
                    lines::family(*is_v6)
                ))
                .advise(format!(
                    "let whoever made the rule at place {place} give it one behind {}",
                    lines::LOCK_PLACE
                ))
        }))
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
