//! Which records of a session say who the outside party was.

use super::*;

/// Whether each record that can name a peer has `tls` and the certificates of a peer, in order.
fn parties(log: &TestLog) -> Vec<(String, bool, bool)> {
    let records = log.records("*");
    let said = records.iter().filter(|one| one.get("peer").is_some());
    said.map(|one| {
        let event = one["event"].as_str().expect("a word");
        let has = |field: &str| one[field].is_object();
        (event.to_owned(), has("tls"), has("peer"))
    })
    .collect()
}

fn said(event: &str, tls: bool, peer: bool) -> (String, bool, bool) {
    (event.to_owned(), tls, peer)
}

#[test]
fn who_was_authorised_stands_in_each_message_and_not_in_the_verdict_too() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.secured(somebody());
    for domain in ["one.example", "two.example"] {
        session.journal.note(Note::TransactionBegins);
        session.judge(&to(&format!("a@{domain}")), proved());
        session.message("s@inside.example", &[&format!("a@{domain}")]);
    }
    assert_eq!(
        parties(&session.end()),
        [
            said("verdict", false, false),
            said("message", true, true),
            said("verdict", false, false),
            said("message", true, true),
            said("session-closed", true, false),
        ]
    );
}

#[test]
fn who_was_authorised_stands_at_the_end_of_a_session_without_a_message() {
    let mut session = Session::new(DirectionField::Inbound);
    let peer = somebody();
    session.journal.secured(Arc::clone(&peer));
    session.listed("partner.example");
    session.listed("other.example");
    let log = session.end();
    assert_eq!(
        parties(&log),
        [
            said("verdict", false, false),
            said("verdict", false, false),
            said("session-closed", true, true),
        ]
    );
    let closed = &log.records("session-closed")[0];
    let leaf = peer.leaf().expect("a certificate");
    assert_eq!(closed["peer"]["certificate"]["sha256"], leaf.sha256);
    assert_eq!(closed["peer"]["chain"][0], leaf.sha256);
}

#[test]
fn who_was_authorised_after_the_last_message_stands_at_the_end_too() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.secured(somebody());
    session.judge(&to("a@one.example"), proved());
    session.message("s@inside.example", &["a@one.example"]);
    session.judge(&to("a@two.example"), proved());
    assert_eq!(
        parties(&session.end()),
        [
            said("verdict", false, false),
            said("message", true, true),
            said("verdict", false, false),
            said("session-closed", true, true),
        ]
    );
}

#[test]
fn who_was_authorised_is_not_forgotten_with_its_connection() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.secured(somebody());
    session.judge(&to("a@one.example"), proved());
    let connection = ConnectionField {
        from: ([10, 0, 0, 5], 4711).into(),
        to: ([203, 0, 113, 9], 25).into(),
    };
    session.journal.connected(connection);
    session.message("s@inside.example", &["a@one.example"]);
    assert_eq!(
        parties(&session.end()),
        [
            said("verdict", false, false),
            said("message", false, false),
            said("session-closed", false, true),
        ]
    );
}

#[test]
fn who_was_refused_stands_in_each_such_verdict_observed_or_not() {
    for observed in [false, true] {
        let mut session = Session::new(DirectionField::Outbound);
        session.journal.secured(somebody());
        for domain in ["one.example", "two.example"] {
            let target = to(&format!("a@{domain}")).recipient();
            let mut decision = decision(NextHop::Recipient(target.clone()), expired());
            decision.observed = observed;
            let about = Question::Recipient(target);
            assert!(session.journal.verdict(&decision, &about).is_ok());
        }
        assert_eq!(
            parties(&session.end()),
            [
                said("verdict", true, true),
                said("verdict", true, true),
                said("session-closed", true, false),
            ]
        );
    }
}

#[test]
fn a_session_in_which_nobody_was_judged_names_nobody_at_its_end() {
    let mut session = Session::new(DirectionField::Inbound);
    session.journal.secured(somebody());
    assert_eq!(
        parties(&session.end()),
        [said("session-closed", true, false)]
    );
}
