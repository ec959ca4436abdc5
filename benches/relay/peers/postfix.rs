//! Postfix as the relay that an administrator would set up instead: it takes mail into a queue on disk, and sends it on over TLS to
//! a server that it verifies. What it costs is counted until the last message is at the sink.

use super::{Kind, Peer, Variant, find, version};
use crate::{
    Outcome,
    world::{self, OUTSIDE, World},
};
use std::{fs, path::Path, process::Command};

const DAEMONS: &str = "/usr/lib/postfix/sbin";
const SERVICES: &str = "\
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
proxymap  unix  -  -  n  -     -  proxymap
smtp      unix  -  -  n  -     -  smtp
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
tlsproxy  unix  -  -  n  -     0  tlsproxy
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
postlog   unix-dgram n - n  -  1  postlogd
";

pub async fn variants(world: &World) -> Outcome<Vec<Variant>> {
    let master = Path::new(DAEMONS).join("master");
    let (Some(postfix), Some(postconf)) = (find("postfix"), find("postconf")) else {
        return Ok(Vec::new());
    };
    // Only root may give files to Postfix's user.
    if !master.exists() || !is_root() {
        return Ok(Vec::new());
    }
    let listen = world::free_address().await?;
    let folder = world.folder.join("postfix");
    for name in ["etc", "queue", "data"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let (folder, ca) = (folder.display(), world.path("ca.pem"));
    let settings = format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {DAEMONS}
command_directory = /usr/sbin
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
import_environment = MAIL_CONFIG TZ
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
local_recipient_maps =
relayhost = [{ip}]:{port}
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtp_tls_security_level = secure
smtp_tls_secure_cert_match = {OUTSIDE}
smtp_tls_connection_reuse = yes
smtp_tls_CAfile = {ca}
message_size_limit = 0
mailbox_size_limit = 0
default_process_limit = 300
default_destination_concurrency_limit = 100
initial_destination_concurrency = 100
smtp_destination_recipient_limit = 1000
smtpd_recipient_limit = 1000
in_flow_delay = 0
",
        ip = world.outside.address.ip(),
        port = world.outside.address.port(),
    );
    fs::write(format!("{folder}/etc/main.cf"), settings)?;
    let service = format!("{listen} inet n - n - - smtpd\n{SERVICES}");
    fs::write(format!("{folder}/etc/master.cf"), service)?;
    fs::copy(
        "/etc/postfix/postfix-files",
        format!("{folder}/etc/postfix-files"),
    )?;
    let etc = format!("{folder}/etc");
    Command::new("chown")
        .args(["postfix", &format!("{folder}/data")])
        .status()?;
    let check = Command::new(postfix).args(["-c", &etc, "check"]).output()?;
    if !check.status.success() {
        return Err(format!("postfix check: {}", String::from_utf8_lossy(&check.stderr)).into());
    }
    let peer = Peer {
        version: version(&postconf, "mail_version"),
        program: master,
        arguments: ["-c", &etc, "-d"].map(String::from).to_vec(),
        for_crowds: Vec::new(),
        listen,
    };
    Ok(vec![Variant::between(
        world,
        "Postfix",
        Kind::Postfix,
        "out",
        peer,
    )?])
}

/// Root of the machine, not only of a user namespace, which has no other users.
fn is_root() -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let is_zero = read("/proc/self/status")
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t"));
    let users = read("/proc/self/uid_map");
    is_zero
        && users
            .split_whitespace()
            .nth(2)
            .is_some_and(|count| count != "1")
}
