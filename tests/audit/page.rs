//! The page that `audit report` makes.

use crate::support::{Directory, message, options, sample, session};
use starttls_proxy::audit::{AuditLog, Direction, Message, Protection, Record, Refusal, command};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn report(directory: &Directory, keys: Vec<String>, expected: u8) -> (PathBuf, String) {
    let html = directory.0.join("report.html");
    let arguments = command::Report {
        verify: command::Verify {
            files: vec![directory.file()],
            keys,
            ..command::Verify::default()
        },
        html: html.clone(),
        ..command::Report::default()
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = command::report(&arguments, &mut out, &mut errors);
    assert_eq!(code, expected, "{}", String::from_utf8_lossy(&errors));
    let page = fs::read_to_string(&html).unwrap();
    (html, page)
}

#[test]
fn the_page_stands_alone_and_says_what_the_log_says() {
    let directory = Directory::new("page");
    let (key, public) = directory.key();
    sample(&directory.file(), key).close();
    let (html, page) = report(&directory, vec![public], command::DONE);
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

/// A browser shows and prints it, and finds nothing to complain about.
fn look(directory: &Path, html: &Path) {
    let picture = directory.join("picture.png");
    let paper = directory.join("paper.pdf");
    let browser = |arguments: &[String]| {
        Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--enable-logging=stderr",
            ])
            .arg(format!(
                "--user-data-dir={}",
                directory.join("browser").display()
            ))
            .args(arguments)
            .arg(format!("file://{}", html.display()))
            .output()
    };
    let Ok(shown) = browser(&[
        "--window-size=1280,4200".into(),
        format!("--screenshot={}", picture.display()),
    ]) else {
        eprintln!("SKIPPED: no chromium here, the page was not looked at; install it");
        return;
    };
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(shown.status.success(), "{said}");
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
    browser(&[
        "--no-pdf-header-footer".into(),
        format!("--print-to-pdf={}", paper.display()),
    ])
    .unwrap();
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
    let (_, page) = report(&directory, Vec::new(), command::DAMAGED);
    assert!(page.contains("The log is not intact"));
    assert!(page.contains(":13: edited: record 12 is not the one that record 13 names"));
    assert!(
        page.contains("This page counts only the 12 records before that."),
        "{page}"
    );
    assert!(page.contains("10 messages were handed over"), "{page}");
}

#[test]
fn tls_with_whoever_called_or_answered_is_not_called_authenticated() {
    let directory = Directory::new("inbound");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    let change = |n, change: &dyn Fn(&mut Message)| {
        let Record::Message(mut message) = message(&log, n) else {
            unreachable!()
        };
        message.session.direction = Direction::Inbound;
        change(&mut message);
        log.append(&Record::Message(message));
    };
    // A client with a certificate that a rule asked for; one that no rule speaks of; level encrypt; and one in the clear.
    change(2, &|message| message.verdict = Protection::Authorised);
    change(2, &|message| {
        message.decisions.clear();
        message.peer = None;
    });
    change(2, &|message| {
        message.decisions[0].level = Some("encrypt".into())
    });
    change(2, &|message| message.tls = None);
    log.close();
    let (_, page) = report(&directory, Vec::new(), command::DONE);
    assert!(page.contains("Mail received from the outside"), "{page}");
    assert!(
        page.contains("4 messages were received: 1 over TLS from a party that proved its identity, 2 over TLS from a party that no rule asks for proof, 1 in the clear."),
        "{page}"
    );
}

#[test]
fn what_came_over_the_wire_stays_text() {
    let directory = Directory::new("markup");
    let log = AuditLog::open(options(&directory.file())).unwrap();
    log.append(&Record::Refusal(Box::new(Refusal {
        session: session(1),
        domain: Some("<b>&\"'".into()),
        reason: "<script>alert(1)</script>".into(),
        reply: "421 </td></style><script>alert(2)</script>".into(),
    })));
    log.close();
    let (_, page) = report(&directory, Vec::new(), command::DONE);
    assert!(!page.contains("<script") && !page.contains("<b>"));
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.contains("&lt;script&gt;alert(2)&lt;/script&gt;"));
    assert!(page.contains("&lt;b&gt;&amp;&quot;&#39;"));
}
