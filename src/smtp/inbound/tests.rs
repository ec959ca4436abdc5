use super::*;
use crate::smtp::{
    Exempted, Input, Machine,
    script::{Script, refusal as policy},
};

fn config() -> InboundConfig {
    InboundConfig {
        hostname: "proxy.example".to_owned(),
        tls_available: true,
        plaintext_allowed: false,
    }
}

fn exempt() -> InboundConfig {
    InboundConfig {
        plaintext_allowed: true,
        ..config()
    }
}

const OURS: &str = "250-proxy.example⏎250-ENHANCEDSTATUSCODES⏎250 STARTTLS⏎";
const THEIRS: &str = "250-exchange⏎250-SIZE 9⏎250-STARTTLS⏎250-AUTH NTLM LOGIN⏎250-X-EXPS NTLM⏎250-XCLIENT ADDR⏎250 PIPELINING⏎";
const SHOWN: &str = "250-exchange⏎250-SIZE 9⏎250 PIPELINING⏎";

fn cleartext(config: InboundConfig) -> Script<Inbound> {
    let mut script = Script::new(Inbound::new(config));
    script.client_got("220 proxy.example ESMTP⏎").events(&[]);
    script
}

/// A session whose client has started TLS.
fn secure() -> Script<Inbound> {
    let mut script = cleartext(config());
    script.client("EHLO evil⏎").client_got(OURS);
    script
        .client("STARTTLS⏎")
        .client_got("220 2.0.0 ready to start TLS⏎")
        .events(&["upgrade Client"]);
    script.upgraded(Side::Client);
    script
}

/// A session whose client has been introduced to the server.
fn open() -> Script<Inbound> {
    let mut script = secure();
    script
        .client("EHLO mx.sender⏎")
        .events(&["connect"])
        .connected();
    script.server_got("").server("220 exchange⏎");
    script.server_got("EHLO mx.sender⏎").client_got("");
    script.server(THEIRS).client_got(SHOWN);
    script
}

#[test]
fn a_message_passes_once_tls_is_up() {
    let mut script = open();
    script
        .client("MAIL FROM:<a@B.example>⏎RCPT TO:<u@d>⏎")
        .events(&["ask sender b.example"])
        .server_got("");
    script
        .authorised()
        .server_got("MAIL FROM:<a@B.example>⏎RCPT TO:<u@d>⏎");
    script.server("250 1⏎250 2⏎").client_got("250 1⏎250 2⏎");
    script.client("DATA⏎").server("354 3⏎").client("text⏎.⏎");
    script.server_got("DATA⏎text⏎.⏎").client_got("354 3⏎");
    script.server("250 4⏎").client_got("").recorded();
    script.client_got("250 4⏎");
    assert_eq!(script.records[0].sender, b"a@B.example");
    script.client("QUIT⏎").server("221 5⏎");
    script.client_got("221 5⏎").server_got("QUIT⏎").over(false);
}

#[test]
fn before_tls_mail_is_refused_and_the_server_hears_nothing() {
    for (line, code) in [
        ("MAIL FROM:<a@b>", 530),
        ("RCPT TO:<a@b>", 530),
        ("DATA", 530),
        ("BDAT 5", 530),
        ("VRFY a", 530),
        ("EXPN a", 530),
        ("ETRN a", 530),
        ("TURN", 530),
        ("ATRN", 530),
        ("AUTH PLAIN AGEAYg==", 530),
        ("BURL a", 530),
        ("SEND a", 530),
        ("SOML a", 530),
        ("SAML a", 530),
        ("FOO", 530),
        (" STARTTLS", 500),
        ("XCLIENT ADDR=127.0.0.1", 502),
        ("XFORWARD ADDR=127.0.0.1", 502),
        ("HELO a", 250),
        ("NOOP", 250),
        ("RSET", 250),
        ("HELP", 214),
        ("STARTTLS x", 501),
        ("EHLO", 501),
    ] {
        let mut script = cleartext(config());
        script.client(&format!("{line}⏎"));
        assert_eq!(script.codes(), [code], "{line}");
        script.client("EHLO a⏎").client_got(OURS).events(&[]);
    }
}

#[test]
fn starttls_is_read_case_insensitively_and_needs_its_crlf() {
    for line in ["starttls⏎", "STARTTLS ⏎"] {
        let mut script = cleartext(config());
        script.client(line).events(&["upgrade Client"]);
    }
    for line in ["STARTTLS\n", "STARTTLS\0⏎", "STARTTLS\rx"] {
        let mut script = cleartext(config());
        script.client(line).events(&["broken-command-line"]);
        assert_eq!(script.codes(), [554], "{line:?}");
        script.over(true);
    }
}

#[test]
fn bytes_behind_starttls_end_the_session() {
    for behind in [
        "EHLO inject⏎",
        "NOOP⏎",
        "RSET⏎",
        "MAIL FROM:<a@x>⏎RCPT TO:<b@y>⏎DATA⏎",
        "AUTH PLAIN AA==⏎",
        "x",
    ] {
        let mut script = cleartext(config());
        script.client(&format!("EHLO a⏎STARTTLS⏎{behind}"));
        script
            .client_got(&format!(
                "{OURS}554 5.5.0 STARTTLS must be the last of its group (RFC 3207 4)⏎"
            ))
            .events(&["starttls-command-injection"])
            .over(true);
    }
    let mut script = cleartext(config());
    script.client("STARTTLS⏎").client("NOOP⏎");
    script
        .client_got("220 2.0.0 ready to start TLS⏎")
        .events(&["upgrade Client", "starttls-command-injection"])
        .over(true);
}

#[test]
fn after_tls_nothing_from_before_counts() {
    let mut script = secure();
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎");
    assert_eq!(script.codes(), [503, 503]);
    script.client("NOOP⏎RSET⏎VRFY a⏎STARTTLS⏎AUTH LOGIN⏎");
    assert_eq!(script.codes(), [250, 250, 252, 503, 502]);
    script.server_got("").events(&[]);
}

#[test]
fn inside_tls_starttls_is_neither_shown_nor_forwarded() {
    let mut script = open();
    script
        .client("STARTTLS⏎")
        .client_got("503 5.5.1 TLS is up already⏎")
        .server_got("")
        .events(&[]);
    script.client("XCLIENT ADDR=127.0.0.1⏎XFORWARD A=b⏎AUTH LOGIN⏎");
    assert_eq!(script.codes(), [502, 502, 502]);
    script.server_got("");
}

#[test]
fn without_a_certificate_the_listener_stays_closed_to_mail() {
    let mut script = cleartext(InboundConfig {
        tls_available: false,
        ..config()
    });
    script
        .client("EHLO a⏎")
        .client_got("250-proxy.example⏎250 ENHANCEDSTATUSCODES⏎");
    script.client("STARTTLS⏎MAIL FROM:<a@b>⏎");
    assert_eq!(script.codes(), [454, 530]);
}

#[test]
fn tls_that_is_not_good_enough_leaves_quit() {
    let mut script = cleartext(config());
    script.client("STARTTLS⏎").codes();
    script.input(Input::Upgraded(Side::Client, Err(policy(554))));
    script
        .client("EHLO a⏎NOOP⏎FOO⏎")
        .client_got(&"554 5.7.5 policy⏎".repeat(3));
    script
        .client("QUIT⏎")
        .client_got("221 2.0.0 bye⏎")
        .over(false);
}

#[test]
fn a_failed_handshake_ends_the_session_without_text() {
    for end in [Input::Closed(Side::Client), Input::Drain] {
        let mut script = cleartext(config());
        script.client("STARTTLS⏎").codes();
        script.input(end);
        if script.machine.deadline().is_some() {
            script.late();
        }
        script.client_got("");
        assert!(script.machine.finished());
    }
}

#[test]
fn the_time_before_tls_is_one_unit() {
    let mut script = cleartext(config());
    let end = script.machine.deadline();
    script.now = Duration::from_secs(50);
    script.client("NOOP⏎EHLO a⏎").codes();
    assert_eq!(script.machine.deadline(), end);
    script.late().client_got("421 4.4.2 no command in time⏎");
    assert!(script.machine.finished());
}

#[test]
fn a_server_that_does_not_take_the_session_is_a_421() {
    let mut script = secure();
    script
        .client("EHLO a⏎")
        .input(Input::Connected(Err(policy(554))));
    script.client_got("421 4.7.5 policy⏎");

    for (greeting, ehlo) in [("554 no⏎", ""), ("220 x⏎", "502 no⏎"), ("421 no⏎", "")] {
        let mut script = secure();
        script
            .client("EHLO a⏎")
            .connected()
            .server(greeting)
            .server(ehlo);
        assert_eq!(script.codes(), [421]);
        assert!(script.machine.finished());
    }
    let mut script = secure();
    script
        .client("EHLO a⏎")
        .connected()
        .input(Input::Closed(Side::Server));
    assert_eq!(script.codes(), [421]);
}

#[test]
fn a_sender_that_is_refused_starts_no_transaction() {
    let mut script = open();
    script.client("MAIL FROM:<>⏎").events(&["ask sender <>"]);
    script.refused(550).client_got("550 5.7.5 policy⏎");
    script.client("RCPT TO:<u@d>⏎").server_got("");
    assert_eq!(script.codes(), [503]);
    script.client("MAIL FROM:<a@b>⏎").upgrade();
    assert_eq!(script.codes(), [530]);
    script.client("MAIL FROM:<a@b>⏎").refused(421).over(false);
    script.server_got("QUIT⏎");
}

#[test]
fn a_mail_that_the_server_refuses_starts_no_transaction() {
    let mut script = open();
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎").authorised();
    script.server("550 no⏎503 no⏎").client_got("550 no⏎503 no⏎");
    script
        .client("DATA⏎")
        .client_got("503 5.5.1 need MAIL and RCPT before DATA⏎");
}

#[test]
fn an_exempt_client_may_speak_in_the_clear_or_start_tls() {
    let mut script = cleartext(exempt());
    script.client("MAIL FROM:<a@b>⏎");
    assert_eq!(script.codes(), [503]);
    script.client("EHLO box⏎").events(&["connect"]).connected();
    script
        .server("220 x⏎")
        .server(THEIRS)
        .server_got("EHLO box⏎");
    script.client_got("250-exchange⏎250-SIZE 9⏎250-PIPELINING⏎250 STARTTLS⏎");
    script
        .client("MAIL FROM:<a@b>⏎")
        .input(Input::Answer(Answer::Exempted(Exempted::assertion())))
        .server_got("MAIL FROM:<a@b>⏎")
        .server("250 ok⏎")
        .client_got("250 ok⏎");

    // When TLS starts, the machine forgets everything, and also leaves the connection to the server.
    script
        .client("STARTTLS⏎")
        .client_got("220 2.0.0 ready to start TLS⏎")
        .server_got("QUIT⏎")
        .events(&["ask sender b", "upgrade Client"]);
    script
        .input(Input::Closed(Side::Server))
        .upgraded(Side::Client);
    script.client("RCPT TO:<u@d>⏎NOOP⏎");
    assert_eq!(script.codes(), [503, 250]);
    script.client("EHLO box⏎").events(&["connect"]);
    script.connected().server("220 x⏎").server(THEIRS);
    script.client_got(SHOWN).server_got("EHLO box⏎");
}

#[test]
fn http_ends_the_session_without_an_echo() {
    for line in [
        "POST / HTTP/1.1⏎Host: x⏎⏎MAIL FROM:<a@b>⏎",
        "Host: <script>⏎",
    ] {
        for mut script in [cleartext(config()), secure(), open()] {
            script.client(line);
            script.client_got("500 5.5.1 this is SMTP, not HTTP⏎");
            script.over(true);
        }
    }
}

#[test]
fn floods_end_with_a_421() {
    for line in [
        "NOOP⏎",
        "RSET⏎",
        "FOO⏎",
        "MAIL FROM:<a@b>⏎",
        "EHLO a⏎",
        "HELP⏎",
    ] {
        let mut script = cleartext(config());
        script.client(&line.repeat(1000));
        let codes = script.codes();
        assert_eq!(codes.last(), Some(&421), "{line}");
        assert!(codes.iter().filter(|code| **code == 421).count() == 1);
        assert!(script.machine.finished());
    }
}

#[test]
fn senders_that_are_refused_without_end_end_with_a_421() {
    let mut script = open();
    let mut refused = 0;
    loop {
        script.client("MAIL FROM:<a@b.example>⏎").refused(550);
        match script.codes()[..] {
            [550] => refused += 1,
            [421] => break,
            ref other => panic!("{other:?}"),
        }
        assert!(refused < 200, "it has no end");
    }
    assert!(refused > 50, "{refused}");
    assert!(script.machine.finished());
}

#[test]
fn an_idle_client_is_told_that_the_proxy_stops() {
    for mut script in [cleartext(config()), secure(), open()] {
        script.input(Input::Drain);
        assert_eq!(script.codes(), [421]);
        assert!(script.machine.finished());
    }
}

#[test]
fn a_trace_line_that_is_known_with_tls_is_not_forgotten_with_what_was_before() {
    let mut script = cleartext(config());
    script.client("STARTTLS⏎").codes();
    script.machine.set_trace(b"Received: x\r\n".to_vec());
    script.upgraded(Side::Client).client("EHLO a⏎").connected();
    script.server("220 x⏎").server(THEIRS);
    script.client("MAIL FROM:<a@b>⏎").authorised();
    script.server("250 1⏎").client("RCPT TO:<u@d>⏎");
    script.server("250 2⏎").client("DATA⏎").server("354 3⏎");
    script.server_got("EHLO a⏎MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎Received: x⏎");
}
