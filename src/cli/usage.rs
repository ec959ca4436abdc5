//! What is said where the command line is not understood, and where help was asked for.

use argh::FromArgs as _;

use super::{Exit, help};
use crate::flags::ProgramFlags;

/// Each command with its text of help, which names all its flags.
const COMMANDS: [(&str, &str); 5] = [
    ("outbound", help::OUTBOUND),
    ("inbound", help::INBOUND),
    ("check", help::CHECK),
    ("policy", help::POLICY),
    ("audit", help::AUDIT),
];
const POLICY_VERBS: &[&str] = &["test", "show", "purge"];
const AUDIT_VERBS: &[&str] = &["verify", "show", "report", "keygen"];

/// The text of help that was asked for. The value of a flag asks for nothing, whatever it is.
pub(super) fn help_asked_for(arguments: &[String]) -> Option<&'static str> {
    let command = command_of(arguments);
    let mut rest = arguments.iter().map(String::as_str);
    let mut asked = arguments.is_empty();
    while let Some(argument) = rest.next() {
        asked |= matches!(argument, "--help" | "-h" | "help");
        if argument.starts_with("--") && takes_value(&command, argument) {
            rest.next();
        }
    }
    let named = arguments
        .iter()
        .find(|argument| !argument.starts_with('-') && *argument != "help");
    let text = named.and_then(|named| text_of(named));
    asked.then_some(text.unwrap_or(help::TOP))
}

fn text_of(command: &str) -> Option<&'static str> {
    COMMANDS
        .iter()
        .find(|(name, _)| *name == command)
        .map(|(_, text)| *text)
}

/// The words before the first flag that say what is to be done: `outbound`, `policy test`.
fn command_of(arguments: &[String]) -> Vec<&str> {
    let words = arguments.iter().map(String::as_str);
    let mut words = words.take_while(|word| !word.starts_with('-'));
    let mut command: Vec<&str> = words.by_ref().take(1).collect();
    if let ["policy" | "audit"] = command[..] {
        command.extend(words.next());
    }
    command
}

/// The parser itself tells: it misses the value where one belongs behind the flag.
fn takes_value(command: &[&str], flag: &str) -> bool {
    let in_command = |command: &[&str]| {
        let words = [command, &[flag]].concat();
        ProgramFlags::from_args(&["starttls-proxy"], &words)
            .is_err_and(|early| early.output.starts_with("No value provided"))
    };
    match command {
        [] => COMMANDS.iter().any(|(name, _)| in_command(&[name])),
        command => in_command(command),
    }
}

/// The parser's complaint in our form, with what was meant and where to read on.
pub(super) fn failure(complaint: &str, arguments: &[String]) -> Exit {
    // It lists what is missing a line each, behind the first.
    let mut lines = complaint
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("wrong usage").trim_end_matches('.');
    let listed: Vec<&str> = lines
        .filter(|line| !matches!(*line, "help" | "--help"))
        .collect();
    let mut words = first.chars();
    let mut said: String = words
        .next()
        .map(char::to_lowercase)
        .into_iter()
        .flatten()
        .chain(words)
        .collect();
    if !listed.is_empty() {
        said = format!("{} {}", said, listed.join(", "));
    }
    let command = arguments
        .first()
        .filter(|first| text_of(first).is_some())
        .map_or(String::new(), |c| format!(" {c}"));
    let meant = complaint
        .strip_prefix("Unrecognized argument: ")
        .and_then(|wrong| meant_by(wrong.trim().trim_matches('"'), arguments))
        .map_or(String::new(), |meant| format!("\nhint: {meant}"));
    Exit::Usage(format!(
        "{said}{meant}\nhint: starttls-proxy{command} --help"
    ))
}

/// What a word that is none was meant to be.
fn meant_by(wrong: &str, arguments: &[String]) -> Option<String> {
    let command = command_of(arguments);
    if wrong.starts_with('-') {
        let own = command.first().copied().and_then(text_of);
        let known = own.map(flags_in).unwrap_or_default();
        if let Some(flag) = nearest(wrong, known.iter().copied()) {
            return Some(format!("did you mean {flag}?"));
        }
        let others = COMMANDS.iter().find_map(|(other, text)| {
            let flag = nearest(wrong, flags_in(text).into_iter())?;
            Some((other, flag))
        });
        return others.map(|(other, flag)| match flag == wrong {
            true => format!("{wrong} is a flag of {other}"),
            false => format!("did you mean {flag}? it is a flag of {other}"),
        });
    }
    let words: Vec<&str> = match command[..] {
        [first, second] if second == wrong && first == "policy" => POLICY_VERBS.to_vec(),
        [first, second] if second == wrong && first == "audit" => AUDIT_VERBS.to_vec(),
        [first, ..] if first == wrong => COMMANDS.iter().map(|(name, _)| *name).collect(),
        _ => return None,
    };
    nearest(wrong, words.into_iter()).map(|word| format!("did you mean {word}?"))
}

fn flags_in(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .collect()
}

/// The word that is fewest slips of the fingers away, where there are few for its length.
fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| {
        word.trim_start_matches('-')
            .replace('_', "-")
            .to_ascii_lowercase()
    };
    let typed = plain(wrong);
    words
        .map(|word| (slips(&typed, &plain(word)), word))
        .filter(|(slips, _)| *slips <= 1 + typed.len() / 6)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, word)| word)
}

/// Letters left out, put in, replaced, or swapped with their neighbour.
fn slips(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for at in 0..one.len() {
        let mut row = vec![at + 1];
        for to in 0..other.len() {
            let replaced = rows[at][to] + usize::from(one[at] != other[to]);
            let mut least = replaced.min(rows[at][to + 1] + 1).min(row[to] + 1);
            if at > 0 && to > 0 && one[at] == other[to - 1] && one[at - 1] == other[to] {
                least = least.min(rows[at - 1][to - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}
