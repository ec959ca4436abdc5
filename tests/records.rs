//! What the running program leaves in its audit log: each record says what happened to its own message, and no more. Each test
//! starts the binary.

#[path = "support/running.rs"]
mod running;

use running::{ClearServer, Client, Pair, Proxy, Scratch, free, inside_server, pair, written};
use serde_json::Value;
use std::net::SocketAddr;

/// An outside server in the clear with this reply to EHLO.
fn clear_server(ehlo: &'static str) -> SocketAddr {
    server("220 outside\r\n", ehlo)
}

fn server(greeting: &'static str, ehlo: &'static str) -> SocketAddr {
    ClearServer { greeting, ehlo }.serve().0
}

struct Session {
    proxy: Proxy,
    client: Client,
    scratch: Scratch,
}

impl Session {
    /// An outbound session with this smart host.
    fn outbound(upstream: SocketAddr, more: &[&str]) -> Self {
        let (listen, upstream) = (free(), upstream.to_string());
        let scratch = Scratch::new();
        let log = scratch.path("audit.jsonl");
        let address = listen.to_string();
        let arguments = ["outbound", "--listen", &address, "--upstream", &upstream];
        let fixed = [
            "--resolver",
            "127.0.0.1:9",
            "--no-dane",
            "--audit-log",
            &log,
        ];
        Self {
            proxy: Proxy::ready(&[&arguments[..], &fixed, more].concat()),
            client: Client::connect(listen),
            scratch,
        }
    }

    /// An inbound session with a server that takes all mail.
    fn inbound(pair: Pair, more: &[&str]) -> Self {
        let log = pair.scratch.path("audit.jsonl");
        let (proxy, listen) = pair.ready(inside_server(), &[more, &["--audit-log", &log]].concat());
        Self {
            proxy,
            client: Client::connect(listen),
            scratch: pair.scratch,
        }
    }

    fn begin(&mut self) {
        self.client.hears("220");
        self.client.says("EHLO inside.example").hears("250");
    }

    fn mail(&mut self, sender: &str, recipients: &[&str]) {
        self.client.begins_mail(sender, recipients);
        self.client.says(".").hears("250");
    }

    fn quit(mut self) -> Vec<Value> {
        self.client.says("QUIT").hears("221");
        self.end()
    }

    /// After the end of the session: ends the program and returns the log.
    fn end(mut self) -> Vec<Value> {
        self.client.hears_the_end();
        drop(self.client);
        self.proxy.signal("-TERM");
        self.proxy.says("every session has ended");
        assert!(self.proxy.child.wait().expect("ended").success());
        let text = written(self.scratch.0.join("audit.jsonl"));
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

fn of<'a>(records: &'a [Value], event: &str) -> Vec<&'a Value> {
    records.iter().filter(|one| one["event"] == event).collect()
}

#[test]
fn observing_says_of_each_message_what_enforcing_would_have_refused_it_for() {
    let masked = "STARTTLS is not offered; a device in between masks it (it shows XXXXXXXA)";
    let cases = [
        (
            "250-outside\r\n250 XXXXXXXA\r\n",
            "starttls-not-supported",
            masked,
        ),
        (
            "250 outside\r\n",
            "starttls-not-supported",
            "STARTTLS is not offered",
        ),
        (
            "250-outside\r\n250 STARTTLS\r\n",
            "starttls-refused",
            "STARTTLS was refused with 454",
        ),
    ];
    for (hello, reason, words) in cases {
        let mut session = Session::outbound(clear_server(hello), &["--observe"]);
        session.begin();
        session.mail("a@inside.example", &["b@one.test", "c@two.test"]);
        let records = session.quit();
        let messages = of(&records, "message");
        assert_eq!(messages.len(), 1);
        let decisions = messages[0]["decisions"].as_array().expect("a list");
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        let decision = &decisions[0];
        assert_eq!(decision["observed"], true);
        assert_eq!(decision["verdict"], "refused");
        assert_eq!(decision["reason"], reason);
        assert!(
            decision["detail"]
                .as_str()
                .is_some_and(|detail| detail.starts_with(words)),
            "{decision}"
        );
        assert!(of(&records, "refusal").is_empty());
    }
}

#[test]
fn why_a_server_refused_is_in_the_record_and_its_code_in_our_reply() {
    let cases = [
        (
            "554 5.7.1 Blocked by RBL, see http://rbl.test\r\n",
            "250 outside\r\n",
            ("greeting", "greeting-refused", 554, "5.7.1"),
        ),
        (
            "220 outside\r\n",
            "550 5.5.2 Helo name rejected\r\n",
            ("ehlo", "ehlo-refused", 550, "5.5.2"),
        ),
        (
            "220 outside\r\n",
            "250-outside\r\n250 STARTTLS\r\n",
            ("starttls", "starttls-refused", 454, "4.7.0"),
        ),
    ];
    for (greeting, hello, (stage, reason, code, enhanced)) in cases {
        let mut session = Session::outbound(server(greeting, hello), &[]);
        let reply = if stage == "greeting" {
            session.client.hears("421")
        } else {
            session.client.hears("220");
            session.client.says("EHLO inside.example").hears("421")
        };
        assert!(reply.contains(&format!("{code} {enhanced}")), "{reply}");
        let records = session.end();
        let heard = of(&records, "heard");
        assert_eq!(heard.len(), 1);
        let facts = ["stage", "code", "enhanced", "unproved"].map(|fact| heard[0][fact].clone());
        assert_eq!(
            facts,
            [
                stage.into(),
                code.into(),
                enhanced.into(),
                Value::Bool(true)
            ]
        );
        let refusal = of(&records, "refusal");
        let verdict = of(&records, "verdict");
        let told: Vec<&Value> = refusal
            .iter()
            .map(|one| &one["reason"])
            .chain(verdict.iter().map(|one| &one["decision"]["reason"]))
            .collect();
        assert_eq!(told, [reason], "{records:?}");
        let end = &of(&records, "session-closed")[0]["end"];
        assert_eq!(end, "refused");
    }
}

#[test]
fn three_hundred_recipients_of_one_domain_are_one_verdict() {
    let scratch = Scratch::new();
    let upstream = clear_server("250-outside\r\n250 SIZE\r\n");
    let table = scratch.file(
        "policy",
        format!("[{}] none reason=\"test\"\n", upstream.ip()),
    );
    let mut session = Session::outbound(upstream, &["--policy", &table]);
    session.begin();
    let recipients: Vec<String> = (0..300).map(|n| format!("u{n}@clinic.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    session.mail("a@inside.example", &recipients);
    let records = session.quit();
    assert_eq!(of(&records, "unprotected").len(), 1);
    let message = of(&records, "message")[0];
    assert_eq!(message["recipients"].as_array().map(Vec::len), Some(300));
    assert_eq!(message["decisions"].as_array().map(Vec::len), Some(1));
    let octets: usize = records.iter().map(|one| one.to_string().len()).sum();
    assert!(octets < 20_000, "{octets} octets");
}

#[test]
fn each_message_of_a_session_has_what_allowed_its_own_sender() {
    let pair = pair();
    let table = pair.scratch.file(
        "policy",
        "@scanner.test none until=2999-12-31 reason=\"ticket 7\"\n",
    );
    let more = ["--policy", &table, "--exempt", "127.0.0.1/32"];
    let mut session = Session::inbound(pair, &more);
    session.begin();
    for sender in ["a@scanner.test", "b@other.test", "", "c@scanner.test"] {
        session.mail(sender, &["user@clinic.test"]);
    }
    let records = session.quit();
    let bases: Vec<Vec<&str>> = of(&records, "message")
        .iter()
        .map(|message| {
            let decisions = message["decisions"].as_array().expect("a list");
            decisions
                .iter()
                .filter_map(|one| one["basis"].as_str())
                .collect()
        })
        .collect();
    assert_eq!(bases, [["table"], ["exempt"], ["exempt"], ["table"]]);
    let first = &of(&records, "message")[0]["decisions"][0];
    assert_eq!(
        [&first["level"], &first["until"], &first["why"]],
        ["none", "2999-12-31", "ticket 7"]
    );
    assert_eq!(of(&records, "session-closed")[0]["end"], "quit");
    assert_eq!(of(&records, "stop")[0]["reason"], "SIGTERM");
}

#[test]
fn a_refused_mail_in_the_clear_is_one_record_with_the_reply_that_was_given() {
    let pair = pair();
    let table = pair.scratch.file(
        "policy",
        "@partner.test secure match=mx.partner.test\n@scanner.test none reason=x\n",
    );
    let cert = pair.cert.clone();
    let more = ["--client-auth", "request", "--client-ca", &cert];
    let mut session = Session::inbound(pair, &[&more[..], &["--policy", &table]].concat());
    let client = &mut session.client;
    let mut heard = client.hears("220").len();
    heard += client.says("HELO client.example").hears("250").len();
    let reply = client.says("MAIL FROM:<a@partner.test>").hears("451");
    heard += reply.len();
    heard += client.says("QUIT").hears("221").len();
    let records = session.end();
    assert!(of(&records, "refusal").is_empty(), "{records:?}");
    let verdicts = of(&records, "verdict");
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0]["reply"], reply.trim_end());
    let words = &verdicts[0]["decision"]["detail"];
    assert_eq!(words, "the client has not started TLS");
    // All replies count, the last one too.
    let octets = &of(&records, "session-closed")[0]["client_octets"][1];
    assert_eq!(octets, heard);
}

#[test]
fn neither_a_password_nor_a_word_of_a_message_is_in_log_or_records() {
    let pair = pair();
    let file = pair.scratch.path("audit.jsonl");
    let flags = ["--observe", "--log-level", "debug", "--audit-log", &file];
    let (mut proxy, listen) = pair.ready(inside_server(), &flags);
    let mut client = Client::introduced(listen);
    // "secret-word" in Base64, and the same as a line that is no command.
    client.says("AUTH PLAIN c2VjcmV0LXdvcmQ=").hears("5");
    client.says("secret-word").hears("5");
    client.begins_mail("a@outside.example", &["doctor@clinic.example"]);
    client.says("Subject: secret-word\r\n\r\nsecret-word\r\n.");
    client.hears("250");
    // A message that is refused for what stands in it.
    client.begins_mail("a@outside.example", &["doctor@clinic.example"]);
    client.says("Subject: secret-word\nsecret-word\r\n.");
    client.hears("550");
    client.hears_the_end();
    proxy.signal("-TERM");
    let log = proxy.last_words();
    let records = written(&file);
    assert!(log.contains("broken-line-in-message"), "{log}");
    assert!(records.contains("broken-line-in-message"), "{records}");
    assert!(records.contains("doctor@clinic.example"), "{records}");
    for told in [log, records] {
        for secret in ["secret-word", "c2VjcmV0"] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}
