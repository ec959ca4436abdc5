//! Drives a machine: moves bytes between two legs and the machine, carries out its actions, waits for what comes next.
//!
//! What the actions mean (where to connect, whom to trust, what to write down) is for the direction's [`ActionHandler`]; how they
//! are carried out in order, and that nothing is lost or sent out of turn, is here.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Sleep, sleep_until},
};

use super::leg::{Leg, Stream};
use crate::{
    clock,
    smtp::{
        Action, Answer, Completed, Input, Machine, Note, Question, Recorded, Refusal, Side,
        StartTlsConditions,
    },
};

/// Something that takes time, under way.
pub type Job<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What came of a job.
pub enum ActionResult {
    /// The connection to the server, or why there is none.
    Connected(Result<Stream, Refusal>),
    /// TLS on that side. `NotGoodEnough` keeps the connection and tells the client why; `Failed` has none any more.
    Upgraded(Side, Upgraded),
    /// The policy's answer.
    Answered(Answer),
    /// The evidence is on disk, or cannot be.
    Recorded(Result<Recorded, Refusal>),
}

/// How a handshake ended.
pub enum Upgraded {
    /// TLS is up.
    Up(Stream),
    /// TLS is up, and the client is told to go away (RFC 3207 §4.1).
    NotGoodEnough(Stream, Refusal),
    /// It failed. Of interest where we are the client: the other client gets the refusal.
    Failed(Refusal),
}

/// How far the process is with ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not asked to.
    Not,
    /// Sessions end at their next reply point.
    Drain,
    /// The time for that is up.
    Cut,
}

impl Stop {
    /// Waits until it is further than `reached`.
    async fn beyond(mut stop: watch::Receiver<Self>, reached: Self) -> Self {
        if let Ok(stop) = stop.wait_for(|stop| *stop > reached).await {
            return *stop;
        }
        // Whoever could ask is gone without asking.
        std::future::pending().await
    }
}

/// What a direction knows how to do. Each job owns what it needs, so that the session goes on meanwhile; what it learned is the
/// hands' again when it comes back.
pub trait ActionHandler {
    /// What a job of this direction comes back with.
    type JobResult: Send + 'static;
    /// A job came back: takes what it learned, and gives what the machine is told.
    fn finish(&mut self, outcome: Self::JobResult) -> ActionResult;
    /// [`Action::Connect`].
    fn connect(&mut self) -> Job<Self::JobResult>;
    /// [`Action::Upgrade`]: everything before it is flushed and nothing behind it was read.
    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<Self::JobResult>;
    /// [`Action::Authorise`].
    fn authorise(&mut self, question: Question) -> Job<Self::JobResult>;
    /// [`Action::Record`].
    fn record(&mut self, message: Completed) -> Job<Self::JobResult>;
    /// [`Action::Note`].
    fn note(&mut self, note: Note);
    /// Inbound: see [`StartTlsConditions`]. Outbound they say nothing.
    fn conditions(&self) -> StartTlsConditions {
        StartTlsConditions::default()
    }
    /// Octets of a message on their way to the server.
    fn content(&mut self, octets: &[u8]);
    /// A connection broke; over TLS 1.3 this is how a peer says what it thinks of our certificate (RFC 8446 §4.4.2.4).
    fn broken(&mut self, side: Side, error: &io::Error);
    /// Octets read from and written to a side, when its connection is done with.
    fn traffic(&mut self, side: Side, octets: [u64; 2]);
    /// A trace line for the message to come, once one is known (`--add-received`).
    fn trace(&mut self) -> Option<Vec<u8>>;
}

const BOTH: [Side; 2] = [Side::Server, Side::Client];

struct Drive<M, H: ActionHandler> {
    machine: M,
    hands: H,
    client: Leg,
    server: Leg,
    jobs: Vec<Job<H::JobResult>>,
    /// TLS starts on this side as soon as it is flushed.
    upgrading: Option<Side>,
    /// Connections that say goodbye: whose, and how many octets that takes.
    leaving: Vec<(Side, JoinHandle<u64>)>,
    began: Instant,
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    /// What the machine was last told about the client's bytes: see [`Machine::set_held_back`].
    held_back: bool,
    stop: watch::Receiver<Stop>,
    /// Ready once the process is further with ending than the machine knows; `None` when it knows all.
    stopping: Option<Pin<Box<dyn Future<Output = Stop> + Send>>>,
}

enum Event<T> {
    Read(Side, io::Result<usize>),
    /// Writing failed.
    Broken(Side, io::Error),
    /// What was to be written is flushed, and something waited for that.
    Flushed(Side),
    Done(T),
    Deadline,
    Stop(Stop),
}

/// Runs a session from its first action to its end. `client` is its connection; `stop` says when the
/// process is asked to end.
pub async fn drive<M: Machine, H: ActionHandler>(
    machine: M,
    hands: H,
    client: Leg,
    stop: watch::Receiver<Stop>,
) -> H {
    let mut drive = Drive {
        machine,
        hands,
        client,
        server: Leg::default(),
        jobs: Vec::new(),
        upgrading: None,
        leaving: Vec::new(),
        began: clock::instant(),
        timer: None,
        held_back: false,
        stopping: Some(Box::pin(Stop::beyond(stop.clone(), Stop::Not))),
        stop,
    };
    drive.pump();
    while !drive.machine.finished() {
        let event = drive.next().await;
        drive.take_in(event);
        drive.pump();
    }
    for side in BOTH {
        let octets = drive.leg(side).octets;
        drive.hands.traffic(side, octets);
    }
    let farewells = async {
        for (side, farewell) in drive.leaving {
            // A farewell that panicked is logged by the runtime; the session is over either way.
            drive
                .hands
                .traffic(side, [0, farewell.await.unwrap_or_default()]);
        }
    };
    tokio::select! {
        () = farewells => {}
        _ = Stop::beyond(drive.stop, Stop::Drain) => {}
    }
    drive.hands
}

impl<M: Machine, H: ActionHandler> Drive<M, H> {
    fn now(&self) -> Duration {
        clock::instant().duration_since(self.began)
    }

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        self.machine.handle(input, now);
        self.carry_out();
    }

    /// Offers what is untaken until nothing more is taken, carrying out what that brings.
    fn pump(&mut self) {
        self.carry_out();
        loop {
            let mut moved = false;
            for side in BOTH {
                if self.leg(side).untaken().is_empty()
                    || self.blocked(side)
                    || self.machine.finished()
                {
                    continue;
                }
                let now = self.now();
                if side == Side::Client {
                    self.machine.set_conditions(self.hands.conditions());
                }
                let leg = match side {
                    Side::Client => &self.client,
                    Side::Server => &self.server,
                };
                let offered = leg.untaken().len();
                self.machine.receive(side, leg.untaken(), now);
                self.carry_out();
                moved |= self.leg(side).untaken().len() < offered;
            }
            if !moved {
                break;
            }
        }
        let held_back = self.server.backed_up();
        if std::mem::replace(&mut self.held_back, held_back) != held_back {
            let now = self.now();
            self.machine.set_held_back(held_back, now);
        }
    }

    /// More from this side would add to what is waiting to be written. The server's replies are read whatever waits to be
    /// written to it, so that two full windows never wait for each other (RFC 2920 §3.1).
    fn blocked(&self, side: Side) -> bool {
        self.client.backed_up() || (side == Side::Client && self.server.backed_up())
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.machine.next_action() {
            match action {
                Action::Connect => {
                    let old = std::mem::take(&mut self.server);
                    self.hands.traffic(Side::Server, old.octets);
                    let job = self.hands.connect();
                    self.jobs.push(job);
                }
                Action::Send(side, bytes) => self.leg(side).send(&bytes),
                Action::Pass { from, len, content } => self.pass(from, len, content),
                Action::Drop { from, len } => {
                    self.leg(from).take(len);
                }
                Action::Upgrade(side) => {
                    self.leg(side).paused = true;
                    self.upgrading = Some(side);
                    if self.leg(side).flushed() {
                        self.upgrade(side);
                    }
                }
                Action::Authorise(question) => {
                    let job = self.hands.authorise(question);
                    self.jobs.push(job);
                }
                Action::Record(message) => {
                    let job = self.hands.record(message);
                    self.jobs.push(job);
                }
                Action::Note(note) => {
                    if note == Note::MessageBegins {
                        self.client.in_message = true;
                    }
                    let begins = note == Note::TransactionBegins;
                    self.hands.note(note);
                    // The line has the time of its message, and names the client as it was introduced over TLS (RFC 3207 §4.2).
                    if begins && let Some(line) = self.hands.trace() {
                        self.machine.set_trace(line);
                    }
                }
                Action::Close { side, abort } => {
                    // A connection that follows must not begin with the handshake of this one.
                    self.upgrading.take_if(|upgrading| *upgrading == side);
                    if abort {
                        self.leg(side).abort();
                        continue;
                    }
                    let leg = std::mem::take(self.leg(side));
                    self.hands.traffic(side, leg.octets);
                    if leg.is_open() {
                        self.leaving.push((side, tokio::spawn(leg.finish())));
                    }
                }
            }
        }
    }

    fn pass(&mut self, from: Side, len: usize, content: bool) {
        let (from, to) = match from {
            Side::Client => (&mut self.client, &mut self.server),
            Side::Server => (&mut self.server, &mut self.client),
        };
        let octets = from.take(len);
        if content {
            self.hands.content(octets);
        }
        to.send(octets);
        from.in_message = content;
    }

    fn upgrade(&mut self, side: Side) {
        self.upgrading = None;
        let leg = self.leg(side);
        let clean = leg.untaken().is_empty();
        match leg.take_stream() {
            Some(stream) if clean => {
                let job = self.hands.upgrade(side, stream);
                self.jobs.push(job);
            }
            // The machine saw all that was offered, so this is a connection that broke meanwhile.
            _ => self.tell(Input::Closed(side)),
        }
    }

    fn take_in(&mut self, event: Event<H::JobResult>) {
        match event {
            Event::Read(_, Ok(1..)) => {}
            Event::Read(side, Ok(0)) => self.tell(Input::Closed(side)),
            Event::Read(side, Err(error)) | Event::Broken(side, error) => {
                self.hands.broken(side, &error);
                self.leg(side).abort();
                self.tell(Input::Closed(side));
            }
            Event::Flushed(side) => {
                if self.upgrading == Some(side) {
                    self.upgrade(side);
                }
            }
            Event::Done(outcome) => {
                let done = self.hands.finish(outcome);
                self.finished(done);
            }
            Event::Deadline => self.tell(Input::Deadline),
            Event::Stop(Stop::Cut) => {
                self.stopping = None;
                self.tell(Input::Cut);
            }
            Event::Stop(reached) => {
                self.stopping = Some(Box::pin(Stop::beyond(self.stop.clone(), reached)));
                self.tell(Input::Drain);
            }
        }
    }

    fn finished(&mut self, done: ActionResult) {
        match done {
            ActionResult::Connected(Ok(stream)) => {
                self.server.open(stream);
                self.tell(Input::Connected(Ok(())));
            }
            ActionResult::Connected(Err(refusal)) => self.tell(Input::Connected(Err(refusal))),
            ActionResult::Upgraded(side, Upgraded::Up(stream)) => {
                self.leg(side).open(stream);
                if let Some(line) = self.hands.trace() {
                    self.machine.set_trace(line);
                }
                self.tell(Input::Upgraded(side, Ok(())));
            }
            ActionResult::Upgraded(side, Upgraded::NotGoodEnough(stream, refusal)) => {
                self.leg(side).open(stream);
                self.tell(Input::Upgraded(side, Err(refusal)));
            }
            ActionResult::Upgraded(Side::Server, Upgraded::Failed(refusal)) => {
                self.tell(Input::Upgraded(Side::Server, Err(refusal)));
            }
            ActionResult::Upgraded(Side::Client, Upgraded::Failed(_)) => {
                self.tell(Input::Closed(Side::Client))
            }
            ActionResult::Answered(answer) => self.tell(Input::Answer(answer)),
            ActionResult::Recorded(outcome) => self.tell(Input::Recorded(outcome)),
        }
    }

    async fn next(&mut self) -> Event<H::JobResult> {
        match self.machine.deadline() {
            None => self.timer = None,
            Some(due) if self.timer.as_ref().is_some_and(|(set, _)| *set == due) => {}
            Some(due) => self.timer = Some((due, Box::pin(sleep_until((self.began + due).into())))),
        }
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_side(&mut self, side: Side, cx: &mut Context<'_>) -> Poll<Event<H::JobResult>> {
        if !self.leg(side).wants_input() || self.blocked(side) {
            return Poll::Pending;
        }
        self.leg(side)
            .poll_read(cx)
            .map(|outcome| Event::Read(side, outcome))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event<H::JobResult>> {
        for side in BOTH {
            let waited_for = self.upgrading == Some(side) || self.leg(side).backed_up();
            match self.leg(side).poll_write(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Broken(side, error)),
                Poll::Ready(Ok(())) if waited_for => return Poll::Ready(Event::Flushed(side)),
                Poll::Ready(Ok(())) => {}
                // Part of it went: what was held back for it may go on.
                Poll::Pending
                    if waited_for
                        && !self.leg(side).backed_up()
                        && self.upgrading != Some(side) =>
                {
                    return Poll::Ready(Event::Flushed(side));
                }
                Poll::Pending => {}
            }
        }
        // The server is read before a job's outcome is handed over: an answer of the policy makes the machine send the next
        // command, and what the server said before it must not pass for the reply to it.
        if let Poll::Ready(read) = self.poll_side(Side::Server, cx) {
            return Poll::Ready(read);
        }
        for index in 0..self.jobs.len() {
            if let Poll::Ready(outcome) = self.jobs[index].as_mut().poll(cx) {
                drop(self.jobs.swap_remove(index));
                return Poll::Ready(Event::Done(outcome));
            }
        }
        if let Poll::Ready(read) = self.poll_side(Side::Client, cx) {
            return Poll::Ready(read);
        }
        if let Some(stopping) = self.stopping.as_mut()
            && let Poll::Ready(reached) = stopping.as_mut().poll(cx)
        {
            return Poll::Ready(Event::Stop(reached));
        }
        if let Some((_, timer)) = self.timer.as_mut()
            && timer.as_mut().poll(cx).is_ready()
        {
            self.timer = None;
            return Poll::Ready(Event::Deadline);
        }
        Poll::Pending
    }
}
