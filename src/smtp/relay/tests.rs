//! The shared rules, seen through the inbound machine (the outbound one adds only the held MAIL).

mod chunks;
mod data;

use crate::smtp::{
    Input, Machine, Note, Recorded, Side,
    inbound::{Inbound, InboundConfig},
    script::{Script, refusal as policy},
};
use std::time::Duration;

/// A session whose client and server know each other.
fn open(keywords: &str) -> Script<Inbound> {
    let mut script = Script::new(Inbound::new(InboundConfig {
        hostname: "proxy".to_owned(),
        tls_available: true,
        plaintext_allowed: false,
    }));
    script
        .client("STARTTLS⏎")
        .upgraded(Side::Client)
        .client("EHLO a⏎");
    script.connected().server("220 mta⏎");
    script.server(&format!("250-mta⏎{keywords}250 DSN⏎"));
    script.codes();
    script.events.clear();
    script.server_got("EHLO a⏎");
    script
}

const ALL: &str = "250-PIPELINING⏎250-CHUNKING⏎250-BINARYMIME⏎250-SMTPUTF8⏎";
const SERIAL: &str = "250-CHUNKING⏎";

/// A session with one accepted recipient.
fn envelope(keywords: &str) -> Script<Inbound> {
    let mut script = open(keywords);
    script
        .client("MAIL FROM:<a@b>⏎")
        .authorised()
        .server("250 1⏎");
    script.client("RCPT TO:<u@d>⏎").server("250 2⏎");
    script
        .server_got("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎")
        .client_got("250 1⏎250 2⏎");
    script.events.clear();
    script
}

/// A session in the middle of DATA.
fn message() -> Script<Inbound> {
    let mut script = envelope(ALL);
    script.client("DATA⏎").server("354 3⏎").client("text⏎");
    script.server_got("DATA⏎text⏎").client_got("354 3⏎");
    script.events(&["message"]);
    script
}

const LOST: &str = "421 4.4.2 the mail server behind this proxy: connection closed⏎";

// ----- replies -----

#[test]
fn a_reply_that_is_ambiguous_ends_the_session_without_it() {
    for reply in [
        "250-a⏎550 b⏎".to_owned(),
        "250-a\n250 b⏎".to_owned(),
        "250 a\rb⏎".to_owned(),
        "250 a\0b⏎".to_owned(),
        "150 a⏎".to_owned(),
        "hello⏎".to_owned(),
        "250-x⏎".repeat(1000),
        "x".repeat(1 << 20),
    ] {
        let mut script = open(ALL);
        script.client("NOOP⏎").server(&reply);
        script.events(&["malformed-reply"]);
        assert_eq!(script.codes(), [421]);
        script.over(true);
    }
}

#[test]
fn a_reply_to_nothing_ends_the_session() {
    let mut script = open(ALL);
    script
        .server("250 2.0.0 hello⏎")
        .events(&["unsolicited-reply"]);
    assert_eq!(script.codes(), [421]);
    script.over(true);
}

#[test]
fn a_reply_that_its_command_cannot_have_ends_the_session() {
    for (command, reply) in [
        ("NOOP", "354 go⏎"),
        ("DATA", "250 ok⏎"),
        ("RSET", "451 no⏎"),
    ] {
        let mut script = envelope(ALL);
        script.client(&format!("{command}⏎")).server(reply);
        assert_eq!(script.codes(), [421], "{command}");
        script.over(true);
    }
}

#[test]
fn no_recipient_is_kept_once_its_reply_is_through_unless_the_server_accepted_it() {
    for keywords in [ALL, SERIAL] {
        let mut script = open(keywords);
        script
            .client("MAIL FROM:<a@b>⏎")
            .authorised()
            .server("250 1⏎")
            .client("RCPT TO:<one@d>⏎RCPT TO:<two@d>⏎")
            .server("250 2⏎")
            .server("550 3⏎");
        assert_eq!(script.codes(), [250, 250, 550]);
        let kept = format!("{:?}", script.machine);
        let times = |path: &[u8]| {
            let octets = format!("{path:?}");
            kept.matches(octets.trim_matches(['[', ']'])).count()
        };
        assert_eq!((times(b"one@d"), times(b"two@d")), (1, 0), "{keywords}");
    }
}

#[test]
fn half_a_reply_is_no_reply() {
    let mut script = open(ALL);
    script.client("NOOP⏎").server("250-a⏎250-b⏎").client_got("");
    script
        .input(Input::Closed(Side::Server))
        .client_got(LOST)
        .over(true);
}

#[test]
fn a_dripping_reply_has_one_deadline_as_a_whole() {
    let mut script = open(ALL);
    script.client("NOOP⏎");
    let end = script.machine.deadline();
    for _ in 0..10 {
        script.now += Duration::from_secs(20);
        script.server("250-x⏎").server("2");
        assert_eq!(script.machine.deadline(), end);
        script.server("50-y⏎");
    }
    script
        .late()
        .client_got("421 4.4.2 the mail server behind this proxy: no reply in time⏎")
        .over(true);
}

#[test]
fn reply_text_is_filtered() {
    let mut script = open(ALL);
    script.client("NOOP⏎").server("250 \x1b[1m é⏎");
    script.client_got("250 ?[1m ??⏎");
    script.client("MAIL FROM:<a@b> SMTPUTF8⏎").authorised();
    script.server("250 é⏎").client_got("250 é⏎");
}

#[test]
fn replies_of_one_printable_line_go_on_from_where_they_are_and_others_are_copied() {
    let passed = |len| {
        vec![format!(
            "Pass {{ from: Server, len: {len}, content: false }}"
        )]
    };
    let copied = |lens: &[usize], bytes: &[u8]| {
        let drop = |len| format!("Drop {{ from: Server, len: {len} }}");
        let mut actions: Vec<_> = lens.iter().map(drop).collect();
        actions.push(format!("Send(Client, {bytes:?})"));
        actions
    };
    for (replies, expected) in [
        ("250 1⏎", passed(7)),
        ("250 1⏎550 2 no⏎450 3⏎", passed(24)),
        ("250 a\tb⏎", copied(&[9], b"250 a\tb\r\n")),
        ("250 \x1b⏎", copied(&[7], b"250 ?\r\n")),
        ("250-a⏎250 b⏎", copied(&[7, 7], b"250-a\r\n250 b\r\n")),
    ] {
        let mut script = envelope(ALL);
        script.client("RCPT TO:<1@d>⏎RCPT TO:<2@d>⏎RCPT TO:<3@d>⏎");
        let replies = replies.replace('⏎', "\r\n");
        let now = Duration::ZERO;
        script
            .machine
            .receive(Side::Server, replies.as_bytes(), now);
        let actions = std::iter::from_fn(|| script.machine.next_action());
        let actions: Vec<_> = actions.map(|action| format!("{action:?}")).collect();
        assert_eq!(actions, expected, "{replies:?}");
    }
}

#[test]
fn an_asynchronous_421_is_delivered_once_and_ends_both_sides() {
    let mut script = open(ALL);
    script
        .server("421 4.3.2 bye⏎")
        .input(Input::Closed(Side::Server));
    script.client_got("421 4.3.2 bye⏎").over(false);

    let mut script = envelope(ALL);
    script.client("RCPT TO:<a@d>⏎RCPT TO:<b@d>⏎RCPT TO:<c@d>⏎");
    script
        .server("250 a⏎421 4.3.2 bye⏎")
        .client_got("250 a⏎421 4.3.2 bye⏎");
    script.over(false);

    // The client can be told only at the end of its message.
    let mut script = message();
    script
        .server("421 4.3.2 bye⏎")
        .client_got("")
        .events(&["record"]);
    script.input(Input::Closed(Side::Server)).recorded();
    script.client("more⏎").client_got("").server_got("");
    script.client(".⏎").client_got("421 4.3.2 bye⏎").over(true);

    let mut script = envelope(ALL);
    script
        .client("BDAT 10⏎01234")
        .server("421 4.3.2 bye⏎")
        .client_got("");
    script
        .client("56789")
        .client_got("421 4.3.2 bye⏎")
        .over(true);
}

// ----- command lines -----

#[test]
fn a_long_line_is_refused_once_and_not_executed() {
    let mut script = open(ALL);
    let line = format!("NOOP {}⏎", "x".repeat(506));
    script.client(&line).client_got("250 2.0.0 ok⏎");
    for length in [4096, 60_000] {
        let line = format!("NOOP {}QUIT⏎", "x".repeat(length));
        script
            .client(&line)
            .client_got("500 5.5.2 the line is too long⏎");
        script
            .client("NOOP⏎")
            .server_got("NOOP⏎")
            .server("250 n⏎")
            .client_got("250 n⏎");
    }
    script.client(&"x".repeat(1 << 20)).server_got("QUIT⏎");
    assert_eq!(script.codes(), [421]);
    script.over(false);
}

#[test]
fn a_line_means_the_same_wherever_it_is_cut() {
    let dialogue = "RCPT TO:<a@d>⏎FOO⏎NOOP⏎".replace('⏎', "\r\n");
    for cut in 0..dialogue.len() {
        let mut script = envelope(ALL);
        script.client(&dialogue[..cut]).client(&dialogue[cut..]);
        script
            .server_got("RCPT TO:<a@d>⏎NOOP⏎")
            .server("250 a⏎250 n⏎");
        script.client_got("250 a⏎500 5.5.2 no such command⏎250 n⏎");
    }
}

#[test]
fn a_bare_line_end_in_a_command_ends_the_session_behind_what_is_owed() {
    let mut script = envelope(ALL);
    script.client("RCPT TO:<a@d>⏎RCPT TO:<b@d>\nRCPT TO:<c@d>⏎");
    script.server_got("RCPT TO:<a@d>⏎").client_got("");
    script.server("250 a⏎");
    script.client_got("250 a⏎554 5.5.0 only CR LF ends a line (RFC 5321 2.3.8)⏎");
    script.over(true);
}

#[test]
fn local_replies_keep_their_place() {
    let mut script = envelope(ALL);
    script.client("RCPT TO:<a@d>⏎FOO⏎RCPT TO:<b@d>⏎VRFY x⏎");
    script.client_got("").server("250 a⏎");
    script.client_got("250 a⏎500 5.5.2 no such command⏎");
    script.server("550 b⏎");
    script.client_got("550 b⏎252 2.5.2 send some mail, it will be tried⏎");
}

#[test]
fn without_pipelining_there_is_one_outstanding_command() {
    let mut script = envelope(SERIAL);
    script.client("RCPT TO:<a@d>⏎RCPT TO:<b@d>⏎NOOP⏎QUIT⏎");
    for command in ["RCPT TO:<a@d>⏎", "RCPT TO:<b@d>⏎", "NOOP⏎", "QUIT⏎"] {
        script.server_got(command).server("250 x⏎");
    }
    script.client_got("250 x⏎250 x⏎250 x⏎250 x⏎").over(false);
}

#[test]
fn all_recipients_that_a_message_may_have_go_in_one_group_with_data() {
    let mut script = envelope(ALL);
    let group = "RCPT TO:<a@d>⏎".repeat(999) + "DATA⏎";
    script.client(&group).server_got(&group);
    script.server(&("250 a⏎".repeat(999) + "354 b⏎"));
    script.client_got(&("250 a⏎".repeat(999) + "354 b⏎"));
}

#[test]
fn replies_that_are_owed_are_bounded() {
    let mut script = envelope(ALL);
    let recipients = "RCPT TO:<a@d>⏎".repeat(999);
    script.client(&(recipients.clone() + &"NOOP⏎".repeat(50)));
    script
        .server_got(&(recipients + &"NOOP⏎".repeat(1024 - 999)))
        .server("250 a⏎")
        .server_got("NOOP⏎");
}

#[test]
fn recipients_are_limited_as_the_standard_says() {
    let mut script = envelope(ALL);
    for _ in 0..999 {
        script.client("RCPT TO:<a@d>⏎").server("250 a⏎");
    }
    assert!(script.codes().iter().all(|code| *code == 250));
    script
        .client("RCPT TO:<a@d>⏎")
        .client_got("452 4.5.3 too many recipients⏎");
    for _ in 0..1000 {
        script.client("RCPT TO:<a@d>⏎");
    }
    assert_eq!(script.codes().last(), Some(&421));
}

#[test]
fn rset_and_ehlo_end_the_transaction_on_both_sides() {
    for command in ["RSET⏎", "EHLO b⏎", "HELO b⏎"] {
        let mut script = envelope(ALL);
        script.client(command).server("250 x⏎").client("DATA⏎");
        assert_eq!(script.codes(), [250, 503], "{command}");
        script.server_got(&command.replace("HELO", "EHLO"));
    }
}

#[test]
fn every_refusal_of_ours_is_noted() {
    let mut machine = Inbound::new(InboundConfig {
        hostname: "proxy".to_owned(),
        tls_available: true,
        plaintext_allowed: false,
    });
    machine.receive(Side::Client, b"MAIL FROM:<a@b>\r\n", Duration::ZERO);
    let noted = std::iter::from_fn(|| machine.next_action()).any(|action| {
        matches!(action, crate::smtp::Action::Note(Note::Refused(refusal)) if refusal.code == 530)
    });
    assert!(noted);
}

#[test]
fn a_server_that_leaves_without_a_farewell_does_not_keep_the_client() {
    for late in [false, true] {
        let mut script = open(ALL);
        script.client("QUIT⏎").server_got("QUIT⏎");
        if late {
            script.late();
        } else {
            script.input(Input::Closed(Side::Server));
        }
        script.client_got("221 2.0.0 bye⏎");
        assert!(script.machine.finished());
    }
}

#[test]
fn a_client_that_sends_no_more_still_gets_what_is_owed() {
    let mut script = envelope(ALL);
    script
        .client("RCPT TO:<a@d>⏎NOO")
        .input(Input::Closed(Side::Client))
        .client_got("");
    script.server("250 a⏎").client_got("250 a⏎");
    script.server_got("RCPT TO:<a@d>⏎QUIT⏎").over(false);
}

#[test]
fn each_reply_has_its_own_time() {
    let mut script = envelope(ALL);
    script.client("RCPT TO:<a@d>⏎RCPT TO:<b@d>⏎");
    script.now += Duration::from_secs(200);
    let first = script.machine.deadline();
    script.client("RCPT TO:<c@d>⏎");
    assert_eq!(script.machine.deadline(), first);
    script.server("250 a⏎");
    let second = script.machine.deadline();
    assert_eq!(second, Some(script.now + Duration::from_secs(300)));
}

#[test]
fn a_transaction_begins_when_the_one_before_is_answered() {
    let mut script = open(ALL);
    script
        .client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎")
        .authorised()
        .events(&["ask sender b"]);
    script
        .server("550 no⏎")
        .client("MAIL FROM:<c@e>⏎")
        .events(&[]);
    script.server("503 no⏎").events(&["ask sender e"]);
}

#[test]
fn what_is_owed_comes_before_the_421_of_a_proxy_that_stops() {
    let mut script = envelope(ALL);
    script.client("RCPT TO:<a@d>⏎").input(Input::Drain);
    script.client_got("").server("250 a⏎");
    assert_eq!(script.codes(), [250, 421]);
    script.over(false);
}

#[test]
fn ehlo_that_is_with_the_server_is_answered_by_the_421_of_a_proxy_that_stops() {
    let mut script = open(ALL);
    script
        .client("EHLO b⏎NOOP⏎")
        .input(Input::Drain)
        .client_got("");
    script.server("250 mta⏎");
    assert_eq!(script.codes(), [421]);
    script.server_got("EHLO b⏎QUIT⏎").over(false);
}

#[test]
fn replies_may_wait_for_the_server_only_within_a_group() {
    let mut script = open(ALL);
    assert!(!script.machine.holds_replies());
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎DATA⏎");
    assert!(!script.machine.holds_replies(), "a question");
    script.authorised();
    assert!(script.machine.holds_replies());
    script.server("250 1⏎");
    assert!(!script.machine.holds_replies(), "a reply of the server");

    // Octets of the client are still needed.
    let mut script = open(ALL);
    script.client("MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎BDAT 2 LAST⏎a");
    script.authorised();
    assert!(!script.machine.holds_replies(), "amid a chunk");
    script.client("b");
    assert!(script.machine.holds_replies());
    script.input(Input::Closed(Side::Server));
    assert!(!script.machine.holds_replies(), "it is over");
}

#[test]
fn replies_to_commands_that_end_a_group_never_wait() {
    // RFC 2920 §3.2 (5), even if a client sends more behind them.
    for first in ["NOOP x⏎", "VRFY x⏎", "EXPN x⏎", "DATA⏎", "FOO⏎"] {
        let mut script = open(ALL);
        script.client(first);
        script.client("MAIL FROM:<a@b>⏎").authorised();
        // New bytes have come since, so that reply is written.
        assert!(script.machine.holds_replies(), "{first}");
        if first == "DATA⏎" {
            continue;
        }
        let mut script = envelope(ALL);
        script.client(&format!("{first}RCPT TO:<v@d>⏎"));
        assert!(!script.machine.holds_replies(), "{first}");
    }
    // The reply to EHLO, with a group behind it in the same segment.
    let mut script = open(ALL);
    script.client("EHLO b⏎MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎");
    script.server("250-mta⏎250 PIPELINING⏎").authorised();
    script.server_got("EHLO b⏎MAIL FROM:<a@b>⏎RCPT TO:<u@d>⏎");
    assert!(!script.machine.holds_replies());
}
