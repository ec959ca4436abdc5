//! Places for TLS handshakes with clients, shared fairly among networks.
//!
//! A handshake costs computing time, so their number at one time is limited, and a client that finds no place waits. A network is an
//! IPv4 /24 or an IPv6 /64: mail servers send from pools of addresses, and one attacker has many addresses of one network. A network
//! gets another place only while it holds fewer places than are free, so a few greedy networks can never hold all of them. The networks
//! in the queue take turns.
//!
//! The queue's room is shared in the same way. It is asked for at STARTTLS, where a client can still be told to come again. Whoever was
//! told to go ahead waits, even if others have filled the room meanwhile.
//!
//! A place is held from the whole ClientHello until our flight is written. That is computing time only, so how long a client waits
//! depends on how many handshakes are computed before its own: at most those that have places, and those whose turn comes first.

use std::{
    collections::{HashMap, VecDeque},
    fmt, future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::oneshot, task};

use super::networks::network;

/// Number of clients that may wait for each place of `--max-handshakes`.
const WAITING_FOR_EACH: usize = 10;

/// Places for each core, by default: enough to keep the core busy, and no more, because a client that comes later waits for all who
/// have places, and only those without one are served by turns of their networks.
pub(crate) const FOR_EACH_CORE: usize = 4;
/// Number of clients that may wait by default. One network may have half of this room, so that as many as are let in by default find
/// some, even if all come from one network at the same moment. It costs nobody else anything, because networks take turns.
pub(crate) const WAITING_BY_DEFAULT: usize = 20_000;

/// The places of this process; see the module.
#[derive(Clone, Debug)]
pub struct Handshakes {
    places: usize,
    /// Room of the queue.
    room: usize,
    shared: Arc<Mutex<PlacesAndQueue>>,
}

/// A place for one handshake. Dropping it gives it back.
#[derive(Debug)]
pub struct HandshakePlace {
    network: Network,
    handshakes: Handshakes,
}

/// An IPv4 /24 or an IPv6 /64.
type Network = IpAddr;

#[derive(Debug)]
struct PlacesAndQueue {
    free: usize,
    /// How many clients wait. Those that were told to go ahead may be more than there is room for.
    waiting: usize,
    networks: HashMap<Network, NetworkShare>,
    /// Networks of which a client waits, and no others, in the order of their turns.
    turns: VecDeque<Network>,
    /// Number that the next waiting client gets.
    next: u64,
}

/// The places that one network holds, and its clients that wait.
#[derive(Debug, Default)]
struct NetworkShare {
    held: usize,
    waiting: VecDeque<(u64, oneshot::Sender<HandshakePlace>)>,
}

impl PlacesAndQueue {
    fn may_take(&self, network: Network) -> bool {
        let held = self.networks.get(&network).map_or(0, |share| share.held);
        held < self.free
    }

    fn may_wait(&self, network: Network, room: usize) -> bool {
        let waiting = self
            .networks
            .get(&network)
            .map_or(0, |share| share.waiting.len());
        waiting < room.saturating_sub(self.waiting)
    }

    fn take(&mut self, network: Network) {
        self.free -= 1;
        self.networks.entry(network).or_default().held += 1;
    }

    fn give_back(&mut self, network: Network) {
        self.free += 1;
        if let Some(share) = self.networks.get_mut(&network) {
            share.held -= 1;
        }
        self.forget_if_idle(network);
    }

    fn leave(&mut self, network: Network, number: u64) {
        let Some(share) = self.networks.get_mut(&network) else {
            return;
        };
        // They stand in the order of their numbers. One that was called is not among them any more.
        if let Ok(index) = share
            .waiting
            .binary_search_by_key(&number, |(number, _)| *number)
        {
            share.waiting.remove(index);
            self.waiting -= 1;
            if share.waiting.is_empty() {
                self.turns.retain(|turn| *turn != network);
            }
        }
        self.forget_if_idle(network);
    }

    fn forget_if_idle(&mut self, network: Network) {
        let idle = |share: &NetworkShare| share.waiting.is_empty() && share.held == 0;
        if self.networks.get(&network).is_some_and(idle) {
            self.networks.remove(&network);
        }
    }

    /// Takes the next waiting client that may have a place now out of the queue, and accounts for its place.
    fn call(&mut self) -> Option<(Network, oneshot::Sender<HandshakePlace>)> {
        let turn = self.turns.iter().position(|turn| self.may_take(*turn))?;
        let network = self.turns.remove(turn)?;
        let share = self.networks.get_mut(&network)?;
        let (_, called) = share.waiting.pop_front()?;
        self.waiting -= 1;
        if !share.waiting.is_empty() {
            self.turns.push_back(network);
        }
        self.take(network);
        Some((network, called))
    }
}

impl Handshakes {
    /// At most `places` handshakes at once.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let places = places.clamp(1, 100_000);
        Self::sized(places, places * WAITING_FOR_EACH)
    }

    /// As many as a machine with this number of cores is good for.
    #[must_use]
    pub fn for_cores(cores: usize) -> Self {
        let cores = cores.clamp(1, 10_000);
        Self::sized(cores * FOR_EACH_CORE, WAITING_BY_DEFAULT)
    }

    fn sized(places: usize, room: usize) -> Self {
        let shared = PlacesAndQueue {
            free: places,
            waiting: 0,
            networks: HashMap::new(),
            turns: VecDeque::new(),
            next: 0,
        };
        Self {
            places,
            room,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Each change is one step under the lock, so a panic elsewhere leaves nothing half done.
    fn shared(&self) -> MutexGuard<'_, PlacesAndQueue> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places for handshakes, handshakes that have one, and clients that wait for one.
    #[must_use]
    pub(crate) fn use_now(&self) -> [usize; 3] {
        let shared = self.shared();
        [self.places, self.places - shared.free, shared.waiting]
    }

    /// Whether this client should come again later. To be asked at STARTTLS, where 421 can still be replied.
    #[must_use]
    pub fn full(&self, client: IpAddr) -> bool {
        let network = network(client);
        let shared = self.shared();
        !shared.may_take(network) && !shared.may_wait(network, self.room)
    }

    /// Waits for a place, and then until the handshake's turn has come. Dropping the future leaves the queue.
    pub async fn turn(&self, client: IpAddr) -> HandshakePlace {
        let place = self.place(client).await;
        // Without a pause a handshake would be over before the next ClientHello is looked at, so clients would be served in the order of
        // their arrival, three hundred of one network before one of another. In the pause the other clients come forward.
        task::yield_now().await;
        place
    }

    /// Waits for a place. Dropping the future leaves the queue.
    async fn place(&self, client: IpAddr) -> HandshakePlace {
        let network = network(client);
        let (number, called) = {
            let mut shared = self.shared();
            let first = shared
                .networks
                .get(&network)
                .is_none_or(|share| share.waiting.is_empty());
            if first && shared.may_take(network) {
                shared.take(network);
                drop(shared);
                return self.place_of(network);
            }
            let (call, called) = oneshot::channel();
            let number = shared.next;
            shared.next += 1;
            shared.waiting += 1;
            shared
                .networks
                .entry(network)
                .or_default()
                .waiting
                .push_back((number, call));
            if first {
                shared.turns.push_back(network);
            }
            (number, called)
        };
        let _stay = QueueStay {
            network,
            number,
            handshakes: self,
        };
        match called.await {
            Ok(place) => place,
            // The sender is dropped only with the queue, which `self` keeps alive.
            Err(_) => future::pending().await,
        }
    }

    fn place_of(&self, network: Network) -> HandshakePlace {
        HandshakePlace {
            network,
            handshakes: self.clone(),
        }
    }

    /// Gives free places to waiting clients.
    fn call(&self) {
        loop {
            // The lock is not held while a place is handed over: if the client has left, dropping the place locks again.
            let called = self.shared().call();
            let Some((network, call)) = called else {
                return;
            };
            drop(call.send(self.place_of(network)));
        }
    }
}

impl fmt::Display for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { places, room, .. } = self;
        write!(
            f,
            "at most {places} TLS handshakes at once, {room} more wait"
        )
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.handshakes.shared().give_back(self.network);
        self.handshakes.call();
    }
}

/// A client's stay in the queue. Dropping it leaves the queue.
struct QueueStay<'a> {
    network: Network,
    number: u64,
    handshakes: &'a Handshakes,
}

impl Drop for QueueStay<'_> {
    fn drop(&mut self) {
        self.handshakes.shared().leave(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    struct WaitingClient<'a>(Pin<Box<dyn Future<Output = HandshakePlace> + 'a>>);

    impl std::fmt::Debug for WaitingClient<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("WaitingClient")
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn poll(waiting: &mut WaitingClient<'_>) -> Poll<HandshakePlace> {
        waiting
            .0
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    /// A place, or the future that waits for one.
    fn ask<'a>(
        handshakes: &'a Handshakes,
        client: &str,
    ) -> Result<HandshakePlace, WaitingClient<'a>> {
        let client = ip(client);
        let mut waiting = WaitingClient(Box::pin(handshakes.place(client)));
        match poll(&mut waiting) {
            Poll::Ready(place) => Ok(place),
            Poll::Pending => Err(waiting),
        }
    }

    fn has(waiting: &mut WaitingClient<'_>) -> Option<HandshakePlace> {
        match poll(waiting) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_hundred_greedy_clients_of_two_networks_leave_places_for_everybody_else() {
        let handshakes = Handshakes::new(100);
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        for number in 0..100 {
            for client in [format!("192.0.2.{number}"), format!("198.51.100.{number}")] {
                match ask(&handshakes, &client) {
                    Ok(place) => held.push(place),
                    Err(one) => waiting.push(one),
                }
            }
        }
        assert!(held.len() < 100 && waiting.len() > 100);
        assert!(ask(&handshakes, "203.0.113.1").is_ok());
        assert!(ask(&handshakes, "2001:db8::1").is_ok());
    }

    #[test]
    fn who_finds_no_place_waits_and_networks_take_turns() {
        let handshakes = Handshakes::new(1);
        let held = ask(&handshakes, "192.0.2.1").expect("a place");
        let mut greedy: Vec<_> = (0..3)
            .map(|_| ask(&handshakes, "192.0.2.2").expect_err("waits"))
            .collect();
        let mut other = ask(&handshakes, "198.51.100.1").expect_err("waits");
        drop(held);
        let first = has(&mut greedy[0]).expect("it was there first");
        assert!(has(&mut other).is_none());
        drop(first);
        let second = has(&mut other).expect("the other network's turn");
        assert!(has(&mut greedy[1]).is_none());
        drop(second);
        let third = has(&mut greedy[1]).expect("the next one");
        drop(third);
        assert!(has(&mut greedy[2]).is_some());
    }

    #[test]
    fn the_queue_is_bounded_and_one_network_cannot_fill_it() {
        let handshakes = Handshakes::new(2);
        let mut held: Vec<_> = ["192.0.2.1", "198.51.100.1"]
            .iter()
            .map(|client| ask(&handshakes, client).expect("a place"))
            .collect();
        let mut waiting = Vec::new();
        while !handshakes.full(ip("192.0.2.1")) {
            waiting.push(ask(&handshakes, "192.0.2.1").expect_err("waits"));
        }
        assert_eq!(waiting.len(), 10, "half of 20");
        assert!(!handshakes.full(ip("203.0.113.1")));
        for network in 0..100 {
            let client = format!("10.0.{network}.1");
            if handshakes.full(ip(&client)) {
                break;
            }
            waiting.push(ask(&handshakes, &client).expect_err("waits"));
        }
        assert_eq!(waiting.len(), 20);
        held.clear();
        for _ in 0..20 {
            let place = waiting.iter_mut().position(|one| match has(one) {
                Some(place) => {
                    held.push(place);
                    true
                }
                None => false,
            });
            drop(waiting.remove(place.expect("somebody is called")));
            held.clear();
        }
        assert!(waiting.is_empty());
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let handshakes = Handshakes::new(1);
        let held = ask(&handshakes, "192.0.2.1").expect("a place");
        let waits = ask(&handshakes, "192.0.2.2").expect_err("waits");
        let mut behind = ask(&handshakes, "192.0.2.3").expect_err("waits");
        drop(waits); // before it was called
        drop(held);
        let place = has(&mut behind).expect("nobody is before it any more");
        let called = ask(&handshakes, "192.0.2.4").expect_err("waits");
        drop(place); // it is called now
        drop(called); // the client leaves without having looked
        drop(behind);
        let shared = handshakes.shared();
        assert_eq!((shared.free, shared.waiting), (1, 0));
        assert!(shared.networks.is_empty() && shared.turns.is_empty());
    }

    #[tokio::test]
    async fn a_newcomer_is_not_behind_all_handshakes_of_a_greedy_network() {
        let handshakes = Handshakes::for_cores(2);
        let order = Arc::new(Mutex::new(Vec::new()));
        let clients = std::iter::repeat_n("192.0.2.1", 300).chain(["198.51.100.1"]);
        let tasks: Vec<_> = clients
            .map(|client| {
                let (handshakes, order) = (handshakes.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    let place = handshakes.turn(ip(client)).await;
                    order.lock().expect("no panic").push(client);
                    drop(place);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let order = order.lock().expect("no panic");
        let before = order.iter().position(|client| *client != "192.0.2.1");
        assert!(before.is_some_and(|before| before <= 20), "{before:?}");
    }

    #[test]
    fn whoever_was_told_to_go_ahead_waits_even_if_the_room_is_filled_meanwhile() {
        let handshakes = Handshakes::new(1);
        let held = ask(&handshakes, "192.0.2.1").expect("a place");
        let told: Vec<String> = (0..30).map(|number| format!("10.0.{number}.1")).collect();
        assert!(told.iter().all(|client| !handshakes.full(ip(client))));
        let mut waiting: Vec<_> = told
            .iter()
            .map(|client| ask(&handshakes, client).expect_err("waits"))
            .collect();
        assert!(handshakes.full(ip("10.0.99.1")), "nobody else is told so");
        drop(held);
        for one in &mut waiting {
            drop(has(one).expect("in their order"));
        }
    }

    #[test]
    fn by_default_as_many_as_are_let_in_find_room_although_all_are_of_one_network() {
        for cores in [1, 2, 64] {
            let handshakes = Handshakes::for_cores(cores);
            let mut waiting = Vec::new();
            for _ in 0..10_000 {
                assert!(!handshakes.full(ip("192.0.2.1")), "{cores} cores");
                waiting.push(ask(&handshakes, "192.0.2.1"));
            }
        }
    }

    #[test]
    fn one_network_counts_as_one() {
        let handshakes = Handshakes::new(2);
        let _one = ask(&handshakes, "192.0.2.1").expect("a place");
        assert!(ask(&handshakes, "192.0.2.200").is_err(), "the same /24");
        assert!(
            ask(&handshakes, "::ffff:192.0.2.9").is_err(),
            "and so written"
        );
        let _other = ask(&handshakes, "192.0.3.1").expect("a place");
    }
}
