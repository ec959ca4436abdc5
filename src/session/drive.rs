//! Drives a machine: moves octets between the two legs and the machine, carries out the machine's actions in order, and waits for
//! the next event.
//!
//! This file knows nothing of policy. What an action means (where to connect, whom to trust, what to record) is for the
//! [`ActionHandler`] of the direction.

mod octets;
mod stopping;

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{net::TcpStream, sync::watch, task::JoinHandle, time::Sleep};

pub use self::stopping::Stop;
use self::stopping::Stopping;
use super::{
    job::{Job, Running},
    journal::Journal,
    leg::{Leg, Stream},
};
use crate::{
    clock,
    smtp::{
        Answer, Completed, Input, Machine, Note, Question, Recorded, Refusal, Side,
        StartTlsConditions,
    },
    tls::Secured,
};

/// The result of an action that took time, as the machine is told.
pub enum ActionResult {
    /// [`Action::Connect`](crate::smtp::Action::Connect): the connection to the server, or why there is none.
    Connected(Result<Stream, Refusal>),
    /// [`Action::Upgrade`](crate::smtp::Action::Upgrade): how the handshake on that side ended.
    Upgraded(Side, Upgraded),
    /// [`Action::Authorise`](crate::smtp::Action::Authorise): the policy's answer.
    Answered(Answer),
    /// [`Action::Record`](crate::smtp::Action::Record): the record is on disk, or it cannot be.
    Recorded(Result<Recorded, Refusal>),
}

/// How a handshake ended.
pub enum Upgraded {
    /// TLS is up.
    Up(Secured<TcpStream>),
    /// TLS is up, but every command of the client except QUIT gets this refusal (RFC 3207 §4.1).
    NotGoodEnough(Secured<TcpStream>, Refusal),
    /// It failed, and the connection is gone. If it was with the server, the client gets this refusal.
    Failed(Refusal),
}

/// Carries out the actions of a machine for one session of one direction.
///
/// An action that may take time is a [`Job`]. Its result comes back to [`ActionHandler::finish`], where the session may change what it
/// knows.
pub trait ActionHandler {
    /// The result of a job.
    type JobResult: Send + 'static;
    /// A job ended. Takes its result into the session, and returns what the machine is told.
    fn finish(&mut self, result: Self::JobResult) -> ActionResult;
    /// [`Action::Connect`](crate::smtp::Action::Connect).
    fn connect(&mut self) -> Job<Self::JobResult>;
    /// [`Action::Upgrade`](crate::smtp::Action::Upgrade). All octets in front of the handshake are flushed, and none behind it was read.
    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<Self::JobResult>;
    /// [`Action::Authorise`](crate::smtp::Action::Authorise).
    fn authorise(&mut self, question: Question) -> Job<Self::JobResult>;
    /// [`Action::Record`](crate::smtp::Action::Record).
    fn record(&mut self, message: Completed) -> Job<Self::JobResult>;
    /// [`Action::Note`](crate::smtp::Action::Note).
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
    jobs: Vec<Running<H::JobResult>>,
    /// The result of a job that needed no time.
    ended: Option<H::JobResult>,
    /// TLS starts on this side as soon as it is flushed.
    upgrading: Option<Side>,
    /// The side whose records are being opened. Its channel is lent, so its connection cannot be closed before that is over.
    opening: Option<Side>,
    /// That side is to be closed then; whether at once, without what waits to be written.
    closing: Option<bool>,
    /// Connections that are being closed: the side, and the task that returns how many octets it still wrote.
    leaving: Vec<(Side, JoinHandle<u64>)>,
    /// See [`clock::tick`].
    began: Duration,
    /// Time since then, read once a step.
    now: Duration,
    /// Wakes the session no later than the machine's deadline, and perhaps too early.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    /// What [`Machine::set_held_back`] was last told.
    held_back: bool,
    stop: watch::Receiver<Stop>,
    /// `None` when the machine knows the last step of the process' end.
    stopping: Option<Stopping>,
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
// Not an `async fn`, which would keep room for its arguments and for what it makes of them as long as the session lives.
pub fn drive<M: Machine, H: ActionHandler>(
    machine: M,
    handler: H,
    client: Leg,
    stop: watch::Receiver<Stop>,
) -> impl Future<Output = H> {
    let mut drive = Box::new(Drive {
        machine,
        handler,
        client,
        server: Leg::default(),
        jobs: Vec::new(),
        ended: None,
        upgrading: None,
        opening: None,
        closing: None,
        leaving: Vec::new(),
        began: clock::tick(),
        now: Duration::ZERO,
        timer: None,
        held_back: false,
        stopping: Some(Stopping::beyond(&stop, Stop::Not)),
        stop,
    });
    async move {
        drive.run().await;
        drive.handler
    }
}

impl<M: Machine, H: ActionHandler> Drive<M, H> {
    async fn run(&mut self) {
        self.pump();
        while !self.machine.finished() {
            let event = self.next().await;
            self.now = self.clock();
            self.take_in(event);
            self.pump();
        }
        for side in BOTH {
            let octets = self.leg(side).octets;
            self.traffic(side, octets);
        }
        let stop = Box::pin(Stop::beyond(self.stop.clone(), Stop::Drain));
        tokio::select! {
            () = self.take_leave() => {}
            _ = stop => {}
        }
    }

    /// Waits until both connections are closed.
    async fn take_leave(&mut self) {
        for (side, farewell) in std::mem::take(&mut self.leaving) {
            // The runtime logs a task that panicked. The session is over either way.
            let wrote = farewell.await.unwrap_or_default();
            self.traffic(side, [0, wrote]);
        }
    }

    fn clock(&self) -> Duration {
        clock::tick().saturating_sub(self.began)
    }

    fn begin(&mut self, job: Job<H::JobResult>) {
        match job {
            Job::Done(result) if self.ended.is_none() => self.ended = Some(result),
            Job::Done(result) => self.jobs.push(Running::new(std::future::ready(result))),
            Job::Running(job) => self.jobs.push(job),
        }
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
        self.machine.handle(input, self.now);
        self.carry_out(None);
    }

    fn upgrade(&mut self, side: Side) {
        self.upgrading = None;
        let leg = self.leg(side);
        let clean = leg.untaken() == 0;
        match leg.take_stream() {
            Some(stream) if clean => {
                let job = self.handler.upgrade(side, stream);
                self.begin(job);
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
                self.leg(side).break_off();
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
                self.stopping = Some(Stopping::beyond(&self.stop, reached));
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
            ActionResult::Upgraded(side, Upgraded::Up(secured)) => {
                self.leg(side).secure(secured);
                self.set_trace();
                self.tell(Input::Upgraded(side, Ok(())));
            }
            ActionResult::Upgraded(side, Upgraded::NotGoodEnough(secured, refusal)) => {
                self.leg(side).secure(secured);
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
        self.arm();
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sets the timer for the machine's deadline. Nearly every step moves the deadline, and mostly to a later time, so a timer that is
    /// set to an earlier one stays: when it wakes the session, it is set anew.
    fn arm(&mut self) {
        let Some(due) = self.machine.deadline() else {
            return;
        };
        if self.timer.as_ref().is_some_and(|(set, _)| *set <= due) {
            return;
        }
        let at = clock::instant() + due.saturating_sub(self.clock());
        match &mut self.timer {
            Some((set, timer)) => {
                *set = due;
                timer.as_mut().reset(at.into());
            }
            None => self.timer = Some((due, Box::pin(clock::long_timer(at)))),
        }
    }

    /// Ready when the machine's deadline has come.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some((_, timer)) = self.timer.as_mut() else {
                return Poll::Pending;
            };
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            if self
                .machine
                .deadline()
                .is_some_and(|due| due <= self.clock())
            {
                return Poll::Ready(());
            }
            self.arm();
        }
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
        // The server is read before a job's result is taken. The policy's answer makes the machine send the next command, and octets
        // that the server sent earlier must not pass for the reply to that command.
        if let Poll::Ready(read) = self.poll_side(Side::Server, cx) {
            return Poll::Ready(read);
        }
        if let Some(result) = self.ended.take() {
            return Poll::Ready(Wakeup::JobEnded(result));
        }
        for index in 0..self.jobs.len() {
            if let Poll::Ready(result) = self.jobs[index].poll(cx) {
                drop(self.jobs.swap_remove(index));
                return Poll::Ready(Wakeup::JobEnded(result));
            }
        }
        // What has come of a message goes on before the client is read again: if the client is gone, the record counts what was sent.
        if self.client.in_message
            && let Poll::Ready(event) = self.poll_flush(Side::Server, cx)
        {
            return Poll::Ready(event);
        }
        if let Poll::Ready(read) = self.poll_side(Side::Client, cx) {
            return Poll::Ready(read);
        }
        if let Some(stopping) = self.stopping.as_mut()
            && let Poll::Ready(reached) = stopping.poll(cx)
        {
            return Poll::Ready(Wakeup::Stop(reached));
        }
        if self.poll_deadline(cx).is_ready() {
            return Poll::Ready(Wakeup::Deadline);
        }
        // Nothing more can be done without waiting, so what has come together goes out: one write a step.
        for side in BOTH {
            if let Poll::Ready(event) = self.poll_flush(side, cx) {
                return Poll::Ready(event);
            }
        }
        self.client.rest();
        self.server.rest();
        Poll::Pending
    }

    /// Writes what waits for this side. Ready if it fails, or if something waited for it.
    fn poll_flush(&mut self, side: Side, cx: &mut Context<'_>) -> Poll<Wakeup<H::JobResult>> {
        let upgrading = self.upgrading == Some(side);
        let holds = side == Side::Client && self.machine.holds_replies();
        let leg = self.leg(side);
        let backed_up = leg.backed_up();
        if holds && !backed_up {
            return Poll::Pending;
        }
        match leg.poll_write(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Wakeup::Broken(side, error)),
            Poll::Ready(Ok(())) if upgrading || backed_up => Poll::Ready(Wakeup::Flushed(side)),
            // Some octets went: the other side may be read again.
            Poll::Pending if backed_up && !leg.backed_up() => Poll::Ready(Wakeup::Flushed(side)),
            _ => Poll::Pending,
        }
    }
}
