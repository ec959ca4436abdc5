mod known;
mod plaintext;

use super::*;
use crate::smtp::{
    Authorised, Input, Machine, Recorded,
    script::{Script, refusal as policy},
};

fn config() -> OutboundConfig {
    OutboundConfig {
        hostname: "proxy.example".to_owned(),
        server: "mx[192.0.2.1]".to_owned(),
        known_at_connect: false,
        auth: false,
        login: false,
        plaintext_possible: false,
        implicit_tls: false,
        hidden: Vec::new(),
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
const SHOWN: &str = "250-proxy.example⏎250-PIPELINING⏎250-SIZE⏎250-8BITMIME⏎250-SMTPUTF8⏎250 DSN⏎";
const NO_TLS_EHLO: &str = "250-mx⏎250-PIPELINING⏎250-SIZE 9⏎250 DSN⏎";

/// A session that was greeted.
fn greeted(config: OutboundConfig) -> Script<Outbound> {
    let mut script = Script::new(Outbound::new(config));
    script.events(&["connect"]).connected().client_got("");
    script
        .server("220 evil <script>⏎")
        .client_got("220 proxy.example ESMTP⏎");
    script
}

/// A session whose client and server have exchanged EHLO.
fn introduced(config: OutboundConfig, ehlo: &str) -> Script<Outbound> {
    let mut script = greeted(config);
    script
        .client("EHLO box⏎")
        .client_got("")
        .server_got("EHLO box⏎")
        .server(ehlo);
    script
}

/// A session whose first RCPT waits for the policy.
fn asked(config: OutboundConfig, ehlo: &str) -> Script<Outbound> {
    let mut script = introduced(config, ehlo);
    script.client_got(SHOWN);
    script
        .client("MAIL FROM:<a@b> SIZE=5⏎")
        .client_got("250 2.1.0 sender noted⏎")
        .client("RCPT TO:<u@d.example>⏎")
        .server_got("")
        .events(&["ask d.example"]);
    script
}

/// A session over TLS whose first RCPT waits for the policy's second answer.
fn secured() -> Script<Outbound> {
    let mut script = asked(config(), EHLO);
    script.upgrade().client_got("").server_got("STARTTLS⏎");
    script.server("220 go⏎").events(&["upgrade Server"]);
    script.upgraded(Side::Server).server_got("");
    script.events(&["ask d.example"]);
    script
}

/// A session whose first recipient was authorised, and whose server has answered EHLO.
fn authorised(secure_ehlo: &str) -> Script<Outbound> {
    let mut script = secured();
    script.authorised().server_got("EHLO box⏎");
    script.server(secure_ehlo);
    script
}

/// A session whose first recipient was accepted.
fn envelope() -> Script<Outbound> {
    let mut script = authorised(SECURE_EHLO);
    script
        .server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎")
        .server("250 ok⏎250 2.1.5 fine⏎")
        .client_got("250 2.1.5 fine⏎");
    script
}

fn exempted() -> Input {
    Input::Answer(Answer::Exempted(Exempted::assertion()))
}

#[test]
fn a_message_passes_once_its_recipient_is_authorised() {
    let mut script = envelope();
    script.client("DATA⏎").server_got("DATA⏎").client_got("");
    script
        .server("354 go⏎")
        .client_got("354 go⏎")
        .events(&["message"]);
    script
        .client("Subject: x⏎⏎..text⏎.⏎")
        .server_got("Subject: x⏎⏎..text⏎.⏎")
        .client_got("");
    assert_eq!(script.content, b"Subject: x\r\n\r\n..text\r\n");
    script
        .server("250 2.0.0 queued⏎")
        .client_got("")
        .events(&["record"]);
    assert_eq!(script.records[0].octets, 22);
    assert_eq!(script.records[0].sender, b"a@b");
    let to = script.records[0].recipients.get(0).expect("a recipient");
    assert_eq!(to.path(), b"u@d.example");
    let reply = script.records[0].reply.as_deref();
    assert_eq!(reply, Some(&b"250 2.0.0 queued\r\n"[..]));
    script.recorded().client_got("250 2.0.0 queued⏎");
    script.client("QUIT⏎").server_got("QUIT⏎");
    script
        .server("221 bye⏎")
        .client_got("221 bye⏎")
        .server_got("")
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
    script.client_got("421 4.7.5 policy⏎").over(true);

    let mut script = Script::new(Outbound::new(config()));
    script.connected().late();
    assert!(script.now < Duration::from_secs(300));
    script
        .client_got("421 4.4.2 mx[192.0.2.1]: no reply in time⏎")
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
            .client_got(
                "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS is not offered⏎",
            )
            .server_got("QUIT⏎")
            .events(&["connect", "host fault"][1..])
            .over(false);
    }
    let mut script = introduced(config(), "250-mx⏎250-XXXXXXXA⏎250 DSN⏎");
    script.client_got(
        "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS is not offered; a device in between masks it (it shows XXXXXXXA)⏎",
    );
}

#[test]
fn a_refused_ehlo_is_a_421_without_helo() {
    for code in [220, 221, 354, 500, 501, 502, 504, 530, 550] {
        let mut script = introduced(config(), &format!("{code} evil⏎"));
        script
            .client_got(&format!(
                "421 4.4.0 mx[192.0.2.1]: EHLO was refused with {code}; its words are in the log⏎"
            ))
            .events(&[])
            .server_got("QUIT⏎");
    }
    let mut script = introduced(config(), "421 evil⏎");
    script
        .client_got("421 4.4.0 mx[192.0.2.1]: EHLO was refused with 421; its words are in the log⏎")
        .events(&[])
        .over(true);
}

#[test]
fn lower_case_starttls_counts() {
    introduced(config(), "250-mx⏎250 starttls⏎")
        .client_got("250-proxy.example⏎250-8BITMIME⏎250 SMTPUTF8⏎");
}

#[test]
fn a_refused_starttls_is_a_421() {
    for code in [454, 502, 250, 421] {
        let mut script = asked(config(), EHLO);
        script.upgrade().server_got("STARTTLS⏎");
        script.server(&format!("{code} no⏎"));
        script
            .client_got(&format!(
                "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-refused: STARTTLS was refused with {code}; its words are in the log⏎"
            ))
            .server_got("QUIT⏎")
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
            .server_got("STARTTLS⏎");
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
        .server_got("")
        .over(true);
    let mut script = introduced(config(), &format!("{EHLO}220 go⏎"));
    script.events(&["unsolicited-reply"]).over(true);
}

#[test]
fn a_failed_handshake_is_a_421_and_nothing_follows_it() {
    let mut script = asked(config(), EHLO);
    script.upgrade().server_got("STARTTLS⏎").server("220 go⏎");
    script.input(Input::Upgraded(Side::Server, Err(policy(550))));
    script
        .client_got("421 4.7.5 policy⏎")
        .server_got("")
        .over(true);

    let mut script = asked(config(), EHLO);
    script.upgrade().server_got("STARTTLS⏎").server("220 go⏎");
    script.input(Input::Closed(Side::Server));
    assert_eq!(script.codes(), [421]);
    script.server_got("").over(true);
}

#[test]
fn ehlo_over_tls_must_be_answered_and_what_is_lacking_defers_who_uses_it() {
    for ehlo in ["500 no⏎", "450 no⏎", "421 no⏎"] {
        let mut script = authorised(ehlo);
        assert_eq!(script.codes(), [421], "{ehlo}");
        script.server_got("").over(true);
    }
    let mut script = authorised("250 mx⏎");
    assert_eq!(script.codes(), [451]);
    script.server_got("");
    let mut script = authorised("250-mx⏎250-SIZE 9⏎250 DSN⏎");
    script
        .server_got("MAIL FROM:<a@b> SIZE=5⏎")
        .server("250 ok⏎")
        .server_got("RCPT TO:<u@d.example>⏎");

    let why =
        "closed the connection right after the TLS handshake, it may have rejected our certificate";
    for mut script in [secured(), authorised("")] {
        script
            .input(Input::Closed(Side::Server))
            .client_got(&format!("421 4.7.5 mx[192.0.2.1]: {why}⏎"))
            .over(true);
    }
}

#[test]
fn a_refused_recipient_is_refused_alone_and_a_421_ends_the_session() {
    let mut script = secured();
    script
        .refused(451)
        .client_got("451 4.7.5 policy⏎")
        .server_got("");
    script.client("RCPT TO:<v@e.example>⏎");
    script
        .events(&["ask e.example"])
        .authorised()
        .server_got("EHLO box⏎")
        .server(SECURE_EHLO)
        .server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<v@e.example>⏎");

    let mut script = secured();
    script
        .refused(421)
        .client_got("421 4.7.5 policy⏎")
        .server_got("QUIT⏎")
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
        .server_got("RCPT TO:<s@slow.example>⏎RCPT TO:<k@d.example>⏎DATA⏎")
        .client_got("");
    script.server("250 s⏎250 k⏎").server("354 go⏎");
    script.client_got("250 s⏎451 4.7.5 policy⏎250 k⏎354 go⏎");
}

#[test]
fn every_transaction_is_held_and_judged_anew() {
    let mut script = envelope();
    script.client("RSET⏎").server_got("RSET⏎").server("250 ok⏎");
    script
        .client("MAIL FROM:<c@d>⏎RCPT TO:<y@y.example>⏎")
        .client_got("250 ok⏎250 2.1.0 sender noted⏎")
        .server_got("");
    script.events(&["ask y.example"]).refused(451);
    script
        .client("RCPT TO:<x@d.example>⏎")
        .client_got("451 4.7.5 policy⏎");
    script
        .events(&["ask d.example"])
        .authorised()
        .server_got("MAIL FROM:<c@d>⏎RCPT TO:<x@d.example>⏎");
}

#[test]
fn the_refusal_of_a_held_mail_answers_its_recipients() {
    let mut script = authorised(SECURE_EHLO);
    script.client("RCPT TO:<v@d.example>⏎").authorised();
    script.server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎RCPT TO:<v@d.example>⏎");
    script
        .server("552 5.3.4 too big⏎503 need MAIL⏎250 whatever⏎")
        .client_got("552 5.3.4 too big⏎552 5.3.4 too big⏎");
    script
        .client("RCPT TO:<w@d.example>⏎")
        .client_got("")
        .authorised()
        .client_got("552 5.3.4 too big⏎")
        .server_got("");
    script
        .client("DATA⏎")
        .client_got("554 5.5.1 no valid recipients⏎")
        .server_got("RSET⏎");
}

#[test]
fn without_pipelining_a_refused_mail_spares_the_server_its_recipients() {
    let mut script = authorised("250-mx⏎250-SIZE 9⏎250 DSN⏎");
    script.server_got("MAIL FROM:<a@b> SIZE=5⏎");
    script
        .server("451 no⏎")
        .client_got("451 no⏎")
        .server_got("");
}

#[test]
fn without_pipelining_there_is_one_outstanding_command() {
    let mut script = authorised("250-mx⏎250-SIZE 9⏎250 DSN⏎");
    script.client("RCPT TO:<v@d.example>⏎NOOP⏎").authorised();
    script.server_got("MAIL FROM:<a@b> SIZE=5⏎");
    script.server("250 1⏎").server_got("RCPT TO:<u@d.example>⏎");
    script.server("250 2⏎").server_got("RCPT TO:<v@d.example>⏎");
    script.server("250 3⏎").server_got("NOOP⏎");
    script.server("250 4⏎").client_got("250 2⏎250 3⏎250 4⏎");
}

#[test]
fn helo_is_answered_in_one_line_and_offers_nothing() {
    let mut script = greeted(config());
    script
        .client("HELO box⏎")
        .server_got("EHLO box⏎")
        .server(EHLO);
    script.client_got("250 proxy.example⏎");
    script.client("MAIL FROM:<a@b> SIZE=5⏎");
    assert_eq!(script.codes(), [555]);
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎");
    script.upgrade().server_got("STARTTLS⏎").server("220 go⏎");
    script.upgraded(Side::Server).authorised();
    script.server_got("EHLO box⏎");
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
        script.server_got("").client("NOOP⏎").server_got("NOOP⏎");
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
    script.server_got("").over(true);
}

#[test]
fn ehlo_again_at_the_gate_is_answered_here_and_the_last_name_counts() {
    let mut script = introduced(config(), EHLO);
    script.client_got(SHOWN);
    script
        .client("MAIL FROM:<a@b>⏎EHLO other⏎RCPT TO:<u@d>⏎")
        .server_got("");
    script.client_got(&format!(
        "250 2.1.0 sender noted⏎{SHOWN}503 5.5.1 need MAIL before RCPT⏎"
    ));
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎").upgrade();
    script.server("220 go⏎").upgraded(Side::Server);
    script.authorised().server_got("STARTTLS⏎EHLO other⏎");
}

#[test]
fn ehlo_again_over_tls_goes_to_the_server_and_ends_the_transaction() {
    let mut script = envelope();
    script
        .client("EHLO other⏎DATA⏎")
        .server_got("EHLO other⏎")
        .server("250-mx⏎250-FOO⏎250 DSN⏎")
        .client_got("250-proxy.example⏎250-8BITMIME⏎250-SMTPUTF8⏎250 DSN⏎503 5.5.1 need MAIL and RCPT before DATA⏎");
}

#[test]
fn nothing_is_authorised_without_tls() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.authorised();
    assert_eq!(script.codes(), [421]);
    script.server_got("").over(true);
}

#[test]
fn an_answer_to_no_question_does_nothing() {
    let mut script = envelope();
    script.authorised().input(exempted()).refused(421);
    script.input(Input::Recorded(Ok(Recorded::assertion())));
    script
        .upgraded(Side::Server)
        .connected()
        .client_got("")
        .server_got("");
    script.client("RCPT TO:<v@e.example>⏎").server_got("");
    script.events(&["ask e.example"]);
    let authorised = Answer::Authorised(Authorised::assertion());
    script
        .input(Input::Answer(authorised))
        .server_got("RCPT TO:<v@e.example>⏎");
}

#[test]
fn all_of_an_upgrade_is_one_unit_of_time_below_the_clients_own() {
    let mut script = asked(config(), EHLO);
    let begun = script.machine.deadline();
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.authorised().server("250-mx⏎").server("250-SIZE⏎");
    assert_eq!(script.machine.deadline(), begun);
    script.late();
    assert!(script.now < Duration::from_secs(300));
    assert_eq!(script.codes(), [421]);
}

#[test]
fn sessions_are_drained_at_the_next_reply_point() {
    let stopped = "421 4.3.2 the proxy is being stopped, try again later⏎";
    let mut script = introduced(config(), EHLO);
    script.client_got(SHOWN).input(Input::Drain);
    script.client_got(stopped).server_got("QUIT⏎").over(false);
    let mut script = asked(config(), EHLO);
    script.upgrade().input(Input::Drain).client_got(stopped);
    let mut script = Script::new(Outbound::new(config()));
    script.input(Input::Drain).client_got(stopped);
}

#[test]
fn a_server_that_goes_before_tls_is_a_421_in_our_words() {
    let lost = "421 4.4.2 mx[192.0.2.1]: connection closed⏎";
    let mut script = greeted(config());
    script
        .input(Input::Closed(Side::Server))
        .client_got(lost)
        .over(true);
    let mut script = asked(config(), EHLO);
    script.input(Input::Closed(Side::Server)).client_got(lost);
    let mut script = asked(config(), EHLO);
    script.server("421 evil⏎");
    script.client_got("421 4.4.2 mx[192.0.2.1]: closes the connection⏎");
}

#[test]
fn a_client_that_goes_ends_the_session() {
    let mut script = Script::new(Outbound::new(config()));
    script.input(Input::Closed(Side::Client)).over(false);
    let mut script = asked(config(), EHLO);
    script.input(Input::Closed(Side::Client)).refused(451);
    script.server_got("QUIT⏎").over(false);
}

#[test]
fn an_upgrade_that_is_under_way_takes_no_answer() {
    let mut script = asked(config(), EHLO);
    script.upgrade().refused(550).upgrade().authorised();
    script
        .input(exempted())
        .client_got("")
        .server_got("STARTTLS⏎");
    script.server("220 go⏎").refused(550).authorised();
    script.upgraded(Side::Server).client_got("").authorised();
    script.refused(550).client_got("");
    script.server_got("EHLO box⏎").server(SECURE_EHLO);
    script.server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎");
}

#[test]
fn the_reply_to_mail_may_wait_for_the_rest_of_its_group_and_for_nothing_else() {
    let mut script = envelope();
    script.client("RSET⏎").server_got("RSET⏎").server("250 ok⏎");
    script.client_got("250 ok⏎");
    assert!(!script.machine.holds_replies(), "nothing is awaited");
    // The policy may take its time.
    script.client("MAIL FROM:<c@d>⏎RCPT TO:<b@bad.example>⏎RCPT TO:<x@d.example>⏎DATA⏎");
    assert!(!script.machine.holds_replies(), "a question");
    script.refused(451);
    assert!(!script.machine.holds_replies(), "another question");
    script.authorised();
    script.server_got("MAIL FROM:<c@d>⏎RCPT TO:<x@d.example>⏎DATA⏎");
    script.client_got("250 2.1.0 sender noted⏎451 4.7.5 policy⏎");
    assert!(script.machine.holds_replies());
    // The first reply of the server takes all along, also one that the client does not get.
    script.server("250 held⏎").client_got("");
    assert!(!script.machine.holds_replies());
    script.server("250 x⏎").server("354 go⏎");
    assert!(!script.machine.holds_replies());
}

#[test]
fn no_reply_waits_for_a_reset_of_ours() {
    let mut script = envelope();
    script.client("RSET⏎").server("250 ok⏎");
    script.client("MAIL FROM:<c@d>⏎RCPT TO:<x@d.example>⏎DATA⏎");
    script.authorised().server("250 held⏎550 x⏎354 go⏎").codes();
    // The dot and RSET are awaited, and the client is not to wait for their replies.
    assert!(!script.machine.holds_replies());
}

#[test]
fn envelope_and_data_go_in_one_group_behind_the_protected_ehlo() {
    let mut script = introduced(config(), EHLO);
    script.client("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎DATA⏎");
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.authorised().server_got("STARTTLS⏎EHLO box⏎");
    script
        .server(SECURE_EHLO)
        .server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎DATA⏎");
}
