//! How many policies are fetched at the same time, so that hosts which do not answer hold up no fetch from hosts that do.
//!
//! A fetch begins with a quick permit, and has it for a second. If it is not done by then, it goes on with a slow permit; if none is
//! left, the oldest slow fetch ends. So a new fetch waits for seconds at most, however many hosts are silent. One address gets only a
//! share of the permits, and the number of all fetches is bounded.

use super::https::FetchFailure;
use crate::policy::Reason;
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Most fetches at the same time within their first second.
const QUICK: usize = 32;
/// How long a fetch may have a quick permit.
const QUICK_TIME: Duration = Duration::from_secs(1);
/// Most fetches at the same time that take longer.
const SLOW: usize = 32;
/// Most fetches at the same time from one address.
const SHARE: usize = 4;
/// How long a fetch waits for other fetches from its address.
const SHARE_PATIENCE: Duration = Duration::from_secs(60);
/// Most fetches in all, including those that wait.
const ALL: usize = 512;

pub(super) struct FetchLimits {
    all: Arc<Semaphore>,
    quick: Semaphore,
    /// The oldest first. Each is notified when it must end.
    slow: Mutex<VecDeque<Arc<Notify>>>,
    shares: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl FetchLimits {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            quick: Semaphore::new(QUICK),
            slow: Mutex::default(),
            shares: Mutex::default(),
        }
    }

    /// Permits a fetch to begin or to wait; `None`: too many do.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).try_acquire_owned().ok()
    }

    /// Runs a fetch from a host with these addresses when its turn has come.
    pub(super) async fn fetch<T>(
        &self,
        addresses: &[IpAddr],
        fetch: impl Future<Output = Result<T, FetchFailure>>,
    ) -> Result<T, FetchFailure> {
        let gone = |why: &str| Err((Reason::StsPolicyFetchError, why.to_owned()));
        let share = self.share(addresses);
        let Ok(Ok(_share)) = timeout(SHARE_PATIENCE, share.semaphore.acquire()).await else {
            return gone("too many other policies are being fetched from the same address");
        };
        let Ok(quick) = self.quick.acquire().await else {
            return gone("no policy is fetched any more");
        };
        let mut fetch = pin!(fetch);
        if let Ok(done) = timeout(QUICK_TIME, &mut fetch).await {
            return done;
        }
        drop(quick);
        let permit = self.slow_permit();
        tokio::select! {
            biased;
            done = fetch => done,
            () = permit.notice.notified() => gone("does not answer, and others wait for its place"),
        }
    }

    fn slow_permit(&self) -> SlowPermit<'_> {
        let notice = Arc::new(Notify::new());
        let mut slow = self.slow();
        slow.push_back(Arc::clone(&notice));
        if slow.len() > SLOW
            && let Some(oldest) = slow.pop_front()
        {
            oldest.notify_one();
        }
        SlowPermit {
            limits: self,
            notice,
        }
    }

    fn slow(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, addresses: &[IpAddr]) -> AddressPermit<'_> {
        let network = addresses.first().map(network);
        let network = network.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let one = shares
            .entry(network)
            .or_insert_with(|| Arc::new(Semaphore::new(SHARE)));
        AddressPermit {
            limits: self,
            network,
            semaphore: Arc::clone(one),
        }
    }
}

/// The network that counts as one address: of IPv6 a /64, since its owner has all its addresses.
fn network(address: &IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => *address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// An entry in [`FetchLimits::slow`], until it is dropped.
struct SlowPermit<'a> {
    limits: &'a FetchLimits,
    notice: Arc<Notify>,
}

impl Drop for SlowPermit<'_> {
    fn drop(&mut self) {
        let mut slow = self.limits.slow();
        slow.retain(|other| !Arc::ptr_eq(other, &self.notice));
    }
}

/// A use of an entry in [`FetchLimits::shares`]. The last use removes the entry.
struct AddressPermit<'a> {
    limits: &'a FetchLimits,
    network: IpAddr,
    semaphore: Arc<Semaphore>,
}

impl Drop for AddressPermit<'_> {
    fn drop(&mut self) {
        let shares = &self.limits.shares;
        let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
        // The reference of the map, and this one.
        if Arc::strong_count(&self.semaphore) <= 2 {
            shares.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    fn address(number: usize) -> [IpAddr; 1] {
        [IpAddr::from([
            192,
            0,
            2,
            u8::try_from(number % 250).unwrap(),
        ])]
    }

    /// Hosts that never answer, `number` of them, each at an address of its own or all at one.
    async fn silent(
        limits: &Arc<FetchLimits>,
        number: usize,
        apart: bool,
    ) -> Vec<tokio::task::JoinHandle<Result<(), FetchFailure>>> {
        let hosts = (0..number).map(|number| {
            let limits = Arc::clone(limits);
            let at = address(if apart { number } else { 0 });
            tokio::spawn(async move { limits.fetch(&at, pending()).await })
        });
        let hosts: Vec<_> = hosts.collect();
        tokio::task::yield_now().await;
        hosts
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_do_not_answer_never_keep_a_healthy_one_from_its_place() {
        for (number, apart) in [(20, true), (100, true), (500, false)] {
            let limits = Arc::new(FetchLimits::new());
            let hosts = silent(&limits, number, apart).await;
            let at = [IpAddr::from([198, 51, 100, 1])];
            let healthy = limits.fetch(&at, async { Ok(7) });
            // The clock stands still but for what waits.
            let done = timeout(Duration::from_secs(4), healthy).await;
            assert_eq!(done, Ok(Ok(7)), "{number} silent hosts");
            assert!(limits.slow().len() <= SLOW);
            hosts.iter().for_each(tokio::task::JoinHandle::abort);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_host_is_given_up_only_for_others_and_the_oldest_first() {
        let limits = Arc::new(FetchLimits::new());
        let slow = silent(&limits, SLOW, true).await;
        tokio::time::sleep(QUICK_TIME * 2).await;
        assert!(slow.iter().all(|host| !host.is_finished()));
        let more = silent(&limits, 1, true).await;
        tokio::time::sleep(QUICK_TIME * 2).await;
        assert_eq!(slow.iter().filter(|host| host.is_finished()).count(), 1);
        assert!(slow[0].is_finished() && !more[0].is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_its_share_and_no_more_and_leaves_nothing_behind() {
        let limits = Arc::new(FetchLimits::new());
        let hosts = silent(&limits, SHARE + 3, false).await;
        tokio::time::sleep(QUICK_TIME * 2).await;
        assert_eq!(limits.slow().len(), SHARE);
        for host in hosts {
            host.abort();
            let _ = host.await;
        }
        assert_eq!(limits.slow().len(), 0);
        assert_eq!(limits.shares.lock().unwrap().len(), 0);
        assert_eq!(limits.quick.available_permits(), QUICK);
    }

    #[test]
    fn the_number_of_fetches_is_bounded() {
        let limits = FetchLimits::new();
        let entered: Vec<_> = (0..ALL).map_while(|_| limits.enter()).collect();
        assert_eq!(entered.len(), ALL);
        assert!(limits.enter().is_none());
        drop(entered);
        assert!(limits.enter().is_some());
    }
}
