//! The end of the process, as each session hears of it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::{sync::watch, task::unconstrained};

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
    pub(super) async fn beyond(mut stop: watch::Receiver<Self>, reached: Self) -> Self {
        if let Ok(stop) = stop.wait_for(|stop| *stop > reached).await {
            return *stop;
        }
        // The sender was dropped, so nobody will ask any more.
        std::future::pending().await
    }
}

/// Ready once the end of the process has come further than the machine knows. A session asks in each step, and nearly always nothing
/// has happened; so the channel is asked only after it rang.
pub(super) struct Stopping {
    future: Pin<Box<dyn Future<Output = Stop> + Send>>,
    bell: Option<Arc<Bell>>,
}

/// What the channel wakes: it passes the wake-up on, and keeps in mind that there was one. The channel may ring without news, and
/// forgets then who waits for it.
struct Bell {
    rang: AtomicBool,
    session: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.session.wake_by_ref();
    }
}

impl Stopping {
    pub(super) fn beyond(stop: &watch::Receiver<Stop>, reached: Stop) -> Self {
        // Each poll must register with the channel, however much the task has done in this step.
        Self::on(unconstrained(Stop::beyond(stop.clone(), reached)))
    }

    fn on(future: impl Future<Output = Stop> + Send + 'static) -> Self {
        Self {
            future: Box::pin(future),
            bell: None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let bell = match &self.bell {
            Some(bell) if bell.session.will_wake(cx.waker()) => {
                if !bell.rang.swap(false, Ordering::AcqRel) {
                    return Poll::Pending;
                }
                bell
            }
            _ => self.bell.insert(Arc::new(Bell {
                rang: AtomicBool::new(false),
                session: cx.waker().clone(),
            })),
        };
        let waker = Waker::from(Arc::clone(bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Mutex};

    use super::*;

    fn session() -> Arc<Bell> {
        Arc::new(Bell {
            rang: AtomicBool::new(false),
            session: Waker::noop().clone(),
        })
    }

    #[test]
    fn the_channel_is_asked_again_after_each_ring_even_one_without_news_and_never_otherwise() {
        let asked = Arc::new(Mutex::new(Vec::<Waker>::new()));
        let wakers = Arc::clone(&asked);
        let mut stopping = Stopping::on(poll_fn(move |cx| {
            let mut wakers = wakers.lock().unwrap();
            wakers.push(cx.waker().clone());
            match wakers.len() {
                3 => Poll::Ready(Stop::Cut),
                _ => Poll::Pending,
            }
        }));
        let ring = |nth: usize| {
            let waker = asked.lock().unwrap()[nth].clone();
            waker.wake();
        };
        let waker = Waker::from(session());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            assert_eq!(stopping.poll(&mut cx), Poll::Pending);
        }
        assert_eq!(asked.lock().unwrap().len(), 1);
        ring(0);
        assert_eq!(stopping.poll(&mut cx), Poll::Pending);
        assert_eq!(stopping.poll(&mut cx), Poll::Pending);
        assert_eq!(asked.lock().unwrap().len(), 2);
        ring(1);
        assert_eq!(stopping.poll(&mut cx), Poll::Ready(Stop::Cut));
    }

    #[test]
    fn whoever_waits_now_is_woken() {
        let (tell, stop) = watch::channel(Stop::Not);
        let mut stopping = Stopping::beyond(&stop, Stop::Not);
        let before = Waker::noop();
        assert_eq!(
            stopping.poll(&mut Context::from_waker(before)),
            Poll::Pending
        );
        let now = session();
        let waker = Waker::from(Arc::clone(&now));
        let mut cx = Context::from_waker(&waker);
        assert_eq!(stopping.poll(&mut cx), Poll::Pending);
        tell.send_replace(Stop::Drain);
        assert!(now.rang.load(Ordering::Acquire));
        assert_eq!(stopping.poll(&mut cx), Poll::Ready(Stop::Drain));
    }
}
