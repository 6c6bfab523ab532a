//! A set of numbers that is most often a single one.

use roaring::RoaringBitmap;

/// Numbers of owners or groups. On a mixed fleet nearly every group has one owner, and a bitmap for it would cost more
/// than the group.
#[derive(Clone, Debug, Default)]
pub(super) enum IdSet {
    #[default]
    Empty,
    One(u32),
    Many(Box<RoaringBitmap>),
}

impl IdSet {
    pub fn insert(&mut self, id: u32) {
        match self {
            IdSet::Empty => *self = IdSet::One(id),
            IdSet::One(one) if *one == id => {}
            IdSet::One(one) => *self = IdSet::Many(Box::new(RoaringBitmap::from_iter([*one, id]))),
            IdSet::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    pub fn remove(&mut self, id: u32) {
        match self {
            IdSet::Empty => {}
            IdSet::One(one) if *one == id => *self = IdSet::Empty,
            IdSet::One(_) => {}
            IdSet::Many(ids) => {
                ids.remove(id);
                if ids.len() == 1 {
                    *self = IdSet::One(ids.min().expect("there is one"));
                }
            }
        }
    }

    pub fn contains(&self, id: u32) -> bool {
        match self {
            IdSet::Empty => false,
            IdSet::One(one) => *one == id,
            IdSet::Many(ids) => ids.contains(id),
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, IdSet::Empty)
    }

    pub fn len(&self) -> u64 {
        match self {
            IdSet::Empty => 0,
            IdSet::One(_) => 1,
            IdSet::Many(ids) => ids.len(),
        }
    }

    /// Whether the sets have a number in common.
    pub fn meets(&self, other: &RoaringBitmap) -> bool {
        match self {
            IdSet::Empty => false,
            IdSet::One(one) => other.contains(*one),
            IdSet::Many(ids) => !ids.is_disjoint(other),
        }
    }

    /// The numbers that are in `other`, or all.
    pub fn within(&self, other: Option<&RoaringBitmap>) -> RoaringBitmap {
        match (self, other) {
            (IdSet::Empty, _) => RoaringBitmap::new(),
            (IdSet::One(one), Some(other)) if !other.contains(*one) => RoaringBitmap::new(),
            (IdSet::One(one), _) => RoaringBitmap::from_iter([*one]),
            (IdSet::Many(ids), Some(other)) => &**ids & other,
            (IdSet::Many(ids), None) => (**ids).clone(),
        }
    }

    pub fn add_to(&self, all: &mut RoaringBitmap) {
        match self {
            IdSet::Empty => {}
            IdSet::One(one) => {
                all.insert(*one);
            }
            IdSet::Many(ids) => *all |= &**ids,
        }
    }

    pub fn remove_from(&self, all: &mut RoaringBitmap) {
        match self {
            IdSet::Empty => {}
            IdSet::One(one) => {
                all.remove(*one);
            }
            IdSet::Many(ids) => *all -= &**ids,
        }
    }
}
