//! Man pages, in the macros of man(7).

use starttls_proxy::cli::help::{Argument, PROGRAM, Page};
use std::fmt::Write as _;

/// Lines of the source are no longer than this, as man(7) wants it.
const COLUMNS: usize = 76;

/// The name of the page: `starttls-proxy-outbound`.
pub fn name(page: &Page) -> String {
    page.name.replace(' ', "-")
}

/// The page of the program or of one of its commands; commands below that are sections of it.
pub fn page(page: &Page, program: &Page, date: &str) -> String {
    let is_program = page.name == PROGRAM;
    let mut out = format!(
        ".TH {} 1 {date} \"{PROGRAM} {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n{}.SH DESCRIPTION\n",
        escaped(&name(page)).to_uppercase(),
        starttls_proxy::VERSION,
        escaped(&name(page)),
        escaped(page.brief()),
        synopsis(page),
    );
    paragraph(&mut out, page.text);
    if is_program {
        out += ".SH COMMANDS\n";
        for command in &page.commands {
            let _ = write!(out, ".TP\n.BR {} (1)\n", escaped(&name(command)));
            paragraph(&mut out, &format!("{}.", command.brief()));
        }
    } else if !page.commands.is_empty() {
        out += ".SH COMMANDS\n";
        for command in &page.commands {
            let _ = write!(
                out,
                ".SS \"{}\"\n{}.PP\n",
                escaped(&command.name),
                synopsis(command)
            );
            paragraph(&mut out, command.text);
            let groups = command.groups.iter();
            groups.for_each(|group| list(&mut out, &group.arguments));
        }
    } else {
        out += ".SH OPTIONS\n";
    }
    for group in &page.groups {
        match &group.heading {
            Some(heading) if is_program => {
                let _ = writeln!(out, ".SH \"{}\"", heading.to_uppercase());
            }
            Some(heading) => {
                let _ = writeln!(out, ".SS \"{heading}\"");
            }
            None => {}
        }
        list(&mut out, &group.arguments);
    }
    for (heading, text) in &page.notes {
        let _ = writeln!(out, ".SH \"{}\"", heading.to_uppercase());
        paragraph(&mut out, text);
    }
    if !page.examples.is_empty() {
        out += ".SH EXAMPLES\n";
    }
    for example in page.examples {
        let (caption, lines) = example.split_once('\n').unwrap_or((example, ""));
        paragraph(&mut out, caption);
        let _ = write!(out, ".PP\n.EX\n{}\n.EE\n", escaped(lines));
    }
    let others = std::iter::once(program).chain(&program.commands);
    let others = others.filter(|other| other.name != page.name);
    let others: Vec<String> = others
        .map(|other| format!(".BR {} (1)", escaped(&name(other))))
        .collect();
    let _ = writeln!(out, ".SH SEE ALSO\n{}", others.join(" ,\n"));
    out
}

fn synopsis(page: &Page) -> String {
    format!(".B {}\n{}\n", escaped(&page.name), escaped(&page.arguments))
}

fn list(out: &mut String, arguments: &[Argument]) {
    for argument in arguments {
        let _ = match argument.value {
            Some(value) => write!(
                out,
                ".TP\n.BI \"{} \" \"{}\"\n",
                escaped(&argument.name),
                escaped(value)
            ),
            None => write!(out, ".TP\n.B {}\n", escaped(&argument.name)),
        };
        paragraph(out, &argument.text);
    }
}

/// Each sentence begins a line.
fn paragraph(out: &mut String, text: &str) {
    let mut width = 0;
    for word in escaped(text).split(' ') {
        if width > 0 && width + word.len() < COLUMNS {
            out.push(' ');
        } else if width > 0 {
            out.push('\n');
            width = 0;
        }
        out.push_str(if width == 0 && word.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        });
        out.push_str(word);
        width += 1 + word.len();
        if word.ends_with(['.', ':']) {
            width = COLUMNS;
        }
    }
    out.push('\n');
}

/// A minus is written as `\-`, so that commands copied from the page work.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}
