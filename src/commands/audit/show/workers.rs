//! The same work on many things, by several threads, in order.

use std::{io, sync::mpsc::sync_channel, thread};

/// Threads that work, at the most. The one that reads and prints comes on top.
const MOST: usize = 4;
/// Things for each thread that are read before their results are taken.
const AHEAD: usize = 2;

/// Does `work` on each thing that `next` gives, and gives `take` the results in the order of the things. Not more than a few things and
/// results are held at a time.
///
/// # Errors
/// The first error of `next` or `take`, or no thread can be begun.
pub(super) fn work_in_order<T: Send, R: Send>(
    mut next: impl FnMut() -> io::Result<Option<T>>,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R) -> io::Result<()>,
) -> io::Result<()> {
    let number = thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST));
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..number {
            let (give, things) = sync_channel::<T>(AHEAD);
            let (done, results) = sync_channel(AHEAD);
            let work = &work;
            let thread = thread::Builder::new().name("show".into());
            thread.spawn_scoped(scope, move || {
                for thing in things {
                    if done.send(work(thing)).is_err() {
                        break; // nobody wants more
                    }
                }
            })?;
            workers.push((give, results));
        }
        let (mut given, mut taken, mut ended) = (0, 0, false);
        loop {
            if !ended && given - taken < number * AHEAD {
                let Some(thing) = next()? else {
                    ended = true;
                    continue;
                };
                if workers[given % number].0.send(thing).is_err() {
                    return Ok(()); // it has panicked, and the end of the scope says so
                }
                given += 1;
            } else if taken < given {
                let Ok(result) = workers[taken % number].1.recv() else {
                    return Ok(());
                };
                take(result)?;
                taken += 1;
            } else {
                return Ok(());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked(most: u64, stop: u64) -> (Vec<u64>, io::Result<()>) {
        let (mut n, mut got) = (0, Vec::new());
        let next = || {
            n += 1;
            Ok((n <= most).then_some(n))
        };
        let result = work_in_order(
            next,
            |n| n * n,
            |square| {
                got.push(square);
                match square == stop {
                    true => Err(io::ErrorKind::BrokenPipe.into()),
                    false => Ok(()),
                }
            },
        );
        (got, result)
    }

    #[test]
    fn results_come_in_the_order_of_the_things_and_an_error_ends_the_work() {
        for most in [0, 1, 2, 7, 1000] {
            let (got, result) = worked(most, 0);
            assert!(result.is_ok());
            assert_eq!(got, (1..=most).map(|n| n * n).collect::<Vec<_>>());
        }
        let (got, result) = worked(1000, 49);
        assert_eq!(
            (got.len(), result.unwrap_err().kind()),
            (7, io::ErrorKind::BrokenPipe)
        );
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_thread_that_panics_is_not_taken_for_the_end() {
        let mut n = 0;
        let next = || {
            n += 1;
            Ok((n < 100).then_some(n))
        };
        let _ = work_in_order(next, |n| assert!(n < 50, "a fault"), |()| Ok(()));
    }
}
