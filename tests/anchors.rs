//! Others vouch for the audit log: a time-stamp authority, played by OpenSSL's own `ts`, and witnesses, played by a program that was written
//! from C2SP's pages alone (Debian's packages `openssl` and `python3`).

#[path = "support/running.rs"]
mod running;
#[path = "anchors/stamps.rs"]
mod stamps;

use data_encoding::BASE64;
use running::{
    Client, Proxy, Scratch, free, inside_server, metrics_page, pair, pki::Authority, run, written,
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A running authority, with its folder.
struct Tsa {
    child: Child,
    dir: Scratch,
    port: u16,
}

impl Drop for Tsa {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(dir: &Path, arguments: &str) -> Option<String> {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .expect("these tests need the program `openssl`: apt-get install openssl");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    output.status.success().then(|| said.into_owned())
}

fn made(dir: &Path, arguments: &str) {
    assert!(openssl(dir, arguments).is_some(), "openssl {arguments}");
}

impl Tsa {
    /// `tls`: the files of a certificate and its key, over which it answers.
    fn start(tls: Option<[&str; 2]>) -> Self {
        let dir = Scratch::new();
        let folder = &dir.0;
        let section = |name: &str| {
            format!(
                "[{name}]\nserial = serial\nsigner_cert = {name}.pem\nsigner_key = {name}.key\ndefault_policy = 1.2.3.4\n\
                 digests = sha256\nsigner_digest = sha256\ncerts = chain.pem\n"
            )
        };
        dir.write("ts.cnf", section("rsa") + &section("ec"));
        dir.write("serial", "01\n");
        dir.write("extensions", "extendedKeyUsage=critical,timeStamping\n");
        dir.write(
            "issuer",
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n",
        );
        let ec = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        let rsa = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
        for (name, kind) in [("ca", ec), ("chain", ec), ("rsa", rsa), ("ec", ec)] {
            made(folder, &format!("genpkey {kind} -out {name}.key"));
            made(
                folder,
                &format!("req -new -key {name}.key -out {name}.csr -subj /CN={name}"),
            );
        }
        made(
            folder,
            "x509 -req -in ca.csr -signkey ca.key -days 365 -extfile issuer -out ca.pem",
        );
        made(
            folder,
            "x509 -req -in chain.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile issuer -out chain.pem",
        );
        for name in ["rsa", "ec"] {
            made(
                folder,
                &format!(
                    "x509 -req -in {name}.csr -CA chain.pem -CAkey chain.key -CAcreateserial -days 365 -extfile extensions -out {name}.pem"
                ),
            );
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/anchors/tsa.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(folder)
            .args(tls.into_iter().flatten())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need the program `python3`");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        said.read_line(&mut line).expect("a port");
        let port = line.trim().parse().expect("a port");
        Self { child, dir, port }
    }

    fn url(&self, way: &str) -> String {
        format!("http://127.0.0.1:{}/{way}", self.port)
    }

    fn ca(&self) -> String {
        self.dir.0.join("ca.pem").display().to_string()
    }
}

/// The records of a log.
fn records(log: &str, event: &str) -> Vec<Value> {
    let text = written(log);
    let all = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    all.filter(|record: &Value| record["event"] == event)
        .collect()
}

/// The log in the folder, with a key of its own.
fn log_with_key(dir: &Scratch) -> (String, String) {
    let key = dir.0.join("key.pem").display().to_string();
    if !dir.0.join("key.pem").exists() {
        assert_eq!(run(&["audit", "keygen", "--out", &key]).0, Some(0));
    }
    (dir.0.join("log").display().to_string(), key)
}

/// Serves inbound with a log, until `says` is said and the message of a client has passed. Returns the log.
fn served(dir: &Scratch, tsa: &[String], says: &str) -> (String, String, String) {
    let (log, key) = log_with_key(dir);
    let (listen, status) = (free(), free().to_string());
    let mut more = vec![
        "--audit-log",
        &log,
        "--audit-key",
        &key,
        "--audit-stamp-every",
        "3600",
    ];
    more.extend(["--metrics", &status, "--observe"]);
    more.extend(tsa.iter().flat_map(|url| ["--audit-tsa", url]));
    let own = pair();
    let mut proxy = Proxy::start(&own.inbound(listen, inside_server(), &more));
    let said = proxy.says(says);
    let mut client = Client::greeted(listen);
    client.says("EHLO client.example").hears("250");
    let mail = client.begins_mail("a@ex.example", &["b@clinic.example"]);
    mail.says("Subject: x\r\n\r\ntext\r\n.").hears("250");
    mail.says("QUIT").hears("221");
    let page = metrics_page(status.parse().expect("an address"));
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
    (log, said, page)
}

#[test]
fn a_checkpoint_is_stamped_and_the_stamp_is_verified_by_us_and_by_openssl() {
    let tsa = Tsa::start(None);
    for way in ["rsa", "ec"] {
        let dir = Scratch::new();
        let (log, _, page) = served(&dir, &[tsa.url(way)], "others vouch");
        for line in [
            "starttls_proxy_audit_anchors_total{kind=\"stamp\"} 1",
            "starttls_proxy_audit_anchor_faults_total{kind=\"stamp\"} 0",
            "starttls_proxy_audit_anchor_timestamp_seconds ",
        ] {
            assert!(page.contains(line), "{line}: {page}");
        }
        let stamps = records(&log, "stamp");
        assert_eq!(stamps.len(), 1, "{stamps:?}");
        let (code, said, _) = run(&["audit", "verify", &log, "--tsa-ca", &tsa.ca()]);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("  time-stamps  1, all by authorities that --tsa-ca names"),
            "{said}"
        );
        assert!(
            said.contains("  vouched for  until ") && said.contains(&tsa.url(way)),
            "{said}"
        );
        // As docs/evidence.md tells it.
        let size = stamps[0]["size"].as_u64();
        let checkpoints = records(&log, "checkpoint");
        let stamped = checkpoints.iter().find(|one| one["seq"].as_u64() == size);
        let note = stamped.expect("it is there")["note"]
            .as_str()
            .expect("text");
        let text = note.split("\n\n").next().expect("a text").to_owned() + "\n";
        dir.write("text", &text);
        let token = BASE64.decode(stamps[0]["token"].as_str().expect("text").as_bytes());
        dir.write("token.der", token.expect("base64"));
        let check = format!(
            "ts -verify -data text -in token.der -token_in -CAfile {}",
            tsa.ca()
        );
        made(&dir.0, &check);
        dir.write("text", text.replacen('\n', "x\n", 1));
        assert_eq!(openssl(&dir.0, &check), None);
    }
}

#[test]
fn a_stamp_proves_nothing_without_its_authority_and_nothing_by_another() {
    let tsa = Tsa::start(None);
    let dir = Scratch::new();
    let (log, ..) = served(&dir, &[tsa.url("ec")], "others vouch");
    let (code, said, _) = run(&["audit", "verify", &log]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1, their times are not proved: --tsa-ca was not given"),
        "{said}"
    );
    let stranger = Authority::root("stranger").write(&dir.0, "stranger");
    let stranger = stranger.display().to_string();
    let (code, said, _) = run(&["audit", "verify", &log, "--tsa-ca", &stranger]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1, their times are not proved: signed by CN=ec"),
        "{said}"
    );
    assert!(said.contains("(not proved)"), "{said}");
}

#[test]
fn answers_that_prove_nothing_are_recorded_as_a_gap_and_mail_passes() {
    let tsa = Tsa::start(None);
    let dir = Scratch::new();
    let ways = [
        ("wrong-imprint", "stamps something else"),
        ("wrong-nonce", "of another time"),
        ("without-certificate", "does not bring the certificate"),
        ("garbage", "no time-stamp response"),
        ("huge", "length limit exceeded"),
        ("page", "text/html"),
        ("moved", "HTTP status 302"),
        ("busy", "HTTP status 503"),
    ];
    let mut urls: Vec<String> = ways.iter().map(|(way, _)| tsa.url(way)).collect();
    urls.push(format!("http://{}/", free()));
    let (log, said, page) = served(&dir, &urls, "nobody vouches");
    assert!(said.contains("mail goes on"), "{said}");
    assert!(
        page.contains("starttls_proxy_audit_anchor_faults_total{kind=\"stamp\"} 1"),
        "{page}"
    );
    assert!(records(&log, "stamp").is_empty());
    assert_eq!(records(&log, "message").len(), 1);
    let gaps = records(&log, "not-anchored");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let error = gaps[0]["error"].as_str().expect("text");
    for (way, words) in ways {
        let (_, behind) = error.split_once(&format!("/{way}: ")).expect(way);
        let own = behind.split("; ").next().unwrap_or_default();
        assert!(own.contains(words), "{way}: {own}");
    }
    assert!(error.contains("Connection refused"), "{error}");
    let (code, said, _) = run(&["audit", "verify", &log]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1 time(s) nobody could be had who vouches"),
        "{said}"
    );
    let at = gaps[0]["at"].as_str().expect("text");
    let from = format!("no time-stamp from {}Z on, to the end", &at[..19]);
    assert!(said.contains(&from), "{from}: {said}");
}

#[test]
fn of_several_authorities_the_next_is_asked_where_one_fails() {
    let tsa = Tsa::start(None);
    let dir = Scratch::new();
    let urls = [
        tsa.url("busy"),
        format!("http://{}/", free()),
        tsa.url("ec"),
    ];
    let (log, ..) = served(&dir, &urls, "others vouch");
    assert_eq!(records(&log, "stamp")[0]["tsa"], Value::from(tsa.url("ec")));
    assert!(records(&log, "not-anchored").is_empty());
}

#[test]
fn an_authority_over_https_must_prove_its_name() {
    let own = pair();
    let tls = own.authority.leaf(&["localhost"]);
    tls.write(&own.scratch.0, "tsa");
    let file = |name: &str| own.scratch.0.join(name).display().to_string();
    let (cert, key) = (file("tsa.pem"), file("tsa.key"));
    let tsa = Tsa::start(Some([&cert, &key]));
    let ca = own
        .authority
        .write(&own.scratch.0, "ca")
        .display()
        .to_string();
    let dir = Scratch::new();
    let (log, log_key) = log_with_key(&dir);
    let listen = free().to_string();
    let of_host = |host: &str| format!("https://{host}:{}/ec", tsa.port);
    let (by_address, by_name) = (of_host("127.0.0.1"), of_host("localhost"));
    let serve = |url: &str, says: &str| {
        let mut proxy = Proxy::start(&[
            "outbound",
            "--listen",
            &listen,
            "--upstream",
            "127.0.0.1:9",
            "--no-dane",
            "--no-mta-sts",
            "--resolver",
            "127.0.0.1:9",
            "--ca-file",
            &ca,
            "--audit-log",
            &log,
            "--audit-key",
            &log_key,
            "--audit-tsa",
            url,
        ]);
        let said = proxy.says(says);
        proxy.signal("-TERM");
        assert!(proxy.ends().success());
        said
    };
    serve(&by_name, "others vouch");
    assert_eq!(records(&log, "stamp").len(), 1);
    let said = serve(&by_address, "nobody vouches");
    assert!(said.contains("TLS: "), "{said}");
}

#[test]
fn a_message_is_proved_with_what_others_said_of_the_checkpoint_behind_it() {
    let tsa = Tsa::start(None);
    let dir = Scratch::new();
    served(&dir, &[tsa.url("ec")], "others vouch");
    let (log, key) = log_with_key(&dir);
    let message = &records(&log, "message")[0];
    let session = message["session"]["id"].as_str().expect("text").to_owned();
    let proof = |name: &str| {
        let place = dir.0.join(name).display().to_string();
        let (code, said, words) = run(&[
            "audit",
            "prove",
            "--message",
            &session,
            "--out",
            &place,
            &log,
        ]);
        assert_eq!(code, Some(0), "{said}{words}");
        place
    };
    let check = |proof: &str, more: &[&str]| {
        let public = format!("{key}.pub");
        let (code, said, words) =
            run(&[&["audit", "check-proof", proof, "--key", &public], more].concat());
        assert_eq!(code, Some(0), "{said}{words}");
        said
    };
    // The stamp that is there was given before the message came.
    let said = check(&proof("first"), &[]);
    assert!(
        said.contains("It does not show when the log was signed"),
        "{said}"
    );
    // The next start has a checkpoint behind the message stamped.
    served(&dir, &[tsa.url("rsa")], "others vouch");
    let stamped = proof("second");
    // The first checkpoint of a run has the ML-DSA-44 signature, too.
    let text = fs::read_to_string(&stamped).expect("a file");
    assert!(text.contains("/ml-dsa-44 ") && !text.contains("/epoch "));
    println!("{} octets", text.len());
    assert!(text.len() <= 8 * 1024, "{} octets", text.len());
    let said = check(&stamped, &["--tsa-ca", &tsa.ca()]);
    assert!(
        said.contains("  existed      at 20") && said.contains(", says CN=rsa"),
        "{said}"
    );
    assert!(said.contains("existed at that time"), "{said}");
    let said = check(&stamped, &[]);
    assert!(
        said.contains("beside       a time-stamp of http://127.0.0.1"),
        "{said}"
    );
    assert!(
        said.contains("is not proved: --tsa-ca was not given"),
        "{said}"
    );
}

/// A running witness of one log.
struct Witness {
    child: Child,
    dir: Scratch,
    port: u16,
    verifier: String,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The name of the log that [`watched`] writes.
const ORIGIN: &str = "mx.example/inbound";

impl Witness {
    fn start(name: &str, log_key: &str) -> Self {
        let dir = Scratch::new();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/anchors/witness.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(&dir.0)
            .args([name, ORIGIN, log_key])
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need the program `python3`");
        let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut line = || said.next().expect("a line").expect("text");
        let port = line().parse().expect("a port");
        let verifier = line();
        Self {
            child,
            dir,
            port,
            verifier,
        }
    }

    fn name(&self) -> &str {
        self.verifier.split('+').next().expect("a name")
    }

    /// Its line in a policy. `way`: how it behaves.
    fn line(&self, way: &str) -> String {
        let (name, _) = self.verifier.split_once('+').expect("a name");
        format!(
            "witness {name} {} http://127.0.0.1:{}/{way}\n",
            self.verifier, self.port
        )
    }
}

/// Serves inbound with this log and policy until `says` is said; gives that line.
fn watched((log, key): (&str, &str), policy: &str, says: &str) -> String {
    let listen = free();
    let more = [
        "--audit-log",
        log,
        "--audit-key",
        key,
        "--audit-witness",
        policy,
        "--observe",
        "--hostname",
        "mx.example",
    ];
    let own = pair();
    let mut proxy = Proxy::start(&own.inbound(listen, inside_server(), &more));
    let said = proxy.says(says);
    let mut client = Client::greeted(listen);
    client.says("EHLO client.example").hears("250");
    let mail = client.begins_mail("a@ex.example", &["b@clinic.example"]);
    mail.says("Subject: x\r\n\r\ntext\r\n.").hears("250");
    mail.says("QUIT").hears("221");
    proxy.signal("-TERM");
    assert!(proxy.ends().success());
    said
}

#[test]
fn a_witness_signs_what_goes_on_from_what_it_signed_before() {
    let dir = Scratch::new();
    let (log, key) = log_with_key(&dir);
    let witness = Witness::start("witness.example/w1", &format!("{key}.pub"));
    let policy = dir.file(
        "policy",
        witness.line("honest") + "quorum witness.example/w1\n",
    );
    // Each start knows nothing of what was signed before, and asks.
    for starts in 1..=4 {
        watched((&log, &key), &policy, "others vouch");
        assert_eq!(records(&log, "cosigned").len(), starts);
    }
    let sizes: Vec<u64> = records(&log, "cosigned")
        .iter()
        .filter_map(|one| one["size"].as_u64())
        .collect();
    assert!(sizes.is_sorted() && sizes.len() == 4, "{sizes:?}");
    let (code, said, _) = run(&["audit", "verify", &log, "--witness", &policy]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("4 signatures, 4 of them checked; 4 checkpoints have as many"),
        "{said}"
    );
    assert!(
        said.contains("vouched for  until ") && !said.contains("(not proved)"),
        "{said}"
    );
    let (code, said, _) = run(&["audit", "verify", &log]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("4 signatures, not checked"), "{said}");
    // The signature line beside the checkpoint is what OpenSSL verifies.
    let last = records(&log, "cosigned").pop().expect("one");
    let checkpoints = records(&log, "checkpoint");
    let note = checkpoints.iter().find(|one| one["seq"] == last["size"]);
    let note = note.expect("it is there")["note"].as_str().expect("text");
    let text = note.split("\n\n").next().expect("a text");
    let line = last["line"].as_str().expect("text");
    let blob = BASE64
        .decode(line.rsplit(' ').next().expect("base64").as_bytes())
        .expect("base64");
    let time = u64::from_be_bytes(blob[4..12].try_into().expect("8 octets"));
    dir.write("signed", format!("cosignature/v1\ntime {time}\n{text}\n"));
    dir.write("signature", &blob[12..]);
    let public = witness.dir.0.join("w.pub").display().to_string();
    made(
        &dir.0,
        &format!("pkeyutl -verify -pubin -inkey {public} -rawin -in signed -sigfile signature"),
    );
}

#[test]
fn fewer_signatures_than_the_policy_asks_for_prove_nothing() {
    let dir = Scratch::new();
    let (log, key) = log_with_key(&dir);
    let public = format!("{key}.pub");
    let (one, other) = (
        Witness::start("one", &public),
        Witness::start("other", &public),
    );
    let lines = |way: &str| one.line("honest") + &other.line(way);
    let policy = lines("absent") + "group both all one other\nquorum both\n";
    let policy = dir.file("policy", policy);
    watched((&log, &key), &policy, "others vouch");
    let (code, said, _) = run(&["audit", "verify", &log, "--witness", &policy]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1 signatures, 1 of them checked; 0 checkpoints"),
        "{said}"
    );
    assert!(said.contains("(not proved)"), "{said}");
    let either = dir.file(
        "either",
        lines("absent") + "group any1 any one other\nquorum any1\n",
    );
    let (_, said, _) = run(&["audit", "verify", &log, "--witness", &either]);
    assert!(said.contains("1 of them checked; 1 checkpoints"), "{said}");
}

#[test]
fn answers_of_witnesses_that_prove_nothing_are_told_and_mail_passes() {
    let ways = [
        ("liar", "no signature of w is in its answer"),
        ("confused", "another size each time"),
        ("ahead", "it has signed 1000000 records"),
        ("absent", "does not know a log of this name (404)"),
    ];
    for (way, words) in ways {
        let dir = Scratch::new();
        let (log, key) = log_with_key(&dir);
        let witness = Witness::start("w", &format!("{key}.pub"));
        let policy = dir.file("policy", witness.line(way) + "quorum w\n");
        let said = watched((&log, &key), &policy, "nobody vouches");
        assert!(said.contains(words), "{said}");
        assert_eq!(records(&log, "message").len(), 1);
        let gaps = records(&log, "not-anchored");
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!(gaps[0]["wanted"], "cosigned");
        assert!(gaps[0]["error"].as_str().expect("text").contains(words));
        assert_eq!(gaps[0]["witness"], witness.name());
        let (_, said, _) = run(&["audit", "verify", &log]);
        let from = format!("no signature of the witness {} from", witness.name());
        assert!(said.contains(&from), "{from}: {said}");
    }
}

#[test]
fn a_witness_does_not_sign_another_past_and_the_log_says_so() {
    let dir = Scratch::new();
    let (log, key) = log_with_key(&dir);
    let witness = Witness::start("w", &format!("{key}.pub"));
    let policy = dir.file("policy", witness.line("honest") + "quorum w\n");
    watched((&log, &key), &policy, "others vouch");
    watched((&log, &key), &policy, "others vouch");
    // Whoever has host and key begins anew, and says nothing of what was before.
    let rotated = ["", ".lock"].map(|end| format!("{log}{end}"));
    rotated
        .iter()
        .for_each(|file| fs::remove_file(file).expect("it is there"));
    let said = watched((&log, &key), &policy, "nobody vouches");
    assert!(
        said.contains("the log was cut, or an older copy was put in its place"),
        "{said}"
    );
    let said = watched((&log, &key), &policy, "nobody vouches");
    let words = [
        "does not go on from what it knows",
        "another root",
        "was cut",
    ];
    assert!(words.iter().any(|words| said.contains(words)), "{said}");
}

#[test]
fn flags_about_anchors_need_what_they_are_about() {
    let listen = free().to_string();
    let refused = |more: &[&str]| {
        let fixed = [
            "outbound",
            "--listen",
            &listen,
            "--upstream",
            "127.0.0.1:9",
            "--dry-run",
        ];
        let (code, _, words) = run(&[&fixed[..], more].concat());
        assert_eq!(code, Some(64), "{words}");
        words
    };
    assert!(refused(&["--audit-tsa", "http://tsa.example/"]).contains("--audit-log"));
    assert!(refused(&["--audit-stamp-every", "60"]).contains("--audit-tsa"));
    assert!(
        refused(&["--audit-tsa", "tsa.example", "--audit-log", "/tmp/x"]).contains("http://HOST")
    );
}
