//! A set of slots, 64 to a word.

/// One bit per slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(pub Vec<u64>);

impl Bits {
    pub fn get(&self, slot: usize) -> bool {
        self.0.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    pub fn set(&mut self, slot: usize) {
        if self.0.len() <= slot / 64 {
            self.0.resize(slot / 64 + 1, 0);
        }
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    pub fn clear(&mut self, slot: usize) {
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Sets all slots of a range, word by word.
    pub fn set_all(&mut self, slots: std::ops::Range<usize>) {
        if slots.is_empty() {
            return;
        }
        let (first, last) = (slots.start / 64, (slots.end - 1) / 64);
        if self.0.len() <= last {
            self.0.resize(last + 1, 0);
        }
        for (at, word) in self.0[first..=last].iter_mut().enumerate() {
            let from = if at == 0 { u64::MAX << (slots.start % 64) } else { u64::MAX };
            let to = if first + at == last { u64::MAX >> (63 - (slots.end - 1) % 64) } else { u64::MAX };
            *word |= from & to;
        }
    }
}

/// The places of the set bits, ascending.
pub fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let place = word.trailing_zeros() as usize;
        word &= word - 1;
        Some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_their_slots() {
        for (start, end) in [(0, 0), (0, 1), (0, 64), (0, 65), (5, 64), (63, 65), (64, 128), (70, 300), (299, 300)] {
            let (mut all, mut each) = (Bits::default(), Bits::default());
            all.set_all(start..end);
            (start..end).for_each(|slot| each.set(slot));
            assert_eq!(all, each, "{start}..{end}");
            (start..end).for_each(|slot| all.clear(slot));
            assert!(all.0.iter().all(|word| *word == 0));
        }
    }
}
