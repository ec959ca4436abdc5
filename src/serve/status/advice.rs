//! What a refusal means, and what to do about it: the rows of the manual's tables, which are here and nowhere else.

use std::sync::OnceLock;

/// The manual. The tables of refusals begin with one of [`HEADS`].
const MANUAL: &str = include_str!("../../../docs/troubleshooting.md");
const HEADS: [&str; 2] = ["| the line says | it means | do |", "| reply | it means |"];

/// A row of the manual.
#[derive(Debug, Default)]
pub(super) struct Advice {
    /// The words of log and counters that it is about.
    words: Vec<&'static str>,
    /// The replies that it is about: code and enhanced code. `None`: any.
    replies: Vec<(Option<&'static str>, Option<&'static str>)>,
    /// A reply that it is about has all of these words.
    only_with: Vec<&'static str>,
    /// What the refusal means, in Markdown.
    pub(super) meaning: &'static str,
    /// What to do. Empty: the manual says no more than what it means.
    pub(super) to_do: &'static str,
}

/// The row about a refusal: by its reason, else by its reply.
pub(super) fn about(reason: &str, reply: &str) -> Option<&'static Advice> {
    let rows = rows();
    let by_word = rows.iter().find(|row| row.words.contains(&reason));
    by_word.or_else(|| {
        let fits = rows.iter().filter(|row| row.is_about(reply));
        // The first of those that say most about the reply.
        fits.min_by_key(|row| std::cmp::Reverse(row.only_with.len()))
    })
}

impl Advice {
    fn is_about(&self, reply: &str) -> bool {
        let mut words = reply.split(' ');
        let (code, enhanced) = (words.next(), words.next());
        let same = |wanted: Option<&str>, is: Option<&str>| wanted.is_none() || wanted == is;
        let mut replies = self.replies.iter();
        replies.any(|one| same(one.0, code) && same(one.1, enhanced))
            && self.only_with.iter().all(|words| reply.contains(words))
    }

    /// `cell`: `` `421 4.5.0`, `4.7.5` with *in the clear* ``.
    fn read(cell: &'static str, meaning: &'static str, to_do: &'static str) -> Self {
        let mut row = Self {
            meaning,
            to_do,
            ..Self::default()
        };
        let mut code = None;
        for quoted in cell.split('`').skip(1).step_by(2) {
            if quoted.starts_with(|first: char| first.is_ascii_alphabetic()) {
                row.words.push(quoted);
                continue;
            }
            let mut enhanced = None;
            for word in quoted.split(' ') {
                match word.contains('.') {
                    true => enhanced = Some(word).filter(|word| !word.ends_with('x')),
                    false => code = Some(word),
                }
            }
            row.replies.push((code, enhanced));
        }
        row.only_with = cell.split('*').skip(1).step_by(2).collect();
        row
    }
}

fn rows() -> &'static [Advice] {
    static ROWS: OnceLock<Vec<Advice>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let mut rows = Vec::new();
        let mut lines = MANUAL.lines();
        while let Some(line) = lines.next() {
            if !HEADS.contains(&line) {
                continue;
            }
            let table = lines
                .by_ref()
                .skip(1)
                .take_while(|line| line.starts_with('|'));
            for row in table {
                let row = row.trim_matches(['|', ' ']);
                let mut cells = row.split(" | ");
                let mut next = || cells.next().unwrap_or_default().trim();
                rows.push(Advice::read(next(), next(), next()));
            }
        }
        rows
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::Cause;

    #[test]
    fn the_manual_has_both_tables() {
        for head in HEADS {
            assert_eq!(
                MANUAL.lines().filter(|line| *line == head).count(),
                1,
                "{head}"
            );
        }
        assert!(rows().len() > 30, "{}", rows().len());
        for row in rows() {
            let keys = row.words.len() + row.replies.len();
            assert!(keys > 0 && !row.meaning.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn each_reason_of_a_refusal_has_its_row() {
        for reason in [
            "starttls-not-supported",
            "greeting-refused",
            "ehlo-refused",
            "starttls-refused",
            "extension-missing",
            "server-unreachable",
            "overload",
            "certificate-host-mismatch",
            "certificate-expired",
            "certificate-not-trusted",
            "validation-failure",
            "tlsa-invalid",
            "dnssec-invalid",
            "dane-required",
            "sts-policy-invalid",
            "sts-policy-fetch-error",
            "sts-webpki-invalid",
            "no-policy",
            "not-an-mx",
            "no-such-domain",
            "null-mx",
            "lookup-failed",
        ] {
            let row = about(reason, "").expect(reason);
            assert!(
                row.words.contains(&reason) && !row.to_do.is_empty(),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_refusal_without_a_reason_of_its_own_is_found_by_its_reply() {
        for (cause, reply, meaning) in [
            (
                Cause::Stopped,
                "421 4.3.2 shutting down",
                "`--max-sessions`",
            ),
            (
                Cause::ServerGone,
                "421 4.4.2 the server closed",
                "the server cannot be reached",
            ),
            (
                Cause::StarttlsRequired,
                "530 5.7.0 Must issue STARTTLS",
                "inbound, before TLS",
            ),
            (
                Cause::StarttlsRequired,
                "451 4.7.0 try again with STARTTLS",
                "inbound, mail in",
            ),
            (
                Cause::LocalFault,
                "421 4.3.0 the audit log",
                "the audit log cannot be written",
            ),
            (
                Cause::Limit,
                "452 4.5.3 too many recipients",
                "more recipients in one message",
            ),
            (
                Cause::Protocol,
                "501 5.5.4 no",
                "a command that is too long",
            ),
            (
                Cause::Protocol,
                "550 5.5.2 bare CR",
                "the message has a bare CR",
            ),
            (
                Cause::ServerUnreachable,
                "421 4.4.1 the mail server behind this proxy cannot be reached",
                "no connection to the server",
            ),
        ] {
            let row = about(cause.word(), reply).expect(reply);
            assert!(row.meaning.starts_with(meaning), "{reply}: {row:?}");
        }
        assert!(about("nothing", "250 2.0.0 ok").is_none());
    }
}
