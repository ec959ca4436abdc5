//! Files that change while the program runs: which are noticed, which wait for a person, and what is in force meanwhile.

#[path = "support/running.rs"]
mod running;

use running::{
    Pair, Proxy, Scratch, certificate_served, exit_code_and_words, free, metrics_page, nowhere,
    pair,
    pki::{Authority, Leaf},
    written,
};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, symlink},
    path::Path,
    process::Command,
};

const HOST: &str = "mx.clinic.example";
const NOTICED: &str = "files have changed: reloaded";
const FAULT: &str = "files have changed: not reloaded";

/// Certificate and key as certbot keeps them: links in `live`, which is open to its owner alone, to numbered files in `archive`.
struct Lineage<'a> {
    scratch: &'a Scratch,
    generation: usize,
}

impl<'a> Lineage<'a> {
    fn new(scratch: &'a Scratch, leaf: &Leaf) -> Self {
        let mut owner_only = fs::DirBuilder::new();
        owner_only.mode(0o700).recursive(true);
        for dir in ["live/mx", "archive/mx"] {
            owner_only.create(scratch.path(dir)).expect("a directory");
        }
        let mut lineage = Self {
            scratch,
            generation: 0,
        };
        lineage.renew(leaf);
        lineage
    }

    /// Writes the next generation and then changes the links.
    fn renew(&mut self, leaf: &Leaf) {
        self.generation += 1;
        for (name, content) in [("cert", leaf.chain_pem()), ("privkey", leaf.key_pem())] {
            self.write(name, content);
            self.link(name);
        }
    }

    fn file(&self, name: &str) -> String {
        self.scratch.path(&format!("live/mx/{name}.pem"))
    }

    fn write(&self, name: &str, content: String) {
        let target = format!("archive/mx/{name}{}.pem", self.generation);
        fs::write(self.scratch.path(&target), content).expect("written");
    }

    fn link(&self, name: &str) {
        let link = self.file(name);
        let _ = fs::remove_file(&link); // the first time it is not there
        let target = format!("../../archive/mx/{name}{}.pem", self.generation);
        symlink(target, link).expect("a link");
    }
}

/// An inbound proxy with metrics and an audit log.
struct Inbound {
    proxy: Proxy,
    listen: SocketAddr,
    metrics: SocketAddr,
    log: String,
}

impl Inbound {
    fn start(scratch: &Scratch, cert: &str, key: &str, more: &[&str]) -> Self {
        let (listen, metrics) = (free(), free());
        let log = scratch.path("audit.jsonl");
        let (listen_at, metrics_at) = (listen.to_string(), metrics.to_string());
        let first = ["inbound", "--listen", &listen_at, "--metrics", &metrics_at];
        let second = ["--hide-client-address", "--relay-probe", "off"];
        let third = ["--cert", cert, "--key", key, "--audit-log", &log];
        let upstream = nowhere().to_string();
        let fourth = ["--upstream", &upstream];
        let arguments = [&first[..], &second, &third, &fourth, more].concat();
        Self {
            proxy: Proxy::ready(&arguments),
            listen,
            metrics,
            log,
        }
    }

    fn serves(&self, authority: &Authority) -> Vec<u8> {
        certificate_served(self.listen, authority, HOST)
    }

    /// What the metric about the last reload says.
    fn is_well(&self) -> bool {
        let page = metrics_page(self.metrics);
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix("starttls_proxy_reload_successful "));
        value.expect("the metric") == "1"
    }

    /// Ends it; the records of one kind.
    fn ended(mut self, event: &str) -> Vec<Value> {
        self.proxy.signal("-TERM");
        assert!(self.proxy.ends().success());
        let (code, said) = exit_code_and_words(&["audit", "verify", &self.log]);
        assert_eq!(code, Some(0), "{said}");
        let text = written(&self.log);
        let all = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        all.filter(|record: &Value| record["event"] == event)
            .collect()
    }
}

fn names(record: &Value) -> Vec<&str> {
    let files = record["files"].as_array().expect("files");
    files
        .iter()
        .map(|file| file["file"].as_str().expect("a name"))
        .collect()
}

#[test]
fn a_renewed_certificate_is_served_without_a_signal_when_links_change_behind_a_closed_directory() {
    let scratch = Scratch::new();
    let authority = Authority::root("Root");
    let (old, new) = (authority.leaf(&[HOST]), authority.leaf(&[HOST]));
    let mut lineage = Lineage::new(&scratch, &old);
    let (cert, key) = (lineage.file("cert"), lineage.file("privkey"));
    let mut inbound = Inbound::start(&scratch, &cert, &key, &[]);
    assert_eq!(inbound.serves(&authority), old.chain[0].to_vec());

    lineage.renew(&new);
    inbound.proxy.says(NOTICED);
    assert_eq!(inbound.serves(&authority), new.chain[0].to_vec());
    assert!(inbound.is_well());
    let reloads = inbound.ended("reload");
    assert_eq!(reloads.len(), 1, "{reloads:?}");
    assert_eq!(names(&reloads[0]), [&cert, &key]);
}

#[test]
fn of_a_pair_that_is_renewed_by_halves_nothing_is_taken_until_the_rest_is_there() {
    let scratch = Scratch::new();
    let authority = Authority::root("Root");
    let (old, new) = (authority.leaf(&[HOST]), authority.leaf(&[HOST]));
    let mut lineage = Lineage::new(&scratch, &old);
    let (cert, key) = (lineage.file("cert"), lineage.file("privkey"));
    let mut inbound = Inbound::start(&scratch, &cert, &key, &[]);

    lineage.generation = 2;
    lineage.write("cert", new.chain_pem());
    lineage.link("cert");
    let said = inbound.proxy.says(FAULT);
    assert!(said.contains("privkey.pem: not the key of"), "{said}");
    assert!(!inbound.is_well());
    assert_eq!(inbound.serves(&authority), old.chain[0].to_vec());

    lineage.write("privkey", new.key_pem());
    lineage.link("privkey");
    inbound.proxy.says(NOTICED);
    assert!(inbound.is_well());
    assert_eq!(inbound.serves(&authority), new.chain[0].to_vec());
}

#[test]
fn a_table_is_taken_when_a_person_asks_and_not_with_a_renewed_certificate() {
    let pair = pair();
    let Pair {
        authority,
        scratch,
        cert,
        key,
    } = &pair;
    let table = scratch.file("policy", "@a.example none\n");
    let mut inbound = Inbound::start(scratch, cert, key, &["--policy", &table]);
    let renew = || authority.leaf(&[HOST]).write(&scratch.0, "mx");

    // Somebody is half-way through writing it.
    fs::write(&table, "@a.example no").expect("written");
    renew();
    inbound.proxy.says(NOTICED);
    assert!(inbound.is_well());

    // Asked for, it is wrong. It is taken as soon as it is right, because that was asked for.
    inbound.proxy.signal("-HUP");
    let said = inbound.proxy.says("ERROR not reloaded");
    assert!(said.contains("policy:1:"), "{said}");
    assert!(!inbound.is_well());
    fs::write(&table, "@b.example none\n").expect("written");
    inbound.proxy.says(NOTICED);
    assert!(inbound.is_well());

    let log = inbound.log.clone();
    let reloads = inbound.ended("reload");
    let by_name: Vec<bool> = reloads
        .iter()
        .map(|reload| names(reload).contains(&table.as_str()))
        .collect();
    assert_eq!(by_name, [false, true, true], "{reloads:?}");
    let text = written(log);
    assert_eq!(text.matches("\"event\":\"policy-change\"").count(), 1);
}

/// Starts the program where `/etc/resolv.conf` is this file.
fn with_resolv_conf(file: &str, arguments: &[&str]) -> Proxy {
    let mut command = Command::new("unshare");
    let bind = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            bind,
            "sh",
            file,
        ])
        .arg(env!("CARGO_BIN_EXE_starttls-proxy"))
        .args(arguments);
    let mut proxy = Proxy::start_as(command);
    proxy.says(": ready");
    proxy
}

/// Everything that a process can be told by files.
#[test]
fn each_file_that_the_record_names_is_noticed_and_makes_another_configuration() {
    let scratch = Scratch::new();
    let authority = Authority::root("Root");
    let (cert, key) = authority.leaf(&[HOST]).write(&scratch.0, "mx");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let resolv_conf = scratch.file("resolv.conf", "nameserver 127.0.0.1\n");
    let ca = scratch.file("ca.pem", authority.pem());
    let named = scratch.file("named.pem", authority.pem());
    let table = scratch.file("policy", format!("@a.example secure tafile={named}\n"));
    let table_out = scratch.file("policy.out", format!("a.example secure tafile={named}\n"));
    let anchor = scratch.file(
        "anchor",
        ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n",
    );
    let in_log = scratch.path("in.jsonl");
    let out_log = scratch.path("out.jsonl");
    let listen = [free().to_string(), free().to_string()];
    let inbound = [
        &[
            "inbound",
            "--listen",
            &listen[0],
            "--upstream",
            "inside.example:25",
        ][..],
        &[
            "--hide-client-address",
            "--relay-probe",
            "off",
            "--policy",
            &table,
        ],
        &["--client-auth", "request", "--client-ca", &ca],
        &["--cert", &cert, "--key", &key, "--audit-log", &in_log],
    ];
    let outbound = [
        &[
            "outbound",
            "--listen",
            &listen[1],
            "--intercept",
            "redirect",
            "--no-dane",
        ][..],
        &[
            "--policy",
            &table_out,
            "--ca-file",
            &ca,
            "--dnssec-anchor",
            &anchor,
        ],
        &[
            "--client-cert",
            &cert,
            "--client-key",
            &key,
            "--audit-log",
            &out_log,
        ],
    ];
    let system = "/etc/resolv.conf";
    let mut proxies = [inbound.concat(), outbound.concat()]
        .map(|arguments| with_resolv_conf(&resolv_conf, &arguments));

    // In place, since another file cannot take the place of one that is mounted.
    for (file, content) in [
        (&resolv_conf, String::from("nameserver 127.0.0.2\n")),
        (&ca, Authority::root("Another").pem()),
        (&named, Authority::root("Another").pem()),
    ] {
        fs::write(file, content).expect("written");
        for proxy in &mut proxies {
            proxy.says(NOTICED);
        }
    }
    authority.leaf(&[HOST]).write(&scratch.0, "mx");
    for proxy in &mut proxies {
        proxy.says(NOTICED);
    }
    fs::write(&anchor, fs::read_to_string(&anchor).expect("read") + "\n").expect("written");
    proxies[1].says(NOTICED);
    for table in [&table, &table_out] {
        fs::write(table, fs::read_to_string(table).expect("read") + "# note\n").expect("written");
    }
    for proxy in &mut proxies {
        proxy.signal("-HUP");
        proxy.says("INFO  reloaded");
        proxy.signal("-TERM");
        assert!(proxy.ends().success());
    }
    for (log, listed) in [
        (&in_log, vec![&table, &ca, &cert, &key, &named]),
        (
            &out_log,
            vec![&table_out, &ca, &anchor, &cert, &key, &named],
        ),
    ] {
        let text = written(log);
        let records: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .filter(|one: &Value| one["event"] == "start" || one["event"] == "reload")
            .collect();
        let mut expected: Vec<&str> = listed.into_iter().map(String::as_str).collect();
        expected.push(system);
        expected.sort_unstable();
        let mut last = names(records.last().expect("reloads"));
        last.sort_unstable();
        assert_eq!(last, expected, "what is changed here is all that is named");
        // One reload for each change, each with a hash of its own.
        let changes = expected.len() - 1; // certificate and key are one change
        let mut hashes: Vec<&str> = records
            .iter()
            .map(|record| record["configuration"].as_str().expect("a hash"))
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(
            (records.len(), hashes.len()),
            (changes + 1, changes + 1),
            "{records:#?}"
        );
    }
}

#[test]
fn a_file_that_was_only_touched_is_no_news() {
    let pair = pair();
    let Pair {
        scratch, cert, key, ..
    } = &pair;
    let mut inbound = Inbound::start(scratch, cert, key, &[]);
    let same = fs::read(cert).expect("read");
    fs::write(cert, &same).expect("written");
    let other = pair.authority.leaf(&[HOST]);
    // The next thing that is said is about a real change.
    let before = inbound.serves(&pair.authority);
    other.write(Path::new(&scratch.0), "mx");
    inbound.proxy.says(NOTICED);
    assert_ne!(inbound.serves(&pair.authority), before);
    assert_eq!(inbound.ended("reload").len(), 1);
}
