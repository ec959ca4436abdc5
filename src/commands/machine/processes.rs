//! The proxies that run here, and who listens on which port. Only what is in this network namespace counts.

use std::{
    fmt::Display,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::programs::output;

/// What the kernel calls a process of this program.
const PROGRAM: &str = "starttls-proxy";

/// A running proxy.
#[derive(Clone, Debug)]
pub(in crate::commands) struct RunningProxy {
    /// Its process id.
    pub(in crate::commands) pid: u32,
    /// The words behind the program's name.
    pub(in crate::commands) arguments: Vec<String>,
    /// Its effective capabilities, one bit each (capabilities(7)).
    pub(in crate::commands) capabilities: u64,
    /// Its effective user.
    pub(in crate::commands) uid: u32,
    /// The unit that started it, without `.service`.
    pub(in crate::commands) unit: Option<String>,
}

/// All that run.
pub(in crate::commands) fn proxies() -> Vec<RunningProxy> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let here = |pid: u32| match fs::read_link(format!("/proc/{pid}/ns/net")) {
        Ok(network) => own.as_ref() == Some(&network),
        // It takes CAP_SYS_PTRACE to see that of another user, and root of many containers has none. Then its control group says
        // whether it is one of this machine's or of a container's.
        Err(_) => service_of(pid).is_some() || groups_of("self") == groups_of(pid),
    };
    let pids = pids().into_iter();
    pids.filter(|pid| name_of(*pid) == PROGRAM && here(*pid))
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words = line.split(|octet| *octet == 0).skip(1);
            let mut arguments: Vec<String> = words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            // The last word ends with a NUL, too.
            arguments.pop();
            let direction = arguments.first()?;
            (direction == "outbound" || direction == "inbound").then_some(())?;
            let (capabilities, uid) = status_of(pid)?;
            Some(RunningProxy {
                pid,
                arguments,
                capabilities,
                uid,
                unit: service_of(pid).filter(|unit| unit.starts_with(PROGRAM)),
            })
        })
        .collect()
}

/// The service of systemd in whose control group the process is, without `.service`.
pub(in crate::commands) fn service_of(pid: u32) -> Option<String> {
    // Where it cannot be seen, the first process is taken to be where it is on a machine of its own.
    let first = groups_of(1).unwrap_or_default();
    let groups = groups_of(pid)?;
    groups
        .lines()
        .find_map(|line| service_of_group(line, root_of(line, &first)))
}

/// The control groups of a process, one for each hierarchy.
fn groups_of(process: impl Display) -> Option<String> {
    fs::read_to_string(format!("/proc/{process}/cgroup")).ok()
}

/// The control group in which the systemd of this machine keeps its own: that of the first process, in the same hierarchy. In a container
/// that sees the groups of its host it is not the topmost one.
fn root_of<'a>(line: &str, first: &'a str) -> &'a str {
    let of = |line: &'a str| line.splitn(3, ':').nth(2);
    let hierarchy = line.split(':').next();
    let same = first
        .lines()
        .find(|line| line.split(':').next() == hierarchy);
    let group = same.and_then(of).unwrap_or("/");
    // systemd has put itself into a group of its own.
    group
        .strip_suffix("/init.scope")
        .unwrap_or(group)
        .trim_end_matches('/')
}

/// The service whose own control group a line of `/proc/PID/cgroup` names. Below the root of this machine there are slices alone above it:
/// whatever is below a session, a user's manager, or a container belongs to another systemd, or to none.
fn service_of_group(line: &str, root: &str) -> Option<String> {
    let group = line.splitn(3, ':').nth(2)?;
    let (above, last) = group.strip_prefix(root)?.rsplit_once('/')?;
    let mut above = above.split('/').skip(1);
    let name = last.strip_suffix(".service")?;
    let is_own = above.all(|part| part.ends_with(".slice")) && !name.starts_with("user@");
    is_own.then(|| name.to_owned())
}

/// The service whose main process this is, so that stopping the service ends this process and what belongs to it.
pub(in crate::commands) fn service_with_main(pid: u32) -> Option<String> {
    let unit = service_of(pid)?;
    let name = format!("{unit}.service");
    let main = output("systemctl", &["show", "-p", "MainPID", "--value", &name]).ok()?;
    (main.trim() == pid.to_string()).then_some(unit)
}

/// Effective capabilities and user of a process; of this one where `pid` is `None`.
pub(in crate::commands) fn status_of(pid: impl Into<Option<u32>>) -> Option<(u64, u32)> {
    let process = pid.into().map_or("self".into(), |pid| pid.to_string());
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name))
    };
    let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?;
    let uid = field("Uid:")?
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    Some((capabilities, uid))
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Who listens on a TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) enum PortHolder {
    /// Nobody.
    Nobody,
    /// A proxy, or systemd for it.
    Ours,
    /// Another program: its name and process id.
    Other(String, u32),
    /// A program that cannot be seen from here.
    Unseen,
}

/// Looks for the listener that keeps others from an address.
pub(in crate::commands) fn holder(wanted: SocketAddr) -> PortHolder {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let sockets: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            let text = fs::read_to_string(table).unwrap_or_default();
            listening(&text, wanted)
        })
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return PortHolder::Nobody;
    }
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut links = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link: PathBuf| {
            sockets
                .iter()
                .any(|socket| link.as_os_str() == socket.as_str())
        })
    };
    let holders: Vec<(u32, String)> = pids()
        .into_iter()
        .filter(holds)
        .map(|pid| (pid, name_of(pid)))
        .collect();
    let ours = |name: &str| name == PROGRAM || name == "systemd";
    match holders.iter().find(|(_, name)| !ours(name)) {
        Some((pid, name)) => PortHolder::Other(name.clone(), *pid),
        None if holders.is_empty() => PortHolder::Unseen,
        None => PortHolder::Ours,
    }
}

/// The address of a table of `/proc/net`: words of 32 bits, each as this machine keeps them.
fn address(hex: &str) -> Option<IpAddr> {
    let words = hex.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let octets = words.collect::<Option<Vec<_>>>()?.concat();
    let v4 = <[u8; 4]>::try_from(octets.as_slice()).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(octets.as_slice()).map(|octets| Ipv6Addr::from(octets).into());
    v4.or_else(|_| v6()).ok()
}

/// Whether two listeners on one port are in each other's way. An unspecified address may stand for both families.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let covers = |wide: IpAddr, narrow: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4() || narrow.is_unspecified())
    };
    one == other || covers(one, other) || covers(other, one)
}

/// The inodes of sockets that listen on an address or on one that includes it, in a table of `/proc/net`.
fn listening(table: &str, wanted: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let (at, port) = local.rsplit_once(':')?;
            let is_it = *state == LISTEN
                && u16::from_str_radix(port, 16) == Ok(wanted.port())
                && overlap(address(at)?, wanted.ip());
            is_it.then(|| (*inode).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_listener_of_a_port_is_found_with_its_program() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let own = std::process::id();
        // A process that another test is starting has all our files for a moment.
        let until = |is_so: &dyn Fn(&PortHolder) -> bool| {
            let seen = (0..1000).map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                holder(at)
            });
            seen.into_iter().find(is_so).expect("it comes to be so")
        };
        let found = until(&|found| matches!(found, PortHolder::Other(_, pid) if *pid == own));
        let of = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), at.port());
        assert_eq!(holder(of("127.0.0.2")), PortHolder::Nobody);
        assert_eq!(holder(of("::1")), PortHolder::Nobody);
        for wide in ["0.0.0.0", "::", "::ffff:127.0.0.1"] {
            assert_eq!(holder(of(wide)), found, "{wide}");
        }
        drop(listener);
        until(&|found| *found == PortHolder::Nobody);
    }

    #[test]
    fn a_service_is_the_last_part_of_a_control_group_outside_of_users_and_containers() {
        for (line, expected) in [
            ("0::/system.slice/exim4.service", Some("exim4")),
            ("1:name=systemd:/system.slice/exim4.service", Some("exim4")),
            // Slice= may name any slice, whatever containers are called.
            ("0::/exim4.service", Some("exim4")),
            ("0::/mail.slice/mail-out.slice/exim4.service", Some("exim4")),
            (
                "0::/machine.slice/machine-mail.slice/exim4.service",
                Some("exim4"),
            ),
            ("0::/dockerhosts.slice/exim4.service", Some("exim4")),
            ("0::/user.slice/user-0.slice/user@0.service", None),
            (
                "0::/user.slice/user-0.slice/user@0.service/app.slice/a.service",
                None,
            ),
            ("0::/system.slice/agent.service/job", None),
            ("0::/system.slice/docker-0a.scope", None),
            ("0::/lxc.payload.mail/system.slice/exim4.service", None),
            ("0::/docker/0a/system.slice/exim4.service", None),
            (
                "0::/machine.slice/systemd-nspawn@m.service/payload/system.slice/exim4.service",
                None,
            ),
            ("0::/user.slice/user-0.slice/session-1.scope", None),
            ("0::/", None),
        ] {
            for first in ["0::/init.scope\n1:name=systemd:/init.scope\n", "0::/\n", ""] {
                let found = service_of_group(line, root_of(line, first));
                assert_eq!(found.as_deref(), expected, "{line}");
            }
        }
    }

    #[test]
    fn in_a_container_that_sees_its_hosts_groups_a_service_is_found_below_the_containers_own() {
        for root in [
            "/docker/0a",
            "/system.slice/docker-0a.scope",
            "/machine.slice/systemd-nspawn@m.service/payload",
            "/lxc.payload.mail",
            "/../other",
        ] {
            let first = format!("1:name=systemd:{root}/init.scope\n0::{root}/init.scope\n");
            let found = |group: &str| {
                let line = format!("0::{group}");
                service_of_group(&line, root_of(&line, &first))
            };
            for slice in ["", "/system.slice", "/machine-mail.slice"] {
                let group = format!("{root}{slice}/exim4.service");
                assert_eq!(found(&group).as_deref(), Some("exim4"), "{group}");
            }
            // That of the host, and that of a container in the container.
            assert_eq!(found("/system.slice/exim4.service"), None, "{root}");
            let deeper = format!("{root}/docker/0b/system.slice/exim4.service");
            assert_eq!(found(&deeper), None, "{deeper}");
        }
        // No systemd runs in this one.
        let line = "0::/docker/0a";
        assert_eq!(
            service_of_group(line, root_of(line, "0::/docker/0a\n")),
            None
        );
    }
}
