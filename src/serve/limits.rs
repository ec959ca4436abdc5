//! How many sessions may run at once, in all and of one client.

use std::{
    collections::HashMap,
    fmt, fs,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::session::budget::ClientPrefix;

/// The places for sessions; see the module.
#[derive(Clone, Debug)]
pub struct Limits {
    all: Arc<Semaphore>,
    total: u32,
    per_client: usize,
    clients: Arc<Mutex<HashMap<ClientPrefix, usize>>>,
}

/// The limit that leaves no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// `--max-sessions`.
    Sessions,
    /// `--max-sessions-per-client`.
    SessionsPerClient,
}

impl LimitReached {
    /// One word for log and counters.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sessions => "max-sessions",
            Self::SessionsPerClient => "max-sessions-per-client",
        }
    }
}

/// A place for a session. Dropping it gives it back.
#[derive(Debug)]
#[expect(dead_code, reason = "held, because dropping them gives the place back")]
pub struct SessionPlace {
    permit: Option<OwnedSemaphorePermit>,
    counted: Option<CountedSession>,
}

/// One session, counted for its client.
#[derive(Debug)]
struct CountedSession {
    client: ClientPrefix,
    clients: Arc<Mutex<HashMap<ClientPrefix, usize>>>,
}

impl Drop for CountedSession {
    fn drop(&mut self) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Limits {
    /// At most `total` sessions at once, and `per_client` of one IPv4 address or IPv6 /64.
    #[must_use]
    pub fn new(total: usize, per_client: usize) -> Self {
        let total = u32::try_from(total.clamp(1, 1_000_000)).expect("clamped");
        Self {
            all: Arc::new(Semaphore::new(total as usize)),
            total,
            per_client,
            clients: Arc::default(),
        }
    }

    /// Takes a place for a session of `client`.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(&self, client: IpAddr) -> Result<SessionPlace, LimitReached> {
        let mut place = self.enter_uncounted()?;
        place.counted = Some(self.count(client)?);
        Ok(place)
    }

    /// Takes a place for a connection of a listed load balancer. It counts for no client yet.
    ///
    /// # Errors
    /// `--max-sessions` is reached.
    pub fn enter_uncounted(&self) -> Result<SessionPlace, LimitReached> {
        let permit = Arc::clone(&self.all)
            .try_acquire_owned()
            .map_err(|_| LimitReached::Sessions)?;
        Ok(SessionPlace {
            permit: Some(permit),
            counted: None,
        })
    }

    /// Counts a session for the client that the load balancer named.
    ///
    /// # Errors
    /// `--max-sessions-per-client` is reached.
    pub fn enter_client(&self, client: IpAddr) -> Result<SessionPlace, LimitReached> {
        Ok(SessionPlace {
            permit: None,
            counted: Some(self.count(client)?),
        })
    }

    fn count(&self, client: IpAddr) -> Result<CountedSession, LimitReached> {
        let client = ClientPrefix::of(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_default();
        if *count >= self.per_client {
            return Err(LimitReached::SessionsPerClient);
        }
        *count += 1;
        Ok(CountedSession {
            client,
            clients: Arc::clone(&self.clients),
        })
    }

    /// Sessions that may be open at once, and how many one client may have.
    pub(super) fn most(&self) -> (u32, usize) {
        (self.total, self.per_client)
    }

    /// Whether a session would find a place, if its client has any left.
    pub(super) fn has_room(&self) -> bool {
        self.all.available_permits() > 0
    }

    /// Clients that have a session now.
    pub(super) fn clients(&self) -> usize {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.len()
    }

    /// Waits until no session is left.
    pub async fn empty(&self) {
        // The semaphore is never closed, so this always succeeds.
        let _ = self.all.acquire_many(self.total).await;
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            total, per_client, ..
        } = self;
        write!(
            f,
            "at most {total} sessions at once, {per_client} of one client"
        )?;
        match open_files() {
            Some(limit) => write!(f, "; {limit} open files"),
            None => Ok(()),
        }
    }
}

/// File descriptors that one session needs: one for each connection.
const OF_A_SESSION: usize = 2;
/// Most sessions by default. While they are idle they hold about 100 MiB (10 KiB each), and more than that should be asked for.
pub(crate) const MOST_BY_DEFAULT: usize = 10_000;
/// Sessions that a mail server should have room for: fewer by default are worth a warning. Also the default where the limit of open
/// files is not known.
const EXPECTED: usize = 1000;
/// Descriptors for files and look-ups of a process that is not short of them.
const OTHERS: usize = 256;

/// How many files this process may have open: its soft RLIMIT_NOFILE.
#[must_use]
pub(crate) fn open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// How many sessions are let in, and a warning if the limit of open files, with some left for files and look-ups, is not enough.
/// `wanted` is `--max-sessions`; without it as many are let in as the limit is enough for, up to [`MOST_BY_DEFAULT`].
#[must_use]
pub(crate) fn fitting(wanted: Option<usize>, open_files: Option<usize>) -> (usize, Option<String>) {
    let Some(limit) = open_files else {
        return (wanted.unwrap_or(EXPECTED), None);
    };
    let others = (limit / 8).clamp(32, OTHERS);
    let most = (limit.saturating_sub(others) / OF_A_SESSION).max(1);
    let enough = |sessions: usize| OF_A_SESSION.saturating_mul(sessions).saturating_add(OTHERS);
    match wanted {
        Some(wanted) if wanted <= most => (wanted, None),
        Some(wanted) => {
            let enough = enough(wanted);
            let words = format!(
                "--max-sessions {wanted} is more than {limit} open files are enough for: at most {most} sessions are let in; raise \
                 LimitNOFILE= (ulimit -n) to {enough}, or lower --max-sessions"
            );
            (most, Some(words))
        }
        None if most >= EXPECTED => (most.min(MOST_BY_DEFAULT), None),
        None => {
            let enough = enough(EXPECTED);
            let words = format!(
                "{limit} open files are enough for {most} sessions only: raise LimitNOFILE= (ulimit -n) to {enough} for {EXPECTED} \
                 sessions, or give --max-sessions {most}"
            );
            (most, Some(words))
        }
    }
}

/// Allows the same line to be logged at most once a minute.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OncePerMinute {
    last: Option<Instant>,
    left_out: u64,
}

impl OncePerMinute {
    /// `Some` if the line is to be logged now, with how often it was left out since the last time.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        let minute = Duration::from_secs(60);
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < minute)
        {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn one_client_cannot_take_all_places() {
        let limits = Limits::new(3, 2);
        let held = [
            limits.enter(ip("192.0.2.1")),
            limits.enter(ip("::ffff:192.0.2.1")),
        ];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(
            limits.enter(ip("192.0.2.1")).err(),
            Some(LimitReached::SessionsPerClient)
        );
        let other = limits.enter(ip("192.0.2.2"));
        assert!(other.is_ok());
        assert_eq!(
            limits.enter(ip("192.0.2.3")).err(),
            Some(LimitReached::Sessions)
        );
        drop(held);
        assert!(limits.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn all_that_are_let_in_by_default_may_wait_for_their_handshake_though_of_one_network() {
        use crate::session::handshakes::WAITING_BY_DEFAULT;
        assert!(MOST_BY_DEFAULT <= WAITING_BY_DEFAULT / 2);
    }

    #[test]
    fn so_many_sessions_are_let_in_as_there_are_descriptors_for() {
        assert_eq!(fitting(Some(1000), Some(65_536)), (1000, None));
        assert_eq!(fitting(Some(1000), None), (1000, None));
        assert_eq!(fitting(Some(20_000), Some(65_536)), (20_000, None));
        let (most, words) = fitting(Some(1000), Some(1024));
        assert_eq!(most, 448);
        let words = words.expect("said");
        assert!(
            words.contains("--max-sessions 1000") && words.contains("1024"),
            "{words}"
        );
        for limit in 0..2000 {
            let (most, _) = fitting(Some(100_000), Some(limit));
            assert_eq!(fitting(None, Some(limit)).0, most);
            assert!(
                most >= 1 && (most == 1 || most * OF_A_SESSION < limit),
                "{limit}"
            );
        }
    }

    #[test]
    fn by_default_the_limit_of_open_files_says_how_many_and_too_few_is_a_warning() {
        assert_eq!(fitting(None, None), (1000, None));
        assert_eq!(fitting(None, Some(2256)), (1000, None));
        assert_eq!(fitting(None, Some(8192)), (3968, None));
        assert_eq!(fitting(None, Some(65_536)), (10_000, None));
        assert_eq!(fitting(None, Some(1 << 30)), (10_000, None));
        let (most, words) = fitting(None, Some(1024));
        let words = words.expect("said");
        assert_eq!(most, 448);
        assert!(words.contains("1024") && words.contains("2256"), "{words}");
        assert_eq!(fitting(Some(448), Some(1024)), (448, None));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a virtual clock begins somewhere"
    )]
    fn the_same_thing_is_said_once_a_minute_with_how_often_it_was_not() {
        let (mut once, begin) = (OncePerMinute::default(), Instant::now());
        let said: Vec<_> = (0..180)
            .filter_map(|second| once.due(begin + Duration::from_secs(second)))
            .collect();
        assert_eq!(said, [0, 59, 59]);
    }

    #[test]
    fn an_ipv6_site_counts_as_one_client() {
        let limits = Limits::new(10, 1);
        let _held = limits.enter(ip("2001:db8:1:2::1"));
        assert_eq!(
            limits.enter(ip("2001:db8:1:2::ffff")).err(),
            Some(LimitReached::SessionsPerClient)
        );
        assert!(limits.enter(ip("2001:db8:1:3::1")).is_ok());
    }
}
