//! From text to words with their positions: comments, continuation lines, quotes.
//!
//! Written by hand: no crate reads Postfix's table syntax, and each error must name the line and the column.

/// A position in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Position {
    pub(crate) fn error(self, message: impl Into<String>) -> EntryError {
        EntryError {
            position: self,
            message: message.into(),
        }
    }
}

/// An error in an entry. The caller knows the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryError {
    pub position: Position,
    pub message: String,
}

/// A word of an entry, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub position: Position,
    pub text: String,
}

/// The entries of a text as words, as Postfix reads its tables. Empty lines and lines whose first character after any white space is
/// `#` are skipped. A line that begins with white space continues the entry before. Words end at white space and, except for the
/// key, at a comma (as in Postfix's policy attributes), unless they stand in double quotes.
pub(super) fn logical_lines(text: &str) -> Vec<Result<Vec<Token>, EntryError>> {
    let mut entries: Vec<Result<Vec<Token>, EntryError>> = Vec::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        // A byte order mark stands at the beginning of a file, or inside a file that was joined from several.
        let line = line.trim_start_matches('\u{feff}');
        let content = line.trim_start_matches(is_blank);
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let continues = content.len() < line.len();
        if !continues {
            entries.push(words(line, number, true));
            continue;
        }
        match entries.last_mut() {
            Some(entry) => {
                // The rest of an entry that has an error already is skipped.
                if let Ok(tokens) = entry {
                    match words(line, number, false) {
                        Ok(more) => tokens.extend(more),
                        Err(wrong) => *entry = Err(wrong),
                    }
                }
            }
            None => entries.push(Err(Position {
                line: number,
                column: 1,
            }
            .error("the line begins with white space, but there is no entry before it to continue; remove the white space"))),
        }
    }
    entries
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// The words of one physical line. If the line begins an entry, the first word is its key.
fn words(line: &str, number: u32, begins: bool) -> Result<Vec<Token>, EntryError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut word: Option<Token> = None;
    let mut quote: Option<Position> = None;
    let mut characters = (1..).zip(line.chars());
    while let Some((column, c)) = characters.next() {
        let position = Position {
            line: number,
            column,
        };
        let allowed = c == '\t' || (is_blank(c) && quote.is_none());
        if c.is_control() && !allowed {
            return Err(position.error("a control character; remove it"));
        }
        let is_key = begins && tokens.is_empty();
        if quote.is_none() && (is_blank(c) || (c == ',' && !is_key)) {
            tokens.extend(word.take());
            continue;
        }
        let text = &mut word
            .get_or_insert_with(|| Token {
                position,
                text: String::new(),
            })
            .text;
        match c {
            '"' if is_key => return Err(position.error("quotes in a key; remove them")),
            '"' => quote = quote.is_none().then_some(position),
            '\\' if quote.is_some() => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                _ => {
                    return Err(
                        position.error("a backslash that escapes neither \\ nor \"; write \\\\")
                    );
                }
            },
            _ => text.push(c),
        }
    }
    if let Some(position) = quote {
        return Err(position.error("the quote is not closed on its line; add a \""));
    }
    tokens.extend(word);
    Ok(tokens)
}
