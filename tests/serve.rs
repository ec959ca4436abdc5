//! The running program: what it does with signals, files, limits and load balancers. Each test starts the binary.

#[path = "support/running.rs"]
mod running;

use running::{
    Client, HANG, INSIDE, Scratch, certificate_served, exit_code_and_words, free, inside_server,
    metrics_page, nowhere, pair, pki::Authority, written,
};
use std::{
    fs,
    io::{BufRead, Write as _},
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

#[test]
fn wrong_usage_is_64_and_wrong_configuration_78_before_anything_is_bound() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("address").to_string();
    let table = scratch.file("policy", "clinic.example secure\nclinic.example sekure\n");
    let (no_key, log) = (
        scratch.file("no-key", "no key\n"),
        scratch.path("audit.jsonl"),
    );
    let outbound = ["outbound", "--listen", &taken, "--upstream", "x.example"];
    let evidence = ["--audit-log", &log, "--audit-key", &no_key, "--dry-run"];
    let inbound = ["inbound", "--listen", &taken, "--cert", "a", "--key", "b"];
    let cases: [(&[&str], &[&str], i32, &str); 9] = [
        (
            &outbound,
            &["--max-sessions", "0"],
            64,
            "0 would let nobody in",
        ),
        (&outbound, &evidence, 78, &no_key),
        (&["audit", "verify"], &[], 64, "name at least one file"),
        (&outbound[..3], &[], 64, "nothing says where mail goes"),
        (&outbound, &["--level", "sekure"], 64, "sekure"),
        (&outbound, &["--intercept", "tproxy"], 64, "exclude"),
        (&outbound, &["--policy", &table], 78, "policy:2:"),
        (&outbound, &["--ca-file", "/nowhere"], 78, "/nowhere"),
        (
            &inbound,
            &["--upstream", "192.0.2.1:25"],
            64,
            "--send-proxy",
        ),
    ];
    for (first, more, code, words) in cases {
        let arguments = [first, more].concat();
        let (got, said) = exit_code_and_words(&arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {said}");
        assert!(
            said.starts_with("starttls-proxy: ") && said.contains(words),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn a_broken_certificate_on_reload_keeps_the_old_one_and_a_good_one_replaces_it() {
    let pair = pair();
    let (authority, cert) = (&pair.authority, &pair.cert);
    let (mut proxy, listen) = pair.ready(nowhere(), &[]);
    let first = certificate_served(listen, authority, "mx.clinic.example");

    let good = fs::read_to_string(cert).expect("readable");
    fs::write(cert, "no certificate").expect("written");
    proxy.signal("-HUP");
    proxy.says("not reloaded");
    assert_eq!(
        certificate_served(listen, authority, "mx.clinic.example"),
        first
    );

    fs::write(cert, good).expect("written");
    authority
        .leaf(&["mx.clinic.example"])
        .write(&pair.scratch.0, "mx");
    proxy.signal("-HUP");
    proxy.says("INFO  reloaded");
    assert_ne!(
        certificate_served(listen, authority, "mx.clinic.example"),
        first
    );
}

#[test]
fn a_stop_tells_idle_clients_421_and_ends() {
    let pair = pair();
    let (mut proxy, listen) = pair.ready(nowhere(), &[]);
    let mut client = Client::introduced(listen);
    proxy.signal("-TERM");
    client.hears("421 4.3.2");
    client.hears_the_end();
    drop(client);
    proxy.says("every session has ended");
    assert!(proxy.child.wait().expect("ended").success());
}

#[test]
fn a_message_that_a_stop_cuts_off_is_recorded_as_such() {
    let pair = pair();
    let audit_log = pair.scratch.path("audit.jsonl");
    let more = ["--exempt", "127.0.0.1/32", "--audit-log", &audit_log];
    let (mut proxy, listen) = pair.ready(inside_server(), &more);
    let mut client = Client::introduced(listen);
    client.begins_mail("a@client.example", &["b@clinic.example"]);
    proxy.signal("-TERM");
    proxy.says("stopping");
    proxy.signal("-TERM");
    client.hears_the_end();
    proxy.says("asked a second time");
    assert!(proxy.child.wait().expect("ended").success());
    let log = written(&audit_log);
    let events = [
        r#""event":"message""#,
        r#""event":"session-closed""#,
        r#""event":"stop""#,
    ];
    let last: Vec<&str> = log.lines().rev().take(4).collect();
    for (event, line) in events.iter().zip(last.iter().rev()) {
        assert!(line.contains(event), "no {event} in {line}");
    }
    assert!(last[3].contains(r#""outcome":"unknown""#), "{}", last[3]);
}

#[test]
fn one_client_too_many_gets_421_and_the_others_are_served() {
    let pair = pair();
    let metrics = free();
    let page = metrics.to_string();
    let more = ["--max-sessions-per-client", "2", "--metrics", &page];
    let (mut proxy, listen) = pair.ready(nowhere(), &more);
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(listen)).collect();
    held.iter_mut().for_each(|client| drop(client.hears("220")));
    Client::connect(listen).hears("421 4.3.2");

    let text = metrics_page(metrics);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("starttls_proxy_sessions_open 2\n"), "{text}");
    assert!(
        text.contains("starttls_proxy_turned_away_total{why=\"max-sessions-per-client\"} 1\n"),
        "{text}"
    );

    held[0].says("QUIT").hears("221");
    drop(held.remove(0));
    proxy.says("end=quit");
    // The program gives the place back right after that line.
    let mut greeting = String::new();
    while !greeting.starts_with("220") {
        let mut next = Client::connect(listen);
        greeting.clear();
        next.0.read_line(&mut greeting).expect("a greeting");
        assert!(greeting.starts_with(['2', '4']), "{greeting}");
    }
}

#[test]
fn a_proxy_header_counts_only_from_a_listed_balancer_which_must_send_one() {
    let pair = pair();
    let (upstream, told) = INSIDE.serve();
    for prefix in ["127.0.0.0/8", "192.0.2.0/24"] {
        let more = [
            ["--send-proxy", "v1", "--exempt", "198.51.100.0/24"].as_slice(),
            &["--accept-proxy", prefix],
        ];
        let (_proxy, listen) = pair.ready(upstream, &more.concat());
        let mut client = Client::connect(listen);
        client.says("PROXY TCP4 198.51.100.7 203.0.113.25 4711 25");
        if prefix.starts_with("127") {
            client.hears("220");
            // Exempt by the address in the header, so plaintext passes, and the inside server is told that address.
            client.says("EHLO client.example").hears("250");
            assert_eq!(
                told.recv_timeout(HANG).as_deref(),
                Ok("PROXY TCP4 198.51.100.7 203.0.113.25 4711 25\r\n")
            );
            assert_eq!(
                told.recv_timeout(HANG).as_deref(),
                Ok("EHLO client.example\r\n")
            );
            let mut bare = Client::connect(listen);
            bare.says("EHLO client.example").hears_the_end();
        } else {
            client.hears("220");
            // A command that needs TLS first; for some minutes after a start that is a deferral.
            client.hears("451 4.7.0");
        }
    }
}

/// Sends two messages over TLS and says QUIT.
fn two_messages(to: SocketAddr, authority: &Authority) {
    let mut client = Client::introduced(to);
    client.says("STARTTLS").hears("220");
    let config = Arc::new(authority.client_config());
    let name = rustls::pki_types::ServerName::try_from("mx.clinic.example").expect("a name");
    let connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let tls = rustls::StreamOwned::new(connection, client.0.into_inner());
    let mut tls = std::io::BufReader::new(tls);
    let message = [
        ("MAIL FROM:<a@b.example>", "250"),
        ("RCPT TO:<c@clinic.example>", "250"),
        ("DATA", "354"),
        ("Subject: x\r\n\r\nx\r\n.", "250"),
    ];
    let dialogue = [("EHLO client.example", "250")]
        .into_iter()
        .chain(message)
        .chain(message)
        .chain([("QUIT", "221")]);
    for (line, code) in dialogue {
        let said = write!(tls.get_mut(), "{line}\r\n");
        said.expect("written");
        let mut reply = String::new();
        while reply.as_bytes().get(3) != Some(&b' ') {
            reply.clear();
            tls.read_line(&mut reply).expect("a reply");
        }
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
}

#[test]
fn a_session_that_goes_well_is_one_line_unless_more_is_asked_for() {
    let pair = pair();
    let told = |more: &[&str]| {
        let (mut proxy, listen) = pair.ready(inside_server(), more);
        two_messages(listen, &pair.authority);
        let mut lines = Vec::new();
        while lines
            .last()
            .is_none_or(|line: &String| !line.contains("quit"))
        {
            lines.push(proxy.says(""));
        }
        lines
    };
    let lines = told(&[]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let end = " end=quit messages=2 accepted=2 octets=34 seconds=";
    assert!(lines[0].contains(end), "{lines:?}");
    assert!(lines[0].contains(" tls=TLSv1.3 suite="), "{lines:?}");

    let lines = told(&["--log-level", "debug", "--log", "json"]);
    let objects: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect();
    let of_a_message: Vec<_> = objects
        .iter()
        .filter_map(|line| Some((line.get("message")?.as_u64()?, &line["outcome"])))
        .collect();
    let accepted = serde_json::Value::from("accepted");
    assert_eq!(of_a_message, [(1, &accepted), (2, &accepted)]);
    let end = objects.last().expect("an end");
    assert_eq!(
        (&end["severity"], &end["messages"]),
        (&"info".into(), &2.into())
    );
    assert_eq!(end["direction"], "in");
}
