//! Our reading of the policy table against Postfix's own, where the syntax is shared: `postmap` says what the lines of a
//! file are, and which of them Postfix would find for a domain.
//!
//! Needs `postmap` (Debian: postfix), so these are ignored unless asked for, as `tests/run` does:
//! `cargo test --test table_vs_postmap -- --ignored`.

use proptest::{prelude::*, test_runner::TestRunner};
use starttls_proxy::{
    policy::{
        Ask, NextHop,
        table::{Entry, Table},
    },
    smtp::{Domain, Recipient},
};
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

/// What `postmap` prints, given these arguments and this input.
fn postmap(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("postmap")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("postmap can be run; it is in Debian's package postfix");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("postmap reads");
    drop(stdin);
    let output = child.wait_with_output().expect("postmap ends");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(complaints.is_empty(), "postmap {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).expect("ASCII")
}

/// A file of the name, compiled by postmap; as Postfix calls it.
fn compiled(name: &str, text: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("a file can be written");
    let map = format!("hash:{}", path.display());
    postmap(&[&map], "");
    map
}

fn parse(text: &str) -> Table {
    Table::parse("policy", text, &mut |_| Err("no file".into()))
        .unwrap_or_else(|errors| panic!("{errors:?} in {text:?}"))
}

/// The entry without its file and line.
fn content(entry: &Entry) -> String {
    entry.to_string()
}

fn a_key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{1,2}\\.[cd]\\.example",
        "\\.[ab]{1,2}\\.[cd]\\.example",
        "[cCd]\\.Example",
        "\\.[cd]\\.example",
        "\\.example",
        "\\[[ab]{1,2}\\.example\\](:587)?",
        "\\[192\\.0\\.2\\.[1-9]\\]",
    ]
}

fn a_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "none",
        "(may|encrypt|ENCRYPT)( protocols=(TLSv1\\.3|!TLSv1\\.2|>=TLSv1\\.3))?",
        "fingerprint match=[0-9a-f]{64}(\\|[0-9a-f]{40})?( match=[0-9A-F]{40})?",
        "(verify|secure)( match=(nexthop|\\.[a-z]{2}\\.example|hostname)(:dot-nexthop)?){0,2}( servername=hostname)?",
        "(dane|dane-only)",
    ]
}

/// What may stand between two words of an entry, and between two entries.
fn a_gap() -> impl Strategy<Value = String> {
    "[ \t]{1,2}|\n[ \t]{1,2}|\n#[ -~]{0,8}\n |\n\n\t|\n \t# x\n |\r\n "
}
fn a_break() -> impl Strategy<Value = String> {
    "[ \t]{0,2}\n|\n\n|\n[ \t]{1,2}\n|\n#[ -~]{0,8}\n|\r\n|\n  # x\n"
}

/// A table with each key once, and its text in some layout.
fn a_text() -> impl Strategy<Value = String> {
    let entry = (
        a_key(),
        a_value(),
        a_gap(),
        a_gap(),
        "( |,|, | ,)",
        a_break(),
    );
    proptest::collection::vec(entry, 1..12).prop_map(|entries| {
        let mut seen = BTreeMap::new();
        let mut text = String::new();
        for (key, value, first, second, comma, end) in entries {
            if seen.insert(key.to_lowercase(), ()).is_none() {
                let mut words = value.splitn(3, ' ');
                text += &key;
                text += &first;
                text += words.next().unwrap_or_default();
                if let Some(word) = words.next() {
                    text += &second;
                    text += word;
                }
                if let Some(rest) = words.next() {
                    text += &comma;
                    text += rest;
                }
                text += &end;
            }
        }
        text
    })
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
#[ignore = "needs postmap (Debian: postfix)"]
fn the_entries_of_a_file_are_those_that_postfix_reads() {
    runner(100)
        .run(&a_text(), |text| {
            let ours: Vec<String> = parse(&text).entries().iter().map(content).collect();
            // Each entry as Postfix has understood it, on one line.
            let lines = postmap(&["-s", &compiled("entries", &text)], "");
            let mut theirs: Vec<String> = parse(&lines.replace('\r', " "))
                .entries()
                .iter()
                .map(content)
                .collect();
            let mut ours = ours;
            ours.sort();
            theirs.sort();
            prop_assert_eq!(ours, theirs, "{:?}", text);
            Ok(())
        })
        .unwrap_or_else(|why| panic!("{why}"));
}

#[test]
#[ignore = "needs postmap (Debian: postfix)"]
fn the_entry_for_a_domain_is_the_one_that_postfix_finds() {
    let domain =
        "[ab]{1,2}\\.[cd]\\.example|[cd]\\.example|x\\.[ab]{1,2}\\.[cd]\\.example|[a-d]\\.Example";
    runner(100)
        .run(
            &(a_text(), proptest::collection::vec(domain, 8)),
            |(text, domains)| {
                let table = parse(&text);
                let map = compiled("lookups", &text);
                let known = postmap_answers(&map, &domains);
                for name in &domains {
                    let ask = Ask {
                        next_hop: NextHop::Recipient(Recipient::Domain(
                            Domain::parse(name).expect("domain"),
                        )),
                        server: "198.51.100.1".parse().expect("address"),
                        port: 25,
                    };
                    let ours = table.find(&ask, SystemTime::UNIX_EPOCH).map(content);
                    // smtp(8): the domain, then each parent with its dot.
                    let theirs = keys_of(name).find_map(|key| {
                        known
                            .get(&key)
                            .map(|value| content(&parse(&format!("{key} {value}")).entries()[0]))
                    });
                    prop_assert_eq!(ours, theirs, "{} in {:?}", name, text);
                }
                Ok(())
            },
        )
        .unwrap_or_else(|why| panic!("{why}"));
}

/// The keys under which Postfix looks for a recipient domain.
fn keys_of(domain: &str) -> impl Iterator<Item = String> {
    let domain = domain.to_lowercase();
    let parents: Vec<String> = domain
        .match_indices('.')
        .map(|(dot, _)| domain[dot..].to_owned())
        .collect();
    std::iter::once(domain).chain(parents)
}

/// What Postfix finds for each key of these domains.
fn postmap_answers(map: &str, domains: &[String]) -> BTreeMap<String, String> {
    let keys: Vec<String> = domains.iter().flat_map(|domain| keys_of(domain)).collect();
    postmap(&["-q", "-", map], &(keys.join("\n") + "\n"))
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(key, value)| (key.to_owned(), value.replace('\r', " ")))
        .collect()
}
