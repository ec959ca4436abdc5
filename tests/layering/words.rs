//! One word, one thing; and what the documents say of the files is so.

use crate::source::{root, sources};
use std::collections::BTreeMap;

/// Every type that the source defines, and the files that do.
fn types() -> BTreeMap<String, Vec<String>> {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for line in source.code.lines() {
            // A type inside a trait or its implementation is indented.
            let item = line.strip_prefix("pub").map_or(line, |rest| {
                let rest = if rest.starts_with('(') {
                    rest.split_once(')').map_or("", |(_, rest)| rest)
                } else {
                    rest
                };
                rest.trim_start()
            });
            for keyword in ["struct ", "enum ", "trait ", "type "] {
                if let Some(rest) = item.strip_prefix(keyword) {
                    let end = rest
                        .find(|c: char| !c.is_alphanumeric() && c != '_')
                        .unwrap_or(rest.len());
                    types
                        .entry(rest[..end].to_owned())
                        .or_default()
                        .push(source.path.clone());
                }
            }
        }
    }
    assert!(types.len() > 200, "types are found");
    types
}

#[test]
fn no_two_types_have_one_name() {
    let twice: BTreeMap<_, _> = types()
        .into_iter()
        .filter(|(_, files)| files.len() > 1)
        .collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

/// Rows of the glossary in the crate documentation: `| word | type | meaning |`.
#[test]
fn each_word_of_the_glossary_is_the_name_of_one_type() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let (_, glossary) = text
        .split_once("//! # Glossary")
        .expect("lib.rs has a glossary");
    let glossary = glossary.split("//! #").next().unwrap_or_default();
    let types = types();
    let mut words = 0;
    for row in glossary
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .skip(2)
    {
        let cells: Vec<&str> = row
            .trim_start_matches("//! ")
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        let [word, names, meaning] = cells[..] else {
            panic!("{row}: three cells")
        };
        assert!(!word.is_empty() && meaning.ends_with('.'), "{row}");
        for name in names.split(", ").filter(|name| !name.is_empty()) {
            let path = name.trim_matches(['`', '[', ']']);
            let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
            let files = types
                .get(name)
                .unwrap_or_else(|| panic!("{row}: no type has the name {name}"));
            let room = module.split("::").next().unwrap_or_default();
            assert!(
                files
                    .iter()
                    .all(|file| file.starts_with(&format!("src/{room}"))),
                "{row}: it stands in {files:?}"
            );
            words += 1;
        }
    }
    assert!(words > 20, "{words} words have a type");
}

/// Shipped files longer than this are explained in CONTRIBUTING.md.
const BIG: usize = 540;

/// `path` or `path` (`name`, `name`): the path exists, and the file names each of the names.
#[test]
fn the_documents_name_files_that_exist_and_what_is_in_them() {
    let mut named = 0;
    for document in ["CONTRIBUTING.md", "README.md", "src/lib.rs"] {
        let text = std::fs::read_to_string(root().join(document)).expect("a document");
        // Every second part stands between backticks.
        let parts: Vec<&str> = text.split('`').collect();
        for at in (1..parts.len()).step_by(2) {
            let path = parts[at].split_whitespace().next().unwrap_or_default();
            let is_path = ["src/", "tests/", "fuzz/", "examples/", "systemd/", ".ci/"]
                .iter()
                .any(|folder| path.starts_with(folder));
            if !is_path {
                continue;
            }
            let file = root().join(path);
            assert!(file.exists(), "{document}: there is no {path}");
            named += 1;
            let mut next = at + 1;
            let mut opening = "(";
            while parts
                .get(next)
                .is_some_and(|between| between.trim_start_matches(',').trim() == opening)
            {
                let name = parts[next + 1].rsplit("::").next().unwrap_or_default();
                let code = std::fs::read_to_string(&file).expect("a file");
                assert!(code.contains(name), "{document}: {path} has no {name}");
                (next, opening) = (next + 2, "");
            }
        }
    }
    assert!(named > 60, "{named} files are named");
}

/// "What happened to others" in `src/lib.rs` names the tests that hold its answers.
#[test]
fn the_tests_that_the_crate_documentation_names_exist() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let (_, table) = text
        .split_once("# What happened to others")
        .expect("its table");
    let mut all = String::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            all += &format!("{}\n", path.display());
            if path
                .extension()
                .is_some_and(|end| end == "rs" || end == "py")
                && !path.ends_with("src/lib.rs")
            {
                all += &std::fs::read_to_string(&path).expect("a source file");
            }
        }
    }
    let rows = table
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .skip(2);
    let mut named = 0;
    for row in rows {
        let held = row
            .trim_end_matches([' ', '|'])
            .rsplit(" | ")
            .next()
            .expect("a last cell");
        for name in held.split('`').skip(1).step_by(2) {
            let name = name
                .rsplit('.')
                .find(|part| *part != "smtp")
                .unwrap_or(name);
            assert!(all.contains(name), "no test is called {name}");
            named += 1;
        }
    }
    assert!(named > 15, "{named} tests are named");
}

#[test]
fn each_big_file_has_its_reason() {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let (_, reasons) = text
        .split_once("## The biggest files")
        .expect("its section");
    for source in sources() {
        let lines = std::fs::read_to_string(root().join(&source.path))
            .expect("a file")
            .lines()
            .count();
        let explained = reasons.contains(&format!("- `{}`:", source.path));
        assert!(
            lines <= BIG || explained,
            "{} has {lines} lines and no reason",
            source.path
        );
    }
}
