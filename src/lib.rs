//! A transparent SMTP proxy that insists on STARTTLS with a verified peer, and can prove it. README.md says how to use it; this
//! says how it is built.
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
//! Two pure cores ([`smtp`], [`policy`]) know no I/O and no clock. Four hands touch the world ([`net`], [`tls`], [`lookup`],
//! [`audit`]). One joiner ([`session`]) is the only place where all meet. [`serve`] accepts sessions, [`configure`] turns
//! [`flags`] into what it serves, [`commands`] are what a person runs beside it, and [`cli`] chooses. Each module uses only what
//! stands above it in the list below; `tests/layering.rs` holds them to that.
//!
//! # The seven nevers, and where they live
//!
//! 1. A byte of MAIL, RCPT, AUTH or message crosses the outside link in the clear, unless an entry says none or may: the
//!    machine forwards nothing of a transaction without an [`Authorised`](smtp::Authorised) or [`Exempted`](smtp::Exempted),
//!    which [`session`] alone can make. AUTH never crosses it in the clear, whatever an entry says.
//! 2. A byte received before TLS is acted upon after it: a machine that starts TLS was offered every byte that was read, and
//!    refuses to go on if one is left over; [`session::leg`] throws a leg's buffers away with the old stream.
//! 3. A recipient is handed to a peer that was not authorised for its domain: each RCPT is a [`Question`](smtp::Question).
//! 4. A reply that the server did not give accepts a message: there is no 250 to a message in the machines, only
//!    [`Action::Pass`](smtp::Action::Pass) and the server's own reply.
//! 5. The two sides come to disagree where a command, reply or message ends: `smtp/framing.rs` refuses what two parsers could
//!    read differently; replies are paired by counting.
//! 6. A message is acknowledged whose record is not on disk: its reply waits for [`Recorded`](smtp::Recorded).
//! 7. A fault opens it: every error on the way to a decision is a refusal, and a panic ends one session. Who does not read the
//!    log holds up no mail ([`logging`]), and what strangers can make us write is bounded ([`session::budget`]).
//!
//! And beside them: what nobody has proved yet decides nothing. What a server says before TLS is a type of its own in
//! `smtp/heard.rs`, which gives out whether STARTTLS is offered, and an offer by one rule that makes no client give up.
//!
//! # Reading order
//!
//! [`smtp`] (the contract of a machine), [`smtp::Outbound`], [`policy`] (two questions), [`session::drive`] (one loop),
//! [`session::outbound`] (who may have this mail, and is the peer that?), [`session::facts`] (one struct per thing that happens,
//! which alone makes its log line, its counters and its record), then whatever you came for. What `check` shows is a
//! [`session::rehearsal`]: a session that is stopped where its mail would go out.
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

pub mod smtp;

pub mod policy;

pub mod clock;
pub mod files;
pub mod logging;
pub mod metrics;

pub mod audit;
pub mod lookup;
pub mod net;
pub mod tls;
pub mod tlsrpt;

pub mod session;

pub mod serve;

pub mod exit;
pub mod flags;

pub mod configure;

pub mod commands;

pub mod cli;
