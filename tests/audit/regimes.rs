//! The sets of rules on the page, and the figures beside them: each is what its command gives.

use crate::browser::chromium;
use crate::support::{
    DONE, Directory, closed, code, counted, message, options, peer, refused, sample, session,
    start, tls,
};
use serde_json::Value;
use starttls_proxy::{
    audit::{
        AuditLog, DecisionField, DirectionField, MessageRecord, NotRecordedRecord, OutcomeField,
        Record, RefusalRecord, RepeatedField, SessionOpenedRecord, StartRecord, StopRecord,
        UnprotectedRecord, VerdictField,
    },
    commands::audit as command,
    flags::AuditReportFlags,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A page and its twin.
pub struct Report {
    html: PathBuf,
    pub page: String,
    pub twin: Value,
}

impl Report {
    /// `flags` without the files to write.
    fn of(directory: &Directory, flags: AuditReportFlags) -> Self {
        let html = directory.0.join("report.html");
        let json = directory.0.join("report.json");
        let flags = AuditReportFlags {
            html: html.clone(),
            json: Some(json.clone()),
            ..flags
        };
        let result = command::report(&flags, &mut Vec::new(), None);
        assert_eq!(code(&result), DONE, "{result:?}");
        Self {
            page: fs::read_to_string(&html).unwrap(),
            twin: serde_json::from_slice(&fs::read(json).unwrap()).unwrap(),
            html,
        }
    }

    /// Of one log, with all regimes.
    pub fn plain(directory: &Directory) -> Self {
        let files = vec![directory.file()];
        Self::of(
            directory,
            AuditReportFlags {
                files,
                ..AuditReportFlags::default()
            },
        )
    }

    /// The value of a figure.
    fn figure(&self, name: &str) -> &Value {
        let figures = self.twin["figures"].as_array().unwrap();
        let found = figures.iter().find(|one| one["name"] == name);
        &found.unwrap_or_else(|| panic!("no figure {name}"))["value"]
    }

    /// The figures on the page: each command with its value.
    fn on_the_page(&self) -> BTreeMap<String, String> {
        let rows = self.page.split("<li><data value=\"").skip(1);
        let pairs = rows.map(|row| {
            let (value, rest) = row.split_once('"').unwrap();
            let (_, rest) = rest.split_once("<code class=\"command\">").unwrap();
            let (command, _) = rest.split_once("</code>").unwrap();
            (unescaped(command), value.to_owned())
        });
        pairs.collect()
    }
}

fn unescaped(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What a command says, as the page writes it.
fn says(command: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_starttls-proxy"));
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", command])
        .env("PATH", path)
        .output()
        .expect("bash is there");
    if command.contains("audit verify") {
        return if output.status.success() { "yes" } else { "no" }.to_owned();
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs every command of the page and of its twin, and compares. Says how many there are.
#[track_caller]
fn all_commands_agree(report: &Report) -> usize {
    let figures = report.twin["figures"].as_array().unwrap();
    let mut all = report.on_the_page();
    for figure in figures {
        let command = figure["command"].as_str().unwrap().to_owned();
        let value = match &figure["value"] {
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            value => value.to_string(),
        };
        let on_page = all.insert(command, value.clone());
        assert!(on_page.is_none_or(|shown| shown == value), "{figure}");
    }
    for (command, value) in &all {
        assert_eq!(&says(command), value, "{command}");
    }
    all.len()
}

fn decided(change: impl FnOnce(&mut DecisionField), log: &AuditLog, n: u64) -> Box<MessageRecord> {
    let Record::Message(mut message) = message(log, n) else {
        unreachable!()
    };
    change(&mut message.decisions[0]);
    message.verdict = message.decisions[0].verdict;
    message
}

/// Every kind of record that a figure looks at, each in the variants that make a difference.
fn varied(log: &AuditLog) {
    log.append(&start());
    let observing = start_with(&["starttls-proxy", "outbound", "--observe"]);
    log.append(&observing);
    for n in 0..10 {
        log.append(&Record::SessionOpened(SessionOpenedRecord {
            session: session(n),
        }));
        log.append(&message(log, n));
    }
    for level in [
        "none",
        "may",
        "encrypt",
        "fingerprint",
        "verify",
        "secure",
        "dane",
        "dane-only",
        "mta-sts",
    ] {
        for signed in [None, Some(false), Some(true)] {
            for (verdict, observed) in [
                (VerdictField::Authorised, false),
                (VerdictField::Unprotected, false),
                (VerdictField::Authorised, true),
                (VerdictField::Refused, true),
            ] {
                let mut message = decided(
                    |one| {
                        one.level = Some(level.to_owned());
                        one.signed = signed;
                        one.verdict = verdict;
                        one.observed = observed;
                        let refused = verdict == VerdictField::Refused;
                        one.reason = refused.then(|| "certificate-expired".into());
                    },
                    log,
                    2,
                );
                log.append(&Record::Message(message.clone()));
                // With a second domain, which is weaker.
                let mut other = message.decisions[0].clone();
                other.domain = "other.example".into();
                other.level = Some("may".into());
                message.decisions.push(other);
                log.append(&Record::Message(message.clone()));
                message.decisions.truncate(1);
                message.session.direction = DirectionField::Inbound;
                log.append(&Record::Message(message.clone()));
                message.tls = None;
                message.peer = None;
                message.session.direction = DirectionField::Outbound;
                log.append(&Record::Message(message));
            }
        }
    }
    let mut bare = decided(|_| (), log, 2);
    bare.decisions.clear();
    log.append(&Record::Message(bare.clone()));
    bare.session.direction = DirectionField::Inbound;
    log.append(&Record::Message(bare));
    for outcome in [OutcomeField::Rejected, OutcomeField::Unknown] {
        let mut message = decided(|_| (), log, 2);
        message.outcome = outcome;
        log.append(&Record::Message(message));
    }
    let mut expired = decided(|_| (), log, 2);
    let certificate = &mut expired.peer.as_mut().unwrap().certificate;
    certificate.not_after = "2020-01-01T00:00:00Z".into();
    log.append(&Record::Message(expired));
    refusals(log);
}

pub fn start_with(arguments: &[&str]) -> Record {
    let Record::Start(start) = start() else {
        unreachable!()
    };
    Record::Start(StartRecord {
        arguments: arguments.iter().map(|&word| word.into()).collect(),
        ..start
    })
}

/// Refusals in all their forms, and what is beside them.
fn refusals(log: &AuditLog) {
    (0..3).for_each(|n| log.append(&refused(log, n)));
    let Record::Verdict(mut verdict) = refused(log, 3) else {
        unreachable!()
    };
    verdict.decision.observed = true;
    log.append(&Record::Verdict(verdict.clone()));
    verdict.decision.verdict = VerdictField::Authorised;
    verdict.decision.reason = None;
    log.append(&Record::Verdict(verdict.clone()));
    for (observed, reason) in [(false, None), (true, None), (true, Some("null-mx"))] {
        log.append(&Record::Unprotected(Box::new(UnprotectedRecord {
            session: session(4),
            tls: Some(tls(4)),
            decision: DecisionField {
                observed,
                reason: reason.map(Into::into),
                ..verdict.decision.clone()
            },
        })));
    }
    log.append(&refusal("421 4.4.1 no answer"));
    let Record::SessionClosed(mut closed) = closed(1) else {
        unreachable!()
    };
    for (reason, observed) in [(None, false), (Some("x"), false), (Some("x"), true)] {
        closed.repeated.push(RepeatedField {
            event: "verdict".into(),
            domain: None,
            verdict: None,
            reason: reason.map(Into::into),
            observed,
            times: 19,
        });
    }
    // A certificate that no other record has.
    closed.peer = Some(Box::new(peer(100_000)));
    log.append(&Record::SessionClosed(closed));
    log.append(&Record::NotRecorded(NotRecordedRecord {
        counts: vec![
            counted("turned-away", 2),
            counted("session-opened", 7),
            counted("refusal", 1234),
            counted("refusal", 5),
        ],
    }));
}

fn refusal(reply: &str) -> Record {
    Record::Refusal(Box::new(RefusalRecord {
        session: session(1),
        domain: Some("pharmacy.example".into()),
        level: None,
        reason: "server-unreachable".into(),
        remembered: false,
        reply: Some(reply.into()),
        detail: None,
    }))
}

#[test]
fn every_figure_of_every_regime_is_what_the_command_beside_it_gives() {
    let directory = Directory::new("regimes");
    let (key, public) = directory.key();
    let log = AuditLog::open(starttls_proxy::audit::AuditOptions {
        key: Some(key),
        ..options(&directory.file())
    })
    .unwrap();
    varied(&log);
    log.close();
    let report = Report::of(
        &directory,
        AuditReportFlags {
            files: vec![directory.file()],
            key: vec![public],
            ..AuditReportFlags::default()
        },
    );
    assert!(all_commands_agree(&report) > 30);
    // None of them is a constant: the log has something for each.
    for figure in report.twin["figures"].as_array().unwrap() {
        let expected = !["outages", "stops", "changes", "tls-older"]
            .iter()
            .any(|none| figure["name"] == *none);
        assert_eq!(figure["value"] != 0, expected, "{figure}");
    }
    // Each message that was handed over is in one class.
    let sum: u64 = [
        "class-qualified",
        "class-obligatory",
        "class-opportunistic",
        "in-the-clear",
    ]
    .iter()
    .map(|name| report.figure(name).as_u64().unwrap())
    .sum();
    assert_eq!(report.figure("messages"), sum);
    let words: BTreeSet<&str> = report.twin["regimes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let all = [
        "bsi",
        "datatilsynet",
        "gdpr",
        "hipaa",
        "nis2",
        "nta7516",
        "pci",
    ];
    assert_eq!(words, all.into());
}

#[test]
fn the_commands_have_the_period_of_the_page_and_the_files_of_all_its_logs() {
    let directory = Directory::new("regimes-period");
    let (key, _) = directory.key();
    sample(&directory.file(), key).close();
    // A file name that a shell would take apart.
    let other = directory.0.join("two $(nodes)'s.jsonl");
    let log = AuditLog::open(starttls_proxy::audit::AuditOptions::new(
        other.clone(),
        "second.example/outbound".into(),
    ))
    .unwrap();
    varied(&log);
    log.close();
    let report = Report::of(
        &directory,
        AuditReportFlags {
            files: vec![directory.file(), other],
            since: Some("2026-02-20".into()),
            until: Some("2026-03-01T12".into()),
            regime: Some("nta7516,pci".into()),
            ..AuditReportFlags::default()
        },
    );
    assert!(all_commands_agree(&report) > 30);
    let messages = report.figure("messages").as_u64().unwrap();
    assert!(messages > 500 && messages < 2000, "{messages}");
}

#[test]
fn the_class_of_a_message_is_that_of_its_weakest_decision() {
    let cases: [(&str, Option<bool>, bool, &str); 12] = [
        ("fingerprint", None, false, "class-qualified"),
        ("secure", None, false, "class-qualified"),
        ("dane", Some(true), false, "class-qualified"),
        ("dane-only", Some(true), false, "class-qualified"),
        ("verify", Some(true), false, "class-qualified"),
        // Whoever forges the MX records chooses the host that DANE and the chain are about.
        ("dane", Some(false), false, "class-obligatory"),
        ("verify", Some(false), false, "class-obligatory"),
        ("mta-sts", Some(true), false, "class-obligatory"),
        ("encrypt", None, false, "class-obligatory"),
        ("may", None, false, "class-opportunistic"),
        ("dane", Some(true), true, "class-opportunistic"),
        ("none", None, false, "class-opportunistic"),
    ];
    for (level, signed, observed, expected) in cases {
        let directory = Directory::new("class");
        let log = AuditLog::open(options(&directory.file())).unwrap();
        let change = |one: &mut DecisionField| {
            one.level = Some(level.into());
            one.signed = signed;
            one.observed = observed;
            one.verdict = VerdictField::Authorised;
        };
        log.append(&Record::Message(decided(change, &log, 2)));
        log.close();
        let report = Report::plain(&directory);
        for class in ["class-qualified", "class-obligatory", "class-opportunistic"] {
            let number = u64::from(class == expected);
            assert_eq!(
                report.figure(class),
                number,
                "{level} {signed:?} {observed}"
            );
        }
    }
}

#[test]
fn a_page_about_a_time_with_observe_mode_says_so_at_the_top() {
    let directory = Directory::new("observe-box");
    let (key, _) = directory.key();
    let log = sample(&directory.file(), key);
    let at = |log: &AuditLog, record: &Record| {
        log.append(record);
    };
    at(
        &log,
        &start_with(&["starttls-proxy", "outbound", "--observe"]),
    );
    at(&log, &message(&log, 2));
    at(&log, &stopped());
    // The old process ends what it has begun, after it said so.
    at(&log, &message(&log, 3));
    at(&log, &start_with(&["starttls-proxy", "outbound"]));
    at(&log, &message(&log, 2));
    log.close();
    let report = Report::plain(&directory);
    let before_all_else = report
        .page
        .find("Observe mode was on: nothing was enforced");
    assert!(before_all_else.unwrap() < report.page.find("The log ").unwrap());
    let periods = report.twin["observe_mode"].as_array().unwrap();
    assert_eq!(periods.len(), 1, "{periods:?}");
    assert_eq!(periods[0]["goes_on"], false);
    // Before that time nothing is said.
    let earlier = Report::of(
        &directory,
        AuditReportFlags {
            files: vec![directory.file()],
            until: Some("2026-03-10".into()),
            ..AuditReportFlags::default()
        },
    );
    assert!(!earlier.page.contains("Observe mode was on"));
}

fn stopped() -> Record {
    Record::Stop(StopRecord {
        reason: "SIGTERM".into(),
        sessions: 1,
        messages: 1,
    })
}

#[test]
fn observe_mode_that_began_in_older_files_or_goes_on_is_told_too() {
    let directory = Directory::new("observe-goes-on");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    log.append(&start_with(&["starttls-proxy", "outbound", "--observe"]));
    log.append(&message(&log, 2));
    log.close();
    let report = Report::plain(&directory);
    assert!(report.page.contains("still on at the end of these records"));
    let directory = Directory::new("observe-older");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    let observed = |one: &mut DecisionField| {
        one.observed = true;
        one.verdict = VerdictField::Refused;
        one.reason = Some("null-mx".into());
    };
    log.append(&Record::Message(decided(observed, &log, 2)));
    log.close();
    let report = Report::plain(&directory);
    assert!(
        report
            .page
            .contains("Observe mode was on: nothing was enforced")
    );
    assert!(report.page.contains("stands in older files"));
}

#[test]
fn what_was_done_stands_beside_the_reason_for_a_refusal() {
    let directory = Directory::new("done");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for reply in ["421 4.4.1 x", "421 4.4.1 x", "451 4.7.5 x", "550 5.7.5 x"] {
        log.append(&refusal(reply));
    }
    log.close();
    let report = Report::plain(&directory);
    let cell = "<td>1 put off<br>2 put off, connection closed<br>1 refused for good</td>";
    assert!(report.page.contains(cell), "{}", report.page);
}

#[test]
fn only_the_regimes_that_are_asked_for_are_on_the_page() {
    let directory = Directory::new("chosen");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    log.append(&message(&log, 2));
    log.close();
    let flags = |list: &str| AuditReportFlags {
        files: vec![directory.file()],
        html: directory.0.join("page.html"),
        regime: Some(list.into()),
        organisation: Some("Kreiskrankenhaus \"Süd\" </style><b>".into()),
        auditor: Some("A & B".into()),
        ..AuditReportFlags::default()
    };
    let report = Report::of(&directory, flags("gdpr, nis2"));
    assert!(report.page.contains("id=\"gdpr\"") && report.page.contains("id=\"nis2\""));
    assert!(!report.page.contains("id=\"hipaa\"") && !report.page.contains("45 CFR"));
    // Names are text, in the page and in its style sheet.
    assert_eq!(report.page.matches("</style>").count(), 1);
    assert!(
        report
            .page
            .contains("Kreiskrankenhaus &quot;Süd&quot; &lt;/style&gt;&lt;b&gt;")
    );
    assert!(report.page.contains("A &amp; B"));
    assert_eq!(report.twin["auditor"], "A & B");
    let refused = command::report(&flags("gdpr,sox"), &mut Vec::new(), None);
    let refused = format!("{refused:?}");
    assert!(
        refused.contains("sox") && refused.contains("datatilsynet"),
        "{refused}"
    );
}

#[test]
fn on_paper_everything_is_unfolded_under_a_heading_with_the_number_of_the_page() {
    let directory = Directory::new("paper");
    let (key, _) = directory.key();
    let log = sample(&directory.file(), key);
    log.append(&start_with(&[
        "starttls-proxy",
        "outbound",
        "--observe",
        "--ca-file=/etc/ssl/hospital.pem",
    ]));
    refusals(&log);
    log.close();
    let report = Report::of(
        &directory,
        AuditReportFlags {
            files: vec![directory.file()],
            organisation: Some("County Hospital".into()),
            auditor: Some("Doe & Partners".into()),
            ..AuditReportFlags::default()
        },
    );
    let paper = directory.0.join("paper.pdf");
    let print = format!("--print-to-pdf={}", paper.display());
    let url = format!("file://{}", report.html.display());
    if chromium(&directory.0, &["--no-pdf-header-footer", &print, &url]).is_none() {
        eprintln!("SKIPPED: no chromium here, the page was not printed; install it");
        return;
    }
    if let Some(keep) = std::env::var_os("AUDIT_PAGE") {
        for file in [&report.html, &paper] {
            let name = format!("regimes-{}", file.file_name().unwrap().display());
            fs::copy(file, Path::new(&keep).join(name)).unwrap();
        }
    }
    let Ok(text) = Command::new("pdftotext")
        .args(["-layout"])
        .arg(&paper)
        .arg("-")
        .output()
    else {
        eprintln!("SKIPPED: no pdftotext here, the paper was not read; install poppler-utils");
        return;
    };
    let text = String::from_utf8(text.stdout).unwrap();
    let pages: Vec<&str> = text.split_terminator('\u{c}').collect();
    assert!(pages.len() > 3);
    for (number, page) in pages.iter().enumerate() {
        let foot = format!("Page {} of {}", number + 1, pages.len());
        assert!(page.contains(&foot), "{page}");
        assert!(
            page.contains("Mail transmission report · County Hospital"),
            "{page}"
        );
        assert!(page.contains("Made for Doe & Partners"), "{page}");
    }
    // A clause of a section that is folded on the screen.
    assert!(text.contains("164.312(e)(2)(ii)"), "{text}");
}
