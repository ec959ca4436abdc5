//! Text from the wire and people's addresses, in the only forms in which they may enter a record.

use super::{
    OpenError,
    checkpoint::{SigningKey, derived},
};
use aws_lc_rs::hmac;
use serde::Serialize;
use std::{fmt::Write as _, path::Path};

/// Octets from the wire as printable ASCII: a backslash becomes `\\`, CR LF becomes `\r\n`, and every other octet outside 0x20..=0x7E
/// becomes `\xNN`. Nothing is lost, and the text can neither act on a terminal nor forge a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct WireText(String);

impl WireText {
    /// Escapes `bytes`.
    #[must_use]
    pub fn escape(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                b'\\' => text.push_str("\\\\"),
                b'\r' => text.push_str("\\r"),
                b'\n' => text.push_str("\\n"),
                0x20..=0x7E => text.push(char::from(byte)),
                _ => {
                    let _ = write!(text, "\\x{byte:02x}"); // writing to a String cannot fail
                }
            }
        }
        Self(text)
    }

    /// The escaped text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&[u8]> for WireText {
    fn from(bytes: &[u8]) -> Self {
        Self::escape(bytes)
    }
}

impl From<&str> for WireText {
    fn from(text: &str) -> Self {
        Self::escape(text.as_bytes())
    }
}

/// Text that is safe to show on a terminal, whoever wrote it: printable ASCII, everything else escaped (`\n`, `\u{1b}`). After about
/// `longest` octets, three dots replace the rest. Text that [`WireText`] has escaped stays as it is.
#[must_use]
pub(crate) fn printable(text: &str, longest: usize) -> String {
    if text.len() <= longest && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= longest {
            shown.push_str("...");
            break;
        }
        match c {
            ' '..='~' => shown.push(c),
            _ => shown.extend(c.escape_default()),
        }
    }
    shown
}

/// How much of an address a record keeps (`--audit-addresses`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressForm {
    /// As sent.
    #[default]
    Full,
    /// `@domain` only.
    Domain,
    /// `hmac:<32 hexadecimal digits>@domain`. With the key and an address, its records can be found; no address can be read out of
    /// a record.
    Hashed,
}

impl std::str::FromStr for AddressForm {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "full" => Ok(Self::Full),
            "domain" => Ok(Self::Domain),
            "hashed" => Ok(Self::Hashed),
            _ => Err(format!("{word:?} is none of full, domain, hashed")),
        }
    }
}

/// An address in the form that the log keeps. Only [`AuditLog::address`](super::AuditLog::address) makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Address(WireText);

impl Address {
    /// The text of this form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Makes [`Address`]es of paths (RFC 5321 §4.1.2).
pub(super) struct Addresses {
    form: AddressForm,
    key: Option<hmac::Key>,
}

impl Addresses {
    /// `secret` is the private audit key's 32-octet seed. The hashing key is derived from it (HKDF-SHA-256, RFC 5869): so only one
    /// file must be kept, and the hashing key does not reveal the audit key. `None` where `form` needs a key and there is none.
    pub(super) fn new(form: AddressForm, secret: Option<&[u8]>) -> Option<Self> {
        let key = match (form, secret) {
            (AddressForm::Hashed, Some(secret)) => Some(derive(secret)),
            (AddressForm::Hashed, None) => return None,
            _ => None,
        };
        Some(Self { form, key })
    }

    /// `path` is the text between `<` and `>`; a source route (RFC 5321 §4.1.2) counts as part of it.
    pub(super) fn address(&self, path: &[u8]) -> Address {
        let Some(at) = path.iter().rposition(|&b| b == b'@') else {
            // `<>` and `<postmaster>` (RFC 5321 §4.5.1) name no person.
            let nobody = path.is_empty() || path.eq_ignore_ascii_case(b"postmaster");
            return Address(match self.form {
                _ if nobody => path.into(),
                AddressForm::Full => path.into(),
                AddressForm::Domain => "@".into(),
                AddressForm::Hashed => WireText(self.hash(path, b"")),
            });
        };
        let (local, domain) = (&path[..at], path[at + 1..].to_ascii_lowercase());
        Address(match self.form {
            AddressForm::Full => path.into(),
            AddressForm::Domain => WireText::escape(&[b"@", &domain[..]].concat()),
            AddressForm::Hashed if local.is_empty() => {
                WireText::escape(&[b"@", &domain[..]].concat())
            }
            AddressForm::Hashed => {
                let hash = self.hash(local, &domain);
                WireText::escape(&[hash.as_bytes(), b"@", &domain].concat())
            }
        })
    }

    /// Whether a reply can differ from its form in the log.
    pub(super) fn masks(&self) -> bool {
        self.form != AddressForm::Full
    }

    /// Puts the addresses in a reply into the log's form.
    pub(super) fn mask(&self, reply: Option<&mut WireText>) {
        if let Some(reply) = reply {
            *reply = self.reply(reply);
        }
    }

    /// A server's reply or the proxy's own, with each address in the log's form. Of a quoted local part with blanks, only the text
    /// behind the last blank is recognised.
    pub(super) fn reply(&self, reply: &WireText) -> WireText {
        if !self.masks() {
            return reply.clone();
        }
        let is_part = |letter: char| {
            letter.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.\\@\"".contains(letter)
        };
        let mut text = String::new();
        let mut rest = reply.as_str();
        while !rest.is_empty() {
            let word = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
            let (path, behind) = rest.split_at(word);
            match path.contains('@') {
                true => text.push_str(self.address(path.as_bytes()).0.as_str()),
                false => text.push_str(path),
            }
            let gap = behind.find(is_part).unwrap_or(behind.len());
            text.push_str(&behind[..gap]);
            rest = &behind[gap..];
        }
        WireText(text)
    }

    fn hash(&self, local: &[u8], domain: &[u8]) -> String {
        let key = self.key.as_ref().expect("made with a key for this form");
        let tag = hmac::sign(key, &[local, b"@", domain].concat());
        format!(
            "hmac:{}",
            data_encoding::HEXLOWER.encode(&tag.as_ref()[..16])
        )
    }
}

/// `path` as it stands in a log with hashed addresses. `key` is the file of that log's private key.
pub(crate) fn hashed(key: &Path, path: &[u8]) -> Result<String, OpenError> {
    let secret = SigningKey::read(key)?.secret();
    let addresses = Addresses::new(AddressForm::Hashed, secret.as_ref().map(|it| it.as_slice()));
    let addresses =
        addresses.ok_or_else(|| OpenError::Wrong(format!("{}: no key", key.display())))?;
    Ok(addresses.address(path).0.0)
}

fn derive(secret: &[u8]) -> hmac::Key {
    let seed = derived(b"starttls-proxy", secret, b"audit addresses v1");
    hmac::Key::new(hmac::HMAC_SHA256, &seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(form: AddressForm, path: &[u8]) -> String {
        Addresses::new(form, Some(&[7; 32]))
            .unwrap()
            .address(path)
            .0
            .0
    }

    #[test]
    fn nothing_that_is_shown_acts_on_a_terminal_or_has_no_end() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}1m \\x1b \u{202e}\u{7f}";
        let shown = printable(hostile, 1000);
        assert_eq!(shown, "a\\u{1b}[2J\\r\\n\\u{9b}1m \\x1b \\u{202e}\\u{7f}");
        assert_eq!(printable(&shown, 1000), shown);
        assert_eq!(printable(&"x".repeat(9), 4), "xxxx...");
    }

    #[test]
    fn wire_text_cannot_forge_a_line_or_act_on_a_terminal() {
        let text = WireText::escape(b"a\r\n{\"v\":1}\x1b[31m\\\xff\x7f");
        assert_eq!(text.as_str(), r#"a\r\n{"v":1}\x1b[31m\\\xff\x7f"#);
    }

    #[test]
    fn domain_form_keeps_nothing_of_the_local_part() {
        assert_eq!(
            text(AddressForm::Domain, b"a@b@Clinic.EXAMPLE"),
            "@clinic.example"
        );
        assert_eq!(
            text(AddressForm::Domain, b"\"x@y\"@[192.0.2.1]"),
            "@[192.0.2.1]"
        );
        assert_eq!(text(AddressForm::Domain, b"jane"), "@");
        assert_eq!(text(AddressForm::Domain, b""), "");
        assert_eq!(text(AddressForm::Domain, b"Postmaster"), "Postmaster");
    }

    #[test]
    fn replies_do_not_tell_what_addresses_do_not() {
        let reply = WireText::from(
            "250-2.1.5 <Jane.Doe@Clinic.example>... ok\r\n250 for j\u{f6}rg@x.example, queued as 4X/1@mx",
        );
        let text = |form| {
            Addresses::new(form, Some(&[7; 32]))
                .unwrap()
                .reply(&reply)
                .0
        };
        assert_eq!(text(AddressForm::Full), reply.as_str());
        assert_eq!(
            text(AddressForm::Domain),
            r"250-2.1.5 <@clinic.example>... ok\r\n250 for @x.example, queued as @mx"
        );
        let hashed = text(AddressForm::Hashed);
        assert!(
            !hashed.contains("Jane") && hashed.contains("<hmac:") && hashed.ends_with("@mx"),
            "{hashed}"
        );
    }

    #[test]
    fn hashed_form_is_keyed_and_the_domain_folds_case_but_the_local_part_does_not() {
        let one = text(AddressForm::Hashed, b"jane@clinic.example");
        assert!(one.starts_with("hmac:") && one.ends_with("@clinic.example"));
        assert_eq!(one.len(), "hmac:".len() + 32 + "@clinic.example".len());
        assert_eq!(one, text(AddressForm::Hashed, b"jane@CLINIC.example"));
        assert_ne!(one, text(AddressForm::Hashed, b"Jane@clinic.example"));
        let other = Addresses::new(AddressForm::Hashed, Some(&[8; 32])).unwrap();
        assert_ne!(one, other.address(b"jane@clinic.example").0.0);
        assert!(Addresses::new(AddressForm::Hashed, None).is_none());
        assert_eq!(
            text(AddressForm::Hashed, b"@clinic.example"),
            "@clinic.example"
        );
    }
}
