//! From a body to the values of one row: the walk over known templates, the parse of what is new, limits, report series.
//!
//! Knows no clock, no socket and no runtime: time, bytes and pauses are handed in.
//!
//! Invariants:
//!   * a scrape is stored whole or not at all; a failed one ends every series of the target but the report series
//!   * a line known from the last good scrape costs one comparison and one number; nothing of it is decoded again
//!   * no two unstamped slots of a target have the same labels: the first line wins
//!   * a target's report series are its own; a line that would be one of them is dropped and counted as a duplicate

mod layout;
mod noted_starts;

use crate::class::{Class, Outcome};
use crate::native_state::{NativeCounts, NativePolicies};
use crate::sample_features::SampleFeatures;
use crate::start_times::{PayloadLine, StartLine, has_start, is_start_line, start_lines};
use crate::status::{Metadata, MetadataSize};
use ahash::{AHashMap, AHashSet, RandomState};
use config::ScrapeConfig;
use exposition::{ExemplarSeen, FamilyUnit, Format, LayoutPart, Readings, ScanProgress, ScanResult, Template};
use fetch::Reason;
use series::{Labels, METRIC_NAME, with_metadata_labels};
use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tsdb::{GroupBuilder, SlotGroup};

pub use layout::{Layout, LayoutContext};

/// Names of the report series, in slot order; the last three with `extra_scrape_metrics` only.
const REPORT: [&str; 8] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    "scrape_timeout_seconds",
    "scrape_sample_limit",
    "scrape_body_size_bytes",
];
const REPORT_ALWAYS: usize = 5;
/// Metadata of families that are gone, or of a body that was refused, is told for so many good bodies more, as in Prometheus.
const OTHERS_RETAINED: u32 = 10;
/// Lines resolved before other tasks of the core get their turn.
const LINES_PER_TURN: usize = 500;
/// After so many scrapes in which nothing changed, a shape that changes have cut up is cut anew by its content alone, as
/// those of its neighbours are.
const WARM_BEFORE_REJOINING: u32 = 120;
/// A shape of more pieces than [`PIECES_ALWAYS`] and one for so many lines is no use: lines change their places, say.
const LINES_PER_PIECE_MIN: usize = 4;
const PIECES_ALWAYS: usize = 64;

/// What is told of every scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub up: bool,
    pub duration_seconds: f64,
    pub samples_scraped: u64,
    pub samples_post_relabel: u64,
    pub series_added: u64,
    /// Unpacked bytes; -1 when the body passed its limit.
    pub body_bytes: i64,
}

impl Report {
    /// The values of the report series, in slot order.
    pub fn values(&self, job: &ScrapeConfig, timeout_seconds: f64) -> impl Iterator<Item = f64> {
        let values = [
            if self.up { 1.0 } else { 0.0 },
            self.duration_seconds,
            self.samples_scraped as f64,
            self.samples_post_relabel as f64,
            self.series_added as f64,
            timeout_seconds,
            job.sample_limit as f64,
            self.body_bytes as f64,
        ];
        values.into_iter().take(report_count(job))
    }
}

fn report_count(job: &ScrapeConfig) -> usize {
    if job.extra_scrape_metrics { REPORT.len() } else { REPORT_ALWAYS }
}

/// Why a body was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub text: String,
}

/// What came of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    pub samples_scraped: u64,
    pub samples_post_relabel: u64,
    /// Lines that repeat another one, or a report series.
    pub duplicates: u64,
    /// Whether every line was known.
    pub warm: bool,
    /// Whether the slots are others than before: the head has to be told [`Reader::groups`].
    pub reshaped: bool,
    /// Slots that the last run had too: new in the head, but no new series.
    pub remembered: u64,
    pub refusal: Option<Refusal>,
}

/// A run of lines and what became of each, for all targets of a class.
pub struct ResolvedTemplate {
    template: Template,
    slots: Arc<SlotGroup>,
    /// Lines without a slot, ascending: dropped by relabelling, duplicates, or timestamps that are not honoured.
    skipped: Box<[u32]>,
    /// How many of the skipped were dropped by relabelling.
    dropped: u32,
    /// The skipped that are duplicates in their payload.
    repeats: Box<[u32]>,
    /// How many of the repeats Prometheus would count: they repeat the text of a line, or a report series.
    repeats_counted: u32,
    /// The skipped that say when series began; they are no samples.
    starts: Box<[u32]>,
    /// The UNIT in force before and behind it, where units become labels.
    unit_before: Option<FamilyUnit>,
    unit_behind: Option<FamilyUnit>,
    /// Whether timestamps are read and thrown away.
    ignores_stamps: bool,
    /// Hashes of the slots' labels, where somebody wanted to know them.
    hashes: OnceCell<Box<[u64]>>,
    /// What its metadata takes, where somebody wanted to know it.
    metadata_size: OnceCell<MetadataSize>,
}

/// A stanza in a shape.
#[derive(Clone)]
struct TemplateRef(Rc<ResolvedTemplate>);

impl AsRef<Template> for TemplateRef {
    fn as_ref(&self) -> &Template {
        &self.0.template
    }
}

impl ResolvedTemplate {
    pub fn template(&self) -> &Template {
        &self.template
    }

    fn samples(&self) -> u64 {
        (self.template.len() - self.starts.len()) as u64
    }

    fn samples_post_relabel(&self) -> u64 {
        self.samples() - u64::from(self.dropped)
    }

    fn hashes(&self, hasher: &RandomState) -> &[u64] {
        self.hashes.get_or_init(|| hashes(&self.slots, hasher).collect())
    }

    fn metadata_size(&self) -> MetadataSize {
        let bytes = |metadata: Metadata| {
            (metadata.metric.len() + metadata.kind.len() + metadata.help.len() + metadata.unit.len()) as u64
        };
        *self.metadata_size.get_or_init(|| {
            let mut size = MetadataSize::default();
            stanza_metadata(self).for_each(|metadata| size += MetadataSize { metrics: 1, bytes: bytes(metadata) });
            size
        })
    }

    fn heap_bytes(&self) -> usize {
        let hashes = self.hashes.get().map_or(0, |hashes| hashes.len() * 8);
        self.template.heap_bytes()
            + self.slots.heap_bytes()
            + (self.skipped.len() + self.repeats.len() + self.starts.len()) * 4
            + hashes
    }
}

fn hashes(slots: &SlotGroup, hasher: &RandomState) -> impl Iterator<Item = u64> {
    (0..slots.len()).map(|slot| slots.slot_hash(slot, hasher))
}

/// Everything that targets of one class share on a core.
pub struct ClassCache {
    class: Class,
    features: SampleFeatures,
    hasher: RandomState,
    stanzas: RefCell<AHashMap<u64, Vec<Weak<ResolvedTemplate>>>>,
}

/// What a core has interned.
#[derive(Default)]
pub struct Interner {
    features: SampleFeatures,
    classes: AHashMap<u64, Vec<Weak<ClassCache>>>,
    reports: AHashMap<usize, Arc<SlotGroup>>,
}

impl Interner {
    pub fn new(features: SampleFeatures) -> Interner {
        Interner { features, ..Interner::default() }
    }

    /// The room of targets with these labels in this job.
    pub fn class(&mut self, job: &ScrapeConfig, target_labels: &Labels) -> Rc<ClassCache> {
        let class = Class::new(job, target_labels);
        let same = self.classes.entry(class.fingerprint()).or_default();
        if let Some(room) = same.iter().filter_map(Weak::upgrade).find(|room| room.class.same_as(&class)) {
            return room;
        }
        let room = Rc::new(ClassCache {
            class,
            features: self.features,
            hasher: RandomState::new(),
            stanzas: RefCell::default(),
        });
        same.push(Rc::downgrade(&room));
        room
    }

    /// The slots of the report series.
    pub fn report(&mut self, job: &ScrapeConfig) -> Arc<SlotGroup> {
        let count = report_count(job);
        let make = || {
            let mut builder = GroupBuilder::default();
            for name in &REPORT[..count] {
                builder.push(&Labels::from_sorted([(METRIC_NAME, *name)]), false);
            }
            Arc::new(builder.build())
        };
        self.reports.entry(count).or_insert_with(make).clone()
    }

    /// Forgets what no target uses; returns how many stanzas are left and their bytes.
    pub fn sweep(&mut self) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        self.classes.retain(|_, rooms| {
            rooms.retain(|room| room.strong_count() > 0);
            for room in rooms.iter().filter_map(Weak::upgrade) {
                room.stanzas.borrow_mut().retain(|_, stanzas| {
                    stanzas.retain(|stanza| stanza.strong_count() > 0);
                    for stanza in stanzas.iter().filter_map(Weak::upgrade) {
                        count += 1;
                        bytes += stanza.heap_bytes() as u64;
                    }
                    !stanzas.is_empty()
                });
            }
            !rooms.is_empty()
        });
        (count, bytes)
    }
}

/// A line fails the scrape: how many lines of its run were fine before it, how many of those were kept, and why.
struct Failed {
    before: u64,
    kept: u64,
    refusal: Refusal,
}

impl ClassCache {
    /// The stanza of a template with the given lines ignored as repeats.
    fn stanza(
        &self,
        template: Template,
        repeats: &[u32],
        repeats_counted: u32,
        unit: &Option<FamilyUnit>,
        target_labels: &Labels,
    ) -> Result<TemplateRef, Failed> {
        let hash = template.content_hash();
        if let Some(same) = self.stanzas.borrow().get(&hash) {
            let fits = |stanza: &Rc<ResolvedTemplate>| {
                stanza.template == template
                    && *stanza.repeats == *repeats
                    && stanza.repeats_counted == repeats_counted
                    && stanza.unit_before == *unit
            };
            if let Some(stanza) = same.iter().filter_map(Weak::upgrade).find(fits) {
                return Ok(TemplateRef(stanza));
            }
        }
        let stanza = Rc::new(self.resolve(template, repeats, repeats_counted, unit, target_labels)?);
        self.stanzas.borrow_mut().entry(hash).or_default().push(Rc::downgrade(&stanza));
        Ok(TemplateRef(stanza))
    }

    fn resolve(
        &self,
        template: Template,
        repeats: &[u32],
        repeats_counted: u32,
        unit_before: &Option<FamilyUnit>,
        target_labels: &Labels,
    ) -> Result<ResolvedTemplate, Failed> {
        let mut unit_behind = unit_before.clone();
        let units = match self.features.labels_types {
            true => template.units(&mut unit_behind),
            false => Vec::new(),
        };
        let mut slots = GroupBuilder::default();
        let (mut skipped, mut starts, mut dropped) = (Vec::new(), Vec::new(), 0);
        let mut any_stamp = false;
        for (line, kind) in template.kinds().enumerate() {
            let labels = exposition::labels(template.raw(line), kind);
            any_stamp |= template.is_stamped(line);
            let name = labels.iter().find(|(name, _)| name == METRIC_NAME).map_or("", |(_, name)| name);
            if self.features.reads_starts() && is_start_line(template.format(), kind, name) {
                skipped.push(line as u32);
                starts.push(line as u32);
                continue;
            }
            let kind_label = if self.features.labels_types { kind.as_str() } else { "" };
            let unit = units.get(line).and_then(Option::as_deref).unwrap_or("");
            let exposed = labels.iter().map(|(name, value)| (&**name, &**value));
            let pairs = || with_metadata_labels(exposed.clone(), kind_label, unit);
            let mut outcome = self.class.outcome(pairs());
            if matches!(outcome, Outcome::Fail(_)) {
                // Once more with the target's own label values, for the text.
                outcome = match self.class.for_target(target_labels).outcome(pairs()) {
                    failed @ Outcome::Fail(_) => failed,
                    _ => outcome,
                };
            }
            match outcome {
                Outcome::Keep(_) if repeats.contains(&(line as u32)) => skipped.push(line as u32),
                Outcome::Keep(own) => slots.push(&own, template.is_stamped(line) && self.class.honor_timestamps),
                Outcome::Drop => {
                    skipped.push(line as u32);
                    dropped += 1;
                }
                Outcome::Fail(error) => {
                    let refusal = Refusal { reason: error.reason(), text: error.to_string() };
                    let before = (line - starts.len()) as u64;
                    return Err(Failed { before, kept: before - u64::from(dropped), refusal });
                }
            }
        }
        Ok(ResolvedTemplate {
            slots: Arc::new(slots.build()),
            skipped: skipped.into(),
            dropped,
            starts: starts.into(),
            unit_before: unit_before.clone(),
            unit_behind,
            repeats: repeats.into(),
            repeats_counted,
            ignores_stamps: any_stamp && !self.class.honor_timestamps,
            hashes: OnceCell::new(),
            metadata_size: OnceCell::new(),
            template,
        })
    }
}

/// One target's parse state: what its payload looked like at the last good scrape.
pub struct Reader {
    job: Arc<ScrapeConfig>,
    target_labels: Labels,
    room: Rc<ClassCache>,
    report: Arc<SlotGroup>,
    /// The format of the shape.
    format: Format,
    shape: Vec<TemplateRef>,
    /// No body was good so far.
    is_first: bool,
    /// The shape is that of an earlier run, until the first good body.
    is_remembered: bool,
    /// Of another body, whose metadata is told too: the last one if it was refused, or the last one with samples, if there
    /// are none now. For so many good bodies more.
    others: (Vec<TemplateRef>, u32),
    /// Lines of the shape that say when series began, as the last good body has them.
    starts: Vec<StartLine>,
    /// These lines are others than those that were noted last.
    has_other_starts: bool,
    /// Exemplars of the last good body.
    exemplars_seen: Vec<ExemplarSeen>,
    /// Of the native histograms of the last body.
    pub(crate) native_policies: NativePolicies,
    /// Native histograms of the body at hand.
    natives: NativeCounts,
    /// The shape is another than its content alone makes, and how often it has been good since it last changed.
    cut_up: bool,
    warm: u32,
    /// How many more bodies are cut anew at any difference, as lines change their places.
    unsteady: u32,
    /// Over the whole shape.
    samples: u64,
    samples_kept: u64,
    duplicates: u64,
    /// Values come as they are read: no line is skipped.
    plain: bool,
}

impl Reader {
    pub fn new(interner: &mut Interner, job: &Arc<ScrapeConfig>, target_labels: &Labels) -> Reader {
        Reader {
            job: job.clone(),
            target_labels: target_labels.clone(),
            room: interner.class(job, target_labels),
            report: interner.report(job),
            format: Format::default(),
            shape: Vec::new(),
            is_first: true,
            is_remembered: false,
            others: (Vec::new(), 0),
            starts: Vec::new(),
            has_other_starts: false,
            exemplars_seen: Vec::new(),
            native_policies: NativePolicies::default(),
            natives: NativeCounts::default(),
            cut_up: false,
            warm: 0,
            unsteady: 0,
            samples: 0,
            samples_kept: 0,
            duplicates: 0,
            plain: true,
        }
    }

    /// The job has other settings now. What they do not touch stays known; the slots of the report series if they are
    /// others.
    pub fn retarget(&mut self, interner: &mut Interner, job: &Arc<ScrapeConfig>) -> Option<Arc<SlotGroup>> {
        let room = interner.class(job, &self.target_labels);
        let report = interner.report(job);
        self.job = job.clone();
        if !Rc::ptr_eq(&room, &self.room) {
            self.room = room;
            self.shape.clear();
            self.others.0.clear();
            self.native_policies.clear();
            self.settle();
        }
        let changed = !Arc::ptr_eq(&report, &self.report);
        self.report = report;
        changed.then(|| self.report.clone())
    }

    pub(crate) fn job(&self) -> &ScrapeConfig {
        &self.job
    }

    pub(crate) fn target_labels(&self) -> &Labels {
        &self.target_labels
    }

    /// The class with the target's own label values.
    pub(crate) fn class_of_target(&self) -> Class {
        self.room.class.for_target(&self.target_labels)
    }

    /// The native histograms that come with the next body: limits and counts hold for both together.
    pub fn set_natives(&mut self, natives: NativeCounts) {
        self.natives = natives;
    }

    pub(crate) fn reads_start_times(&self) -> bool {
        self.room.features.reads_starts()
    }

    /// Whether types and units become labels.
    pub(crate) fn labels_types(&self) -> bool {
        self.room.features.labels_types
    }

    /// When series of the last good body began.
    pub(crate) fn starts(&self) -> &[StartLine] {
        &self.starts
    }

    /// The groups of slots that take values: report series first, then the payload's.
    pub fn groups(&self) -> Vec<Arc<SlotGroup>> {
        let payload = self.shape.iter().map(|known| known.0.slots.clone()).filter(|slots| !slots.is_empty());
        std::iter::once(self.report.clone()).chain(payload).collect()
    }

    /// Reads a body. On success `readings` holds a value per slot of the payload, a timestamp per stamped slot, and the
    /// exemplars of slots.
    /// `pause` lets others run now and then in a body that is long or has much that is new. A body of more than
    /// `samples_max` is refused as soon as that is seen.
    pub async fn read(
        &mut self,
        format: Format,
        body: &[u8],
        samples_max: u64,
        readings: &mut Readings,
        pause: impl AsyncFn(),
    ) -> Ingested {
        let ingested = self.read_body(format, body, samples_max, readings, pause).await;
        if ingested.refusal.is_none() {
            (self.is_first, self.is_remembered) = (false, false);
        } else if self.is_remembered {
            // Nothing of this target was stored in this run.
            self.is_remembered = false;
            self.shape.clear();
            self.settle();
        }
        ingested
    }

    async fn read_body(
        &mut self,
        format: Format,
        body: &[u8],
        samples_max: u64,
        readings: &mut Readings,
        pause: impl AsyncFn(),
    ) -> Ingested {
        let mut ingested = Ingested::default();
        // An empty body is nothing, in any format.
        let format = if body.is_empty() { Format::Text } else { format };
        readings.seen.clone_from(&self.exemplars_seen);
        let shape = std::mem::take(&mut self.shape);
        let rejoins = self.cut_up && self.warm >= WARM_BEFORE_REJOINING;
        let mut along = if rejoins || format != self.format { &[] } else { &shape[..] };
        let pieces_max = if self.unsteady == 0 { PIECES_ALWAYS } else { 0 };
        let mut walked = walk(along, (format, body), (samples_max, pieces_max), readings, &pause).await;
        if let Err(ScanAbort::Scattered) = walked {
            along = &[];
            self.unsteady = if self.unsteady == 0 { WARM_BEFORE_REJOINING } else { self.unsteady - 1 };
            walked = walk(along, (format, body), (samples_max, usize::MAX), readings, &pause).await;
        }
        if along.is_empty() {
            self.warm = 0;
        }
        let walked = match walked {
            Ok(walked) => walked,
            Err(halt) => {
                self.shape = shape;
                let ScanAbort::TooLong(refused) = halt else { unreachable!("there is no limit for pieces") };
                return refused;
            }
        };
        let ScanResult::Changed { pieces, error } = walked else {
            self.shape = shape;
            self.warm += 1;
            ingested.warm = true;
            if self.is_remembered {
                ingested.reshaped = true;
                ingested.remembered = self.shape.iter().map(|known| known.0.slots.len() as u64).sum();
            }
            if !self.others.0.is_empty() {
                self.forget_others();
            }
            self.set_counts(&mut ingested);
            self.see_exemplars(readings);
            self.see_starts(readings);
            self.compact(readings);
            return ingested;
        };
        let cut_up = !along.is_empty();
        match self.resolve(&shape, pieces, &mut ingested, pause).await {
            Ok(resolved) if error.is_none() => {
                if self.is_remembered {
                    ingested.remembered = self.slots_in_both(&shape, &resolved);
                }
                self.shape = resolved;
                self.settle();
                self.set_counts(&mut ingested);
                if ingested.refusal.is_some() {
                    let refused = std::mem::replace(&mut self.shape, shape);
                    self.remember_others(refused);
                    self.settle();
                } else {
                    self.forget_others();
                    if self.samples == 0 && !shape.is_empty() {
                        self.remember_others(shape);
                    }
                    ingested.reshaped = true;
                    self.format = format;
                    (self.cut_up, self.warm) = (cut_up, 0);
                    self.see_exemplars(readings);
                    self.see_starts(readings);
                    self.compact(readings);
                }
            }
            Ok(resolved) => {
                self.shape = shape;
                let samples = |of: fn(&ResolvedTemplate) -> u64| resolved.iter().map(|known| of(&known.0)).sum::<u64>();
                ingested.samples_scraped = samples(ResolvedTemplate::samples) + self.natives.scraped;
                ingested.samples_post_relabel = samples(ResolvedTemplate::samples_post_relabel) + self.natives.kept;
                self.remember_others(resolved);
                let text = error.expect("checked above").text;
                ingested.refusal = Some(Refusal { reason: Reason::Parse, text });
            }
            Err(failed) => {
                self.shape = shape;
                ingested.samples_scraped += failed.before + 1 + self.natives.scraped;
                ingested.samples_post_relabel += failed.kept + self.natives.kept;
                ingested.refusal = Some(failed.refusal);
            }
        }
        ingested
    }

    /// Keeps what a body said of its metrics that is not the last good one.
    fn remember_others(&mut self, mut pieces: Vec<TemplateRef>) {
        pieces.retain(|known| known.0.template.metadata().next().is_some());
        self.others = (pieces, OTHERS_RETAINED);
    }

    /// A good body has come: what others said counts for some more of them.
    fn forget_others(&mut self) {
        self.others.1 = self.others.1.saturating_sub(1);
        if self.others.1 == 0 {
            self.others.0.clear();
        }
    }

    /// Remembers the exemplars of a good body.
    fn see_exemplars(&mut self, readings: &Readings) {
        let is_same = readings.exemplars.len() == self.exemplars_seen.len();
        if !is_same || readings.exemplars.iter().any(|exemplar| exemplar.is_new) {
            self.exemplars_seen.clear();
            self.exemplars_seen.extend(readings.exemplars.iter().map(|exemplar| (exemplar.value, exemplar.hash)));
        }
    }

    /// Remembers when series began.
    fn see_starts(&mut self, readings: &Readings) {
        for start in &mut self.starts {
            let seconds = readings.values[start.value as usize];
            start.is_new |= seconds.to_bits() != start.seconds.to_bits();
            start.seconds = seconds;
        }
    }

    /// Counts of a payload that was read to its end, and the limits that hold for all of it.
    fn set_counts(&self, ingested: &mut Ingested) {
        let NativeCounts { scraped: natives, kept: natives_kept, limit_exceeded } = self.natives;
        ingested.samples_scraped = self.samples + natives;
        ingested.samples_post_relabel = self.samples_kept + natives_kept;
        ingested.duplicates = self.duplicates;
        // A text that repeats another one is no sample that the limit could mind.
        if self.job.sample_limit > 0 && self.samples_kept + natives_kept - self.duplicates > self.job.sample_limit {
            let text = "sample limit exceeded".to_owned();
            ingested.refusal = Some(Refusal { reason: Reason::SampleLimit, text });
        } else if limit_exceeded {
            let text = "histogram bucket limit exceeded".to_owned();
            ingested.refusal = Some(Refusal { reason: Reason::BucketLimit, text });
        }
    }

    /// Stanzas for all pieces, each series in one of them only.
    async fn resolve(
        &self,
        shape: &[TemplateRef],
        pieces: Vec<LayoutPart>,
        ingested: &mut Ingested,
        pause: impl AsyncFn(),
    ) -> Result<Vec<TemplateRef>, Failed> {
        self.check_target_labels(&pieces, shape)?;
        let mut resolved: Vec<TemplateRef> = Vec::with_capacity(pieces.len());
        // Places of those that were not in the shape before.
        let mut new: Vec<usize> = Vec::new();
        let mut lines = 0;
        let mut unit = None;
        for piece in pieces {
            let known = match piece {
                LayoutPart::Known(i) if shape[i].0.repeats.is_empty() && shape[i].0.unit_before == unit => {
                    shape[i].clone()
                }
                LayoutPart::Known(i) => {
                    new.push(resolved.len());
                    self.room.stanza(shape[i].0.template.clone(), &[], 0, &unit, &self.target_labels)?
                }
                LayoutPart::New(template) => {
                    new.push(resolved.len());
                    lines += template.len();
                    self.room.stanza(template, &[], 0, &unit, &self.target_labels)?
                }
            };
            unit.clone_from(&known.0.unit_behind);
            ingested.samples_scraped += known.0.samples();
            ingested.samples_post_relabel += known.0.samples_post_relabel();
            resolved.push(known);
            if lines >= LINES_PER_TURN {
                lines = 0;
                pause().await;
            }
        }
        if !self.may_repeat(&resolved, &new) {
            return Ok(resolved);
        }
        // Hash of a slot's labels, to where its line is; report series have no line.
        let mut first: AHashMap<u64, Option<(usize, u32)>> = AHashMap::new();
        first.extend(hashes(&self.report, &self.room.hasher).map(|hash| (hash, None)));
        for at in 0..resolved.len() {
            let (repeats, counted) = self.repeats(&resolved[at].0, at, &resolved, &mut first);
            if !repeats.is_empty() {
                let template = resolved[at].0.template.clone();
                let unit = resolved[at].0.unit_before.clone();
                resolved[at] = self.room.stanza(template, &repeats, counted, &unit, &self.target_labels)?;
            }
            lines += resolved[at].0.template.len();
            if lines >= LINES_PER_TURN {
                lines = 0;
                pause().await;
            }
        }
        Ok(resolved)
    }

    /// Whether a slot of the `new` stanzas may have the labels of another one. The others have no two with the same.
    fn may_repeat(&self, resolved: &[TemplateRef], new: &[usize]) -> bool {
        let hasher = &self.room.hasher;
        let count = |known: &TemplateRef| known.0.slots.len();
        let of_new: usize = new.iter().map(|at| count(&resolved[*at])).sum();
        if of_new * 2 > resolved.iter().map(count).sum() {
            // It is as quick to look at all, and no hash has to be kept for it.
            return true;
        }
        let mut seen: AHashSet<u64> = AHashSet::with_capacity(of_new);
        if !new.iter().flat_map(|at| hashes(&resolved[*at].0.slots, hasher)).all(|hash| seen.insert(hash)) {
            return true;
        }
        let mut new = new.iter().copied().peekable();
        let known = resolved.iter().enumerate().filter(|(at, _)| new.next_if_eq(at).is_none());
        let known = known.flat_map(|(_, known)| known.0.hashes(hasher)).copied();
        hashes(&self.report, hasher).chain(known).any(|hash| seen.contains(&hash))
    }

    /// Target labels count towards the label limits, but their values are not the class's: a target with too long ones
    /// fails at its first sample; with honor_labels at the first that does not bring its own.
    fn check_target_labels(&self, pieces: &[LayoutPart], shape: &[TemplateRef]) -> Result<(), Failed> {
        let class = &self.room.class;
        if class.check_lengths("", self.target_labels.iter()).is_ok() {
            return Ok(());
        }
        let template = |piece| match piece {
            &LayoutPart::Known(i) => &shape[i].0.template,
            LayoutPart::New(template) => template,
        };
        let lines = pieces.iter().map(template).flat_map(|template| (0..template.len()).map(|line| template.raw(line)));
        for (before, raw) in lines.enumerate() {
            let own = exposition::labels(raw, exposition::Kind::Unknown);
            let metric = own.first().map_or("", |(_, name)| name);
            let honored = |name: &str| class.honor_labels && own.iter().any(|(other, _)| other == name);
            let added = self.target_labels.iter().filter(|(name, _)| !honored(name));
            class.check_lengths(metric, added).map_err(|error| Failed {
                before: before as u64,
                kept: before as u64,
                refusal: Refusal { reason: error.reason(), text: error.to_string() },
            })?;
        }
        Ok(())
    }

    /// Lines of a stanza whose series an earlier line has, and how many of them Prometheus would count.
    fn repeats(
        &self,
        stanza: &ResolvedTemplate,
        index: usize,
        resolved: &[TemplateRef],
        first: &mut AHashMap<u64, Option<(usize, u32)>>,
    ) -> (Vec<u32>, u32) {
        use std::collections::hash_map::Entry;
        let (mut repeats, mut counted) = (Vec::new(), 0);
        let mut skipped = stanza.skipped.iter().peekable();
        let mut slot = 0;
        for line in 0..stanza.template.len() as u32 {
            if skipped.next_if(|skipped| **skipped == line).is_some() {
                continue;
            }
            let hash = stanza.slots.slot_hash(slot, &self.room.hasher);
            let stamped = stanza.slots.is_stamped(slot);
            slot += 1;
            match first.entry(hash) {
                Entry::Vacant(place) => {
                    place.insert(Some((index, line)));
                }
                Entry::Occupied(place) => match *place.get() {
                    None => {
                        repeats.push(line);
                        counted += 1;
                    }
                    // Several samples of a series in one body, each with its time, are samples.
                    Some(_) if stamped => {}
                    Some((at, earlier)) => {
                        let other = if at == index { &stanza.template } else { &resolved[at].0.template };
                        repeats.push(line);
                        counted += u32::from(other.raw(earlier as usize) == stanza.template.raw(line as usize));
                    }
                },
            }
        }
        (repeats, counted)
    }

    fn settle(&mut self) {
        let had_starts = !self.starts.is_empty();
        self.starts = match self.shape.iter().any(|known| !known.0.starts.is_empty()) {
            true => start_lines(lines_with_starts(&self.shape)),
            false => Vec::new(),
        };
        self.has_other_starts |= had_starts || !self.starts.is_empty();
        let sum = |of: fn(&ResolvedTemplate) -> u64| self.shape.iter().map(|known| of(&known.0)).sum();
        self.samples = sum(ResolvedTemplate::samples);
        self.samples_kept = sum(ResolvedTemplate::samples_post_relabel);
        self.duplicates = sum(|stanza| u64::from(stanza.repeats_counted));
        self.plain = self.shape.iter().all(|known| known.0.skipped.is_empty() && !known.0.ignores_stamps);
    }

    /// Takes out the readings of lines without a slot.
    fn compact(&self, readings: &mut Readings) {
        if self.plain {
            return;
        }
        let (mut from, mut to) = (0, 0);
        let (mut stamp_from, mut stamp_to) = (0, 0);
        let (mut exemplar_from, mut exemplar_to) = (0, 0);
        for stanza in self.shape.iter().map(|known| &known.0) {
            let mut skipped = stanza.skipped.iter().peekable();
            for line in 0..stanza.template.len() {
                let keep = skipped.next_if(|skipped| **skipped == line as u32).is_none();
                if readings.exemplars.get(exemplar_from).is_some_and(|exemplar| exemplar.value as usize == from) {
                    if keep {
                        readings.exemplars.swap(exemplar_to, exemplar_from);
                        readings.exemplars[exemplar_to].value = to as u32;
                        exemplar_to += 1;
                    }
                    exemplar_from += 1;
                }
                if keep {
                    readings.values[to] = readings.values[from];
                    to += 1;
                }
                from += 1;
                if stanza.template.is_stamped(line) {
                    if keep && !stanza.ignores_stamps {
                        readings.stamps[stamp_to] = readings.stamps[stamp_from];
                        stamp_to += 1;
                    }
                    stamp_from += 1;
                }
            }
        }
        readings.values.truncate(to);
        readings.stamps.truncate(stamp_to);
        readings.exemplars.truncate(exemplar_to);
    }

    /// How much it says of its metrics. A metric that lines of several runs tell of counts for each.
    pub fn metadata_size(&self) -> MetadataSize {
        let mut size = MetadataSize::default();
        self.shape.iter().chain(&self.others.0).for_each(|known| size += known.0.metadata_size());
        size
    }

    /// What the target says of its metrics, in the order of its payload: one entry a metric, where the last line of each
    /// kind counts.
    pub fn metadata(&self, seen: &mut MetadataCache) -> Vec<Arc<Metadata>> {
        let parse = |known: &TemplateRef| -> Rc<[Arc<Metadata>]> { stanza_metadata(&known.0).map(Arc::new).collect() };
        let mut all: Vec<Arc<Metadata>> = Vec::new();
        for known in self.shape.iter().chain(&self.others.0) {
            all.extend_from_slice(seen.0.entry(Rc::as_ptr(&known.0)).or_insert_with(|| parse(known)));
        }
        let mut first: AHashMap<&str, usize> = AHashMap::with_capacity(all.len());
        let repeats: Vec<(usize, usize)> = (all.iter().enumerate())
            .filter_map(|(at, metadata)| match first.entry(&metadata.metric) {
                std::collections::hash_map::Entry::Occupied(place) => Some((*place.get(), at)),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(at);
                    None
                }
            })
            .collect();
        for (first, later) in &repeats {
            let mut merged = (*all[*first]).clone();
            merge_metadata(&mut merged, &all[*later]);
            all[*first] = Arc::new(merged);
        }
        let mut repeats = repeats.iter().map(|(_, later)| *later).peekable();
        let mut at = 0;
        all.retain(|_| {
            at += 1;
            repeats.next_if_eq(&(at - 1)).is_none()
        });
        all
    }
}

/// Lines of the types that have start times.
fn lines_with_starts(shape: &[TemplateRef]) -> Vec<PayloadLine> {
    let (mut lines, mut value, mut slots) = (Vec::new(), 0, 0);
    for stanza in shape.iter().map(|known| &known.0) {
        let mut skipped = stanza.skipped.iter().peekable();
        for (line, kind) in stanza.template.kinds().enumerate() {
            let has_slot = skipped.next_if(|skipped| **skipped == line as u32).is_none();
            if has_start(kind) {
                let labels = exposition::labels(stanza.template.raw(line), kind);
                let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
                lines.push(PayloadLine { value, slot: has_slot.then_some(slots), kind, labels });
            }
            value += 1;
            slots += u32::from(has_slot);
        }
    }
    lines
}

/// Why a walk has no end.
enum ScanAbort {
    /// More samples than the target may have.
    TooLong(Ingested),
    /// The shape is in more pieces than are of use.
    Scattered,
}

/// Walks a body along a shape. It is halted as soon as there are too many samples, or more pieces than so many and one for
/// each [`LINES_PER_PIECE_MIN`] lines.
async fn walk(
    shape: &[TemplateRef],
    (format, body): (Format, &[u8]),
    (samples_max, pieces_max): (u64, usize),
    readings: &mut Readings,
    pause: impl AsyncFn(),
) -> Result<ScanResult, ScanAbort> {
    let ScanProgress::Unfinished(mut walker) = exposition::walk(shape, format, body, readings) else {
        return Ok(ScanResult::Warm);
    };
    loop {
        let more = walker.step();
        let samples_scraped = walker.samples() as u64;
        if samples_scraped > samples_max {
            let text = format!(
                "held back: after crashes the server is in safe mode, in which no target may have more than \
                 {samples_max} samples"
            );
            let refusal = Some(Refusal { reason: Reason::SafeMode, text });
            return Err(ScanAbort::TooLong(Ingested { samples_scraped, refusal, ..Ingested::default() }));
        }
        let lines_max = if pieces_max == 0 { 0 } else { walker.samples() / LINES_PER_PIECE_MIN };
        if walker.pieces() > pieces_max.saturating_add(lines_max) {
            return Err(ScanAbort::Scattered);
        }
        if !more {
            return Ok(walker.finish());
        }
        pause().await;
    }
}

/// Metadata of stanzas that a question has met, so that what many targets share is read once. Lives no longer than the
/// question, during which no stanza goes away.
#[derive(Default)]
pub struct MetadataCache(AHashMap<*const ResolvedTemplate, Rc<[Arc<Metadata>]>>);

/// Adds what a later line says of the same metric.
fn merge_metadata(metadata: &mut Metadata, later: &Metadata) {
    if later.kind != exposition::Kind::Unknown.as_str() {
        metadata.kind.clone_from(&later.kind);
    }
    if !later.help.is_empty() {
        metadata.help.clone_from(&later.help);
    }
    if !later.unit.is_empty() {
        metadata.unit.clone_from(&later.unit);
    }
}

fn stanza_metadata(stanza: &ResolvedTemplate) -> impl Iterator<Item = Metadata> {
    let mut found: Vec<Metadata> = Vec::new();
    for entry in stanza.template.metadata() {
        // HELP, TYPE and UNIT of a family follow each other.
        if found.last().is_none_or(|last| last.metric != entry.metric) {
            let kind = exposition::Kind::Unknown.as_str().to_owned();
            found.push(Metadata { metric: entry.metric, kind, help: String::new(), unit: String::new() });
        }
        let metadata = found.last_mut().expect("pushed above");
        match entry.fact {
            exposition::Metadata::Help(help) => metadata.help = help,
            exposition::Metadata::Kind(kind) => metadata.kind = kind.as_str().to_owned(),
            exposition::Metadata::Unit(unit) => metadata.unit = unit,
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests;
