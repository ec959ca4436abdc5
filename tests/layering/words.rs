//! One word, one thing.

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
