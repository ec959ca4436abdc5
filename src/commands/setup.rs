//! `setup`: prints what would put the proxy on the path of port 25 on this machine, with the reason for each line. It runs nothing.

use std::{fmt::Write as _, io::Write as _, path::Path};

use super::machine::{
    interfaces::{NetInterface, has_ipv6, interfaces},
    lines,
    programs::shell_word,
    units::ProxyUnits,
};
use crate::{audit::printable, exit::Exit, flags::SetupFlags, net::Intercept};

const ROUTING: &str = "starttls-proxy-routing";
const OUTBOUND: &str = "starttls-proxy-outbound";
const INBOUND: &str = "starttls-proxy-inbound";
/// Longest words about an interface, in octets.
const LONGEST: usize = 400;

/// Where the proxies listen, by the units.
const OUTBOUND_PORT: u16 = 2525;
const INBOUND_PORT: u16 = 2526;
/// Where the routing unit would be told the interfaces, if it names no file.
const DROP_IN: &str = "/etc/systemd/system/starttls-proxy-routing.service.d/interfaces.conf";

/// Prints a shell script with its reasons in comments.
///
/// # Errors
/// A named interface is not there.
pub(crate) fn setup(flags: &SetupFlags) -> Result<(), Exit> {
    let found = interfaces();
    for name in flags.inside.iter().chain(&flags.outside) {
        if !found.iter().any(|one| one.name == *name) {
            let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
            return Err(Exit::Usage(format!(
                "setup: there is no interface '{}'\nhint: this machine has {}",
                printable(name, LONGEST),
                printable(&names.join(", "), LONGEST)
            )));
        }
        if !lines::is_plain(name) {
            let words = printable(&lines::rename(name), LONGEST);
            return Err(Exit::Usage(format!("setup: {words}")));
        }
    }
    let families = if has_ipv6() {
        &[false, true][..]
    } else {
        &[false]
    };
    let units = ProxyUnits::read(Path::new("/"));
    let plan = InterceptionPlan::new(flags, &found, families, units);
    // A reader that closed stdout does not want the text.
    let _ = std::io::stdout().write_all(plan.script(&found).as_bytes());
    Ok(())
}

struct InterceptionPlan {
    intercept: Intercept,
    /// Where outbound mail is to be intercepted; empty if it is not.
    inside: Vec<String>,
    /// Where inbound mail is to be intercepted; empty if it is not.
    outside: Vec<String>,
    families: &'static [bool],
    units: ProxyUnits,
}

impl InterceptionPlan {
    /// Inbound mail is intercepted only where somebody has said so: with a flag, in the file of the routing unit, or by enabling the
    /// inbound service. To lock its port without a service behind it would stop mail that nobody spoke of.
    fn new(
        flags: &SetupFlags,
        found: &[NetInterface],
        families: &'static [bool],
        units: ProxyUnits,
    ) -> Self {
        let routing = units.named(ROUTING);
        let guessed = |outbound| -> Vec<String> {
            let names = lines::guessed(found, outbound).into_iter();
            let names = names.filter(|name| lines::is_plain(name));
            names.map(str::to_owned).collect()
        };
        // What the routing unit was told before. An interface that is not here now may come back, and keeps its lock.
        let told = |variable: &str| -> Vec<String> {
            let words = routing.and_then(|unit| unit.environment.get(variable));
            let names = words.map_or("", String::as_str).split_ascii_whitespace();
            let names = names.filter(|name| lines::is_plain(name));
            names.map(str::to_owned).collect()
        };
        let chosen = |given: &[String], variable, outbound, is_wanted: bool| {
            if !given.is_empty() {
                return given.to_vec();
            }
            let mut names = told(variable);
            let is_here = |name: &String| found.iter().any(|one| one.name == *name);
            if !names.iter().any(is_here) && (is_wanted || !names.is_empty()) {
                names.extend(guessed(outbound));
            }
            names
        };
        let inbound = units.named(INBOUND).is_some_and(|unit| {
            let intercepts = unit
                .arguments
                .iter()
                .any(|word| word.starts_with("--intercept"));
            intercepts && (unit.is_enabled || !unit.sockets.is_empty())
        });
        // Who names the outside only speaks of inbound mail only.
        let outbound = flags.outside.is_empty();
        Self {
            intercept: flags.intercept.unwrap_or(Intercept::Tproxy),
            inside: chosen(&flags.inside, "INSIDE", true, outbound),
            outside: chosen(&flags.outside, "OUTSIDE", false, inbound),
            families,
            units,
        }
    }

    fn script(&self, found: &[NetInterface]) -> String {
        let mut out = String::from(
            "# starttls-proxy setup: nothing was changed. Read this, correct it, and run what you want of it as root.\n#\n\
             # This machine has these interfaces:\n",
        );
        for one in found {
            let route = match one.is_outside {
                true => "the world is here, since a default route leads through it",
                false => "the mail server is here, since no default route leads through it",
            };
            let is_inside = self.inside.contains(&one.name);
            let leads = match (is_inside, self.outside.contains(&one.name)) {
                _ if !lines::is_plain(&one.name) => lines::rename(&one.name),
                (true, _) => format!("{route}; outbound mail is intercepted"),
                (_, true) => format!("{route}; inbound mail is intercepted"),
                _ if one.is_outside => format!("{route}; inbound mail goes on as before"),
                _ => String::from("not used"),
            };
            let addresses = match one.addresses.is_empty() {
                true => String::from("no address"),
                false => one.addresses.join(", "),
            };
            let name = printable(&one.name, LONGEST);
            let leads = printable(&leads, LONGEST);
            let _ = writeln!(out, "#   {name}  {addresses}: {leads}");
        }
        if !self.inside.is_empty() && self.outside.is_empty() {
            out += "#\n\
                    # This is about outbound mail alone. For inbound mail, too: starttls-proxy setup --inside INTERFACE --outside INTERFACE.\n";
        }
        if self.inside.is_empty() && self.outside.is_empty() {
            out += "#\n\
                    # A router has at least one interface on each side. Name the one towards the mail server: --inside INTERFACE.\n\
                    # If this machine is no router, use the smart host, which needs no rules:\n\
                    #   starttls-proxy outbound --listen ADDRESS:25 --upstream YOUR-RELAY --level secure\n";
        }
        match self.units.named(ROUTING) {
            _ if self.inside.is_empty() && self.outside.is_empty() => {}
            Some(unit) => self.with_units(unit.environment_file.as_deref(), &mut out),
            None => self.by_hand(&mut out),
        }
        self.flags(&mut out);
        out += "\n# At last, let the machine be examined:\nstarttls-proxy doctor\n";
        out
    }

    /// The routing unit makes all rules from the names of the interfaces.
    fn with_units(&self, file: Option<&Path>, out: &mut String) {
        let (inside, outside) = (self.inside.join(" "), self.outside.join(" "));
        out.push_str(
            "\n# 1. The routing unit puts the rules on, and again after a restart. It must know the interfaces: mail that comes\n\
             #    in by INSIDE goes to the outbound service, mail that comes in by OUTSIDE to the inbound service. Mail of\n\
             #    a direction whose variable is empty goes on as before.\n",
        );
        // The names are plain, so that nothing in them needs quotes beyond these.
        let (text, sign) = match file {
            Some(_) => (
                format!("INSIDE=\"{inside}\"\\nOUTSIDE=\"{outside}\"\\n"),
                ">>",
            ),
            None => (
                format!("[Service]\\nEnvironment=\"INSIDE={inside}\" \"OUTSIDE={outside}\"\\n"),
                ">",
            ),
        };
        let file = file.unwrap_or(Path::new(DROP_IN));
        let folder = file.parent().unwrap_or(Path::new("/"));
        let _ = writeln!(
            out,
            "mkdir -p {}\nprintf '{text}' {sign}{}\nsystemctl daemon-reload",
            shell_word(&folder.display().to_string()),
            shell_word(&file.display().to_string())
        );
        out.push_str(
            "\n# 2. The service first: from the moment that the rules are on, port 25 passes through it or not at all.\n",
        );
        let services = [(OUTBOUND, &self.inside), (INBOUND, &self.outside)];
        let services = services.iter().filter(|(_, names)| !names.is_empty());
        for name in services.map(|(name, _)| name).chain([&ROUTING]) {
            let _ = writeln!(out, "systemctl enable --now {name}");
        }
    }

    /// The same without units, until the machine is restarted.
    fn by_hand(&self, out: &mut String) {
        let inside: Vec<&str> = self.inside.iter().map(String::as_str).collect();
        let outside: Vec<&str> = self.outside.iter().map(String::as_str).collect();
        let both = [&inside[..], &outside].concat();
        let (mut step, mut said) = (0, std::collections::HashSet::new());
        let mut section = |why: &str, mut commands: Vec<String>| {
            // Two sections may need the same chain.
            commands.retain(|command| said.insert(command.clone()));
            if !commands.is_empty() {
                step += 1;
                let _ = writeln!(out, "\n# {step}. {why}\n{}", commands.join("\n"));
            }
        };
        if self.intercept == Intercept::Tproxy {
            let table = lines::TABLE.to_string();
            let routes = self.families.iter().flat_map(|is_v6| {
                [
                    lines::mark_rule(*is_v6, lines::MARK),
                    lines::mark_route(*is_v6, &table),
                ]
            });
            section(
                "What the rules below mark is delivered to this machine, whatever its address.",
                routes.collect(),
            );
        }
        let families = self.families.iter();
        let locks = families.flat_map(|is_v6| {
            let both = both.iter();
            both.map(move |name| lines::second_lock(*is_v6, name))
        });
        section(
            "The second lock: the routing refuses port 25. It stays when somebody flushes the firewall's rules.",
            locks.collect(),
        );
        if !both.is_empty() {
            section(
                "The first lock: the firewall forwards nothing to port 25, so that nothing passes while the proxy is down.",
                lines::fail_closed(&both),
            );
        }
        if !inside.is_empty() {
            section(
                "Mail of the mail server is handed to the outbound service.",
                lines::hand_over(self.intercept, &inside, OUTBOUND_PORT),
            );
        }
        if !outside.is_empty() {
            section(
                "Mail of the world is handed to the inbound service.",
                lines::hand_over(self.intercept, &outside, INBOUND_PORT),
            );
        }
    }

    fn flags(&self, out: &mut String) {
        // Without an interface there is no line of flags to speak of.
        if self.inside.is_empty() && self.outside.is_empty() {
            return;
        }
        let (word, outbound, inbound, why) = match self.intercept {
            Intercept::Tproxy => (
                "tproxy",
                " --keep-client-address",
                "--keep-client-address",
                "# [::] takes IPv4, too; TPROXY finds only a listener on the unspecified address. --keep-client-address lets both\n\
                 # sides see each other's address, as without the proxy; it needs CAP_NET_RAW.",
            ),
            Intercept::Redirect => (
                "redirect",
                "",
                "--hide-client-address",
                "# [::] takes IPv4, too. With REDIRECT both sides see this machine's address: take care that the mail server does\n\
                 # not relay for it, or all the world can send through it.",
            ),
        };
        let file = |name: &str| self.units.named(name)?.environment_file.as_ref();
        let place = match (self.outside.is_empty(), file(OUTBOUND)) {
            (true, Some(file)) => format!("They stand in {}.", file.display()),
            _ => String::from(
                "Those of the services stand in their units, or in the files that these name.",
            ),
        };
        let _ = writeln!(
            out,
            "\n# Flags. {place} --observe judges and records all mail and refuses\n\
             # none; take it away after a week, with the help of: starttls-proxy policy suggest.\n{why}"
        );
        if !self.inside.is_empty() {
            let _ = writeln!(
                out,
                "#   starttls-proxy outbound --listen '[::]:{OUTBOUND_PORT}' --intercept {word}{outbound} --observe \\\n\
                 #     --policy /etc/starttls-proxy/policy --state-dir /var/lib/starttls-proxy/outbound \\\n\
                 #     --audit-log /var/lib/starttls-proxy/outbound/audit.jsonl"
            );
        }
        if !self.outside.is_empty() {
            let _ = writeln!(
                out,
                "#   starttls-proxy inbound --listen '[::]:{INBOUND_PORT}' --intercept {word} {inbound} --observe \\\n\
                 #     --cert /etc/starttls-proxy/cert.pem --key /etc/starttls-proxy/key.pem \\\n\
                 #     --audit-log /var/lib/starttls-proxy/inbound/audit.jsonl"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::machine::units::ServiceUnit;

    fn interface(name: &str, is_outside: bool) -> NetInterface {
        NetInterface {
            name: name.into(),
            addresses: vec!["192.0.2.1/24".into()],
            is_outside,
        }
    }

    fn units(outside: &str, is_inbound_enabled: bool) -> ProxyUnits {
        let named = |name: &str| ServiceUnit {
            name: name.into(),
            ..ServiceUnit::default()
        };
        let mut routing = named(ROUTING);
        routing.environment.insert("OUTSIDE".into(), outside.into());
        routing.environment_file = Some("/etc/default/starttls-proxy-routing".into());
        let inbound = ServiceUnit {
            is_enabled: is_inbound_enabled,
            arguments: ["inbound", "--intercept", "tproxy"].map(Into::into).into(),
            ..named(INBOUND)
        };
        ProxyUnits(vec![routing, named(OUTBOUND), inbound])
    }

    fn script(inside: &[&str], outside: &[&str], units: ProxyUnits) -> String {
        let given = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let flags = SetupFlags {
            inside: given(inside),
            outside: given(outside),
            intercept: None,
        };
        let found = [
            interface("eth0", true),
            interface("eth1", false),
            interface("a'b\u{1b}", false),
        ];
        InterceptionPlan::new(&flags, &found, &[false], units).script(&found)
    }

    /// The lines that are run.
    fn run(script: &str) -> Vec<&str> {
        let lines = script.lines();
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect()
    }

    #[test]
    fn inbound_mail_goes_on_as_before_unless_somebody_wished_otherwise() {
        let without_units = || ProxyUnits(Vec::new());
        for (outside, units, is_wished) in [
            (&[][..], units("", false), false),
            (&[], without_units(), false),
            (&["eth0"], units("", false), true),
            (&["eth0"], without_units(), true),
            (&[], units("eth0", false), true),
            (&[], units("ppp0", false), true),
            (&[], units("", true), true),
        ] {
            let script = script(&["eth1"], outside, units);
            let lines = run(&script).join("\n");
            let is_named = lines.contains("OUTSIDE=") && !lines.contains("OUTSIDE=\"\"");
            let is_locked = lines.contains("iif eth0 ");
            assert_eq!(is_named || is_locked, is_wished, "{script}");
            let is_started = script.contains("inbound --listen");
            assert_eq!(is_started, is_wished, "{script}");
            assert!(lines.contains("eth1"), "{script}");
        }
    }

    #[test]
    fn each_service_is_started_before_its_port_is_locked() {
        let script = script(&["eth1"], &["eth0"], units("", false));
        let order = ["-outbound", "-inbound", "-routing"];
        let order =
            order.map(|name| script.find(&format!("systemctl enable --now starttls-proxy{name}")));
        assert!(
            order.iter().all(Option::is_some) && order.is_sorted(),
            "{script}"
        );
    }

    #[test]
    fn who_names_the_outside_only_speaks_of_inbound_mail_only() {
        let script = script(&[], &["eth0"], units("", false));
        assert!(
            script.contains("INSIDE=\"\"\\nOUTSIDE=\"eth0\""),
            "{script}"
        );
        assert!(!run(&script).join(" ").contains("-outbound"), "{script}");
    }

    #[test]
    fn flags_are_spoken_of_only_where_a_line_of_them_follows() {
        let only_outside = [interface("eth0", true)];
        for units in [units("", false), ProxyUnits(Vec::new())] {
            let none = SetupFlags::default();
            let plan = InterceptionPlan::new(&none, &only_outside, &[false], units);
            let script = plan.script(&only_outside);
            assert!(script.contains("--inside INTERFACE"), "{script}");
            assert!(!script.contains("# Flags."), "{script}");
        }
        for (inside, outside) in [(&["eth1"][..], &[][..]), (&[], &["eth0"])] {
            let script = script(inside, outside, units("", false));
            let below = script.split_once("\n# Flags.").unwrap().1;
            assert!(below.contains("#   starttls-proxy "), "{script}");
        }
    }

    #[test]
    fn a_name_that_no_rule_can_have_is_left_out_and_told() {
        for units in [units("", false), ProxyUnits(Vec::new())] {
            let script = script(&[], &[], units);
            assert!(!run(&script).join(" ").contains("a'b"), "{script}");
            assert!(script.contains("cannot stand in rules"), "{script}");
            assert!(
                script
                    .chars()
                    .all(|c| c == '\n' || (' '..='~').contains(&c)),
                "{script:?}"
            );
        }
    }
}
