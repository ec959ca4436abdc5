//! A transparent SMTP proxy that insists on STARTTLS with a verified peer, and can prove it. README.md and docs/ say how to use it;
//! this says how it is built.
//!
//! ```text
//!          client                                                     server
//!             |                                                          |
//!          [ leg ]---- bytes --->  smtp::Outbound / Inbound <--- bytes ---[ leg ]
//!                                   |  a pure machine  |
//!                      actions:  Send, Pass, Upgrade, Authorise, Record, Close
//!                                            |
//!                                         session
//!          policy  <--- findings --- lookup  |  tls ---> handshakes, presented chains
//!      require, judge (pure)                 |
//!                                          audit ---> on disk before the 250
//! ```
//!
//! Two pure cores ([`smtp`], [`policy`]) know no I/O and no clock. Four rooms touch the world: [`net`], [`tls`], [`lookup`] and
//! [`audit`]. [`session`] is the only place where all of them meet. [`serve`] accepts connections, [`configure`] turns [`flags`]
//! and files into what `serve` runs, [`commands`] has what a person runs beside the proxy, and [`cli`] chooses. Each module uses
//! only modules that stand above it in the list at the end of this file. `tests/layering.rs` holds that, and that no two files use
//! each other. CONTRIBUTING.md has the way of a recipient's domain, of a message octet, of a chain and of a flag through the files.
//!
//! # The seven nevers, and where they live
//!
//! The proxy never does one of these:
//!
//! 1. It sends a byte of MAIL, RCPT or message across the outside link in the clear, unless an entry, `--exempt` or `--observe`
//!    allows it. The machine forwards nothing of a transaction without an [`Authorised`](smtp::Authorised) or an [`Exempted`](smtp::Exempted),
//!    which only `session/permits.rs` can make. AUTH never crosses the outside link in the clear.
//! 2. It acts inside TLS upon a byte that it received before TLS. A machine that starts TLS has been offered every byte that was
//!    read, and does not go on if one is left over. [`session::leg`] drops its buffers together with the old stream.
//! 3. It hands a recipient to a peer that was not authorised for the recipient's domain, unless an entry, `--exempt` or `--observe`
//!    allows it. Each RCPT is a [`Question`](smtp::Question) of its own. A session gives a decision again for the same domain and
//!    the same peer only, and never longer than each fact that it rests on holds ([`policy::Validity`]).
//! 4. It accepts a message by a reply that the server did not give. The machines have no 250 to a message, only
//!    [`Action::Pass`](smtp::Action::Pass) and the server's own reply.
//! 5. It lets the two sides disagree where a command, a reply or a message ends. `smtp/framing.rs` and `smtp/scanner.rs` refuse
//!    everything that two parsers could read differently, and replies are paired with commands by counting.
//! 6. It acknowledges a message whose record is not on disk. The reply to the message waits for [`Recorded`](smtp::Recorded).
//! 7. It opens because of a fault. Every error on the way to a decision is a refusal, and a panic ends one session only. A reader of
//!    stderr that stops reading holds up no mail ([`logging`]), and what strangers can make the proxy write is bounded
//!    ([`session::budget`]).
//!
//! All of them rest on one rule: a fact that nobody has proved decides nothing. What a server says before TLS has a type of its own in
//! `smtp/heard.rs`. That type tells whether STARTTLS is offered, and gives an offer that makes no client give up. It tells nothing
//! else.
//!
//! # Reading order
//!
//! 1. [`smtp`]: the contract of a machine, then [`smtp::Outbound`].
//! 2. [`policy`]: two questions, what the peer must prove, and whether it has.
//! 3. [`session::drive`]: one loop that connects machine and world.
//! 4. [`session::outbound`]: the outbound session, which asks policy and does TLS.
//! 5. [`session::facts`]: one struct for each event, which alone makes its log line, its counters and its record.
//!
//! `check` shows a [`session::rehearsal`]: the same machine and session, stopped where mail would go out.
//!
//! # Glossary
//!
//! Client and server say who talks. Inside and outside say where: the client is inside in an outbound session, and outside in an
//! inbound one. The peer is the outside party, which must prove who it is.
//!
//! | word | type | meaning |
//! | --- | --- | --- |
//! | machine | [`smtp::Machine`] | the SMTP protocol of one session, without I/O and clock. |
//! | side | [`smtp::Side`] | the client's or the server's end of a session. |
//! | action, input | [`smtp::Action`], [`smtp::Input`] | what a machine wants done, and what it is told. |
//! | question, answer | [`smtp::Question`], [`smtp::Answer`] | who may receive? A machine asks; policy answers through the session. |
//! | proof | [`smtp::Authorised`], [`smtp::Exempted`], [`smtp::Recorded`] | a value without which a machine does not go on. |
//! | login | [`smtp::Login`], [`session::credentials::UpstreamLogin`] | the proxy's own credentials for its smart host; their octets are a [`smtp::Secret`], which cannot be printed. |
//! | refusal | [`smtp::Refusal`] | a 4yz or 5yz reply of the proxy's own. |
//! | heard | `smtp::HeardOffer`, `smtp::OfferRule` | what a server said before TLS, which nobody has proved. |
//! | relay | `smtp::Relay` | what both machines share once commands pass. |
//! | ask | [`policy::Ask`] | a question as policy reads it: next hop and destination address. |
//! | findings | [`policy::Findings`] | what DNS and MTA-STS publish about a domain. |
//! | level | [`policy::Level`] | how much a peer must prove, from `none` to `dane-only`. |
//! | entry, table | [`policy::table::Entry`], [`policy::table::Table`] | a line of the administrator's `--policy` file, and the file. |
//! | demand, basis | [`policy::Demand`], [`policy::Basis`] | what this peer must prove, and which source says so. |
//! | verdict | [`policy::Verdict`] | authorised, unprotected or refused: what comes of demand and proof. |
//! | decision | [`policy::Decision`] | the verdict with all it rests on; reply, log line and record show this one object. |
//! | validity | [`policy::Validity`] | how long a session may give a decision again. |
//! | reason | [`policy::Reason`] | why mail is refused, in one word; with its words a `Denial`. |
//! | peer | [`tls::Peer`] | the outside party as the handshake shows it: TLS facts and certificates. |
//! | trust | [`tls::Trust`] | the authorities that are believed, and the check of a chain against them. |
//! | session, setup | `session::OutboundSession`, `session::InboundSession`, [`session::setup::CommonSetup`] | one client's connection and all that it owns; what all sessions share. |
//! | leg | [`session::leg::Leg`] | one of a session's two connections, with its buffers. |
//! | fact, journal | `session::Fact`, `session::Journal` | an event of a session; what counts, logs and records the events. |
//! | record | [`audit::Record`] | one line of the audit log. |
//! | stamp, witness | `tls::StampToken`, `audit::WitnessKey` | what proves that a checkpoint existed at a time; who signs a checkpoint that goes on from the last. |
//! | head, checkpoint, anchor | [`audit::Head`], [`audit::Checkpoint`], `audit::LogAnchor` | the end of the log's chain; a signed head; a head that is kept elsewhere. |
//!
//! # What happened to others
//!
//! | what | where it was | why it cannot be here | held by |
//! | --- | --- | --- | --- |
//! | commands behind STARTTLS are run inside TLS | CVE-2011-0411 (Postfix), CVE-2014-3556 (nginx), CVE-2021-33515 (Dovecot), CVE-2024-34083 (aiosmtpd) | the machine sees what stands behind and ends the session; a second segment goes to the handshake, which fails | `bytes_behind_starttls_end_the_session`; lab: `commands_between_starttls_and_the_handshake_end_the_session` |
//! | replies behind 220 are taken for those inside TLS | CVE-2021-38371 (Exim), CVE-2021-22947 (curl) | the same, on the other leg | `bytes-behind-the-go-ahead-end-the-session.smtp`; lab: `replies_injected_behind_the_220` |
//! | stripped STARTTLS leads to plaintext | what STARTTLS is without policy (RFC 3207 §6) | a missing offer is 421 | `not-offered-is-a-fault-of-the-host.smtp`; lab: `starttls_stripped_on_the_path` |
//! | a refusal in the clear bounces mail | RFC 7672 §2.2 and RFC 8461 §5 warn of it | what is said before TLS becomes 421 at most | `a-greeting-that-refuses-is-never-relayed.smtp`; lab: `refusal_in_the_clear_does_not_bounce_mail` |
//! | SMTP smuggling | CVE-2023-51764 (Postfix), -51765 (Sendmail), -51766 (Exim), CVE-2024-27305 (aiosmtpd) | only CR LF `.` CR LF ends DATA; a bare CR, LF or NUL ends the session, and no ambiguous octet is passed | `ambiguous_ends_of_data_are_violations_and_no_ambiguous_octet_is_content` |
//! | a resumed TLS session skips authentication | CVE-2025-23419 (nginx) | there is no resumption in either role | `nothing_is_resumed_so_every_session_presents_a_certificate`, `no_tickets_are_sent_and_nothing_is_resumed` |
//! | another protocol's bytes are taken for SMTP | ALPACA (2021) | HTTP's first line ends the session; ALPN other than `smtp` fails the handshake | `http_ends_the_session_without_an_echo`, `a_client_that_wants_another_protocol_than_smtp_is_refused` |
//! | the server trusts the proxy's word or address | CVE-2026-28753 (nginx, XCLIENT) | XCLIENT and its kind are never passed or sent; the client's own address is kept | lab: `open_relay_behind_us_is_warned_about_at_the_start` |
//! | DANE is silently off behind a resolver that does not validate | any MTA behind systemd-resolved's default | signatures are validated here; an AD bit is never read | `an_ad_bit_alone_never_counts_wherever_the_resolver_is` |
//! | an offer in the clear makes the sender bounce (SIZE, SMTPUTF8) | any client that believes the first EHLO reply | the client is shown our offer, by one rule | dialogues `heard/`; lab: `clear.Postfix`, `clear.Exim` |
//! | an overloaded or cut STARTTLS makes senders go on in the clear and bounce | Postfix `may`, Exim by default | STARTTLS stays offered, 421 beyond the queue, 451 instead of 530 to who may have tried | dialogues `inbound/overload-is-421-and-the-end.smtp`, `inbound/who-may-have-tried-is-deferred-in-the-clear.smtp`; lab: `crowd` |
//! | a DNS error counts as "no TLSA record" | RFC 7672 §2.2 forbids it | an answer keeps its state; errors are refusals | `a_failed_look_up_is_never_taken_for_no_record`; lab: `tlsa_records_with_wrong_signatures_are_no_missing_records` |

// Who may use what is said by the compiler first. Unit tests share files with `tests`, where `pub` reaches nobody.
#![cfg_attr(not(test), warn(unreachable_pub))]

/// The version that `--version`, the log, the records and the metrics show. A build with the cargo feature `fips` says so in it.
pub const VERSION: &str = if cfg!(feature = "fips") {
    concat!(env!("CARGO_PKG_VERSION"), "+fips")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The module that NIST validated, where this build has it (cargo feature `fips`) and no other cryptography; else `None`.
pub const FIPS_MODULE: Option<&str> = if cfg!(feature = "fips") {
    Some("AWS-LC-FIPS")
} else {
    None
};

pub mod smtp;

pub mod policy;

pub mod clock;
pub mod files;
mod html;
pub mod logging;
pub mod metrics;

pub mod audit;
pub mod lookup;
pub mod net;
pub mod tls;
pub mod tlsrpt;

pub mod session;

pub mod exit;

pub mod serve;

pub mod flags;

pub mod configure;

pub mod commands;

pub mod cli;
