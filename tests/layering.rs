//! What the source must look like for its promises to be checkable by reading: which module may name what, where each
//! proof is made, and that no file outgrows its reader.

#[path = "layering/arrows.rs"]
mod arrows;
#[path = "layering/attacks.rs"]
mod attacks;
#[path = "layering/manual.rs"]
mod manual;
#[path = "layering/reader.rs"]
mod reader;
#[path = "layering/source.rs"]
mod source;
#[path = "layering/words.rs"]
mod words;

use source::{modules_used, names, read, root, rust_files, sources};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// Longest file, in lines.
const MAX_LINES: usize = 650;

#[test]
fn the_cores_know_no_world() {
    let worldly = [
        "tokio",
        "rustls",
        "tokio_rustls",
        "hyper",
        "domain::resolv",
        "socket2",
        "sd_listen_fds",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixDatagram",
        "Instant",
        "std::thread",
        "std::fs",
        "std::io",
        "std::env",
        "std::process",
        "async",
        "await",
        "log::info",
        "log::warn",
        "log::error",
        "println",
        "eprintln",
    ];
    for source in sources() {
        if !source.path.starts_with("src/smtp/") && !source.path.starts_with("src/policy/") {
            continue;
        }
        for word in worldly {
            assert!(!names(&source.code, word), "{} names {word}", source.path);
        }
    }
}

#[test]
fn modules_use_only_what_stands_above_them_in_the_crate() {
    let lib = read(&root().join("src/lib.rs"));
    let order: Vec<&str> = lib
        .code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert!(order.len() > 8 && order[0] == "smtp", "{order:?}");
    let rank: BTreeMap<&str, usize> = order
        .iter()
        .enumerate()
        .map(|(n, name)| (*name, n))
        .collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.path["src/".len()..]
            .split(['/', '.'])
            .next()
            .unwrap_or_default();
        let Some(mine) = rank.get(module) else {
            continue;
        };
        for used in modules_used(&source.code) {
            if rank.get(used.as_str()).is_some_and(|theirs| theirs > mine) {
                wrong.push(format!(
                    "{} uses {used}, which stands below {module} in lib.rs",
                    source.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn tls_is_the_business_of_few() {
    // The policy host of MTA-STS speaks HTTPS. PEM files are read with pki_types, which knows no TLS.
    let allowed = ["src/tls/", "src/session/", "src/lookup/"];
    for source in sources() {
        let code = source.code.replace("rustls::pki_types", "pki_types");
        let tls = names(&code, "rustls") || names(&code, "tokio_rustls");
        let may = allowed.iter().any(|path| source.path.starts_with(path));
        assert!(!tls || may, "{} names rustls", source.path);
    }
}

/// Where code says what is known: a proof of the machines, and who may make it.
const PROOFS: [(&str, &[&str]); 3] = [
    // The policy's verdict is in.
    ("Authorised", &["src/session/permits.rs"]),
    ("Exempted", &["src/session/permits.rs"]),
    // The disk has answered.
    ("Recorded", &["src/session/journal.rs"]),
];

#[test]
fn each_proof_is_made_where_the_fact_is_known() {
    for (token, expected) in PROOFS {
        let made: Vec<String> = sources()
            .into_iter()
            .filter(|source| makes(&source.code, token))
            .map(|source| source.path)
            .collect();
        assert_eq!(made, expected, "{token}");
    }
}

/// Values that stand for a fact inside their room, and the one file whose code may make them.
const FACTS: [(&str, &str); 4] = [
    // A decision is in log and record.
    ("Written", "src/session/journal.rs"),
    // The same, to be counted again. It may be copied: each use of it makes a new proof.
    ("WrittenDecision", "src/session/journal.rs"),
    // What such a decision lets pass.
    ("LastingPermit", "src/session/permits.rs"),
    // A chain ends at a trusted authority. It may be copied: it is remembered until it expires.
    ("Verified", "src/tls/chain.rs"),
];

#[test]
fn each_fact_is_made_in_its_own_file() {
    for (token, file) in FACTS {
        let made: Vec<String> = sources()
            .into_iter()
            .filter(|source| {
                makes(&source.code, token) || source.code.contains(&format!("impl {token}"))
            })
            .map(|source| source.path)
            .collect();
        assert_eq!(made, [file], "{token}");
    }
}

#[test]
fn a_proof_cannot_be_copied_or_made_from_nothing() {
    let sources = sources();
    for (token, _) in PROOFS {
        let definition = format!("pub struct {token}");
        let defined: Vec<&str> = sources
            .iter()
            .filter(|source| names(&source.code, &definition))
            .map(|source| source.code.as_str())
            .collect();
        let [code] = defined[..] else {
            panic!("{token} is defined in {} files", defined.len());
        };
        let (before, behind) = code.split_once(&definition).expect("it is there");
        let derived = &before[before.rfind("#[derive(").expect("it derives something")..];
        let fields = behind.split([';', '}']).next().unwrap_or_default();
        assert!(!names(fields, "pub"), "a field of {token} can be named");
        for way in ["Clone", "Copy", "Default"] {
            assert!(!names(derived, way), "{token} is {way}");
            for source in &sources {
                let written = format!("{way} for {token}");
                assert!(!names(&source.code, &written), "{token} is {way}");
            }
        }
    }
}

#[test]
fn only_its_own_file_adds_functions_to_a_proof() {
    for source in sources() {
        if source.path == "src/smtp/proof.rs" {
            continue;
        }
        for (token, _) in PROOFS {
            // `Self(())` inside would make one, and no rule above would see it.
            for adds in [
                format!("impl {token}"),
                format!("for {token}"),
                format!("for smtp::{token}"),
            ] {
                assert!(!names(&source.code, &adds), "{} has `{adds}`", source.path);
            }
        }
    }
}

/// Whether code makes this proof: by a function of its own, under another name, or, among the machines, where its field can
/// be named, without the functions that are there for it.
fn makes(code: &str, token: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(token).any(|(at, _)| {
        let (before, behind) = (&code[..at], &code[at + token.len()..]);
        if before.ends_with(word) {
            return false;
        }
        let called = behind
            .strip_prefix("::")
            .is_some_and(|name| name.starts_with(|c: char| c.is_lowercase()));
        called || behind.starts_with(" as ") || is_literal(before, behind)
    })
}

/// Whether a name between these is a struct's literal: neither a definition nor a pattern nor a variant of an enum.
fn is_literal(before: &str, behind: &str) -> bool {
    let is_path =
        before.ends_with("::") && !before.ends_with("smtp::") && !before.ends_with("super::");
    let is_item = ["struct ", "impl ", "for "]
        .iter()
        .any(|item| before.ends_with(item));
    let end = match behind.trim_start() {
        fields if fields.starts_with("(())") => behind.find("(())").map(|at| at + "(())".len()),
        fields if fields.starts_with('{') => behind.find('}').map(|at| at + 1),
        _ => None,
    };
    let Some(end) = end.filter(|_| !is_path && !is_item) else {
        return false;
    };
    let then = behind[end..].trim_start_matches(|c: char| c == ')' || c.is_whitespace());
    !["=>", "= ", "|", "if ", ": "]
        .iter()
        .any(|sign| then.starts_with(sign))
}

#[test]
fn time_is_read_in_one_place() {
    for source in sources() {
        let by_name = [
            "Instant::now",
            "SystemTime::now",
            "Timestamp::now",
            "Zoned::now",
        ];
        // A time that is asked how long ago it was reads the clock, too.
        let reads = by_name.iter().any(|reading| names(&source.code, reading))
            || names(&source.code, "elapsed")
            || names(&source.code, "Instant as")
            || names(&source.code, "SystemTime as");
        assert!(
            !reads || source.path == "src/clock.rs",
            "{} reads the clock",
            source.path
        );
    }
    let clippy = fs::read_to_string(root().join(".clippy.toml")).expect(".clippy.toml");
    assert!(
        clippy.contains("std::time::Instant::now") && clippy.contains("std::time::SystemTime::now")
    );
}

/// Why what is expected is always so. Who expects something else says here why, or returns an error.
const INVARIANTS: [&str; 12] = [
    "32 octets are within what HKDF can give",
    "a machine takes no more than it was offered",
    "answered above",
    "any 32 octets are the secret of a key",
    "clamped",
    "it begins with one part",
    "it was put there",
    "made with a key for this form",
    "no more fits than there is room",
    "no more is taken than is there",
    "records have string keys only",
    "the provider has suites and groups for both versions",
];

#[test]
fn what_ends_the_program_is_said_to_be_impossible_and_why() {
    let mut said = BTreeSet::new();
    for source in sources() {
        for end in [
            ".expect(",
            ".expect_err(",
            "panic!(",
            "unreachable!(",
            "assert!(",
            "assert_eq!(",
            "assert_ne!(",
        ] {
            for (at, _) in source.code.match_indices(end) {
                if source.code[..at].ends_with("debug_") {
                    continue; // not in what ships
                }
                let argument = source.code[at + end.len()..].split(';').next();
                let why = argument
                    .and_then(|argument| argument.split('"').nth(1))
                    .and_then(|number| source.literals.get(number.parse::<usize>().ok()?));
                let why = why.map_or("nothing", String::as_str);
                assert!(
                    INVARIANTS.contains(&why),
                    "{}: {end}) says {why:?}, which is not among INVARIANTS",
                    source.path
                );
                said.insert(why.to_owned());
            }
        }
    }
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    assert_eq!(said, INVARIANTS, "and no reason is kept that is not needed");
}

#[test]
fn nothing_is_unsafe_and_nothing_is_unwrapped() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for source in sources() {
        assert!(!names(&source.code, "unsafe"), "{} has unsafe", source.path);
        for shrug in [
            "unwrap",
            "unwrap_err",
            "unwrap_unchecked",
            "todo",
            "unimplemented",
            "dbg",
        ] {
            let called = format!("{shrug}(");
            let passed = format!("::{shrug}");
            let is_there = names(&source.code, &called)
                || names(&source.code, &passed)
                || names(&source.code, &format!("{shrug}!"));
            assert!(!is_there, "{} has {shrug}", source.path);
        }
    }
}

#[test]
fn no_file_outgrows_its_reader() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "fuzz"] {
        rust_files(&root().join(folder), &mut files);
    }
    for file in files {
        let lines = fs::read_to_string(&file)
            .expect("a source file")
            .lines()
            .count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
    }
}
