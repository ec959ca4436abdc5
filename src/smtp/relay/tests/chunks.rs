//! BDAT (RFC 3030).

use super::*;

#[test]
fn chunks_pass_as_they_are_and_each_has_its_reply() {
    let mut script = envelope(ALL);
    script.client("BDAT 6⏎QUIT⏎BDAT 05 last⏎\r\n.\r\n");
    script.server_got("BDAT 6⏎QUIT⏎BDAT 05 last⏎⏎.⏎");
    assert_eq!(script.content, b"QUIT\r\n\r\n.\r\n");
    script.server("250 6 octets⏎").client_got("250 6 octets⏎");
    script.server("250 11 octets⏎").client_got("").recorded();
    script.client_got("250 11 octets⏎");
    assert_eq!(script.records[0].octets, 11);
    script.client("BDAT 1 LAST⏎x");
    assert_eq!(script.codes(), [503]);
    script.client("NOOP⏎").server_got("NOOP⏎");
}

#[test]
fn chunks_are_the_same_wherever_they_are_cut() {
    let whole = "BDAT 6⏎QUIT⏎BDAT 3 LAST⏎abcNOOP⏎".replace('⏎', "\r\n");
    for cut in 0..whole.len() {
        let mut script = envelope(ALL);
        script.client(&whole[..cut]).client(&whole[cut..]);
        script
            .server_got("BDAT 6⏎QUIT⏎BDAT 3 LAST⏎abc")
            .server("250 1⏎250 2⏎");
        script
            .recorded()
            .server_got("NOOP⏎")
            .client_got("250 1⏎250 2⏎");
        assert_eq!(script.content, b"QUIT\r\nabc");
    }
}

#[test]
fn without_pipelining_a_chunk_waits_for_the_one_before() {
    let mut script = envelope(SERIAL);
    script
        .client("BDAT 1⏎aBDAT 1 LAST⏎b")
        .server_got("BDAT 1⏎a");
    script.server("250 1⏎").server_got("BDAT 1 LAST⏎b");
}

#[test]
fn a_chunk_that_cannot_be_counted_ends_the_session() {
    let long = format!("BDAT {}⏎", "9".repeat(40));
    for line in [
        "BDAT⏎",
        "BDAT -1⏎",
        "BDAT +5⏎",
        "BDAT 0x10⏎",
        "BDAT 1e3⏎",
        "BDAT 18446744073709551616⏎",
        &long,
        "BDAT 5 LAST x⏎",
        "BDAT 5LAST⏎",
        "BDAT 5 FIRST⏎",
    ] {
        let mut script = envelope(ALL);
        script.client(&format!("{line}RSET⏎")).server_got("");
        assert_eq!(script.codes(), [521], "{line}");
        script.over(true);
    }
    let mut script = envelope("250-PIPELINING⏎");
    script
        .client("BDAT 14⏎RSET⏎MAIL FROM:<a@b>⏎")
        .server_got("");
    script
        .client_got("521 5.5.1 BDAT was not offered in reply to EHLO⏎")
        .over(true);
}

#[test]
fn a_refused_chunk_is_swallowed_exactly() {
    let mut script = open(ALL);
    script
        .client("BDAT 6⏎QUIT⏎NOOP⏎BDAT 1 LAST⏎xNOOP⏎")
        .server("250 n⏎250 n⏎");
    assert_eq!(script.codes(), [503, 250, 503, 250]);
    script.server_got("NOOP⏎NOOP⏎");

    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 6⏎QUIT⏎BDAT 1 LAST⏎xNOOP⏎")
        .authorised();
    script.server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 6⏎QUIT⏎BDAT 1 LAST⏎x");
    script.server("250 1⏎550 2⏎250 3⏎250 4⏎").recorded();
    script.server_got("NOOP⏎").server("250 noop⏎");
    assert_eq!(script.codes(), [250, 550, 554, 554, 250]);
    assert_eq!(script.records[0].reply.as_deref(), Some(&b"550 2\r\n"[..]));
    assert!(script.records[0].recipients.is_empty());

    // Without pipelining the chunk waits, and stays here.
    let mut script = open(SERIAL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 6⏎QUIT⏎BDAT 1 LAST⏎xNOOP⏎")
        .authorised();
    script
        .server("250 1⏎")
        .server("550 2⏎")
        .server("250 reset⏎");
    script.server("250 noop⏎");
    assert_eq!(script.codes(), [250, 550, 554, 554, 250]);
    script.server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎RSET⏎NOOP⏎");
    assert_eq!(script.records, []);
}

#[test]
fn a_chunk_behind_recipients_that_are_all_refused_stays_here() {
    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 1⏎a")
        .authorised();
    script.server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 1⏎a");
    script.server("250 1⏎550 2⏎").codes();
    // Nobody can be reached any more. The reply to the first chunk is outstanding, and the message must be known until it is here.
    script.client("BDAT 1⏎bBDAT 1 LAST⏎c").client_got("");
    script.server_got("").server("250 3⏎");
    script.server_got("RSET⏎").server("250 reset⏎");
    assert_eq!(script.codes(), [554, 554, 554]);
    assert_eq!(script.records[0].octets, 1);
    assert_eq!(script.records[0].reply.as_deref(), Some(&b"550 2\r\n"[..]));
}

#[test]
fn chunks_behind_a_refused_one_get_their_own_refusal() {
    let mut script = envelope(ALL);
    script
        .client("BDAT 1⏎aBDAT 1⏎bBDAT 1 LAST⏎c")
        .server("552 full⏎503 x⏎503 y⏎");
    script.recorded().client_got("552 full⏎503 x⏎503 y⏎");
    script.server_got("BDAT 1⏎aBDAT 1⏎bBDAT 1 LAST⏎c");
    assert_eq!(script.records[0].reply.as_deref(), Some(&b"503 y\r\n"[..]));

    let mut script = envelope(ALL);
    script
        .client("BDAT 1⏎a")
        .server("552 full⏎")
        .client("BDAT 1⏎bBDAT 1 LAST⏎c");
    script
        .client_got("552 full⏎552 full⏎552 full⏎")
        .server_got("BDAT 1⏎aRSET⏎");
    assert_eq!(
        script.records[0].reply.as_deref(),
        Some(&b"552 full\r\n"[..])
    );
}

#[test]
fn an_empty_chunk_that_is_not_the_last_breaks_its_message() {
    let mut script = envelope(ALL);
    script.client("BDAT 0⏎BDAT 1 LAST⏎x").server_got("RSET⏎");
    assert_eq!(script.codes(), [551, 503]);
    let mut script = envelope(ALL);
    script.client(&"BDAT 0⏎".repeat(1000)).server("250 reset⏎");
    assert_eq!(script.codes().last(), Some(&421));
    let mut script = envelope(ALL);
    script
        .client("BDAT 0 LAST⏎")
        .server_got("BDAT 0 LAST⏎")
        .server("250 ok⏎");
    assert_eq!(script.records.len(), 1);
}

#[test]
fn tiny_chunks_are_limited() {
    let mut script = envelope(ALL);
    for _ in 0..1001 {
        script.client("BDAT 1⏎x").server("250 x⏎");
    }
    assert_eq!(script.codes().last(), Some(&421));
    script.machine.next_action();
    assert!(script.machine.finished());
}

#[test]
fn data_and_bdat_do_not_mix() {
    let mut script = envelope(ALL);
    script.client("BDAT 1⏎a").server("250 1⏎").client("DATA⏎");
    script.client_got("250 1⏎503 5.5.1 BDAT was used in this transaction⏎");
    script.client("RCPT TO:<v@d>⏎");
    assert_eq!(script.codes(), [503]);

    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b> BODY=BINARYMIME⏎RCPT TO:<u@d>⏎")
        .authorised();
    script.server("250 1⏎250 2⏎").client("DATA⏎");
    assert_eq!(script.codes(), [250, 250, 503]);
}

#[test]
fn a_reply_to_a_chunk_that_is_not_through_ends_the_session() {
    for last in ["", " LAST"] {
        let mut script = envelope(ALL);
        script.client(&format!("BDAT 9{last}⏎x")).server("250 ok⏎");
        script.client_got("").over(true);
        assert_eq!(script.records[0].reply, None);
    }
}

#[test]
fn half_a_chunk_is_dropped_on_both_sides() {
    for side in [Side::Client, Side::Server] {
        let mut script = envelope(ALL);
        script.client("BDAT 9 LAST⏎x").input(Input::Closed(side));
        script.client_got("").server_got("BDAT 9 LAST⏎x").over(true);
    }
}

#[test]
fn a_record_that_nothing_waits_for_is_not_taken_for_the_next() {
    let mut script = envelope(ALL);
    script
        .client("BDAT 1⏎aRSET⏎")
        .server("250 1⏎")
        .server("250 2⏎");
    script
        .client("MAIL FROM:<c@d>⏎")
        .authorised()
        .server("250 3⏎");
    script.client("RCPT TO:<v@d>⏎").server("250 4⏎");
    script.client("BDAT 1 LAST⏎b").server("250 5⏎").codes();
    assert_eq!(script.records.len(), 2);
    script.recorded().client_got("");
    script.recorded().client_got("250 5⏎");
}

#[test]
fn a_message_without_its_last_chunk_is_dropped() {
    let mut script = envelope(ALL);
    script.client("BDAT 1⏎a").server("250 1⏎").codes();
    script.input(Input::Closed(Side::Client)).over(true);
    script.server_got("BDAT 1⏎a");
    assert_eq!(script.records[0].reply, None);

    let mut script = envelope(ALL);
    script.client("BDAT 1⏎a").server("250 1⏎").codes();
    script.late().late().late();
    assert_eq!(script.codes(), [421]);
    script.server_got("BDAT 1⏎a").over(true);
}
