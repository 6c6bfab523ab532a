//! Label sets: sorted by name, names unique, without empty values unless a caller keeps them on purpose.

use crate::Quoted;
use std::fmt;
use std::sync::Arc;

/// Name of the label that holds the metric name.
pub const METRIC_NAME: &str = "__name__";

/// An immutable label set, sorted by label name. Cloning copies a pointer.
///
/// All text lies in one string; `ends` holds the end of each name and each value in turn. A set of any size takes two
/// allocations.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<Inner>);

#[derive(PartialEq, Eq, Hash)]
struct Inner {
    text: Box<str>,
    ends: Box<[u32]>,
}

impl PartialOrd for Inner {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Inner {
    /// Compares label by label, name before value; a prefix is less than what extends it. This is Prometheus' order of
    /// series.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.iter().cmp(other.iter())
    }
}

impl Inner {
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.ends.chunks_exact(2).scan(0usize, |start, pair| {
            let (name_end, value_end) = (pair[0] as usize, pair[1] as usize);
            let label = (&self.text[*start..name_end], &self.text[name_end..value_end]);
            *start = value_end;
            Some(label)
        })
    }
}

impl Labels {
    /// Returns the bytes of memory that the set takes, shared by its clones.
    pub fn bytes(&self) -> usize {
        /// Headers of three allocations and the two lengths.
        const OVERHEAD: usize = 80;
        self.0.text.len() + size_of_val(&*self.0.ends) + OVERHEAD
    }

    /// Returns the set without labels.
    pub fn empty() -> Labels {
        Labels::from_sorted(std::iter::empty())
    }

    /// Builds a set from pairs in any order. Of equal names the last one wins; empty values are kept.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Labels {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set_keep_empty(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// Builds a set from pairs that are sorted by name and unique.
    ///
    /// # Panics
    /// If names and values together exceed 4 GiB.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
        let mut text = String::new();
        let mut ends = Vec::new();
        let mut last: Option<&str> = None;
        for (name, value) in pairs {
            debug_assert!(last.is_none_or(|last| last < name), "labels are sorted and unique: {last:?} then {name:?}");
            last = Some(name);
            text.push_str(name);
            ends.push(text.len() as u32);
            text.push_str(value);
            ends.push(text.len() as u32);
        }
        assert!(text.len() <= u32::MAX as usize, "a label set stays below 4 GiB");
        Labels(Arc::new(Inner { text: text.into_boxed_str(), ends: ends.into_boxed_slice() }))
    }

    /// Returns the labels, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter()
    }

    /// Returns the value of label `name`, if the set has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Returns the metric name, or "" if there is none.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// Returns the number of labels.
    pub fn len(&self) -> usize {
        self.0.ends.len() / 2
    }

    /// Returns whether the set has no label.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// Returns XXH64 over name, 0xff, value, 0xff of every label. It is the same in every run and on every machine.
    pub fn hash64(&self) -> u64 {
        let mut hasher = xxhash_rust::xxh64::Xxh64::new(0);
        for (name, value) in self.iter() {
            hasher.update(name.as_bytes());
            hasher.update(&[0xff]);
            hasher.update(value.as_bytes());
            hasher.update(&[0xff]);
        }
        hasher.digest()
    }

    /// Returns a builder that starts from these labels.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { pairs: self.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }

    /// Returns the union of two sets; where both have a name, `self` wins. The labels of a series are the labels of its
    /// slot merged with those of its target.
    pub fn merged(&self, other: &Labels) -> Labels {
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        Labels::from_sorted(std::iter::from_fn(|| match (left.peek(), right.peek()) {
            (Some(l), Some(r)) if l.0 == r.0 => {
                right.next();
                left.next()
            }
            (Some(l), Some(r)) if l.0 > r.0 => right.next(),
            (Some(_), _) => left.next(),
            (None, _) => right.next(),
        }))
    }
}

impl fmt::Display for Labels {
    /// Writes Prometheus' form: `{a="1", b="2"}`, with names quoted where they need it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            if is_legacy_label_name(name) {
                write!(f, "{name}=")?
            } else {
                write!(f, "{}=", Quoted(name))?
            }
            Quoted(value).fmt(f)?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A label set under construction, as relabelling changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelsBuilder {
    /// Sorted by name, unique.
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Returns the value of label `name`, or "" if it is absent: Prometheus treats the two as equal.
    pub fn get(&self, name: &str) -> &str {
        self.find(name).map_or("", |at| &self.pairs[at].1)
    }

    /// Returns whether the label is present, even with an empty value.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Sets a label. An empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        if value.is_empty() { self.remove(name) } else { self.set_keep_empty(name, value) }
    }

    /// Sets a label, also to an empty value.
    pub fn set_keep_empty(&mut self, name: &str, value: &str) {
        match self.find(name) {
            Ok(at) => value.clone_into(&mut self.pairs[at].1),
            Err(at) => self.pairs.insert(at, (name.to_owned(), value.to_owned())),
        }
    }

    /// Removes a label if it is present.
    pub fn remove(&mut self, name: &str) {
        if let Ok(at) = self.find(name) {
            self.pairs.remove(at);
        }
    }

    /// Removes the labels for which `keep(name, value)` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.pairs.retain(|(name, value)| keep(name, value));
    }

    /// Returns the labels so far, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the finished set.
    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.iter())
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name))
    }
}

/// Returns whether `name` has the form `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_legacy_label_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty() && !bytes[0].is_ascii_digit() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Returns whether `name` has the form `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_legacy_metric_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && !bytes[0].is_ascii_digit()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_found() {
        let labels = Labels::from_pairs([("b", "2"), ("a", "1"), ("b", "3")]);
        assert_eq!(labels.to_string(), r#"{a="1", b="3"}"#);
        assert_eq!(labels.get("b"), Some("3"));
        assert_eq!(labels.get("c"), None);
        assert_eq!(labels.len(), 2);
    }

    #[test]
    fn order_is_label_by_label() {
        let set = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        assert!(set(&[("a", "1")]) < set(&[("a", "1"), ("b", "1")]));
        assert!(set(&[("a", "2")]) > set(&[("a", "1"), ("b", "1")]));
        assert!(set(&[("a", "1")]) < set(&[("b", "0")]));
    }

    #[test]
    fn merged_prefers_the_left_side() {
        let slot = Labels::from_pairs([("__name__", "up"), ("job", "own")]);
        let target = Labels::from_pairs([("instance", "x:1"), ("job", "j"), ("zone", "z")]);
        assert_eq!(slot.merged(&target).to_string(), r#"{__name__="up", instance="x:1", job="own", zone="z"}"#);
        assert_eq!(Labels::empty().merged(&target), target);
        assert_eq!(target.merged(&Labels::empty()), target);
    }

    #[test]
    fn set_with_an_empty_value_deletes() {
        let mut builder = Labels::from_pairs([("a", "1")]).to_builder();
        builder.set("a", "");
        assert!(builder.build().is_empty());
    }
}
