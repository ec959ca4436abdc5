//! The logs of several nodes on one machine: each is judged by itself, and read together with the others.

use crate::support::{DAMAGED, DONE, Directory, code, message, options, start, verify, wait};
use starttls_proxy::{
    audit::{AddressForm, AuditLog, AuditOptions, rotated},
    commands::audit as command,
    flags::{AuditReportFlags, AuditShowFlags, AuditVerifyFlags},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Exit code: an argument means nothing.
const WRONG: u8 = 78;

static SECONDS: AtomicU64 = AtomicU64::new(0);
/// One test at a time uses the clock.
static CLOCK: Mutex<()> = Mutex::new(());

fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.load(Ordering::SeqCst))
}

const MESSAGES: u64 = 60;

/// Two nodes that took turns, each with its own key, in a folder named as the node.
struct Nodes {
    directory: Directory,
    keys: Vec<String>,
}

impl Nodes {
    fn new(name: &str) -> Self {
        let _clock = CLOCK.lock();
        let directory = Directory::new(name);
        let mut keys = Vec::new();
        SECONDS.store(1_795_000_000, Ordering::SeqCst);
        let logs = ["one", "two"].map(|node| {
            let folder = directory.0.join(node);
            fs::create_dir(&folder).unwrap();
            let (key, public) = directory.key();
            let own = folder.join("key");
            fs::rename(key, &own).unwrap();
            fs::remove_file(public.replace(".pub", ".ml-dsa.pub")).unwrap();
            fs::rename(public, folder.join("key.pub")).unwrap();
            keys.push(folder.join("key.pub").display().to_string());
            SECONDS.fetch_add(1, Ordering::SeqCst);
            let log = AuditLog::open(AuditOptions {
                origin: format!("{node}.example/outbound"),
                key: Some(own),
                rotate_octets: 25_000,
                checkpoint_records: 10,
                addresses: match node {
                    "one" => AddressForm::Full,
                    _ => AddressForm::Hashed,
                },
                clock,
                ..options(&folder.join("audit.jsonl"))
            });
            log.unwrap()
        });
        logs.iter().for_each(|log| log.append(&start()));
        for n in 0..MESSAGES {
            for log in &logs {
                SECONDS.fetch_add(1, Ordering::SeqCst);
                wait(log.append_durable(&message(log, n))).unwrap();
            }
        }
        for log in logs {
            assert!(log.close());
        }
        let nodes = Self { directory, keys };
        for file in nodes.both() {
            assert!(rotated(&file).unwrap().len() > 2, "not rotated");
        }
        nodes
    }

    fn file(&self, node: &str) -> PathBuf {
        self.directory.0.join(node).join("audit.jsonl")
    }

    fn both(&self) -> Vec<PathBuf> {
        vec![self.file("two"), self.file("one")]
    }

    /// All files of both, newest first.
    fn all_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for file in self.both() {
            let mut older = rotated(&file).unwrap();
            older.reverse();
            files.push(file);
            files.append(&mut older);
        }
        files
    }

    fn verified(&self, files: Vec<PathBuf>, anchors: &[String]) -> (u8, String) {
        verify(&AuditVerifyFlags {
            files,
            key: self.keys.clone(),
            anchor: anchors.to_vec(),
            ..AuditVerifyFlags::default()
        })
    }

    /// Node two's file number `place`, with the oldest first.
    fn older(&self, place: usize) -> PathBuf {
        rotated(&self.file("two")).unwrap().swap_remove(place)
    }
}

fn edit(file: &Path, change: impl Fn(&mut Vec<String>)) {
    let text = fs::read_to_string(file).unwrap();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    change(&mut lines);
    fs::write(file, lines.concat()).unwrap();
}

#[test]
fn logs_of_several_nodes_are_told_apart_by_their_names_and_each_is_verified() {
    let nodes = Nodes::new("nodes");
    // As a shell's `*` names them.
    let mut folder = nodes.all_files();
    for file in nodes.both() {
        let beside = ["lock", "epoch"].map(|suffix| file.with_added_extension(suffix));
        folder.extend(beside);
    }
    for files in [nodes.both(), nodes.all_files(), folder] {
        let (code, said) = nodes.verified(files, &[]);
        assert_eq!(code, DONE, "{said}");
        for words in [
            "2 logs, all intact\n",
            "\none.example/outbound: intact\n",
            "\ntwo.example/outbound: intact\n",
        ] {
            assert!(said.contains(words), "{words:?} is not in\n{said}");
        }
    }
    // One of them alone is said as ever.
    let (code, said) = nodes.verified(vec![nodes.file("one")], &[]);
    assert_eq!(code, DONE, "{said}");
    assert!(
        said.starts_with("intact\n  log          one.example/outbound\n"),
        "{said}"
    );
}

#[test]
fn whatever_is_done_to_the_log_of_one_node_is_found_and_hides_no_other() {
    type Harm = fn(&Nodes);
    let harms: [(&str, Harm, &str); 5] = [
        (
            "edited",
            |nodes| {
                edit(&nodes.older(1), |lines| {
                    lines[2] = lines[2].replace("250 ", "251 ")
                })
            },
            "edited:",
        ),
        (
            "oldest-file-gone",
            |nodes| fs::remove_file(nodes.older(0)).unwrap(),
            "missing:",
        ),
        (
            "a-file-gone",
            |nodes| fs::remove_file(nodes.older(1)).unwrap(),
            "missing:",
        ),
        (
            "first-line-broken",
            |nodes| edit(&nodes.older(0), |lines| lines[0] = "{}\n".into()),
            "edited:",
        ),
        (
            "first-line-of-another-node",
            |nodes| {
                let other = rotated(&nodes.file("one")).unwrap().swap_remove(0);
                let other = fs::read_to_string(other).unwrap();
                edit(&nodes.older(0), |lines| {
                    lines[0] = other.split_inclusive('\n').next().unwrap().to_owned();
                });
            },
            "NOT INTACT",
        ),
    ];
    for (name, harm, words) in harms {
        let nodes = Nodes::new(name);
        harm(&nodes);
        for files in [nodes.both(), nodes.all_files()] {
            let (code, said) = nodes.verified(files, &[]);
            assert_eq!(code, DAMAGED, "{name}: {said}");
            assert!(said.contains(words), "{name}: {said}");
            if name != "first-line-of-another-node" {
                assert!(said.starts_with("2 logs, 1 NOT INTACT\n"), "{name}: {said}");
                assert!(
                    said.contains("\none.example/outbound: intact\n"),
                    "{name}: {said}"
                );
                // Where the first record is not there, the log has no name that could be believed.
                let line = said.lines().find(|line| line.contains(": NOT INTACT: "));
                let line = line.unwrap();
                let names = [
                    "two.example/outbound: ".to_owned(),
                    nodes.directory.0.join("two").display().to_string(),
                ];
                assert!(
                    names.iter().any(|name| line.starts_with(name)),
                    "{name}: {said}"
                );
            }
        }
    }
}

/// Otherwise whoever can write the log could hide its past behind a new beginning.
#[test]
fn a_log_that_was_begun_anew_under_its_name_is_no_second_log() {
    let nodes = Nodes::new("begun-anew");
    let other = Nodes::new("begun-anew-from");
    let file = nodes.directory.0.join("new.jsonl");
    fs::copy(other.older(0), &file).unwrap();
    let files = [rotated(&nodes.file("two")).unwrap(), vec![file]].concat();
    let (code, said) = verify(&AuditVerifyFlags {
        files,
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.starts_with("NOT INTACT: "), "{said}");
}

#[test]
fn a_log_that_was_renamed_between_two_files_stays_one_log_beside_another() {
    let nodes = Nodes::new("renamed-node");
    let folder = nodes.directory.0.join("two");
    // Moved away before it goes on with another name.
    let (file, aside) = (nodes.file("two"), folder.join("until-november"));
    let key = Some(folder.join("key"));
    let mut files = rotated(&file).unwrap();
    fs::copy(&file, &aside).unwrap();
    let log = AuditLog::open(AuditOptions {
        origin: "three.example/outbound".into(),
        key,
        ..options(&file)
    });
    let log = log.unwrap();
    wait(log.append_durable(&start())).unwrap();
    assert!(log.close());
    let length = usize::try_from(fs::metadata(&aside).unwrap().len()).unwrap();
    let behind = fs::read(&file).unwrap().split_off(length);
    fs::write(&file, behind).unwrap();
    files.extend([file, aside]);
    files.extend(
        nodes
            .all_files()
            .into_iter()
            .filter(|file| file.starts_with(nodes.directory.0.join("one"))),
    );
    let (code, said) = nodes.verified(files, &[]);
    assert_eq!(code, DONE, "{said}");
    assert!(said.starts_with("2 logs, all intact\n"), "{said}");
    assert!(said.contains("two.example/outbound until record"), "{said}");
}

#[test]
fn an_anchor_must_say_of_which_log_it_is() {
    let nodes = Nodes::new("anchored-nodes");
    let (_, said) = nodes.verified(nodes.both(), &[]);
    let heads = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("head"));
    let heads: Vec<&str> = heads.map(str::trim).collect();
    let journal = nodes.directory.0.join("journal");
    let line = |node: &str, head: &str| {
        let (size, hash) = head.split_once(':').unwrap();
        format!("audit checkpoint origin={node}.example/outbound size={size} head={hash}\n")
    };
    fs::write(&journal, line("one", heads[0]) + &line("two", heads[1])).unwrap();
    let journal = journal.display().to_string();
    let (code, said) = nodes.verified(nodes.both(), std::slice::from_ref(&journal));
    assert_eq!(code, DONE, "{said}");
    assert_eq!(said.matches("all 1 agree").count(), 2, "{said}");
    // The end of one is cut off.
    edit(&nodes.file("two"), |lines| {
        lines.pop();
    });
    let (code, said) = nodes.verified(nodes.both(), std::slice::from_ref(&journal));
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("\none.example/outbound: intact\n"), "{said}");
    assert!(
        said.contains("\ntwo.example/outbound: NOT INTACT: "),
        "{said}"
    );
    let (code, said) = nodes.verified(nodes.both(), &[heads[0].to_owned()]);
    assert_eq!(code, WRONG, "{said}");
    assert!(said.contains("of which log"), "{said}");
}

fn shown(flags: &AuditShowFlags) -> String {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let result = command::show(flags, &mut out, &mut errors);
    assert_eq!(code(&result), DONE, "{}", String::from_utf8_lossy(&errors));
    String::from_utf8(out).unwrap()
}

#[test]
fn records_of_several_nodes_are_shown_by_time_with_the_file_that_each_is_from() {
    let nodes = Nodes::new("shown-nodes");
    let flags = |json, files| AuditShowFlags {
        json,
        files,
        ..AuditShowFlags::default()
    };
    let json = shown(&flags(true, nodes.both()));
    let at = |line: &str| line.split("\"at\":\"").nth(1).unwrap()[..27].to_owned();
    let times: Vec<String> = json.lines().map(at).collect();
    assert!(times.is_sorted());
    // Lines stand as they were written.
    let alone = ["one", "two"].map(|node| shown(&flags(true, vec![nodes.file(node)])));
    let mut lines: Vec<&str> = alone.iter().flat_map(|text| text.lines()).collect();
    let mut together: Vec<&str> = json.lines().collect();
    lines.sort_unstable();
    together.sort_unstable();
    assert_eq!(together, lines);
    let sentences = shown(&flags(false, nodes.both()));
    let messages = sentences.lines().filter(|line| line.contains(" message "));
    let from: Vec<bool> = messages
        .map(|line| {
            let (file, _) = line.split_once(": ").unwrap();
            file.contains("/one/audit.jsonl")
        })
        .collect();
    assert_eq!(from.len() as u64, 2 * MESSAGES);
    // They took turns.
    assert!(
        from.chunks(2).all(|two| two == [true, false]),
        "{sentences}"
    );
}

fn report(nodes: &Nodes) -> (u8, String, String) {
    let html = nodes.directory.0.join("report.html");
    let flags = AuditReportFlags {
        files: nodes.both(),
        key: nodes.keys.clone(),
        html: html.clone(),
        ..AuditReportFlags::default()
    };
    let mut out = Vec::new();
    let result = command::report(&flags, &mut out, None);
    let page = fs::read_to_string(html).unwrap();
    (code(&result), String::from_utf8(out).unwrap(), page)
}

#[test]
fn the_report_counts_the_messages_of_all_nodes_and_has_the_state_of_each_log() {
    let nodes = Nodes::new("reported-nodes");
    let (code, said, page) = report(&nodes);
    assert_eq!(code, DONE, "{said}");
    assert!(said.contains("all 2 logs are intact"), "{said}");
    for part in [
        "<h2>one.example/outbound: The log is intact</h2>",
        "<h2>two.example/outbound: The log is intact</h2>",
        "120 messages were handed over",
        "two.example/outbound: start of version",
        "<dd>one.example/outbound, two.example/outbound</dd>",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    // Both have the same table: its exemptions are listed once.
    assert_eq!(page.matches("old fax gateway").count(), 1);
    edit(&nodes.older(0), |lines| {
        lines[1] = lines[1].replace("seq", "sqe")
    });
    let (code, said, page) = report(&nodes);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(
        said.contains("two.example/outbound is NOT INTACT"),
        "{said}"
    );
    for part in [
        "<h2>one.example/outbound: The log is intact</h2>",
        "<h2>two.example/outbound: The log is not intact</h2>",
        "60 messages were handed over",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
}

#[test]
fn the_report_is_the_same_in_whatever_order_the_logs_are_read_and_lists_changes_by_time() {
    let nodes = Nodes::new("reported-nodes-in-order");
    let (html, json) = ("report.html", "report.json");
    let [html, json] = [html, json].map(|name| nodes.directory.0.join(name));
    let mut twins = Vec::new();
    // Logs are read in the order of their paths.
    for (before, folder) in [("one", "first"), ("first", "zero")] {
        let [before, folder] = [before, folder].map(|name| nodes.directory.0.join(name));
        fs::rename(before, &folder).unwrap();
        let flags = AuditReportFlags {
            files: vec![nodes.file("two"), folder.join("audit.jsonl")],
            html: html.clone(),
            json: Some(json.clone()),
            ..AuditReportFlags::default()
        };
        command::report(&flags, &mut Vec::new(), None).unwrap();
        let text = fs::read(&json).unwrap();
        let mut twin: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let changes = twin["tables"]["operation"].as_array_mut().unwrap();
        let times = changes.iter().map(|one| one["at"].as_str().unwrap());
        assert!(changes.len() >= 2 && times.is_sorted(), "{changes:?}");
        // Both programs began in the same moment.
        changes.sort_by_key(ToString::to_string);
        twins.push(twin);
    }
    for part in [
        "tables",
        "first_record",
        "last_record",
        "hosts",
        "addresses",
    ] {
        assert_eq!(twins[0][part], twins[1][part], "{part}");
        assert!(!twins[0][part].is_null(), "{part}");
    }
}
