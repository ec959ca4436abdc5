//! `check` says what mail would get, word for word, and sends none: against hostile and honest servers on loopback, found
//! through a scripted name server.

#[path = "../support/running.rs"]
mod running;
mod world;

use running::{Scratch, run};
use starttls_proxy::{commands::check::CheckedDomain, policy::Level};
use std::{
    fs, os::unix::fs::PermissionsExt, process::Command, sync::atomic::Ordering, time::Duration,
};
use world::{Mx, OFFER, Tls, World, ehlo, greeting, starttls};

/// The value of a key on the page; the last one where there are several.
fn said<'a>(page: &'a str, key: &str) -> Option<&'a str> {
    let lines = page
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(' '));
    lines.map(str::trim).next_back()
}

#[track_caller]
fn assert_refused(checked: &CheckedDomain, reason: &str, reply: &str) -> String {
    let page = checked.page(false);
    assert!(checked.refused() && checked.any_refused(), "{page}");
    let verdict = said(&page, "verdict").expect("a verdict");
    assert!(verdict.starts_with(&format!("refused: {reason}")), "{page}");
    let gets = said(&page, "mail gets").expect("a reply");
    assert!(gets.starts_with(reply), "{page}");
    assert!(page.ends_with("\n  mail is refused\n\n"), "{page}");
    let json = checked.json();
    assert_eq!(json["addresses"][0]["reason"], reason, "{json}");
    assert_eq!(json["addresses"][0]["reply"], gets, "{json}");
    assert_eq!(json["addresses"][0]["verdict"], "refused", "{json}");
    page
}

#[track_caller]
fn assert_nothing_of_mail_was_sent(world: World) {
    let heard = world.heard();
    for line in &heard {
        let (_, command) = line.split_once(':').expect("a stage");
        let harmless = ["EHLO proxy.hospital.example", "STARTTLS", "QUIT"];
        assert!(harmless.contains(&command), "{heard:?}");
    }
}

#[tokio::test]
async fn mail_passes_at_an_honest_server_which_hears_of_no_mail() {
    let world = World::with_honest();
    let checked = world.check().await;
    let page = checked.page(false);
    assert!(!checked.any_refused(), "{page}");
    assert!(page.ends_with("\n  mail passes\n\n"), "{page}");
    assert_eq!(
        said(&page, "verdict"),
        Some("authorised: name mx.clinic.example, issuer CN=Test Root"),
        "{page}"
    );
    assert_eq!(said(&page, "level"), Some("verify, from mx"), "{page}");
    assert_eq!(
        said(&page, "certificate"),
        Some("names mx.clinic.example"),
        "{page}"
    );
    assert!(
        said(&page, "tls").is_some_and(|tls| tls.ends_with("sni=mx.clinic.example")),
        "{page}"
    );
    assert_eq!(said(&page, "mail gets"), None, "{page}");
    let json = checked.json();
    assert_eq!(json["addresses"][0]["verdict"], "authorised");
    assert_eq!(json["addresses"][0]["peer"]["facts"]["version"], "TLSv1.3");
    let heard = world.heard();
    let hello = "EHLO proxy.hospital.example";
    let told = [
        format!("0:{hello}"),
        "0:STARTTLS".into(),
        format!("1:{hello}"),
        "1:QUIT".into(),
    ];
    assert_eq!(heard, told);
}

#[tokio::test]
async fn a_greeting_that_refuses_is_told_and_blames_no_resolver() {
    let world = World::with(greeting(
        "554 5.7.1 Blocked by RBL, see http://rbl.example/\x1b[2J\r\n",
    ));
    let checked = world.check().await;
    let page = assert_refused(&checked, "greeting-refused", "421 4.");
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains("554 5.7.1")),
        "{page}"
    );
    let heard = said(&page, "heard").expect("it is told");
    assert!(
        heard.contains("unproved") && heard.contains("see http://rbl.example/\\x1b[2J"),
        "{page}"
    );
    assert!(!page.contains("look-up"), "{page}");
    assert_eq!(checked.json()["addresses"][0]["heard"][0]["unproved"], true);
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_greeting_421_is_told_with_its_words() {
    let world = World::with(greeting("421 4.7.0 too many connections from you\r\n"));
    let checked = world.check().await;
    let page = assert_refused(&checked, "greeting-refused", "421 4.");
    assert!(
        said(&page, "heard").is_some_and(|heard| heard.contains("too many connections from you")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named() {
    let mut world = World::new();
    world.closed();
    let checked = world.check().await;
    let page = assert_refused(&checked, "server-unreachable", "421 4.4.1 ");
    let named = format!("127.0.0.1:{}: connection refused", world.port);
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains(&named)),
        "{page}"
    );
    assert!(checked.json()["addresses"][0]["unreachable"].is_string());
}

#[tokio::test]
async fn ehlo_550_is_told_and_is_no_missing_starttls() {
    let world = World::with(ehlo("550 5.7.1 Helo name rejected\r\n"));
    let checked = world.check().await;
    let page = assert_refused(&checked, "ehlo-refused", "421 4.");
    assert!(
        said(&page, "heard").is_some_and(|heard| heard.contains("550 5.7.1 Helo name rejected")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn starttls_454_is_told_and_is_no_missing_offer() {
    let world = World::with(starttls("454 4.7.0 certificate being renewed\r\n"));
    let checked = world.check().await;
    let page = assert_refused(&checked, "starttls-refused", "421 4.");
    assert!(
        said(&page, "heard")
            .is_some_and(|heard| heard.contains("454 4.7.0 certificate being renewed")),
        "{page}"
    );
    assert!(!page.contains("not offered"), "{page}");
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_missing_offer_of_starttls_is_told_and_a_masked_one_for_what_it_is() {
    let world = World::with(ehlo("250-mx.clinic.example\r\n250 SIZE 1000\r\n"));
    let page = assert_refused(&world.check().await, "starttls-not-supported", "421 4.7.4 ");
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains("not offered")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);

    let world = World::with(ehlo("250-mx.clinic.example\r\n250 XXXXXXXA\r\n"));
    let page = assert_refused(&world.check().await, "starttls-not-supported", "421 4.7.4 ");
    assert!(
        said(&page, "mail gets").is_some_and(|gets| gets.contains("XXXXXXXA")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn a_wrong_certificate_is_shown_and_refused() {
    let mut world = World::new();
    world.serve(world.named("mx.impostor.example"));
    let page = assert_refused(
        &world.check().await,
        "certificate-host-mismatch",
        "421 4.7.5 clinic.example: mx.clinic.example[127.0.0.1] ",
    );
    assert_eq!(
        said(&page, "certificate"),
        Some("names mx.impostor.example"),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn handshakes_that_break_are_told_as_such() {
    for tls in [Tls::Garbage, Tls::Ends] {
        let world = World::with(Mx {
            tls,
            ..Mx::default()
        });
        let page = assert_refused(&world.check().await, "validation-failure", "421 4.7.5 ");
        assert_eq!(said(&page, "tls"), None, "{page}");
        assert_nothing_of_mail_was_sent(world);
    }
}

#[tokio::test]
async fn a_server_that_breaks_on_the_large_hello_takes_mail_at_its_next_try() {
    let mut world = World::new();
    let tls = Tls::Small(Box::new(world.authority.leaf(&["mx.clinic.example"])));
    world.serve(Mx {
        tls,
        ..Mx::default()
    });
    let checked = world.check().await;
    let page = checked.page(false);
    assert!(!checked.any_refused(), "{page}");
    assert!(
        said(&page, "at first").is_some_and(|reply| reply.starts_with("421 4.7.5 ")),
        "{page}"
    );
    assert!(
        said(&page, "tls").is_some_and(|tls| tls.contains(" X25519 ")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn ehlo_that_is_refused_over_tls_is_no_passing() {
    let mut world = World::new();
    let mut mx = world.honest();
    mx.ehlo[1] = "550 5.7.1 not you\r\n";
    world.serve(mx);
    let checked = world.check().await;
    assert!(checked.refused(), "{}", checked.page(false));
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn whatever_a_server_says_in_the_clear_blames_no_resolver_and_draws_no_mail() {
    let servers = [
        ("greeting-refused", greeting("250 what\r\n")),
        ("greeting-refused", greeting("550-no\r\n550 never\r\n")),
        ("server-gone", greeting("hello\r\n")),
        (
            "server-gone",
            greeting("220 mx\r\n421 4.3.2 shutting down\r\n"),
        ),
        ("ehlo-refused", ehlo("421 4.7.0 slow down\r\n")),
        ("ehlo-refused", ehlo("502 5.5.1 say HELO\r\n")),
        ("ehlo-refused", ehlo("354 go\r\n")),
        ("starttls-refused", starttls("421 4.3.2 shutting down\r\n")),
        ("starttls-refused", starttls("554 5.7.1 not for you\r\n")),
        ("starttls-refused", starttls("250 ok\r\n")),
    ];
    for (reason, mx) in servers {
        let words = format!("{:?} {:?} {:?}", mx.greeting, mx.ehlo[0], mx.starttls);
        let world = World::with(mx);
        let checked = world.check().await;
        assert_refused(&checked, reason, "421 4.");
        assert!(!checked.page(false).contains("look-up"), "{words}");
        assert_nothing_of_mail_was_sent(world);
    }
}

#[tokio::test]
async fn a_reply_that_two_parsers_could_read_differently_is_no_reply() {
    let long = format!("220 {}\r\n", "x".repeat(4000)).leak();
    let endless = "220-mx\r\n".repeat(200).leak();
    let malformed = "malformed reply";
    let unasked = "a reply to nothing";
    for (words, mx) in [
        (malformed, greeting("220 bare\n")),
        (malformed, greeting("220-two\r\n250 codes\r\n")),
        (malformed, greeting(long)),
        (malformed, greeting(endless)),
        (malformed, ehlo("250-mx\r\n250 STARTTLS\n")),
        (unasked, greeting("220 mx\r\n250 injected\r\n")),
        (unasked, ehlo("250-mx\r\n250 STARTTLS\r\n220 injected\r\n")),
    ] {
        let said_first = format!("{:?} {:?}", mx.greeting, mx.ehlo[0]);
        let world = World::with(mx);
        let page = assert_refused(&world.check().await, "server-gone", "421 4.");
        assert!(page.contains(words), "{said_first}: {page}");
        assert_nothing_of_mail_was_sent(world);
    }
}

#[tokio::test]
async fn a_silent_server_is_told_as_one_without_the_minutes_that_mail_would_wait() {
    let mut world = World::new();
    world.serve(greeting(""));
    world.patience = Duration::from_millis(300);
    let page = assert_refused(&world.check().await, "server-gone", "421 4.4.2 127.0.0.1: ");
    assert!(
        said(&page, "waited").is_some_and(|words| words.contains("mail waits some minutes")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn one_address_that_takes_mail_is_enough_and_the_other_is_named() {
    let mut world = World::with(greeting("554 no\r\n"));
    world.serve(world.honest());
    let checked = world.check().await;
    let page = checked.page(false);
    assert!(checked.any_refused() && !checked.refused(), "{page}");
    assert!(
        page.ends_with("\n  mail passes by some of the addresses only\n\n"),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn an_entry_that_allows_plaintext_passes_as_unprotected_and_sends_no_mail() {
    for (table, hello) in [
        ("clinic.example none\n", OFFER),
        ("clinic.example may\n", "250 mx.clinic.example\r\n"),
        ("[127.0.0.1] none\n", OFFER),
        ("[127.0.0.1] may\n", "250 mx.clinic.example\r\n"),
    ] {
        let mut world = World::new();
        world.table = table;
        world.serve(ehlo(hello));
        let checked = world.check().await;
        let page = checked.page(false);
        assert!(!checked.any_refused(), "{table}: {page}");
        assert!(
            said(&page, "verdict").is_some_and(|words| words.starts_with("unprotected")),
            "{table}: {page}"
        );
        assert!(
            said(&page, "level").is_some_and(|words| words.contains("policy:1")),
            "{table}: {page}"
        );
        assert_nothing_of_mail_was_sent(world);
    }
}

#[tokio::test]
async fn an_entry_for_the_address_is_judged_at_ehlo_and_the_recipient_after_it() {
    let mut world = World::new();
    world.table = "[127.0.0.1] verify match=mx.clinic.example\n";
    world.serve(world.honest());
    let checked = world.check().await;
    assert!(!checked.any_refused(), "{}", checked.page(false));
    assert_nothing_of_mail_was_sent(world);

    // The recipient's own entry takes precedence over that of the address, and the certificate does not show what it demands.
    let mut world = World::new();
    world.table =
        "[127.0.0.1] verify match=mx.clinic.example\nclinic.example secure match=other.example\n";
    world.serve(world.honest());
    let page = assert_refused(
        &world.check().await,
        "certificate-host-mismatch",
        "451 4.7.5 clinic.example: ",
    );
    assert!(
        said(&page, "level").is_some_and(|words| words.contains("policy:2")),
        "{page}"
    );
    assert_nothing_of_mail_was_sent(world);
}

#[tokio::test]
async fn what_a_resolver_fails_at_is_the_look_ups_fault() {
    let world = World::new();
    world.names.rcode.store(2, Ordering::SeqCst);
    let page = assert_refused(
        &world.check().await,
        "lookup-failed",
        "451 4.4.3 clinic.example: look-up failed: lookup-failed",
    );
    assert!(
        said(&page, "mx").is_some_and(|words| words.contains("look-up failed")),
        "{page}"
    );
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_no_host_and_no_resolvers_fault() {
    let world = World::new();
    world.names.rcode.store(3, Ordering::SeqCst);
    let page = assert_refused(&world.check().await, "no-such-domain", "451 4.1.2 ");
    assert_eq!(
        said(&page, "mx"),
        Some("the domain does not exist (unsigned)"),
        "{page}"
    );
    assert!(!page.contains("the domain itself is the host"), "{page}");
}

#[tokio::test]
async fn a_null_mx_is_told_as_one() {
    let world = World::new();
    *world.names.exchanger.lock().expect("no panic") = b"\x00\x00\x00";
    let page = assert_refused(&world.check().await, "null-mx", "451 4.1.10 ");
    assert!(
        said(&page, "mx").is_some_and(|words| words.starts_with("null MX")),
        "{page}"
    );
}

#[tokio::test]
async fn a_host_without_an_address_is_no_resolvers_fault() {
    let world = World::new();
    let checked = world.check().await;
    let page = checked.page(false);
    assert!(checked.refused(), "{page}");
    assert!(
        said(&page, "verdict").is_some_and(|words| words.starts_with("refused: no-address: ")),
        "{page}"
    );
    assert_eq!(said(&page, "address"), Some("none"), "{page}");
    assert_eq!(said(&page, "mail gets"), None, "{page}");
    assert!(!page.contains("look-up"), "{page}");
}

#[tokio::test]
async fn level_encrypt_takes_any_certificate() {
    let mut world = World::new();
    world.settings.level = Level::Encrypt;
    world.serve(world.named("anybody.example"));
    let checked = world.check().await;
    assert!(!checked.any_refused(), "{}", checked.page(false));
    assert_nothing_of_mail_was_sent(world);
}

/// The program itself asks port 25, which a test may have in a network of its own only.
#[test]
fn the_program_asks_port_25_and_its_exit_code_says_what_it_found() {
    const INSIDE: &str = "CHECK_IN_A_NETWORK_OF_ITS_OWN";
    let name = "the_program_asks_port_25_and_its_exit_code_says_what_it_found";
    if std::env::var_os(INSIDE).is_some() {
        return the_program();
    }
    let own = std::env::current_exe().expect("this test");
    let output = Command::new("unshare")
        .args([
            "-n",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" --exact --nocapture \"$1\"",
        ])
        .arg(own)
        .arg(name)
        .env(INSIDE, "1")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("SKIPPED: no unshare: {error}"),
    };
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("unshare failed") {
        return println!("SKIPPED: needs root: {words}");
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{words}");
    assert!(said.contains("1 passed"), "{said}");
}

fn the_program() {
    let mut world = World::on("127.0.0.1:25");
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem", world.authority.pem());
    let resolver = world.names.at.to_string();
    let first = [
        "check",
        "--no-dane",
        "--no-mta-sts",
        "--resolver",
        &resolver,
    ];
    let second = ["--hostname", "proxy.hospital.example", "--ca-file", &ca];
    let check = |more: &[&str]| run(&[&first[..], &second, more].concat());
    world.serve(world.honest());
    let (code, page, errors) = check(&["clinic.example"]);
    assert_eq!(code, Some(0), "{page}{errors}");
    assert!(page.ends_with("\n  mail passes\n\n"), "{page}");
    assert_eq!(errors, "", "the page says what there is to say");

    world.serve(greeting("554 5.7.1 go away\r\n"));
    let (code, lines, errors) = check(&["--json", "clinic.example", "clinic.example"]);
    assert_eq!(code, Some(1), "{lines}{errors}");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(
        lines.contains("greeting-refused") && errors.is_empty(),
        "{lines}{errors}"
    );
    assert_nothing_of_mail_was_sent(world);
}

/// A page of `check --upstream`, and what the server heard inside TLS.
async fn logged_in(auth: &'static str) -> (String, serde_json::Value, Vec<String>) {
    let scratch = Scratch::new();
    let file = scratch.file("auth", "user = scanner\npassword = swordfish\n");
    let owner = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&file, owner).expect("set");
    let mut world = World::new();
    world.serve(Mx {
        ehlo: [OFFER, "250-mx.clinic.example\r\n250 AUTH LOGIN PLAIN\r\n"],
        auth,
        ..world.honest()
    });
    let checked = world.check_upstream(file.as_ref()).await;
    let (page, json) = (checked.page(false), checked.json());
    let heard = world.heard().into_iter();
    let heard = heard.filter_map(|line| Some(line.strip_prefix("1:")?.to_owned()));
    (page, json, heard.collect())
}

#[tokio::test]
async fn a_smart_hosts_page_says_whether_the_login_is_accepted_and_no_mail_is_sent() {
    let (page, json, heard) = logged_in("235 2.7.0 welcome\r\n").await;
    assert_eq!(said(&page, "login"), Some("accepted as scanner, by PLAIN"));
    assert!(page.ends_with("\n  mail passes\n\n"), "{page}");
    assert_eq!(json["login"]["accepted"], true, "{json}");
    let hello = "EHLO proxy.hospital.example";
    let login = "AUTH PLAIN AHNjYW5uZXIAc3dvcmRmaXNo";
    assert_eq!(heard, [hello, login, "QUIT"]);

    let quotes = "535 5.7.8 AUTH PLAIN AHNjYW5uZXIAc3dvcmRmaXNo is wrong\r\n";
    let (page, json, heard) = logged_in(quotes).await;
    assert_eq!(said(&page, "login"), Some("not accepted as scanner"));
    let words = "login, inside TLS: \"535 5.7.8\"";
    assert_eq!(said(&page, "heard"), Some(words), "{page}");
    let gets = said(&page, "mail gets").expect("a reply");
    assert!(gets.starts_with("421 4.7.8 "), "{page}");
    assert!(page.ends_with("\n  mail is refused\n\n"), "{page}");
    assert_eq!(json["login"]["accepted"], false, "{json}");
    assert_eq!(json["refused"], true, "{json}");
    assert_eq!(heard, [hello, login, "QUIT"]);
    for secret in ["AHNjYW5uZXIAc3dvcmRmaXNo", "swordfish"] {
        let told = format!("{page}{json}");
        assert!(!told.contains(secret), "{told}");
    }
}
