//! A smart host: who may use it, and which log-ins are refused at the start. `tests/lab/test_login.py` logs in to real servers.

#[path = "support/running.rs"]
mod running;

use running::{
    Client, Proxy, Scratch, exit_code_and_words, free, metrics_page, nowhere, run, written,
};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

const SMART: [&str; 3] = ["outbound", "--upstream", "relay.example:587"];

/// A file for its owner alone.
fn private(scratch: &Scratch, name: &str, text: &str) -> String {
    let file = scratch.file(name, text);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    file
}

/// The configuration's hash in the record of this kind and number, from 0. The record is on disk soon after the event.
fn hash(log: &str, event: &str, number: usize) -> Value {
    let begin = starttls_proxy::clock::instant();
    loop {
        let text = fs::read_to_string(log).expect("a log");
        // Text behind the last line end is still being written.
        let text = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let all = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let mut found = all.filter(|record: &Value| record["event"] == event);
        if let Some(record) = found.nth(number) {
            return record["configuration"].clone();
        }
        assert!(begin.elapsed() < running::HANG, "no {event} {number}");
        std::thread::yield_now();
    }
}

#[test]
fn the_start_says_who_may_use_it() {
    for (more, words) in [
        (
            &[][..],
            "clients: loopback, private and link-local addresses only (--allow-client names others)\n",
        ),
        (
            &["--allow-client", "192.0.2.0/24", "--allow-client", "::1"],
            "clients: 192.0.2.0/24, ::1/128 only (--allow-client)\n",
        ),
        (
            &["--allow-client", "0.0.0.0/0"],
            "warning: --allow-client 0.0.0.0/0: everybody may send mail",
        ),
    ] {
        let (code, said, _) = run(&[&SMART[..], &["--dry-run"], more].concat());
        assert!(code == Some(0) && said.contains(words), "{said}");
    }
    let intercepting = ["outbound", "--intercept", "redirect", "--dry-run"];
    let (_, said, _) = run(&intercepting);
    assert!(!said.contains("clients:"), "{said}");
}

#[test]
fn a_stranger_gets_421_in_place_of_a_greeting_and_is_counted() {
    let (listen, metrics) = (free(), free());
    let (to, counted) = (listen.to_string(), metrics.to_string());
    let upstream = nowhere().to_string();
    let first = ["outbound", "--upstream", &upstream, "--listen", &to];
    let second = ["--metrics", &counted, "--no-dane"];
    let named = ["--allow-client", "192.0.2.0/24"];
    let mut proxy = Proxy::ready(&[&first[..], &second, &named].concat());
    let mut stranger = Client::connect(listen);
    let said = stranger.hears("421 4.7.1 ");
    let words = "127.0.0.1 may not send mail through this proxy (--allow-client)";
    assert!(said.contains(words), "{said}");
    stranger.hears_the_end();
    let line = proxy.says("turned away");
    assert!(line.contains("why=allow-client"), "{line}");
    let page = metrics_page(metrics);
    let count = "starttls_proxy_turned_away_total{why=\"allow-client\"} 1";
    assert!(page.contains(count), "{page}");
}

#[test]
fn a_list_that_was_given_holds_for_intercepted_clients_too() {
    let listen = free();
    let to = listen.to_string();
    let first = ["outbound", "--intercept", "redirect", "--listen", &to];
    let second = ["--no-dane", "--allow-client", "192.0.2.0/24"];
    let _proxy = Proxy::ready(&[&first[..], &second].concat());
    Client::connect(listen).hears("421 4.7.1 ");
}

#[test]
fn the_proxy_logs_in_only_for_named_clients_and_to_a_server_that_proves_who_it_is() {
    let scratch = Scratch::new();
    let auth = private(&scratch, "auth", "user = scanner\npassword = s3cret-fish\n");
    let login = ["--upstream-auth", &auth, "--dry-run"];
    let named = ["--allow-client", "192.0.2.0/24"];
    let intercepting = ["outbound", "--intercept", "tproxy"];
    for (flags, words) in [
        (
            [&intercepting[..], &named].concat(),
            "never to servers of intercepted connections",
        ),
        (SMART.to_vec(), "hint: --allow-client PREFIX"),
        (
            [&SMART[..], &["--allow-client", "::/0"]].concat(),
            "everybody send mail as that user",
        ),
        (
            [&SMART[..], &named, &["--observe"]].concat(),
            "--observe lets",
        ),
        (
            [&SMART[..], &named, &["--level", "encrypt"]].concat(),
            "--level encrypt asks the server for no proof",
        ),
    ] {
        let (code, said) = exit_code_and_words(&[&flags[..], &login].concat());
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
    let good = [&SMART[..], &named, &login].concat();
    let (code, said, _) = run(&good);
    let words = "login: as scanner, by password\n";
    assert!(code == Some(0) && said.contains(words), "{said}");
    assert!(!said.contains("s3cret"), "{said}");

    let table = scratch.file("policy", "[relay.example]:587 encrypt\n");
    let (_, said, _) = run(&[&good[..], &["--policy", &table]].concat());
    assert!(said.contains("policy:1: "), "{said}");
    assert!(said.contains("so the proxy does not log in"), "{said}");
}

#[test]
fn a_file_that_everybody_may_read_is_refused_without_quoting_it() {
    let scratch = Scratch::new();
    let auth = private(&scratch, "auth", "user = scanner\npassword = s3cret-fish\n");
    let named = ["--allow-client", "192.0.2.0/24", "--upstream-auth", &auth];
    let flags = [&SMART[..], &named, &["--dry-run"]].concat();
    for (mode, text, words) in [
        (
            0o644,
            "user = scanner\npassword = s3cret-fish\n",
            "chmod o=",
        ),
        (0o600, "user = scanner\ns3cret-fish\n", "line 2: "),
        (0o600, "password = s3cret-fish\n", "no user"),
    ] {
        fs::write(&auth, text).expect("written");
        fs::set_permissions(&auth, fs::Permissions::from_mode(mode)).expect("set");
        let (code, said) = exit_code_and_words(&flags);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(&auth) && said.contains(words), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_reload_reads_the_login_again_and_no_hash_tells_the_password() {
    let scratch = Scratch::new();
    let auth = private(&scratch, "auth", "user = scanner\npassword = s3cret-fish\n");
    let (listen, log) = (free().to_string(), scratch.path("audit.jsonl"));
    let first = ["--no-dane", "--listen", &listen, "--audit-log", &log];
    let named = ["--allow-client", "127.0.0.0/8", "--upstream-auth", &auth];
    let mut proxy = Proxy::ready(&[&SMART[..], &first, &named].concat());
    let mut hashes = vec![hash(&log, "start", 0)];
    for (number, (text, words)) in [
        (
            "user = scanner\npassword = another-fish\n",
            "INFO  reloaded",
        ),
        (
            "user = printer\npassword = another-fish\n",
            "INFO  reloaded",
        ),
        ("user = printer\n", "not reloaded"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(&auth, text).expect("written");
        proxy.signal("-HUP");
        let line = proxy.says("reloaded");
        assert!(line.contains(words), "{line}");
        hashes.push(hash(&log, "reload", number));
    }
    assert_eq!(hashes[0], hashes[1], "a password leaves no trace");
    assert_ne!(
        hashes[1], hashes[2],
        "another user is another configuration"
    );
    assert_eq!(hashes[2], hashes[3], "what is in force is what was");
    proxy.signal("-TERM");
    let told = written(&log) + &proxy.last_words();
    assert!(!told.contains("fish"), "{told}");
}

#[test]
fn a_login_that_has_changed_is_in_force_without_a_signal() {
    let scratch = Scratch::new();
    let auth = private(&scratch, "auth", "user = scanner\npassword = s3cret-fish\n");
    let listen = free().to_string();
    let first = ["--no-dane", "--listen", &listen];
    let named = ["--allow-client", "127.0.0.0/8", "--upstream-auth", &auth];
    let mut proxy = Proxy::ready(&[&SMART[..], &first, &named].concat());
    fs::write(&auth, "user = scanner\npassword = another-fish\n").expect("written");
    proxy.says("files have changed: reloaded");
    fs::write(&auth, "user = scanner\n").expect("written");
    let line = proxy.says("files have changed: not reloaded");
    assert!(line.contains(&auth) && !line.contains("fish"), "{line}");
}

#[test]
fn a_bare_name_is_a_credential_of_systemd_which_guards_it_by_itself() {
    let scratch = Scratch::new();
    let credentials = scratch.0.join("credentials");
    fs::create_dir(&credentials).expect("a folder");
    // With an access list, as systemd sets one for a unit's user, the mode shows more than is allowed.
    let file = credentials.join("relay-login");
    fs::write(&file, "user = scanner\ntoken-file = relay-token\n").expect("written");
    fs::write(credentials.join("relay-token"), "t0ken\n").expect("written");
    for file in [&file, &credentials.join("relay-token")] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o444)).expect("set");
    }
    let dry_run = |credentials: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"));
        command.args(SMART).args(["--dry-run", "--no-dane"]);
        command.args(["--allow-client", "127.0.0.1"]);
        command.args(["--upstream-auth", "relay-login"]);
        command
            .current_dir(&scratch.0)
            .env_remove("CREDENTIALS_DIRECTORY");
        let command = match credentials {
            Some(folder) => command.env("CREDENTIALS_DIRECTORY", folder),
            None => &mut command,
        };
        let done = command.output().expect("it runs");
        let said = [done.stdout, done.stderr].concat();
        (
            done.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (code, said) = dry_run(Some(&credentials));
    let token = credentials.join("relay-token");
    let words = format!("login: as scanner, by token of {}\n", token.display());
    assert!(code == Some(0) && said.contains(&words), "{said}");
    assert!(
        !said.contains("warning") && !said.contains("t0ken"),
        "{said}"
    );
    let (code, said) = dry_run(None);
    assert_eq!(code, Some(78), "{said}");
}
