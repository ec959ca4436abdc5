//! Drives a machine: moves octets between the two legs and the machine, carries out the machine's actions in order, and waits for
//! the next event.
//!
//! This file knows nothing of policy. What an action means (where to connect, whom to trust, what to record) is for the
//! [`ActionHandler`] of the direction.

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

use super::{
    journal::Journal,
    leg::{Leg, Stream},
};
use crate::{
    clock,
    smtp::{
        Action, Answer, Completed, Input, Machine, Note, Question, Recorded, Refusal, Side,
        StartTlsConditions,
    },
};

/// An action that takes time, under way.
pub type Job<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The result of an action that took time, as the machine is told.
pub enum ActionResult {
    /// [`Action::Connect`]: the connection to the server, or why there is none.
    Connected(Result<Stream, Refusal>),
    /// [`Action::Upgrade`]: how the handshake on that side ended.
    Upgraded(Side, Upgraded),
    /// [`Action::Authorise`]: the policy's answer.
    Answered(Answer),
    /// [`Action::Record`]: the record is on disk, or it cannot be.
    Recorded(Result<Recorded, Refusal>),
}

/// How a handshake ended.
pub enum Upgraded {
    /// TLS is up.
    Up(Stream),
    /// TLS is up, but every command of the client except QUIT gets this refusal (RFC 3207 §4.1).
    NotGoodEnough(Stream, Refusal),
    /// It failed, and the connection is gone. If it was with the server, the client gets this refusal.
    Failed(Refusal),
}

/// How far the end of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// The process is not asked to end.
    Not,
    /// Each session ends at its next reply point.
    Drain,
    /// The time for that is up: each session ends now.
    Cut,
}

impl Stop {
    /// Waits until the end has come further than `reached`.
    async fn beyond(mut stop: watch::Receiver<Self>, reached: Self) -> Self {
        if let Ok(stop) = stop.wait_for(|stop| *stop > reached).await {
            return *stop;
        }
        // The sender was dropped, so nobody will ask any more.
        std::future::pending().await
    }
}

/// Carries out the actions of a machine for one session of one direction.
///
/// An action that takes time is a [`Job`]. The job owns all it needs, so that the session goes on meanwhile. Its result comes back to
/// [`ActionHandler::finish`], where the session may change what it knows.
pub trait ActionHandler {
    /// The result of a job.
    type JobResult: Send + 'static;
    /// A job ended. Takes its result into the session, and returns what the machine is told.
    fn finish(&mut self, result: Self::JobResult) -> ActionResult;
    /// [`Action::Connect`].
    fn connect(&mut self) -> Job<Self::JobResult>;
    /// [`Action::Upgrade`]. All octets in front of the handshake are flushed, and none behind it was read.
    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<Self::JobResult>;
    /// [`Action::Authorise`].
    fn authorise(&mut self, question: Question) -> Job<Self::JobResult>;
    /// [`Action::Record`].
    fn record(&mut self, message: Completed) -> Job<Self::JobResult>;
    /// [`Action::Note`].
    fn note(&mut self, note: Note);
    /// Inbound only: see [`StartTlsConditions`].
    fn conditions(&self) -> StartTlsConditions {
        StartTlsConditions::default()
    }
    /// The session's journal. The driver writes to it what no machine knows. `None`: nothing is written.
    fn journal(&mut self) -> Option<&mut Journal> {
        None
    }
}

const BOTH: [Side; 2] = [Side::Server, Side::Client];

struct Drive<M, H: ActionHandler> {
    machine: M,
    handler: H,
    client: Leg,
    server: Leg,
    jobs: Vec<Job<H::JobResult>>,
    /// TLS starts on this side as soon as it is flushed.
    upgrading: Option<Side>,
    /// Connections that are being closed: the side, and the task that returns how many octets it still wrote.
    leaving: Vec<(Side, JoinHandle<u64>)>,
    began: Instant,
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    /// What [`Machine::set_held_back`] was last told.
    held_back: bool,
    stop: watch::Receiver<Stop>,
    /// Ready once the end of the process has come further than the machine knows. `None` when the machine knows the last step.
    stopping: Option<Pin<Box<dyn Future<Output = Stop> + Send>>>,
}

enum Wakeup<T> {
    Read(Side, io::Result<usize>),
    /// Writing to this side failed.
    Broken(Side, io::Error),
    /// All octets for this side are flushed, and something waited for that.
    Flushed(Side),
    JobEnded(T),
    Deadline,
    Stop(Stop),
}

/// Runs a session from its first action to its end, and returns its handler. `client` is the client's connection. `stop` says when
/// the process is asked to end.
pub async fn drive<M: Machine, H: ActionHandler>(
    machine: M,
    handler: H,
    client: Leg,
    stop: watch::Receiver<Stop>,
) -> H {
    let mut drive = Drive {
        machine,
        handler,
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
        drive.traffic(side, octets);
    }
    let farewells = async {
        for (side, farewell) in drive.leaving {
            // The runtime logs a task that panicked. The session is over either way.
            let wrote = farewell.await.unwrap_or_default();
            if let Some(journal) = drive.handler.journal() {
                journal.traffic(side, [0, wrote]);
            }
        }
    };
    tokio::select! {
        () = farewells => {}
        _ = Stop::beyond(drive.stop, Stop::Drain) => {}
    }
    drive.handler
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

    /// Counts octets read from and written to a side, whose connection is done with.
    fn traffic(&mut self, side: Side, octets: [u64; 2]) {
        if let Some(journal) = self.handler.journal() {
            journal.traffic(side, octets);
        }
    }

    /// `--add-received`: gives the machine the trace line, once there is one.
    fn set_trace(&mut self) {
        if let Some(line) = self.handler.journal().and_then(|journal| journal.trace()) {
            self.machine.set_trace(line);
        }
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        self.machine.handle(input, now);
        self.carry_out();
    }

    /// Offers the untaken octets to the machine until it takes no more, and carries out the actions that result.
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
                    self.machine.set_conditions(self.handler.conditions());
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

    /// Whether this side must not be read, because its octets would add to too many that already wait to be written. The server is
    /// read even if many octets wait for it, so that two full windows never wait for each other (RFC 2920 §3.1).
    fn blocked(&self, side: Side) -> bool {
        self.client.backed_up() || (side == Side::Client && self.server.backed_up())
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.machine.next_action() {
            match action {
                Action::Connect => {
                    let old = std::mem::take(&mut self.server);
                    self.traffic(Side::Server, old.octets);
                    let job = self.handler.connect();
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
                    let job = self.handler.authorise(question);
                    self.jobs.push(job);
                }
                Action::Record(message) => {
                    let job = self.handler.record(message);
                    self.jobs.push(job);
                }
                Action::Note(note) => {
                    if note == Note::MessageBegins {
                        self.client.in_message = true;
                    }
                    let begins = note == Note::TransactionBegins;
                    self.handler.note(note);
                    // The line has the time of its message, and names the client as it introduced itself over TLS (RFC 3207 §4.2).
                    if begins {
                        self.set_trace();
                    }
                }
                Action::Close { side, abort } => {
                    // The handshake of this connection must not start on the next one.
                    self.upgrading.take_if(|upgrading| *upgrading == side);
                    if abort {
                        self.leg(side).abort();
                        continue;
                    }
                    let leg = std::mem::take(self.leg(side));
                    self.traffic(side, leg.octets);
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
        if content && let Some(journal) = self.handler.journal() {
            journal.content(octets);
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
                let job = self.handler.upgrade(side, stream);
                self.jobs.push(job);
            }
            // The machine had taken all that was offered, so the connection broke meanwhile.
            _ => self.tell(Input::Closed(side)),
        }
    }

    fn take_in(&mut self, event: Wakeup<H::JobResult>) {
        match event {
            Wakeup::Read(_, Ok(1..)) => {}
            Wakeup::Read(side, Ok(0)) => self.tell(Input::Closed(side)),
            Wakeup::Read(side, Err(error)) | Wakeup::Broken(side, error) => {
                if let Some(journal) = self.handler.journal() {
                    journal.broken(side, &error);
                }
                self.leg(side).abort();
                self.tell(Input::Closed(side));
            }
            Wakeup::Flushed(side) => {
                if self.upgrading == Some(side) {
                    self.upgrade(side);
                }
            }
            Wakeup::JobEnded(result) => {
                let result = self.handler.finish(result);
                self.tell_result(result);
            }
            Wakeup::Deadline => self.tell(Input::Deadline),
            Wakeup::Stop(Stop::Cut) => {
                self.stopping = None;
                self.tell(Input::Cut);
            }
            Wakeup::Stop(reached) => {
                self.stopping = Some(Box::pin(Stop::beyond(self.stop.clone(), reached)));
                self.tell(Input::Drain);
            }
        }
    }

    fn tell_result(&mut self, result: ActionResult) {
        match result {
            ActionResult::Connected(Ok(stream)) => {
                self.server.open(stream);
                self.tell(Input::Connected(Ok(())));
            }
            ActionResult::Connected(Err(refusal)) => self.tell(Input::Connected(Err(refusal))),
            ActionResult::Upgraded(side, Upgraded::Up(stream)) => {
                self.leg(side).open(stream);
                self.set_trace();
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

    async fn next(&mut self) -> Wakeup<H::JobResult> {
        match self.machine.deadline() {
            None => self.timer = None,
            Some(due) if self.timer.as_ref().is_some_and(|(set, _)| *set == due) => {}
            Some(due) => self.timer = Some((due, Box::pin(sleep_until((self.began + due).into())))),
        }
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_side(&mut self, side: Side, cx: &mut Context<'_>) -> Poll<Wakeup<H::JobResult>> {
        if !self.leg(side).wants_input() || self.blocked(side) {
            return Poll::Pending;
        }
        self.leg(side)
            .poll_read(cx)
            .map(|read| Wakeup::Read(side, read))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Wakeup<H::JobResult>> {
        for side in BOTH {
            let waited_for = self.upgrading == Some(side) || self.leg(side).backed_up();
            match self.leg(side).poll_write(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Wakeup::Broken(side, error)),
                Poll::Ready(Ok(())) if waited_for => return Poll::Ready(Wakeup::Flushed(side)),
                Poll::Ready(Ok(())) => {}
                // Some octets went: the other side may be read again.
                Poll::Pending
                    if waited_for
                        && !self.leg(side).backed_up()
                        && self.upgrading != Some(side) =>
                {
                    return Poll::Ready(Wakeup::Flushed(side));
                }
                Poll::Pending => {}
            }
        }
        // The server is read before a job's result is taken. The policy's answer makes the machine send the next command, and octets
        // that the server sent earlier must not pass for the reply to that command.
        if let Poll::Ready(read) = self.poll_side(Side::Server, cx) {
            return Poll::Ready(read);
        }
        for index in 0..self.jobs.len() {
            if let Poll::Ready(result) = self.jobs[index].as_mut().poll(cx) {
                drop(self.jobs.swap_remove(index));
                return Poll::Ready(Wakeup::JobEnded(result));
            }
        }
        if let Poll::Ready(read) = self.poll_side(Side::Client, cx) {
            return Poll::Ready(read);
        }
        if let Some(stopping) = self.stopping.as_mut()
            && let Poll::Ready(reached) = stopping.as_mut().poll(cx)
        {
            return Poll::Ready(Wakeup::Stop(reached));
        }
        if let Some((_, timer)) = self.timer.as_mut()
            && timer.as_mut().poll(cx).is_ready()
        {
            self.timer = None;
            return Poll::Ready(Wakeup::Deadline);
        }
        Poll::Pending
    }
}
