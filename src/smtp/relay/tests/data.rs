//! DATA, final replies, and what happens when either side closes its connection.

use super::*;

#[test]
fn data_goes_with_its_group_where_the_server_pipelines() {
    const GROUP: &str = "MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎RCPT TO:<v@d>⏎DATA⏎";
    let mut script = open(ALL);
    script.client(GROUP).authorised().server_got(GROUP);
    script.server("250 1⏎550 2⏎550 3⏎").server_got("");
    script.server("554 4⏎").server_got("RSET⏎");
    script.client_got("250 1⏎550 2⏎550 3⏎554 4⏎");
    script.client("MAIL FROM:<a@b>⏎").authorised();
    script.server_got("MAIL FROM:<a@b>⏎");

    let mut script = open(SERIAL);
    script.client(GROUP).authorised();
    for (command, reply) in [
        ("MAIL FROM:<a@b>⏎", "250 1⏎"),
        ("RCPT TO:<u@d>⏎", "550 2⏎"),
        ("RCPT TO:<v@d>⏎", "550 3⏎"),
        ("RSET⏎", "250 ok⏎"),
    ] {
        script.server_got(command).server(reply);
    }
    script.client_got("250 1⏎550 2⏎550 3⏎554 5.5.1 no valid recipients⏎");
}

#[test]
fn data_goes_to_no_server_that_got_no_recipient() {
    for group in ["DATA⏎", "NOOP⏎DATA⏎", "MAIL FROM:<a@b>⏎DATA⏎"] {
        let mut script = open(ALL);
        script.client(group).authorised();
        script.server_got(&group.replace("DATA⏎", ""));
        script.server(&"250 ok⏎".repeat(group.matches('⏎').count() - 1));
        let refused = script.codes().pop();
        assert!(
            refused.is_some_and(|code| code == 503 || code == 554),
            "{group}"
        );
    }
}

#[test]
fn a_go_ahead_for_nobody_gets_one_dot_and_no_record() {
    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎")
        .authorised();
    script.server("250 1⏎550 2⏎354 go⏎");
    script.client_got("250 1⏎550 2⏎554 5.5.1 no valid recipients⏎");
    script.server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎.⏎RSET⏎");
    script.server("250 accepted⏎250 reset⏎").client_got("");
    script
        .client("DATA⏎")
        .client_got("503 5.5.1 need MAIL and RCPT before DATA⏎");
    assert_eq!(script.records, []);
    script.events(&["ask sender b"]);
}

#[test]
fn a_client_of_nobody_is_not_served_for_ever() {
    // EHLO was the first of a hundred commands that help no message along.
    let mut script = open(ALL);
    for _ in 0..100 {
        script
            .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎")
            .authorised();
        script.server("250 1⏎550 2⏎354 go⏎250 dot⏎250 reset⏎");
    }
    assert_eq!(
        script.codes().iter().filter(|code| **code == 554).count(),
        99
    );
    assert!(script.machine.finished());
    // With BDAT: its final replies are no reason to begin counting anew.
    let mut script = open(ALL);
    for _ in 0..100 {
        script
            .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 0 LAST⏎")
            .authorised();
        script.server("250 1⏎550 2⏎250 queued⏎").recorded();
    }
    assert!(script.machine.finished());
    assert_eq!(script.records.len(), 100);
}

#[test]
fn a_session_that_is_ending_takes_no_message() {
    let mut script = envelope(ALL);
    script.client("BDAT 1⏎a").server("250 1⏎");
    script.client("RSET⏎").server("250 2⏎");
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎")
        .authorised();
    script.server("250 3⏎250 4⏎").codes();
    script.input(Input::Recorded(Err(policy(421))));
    script
        .server("354 go⏎")
        .client_got("421 4.7.5 policy⏎")
        .over(true);
    assert_eq!(script.records.len(), 1);
}

#[test]
fn bytes_behind_data_that_is_under_way_end_the_session_behind_its_group() {
    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎")
        .authorised();
    script.client("S").client_got("").server("250 1⏎");
    script.client_got("250 1⏎").server("250 2⏎354 go⏎");
    script
        .client_got("250 2⏎554 5.5.0 data before 354 (RFC 5321 4.1.1.4)⏎")
        .over(true);
}

#[test]
fn data_in_front_of_the_go_ahead_ends_the_session() {
    let refused = "554 5.5.0 data before 354 (RFC 5321 4.1.1.4)⏎";
    let mut script = envelope(ALL);
    script
        .client("DATA⏎Subject: x⏎")
        .server_got("")
        .client_got(refused)
        .over(true);

    let mut script = envelope(ALL);
    script.client("DATA⏎").server_got("DATA⏎").client("S");
    script.client_got(refused).over(true);
    script.server("354 go⏎").client_got("").server_got("");

    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎S")
        .authorised();
    script
        .server("250 1⏎250 2⏎")
        .client_got(&format!("250 1⏎250 2⏎{refused}"));
    script
        .server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎")
        .over(true);
}

#[test]
fn a_refused_data_ends_the_transaction_on_both_sides() {
    let mut script = envelope(ALL);
    script
        .client("DATA⏎")
        .server("451 no⏎")
        .client_got("451 no⏎");
    script.server_got("DATA⏎RSET⏎").client("MAIL FROM:<a@b>⏎");
    script
        .server("250 ok⏎")
        .authorised()
        .server_got("MAIL FROM:<a@b>⏎")
        .client_got("");
}

#[test]
fn a_message_is_the_same_wherever_it_is_cut() {
    let whole = "a⏎.b⏎..⏎.⏎".replace('⏎', "\r\n");
    for cut in 0..whole.len() {
        let mut script = message();
        script
            .client(&whole[..cut])
            .client(&whole[cut..])
            .client("");
        script.server_got(&whole.replace("\r\n", "⏎"));
        assert_eq!(script.content, b"text\r\na\r\n.b\r\n..\r\n");
        script.server("250 ok⏎").recorded().client_got("250 ok⏎");
        assert_eq!(script.records[0].octets, 17);
    }
}

#[test]
fn smuggled_ends_of_data_reach_no_server() {
    const INNER: &str = "MAIL FROM:<s@victim>⏎RCPT TO:<x@y>⏎DATA⏎evil⏎.⏎";
    for sequence in [
        "\n.\n",
        "\n.⏎",
        "\n.\r",
        "\r.\n",
        "\r.\r",
        "\r.⏎",
        "⏎.\n",
        "⏎.\r",
        "⏎.\r⏎",
        "\r⏎.\r⏎",
        "⏎\0.⏎",
        "⏎.\0⏎",
        "\r\0\n.⏎",
        "\0⏎.⏎",
        "⏎.\r\0\n",
    ] {
        let whole = format!("x{sequence}{INNER}").replace('⏎', "\r\n");
        for cut in 0..whole.len() {
            let mut script = message();
            script.client(&whole[..cut]).client(&whole[cut..]);
            script.client_got("550 5.5.2 bare CR, bare LF or NUL in the message (RFC 5321 2.3.8)⏎");
            script
                .events(&["broken-line-in-message", "record"])
                .over(true);
            assert_eq!(script.records[0].reply, None);
            assert!(
                !script
                    .content
                    .windows(2)
                    .any(|pair| pair == b"\n." || pair == b"\r.")
            );
        }
    }
    // A NUL behind the end is a fault of the next command line.
    let mut script = message();
    script.client(".⏎\0").server("250 ok⏎").recorded();
    assert_eq!(script.codes(), [250, 554]);
}

#[test]
fn the_final_reply_waits_for_its_record() {
    let mut script = message();
    script
        .client(".⏎")
        .server("250 ok⏎")
        .client_got("")
        .events(&["record"]);
    script.input(Input::Recorded(Err(policy(421))));
    script.client_got("421 4.7.5 policy⏎");

    let mut script = message();
    script.client(".⏎").server("250 ok⏎").late();
    script.client_got("421 4.3.0 the audit record was not written in time⏎");
    script
        .input(Input::Recorded(Ok(Recorded::assertion())))
        .client_got("");
}

#[test]
fn a_second_transaction_behind_a_message_waits_for_its_final_reply() {
    let mut script = message();
    script
        .client(".⏎MAIL FROM:<c@d>⏎RCPT TO:<v@d>⏎DATA⏎")
        .server_got(".⏎");
    script
        .server("250 first⏎")
        .client_got("")
        .recorded()
        .client_got("250 first⏎");
    script.events(&["record", "ask sender d"]).authorised();
    script.server_got("MAIL FROM:<c@d>⏎RCPT TO:<v@d>⏎DATA⏎");
    script.server("250 2⏎250 3⏎").client_got("250 2⏎250 3⏎");
}

#[test]
fn quit_and_fin_behind_a_message_leave_its_final_reply() {
    let mut script = message();
    script.client(".⏎QUIT⏎").input(Input::Closed(Side::Client));
    script.server_got(".⏎").server("250 ok⏎").recorded();
    script
        .client_got("250 ok⏎")
        .server_got("QUIT⏎")
        .server("221 bye⏎");
    script.client_got("221 bye⏎").over(false);

    let mut script = message();
    script
        .client(".⏎")
        .input(Input::Closed(Side::Client))
        .server("250 ok⏎");
    script
        .recorded()
        .client_got("250 ok⏎")
        .server_got(".⏎QUIT⏎")
        .over(false);
}

#[test]
fn half_a_message_is_dropped_on_both_sides() {
    for side in [Side::Client, Side::Server] {
        let mut script = message();
        script.client("more⏎.").input(Input::Closed(side));
        script
            .client_got("")
            .server_got("more⏎")
            .events(&["record"])
            .over(true);
        assert_eq!(script.records[0].reply, None);
    }
    let mut script = message();
    script.late().late().late().client_got("").over(true);
}

#[test]
fn a_server_that_dies_in_front_of_its_final_reply_is_a_421() {
    for late in [false, true] {
        let mut script = message();
        script.client(".⏎");
        if late {
            let begun = script.now;
            script
                .late()
                .client_got("421 4.4.2 the mail server behind this proxy: no reply in time⏎");
            assert_eq!(script.now - begun, Duration::from_secs(600));
        } else {
            script.input(Input::Closed(Side::Server)).client_got(LOST);
        }
        script.events(&["record"]).over(true);
        assert_eq!(script.records[0].reply, None);
    }
}

#[test]
fn a_server_that_closes_behind_its_final_reply_does_not_hide_it() {
    let mut script = message();
    script
        .client(".⏎")
        .server("250 ok⏎421 bye⏎")
        .input(Input::Closed(Side::Server));
    script
        .client_got("")
        .recorded()
        .client_got("250 ok⏎421 bye⏎");
    assert_eq!(script.records.len(), 1);

    let mut script = message();
    script
        .client(".⏎")
        .server("421 no⏎")
        .recorded()
        .client_got("421 no⏎");
    assert_eq!(script.records[0].reply.as_deref(), Some(&b"421 no\r\n"[..]));
}

#[test]
fn a_message_in_flight_may_finish_while_draining() {
    let mut script = message();
    script.input(Input::Drain).client_got("").client("more⏎.⏎");
    script.server("250 ok⏎").recorded();
    assert_eq!(script.codes(), [250, 421]);
    script.over(false);
}

#[test]
fn a_message_that_is_cut_off_is_recorded_and_one_that_has_its_reply_is_answered() {
    let stopped = "421 4.3.2 the proxy is being stopped, try again later⏎";
    let mut script = message();
    script.input(Input::Cut).client_got("").over(true);
    assert_eq!(script.records[0].reply, None);

    let mut script = message();
    script.client(".⏎").input(Input::Cut).client_got(stopped);
    script.over(true);
    assert_eq!(script.records[0].reply, None);

    let mut script = message();
    script.client(".⏎").server("250 ok⏎").input(Input::Cut);
    script.client_got("").recorded();
    script.client_got(&format!("250 ok⏎{stopped}")).over(false);
}

#[test]
fn the_trace_line_goes_in_front_of_each_message() {
    let mut script = envelope(ALL);
    script.machine.set_trace(b"Received: x\r\n".to_vec());
    script.client("DATA⏎").server("354 go⏎").client("text⏎.⏎");
    script.server_got("DATA⏎Received: x⏎text⏎.⏎");
    script.server("250 ok⏎");
    assert_eq!(script.records[0].octets, 6);

    let mut script = envelope(ALL);
    script.machine.set_trace(b"Received: x\r\n".to_vec());
    script
        .client("BDAT 4 LAST⏎text")
        .server_got("BDAT 13⏎Received: x⏎BDAT 4 LAST⏎text");
    script.server("250 t⏎").client_got("").server("250 ok⏎");
    script.recorded().client_got("250 ok⏎");

    for answer in ["503 no⏎", "250 ok⏎"] {
        let mut script = envelope(ALL);
        script.machine.set_trace(b"Received: x\r\n".to_vec());
        script.client("BDAT 4 LAST⏎text").server("452 full⏎");
        script.server_got("BDAT 13⏎Received: x⏎BDAT 4 LAST⏎text");
        script.client_got("").server(answer).recorded();
        script.client_got("452 full⏎");
    }

    let mut script = envelope(SERIAL);
    script.machine.set_trace(b"Received: x\r\n".to_vec());
    script.client("BDAT 4⏎textBDAT 1 LAST⏎x");
    script.server_got("BDAT 13⏎Received: x⏎").server("250 t⏎");
    script.client_got("").server_got("BDAT 4⏎text");

    let mut script = envelope(SERIAL);
    script.machine.set_trace(b"Received: x\r\n".to_vec());
    script.client("BDAT 4 LAST⏎text").server("552 full⏎");
    script
        .client_got("552 full⏎")
        .server_got("BDAT 13⏎Received: x⏎RSET⏎");
}

#[test]
fn a_refused_message_is_swallowed_to_its_true_end_while_the_server_is_dropped_at_once() {
    let mut script = envelope(ALL);
    script
        .client("DATA⏎")
        .server("354 go⏎")
        .client("tex")
        .codes();
    script.client(".⏎\nmore⏎").client_got("");
    assert_eq!(script.closed, [None, Some(true)]);
    script.client("..⏎").client_got("").client(".⏎QUIT⏎");
    assert_eq!(script.codes(), [550]);
    script.over(true);
}

#[test]
fn a_message_behind_a_refused_one_is_not_waited_for_for_ever() {
    let mut script = message();
    script.client("\n").now += Duration::from_secs(200);
    let end = script.machine.deadline();
    script.client("more⏎");
    assert_eq!(script.machine.deadline(), end);
    script.late().client_got("").over(true);
}
