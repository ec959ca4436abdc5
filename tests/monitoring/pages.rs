//! The pages: who gets which answer.

use crate::{
    running::{Client, HANG, Proxy, free, inside_server, nowhere, pair},
    world::{World, ask, get, tls_server},
};
use rcgen::SanType;
use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    process::Command,
};

#[test]
fn a_process_is_healthy_while_it_answers_and_ready_until_it_is_stopped() {
    let pair = pair();
    let status = free();
    let at = status.to_string();
    let more = ["--exempt", "127.0.0.1/32", "--metrics", &at];
    let (mut proxy, listen) = pair.ready(inside_server(), &more);
    let healthy = get(status, "/healthz", "x");
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    let ready = get(status, "/readyz", "x");
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    let mut client = Client::introduced(listen);
    client.begins_mail("a@client.example", &["b@clinic.example"]);
    proxy.signal("-TERM");
    proxy.says("stopping");
    let stopping = get(status, "/readyz", "x");
    assert_eq!(stopping.status, 503);
    assert!(stopping.body.contains("being stopped"), "{}", stopping.body);
    assert_eq!(get(status, "/healthz", "x").status, 200);
    let page = get(status, "/", "localhost").body;
    assert!(page.contains("No new mail passes"), "{page}");
    client.says(".").hears("250");
}

#[test]
fn connections_that_say_nothing_hold_up_nobody_and_are_closed() {
    let pair = pair();
    let status = free();
    let at = status.to_string();
    let (_proxy, _) = pair.ready(nowhere(), &["--metrics", &at]);
    // All places but one.
    let silent: Vec<_> = (0..63)
        .map(|_| TcpStream::connect(status).expect("connects"))
        .collect();
    assert_eq!(get(status, "/healthz", "x").status, 200);
    for mut tcp in silent {
        tcp.set_read_timeout(Some(HANG)).expect("a timeout");
        let heard = tcp.read(&mut [0]).expect("it is closed");
        assert_eq!(heard, 0);
    }
}

#[test]
fn a_process_without_room_for_a_session_is_not_ready() {
    let pair = pair();
    let status = free();
    let at = status.to_string();
    let more = ["--max-sessions", "1", "--metrics", &at];
    let (_proxy, listen) = pair.ready(nowhere(), &more);
    let client = Client::introduced(listen);
    let full = get(status, "/readyz", "x");
    assert_eq!(full.status, 503);
    assert!(full.body.contains("--max-sessions"), "{}", full.body);
    drop(client);
}

#[test]
fn the_page_for_people_answers_only_a_browser_that_asked_for_us() {
    let pair = pair();
    let status = free();
    let at = status.to_string();
    let more = ["--hostname", "mx.clinic.example", "--metrics", &at];
    let (_proxy, _) = pair.ready(nowhere(), &more);
    let port = status.port();
    for ours in ["127.0.0.1", "localhost", "MX.clinic.example"] {
        for host in [ours.to_owned(), format!("{ours}:{port}")] {
            let answer = get(status, "/", &host);
            assert_eq!(answer.status, 200, "{host}: {}", answer.body);
            assert!(answer.body.contains("What passes now"), "{host}");
        }
    }
    let foreign = [
        "rebound.evil.example",
        "127.0.0.1.evil.example",
        "localhost:80@evil",
        "",
    ];
    for foreign in foreign {
        let answer = get(status, "/", foreign);
        assert!([400, 421].contains(&answer.status), "{foreign}");
        assert!(
            !answer.body.contains("mx.clinic.example"),
            "{}",
            answer.body
        );
    }
    let nameless = ask(status, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(nameless.status, 421, "{}", nameless.body);
    // Numbers are for whoever reaches the port, as they were before there was a page.
    assert_eq!(get(status, "/metrics", "scraped.example").status, 200);
}

#[test]
fn no_page_lets_a_browser_do_anything_but_show_it() {
    let pair = pair();
    let status = free();
    let at = status.to_string();
    let (_proxy, _) = pair.ready(nowhere(), &["--metrics", &at]);
    for path in ["/", "/metrics", "/healthz", "/readyz", "/nothing"] {
        let answer = get(status, path, "localhost");
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{path}: {}", answer.head);
        }
    }
    let page = get(status, "/", "localhost").body;
    for forbidden in [
        "<script", "http://", "https://", "src=", "url(", "@import", "<link", "<form",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}: {page}");
    }
    let rest = "Host: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(
        ask(status, &format!("POST / HTTP/1.1\r\n{rest}")).status,
        405
    );
    let head = ask(status, &format!("HEAD / HTTP/1.1\r\n{rest}"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

/// A name for a certificate that nobody should have, with an address in it.
const HOSTILE: &str =
    "<script>document.title=1</script><img src=x onerror=alert(1)> ward@clinic.example";

/// A proxy that has refused a session because of a certificate with a hostile name, and the address of its pages.
pub fn refusing(world: &World, more: &[&str]) -> (Proxy, SocketAddr) {
    let leaf = world.authority.leaf_with(&["mx.other.example"], |params| {
        let name = SanType::DnsName(HOSTILE.try_into().expect("ASCII"));
        params.subject_alt_names = vec![name];
    });
    let (listen, status) = (free(), free());
    let arguments = world.outbound([listen, status], &tls_server(&leaf).to_string(), more);
    let proxy = Proxy::ready(&arguments);
    let mut client = Client::connect(listen);
    client.hears("220");
    client.says("EHLO client.example").hears("421");
    (proxy, status)
}

/// The page, which has all of these parts.
#[track_caller]
fn page_with(status: SocketAddr, parts: &[&str]) -> String {
    let page = get(status, "/", "localhost").body;
    for part in parts {
        assert!(page.contains(part), "{part} is not in the page: {page}");
    }
    page
}

#[test]
fn a_refusal_is_on_the_page_with_what_to_do_and_a_strangers_words_stay_text() {
    let world = World::new();
    let (_proxy, status) = refusing(&world, &[]);
    let page = page_with(
        status,
        &[
            "<code>certificate-host-mismatch</code>",
            "client 127.0.0.1",
            "It means: a good certificate, for other names.",
            "<p>Do: ",
            "match=.hoster.example",
            "&lt;script&gt;",
        ],
    );
    assert!(
        !page.contains("<script") && !page.contains("<img"),
        "{page}"
    );
}

#[test]
fn addresses_on_the_page_have_the_form_that_records_have() {
    for (form, is_shown) in [("full", true), ("domain", false)] {
        let world = World::new();
        let log = world.scratch.path("audit.jsonl");
        let more = ["--audit-log", &log, "--audit-addresses", form];
        let (_proxy, status) = refusing(&world, &more);
        let page = get(status, "/", "localhost").body;
        assert!(page.contains("certificate-host-mismatch"), "{page}");
        assert_eq!(
            page.contains("ward@clinic.example"),
            is_shown,
            "{form}: {page}"
        );
        assert!(page.contains("@clinic.example"), "{page}");
    }
}

#[test]
fn the_page_shows_what_ends_what_is_in_force_and_the_limits() {
    let world = World::new();
    let leaf = world.authority.leaf(&["127.0.0.1"]);
    let lines = "[127.0.0.1] none until=2999-03-31 reason=\"scanner <b>\"\n[192.0.2.1] none until=2001-01-01\n";
    let table = world.scratch.file("policy", lines);
    let own = world.authority.leaf(&["proxy.hospital.example"]);
    let (cert, key) = own.write(&world.scratch.0, "own");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let log = world.scratch.path("audit.jsonl");
    let more = [
        &[
            "--policy",
            &table,
            "--client-cert",
            &cert,
            "--client-key",
            &key,
        ][..],
        &["--audit-log", &log, "--observe", "--max-sessions", "77"],
    ];
    let (listen, status) = (free(), free());
    let arguments = world.outbound(
        [listen, status],
        &tls_server(&leaf).to_string(),
        &more.concat(),
    );
    let mut proxy = Proxy::ready(&arguments);
    page_with(
        status,
        &[
            "only observes",
            "policy:1",
            "2999-0",
            "own.pem",
            "proxy.hospital.example",
            "At most 77 sessions",
            "max-sessions-per-client",
            "audit.jsonl: written",
            "None since the start.",
            "2 lines, 1 past their date",
        ],
    );
    let metrics = get(status, "/metrics", "x").body;
    for part in [
        "starttls_proxy_observing 1\n",
        "starttls_proxy_audit_healthy 1\n",
        "starttls_proxy_table_entries{state=\"expired\"} 1\n",
        "starttls_proxy_sessions_limit 77\n",
        "starttls_proxy_reload_successful 1\n",
        "policy:1\"} 3",
        "own.pem\"} ",
    ] {
        assert!(metrics.contains(part), "{part}: {metrics}");
    }
    fs::write(&table, "no line\n").expect("written");
    proxy.signal("-HUP");
    proxy.says("not reloaded");
    let metrics = get(status, "/metrics", "x").body;
    assert!(
        metrics.contains("starttls_proxy_reload_successful 0\n"),
        "{metrics}"
    );
    let page = get(status, "/", "localhost").body;
    assert!(page.contains("the last reload failed"), "{page}");
}

#[test]
fn what_somebody_did_to_the_audit_log_is_at_the_top_of_the_page() {
    let pair = pair();
    let log = pair.scratch.path("audit.jsonl");
    let status = free();
    let at = status.to_string();
    let more = ["--metrics", &at, "--audit-log", &log];
    let (mut proxy, _) = pair.ready(nowhere(), &more);
    let page = get(status, "/", "localhost").body;
    assert!(page.contains("nobody is asked to (--audit-tsa"), "{page}");
    assert!(!page.contains("are missing"), "{page}");
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
    let text = fs::read_to_string(&log).expect("a log");
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let kept = lines.len() - 2;
    fs::write(&log, lines[..kept].concat()).expect("written");
    let (mut proxy, listen) = pair.ready(nowhere(), &more);
    page_with(
        status,
        &[
            "<p class=\"state stop\">Records of the audit log are missing. Found ",
            &format!("of its {} records {kept} were found", lines.len()),
            &format!("<code>starttls-proxy audit verify {log}</code>"),
        ],
    );
    // So is what happens later.
    fs::remove_file(&log).expect("it is there");
    drop(Client::introduced(listen));
    proxy.says("was deleted while it was written");
    let page = get(status, "/", "localhost").body;
    let words = "audit log was deleted while it was written, and its records are back";
    assert!(page.contains(words), "{page}");
    assert!(page.contains("are missing"), "{page}");
}

#[test]
fn a_log_for_which_nobody_vouches_says_so_at_the_top_of_the_page() {
    let pair = pair();
    let log = pair.scratch.path("audit.jsonl");
    let (status, nobody) = (free(), format!("http://{}/", free()));
    let at = status.to_string();
    let more = [
        "--metrics",
        &at,
        "--audit-log",
        &log,
        "--audit-tsa",
        &nobody,
    ];
    let (mut proxy, _) = pair.ready(nowhere(), &more);
    proxy.says("nobody vouches");
    page_with(
        status,
        &[
            "<p class=\"state warn\">Since ",
            " UTC no new time-stamp vouches for the audit log. Mail goes on.",
            "Connection refused",
            "not since this process began",
        ],
    );
}

#[test]
fn what_the_watcher_of_the_interception_wrote_is_shown() {
    let world = World::new();
    let leaf = world.authority.leaf(&["127.0.0.1"]);
    let (listen, status) = (free(), free());
    // In that /run there is no resolv.conf, and on many hosts /etc/resolv.conf is a link into it.
    let resolver = ["--resolver", "127.0.0.1:9"];
    let to = tls_server(&leaf).to_string();
    let arguments = world.outbound([listen, status], &to, &resolver);
    // The program sees a /run of its own, with the watcher's file in it.
    let own_run = "mount -t tmpfs none /run && mkdir /run/starttls-proxy && \
                   printf 'alive=no\\nsince=1764362646\\n' >/run/starttls-proxy/interception.state && exec \"$@\"";
    let unshare = ["--map-root-user", "--mount", "sh", "-c", own_run, "sh"];
    if !Command::new("unshare")
        .args([&unshare[..], &["true"]].concat())
        .status()
        .is_ok_and(|done| done.success())
    {
        eprintln!(
            "SKIPPED: no mount namespaces here, the watcher's file was read by the unit tests only"
        );
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(unshare)
        .arg(env!("CARGO_BIN_EXE_starttls-proxy"))
        .args(&arguments);
    let mut proxy = Proxy::start_as(command);
    proxy.says(": ready");
    let metrics = get(status, "/metrics", "x").body;
    for line in [
        "starttls_proxy_interception_alive 0\n",
        "starttls_proxy_interception_since_timestamp_seconds 1764362646\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let page = get(status, "/", "localhost").body;
    let words = "The interception of port 25 is incomplete since 2025-11-28 20:44:06 UTC";
    assert!(page.contains(words), "{page}");
    // Whoever watches nothing claims nothing.
    let other = [free(), free()];
    let _unwatched = Proxy::ready(&world.outbound(other, &to, &resolver));
    if !std::path::Path::new("/run/starttls-proxy/interception.state").exists() {
        let metrics = get(other[1], "/metrics", "x").body;
        assert!(
            !metrics.contains("\nstarttls_proxy_interception_alive "),
            "{metrics}"
        );
    }
}
