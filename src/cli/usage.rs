//! Requests for help, and errors for command lines that are not understood.

use argh::{ArgsInfo as _, CommandInfoWithArgs, FlagInfoKind};

use super::help::{self, command_at, flags_of};
use crate::{exit::Exit, flags::ProgramFlags};

/// The help that the command line asks for, if it does. A flag's value never asks for help, even if it reads `--help`.
pub(super) fn help_asked_for(arguments: &[String]) -> Option<String> {
    // Behind `doctor` stands a command with its own flags.
    let command = command_of(match arguments {
        [first, behind @ ..] if first == "doctor" && !behind.is_empty() => behind,
        all => all,
    });
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
    let program = help::program();
    let name = format!("{} {}", help::PROGRAM, named.map_or("", String::as_str));
    let mut commands = program.commands.iter();
    let page = commands.find(|page| page.name == name).unwrap_or(&program);
    asked.then(|| page.help())
}

/// The words before the first flag that name a command: `outbound`, `policy test`.
fn command_of(arguments: &[String]) -> Vec<&str> {
    let words = arguments.iter().map(String::as_str);
    let mut words = words.take_while(|word| !word.starts_with('-'));
    let mut command: Vec<&str> = words.by_ref().take(1).collect();
    let all = ProgramFlags::get_args_info();
    if command_at(&all, &command).is_some_and(|info| !info.commands.is_empty()) {
        command.extend(words.next());
    }
    command
}

/// Whether the word behind this flag is its value. Without a command, the flag may belong to any command.
fn takes_value(command: &[&str], flag: &str) -> bool {
    let all = ProgramFlags::get_args_info();
    let reads = |info: &CommandInfoWithArgs| {
        flags_of(info).any(|known| known.long == flag && known.kind != FlagInfoKind::Switch)
    };
    match command {
        [] => all.commands.iter().any(|below| reads(&below.command)),
        command => command_at(&all, command).is_some_and(reads),
    }
}

/// The parser's complaint in the form of all errors, with hints: what was meant, and which help to read.
pub(super) fn failure(complaint: &str, arguments: &[String]) -> Exit {
    // The first line says what is wrong; each further line names a missing flag.
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
    let all = ProgramFlags::get_args_info();
    let command = arguments
        .first()
        .filter(|first| command_at(&all, &[first]).is_some())
        .map_or(String::new(), |command| format!(" {command}"));
    let meant = complaint
        .strip_prefix("Unrecognized argument: ")
        .and_then(|wrong| meant_by(wrong.trim().trim_matches('"'), arguments))
        .map_or(String::new(), |meant| format!("\nhint: {meant}"));
    Exit::Usage(format!(
        "{said}{meant}\nhint: starttls-proxy{command} --help"
    ))
}

/// What a misspelt flag or command was meant to be.
fn meant_by(wrong: &str, arguments: &[String]) -> Option<String> {
    let command = command_of(arguments);
    let all = ProgramFlags::get_args_info();
    if wrong.starts_with('-') {
        let own = command.first().and_then(|first| command_at(&all, &[first]));
        if let Some(flag) = own.and_then(|own| nearest(wrong, &flags_below(own))) {
            return Some(format!("did you mean {flag}?"));
        }
        let mut others = all.commands.iter();
        return others.find_map(|other| {
            let flag = nearest(wrong, &flags_below(&other.command))?;
            Some(match flag == wrong {
                true => format!("{wrong} is a flag of {}", other.name),
                false => format!("did you mean {flag}? it is a flag of {}", other.name),
            })
        });
    }
    let (last, before) = command.split_last().filter(|(last, _)| **last == wrong)?;
    let names = command_at(&all, before)?.commands.iter();
    let names: Vec<&str> = names.map(|below| below.name).collect();
    nearest(last, &names).map(|word| format!("did you mean {word}?"))
}

/// The flags of a command and of the commands below it.
fn flags_below(info: &CommandInfoWithArgs) -> Vec<&'static str> {
    let below = info.commands.iter().map(|below| &below.command);
    let commands = std::iter::once(info).chain(below);
    commands.flat_map(flags_of).map(|flag| flag.long).collect()
}

/// The word that differs by the fewest typing errors, if they are few for its length.
fn nearest<'a>(wrong: &str, words: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| {
        word.trim_start_matches('-')
            .replace('_', "-")
            .to_ascii_lowercase()
    };
    let typed = plain(wrong);
    words
        .iter()
        .map(|word| (slips(&typed, &plain(word)), word))
        .filter(|(slips, _)| *slips <= 1 + typed.len() / 6)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, word)| *word)
}

/// Number of letters that are missing, added, replaced, or swapped with their neighbour.
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
