//! Text as it may stand in an HTML page.

use std::fmt::{self, Display, Formatter, Write as _};

/// Text between tags or quotes, with the letters escaped that mean something in HTML.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_html_is_escaped_and_all_else_stays() {
        let hostile = "<b a=\"x\" c='y'>&amp; \u{202e}\u{0}ä";
        assert_eq!(
            Escaped(hostile).to_string(),
            "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;amp; \u{202e}\u{0}ä"
        );
    }
}
