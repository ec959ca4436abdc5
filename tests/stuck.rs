//! The running program when what it leans on gives way: nobody reads its log, the audit disk hangs, there are no descriptors
//! left, clients come in floods, `--upstream` leads back to it.

#[path = "support/running.rs"]
mod running;

use running::{
    Client, HANG, Proxy, exit_code_and_words, free, inside_server, metrics_page, pair, run, written,
};
use std::{
    fs,
    io::Read,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

#[test]
fn a_log_that_nobody_reads_holds_up_neither_sessions_nor_metrics_nor_the_end() {
    let pair = pair();
    let page = free();
    let metrics = page.to_string();
    let (mut proxy, listen) = pair.ready(inside_server(), &["--metrics", &metrics]);
    // From here on nobody reads. Each session logs more than 100 octets, and the pipe holds 64 KiB.
    for _ in 0..1500 {
        let mut client = Client::introduced(listen);
        client.says("QUIT").hears("221");
    }
    let text = metrics_page(page);
    assert!(
        text.contains("starttls_proxy_sessions_total{direction=\"inbound\"} 1500\n"),
        "{text}"
    );
    assert!(
        text.contains("starttls_proxy_log_lines_dropped_total 0\n"),
        "{text}"
    );
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
}

/// Has strace give system calls of a process another outcome.
struct Meddled(Child);

impl Meddled {
    /// Makes the disk wait for ever. `None` where that is not permitted.
    fn freeze(proxy: &Proxy) -> Option<Self> {
        let inject = "inject=fdatasync:delay_enter=1000s";
        Self::begin(proxy, &["-e", "trace=fdatasync", "-e", inject])
    }

    /// Says of each write to this file that more octets were written than there are. That is a fault which no code expects.
    fn confuse(proxy: &Proxy, file: &str) -> Option<Self> {
        let inject = "inject=write:retval=1000000";
        Self::begin(proxy, &["-P", file, "-e", "trace=write", "-e", inject])
    }

    fn begin(proxy: &Proxy, how: &[&str]) -> Option<Self> {
        let pid = proxy.child.id().to_string();
        let strace = Command::new("strace")
            .args([&["-f", "-p", &pid], how].concat())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut strace) = strace else {
            eprintln!("SKIPPED: no strace here, a fault of the disk was not tried");
            return None;
        };
        // It says so when it is attached to all threads, or why it is not.
        let mut said = Vec::new();
        let mut stderr = strace.stderr.take().expect("piped");
        while !said.ends_with(b"\n") {
            let mut octet = [0];
            if stderr.read(&mut octet).expect("strace speaks") == 0 {
                break;
            }
            said.push(octet[0]);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        // A thread goes on reading, so that strace itself is never held up.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        if said.contains("attached") {
            return Some(Self(strace));
        }
        eprintln!(
            "SKIPPED: strace may not attach here ({said}), a fault of the disk was not tried"
        );
        let _ = strace.wait();
        None
    }
}

impl Drop for Meddled {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_frozen_audit_disk_acknowledges_nothing_and_does_not_keep_the_process_from_ending() {
    let pair = pair();
    let listen = free();
    let log = pair.scratch.path("audit.jsonl");
    let arguments = pair.inbound(
        listen,
        inside_server(),
        &[
            "--audit-log",
            &log,
            "--exempt",
            "127.0.0.0/8",
            "--drain-timeout",
            "1",
        ],
    );
    let mut proxy = Proxy::ready(&arguments);
    let mut client = Client::introduced(listen);
    let Some(frozen) = Meddled::freeze(&proxy) else {
        return;
    };
    client.begins_mail("a@client.example", &["b@clinic.example"]);
    client.says("Subject: x\r\n\r\ntext\r\n.");
    proxy.signal("-TERM");
    // The last thing it says. It has ended then, but for the thread that strace holds.
    proxy.says("the last records are not in the audit log");
    drop(frozen);
    assert_eq!(proxy.ends().code(), Some(74));
    // The message stays with the client.
    let mut rest = String::new();
    let _ = client.0.read_to_string(&mut rest);
    assert!(!rest.contains("250"), "{rest}");
}

#[test]
fn a_log_whose_writer_has_died_acknowledges_nothing_and_ends_the_process_so_that_it_is_started_again()
 {
    let pair = pair();
    let listen = free();
    let log = pair.scratch.path("audit.jsonl");
    let evidence = ["--audit-log", &log, "--exempt", "127.0.0.0/8"];
    let arguments = pair.inbound(listen, inside_server(), &evidence);
    let mut proxy = Proxy::ready(&arguments);
    let mut client = Client::introduced(listen);
    let Some(confused) = Meddled::confuse(&proxy, &log) else {
        return;
    };
    client.begins_mail("a@client.example", &["b@clinic.example"]);
    client.says("Subject: x\r\n\r\ntext\r\n.");
    proxy.says("the thread that writes the audit log has ended");
    drop(confused);
    assert_eq!(proxy.ends().code(), Some(75));
    // The message stays with the client.
    let mut rest = String::new();
    let _ = client.0.read_to_string(&mut rest);
    assert!(!rest.contains("250"), "{rest}");
    // So the next process writes the log.
    let mut proxy = Proxy::ready(&arguments);
    let mut client = Client::introduced(listen);
    client.begins_mail("a@client.example", &["b@clinic.example"]);
    client.says("Subject: x\r\n\r\ntext\r\n.").hears("250");
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
}

#[test]
fn an_upstream_that_is_the_proxy_itself_is_an_error_at_the_start() {
    let pair = pair();
    let port = free().port();
    for (listen, upstream) in [
        (format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")),
        (format!("127.0.0.1:{port}"), format!("localhost:{port}")),
        (format!("0.0.0.0:{port}"), format!("127.0.0.9:{port}")),
        (format!("0.0.0.0:{port}"), format!("localhost:{port}")),
        (format!("[::]:{port}"), format!("127.0.0.1:{port}")),
        (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")),
    ] {
        let ends = ["--listen", &listen, "--upstream", &upstream];
        let inbound = ["inbound", "--cert", &pair.cert, "--key", &pair.key];
        let inbound = [&inbound[..], &["--hide-client-address"]].concat();
        for direction in [inbound, vec!["outbound", "--no-dane"]] {
            let arguments = [&direction[..], &ends].concat();
            let (code, said) = exit_code_and_words(&arguments);
            assert_eq!(code, Some(78), "{arguments:?}: {said}");
            assert!(said.contains("is this proxy itself"), "{said}");
        }
    }
}

/// Else the proxy would connect to itself until it has no descriptors left.
#[test]
fn a_connection_that_nobody_intercepted_leads_nowhere() {
    for host in ["127.0.0.1", "[::]"] {
        let port = free().port();
        let listen = format!("{host}:{port}");
        let fixed = ["outbound", "--intercept", "redirect", "--no-dane"];
        let mut proxy = Proxy::ready(&[&fixed[..], &["--listen", &listen]].concat());
        // On the second listener the kernel writes this address as one of IPv6.
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        client.hears("421 4.4.6 ");
        client.hears_the_end();
        let line = proxy.says("turned away");
        // Where the kernel follows connections, it knows that this one was meant for the proxy.
        let whys = ["why=not-intercepted", "why=loop"];
        assert!(whys.iter().any(|why| line.contains(why)), "{line}");
    }
}

#[test]
fn an_address_that_is_taken_is_worth_another_try() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("address").to_string();
    for address in [&taken, "192.0.2.1:25"] {
        let arguments = ["outbound", "--listen", address, "--upstream", "127.0.0.1:9"];
        let (code, said) = exit_code_and_words(&arguments);
        assert_eq!(code, Some(75), "{said}");
        assert!(said.contains(address), "{said}");
    }
    drop(listener);
}

#[test]
fn an_audit_log_that_another_process_still_writes_is_worth_another_try() {
    let pair = pair();
    let log = pair.scratch.path("audit.jsonl");
    let more = ["--audit-log", &log];
    let _first = Proxy::ready(&pair.inbound(free(), inside_server(), &more));
    let second = pair.inbound(free(), inside_server(), &more);
    let (code, said) = exit_code_and_words(&second);
    assert_eq!(code, Some(75), "{said}");
    let nowhere = ["--audit-log", "/nonexistent/audit.jsonl"];
    let (code, said) = exit_code_and_words(&pair.inbound(free(), inside_server(), &nowhere));
    assert_eq!(code, Some(78), "{said}");
}

#[test]
fn without_descriptors_clients_hear_421_and_the_log_says_it_once() {
    let pair = pair();
    let (listen, upstream) = (free(), inside_server());
    let arguments = pair.inbound(listen, upstream, &["--max-sessions", "1000"]);
    let descriptors = {
        let proxy = Proxy::ready(&arguments);
        let open = fs::read_dir(format!("/proc/{}/fd", proxy.child.id()));
        open.expect("its descriptors").count()
    };
    let mut proxy = Proxy::start_with_files(descriptors, &arguments);
    let sized = proxy.says("--max-sessions 1000");
    assert!(
        sized.contains(&format!("{descriptors} open files")),
        "{sized}"
    );
    proxy.says(": ready");
    let mut greeted = 0;
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(listen);
        let mut greeting = [0; 3];
        client.0.read_exact(&mut greeting).expect("a reply");
        greeted += usize::from(&greeting == b"220");
        assert!([b"220", b"421"].contains(&&greeting), "{greeting:?}");
        held.push(client);
    }
    assert!(greeted < 5, "{greeted}");
    proxy.signal("-TERM");
    proxy.ends();
    let said = proxy.last_words();
    assert_eq!(said.matches("cannot accept").count(), 1, "{said}");
}

/// What logrotate does with or without `create`; sometimes a SIGHUP follows.
#[test]
fn a_log_that_is_moved_while_mail_flows_loses_and_doubles_no_record() {
    let pair = pair();
    let log = pair.scratch.0.join("audit.jsonl");
    let name = log.display().to_string();
    let more = ["--audit-log", &name, "--exempt", "127.0.0.0/8"];
    let (mut proxy, listen) = pair.ready(inside_server(), &more);
    let mut client = Client::introduced(listen);
    let mut files = vec![name.clone()];
    for number in 0..60 {
        let sender = format!("m{number}@client.example");
        client.begins_mail(&sender, &["b@clinic.example"]);
        if number % 5 == 0 {
            let aside = format!("{name}-{number}");
            fs::rename(&log, &aside).expect("moved");
            files.push(aside);
            match number % 3 {
                0 => proxy.signal("-HUP"),
                1 => fs::write(&log, "").expect("a new file"),
                _ => {}
            }
        }
        client.says("Subject: x\r\n\r\ntext\r\n.").hears("250");
    }
    client.says("QUIT").hears("221");
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
    let recorded: String = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a file"))
        .collect();
    for number in 0..60 {
        let sender = format!("m{number}@client.example");
        let of_it = recorded
            .lines()
            .filter(|line| line.contains("\"event\":\"message\"") && line.contains(&sender));
        assert_eq!(of_it.count(), 1, "{sender}");
    }
    let arguments: Vec<&str> = ["audit", "verify"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let (code, said) = exit_code_and_words(&arguments);
    assert_eq!(code, Some(0), "{said}");
}

/// The inside server must never see the proxy's own address where the client's was promised.
#[test]
fn a_client_whose_address_cannot_be_kept_is_refused_and_the_server_never_sees_the_proxys_own() {
    let pair = pair();
    let Ok(inside) = TcpListener::bind("[::1]:0") else {
        return eprintln!("SKIPPED: no IPv6 here, families were not tried");
    };
    let upstream = inside.local_addr().expect("an address");
    inside.set_nonblocking(true).expect("not blocking");
    let listen = free();
    // Clients of both families can come here, so nothing is wrong at the start.
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, listen.port()));
    let more = ["--exempt", "127.0.0.0/8", "--keep-client-address"];
    let _proxy = Proxy::ready(&pair.inbound(both, upstream, &more));
    let mut client = Client::connect(listen);
    client.hears("220");
    client.says("EHLO client.example").hears("421 4.4.1");
    let error = inside.accept().expect_err("nobody came");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

/// Connects until it is told `words`, at most so often.
fn connects_until(listen: SocketAddr, words: &str, most: usize) -> usize {
    for number in 0..most {
        let mut stream = TcpStream::connect(listen).expect("connects");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        if reply.contains(words) {
            return number;
        }
    }
    panic!("nobody says {words:?}");
}

#[test]
fn a_flood_of_connections_is_logged_within_a_budget_and_then_counted_in_a_record() {
    let pair = pair();
    let listen = free();
    let log = pair.scratch.path("audit.jsonl");
    let more = ["--max-sessions-per-client", "1", "--audit-log", &log];
    let arguments = pair.inbound(listen, inside_server(), &more);
    let mut proxy = Proxy::start(&arguments);
    let mut stderr = proxy.take_log();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).map(|_| said)
    });
    // This connection takes the only place.
    let _first = Client::greeted(listen);
    let turned_away = connects_until(listen, "421 4.7.0", 30_000);
    assert!(turned_away > 1000, "{turned_away}");
    for _ in 0..100 {
        // One a second is let in again, and finds the place taken.
        connects_until(listen, "421 4.7.0", 100);
    }
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
    let said = reader.join().expect("read").expect("the log");
    assert!(said.len() < 2 << 20, "{} octets", said.len());
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("not logged and not recorded singly"),
        "{said}"
    );
    let recorded = written(&log);
    let counts = recorded
        .lines()
        .find(|line| line.contains("\"event\":\"not-recorded\""));
    let counts = counts.expect("a record of it");
    assert!(
        counts.contains(r#""prefix":"127.0.0.1/32","kind":"turned-away""#),
        "{counts}"
    );
    let (code, said) = exit_code_and_words(&["audit", "verify", &log]);
    assert_eq!(code, Some(0), "{said}");
    let (_, shown, _) = run(&["audit", "show", &log]);
    assert!(shown.contains("turned-away of 127.0.0.1/32"), "{shown}");
}

#[test]
fn a_flood_of_connections_that_say_nothing_costs_a_bounded_number_of_octets() {
    let pair = pair();
    let listen = free();
    let log = pair.scratch.0.join("audit.jsonl");
    let name = log.display().to_string();
    let arguments = pair.inbound(listen, inside_server(), &["--audit-log", &name]);
    let mut proxy = Proxy::start(&arguments);
    let mut stderr = proxy.take_log();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).map(|_| said)
    });
    drop(Client::greeted(listen));
    for _ in 0..20_000 {
        drop(TcpStream::connect(listen).expect("connects"));
    }
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
    let said = reader.join().expect("read").expect("the log").len();
    let recorded = fs::metadata(&log).expect("a log").len();
    assert!(said < 2 << 20, "{said} octets of log");
    assert!(recorded < 2 << 20, "{recorded} octets of records");
}
