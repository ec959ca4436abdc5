//! The figures of the page: what each counts, in words, in this program, and as a filter for jq that anybody can run.
//!
//! A figure without a command beside it would have to be believed. `tests/audit/regimes.rs` runs each command and compares.

use super::{
    command::Commands,
    fields::{ReadDecision, ReadRecord},
    inventory::Inventory,
};

/// One number on the page.
pub(super) struct Figure {
    /// Its name in the file that `--json` writes.
    pub(super) name: &'static str,
    /// What is counted.
    pub(super) words: &'static str,
    how: How,
}

/// How a figure is counted: by jq, and by this program.
enum How {
    /// Messages that were handed over, and for which this condition holds, too.
    Messages(&'static str, fn(&ReadRecord<'_>) -> bool),
    /// Records for which the condition holds.
    Records(&'static str, fn(&ReadRecord<'_>) -> bool),
    /// The sum of what the filter gives for each record.
    Sum(&'static str, fn(&ReadRecord<'_>) -> u64),
    /// Different certificates of peers. The inventory has them.
    Certificates,
    /// Whether all logs are intact, as verification has found.
    Intact,
}

/// The value of a figure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FigureValue {
    /// Exactly so many.
    Number(u64),
    /// More than the page keeps apart, so that its command gives a larger number.
    AtLeast(u64),
    /// Yes or no.
    Fact(bool),
}

/// The class of a message's transport encryption, as the German data protection authorities tell them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TransportClass {
    /// TLS was demanded, with a peer whose identity was proved in a way that nobody on the path can forge.
    Qualified,
    /// TLS was demanded.
    Obligatory,
    /// TLS was used. No rule is recorded that demanded it.
    Opportunistic,
}

/// The condition in jq: a message that was not rejected.
const HANDED_OVER: &str = r#".event == "message" and .outcome != "rejected""#;

/// The condition in jq, for one decision: TLS was demanded of the peer.
macro_rules! demanded {
    () => {
        r#"(.observed | not) and (.level | IN("encrypt", "fingerprint", "verify", "secure", "dane", "dane-only", "mta-sts"))"#
    };
}

/// The condition in jq, for one decision: the peer's identity was proved in a way that nobody on the path can forge.
macro_rules! qualified {
    () => {
        r#".verdict == "authorised" and (.observed | not) and ((.level | IN("fingerprint", "secure")) or (.signed == true and (.level | IN("verify", "dane", "dane-only"))))"#
    };
}

/// The condition in jq, for one decision: the peer proved its identity.
macro_rules! proved {
    () => {
        r#".verdict == "authorised" and (.level | IN("fingerprint", "verify", "secure", "dane", "dane-only", "mta-sts"))"#
    };
}

macro_rules! of_class {
    (qualified) => {
        concat!(
            r#" and .tls != null and .session.direction == "outbound" and (.decisions | length) > 0 and all(.decisions[]; "#,
            qualified!(),
            ")"
        )
    };
    (obligatory) => {
        concat!(
            r#" and .tls != null and (.decisions | length) > 0 and all(.decisions[]; "#,
            demanded!(),
            r#") and (.session.direction != "outbound" or any(.decisions[]; "#,
            qualified!(),
            " | not))"
        )
    };
    (opportunistic) => {
        concat!(
            r#" and .tls != null and ((.decisions | length) == 0 or any(.decisions[]; "#,
            demanded!(),
            " | not))"
        )
    };
}

pub(super) static RECORDS: Figure = Figure {
    name: "records",
    words: "records in the period",
    how: How::Records("true", |_| true),
};
pub(super) static SESSIONS: Figure = Figure {
    name: "sessions",
    words: "sessions, with those that were only counted",
    how: How::Sum(
        r#"if .event == "session-opened" then 1 elif .event == "not-recorded" then (.counts[] | select(.kind == "session-opened") | .count) else empty end"#,
        |record| match record.event {
            "session-opened" => 1,
            _ => record.only_counted("session-opened"),
        },
    ),
};
pub(super) static ATTEMPTS: Figure = Figure {
    name: "transactions",
    words: "messages that were sent to the server, whatever it answered",
    how: How::Records(r#".event == "message""#, |record| record.event == "message"),
};
pub(super) static MESSAGES: Figure = Figure {
    name: "messages",
    words: "messages handed over: accepted, or possibly accepted",
    how: How::Messages("", |_| true),
};
pub(super) static UNKNOWN: Figure = Figure {
    name: "outcome-unknown",
    words: "messages of these whose final reply never came",
    how: How::Records(
        r#".event == "message" and .outcome == "unknown""#,
        |record| record.event == "message" && record.outcome.as_deref() == Some("unknown"),
    ),
};
pub(super) static REJECTED: Figure = Figure {
    name: "rejected",
    words: "messages that the server rejected",
    how: How::Records(
        r#".event == "message" and .outcome == "rejected""#,
        |record| record.event == "message" && record.outcome.as_deref() == Some("rejected"),
    ),
};
pub(super) static ENCRYPTED: Figure = Figure {
    name: "over-tls",
    words: "messages over TLS",
    how: How::Messages(" and .tls != null", |record| record.tls.is_some()),
};
pub(super) static CLEAR: Figure = Figure {
    name: "in-the-clear",
    words: "messages without TLS",
    how: How::Messages(" and .tls == null", |record| record.tls.is_none()),
};
pub(super) static TLS12: Figure = Figure {
    name: "tls-1.2",
    words: "messages over TLS 1.2",
    how: How::Messages(r#" and .tls.version == "TLSv1.2""#, |record| {
        is_over(record, "TLSv1.2")
    }),
};
pub(super) static TLS13: Figure = Figure {
    name: "tls-1.3",
    words: "messages over TLS 1.3",
    how: How::Messages(r#" and .tls.version == "TLSv1.3""#, |record| {
        is_over(record, "TLSv1.3")
    }),
};
pub(super) static OLDER: Figure = Figure {
    name: "tls-older",
    words: "messages over anything older than TLS 1.2",
    how: How::Messages(
        r#" and .tls != null and (.tls.version | IN("TLSv1.2", "TLSv1.3") | not)"#,
        |record| record.tls.is_some() && !is_over(record, "TLSv1.2") && !is_over(record, "TLSv1.3"),
    ),
};
pub(super) static PROVED: Figure = Figure {
    name: "peer-authenticated",
    words: "messages over TLS with a peer that proved its identity to each rule",
    how: How::Messages(
        concat!(
            " and .tls != null and (.decisions | length) > 0 and all(.decisions[]; ",
            proved!(),
            ")"
        ),
        |record| record.tls.is_some() && all(record, ReadDecision::is_proof),
    ),
};
pub(super) static DANE: Figure = Figure {
    name: "dane",
    words: "messages over TLS whose peer matched TLSA records (DANE) for each domain",
    how: How::Messages(
        r#" and .tls != null and (.decisions | length) > 0 and all(.decisions[]; .verdict == "authorised" and (.level | IN("dane", "dane-only")))"#,
        |record| {
            record.tls.is_some()
                && all(record, |one| {
                    &*one.verdict == "authorised" && one.has_level(&["dane", "dane-only"])
                })
        },
    ),
};
pub(super) static MTA_STS: Figure = Figure {
    name: "mta-sts",
    words: "messages over TLS whose peer satisfied an MTA-STS policy for each domain",
    how: How::Messages(
        r#" and .tls != null and (.decisions | length) > 0 and all(.decisions[]; .verdict == "authorised" and .level == "mta-sts")"#,
        |record| {
            record.tls.is_some()
                && all(record, |one| {
                    &*one.verdict == "authorised" && one.has_level(&["mta-sts"])
                })
        },
    ),
};
pub(super) static SIGNED_NAMES: Figure = Figure {
    name: "signed-names",
    words: "messages to hosts whose names came from DNSSEC-signed MX records or --upstream, for each domain",
    how: How::Messages(
        " and (.decisions | length) > 0 and all(.decisions[]; .signed == true)",
        |record| all(record, |one| one.signed == Some(true)),
    ),
};
pub(super) static QUALIFIED: Figure = Figure {
    name: "class-qualified",
    words: "messages of the class “qualified”",
    how: How::Messages(of_class!(qualified), |record| {
        class(record) == Some(TransportClass::Qualified)
    }),
};
pub(super) static OBLIGATORY: Figure = Figure {
    name: "class-obligatory",
    words: "messages of the class “obligatory”, without the qualified ones",
    how: How::Messages(of_class!(obligatory), |record| {
        class(record) == Some(TransportClass::Obligatory)
    }),
};
pub(super) static OPPORTUNISTIC: Figure = Figure {
    name: "class-opportunistic",
    words: "messages over TLS that no recorded rule demanded",
    how: How::Messages(of_class!(opportunistic), |record| {
        class(record) == Some(TransportClass::Opportunistic)
    }),
};
pub(super) static WITH_DIGEST: Figure = Figure {
    name: "with-digest",
    words: "messages with their length and SHA-256 as relayed",
    how: How::Messages(
        " and .octets != null and (.sha256 | length) == 64",
        |record| {
            let digest = record.sha256.as_deref().unwrap_or_default();
            record.octets.is_some() && digest.len() == 64
        },
    ),
};
pub(super) static BY_EXEMPTION: Figure = Figure {
    name: "by-exemption",
    words: "messages that an entry of the administrator let pass without proof of identity",
    how: How::Messages(
        r#" and any(.decisions[]; .verdict == "unprotected" and (.observed | not))"#,
        |record| {
            let mut decisions = record.decisions.iter();
            decisions.any(|one| &*one.verdict == "unprotected" && !one.observed)
        },
    ),
};
pub(super) static UNPROTECTED: Figure = Figure {
    name: "unprotected-sessions",
    words: "sessions, by domain, that went on without proof by such an entry",
    how: How::Records(
        r#".event == "unprotected" and (.decision.observed and .decision.reason != null | not)"#,
        |record| {
            let observed = |one: &ReadDecision<'_>| one.would_refuse().is_some();
            record.event == "unprotected" && !record.decision.as_deref().is_some_and(observed)
        },
    ),
};
pub(super) static OBSERVED: Figure = Figure {
    name: "observed",
    words: "messages that passed only because of observe mode",
    how: How::Messages(
        " and any(.decisions[]; .observed and .reason != null)",
        |record| {
            let mut decisions = record.decisions.iter();
            decisions.any(|one| one.would_refuse().is_some())
        },
    ),
};
pub(super) static OBSERVE_RUNS: Figure = Figure {
    name: "starts-in-observe-mode",
    words: "starts of the program in observe mode",
    how: How::Records(
        r#".event == "start" and any(.arguments[]; . == "--observe")"#,
        |record| record.event == "start" && record.is_observing(),
    ),
};
pub(super) static REFUSED: Figure = Figure {
    name: "refused",
    words: "attempts that the proxy refused, so that nothing of them was handed over",
    how: How::Sum(
        r#"if .event == "session-closed" then (.repeated[] | select(.reason != null and (.observed | not)) | .times) elif .event == "refusal" or (.event == "verdict" and .decision.verdict == "refused" and (.decision.observed | not)) then 1 else empty end"#,
        |record| match record.event {
            "session-closed" => {
                let refused = record.repeated.iter();
                refused
                    .filter(|one| one.reason.is_some() && !one.observed)
                    .map(|one| one.times)
                    .sum()
            }
            "refusal" => 1,
            "verdict" => {
                let refused = |one: &ReadDecision<'_>| &*one.verdict == "refused" && !one.observed;
                u64::from(record.decision.as_deref().is_some_and(refused))
            }
            _ => 0,
        },
    ),
};
pub(super) static ONLY_COUNTED: Figure = Figure {
    name: "refused-only-counted",
    words: "refusals more that were only counted, because they were too many to be recorded singly",
    how: How::Sum(
        r#"select(.event == "not-recorded") | .counts[] | select(.kind == "refusal") | .count"#,
        |record| record.only_counted("refusal"),
    ),
};
pub(super) static CERTIFICATES: Figure = Figure {
    name: "certificates",
    words: "different certificates of peers",
    how: How::Certificates,
};
pub(super) static EXPIRED: Figure = Figure {
    name: "expired-certificates",
    words: "messages with a peer whose certificate had expired (DANE and pins do not look at the date)",
    how: How::Messages(
        " and .peer != null and .peer.certificate.not_after < .at",
        |record| {
            let expired = |end: &str| end < record.at;
            (record.peer.as_ref()).is_some_and(|peer| expired(&peer.certificate.not_after))
        },
    ),
};
pub(super) static STARTS: Figure = Figure {
    name: "starts",
    words: "starts of the program",
    how: How::Records(r#".event == "start""#, |record| record.event == "start"),
};
pub(super) static STOPS: Figure = Figure {
    name: "stops",
    words: "ends of the program in good order",
    how: How::Records(r#".event == "stop""#, |record| record.event == "stop"),
};
pub(super) static CHANGES: Figure = Figure {
    name: "changes",
    words: "changes of policy or files that were read again",
    how: How::Records(
        r#".event == "policy-change" or .event == "reload""#,
        |record| matches!(record.event, "policy-change" | "reload"),
    ),
};
pub(super) static OUTAGES: Figure = Figure {
    name: "outages",
    words: "times that the log could not be written, while mail was deferred",
    how: How::Records(r#".event == "log-recovered""#, |record| {
        record.event == "log-recovered"
    }),
};
pub(super) static CHECKPOINTS: Figure = Figure {
    name: "signed-checkpoints",
    words: "signed checkpoints",
    how: How::Records(r#".event == "checkpoint" and .note != null"#, |record| {
        record.event == "checkpoint" && record.note.is_some()
    }),
};
pub(super) static INTACT: Figure = Figure {
    name: "intact",
    words: "the log is intact, as far as keys and anchors show",
    how: How::Intact,
};

/// All of them, in the order of the file that `--json` writes.
pub(super) static ALL: [&Figure; 33] = [
    &INTACT,
    &RECORDS,
    &SESSIONS,
    &ATTEMPTS,
    &MESSAGES,
    &UNKNOWN,
    &REJECTED,
    &ENCRYPTED,
    &CLEAR,
    &TLS13,
    &TLS12,
    &OLDER,
    &PROVED,
    &DANE,
    &MTA_STS,
    &SIGNED_NAMES,
    &QUALIFIED,
    &OBLIGATORY,
    &OPPORTUNISTIC,
    &WITH_DIGEST,
    &BY_EXEMPTION,
    &UNPROTECTED,
    &OBSERVED,
    &OBSERVE_RUNS,
    &REFUSED,
    &ONLY_COUNTED,
    &CERTIFICATES,
    &EXPIRED,
    &STARTS,
    &STOPS,
    &CHANGES,
    &OUTAGES,
    &CHECKPOINTS,
];

/// The figures of one page, counted record by record.
#[derive(Clone)]
pub(super) struct FigureCounts([u64; ALL.len()]);

impl Default for FigureCounts {
    fn default() -> Self {
        Self([0; ALL.len()])
    }
}

impl FigureCounts {
    /// Adds what a record in the period counts.
    pub(super) fn add(&mut self, record: &ReadRecord<'_>) {
        let is_handed_over = record.is_handed_over();
        for (figure, number) in ALL.iter().zip(&mut self.0) {
            *number += match figure.how {
                How::Messages(_, is_counted) => u64::from(is_handed_over && is_counted(record)),
                How::Records(_, is_counted) => u64::from(is_counted(record)),
                How::Sum(_, amount) => amount(record),
                How::Certificates | How::Intact => 0,
            };
        }
    }

    fn of(&self, figure: &Figure) -> u64 {
        let place = ALL.iter().position(|one| one.name == figure.name);
        place.map_or(0, |place| self.0[place])
    }
}

impl Figure {
    /// Its value. `intact`: all logs are.
    pub(super) fn value(
        &self,
        counts: &FigureCounts,
        inventory: &Inventory,
        intact: bool,
    ) -> FigureValue {
        match self.how {
            How::Messages(..) | How::Records(..) | How::Sum(..) => {
                FigureValue::Number(counts.of(self))
            }
            How::Certificates => {
                let number = inventory.certificates.len() as u64;
                match inventory.is_complete() {
                    true => FigureValue::Number(number),
                    false => FigureValue::AtLeast(number),
                }
            }
            How::Intact => FigureValue::Fact(intact),
        }
    }

    /// What to type to get that value.
    pub(super) fn command(&self, commands: &Commands) -> String {
        let show = &commands.show;
        match self.how {
            How::Messages(more, _) => {
                format!("{show} | jq -c 'select({HANDED_OVER}{more})' | wc -l")
            }
            How::Records(condition, _) => {
                format!("{show} | jq -c 'select({condition})' | wc -l")
            }
            How::Sum(filter, _) => {
                format!("{show} | jq -n 'reduce (inputs | {filter}) as $n (0; . + $n)'")
            }
            How::Certificates => {
                format!("{show} | jq -r '.peer.certificate.sha256 // empty' | sort -u | wc -l")
            }
            How::Intact => commands.verify.clone(),
        }
    }
}

/// Whether a message went over this version of TLS.
fn is_over(message: &ReadRecord<'_>, version: &str) -> bool {
    let same = |tls: &super::fields::ReadTls<'_>| &*tls.version == version;
    message.tls.as_ref().is_some_and(same)
}

/// Whether a message has decisions, and the condition holds for each.
fn all<'a>(message: &ReadRecord<'a>, condition: impl Fn(&ReadDecision<'a>) -> bool) -> bool {
    !message.decisions.is_empty() && message.decisions.iter().all(condition)
}

/// The class of a message that was handed over; `None` in the clear. Of inbound mail nobody can say that it is qualified: whether the
/// sender checked who we are is for the sender to record.
fn class(message: &ReadRecord<'_>) -> Option<TransportClass> {
    message.tls.as_ref()?;
    let is_outbound = message.is_outbound();
    Some(match () {
        () if !all(message, ReadDecision::demands_tls) => TransportClass::Opportunistic,
        () if is_outbound && all(message, ReadDecision::is_qualified) => TransportClass::Qualified,
        () => TransportClass::Obligatory,
    })
}
