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
    /// The group's heading; `None` where the command has too few flags for groups.
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
    let operands = info.positionals.iter().map(|operand| Argument {
        name: format!("{}...", operand.name),
        value: None,
        text: text_of(operand.description, operand.name, all).1.to_owned(),
    });
    let mut groups = vec![Group {
        heading: None,
        arguments: operands.collect(),
    }];
    for flag in flags_of(info) {
        let (heading, text) = text_of(flag.description, flag.long, all);
        let suffix = match flag.optionality {
            Optionality::Repeating => "; repeatable",
            Optionality::Required => "; required",
            Optionality::Optional | Optionality::Greedy => "",
        };
        let argument = Argument {
            name: flag.long.to_owned(),
            value: value_of(flag),
            text: format!("{text}{suffix}"),
        };
        match groups.last_mut() {
            Some(group) if heading.is_none() => group.arguments.push(argument),
            _ => groups.push(Group {
                heading,
                arguments: vec![argument],
            }),
        }
    }
    groups.retain(|group| !group.arguments.is_empty());
    let notes = info.notes.iter().map(|note| split_heading(note));
    let commands = info.commands.iter();
    Page {
        name: name.to_owned(),
        arguments: arguments_of(info),
        text: info.description,
        groups,
        commands: commands
            .map(|below| page(&format!("{name} {}", below.name), &below.command, all))
            .collect(),
        notes: notes
            .map(|(heading, text)| (heading.unwrap_or_default(), text))
            .collect(),
        examples: info.examples,
    }
}

/// Required flags by name, `[flags]` for all others, operands, and the commands below.
fn arguments_of(info: &CommandInfoWithArgs) -> String {
    let is_required = |flag: &&FlagInfo<'_>| flag.optionality == Optionality::Required;
    let required = flags_of(info).filter(is_required);
    let required =
        required.map(|flag| format!("{} {}", flag.long, value_of(flag).unwrap_or_default()));
    let has_optional = flags_of(info).any(|flag| !is_required(&flag));
    let operands = info.positionals.iter();
    let below: Vec<&str> = info.commands.iter().map(|below| below.name).collect();
    let parts: Vec<String> = required
        .chain(has_optional.then(|| String::from("[flags]")))
        .chain(operands.map(|operand| format!("{}...", operand.name)))
        .chain((!below.is_empty()).then(|| below.join("|")))
        .collect();
    parts.join(" ")
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

/// The heading of the group that a declaration opens, and the declaration's text. `as for COMMAND` stands for the text of COMMAND's
/// flag or operand of the same name; a test makes sure that there is one.
fn text_of(
    description: &'static str,
    name: &str,
    all: &CommandInfoWithArgs,
) -> (Option<String>, &'static str) {
    let (heading, text) = split_heading(description);
    let other = text.strip_prefix("as for ").and_then(|command| {
        let words: Vec<&str> = command.split(' ').collect();
        let info = command_at(all, &words)?;
        let flags = info.flags.iter().map(|flag| (flag.long, flag.description));
        let operands = info.positionals.iter();
        let operands = operands.map(|operand| (operand.name, operand.description));
        let mut described = flags.chain(operands);
        described.find(|(other, _)| *other == name)
    });
    match other {
        Some((_, description)) => (heading, split_heading(description).1),
        None => (heading, text),
    }
}

/// `CAPITALS: text`
fn split_heading(text: &str) -> (Option<String>, &str) {
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
