//! What the policy answers in a script.

use super::{escape, refusal, unescape};
use starttls_proxy::smtp::{self, Authorised, Exempted, Login, LoginMeans, Refusal, Secret};
use std::fmt;

/// [`starttls_proxy::smtp::Answer`] without its tokens, which cannot be kept or compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Authorised,
    Unauthenticated,
    Exempted,
    Upgrade {
        or_plaintext: bool,
    },
    /// With a token, or else a password.
    Login {
        token: bool,
        secret: String,
    },
    Refused(Refusal),
}

impl Answer {
    /// The answer as the machine gets it.
    pub fn to_machine(&self) -> smtp::Answer {
        match self {
            Self::Authorised => smtp::Answer::Authorised(Authorised::assertion()),
            Self::Unauthenticated => smtp::Answer::Authorised(Authorised::unauthenticated()),
            Self::Exempted => smtp::Answer::Exempted(Exempted::assertion()),
            Self::Upgrade { or_plaintext } => smtp::Answer::Upgrade {
                or_plaintext: or_plaintext.then(Exempted::assertion),
            },
            Self::Login { token, secret } => {
                let secret = Secret::new(secret.as_bytes().to_vec());
                let means = match token {
                    true => LoginMeans::Token(secret),
                    false => LoginMeans::Password(secret),
                };
                smtp::Answer::Login(Login::new("nurse".to_owned(), means))
            }
            Self::Refused(refusal) => smtp::Answer::Refused(refusal.clone()),
        }
    }
}

/// The words behind `answer`.
pub fn answer(text: &str) -> Result<Answer, String> {
    Ok(match text.split_once(' ').unwrap_or((text, "")) {
        ("authorised", "") => Answer::Authorised,
        ("unauthenticated", "") => Answer::Unauthenticated,
        ("exempted", "") => Answer::Exempted,
        ("upgrade", "") => Answer::Upgrade {
            or_plaintext: false,
        },
        ("upgrade", "or plaintext") => Answer::Upgrade { or_plaintext: true },
        ("refused", why) => Answer::Refused(refusal(why)?),
        ("login", what) => {
            let (kind, secret) = what.split_once(' ').ok_or("login KIND SECRET")?;
            Answer::Login {
                token: match kind {
                    "password" => false,
                    "token" => true,
                    _ => return Err("login password or token".to_owned()),
                },
                secret: String::from_utf8(unescape(secret)?).map_err(|e| e.to_string())?,
            }
        }
        _ => return Err("no such answer".to_owned()),
    })
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorised => f.write_str("authorised"),
            Self::Unauthenticated => f.write_str("unauthenticated"),
            Self::Exempted => f.write_str("exempted"),
            Self::Upgrade { or_plaintext: true } => f.write_str("upgrade or plaintext"),
            Self::Upgrade { .. } => f.write_str("upgrade"),
            Self::Login { token, secret } => {
                let kind = if *token { "token" } else { "password" };
                write!(f, "login {kind} {}", escape(secret.as_bytes()))
            }
            Self::Refused(why) => write!(f, "refused {why}"),
        }
    }
}
