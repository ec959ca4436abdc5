//! MTA-STS (RFC 8461): the TXT record, the policy text, which MX hosts it lists, and how long it holds.

use super::names::NamePattern;
use crate::smtp::Domain;

/// Longest `max_age`, in seconds: a year (RFC 8461 §3.2).
pub const MAX_AGE_LIMIT: u64 = 31_557_600;

/// Longest time between two refreshes of a policy, in seconds: a day (RFC 8461 §3.3, §5.1).
pub const REFRESH_AFTER: u64 = 86_400;

/// Shortest life of a policy, in seconds, so that a policy with `max_age: 0` serves the mail for which it was fetched.
const MIN_LIFETIME: u64 = 60;

/// Most `mx` patterns of a policy; a policy with more is no policy. No honest domain needs more, and each record of the audit log
/// repeats them.
const MAX_PATTERNS: usize = 100;

/// A policy as published.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Policy {
    /// What happens if a host fails the policy.
    pub mode: Mode,
    /// `mx` patterns, in lower case.
    pub mx: Vec<String>,
    /// Seconds, at most 31,557,600 (RFC 8461 §3.2).
    pub max_age: u64,
}

/// What happens if a host fails the policy (RFC 8461 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Do not deliver.
    Enforce,
    /// Deliver and report.
    Testing,
    /// As if there were no policy.
    None,
}

/// The `id` that the TXT records of `_mta-sts.<domain>` announce, each record given as its strings joined (RFC 8461 §3.1).
/// `Ok(None)`: none of the records is about MTA-STS.
///
/// # Errors
///
/// There is more than one announcement, or the only one is malformed, so that no (new) policy can be fetched. The text says why.
pub fn announced_id<S: AsRef<[u8]>>(records: &[S]) -> Result<Option<String>, String> {
    let mut announcements = records
        .iter()
        .map(AsRef::as_ref)
        .filter(|record| is_announcement(record));
    let Some(record) = announcements.next() else {
        return Ok(None);
    };
    if announcements.next().is_some() {
        return Err("more than one v=STSv1 record".into());
    }
    let record = std::str::from_utf8(record).map_err(|_| "the v=STSv1 record is not ASCII")?;
    let mut fields = record
        .split(';')
        .map(|field| field.trim_matches([' ', '\t']));
    fields.next();
    let mut id = None;
    let mut fields = fields.peekable();
    while let Some(field) = fields.next() {
        if field.is_empty() && fields.peek().is_none() {
            break;
        }
        let (name, value) = field
            .split_once('=')
            .filter(|(name, value)| is_field_name(name) && is_field_value(value))
            .ok_or_else(|| format!("malformed field {field:?} in the v=STSv1 record"))?;
        if name == "id" && id.is_none() {
            if value.len() > 32 || !value.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(format!("malformed id {value:?} in the v=STSv1 record"));
            }
            id = Some(value.to_owned());
        }
    }
    id.map(Some)
        .ok_or_else(|| "the v=STSv1 record has no id".into())
}

/// `v=STSv1`, then optional blanks and a semicolon (RFC 8461 §3.1, ABNF).
fn is_announcement(record: &[u8]) -> bool {
    record
        .strip_prefix(b"v=STSv1")
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(b";"))
}

fn is_field_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// Printable ASCII without blanks, `;` and `=` (RFC 8461 §3.1).
fn is_field_value(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b';' && b != b'=')
}

impl Policy {
    /// Reads a policy file (RFC 8461 §3.2): `key: value` lines that end in LF or CRLF. Of a repeated key the first counts, but `mx`
    /// adds up; unknown keys are skipped. A `max_age` of more than a year counts as a year.
    ///
    /// # Errors
    ///
    /// Says what is missing or malformed. Such a text is no policy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim_matches([' ', '\t']).is_empty() {
                continue;
            }
            let (key, value) = line
                .split_once(':')
                .ok_or_else(|| format!("the line {line:?} is not \"key: value\""))?;
            let value = value.trim_matches([' ', '\t']);
            match key.trim_matches([' ', '\t']) {
                "version" => {
                    version.get_or_insert(value);
                }
                "mode" => {
                    mode.get_or_insert(value);
                }
                "max_age" => {
                    max_age.get_or_insert(value);
                }
                "mx" => mx.push(pattern(value)?),
                _ => {}
            }
        }
        match version {
            Some("STSv1") => {}
            Some(other) => return Err(format!("version {other:?} is not STSv1")),
            None => return Err("no version".into()),
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            Some(other) => return Err(format!("mode {other:?} is not enforce, testing or none")),
            None => return Err("no mode".into()),
        };
        let max_age = max_age.ok_or("no max_age")?;
        if max_age.is_empty() || max_age.len() > 10 || !max_age.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(format!("max_age {max_age:?} is not a number of seconds"));
        }
        let max_age: u64 = max_age
            .parse()
            .map_err(|_| format!("max_age {max_age:?} is not a number of seconds"))?;
        if mx.is_empty() && mode != Mode::None {
            return Err("no mx".into());
        }
        if mx.len() > MAX_PATTERNS {
            return Err(format!("more than {MAX_PATTERNS} mx patterns"));
        }
        Ok(Self {
            mode,
            mx,
            max_age: max_age.min(MAX_AGE_LIMIT),
        })
    }

    /// Whether the policy names this MX host (RFC 8461 §4.1): `*.` stands for exactly one label.
    #[must_use]
    pub(crate) fn lists(&self, host: &str) -> bool {
        // `NamePattern` would take a `*` in the host name for a certificate's wildcard, so only a real host name is compared.
        Domain::parse(host).is_some_and(|host| {
            self.mx.iter().any(|pattern| {
                match pattern.strip_prefix("*.") {
                    Some(parent) => NamePattern::OneLabel(parent.to_owned()),
                    None => NamePattern::Host(pattern.clone()),
                }
                .matches(host.as_str())
            })
        })
    }

    /// Whether a policy that was fetched `age` seconds ago still holds (RFC 8461 §3.2).
    #[must_use]
    pub(crate) fn holds(&self, age: u64) -> bool {
        self.expires_in(age).is_some()
    }

    /// Seconds for which a policy that was fetched `age` seconds ago still holds; `None` if it holds no longer.
    pub(crate) fn expires_in(&self, age: u64) -> Option<u64> {
        let lifetime = self.max_age.max(MIN_LIFETIME);
        lifetime.checked_sub(age).filter(|&left| left > 0)
    }

    /// Whether a policy that was fetched `age` seconds ago should be fetched again although its `id` is the same: daily, and at the
    /// latest after half of its life (RFC 8461 §3.3, §10.2).
    #[must_use]
    pub(crate) fn wants_refresh(&self, age: u64) -> bool {
        age >= REFRESH_AFTER.min(self.max_age / 2)
    }
}

/// An `mx` value: a host name, or `*.` and a host name, in A-labels (RFC 8461 §3.2).
fn pattern(value: &str) -> Result<String, String> {
    Domain::parse(value.strip_prefix("*.").unwrap_or(value))
        .map(|_| value.to_ascii_lowercase())
        .ok_or_else(|| format!("mx {value:?} is not a host name, nor \"*.\" and one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(records: &[&str]) -> Result<Option<String>, String> {
        announced_id(records)
    }

    #[test]
    fn one_announcement_with_an_id_counts() {
        for good in [
            "v=STSv1; id=20160831085700Z;",
            "v=STSv1; id=20160831085700Z",
            "v=STSv1;id=20160831085700Z;",
            "v=STSv1 ; id=20160831085700Z ; ",
            "v=STSv1; ext=a:b; id=20160831085700Z; id=other;",
        ] {
            assert_eq!(id(&[good]), Ok(Some("20160831085700Z".into())), "{good}");
        }
        assert_eq!(
            id(&["v=spf1 -all", "v=STSv1; id=1;", "v=STSv2; id=2"]),
            Ok(Some("1".into()))
        );
    }

    #[test]
    fn what_is_not_about_mta_sts_announces_nothing() {
        for none in [
            &[][..],
            &["v=spf1 -all"],
            &["v=STSv1"],
            &["V=STSv1; id=1"],
            &["v=STSv10; id=1"],
        ] {
            assert_eq!(id(none), Ok(None), "{none:?}");
        }
    }

    #[test]
    fn two_announcements_or_a_malformed_one_are_no_policy() {
        for bad in [
            &["v=STSv1; id=1;", "v=STSv1; id=2;"][..],
            &["v=STSv1;"],
            &["v=STSv1; id=;"],
            &["v=STSv1; id=a b;"],
            &["v=STSv1; id=a-b;"],
            &["v=STSv1; id=123456789012345678901234567890123;"],
            &["v=STSv1;; id=1;"],
            &["v=STSv1; id;"],
            &["v=STSv1; ID=1;"],
            &["v=STSv1; id=ä;"],
        ] {
            assert!(id(bad).is_err(), "{bad:?}");
        }
        assert!(announced_id(&[b"v=STSv1; id=\xff".as_slice()]).is_err());
    }

    const GOOD: &str = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.Example.net\r\nmax_age: 604800\r\n";

    #[test]
    fn a_policy_is_read_with_either_line_end() {
        for text in [GOOD.to_owned(), GOOD.replace("\r\n", "\n")] {
            assert_eq!(
                Policy::parse(&text),
                Ok(Policy {
                    mode: Mode::Enforce,
                    mx: vec!["mail.example.com".into(), "*.example.net".into()],
                    max_age: 604_800,
                })
            );
        }
    }

    #[test]
    fn the_first_of_a_repeated_key_counts_and_unknown_keys_do_not() {
        let text = "version:STSv1\nfoo: bar:baz\nmode: testing\nmode: enforce\nmax_age: 99999999\nmax_age: 1\nmx: a.example\n\n";
        let policy = Policy::parse(text).expect("policy");
        assert_eq!(
            (policy.mode, policy.max_age),
            (Mode::Testing, MAX_AGE_LIMIT)
        );
    }

    #[test]
    fn only_mode_none_goes_without_mx() {
        assert!(Policy::parse("version: STSv1\nmode: none\nmax_age: 1\n").is_ok());
        assert!(Policy::parse("version: STSv1\nmode: testing\nmax_age: 1\n").is_err());
    }

    #[test]
    fn what_is_missing_or_malformed_is_no_policy() {
        for (good, bad) in [
            ("version: STSv1", "version: STSv2"),
            ("version: STSv1", "Version: STSv1"),
            ("version: STSv1\r\n", ""),
            ("mode: enforce", "mode: Enforce"),
            ("mode: enforce\r\n", ""),
            ("max_age: 604800", "max_age: -1"),
            ("max_age: 604800", "max_age: 99999999999"),
            ("max_age: 604800", "max_age:"),
            ("max_age: 604800\r\n", ""),
            ("mx: mail.example.com", "mx: mail.example.com."),
            ("mx: mail.example.com", "mx: *.*.example.com"),
            ("mx: mail.example.com", "mx: m*.example.com"),
            ("mx: mail.example.com", "mx: bücher.example"),
            ("mx: mail.example.com", "mx: "),
            ("mx: mail.example.com", "<html>"),
        ] {
            let text = GOOD.replace(good, bad);
            assert_ne!(text, GOOD);
            assert!(Policy::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_lists_one_label_only() {
        let policy = Policy::parse(GOOD).expect("policy");
        for listed in ["mail.example.com", "MAIL.example.com", "a.example.net"] {
            assert!(policy.lists(listed), "{listed}");
        }
        for other in [
            "example.com",
            "a.mail.example.com",
            "example.net",
            "a.b.example.net",
            "*.example.net",
            "",
        ] {
            assert!(!policy.lists(other), "{other}");
        }
    }

    #[test]
    fn a_policy_holds_for_max_age_and_is_refreshed_before() {
        let policy = Policy::parse(GOOD).expect("policy");
        assert!(policy.holds(0) && policy.holds(604_799) && !policy.holds(604_800));
        assert!(!policy.wants_refresh(86_399) && policy.wants_refresh(86_400));
        let short = Policy {
            max_age: 600,
            ..policy
        };
        assert!(!short.wants_refresh(299) && short.wants_refresh(300));
        for max_age in [0, 1, 59] {
            let fleeting = Policy {
                max_age,
                ..short.clone()
            };
            assert!(fleeting.holds(0) && fleeting.holds(59) && !fleeting.holds(60));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}|(v=STSv1|id|[;= \\t:\\r\\n*.a-z0-9]){0,30}") {
            let _ = announced_id(&[&text]);
            let _ = Policy::parse(&text);
            let _ = Policy::parse(&format!("version: STSv1\nmode: enforce\nmax_age: 1\nmx: {text}"));
        }
    }
}
