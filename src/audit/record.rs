//! What is recorded: the schema, field by field.
//!
//! A log is JSON Lines in UTF-8: one record a line, LF after each, no other white space outside strings. Every line begins
//! with the same five fields, in this order and at these places:
//!
//! | field | octets | meaning |
//! | --- | --- | --- |
//! | `v` | 5 | version of the schema: `1`. A field may be added within a version, none changes its meaning |
//! | `prev` | 15–78 | SHA-256 of the line before (without its LF), 64 hexadecimal digits; 64 zeros in record 0 |
//! | `seq` | from 87 | number of the record, from 0, without gaps across rotated files |
//! | `at` | | when it happened: UTC, microseconds, RFC 3339 |
//! | `event` | | which record it is; names what follows |
//!
//! What follows is one of the variants of [`Record`]; each field is documented there. Fields stand in the order of the
//! structs. A field that has no value is `null`, never left out. Text that came over the wire is [`WireText`]; addresses of people are
//! [`Address`](super::Address), which only the log can make, in the form that `--audit-addresses` asks for. Message bytes, headers, AUTH exchanges and
//! keys have no field.
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
//! It prints the head, which is what an anchor must agree with. OpenSSL checks the signature of the last checkpoint, and whether it is
//! over the line it stands behind:
//!
//! ```bash
//! # check-checkpoint FILE KEY.pub
//! set -euo pipefail
//! work=$(mktemp -d)
//! jq -c 'select(.event == "checkpoint")' "$1" | tail -n 1 > "$work/checkpoint"
//! jq -r .note "$work/checkpoint" > "$work/note"
//! sed '/^$/,$d' "$work/note" > "$work/text"
//! sed -n 's/^— [^ ]* //p' "$work/note" | base64 -d | tail -c 64 > "$work/signature"
//! openssl pkeyutl -verify -pubin -inkey "$2" -rawin -in "$work/text" -sigfile "$work/signature"
//! test "$(sed -n 3p "$work/text" | base64 -d | od -An -v -tx1 | tr -d ' \n')" = "$(jq -r .prev "$work/checkpoint")"
//! test "$(sed -n 2p "$work/text")" = "$(jq .seq "$work/checkpoint")"
//! rm -r "$work"
//! ```

use super::{Address, WireText};
use serde::Serialize;
use std::net::SocketAddr;

/// Version of the schema, the `v` of every line.
pub const VERSION: u32 = 1;

/// What one line says after `v`, `prev`, `seq` and `at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Record {
    /// The program began to serve.
    Start(StartRecord),
    /// The program ends in good order. A log whose last record is neither this nor the checkpoint behind it is still being
    /// written, was cut off by a crash, or was cut by someone.
    Stop(StopRecord),
    /// Files were read again on request.
    Reload(ReloadRecord),
    /// The policy in force changed.
    PolicyChange(PolicyChangeRecord),
    /// A client connected. Written with the first thing worth keeping of its session, at the latest with its end.
    SessionOpened(SessionOpenedRecord),
    /// A session ended.
    SessionClosed(SessionClosedRecord),
    /// The policy answered for one recipient (outbound) or one sender (inbound).
    Verdict(Box<VerdictRecord>),
    /// The proxy itself refused something to the client, for another reason than a verdict that stands in a record of its own.
    Refusal(Box<RefusalRecord>),
    /// The server said something in the clear that kept the session from going on.
    Heard(Box<HeardRecord>),
    /// A session went on without an authenticated peer, because an entry of the administrator allows it.
    Unprotected(Box<UnprotectedRecord>),
    /// A message was handed over, or may have been.
    Message(Box<MessageRecord>),
    /// Refusals and sessions without a message that were too many to be recorded singly.
    NotRecorded(NotRecordedRecord),
    /// The log was opened by a process. Written by the log itself, before the process can write anything.
    LogOpened(LogOpenedRecord),
    /// Writing works again after it had failed. Written by the log itself.
    LogRecovered(LogRecoveredRecord),
    /// All before this line, vouched for. Written by the log itself.
    Checkpoint(CheckpointRecord),
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
    /// SHA-256 of everything that configures it, 64 hexadecimal digits: flags, the files they name, the files that the table
    /// names, and the system's trust store where it is used; without private keys. Message records repeat it.
    pub configuration: String,
    /// The command line.
    pub arguments: Vec<WireText>,
    /// The policy in force, where there is a table or `--exempt`.
    pub policy: Option<PolicyField>,
}

/// `stop`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StopRecord {
    /// Why: the signal's name, or what went wrong.
    pub reason: String,
    /// Sessions since the start.
    pub sessions: u64,
    /// Messages accepted since the start.
    pub messages: u64,
}

/// `reload`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReloadRecord {
    /// What was read again, each with what came of it.
    pub files: Vec<ReloadedFileField>,
    /// As in `start`, after the reload.
    pub configuration: String,
}

/// One file of a [`ReloadRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReloadedFileField {
    /// As given on the command line, or in the table.
    pub file: String,
    /// Why the old content stays in force; `null` where the new one is.
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
    /// As given on the command line; empty where there is no table, but `--exempt`.
    pub file: String,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub sha256: String,
    /// The files of trust anchors that its entries name.
    pub tafiles: Vec<TrustFileField>,
    /// Number of its entries.
    pub entries: u64,
    /// Its ways out: every entry of a level that can leave mail without an authenticated peer and is not past its date, and
    /// every `--exempt`.
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

/// One way out that the administrator made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExemptionField {
    /// The next hop, prefix or address it is for, as written.
    pub entry: String,
    /// `none`, `may`, `encrypt`; or `exempt` for `--exempt`.
    pub level: String,
    /// The last day it holds, as written; `null` for no end.
    pub until: Option<String>,
    /// Why it is there, as written.
    pub reason: Option<String>,
    /// `file:line`, or the flag.
    pub rule: String,
}

/// A TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionField {
    /// Who opened it: address and port.
    pub from: SocketAddr,
    /// To where: address and port. With interception, of the client's connection, where the client meant to go.
    pub to: SocketAddr,
}

/// The session that a record belongs to, repeated so that every record stands alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionField {
    /// Its id, the same in the program's log.
    pub id: String,
    /// Which way mail goes.
    pub direction: DirectionField,
    /// The client's connection to us.
    pub client: ConnectionField,
    /// Our connection to the server; `null` until there is one.
    pub server: Option<ConnectionField>,
    /// The name in EHLO or HELO that counts (RFC 5321 §4.1.1.1), as sent; `null` before it.
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
    /// How it ended: `quit`, `client-closed`, `server-closed`, `refused`, `timeout`, `stopped`; or in one word the incident that ended it.
    pub end: String,
    /// How long it was, in microseconds.
    pub duration_us: u64,
    /// Messages the server accepted.
    pub messages: u64,
    /// Octets from the client and to the client, as they were on its connection inside TLS or in the clear.
    pub client_octets: [u64; 2],
    /// Octets from the server and to the server, likewise.
    pub server_octets: [u64; 2],
    /// TLS of the outside connection; `null` for plaintext.
    pub tls: Option<TlsField>,
    /// What happened more than once in this session and has one record only, each with how often more.
    pub repeated: Vec<RepeatedField>,
}

/// What was not written again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepeatedField {
    /// The `event` of the record that stands for all: `verdict`, `unprotected`, `refusal` or `heard`.
    pub event: String,
    /// The domain in that record; `null` where it has none, and for the sum of what concerned many domains.
    pub domain: Option<String>,
    /// The verdict in that record.
    pub verdict: Option<VerdictField>,
    /// The reason in that record.
    pub reason: Option<String>,
    /// `observed` in that record.
    pub observed: bool,
    /// How often more.
    pub times: u64,
}

/// `verdict`: one for each domain of a session, as long as it stays the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerdictRecord {
    /// The session.
    pub session: SessionField,
    /// For whom it was made, `@domain`, since all of a domain are judged alike: the recipient's outbound, the sender's inbound;
    /// `null` where the peer as such was judged.
    pub address: Option<Address>,
    /// What came of it, and why.
    pub decision: DecisionField,
    /// Of a refusal: the reply, without CR LF; with `observed`, the one that enforcing would have given.
    pub reply: Option<WireText>,
    /// TLS of the outside connection; `null` for plaintext, and before the handshake.
    pub tls: Option<TlsField>,
    /// Who the peer showed itself to be.
    pub peer: Option<PeerField>,
}

/// `refusal`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalRecord {
    /// The session.
    pub session: SessionField,
    /// The domain it concerns: of the sender whose MAIL was refused; of a remembered refusal, the domain for whose mail the server
    /// was found wanting, which need not be this session's. `null` before there is any, and for MAIL in the clear where no rule could let it pass, so that it
    /// is not read.
    pub domain: Option<String>,
    /// Of a remembered refusal: the level that was in force for that domain.
    pub level: Option<String>,
    /// Why, one word: `protocol`, `limit`, `starttls-required`, `server-unreachable`, `server-gone`, `greeting-refused`, `ehlo-refused`,
    /// `starttls-refused`, `starttls-not-supported`, `extension-missing`, `overload`, `local-fault`, `stopped`; `validation-failure` for a
    /// handshake that failed; of a remembered refusal, the reason of the first.
    pub reason: String,
    /// Another session was refused for this a short while ago, and this one at its greeting for the same.
    pub remembered: bool,
    /// The reply, as the client got it, without CR LF; `null` where a handshake failed, which is answered with nothing.
    pub reply: Option<WireText>,
    /// What went wrong, in words, where no reply says it.
    pub detail: Option<String>,
}

/// `heard`: what a server refused with before mail could pass. It decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeardRecord {
    /// The session.
    pub session: SessionField,
    /// What it answers: `greeting`, `ehlo` or `starttls`.
    pub stage: String,
    /// Its reply code; `null` where it has none.
    pub code: Option<u16>,
    /// Its enhanced code (RFC 3463), e.g. `5.7.1`; `null` where it has none.
    pub enhanced: Option<String>,
    /// The reply as it came, without the last CR LF; cut at 512 octets, which three dots show.
    pub text: WireText,
    /// True: it was said in the clear, or by a peer that had proved nothing, so anybody on the path can have said it.
    pub unproved: bool,
}

/// `unprotected`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnprotectedRecord {
    /// The session.
    pub session: SessionField,
    /// What allows it.
    pub decision: DecisionField,
    /// TLS of the outside connection; `null`: in the clear.
    pub tls: Option<TlsField>,
}

/// `not-recorded`: what strangers did so often that it was counted instead (see README.md). At most one a minute. Messages,
/// the verdicts they rest on and sessions with a message are never among it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRecordedRecord {
    /// What was counted, the most frequent first.
    pub counts: Vec<CountField>,
}

/// One count of a [`NotRecordedRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountField {
    /// Whose: an IPv4 address with `/32` or an IPv6 network with `/64`; `null` for all that are not told apart.
    pub prefix: Option<String>,
    /// What: `turned-away` (a connection that was answered 421 before a session), `session-opened`, `session-closed`, `refusal`
    /// (with it, verdicts that refuse).
    pub kind: String,
    /// How often.
    pub count: u64,
    /// The first time, RFC 3339.
    pub first: String,
    /// The last time, RFC 3339.
    pub last: String,
}

/// `message`: the evidence. On disk before the client is told that the message was accepted.
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
    /// The reverse-path; empty for `<>`.
    pub sender: Address,
    /// The recipients that the server accepted.
    pub recipients: Vec<Address>,
    /// Octets as relayed: with dot-stuffing, without the final `.` line; for BDAT the sum of the chunks.
    pub octets: u64,
    /// SHA-256 of those octets, 64 hexadecimal digits.
    pub sha256: String,
    /// The weakest of `decisions`; `refused` only where each of those is `observed`.
    pub verdict: VerdictField,
    /// One for each domain of `recipients` (outbound), or the one for `sender` (inbound; none where no rule speaks of that client or
    /// sender), without their `findings`, which stand in the record of the verdict.
    pub decisions: Vec<DecisionField>,
    /// TLS of the outside connection; `null` for plaintext.
    pub tls: Option<TlsField>,
    /// Who the peer showed itself to be; `null` for plaintext, and for a client without certificate.
    pub peer: Option<PeerField>,
    /// What the server said of it.
    pub outcome: OutcomeField,
    /// The server's final reply, lines joined by `\r\n`, without the last CR LF, addresses in it in the log's form; `null` where
    /// the connection ended before it.
    pub reply: Option<WireText>,
}

/// What became of a message, by the first digit of the server's final reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeField {
    /// 2yz.
    Accepted,
    /// 4yz or 5yz.
    Rejected,
    /// No reply of the server's: the connection ended before it, and the server may have taken it or not (RFC 5321 §4.5.3.2.6). So
    /// too where we broke the message off, which a `refusal` beside it says; its end was not sent then. The client was not told that it
    /// was accepted.
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

/// The three verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictField {
    /// Over TLS with a peer that proved what was demanded.
    Authorised,
    /// Allowed by an entry of the administrator without that proof.
    Unprotected,
    /// Not allowed; with `observed`, not allowed if it were enforced.
    Refused,
}

/// What the policy said, and what made it say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecisionField {
    /// The domain, address literal or host that was asked about.
    pub domain: String,
    /// What came of it; with `observed`, what the policy said, which then refused nobody.
    pub verdict: VerdictField,
    /// `--observe`: nothing was enforced, and the mail passed whatever `verdict` says.
    pub observed: bool,
    /// The level in force (with `observed`, the one that enforcing would have asked for): none, may, encrypt, fingerprint, verify, secure, dane, dane-only, mta-sts.
    pub level: Option<String>,
    /// Where the level came from: table, dane, mta-sts, mx, upstream, exempt, observe.
    pub basis: Option<String>,
    /// The entry that decided: `file:line` or the flag.
    pub rule: Option<String>,
    /// `until=` of that entry.
    pub until: Option<String>,
    /// `reason=` of that entry.
    pub why: Option<String>,
    /// Of a refusal, and (`observed`) of what would have been one: why, one word; a TLSRPT result type (RFC 8460 §4.3) where one fits.
    pub reason: Option<String>,
    /// What matched, or what was wrong, in words.
    pub detail: String,
    /// What must be proved and what was found in DNS and MTA-STS; its inner form is not part of the schema. Only in the record of
    /// the verdict.
    pub findings: Option<serde_json::Value>,
}

/// Facts of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsField {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: String,
    /// The suite's IANA name.
    pub suite: String,
    /// The key-exchange group's IANA name.
    pub group: Option<String>,
    /// The name sent in SNI (outbound), or received (inbound).
    pub sni: Option<WireText>,
}

/// Who the peer showed itself to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerField {
    /// Its own certificate.
    pub certificate: CertificateField,
    /// SHA-256 of each certificate it presented, its own first, in its order; 64 hexadecimal digits each.
    pub chain: Vec<String>,
}

/// A certificate, by what an auditor asks about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateField {
    /// SHA-256 of the whole certificate, 64 hexadecimal digits.
    pub sha256: String,
    /// SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits.
    pub spki_sha256: String,
    /// Subject.
    pub subject: WireText,
    /// DNS names and addresses in subjectAltName.
    pub names: Vec<WireText>,
    /// Issuer.
    pub issuer: WireText,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// notBefore, RFC 3339.
    pub not_before: String,
    /// notAfter, RFC 3339.
    pub not_after: String,
}

/// `log-opened`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogOpenedRecord {
    /// The log's name in its checkpoints.
    pub origin: String,
    /// The verifier key of the checkpoints that follow, as signed-note tools write it; `null` without `--audit-key`.
    pub key: Option<String>,
    /// Form of addresses: full, domain or hashed.
    pub addresses: super::AddressForm,
    /// What a crash had left of a last line, if anything.
    pub torn: Option<TornField>,
}

/// The remains of lines that were being written when the machine or the process went down. No client ever got a 250 for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornField {
    /// Octets cut off the end of the file.
    pub octets: u64,
    /// Their SHA-256, 64 hexadecimal digits.
    pub sha256: String,
    /// The first 4,096 of them.
    pub text: WireText,
}

/// `log-recovered`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogRecoveredRecord {
    /// When writing first failed, RFC 3339.
    pub since: String,
    /// What the system said.
    pub error: String,
    /// Records that could not be kept in memory meanwhile. Whoever waited for one of them was told, so no message that was
    /// acknowledged is among them.
    pub lost: u64,
}

/// `checkpoint`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointRecord {
    /// A signed note (C2SP signed-note) in the form of a checkpoint: origin, number of records before this line, base64 of
    /// the SHA-256 of the line before (which is also `prev`), `time` with the same time as `at`; the signature. `null` without `--audit-key`.
    pub note: Option<String>,
}
