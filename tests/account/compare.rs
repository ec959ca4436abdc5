//! The records of a run beside the account of it. Each comparison has a name; `ACCOUNT_SKIP=end,hello` leaves some out.

use crate::{
    certs::sha256,
    client::{Ended, Session},
    heard::Connection,
    model::{Account, Played, WantedDecision, WantedMessage},
    rules::{Fact, Rules, Way},
    story::story,
    whose::take_own,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
};

/// A difference between the records and the account.
pub struct Difference {
    pub comparison: &'static str,
    pub words: String,
}

/// Everything that a run left behind.
pub struct Run {
    pub rules: Rules,
    pub sessions: Vec<Session>,
    pub connections: Vec<Connection>,
    pub records: Vec<Value>,
}

pub type Records<'r> = [&'r Value];

pub fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn event(record: &Value) -> &str {
    text(record, "/event").unwrap_or_default()
}

fn of_event<'r>(records: &Records<'r>, word: &str) -> Vec<&'r Value> {
    records
        .iter()
        .copied()
        .filter(|record| event(record) == word)
        .collect()
}

/// Collects what differs in one session.
struct Found<'a> {
    skip: &'a HashSet<String>,
    differences: Vec<Difference>,
}

impl Found<'_> {
    fn say(&mut self, comparison: &'static str, words: String) {
        if !self.skip.contains(comparison) {
            self.differences.push(Difference { comparison, words });
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        comparison: &'static str,
        of: &str,
        recorded: T,
        wanted: T,
    ) {
        if recorded != wanted {
            self.say(
                comparison,
                format!("{of} is {recorded:?}, and was {wanted:?}"),
            );
        }
    }
}

impl Run {
    /// All differences, each with the facts that are needed to understand it.
    pub fn differences(&self, skip: &HashSet<String>) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut by_session: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for record in &self.records {
            if let Some(id) = text(record, "/session/id") {
                by_session.entry(id).or_default().push(record);
            }
        }
        let mut by_ends: HashMap<String, Vec<&str>> = HashMap::new();
        for record in &self.records {
            if let Some(id) = text(record, "/session/id") {
                let ids = by_ends.entry(self.end_of(record)).or_default();
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        let mut claimed = HashSet::new();
        let mut before: HashMap<SocketAddr, Played<'_>> = HashMap::new();
        for session in &self.sessions {
            let end = match self.rules.way {
                Way::Gate => session.to,
                Way::Upstream | Way::Inbound => session.from,
            };
            let ids = by_ends.get_mut(&end.to_string());
            let id = ids.and_then(|ids| take_own(ids, session, &by_session));
            let records = id.map_or_else(Vec::new, |id| by_session[id].clone());
            let connections = self.connections_of(session, &records);
            claimed.extend(connections.iter().map(|one| one.number));
            let played = (session, connections.clone());
            let account = self.rules.account(&played, before.get(&end));
            before.insert(end, played);
            let mut found = Found {
                skip,
                differences: Vec::new(),
            };
            if id.is_none() {
                found.say("sessions", String::from("no record tells of it"));
            }
            if session.hung {
                found.say("hang", String::from("the client waited in vain"));
            }
            compare(&account, &records, &mut found);
            compare_heard(session, &connections, &records, self.rules.way, &mut found);
            compare_observed(&records, self.rules.observe, &mut found);
            if !found.differences.is_empty() {
                let story = story(session, &connections, &records);
                for mut difference in found.differences {
                    difference.words += &story;
                    all.push(difference);
                }
            }
        }
        let mut found = Found {
            skip,
            differences: all,
        };
        for (end, ids) in by_ends.iter().filter(|(_, ids)| !ids.is_empty()) {
            let words = format!("nobody had the sessions {ids:?} of {end}");
            found.say("sessions", words);
        }
        for connection in self
            .connections
            .iter()
            .filter(|one| !claimed.contains(&one.number))
        {
            // Only the test's own wake-up connection belongs to no session.
            let said = connection
                .transcript
                .iter()
                .any(|line| line.starts_with("P: ") && line != "P: [closed]");
            if said {
                found.say(
                    "sessions",
                    format!("no record tells of {:#?}", connection.transcript),
                );
            }
        }
        self.process(&mut found);
        found.differences
    }

    /// Compares the sums in the records of the process.
    fn process(&self, found: &mut Found<'_>) {
        let records: Vec<&Value> = self.records.iter().collect();
        let (starts, stops) = (of_event(&records, "start"), of_event(&records, "stop"));
        found.equal(
            "process",
            "the number of start and stop records",
            (starts.len(), stops.len()),
            (1, 1),
        );
        let Some(stop) = stops.first() else { return };
        let accepted = self
            .connections
            .iter()
            .flat_map(|one| &one.transactions)
            // A server that says 354 to nobody gets an empty message, which is none.
            .filter(|one| !one.accepted().is_empty())
            .filter(|one| {
                one.verdict
                    .as_ref()
                    .is_some_and(|verdict| verdict.starts_with('2'))
            });
        let accepted = accepted.count() as u64;
        found.equal(
            "process",
            "stop.messages",
            stop["messages"].as_u64(),
            Some(accepted),
        );
        found.equal(
            "process",
            "stop.sessions",
            stop["sessions"].as_u64(),
            Some(self.sessions.len() as u64),
        );
        let reason = text(stop, "/reason").unwrap_or_default();
        if !reason.contains("SIGTERM") {
            found.say(
                "stop-reason",
                format!("stop.reason is {reason:?}, and the signal was SIGTERM"),
            );
        }
    }
}

fn compare(account: &Account<'_>, records: &Records<'_>, found: &mut Found<'_>) {
    let messages = of_event(records, "message");
    for (at, record) in messages.iter().enumerate() {
        found.equal(
            "number",
            "message.number",
            record["number"].as_u64(),
            Some(at as u64 + 1),
        );
    }
    for (wanted, record) in pair(account, &messages, found) {
        compare_message(wanted, record, found);
    }
    compare_closed(account, records, &messages, found);
    compare_facts(account, records, found);
}

/// Pairs each message with its record. Both are in the order in which the messages were sent.
fn pair<'m, 'r>(
    account: &'m Account<'m>,
    records: &Records<'r>,
    found: &mut Found<'_>,
) -> Vec<(&'m WantedMessage<'m>, &'r Value)> {
    let mut pairs = Vec::new();
    let mut records = records.iter().copied().peekable();
    for wanted in &account.messages {
        let accepted = wanted.transaction.accepted();
        let recorded = |record: &&Value| {
            let recipients = record["recipients"].as_array().into_iter().flatten();
            recipients
                .filter_map(Value::as_str)
                .eq(accepted.iter().copied())
        };
        match records.next_if(recorded) {
            Some(record) => pairs.push((wanted, record)),
            None if wanted.certain => found.say(
                "messages",
                format!("no record of the message to {accepted:?}"),
            ),
            None => {}
        }
    }
    for record in records {
        found.say("messages", format!("nobody sent the message of {record}"));
    }
    pairs
}

fn compare_message(wanted: &WantedMessage<'_>, record: &Value, found: &mut Found<'_>) {
    let transaction = wanted.transaction;
    found.equal(
        "sender",
        "message.sender",
        text(record, "/sender"),
        Some(&transaction.sender),
    );
    let outcome = match transaction.verdict.as_deref() {
        Some(reply) if reply.starts_with('2') => "accepted",
        Some(_) => "rejected",
        None => "unknown",
    };
    found.equal(
        "outcome",
        "message.outcome",
        text(record, "/outcome"),
        Some(outcome),
    );
    let reply = transaction
        .verdict
        .as_ref()
        .map(|reply| reply.replace("\r\n", "\\r\\n"));
    found.equal(
        "outcome",
        "message.reply",
        text(record, "/reply"),
        reply.as_deref(),
    );
    compare_content(wanted, record, found);
    found.equal(
        "tls",
        "whether message.tls is there",
        record["tls"].is_object(),
        wanted.secure,
    );
    found.equal(
        "certificate",
        "message.peer.certificate.sha256",
        text(record, "/peer/certificate/sha256"),
        wanted.certificate,
    );
    found.equal(
        "hello",
        "message.session.hello",
        text(record, "/session/hello"),
        Some(&transaction.hello),
    );
    let ends = (
        wanted.connection.from.to_string(),
        wanted.connection.to.to_string(),
    );
    let recorded = (
        text(record, "/session/server/from"),
        text(record, "/session/server/to"),
    );
    found.equal(
        "server",
        "message.session.server",
        recorded,
        (Some(&ends.0), Some(&ends.1)),
    );
    compare_decisions(wanted, record, found);
}

fn compare_content(wanted: &WantedMessage<'_>, record: &Value, found: &mut Found<'_>) {
    let transaction = wanted.transaction;
    let came = &transaction.content;
    let octets =
        usize::try_from(record["octets"].as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let relayed = match wanted.meant {
        _ if transaction.whole => (octets == came.len()).then_some(&came[..]),
        // Octets that were on their way when a connection ended may not have arrived.
        Some(meant) => (octets >= came.len())
            .then(|| meant.get(..octets))
            .flatten(),
        None => (octets == 0).then_some(&[][..]),
    };
    match relayed {
        None => found.say(
            "octets",
            format!("message.octets is {octets}, and {} came", came.len()),
        ),
        Some(relayed) => found.equal(
            "sha256",
            "message.sha256",
            text(record, "/sha256"),
            Some(&sha256(relayed)),
        ),
    }
}

fn compare_decisions(wanted: &WantedMessage<'_>, record: &Value, found: &mut Found<'_>) {
    let mut recorded: Vec<&Value> = record["decisions"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let mut weakest = None;
    for wanted in &wanted.decisions {
        // Two spellings of one domain may have one decision each.
        let (own, others): (Vec<&Value>, Vec<&Value>) = recorded.into_iter().partition(|one| {
            let domain = text(one, "/domain")
                .unwrap_or_default()
                .to_ascii_lowercase();
            wanted.domains.contains(&domain)
        });
        recorded = others;
        for &own in &own {
            compare_decision(wanted, own, found);
        }
        if own.is_empty() {
            if !wanted.optional {
                let words = format!("there is no decision about {:?}", wanted.domains);
                found.say("decisions", words);
            }
            continue;
        }
        weakest = weakest.max(Some(rank(wanted.verdict)));
    }
    for other in recorded {
        found.say(
            "decisions",
            format!("a decision of somebody else's mail: {}", brief(other)),
        );
    }
    if let Some(weakest) = weakest {
        let verdict = text(record, "/verdict").unwrap_or_default();
        found.equal(
            "verdict",
            "the weakness of message.verdict",
            rank(verdict),
            weakest,
        );
    }
}

fn rank(verdict: &str) -> u8 {
    match verdict {
        "authorised" => 0,
        "unprotected" => 1,
        _ => 2,
    }
}

fn compare_decision(wanted: &WantedDecision, recorded: &Value, found: &mut Found<'_>) {
    let of = |field: &str| format!("decision.{field} of {}", wanted.domains[0]);
    found.equal(
        "decision",
        &of("verdict"),
        text(recorded, "/verdict"),
        Some(wanted.verdict),
    );
    let reason = text(recorded, "/reason");
    if !wanted.has_reason(reason) {
        let words = format!(
            "{} is {reason:?}, and was {:?}",
            of("reason"),
            wanted.reason
        );
        found.say("decision", words);
    }
    if wanted.level.is_some() {
        found.equal(
            "decision",
            &of("level"),
            text(recorded, "/level"),
            wanted.level,
        );
    }
    found.equal(
        "decision",
        &of("basis"),
        text(recorded, "/basis"),
        wanted.basis,
    );
    found.equal(
        "decision",
        &of("rule"),
        text(recorded, "/rule"),
        wanted.rule.as_deref(),
    );
}

fn compare_closed(
    account: &Account<'_>,
    records: &Records<'_>,
    messages: &Records<'_>,
    found: &mut Found<'_>,
) {
    let closed = of_event(records, "session-closed");
    found.equal(
        "closed",
        "the number of session-closed records",
        closed.len(),
        1,
    );
    let Some(closed) = closed.first() else { return };
    let accepted = messages
        .iter()
        .filter(|record| text(record, "/outcome") == Some("accepted"));
    found.equal(
        "closed",
        "session-closed.messages",
        closed["messages"].as_u64(),
        Some(accepted.count() as u64),
    );
    let end = text(closed, "/end").unwrap_or_default();
    if !account.ends.contains(end) {
        found.say(
            "end",
            format!(
                "session-closed.end is {end:?}, and was one of {:?}",
                account.ends
            ),
        );
    }
    let last = records.last().map_or("", |last| event(last));
    found.equal(
        "closed",
        "the last record of the session",
        last,
        "session-closed",
    );
}

fn compare_facts(account: &Account<'_>, records: &Records<'_>, found: &mut Found<'_>) {
    let recorded: Vec<Fact> = records
        .iter()
        .filter_map(|record| recorded_fact(record))
        .collect();
    for want in account.facts.iter().filter(|want| want.must) {
        if !recorded.iter().any(|fact| want.is(fact)) {
            found.say("facts-missing", format!("no record says {:?}", want.any_of));
        }
    }
    let mut said = HashSet::new();
    for fact in recorded {
        if !account.facts.iter().any(|want| want.is(&fact)) && said.insert(fact.clone()) {
            found.say(
                "facts-extra",
                format!("nothing happened of which a record says {fact:?}"),
            );
        }
    }
    for record in of_event(records, "verdict") {
        let domain = text(record, "/decision/domain").unwrap_or_default();
        let own = domain.parse::<std::net::IpAddr>().is_ok();
        // With the peer as such, and with --upstream, nobody's address was judged.
        let wanted = (!own).then(|| format!("@{domain}"));
        found.equal(
            "address",
            "verdict.address",
            text(record, "/address").map(str::to_lowercase),
            wanted.map(|wanted| wanted.to_lowercase()),
        );
    }
}

/// What the server refused in the clear is told with its code, as unproved, and nothing else is. What it refused inside TLS may be
/// recorded, and is not unproved where the peer was authenticated.
fn compare_heard(
    session: &Session,
    connections: &[&Connection],
    records: &Records<'_>,
    way: Way,
    found: &mut Found<'_>,
) {
    let said: Vec<_> = connections.iter().flat_map(|one| &one.refused).collect();
    let is = |record: &Value, (stage, code, _): &(&str, u16, bool)| {
        text(record, "/stage") == Some(stage) && record["code"] == *code
    };
    let recorded = of_event(records, "heard");
    // A client that left may have left before the name was sent. Inbound the server is our own.
    let demanded = session.ended != Ended::Client && way != Way::Inbound;
    for one in said.iter().filter(|one| demanded && !one.2) {
        if !recorded.iter().any(|record| is(record, one)) {
            found.say(
                "heard",
                format!("no record tells that the server said {one:?}"),
            );
        }
    }
    let authenticated = of_event(records, "verdict").iter().any(|record| {
        text(record, "/decision/verdict") == Some("authorised")
            && text(record, "/decision/level") != Some("encrypt")
    });
    for record in recorded {
        match said.iter().find(|one| is(record, one)) {
            None => found.say(
                "heard",
                format!("the server did not say {}", record["text"]),
            ),
            Some((.., true)) if authenticated && record["unproved"] == true => {
                let words = "inside TLS, by an authenticated peer, and is told as unproved";
                found.say("heard", format!("{} was said {words}", record["text"]));
            }
            Some(_) => {}
        }
    }
}

/// A decision that says whether it was enforced must be right about that.
fn compare_observed(records: &Records<'_>, observe: bool, found: &mut Found<'_>) {
    for record in records {
        let own = record.pointer("/decision/observed");
        let of_message = record["decisions"].as_array().into_iter().flatten();
        let all = own
            .into_iter()
            .chain(of_message.filter_map(|one| one.get("observed")));
        for observed in all {
            found.equal(
                "observed",
                "decision.observed",
                observed.as_bool(),
                Some(observe),
            );
        }
    }
}

fn recorded_fact(record: &Value) -> Option<Fact> {
    let owned = |pointer| text(record, pointer).map(str::to_owned);
    let lower = |pointer| owned(pointer).map(|domain| domain.to_ascii_lowercase());
    match event(record) {
        "verdict" | "unprotected" => Some((
            lower("/decision/domain"),
            owned("/decision/verdict")?,
            owned("/decision/reason"),
        )),
        "refusal" => Some((lower("/domain"), String::from("refused"), owned("/reason"))),
        _ => None,
    }
}

fn brief(value: &Value) -> String {
    let fields = ["domain", "verdict", "level", "basis", "rule", "reason"];
    let pairs: Vec<String> = fields
        .iter()
        .map(|field| format!("{field}={}", value[field]))
        .collect();
    pairs.join(" ")
}
