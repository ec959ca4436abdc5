//! The fields of records that the report counts, read from the lines of a log.

use serde::{Deserialize, Serialize, de::IgnoredAny};
use std::{borrow::Cow, fmt, ops::Deref};

/// Text of a line, copied only where it has escapes. (In an `Option` or a `Vec`, a plain `Cow` would be copied always.)
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields of any record that are counted.
#[derive(Deserialize)]
pub(super) struct ReadRecord<'a> {
    pub(super) seq: u64,
    pub(super) at: &'a str,
    pub(super) event: &'a str,
    #[serde(borrow)]
    pub(super) session: Option<ReadSession<'a>>,
    #[serde(borrow)]
    pub(super) host: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) direction: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) addresses: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) domain: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) reply: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) verdict: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) detail: Option<Text<'a>>,
    #[serde(default)]
    pub(super) remembered: bool,
    #[serde(borrow)]
    pub(super) sender: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) recipients: Vec<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) repeated: Vec<ReadRepeated<'a>>,
    #[serde(borrow)]
    pub(super) outcome: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) error: Option<Text<'a>>,
    pub(super) octets: Option<u64>,
    #[serde(borrow)]
    pub(super) tls: Option<ReadTls<'a>>,
    #[serde(borrow)]
    pub(super) decision: Option<Box<ReadDecision<'a>>>,
    #[serde(borrow, default)]
    pub(super) decisions: Vec<ReadDecision<'a>>,
    pub(super) policy: Option<Box<ReadPolicy>>,
    #[serde(default)]
    pub(super) files: Vec<ReadFile>,
    #[serde(default)]
    pub(super) counts: Vec<ReadCount>,
    #[serde(borrow)]
    pub(super) peer: Option<ReadPeer<'a>>,
    #[serde(borrow)]
    pub(super) sha256: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) arguments: Vec<Text<'a>>,
    #[serde(borrow)]
    pub(super) since: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) aside: Option<Text<'a>>,
    #[serde(default)]
    pub(super) lost: u64,
    pub(super) note: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct ReadSession<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) direction: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct ReadTls<'a> {
    #[serde(borrow)]
    pub(super) version: Text<'a>,
    #[serde(borrow)]
    pub(super) suite: Text<'a>,
    #[serde(borrow)]
    pub(super) group: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct ReadDecision<'a> {
    #[serde(borrow)]
    pub(super) domain: Text<'a>,
    #[serde(borrow)]
    pub(super) verdict: Text<'a>,
    #[serde(default)]
    pub(super) observed: bool,
    #[serde(borrow)]
    pub(super) reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) detail: Text<'a>,
    #[serde(borrow)]
    pub(super) level: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) basis: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) rule: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) until: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) why: Option<Text<'a>>,
    pub(super) signed: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct ReadPeer<'a> {
    #[serde(borrow)]
    pub(super) certificate: ReadCertificate<'a>,
}

#[derive(Deserialize)]
pub(super) struct ReadCertificate<'a> {
    #[serde(borrow)]
    pub(super) sha256: Text<'a>,
    #[serde(borrow)]
    pub(super) spki_sha256: Text<'a>,
    #[serde(borrow)]
    pub(super) subject: Text<'a>,
    #[serde(borrow)]
    pub(super) issuer: Text<'a>,
    #[serde(borrow)]
    pub(super) serial: Text<'a>,
    #[serde(borrow)]
    pub(super) key: Text<'a>,
    #[serde(borrow)]
    pub(super) not_before: Text<'a>,
    #[serde(borrow)]
    pub(super) not_after: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct ReadRepeated<'a> {
    #[serde(borrow)]
    pub(super) domain: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) reason: Option<Text<'a>>,
    pub(super) observed: bool,
    pub(super) times: u64,
}

#[derive(Deserialize)]
pub(super) struct ReadPolicy {
    pub(super) file: String,
    pub(super) sha256: String,
    pub(super) exemptions: Vec<ReadExemption>,
    #[serde(default)]
    pub(super) tafiles: Vec<ReadTrustFile>,
}

#[derive(Deserialize)]
pub(super) struct ReadTrustFile {
    pub(super) file: String,
    pub(super) sha256: String,
}

#[derive(Deserialize)]
pub(super) struct ReadCount {
    pub(super) kind: String,
    pub(super) count: u64,
}

#[derive(Deserialize)]
pub(super) struct ReadFile {
    pub(super) file: String,
    pub(super) error: Option<String>,
}

impl<'a> ReadRecord<'a> {
    /// Reads a line; `None` if it is no record. The line is checked to be text once, and not string by string.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        serde_json::from_str(line).ok()
    }

    /// A message that the server accepted, or may have accepted.
    pub(super) fn is_handed_over(&self) -> bool {
        self.event == "message" && self.outcome.as_deref() != Some("rejected")
    }

    pub(super) fn is_outbound(&self) -> bool {
        let outbound = |session: &ReadSession<'_>| &*session.direction == "outbound";
        self.session.as_ref().is_some_and(outbound)
    }

    /// Whether this start of the program is in observe mode.
    pub(super) fn is_observing(&self) -> bool {
        self.arguments.iter().any(|word| &**word == "--observe")
    }

    /// How many events of a kind were only counted.
    pub(super) fn only_counted(&self, kind: &str) -> u64 {
        let counts = self.counts.iter().filter(|one| one.kind == kind);
        counts.map(|one| one.count).sum()
    }

    /// The domains of a message's recipients (outbound) or of its sender (inbound), each once.
    pub(super) fn parties(&self) -> Vec<Cow<'_, str>> {
        let addresses = if self.is_outbound() {
            self.recipients.as_slice()
        } else {
            self.sender.as_slice()
        };
        let mut parties: Vec<_> = addresses.iter().map(|address| party(address)).collect();
        parties.sort_unstable();
        parties.dedup();
        parties
    }
}

/// The domain of an address in lower case.
fn party(address: &str) -> Cow<'_, str> {
    let domain = match address.rsplit_once('@') {
        Some((_, domain)) => domain,
        None if address.is_empty() => "<>",
        None => address,
    };
    match domain.bytes().any(|b| b.is_ascii_uppercase()) {
        true => domain.to_ascii_lowercase().into(),
        false => domain.into(),
    }
}

impl ReadDecision<'_> {
    pub(super) fn has_level(&self, levels: &[&str]) -> bool {
        (self.level.as_deref()).is_some_and(|level| levels.contains(&level))
    }

    /// Whether the rule demanded TLS, so that the message would not have gone in the clear.
    pub(super) fn demands_tls(&self) -> bool {
        let demands = |level: &str| {
            matches!(
                level,
                "encrypt" | "fingerprint" | "verify" | "secure" | "dane" | "dane-only" | "mta-sts"
            )
        };
        !self.observed && self.level.as_deref().is_some_and(demands)
    }

    /// Whether the peer proved its identity in a way that nobody on the path can forge: by a pin, a chain for the domain's own name, or
    /// DANE or a chain for a host whose name was signed.
    pub(super) fn is_qualified(&self) -> bool {
        let by_name = self.signed == Some(true) && self.has_level(&["verify", "dane", "dane-only"]);
        let proved = self.has_level(&["fingerprint", "secure"]) || by_name;
        &*self.verdict == "authorised" && !self.observed && proved
    }

    /// The level that was enforced. A level that was only observed says so.
    pub(super) fn level_in_force(&self) -> Option<Cow<'_, str>> {
        let level = self.level.as_deref()?;
        Some(match self.would_refuse() {
            Some(_) => format!("{level}, only observed").into(),
            None => level.into(),
        })
    }

    /// Whether the peer proved its identity. Under `encrypt` it is authorised without that.
    pub(super) fn is_proof(&self) -> bool {
        let asks_for_none = matches!(
            self.level.as_deref(),
            None | Some("none" | "may" | "encrypt")
        );
        &*self.verdict == "authorised" && !asks_for_none
    }

    /// The reason for which enforcing would have refused this mail, where observe mode let it pass.
    pub(super) fn would_refuse(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.observed)
    }
}

/// One exemption of the policy in force.
#[derive(Clone, PartialEq, Deserialize, Serialize)]
pub(super) struct ReadExemption {
    pub(super) entry: String,
    pub(super) level: String,
    pub(super) until: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) rule: String,
}
