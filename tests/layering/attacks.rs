//! The page of attacks names tests that exist.

use crate::source::root;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const PAGE: &str = "docs/attacks.md";

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The test functions of a file in Rust: those behind an attribute that makes them one.
fn in_rust(text: &str) -> BTreeSet<String> {
    let (mut names, mut is_test) = (BTreeSet::new(), false);
    for line in text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("async ").unwrap_or(line);
        if let Some(rest) = function.strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

fn in_python(text: &str) -> impl Iterator<Item = String> {
    let functions = text.lines().map(str::trim_start);
    let tests = functions.filter_map(|line| line.strip_prefix("def test_"));
    tests.map(|rest| rest.split('(').next().unwrap_or_default().to_owned())
}

/// All tests of the project by their names; dialogues with their folder.
fn tests() -> BTreeSet<String> {
    let (mut found, mut names) = (Vec::new(), BTreeSet::new());
    for folder in ["src", "tests"] {
        files(&root().join(folder), &mut found);
    }
    let dialogues = root().join("tests/dialogues");
    for path in found {
        let read = || fs::read_to_string(&path).expect("a file of text");
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => names.extend(in_rust(&read())),
            Some("py") => names.extend(in_python(&read())),
            Some("smtp") => {
                let name = path.strip_prefix(&dialogues).expect("a dialogue");
                names.insert(name.with_extension("").display().to_string());
            }
            _ => {}
        }
    }
    names
}

#[test]
fn each_attack_is_shown_by_tests_that_exist() {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page of attacks");
    let (tests, mut numbers, mut wrong) = (tests(), BTreeSet::new(), Vec::new());
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [number, way, attack, answer, shown] = cells[..] else {
            // The head of a table, and the line below it.
            continue;
        };
        if number.starts_with('-') {
            continue;
        }
        assert!(["in", "out", "both"].contains(&way), "{line}");
        assert!(attack.ends_with('.') && answer.ends_with('.'), "{line}");
        assert!(numbers.insert(number), "{number} stands twice");
        let named: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{number} is shown by no test"));
        }
        let missing = named.into_iter().filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("{number}: no test is called {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(numbers.len() > 100, "{} attacks are told", numbers.len());
}

#[test]
fn only_functions_that_are_run_as_tests_count() {
    let text = "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test(flavor = \"x\")]\n#[ignore]\nasync fn two() {}";
    let names: Vec<String> = in_rust(text).into_iter().collect();
    assert_eq!(names, ["one", "two"]);
    let text = "    def test_three(self):\n    def four(self):\n";
    assert_eq!(in_python(text).collect::<Vec<_>>(), ["three"]);
}
