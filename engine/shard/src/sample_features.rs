//! What is stored besides samples as they come.

/// What a start of the server decides of what is stored besides samples as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleFeatures {
    /// Series get a zero sample at the time at which they began.
    pub injects_zeros: bool,
    /// Samples keep the time at which what they count began.
    pub stores_starts: bool,
    /// Series get labels for the type and unit of their metric.
    pub labels_types: bool,
}

impl SampleFeatures {
    /// Whether what formats say of start times is read, rather than stored as series.
    pub fn reads_starts(self) -> bool {
        self.injects_zeros || self.stores_starts
    }
}
