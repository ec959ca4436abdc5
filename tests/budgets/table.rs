//! The budgets, each with its reason: what the program needs today. Whoever makes it need less lowers them here.
//!
//! `cargo test --test budgets -- --nocapture` prints what was measured beside them, call by call.
//!
//! System calls are the same in each run and in each build. Allocations and octets are nearly so, and therefore have 1 in 100 to
//! spare: an optimised build takes up to 6 blocks fewer for a cold session, and what happens behind a reply may be late.
//!
//! Client and server do the same in each run. The message has 4 KiB and one recipient, whose domain has an entry in the policy table
//! and DNS records in the cache. A group is MAIL, RCPT and DATA in one write; in lock-step the client waits for each reply.

use crate::logs::Filling;

/// What costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One more message in a session, its commands in a group.
    GroupedMessage,
    /// One more recipient of a message, its commands in a group.
    Recipient,
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

/// What leaves records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A session with one message to one recipient.
    SessionWithOneMessage,
    /// One more message in it, to one recipient.
    FurtherMessage,
    /// One more recipient of that message, of the same domain: `laboratory-07@clinic.example`.
    FurtherRecipient,
    /// A session in which a recipient was allowed, and no message came.
    SessionWithoutMessage,
    /// A client is refused at its greeting, because the server cannot be reached.
    ServerUnreachable,
    /// A stranger connects and leaves.
    StrangerLeaves,
    /// A stranger sends MAIL in the clear and is refused.
    StrangerInTheClear,
    /// A stranger's handshake fails.
    StrangerBreaksHandshake,
    /// A stranger says the EHLO name that takes most room, and is refused.
    StrangerWithLongestName,
}

/// The most octets that a deed may leave in the audit log.
pub struct Octets(pub Way, pub Deed, pub u32);

/// The most octets of heap that a command may hold that reads such a file as a log. The words are what it says of the file.
pub struct Read(pub Filling, pub Option<&'static str>, pub u32);

/// The most octets of heap that a report over so many logs may hold.
pub struct ManyLogs(pub usize, pub u32);

use {Deed::*, Log::*, Unit::*, Way::*};

#[rustfmt::skip]
pub const WORK: [Work; 16] = [
    // Sockets, 4 reads and 4 writes: the group, the replies to it, the content, its reply; each is read once and written once.
    // Log: an accepted message has no line. Setup: nothing is opened for a message.
    // Allocations: paths, which the machine keeps as text, and one or two for each question to the policy. A reply of the server goes on
    // from where it was read.
    Work(GroupedMessage, Outbound, Off, Sockets(8), LogLines(0), Files(0), Setup(0), Allocations(18)),
    // The same; the file is looked at, written and flushed once, and then its end is remembered in FILE.lock, which nothing waits for.
    // Before that it is looked whether FILE.lock is still the file that keeps a second writer away. Log: the head of a checkpoint by chance. The record takes the further blocks.
    Work(GroupedMessage, Outbound, On, Sockets(8), LogLines(1), Files(5), Setup(0), Allocations(64)),
    // The command and its path are kept until the policy has answered, and the policy gets the domain. The record has its address.
    Work(Recipient, Outbound, Off, Sockets(0), LogLines(0), Files(0), Setup(0), Allocations(3)),
    Work(Recipient, Outbound, On, Sockets(0), LogLines(0), Files(0), Setup(0), Allocations(6)),
    // Each command is read alone, and each reply but the one to MAIL comes from the server: three reads and three writes more.
    Work(LockStepMessage, Outbound, Off, Sockets(14), LogLines(0), Files(0), Setup(0), Allocations(19)),
    Work(LockStepMessage, Outbound, On, Sockets(14), LogLines(1), Files(5), Setup(0), Allocations(65)),
    // Sockets: the 8 of the message. 10 reads: greeting, EHLO, its reply, the go-ahead of STARTTLS, the server's flight, the reply to
    // EHLO in TLS, QUIT, its reply, two ends. 10 writes: greeting, EHLO, its reply, STARTTLS, the ClientHello, our last flight with
    // EHLO, the message's envelope apart from DATA, QUIT, close_notify, the reply to QUIT.
    // Log: the end of the session, and the head of a checkpoint by chance. Setup: 10 or 11 for each connection; one socket more tells by which of
    // its addresses this host reaches the server; 3 move the client's connection to another thread, of every second session.
    Work(ColdSession, Outbound, Off, Sockets(28), LogLines(2), Files(0), Setup(28), Allocations(314)),
    // Files: all records of a session are written and flushed with that of its message, and its end perhaps alone.
    // Allocations: the certificate is made text of once, for the message.
    Work(ColdSession, Outbound, On, Sockets(28), LogLines(2), Files(10), Setup(28), Allocations(407)),

    // As outbound.
    Work(GroupedMessage, Inbound, Off, Sockets(8), LogLines(0), Files(0), Setup(0), Allocations(14)),
    Work(GroupedMessage, Inbound, On, Sockets(8), LogLines(1), Files(5), Setup(0), Allocations(37)),
    // The command goes on at once. Its path is in one block with those of all others.
    Work(Recipient, Inbound, Off, Sockets(0), LogLines(0), Files(0), Setup(0), Allocations(0)),
    Work(Recipient, Inbound, On, Sockets(0), LogLines(0), Files(0), Setup(0), Allocations(2)),
    // Commands and replies are read and written one by one, MAIL's too: four reads and four writes more.
    Work(LockStepMessage, Inbound, Off, Sockets(16), LogLines(0), Files(0), Setup(0), Allocations(19)),
    Work(LockStepMessage, Inbound, On, Sockets(16), LogLines(1), Files(5), Setup(0), Allocations(41)),
    // As outbound, but TLS is on the client's side, before the server is connected to, and there is no verdict.
    Work(ColdSession, Inbound, Off, Sockets(26), LogLines(2), Files(0), Setup(24), Allocations(255)),
    Work(ColdSession, Inbound, On, Sockets(26), LogLines(2), Files(10), Setup(24), Allocations(291)),
];

pub const IDLE: [Idle; 4] = [
    // Outbound about 3,400 are TLS: rustls' connection and state, the peer's certificates, two keys. 900 are tokio's: two sockets and
    // a task. 2,100 are the session with its machine and its legs, which hold no buffer. The rest is text: who is who, the last offer,
    // the decision that may be given again. 90 hold a result for which nobody had to wait: they save each message two blocks. Inbound there are no certificates and no decision.
    Idle(Outbound, Log::Off, 10_200),
    Idle(Outbound, Log::On, 10_950),
    Idle(Inbound, Log::Off, 8_540),
    Idle(Inbound, Log::On, 8_540),
];

/// All but some 20 octets are the same in each run: the numbers of ports and processes, times, and serial numbers of certificates have more
/// or fewer digits. Each record has 160 octets for its place in the chain, its time and its kind, and 200 to 250 for its session, so that
/// it stands alone. `docs/disk.md` has these numbers for people.
pub const OCTETS: [Octets; 13] = [
    // The message has 1,620: the session, the envelope, two digests, the decision (300), TLS (110) and the certificate (470). The verdict
    // has 830: the decision, and what was found in DNS. Who was authorised stands in the message alone.
    // The beginning has 345, the end 580.
    Octets(Outbound, SessionWithOneMessage, 3405),
    Octets(Outbound, FurtherMessage, 1640),
    // An address of 28 octets in quotes, and a comma. Its domain was judged once.
    Octets(Outbound, FurtherRecipient, 32),
    // Without a message the end of the session says whose certificate it was.
    Octets(Outbound, SessionWithoutMessage, 2260),
    // Beginning, refusal, end. None has an EHLO name or a server.
    Octets(Outbound, ServerUnreachable, 1180),
    // There is no decision about a sender whom no rule names, and he shows no certificate.
    Octets(Inbound, SessionWithOneMessage, 1820),
    Octets(Inbound, FurtherMessage, 885),
    Octets(Inbound, FurtherRecipient, 32),
    Octets(Inbound, SessionWithoutMessage, 950),
    Octets(Inbound, StrangerLeaves, 740),
    Octets(Inbound, StrangerInTheClear, 1190),
    Octets(Inbound, StrangerBreaksHandshake, 1180),
    // As above, and 255 octets of a name in each of three records, each written as five.
    Octets(Inbound, StrangerWithLongestName, 5220),
];

/// Buffers for what is read ahead are the same for every file: some 4 MiB. A line that is longer than any record is given up after 16
/// MiB, for which a buffer has grown to 16.
pub const READ: [Read; 3] = [
    Read(Filling::Endless, Some(ENDLESS), 24 << 20),
    Read(Filling::RecordThenEndless, Some(ENDLESS), 24 << 20),
    // Several such lines are on their way from one thread to another, with more cores more of them. What is torn at the end of a log is
    // no damage, whatever its length.
    Read(Filling::LongLines, None, 200 << 20),
];

/// One log is read after the other, and the next is begun meanwhile. Each has 5 MiB in buffers, and those of the last may not be given
/// back yet.
pub const MANY_LOGS: [ManyLogs; 2] = [ManyLogs(2, 20 << 20), ManyLogs(12, 20 << 20)];

const ENDLESS: &str = "16 MiB without the end of a line, and no record is so long";
