//! The running program: what it does with signals, files, limits and load balancers. Each test starts the binary.

#[path = "support/running.rs"]
mod running;

use running::{
    Client, HANG, Pair, Proxy, Scratch, exit_code_and_words, free, inside_server, pair,
    pki::Authority,
};
use std::{
    fs,
    io::{BufRead, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

/// TLS over a connection that said STARTTLS; the certificate that was shown.
fn certificate_served(to: SocketAddr, authority: &Authority, name: &'static str) -> Vec<u8> {
    let mut client = Client::connect(to);
    client.hears("220");
    client.says("EHLO client.example").hears("250");
    client.says("STARTTLS").hears("220");
    let mut roots = rustls::RootCertStore::empty();
    let pem = authority.pem();
    let der =
        <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
            pem.as_bytes(),
        );
    roots.add(der.expect("PEM")).expect("an anchor");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name).expect("a name");
    let mut connection =
        rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut tcp = client.0.into_inner();
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).expect("a handshake");
    }
    connection.peer_certificates().expect("a chain")[0].to_vec()
}

#[test]
fn wrong_usage_is_64_and_wrong_configuration_78_before_anything_is_bound() {
    let scratch = Scratch::new("exit-codes");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("address").to_string();
    let table = scratch.file("policy", "clinic.example secure\nclinic.example sekure\n");
    let (no_key, log) = (
        scratch.file("no-key", "no key\n"),
        scratch.0.join("audit.jsonl").display().to_string(),
    );
    let cases: [(&[&str], i32, &str); 9] = [
        (
            &[
                "outbound",
                "--listen",
                &taken,
                "--upstream",
                "x.example",
                "--max-sessions",
                "0",
            ],
            64,
            "0 would let nobody in",
        ),
        (
            &[
                "outbound",
                "--listen",
                &taken,
                "--upstream",
                "x.example",
                "--audit-log",
                &log,
                "--audit-key",
                &no_key,
                "--dry-run",
            ],
            78,
            &no_key,
        ),
        (&["audit", "verify"], 64, "name at least one file"),
        (
            &["outbound", "--listen", &taken],
            64,
            "nothing says where mail goes",
        ),
        (
            &[
                "outbound",
                "--listen",
                &taken,
                "--upstream",
                "x.example",
                "--level",
                "sekure",
            ],
            64,
            "sekure",
        ),
        (
            &[
                "outbound",
                "--listen",
                &taken,
                "--upstream",
                "x.example",
                "--intercept",
                "tproxy",
            ],
            64,
            "exclude",
        ),
        (
            &[
                "outbound",
                "--listen",
                &taken,
                "--upstream",
                "x.example",
                "--policy",
                &table,
            ],
            78,
            "policy:2:",
        ),
        (
            &[
                "outbound",
                "--listen",
                &taken,
                "--upstream",
                "x.example",
                "--ca-file",
                "/nowhere",
            ],
            78,
            "/nowhere",
        ),
        (
            &[
                "inbound",
                "--listen",
                &taken,
                "--upstream",
                "192.0.2.1:25",
                "--cert",
                "a",
                "--key",
                "b",
            ],
            64,
            "--send-proxy",
        ),
    ];
    for (arguments, code, words) in cases {
        let (got, said) = exit_code_and_words(arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {said}");
        assert!(
            said.starts_with("starttls-proxy: ") && said.contains(words),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn a_broken_certificate_on_reload_keeps_the_old_one_and_a_good_one_replaces_it() {
    let Pair {
        authority,
        scratch,
        cert,
        key,
    } = pair("reload");
    let listen = free();
    let address = listen.to_string();
    let arguments = [
        "inbound",
        "--listen",
        &address,
        "--upstream",
        "127.0.0.1:9",
        "--hide-client-address",
    ];
    let mut proxy = Proxy::start(
        &[
            &arguments[..],
            &["--relay-probe", "off", "--cert", &cert, "--key", &key],
        ]
        .concat(),
    );
    proxy.says(": ready");
    let first = certificate_served(listen, &authority, "mx.clinic.example");

    let good = fs::read_to_string(&cert).expect("readable");
    fs::write(&cert, "no certificate").expect("written");
    proxy.signal("-HUP");
    proxy.says("not reloaded");
    assert_eq!(
        certificate_served(listen, &authority, "mx.clinic.example"),
        first
    );

    fs::write(&cert, good).expect("written");
    authority
        .leaf(&["mx.clinic.example"])
        .write(&scratch.0, "mx");
    proxy.signal("-HUP");
    proxy.says("INFO  reloaded");
    assert_ne!(
        certificate_served(listen, &authority, "mx.clinic.example"),
        first
    );
}

#[test]
fn a_stop_tells_idle_clients_421_and_ends() {
    let Pair {
        cert,
        key,
        scratch: _kept,
        ..
    } = pair("drain");
    let listen = free();
    let address = listen.to_string();
    let arguments = [
        "inbound",
        "--listen",
        &address,
        "--upstream",
        "127.0.0.1:9",
        "--hide-client-address",
    ];
    let mut proxy = Proxy::start(
        &[
            &arguments[..],
            &["--relay-probe", "off", "--cert", &cert, "--key", &key],
        ]
        .concat(),
    );
    proxy.says(": ready");
    let mut client = Client::connect(listen);
    client.hears("220");
    client.says("EHLO client.example").hears("250");
    proxy.signal("-TERM");
    client.hears("421 4.3.2");
    client.hears_the_end();
    drop(client);
    proxy.says("every session has ended");
    assert!(proxy.child.wait().expect("ended").success());
}

#[test]
fn a_message_that_a_stop_cuts_off_is_recorded_as_such() {
    let Pair {
        cert, key, scratch, ..
    } = pair("cut-off");
    let inside = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (listen, upstream) = (free(), inside.local_addr().expect("an address"));
    let (address, upstream) = (listen.to_string(), upstream.to_string());
    let _told = inside_server(inside);
    let audit_log = scratch.0.join("audit.jsonl").display().to_string();
    let arguments = [
        "inbound",
        "--listen",
        &address,
        "--upstream",
        &upstream,
        "--hide-client-address",
    ];
    let mut proxy = Proxy::start(
        &[
            &arguments[..],
            &["--relay-probe", "off", "--cert", &cert, "--key", &key],
            &["--exempt", "127.0.0.1/32", "--audit-log", &audit_log],
        ]
        .concat(),
    );
    proxy.says(": ready");
    let mut client = Client::connect(listen);
    client.hears("220");
    client.says("EHLO client.example").hears("250");
    client.says("MAIL FROM:<a@client.example>").hears("250");
    client.says("RCPT TO:<b@clinic.example>").hears("250");
    client.says("DATA").hears("354");
    proxy.signal("-TERM");
    proxy.says("stopping");
    proxy.signal("-TERM");
    client.hears_the_end();
    proxy.says("asked a second time");
    assert!(proxy.child.wait().expect("ended").success());
    let log = fs::read_to_string(&audit_log).expect("a log");
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
    let Pair {
        cert,
        key,
        scratch: _kept,
        ..
    } = pair("limits");
    let (listen, metrics) = (free(), free());
    let (address, page) = (listen.to_string(), metrics.to_string());
    let arguments = [
        "inbound",
        "--listen",
        &address,
        "--upstream",
        "127.0.0.1:9",
        "--hide-client-address",
    ];
    let more = [
        "--relay-probe",
        "off",
        "--cert",
        &cert,
        "--key",
        &key,
        "--max-sessions-per-client",
        "2",
        "--metrics",
        &page,
    ];
    let mut proxy = Proxy::start(&[&arguments[..], &more].concat());
    proxy.says(": ready");
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(listen)).collect();
    held.iter_mut().for_each(|client| drop(client.hears("220")));
    Client::connect(listen).hears("421 4.3.2");

    let mut scrape = TcpStream::connect(metrics).expect("connects");
    scrape
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("written");
    let mut text = String::new();
    scrape.read_to_string(&mut text).expect("a page");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("starttls_proxy_sessions_open 2\n"), "{text}");
    assert!(
        text.contains("starttls_proxy_turned_away_total{why=\"max-sessions-per-client\"} 1\n"),
        "{text}"
    );

    held[0].says("QUIT").hears("221");
    drop(held.remove(0));
    proxy.says("end=quit");
    // The place is given back right behind that line.
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
    let Pair {
        cert,
        key,
        scratch: _kept,
        ..
    } = pair("balancer");
    let inside = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = inside.local_addr().expect("address").to_string();
    let told = inside_server(inside);
    let (listed, unlisted) = (free(), free());
    for (listen, prefix) in [(listed, "127.0.0.0/8"), (unlisted, "192.0.2.0/24")] {
        let address = listen.to_string();
        let arguments = [
            "inbound",
            "--listen",
            &address,
            "--upstream",
            &upstream,
            "--send-proxy",
            "v1",
        ];
        let more = [
            "--relay-probe",
            "off",
            "--cert",
            &cert,
            "--key",
            &key,
            "--exempt",
            "198.51.100.0/24",
        ];
        let more = [&more[..], &["--accept-proxy", prefix]].concat();
        let mut proxy = Proxy::start(&[&arguments[..], &more].concat());
        proxy.says(": ready");
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
