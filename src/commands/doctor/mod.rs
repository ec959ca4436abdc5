//! `doctor`: examines this machine and says what must be mended, with the commands that mend it. Nothing is changed, and no mail is
//! sent.

mod certificates;
mod evidence;
mod finding;
mod host;
mod interception;
mod process;
mod relay;
mod service;
mod watcher;

use std::{
    io::{self, Write},
    path::Path,
};

use self::{
    finding::{Health, MachineFinding},
    service::{ProxyService, ServiceFlags, installed},
};
use super::{
    machine::{
        processes::{proxies, status_of},
        units::{ProxyUnits, ServiceUnit},
    },
    runtime,
};
use crate::{
    audit::printable,
    configure::{self, PreparedProxy},
    exit::Exit,
    flags::DoctorFlags,
};

/// Longest heading, in octets.
const LONGEST: usize = 2_000;

/// The findings about one service, or about the machine.
struct ReportPart {
    heading: String,
    findings: Vec<MachineFinding>,
}

/// Examines, and prints what was found.
///
/// # Errors
/// The command line is wrong; exit 1 if there are warnings, 2 if something must be mended.
pub(crate) fn doctor(flags: &DoctorFlags) -> Result<(), Exit> {
    // The page says what a log line would say.
    log::set_max_level(log::LevelFilter::Off);
    let units = ProxyUnits::read(Path::new("/"));
    let parts = runtime()?.block_on(examine(&flags.command, &units))?;
    let all = parts.iter().flat_map(|part| &part.findings);
    let worst = all.map(|finding| finding.health).max();
    // A reader that closed stdout does not want the page; the exit code is the same.
    let _ = print(&parts, &mut io::stdout().lock());
    match worst {
        Some(Health::Fail) => Err(Exit::Faulty),
        Some(Health::Warn) => Err(Exit::No),
        Some(Health::Ok) | None => Ok(()),
    }
}

async fn examine(command: &[String], units: &ProxyUnits) -> Result<Vec<ReportPart>, Exit> {
    let running = proxies();
    let services = match command {
        [] => installed(units, &running),
        given => {
            let wrong = |words| {
                Exit::Usage(format!(
                    "doctor: {words}\nhint: starttls-proxy doctor --help"
                ))
            };
            let service = ProxyService::new(given, None, &running).map_err(wrong)?;
            vec![Ok(service)]
        }
    };
    let mut parts = vec![ReportPart {
        heading: String::from("this machine"),
        findings: machine(services.is_empty(), units),
    }];
    for service in services {
        parts.push(match service {
            Ok(service) => ReportPart {
                heading: heading(&service),
                findings: of_service(&service, units).await,
            },
            Err((name, words)) => ReportPart {
                findings: vec![
                    MachineFinding::fail("flags", format!("its command line is wrong: {words}"))
                        .run(format!("systemctl cat {name}")),
                ],
                heading: name,
            },
        });
    }
    Ok(parts)
}

fn heading(service: &ProxyService) -> String {
    let words = service.words.join(" ");
    match &service.unit {
        Some(unit) => format!("{}: {words}", unit.name),
        None => words,
    }
}

/// What concerns all services.
fn machine(has_no_service: bool, units: &ProxyUnits) -> Vec<MachineFinding> {
    let mut findings = Vec::new();
    if status_of(None).is_some_and(|(_, uid)| uid != 0) {
        let finding =
            MachineFinding::warn("rights", "not everything can be looked at without root");
        findings.push(finding.run("sudo starttls-proxy doctor"));
    }
    if has_no_service {
        findings.push(no_service(units));
    }
    findings.push(host::clock());
    findings
}

fn no_service(units: &ProxyUnits) -> MachineFinding {
    const CHECK: &str = "service";
    let is_proxy = |unit: &&ServiceUnit| {
        let direction = unit.arguments.first().map(String::as_str);
        matches!(direction, Some("outbound" | "inbound"))
    };
    let names = units.0.iter().filter(is_proxy);
    let names: Vec<&str> = names.map(|unit| unit.name.as_str()).collect();
    let outbound = names.iter().find(|name| name.ends_with("-outbound"));
    match outbound.or(names.first()) {
        Some(first) => MachineFinding::fail(
            CHECK,
            format!(
                "the units {} are installed, and none is enabled",
                names.join(", ")
            ),
        )
        .run(format!("systemctl enable --now {first}")),
        None => MachineFinding::fail(
            CHECK,
            "no unit of starttls-proxy is installed, and no proxy runs here",
        )
        .run("starttls-proxy setup")
        .advise("or give the flags of the service: starttls-proxy doctor outbound FLAGS"),
    }
}

async fn of_service(service: &ProxyService, units: &ProxyUnits) -> Vec<MachineFinding> {
    let (mut findings, prepared) = configuration(service);
    findings.extend(process::check(service));
    findings.extend(interception::check(service, units));
    if service.intercept().is_some() {
        findings.extend(watcher::check(units));
    }
    match &service.flags {
        ServiceFlags::Outbound(flags) => {
            findings.push(host::trust_store(flags));
            findings.push(host::resolver(service, flags).await);
        }
        ServiceFlags::Inbound(flags) => {
            findings.extend(certificates::check(service, flags).await);
        }
    }
    findings.extend(evidence::check(service));
    if let Some(prepared) = prepared {
        findings.extend(relay::check(service, prepared.direction()).await);
    }
    findings
}

/// Reads all flags and files as the service does at its start.
fn configuration(service: &ProxyService) -> (Vec<MachineFinding>, Option<PreparedProxy>) {
    const CHECK: &str = "flags";
    let place = format!("correct it in {}", service.flags_place());
    let prepared = match ServiceFlags::parse(&service.words) {
        Ok(ServiceFlags::Outbound(mut flags)) => {
            // Root would fill the state directory with what the service cannot write later. `evidence` looks at it.
            flags.state_dir = None;
            configure::outbound(&flags)
        }
        Ok(ServiceFlags::Inbound(flags)) => configure::inbound(&flags),
        Err(words) => Err(Exit::Usage(words)),
    };
    match prepared {
        Ok(prepared) => {
            let warnings = prepared.warnings().iter();
            // Certificates have a check of their own.
            let warnings = warnings.filter(|warning| !warning.contains(": certificate of "));
            let warnings = warnings.map(|words| MachineFinding::warn(CHECK, words).advise(&place));
            let read = MachineFinding::ok(CHECK, "all flags and files can be read");
            let findings = std::iter::once(read).chain(warnings).collect();
            (findings, Some(prepared))
        }
        Err(error) => {
            let words = error.to_string();
            let mut lines = words.lines();
            let first = lines.next().unwrap_or_default();
            let finding =
                MachineFinding::fail(CHECK, format!("the proxy would not start: {first}"));
            let finding = lines.fold(finding, MachineFinding::advise);
            (vec![finding.advise(&place)], None)
        }
    }
}

/// The page. Its first line is what monitoring systems show.
fn print(parts: &[ReportPart], out: &mut dyn Write) -> io::Result<()> {
    let count = |health| {
        let all = parts.iter().flat_map(|part| &part.findings);
        all.filter(|finding| finding.health == health).count()
    };
    let (faults, warnings) = (count(Health::Fail), count(Health::Warn));
    let word = match (faults, warnings) {
        (0, 0) => "OK",
        (0, _) => "WARNING",
        _ => "CRITICAL",
    };
    let fine = count(Health::Ok);
    let worst = if faults > 0 {
        Health::Fail
    } else {
        Health::Warn
    };
    let all = parts.iter().flat_map(|part| &part.findings);
    let mut names: Vec<&str> = all
        .filter(|finding| finding.health == worst)
        .map(|finding| finding.check)
        .collect();
    names.dedup();
    let names = match names.is_empty() {
        true => String::new(),
        false => format!(": {}", names.join(", ")),
    };
    writeln!(
        out,
        "STARTTLS-PROXY {word} - {faults} to mend, {warnings} warning(s), {fine} ok{names}"
    )?;
    for part in parts {
        writeln!(out, "\n{}", printable(&part.heading, LONGEST))?;
        let mut findings = part.findings.iter();
        findings.try_for_each(|finding| finding.print(out))?;
    }
    if faults + warnings > 0 {
        writeln!(
            out,
            "\nEach \"run:\" is a command line for a root shell. Mend, then run this again."
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_act_on_no_terminal_and_begins_with_the_sum() {
        let hostile = "eth0\u{1b}[2J\n  ok    rules";
        let parts = [ReportPart {
            heading: hostile.into(),
            findings: vec![
                MachineFinding::fail("rules", hostile)
                    .run(hostile)
                    .advise(hostile),
                MachineFinding::ok("port", "2525 is free"),
            ],
        }];
        let mut out = Vec::new();
        print(&parts, &mut out).expect("printed");
        let text = String::from_utf8(out).expect("text");
        let first = "STARTTLS-PROXY CRITICAL - 1 to mend, 0 warning(s), 1 ok: rules\n";
        assert!(text.starts_with(first), "{text}");
        let is_harmless = |c| c == '\n' || (' '..='~').contains(&c);
        assert!(text.chars().all(is_harmless), "{text:?}");
        assert_eq!(text.matches("\n  ok").count(), 1, "{text}");
    }
}
