//! What the source must look like for its promises to be checkable by reading: which module may name what, where each
//! proof is made, and that no file outgrows its reader.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Longest file, in lines.
const MAX_LINES: usize = 650;

/// One source file, without comments, string literals and tests.
struct Source {
    /// From the root of the crate, e.g. `src/smtp/mod.rs`.
    path: String,
    /// Where a string literal stood, its number in `literals` stands, in quotes.
    code: String,
    literals: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All of `src` that ships.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut sources: Vec<Source> = files.iter().map(|file| read(file)).collect();
    let tests: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources.retain(|source| {
        let is_of = |module: &String| {
            source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"))
        };
        !tests.iter().any(is_of)
    });
    for source in &mut sources {
        source.code = without_tests(&source.code);
    }
    assert!(sources.len() > 50, "the sources are found");
    sources
}

fn read(file: &Path) -> Source {
    let text = fs::read_to_string(file).expect("a source file");
    let path = file.strip_prefix(root()).expect("inside the crate");
    let (code, literals) = code(&text);
    Source {
        path: path.display().to_string(),
        code,
        literals,
    }
}

/// The folder in which a file's modules are.
fn folder(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    path.strip_suffix("/mod")
        .or(path.strip_suffix("/lib"))
        .unwrap_or(path)
        .to_owned()
}

/// `#[cfg(test)] mod name;`, as paths without `.rs`.
fn test_modules(source: &Source) -> Vec<String> {
    let mut modules = Vec::new();
    for part in source.code.split("#[cfg(test)]").skip(1) {
        let declaration = part
            .trim_start()
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ");
        if let Some(rest) = declaration.strip_prefix("mod ") {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if rest[name.len()..].starts_with(';') {
                modules.push(format!("{}/{name}", folder(&source.path)));
            }
        }
    }
    modules
}

/// Without items behind `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut parts = code.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut depth = 0;
        let end = part.char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(at + 1)
        });
        kept.push_str(&part[end.unwrap_or(part.len())..]);
    }
    kept
}

/// Without comments and without what stands between quotes, so that braces and names mean what they say; and that.
fn code(text: &str) -> (String, Vec<String>) {
    let mut code = String::with_capacity(text.len());
    let mut literals = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = ["r#\"", "br#\"", "r\"", "br\""]
            .iter()
            .find(|start| rest.starts_with(**start));
        let in_a_word = code.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let (Some(start), false) = (raw, in_a_word) {
            let end = if start.contains('#') { "\"#" } else { "\"" };
            start.len() + rest[start.len()..].find(end).map_or(0, |at| at + end.len())
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            quoted(rest, '\'')
        } else {
            code.push(c);
            c.len_utf8()
        };
        if c == '"' {
            code.push_str(&format!("\"{}\"", literals.len()));
            literals.push(rest[1..skipped].trim_end_matches('"').to_owned());
        }
        rest = &rest[skipped..];
    }
    (code, literals)
}

/// Length of the literal that `text` begins with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// Whether `code` names `word`, not as part of a longer name.
fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// Everything that a `use` or a path names below `crate::`, down to the first level.
fn modules_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let group = match rest.strip_prefix('{') {
            // Names at the first level of the braces.
            Some(inside) => {
                let mut depth = 0;
                let mut names = vec![String::new()];
                for c in inside.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(String::new()),
                        c => names.last_mut().expect("there is one").push(if depth == 0 {
                            c
                        } else {
                            ' '
                        }),
                    }
                }
                names
            }
            None => vec![rest.to_owned()],
        };
        for name in group {
            used.insert(
                name.trim()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    used
}

#[test]
fn the_cores_know_no_world() {
    let worldly = [
        "tokio",
        "rustls",
        "tokio_rustls",
        "hyper",
        "domain::resolv",
        "socket2",
        "listenfd",
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
        let by_name = ["Instant::now", "SystemTime::now", "Utc::now", "Local::now"];
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
const INVARIANTS: [&str; 9] = [
    "32 octets are within what HKDF can give",
    "a machine takes no more than it was offered",
    "answered above",
    "clamped",
    "it begins with one part",
    "it was put there",
    "made with a key for this form",
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
fn a_warning_is_silenced_only_with_its_reason() {
    for source in sources() {
        for attribute in ["[allow(", "[expect("] {
            for (at, _) in source.code.match_indices(attribute) {
                let inside = source.code[at..].split(']').next().unwrap_or_default();
                assert!(
                    names(inside, "reason"),
                    "{}: {inside}] without a reason",
                    source.path
                );
            }
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

/// The rules above are as good as what they read.
mod the_reader {
    use super::*;

    #[test]
    fn sees_code_and_not_comments_or_strings() {
        let text = "use a; // tokio\nlet s = \"tokio { \\\" }\"; let c = '\"'; let r = r#\"tokio \"\"#; b<'a>(tokio)";
        let (read, literals) = code(text);
        assert_eq!(read.matches("tokio").count(), 1, "{read}");
        assert!(!read.contains('{'));
        assert_eq!(literals, ["tokio { \\\" }"]);
    }

    #[test]
    fn sees_how_a_proof_is_made_however_it_is_spelled() {
        for made in [
            "let a = Authorised::assertion();",
            "option.map(Authorised::unauthenticated)",
            "return Some(Authorised(()));",
            "f(smtp::Authorised(()), 1)",
            "Answer::Authorised(Authorised { authenticated: true })",
            "use crate::smtp::Authorised as Yes;",
        ] {
            assert!(makes(made, "Authorised"), "{made}");
        }
        for not_made in [
            "Ok(Authorised(())) => {",
            "let (A(Authorised { .. }) | B(Exempted(()))) = permit;",
            "pub struct Authorised {\n    authenticated: bool,\n}",
            "impl Authorised {\n    fn x(&self) {}\n}",
            "Answer::Authorised(answer)",
            "NotAuthorised::assertion()",
        ] {
            assert!(!makes(not_made, "Authorised"), "{not_made}");
        }
    }

    #[test]
    fn leaves_out_tests() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c.unwrap() } }\nfn d() {}\n#[cfg(test)]\nmod e;\nfn f() {}";
        let kept = without_tests(text);
        assert!(kept.contains("fn d") && kept.contains("fn f"));
        assert!(!kept.contains("unwrap") && !kept.contains("mod e"));
    }

    #[test]
    fn finds_modules_in_groups() {
        let used = modules_used("use crate::{smtp::{Side, Domain}, tls};\ncrate::audit::log();");
        assert_eq!(
            used.into_iter().collect::<Vec<_>>(),
            ["audit", "smtp", "tls"]
        );
    }
}
