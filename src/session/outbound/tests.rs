mod again;

use serde_json::{Value, json};

use super::*;
use crate::{
    lookup::{self, Lookup},
    policy::{Settings, table::Table},
    session::{
        memory::HostMemory,
        test_log::{TestLog, demand},
    },
    smtp::{Domain, ForwardPath, ForwardPaths, Recipient},
    tls::{
        ClientOptions, ClientTls,
        tests::pki::{Authority, Scratch},
    },
};

const CLIENT: [u8; 4] = [10, 0, 0, 5];
const SERVER: [u8; 4] = [203, 0, 113, 9];

fn setup(log: &TestLog, observe: bool, table: &str) -> OutboundSetup {
    let scratch = Scratch::new();
    let ca_file = Authority::root("outbound").write(&scratch.0, "ca");
    let tls = ClientTls::new(&ClientOptions {
        ca_file: Some(ca_file),
        ..ClientOptions::default()
    })
    .expect("TLS");
    let lookup = Lookup::new(lookup::LookupOptions {
        resolvers: vec![([127, 0, 0, 1], 9).into()],
        anchor: None,
        state_dir: None,
        dnssec: false,
        https_port: 443,
        allow_private: false,
        roots: Arc::new(rustls::RootCertStore::empty()),
    })
    .expect("a resolver");
    let mut common = Arc::clone(&log.common);
    Arc::make_mut(&mut common).observe = observe;
    OutboundSetup {
        common,
        upstream: None,
        settings: Settings {
            observe,
            ..Settings::default()
        },
        table: Table::parse("policy", table, &mut |_| Err("no file".into())).expect("a table"),
        tls: Arc::new(tls),
        lookup: Arc::new(lookup),
        memory: Arc::new(HostMemory::default()),
        tlsrpt: None,
        clients: None,
        strangers: Arc::new(crate::session::write_budget::WriteBudget::unlimited()),
        login: None,
    }
}

fn in_a_runtime(test: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    test();
}

fn begin_session(setup: OutboundSetup) -> OutboundSession {
    let client = ClientAddr((CLIENT, 4711).into());
    let server = ServerAddr((SERVER, 25).into());
    OutboundSession {
        journal: Journal::open(&setup.common, DirectionField::Outbound, client, server.0),
        setup: Arc::new(setup),
        server: Some(server),
        dialled: None,
        recipient_moment: Moment::FirstRecipient,
        awaiting_tls: None,
        asked_again: None,
        peer_number: 0,
        remembered: RememberedDecisions::default(),
        no_tls: None,
        tried: None,
        rehearses: true,
        last_decision: None,
    }
}

fn recipient(name: &str) -> Recipient {
    Recipient::Domain(Domain::parse(name).expect("a domain"))
}

/// RCPT for that domain, where policy demands this.
fn rcpt(
    session: &mut OutboundSession,
    name: &str,
    demand: Result<Demand, (Reason, String)>,
) -> Answer {
    let question = Question::Recipient(recipient(name));
    let server = session.server.expect("a server");
    let requirement = Requirement {
        ask: jobs::ask(&session.setup, server, &question),
        question,
        findings: Some(Arc::new(Findings::none())),
        demand,
        lifetime: Lifetime::begin(),
    };
    match session.finish(OutboundJob::Required(Box::new(requirement))) {
        ActionResult::Answered(answer) => answer,
        _ => unreachable!("a question has an answer"),
    }
}

fn verify(session: &mut OutboundSession, name: &str) -> Answer {
    rcpt(session, name, Ok(demand(Level::Verify)))
}

/// Sends the message for these domains, in the clear or over TLS, and ends the session.
fn message(mut session: OutboundSession, names: &[&str]) {
    session.note(Note::MessageBegins);
    let mut recipients = ForwardPaths::default();
    for name in names {
        recipients.extend(ForwardPath::parse(format!("u@{name}").as_bytes(), false));
    }
    drop(session.record(Completed {
        sender: Vec::new(),
        sender_domain: None,
        recipients,
        octets: 3,
        reply: Some(b"250 ok\r\n".to_vec()),
    }));
    session.journal.closed();
}

fn no_tls(session: &mut OutboundSession, cause: Cause, words: &str) {
    session.note(Note::NoTls {
        words: words.into(),
        refusal: Refusal {
            code: 421,
            enhanced: (7, 4),
            text: format!("203.0.113.9: no TLS: {}: {words}", cause.word()),
            cause,
        },
    });
}

/// Domain, verdict, observed, reason and words of each decision of the one message.
fn decisions(log: &TestLog) -> Vec<[Value; 5]> {
    let messages = log.records("message");
    let decisions = messages[0]["decisions"].as_array().expect("a list");
    let facts = ["domain", "verdict", "observed", "reason", "detail"];
    let decisions = decisions.iter();
    decisions
        .map(|decision| facts.map(|fact| decision[fact].clone()))
        .collect()
}

fn handshake_fails(session: &mut OutboundSession, words: &str) -> Upgraded {
    let awaiting = session.awaiting_tls.take().expect("TLS was asked for");
    session.upgraded(EndedHandshake {
        awaiting,
        classical: true,
        outcome: Err(jobs::HandshakeFailure {
            blame: Blame::Host,
            words: words.into(),
        }),
    })
}

const MASKED: &str = "STARTTLS is not offered; a device in between masks it (it shows XXXXXXXA)";

#[test]
fn observing_names_for_each_recipient_what_enforcing_would_say() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, true, ""));
        let first = verify(&mut session, "a.test");
        assert!(matches!(
            first,
            Answer::Upgrade {
                or_plaintext: Some(_)
            }
        ));
        no_tls(&mut session, Cause::StarttlsNotSupported, MASKED);
        assert!(matches!(
            verify(&mut session, "b.test"),
            Answer::Exempted(_)
        ));
        message(session, &["a.test", "b.test"]);
        let expected = |name: &str| {
            [
                json!(name),
                json!("refused"),
                json!(true),
                json!("starttls-not-supported"),
                json!(MASKED),
            ]
        };
        assert_eq!(decisions(&log), [expected("a.test"), expected("b.test")]);
        let verdicts = log.records("verdict");
        for verdict in &verdicts {
            let reply = format!("421 4.7.4 203.0.113.9: no TLS: starttls-not-supported: {MASKED}");
            assert_eq!(verdict["reply"], json!(reply), "the machine's own words");
        }
        assert_eq!(verdicts.len(), 2);
    });
}

#[test]
fn after_a_failed_handshake_later_recipients_are_told_of_that_and_not_of_a_missing_offer() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, true, ""));
        assert!(matches!(
            verify(&mut session, "a.test"),
            Answer::Upgrade { .. }
        ));
        let failed = handshake_fails(&mut session, "alert handshake_failure");
        assert!(matches!(failed, Upgraded::Failed(_)));
        assert!(matches!(
            verify(&mut session, "b.test"),
            Answer::Exempted(_)
        ));
        message(session, &["a.test", "b.test"]);
        for [_, _, _, reason, detail] in decisions(&log) {
            assert_eq!(reason, "validation-failure");
            assert_eq!(detail, "TLS handshake failed: alert handshake_failure");
        }
    });
}

#[test]
fn a_refused_starttls_has_its_own_word_and_code() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, true, ""));
        assert!(matches!(
            verify(&mut session, "a.test"),
            Answer::Upgrade { .. }
        ));
        let words = "STARTTLS was refused with 454";
        no_tls(&mut session, Cause::StarttlsRefused, words);
        message(session, &["a.test"]);
        let [[_, _, _, reason, detail]] = &decisions(&log)[..] else {
            panic!("one decision");
        };
        assert_eq!(
            (reason, detail),
            (&json!("starttls-refused"), &json!(words))
        );
    });
}

#[test]
fn what_was_refused_whatever_the_peer_shows_stays_so_where_tls_cannot_be_had_either() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, true, ""));
        let denial = (Reason::DaneRequired, String::from("no TLSA records"));
        let answer = rcpt(&mut session, "a.test", Err(denial.clone()));
        assert!(matches!(answer, Answer::Upgrade { .. }));
        handshake_fails(&mut session, "reset");
        // The machine asks once more, on a connection without TLS.
        let again = rcpt(&mut session, "b.test", Err(denial));
        assert!(matches!(again, Answer::Exempted(_)));
        message(session, &["a.test", "b.test"]);
        for [_, verdict, observed, reason, _] in decisions(&log) {
            assert_eq!((verdict, observed), (json!("refused"), json!(true)));
            assert_eq!(reason, "dane-required");
        }
        assert!(log.records("unprotected").is_empty());
        assert_eq!(log.records("verdict").len(), 2, "one for each recipient");
    });
}

#[test]
fn what_is_refused_whatever_the_peer_shows_is_one_verdict_before_and_after_the_handshake() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, true, ""));
        let denial = (Reason::DaneRequired, String::from("no TLSA records"));
        let answer = rcpt(&mut session, "a.test", Err(denial.clone()));
        assert!(matches!(answer, Answer::Upgrade { .. }));
        session.awaiting_tls = None;
        session
            .journal
            .secured(Arc::new(crate::tls::tests::peer(&[])));
        let again = rcpt(&mut session, "a.test", Err(denial));
        assert!(matches!(again, Answer::Exempted(_)));
        message(session, &["a.test"]);
        assert_eq!(log.records("verdict").len(), 1);
    });
}

#[test]
fn mail_that_an_entry_lets_pass_in_the_clear_lets_nobody_else_pass() {
    in_a_runtime(|| {
        for lost in [None, Some(MASKED)] {
            let log = TestLog::new();
            let mut session = begin_session(setup(&log, false, "clear.test none\nmay.test may\n"));
            match lost {
                None => {
                    let none = Ok(demand(Level::None));
                    let answer = rcpt(&mut session, "clear.test", none);
                    assert!(matches!(answer, Answer::Exempted(_)));
                }
                Some(words) => {
                    let answer = rcpt(&mut session, "may.test", Ok(demand(Level::May)));
                    assert!(matches!(answer, Answer::Upgrade { .. }));
                    no_tls(&mut session, Cause::StarttlsNotSupported, words);
                }
            }
            let Answer::Refused(refusal) = verify(&mut session, "a.test") else {
                panic!("it needs TLS");
            };
            assert_eq!((refusal.code, refusal.cause), (451, Cause::Verdict));
            message(session, &[]);
            let verdicts = log.records("verdict");
            let reason = match lost {
                None => "session-in-the-clear",
                Some(_) => "starttls-not-supported",
            };
            assert_eq!(verdicts[0]["decision"]["reason"], reason);
            assert_eq!(log.records("unprotected").len(), 1);
        }
    });
}

#[test]
fn a_host_without_tls_is_recorded_for_the_domain_that_was_asked_and_remembered_as_such() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, false, "clear.test none\n"));
        assert!(matches!(
            verify(&mut session, "b.test"),
            Answer::Upgrade { or_plaintext: None }
        ));
        no_tls(&mut session, Cause::StarttlsNotSupported, MASKED);
        let refusal = Refusal {
            code: 421,
            enhanced: (7, 4),
            text: format!("203.0.113.9: no TLS: starttls-not-supported: {MASKED}"),
            cause: Cause::StarttlsNotSupported,
        };
        session.note(Note::HostFault {
            refusal: refusal.clone(),
            lasting: true,
        });
        session.note(Note::Refused(refusal.clone()));
        // The next session of this client with the server, whichever domain its mail is for.
        let setup = Arc::clone(&session.setup);
        let first = setup
            .memory
            .refusal(CLIENT.into(), SERVER.into(), clock::instant())
            .expect("remembered");
        assert_eq!(first.domain.as_deref(), Some("b.test"));
        assert_eq!(first.level.as_deref(), Some("verify"));
        assert_eq!(first.reason, "starttls-not-supported");
        message(session, &[]);
        assert!(log.records("refusal").is_empty());
        let verdicts = log.records("verdict");
        assert_eq!(verdicts.len(), 1);
        assert_eq!(verdicts[0]["reply"], refusal.to_string());
        assert_eq!(verdicts[0]["decision"]["domain"], "b.test");
        assert_eq!(verdicts[0]["decision"]["detail"], MASKED);
    });
}

#[test]
fn a_session_refused_again_connects_nowhere_and_its_record_says_for_whom_it_was() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let setup = setup(&log, false, "");
        let memory = Arc::clone(&setup.memory);
        let mut session = begin_session(setup);
        assert!(matches!(
            verify(&mut session, "b.test"),
            Answer::Upgrade { .. }
        ));
        handshake_fails(&mut session, "alert handshake_failure");
        session.journal.closed();
        let now = clock::instant();
        assert!(
            memory
                .refusal([10, 0, 0, 6].into(), SERVER.into(), now)
                .is_some()
        );
        let mut next = begin_session(OutboundSetup {
            memory,
            ..self::setup(&log, false, "")
        });
        let refusal = next.refused_again().expect("refused");
        assert!(
            refusal
                .text
                .starts_with("refused a short while ago for b.test: "),
            "{refusal}"
        );
        // The machine also sends a note of it.
        next.note(Note::Refused(refusal));
        next.journal.closed();
        let refusals = log.records("refusal");
        assert_eq!(refusals.len(), 1);
        let facts = ["domain", "level", "reason"].map(|fact| refusals[0][fact].clone());
        assert_eq!(facts, ["b.test", "verify", "validation-failure"]);
    });
}

#[test]
fn a_fault_that_may_pass_is_remembered_the_third_time() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, false, ""));
        let refusal = Refusal {
            code: 421,
            enhanced: (7, 4),
            text: "STARTTLS was refused with 454".into(),
            cause: Cause::StarttlsRefused,
        };
        for n in 1..=3 {
            session.host_fault(&refusal, false);
            let setup = &session.setup;
            let known = setup
                .memory
                .refusal([10, 0, 0, 6].into(), SERVER.into(), clock::instant());
            assert_eq!(known.is_some(), n == 3, "{n}");
        }
    });
}

#[test]
fn the_clients_next_session_is_not_shown_what_its_server_lacked() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, false, ""));
        assert!(session.hidden_keywords().is_empty());
        session.note(Note::MissingExtension(Keyword::Dsn));
        assert_eq!(session.hidden_keywords(), [Keyword::Dsn]);
    });
}

#[test]
fn a_verdict_that_refuses_is_answered_as_it_is_written() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = begin_session(setup(&log, false, ""));
        let denial = (Reason::LookupFailed, String::from("SERVFAIL"));
        let Answer::Refused(refusal) = rcpt(&mut session, "a.test", Err(denial)) else {
            panic!("refused");
        };
        message(session, &[]);
        let verdicts = log.records("verdict");
        assert_eq!(verdicts[0]["reply"], refusal.to_string());
        assert_eq!(verdicts[0]["decision"]["reason"], "lookup-failed");
    });
}
