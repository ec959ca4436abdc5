//! The table as the test wrote it, and what the records must say because of it.

use crate::certs::Shown;

/// One line of the table as the test wrote it, or the rule that applies where there is no table.
#[derive(Clone, Debug)]
pub struct Line {
    /// A domain, `@domain`, the beginning of server addresses (`10.192.`) or of client addresses.
    pub key: &'static str,
    pub level: &'static str,
    pub proof: Proof,
    pub basis: &'static str,
    pub rule: String,
}

#[derive(Clone, Debug)]
pub enum Proof {
    Nothing,
    Certificate(String),
    Name(&'static str),
}

impl Line {
    /// The whole rule of the test: what this line decides about a peer that showed this, in the clear or inside TLS.
    pub fn verdict(&self, shown: Option<&Shown>) -> Result<&'static str, &'static str> {
        match (self.level, &self.proof, shown) {
            ("none" | "may", ..) => Ok("unprotected"),
            (_, _, None) => Err("starttls-not-supported"),
            (_, Proof::Nothing, Some(_)) => Ok("authorised"),
            (_, Proof::Certificate(pin), Some(shown)) if *pin == shown.sha256 => Ok("authorised"),
            (_, Proof::Certificate(_), Some(_)) => Err("certificate-not-trusted"),
            (_, Proof::Name(name), Some(shown)) => {
                shown.wrong_for(name).map_or(Ok("authorised"), Err)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Outbound, recipients' domains decide.
    Gate,
    /// Outbound, `--upstream`.
    Upstream,
    Inbound,
}

/// How the program was started.
pub struct Rules {
    pub way: Way,
    /// `--observe`.
    pub observe: bool,
    pub lines: Vec<Line>,
}

/// What a verdict, unprotected or refusal record says: domain, verdict, reason. `*` is any, `a|b` either.
pub type Fact = (Option<String>, String, Option<String>);

/// One record of that kind, or several that say the same.
#[derive(Clone, Debug)]
pub struct Want {
    pub any_of: Vec<Fact>,
    /// The record must be there.
    pub must: bool,
}

/// `wanted` as in a [`Fact`].
pub fn is(wanted: Option<&str>, found: Option<&str>) -> bool {
    let mut any = wanted.into_iter().flat_map(|wanted| wanted.split('|'));
    wanted == found || any.any(|one| one == "*" || Some(one) == found)
}

impl Want {
    pub fn is(&self, found: &Fact) -> bool {
        self.any_of.iter().any(|(domain, verdict, reason)| {
            is(domain.as_deref(), found.0.as_deref())
                && *verdict == found.1
                && is(reason.as_deref(), found.2.as_deref())
        })
    }
}

pub fn fact(domain: Option<&str>, verdict: &str, reason: Option<&str>) -> Fact {
    (
        domain.map(Into::into),
        verdict.into(),
        reason.map(Into::into),
    )
}

pub fn refused(domain: Option<&str>, reason: &str) -> Fact {
    fact(domain, "refused", Some(reason))
}

/// The text behind the last `@`, in lower case.
pub fn domain_of(path: &str) -> String {
    let domain = path.rsplit_once('@').map_or(path, |(_, domain)| domain);
    domain.to_ascii_lowercase()
}

impl Rules {
    /// The line for a recipient's domain or literal at that server, or for the server as such.
    pub fn recipient(&self, domain: &str, server: &str) -> Option<&Line> {
        let is = |line: &&Line| line.key == domain;
        self.lines.iter().find(is).or_else(|| self.server(server))
    }

    pub fn server(&self, server: &str) -> Option<&Line> {
        let by_address = |line: &&Line| line.key.ends_with('.') && server.starts_with(line.key);
        self.lines.iter().find(by_address)
    }

    pub fn sender(&self, sender: &str) -> Option<&Line> {
        let (_, domain) = sender.rsplit_once('@')?;
        let domain = domain.to_ascii_lowercase();
        self.lines
            .iter()
            .find(|line| line.key.strip_prefix('@') == Some(&domain))
    }

    pub fn client(&self, client: &str) -> Option<&Line> {
        let by_address = |line: &&Line| {
            line.basis == "table" && line.key.ends_with('.') && client.starts_with(line.key)
        };
        self.lines.iter().find(by_address)
    }

    pub fn exempt(&self, client: &str) -> Option<&Line> {
        let exempts = |line: &&Line| line.basis == "exempt" && client.starts_with(line.key);
        self.lines.iter().find(exempts)
    }
}
