//! How many octets strangers may make this proxy write: log lines and records of sessions that carry no message. Pure: the time is an
//! argument.
//!
//! Refusals and sessions without a message are written singly as long as octets are left, both of the client (an IPv4 address or an
//! IPv6 /64) and of all clients together. Both budgets fill up again over a day. Beyond them such events are counted, and once a
//! minute one line and one record tell the counts ([`Budget::report`]).
//!
//! A client that has used up its own octets and goes on connecting more than once a second is answered 421 at accept
//! ([`Budget::admit`]). A slower client (a monitor, a balancer's health check) is served. So is an address that delivered a message
//! within a day, because many clients may stand behind it (a balancer without PROXY header, a NAT). Their events without a message
//! are counted. When the octets of all clients together are used up, nobody is turned away for that: otherwise an attacker with many
//! addresses could stop everybody's mail.
//!
//! Messages, and the verdicts that let them pass, are always written and never use up a budget.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant, SystemTime},
};

/// Octets that the smallest session without a message makes this proxy write. A client with fewer left may be turned away.
const SESSION: u64 = 2048;
/// Octets that a client has at first, and at most.
const CLIENT_AT_ONCE: u64 = 1 << 20;
/// Octets that a client gets back in a day.
const CLIENT_A_DAY: u64 = 16 << 20;
/// Connections that a client without octets may make in one burst.
const CONNECTIONS_AT_ONCE: u64 = 10;
/// Connections that such a client may make in a day: one a second.
const CONNECTIONS_A_DAY: u64 = 24 * 3600;
/// Octets that all clients have together at first, and at most.
const ALL_AT_ONCE: u64 = 32 << 20;
/// Octets that all clients together get back in a day.
const ALL_A_DAY: u64 = 512 << 20;
/// Clients that have budgets of their own. Clients beyond that number share one budget of the same size.
const CLIENTS: usize = 16_384;
/// Counts that are kept apart between two reports. Events beyond that number are counted without their client.
const COUNTS: usize = 1024;
/// Most counts in one report.
const TOLD: usize = 50;
/// How long it is remembered that a client delivered a message.
const KNOWN: Duration = DAY;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// One client, as far as limits go: an IPv4 address, or the /64 of an IPv6 address, which is what one site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientPrefix(IpAddr);

impl ClientPrefix {
    /// The prefix of this address.
    #[must_use]
    pub fn of(client: IpAddr) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

impl fmt::Display for ClientPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = if self.0.is_ipv4() { 32 } else { 64 };
        write!(f, "{}/{length}", self.0)
    }
}

/// An event whose line and record use up a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BudgetedEvent {
    /// A connection that was answered 421 before a session began.
    TurnedAway,
    /// The beginning of a session without a message.
    SessionOpened,
    /// The end of such a session.
    SessionClosed,
    /// A refusal of our own, or a verdict that refuses, in a session without a message.
    Refusal,
}

impl BudgetedEvent {
    /// One word for log and record.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TurnedAway => "turned-away",
            Self::SessionOpened => "session-opened",
            Self::SessionClosed => "session-closed",
            Self::Refusal => "refusal",
        }
    }
}

/// The time on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For budgets, which fill up with time.
    pub instant: Instant,
    /// For reports.
    pub wall: SystemTime,
}

/// How often an event was counted instead of written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The client. `None`: all clients that are not told apart.
    pub prefix: Option<ClientPrefix>,
    /// The event.
    pub event: BudgetedEvent,
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: SystemTime,
    /// The last time.
    pub last: SystemTime,
}

/// Octets or connections that fill up again. The level is kept in units times milliseconds of a day, so that rounding loses nothing.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u128,
    at: Instant,
}

impl Bucket {
    fn full(at_once: u64, now: Instant) -> Self {
        Self {
            level: u128::from(at_once) * DAY.as_millis(),
            at: now,
        }
    }

    /// The units that are there now.
    fn left(&mut self, at_once: u64, a_day: u64, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let most = u128::from(at_once) * DAY.as_millis();
        self.level = most.min(self.level + passed * u128::from(a_day));
        self.at += Duration::from_millis(u64::try_from(passed).unwrap_or(u64::MAX));
        u64::try_from(self.level / DAY.as_millis()).unwrap_or(u64::MAX)
    }

    fn take(&mut self, units: u64) {
        self.level = self
            .level
            .saturating_sub(u128::from(units) * DAY.as_millis());
    }
}

#[derive(Clone, Copy, Debug)]
struct ClientBudget {
    bucket: Bucket,
    connections: Bucket,
    delivered: Option<Instant>,
}

impl ClientBudget {
    fn new(now: Instant) -> Self {
        Self {
            bucket: Bucket::full(CLIENT_AT_ONCE, now),
            connections: Bucket::full(CONNECTIONS_AT_ONCE, now),
            delivered: None,
        }
    }
}

/// The budgets of all clients, and the counts for the next report; see the module.
#[derive(Debug)]
pub struct Budget {
    clients: HashMap<ClientPrefix, ClientBudget>,
    /// Shared by the clients that have no place in `clients`.
    others: ClientBudget,
    all: Bucket,
    counts: BTreeMap<(Option<ClientPrefix>, BudgetedEvent), Count>,
}

impl Budget {
    /// All budgets are full.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            clients: HashMap::new(),
            others: ClientBudget::new(now),
            all: Bucket::full(ALL_AT_ONCE, now),
            counts: BTreeMap::new(),
        }
    }

    /// The budget of a client, and whether it is the client's own.
    fn client(&mut self, prefix: ClientPrefix, now: Instant) -> (&mut ClientBudget, bool) {
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&prefix) {
            return (&mut self.others, false);
        }
        let new = || ClientBudget::new(now);
        (self.clients.entry(prefix).or_insert_with(new), true)
    }

    /// Whether a session of this client may begin. If not, that is counted, and the connection is answered 421.
    pub fn admit(&mut self, client: IpAddr, now: Now) -> bool {
        let prefix = ClientPrefix::of(client);
        let (known, own) = self.client(prefix, now.instant);
        let left = known.bucket.left(CLIENT_AT_ONCE, CLIENT_A_DAY, now.instant);
        let delivered = known
            .delivered
            .is_some_and(|at| now.instant.saturating_duration_since(at) < KNOWN);
        if !own || delivered || left >= SESSION {
            return true;
        }
        let connections =
            known
                .connections
                .left(CONNECTIONS_AT_ONCE, CONNECTIONS_A_DAY, now.instant);
        if connections > 0 {
            known.connections.take(1);
            return true;
        }
        self.count(prefix, BudgetedEvent::TurnedAway, now);
        false
    }

    /// Whether this many octets (an event's log line and record) may be written for this client. If not, the event is counted.
    pub fn spend(&mut self, client: IpAddr, event: BudgetedEvent, octets: usize, now: Now) -> bool {
        let prefix = ClientPrefix::of(client);
        let octets = octets as u64;
        let of_all = self.all.left(ALL_AT_ONCE, ALL_A_DAY, now.instant);
        let (known, _) = self.client(prefix, now.instant);
        let own = known.bucket.left(CLIENT_AT_ONCE, CLIENT_A_DAY, now.instant);
        if octets > own.min(of_all) {
            self.count(prefix, event, now);
            return false;
        }
        known.bucket.take(octets);
        self.all.take(octets);
        true
    }

    /// This many octets were written for this client, whether they are left or not.
    pub fn charge(&mut self, client: IpAddr, octets: usize, now: Instant) {
        self.all.left(ALL_AT_ONCE, ALL_A_DAY, now);
        let (known, _) = self.client(ClientPrefix::of(client), now);
        known.bucket.left(CLIENT_AT_ONCE, CLIENT_A_DAY, now);
        known.bucket.take(octets as u64);
        self.all.take(octets as u64);
    }

    /// The server accepted a message of this client.
    pub fn delivered(&mut self, client: IpAddr, now: Instant) {
        let (known, own) = self.client(ClientPrefix::of(client), now);
        if own {
            known.delivered = Some(now);
        }
    }

    fn count(&mut self, prefix: ClientPrefix, event: BudgetedEvent, now: Now) {
        let known = self.counts.contains_key(&(Some(prefix), event));
        let prefix = (known || self.counts.len() < COUNTS).then_some(prefix);
        let count = self.counts.entry((prefix, event)).or_insert(Count {
            prefix,
            event,
            count: 0,
            first: now.wall,
            last: now.wall,
        });
        count.count += 1;
        count.last = now.wall;
    }

    /// The counts since the last report, the highest first. Counts that do not fit into one report are summed up without their clients.
    /// Clients whose budgets are full again are forgotten. To be called once a minute.
    pub fn report(&mut self, now: Instant) -> Vec<Count> {
        self.clients.retain(|_, client| {
            let octets = client.bucket.left(CLIENT_AT_ONCE, CLIENT_A_DAY, now);
            let delivered = client
                .delivered
                .is_some_and(|at| now.saturating_duration_since(at) < KNOWN);
            delivered || octets < CLIENT_AT_ONCE
        });
        let mut counts: Vec<Count> = std::mem::take(&mut self.counts).into_values().collect();
        counts.sort_by_key(|count| (count.prefix.is_none(), std::cmp::Reverse(count.count)));
        let rest = counts.split_off(counts.len().min(TOLD));
        let mut merged: BTreeMap<BudgetedEvent, Count> = BTreeMap::new();
        for count in rest {
            let whole = merged.entry(count.event).or_insert(Count {
                prefix: None,
                count: 0,
                ..count
            });
            whole.count += count.count;
            whole.first = whole.first.min(count.first);
            whole.last = whole.last.max(count.last);
        }
        counts.extend(merged.into_values());
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that the test moves.
    struct Clock(Now);

    impl Clock {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock begins somewhere"
        )]
        fn new() -> Self {
            Self(Now {
                instant: Instant::now(),
                wall: SystemTime::UNIX_EPOCH,
            })
        }

        fn pass(&mut self, time: Duration) {
            self.0.instant += time;
            self.0.wall += time;
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Connects as `client` says, as often as it likes, for a day, and writes whatever may be written. Octets written singly,
    /// octets of the reports (at most 200 for each count, in the log and in a record), and sessions let in.
    fn a_day(mut client: impl FnMut(u64) -> IpAddr) -> (u64, u64, u64) {
        let mut clock = Clock::new();
        let mut budget = Budget::new(clock.0.instant);
        let (mut written, mut told, mut sessions, mut number) = (0, 0, 0, 0);
        for ten_seconds in 1..=24 * 360 {
            for _ in 0..40 {
                number += 1;
                let from = client(number);
                if !budget.admit(from, clock.0) {
                    continue;
                }
                sessions += 1;
                for event in [
                    BudgetedEvent::SessionOpened,
                    BudgetedEvent::Refusal,
                    BudgetedEvent::SessionClosed,
                ] {
                    if budget.spend(from, event, 900, clock.0) {
                        written += 900;
                    }
                }
            }
            clock.pass(Duration::from_secs(10));
            if ten_seconds % 6 == 0 {
                told += 2 * 200 * budget.report(clock.0.instant).len() as u64;
            }
        }
        assert!(budget.clients.len() <= CLIENTS && budget.counts.len() <= COUNTS + 4);
        (written, told, sessions)
    }

    #[test]
    fn a_stranger_of_one_prefix_costs_at_most_25_mb_a_day() {
        for network in [ip("192.0.2.1"), ip("2001:db8:1:2::")] {
            let (written, told, sessions) = a_day(|number| match network {
                IpAddr::V6(network) => {
                    Ipv6Addr::from(u128::from(network) | u128::from(number)).into()
                }
                v4 => v4,
            });
            assert!(written + told < 25_000_000, "{written} and {told}");
            assert!(written > 16_000_000, "what may be written is: {written}");
            assert!(sessions < 100_000, "{sessions} of 345,600 were let in");
        }
    }

    #[test]
    fn strangers_of_many_prefixes_cost_at_most_650_mb_a_day() {
        // There are 65,536 clients, more than the budget keeps apart.
        let (written, told, sessions) = a_day(|number| {
            let network = u128::from(ip_v6()) + (u128::from(number % 65_536) << 64);
            Ipv6Addr::from(network).into()
        });
        assert!(written + told < 650_000_000, "{written} and {told}");
        assert!(
            sessions > 340_000,
            "nobody is refused for what others do: {sessions}"
        );
    }

    fn ip_v6() -> Ipv6Addr {
        "2001:db8::".parse().expect("an address")
    }

    /// Connects and writes until it is turned away, at most `most` times. Returns how often it was let in.
    fn flood(budget: &mut Budget, client: IpAddr, now: Now, most: u64) -> u64 {
        (0..most)
            .take_while(|_| {
                let admitted = budget.admit(client, now);
                let _ = budget.spend(client, BudgetedEvent::Refusal, 1000, now);
                admitted
            })
            .count() as u64
    }

    #[test]
    fn who_has_used_up_his_own_is_turned_away_and_nobody_else_is() {
        let mut clock = Clock::new();
        let mut budget = Budget::new(clock.0.instant);
        let let_in = flood(&mut budget, ip("2001:db8:1:2::1"), clock.0, 10_000);
        assert!((1000..1100).contains(&let_in), "{let_in}");
        assert!(
            !budget.admit(ip("2001:db8:1:2:ffff::1"), clock.0),
            "the same site"
        );
        assert!(budget.admit(ip("2001:db8:1:3::1"), clock.0));
        clock.pass(Duration::from_secs(60));
        assert!(
            budget.admit(ip("2001:db8:1:2::1"), clock.0),
            "it fills up again"
        );
    }

    #[test]
    fn a_monitor_that_has_used_up_his_own_is_served_and_counted() {
        let mut clock = Clock::new();
        let mut budget = Budget::new(clock.0.instant);
        let monitor = ip("192.0.2.1");
        flood(&mut budget, monitor, clock.0, 10_000);
        clock.pass(Duration::from_secs(2));
        for _ in 0..24 * 3600 / 2 {
            assert!(budget.admit(monitor, clock.0));
            let _ = budget.spend(monitor, BudgetedEvent::SessionClosed, 1900, clock.0);
            clock.pass(Duration::from_secs(2));
        }
        let counted = budget.report(clock.0.instant);
        assert!(
            counted
                .iter()
                .any(|one| one.event == BudgetedEvent::SessionClosed && one.count > 30_000)
        );
    }

    #[test]
    fn whoever_delivers_messages_is_served_and_what_carries_none_is_counted() {
        let clock = Clock::new();
        let mut budget = Budget::new(clock.0.instant);
        let balancer = ip("192.0.2.1");
        budget.delivered(balancer, clock.0.instant);
        while budget.spend(balancer, BudgetedEvent::SessionOpened, 1000, clock.0) {}
        for _ in 0..1000 {
            assert!(budget.admit(balancer, clock.0));
            assert!(!budget.spend(balancer, BudgetedEvent::SessionClosed, 1000, clock.0));
        }
        let told = budget.report(clock.0.instant);
        let told: Vec<_> = told
            .iter()
            .map(|one| (one.event.word(), one.count))
            .collect();
        assert_eq!(told, [("session-closed", 1000), ("session-opened", 1)]);
    }

    #[test]
    fn a_report_tells_clients_kinds_times_and_no_more_than_fits() {
        let mut clock = Clock::new();
        let mut budget = Budget::new(clock.0.instant);
        let begin = clock.0.wall;
        for round in 0..2 {
            for number in 0..5000_u128 {
                let client = Ipv6Addr::from(u128::from(ip_v6()) + (number << 64));
                let often = if number == 7 { 3 } else { 1 };
                for _ in 0..often {
                    budget.spend(client.into(), BudgetedEvent::Refusal, usize::MAX, clock.0);
                }
            }
            if round == 0 {
                clock.pass(Duration::from_secs(1));
            }
        }
        let counts = budget.report(clock.0.instant);
        assert_eq!(counts.len(), TOLD + 1);
        assert_eq!(
            counts[0].prefix.map(|one| one.to_string()).as_deref(),
            Some("2001:db8:0:7::/64")
        );
        assert_eq!(
            (counts[0].count, counts[0].first, counts[0].last),
            (6, begin, clock.0.wall)
        );
        assert_eq!(counts[TOLD].prefix, None);
        assert_eq!(counts.iter().map(|one| one.count).sum::<u64>(), 10_004);
        assert!(budget.report(clock.0.instant).is_empty());
    }
}
