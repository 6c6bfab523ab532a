//! Wakes one task of the same core: started, expired, stopped. No timers, no channels, no allocation.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A scrape to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// When the scrape was due, in the schedule's microseconds.
    pub due_us: u64,
}

/// What the schedule tells a target's task. One task waits on it at a time.
#[derive(Default)]
pub struct Signal {
    start: Cell<Option<Start>>,
    expired: Cell<bool>,
    stopped: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub fn start(&self, start: Start) {
        self.start.set(Some(start));
        self.wake();
    }

    /// The scrape in flight has passed its deadline.
    pub fn expire(&self) {
        self.expired.set(true);
        self.wake();
    }

    /// The task shall end, a scrape in flight included.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.wake();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Whether the deadline of the last scrape has passed.
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// The next scrape to do; None once stopped.
    pub async fn next(&self) -> Option<Start> {
        poll_fn(|context| {
            if self.stopped.get() {
                return Poll::Ready(None);
            }
            match self.start.take() {
                Some(start) => {
                    self.expired.set(false);
                    Poll::Ready(Some(start))
                }
                None => self.park(context),
            }
        })
        .await
    }

    /// Runs `work` to its end, or gives None (dropping it) when the deadline passes or the target is stopped.
    pub async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        poll_fn(|context| {
            if self.expired.get() || self.stopped.get() {
                return Poll::Ready(None);
            }
            match work.as_mut().poll(context) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending => self.park(context),
            }
        })
        .await
    }

    fn park<T>(&self, context: &Context<'_>) -> Poll<T> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, pending, poll_once};

    #[test]
    fn start_is_kept_until_it_is_taken() {
        let signal = Signal::default();
        assert_eq!(block_on(poll_once(signal.next())), None);
        signal.start(Start { due_us: 7 });
        assert_eq!(block_on(signal.next()), Some(Start { due_us: 7 }));
        assert_eq!(block_on(poll_once(signal.next())), None);
    }

    #[test]
    fn expiry_ends_the_work_in_flight_and_not_the_next() {
        let signal = Signal::default();
        signal.expire();
        assert_eq!(block_on(signal.unless_over(pending::<()>())), None);
        signal.start(Start { due_us: 1 });
        block_on(signal.next());
        assert_eq!(block_on(signal.unless_over(async { 5 })), Some(5));
    }

    #[test]
    fn stop_ends_everything() {
        let signal = Signal::default();
        signal.start(Start { due_us: 1 });
        signal.stop();
        assert_eq!(block_on(signal.next()), None);
        assert_eq!(block_on(signal.unless_over(async { 5 })), None);
    }
}
