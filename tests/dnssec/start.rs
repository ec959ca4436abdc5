//! The program at its start, and `check`, behind resolvers of all kinds.

use super::{
    forger::{error, forger},
    free_ports,
};
use domain::base::iana::Rcode;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
};

/// A resolver that answers every question like that; nobody is behind it.
fn resolver(rcode: Rcode) -> SocketAddr {
    let nobody = (Ipv4Addr::LOCALHOST, free_ports()).into();
    forger(nobody, move |message| error(message, rcode)).0
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"));
    command.args(arguments).stderr(Stdio::piped());
    command
}

fn outbound(resolver: SocketAddr, more: &[&str]) -> Command {
    let mut command = program(&["outbound", "--listen", "127.0.0.1:0"]);
    command.args(["--upstream", "relay.example", "--resolver"]);
    command.arg(resolver.to_string()).args(more);
    command
}

/// One clear sentence, and an exit code for which the unit starts it again.
#[test]
fn answers_without_signatures_end_it_with_a_code_that_is_retried() {
    for rcode in [
        Rcode::NOERROR,
        Rcode::REFUSED,
        Rcode::FORMERR,
        Rcode::NOTIMP,
    ] {
        let resolver = resolver(rcode);
        for mode in [&[][..], &["--observe"]] {
            let ended = outbound(resolver, mode).output().unwrap();
            let said = String::from_utf8(ended.stderr).unwrap();
            assert_eq!(ended.status.code(), Some(75), "{said}");
            let begin = format!(
                "starttls-proxy: DANE is on, but DNSSEC signatures cannot be had: resolver {resolver} "
            );
            assert!(said.starts_with(&begin), "{said}");
            assert!(
                said.contains("--resolver ADDRESS") && said.ends_with("--no-dane\n"),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn it_starts_where_no_answer_shows_anything_or_dane_is_not_wanted() {
    let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, free_ports()).into();
    for (resolver, more) in [
        (nobody, &[][..]),
        (resolver(Rcode::SERVFAIL), &[]),
        (resolver(Rcode::REFUSED), &["--no-dane"]),
        // An address is asked nothing of the DNS.
        (resolver(Rcode::REFUSED), &["--upstream", "192.0.2.1"]),
    ] {
        let mut command = match more {
            ["--upstream", address] => {
                let mut command = program(&["outbound", "--listen", "127.0.0.1:0"]);
                command.args(["--upstream", address, "--resolver"]);
                command.arg(resolver.to_string());
                command
            }
            more => outbound(resolver, more),
        };
        let mut running = command.spawn().unwrap();
        let mut log = BufReader::new(running.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("outbound: ready") {
            let length = log.read_line(&mut said).unwrap();
            assert!(length > 0, "{resolver} {more:?}: it ended: {said}");
        }
        running.kill().unwrap();
        running.wait().unwrap();
    }
}

#[test]
fn check_says_it_in_its_first_line() {
    let resolver = resolver(Rcode::REFUSED).to_string();
    let arguments = ["check", "--resolver", &resolver, "clinic.example"];
    let text = program(&arguments).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with("DANE is on, but DNSSEC signatures cannot be had: "),
        "{text}"
    );
    let without = program(&[&arguments[..], &["--no-dane"]].concat())
        .output()
        .unwrap();
    let text = String::from_utf8(without.stdout).unwrap();
    assert!(text.starts_with("clinic.example\n"), "{text}");
}

/// A line of the table must not silently get another level.
#[test]
fn a_line_that_demands_dane_and_the_flag_that_switches_it_off_contradict_each_other() {
    let folder = std::env::temp_dir().join(format!("starttls-proxy-lines-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let table = folder.join("policy");
    let name = table.display().to_string();
    for level in ["dane", "dane-only"] {
        fs::write(&table, format!("# a comment\nclinic.example {level}\n")).unwrap();
        let mut ended = outbound(resolver(Rcode::REFUSED), &["--no-dane", "--policy", &name])
            .spawn()
            .unwrap();
        let mut said = String::new();
        ended
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(ended.wait().unwrap().code(), Some(78), "{said}");
        let begin =
            format!("starttls-proxy: {name}:2:1: level {level} needs DANE; leave --no-dane away");
        assert!(said.starts_with(&begin), "{said}");
    }
    fs::remove_dir_all(folder).unwrap();
}
