//! Pieces of HTML and words that all sections of the page use.
//!
//! Written by hand, because the page is one document with a dozen elements, and a template engine would be the larger part of it.

pub(super) use crate::html::Escaped;

use crate::commands::audit::quantity::grouped;
use std::{collections::BTreeSet, fmt};

/// The end of what [`begin_fold`] begins.
pub(super) const END_FOLD: &str = "</details>\n</section>\n";

/// A section that can be folded. On paper it is always open.
pub(super) fn begin_fold(
    f: &mut fmt::Formatter<'_>,
    id: &str,
    title: &str,
    open: bool,
) -> fmt::Result {
    let open = if open { " open" } else { "" };
    writeln!(
        f,
        "<section id=\"{id}\">\n<details class=\"fold\"{open}><summary><h2>{}</h2></summary>",
        Escaped(title)
    )
}

/// The day of a time.
pub(super) fn day(at: &str) -> &str {
    at.get(..10).unwrap_or(at)
}

/// The day and minute of a time.
pub(super) fn minute(at: &str) -> String {
    at.get(..16).unwrap_or(at).replace('T', " ")
}

pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

pub(super) fn list(words: &BTreeSet<String>) -> String {
    words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn or_dash(text: String) -> String {
    if text.is_empty() { "–".into() } else { text }
}

/// A number in a table: coloured by `class`, or quiet if it is 0.
pub(super) fn cell(number: u64, class: &str) -> String {
    let class = if number == 0 { "quiet" } else { class };
    format!("<td class=\"n {class}\">{}</td>", grouped(number))
}

/// A share that says 0 or 100 only where it is none or all.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".into();
    }
    let tenths = (u128::from(part) * 1000 + u128::from(whole) / 2) / u128::from(whole);
    match (part, tenths) {
        (0, _) => "0 %".into(),
        _ if part == whole => "100 %".into(),
        (_, 0) => "&lt; 0.1 %".into(),
        (_, 1000) => "&gt; 99.9 %".into(),
        _ => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_says_all_only_where_it_is_all() {
        assert_eq!(percent(3, 3), "100 %");
        assert_eq!(percent(99_999, 100_000), "&gt; 99.9 %");
        assert_eq!(percent(1, 100_000), "&lt; 0.1 %");
        assert_eq!(percent(0, 5), "0 %");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "–");
    }
}
