//! Faults of the disk, which tests plan. In every other build the checks are nothing.

use std::io;

#[cfg(test)]
thread_local! {
    /// Calls that still work, then calls that fail.
    static PLAN: std::cell::Cell<(u32, u32)> = const { std::cell::Cell::new((0, 0)) };
}

/// Lets so many calls of this thread work, and so many after them fail.
#[cfg(test)]
pub(crate) fn plan(work: u32, fail: u32) {
    PLAN.set((work, fail));
}

/// Called before a call of the system that may fail.
#[inline]
pub(crate) fn check() -> io::Result<()> {
    #[cfg(test)]
    {
        let (work, fail) = PLAN.get();
        match (work, fail) {
            (_, 0) => {}
            (0, _) => {
                PLAN.set((0, fail - 1));
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            _ => PLAN.set((work - 1, fail)),
        }
    }
    Ok(())
}
