//! The schema of the log, field by field.
//!
//! A log is JSON Lines in UTF-8: one record a line, an LF after each, and no other white space outside strings. Every line begins with
//! the same five fields, in this order and at these places:
//!
//! | field | octets | meaning |
//! | --- | --- | --- |
//! | `v` | 5 | version of the schema: `1`. Within a version fields may be added, but none changes its meaning |
//! | `prev` | 15–78 | SHA-256 of the line before (without its LF), 64 hexadecimal digits; 64 zeros in record 0 |
//! | `seq` | from 87 | number of the record, from 0, without gaps across rotated files |
//! | `at` | | when it happened: UTC, microseconds, RFC 3339. It can step back where one process takes over from another |
//! | `event` | | the kind of record, which decides the fields that follow |
//!
//! The fields of one of the variants of [`Record`] follow, in the order of its struct; each is documented there. A type whose name ends
//! in `Record` is all that one event records; a type whose name ends in `Field` is part of records. A field without a value is `null`,
//! never left out. A build with the cargo feature `fips` puts `fips_module` behind them, the name of the validated module (`AWS-LC-FIPS`);
//! no other build has that field, and a checkpoint never has it, because each of its octets is signed. Text from the wire is [`WireText`]. People's addresses are [`Address`](super::Address), which only the log can make,
//! in the form that `--audit-addresses` asks for. Message content, headers, AUTH exchanges and keys have no field.
//!
//! # Checking it without this program
//!
//! coreutils and jq suffice for the chain. In bash, with the files in the order in which they were written:
//!
//! ```bash
//! # check-chain FILE...
//! set -euo pipefail
//! export LC_ALL=C
//! # Each line names the hash of the line before it, and the first one names none ...
//! diff <(jq -r .prev "$@") \
//!      <(printf '%064d\n' 0; cat "$@" | split -l 1 --filter='tr -d "\n" | sha256sum | cut -c 1-64' | head -n -1)
//! # ... and none is missing.
//! diff <(jq .seq "$@") <(seq 0 $(($(cat "$@" | wc -l) - 1)))
//! echo "$(cat "$@" | wc -l):$(tail -n 1 "${!#}" | tr -d '\n' | sha256sum | cut -c 1-64)"
//! ```
//!
//! It prints the head, with which an anchor must agree. With OpenSSL, the next script checks the signature of the last checkpoint, and
//! that it was made for as many records as stand before it. Whether it was made for these records, its root says: `docs/evidence.md`
//! tells how to compute that.
//!
//! ```bash
//! # check-checkpoint FILE KEY.pub
//! set -euo pipefail
//! work=$(mktemp -d) && trap 'rm -r "$work"' EXIT
//! jq -c 'select(.event == "checkpoint")' "$1" | tail -n 1 > "$work/checkpoint"
//! jq -r .note "$work/checkpoint" > "$work/note"
//! sed '/^$/,$d' "$work/note" > "$work/text"
//! sed -n "s|^— $(head -n 1 "$work/text") ||p" "$work/note" | base64 -d | tail -c 64 > "$work/signature"
//! openssl pkeyutl -verify -pubin -inkey "$2" -rawin -in "$work/text" -sigfile "$work/signature"
//! test "$(sed -n 2p "$work/text")" = "$(jq .seq "$work/checkpoint")"
//! ```

mod about_log;

use super::{Address, WireText};
pub use about_log::{
    CheckpointRecord, CosignedRecord, KeyLostRecord, LogBroughtBackRecord, LogContinuedRecord,
    LogCutRecord, LogOpenedRecord, LogRecoveredRecord, NotAnchoredRecord, StampRecord, TornField,
};
use serde::Serialize;
use std::net::SocketAddr;

/// The content of one line after `v`, `prev`, `seq` and `at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Record {
    /// The program began to serve.
    Start(StartRecord),
    /// The program ends in good order. Where the last record of a log is neither this nor the checkpoint behind it, the log is still
    /// being written, a crash ended it, or someone cut it.
    Stop(StopRecord),
    /// Files were read again: on request, or because they had changed.
    Reload(ReloadRecord),
    /// The policy in force changed.
    PolicyChange(PolicyChangeRecord),
    /// A client connected. Written together with the first other record of the session, at the latest with its end.
    SessionOpened(SessionOpenedRecord),
    /// A session ended.
    SessionClosed(SessionClosedRecord),
    /// The policy answered for one recipient (outbound) or one sender (inbound).
    Verdict(Box<VerdictRecord>),
    /// The proxy itself refused something to the client, for another reason than a verdict. Verdicts have a record of their own.
    Refusal(Box<RefusalRecord>),
    /// The server refused the greeting, EHLO, STARTTLS or the proxy's login, which ended the session.
    Heard(Box<HeardRecord>),
    /// A session went on without an authenticated peer, because an entry of the administrator allows that.
    Unprotected(Box<UnprotectedRecord>),
    /// A message was handed over, or may have been.
    Message(Box<MessageRecord>),
    /// Counts of refusals and sessions without a message that were too many to be recorded singly.
    NotRecorded(NotRecordedRecord),
    /// The log was opened by a process. Written by the log itself, before the process can write anything.
    LogOpened(LogOpenedRecord),
    /// Writing works again after it had failed. Written by the log itself.
    LogRecovered(LogRecoveredRecord),
    /// The log's file had been deleted or replaced, and its records are back under its name. Written by the log itself.
    LogBroughtBack(LogBroughtBackRecord),
    /// A file of the log begins. Written by the log itself.
    LogContinued(LogContinuedRecord),
    /// A secret key of the log is gone. Written by the log itself.
    KeyLost(KeyLostRecord),
    /// The end of the log was cut off. Written by the log itself.
    LogCut(LogCutRecord),
    /// Vouches for every line before it. Written by the log itself.
    Checkpoint(CheckpointRecord),
    /// A time-stamp authority has stamped a checkpoint.
    Stamp(StampRecord),
    /// A witness has signed a checkpoint.
    Cosigned(CosignedRecord),
    /// Nobody else vouches for new checkpoints since a certain time, although somebody was asked.
    NotAnchored(NotAnchoredRecord),
}

impl Record {
    /// The record as JSON, and which validated module this build has. What is handed to another process keeps what it says here.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.write(&mut body);
        body
    }

    /// Appends the same to `body`.
    pub(super) fn write(&self, body: &mut Vec<u8>) {
        serde_json::to_writer(&mut *body, self).expect("records have string keys only");
        // Whoever verifies a checkpoint writes it anew, and may have another build.
        if !matches!(self, Self::Checkpoint(_)) {
            name_module(body, crate::FIPS_MODULE);
        }
    }
}

/// Adds the field `fips_module` to a JSON object.
fn name_module(object: &mut Vec<u8>, module: Option<&str>) {
    if let Some(module) = module {
        object.pop();
        object.extend_from_slice(format!(",\"fips_module\":\"{module}\"}}").as_bytes());
    }
}

/// Which way mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectionField {
    /// From an inside client to the world.
    Outbound,
    /// From the world to an inside server.
    Inbound,
}

/// `start`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartRecord {
    /// Version of the program.
    pub version: String,
    /// Which way mail goes.
    pub direction: DirectionField,
    /// Name of the machine.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// SHA-256 of everything that configures the program, 64 hexadecimal digits: flags, the files they name, the files that the table
    /// names, and the system's trust store where it is used; without private keys. Message records repeat it.
    pub configuration: String,
    /// The command line.
    pub arguments: Vec<WireText>,
    /// The policy in force; `null` where there is neither a table nor `--exempt`.
    pub policy: Option<PolicyField>,
}

/// `stop`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StopRecord {
    /// Why it ends: the signal's name, or what went wrong. Where another process goes on, its number.
    pub reason: String,
    /// Sessions since the start.
    pub sessions: u64,
    /// Messages accepted since the start.
    pub messages: u64,
}

/// `reload`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReloadRecord {
    /// The files that were read again, each with the result.
    pub files: Vec<ReloadedFileField>,
    /// As in `start`, after the reload.
    pub configuration: String,
}

/// One file of a [`ReloadRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReloadedFileField {
    /// As given on the command line, or in the table.
    pub file: String,
    /// Why the old content stays in force; `null` where the new content is in force.
    pub error: Option<String>,
}

/// `policy-change`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyChangeRecord {
    /// SHA-256 of the table that was in force, 64 hexadecimal digits.
    pub before: Option<String>,
    /// The table that is in force now.
    pub policy: Option<PolicyField>,
}

/// A policy table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyField {
    /// As given on the command line; empty where there is no table but only `--exempt`.
    pub file: String,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub sha256: String,
    /// Files of trust anchors that its entries name.
    pub tafiles: Vec<TrustFileField>,
    /// Number of its entries.
    pub entries: u64,
    /// Its exemptions: every entry before its end date whose level can let mail pass without an authenticated peer, and every
    /// `--exempt`.
    pub exemptions: Vec<ExemptionField>,
}

/// A file of trust anchors that a table names (`tafile=`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrustFileField {
    /// As the table names it.
    pub file: String,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub sha256: String,
}

/// One exemption that the administrator made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExemptionField {
    /// The next hop, prefix or address it is for, as written.
    pub entry: String,
    /// `none`, `may`, `encrypt`; or `exempt` for `--exempt`.
    pub level: String,
    /// The last day on which it holds, as written; `null` where it has no end.
    pub until: Option<String>,
    /// Why the administrator made it, as written.
    pub reason: Option<String>,
    /// `file:line`, or the flag.
    pub rule: String,
}

/// A TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionField {
    /// Address and port of the side that opened it.
    pub from: SocketAddr,
    /// Address and port of the other side. For a client's connection that was intercepted: the destination that the client meant.
    pub to: SocketAddr,
}

/// The session that a record belongs to; repeated in each of its records, so that every record stands alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionField {
    /// Its id, which the program's log uses too.
    pub id: String,
    /// Which way mail goes.
    pub direction: DirectionField,
    /// The client's connection to the proxy.
    pub client: ConnectionField,
    /// The proxy's connection to the server; `null` until there is one.
    pub server: Option<ConnectionField>,
    /// The name in the client's EHLO or HELO (RFC 5321 §4.1.1.1), as sent; of several, the one in force. `null` before it.
    pub hello: Option<WireText>,
}

/// `session-opened`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionOpenedRecord {
    /// The session.
    pub session: SessionField,
}

/// `session-closed`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionClosedRecord {
    /// The session.
    pub session: SessionField,
    /// How it ended: `quit`, `client-closed`, `server-closed`, `refused`, `timeout`, `stopped`; or one word for the incident that ended it.
    pub end: String,
    /// Its duration in microseconds.
    pub duration_us: u64,
    /// Messages the server accepted.
    pub messages: u64,
    /// Octets from the client and to the client, as its connection carried them inside TLS or in the clear.
    pub client_octets: [u64; 2],
    /// Octets from the server and to the server, likewise.
    pub server_octets: [u64; 2],
    /// TLS of the outside connection; `null` for plaintext.
    pub tls: Option<TlsField>,
    /// The certificates by which the peer showed its identity, where a verdict authorised it and no message came after; `null` otherwise.
    pub peer: Option<Box<PeerField>>,
    /// Events that happened more than once in this session but have only one record, each with the number of further times.
    pub repeated: Vec<RepeatedField>,
}

/// An event that was not recorded again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepeatedField {
    /// The `event` of the record that stands for all: `verdict`, `unprotected`, `refusal` or `heard`.
    pub event: String,
    /// The domain in that record; `null` where it has none, and where this is the sum over many domains.
    pub domain: Option<String>,
    /// The verdict in that record.
    pub verdict: Option<VerdictField>,
    /// The reason in that record.
    pub reason: Option<String>,
    /// `observed` in that record.
    pub observed: bool,
    /// How many more times it happened.
    pub times: u64,
}

/// `verdict`: one for each domain of a session, unless the verdict changes.
///
/// Where the peer is authorised, the record leaves `peer` and `tls` to the next `message` of the session, which has both in full, or to
/// `session-closed`, whichever comes first. If the program or the disk fails between, the log does not say whom this verdict was about;
/// nothing that rests on it was acknowledged then. All other verdicts have both themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerdictRecord {
    /// The session.
    pub session: SessionField,
    /// `@domain` of the recipient (outbound) or of the sender (inbound), because all addresses of a domain are judged alike; `null` where
    /// the peer as such was judged.
    pub address: Option<Address>,
    /// What was decided, and why.
    pub decision: DecisionField,
    /// The reply of a refusal, without CR LF; with `observed`, the reply that enforcing would have given.
    pub reply: Option<WireText>,
    /// TLS of the outside connection; `null` for plaintext, before the handshake, and where the peer is authorised, which it can be over
    /// TLS only.
    pub tls: Option<TlsField>,
    /// The certificates by which the peer showed its identity; `null` where it is authorised.
    pub peer: Option<PeerField>,
}

/// `refusal`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalRecord {
    /// The session.
    pub session: SessionField,
    /// The domain it concerns. For a refused MAIL, the sender's. For a remembered refusal, the domain for whose mail the server was
    /// refused first, which need not occur in this session. `null` before there is any, and for MAIL in the clear where no rule could
    /// let it pass, so that its sender is not read.
    pub domain: Option<String>,
    /// For a remembered refusal: the level that was in force for that domain.
    pub level: Option<String>,
    /// Why, in one word: `protocol`, `limit`, `starttls-required`, `server-unreachable`, `server-gone`, `greeting-refused`, `ehlo-refused`,
    /// `starttls-refused`, `starttls-not-supported`, `login-failed`, `extension-missing`, `overload`, `local-fault`, `stopped`; `validation-failure` for a
    /// handshake that failed; for a remembered refusal, the reason of the first refusal.
    pub reason: String,
    /// Another session was refused for this reason a short while before, so this one was refused at its greeting.
    pub remembered: bool,
    /// The reply as the client got it, without CR LF; `null` for a failed handshake, which gets no reply.
    pub reply: Option<WireText>,
    /// What went wrong, in words, where there is no reply to say it.
    pub detail: Option<String>,
}

/// `heard`: a server's refusal before mail could pass. No decision rests on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeardRecord {
    /// The session.
    pub session: SessionField,
    /// The stage that it answers: `greeting`, `ehlo`, `starttls`, or `login` for the proxy's own login.
    pub stage: String,
    /// Its reply code; `null` where it has none.
    pub code: Option<u16>,
    /// Its enhanced code (RFC 3463), e.g. `5.7.1`; `null` where it has none.
    pub enhanced: Option<String>,
    /// The reply as it came, without the last CR LF. It is cut at 512 octets, which three dots show. Of a reply to a login only the codes
    /// are kept, because a server may quote the secret that it refuses.
    pub text: WireText,
    /// The reply came in the clear or from a peer that had proved nothing, so anybody on the path can have written it.
    pub unproved: bool,
}

/// `unprotected`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnprotectedRecord {
    /// The session.
    pub session: SessionField,
    /// The decision that allows it.
    pub decision: DecisionField,
    /// TLS of the outside connection; `null` for plaintext.
    pub tls: Option<TlsField>,
}

/// `not-recorded`: events that strangers caused so often that they were only counted (see docs/promises.md). At most one a minute. Messages,
/// the verdicts they rest on and sessions with a message are always recorded singly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRecordedRecord {
    /// The counts, the largest first.
    pub counts: Vec<CountField>,
}

/// One count of a [`NotRecordedRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountField {
    /// The client: an IPv4 address with `/32` or an IPv6 network with `/64`; `null` for all clients that are not told apart.
    pub prefix: Option<String>,
    /// What was counted: `turned-away` (a connection that was answered 421 before a session), `session-opened`, `session-closed`, `refusal`
    /// (which includes verdicts that refuse).
    pub kind: String,
    /// How often.
    pub count: u64,
    /// The first time, RFC 3339.
    pub first: String,
    /// The last time, RFC 3339.
    pub last: String,
}

/// `message`: the evidence for one message. It is on disk before the client is told that the message was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MessageRecord {
    /// The session, with both connections.
    pub session: SessionField,
    /// Name of the machine.
    pub host: String,
    /// SHA-256 of the configuration in force, as in `start` and `reload`.
    pub configuration: String,
    /// Number of the message within the session, from 1.
    pub number: u64,
    /// The reverse-path (RFC 5321 §4.1.1.2); empty for `<>`.
    pub sender: Address,
    /// The recipients that the server accepted. If the connection was lost before its final reply, also those that it had not answered:
    /// they may have got the message. None where it accepted nobody although the chunks (RFC 3030) came with the envelope.
    pub recipients: Vec<Address>,
    /// Octets as relayed: with dot-stuffing, without the final `.` line; for BDAT, the sum of the chunks.
    pub octets: u64,
    /// SHA-256 of those octets, 64 hexadecimal digits.
    pub sha256: String,
    /// The weakest verdict in `decisions`. It is `refused` only where each of them is `observed`.
    pub verdict: VerdictField,
    /// One for each domain of `recipients` (outbound; without recipients, of those for whom the message was sent), or the one for
    /// `sender` (inbound; none where no rule is about that client or sender). Their `findings` stand only in the `verdict` record.
    pub decisions: Vec<DecisionField>,
    /// TLS of the outside connection; `null` for plaintext.
    pub tls: Option<TlsField>,
    /// The certificates by which the peer showed its identity; `null` for plaintext, and for a client without certificate.
    pub peer: Option<PeerField>,
    /// `--upstream-auth`: the user as whom the proxy logged in to the server, in the log's form of addresses; `null` where it did not.
    pub authenticated_as: Option<Address>,
    /// Whether the server accepted it.
    pub outcome: OutcomeField,
    /// The server's final reply: lines joined by `\r\n`, without the last CR LF, addresses in the log's form. `null` where the connection
    /// ended before it. Without recipients never an acceptance: a refusal of the message or of its envelope.
    pub reply: Option<WireText>,
}

/// The outcome of a message, by the first digit of the server's final reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeField {
    /// 2yz.
    Accepted,
    /// 4yz or 5yz.
    Rejected,
    /// The connection ended before the server's reply, so the server may have accepted the message or not (RFC 5321 §4.5.3.2.6). Also
    /// for a message that the proxy broke off before its end, which a `refusal` record beside it says. The client was not told that the
    /// message was accepted.
    Unknown,
}

impl OutcomeField {
    /// Reads a final reply.
    #[must_use]
    pub fn of(reply: Option<&[u8]>) -> Self {
        match reply.and_then(<[u8]>::first) {
            Some(b'2') => Self::Accepted,
            Some(_) => Self::Rejected,
            None => Self::Unknown,
        }
    }
}

/// The verdict of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictField {
    /// TLS with a peer that proved what the level demands.
    Authorised,
    /// Without that proof, allowed by an entry of the administrator.
    Unprotected,
    /// Not allowed. With `observed`, it passed nevertheless.
    Refused,
}

/// What the policy decided, and the reasons for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecisionField {
    /// The domain, address literal or host that was judged.
    pub domain: String,
    /// The verdict. With `observed`, it had no effect.
    pub verdict: VerdictField,
    /// `--observe`: nothing was enforced, so the mail passed whatever `verdict` is.
    pub observed: bool,
    /// The level in force (with `observed`, the level that enforcing would have asked for): none, may, encrypt, fingerprint, verify,
    /// secure, dane, dane-only, mta-sts.
    pub level: Option<String>,
    /// Where the level comes from: table, dane, mta-sts, mx, upstream, exempt, observe.
    pub basis: Option<String>,
    /// The entry that decided: `file:line` or the flag.
    pub rule: Option<String>,
    /// `until=` of that entry.
    pub until: Option<String>,
    /// `reason=` of that entry.
    pub why: Option<String>,
    /// The names of the domain's mail hosts came from where nobody on the path can forge them: MX records whose DNSSEC signatures were
    /// checked, or `--upstream`. `null` where no such name was looked up.
    pub signed: Option<bool>,
    /// Why it is a refusal, or would have been one without `--observe`, in one word: a TLSRPT result type (RFC 8460 §4.3) where one fits.
    pub reason: Option<String>,
    /// What matched, or what was wrong, in words.
    pub detail: String,
    /// What was found in DNS and MTA-STS, without what was not asked for. Its inner form is not part of the schema. Only in `verdict`
    /// and `unprotected` records.
    pub findings: Option<serde_json::Value>,
}

/// The parameters of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsField {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: String,
    /// The cipher suite's IANA name.
    pub suite: String,
    /// The key-exchange group's IANA name.
    pub group: Option<String>,
    /// The server name (SNI, RFC 6066 §3) that the proxy sent (outbound) or received (inbound).
    pub sni: Option<WireText>,
}

/// The certificates by which a peer showed its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerField {
    /// The peer's own certificate.
    pub certificate: CertificateField,
    /// SHA-256 of each certificate it presented, in its order, its own first; 64 hexadecimal digits each.
    pub chain: Vec<String>,
}

/// The parts of a certificate that an auditor asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateField {
    /// SHA-256 of the whole certificate, 64 hexadecimal digits.
    pub sha256: String,
    /// SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits.
    pub spki_sha256: String,
    /// Its subject.
    pub subject: WireText,
    /// DNS names and addresses in subjectAltName.
    pub names: Vec<WireText>,
    /// Its issuer.
    pub issuer: WireText,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// notBefore, RFC 3339.
    pub not_before: String,
    /// notAfter, RFC 3339.
    pub not_after: String,
    /// Kind and size of its key: `RSA 2048`, `EC P-256`, `Ed25519`.
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop() -> Record {
        Record::Stop(StopRecord {
            reason: "SIGTERM".into(),
            sessions: 2,
            messages: 1,
        })
    }

    #[test]
    fn every_record_of_a_build_with_a_validated_module_names_it() {
        let mut object = br#"{"event":"stop","messages":1}"#.to_vec();
        name_module(&mut object, Some("M"));
        assert_eq!(
            object,
            br#"{"event":"stop","messages":1,"fips_module":"M"}"#
        );
        let said = serde_json::from_slice::<serde_json::Value>(&stop().body()).unwrap();
        let module = said.get("fips_module").and_then(|module| module.as_str());
        assert_eq!(module, crate::FIPS_MODULE);
    }

    #[test]
    fn a_checkpoint_is_the_same_in_every_build() {
        let checkpoint = Record::Checkpoint(CheckpointRecord {
            note: String::new(),
        });
        assert_eq!(checkpoint.body(), br#"{"event":"checkpoint","note":""}"#);
    }
}
