//! The threads that carry sessions, one for each processor. A session stays on the thread where it began.
//!
//! One of them also accepts the connections of a listener. Half of the sessions of two threads then need no other thread to begin
//! (`benches/run --only cold`).
//!
//! A runtime that moves tasks between threads wakes a second thread whenever it finds two tasks ready, and again when that thread has
//! found nothing. A step of a session takes a few microseconds, so the wake-up often costs more than the step (`benches/run --only
//! message,messages`). For the same reason one more thread keeps the timers of all sessions.

use std::{
    io,
    net::TcpListener as StdListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

use crate::{clock, net};

/// Clones are the same threads.
#[derive(Clone)]
pub(super) struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
}

/// The threads, seen from the one that accepts the connections of a listener.
pub(super) struct Home {
    workers: Workers,
    index: usize,
}

/// One session among those of a thread. Dropped when the session ends.
pub(super) struct Share(Arc<AtomicUsize>);

impl Share {
    fn of(worker: &Worker) -> Self {
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&worker.sessions))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts the threads. They end with the process. To be called before another process gives up its place: without threads this one
    /// could not take it.
    ///
    /// # Errors
    /// The system gives no thread, or no descriptor for what it waits for.
    pub(super) fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism()?.get();
        let timekeeper = timekeeper()?;
        let workers = (0..processors).map(|_| {
            let timekeeper = timekeeper.clone();
            let runtime = start("sessions", || {
                clock::leave_timers_to(timekeeper);
                Builder::new_current_thread().enable_all().build()
            });
            Ok(Worker {
                runtime: runtime?,
                sessions: Arc::default(),
            })
        });
        workers.collect::<io::Result<_>>().map(Self)
    }

    /// Runs `accept` on one of the threads, with the listener. Which one it is depends on the listener's number.
    ///
    /// # Errors
    /// The listener cannot be waited for.
    pub(super) fn accept<F>(
        &self,
        number: usize,
        listener: StdListener,
        accept: impl FnOnce(TcpListener, Home) -> F,
    ) -> io::Result<JoinHandle<()>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let workers = self.clone();
        let index = number % workers.0.len();
        let home = Home { workers, index };
        let runtime = &self.0[index].runtime;
        // A listener belongs to the thread that waits for it.
        let entered = runtime.enter();
        let listener = net::into_tokio(listener)?;
        drop(entered);
        Ok(runtime.spawn(accept(listener, home)))
    }
}

impl Home {
    /// Hands the connection to the thread that has the fewest sessions, this one if it is among them, and begins `session` there.
    ///
    /// # Errors
    /// The system does not let go of the connection.
    pub(super) fn carry<F>(
        &self,
        stream: TcpStream,
        session: impl FnOnce(TcpStream, Share) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let load = |(index, worker): &(usize, &Worker)| {
            (
                worker.sessions.load(Ordering::Relaxed),
                *index != self.index,
            )
        };
        let workers = self.workers.0.iter().enumerate();
        let Some((index, worker)) = workers.min_by_key(load) else {
            return Err(io::Error::other("no thread carries sessions"));
        };
        let share = Share::of(worker);
        if index == self.index {
            worker.runtime.spawn(session(stream, share));
            return Ok(());
        }
        let stream = stream.into_std()?;
        worker.runtime.spawn(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => session(stream, share).await,
                Err(error) => log::error!("cannot serve a connection: {error}"),
            }
        });
        Ok(())
    }
}

/// Starts the thread that keeps the timers.
fn timekeeper() -> io::Result<Handle> {
    start("timers", || {
        Builder::new_current_thread().enable_time().build()
    })
}

/// Starts a thread that drives the runtime that `build` makes there, until the process ends. A runtime that no thread drives could not
/// even be dropped here, in a task of another one.
fn start(
    name: &str,
    build: impl FnOnce() -> io::Result<Runtime> + Send + 'static,
) -> io::Result<Handle> {
    let (tell, told) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name(name.into())
        .spawn(move || match build() {
            Ok(runtime) => {
                let _ = tell.send(Ok(runtime.handle().clone())); // it is waited for below
                runtime.block_on(std::future::pending::<()>());
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        })?;
    told.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashMap, sync::mpsc, time::Duration};
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn sessions_are_spread_over_the_threads_and_leave_their_place_when_they_end() {
        let workers = Workers::start().unwrap();
        let count = workers.0.len();
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let accept = |listener: TcpListener, home: Home| async move {
            tell.send(thread::current().id()).unwrap();
            for _ in 0..count * 3 {
                let (stream, _) = listener.accept().await.unwrap();
                let tell = tell.clone();
                let session = move |mut stream: TcpStream, share| async move {
                    tell.send(thread::current().id()).unwrap();
                    // An accepted connection is called readable before anybody has looked.
                    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "its client leaves");
                    drop(share);
                    drop(tell);
                };
                home.carry(stream, session).unwrap();
            }
        };
        workers.accept(1, listener, accept).unwrap();
        let mut clients = Vec::new();
        let mut threads: HashMap<_, usize> = HashMap::new();
        let home = told.recv().await.unwrap();
        for session in 0..count * 3 {
            clients.push(TcpStream::connect(address).await.unwrap());
            let thread = told.recv().await.unwrap();
            let all_are_even = session % count == 0;
            assert!(
                !all_are_even || thread == home,
                "where all have as many, it stays"
            );
            *threads.entry(thread).or_default() += 1;
        }
        assert_eq!(threads.len(), count);
        assert!(threads.values().all(|&sessions| sessions == 3));
        drop(clients);
        assert_eq!(told.recv().await, None, "all sessions have ended");
        let load = |worker: &Worker| worker.sessions.load(Ordering::Relaxed);
        assert!(workers.0.iter().all(|worker| load(worker) == 0));
    }

    #[test]
    fn a_session_is_woken_by_a_timer_that_another_thread_keeps() {
        let timekeeper = timekeeper();
        let (tell, told) = mpsc::channel();
        // It could keep no timer of its own.
        let without = start("sessions", || {
            clock::leave_timers_to(timekeeper.unwrap());
            Builder::new_current_thread().build()
        });
        without.unwrap().spawn(async move {
            let due = clock::instant() + Duration::from_millis(5);
            clock::long_timer(due).await;
            tell.send(clock::instant() >= due).unwrap();
        });
        let in_time = told.recv_timeout(Duration::from_secs(30));
        assert_eq!(in_time, Ok(true), "and not too early");
    }

    #[tokio::test]
    async fn what_a_thread_could_not_build_is_an_error_and_no_panic() {
        let failed = start("sessions", || Err(io::Error::other("no descriptor")));
        assert_eq!(failed.unwrap_err().to_string(), "no descriptor");
    }
}
