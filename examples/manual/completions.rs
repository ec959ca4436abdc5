//! Completions of shells: commands, flags, and their values where these are words to choose from or files.
//!
//! `argh_complete` makes such scripts too, but its bash script finds a command by its last word alone, so that `audit show`
//! would get the flags of `policy show`, and none of them knows a flag's values.

use starttls_proxy::cli::help::{Argument, PROGRAM, Page};
use std::{collections::BTreeMap, fmt::Write as _};

/// The kind of value that follows a flag.
enum Value {
    Words(Vec<&'static str>),
    File,
    /// An address, a number or a name, which a shell cannot complete.
    Other,
}

fn value_of(argument: &Argument) -> Option<Value> {
    let value = argument.value?;
    let words: Vec<&str> = value.split('|').collect();
    let is_word = |word: &&str| !word.contains(|c: char| c.is_uppercase());
    let is_file = |word: &&str| ["FILE", "PEM", "DER", "DIR", "PATH"].contains(word);
    Some(match words {
        words if words.iter().all(is_word) => Value::Words(words),
        words if words.iter().any(is_file) => Value::File,
        _ => Value::Other,
    })
}

/// Flags, without operands and exit codes.
fn flags(page: &Page) -> impl Iterator<Item = &Argument> {
    let arguments = page.groups.iter().flat_map(|group| &group.arguments);
    arguments.filter(|argument| argument.name.starts_with("--"))
}

/// The word that calls a command below the one that it belongs to.
fn word(page: &Page) -> &str {
    page.name.rsplit(' ').next().unwrap_or_default()
}

fn reads_files(page: &Page) -> bool {
    let mut arguments = page.groups.iter().flat_map(|group| &group.arguments);
    arguments.any(|argument| argument.name == "FILE...")
}

/// A command and all commands below it.
fn all(page: &Page) -> Vec<&Page> {
    let below = page.commands.iter().flat_map(all);
    std::iter::once(page).chain(below).collect()
}

pub fn bash(program: &Page) -> String {
    // A flag has the same kind of value with every command.
    let mut values: BTreeMap<&str, Value> = BTreeMap::new();
    for flag in all(program).into_iter().flat_map(flags) {
        if let Some(value) = value_of(flag) {
            values.insert(&flag.name, value);
        }
    }
    let mut cases = String::new();
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for (flag, value) in &values {
        match value {
            Value::Words(words) => {
                let _ = writeln!(cases, "        {flag}) words='{}' ;;", words.join(" "));
            }
            Value::File => files.push(*flag),
            Value::Other => others.push(*flag),
        }
    }
    let families = program
        .commands
        .iter()
        .filter(|page| !page.commands.is_empty());
    let families: Vec<&str> = families.map(word).collect();
    let mut commands = String::new();
    for page in all(program) {
        let below = page.commands.iter().map(word);
        let flags = flags(page).map(|flag| flag.name.as_str());
        let own = ["--help"]
            .into_iter()
            .chain((page.name == PROGRAM).then_some("--version"));
        let words: Vec<&str> = below.chain(flags).chain(own).collect();
        let command = page.name[PROGRAM.len()..].trim();
        let _ = writeln!(
            commands,
            "        '{command}') words='{}' ;;",
            words.join(" ")
        );
    }
    format!(
        "# Completion of {PROGRAM} for bash.
_starttls_proxy() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command= words=
    # Bash takes --flag=value for three words.
    [[ $cur == = ]] && cur= prev=$prev
    [[ $prev == = ]] && prev=${{COMP_WORDS[COMP_CWORD-2]}}
    COMPREPLY=()
    case $prev in
{cases}        {}) return ;;
        {}) compopt +o default; return ;;
    esac
    if [[ ! $words ]]; then
        ((COMP_CWORD > 1)) && command=${{COMP_WORDS[1]}}
        case $command in
            {}) ((COMP_CWORD > 2)) && command+=\" ${{COMP_WORDS[2]}}\" ;;
        esac
        case $command in
{commands}        esac
    fi
    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))
}}
complete -o default -F _starttls_proxy {PROGRAM}
",
        files.join(" | "),
        others.join(" | "),
        families.join(" | "),
    )
}

pub fn zsh(program: &Page) -> String {
    let mut out = format!("#compdef {PROGRAM}\n# Completion of {PROGRAM} for zsh.\n");
    for page in all(program) {
        let _ = write!(out, "\n{}() {{\n", function(page));
        let mut specs = vec![String::from("'--help[print what the flags mean]'")];
        if page.commands.is_empty() {
            for flag in flags(page) {
                let stars = if flag.text.contains("; repeatable") {
                    "*"
                } else {
                    ""
                };
                let text = zsh_text(&flag.text);
                specs.push(match (value_of(flag), flag.value) {
                    (Some(value), Some(name)) => {
                        let action = match value {
                            Value::Words(words) => format!("({})", words.join(" ")),
                            Value::File => String::from("_files"),
                            Value::Other => String::from(" "),
                        };
                        format!(
                            "'{stars}{}=[{text}]:{}:{action}'",
                            flag.name,
                            zsh_text(name)
                        )
                    }
                    _ => format!("'{}[{text}]'", flag.name),
                });
            }
            if reads_files(page) {
                specs.push(String::from("'*: :_files'"));
            }
            let _ = writeln!(
                out,
                "    _arguments \\\n        {}\n}}",
                specs.join(" \\\n        ")
            );
            continue;
        }
        let names = page.commands.iter().map(|below| {
            format!(
                "{}\\:\"{}\"",
                word(below),
                zsh_text(below.brief()).replace('"', "")
            )
        });
        let names: Vec<String> = names.collect();
        specs.push(format!("'1: :(({}))'", names.join(" ")));
        specs.push(String::from("'*:: :->below'"));
        let _ = writeln!(
            out,
            "    local context state state_descr line\n    typeset -A opt_args\n    _arguments -C \\\n        {}\n    case $state:$line[1] in",
            specs.join(" \\\n        ")
        );
        for below in &page.commands {
            let _ = writeln!(out, "        below:{}) {} ;;", word(below), function(below));
        }
        out += "    esac\n}\n";
    }
    let _ = writeln!(out, "\n{} \"$@\"", function(program));
    out
}

fn function(page: &Page) -> String {
    format!("_{}", page.name.replace([' ', '-'], "_"))
}

fn zsh_text(text: &str) -> String {
    let text = text.replace('\'', "'\\''").replace(':', "\\:");
    text.replace('[', "\\[").replace(']', "\\]")
}

pub fn fish(program: &Page) -> String {
    let mut out = format!("# Completion of {PROGRAM} for fish.\ncomplete -c {PROGRAM} -f\n");
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    for page in all(program) {
        let words = page.name.split(' ').skip(1);
        let mut when: Vec<String> = words
            .map(|word| format!("__fish_seen_subcommand_from {word}"))
            .collect();
        if !page.commands.is_empty() {
            let below: Vec<&str> = page.commands.iter().map(word).collect();
            when.push(format!(
                "not __fish_seen_subcommand_from {}",
                below.join(" ")
            ));
        }
        let start = format!("complete -c {PROGRAM} -n '{}'", when.join("; and "));
        for below in &page.commands {
            let _ = writeln!(
                out,
                "{start} -a {} -d {}",
                word(below),
                quoted(below.brief())
            );
        }
        for flag in flags(page) {
            let value = match value_of(flag) {
                Some(Value::Words(words)) => format!(" -x -a '{}'", words.join(" ")),
                Some(Value::File) => String::from(" -r -F"),
                Some(Value::Other) => String::from(" -x"),
                None => String::new(),
            };
            let name = &flag.name["--".len()..];
            let _ = writeln!(out, "{start} -l {name}{value} -d {}", quoted(&flag.text));
        }
        if reads_files(page) {
            let _ = writeln!(out, "{start} -F");
        }
    }
    out
}
