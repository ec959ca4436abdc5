//! The budgets, each with its reason: what the program needs today. Whoever makes it need less lowers them here.
//!
//! `cargo test --test budgets -- --nocapture` prints what was measured beside them, call by call.
//!
//! System calls are the same in each run and in each build. Allocations and octets are nearly so, and therefore have 1 in 100 to
//! spare: an optimised build takes up to 6 blocks fewer for a cold session, and what happens behind a reply may be late.
//!
//! Client and server do the same in each run. The message has 4 KiB and one recipient, whose domain has an entry in the policy table
//! and DNS records in the cache. A group is MAIL, RCPT and DATA in one write; in lock-step the client waits for each reply.

/// What costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One more message in a session, its commands in a group.
    GroupedMessage,
    /// One more message in a session, its commands in lock-step.
    LockStepMessage,
    /// One more session: connect, TLS, a message with its commands in a group, QUIT.
    ColdSession,
}

/// The direction, as it is mostly used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Intercepted, and the recipient's domain says what the server must prove.
    Outbound,
    /// In front of one server.
    Inbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// No audit log.
    Off,
    /// `--audit-log`.
    On,
}

/// The most work that a unit may take.
pub struct Work(
    pub Unit,
    pub Way,
    pub Log,
    /// Reads and writes of connections.
    pub Sockets,
    /// Writes of log lines.
    pub LogLines,
    /// Calls about the audit log's file.
    pub Files,
    /// Calls that open, set up and close connections, and every other call.
    pub Setup,
    /// Blocks taken from the heap, and blocks made larger or smaller.
    pub Allocations,
);

pub struct Sockets(pub u32);
pub struct LogLines(pub u32);
pub struct Files(pub u32);
pub struct Setup(pub u32);
pub struct Allocations(pub u32);

/// The most octets of heap that an idle session may hold. It is inside TLS, has sent a message, and says nothing more.
pub struct Idle(pub Way, pub Log, pub u32);

use {Log::*, Unit::*, Way::*};

#[rustfmt::skip]
pub const WORK: [Work; 12] = [
    // Sockets, 5 reads: group, replies to MAIL and RCPT, reply to DATA, content, its reply.
    // 7 writes: reply to MAIL, MAIL and RCPT, DATA, reply to RCPT, reply to DATA, content, its reply.
    // Log: one line says that the message was accepted. Setup: nothing is opened for a message.
    // Allocations: of these 189, about 40 are the domain's hosts, taken from the cache for each recipient.
    Work(GroupedMessage, Outbound, Off, Sockets(12), LogLines(1), Files(0), Setup(0), Allocations(190)),
    // The same; the file is looked at three times, written and flushed once. The record takes the further blocks.
    Work(GroupedMessage, Outbound, On, Sockets(12), LogLines(1), Files(5), Setup(0), Allocations(272)),
    // The commands are read one by one: two reads more.
    Work(LockStepMessage, Outbound, Off, Sockets(14), LogLines(1), Files(0), Setup(0), Allocations(190)),
    Work(LockStepMessage, Outbound, On, Sockets(14), LogLines(1), Files(5), Setup(0), Allocations(271)),
    // Sockets: the 12 of the message. 10 reads: greeting, EHLO, its reply, the go-ahead of STARTTLS, the server's flight, the reply to
    // EHLO in TLS, QUIT, its reply, two ends. 10 writes: greeting, EHLO, its reply, STARTTLS, two flights of TLS, EHLO in TLS, QUIT,
    // close_notify, the reply to QUIT.
    // Log: TLS, verdict, message and end. Setup: 10 or 11 for each connection; one socket more tells by which of its addresses this
    // host reaches the server.
    Work(ColdSession, Outbound, Off, Sockets(32), LogLines(4), Files(0), Setup(26), Allocations(590)),
    // Files: four records at most one by one, with 4 calls each; one flush, for the message.
    Work(ColdSession, Outbound, On, Sockets(32), LogLines(4), Files(17), Setup(26), Allocations(828)),

    // Sockets, 6 reads: as outbound; TLS makes the content longer than the 4,096 octets of a read.
    // 6 writes: MAIL and RCPT, DATA, their replies, reply to DATA, content, its reply.
    Work(GroupedMessage, Inbound, Off, Sockets(12), LogLines(1), Files(0), Setup(0), Allocations(76)),
    Work(GroupedMessage, Inbound, On, Sockets(12), LogLines(1), Files(5), Setup(0), Allocations(119)),
    // Commands and replies are read and written one by one: three reads and two writes more.
    Work(LockStepMessage, Inbound, Off, Sockets(17), LogLines(1), Files(0), Setup(0), Allocations(77)),
    Work(LockStepMessage, Inbound, On, Sockets(17), LogLines(1), Files(5), Setup(0), Allocations(120)),
    // As outbound, but TLS is on the client's side, before the server is connected to, and there is no verdict.
    Work(ColdSession, Inbound, Off, Sockets(31), LogLines(3), Files(0), Setup(22), Allocations(368)),
    // Files: three records.
    Work(ColdSession, Inbound, On, Sockets(31), LogLines(3), Files(13), Setup(22), Allocations(447)),
];

pub const IDLE: [Idle; 4] = [
    // 8,150 a leg's output, 6,760 the session's future, 4,100 each inbox, and 4,100 what the TLS library read into. The rest is the
    // state of TLS and of the machine; outbound it includes the peer's certificates.
    Idle(Outbound, Log::Off, 37_900),
    Idle(Outbound, Log::On, 37_900),
    Idle(Inbound, Log::Off, 34_300),
    Idle(Inbound, Log::On, 34_300),
];
