//! The running program's files and flags: which are refused at the start, which a reload takes, and what its record says.

#[path = "support/running.rs"]
mod running;

use running::{
    Client, INSIDE, Pair, Proxy, Scratch, exit_code_and_words, free, pair, pki::Authority, run,
    written,
};
use serde_json::Value;
use std::{fs, io::Write, os::unix::fs::PermissionsExt, process::Command};

/// The records of one kind, in their order.
fn records(log: &str, event: &str) -> Vec<Value> {
    let text = written(log);
    // Text behind the last line end is still being written.
    let text = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let all = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    all.filter(|record: &Value| record["event"] == event)
        .collect()
}

/// The record of this kind and number, from 0. It is on disk soon after the event.
fn record(log: &str, event: &str, number: usize) -> Value {
    let begin = starttls_proxy::clock::instant();
    loop {
        if let Some(record) = records(log, event).get(number) {
            return record.clone();
        }
        assert!(begin.elapsed() < running::HANG, "no {event} {number}");
        std::thread::yield_now();
    }
}

/// stdout of a run that succeeds.
fn printed(arguments: &[&str]) -> String {
    let (code, printed, said) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    printed
}

/// An outbound proxy that can be reloaded, and its audit log.
struct Outbound {
    proxy: Proxy,
    log: String,
}

impl Outbound {
    fn start(scratch: &Scratch, more: &[&str]) -> Self {
        let listen = free().to_string();
        let log = scratch.path("audit.jsonl");
        let first = ["outbound", "--listen", &listen, "--audit-log", &log];
        let second = [
            "--intercept",
            "redirect",
            "--resolver",
            "127.0.0.1:9",
            "--no-dane",
        ];
        let proxy = Proxy::ready(&[&first[..], &second, more].concat());
        Self { proxy, log }
    }

    /// The files of the last reload's record with what went wrong, and its hash. `words`: how the log ends it.
    fn reload(&mut self, words: &str) -> (Vec<(String, Option<String>)>, String) {
        let before = records(&self.log, "reload").len();
        self.proxy.signal("-HUP");
        let line = self.proxy.says("reloaded");
        assert!(line.contains(words), "{line}");
        let record = record(&self.log, "reload", before);
        let file = |one: &Value| {
            let error = one["error"].as_str().map(str::to_owned);
            (one["file"].as_str().expect("a file").to_owned(), error)
        };
        let files = record["files"].as_array().expect("files");
        let hash = record["configuration"].as_str().expect("a hash");
        (files.iter().map(file).collect(), hash.to_owned())
    }
}

const ANCHOR: &str =
    ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n";
const OTHER_ANCHOR: &str =
    ". IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16\n";

#[test]
fn a_swapped_tafile_is_another_policy_and_another_configuration() {
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem", Authority::root("One").pem());
    let table = scratch.file("policy", format!("a.example secure tafile={ca}\n"));
    let mut outbound = Outbound::start(&scratch, &["--policy", &table]);
    let started = record(&outbound.log, "start", 0);

    let (files, same) = outbound.reload("INFO  reloaded");
    assert_eq!(files, [(table.clone(), None), (ca.clone(), None)]);
    assert_eq!(started["configuration"], same.as_str());
    assert_eq!(records(&outbound.log, "policy-change").len(), 0);

    fs::write(&ca, Authority::root("Two").pem()).expect("written");
    let (_, hash) = outbound.reload("INFO  reloaded");
    assert_ne!(hash, same);
    // All records before the next reload's record are on disk with it.
    outbound.reload("INFO  reloaded");
    let changes = records(&outbound.log, "policy-change");
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["before"], started["policy"]["sha256"]);
    assert_ne!(
        changes[0]["policy"]["tafiles"],
        started["policy"]["tafiles"]
    );
}

#[test]
fn the_configurations_hash_follows_every_file_and_nothing_else() {
    let scratch = Scratch::new();
    let authority = Authority::root("Root");
    let (cert, key) = authority
        .leaf(&["client.example"])
        .write(&scratch.0, "client");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let ca = scratch.file("ca.pem", authority.pem());
    let anchor = scratch.file("anchor", ANCHOR);
    let table = scratch.file("policy", "a.example encrypt\n");
    let mut outbound = Outbound::start(
        &scratch,
        &[
            &[
                "--policy",
                &table,
                "--ca-file",
                &ca,
                "--dnssec-anchor",
                &anchor,
            ][..],
            &["--client-cert", &cert, "--client-key", &key],
        ]
        .concat(),
    );
    let (files, mut last) = outbound.reload("INFO  reloaded");
    let names: Vec<&str> = files.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(names, [&table, &ca, &anchor, &cert, &key]);
    for file in [&table, &ca, &anchor] {
        let text = fs::read_to_string(file).expect("readable");
        let other = match file {
            _ if *file == anchor => text + OTHER_ANCHOR,
            _ if *file == ca => text + &Authority::root("Another").pem(),
            _ => text + "b.example encrypt\n",
        };
        fs::write(file, other).expect("written");
        let (_, hash) = outbound.reload("INFO  reloaded");
        assert_ne!(hash, last, "{file}");
        last = hash;
    }
    authority
        .leaf(&["client.example"])
        .write(&scratch.0, "client");
    let (_, hash) = outbound.reload("INFO  reloaded");
    assert_ne!(hash, last);
    assert_eq!(outbound.reload("INFO  reloaded").1, hash);
}

#[test]
fn a_reload_is_all_or_nothing_and_tells_each_files_own_fault() {
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem", Authority::root("One").pem());
    let named = scratch.file("named.pem", Authority::root("Named").pem());
    let anchor = scratch.file("anchor", ANCHOR);
    let table = scratch.file("policy", format!("a.example secure tafile={named}\n"));
    let more = [
        "--policy",
        &table,
        "--ca-file",
        &ca,
        "--dnssec-anchor",
        &anchor,
    ];
    let mut outbound = Outbound::start(&scratch, &more);
    let (_, good) = outbound.reload("INFO  reloaded");
    let fault = |files: &[(String, Option<String>)], file: &str| {
        let found = files.iter().find(|(name, _)| name == file);
        found.expect("listed").1.clone()
    };

    fs::write(&anchor, "no anchor\n").expect("written");
    fs::write(&ca, Authority::root("Two").pem()).expect("written");
    let (files, hash) = outbound.reload("not reloaded");
    assert_eq!(hash, good, "what is in force is what was");
    let words = fault(&files, &anchor).expect("a fault");
    assert!(words.contains("not a key of the root"), "{words}");
    let words = fault(&files, &ca).expect("it is not in force");
    assert!(
        words.contains("nothing was taken") && words.contains(&anchor) && !words.contains("key of"),
        "{words}"
    );
    assert_eq!(fault(&files, &table), None, "it is in force as it is");
    assert_eq!(fault(&files, &named), None);

    fs::remove_file(&named).expect("removed");
    let (files, _) = outbound.reload("not reloaded");
    for file in [&named, &table] {
        let words = fault(&files, file).expect("a fault");
        assert!(
            words.contains("named.pem") && !words.contains("root"),
            "{words}"
        );
    }
    fs::write(&anchor, ANCHOR).expect("written");
    fs::write(&named, Authority::root("Named").pem()).expect("written");
    let (files, hash) = outbound.reload("INFO  reloaded");
    assert!(files.iter().all(|(_, fault)| fault.is_none()), "{files:?}");
    assert_ne!(hash, good, "another authority is trusted now");
}

#[test]
fn inbound_certificates_and_authorities_are_in_the_hash_and_each_tells_its_own_fault() {
    let Pair {
        authority,
        scratch,
        cert,
        key,
    } = pair();
    let ca = scratch.file("clients.pem", authority.pem());
    let log = scratch.path("audit.jsonl");
    let listen = free().to_string();
    let first = ["inbound", "--listen", &listen, "--upstream", "127.0.0.1:9"];
    let second = ["--hide-client-address", "--relay-probe", "off"];
    let third = ["--cert", &cert, "--key", &key, "--audit-log", &log];
    let fourth = ["--client-auth", "request", "--client-ca", &ca];
    let proxy = Proxy::ready(&[&first[..], &second, &third, &fourth].concat());
    let mut outbound = Outbound { proxy, log };
    let (_, mut last) = outbound.reload("INFO  reloaded");
    authority
        .leaf(&["mx.clinic.example"])
        .write(&scratch.0, "mx");
    let (_, hash) = outbound.reload("INFO  reloaded");
    assert_ne!(hash, last);
    last = hash;
    fs::write(&ca, Authority::root("Two").pem()).expect("written");
    let (_, hash) = outbound.reload("INFO  reloaded");
    assert_ne!(hash, last);

    fs::write(&key, "no key").expect("written");
    fs::write(&ca, "no authority").expect("written");
    let (files, _) = outbound.reload("not reloaded");
    let faults: Vec<Option<&str>> = files.iter().map(|(_, fault)| fault.as_deref()).collect();
    let [ca_fault, None, key_fault] = faults[..] else {
        panic!("{files:?}")
    };
    assert!(
        ca_fault.is_some_and(|words| words.contains("no certificate")),
        "{files:?}"
    );
    assert!(
        key_fault.is_some_and(|words| words.contains("no private key")),
        "{files:?}"
    );
}

#[test]
fn an_expired_entry_lets_no_stranger_through_in_the_clear() {
    let pair = pair();
    let (upstream, told) = INSIDE.serve();
    let table = pair.scratch.file(
        "policy",
        "@x.example none until=2020-01-01\n203.0.113.0/24 none until=2020-01-01\n",
    );
    let log = pair.scratch.path("audit.jsonl");
    let more = ["--policy", &table, "--audit-log", &log];
    let (_proxy, listen) = pair.ready(upstream, &more);
    let mut client = Client::introduced(listen);
    client.says("NOOP").hears("250");
    // For some minutes after a start mail in the clear is deferred, and refused after that.
    client.says("MAIL FROM:<a@x.example>").hears("451 4.7.0");
    client.says("QUIT").hears("221");
    client.hears_the_end();
    assert!(told.try_recv().is_err(), "the inside server heard of it");
    let started = record(&log, "start", 0);
    assert_eq!(started["policy"]["exemptions"], serde_json::json!([]));
}

#[test]
fn lines_of_the_other_direction_and_lines_given_twice_are_errors_with_their_place() {
    let Pair {
        cert, key, scratch, ..
    } = pair();
    let inbound = [
        "inbound",
        "--upstream",
        "127.0.0.1:9",
        "--hide-client-address",
    ];
    let inbound = [&inbound[..], &["--cert", &cert, "--key", &key, "--dry-run"]].concat();
    let outbound = ["outbound", "--upstream", "relay.example", "--dry-run"];
    let no_dane = [&outbound[..], &["--no-dane"]].concat();
    for (command, line, words) in [
        (
            &inbound[..],
            "partner.example none",
            "write @partner.example",
        ),
        (&inbound, "* encrypt", "write @ and a domain"),
        (&inbound, "[192.0.2.1] dane-only", "for a client choose"),
        (&outbound, "@partner.example none", "write partner.example"),
        (&outbound, "@.partner.example none", "table of inbound"),
        (
            &outbound,
            "[192.0.2.7] may",
            "has an entry already, on line 1",
        ),
        (&outbound, "* mta-sts", "not about an --upstream host"),
        (&no_dane, "* dane-only", "leave --no-dane away"),
    ] {
        let table = scratch.file(
            "policy",
            format!("192.0.2.7/32 encrypt\n# comment\n{line}\n"),
        );
        let (code, said) = exit_code_and_words(&[command, &["--policy", &table]].concat());
        assert_eq!(code, Some(78), "{line}: {said}");
        let place = format!("{table}:3:");
        assert!(
            said.contains(&place) && said.contains(words),
            "{line}: {said}"
        );
    }
}

#[test]
fn a_line_that_nothing_reaches_is_a_warning_with_its_place() {
    let scratch = Scratch::new();
    let table = scratch.file(
        "policy",
        "192.0.2.0/24 none\n192.0.2.0/25 encrypt\n192.0.2.128/25 encrypt\nrelay.example verify\n",
    );
    let dry = printed(&[
        "outbound",
        "--intercept",
        "redirect",
        "--policy",
        &table,
        "--dry-run",
    ]);
    assert!(
        dry.contains("4 entries; ways to plaintext: 1, to TLS without authentication: 2\n"),
        "{dry}"
    );
    let place = format!("warning: {table}:1: 192.0.2.0/24: never reached: lines 2, 3");
    assert!(dry.contains(&place), "{dry}");
    let dry = printed(&[
        "outbound",
        "--upstream",
        "relay.example",
        "--policy",
        &table,
        "--dry-run",
    ]);
    assert!(dry.contains(&format!("warning: {table}:2: ")), "{dry}");
    for verb in [&["test", "a.example"][..], &["show"]] {
        let shown = printed(&[&["policy"], verb, &["--policy", &table]].concat());
        assert!(shown.contains(&place), "{verb:?}: {shown}");
    }
}

#[test]
fn a_partner_whose_certificate_is_not_asked_for_is_a_warning() {
    let Pair {
        cert, key, scratch, ..
    } = pair();
    let table = scratch.file("policy", "@a.example encrypt\n@b.example secure\n");
    let first = [
        "inbound",
        "--upstream",
        "127.0.0.1:9",
        "--hide-client-address",
        "--dry-run",
    ];
    let first = [
        &first[..],
        &["--cert", &cert, "--key", &key, "--policy", &table],
    ]
    .concat();
    let place = format!("warning: {table}:2: @b.example: level secure needs");
    let dry = printed(&first);
    assert!(dry.contains(&place) && !dry.contains(":1:"), "{dry}");
    let asked = [&first[..], &["--client-auth", "request"]].concat();
    assert!(
        !printed(&asked).contains("warning: /"),
        "{}",
        printed(&asked)
    );
}

/// A pipe is empty when it is read again, and an empty table demands nothing.
#[test]
fn a_table_out_of_a_pipe_is_refused() {
    let scratch = Scratch::new();
    let pipe = scratch.0.join("policy").display().to_string();
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    // The pipe is opened for reading and writing, so that nobody waits for the other end.
    let mut open = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .expect("opened");
    open.write_all(b"a.example encrypt\n").expect("written");
    let run = [
        "outbound",
        "--intercept",
        "redirect",
        "--dry-run",
        "--policy",
        &pipe,
    ];
    let (code, said) = exit_code_and_words(&run);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("is no regular file"), "{said}");
}

#[test]
fn a_key_of_the_audit_log_that_everybody_may_read_is_refused_and_a_missing_folder_is_said() {
    let scratch = Scratch::new();
    let key = scratch.path("audit.key");
    printed(&["audit", "keygen", "--out", &key]);
    let missing = scratch.path("nowhere/audit.jsonl");
    let log = scratch.path("audit.jsonl");
    let dry_run = |log: &str| {
        let outbound = ["outbound", "--intercept", "redirect", "--dry-run"];
        run(&[&outbound[..], &["--audit-log", log, "--audit-key", &key]].concat())
    };
    for (mode, expected, words) in [
        (0o600, 0, None),
        (0o640, 0, Some("warning: ")),
        (
            0o644,
            78,
            Some("everybody on this host may read or change it"),
        ),
        (0o602, 78, Some("chmod o= ")),
    ] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("changed");
        let (code, printed, said) = dry_run(&log);
        assert_eq!(code, Some(expected), "{mode:o}: {said}");
        let both = printed + &said;
        assert_eq!(
            both.contains(&format!("{key}: ")),
            words.is_some(),
            "{mode:o}: {both}"
        );
        assert!(both.contains(words.unwrap_or_default()), "{mode:o}: {both}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");
    for (log, is_missing) in [(&log, false), (&missing, true)] {
        let (code, printed, said) = dry_run(log);
        assert_eq!(code, Some(0), "{said}");
        let words = "warning: --audit-log: there is no folder";
        assert_eq!(printed.contains(words), is_missing, "{printed}");
    }
}

#[test]
fn a_client_address_that_cannot_be_kept_is_refused_at_the_start() {
    let Pair {
        cert,
        key,
        scratch: _kept,
        ..
    } = pair();
    let pem = ["--cert", &cert, "--key", &key, "--dry-run"];
    let inbound = |listen: &str, upstream: &str| {
        let first = [
            "inbound",
            "--listen",
            listen,
            "--upstream",
            upstream,
            "--keep-client-address",
        ];
        exit_code_and_words(&[&first[..], &pem].concat())
    };
    let (code, said) = inbound("[2001:db8::1]:25", "10.0.0.5:25");
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("--keep-client-address") && said.contains("IPv6"),
        "{said}"
    );
    let (code, said) = inbound("0.0.0.0:25", "[fd00::5]:25");
    assert_eq!(code, Some(78), "{said}");
    assert_eq!(inbound("0.0.0.0:25", "10.0.0.5:25").0, Some(0));
    let dry = printed(&[
        "outbound",
        "--listen",
        "[::]:25",
        "--upstream",
        "10.0.0.5",
        "--keep-client-address",
        "--dry-run",
    ]);
    assert!(
        dry.contains("warning: --keep-client-address: clients over IPv6"),
        "{dry}"
    );
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` name the system's trust store, as they do for OpenSSL.
#[test]
fn the_system_trust_store_is_where_the_environment_says() {
    let scratch = Scratch::new();
    let roots = scratch.file("roots.pem", Authority::root("One").pem());
    let folder = scratch.path("certs");
    fs::create_dir(&folder).expect("a directory");
    let only = format!("{folder}/one.pem");
    fs::copy(&roots, &only).expect("a copy");
    // Directories of certificates hold each file under a second name, too.
    std::os::unix::fs::symlink(&only, format!("{folder}/0a1b2c3d.0")).expect("a link");
    let missing = scratch.path("missing.pem");
    let start = |name: &str, value: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"))
            .args([
                "outbound",
                "--dry-run",
                "--no-dane",
                "--listen",
                "127.0.0.1:0",
            ])
            .args(["--upstream", "192.0.2.1"])
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .env(name, value)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    assert_eq!(start("SSL_CERT_FILE", &roots).0, Some(0));
    assert_eq!(start("SSL_CERT_DIR", &folder).0, Some(0));
    for (name, value) in [("SSL_CERT_FILE", &missing), ("SSL_CERT_DIR", &missing)] {
        let (code, said) = start(name, value);
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("the system has no trust store") && said.contains(&missing),
            "{said}"
        );
    }
}
