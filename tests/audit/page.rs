//! The page that `audit report` makes.

use crate::browser::chromium;
use crate::support::{
    DAMAGED, DONE, Directory, closed, code, counted, message, options, refused, sample, session,
};
use starttls_proxy::{
    audit::{
        AuditLog, DirectionField, MessageRecord, NotRecordedRecord, Record, RefusalRecord,
        RepeatedField, VerdictField,
    },
    commands::audit as command,
    flags::{AuditReportFlags, AuditShowFlags},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn report(directory: &Directory, keys: Vec<String>, expected: u8) -> (PathBuf, String) {
    let html = directory.0.join("report.html");
    let flags = AuditReportFlags {
        files: vec![directory.file()],
        key: keys,
        html: html.clone(),
        ..AuditReportFlags::default()
    };
    let result = command::report(&flags, &mut Vec::new(), None);
    assert_eq!(code(&result), expected, "{result:?}");
    let page = fs::read_to_string(&html).unwrap();
    (html, page)
}

#[test]
fn the_page_stands_alone_and_says_what_the_log_says() {
    let directory = Directory::new("page");
    let (key, public) = directory.key();
    sample(&directory.file(), key);
    let (html, page) = report(&directory, vec![public], DONE);
    for forbidden in [
        "<script", "http://", "https://", "src=", "url(", "@import", "<link",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for part in [
        "The log is intact",
        "<time>2026-02-15</time> to <time>2026-03-16</time>",
        "2,950 messages were handed over: 2,861 over TLS to a party that proved its identity, 60 over TLS without that proof, 29 in the clear.",
        "181 attempts were refused",
        "<tr><th scope=\"row\">clinic.example</th><td class=\"n\">824</td>",
        "X25519MLKEM768",
        "old fax gateway",
        "<span class=\"badge warn\">no end</span>",
        "45 CFR 164.312",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    look(&directory.0, &html);
}

/// A browser shows and prints the page without any complaint.
fn look(directory: &Path, html: &Path) {
    let picture = directory.join("picture.png");
    let paper = directory.join("paper.pdf");
    let url = format!("file://{}", html.display());
    let screenshot = format!("--screenshot={}", picture.display());
    let shown = chromium(directory, &["--window-size=1280,4200", &screenshot, &url]);
    let Some((said, _)) = shown else {
        eprintln!("SKIPPED: no chromium here, the page was not looked at; install it");
        return;
    };
    assert!(!said.contains("CONSOLE"), "{said}");
    let png = fs::read(&picture).unwrap();
    assert_eq!(
        png[16..24],
        [1280_u32.to_be_bytes(), 4200_u32.to_be_bytes()].concat()[..]
    );
    assert!(
        png.len() > 100_000,
        "an empty picture of {} octets",
        png.len()
    );
    let print = format!("--print-to-pdf={}", paper.display());
    chromium(directory, &["--no-pdf-header-footer", &print, &url]).unwrap();
    assert!(fs::read(&paper).unwrap().starts_with(b"%PDF"));
    if let Some(keep) = std::env::var_os("AUDIT_PAGE") {
        for file in [html, &picture, &paper] {
            fs::copy(file, Path::new(&keep).join(file.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn of_a_damaged_log_only_what_stands_before_the_damage_counts() {
    let directory = Directory::new("damaged-page");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for n in 0..20 {
        log.append(&message(&log, n));
    }
    log.close();
    let text = fs::read_to_string(directory.file()).unwrap();
    // Records 0 and 1 are the log's own: record 12 is the eleventh message.
    let line = text.lines().nth(12).unwrap();
    fs::write(
        directory.file(),
        text.replace(line, &line.replace("ward3", "ward4")),
    )
    .unwrap();
    let (_, page) = report(&directory, Vec::new(), DAMAGED);
    assert!(page.contains("The log is not intact"));
    assert!(page.contains(":13: edited: record 12 is not the one that record 13 names"));
    assert!(
        page.contains("This page counts only the 12 records that are surely as they were written."),
        "{page}"
    );
    assert!(page.contains("10 messages were handed over"), "{page}");
    assert!(page.contains("The commands count all that is there"));
}

/// They are counted while the log is verified, before the anchor is reached.
#[test]
fn records_that_an_anchor_shows_to_be_rewritten_do_not_count_although_they_were_read() {
    let directory = Directory::new("rewritten-page");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    for n in 0..20 {
        log.append(&message(&log, n));
    }
    log.close();
    let html = directory.0.join("report.html");
    let mut flags = AuditReportFlags {
        files: vec![directory.file()],
        html: html.clone(),
        ..AuditReportFlags::default()
    };
    let result = command::report(&flags, &mut Vec::new(), None);
    assert_eq!(code(&result), DONE, "{result:?}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("20 messages were handed over"), "{page}");
    flags.anchor = vec![format!("15:{}", "0".repeat(64))];
    let result = command::report(&flags, &mut Vec::new(), None);
    assert_eq!(code(&result), DAMAGED, "{result:?}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("No message was handed over"), "{page}");
}

#[test]
fn tls_with_whoever_called_or_answered_is_not_called_authenticated() {
    let directory = Directory::new("inbound");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    let change = |n, change: &dyn Fn(&mut MessageRecord)| {
        let Record::Message(mut message) = message(&log, n) else {
            unreachable!()
        };
        message.session.direction = DirectionField::Inbound;
        change(&mut message);
        log.append(&Record::Message(message));
    };
    // A client with a certificate that a rule asked for; a client that no rule is about; level encrypt; and plaintext.
    change(2, &|message| message.verdict = VerdictField::Authorised);
    change(2, &|message| {
        message.decisions.clear();
        message.peer = None;
    });
    change(2, &|message| {
        message.decisions[0].level = Some("encrypt".into())
    });
    change(2, &|message| message.tls = None);
    log.close();
    let (_, page) = report(&directory, Vec::new(), DONE);
    assert!(page.contains("Mail received from the outside"), "{page}");
    assert!(
        page.contains("4 messages were received: 1 over TLS from a party that proved its identity, 2 over TLS from a party that no rule asks for proof, 1 in the clear."),
        "{page}"
    );
}

fn log_of(directory: &Directory, write: impl FnOnce(&AuditLog)) -> String {
    let log = AuditLog::open(options(&directory.file())).unwrap();
    write(&log);
    log.close();
    report(directory, Vec::new(), DONE).1
}

#[test]
fn a_verdict_that_refused_is_counted_and_listed_by_its_reason() {
    let directory = Directory::new("refused");
    let page = log_of(&directory, |log| {
        (0..3).for_each(|_| log.append(&refused(log, 5)));
        // The next session was refused at its greeting for the same reason.
        log.append(&Record::Refusal(Box::new(RefusalRecord {
            session: session(1),
            domain: Some("pharmacy.example".into()),
            level: Some("verify".into()),
            reason: "certificate-expired".into(),
            remembered: true,
            reply: Some("421 4.7.5 refused a short while ago for pharmacy.example: x".into()),
            detail: None,
        })));
        let Record::SessionClosed(mut closed) = closed(1) else {
            unreachable!()
        };
        closed.repeated.push(RepeatedField {
            event: "verdict".into(),
            domain: Some("pharmacy.example".into()),
            verdict: Some(VerdictField::Refused),
            reason: Some("certificate-expired".into()),
            observed: false,
            times: 19,
        });
        log.append(&Record::SessionClosed(closed));
    });
    for part in [
        "23 attempts were refused.",
        "<tr><th scope=\"row\">certificate-expired</th><td class=\"n\">23<br><span class=\"quiet\">1 remembered</span></td><td>19 again in the same session<br>4 put off, connection closed</td><td>pharmacy.example (23)</td>",
        "refused a short while ago for pharmacy.example",
    ] {
        assert!(page.contains(part), "{part} is not in the page: {page}");
    }
    assert!(!page.contains("Nothing was refused"));
    let mut said = Vec::new();
    let show = AuditShowFlags {
        files: vec![directory.file()],
        verdict: Some("refused".into()),
        ..AuditShowFlags::default()
    };
    command::show(&show, &mut said, &mut Vec::new()).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.contains("certificate-expired remembered domain pharmacy.example level verify"));
}

#[test]
fn what_observe_mode_let_pass_is_never_shown_as_protected_nor_as_refused() {
    let directory = Directory::new("observed");
    let page = log_of(&directory, |log| {
        let Record::Message(mut message) = message(log, 2) else {
            unreachable!()
        };
        let decision = &mut message.decisions[0];
        decision.observed = true;
        decision.verdict = VerdictField::Refused;
        decision.reason = Some("starttls-not-supported".into());
        let domain = decision.domain.clone();
        message.verdict = VerdictField::Refused;
        message.tls = None;
        message.peer = None;
        log.append(&Record::Message(message));
        let Record::Verdict(mut verdict) = refused(log, 3) else {
            unreachable!()
        };
        verdict.decision.observed = true;
        verdict.decision.domain = domain;
        log.append(&Record::Verdict(verdict));
    });
    for part in [
        "1 message was handed over: 1 in the clear.",
        "Nothing was refused.",
        "1 message passed only because nothing was enforced (<code>--observe</code>)",
        "<tr><th scope=\"row\">observed: would have been refused, starttls-not-supported</th><td class=\"n\">1</td><td class=\"n warn\">1</td>",
        ", only observed",
    ] {
        assert!(page.contains(part), "{part} is not in the page: {page}");
    }
    let levels = page.split("Level, by message and domain").nth(1).unwrap();
    let levels = levels.split("Where the level comes from").next().unwrap();
    assert!(levels.contains("only observed"), "{levels}");
}

#[test]
fn the_parties_on_the_page_are_those_of_the_mail_and_not_those_that_were_connected_to() {
    let directory = Directory::new("parties");
    let page = log_of(&directory, |log| {
        let Record::Message(mut message) = message(log, 2) else {
            unreachable!()
        };
        // A smart host: one decision about it, for all recipients.
        message.recipients = vec![log.address(b"a@one.test"), log.address(b"b@TWO.test")];
        message.decisions[0].domain = "relay.example".into();
        log.append(&Record::Message(message.clone()));
        // Inbound, a client that a prefix exempts.
        message.session.direction = DirectionField::Inbound;
        message.sender = log.address(b"x@sender.test");
        message.decisions[0].domain = "192.0.2.7".into();
        message.decisions[0].verdict = VerdictField::Unprotected;
        message.decisions[0].level = None;
        message.tls = None;
        log.append(&Record::Message(message));
    });
    for (party, authenticated) in [
        ("one.test", "100 %"),
        ("two.test", "100 %"),
        ("sender.test", "0 %"),
    ] {
        let row = page
            .lines()
            .find(|line| {
                line.starts_with(&format!(
                    "<tr><th scope=\"row\">{party}</th><td class=\"n\">1</td>"
                ))
            })
            .unwrap_or_else(|| panic!("no row for {party}: {page}"));
        assert!(
            row.contains(&format!("<td class=\"n\">{authenticated}</td>")),
            "{row}"
        );
    }
}

#[test]
fn what_came_over_the_wire_stays_text() {
    let directory = Directory::new("markup");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    log.append(&Record::Refusal(Box::new(RefusalRecord {
        session: session(1),
        domain: Some("<b>&\"'".into()),
        level: None,
        reason: "<script>alert(1)</script>".into(),
        remembered: false,
        reply: Some("421 </td></style><script>alert(2)</script>".into()),
        detail: None,
    })));
    log.close();
    let (_, page) = report(&directory, Vec::new(), DONE);
    assert!(!page.contains("<script") && !page.contains("<b>"));
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.contains("&lt;script&gt;alert(2)&lt;/script&gt;"));
    assert!(page.contains("&lt;b&gt;&amp;&quot;&#39;"));
}

#[test]
fn what_was_only_counted_is_on_the_page() {
    let directory = Directory::new("counted");
    let page = log_of(&directory, |log| {
        log.append(&Record::NotRecorded(NotRecordedRecord {
            counts: vec![
                counted("turned-away", 2),
                counted("session-opened", 7),
                counted("session-closed", 7),
                counted("refusal", 1234),
            ],
        }));
    });
    assert!(
        page.contains("1,234 refusals and 2 connections that were turned away were only counted"),
        "{page}"
    );
    assert!(page.contains("in 7 sessions"), "{page}");
    assert!(!page.contains("Nothing was refused"));
}

#[test]
fn a_message_counts_with_each_reason_for_which_enforcing_would_have_refused_it() {
    let directory = Directory::new("two-reasons");
    let page = log_of(&directory, |log| {
        let Record::Message(mut message) = message(log, 2) else {
            unreachable!()
        };
        let decision = &mut message.decisions[0];
        decision.observed = true;
        decision.verdict = VerdictField::Refused;
        decision.reason = Some("certificate-expired".into());
        let mut other = decision.clone();
        other.domain = "nobody.example".into();
        other.reason = Some("null-mx".into());
        message.decisions.push(other);
        message.verdict = VerdictField::Refused;
        log.append(&Record::Message(message));
    });
    assert!(page.contains("1 message passed only because"), "{page}");
    for reason in ["certificate-expired", "null-mx"] {
        let row = format!(
            "<tr><th scope=\"row\">observed: would have been refused, {reason}</th><td class=\"n\">0</td><td class=\"n warn\">1</td>"
        );
        assert!(page.contains(&row), "{row} is not in the page: {page}");
    }
}

#[test]
fn a_log_whose_last_records_nobody_signed_is_not_said_to_be_what_was_written() {
    let directory = Directory::new("unsigned-end");
    let (key, public) = directory.key();
    sample(&directory.file(), key);
    let (_, page) = report(&directory, Vec::new(), DONE);
    assert!(!page.contains("are what was written"), "{page}");
    let (_, page) = report(&directory, vec![public], DONE);
    assert!(page.contains("are what was written"), "{page}");
}
