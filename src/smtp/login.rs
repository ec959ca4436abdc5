//! The proxy's own login to a server (RFC 4954), for clients that cannot log in themselves.
//!
//! Pure: the session hands the credentials over when it is asked for them, and the machine sends what is made of them here. A
//! [`Secret`] cannot be printed, and its memory is overwritten when it is dropped.

use data_encoding::BASE64;
use std::{collections::VecDeque, fmt};
use zeroize::Zeroizing;

use super::extensions::Extensions;

/// Longest command line with an initial response, in octets, CRLF included (RFC 5321 §4.5.3.1.4). A longer response goes in a line
/// of its own (RFC 4954 §4).
const COMMAND_LINE: usize = 512;

/// Octets that no log, record or reply may show: a password, a token, or a line of a login.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// These octets are secret from now on.
    #[must_use]
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets, for the connection inside TLS and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The parts behind each other. There is room for all of them at first, so that no copy is left behind by growing.
    fn of(parts: &[&[u8]]) -> Self {
        let mut whole = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        Self::new(whole)
    }

    fn in_base64(&self) -> Self {
        let mut text = vec![0; BASE64.encode_len(self.0.len())];
        BASE64.encode_mut(&self.0, &mut text);
        Self::new(text)
    }

    fn as_line(&self) -> Self {
        Self::of(&[&self.0, b"\r\n"])
    }
}

/// Says nothing of the octets, not even their number.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who logs in, and what proves it to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    user: String,
    means: LoginMeans,
}

/// What proves to the server who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginMeans {
    /// A password, for PLAIN (RFC 4616) and LOGIN.
    Password(Secret),
    /// An OAuth 2.0 access token, for XOAUTH2.
    Token(Secret),
}

impl Login {
    /// Credentials. Neither the user's name nor the secret has control characters.
    #[must_use]
    pub fn new(user: String, means: LoginMeans) -> Self {
        Self { user, means }
    }

    /// The user's name, which is no secret.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The mechanisms that these credentials are good for, in words.
    pub(super) fn usable(&self) -> &'static str {
        match self.means {
            LoginMeans::Password(_) => "PLAIN and LOGIN",
            LoginMeans::Token(_) => "XOAUTH2",
        }
    }
}

/// One login under way.
#[derive(Debug)]
pub(super) struct LoginExchange {
    pub(super) user: String,
    /// The mechanism's name.
    pub(super) mechanism: &'static str,
    /// What is answered to the server's next challenges.
    answers: VecDeque<Secret>,
}

impl LoginExchange {
    /// The exchange and its first line, with the first mechanism that the server offers and that these credentials are good for.
    /// `None`: the server offers none.
    pub(super) fn begin(login: Login, offered: &Extensions) -> Option<(Self, Secret)> {
        let Login { user, means } = login;
        let name = user.as_bytes();
        let (mechanism, answers) = match &means {
            LoginMeans::Password(password) if offered.has_mechanism("PLAIN") => {
                let message = Secret::of(&[b"\0", name, b"\0", password.expose()]);
                ("PLAIN", vec![message])
            }
            LoginMeans::Password(password) if offered.has_mechanism("LOGIN") => {
                let user = Secret::of(&[name]);
                ("LOGIN", vec![user, password.clone()])
            }
            LoginMeans::Token(token) if offered.has_mechanism("XOAUTH2") => {
                let parts = [
                    b"user=",
                    name,
                    b"\x01auth=Bearer ",
                    token.expose(),
                    b"\x01\x01",
                ];
                // A server that refuses a token says why in a challenge, whose answer is empty.
                ("XOAUTH2", vec![Secret::of(&parts), Secret::of(&[])])
            }
            _ => return None,
        };
        let mut answers: VecDeque<Secret> = answers.iter().map(Secret::in_base64).collect();
        let command = format!("AUTH {mechanism}");
        // LOGIN has no initial response in its description, and servers differ.
        let fits = |first: &Secret| {
            mechanism != "LOGIN" && command.len() + first.expose().len() + 3 <= COMMAND_LINE
        };
        let line = match answers.pop_front() {
            Some(first) if fits(&first) => {
                Secret::of(&[command.as_bytes(), b" ", first.expose(), b"\r\n"])
            }
            first => {
                if let Some(first) = first {
                    answers.push_front(first);
                }
                Secret::of(&[command.as_bytes(), b"\r\n"])
            }
        };
        let exchange = Self {
            user,
            mechanism,
            answers,
        };
        Some((exchange, line))
    }

    /// The line that answers the server's next challenge. `None`: the mechanism has no more to say.
    pub(super) fn answer(&mut self) -> Option<Secret> {
        Some(self.answers.pop_front()?.as_line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{extensions::Offer, reply::Reply};
    use proptest::prelude::*;

    fn offered(mechanisms: &str) -> Extensions {
        let lines = ["mx".to_owned(), format!("AUTH {mechanisms}")];
        Offer::read(&Reply::of_lines(250, lines), true).extensions
    }

    fn password(text: &str) -> Login {
        let secret = Secret::new(text.as_bytes().to_vec());
        Login::new("nurse".into(), LoginMeans::Password(secret))
    }

    fn token(text: &str) -> Login {
        let secret = Secret::new(text.as_bytes().to_vec());
        Login::new("nurse@x.example".into(), LoginMeans::Token(secret))
    }

    /// All lines of a login whose server asks for as many answers as there are.
    fn said(login: Login, mechanisms: &str) -> Vec<String> {
        let (mut exchange, first) =
            LoginExchange::begin(login, &offered(mechanisms)).expect("a mechanism");
        let text = |line: &Secret| String::from_utf8(line.expose().to_vec()).expect("ASCII");
        let mut lines = vec![text(&first)];
        while let Some(line) = exchange.answer() {
            lines.push(text(&line));
        }
        lines
    }

    #[test]
    fn a_password_goes_by_plain_before_login_and_by_nothing_else() {
        let plain = ["AUTH PLAIN AG51cnNlAHB3\r\n"];
        assert_eq!(said(password("pw"), "LOGIN PLAIN CRAM-MD5"), plain);
        let login = ["AUTH LOGIN\r\n", "bnVyc2U=\r\n", "cHc=\r\n"];
        assert_eq!(said(password("pw"), "CRAM-MD5 LOGIN"), login);
        for others in ["XOAUTH2", "CRAM-MD5 SCRAM-SHA-256", "EXTERNAL"] {
            assert!(LoginExchange::begin(password("pw"), &offered(others)).is_none());
        }
    }

    #[test]
    fn a_token_goes_by_xoauth2_and_its_refusal_is_answered_empty() {
        let response = BASE64.encode(b"user=nurse@x.example\x01auth=Bearer t0k\x01\x01");
        let lines = [format!("AUTH XOAUTH2 {response}\r\n"), "\r\n".into()];
        assert_eq!(said(token("t0k"), "PLAIN XOAUTH2"), lines);
        assert!(LoginExchange::begin(token("t0k"), &offered("PLAIN LOGIN")).is_none());
    }

    #[test]
    fn a_response_that_makes_the_command_too_long_goes_in_a_line_of_its_own() {
        let fits = "x".repeat(365);
        let lines = said(password(&fits), "PLAIN");
        assert_eq!((lines.len(), lines[0].len()), (1, 509), "{lines:?}");
        let too_long = "x".repeat(366);
        let lines = said(password(&too_long), "PLAIN");
        assert_eq!(lines[0], "AUTH PLAIN\r\n");
        let response = BASE64.encode(format!("\0nurse\0{too_long}").as_bytes());
        assert_eq!(lines[1], response + "\r\n");
    }

    proptest! {
        #[test]
        fn nothing_that_can_be_printed_has_the_secret(text in "[!-~]{6,40}") {
            let secret = Secret::new(text.as_bytes().to_vec());
            let (exchange, first) =
                LoginExchange::begin(password(&text), &offered("LOGIN")).expect("LOGIN");
            let shown = format!("{secret:?} {exchange:?} {first:?} {:?}", token(&text));
            prop_assert!(!shown.contains(&text), "{}", shown);
            prop_assert!(!shown.contains(&BASE64.encode(text.as_bytes())), "{}", shown);
        }
    }
}
