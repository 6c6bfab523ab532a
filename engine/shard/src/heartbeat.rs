//! Keeps cores alive: each shows that it moves, and the watchdog pokes those that do not, and ends the process when one
//! hangs.
//!
//! Invariants:
//!   * a core that does not move is poked each [`WATCH_INTERVAL`]; one that does not move for [`ABORT_AFTER`] ends the process

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

/// How often the watchdog looks. A core that has not moved since the last look is poked: a foreign wake would end a sleep
/// that should not be. One that moves needs none, and a poke costs it a wake.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// A core that does not move for so long counts as stalled.
pub const STALL_AFTER: Duration = Duration::from_secs(1);
/// A core that does not move for so long ends the process: a restart is quicker than a gap without end.
pub const ABORT_AFTER: Duration = Duration::from_secs(10);
/// A core's sign of life, shared with the watchdog.
#[derive(Default)]
pub(crate) struct Heartbeat {
    beats: AtomicU64,
    waker: Mutex<Option<Waker>>,
    stall_max_ms: AtomicU64,
}

impl Heartbeat {
    /// Longest stall so far.
    pub fn stall_max(&self) -> Duration {
        Duration::from_millis(self.stall_max_ms.load(Ordering::Relaxed))
    }

    /// How often the core has shown that it moves.
    #[cfg(test)]
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// A sign of life.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Beats each time it is poked; never ends. Its waker is stored once: glommio counts wakers in 16 bits.
    pub fn beat_forever(self: Arc<Self>) -> impl Future<Output = ()> {
        std::future::poll_fn(move |context| {
            self.beat();
            let mut waker = self.waker.lock().expect("no panic while held");
            if waker.is_none() {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// Pokes every core and ends the process when one hangs. Time is counted in rounds of its own, so a stopped or
/// suspended process is not taken for a stall.
pub(crate) fn watch(heartbeats: Vec<Arc<Heartbeat>>, abort_after: Duration) -> std::io::Result<()> {
    let rounds = |time: Duration| (time.as_millis() / WATCH_INTERVAL.as_millis()) as u64;
    let (stall_rounds, abort_rounds) = (rounds(STALL_AFTER), rounds(abort_after));
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut seen: Vec<(u64, u64)> = vec![(0, 0); heartbeats.len()];
        loop {
            std::thread::sleep(WATCH_INTERVAL);
            for (core, (heartbeat, (beats, still))) in heartbeats.iter().zip(&mut seen).enumerate() {
                let now = heartbeat.beats.load(Ordering::Relaxed);
                *still = if now == *beats { *still + 1 } else { 0 };
                *beats = now;
                if *still >= stall_rounds {
                    let ms = *still * WATCH_INTERVAL.as_millis() as u64;
                    heartbeat.stall_max_ms.fetch_max(ms, Ordering::Relaxed);
                }
                if *still == stall_rounds {
                    tracing::warn!(core, "core has not moved for {STALL_AFTER:?}");
                }
                if *still >= abort_rounds {
                    let state: Vec<String> = heartbeats
                        .iter()
                        .enumerate()
                        .map(|(core, heartbeat)| {
                            format!("core {core}: {} beats", heartbeat.beats.load(Ordering::Relaxed))
                        })
                        .collect();
                    eprintln!("core {core} hangs for {abort_after:?}; aborting. {}", state.join(", "));
                    std::process::abort();
                }
                if *still > 0
                    && let Some(waker) = heartbeat.waker.lock().expect("no panic while held").as_ref()
                {
                    waker.wake_by_ref();
                }
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the child process of the test below.
    const CHILD: &str = "RINGSCRAPE_TEST_HANGS";

    #[test]
    fn hung_core_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            // A core that never beats.
            watch(vec![Arc::default()], Duration::from_millis(200)).unwrap();
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "heartbeat::tests::hung_core_ends_the_process", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(!child.status.success());
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(said.contains("core 0 hangs for 200ms; aborting"), "{said}");
    }
}
