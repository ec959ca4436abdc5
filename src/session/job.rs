//! An action of a session that takes time, or whose result is there already.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// The outcome of an action, now or later. It owns all that it needs, so that the session goes on meanwhile.
pub enum Job<T> {
    /// It needed no time.
    Done(T),
    /// It is under way.
    Running(Running<T>),
}

/// A job that is under way.
pub struct Running<T>(Pin<Box<dyn Future<Output = T> + Send>>);

impl<T> Job<T> {
    /// A job that is over when the future is.
    pub fn running(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Running(Running(Box::pin(future)))
    }

    /// Waits for its end.
    #[cfg(test)]
    pub(super) async fn outcome(self) -> T {
        match self {
            Self::Done(result) => result,
            Self::Running(mut job) => std::future::poll_fn(|cx| job.poll(cx)).await,
        }
    }
}

impl<T> Running<T> {
    /// Ready with the job's result when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        self.0.as_mut().poll(cx)
    }
}
