//! The threads that carry sessions, one for each processor. A session stays on the thread where it began.
//!
//! A runtime that moves tasks between threads wakes a second thread whenever it finds two tasks ready, and again when that thread has
//! found nothing. A step of a session takes a few microseconds, so the wake-up often costs more than the step (`benches/run --only
//! message,messages`). For the same reason one more thread keeps the timers of all sessions.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle, Runtime},
};

use crate::clock;

/// Clones are the same threads.
#[derive(Clone)]
pub(super) struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
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

    /// Hands the connection to the thread that has the fewest sessions, and begins `session` there.
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
        let load = |worker: &&Worker| worker.sessions.load(Ordering::Relaxed);
        let Some(worker) = self.0.iter().min_by_key(load) else {
            return Err(io::Error::other("no thread carries sessions"));
        };
        let (stream, share) = (stream.into_std()?, Share::of(worker));
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
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn sessions_are_spread_over_the_threads_and_leave_their_place_when_they_end() {
        let workers = Workers::start().unwrap();
        let count = workers.0.len();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut clients = Vec::new();
        for _ in 0..count * 3 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await;
            clients.push(client.unwrap());
            let (stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            let session = move |stream: TcpStream, share| async move {
                tell.send(thread::current().id()).unwrap();
                stream.readable().await.unwrap();
                drop(share);
                drop(tell);
            };
            workers.carry(stream, session).unwrap();
        }
        drop(tell);
        let mut threads: HashMap<_, usize> = HashMap::new();
        for _ in 0..clients.len() {
            *threads.entry(told.recv().await.unwrap()).or_default() += 1;
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
