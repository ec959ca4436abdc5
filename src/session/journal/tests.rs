mod parties;

use serde_json::json;

use super::*;
use crate::{
    policy::{Ask, Dns, Findings, Level, Mx, NextHop, Reason, Security, Verdict},
    session::{
        test_log::{TestLog, demand, remembered},
        write_budget::WriteBudget,
    },
    smtp::{ForwardPath, ForwardPaths, Keyword, Recipient, Stage},
    tls::tests::{peer, pki::Authority},
};

fn domain(name: &str) -> Domain {
    Domain::parse(name).expect("a domain")
}

fn to(address: &str) -> ForwardPath<'_> {
    ForwardPath::parse(address.as_bytes(), false).expect("a path")
}

fn decision(next_hop: NextHop, verdict: Verdict) -> Decision {
    let refusal = match &verdict {
        Verdict::Refused(_, words) => Some(Refusal {
            code: 451,
            enhanced: (7, 5),
            text: words.clone(),
            cause: Cause::Verdict,
        }),
        _ => None,
    };
    Decision {
        ask: Ask {
            next_hop,
            server: [203, 0, 113, 9].into(),
            port: 25,
        },
        findings: Some(Arc::new(Findings::none())),
        demand: Some(demand(Level::Verify)),
        verdict,
        refusal,
        observed: false,
        at: clock::wall(),
    }
}

#[test]
fn a_decision_says_whether_anybody_can_have_forged_the_names_of_the_mail_hosts() {
    for (mx, signed) in [
        (Dns::Found(Mx::Null, Security::Secure), Some(true)),
        (Dns::Found(Mx::Null, Security::Insecure), Some(false)),
        (Dns::Absent(Security::Secure), None),
        (Dns::NotAsked, None),
    ] {
        let next_hop = NextHop::Upstream("relay.example".into());
        let mut decision = decision(next_hop, Verdict::Authorised("it".into()));
        decision.findings = Some(Arc::new(Findings {
            mx,
            ..Findings::none()
        }));
        assert_eq!(decision_field(&decision).signed, signed);
    }
}

struct Session {
    log: TestLog,
    journal: Journal,
}

impl Session {
    fn new(direction: DirectionField) -> Self {
        let log = TestLog::new();
        let client = ClientAddr(([10, 0, 0, 5], 4711).into());
        let to = ([203, 0, 113, 9], 25).into();
        let journal = Journal::open(&log.common, direction, client, to);
        Self { log, journal }
    }

    /// Judges a RCPT and allows it or not.
    fn judge(&mut self, target: &ForwardPath, verdict: Verdict) {
        let about = Question::Recipient(target.recipient());
        let next_hop = NextHop::Recipient(target.recipient());
        let written = self.journal.verdict(&decision(next_hop, verdict), &about);
        assert!(written.is_ok());
    }

    /// Inbound: judges the MAIL of a sender that an entry names.
    fn listed(&mut self, sender: &str) {
        self.journal.transaction_begins();
        let about = Question::Sender(Some(domain(sender)));
        let next_hop = NextHop::Recipient(Recipient::Domain(domain(sender)));
        let decision = decision(next_hop, proved());
        assert!(self.journal.verdict(&decision, &about).is_ok());
    }

    fn message(&mut self, sender: &str, recipients: &[&str]) {
        self.journal.note(Note::MessageBegins);
        self.journal.content(b"x\r\n");
        let domain_of = |address: &str| Domain::parse(address.rsplit_once('@')?.1);
        let mut named = ForwardPaths::default();
        named.extend(recipients.iter().map(|address| to(address)));
        let message = Completed {
            sender: sender.as_bytes().to_vec(),
            sender_domain: domain_of(sender),
            recipients: named,
            octets: 3,
            reply: Some(b"250 ok\r\n".to_vec()),
        };
        drop(self.journal.message(&message, drop));
    }

    fn end(self) -> TestLog {
        self.journal.closed();
        self.log
    }
}

fn proved() -> Verdict {
    Verdict::Authorised("names mx.example".into())
}

fn expired() -> Verdict {
    Verdict::Refused(Reason::CertificateExpired, "over".into())
}

fn protocol(code: u16) -> Refusal {
    Refusal {
        code,
        enhanced: (5, 1),
        text: "what?".into(),
        cause: Cause::Protocol,
    }
}

fn somebody() -> Arc<Peer> {
    let authority = Authority::root("journal");
    Arc::new(peer(&authority.leaf(&["mx.example"]).chain))
}

#[test]
fn inbound_a_message_has_the_decision_of_its_own_sender_and_no_other() {
    let mut session = Session::new(DirectionField::Inbound);
    session.journal.secured(somebody());
    session.listed("partner.example");
    session.message("a@partner.example", &["b@inside.example"]);
    // It makes no difference whether the machine notes the transaction before or after the question.
    session.listed("partner.example");
    session.journal.note(Note::TransactionBegins);
    session.message("a@partner.example", &["b@inside.example"]);
    for stranger in ["x@stranger.example", "", "x@[192.0.2.1]"] {
        session.journal.transaction_begins();
        session.message(stranger, &["b@inside.example"]);
    }
    // A decision about a sender that is not the sender of the message.
    session.listed("partner.example");
    session.message("x@stranger.example", &["b@inside.example"]);
    let messages = session.end().records("message");
    let decided = |n: usize| messages[n]["decisions"].as_array().expect("a list").len();
    assert_eq!((0..6).map(decided).collect::<Vec<_>>(), [1, 1, 0, 0, 0, 0]);
    assert_eq!(messages[0]["decisions"][0]["domain"], "partner.example");
}

#[test]
fn outbound_a_message_has_the_decisions_of_its_own_recipients_and_no_others() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.note(Note::TransactionBegins);
    session.judge(&to("a@earlier.example"), proved());
    session.message("s@inside.example", &["a@earlier.example"]);
    session.journal.note(Note::TransactionBegins);
    let literal = "x@[IPv6:2001:DB8::1]";
    session.judge(&to(literal), proved());
    session.judge(&to("b@Clinic.example"), proved());
    // One recipient was allowed, but the server did not accept it. Another one was refused by the policy.
    session.judge(&to("c@untaken.example"), proved());
    session.judge(&to("d@refused.example"), expired());
    session.message("s@inside.example", &[literal, "B@CLINIC.example"]);
    let messages = session.end().records("message");
    let domains = |n: usize| {
        let decisions = messages[n]["decisions"].as_array().expect("a list");
        let names = decisions.iter().map(|decision| decision["domain"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(domains(0), ["earlier.example"]);
    assert_eq!(domains(1), ["[IPv6:2001:DB8::1]", "clinic.example"]);
    assert_eq!(messages[1]["verdict"], "authorised");
}

#[test]
fn outbound_a_message_that_the_server_took_for_nobody_has_the_decisions_under_which_it_was_sent() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.note(Note::TransactionBegins);
    for address in ["b@two.example", "a@one.example", "c@two.example"] {
        session.judge(&to(address), proved());
    }
    session.judge(&to("d@refused.example"), expired());
    session.message("s@inside.example", &[]);
    let messages = session.end().records("message");
    let decisions = messages[0]["decisions"].as_array().expect("a list");
    let domains: Vec<_> = decisions.iter().map(|one| one["domain"].clone()).collect();
    assert_eq!(domains, ["one.example", "two.example"]);
}

#[test]
fn with_a_smart_host_its_one_decision_stands_for_all_recipients() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.note(Note::TransactionBegins);
    for address in ["a@one.example", "b@two.example"] {
        let about = Question::Recipient(to(address).recipient());
        let decision = decision(NextHop::Upstream("relay.example".into()), proved());
        assert!(session.journal.verdict(&decision, &about).is_ok());
    }
    session.message("s@inside.example", &["a@one.example", "b@two.example"]);
    let log = session.end();
    let messages = log.records("message");
    assert_eq!(messages[0]["decisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(messages[0]["decisions"][0]["domain"], "relay.example");
    assert_eq!(log.records("verdict").len(), 1);
}

#[test]
fn a_recipient_that_nobody_judged_is_never_said_to_have_been_protected() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.secured(somebody());
    session.journal.note(Note::TransactionBegins);
    session.judge(&to("a@one.example"), proved());
    session.message("s@inside.example", &["a@one.example", "b@two.example"]);
    let messages = session.end().records("message");
    assert_eq!(messages[0]["verdict"], "unprotected");
    assert_eq!(messages[0]["decisions"][1]["domain"], "two.example");
}

#[test]
fn a_repeated_fact_of_one_session_is_one_record_with_its_count() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.note(Note::TransactionBegins);
    let recipients: Vec<String> = (0..300).map(|n| format!("u{n}@clinic.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    for address in &recipients {
        session.judge(&to(address), proved());
    }
    session.message("s@inside.example", &recipients);
    for _ in 0..20 {
        session.journal.note(Note::Refused(protocol(501)));
    }
    session.journal.note(Note::Refused(protocol(555)));
    let metrics = Arc::clone(&session.log.common.metrics);
    let log = session.end();
    assert_eq!(log.records("verdict").len(), 1);
    assert_eq!(log.records("refusal").len(), 2);
    let messages = log.records("message");
    assert_eq!(
        messages[0]["recipients"].as_array().map(Vec::len),
        Some(300)
    );
    assert_eq!(messages[0]["decisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        log.records("session-closed")[0]["repeated"],
        json!([
            {"event": "verdict", "domain": "clinic.example", "verdict": "authorised", "reason": null, "observed": false, "times": 299},
            {"event": "refusal", "domain": null, "verdict": null, "reason": "protocol", "observed": false, "times": 19},
        ])
    );
    // The counters count each repeat.
    assert_eq!(metrics.get(crate::metrics::VERDICTS, "authorised"), 300);
    assert_eq!(metrics.get(crate::metrics::REFUSALS, "protocol"), 21);
    assert!(log.octets() < 20_000, "{} octets", log.octets());
}

#[test]
fn what_was_found_stands_in_the_verdict_once_and_is_not_kept() {
    let mut session = Session::new(DirectionField::Outbound);
    session.journal.note(Note::TransactionBegins);
    for n in 0..1000 {
        session.judge(&to(&format!("u@d{n}.example")), proved());
    }
    let transaction = &session.journal.transaction;
    assert_eq!(transaction.allowed_recipients().count(), 1000);
    let none = |decision: &DecisionField| decision.findings.is_none();
    assert!(transaction.allowed_recipients().all(none));
    session.message("s@inside.example", &["u@d1.example"]);
    let left = session.journal.transaction.allowed_recipients().count();
    assert_eq!(left, 0);
    let log = session.end();
    assert!(log.records("verdict")[0]["decision"]["findings"].is_object());
    assert!(log.records("message")[0]["decisions"][0]["findings"].is_null());
}

#[test]
fn a_refusal_by_verdict_is_written_once_with_reason_domain_level_and_reply() {
    let mut session = Session::new(DirectionField::Outbound);
    session.judge(&to("a@b.test"), expired());
    let Some(given) = decision(NextHop::Address, expired()).refusal else {
        unreachable!()
    };
    session.journal.note(Note::Refused(given));
    let log = session.end();
    assert!(log.records("refusal").is_empty());
    let verdicts = log.records("verdict");
    let decision = &verdicts[0]["decision"];
    let facts = [
        &decision["reason"],
        &decision["domain"],
        &decision["level"],
        &verdicts[0]["reply"],
        &verdicts[0]["address"],
    ];
    assert_eq!(
        facts,
        [
            "certificate-expired",
            "b.test",
            "verify",
            "451 4.7.5 over",
            "@b.test"
        ]
    );
}

#[test]
fn a_remembered_refusal_keeps_reason_domain_and_level_and_says_that_it_is_remembered() {
    let mut session = Session::new(DirectionField::Outbound);
    let first = remembered(421);
    let given = session.journal.refused_again(&first);
    session.journal.note(Note::Refused(given.clone()));
    let refusals = session.end().records("refusal");
    assert_eq!(refusals.len(), 1);
    assert!(
        given
            .text
            .starts_with("refused a short while ago for b.test: ")
    );
    let facts =
        ["reason", "domain", "level", "remembered", "reply"].map(|name| refusals[0][name].clone());
    assert_eq!(
        facts,
        [
            json!("certificate-expired"),
            json!("b.test"),
            json!("verify"),
            json!(true),
            json!(given.to_string())
        ]
    );
}

#[test]
fn a_refusal_has_the_word_of_its_cause_and_the_domain_of_its_sender() {
    let mut session = Session::new(DirectionField::Inbound);
    let refusal = |cause| Refusal {
        cause,
        ..protocol(421)
    };
    let causes = [
        Cause::Limit,
        Cause::ServerGone,
        Cause::GreetingRefused,
        Cause::Stopped,
    ];
    for cause in causes {
        session.journal.note(Note::Refused(refusal(cause)));
    }
    let first = refusal(Cause::StarttlsRequired);
    session
        .journal
        .may_refuse(first.cause, Some(&domain("sender.example")));
    session.journal.note(Note::Refused(first));
    let refusals = session.end().records("refusal");
    let reasons: Vec<&str> = refusals
        .iter()
        .filter_map(|one| one["reason"].as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "limit",
            "server-gone",
            "greeting-refused",
            "stopped",
            "starttls-required"
        ]
    );
    assert_eq!(refusals[0]["domain"], json!(null));
    assert_eq!(refusals[4]["domain"], "sender.example");
}

#[test]
fn a_session_ends_with_the_machines_word_or_the_incident_that_ended_it() {
    let ends = [
        End::Quit,
        End::ClientClosed,
        End::ServerClosed,
        End::Timeout,
        End::Refused,
        End::Stopped,
    ];
    for end in ends {
        let mut session = Session::new(DirectionField::Inbound);
        session.journal.note(Note::Ends(end));
        assert_eq!(
            session.end().records("session-closed")[0]["end"],
            end.word()
        );
    }
    let mut session = Session::new(DirectionField::Inbound);
    session.journal.note(Note::Incident("early-talker"));
    session.journal.note(Note::Ends(End::Refused));
    assert_eq!(
        session.end().records("session-closed")[0]["end"],
        "early-talker"
    );
}

#[test]
fn a_session_is_written_down_with_the_first_thing_worth_keeping_and_at_its_end() {
    let mut session = Session::new(DirectionField::Inbound);
    session.journal.note(Note::Hello(b"a b\x01".to_vec()));
    session.journal.note(Note::MissingExtension(Keyword::Dsn));
    assert!(!session.journal.recorded);
    session.journal.note(Note::Heard {
        stage: Stage::Greeting,
        proved: false,
        reply: b"554 5.7.1 no\r\n".to_vec(),
    });
    assert!(session.journal.recorded);
    let records = session.end().records("*");
    let events: Vec<&str> = records
        .iter()
        .filter_map(|one| one["event"].as_str())
        .collect();
    assert_eq!(events, ["session-opened", "heard", "session-closed"]);
    assert_eq!(records[1]["code"], 554);
    assert_eq!(records[1]["unproved"], true);
    // The reply is recorded as it came, but escaped.
    assert_eq!(records[2]["session"]["hello"], "a b\\x01");
}

#[test]
fn what_a_stranger_makes_us_write_is_bounded_and_his_messages_are_written_all_the_same() {
    let mut session = Session::new(DirectionField::Inbound);
    let common = Arc::make_mut(&mut session.log.common);
    common.write_budget = Arc::new(WriteBudget::for_strangers());
    let client = ClientAddr(([192, 0, 2, 7], 4711).into());
    let open =
        |log: &TestLog| Journal::open(&log.common, DirectionField::Inbound, client, client.0);
    for _ in 0..5000 {
        let mut journal = open(&session.log);
        journal.note(Note::Refused(protocol(501)));
        journal.note(Note::Incident("early-talker"));
        journal.closed();
    }
    let mut journal = open(&session.log);
    journal.note(Note::Refused(protocol(501)));
    assert!(!journal.recorded);
    session.journal = journal;
    session.message("a@b.example", &["c@inside.example"]);
    session.journal.note(Note::Refused(protocol(555)));
    let write_budget = Arc::clone(&session.log.common.write_budget);
    let log = session.end();
    let records = log.records("*");
    let last: Vec<&str> = records[records.len() - 4..]
        .iter()
        .filter_map(|one| one["event"].as_str())
        .collect();
    assert_eq!(
        last,
        ["session-opened", "message", "refusal", "session-closed"]
    );
    // A client has 1 MiB at once; the chain adds to each record.
    assert!(log.octets() < 2 << 20, "{} octets", log.octets());
    let counts = write_budget.report();
    let opened = counts
        .iter()
        .find(|one| one.event == BudgetedEvent::SessionOpened);
    assert!(opened.is_some_and(|one| one.count > 3000), "{counts:?}");
}

#[test]
fn a_stranger_pays_for_the_whole_of_his_last_record_however_long_it_turns_out() {
    let mut session = Session::new(DirectionField::Inbound);
    let common = Arc::make_mut(&mut session.log.common);
    common.write_budget = Arc::new(WriteBudget::for_strangers());
    let client = ClientAddr(([192, 0, 2, 7], 4711).into());
    for _ in 0..2000 {
        let mut journal = Journal::open(
            &session.log.common,
            DirectionField::Inbound,
            client,
            client.0,
        );
        journal.note(Note::Refused(protocol(501)));
        // The name comes when the session is paid for.
        journal.note(Note::Hello(vec![1; 255]));
        journal.closed();
    }
    let log = session.end();
    assert!(log.octets() < 1 << 20, "{} octets", log.octets());
}

/// A fact whose log line nobody may ask for.
struct UnreadFact(Writing);

impl Fact for UnreadFact {
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Trace)
    }
    fn line(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("nobody reads lines of this level")
    }
    fn writing(&self) -> Writing {
        self.0
    }
}

#[test]
fn a_line_that_nobody_reads_is_not_formatted_not_even_for_its_price() {
    let mut session = Session::new(DirectionField::Inbound);
    let common = Arc::make_mut(&mut session.log.common);
    common.write_budget = Arc::new(WriteBudget::for_strangers());
    let client = ClientAddr(([192, 0, 2, 7], 4711).into());
    let mut journal = Journal::open(
        &session.log.common,
        DirectionField::Inbound,
        client,
        client.0,
    );
    journal.tell(&UnreadFact(Writing::WithinBudget));
    journal.tell(&UnreadFact(Writing::Always));
}

#[test]
fn a_trace_line_never_holds_a_name_that_is_none() {
    let mut session = Session::new(DirectionField::Inbound);
    session.journal.secured(somebody());
    let line = |session: &Session| {
        let line = session.journal.trace().expect("a line");
        String::from_utf8(line).expect("ASCII")
    };
    assert!(line(&session).starts_with("Received: from unknown ([10.0.0.5])\r\n"));
    for name in [
        "mail.example",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "WIN-X_1",
    ] {
        session.journal.note(Note::Hello(name.as_bytes().to_vec()));
        assert!(line(&session).starts_with(&format!("Received: from {name} ([10.0.0.5])\r\n")));
    }
    let long = [b'a'; 300];
    let names: [&[u8]; 8] = [
        b"",
        b"a b",
        b"a\tb",
        b"caf\xc3\xa9",
        b"a(b",
        b"a;b",
        b"a\\b",
        &long,
    ];
    for name in names {
        session.journal.note(Note::Hello(name.to_vec()));
        assert!(
            line(&session).starts_with("Received: from unknown ("),
            "{name:?}"
        );
    }
}

#[test]
fn without_an_audit_log_everything_is_counted_all_the_same() {
    let common = TestLog::without();
    let client = ClientAddr(([10, 0, 0, 5], 4711).into());
    let mut journal = Journal::open(&common, DirectionField::Outbound, client, client.0);
    journal.note(Note::Refused(protocol(501)));
    let about = Question::Recipient(to("a@b.test").recipient());
    assert!(
        journal
            .verdict(&decision(NextHop::Address, expired()), &about)
            .is_ok()
    );
    journal.closed();
    let metrics = &common.metrics;
    assert_eq!(metrics.get(crate::metrics::REFUSALS, "protocol"), 1);
    assert_eq!(
        metrics.get(crate::metrics::REFUSALS, "certificate-expired"),
        1
    );
}
