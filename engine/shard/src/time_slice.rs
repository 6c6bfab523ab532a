//! How long a task may hold its core: it looks at the clock between small steps and lets others run when its time is over.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a task runs before others of the core get their turn. Steps between two looks at the clock take less than
/// that again, so that nobody waits for more than 2 ms.
pub(crate) const SLICE_MAX: Duration = Duration::from_millis(1);

/// Kinds of work on a core. The names are label values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoreTask {
    /// Reading payloads of scrapes.
    Ingest,
    /// Selects and aggregations of queries.
    Query,
    /// Label names, label values, series, metadata, cardinality.
    Labels,
    Federation,
    /// Pushed series, of rules and of remote write.
    Push,
    /// Changes of the set of targets.
    Targets,
    Maintenance,
}

impl CoreTask {
    pub const ALL: [CoreTask; 7] = [
        CoreTask::Ingest,
        CoreTask::Query,
        CoreTask::Labels,
        CoreTask::Federation,
        CoreTask::Push,
        CoreTask::Targets,
        CoreTask::Maintenance,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            CoreTask::Ingest => "ingest",
            CoreTask::Query => "query",
            CoreTask::Labels => "labels",
            CoreTask::Federation => "federation",
            CoreTask::Push => "push",
            CoreTask::Targets => "targets",
            CoreTask::Maintenance => "maintenance",
        }
    }
}

/// The longest time that tasks of each kind have run without letting others run.
#[derive(Debug, Default)]
pub(crate) struct TaskTimes([Cell<Duration>; CoreTask::ALL.len()]);

impl TaskTimes {
    pub fn record(&self, task: CoreTask, ran: Duration) {
        let longest = &self.0[task as usize];
        longest.set(longest.get().max(ran));
    }

    pub fn longest(&self) -> impl Iterator<Item = (CoreTask, Duration)> {
        CoreTask::ALL.into_iter().zip(&self.0).map(|(task, longest)| (task, longest.get()))
    }
}

/// The time of one task.
pub(crate) struct TimeSlice<'a> {
    times: &'a TaskTimes,
    task: CoreTask,
    max: Duration,
    begun: Cell<Instant>,
}

impl<'a> TimeSlice<'a> {
    pub fn begin(times: &'a TaskTimes, task: CoreTask, max: Duration) -> TimeSlice<'a> {
        TimeSlice { times, task, max, begun: Cell::new(Instant::now()) }
    }

    pub fn is_over(&self) -> bool {
        self.begun.get().elapsed() >= self.max
    }

    /// Lets others run if the time is over. True if it did: then the task looks whether its work is still wanted.
    pub async fn step(&self) -> bool {
        let is_over = self.is_over();
        if is_over {
            self.pause().await;
        }
        is_over
    }

    /// Lets others run.
    pub async fn pause(&self) {
        self.times.record(self.task, self.begun.get().elapsed());
        glommio::executor().yield_task_queue_now().await;
        self.begun.set(Instant::now());
    }

    /// The task has waited for something else: its time begins anew.
    pub fn restart(&self) {
        self.begun.set(Instant::now());
    }
}

impl Drop for TimeSlice<'_> {
    fn drop(&mut self) {
        self.times.record(self.task, self.begun.get().elapsed());
    }
}
