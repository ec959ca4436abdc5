//! From text to tokens with places: comments, continuation, quotes.

/// Where in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Place {
    pub fn error(self, message: impl Into<String>) -> Wrong {
        Wrong {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }
}

/// What is wrong, and where; the file is known to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// A word of an entry, its quotes taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub place: Place,
    pub text: String,
}

/// The entries of a text as words, as Postfix reads its tables: an empty line and one that begins with `#` after any white
/// space count nothing; one that begins with white space continues the entry before. Words end at white space, behind the
/// key also at a comma (as in Postfix's policy attributes), unless they stand in double quotes.
pub(super) fn logical_lines(text: &str) -> Vec<Result<Vec<Token>, Wrong>> {
    let mut entries: Vec<Result<Vec<Token>, Wrong>> = Vec::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        // It stands at the beginning of a file, and amid one that was put together from several.
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
                // Where the entry is wrong already, the rest of it is passed over.
                if let Ok(tokens) = entry {
                    match words(line, number, false) {
                        Ok(more) => tokens.extend(more),
                        Err(wrong) => *entry = Err(wrong),
                    }
                }
            }
            None => entries.push(Err(Place {
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

/// The words of one physical line; the first is a key where the line begins an entry.
fn words(line: &str, number: u32, begins: bool) -> Result<Vec<Token>, Wrong> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut word: Option<Token> = None;
    let mut quote: Option<Place> = None;
    let mut characters = (1..).zip(line.chars());
    while let Some((column, c)) = characters.next() {
        let place = Place {
            line: number,
            column,
        };
        let allowed = c == '\t' || (is_blank(c) && quote.is_none());
        if c.is_control() && !allowed {
            return Err(place.error("a control character; remove it"));
        }
        let is_key = begins && tokens.is_empty();
        if quote.is_none() && (is_blank(c) || (c == ',' && !is_key)) {
            tokens.extend(word.take());
            continue;
        }
        let text = &mut word
            .get_or_insert_with(|| Token {
                place,
                text: String::new(),
            })
            .text;
        match c {
            '"' if is_key => return Err(place.error("quotes in a key; remove them")),
            '"' => quote = quote.is_none().then_some(place),
            '\\' if quote.is_some() => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                _ => {
                    return Err(
                        place.error("a backslash that escapes neither \\ nor \"; write \\\\")
                    );
                }
            },
            _ => text.push(c),
        }
    }
    if let Some(place) = quote {
        return Err(place.error("the quote is not closed on its line; add a \""));
    }
    tokens.extend(word);
    Ok(tokens)
}
