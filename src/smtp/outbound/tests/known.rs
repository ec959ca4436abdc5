//! Peers that are known at connect time.

use super::*;

fn known() -> OutboundConfig {
    OutboundConfig {
        known_at_connect: true,
        auth: true,
        ..config()
    }
}

#[test]
fn a_known_peer_is_upgraded_at_ehlo_and_shown_as_it_is() {
    let mut script = introduced(known(), EHLO);
    script.events(&["ask peer"]).client_got("").upgrade();
    script.server_got("STARTTLS⏎").server("220 go⏎");
    script.upgraded(Side::Server).server_got("").client_got("");
    script
        .events(&["upgrade Server", "ask peer"])
        .authorised()
        .server_got("EHLO box⏎")
        .client_got("")
        .server(SECURE_EHLO)
        .client_got("250-mx⏎250-PIPELINING⏎250-SIZE 9⏎250-AUTH PLAIN⏎250 DSN⏎");
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎")
        .server_got("")
        .events(&["ask d.example"]);
}

#[test]
fn a_known_peer_that_is_refused_gets_no_helo_from_the_client() {
    let mut script = introduced(known(), EHLO);
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.refused(550).server_got("STARTTLS⏎QUIT⏎");
    script.client_got("421 4.7.5 policy⏎").over(false);
}

#[test]
fn auth_passes_to_a_known_peer_and_its_lines_are_no_commands() {
    let mut script = introduced(known(), EHLO);
    script.upgrade().server("220 go⏎").upgraded(Side::Server);
    script.authorised().server(SECURE_EHLO).codes();
    script.server_got("STARTTLS⏎EHLO box⏎");
    script.client("AUTH NTLM⏎");
    assert_eq!(script.codes(), [504]);
    script
        .client("AUTH PLAIN⏎RCPT TO:<x@y>⏎")
        .server_got("AUTH PLAIN⏎");
    script
        .server("334 ⏎")
        .client_got("334 ⏎")
        .server_got("RCPT TO:<x@y>⏎");
    script.server("334 more⏎").client("*⏎").server_got("*⏎");
    script
        .server("501 cancelled⏎")
        .client_got("334 more⏎501 cancelled⏎");
    script.client("QUIT⏎").server_got("QUIT⏎");
}

#[test]
fn implicit_tls_comes_before_the_greeting_and_the_name() {
    let config = OutboundConfig {
        implicit_tls: true,
        ..known()
    };
    let mut script = Script::new(Outbound::new(config));
    script.connected().events(&["connect", "upgrade Server"]);
    script.upgraded(Side::Server).client_got("");
    script
        .server("220 mx⏎")
        .client_got("220 proxy.example ESMTP⏎");
    script
        .client("EHLO box⏎")
        .server_got("")
        .events(&["ask peer"]);
    script.authorised().server_got("EHLO box⏎");
    script.server(NO_TLS_EHLO).client_got(NO_TLS_EHLO);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎")
        .events(&["ask d.example"]);
    script
        .authorised()
        .server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎");
}
