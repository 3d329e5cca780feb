// SPDX-License-Identifier: GPL-3.0-only
//! Keeps a panic inside one connection.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// What a caught panic said.
#[derive(Debug)]
pub struct Panicked(String);

impl Panicked {
    /// From what `catch_unwind` returned.
    pub fn new(payload: &(dyn Any + Send)) -> Panicked {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Panicked(text.unwrap_or_else(|| "a payload that is not text".to_owned()))
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs a task so that a panic in it, or while it is dropped after one, comes back as an error.
///
/// Unwind safety is asserted because the task is dropped and never polled again, and what it shares with others
/// (`Worker`) is only ever changed in steps that cannot panic half-way.
pub async fn isolate<T>(task: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut task = pin!(Some(task));
    std::future::poll_fn(move |cx| {
        let step = catch_unwind(AssertUnwindSafe(|| match task.as_mut().as_pin_mut() {
            Some(task) => task.poll(cx),
            None => Poll::Pending,
        }));
        match step {
            Ok(poll) => poll.map(Ok),
            Err(payload) => {
                let dropped = catch_unwind(AssertUnwindSafe(|| task.set(None)));
                drop(dropped);
                Poll::Ready(Err(Panicked::new(&*payload)))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_comes_back_as_an_error_with_its_message() {
        assert_eq!(isolate(async { 7 }).await.unwrap(), 7);
        let caught = isolate(async {
            tokio::task::yield_now().await;
            panic!("boom {}", 1)
        });
        assert_eq!(caught.await.unwrap_err().to_string(), "boom 1");
    }
}
