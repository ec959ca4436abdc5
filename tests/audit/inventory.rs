//! The certificates of peers on the page, and the files that are trusted or used.

use crate::regimes::{Report, start_with};
use crate::support::{Directory, closed, domain, message, options, peer, refused, tls};
use starttls_proxy::audit::{AuditLog, PolicyField, Record, TrustFileField, VerdictField};

#[test]
fn the_inventory_has_each_certificate_once_and_every_file_that_is_trusted_or_used() {
    let directory = Directory::new("inventory");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    let Record::Start(mut start) = start_with(&[
        "starttls-proxy",
        "inbound",
        "--cert=/etc/own.pem",
        "--key",
        "/etc/own.key",
        "--ca-file",
        "/etc/ca <1>.pem",
    ]) else {
        unreachable!()
    };
    start.policy = Some(PolicyField {
        tafiles: vec![TrustFileField {
            file: "/etc/partner-ca.pem".into(),
            sha256: "7f".repeat(32),
        }],
        ..start.policy.unwrap()
    });
    log.append(&Record::Start(start));
    (0..3).for_each(|_| log.append(&message(&log, 2)));
    log.append(&message(&log, 5));
    log.close();
    let report = Report::plain(&directory);
    let certificates = report.twin["tables"]["certificates"].as_object().unwrap();
    assert_eq!(certificates.len(), 2);
    let most = certificates
        .values()
        .find(|one| one["messages"] == 3)
        .unwrap();
    assert_eq!(most["key"], "EC P-256");
    assert_eq!(most["subject"], format!("CN=mx1.{}", domain(2)));
    assert!(most["first_seen"].as_str() < most["last_seen"].as_str());
    assert_eq!(report.twin["tables"]["system_trust_store"], false);
    for part in [
        "/etc/own.pem",
        "/etc/own.key",
        "/etc/ca &lt;1&gt;.pem",
        "/etc/partner-ca.pem",
        &"7f".repeat(32),
        "<td class=\"long\">C=US, O=Let&#39;s Encrypt, CN=R11</td><td class=\"when\">EC P-256</td>",
    ] {
        assert!(report.page.contains(part), "{part}: {}", report.page);
    }
}

#[test]
fn a_certificate_without_a_message_has_the_levels_of_the_verdicts_before_it() {
    let directory = Directory::new("unnamed");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    // One verdict names its peer, as older logs have it. The others leave it to the end of their session.
    let judged = |n: u64, level: &str, named: bool| {
        let Record::Verdict(mut verdict) = refused(&log, n) else {
            unreachable!()
        };
        verdict.decision.verdict = VerdictField::Authorised;
        verdict.decision.level = Some(level.into());
        verdict.decision.reason = None;
        verdict.reply = None;
        (verdict.tls, verdict.peer) = (named.then(|| tls(n)), named.then(|| peer(n)));
        Record::Verdict(verdict)
    };
    let ended = |n: u64| {
        let Record::SessionClosed(mut closed) = closed(n) else {
            unreachable!()
        };
        closed.peer = Some(Box::new(peer(n)));
        Record::SessionClosed(closed)
    };
    log.append(&judged(1, "secure", true));
    log.append(&judged(2, "verify", false));
    log.append(&judged(5, "dane", false));
    log.append(&judged(2, "mta-sts", false));
    log.append(&ended(5));
    log.append(&ended(2));
    log.close();
    let report = Report::plain(&directory);
    let certificates = &report.twin["tables"]["certificates"];
    for (n, levels) in [
        (1, &["secure"][..]),
        (2, &["mta-sts", "verify"]),
        (5, &["dane"]),
    ] {
        let seen = &certificates[&peer(n).certificate.sha256];
        assert_eq!(seen["satisfied"], serde_json::json!(levels), "{n}: {seen}");
        assert_eq!(seen["messages"], 0);
    }
}
