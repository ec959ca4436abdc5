//! Many clients at once: nobody is turned away who could be served, and a greedy network does not push others back.
//!
//! Nothing here depends on time. What is compared is who was served, and in which order.

#[path = "support/running.rs"]
mod running;

use running::{Client, HANG, Proxy, free, inside_server, nowhere, pair, pki::Authority};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::{
        SupportedKxGroup,
        aws_lc_rs::{self, kx_group},
    },
    pki_types::ServerName,
};
use socket2::{Domain, Socket, Type};
use std::{
    fs,
    io::{BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    thread,
};

/// Each /24 is a network, so these are 50 of them.
const NETWORKS: u8 = 50;
const CLIENTS_OF_EACH: u8 = 20;
/// Open files of the program, and those that this test needs: a client and a server for each session.
const FILES: usize = 4096;
/// Set where this test runs a second time, with more open files.
const AGAIN: &str = "CROWD_AGAIN";

/// A client at this address that may send ClientHello next.
fn before_tls(from: [u8; 4], to: SocketAddr) -> Client {
    let mut client = connected(from, to);
    client.hears("220");
    client.says("EHLO client.example").hears("250");
    client.says("STARTTLS").hears("220");
    client
}

fn connected(from: [u8; 4], to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((from, 0));
    socket.bind(&from.into()).expect("all of 127/8 is here");
    socket.connect(&to.into()).expect("the program listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(HANG)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    Client(BufReader::new(stream))
}

/// TLS of a client that knows only this key exchange.
fn tls(authority: &Authority, group: &'static dyn SupportedKxGroup) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(authority.cert.clone()).expect("an anchor");
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![group];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("mx.clinic.example").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a connection")
}

fn hello(tls: &mut ClientConnection) -> Vec<u8> {
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello).expect("room");
    }
    hello
}

/// The soft and the hard limit of open files.
fn open_files() -> [usize; 2] {
    let limits = fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = line.expect("a limit").split_whitespace().collect();
    [words[3], words[4]].map(|word| word.parse().unwrap_or(usize::MAX))
}

/// Whether this process may open so many files as this test needs. If only its soft limit is too low, the test runs in a child.
fn may_open_enough(test: &str) -> bool {
    let [soft, hard] = open_files();
    if hard < FILES {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "the hard limit of open files is {hard}, and {FILES} are needed"
        );
        println!("NOT RUN: the hard limit of open files is {hard}, and {FILES} are needed");
        return false;
    }
    if soft >= FILES {
        return true;
    }
    assert!(std::env::var(AGAIN).is_err(), "ulimit did not help");
    let again = std::env::current_exe().expect("this program");
    let status = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -n {FILES}; exec \"$0\" --exact {test}"),
        ])
        .arg(again)
        .env(AGAIN, "1")
        .status();
    assert!(status.expect("sh").success());
    false
}

#[test]
fn a_thousand_sessions_at_once_all_get_tls_with_the_defaults() {
    if !may_open_enough("a_thousand_sessions_at_once_all_get_tls_with_the_defaults") {
        return;
    }
    let pair = pair();
    let listen = free();
    let arguments = pair.inbound(listen, inside_server(), &[]);
    let mut proxy = Proxy::start_with_files(FILES, &arguments);
    let limits = proxy.says("sessions at once");
    assert!(
        limits.contains("at most 1920 sessions at once, 50 of one client"),
        "{limits}"
    );
    assert!(limits.contains("TLS handshakes at once"), "{limits}");
    proxy.says(": ready");

    let addresses =
        (1..=NETWORKS).flat_map(|network| [[127, 0, network, 1]; CLIENTS_OF_EACH as usize]);
    let mut clients: Vec<Client> = addresses.map(|from| connected(from, listen)).collect();
    assert_eq!(clients.len(), 1000);
    for step in ["EHLO client.example", "STARTTLS"] {
        for client in &mut clients {
            client.hears(if step == "STARTTLS" { "250" } else { "220" });
            client.says(step);
        }
    }
    // All are promised a handshake before one of them begins, and all begin before one of them goes on.
    clients
        .iter_mut()
        .for_each(|client| drop(client.hears("220")));
    let begun: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let mut tcp = client.0.into_inner();
            let mut tls = tls(&pair.authority, kx_group::X25519);
            tcp.write_all(&hello(&mut tls)).expect("written");
            (tls, tcp)
        })
        .collect();
    let mut secured: Vec<_> = begun
        .into_iter()
        .map(|(mut tls, mut tcp)| {
            while tls.is_handshaking() {
                tls.complete_io(&mut tcp).expect("a handshake");
            }
            let mut stream = BufReader::new(StreamOwned::new(tls, tcp));
            stream
                .get_mut()
                .write_all(b"EHLO client.example\r\n")
                .expect("written");
            stream
        })
        .collect();
    for stream in &mut secured {
        assert_eq!(code(stream), "250");
    }
}

/// The code of the next reply.
fn code(stream: &mut impl std::io::BufRead) -> String {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a reply");
        if line.as_bytes().get(3) != Some(&b'-') {
            return line.chars().take(3).collect();
        }
    }
}

#[test]
fn a_newcomer_is_served_before_most_of_three_hundred_that_came_first_from_one_network() {
    let pair = pair();
    // Otherwise it is chance which of its threads goes on first, and how far.
    on_one_processor();
    let (mut proxy, listen) = pair.ready(nowhere(), &["--max-handshakes", "4"]);
    let greedy = (0..320_u16).map(|number| [127, 0, 1, 1 + (number % 10) as u8]);
    let mut greedy: Vec<Client> = greedy.map(|from| before_tls(from, listen)).collect();
    let mut newcomer = before_tls([127, 0, 2, 1], listen);

    // The program sleeps while the ClientHellos come, so that it finds all of them at once. They have no key exchange in common with
    // the program. It says so when it computes its answer, so its log has the order in which clients were served.
    proxy.signal("-STOP");
    until_stopped(proxy.child.id());
    let (first, last) = greedy.split_at_mut(300);
    for client in first.iter_mut().chain([&mut newcomer]).chain(last) {
        let hello = hello(&mut tls(&pair.authority, kx_group::MLKEM768));
        client.0.get_mut().write_all(&hello).expect("written");
    }
    proxy.signal("-CONT");

    let mut served = 0;
    loop {
        let line = proxy.says("reason=validation-failure");
        if line.contains("client=127.0.2.1:") {
            assert!(!line.contains("no place"), "{line}");
            break;
        }
        assert!(line.contains("client=127.0.1."), "{line}");
        served += usize::from(!line.contains("no place"));
    }
    println!("{served} were served before the newcomer");
    // In the order of their arrival it would be 300. Some are served before the newcomer's ClientHello is read.
    assert!(served <= 60, "{served}");
}

/// Keeps this thread, and the programs that it starts from now on, on one processor.
fn on_one_processor() {
    let status = fs::read_to_string("/proc/thread-self/status").expect("this thread");
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = allowed.expect("a list of processors").trim();
    let first = allowed.split([',', '-']).next().expect("a processor");
    let thread = fs::read_link("/proc/thread-self").expect("this thread");
    let thread = thread.file_name().expect("its number");
    let pinned = Command::new("taskset")
        .args(["--cpu-list", "--pid", first])
        .arg(thread)
        .output();
    let pinned = pinned.expect("taskset of util-linux");
    assert!(pinned.status.success(), "{pinned:?}");
}

/// Waits until no thread of this process runs.
fn until_stopped(process: u32) {
    let stopped = |stat: String| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let all = || {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
        tasks
            .flatten()
            .all(|task| fs::read_to_string(task.path().join("stat")).is_ok_and(stopped))
    };
    while !all() {
        thread::yield_now();
    }
}
