//! Lists and mappings of an answer, of a bounded number of entries: a body of short entries would take many times its size.

use super::TARGETS_MAX;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A list of at most [`TARGETS_MAX`] entries; more are an error.
pub struct Bounded<T>(pub Vec<T>);

/// A mapping of at most [`TARGETS_MAX`] entries; more are an error.
pub struct BoundedMap<T>(pub BTreeMap<String, T>);

fn too_many<E: Error>() -> E {
    E::custom(format_args!("more than {TARGETS_MAX} entries"))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bounded<T>, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Bounded<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_element()? {
                    if list.len() == TARGETS_MAX {
                        return Err(too_many());
                    }
                    list.push(entry);
                }
                Ok(Bounded(list))
            }
        }

        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for BoundedMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BoundedMap<T>, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = BoundedMap<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<BoundedMap<T>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, value)) = entries.next_entry()? {
                    if map.len() == TARGETS_MAX {
                        return Err(too_many());
                    }
                    map.insert(name, value);
                }
                Ok(BoundedMap(map))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_entries_than_targets_are_an_error() {
        let list = |count: usize| serde_json::from_str::<Bounded<u8>>(&format!("[{}1]", "1,".repeat(count - 1)));
        assert_eq!(list(TARGETS_MAX).unwrap_or_else(|error| panic!("{error}")).0.len(), TARGETS_MAX);
        let error = list(TARGETS_MAX + 1).err().unwrap().to_string();
        assert!(error.starts_with("more than 500000 entries"), "{error}");
        let map: Vec<String> = (0..=TARGETS_MAX).map(|i| format!("\"{i}\":0")).collect();
        let read = |count: usize| serde_json::from_str::<BoundedMap<u8>>(&format!("{{{}}}", map[..count].join(",")));
        assert_eq!(read(TARGETS_MAX).unwrap_or_else(|error| panic!("{error}")).0.len(), TARGETS_MAX);
        assert!(read(TARGETS_MAX + 1).is_err());
        assert!(serde_json::from_str::<Bounded<u8>>("null").is_err());
    }
}
