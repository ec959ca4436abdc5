//! A network namespace of the benchmark's own, in which connections to port 25 of a server outside are intercepted. All peers run
//! in it, so that they have the same kernel paths below them.

use std::{
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Set inside the namespace.
pub const INSIDE: &str = "STARTTLS_PROXY_BENCH_NAMESPACE";
/// What mail to each of these servers is intercepted by: a proxy on this port.
pub const INTERCEPTED: [(Ipv4Addr, u16); 2] = [
    (Ipv4Addr::new(10, 128, 0, 1), 2525),
    (Ipv4Addr::new(10, 128, 0, 2), 2526),
];

/// 10.128.0.0/9 is outside. What is not to be intercepted is not tracked either.
const SET_UP: &str = r#"
ip link set lo up &&
ip address add 10.9.0.1/32 dev lo &&
ip route add local 10.128.0.0/9 dev lo src 10.9.0.1 table local &&
nft -f - <<'RULES'
table ip bench {
    chain untracked_out {
        type filter hook output priority raw
        ip daddr 127.0.0.0/8 notrack
    }
    chain untracked_in {
        type filter hook prerouting priority raw
        ip daddr 127.0.0.0/8 ip saddr 127.0.0.0/8 notrack
    }
    chain intercept {
        type nat hook output priority -100
        ip daddr 10.128.0.1 tcp dport 25 meta mark != 1 redirect to :2525
        ip daddr 10.128.0.2 tcp dport 25 meta mark != 1 redirect to :2526
    }
}
RULES
"#;

/// Becomes the same program inside a namespace, if there may be one; returns why not.
pub fn enter() -> String {
    let ways: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    for way in ways {
        let tried = Command::new("unshare")
            .args(way)
            .args(["--", "sh", "-c", SET_UP])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !tried.is_ok_and(|status| status.success()) {
            continue;
        }
        let Ok(itself) = std::env::current_exe() else {
            break;
        };
        let script = format!("({SET_UP}) && exec \"$0\" \"$@\"");
        let error = Command::new("unshare")
            .args(way)
            .args(["--", "sh", "-c", &script])
            .arg(itself)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return error.to_string();
    }
    "no network namespace with nft rules can be made here".into()
}
