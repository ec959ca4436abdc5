//! Entries that allow plaintext.

use super::*;

fn or_plaintext() -> Input {
    Input::Answer(Answer::Upgrade {
        or_plaintext: Some(Exempted::assertion()),
    })
}

#[test]
fn an_entry_for_plaintext_opens_the_link_as_it_is() {
    for ehlo in [EHLO, NO_TLS_EHLO] {
        let mut script = asked(plaintext_possible(), ehlo);
        script
            .input(exempted())
            .server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎")
            .server("250 ok⏎550 no⏎")
            .client_got("550 no⏎");
    }
}

#[test]
fn a_recipient_that_needs_tls_is_refused_alone_once_plaintext_has_begun() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(exempted()).server("250 ok⏎250 ok⏎").codes();
    script.server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎");
    script.client("RCPT TO:<v@e.example>⏎").upgrade();
    script
        .client_got("451 4.7.5 mx[192.0.2.1]: needs TLS, and this session has begun without⏎")
        .server_got("");
    script
        .client("RCPT TO:<w@f.example>⏎")
        .input(or_plaintext())
        .server_got("RCPT TO:<w@f.example>⏎");
}

#[test]
fn without_starttls_mail_that_needs_it_is_refused_at_the_recipient() {
    let mut script = asked(plaintext_possible(), NO_TLS_EHLO);
    script
        .upgrade()
        .client_got(
            "421 4.7.4 mx[192.0.2.1]: no TLS: starttls-not-supported: STARTTLS is not offered⏎",
        )
        .server_got("QUIT⏎")
        .events(&["host fault"]);
}

#[test]
fn opportunistic_tls_falls_back_as_its_entry_allows() {
    const ENVELOPE: &str = "MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎";
    // STARTTLS is not offered.
    let mut script = asked(plaintext_possible(), NO_TLS_EHLO);
    script.input(or_plaintext()).server_got(ENVELOPE);
    // STARTTLS is refused.
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server_got("STARTTLS⏎");
    script.server("454 no⏎").server_got(ENVELOPE);
    // The handshake fails, so mail goes on over a new connection.
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server("220 go⏎");
    script.input(Input::Upgraded(Side::Server, Err(policy(421))));
    script
        .events(&["upgrade Server", "connect"])
        .server_got("STARTTLS⏎")
        .connected()
        .server("220 mx⏎")
        .server_got("EHLO box⏎")
        .server(EHLO)
        .server_got(ENVELOPE);
    // A reply injected behind the 220 is no failure of TLS: the session ends.
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server("220 go⏎250 evil⏎");
    assert_eq!(script.codes(), [421]);
    script.over(true);
}

#[test]
fn what_the_first_connection_offered_is_no_promise() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(or_plaintext()).server("220 go⏎");
    script.input(Input::Upgraded(Side::Server, Err(policy(421))));
    script.connected().server("220 mx⏎").server("250 mx⏎");
    script.server_got("STARTTLS⏎EHLO box⏎MAIL FROM:<a@b> SIZE=5⏎");
}

#[test]
fn nobody_is_authenticated_in_the_clear() {
    let mut script = asked(plaintext_possible(), EHLO);
    script.input(exempted()).server("250 ok⏎250 ok⏎").codes();
    script.server_got("MAIL FROM:<a@b> SIZE=5⏎RCPT TO:<u@d.example>⏎");
    script.client("RCPT TO:<v@e.example>⏎").authorised();
    script.server_got("").over(true);
    assert_eq!(script.codes(), [421]);
}
