//! `setup`: prints what would put the proxy on the path of port 25 on this machine, with the reason for each line. It runs nothing.

use std::{fmt::Write as _, io::Write as _, path::Path};

use super::machine::{
    interfaces::{NetInterface, has_ipv6, interfaces},
    lines,
    programs::shell_word,
    units::ProxyUnits,
};
use crate::{exit::Exit, flags::SetupFlags, net::Intercept};

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
                "setup: there is no interface '{name}'\nhint: this machine has {}",
                names.join(", ")
            )));
        }
    }
    let choose = |given: &[String], outbound| -> Vec<String> {
        let guessed = lines::guessed(&found, outbound).into_iter();
        match given {
            [] => guessed.map(str::to_owned).collect(),
            given => given.to_vec(),
        }
    };
    let plan = InterceptionPlan {
        intercept: flags.intercept.unwrap_or(Intercept::Tproxy),
        inside: choose(&flags.inside, true),
        outside: choose(&flags.outside, false),
        families: if has_ipv6() { &[false, true] } else { &[false] },
        units: ProxyUnits::read(Path::new("/")),
    };
    // A reader that closed stdout does not want the text.
    let _ = std::io::stdout().write_all(plan.script(&found).as_bytes());
    Ok(())
}

struct InterceptionPlan {
    intercept: Intercept,
    inside: Vec<String>,
    outside: Vec<String>,
    families: &'static [bool],
    units: ProxyUnits,
}

impl InterceptionPlan {
    fn script(&self, found: &[NetInterface]) -> String {
        let mut out = String::from(
            "# starttls-proxy setup: nothing was changed. Read this, correct it, and run what you want of it as root.\n#\n\
             # This machine has these interfaces:\n",
        );
        for one in found {
            let is_inside = self.inside.contains(&one.name);
            let leads = match (is_inside, self.outside.contains(&one.name)) {
                (true, _) => "the mail server is here, since no default route leads through it",
                (_, true) => "the world is here, since a default route leads through it",
                _ => "not used",
            };
            let addresses = match one.addresses.is_empty() {
                true => String::from("no address"),
                false => one.addresses.join(", "),
            };
            let _ = writeln!(out, "#   {}  {addresses}: {leads}", one.name);
        }
        if self.inside.is_empty() || self.outside.is_empty() {
            out += "#\n\
                    # A router has at least one interface on each side. Name them: --inside INTERFACE --outside INTERFACE.\n\
                    # If this machine is no router, use the smart host, which needs no rules:\n\
                    #   starttls-proxy outbound --listen ADDRESS:25 --upstream YOUR-RELAY --level secure\n";
        }
        match self.units.named("starttls-proxy-routing") {
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
             #    in by INSIDE goes to the outbound service, mail that comes in by OUTSIDE to the inbound service. Leave\n\
             #    OUTSIDE empty if inbound mail is to go on as before.\n",
        );
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
            "\n# 2. The service first: from the moment that the rules are on, port 25 passes through it or not at all.\n\
             systemctl enable --now starttls-proxy-outbound\n\
             systemctl enable --now starttls-proxy-routing\n",
        );
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
                "Mail of the world is handed to the inbound service. Leave this out, and the interface out of both locks, if\n\
                 #    inbound mail is to go on as before.",
                lines::hand_over(self.intercept, &outside, INBOUND_PORT),
            );
        }
    }

    fn flags(&self, out: &mut String) {
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
        let unit = self.units.named("starttls-proxy-outbound");
        let place = match unit.and_then(|unit| unit.environment_file.as_ref()) {
            Some(file) => format!("Those of the outbound service stand in {}.", file.display()),
            None => String::from("Those of the services stand in their units."),
        };
        let _ = writeln!(
            out,
            "\n# Flags. {place} --observe judges and records all mail and refuses\n\
             # none; take it away after a week, with the help of: starttls-proxy policy suggest.\n{why}\n\
             #   starttls-proxy outbound --listen '[::]:{OUTBOUND_PORT}' --intercept {word}{outbound} --observe \\\n\
             #     --policy /etc/starttls-proxy/policy --state-dir /var/lib/starttls-proxy/outbound \\\n\
             #     --audit-log /var/lib/starttls-proxy/outbound/audit.jsonl\n\
             #   starttls-proxy inbound --listen '[::]:{INBOUND_PORT}' --intercept {word} {inbound} --observe \\\n\
             #     --cert /etc/starttls-proxy/cert.pem --key /etc/starttls-proxy/key.pem \\\n\
             #     --audit-log /var/lib/starttls-proxy/inbound/audit.jsonl"
        );
    }
}
