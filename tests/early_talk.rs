//! Over real sockets: what a server says inside TLS before it was asked never passes for the reply to a later command.

#[path = "support/running.rs"]
mod running;

use running::{Client, HANG, Pair, Proxy, free, pair};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

/// A server that takes STARTTLS and writes `early` in the same flight as its last handshake message; what it hears inside TLS
/// until the proxy hangs up comes back.
fn early_talker(
    listener: TcpListener,
    config: ServerConfig,
    early: &'static str,
) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let config = Arc::new(config);
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let heard = converse(stream, Arc::clone(&config), early).unwrap_or_default();
            if tell.send(heard).is_err() {
                return;
            }
        }
    });
    told
}

fn converse(stream: TcpStream, config: Arc<ServerConfig>, early: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(HANG))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    stream.write_all(b"220 mx.clinic.example ESMTP\r\n")?;
    lines.read_line(&mut line)?;
    stream.write_all(b"250-mx.clinic.example\r\n250 STARTTLS\r\n")?;
    lines.read_line(&mut line)?;
    stream.write_all(b"220 go\r\n")?;
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    // The early text leaves with the handshake: in TLS 1.3 as half-RTT data, in TLS 1.2 behind the server's Finished.
    if connection.protocol_version().is_none() {
        while connection.wants_read() && connection.is_handshaking() {
            connection.read_tls(&mut stream)?;
            connection
                .process_new_packets()
                .map_err(std::io::Error::other)?;
            let version = connection.protocol_version();
            let half_rtt = version == Some(rustls::ProtocolVersion::TLSv1_3);
            if half_rtt || !connection.is_handshaking() {
                break;
            }
            flush(&mut connection, &mut stream)?;
        }
    }
    connection.writer().write_all(early.as_bytes())?;
    flush(&mut connection, &mut stream)?;
    let mut heard = Vec::new();
    while let Ok(1..) = connection.read_tls(&mut stream) {
        if connection.process_new_packets().is_err() {
            break;
        }
        let mut more = Vec::new();
        match connection.reader().read_to_end(&mut more) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        heard.extend_from_slice(&more);
        if more.starts_with(b"EHLO") {
            let reply = b"250-mx.clinic.example\r\n250 PIPELINING\r\n";
            connection.writer().write_all(reply)?;
            flush(&mut connection, &mut stream)?;
        }
    }
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

fn flush(connection: &mut ServerConnection, stream: &mut TcpStream) -> std::io::Result<()> {
    let mut flight = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut flight)?;
    }
    stream.write_all(&flight)
}

fn what_an_early_talker_hears(
    version: &'static SupportedProtocolVersion,
    early: &'static str,
) -> String {
    let Pair {
        authority, scratch, ..
    } = pair();
    let leaf = authority.leaf(&["mx.clinic.example"]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(leaf.chain.clone(), leaf.private_key())
        .expect("a pair");
    config.send_half_rtt_data = true;
    config.send_tls13_tickets = 0;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = listener.local_addr().expect("an address").to_string();
    let heard = early_talker(listener, config, early);

    let ca = scratch.file("ca.pem", authority.pem());
    let table = scratch.file("table", "[127.0.0.1] secure match=mx.clinic.example\n");
    let at = free();
    let address = at.to_string();
    let first = ["outbound", "--listen", &address, "--upstream", &upstream];
    let second = ["--policy", &table, "--ca-file", &ca];
    let third = ["--no-dane", "--no-mta-sts"];
    let _proxy = Proxy::ready(&[&first[..], &second, &third].concat());
    let mut client = Client::connect(at);
    client.hears("220");
    client.says("EHLO legacy.example").hears("421");
    client.hears_the_end();
    heard
        .recv_timeout(HANG)
        .expect("the server's session ended")
}

#[test]
fn a_reply_right_behind_the_handshake_ends_the_session_before_ehlo() {
    for version in [&version::TLS12, &version::TLS13] {
        for early in ["250 early\r\n", "250-", "2"] {
            assert_eq!(
                what_an_early_talker_hears(version, early),
                "",
                "{early:?} {version:?}"
            );
        }
    }
}
