//! The fields of records that the report counts, read from the lines of a log.

use serde::Deserialize;
use std::{borrow::Cow, collections::BTreeSet};

/// The fields of any record that are counted.
#[derive(Deserialize)]
pub(super) struct ReadRecord<'a> {
    pub(super) seq: u64,
    pub(super) at: &'a str,
    pub(super) event: &'a str,
    #[serde(borrow)]
    pub(super) session: Option<ReadSession<'a>>,
    #[serde(borrow)]
    pub(super) host: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) direction: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) addresses: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) domain: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reply: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) verdict: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) detail: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) remembered: bool,
    #[serde(borrow)]
    pub(super) sender: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) recipients: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) repeated: Vec<ReadRepeated<'a>>,
    #[serde(borrow)]
    pub(super) outcome: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) error: Option<Cow<'a, str>>,
    pub(super) octets: Option<u64>,
    #[serde(borrow)]
    pub(super) tls: Option<ReadTls<'a>>,
    #[serde(borrow)]
    pub(super) decision: Option<ReadDecision<'a>>,
    #[serde(borrow, default)]
    pub(super) decisions: Vec<ReadDecision<'a>>,
    pub(super) policy: Option<ReadPolicy>,
    #[serde(default)]
    pub(super) files: Vec<ReadFile>,
    #[serde(default)]
    pub(super) counts: Vec<ReadCount>,
}

#[derive(Deserialize)]
pub(super) struct ReadSession<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) direction: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct ReadTls<'a> {
    #[serde(borrow)]
    pub(super) version: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) suite: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) group: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct ReadDecision<'a> {
    #[serde(borrow)]
    pub(super) domain: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) verdict: Cow<'a, str>,
    #[serde(default)]
    pub(super) observed: bool,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) detail: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) level: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) basis: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) rule: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) until: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) why: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct ReadRepeated<'a> {
    #[serde(borrow)]
    pub(super) domain: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) observed: bool,
    pub(super) times: u64,
}

#[derive(Deserialize)]
pub(super) struct ReadPolicy {
    pub(super) file: String,
    pub(super) sha256: String,
    pub(super) exemptions: Vec<ReadExemption>,
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

impl ReadRecord<'_> {
    /// The domains of a message's recipients (outbound) or of its sender (inbound).
    pub(super) fn parties(&self) -> BTreeSet<String> {
        let outbound = |session: &ReadSession<'_>| session.direction == "outbound";
        let addresses = if self.session.as_ref().is_some_and(outbound) {
            self.recipients.as_slice()
        } else {
            self.sender.as_slice()
        };
        let party = |address: &Cow<'_, str>| match address.rsplit_once('@') {
            Some((_, domain)) => domain.to_ascii_lowercase(),
            None if address.is_empty() => String::from("<>"),
            None => address.to_ascii_lowercase(),
        };
        addresses.iter().map(party).collect()
    }
}

impl ReadDecision<'_> {
    /// The level that was enforced. A level that was only observed says so.
    pub(super) fn level_in_force(&self) -> Option<String> {
        let level = self.level.as_deref()?;
        Some(match self.would_refuse() {
            Some(_) => format!("{level}, only observed"),
            None => level.to_owned(),
        })
    }

    /// Whether the peer proved its identity. Under `encrypt` it is authorised without that.
    pub(super) fn is_proof(&self) -> bool {
        let asks_for_none = matches!(
            self.level.as_deref(),
            None | Some("none" | "may" | "encrypt")
        );
        self.verdict == "authorised" && !asks_for_none
    }

    /// The reason for which enforcing would have refused this mail, where observe mode let it pass.
    pub(super) fn would_refuse(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.observed)
    }
}

/// One exemption of the policy in force.
#[derive(Clone, PartialEq, Deserialize)]
pub(super) struct ReadExemption {
    pub(super) entry: String,
    pub(super) level: String,
    pub(super) until: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) rule: String,
}
