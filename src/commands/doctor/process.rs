//! Does the service run, with the right to do what its flags ask for, on ports that it can have?

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
};

use super::{
    super::machine::{
        processes::{PortHolder, holder, service_of, status_of},
        programs::is_systemd_running,
    },
    finding::MachineFinding,
    service::ProxyService,
};
use crate::{flags::split_values, net::Intercept};

/// Bits of capabilities(7), with their names.
const NET_BIND_SERVICE: (u32, &str) = (10, "cap_net_bind_service");
const NET_ADMIN: (u32, &str) = (12, "cap_net_admin");
const NET_RAW: (u32, &str) = (13, "cap_net_raw");

pub(super) fn check(service: &ProxyService) -> Vec<MachineFinding> {
    let ports = service.ports().into_iter();
    let mut findings = vec![runs(service)];
    findings.extend(capabilities(service));
    findings.extend(
        service
            .listen()
            .iter()
            .filter_map(|own| address(service, *own)),
    );
    findings.extend(ports.map(|own| port(service, own)));
    findings
}

fn runs(service: &ProxyService) -> MachineFinding {
    const CHECK: &str = "service";
    match (&service.process, &service.unit) {
        (Some(process), Some(unit)) => {
            let as_started = split_values(&process.arguments) == split_values(&service.words);
            if !as_started {
                return MachineFinding::warn(
                    CHECK,
                    format!(
                        "{} runs (process {}) with other flags than its unit says now",
                        unit.name, process.pid
                    ),
                )
                .run(format!(
                    "systemctl daemon-reload && systemctl restart {}",
                    unit.name
                ));
            }
            match unit.is_enabled || !unit.sockets.is_empty() {
                true => MachineFinding::ok(
                    CHECK,
                    format!("{} runs, process {}", unit.name, process.pid),
                ),
                false => MachineFinding::warn(
                    CHECK,
                    format!(
                        "{} runs, but will not after a restart of the machine",
                        unit.name
                    ),
                )
                .run(format!("systemctl enable {}", unit.name)),
            }
        }
        (Some(process), None) => {
            MachineFinding::ok(CHECK, format!("it runs, process {}", process.pid))
        }
        (None, Some(unit)) => MachineFinding::fail(
            CHECK,
            format!(
                "{} is to run and does not; port 25 is refused meanwhile, and mail waits",
                unit.name
            ),
        )
        .run(format!("systemctl start {}", unit.name))
        .run(format!("journalctl -n 20 -u {}", unit.name)),
        (None, None) => {
            MachineFinding::ok(CHECK, "it does not run here yet; the flags are examined")
        }
    }
}

/// The capabilities that somebody has.
enum GrantedRights<'a> {
    /// As the kernel shows them.
    Bits(u64),
    /// As the unit names them, in lower case.
    Names(&'a [String]),
}

impl GrantedRights<'_> {
    fn include(&self, (bit, name): (u32, &str)) -> bool {
        match self {
            Self::Bits(bits) => bits >> bit & 1 == 1,
            Self::Names(names) => names.iter().any(|own| own == name),
        }
    }
}

fn capabilities(service: &ProxyService) -> Option<MachineFinding> {
    const CHECK: &str = "capabilities";
    let transparent = service.intercept() == Some(Intercept::Tproxy)
        || service.keeps_client_address()
        || service.marks();
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first_free: u16 = first_free
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    let low = service.listen().iter().any(|own| own.port() < first_free);
    let mut needed = Vec::new();
    needed.extend(transparent.then_some(NET_RAW));
    needed.extend(low.then_some(NET_BIND_SERVICE));
    let (rights, whose) = match (&service.process, &service.unit) {
        (Some(process), _) => (
            GrantedRights::Bits(process.capabilities),
            format!("process {}", process.pid),
        ),
        (None, Some(unit)) => {
            let rights = match unit.user {
                Some(_) => GrantedRights::Names(&unit.capabilities),
                None => GrantedRights::Bits(u64::MAX),
            };
            (rights, unit.name.clone())
        }
        (None, None) => {
            let (bits, _) = status_of(None)?;
            (GrantedRights::Bits(bits), String::from("whoever runs this"))
        }
    };
    let has = |one| rights.include(one);
    let missing = |(bit, name)| match bit == NET_RAW.0 {
        true => !has((bit, name)) && !has(NET_ADMIN),
        false => !has((bit, name)),
    };
    let missing: Vec<String> = needed
        .iter()
        .filter(|one| missing(**one))
        .map(|(_, name)| name.to_ascii_uppercase())
        .collect();
    let all: Vec<String> = needed
        .iter()
        .map(|(_, name)| name.to_ascii_uppercase())
        .collect();
    if missing.is_empty() {
        let words = match all.is_empty() {
            true => "none is needed for these flags".into(),
            false => format!("{whose} has {}", all.join(" and ")),
        };
        return Some(MachineFinding::ok(CHECK, words));
    }
    let finding = MachineFinding::fail(
        CHECK,
        format!(
            "{whose} lacks {}, which these flags need",
            missing.join(" and ")
        ),
    );
    let all = all.join(" ");
    Some(match &service.unit {
        Some(unit) => {
            let folder = format!("/etc/systemd/system/{}.service.d", unit.name);
            finding
                .run(format!("mkdir -p {folder}"))
                .run(format!(
                    "printf '[Service]\\nAmbientCapabilities={all}\\nCapabilityBoundingSet={all}\\n' >{folder}/capabilities.conf"
                ))
                .run(format!("systemctl daemon-reload && systemctl restart {}", unit.name))
        }
        None => finding.advise(format!("start it as root, or with the capabilities {all}")),
    })
}

/// An address of `--listen` that this machine does not have.
fn address(service: &ProxyService, own: SocketAddr) -> Option<MachineFinding> {
    const CHECK: &str = "address";
    let tproxy = service.intercept() == Some(Intercept::Tproxy);
    if tproxy && !own.ip().is_unspecified() {
        return Some(
            MachineFinding::fail(
                CHECK,
                format!("--listen {own}: TPROXY finds only a listener on the unspecified address"),
            )
            .advise(format!(
                "write --listen [::]:{} in {}",
                own.port(),
                service.flags_place()
            )),
        );
    }
    match TcpListener::bind((own.ip(), 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Some(
            MachineFinding::fail(
                CHECK,
                format!("--listen {own}: no interface of this machine has that address"),
            )
            .advise(format!(
                "give the address to an interface, or write another one in {}",
                service.flags_place()
            )),
        ),
        _ => None,
    }
}

fn port(service: &ProxyService, port: u16) -> MachineFinding {
    const CHECK: &str = "port";
    match holder(port) {
        PortHolder::Ours => MachineFinding::ok(CHECK, format!("{port} is held by starttls-proxy")),
        PortHolder::Nobody if service.process.is_none() && service.unit.is_none() => {
            MachineFinding::ok(CHECK, format!("{port} is free"))
        }
        PortHolder::Nobody => {
            let finding = MachineFinding::fail(
                CHECK,
                format!("nobody listens on {port}, so that mail waits"),
            );
            match service.systemctl("restart") {
                Some(command) => finding.run(command),
                None => finding.advise("start the proxy again, and read what it says"),
            }
        }
        PortHolder::Unseen => MachineFinding::warn(
            CHECK,
            format!("{port} is held by a program that cannot be seen from here; it should be starttls-proxy"),
        )
        .run(format!("sudo ss -Hltnp 'sport = :{port}'")),
        PortHolder::Other(name, pid) => {
            let finding = MachineFinding::fail(
                CHECK,
                format!("{port} is held by {name} (process {pid}), so that the proxy cannot listen there"),
            );
            let unit = service_of(pid).filter(|_| is_systemd_running());
            finding
                .run(match unit {
                    Some(unit) => format!("systemctl disable --now {unit}"),
                    None => format!("kill {pid}"),
                })
                .advise(format!(
                    "if {name} must keep the port, write another one in {} and in the interception rules",
                    service.flags_place()
                ))
        }
    }
}
