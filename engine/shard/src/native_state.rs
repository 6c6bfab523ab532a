//! What a target's native histograms leave from one payload to the next, and what is counted of them.

use ahash::AHashMap;
use series::Labels;

/// Native histograms of a payload, for what holds for them and its lines together.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeCounts {
    pub scraped: u64,
    /// Those that relabelling keeps.
    pub kept: u64,
    /// One of them has more buckets than it may have.
    pub limit_exceeded: bool,
}

/// Labels of the series of each text, None where relabelling drops it.
#[derive(Debug, Default)]
pub struct NativePolicies {
    /// Beside the labels, the number of the payload that had the text last.
    of_texts: AHashMap<Box<[u8]>, (Option<Labels>, u64)>,
    payloads: u64,
    /// Texts that the payload at hand has.
    present: usize,
}

impl NativePolicies {
    pub fn clear(&mut self) {
        self.of_texts.clear();
    }

    /// Another payload comes.
    pub fn begin_payload(&mut self) {
        self.payloads += 1;
        self.present = 0;
    }

    /// The labels of a text that is known.
    pub fn get(&mut self, text: &[u8]) -> Option<Option<Labels>> {
        let (labels, last) = self.of_texts.get_mut(text)?;
        self.present += usize::from(*last != self.payloads);
        *last = self.payloads;
        Some(labels.clone())
    }

    pub fn insert(&mut self, text: Vec<u8>, labels: Option<Labels>) {
        self.present += 1;
        self.of_texts.insert(text.into(), (labels, self.payloads));
    }

    /// Forgets texts that the payload at hand has not, or not before its fault.
    pub fn retain_present(&mut self) {
        let payload = self.payloads;
        if self.present == self.of_texts.len() {
            return;
        }
        self.of_texts.retain(|_, (_, last)| *last == payload);
    }
}
