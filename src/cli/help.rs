//! The help, made from the declarations in [`flags`](crate::flags): 80 columns, flags in the order and in the groups in which
//! they are declared there. `examples/manual` makes man pages and completions of the same [`Page`]s.

use std::fmt::Write as _;

use argh::{ArgsInfo as _, CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use crate::{exit, flags::ProgramFlags};

/// What the program is called.
pub const PROGRAM: &str = "starttls-proxy";
/// The width of a terminal, which the help keeps to.
const COLUMNS: usize = 80;
/// The column where the texts of flags begin.
const TEXT: usize = 29;

/// What there is to say about one command.
#[derive(Debug)]
pub struct Page {
    /// The words that call it: `starttls-proxy policy test`.
    pub name: String,
    /// What is typed behind the name: `[flags] NAME...`
    pub arguments: String,
    /// What it does. The first sentence stands for it in lists of commands.
    pub text: &'static str,
    /// Operands and flags in the order of their declaration; for the program itself its exit codes.
    pub groups: Vec<Group>,
    /// Commands below it: `policy test` below `policy`.
    pub commands: Vec<Page>,
    /// Paragraphs with their headings.
    pub notes: Vec<(String, &'static str)>,
    /// Each is a caption, and lines to type.
    pub examples: &'static [&'static str],
}

/// Flags that belong together.
#[derive(Debug)]
pub struct Group {
    /// `None` where the command has too few flags for groups.
    pub heading: Option<String>,
    /// In the order of declaration.
    pub arguments: Vec<Argument>,
}

/// A flag, or an operand.
#[derive(Debug)]
pub struct Argument {
    /// `--listen`, or `DOMAIN...`.
    pub name: String,
    /// `ADDR:PORT`, or words to choose from: `tproxy|redirect`; `None` for switches and operands.
    pub value: Option<&'static str>,
    /// What it means, a phrase without a full stop.
    pub text: String,
}

impl Argument {
    /// `--listen ADDR:PORT`
    #[must_use]
    pub fn written(&self) -> String {
        match self.value {
            Some(value) => format!("{} {value}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The program's page, with those of its commands.
#[must_use]
pub fn program() -> Page {
    let info = ProgramFlags::get_args_info();
    let mut page = page(PROGRAM, &info, &info);
    let codes = exit::CODES.map(|(code, text)| Argument {
        name: code.to_string(),
        value: None,
        text: text.to_owned(),
    });
    page.groups.push(Group {
        heading: Some(String::from("Exit codes")),
        arguments: codes.into(),
    });
    page
}

fn page(name: &str, info: &CommandInfoWithArgs, all: &CommandInfoWithArgs) -> Page {
    let flags = flags_of(info);
    let operands = info.positionals.iter().map(|operand| Argument {
        name: format!("{}...", operand.name),
        value: None,
        text: text_of(operand.description, operand.name, all).1,
    });
    let mut groups = vec![Group {
        heading: None,
        arguments: operands.collect(),
    }];
    for flag in flags.clone() {
        let (heading, mut text) = text_of(flag.description, flag.long, all);
        text += match flag.optionality {
            Optionality::Repeating => "; repeatable",
            Optionality::Required => "; required",
            _ => "",
        };
        if heading.is_some() {
            let arguments = Vec::new();
            groups.push(Group { heading, arguments });
        }
        let argument = Argument {
            name: flag.long.to_owned(),
            value: value_of(flag),
            text,
        };
        groups
            .last_mut()
            .expect("it begins with one")
            .arguments
            .push(argument);
    }
    groups.retain(|group| !group.arguments.is_empty());
    let required = flags
        .clone()
        .filter(|flag| flag.optionality == Optionality::Required);
    let required =
        required.map(|flag| format!("{} {}", flag.long, value_of(flag).unwrap_or_default()));
    let optional = flags
        .clone()
        .any(|flag| flag.optionality != Optionality::Required);
    let commands: Vec<&str> = info.commands.iter().map(|command| command.name).collect();
    let arguments: Vec<String> = required
        .chain(optional.then(|| String::from("[flags]")))
        .chain(
            info.positionals
                .iter()
                .map(|operand| format!("{}...", operand.name)),
        )
        .chain((!commands.is_empty()).then(|| commands.join("|")))
        .collect();
    let notes = info.notes.iter().map(|note| split_heading(note));
    Page {
        name: name.to_owned(),
        arguments: arguments.join(" "),
        text: info.description,
        groups,
        commands: info
            .commands
            .iter()
            .map(|below| page(&format!("{name} {}", below.name), &below.command, all))
            .collect(),
        notes: notes
            .map(|(heading, text)| (heading.unwrap_or_default(), text))
            .collect(),
        examples: info.examples,
    }
}

/// The flags that a command reads, without the `--help` that all have.
pub(super) fn flags_of(
    info: &CommandInfoWithArgs,
) -> impl Iterator<Item = &'static FlagInfo<'static>> + Clone {
    info.flags.iter().filter(|flag| flag.long != "--help")
}

fn value_of(flag: &FlagInfo<'static>) -> Option<&'static str> {
    match flag.kind {
        FlagInfoKind::Option { arg_name } => Some(arg_name),
        FlagInfoKind::Switch => None,
    }
}

/// The command that is called by these words, which do not include the program's name.
pub(super) fn command_at<'a>(
    info: &'a CommandInfoWithArgs,
    words: &[&str],
) -> Option<&'a CommandInfoWithArgs> {
    words.iter().try_fold(info, |info, word| {
        let below = info.commands.iter().find(|below| below.name == *word);
        below.map(|below| &below.command)
    })
}

/// The heading that a declaration opens, and its text, which may stand with another command: `as for audit verify`.
fn text_of(description: &str, name: &str, all: &CommandInfoWithArgs) -> (Option<String>, String) {
    let (heading, text) = split_heading(description);
    let Some(words) = text.strip_prefix("as for ") else {
        return (heading, text.to_owned());
    };
    let words: Vec<&str> = words.split(' ').collect();
    let there = command_at(all, &words).expect("`as for` names a command");
    let flags = there.flags.iter().map(|flag| (flag.long, flag.description));
    let operands = there
        .positionals
        .iter()
        .map(|operand| (operand.name, operand.description));
    let mut told = flags.chain(operands);
    let (_, description) = told
        .find(|(long, _)| *long == name)
        .expect("`as for` names a command with the same flag");
    (heading, split_heading(description).1.to_owned())
}

/// `CAPITALS: text`
fn split_heading<'a>(text: &'a str) -> (Option<String>, &'a str) {
    match text.split_once(": ") {
        Some((heading, text)) if !heading.contains(|c: char| c.is_lowercase()) => {
            let (first, rest) = heading.split_at(1);
            (Some(first.to_owned() + &rest.to_lowercase()), text)
        }
        _ => (None, text),
    }
}

impl Page {
    /// The first sentence of what the command does, without its full stop.
    #[must_use]
    pub fn brief(&self) -> &'static str {
        let sentence = self.text.split_once(". ").map(|(first, _)| first);
        sentence.unwrap_or(self.text).trim_end_matches('.')
    }

    /// The text of `--help`.
    #[must_use]
    pub fn help(&self) -> String {
        let mut out = String::new();
        wrap(&mut out, 0, &format!("{} {}", self.name, self.arguments));
        out.push('\n');
        wrap(&mut out, 0, self.text);
        for command in &self.commands {
            if self.name == PROGRAM {
                let _ = write!(out, "\n  {} {}\n", command.name, command.arguments);
                wrap(&mut out, 6, &format!("{}.", command.brief()));
            } else {
                let _ = write!(out, "\n{} {}\n", command.name, command.arguments);
                wrap(&mut out, 2, command.text);
                command
                    .groups
                    .iter()
                    .for_each(|group| list(&mut out, group));
            }
        }
        for group in &self.groups {
            let _ = writeln!(out, "\n{}", group.heading.as_deref().unwrap_or("Arguments"));
            list(&mut out, group);
        }
        for (heading, text) in &self.notes {
            let _ = writeln!(out, "\n{heading}");
            wrap(&mut out, 2, text);
        }
        for example in self.examples {
            let (caption, lines) = example.split_once('\n').unwrap_or((example, ""));
            out.push_str("\nExample\n");
            wrap(&mut out, 2, caption);
            lines
                .lines()
                .for_each(|line| out += &format!("    {line}\n"));
        }
        out
    }
}

/// The arguments of a group, with their texts in a column of their own.
fn list(out: &mut String, group: &Group) {
    for argument in &group.arguments {
        let mut text = String::new();
        wrap(&mut text, TEXT, &argument.text);
        let written = format!("  {}", argument.written());
        let begins_beside = written.len() < TEXT;
        let _ = match begins_beside {
            true => write!(out, "{written:TEXT$}{}", text.trim_start()),
            false => write!(out, "{written}\n{text}"),
        };
    }
}

/// A paragraph, every line of it indented.
fn wrap(out: &mut String, indent: usize, text: &str) {
    let mut width = 0;
    for word in text.split(' ') {
        let breaks = width > 0 && width + 1 + word.len() > COLUMNS;
        if width == 0 || breaks {
            let _ = write!(
                out,
                "{}{:indent$}{word}",
                if breaks { "\n" } else { "" },
                ""
            );
            width = indent + word.len();
        } else {
            let _ = write!(out, " {word}");
            width += 1 + word.len();
        }
    }
    out.push('\n');
}
