//! A decision is made once, and given again only while all that it rests on holds.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    audit::{AuditLog, AuditOptions, Disk, FileDisk, Placement},
    metrics,
    session::setup::Upstream,
    tls::tests::{peer, secured_connection},
};

/// The answer to a RCPT that needs no look-up. `None`: the session begins to look things up.
fn at_once(session: &mut OutboundSession, recipient: Recipient) -> Option<Answer> {
    match session.authorise(Question::Recipient(recipient)) {
        Job::Done(result @ OutboundJob::Answered(..)) => match session.finish(result) {
            ActionResult::Answered(answer) => Some(answer),
            _ => unreachable!("a question has an answer"),
        },
        _ => None,
    }
}

/// A session with a peer that proves whatever is demanded.
fn secured(setup: OutboundSetup) -> OutboundSession {
    let mut session = begin_session(setup);
    session.journal.secured(Arc::new(peer(&[])));
    session
}

/// Answers this RCPT after a look-up whose facts count that long.
fn looked_up(
    session: &mut OutboundSession,
    name: &str,
    demand: Result<Demand, (Reason, String)>,
    lifetime: Lifetime,
) -> Answer {
    let question = Question::Recipient(recipient(name));
    let server = session.server.expect("a server");
    let answer = session.finish(OutboundJob::Required(Box::new(Requirement {
        ask: jobs::ask(&session.setup, server, &question),
        question,
        findings: Some(Arc::new(Findings::none())),
        demand,
        lifetime,
    })));
    match answer {
        ActionResult::Answered(answer) => answer,
        _ => unreachable!("a question has an answer"),
    }
}

#[test]
fn three_hundred_recipients_of_one_domain_are_one_look_up_one_verdict_and_one_decision() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = secured(setup(&log, false, ""));
        session.note(Note::TransactionBegins);
        assert!(at_once(&mut session, recipient("a.test")).is_none());
        assert!(matches!(
            verify(&mut session, "a.test"),
            Answer::Authorised(_)
        ));
        for _ in 1..300 {
            let answer = at_once(&mut session, recipient("a.test"));
            assert!(matches!(answer, Some(Answer::Authorised(_))), "{answer:?}");
        }
        let metrics = Arc::clone(&log.common.metrics);
        message(session, &["a.test"; 300]);
        assert_eq!(metrics.get(metrics::VERDICTS, "authorised"), 300);
        assert_eq!(log.records("verdict").len(), 1);
        let messages = log.records("message");
        let count = |list: &str| messages[0][list].as_array().map(Vec::len);
        assert_eq!(
            (count("recipients"), count("decisions")),
            (Some(300), Some(1))
        );
        assert_eq!(messages[0]["verdict"], "authorised");
        let repeated = &log.records("session-closed")[0]["repeated"];
        assert_eq!(repeated[0]["times"], 299, "{repeated}");
        assert_eq!(repeated.as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn a_later_transaction_is_given_the_same_decision_and_its_message_has_it() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = secured(setup(&log, false, ""));
        session.note(Note::TransactionBegins);
        assert!(matches!(
            verify(&mut session, "a.test"),
            Answer::Authorised(_)
        ));
        session.note(Note::TransactionBegins);
        assert!(at_once(&mut session, recipient("a.test")).is_some());
        message(session, &["a.test"]);
        let [[domain, verdict, ..]] = &decisions(&log)[..] else {
            panic!("one decision");
        };
        assert_eq!((domain, verdict), (&json!("a.test"), &json!("authorised")));
    });
}

#[test]
fn a_decision_is_about_its_own_domain_alone() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = secured(setup(&log, false, ""));
        verify(&mut session, "a.test");
        for other in [
            recipient("b.test"),
            recipient("sub.a.test"),
            Recipient::Literal("[203.0.113.9]".into()),
            Recipient::Postmaster,
        ] {
            assert!(at_once(&mut session, other.clone()).is_none(), "{other:?}");
        }
        assert!(at_once(&mut session, recipient("A.TEST")).is_some());
        let Job::Running(mut peer) = session.authorise(Question::Peer) else {
            panic!("it was never asked");
        };
        let poll = peer.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Ready(OutboundJob::Required(_))));
    });
}

#[test]
fn with_a_smart_host_one_decision_answers_for_all_recipients() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let upstream = Some(Upstream::parse("relay.example").expect("a host"));
        let mut session = secured(OutboundSetup {
            upstream,
            ..setup(&log, false, "")
        });
        session.note(Note::TransactionBegins);
        verify(&mut session, "a.test");
        assert!(at_once(&mut session, recipient("b.test")).is_some());
        assert!(at_once(&mut session, Recipient::Postmaster).is_some());
        // It may have been made before any recipient was known.
        session.forget_peer();
        let asked = Requirement {
            question: Question::Peer,
            ask: jobs::ask(
                &session.setup,
                ServerAddr((SERVER, 25).into()),
                &Question::Peer,
            ),
            findings: None,
            demand: Ok(demand(Level::Encrypt)),
            lifetime: Lifetime::begin(),
        };
        assert!(matches!(session.judge(asked), Answer::Authorised(_)));
        assert!(at_once(&mut session, recipient("b.test")).is_some());
        message(session, &["a.test", "b.test"]);
        let judged = decisions(&log).into_iter().map(|[domain, ..]| domain);
        assert_eq!(judged.collect::<Vec<_>>(), ["relay.example"; 2]);
    });
}

#[test]
fn a_refusal_is_asked_again_each_time() {
    in_a_runtime(|| {
        let denial = (Reason::LookupFailed, String::from("SERVFAIL"));
        for observe in [false, true] {
            let log = TestLog::new();
            let mut session = secured(setup(&log, observe, ""));
            for _ in 0..3 {
                let answer = rcpt(&mut session, "a.test", Err(denial.clone()));
                assert_eq!(matches!(answer, Answer::Refused(_)), !observe);
                assert!(at_once(&mut session, recipient("a.test")).is_none());
            }
        }
    });
}

#[test]
fn once_a_fact_has_ended_the_decision_is_made_anew_and_is_still_one_record() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = secured(setup(&log, false, ""));
        let over = Some(SystemTime::UNIX_EPOCH);
        let unknown = Findings {
            mx: policy::Dns::Failed("timeout".into()),
            ..Findings::none()
        };
        for lifetime in [
            Lifetime::begin().until(over),
            Lifetime::begin().of(&unknown),
        ] {
            let demand = Ok(demand(Level::Verify));
            let answer = looked_up(&mut session, "a.test", demand, lifetime);
            assert!(matches!(answer, Answer::Authorised(_)));
            assert!(at_once(&mut session, recipient("a.test")).is_none());
        }
        verify(&mut session, "a.test");
        assert!(at_once(&mut session, recipient("a.test")).is_some());
        session.journal.closed();
        assert_eq!(log.records("verdict").len(), 1);
    });
}

#[test]
fn a_decision_about_a_certificate_ends_with_the_next_date_in_it() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let now = crate::tls::Date::of(clock::wall());
        for (not_after, holds) in [(-3600, true), (20, false), (3600, true)] {
            let mut session = begin_session(setup(&log, false, ""));
            let leaf = Authority::root("decisions").leaf(&["mx.example"]);
            let mut peer = peer(&leaf.chain);
            Arc::make_mut(&mut peer.chain)[0].not_after.0 = now.0 + not_after;
            session.journal.secured(Arc::new(peer));
            verify(&mut session, "a.test");
            let question = Question::Recipient(recipient("a.test"));
            let known = session.remembered.answer(&question).expect("remembered");
            assert!(known.holds_in(Duration::from_secs(10)), "{not_after}");
            let later = known.holds_in(Duration::from_secs(40));
            assert_eq!(later, holds, "{not_after}");
        }
    });
}

#[test]
fn with_another_peer_or_without_tls_nothing_is_remembered() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = secured(setup(&log, false, ""));
        verify(&mut session, "a.test");
        session.forget_peer();
        assert!(at_once(&mut session, recipient("a.test")).is_none());
        // In the clear, by an entry: the news that there is no TLS comes once more.
        let mut session = begin_session(setup(&log, false, "a.test may\n"));
        assert!(matches!(
            rcpt(&mut session, "a.test", Ok(demand(Level::May))),
            Answer::Upgrade { .. }
        ));
        no_tls(&mut session, Cause::StarttlsNotSupported, MASKED);
        let again = |session: &mut OutboundSession| at_once(session, recipient("a.test"));
        assert!(again(&mut session).is_none(), "no answer was given yet");
        assert!(matches!(
            rcpt(&mut session, "a.test", Ok(demand(Level::May))),
            Answer::Exempted(_)
        ));
        assert!(matches!(again(&mut session), Some(Answer::Exempted(_))));
        no_tls(&mut session, Cause::StarttlsNotSupported, MASKED);
        assert!(again(&mut session).is_none());
    });
}

#[test]
fn an_answer_about_one_peer_is_none_about_the_next() {
    in_a_runtime(|| {
        let log = TestLog::new();
        let mut session = secured(setup(&log, false, ""));
        verify(&mut session, "a.test");
        let job = session.authorise(Question::Recipient(recipient("a.test")));
        session.forget_peer();
        let Job::Done(answer) = job else {
            panic!("it is known");
        };
        let answer = session.finish(answer);
        assert!(matches!(
            answer,
            ActionResult::Answered(Answer::Refused(refusal)) if refusal.cause == Cause::LocalFault
        ));
    });
}

#[test]
fn the_question_for_which_tls_came_up_is_not_looked_up_twice() {
    in_a_runtime(|| {
        let log = TestLog::new();
        for asked in ["a.test", "b.test"] {
            let mut session = begin_session(setup(&log, false, ""));
            assert!(matches!(
                verify(&mut session, "a.test"),
                Answer::Upgrade { .. }
            ));
            let awaiting = session.awaiting_tls.take().expect("TLS was asked for");
            session.upgraded(EndedHandshake {
                awaiting,
                classical: false,
                outcome: Ok((secured_connection(), peer(&[]))),
            });
            let answer = at_once(&mut session, recipient(asked));
            match asked {
                "a.test" => assert!(matches!(answer, Some(Answer::Authorised(_)))),
                _ => assert!(answer.is_none()),
            }
        }
    });
}

/// A disk that fails once it is told to.
struct FailingDisk(FileDisk, Arc<AtomicBool>);

impl FailingDisk {
    fn state(&self) -> io::Result<()> {
        match self.1.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Disk for FailingDisk {
    fn reopen(&mut self, durable: u64, unsure: &[u8]) -> io::Result<crate::audit::Reopened> {
        self.state()?;
        self.0.reopen(durable, unsure)
    }
    fn begin(&mut self, durable: u64) -> io::Result<crate::audit::Reopened> {
        self.state()?;
        self.0.begin(durable)
    }
    fn append(&mut self, length: u64, lines: &[u8]) -> io::Result<Placement> {
        self.state()?;
        self.0.append(length, lines)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.state()?;
        self.0.sync()
    }
    fn rotate(&mut self, suffix: &str) -> io::Result<Placement> {
        self.state()?;
        self.0.rotate(suffix)
    }
    fn keep_secrets(&mut self, content: &[u8]) -> io::Result<()> {
        self.0.keep_secrets(content)
    }
    fn remember(&mut self, line: &[u8]) -> io::Result<crate::audit::EndKept> {
        self.state()?;
        self.0.remember(line)
    }
}

#[tokio::test]
async fn nothing_passes_on_a_remembered_decision_while_the_audit_log_cannot_be_written() {
    let directory = Scratch::new();
    let options = AuditOptions::new(directory.0.join("audit.jsonl"), "mail.example/test".into());
    let fails = Arc::new(AtomicBool::new(false));
    let disk = |disk| Box::new(FailingDisk(disk, Arc::clone(&fails))) as Box<dyn Disk>;
    let audit = Arc::new(AuditLog::open_on(options, disk).expect("a log"));
    let log = TestLog::new();
    let mut setup = setup(&log, false, "");
    Arc::make_mut(&mut setup.common).audit = Some(Arc::clone(&audit));
    let mut session = secured(setup);
    verify(&mut session, "a.test");
    assert!(matches!(
        at_once(&mut session, recipient("a.test")),
        Some(Answer::Authorised(_))
    ));
    fails.store(true, Ordering::SeqCst);
    let completed = Completed {
        sender: Vec::new(),
        sender_domain: None,
        recipients: ForwardPaths::default(),
        octets: 3,
        reply: Some(b"250 ok\r\n".to_vec()),
    };
    let recorded = session.record(completed).outcome().await;
    assert!(matches!(
        recorded,
        OutboundJob::Ready(ActionResult::Recorded(Err(_)))
    ));
    let Some(Answer::Refused(refusal)) = at_once(&mut session, recipient("a.test")) else {
        panic!("nothing could be recorded");
    };
    assert_eq!((refusal.code, refusal.cause), (421, Cause::LocalFault));
    audit.close();
}
