//! The proxies that run here, and who listens on which port. Only what is in this network namespace counts.

use std::{fs, path::PathBuf};

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
    let here = |pid: u32| own.is_some() && fs::read_link(format!("/proc/{pid}/ns/net")).ok() == own;
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
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut names = groups.lines().flat_map(|line| line.split('/'));
    names.find_map(|name| Some(name.strip_suffix(".service")?.to_owned()))
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

/// Looks for the listener of a port.
pub(in crate::commands) fn holder(port: u16) -> PortHolder {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let sockets: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            let text = fs::read_to_string(table).unwrap_or_default();
            listening(&text, port)
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

/// The inodes of sockets that listen on a port, in a table of `/proc/net`.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let (_, own) = local.rsplit_once(':')?;
            let is_it = *state == LISTEN && u16::from_str_radix(own, 16) == Ok(port);
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
        let port = listener.local_addr().expect("an address").port();
        let own = std::process::id();
        let found = holder(port);
        assert!(
            matches!(&found, PortHolder::Other(_, pid) if *pid == own),
            "{found:?}"
        );
        drop(listener);
        assert_eq!(holder(port), PortHolder::Nobody);
    }
}
