//! Which file uses which: imports go one way.

use crate::source::{Source, paths, sources};
use std::collections::{BTreeMap, BTreeSet};

/// `src/smtp/mod.rs` is the module `smtp`, `src/smtp/relay/slots.rs` is `smtp::relay::slots`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').map(str::to_owned).collect(),
    }
}

/// The modules that the code of `module` names: the longest part of each path that is one of `known`.
fn targets(module: &[String], code: &str, known: &BTreeSet<Vec<String>>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let children = known
        .iter()
        .filter(|one| one.len() == module.len() + 1 && one.starts_with(module));
    let children: BTreeSet<&str> = children
        .filter_map(|one| one.last())
        .map(String::as_str)
        .collect();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    while let Some(len) = code[at..].find("::") {
        let colons = at + len;
        at = colons + 2;
        let first = code[..colons]
            .rfind(|c| !word(c))
            .map_or(0, |before| before + 1);
        let root = &code[first..colons];
        let begins = !code[..first].ends_with("::");
        if !begins || !(["crate", "super", "self"].contains(&root) || children.contains(root)) {
            continue;
        }
        for path in paths(&code[first..]) {
            let mut place: Vec<String> = if root == "crate" {
                Vec::new()
            } else {
                module.to_vec()
            };
            for segment in path {
                match segment.as_str() {
                    "crate" | "self" => {}
                    "super" => drop(place.pop()),
                    name => {
                        place.push(name.to_owned());
                        if !known.contains(&place) {
                            place.pop();
                            break;
                        }
                    }
                }
            }
            found.insert(place);
        }
    }
    found
}

/// Files that use each other, each circle once. A file may use what stands in the modules that it is a part of.
fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let known: BTreeSet<Vec<String>> = sources
        .iter()
        .map(|source| module_of(&source.path))
        .collect();
    let arrows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = sources
        .iter()
        .map(|source| {
            let module = module_of(&source.path);
            let mut used = targets(&module, &source.code, &known);
            used.retain(|used| !module.starts_with(used));
            (module, used)
        })
        .collect();
    let reach = |from: &Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Vec<String>> = arrows[from].iter().collect();
        while let Some(one) = next.pop() {
            if seen.insert(one.clone()) {
                next.extend(arrows.get(one).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = arrows
        .keys()
        .map(|module| (module, reach(module)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, theirs) in &reached {
        let circle: Vec<String> = theirs
            .iter()
            .filter(|other| {
                reached
                    .get(other)
                    .is_some_and(|back| back.contains(*module))
            })
            .map(|other| other.join("::"))
            .collect();
        if theirs.contains(*module) {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let circles = circles(&sources());
    assert!(circles.is_empty(), "{circles:#?}");
}
