//! Answers of the DNS, remembered as long as they hold. Each name and type is asked about once at a time.

use super::dns::{DnsResponse, Rdata, RecordType, Resolve, Rrset};
use crate::{
    clock,
    metrics::{self, Metrics},
    policy::Dns,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Mutex as AsyncMutex;

/// Most names and types that are remembered.
const MAX_ANSWERS: usize = 20_000;
/// Most octets of all remembered answers. Beyond that, some are forgotten.
const MAX_OCTETS: usize = 32 * 1024 * 1024;
/// An answer is kept at least this long, so that one session asks the same thing once.
const FLOOR: Duration = Duration::from_secs(5);
/// An answer is kept at most this long, whatever its TTL.
const CEILING: Duration = Duration::from_secs(24 * 3600);
/// Absences are kept at most this long (RFC 2308 §5 suggests one to three hours).
const ABSENCE_CEILING: Duration = Duration::from_secs(3600);
/// Bogus answers and failures are asked again after this long (RFC 9520 §3.2).
const ERROR: Duration = Duration::from_secs(5);

/// A response and when it was received.
#[derive(Clone, Debug)]
pub(super) struct CachedResponse {
    pub(super) reply: Arc<DnsResponse>,
    pub(super) got: Instant,
}

impl CachedResponse {
    fn holds(&self) -> bool {
        clock::instant() < self.end()
    }

    /// When it holds no longer.
    pub(super) fn end(&self) -> Instant {
        self.got + lifetime(&self.reply)
    }
}

fn lifetime(reply: &DnsResponse) -> Duration {
    match &reply.answer {
        Dns::Found(..) => reply.ttl.clamp(FLOOR, CEILING),
        Dns::Absent(_) => reply.ttl.clamp(FLOOR, ABSENCE_CEILING),
        Dns::Bogus(_) | Dns::Failed(_) | Dns::NotAsked => ERROR,
    }
}

/// A response in memory, and its share of the sum of octets.
struct StoredResponse {
    known: CachedResponse,
    octets: usize,
    sum: Arc<AtomicUsize>,
}

impl StoredResponse {
    fn new(known: CachedResponse, sum: &Arc<AtomicUsize>) -> Self {
        let octets = octets(&known.reply.answer);
        sum.fetch_add(octets, Ordering::Relaxed);
        Self {
            known,
            octets,
            sum: Arc::clone(sum),
        }
    }
}

impl Drop for StoredResponse {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

/// Octets of memory that an answer takes, roughly.
fn octets(answer: &Dns<Rrset>) -> usize {
    let record = |record: &Rdata| match record {
        Rdata::Address(_) => 0,
        Rdata::Cname(name) | Rdata::Mx(_, name) => name.len(),
        Rdata::Tlsa(tlsa) => tlsa.data.len(),
        Rdata::Txt(text) => text.len(),
    };
    let records = match answer {
        Dns::Found(rrset, _) => rrset.records.as_slice(),
        _ => &[],
    };
    let whole = records.iter().map(|one| size_of::<Rdata>() + record(one));
    size_of::<DnsResponse>() + whole.sum::<usize>()
}

/// Locked while its question is under way, so that everyone else with the same question waits for that answer.
type CacheSlot = Arc<AsyncMutex<Option<StoredResponse>>>;

/// A resolver that remembers its answers.
pub(super) struct Cache {
    resolver: RwLock<Arc<dyn Resolve>>,
    slots: Mutex<HashMap<(String, RecordType), CacheSlot>>,
    capacity: usize,
    /// Octets of all responses.
    sum: Arc<AtomicUsize>,
    /// Where questions are counted, once that was said.
    metrics: OnceLock<Arc<Metrics>>,
}

impl Cache {
    pub(super) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver: RwLock::new(resolver),
            slots: Mutex::default(),
            capacity: MAX_ANSWERS,
            sum: Arc::default(),
            metrics: OnceLock::new(),
        }
    }

    /// Counts questions there from now on. Only the first call counts.
    pub(super) fn count_in(&self, metrics: Arc<Metrics>) {
        let _ = self.metrics.set(metrics);
    }

    /// Where questions are counted.
    pub(super) fn metrics(&self) -> Option<&Arc<Metrics>> {
        self.metrics.get()
    }

    /// Uses another resolver from now on, and forgets all answers of the old one.
    pub(super) fn ask_instead(&self, resolver: Arc<dyn Resolve>) {
        *self
            .resolver
            .write()
            .unwrap_or_else(PoisonError::into_inner) = resolver;
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The remembered answer, or a fresh one. A question that was begun goes on after its caller is gone, and its answer is remembered.
    pub(super) async fn get(&self, name: &str, kind: RecordType) -> CachedResponse {
        let mut slot = self.slot(name, kind).lock_owned().await;
        let metrics = self.metrics.get().cloned();
        if let Some(held) = slot.as_ref().filter(|held| held.known.holds()) {
            if let Some(metrics) = metrics {
                metrics.count_by(metrics::LOOKUPS, &[kind.word(), "cached"]);
            }
            return held.known.clone();
        }
        let resolver = Arc::clone(&self.resolver.read().unwrap_or_else(PoisonError::into_inner));
        let (name, sum) = (name.to_owned(), Arc::clone(&self.sum));
        let asking = tokio::spawn(async move {
            let began = clock::instant();
            let reply = resolver.resolve(&name, kind).await;
            if let Some(metrics) = metrics {
                let took = clock::instant().duration_since(began);
                metrics.took(metrics::LOOKUP_TOOK, &[kind.word()], took);
                let outcome = outcome_word(&reply.answer);
                metrics.count_by(metrics::LOOKUPS, &[kind.word(), outcome]);
            }
            log::debug!("dns: {name} {kind:?}: {:?}", reply.answer);
            let known = CachedResponse {
                reply: Arc::new(reply),
                got: clock::instant(),
            };
            *slot = Some(StoredResponse::new(known.clone(), &sum));
            known
        });
        asking.await.unwrap_or_else(|error| CachedResponse {
            reply: Arc::new(DnsResponse::failed(format!("asking broke off: {error}"))),
            got: clock::instant(),
        })
    }

    /// Forgets everything, as if all lifetimes had passed.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.slots.lock().unwrap().clear();
    }

    fn slot(&self, name: &str, kind: RecordType) -> CacheSlot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_ascii_lowercase(), kind);
        if !slots.contains_key(&key) {
            if slots.len() >= self.capacity {
                make_room(&mut slots, self.capacity);
            }
            if self.sum.load(Ordering::Relaxed) > MAX_OCTETS {
                let half = slots.len() / 2;
                make_room(&mut slots, half);
            }
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

/// What came of a question, in one word.
fn outcome_word(answer: &Dns<Rrset>) -> &'static str {
    match answer {
        Dns::Found(..) => "found",
        Dns::Absent(_) => "absent",
        Dns::Bogus(_) => "bogus",
        Dns::Failed(_) | Dns::NotAsked => "failed",
    }
}

/// Forgets answers that no longer hold. If that frees less than an eighth of the capacity, some others are forgotten too.
fn make_room(slots: &mut HashMap<(String, RecordType), CacheSlot>, capacity: usize) {
    let holds = |slot: &CacheSlot| match slot.try_lock() {
        Ok(held) => held.as_ref().is_some_and(|held| held.known.holds()),
        Err(_) => true,
    };
    slots.retain(|_, slot| holds(slot));
    let mut surplus = slots.len().saturating_sub(capacity - capacity.div_ceil(8));
    slots.retain(|_, _| {
        let keep = surplus == 0;
        surplus = surplus.saturating_sub(1);
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lookup::dns::BoxFuture, policy::Security};
    use tokio::sync::Semaphore;

    /// Answers when the test permits it, and counts questions.
    struct Counting {
        asked: AtomicUsize,
        gate: Semaphore,
        answer: Dns<Rrset>,
        ttl: Duration,
    }

    impl Counting {
        fn new(answer: Dns<Rrset>, ttl: u64) -> Arc<Self> {
            Arc::new(Self {
                asked: AtomicUsize::new(0),
                gate: Semaphore::new(1000),
                answer,
                ttl: Duration::from_secs(ttl),
            })
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    impl Resolve for Counting {
        fn resolve<'a>(&'a self, name: &'a str, _: RecordType) -> BoxFuture<'a, DnsResponse> {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.gate.acquire().await.unwrap().forget();
                assert_ne!(name, "panic.example", "a resolver that panics");
                DnsResponse {
                    answer: self.answer.clone(),
                    ttl: self.ttl,
                    no_such_name: false,
                }
            })
        }
    }

    fn address() -> Dns<Rrset> {
        let rrset = Rrset {
            owner: "a.example".into(),
            records: vec![Rdata::Address("192.0.2.1".parse().unwrap())],
        };
        Dns::Found(rrset, Security::Secure)
    }

    #[tokio::test]
    async fn many_who_ask_the_same_are_one_question() {
        let resolver = Counting::new(address(), 300);
        resolver.gate.forget_permits(1000);
        let cache = Arc::new(Cache::new(Arc::clone(&resolver) as _));
        let askers: Vec<_> = (0..50)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { cache.get("A.example", RecordType::A).await })
            })
            .collect();
        tokio::task::yield_now().await;
        resolver.gate.add_permits(1);
        for asker in askers {
            assert_eq!(asker.await.unwrap().reply.answer, address());
        }
        assert_eq!(resolver.asked(), 1);
        resolver.gate.add_permits(1);
        cache.get("a.example", RecordType::Aaaa).await;
        assert_eq!(resolver.asked(), 2, "another kind is another question");
    }

    #[tokio::test]
    async fn who_gives_up_does_not_stop_the_question() {
        let resolver = Counting::new(address(), 300);
        resolver.gate.forget_permits(1000);
        let cache = Cache::new(Arc::clone(&resolver) as _);
        tokio::select! {
            biased;
            _ = cache.get("a.example", RecordType::A) => panic!("nothing can have come yet"),
            () = tokio::task::yield_now() => {}
        }
        resolver.gate.add_permits(1);
        assert_eq!(
            cache.get("a.example", RecordType::A).await.reply.answer,
            address()
        );
        assert_eq!(resolver.asked(), 1);
    }

    #[test]
    fn lifetimes_have_a_floor_and_a_ceiling_and_errors_a_short_one() {
        let seconds = |answer: Dns<Rrset>, ttl| {
            let ttl = Duration::from_secs(ttl);
            let no_such_name = false;
            let reply = DnsResponse {
                answer,
                ttl,
                no_such_name,
            };
            lifetime(&reply).as_secs()
        };
        assert_eq!(seconds(address(), 0), 5);
        assert_eq!(seconds(address(), 60), 60);
        assert_eq!(seconds(address(), 1_000_000), 86_400);
        assert_eq!(seconds(Dns::Absent(Security::Secure), 86_400), 3600);
        assert_eq!(seconds(Dns::Failed("no".into()), 86_400), 5);
        assert_eq!(seconds(Dns::Bogus("no".into()), 86_400), 5);
    }

    #[tokio::test]
    async fn a_panic_below_is_a_failure_not_an_absence() {
        let resolver = Counting::new(address(), 300);
        let cache = Cache::new(resolver);
        let known = cache.get("panic.example", RecordType::A).await;
        assert!(matches!(known.reply.answer, Dns::Failed(_)));
        assert_eq!(
            cache.get("a.example", RecordType::A).await.reply.answer,
            address()
        );
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let resolver = Counting::new(address(), 300);
        let mut cache = Cache::new(resolver);
        cache.capacity = 64;
        for number in 0..500 {
            cache.get(&format!("{number}.example"), RecordType::A).await;
            assert!(cache.slots.lock().unwrap().len() <= 64);
        }
    }

    #[tokio::test]
    async fn long_answers_are_remembered_within_bounds_too() {
        let rrset = Rrset {
            owner: "a.example".into(),
            records: vec![Rdata::Txt(vec![b'x'; 1024 * 1024])],
        };
        let resolver = Counting::new(Dns::Found(rrset, Security::Insecure), 300);
        let cache = Cache::new(resolver);
        for number in 0..100 {
            cache
                .get(&format!("{number}.example"), RecordType::Txt)
                .await;
            assert!(cache.sum.load(Ordering::Relaxed) <= MAX_OCTETS + 2 * 1024 * 1024);
        }
        cache.forget();
        assert_eq!(cache.sum.load(Ordering::Relaxed), 0);
    }
}
