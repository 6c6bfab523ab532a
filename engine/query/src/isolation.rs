//! Keeps a defect in the evaluation from ending the process: work that unwinds costs its query.
//!
//! Invariants:
//!   * work runs isolated on one thread from its beginning to its end, and holds no lock for writing that a shard or the
//!     data folder waits for: an unwind leaves nothing half done behind
//!   * everything else keeps the rule that a panic ends the process: a shard that is half alive would be worse than a
//!     restart

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

thread_local! {
    static IS_ISOLATED: Cell<bool> = const { Cell::new(false) };
    /// What the hook saw of the last panic of this thread.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// For the program's panic hook: true if the panic costs the query that this thread works on and nothing else. The hook
/// must then return. False everywhere else.
pub fn note_panic(panic: &PanicHookInfo) -> bool {
    if !IS_ISOLATED.get() {
        return false;
    }
    LAST_PANIC.with_borrow_mut(|last| *last = Some(panic.to_string()));
    true
}

/// Runs `work` on this thread; the text of the panic if it unwinds.
pub(crate) fn isolated<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    IS_ISOLATED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_ISOLATED.set(false);
    outcome.map_err(|payload| {
        let noted = LAST_PANIC.with_borrow_mut(Option::take);
        // Without the program's hook, as in tests, the payload is all there is.
        let text = || {
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
        };
        noted.unwrap_or_else(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwind_is_an_error_with_its_text() {
        assert_eq!(isolated(|| 7), Ok(7));
        let numbers: Vec<u32> = Vec::new();
        let error = isolated(|| numbers[numbers.len()]).unwrap_err();
        assert!(error.contains("index out of bounds"), "{error}");
        assert!(!IS_ISOLATED.get(), "the mark goes with the work");
    }
}
