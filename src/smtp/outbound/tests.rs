use super::*;
use crate::smtp::{
    Authorised, Recorded,
    script::{Script, refusal as policy},
};

fn config() -> OutboundConfig {
    OutboundConfig {
        hostname: "proxy.example".to_owned(),
        server: "mx[192.0.2.1]".to_owned(),
        known_at_connect: false,
        auth: false,
        plaintext_possible: false,
        implicit_tls: false,
    }
}

fn known() -> OutboundConfig {
    OutboundConfig {
        known_at_connect: true,
        auth: true,
        ..config()
    }
}

fn plaintext_possible() -> OutboundConfig {
    OutboundConfig {
        plaintext_possible: true,
        ..config()
    }
}

const EHLO: &str = "250-mx⏎250-PIPELINING⏎250-SIZE 9⏎250-DSN⏎250 STARTTLS⏎";
const SECURE_EHLO: &str = "250-mx⏎250-PIPELINING⏎250-SIZE 9⏎250-AUTH PLAIN NTLM⏎250 DSN⏎";
const SHOWN: &str = "250-proxy.example⏎250-PIPELINING⏎250-SIZE 9⏎250 DSN⏎";
const NO_TLS_EHLO: &str = "250-mx⏎250-PIPELINING⏎250-SIZE 9⏎250 DSN⏎";

/// A session that was greeted.
fn greeted(config: OutboundConfig) -> Script<Outbound> {
    let mut script = Script::new(Outbound::new(config));
    script.events(&["connect"]).connected().to_client("");
    script
        .server("220 evil <script>⏎")
        .to_client("220 proxy.example ESMTP⏎");
    script
}

/// A session whose client and server have exchanged EHLO.
fn introduced(config: OutboundConfig, ehlo: &str) -> Script<Outbound> {
    let mut script = greeted(config);
    script
        .client("EHLO box⏎")
        .to_client("")
        .to_server("EHLO box⏎")
        .server(ehlo);
    script
}

/// A session whose first RCPT waits for the policy.
fn asked(config: OutboundConfig, ehlo: &str) -> Script<Outbound> {
    let mut script = introduced(config, ehlo);
    script.to_client(SHOWN);
    script
        .client("MAIL FROM:<a@b> SIZE=5⏎")
        .to_client("250 2.1.0 sender noted⏎")
        .client("RCPT TO:<u@d.example>⏎")
        .to_server("")
        .events(&["ask d.example"]);
    script
}

/// A session that is TLS from here on, its first RCPT waiting for the second answer.
fn upgraded(config: OutboundConfig, secure_ehlo: &str) -> Script<Outbound> {
    let mut script = asked(config, EHLO);
    script.upgrade().to_client("").to_server("STARTTLS⏎");
    script.server("220 go⏎").events(&["upgrade Server"]);
    script.upgraded(Side::Server).to_server("EHLO box⏎");
    script.server(secure_ehlo);
    script
}

/// A session whose first recipient was accepted.
fn envelope() -> Script<Outbound> {
    let mut script = upgraded(config(), SECURE_EHLO);
    script
        .events(&["ask d.example"])
        .to_server("")
        .authorised()
        .to_server("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎")
        .server("250 ok⏎250 2.1.5 fine⏎")
        .to_client("250 2.1.5 fine⏎");
    script
}

fn or_plaintext() -> Input {
    Input::Answer(Answer::Upgrade {
        or_plaintext: Some(Exempted::assertion()),
    })
}

fn exempted() -> Input {
    Input::Answer(Answer::Exempted(Exempted::assertion()))
}

#[test]
fn a_message_passes_once_its_recipient_is_authorised() {
    let mut script = envelope();
    script.client("DATA⏎").to_server("DATA⏎").to_client("");
    script
        .server("354 go⏎")
        .to_client("354 go⏎")
        .events(&["message"]);
    script
        .client("Subject: x⏎⏎..text⏎.⏎")
        .to_server("Subject: x⏎⏎..text⏎.⏎")
        .to_client("");
    assert_eq!(script.content, b"Subject: x\r\n\r\n..text\r\n");
    script
        .server("250 2.0.0 queued⏎")
        .to_client("")
        .events(&["record"]);
    assert_eq!(script.records[0].octets, 22);
    assert_eq!(script.records[0].sender, b"a@b");
    assert_eq!(script.records[0].recipients, [b"u@d.example"]);
    let reply = script.records[0].reply.as_deref();
    assert_eq!(reply, Some(&b"250 2.0.0 queued\r\n"[..]));
    script.recorded().to_client("250 2.0.0 queued⏎");
    script.client("QUIT⏎").to_server("QUIT⏎");
    script
        .server("221 bye⏎")
        .to_client("221 bye⏎")
        .to_server("")
        .over(false);
}

#[test]
fn no_byte_of_the_server_before_tls_reaches_the_client() {
    for greeting in [
        "554 no⏎",
        "550 no⏎",
        "521 no⏎",
        "221 no⏎",
        "354 no⏎",
        "421 no⏎",
        "250 no⏎",
        "220-a⏎554 b⏎",
        "hello⏎",
        "220 a\n",
    ] {
        let mut script = Script::new(Outbound::new(config()));
        script.connected().server(greeting);
        assert_eq!(script.codes(), [421], "{greeting}");
        assert!(script.machine.finished());
    }
    let long = "220-x⏎".repeat(500);
    let mut script = Script::new(Outbound::new(config()));
    script.connected().server(&long);
    assert_eq!(script.codes(), [421]);
}

#[test]
fn a_server_that_cannot_be_reached_is_a_421_greeting() {
    let mut script = Script::new(Outbound::new(config()));
    script.input(Input::Connected(Err(policy(550))));
    script.to_client("421 4.7.5 policy⏎").over(true);

    let mut script = Script::new(Outbound::new(config()));
    script.connected().late();
    assert!(script.now < Duration::from_secs(300));
    script
        .to_client("421 4.4.2 mx[192.0.2.1]: no reply in time⏎")
        .over(true);
}

#[test]
fn a_missing_starttls_is_a_421_at_ehlo() {
    for ehlo in [
        "250 mx STARTTLS⏎",
        "250-mx⏎250 STARTTLSX⏎",
        "250-STARTTLS⏎250 DSN⏎",
        NO_TLS_EHLO,
    ] {
        let mut script = introduced(config(), ehlo);
        script
            .to_client(
                "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS is not offered⏎",
            )
            .to_server("QUIT⏎")
            .events(&["connect", "host fault"][1..])
            .over(false);
    }
    let mut script = introduced(config(), "250-mx⏎250-XXXXXXXA⏎250 DSN⏎");
    script.to_client(
        "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS is not offered; a device in between masks it (it shows XXXXXXXA)⏎",
    );
}

#[test]
fn a_refused_ehlo_is_a_421_without_helo() {
    for code in [220, 221, 354, 500, 501, 502, 504, 530, 550] {
        let mut script = introduced(config(), &format!("{code} evil⏎"));
        script
            .to_client("421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: EHLO was refused, so STARTTLS is not possible⏎")
            .to_server("QUIT⏎");
    }
    let mut script = introduced(config(), "421 evil⏎");
    script
        .to_client("421 4.4.2 mx[192.0.2.1]: closes the connection⏎")
        .events(&[])
        .over(true);
}

#[test]
fn lower_case_starttls_counts() {
    introduced(config(), "250-mx⏎250 starttls⏎").to_client("250 proxy.example⏎");
}

#[test]
fn a_refused_starttls_is_a_421() {
    for code in [454, 502, 250, 421] {
        let mut script = asked(config(), EHLO);
        script
            .upgrade()
            .to_server("STARTTLS⏎")
            .server(&format!("{code} no⏎"));
        script
            .to_client(&format!(
                "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS was refused with {code}⏎"
            ))
            .to_server("QUIT⏎")
            .events(&["host fault"])
            .over(false);
    }
}

#[test]
fn bytes_behind_the_reply_to_starttls_end_the_session() {
    for behind in ["250 evil⏎", "2", "\r"] {
        let mut script = asked(config(), EHLO);
        script.upgrade().server(&format!("220 go⏎{behind}"));
        script
            .events(&["starttls-response-injection"])
            .to_server("STARTTLS⏎");
        assert_eq!(script.codes(), [421]);
        script.over(true);
    }
    let mut script = asked(config(), EHLO);
    script.upgrade().server("220 go⏎").server("250 evil⏎");
    script
        .events(&["upgrade Server", "starttls-response-injection"])
        .over(true);
}

#[test]
fn bytes_in_front_of_the_reply_to_starttls_end_the_session() {
    let mut script = asked(config(), EHLO);
    script.server("220 ").upgrade();
    script
        .events(&["starttls-response-injection"])
        .to_server("")
        .over(true);
    let mut script = introduced(config(), &format!("{EHLO}220 go⏎"));
    script.events(&["unsolicited-reply"]).over(true);
}

#[test]
fn a_failed_handshake_is_a_421_and_nothing_follows_it() {
    let mut script = asked(config(), EHLO);
    script.upgrade().to_server("STARTTLS⏎").server("220 go⏎");
    script.input(Input::Upgraded(Side::Server, Err(policy(550))));
    script
        .to_client("421 4.7.5 policy⏎")
        .to_server("")
        .over(true);

    let mut script = asked(config(), EHLO);
    script.upgrade().to_server("STARTTLS⏎").server("220 go⏎");
    script.input(Input::Closed(Side::Server));
    assert_eq!(script.codes(), [421]);
    script.to_server("").over(true);
}

#[test]
fn ehlo_over_tls_must_be_answered_and_offer_what_was_promised() {
    for ehlo in [
        "500 no⏎",
        "450 no⏎",
        "421 no⏎",
        "250 mx⏎",
        "250-mx⏎250 SIZE⏎",
    ] {
        let mut script = upgraded(config(), ehlo);
        assert_eq!(script.codes(), [421], "{ehlo}");
        script.to_server("").over(true);
    }
    let mut script = upgraded(config(), "250-mx⏎250-SIZE 9⏎250 DSN⏎");
    script
        .events(&["ask d.example"])
        .authorised()
        .to_server("MAIL FROM:<a@b> SIZE=5⏎")
        .server("250 ok⏎")
        .to_server("RCPT TO:<u@d.example>⏎");

    let mut script = asked(config(), EHLO);
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.input(Input::Closed(Side::Server));
    assert_eq!(script.codes(), [421]);
}

#[test]
fn a_refused_recipient_is_refused_alone_and_a_421_ends_the_session() {
    let mut script = upgraded(config(), SECURE_EHLO);
    script
        .refused(451)
        .to_client("451 4.7.5 policy⏎")
        .to_server("");
    script.client("RCPT TO:<v@e.example>⏎");
    script
        .events(&["ask d.example", "ask e.example"])
        .authorised()
        .to_server("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<v@e.example>⏎");

    let mut script = upgraded(config(), SECURE_EHLO);
    script
        .refused(421)
        .to_client("421 4.7.5 policy⏎")
        .to_server("QUIT⏎")
        .over(false);
}

#[test]
fn each_recipient_is_judged_for_its_own_domain_in_its_own_slot() {
    let mut script = envelope();
    script.client("RCPT TO:<s@slow.example>⏎RCPT TO:<b@bad.example>⏎RCPT TO:<k@d.example>⏎DATA⏎");
    script.events(&["ask slow.example"]).authorised();
    script.events(&["ask bad.example"]).refused(451);
    script.events(&["ask d.example"]).authorised();
    script
        .to_server("RCPT TO:<s@slow.example>⏎RCPT TO:<k@d.example>⏎")
        .to_client("");
    script
        .server("250 s⏎250 k⏎")
        .to_server("DATA⏎")
        .server("354 go⏎");
    script.to_client("250 s⏎451 4.7.5 policy⏎250 k⏎354 go⏎");
}

#[test]
fn every_transaction_is_held_and_judged_anew() {
    let mut script = envelope();
    script.client("RSET⏎").to_server("RSET⏎").server("250 ok⏎");
    script
        .client("MAIL FROM:<c@d>⏎RCPT TO:<y@y.example>⏎")
        .to_client("250 ok⏎250 2.1.0 sender noted⏎")
        .to_server("");
    script.events(&["ask y.example"]).refused(451);
    script
        .client("RCPT TO:<x@d.example>⏎")
        .to_client("451 4.7.5 policy⏎");
    script
        .events(&["ask d.example"])
        .authorised()
        .to_server("MAIL FROM:<c@d>⏎RCPT TO:<x@d.example>⏎");
}

#[test]
fn the_refusal_of_a_held_mail_answers_its_recipients() {
    let mut script = upgraded(config(), SECURE_EHLO);
    script
        .authorised()
        .client("RCPT TO:<v@d.example>⏎")
        .authorised();
    script.to_server("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎RCPT TO:<v@d.example>⏎");
    script
        .server("552 5.3.4 too big⏎503 need MAIL⏎250 whatever⏎")
        .to_client("552 5.3.4 too big⏎552 5.3.4 too big⏎");
    script
        .client("RCPT TO:<w@d.example>⏎")
        .to_client("552 5.3.4 too big⏎")
        .to_server("");
    script
        .client("DATA⏎")
        .to_client("554 5.5.1 no valid recipients⏎")
        .to_server("RSET⏎");
}

#[test]
fn without_pipelining_a_refused_mail_spares_the_server_its_recipients() {
    let mut script = upgraded(config(), "250-mx⏎250-SIZE 9⏎250 DSN⏎");
    script.authorised().to_server("MAIL FROM:<a@b> SIZE=5⏎");
    script.server("451 no⏎").to_client("451 no⏎").to_server("");
}

#[test]
fn without_pipelining_there_is_one_outstanding_command() {
    let mut script = upgraded(config(), "250-mx⏎250-SIZE 9⏎250 DSN⏎");
    script.events(&["ask d.example"]).authorised();
    script.client("RCPT TO:<v@d.example>⏎NOOP⏎").authorised();
    script.to_server("MAIL FROM:<a@b> SIZE=5⏎");
    script.server("250 1⏎").to_server("RCPT TO:<u@d.example>⏎");
    script.server("250 2⏎").to_server("RCPT TO:<v@d.example>⏎");
    script.server("250 3⏎").to_server("NOOP⏎");
    script.server("250 4⏎").to_client("250 2⏎250 3⏎250 4⏎");
}

#[test]
fn helo_is_answered_in_one_line_and_offers_nothing() {
    let mut script = greeted(config());
    script
        .client("HELO box⏎")
        .to_server("EHLO box⏎")
        .server(EHLO);
    script.to_client("250 proxy.example⏎");
    script.client("MAIL FROM:<a@b> SIZE=5⏎");
    assert_eq!(script.codes(), [555]);
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎");
    script.upgrade().to_server("STARTTLS⏎").server("220 go⏎");
    script.upgraded(Side::Server).to_server("EHLO box⏎");
}

#[test]
fn verbs_that_were_not_offered_are_refused_and_not_forwarded() {
    for (line, code) in [
        ("STARTTLS", 502),
        ("AUTH PLAIN AGEAYg==", 502),
        ("XCLIENT ADDR=127.0.0.1", 502),
        ("XEXCH50 1 2", 502),
        ("ETRN x", 502),
        ("BURL x", 502),
        ("EXPN list", 502),
        ("VRFY a@b", 252),
        ("HELP", 214),
        ("FOO", 500),
        ("MAIL FROM:<a@b> REQUIRETLS", 555),
        ("NOOP secret", 250),
    ] {
        let mut script = envelope();
        script.client(&format!("{line}⏎"));
        assert_eq!(script.codes(), [code], "{line}");
        script.to_server("").client("NOOP⏎").to_server("NOOP⏎");
    }
}

#[test]
fn a_transaction_needs_ehlo_first() {
    let mut script = greeted(config());
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎NOOP⏎RSET⏎HELP⏎");
    assert_eq!(script.codes(), [503, 503, 250, 250, 214]);
    script.client("DATA⏎");
    assert_eq!(script.codes(), [503]);
    script.client("BDAT 5⏎QUIT⏎");
    assert_eq!(script.codes(), [521]);
    script.to_server("").over(true);
}

#[test]
fn ehlo_again_at_the_gate_is_answered_here_and_the_last_name_counts() {
    let mut script = introduced(config(), EHLO);
    script.to_client(SHOWN);
    script
        .client("MAIL FROM:<a@b>⏎EHLO other⏎RCPT TO:<u@d>⏎")
        .to_server("");
    script.to_client(&format!(
        "250 2.1.0 sender noted⏎{SHOWN}503 5.5.1 need MAIL before RCPT⏎"
    ));
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎").upgrade();
    script.server("220 go⏎").upgraded(Side::Server);
    script.to_server("STARTTLS⏎EHLO other⏎");
}

#[test]
fn ehlo_again_over_tls_goes_to_the_server_and_ends_the_transaction() {
    let mut script = envelope();
    script
        .client("EHLO other⏎DATA⏎")
        .to_server("EHLO other⏎")
        .server("250-mx⏎250-FOO⏎250 DSN⏎")
        .to_client("250-mx⏎250 DSN⏎503 5.5.1 need MAIL and RCPT before DATA⏎");
}

#[test]
fn a_known_peer_is_upgraded_at_ehlo_and_shown_as_it_is() {
    let mut script = introduced(known(), EHLO);
    script.events(&["ask peer"]).to_client("").upgrade();
    script.to_server("STARTTLS⏎").server("220 go⏎");
    script.upgraded(Side::Server).to_server("EHLO box⏎");
    script.server(SECURE_EHLO).to_client("");
    script
        .events(&["upgrade Server", "ask peer"])
        .authorised()
        .to_client("250-mx⏎250-PIPELINING⏎250-SIZE 9⏎250-AUTH PLAIN⏎250 DSN⏎");
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎")
        .to_server("")
        .events(&["ask d.example"]);
}

#[test]
fn a_known_peer_that_is_refused_gets_no_helo_from_the_client() {
    let mut script = introduced(known(), EHLO);
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.server(SECURE_EHLO).refused(550);
    script.to_client("421 4.7.5 policy⏎").over(false);
}

#[test]
fn auth_passes_to_a_known_peer_and_its_lines_are_no_commands() {
    let mut script = introduced(known(), EHLO);
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.server(SECURE_EHLO).authorised().codes();
    script.to_server("STARTTLS⏎EHLO box⏎");
    script.client("AUTH NTLM⏎");
    assert_eq!(script.codes(), [504]);
    script
        .client("AUTH PLAIN⏎RCPT TO:<x@y>⏎")
        .to_server("AUTH PLAIN⏎");
    script
        .server("334 ⏎")
        .to_client("334 ⏎")
        .to_server("RCPT TO:<x@y>⏎");
    script.server("334 more⏎").client("*⏎").to_server("*⏎");
    script
        .server("501 cancelled⏎")
        .to_client("334 more⏎501 cancelled⏎");
    script.client("QUIT⏎").to_server("QUIT⏎");
}

#[test]
fn implicit_tls_comes_before_the_greeting_and_the_name() {
    let config = OutboundConfig {
        implicit_tls: true,
        ..known()
    };
    let mut script = Script::new(Outbound::new(config));
    script.connected().events(&["connect", "upgrade Server"]);
    script.upgraded(Side::Server).to_client("");
    script
        .server("220 mx⏎")
        .to_client("220 proxy.example ESMTP⏎");
    script
        .client("EHLO box⏎")
        .to_server("")
        .events(&["ask peer"]);
    script.authorised().to_server("EHLO box⏎");
    script.server(NO_TLS_EHLO).to_client(NO_TLS_EHLO);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎")
        .events(&["ask d.example"]);
    script
        .authorised()
        .to_server("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎");
}

#[test]
fn an_entry_for_plaintext_opens_the_link_as_it_is() {
    for ehlo in [EHLO, NO_TLS_EHLO] {
        let mut script = asked(plaintext_possible(), ehlo);
        script
            .input(exempted())
            .to_server("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎")
            .server("250 ok⏎550 no⏎")
            .to_client("550 no⏎");
    }
}

#[test]
fn a_recipient_that_needs_tls_is_refused_alone_once_plaintext_has_begun() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(exempted()).server("250 ok⏎250 ok⏎").codes();
    script.to_server("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎");
    script.client("RCPT TO:<v@e.example>⏎").upgrade();
    script
        .to_client("451 4.7.5 mx[192.0.2.1]: needs TLS, and this session has begun without⏎")
        .to_server("");
    script
        .client("RCPT TO:<w@f.example>⏎")
        .input(or_plaintext())
        .to_server("RCPT TO:<w@f.example>⏎");
}

#[test]
fn without_starttls_mail_that_needs_it_is_refused_at_the_recipient() {
    let mut script = asked(plaintext_possible(), NO_TLS_EHLO);
    script
        .upgrade()
        .to_client(
            "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS is not offered⏎",
        )
        .to_server("QUIT⏎")
        .events(&["host fault"]);
}

#[test]
fn opportunistic_tls_falls_back_as_its_entry_allows() {
    const ENVELOPE: &str = "MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎";
    // Not offered.
    let mut script = asked(plaintext_possible(), NO_TLS_EHLO);
    script.input(or_plaintext()).to_server(ENVELOPE);
    // Refused.
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).to_server("STARTTLS⏎");
    script.server("454 no⏎").to_server(ENVELOPE);
    // Failed: over a new connection.
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server("220 go⏎");
    script.input(Input::Upgraded(Side::Server, Err(policy(421))));
    script
        .events(&["upgrade Server", "connect"])
        .to_server("STARTTLS⏎")
        .connected()
        .server("220 mx⏎")
        .to_server("EHLO box⏎")
        .server(EHLO)
        .to_server(ENVELOPE);
    // It succeeds, but for an injection, which is no failure of TLS.
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server("220 go⏎250 evil⏎");
    assert_eq!(script.codes(), [421]);
    script.over(true);
}

#[test]
fn the_new_connection_must_offer_what_was_promised() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server("220 go⏎");
    script.input(Input::Upgraded(Side::Server, Err(policy(421))));
    script.connected().server("220 mx⏎").server("250 mx⏎");
    assert_eq!(script.codes(), [421]);
    script.over(true);
}

#[test]
fn nothing_is_authorised_without_tls() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.authorised();
    assert_eq!(script.codes(), [421]);
    script.to_server("").over(true);
}

#[test]
fn an_answer_to_no_question_does_nothing() {
    let mut script = envelope();
    script.authorised().input(exempted()).refused(421);
    script.input(Input::Recorded(Ok(Recorded::assertion())));
    script
        .upgraded(Side::Server)
        .connected()
        .to_client("")
        .to_server("");
    script.client("RCPT TO:<v@e.example>⏎").to_server("");
    script.events(&["ask e.example"]);
    let authorised = Answer::Authorised(Authorised::assertion());
    script
        .input(Input::Answer(authorised))
        .to_server("RCPT TO:<v@e.example>⏎");
}

#[test]
fn all_of_an_upgrade_is_one_unit_of_time_below_the_clients_own() {
    let mut script = asked(config(), EHLO);
    let begun = script.machine.deadline();
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script
        .server("250-mx⏎")
        .server("250-SIZE⏎")
        .server("250 DSN⏎");
    assert_eq!(script.machine.deadline(), begun);
    script.late();
    assert!(script.now < Duration::from_secs(300));
    assert_eq!(script.codes(), [421]);
}

#[test]
fn sessions_are_drained_at_the_next_reply_point() {
    let stopped = "421 4.3.2 the proxy is being stopped, try again later⏎";
    let mut script = introduced(config(), EHLO);
    script.to_client(SHOWN).input(Input::Drain);
    script.to_client(stopped).to_server("QUIT⏎").over(false);
    let mut script = asked(config(), EHLO);
    script.upgrade().input(Input::Drain).to_client(stopped);
    let mut script = Script::new(Outbound::new(config()));
    script.input(Input::Drain).to_client(stopped);
}

#[test]
fn a_server_that_goes_before_tls_is_a_421_in_our_words() {
    let lost = "421 4.4.2 mx[192.0.2.1]: connection closed⏎";
    let mut script = greeted(config());
    script
        .input(Input::Closed(Side::Server))
        .to_client(lost)
        .over(true);
    let mut script = asked(config(), EHLO);
    script.input(Input::Closed(Side::Server)).to_client(lost);
    let mut script = asked(config(), EHLO);
    script.server("421 evil⏎");
    script.to_client("421 4.4.2 mx[192.0.2.1]: closes the connection⏎");
}

#[test]
fn a_client_that_goes_ends_the_session() {
    let mut script = Script::new(Outbound::new(config()));
    script.input(Input::Closed(Side::Client)).over(false);
    let mut script = asked(config(), EHLO);
    script.input(Input::Closed(Side::Client)).refused(451);
    script.to_server("QUIT⏎").over(false);
}
