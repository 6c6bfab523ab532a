//! The shape of a payload, taken from one run to the next.

use super::{ClassCache, Reader, ResolvedTemplate, TemplateRef, hashes};
use ahash::AHashSet;
use exposition::Template;
use std::rc::Rc;
use std::sync::Arc;
use tsdb::SlotGroup;

/// The shape that a payload had in an earlier run, with what its lines become in this one. No series is in it twice.
pub struct Layout(Vec<TemplateRef>);

/// What decides what a layout is made of, beside its templates. Layouts are equal for targets with the same one.
#[derive(Clone)]
pub struct LayoutContext {
    room: Rc<ClassCache>,
    report: Arc<SlotGroup>,
}

impl LayoutContext {
    /// Equal for the same one, as long as both live.
    pub fn address(&self) -> (usize, usize) {
        (Rc::as_ptr(&self.room).addr(), Arc::as_ptr(&self.report).addr())
    }
}

impl Reader {
    /// Whether no body was good so far.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    pub fn layout_context(&self) -> LayoutContext {
        LayoutContext { room: self.room.clone(), report: self.report.clone() }
    }

    /// The shape of the last good body. None if there is none, or if it has lines that repeat others: which ones do
    /// depends on the whole payload.
    pub fn shape(&self) -> Option<impl Iterator<Item = &Rc<ResolvedTemplate>>> {
        let is_plain = !self.shape.is_empty() && self.shape.iter().all(|known| known.0.repeats.is_empty());
        is_plain.then(|| self.shape.iter().map(|known| &known.0))
    }

    /// Makes a layout of the templates that a payload of this target had in an earlier run. None if a template is
    /// missing, or if the layout is of no use with the settings of this run: a line fails the scrape, or two lines have
    /// the same series.
    pub fn layout(&self, templates: impl Iterator<Item = Option<Template>>) -> Option<Layout> {
        let mut unit = None;
        let stanza = |template: Option<Template>| {
            let known = self.room.stanza(template?, &[], 0, &unit, &self.target_labels).ok()?;
            unit.clone_from(&known.0.unit_behind);
            Some(known)
        };
        let shape = templates.map(stanza).collect::<Option<Vec<TemplateRef>>>()?;
        let hasher = &self.room.hasher;
        let mut seen: AHashSet<u64> = hashes(&self.report, hasher).collect();
        let of = |known: &TemplateRef| hashes(&known.0.slots, hasher).all(|hash| seen.insert(hash));
        let is_unique = shape.iter().all(of);
        is_unique.then_some(Layout(shape))
    }

    /// Expects the next body to have this shape, if no body was good so far.
    pub fn remember(&mut self, layout: &Layout) {
        let Some(first) = layout.0.first() else { return };
        // Labels that are too long are found where a body is resolved.
        if self.is_first && self.room.class.check_lengths("", self.target_labels.iter()).is_ok() {
            self.is_remembered = true;
            self.format = first.0.template.format();
            self.shape.clone_from(&layout.0);
            self.settle();
        }
    }

    /// How many slots of `shape` have the labels of one of `earlier`.
    pub(super) fn slots_in_both(&self, earlier: &[TemplateRef], shape: &[TemplateRef]) -> u64 {
        let of = |known: &TemplateRef| hashes(&known.0.slots, &self.room.hasher).collect::<Vec<u64>>();
        let of_earlier: AHashSet<u64> = earlier.iter().flat_map(of).collect();
        shape.iter().flat_map(of).filter(|hash| of_earlier.contains(hash)).count() as u64
    }
}
