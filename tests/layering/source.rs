//! The source as the rules read it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One source file, without comments, string literals and tests.
pub struct Source {
    /// From the root of the crate, e.g. `src/smtp/mod.rs`.
    pub path: String,
    /// Where a string literal stood, its number in `literals` stands, in quotes.
    pub code: String,
    pub literals: Vec<String>,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
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
pub fn sources() -> Vec<Source> {
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

pub fn read(file: &Path) -> Source {
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
pub fn without_tests(code: &str) -> String {
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
pub fn code(text: &str) -> (String, Vec<String>) {
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
pub fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// The modules right below the crate that a `use` or a path names.
pub fn modules_used(code: &str) -> BTreeSet<String> {
    let named = code
        .match_indices("crate::")
        .flat_map(|(at, _)| paths(&code[at..]));
    named.filter_map(|path| path.into_iter().nth(1)).collect()
}

/// Every path at the start of `text`: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
pub fn paths(text: &str) -> Vec<Vec<String>> {
    let mut segments = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            let inside = group_of(group);
            let tails = inside.into_iter().flat_map(|part| {
                let inner = paths(part);
                if inner.is_empty() {
                    vec![Vec::new()]
                } else {
                    inner
                }
            });
            return tails
                .map(|tail| [segments.clone(), tail].concat())
                .collect();
        }
        let len = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if len == 0 {
            break;
        }
        segments.push(rest[..len].to_owned());
        match rest[len..].strip_prefix("::") {
            Some(more) => rest = more,
            None => break,
        }
    }
    if segments.is_empty() {
        Vec::new()
    } else {
        vec![segments]
    }
}

/// The parts between commas, up to the brace that closes the group.
fn group_of(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&text[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts
}
