//! Brings the cores up: probes, pinned executors.
//!
//! The only file that knows how glommio is started. The settings and guards follow from faults of glommio 0.9 that were
//! measured; ARCHITECTURE.md lists them, the tests below show the ones that would hang or end a core.
//!
//! Invariants:
//!   * a failed probe ends the start before anything is touched, with one line that says what to change
//!   * an executor lives as long as the process

use crate::failure_log::FailureLog;
use crate::handle::{COMMANDS_MAX, Shards};
use crate::heartbeat::{ABORT_AFTER, Heartbeat, watch};
use crate::message::Command;
use crate::sample_features::SampleFeatures;
use crate::{core, layouts, sys};
use fetch::Accesses;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Time that a core may take to come up.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How often a core whose memory or ring is refused is tried, and when again.
const START_ATTEMPTS_MAX: usize = 80;
const START_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// glommio's own minimum.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// A deep ring gives the kernel a cancel table large enough for thousands of idle connections.
const RING_DEPTH: usize = 4096;
/// Longest time that tasks run before the executor looks at its rings.
const PREEMPT_TIMER: Duration = Duration::from_millis(20);
/// Registered I/O memory; sockets and buffered files do not use it.
const IO_MEMORY_BYTES: usize = 1 << 20;

/// What the cores need to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// One entry per core: the CPU it is pinned to.
    pub cpus: Vec<usize>,
    /// Shifts all phases; differs between the members of a redundant pair.
    pub offset_seed: u64,
    /// The data folder; without one, samples stay in memory.
    pub store: Option<Arc<tsdb::Store>>,
    /// The data folder in agent mode, instead of `store`: samples go to the log alone.
    pub agent: Option<Arc<tsdb::AgentStore>>,
    /// Where failed scrapes are logged.
    pub failures: FailureLog,
    pub features: SampleFeatures,
}

/// Why ringscrape cannot run here. Each text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "io_uring is not usable ({0}); allow it: sysctl kernel.io_uring_disabled=0, and in a container a seccomp \
         profile that permits io_uring_setup, io_uring_enter and io_uring_register"
    )]
    IoUring(std::io::Error),
    #[error(
        "locked memory is limited to {bytes} bytes, io_uring needs {MEMLOCK_BYTES_MIN}; raise it: ulimit -l 65536, or \
         LimitMEMLOCK=64M in the unit file"
    )]
    Memlock { bytes: u64 },
    #[error("core {core} cannot be pinned to CPU {cpu}; usable here: {usable:?}; change --shards or --shard-cpus")]
    Cpu { core: usize, cpu: usize, usable: Vec<usize> },
    #[error("core {core} did not come up: {reason}")]
    Core { core: usize, reason: String },
    #[error("{what}: {source}")]
    Os { what: &'static str, source: std::io::Error },
}

/// The CPUs that cores are pinned to: `count` of the usable ones, by default all on small hosts; on hosts of eight CPUs
/// and more one in sixteen (at least one) is left to the control plane.
pub fn default_cpus(count: Option<usize>) -> Result<Vec<usize>, StartError> {
    let usable = sys::usable_cpus().map_err(|source| StartError::Os { what: "reading the CPU affinity", source })?;
    let spare = if usable.len() < 8 { 0 } else { (usable.len() / 16).max(1) };
    let count = count.unwrap_or(usable.len() - spare);
    match usable.get(..count) {
        Some(cpus) if count > 0 => Ok(cpus.to_vec()),
        _ => Err(StartError::Cpu { core: usable.len(), cpu: usable.len(), usable }),
    }
}

/// Whether this machine can run cores at all.
pub fn probe(cpus: &[usize]) -> Result<(), StartError> {
    let memlock = sys::memlock_limit().map_err(|source| StartError::Os { what: "reading RLIMIT_MEMLOCK", source })?;
    if memlock.soft < MEMLOCK_BYTES_MIN {
        return Err(StartError::Memlock { bytes: memlock.soft });
    }
    sys::io_uring_probe().map_err(StartError::IoUring)?;
    let usable = sys::usable_cpus().map_err(|source| StartError::Os { what: "reading the CPU affinity", source })?;
    match cpus.iter().enumerate().find(|(_, cpu)| !usable.contains(cpu)) {
        Some((core, cpu)) => Err(StartError::Cpu { core, cpu: *cpu, usable }),
        None => Ok(()),
    }
}

/// Starts one pinned executor per CPU and the watchdog; returns once every core takes commands. Cores end with the
/// process: tell them with [`Shards::shutdown`] first.
pub fn start(options: &Options) -> Result<Shards, StartError> {
    probe(&options.cpus)?;
    let resolver = fetch::ResolverThreads::system()
        .map_err(|source| StartError::Os { what: "starting the resolver threads", source })?;
    let accesses = Accesses::start()
        .map_err(|source| StartError::Os { what: "starting the thread that reads credentials", source })?;
    let (mut queues, mut heartbeats, mut starting) = (Vec::new(), Vec::new(), Vec::new());
    let (cores, features) = (options.cpus.len(), options.features);
    let layouts = layouts::folder(options.store.as_deref(), options.agent.as_deref());
    let layouts = layouts.map(|folder| layouts::open(&folder)).unwrap_or_default();
    for (index, cpu) in options.cpus.iter().copied().enumerate() {
        let (queue, commands) = flume::bounded::<Command>(COMMANDS_MAX);
        let heartbeat = Arc::new(Heartbeat::default());
        let start = {
            let (heartbeat, resolver, accesses) = (heartbeat.clone(), resolver.clone(), accesses.clone());
            let (offset_seed, store, agent) = (options.offset_seed, options.store.clone(), options.agent.clone());
            let (failures, layouts) = (options.failures.clone(), layouts.clone());
            move || {
                let (heartbeat, resolver) = (heartbeat.clone(), resolver.clone());
                let (store, agent) = (store.clone(), agent.clone());
                let (accesses, failures, layouts) = (accesses.clone(), failures.clone(), layouts.clone());
                let settings = core::Settings {
                    index,
                    cores,
                    cpu,
                    offset_seed,
                    store,
                    agent,
                    heartbeat,
                    resolver,
                    accesses,
                    failures,
                    layouts,
                    features,
                };
                let commands = commands.clone();
                let (ready_to, ready) = mpsc::channel();
                let run = move || async move {
                    let _ = ready_to.send(());
                    core::run(settings, commands).await;
                };
                executor(index, cpu).spawn(run).map(|thread| (thread, ready))
            }
        };
        starting.push((start(), start));
        queues.push(queue);
        heartbeats.push(heartbeat);
    }
    for (core, (mut started, start)) in starting.into_iter().enumerate() {
        let failed = |reason: String| StartError::Core { core, reason };
        for attempt in 1.. {
            let (thread, ready) = started.map_err(|error| failed(error.to_string()))?;
            match ready.recv_timeout(READY_WITHIN) {
                Ok(()) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(failed(format!("no sign of life in {READY_WITHIN:?}")));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let reason = thread.join().err().map_or("it ended at once".to_owned(), |error| error.to_string());
                    if attempt == START_ATTEMPTS_MAX {
                        let advice = "if it is memory: ulimit -l 65536, or LimitMEMLOCK=64M in the unit file";
                        return Err(failed(format!("{reason}; {advice}")));
                    }
                    // The kernel gives the locked memory of a process that was killed back seconds later.
                    if attempt == 1 {
                        tracing::warn!(core, reason, "core did not come up; trying again");
                    }
                    std::thread::sleep(START_AGAIN_AFTER);
                    started = start();
                }
            }
        }
    }
    watch(heartbeats, ABORT_AFTER).map_err(|source| StartError::Os { what: "starting the watchdog", source })?;
    Ok(Shards::new(queues, options.store.clone()).with_agent(options.agent.clone()))
}

/// An executor with the guards of decision 005.
pub(crate) fn executor(index: usize, cpu: usize) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name(&format!("core-{index}"))
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(IO_MEMORY_BYTES)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Tasks that have used up their time stay runnable: a core with two of them never sleeps, and needs no poke. As
    /// published, glommio slept when the preempt timer fired between two queues.
    #[test]
    fn busy_queues_never_sleep() {
        let work = || async {
            let mut longest = Duration::ZERO;
            for _ in 0..300 {
                let before = Instant::now();
                while before.elapsed() < Duration::from_millis(1) {}
                glommio::executor().yield_task_queue_now().await;
                longest = longest.max(before.elapsed());
            }
            longest
        };
        let run = move || async move {
            let queue = |name| {
                let latency = glommio::Latency::Matters(Duration::from_millis(2));
                glommio::executor().create_task_queue(glommio::Shares::Static(100), latency, name)
            };
            let tasks = [queue("one"), queue("two")].map(|queue| glommio::spawn_local_into(work(), queue).unwrap());
            let mut longest = Duration::ZERO;
            for task in tasks {
                longest = longest.max(task.await);
            }
            longest
        };
        let longest = executor(0, default_cpus(Some(1)).unwrap()[0]).spawn(run).unwrap().join().unwrap();
        assert!(longest < Duration::from_secs(10), "a yield took {longest:?}");
    }

    /// Nothing but foreign wakes reaches an idle executor: the poke has to.
    #[test]
    fn poke_moves_an_idle_core() {
        let heartbeat = Arc::new(Heartbeat::default());
        let beating = heartbeat.clone();
        executor(0, default_cpus(Some(1)).unwrap()[0])
            .spawn(move || async move { beating.beat_forever().await })
            .unwrap();
        watch(vec![heartbeat.clone()], ABORT_AFTER).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let beats = heartbeat.beats();
        assert!(beats >= 3, "{beats} beats in 500 ms");
    }

    /// glommio 0.9.0 as published parks for ever with runnable tasks when cores are contended: without a poke about one
    /// run in twelve of this length stood still.
    #[test]
    fn contended_cores_answer() {
        let cpu = default_cpus(Some(1)).unwrap()[0];
        let options = Options {
            cpus: vec![cpu, cpu],
            offset_seed: 1,
            store: None,
            agent: None,
            features: SampleFeatures::default(),
            failures: FailureLog::start().unwrap(),
        };
        let shards = start(&options).unwrap();
        let busy = Instant::now() + Duration::from_secs(4);
        let burner = std::thread::spawn(move || while Instant::now() < busy {});
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut answers = 0;
        while Instant::now() < busy {
            let asked = Instant::now();
            let stats = runtime.block_on(shards.stats()).unwrap();
            assert!(asked.elapsed() < Duration::from_secs(3), "an answer took {:?}", asked.elapsed());
            assert_eq!(stats.len(), 2);
            answers += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(answers > 10, "{answers} answers in 4 s");
        burner.join().unwrap();
    }

    #[test]
    fn unusable_cpus_are_refused() {
        let error = probe(&[0, 4000]).unwrap_err().to_string();
        assert!(error.starts_with("core 1 cannot be pinned to CPU 4000"), "{error}");
        assert!(default_cpus(Some(100_000)).is_err());
        assert!(default_cpus(Some(0)).is_err());
    }
}
