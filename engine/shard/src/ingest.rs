//! From a body to the values of one row: the walk over known templates, the parse of what is new, limits, report series.
//!
//! Knows no clock, no socket and no runtime: time, bytes and pauses are handed in.
//!
//! Invariants:
//!   * a scrape is stored whole or not at all; a failed one ends every series of the target but the report series
//!   * a line known from the last good scrape costs one comparison and one number; nothing of it is decoded again
//!   * no two unstamped slots of a target have the same labels: the first line wins
//!   * a target's report series are its own; a line that would be one of them is dropped and counted as a duplicate

use crate::class::{Class, Outcome};
use crate::status::{Metadata, Reason};
use ahash::{AHashMap, AHashSet, RandomState};
use config::ScrapeConfig;
use exposition::{Piece, Readings, Template, Walk, Walked};
use series::{Labels, METRIC_NAME};
use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tsdb::{GroupBuilder, SlotGroup};

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
    pub refusal: Option<Refusal>,
}

/// A run of lines and what became of each, for all targets of a class.
pub struct Stanza {
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
    /// Whether timestamps are read and thrown away.
    ignores_stamps: bool,
    /// Hashes of the slots' labels, where somebody wanted to know them.
    hashes: OnceCell<Box<[u64]>>,
}

/// A stanza in a shape.
#[derive(Clone)]
struct Known(Rc<Stanza>);

impl AsRef<Template> for Known {
    fn as_ref(&self) -> &Template {
        &self.0.template
    }
}

impl Stanza {
    fn samples(&self) -> u64 {
        self.template.len() as u64
    }

    fn samples_kept(&self) -> u64 {
        self.samples() - u64::from(self.dropped)
    }

    fn hashes(&self, hasher: &RandomState) -> &[u64] {
        self.hashes.get_or_init(|| hashes(&self.slots, hasher).collect())
    }

    fn heap_bytes(&self) -> usize {
        let hashes = self.hashes.get().map_or(0, |hashes| hashes.len() * 8);
        self.template.heap_bytes() + self.slots.heap_bytes() + (self.skipped.len() + self.repeats.len()) * 4 + hashes
    }
}

fn hashes(slots: &SlotGroup, hasher: &RandomState) -> impl Iterator<Item = u64> {
    (0..slots.len()).map(|slot| slots.slot_hash(slot, hasher))
}

/// Everything that targets of one class share on a core.
pub struct ClassRoom {
    class: Class,
    hasher: RandomState,
    stanzas: RefCell<AHashMap<u64, Vec<Weak<Stanza>>>>,
}

/// What a core has interned.
#[derive(Default)]
pub struct Interner {
    classes: AHashMap<u64, Vec<Weak<ClassRoom>>>,
    reports: AHashMap<usize, Arc<SlotGroup>>,
}

impl Interner {
    /// The room of targets with these labels in this job.
    pub fn class(&mut self, job: &ScrapeConfig, target_labels: &Labels) -> Rc<ClassRoom> {
        let class = Class::new(job, target_labels);
        let same = self.classes.entry(class.fingerprint()).or_default();
        if let Some(room) = same.iter().filter_map(Weak::upgrade).find(|room| room.class.same_as(&class)) {
            return room;
        }
        let room = Rc::new(ClassRoom { class, hasher: RandomState::new(), stanzas: RefCell::default() });
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

impl ClassRoom {
    /// The stanza of a template with the given lines ignored as repeats.
    fn stanza(
        &self,
        template: Template,
        repeats: &[u32],
        repeats_counted: u32,
        target_labels: &Labels,
    ) -> Result<Known, Failed> {
        let hash = template.content_hash();
        if let Some(same) = self.stanzas.borrow().get(&hash) {
            let fits = |stanza: &Rc<Stanza>| {
                stanza.template == template && *stanza.repeats == *repeats && stanza.repeats_counted == repeats_counted
            };
            if let Some(stanza) = same.iter().filter_map(Weak::upgrade).find(fits) {
                return Ok(Known(stanza));
            }
        }
        let stanza = Rc::new(self.resolve(template, repeats, repeats_counted, target_labels)?);
        self.stanzas.borrow_mut().entry(hash).or_default().push(Rc::downgrade(&stanza));
        Ok(Known(stanza))
    }

    fn resolve(
        &self,
        template: Template,
        repeats: &[u32],
        repeats_counted: u32,
        target_labels: &Labels,
    ) -> Result<Stanza, Failed> {
        let mut slots = GroupBuilder::default();
        let (mut skipped, mut dropped) = (Vec::new(), 0);
        let mut any_stamp = false;
        for (line, kind) in template.kinds().enumerate() {
            let labels = exposition::labels(template.raw(line), kind);
            let pairs = || labels.iter().map(|(name, value)| (&**name, &**value));
            let mut outcome = self.class.outcome(pairs());
            if matches!(outcome, Outcome::Fail(_)) {
                // Once more with the target's own label values, for the text.
                outcome = match self.class.for_target(target_labels).outcome(pairs()) {
                    failed @ Outcome::Fail(_) => failed,
                    _ => outcome,
                };
            }
            any_stamp |= template.is_stamped(line);
            match outcome {
                Outcome::Keep(_) if repeats.contains(&(line as u32)) => skipped.push(line as u32),
                Outcome::Keep(own) => slots.push(&own, template.is_stamped(line) && self.class.honor_timestamps),
                Outcome::Drop => {
                    skipped.push(line as u32);
                    dropped += 1;
                }
                Outcome::Fail(error) => {
                    let refusal = Refusal { reason: error.reason(), text: error.to_string() };
                    return Err(Failed { before: line as u64, kept: line as u64 - u64::from(dropped), refusal });
                }
            }
        }
        Ok(Stanza {
            slots: Arc::new(slots.build()),
            skipped: skipped.into(),
            dropped,
            repeats: repeats.into(),
            repeats_counted,
            ignores_stamps: any_stamp && !self.class.honor_timestamps,
            hashes: OnceCell::new(),
            template,
        })
    }
}

/// One target's parse state: what its payload looked like at the last good scrape.
pub struct Reader {
    job: Arc<ScrapeConfig>,
    target_labels: Labels,
    room: Rc<ClassRoom>,
    report: Arc<SlotGroup>,
    shape: Vec<Known>,
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
            shape: Vec::new(),
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
            self.settle();
        }
        let changed = !Arc::ptr_eq(&report, &self.report);
        self.report = report;
        changed.then(|| self.report.clone())
    }

    /// The groups of slots that take values: report series first, then the payload's.
    pub fn groups(&self) -> Vec<Arc<SlotGroup>> {
        let payload = self.shape.iter().map(|known| known.0.slots.clone()).filter(|slots| !slots.is_empty());
        std::iter::once(self.report.clone()).chain(payload).collect()
    }

    /// Reads a body. On success `readings` holds a value per slot of the payload and a timestamp per stamped slot.
    /// `pause` lets others run now and then in a body that is long or has much that is new. A body of more than
    /// `samples_max` is refused as soon as that is seen.
    pub async fn read(
        &mut self,
        body: &[u8],
        samples_max: u64,
        readings: &mut Readings,
        pause: impl AsyncFn(),
    ) -> Ingested {
        let mut ingested = Ingested::default();
        let shape = std::mem::take(&mut self.shape);
        let rejoins = self.cut_up && self.warm >= WARM_BEFORE_REJOINING;
        let mut along = if rejoins { &[] } else { &shape[..] };
        let pieces_max = if self.unsteady == 0 { PIECES_ALWAYS } else { 0 };
        let mut walked = walk(along, body, (samples_max, pieces_max), readings, &pause).await;
        if let Err(Halt::Scattered) = walked {
            along = &[];
            self.unsteady = if self.unsteady == 0 { WARM_BEFORE_REJOINING } else { self.unsteady - 1 };
            walked = walk(along, body, (samples_max, usize::MAX), readings, &pause).await;
        }
        if along.is_empty() {
            self.warm = 0;
        }
        let walked = match walked {
            Ok(walked) => walked,
            Err(halt) => {
                self.shape = shape;
                let Halt::TooLong(refused) = halt else { unreachable!("there is no limit for pieces") };
                return refused;
            }
        };
        let Walked::Changed { pieces, error } = walked else {
            self.shape = shape;
            self.warm += 1;
            ingested.warm = true;
            self.tell(&mut ingested);
            self.compact(readings);
            return ingested;
        };
        let cut_up = !along.is_empty();
        match self.resolve(&shape, pieces, &mut ingested, pause).await {
            Ok(resolved) if error.is_none() => {
                self.shape = resolved;
                self.settle();
                self.tell(&mut ingested);
                if ingested.refusal.is_some() {
                    self.shape = shape;
                    self.settle();
                } else {
                    ingested.reshaped = true;
                    (self.cut_up, self.warm) = (cut_up, 0);
                    self.compact(readings);
                }
            }
            Ok(resolved) => {
                self.shape = shape;
                ingested.samples_scraped = resolved.iter().map(|known| known.0.samples()).sum();
                ingested.samples_post_relabel = resolved.iter().map(|known| known.0.samples_kept()).sum();
                let text = error.expect("checked above").text;
                ingested.refusal = Some(Refusal { reason: Reason::Parse, text });
            }
            Err(failed) => {
                self.shape = shape;
                ingested.samples_scraped += failed.before + 1;
                ingested.samples_post_relabel += failed.kept;
                ingested.refusal = Some(failed.refusal);
            }
        }
        ingested
    }

    /// Counts of a payload that was read to its end, and the limits that hold for all of it.
    fn tell(&self, ingested: &mut Ingested) {
        ingested.samples_scraped = self.samples;
        ingested.samples_post_relabel = self.samples_kept;
        ingested.duplicates = self.duplicates;
        if self.job.sample_limit > 0 && self.samples_kept > self.job.sample_limit {
            let text = "sample limit exceeded".to_owned();
            ingested.refusal = Some(Refusal { reason: Reason::SampleLimit, text });
        }
    }

    /// Stanzas for all pieces, each series in one of them only.
    async fn resolve(
        &self,
        shape: &[Known],
        pieces: Vec<Piece>,
        ingested: &mut Ingested,
        pause: impl AsyncFn(),
    ) -> Result<Vec<Known>, Failed> {
        self.check_target_labels(&pieces, shape)?;
        let mut resolved: Vec<Known> = Vec::with_capacity(pieces.len());
        // Places of those that were not in the shape before.
        let mut new: Vec<usize> = Vec::new();
        let mut lines = 0;
        for piece in pieces {
            let known = match piece {
                Piece::Known(i) if shape[i].0.repeats.is_empty() => shape[i].clone(),
                Piece::Known(i) => {
                    new.push(resolved.len());
                    self.room.stanza(shape[i].0.template.clone(), &[], 0, &self.target_labels)?
                }
                Piece::New(template) => {
                    new.push(resolved.len());
                    lines += template.len();
                    self.room.stanza(template, &[], 0, &self.target_labels)?
                }
            };
            ingested.samples_scraped += known.0.samples();
            ingested.samples_post_relabel += known.0.samples_kept();
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
                resolved[at] = self.room.stanza(template, &repeats, counted, &self.target_labels)?;
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
    fn may_repeat(&self, resolved: &[Known], new: &[usize]) -> bool {
        let hasher = &self.room.hasher;
        let count = |known: &Known| known.0.slots.len();
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
    fn check_target_labels(&self, pieces: &[Piece], shape: &[Known]) -> Result<(), Failed> {
        let class = &self.room.class;
        if class.check_lengths("", self.target_labels.iter()).is_ok() {
            return Ok(());
        }
        let template = |piece| match piece {
            &Piece::Known(i) => &shape[i].0.template,
            Piece::New(template) => template,
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
        stanza: &Stanza,
        index: usize,
        resolved: &[Known],
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
        let sum = |of: fn(&Stanza) -> u64| self.shape.iter().map(|known| of(&known.0)).sum();
        self.samples = sum(Stanza::samples);
        self.samples_kept = sum(Stanza::samples_kept);
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
        for stanza in self.shape.iter().map(|known| &known.0) {
            let mut skipped = stanza.skipped.iter().peekable();
            for line in 0..stanza.template.len() {
                let keep = skipped.next_if(|skipped| **skipped == line as u32).is_none();
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
    }

    /// What the target says of its metrics, in the order of its payload.
    pub fn metadata(&self, seen: &mut MetadataCache) -> Vec<Arc<Metadata>> {
        let parse = |known: &Known| -> Rc<[Arc<Metadata>]> { stanza_metadata(&known.0).map(Arc::new).collect() };
        let mut all = Vec::new();
        for known in &self.shape {
            all.extend_from_slice(seen.0.entry(Rc::as_ptr(&known.0)).or_insert_with(|| parse(known)));
        }
        all
    }
}

/// Why a walk has no end.
enum Halt {
    /// More samples than the target may have.
    TooLong(Ingested),
    /// The shape is in more pieces than are of use.
    Scattered,
}

/// Walks a body along a shape. It is halted as soon as there are too many samples, or more pieces than so many and one for
/// each [`LINES_PER_PIECE_MIN`] lines.
async fn walk(
    shape: &[Known],
    body: &[u8],
    (samples_max, pieces_max): (u64, usize),
    readings: &mut Readings,
    pause: impl AsyncFn(),
) -> Result<Walked, Halt> {
    let Walk::Unfinished(mut walker) = exposition::walk(shape, body, readings) else { return Ok(Walked::Warm) };
    loop {
        let more = walker.step();
        let samples_scraped = walker.samples() as u64;
        if samples_scraped > samples_max {
            let text = format!(
                "held back: after crashes the server is in safe mode, in which no target may have more than \
                 {samples_max} samples"
            );
            let refusal = Some(Refusal { reason: Reason::SafeMode, text });
            return Err(Halt::TooLong(Ingested { samples_scraped, refusal, ..Ingested::default() }));
        }
        let lines_max = if pieces_max == 0 { 0 } else { walker.samples() / LINES_PER_PIECE_MIN };
        if walker.pieces() > pieces_max.saturating_add(lines_max) {
            return Err(Halt::Scattered);
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
pub struct MetadataCache(AHashMap<*const Stanza, Rc<[Arc<Metadata>]>>);

fn stanza_metadata(stanza: &Stanza) -> impl Iterator<Item = Metadata> {
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
mod tests {
    use super::*;
    use crate::class::series_labels;
    use crate::test_job;
    use futures_lite::future::block_on;

    /// One target's reader with its core's interner.
    struct Rig {
        interner: Interner,
        reader: Reader,
        target: Labels,
        readings: Readings,
        samples_max: u64,
    }

    impl Rig {
        fn new(settings: &str) -> Rig {
            let mut interner = Interner::default();
            let target = Labels::from_pairs([("instance", "i"), ("job", "j")]);
            let reader = Reader::new(&mut interner, &test_job(settings), &target);
            Rig { interner, reader, target, readings: Readings::default(), samples_max: u64::MAX }
        }

        fn read(&mut self, body: &str) -> Ingested {
            block_on(self.reader.read(body.as_bytes(), self.samples_max, &mut self.readings, async || {}))
        }

        /// The series of the last body as `labels value`, without the target's labels.
        fn series(&self) -> Vec<String> {
            let mut values = self.readings.values.iter();
            let mut stamps = self.readings.stamps.iter();
            let mut all = Vec::new();
            for group in self.reader.groups().iter().skip(1) {
                for slot in 0..group.len() {
                    let labels = series_labels(&group.labels(slot), &self.target).to_string();
                    let labels = labels.replace(r#", instance="i", job="j""#, "");
                    let stamp = group.is_stamped(slot).then(|| format!(" @{}", stamps.next().unwrap()));
                    all.push(format!("{labels} {}{}", values.next().unwrap(), stamp.unwrap_or_default()));
                }
            }
            assert_eq!((values.next(), stamps.next()), (None, None));
            all
        }
    }

    fn counts(ingested: &Ingested) -> (u64, u64, u64) {
        (ingested.samples_scraped, ingested.samples_post_relabel, ingested.duplicates)
    }

    #[test]
    fn second_body_is_warm_and_reads_the_same_slots() {
        let mut rig = Rig::new("metric_relabel_configs: [{source_labels: [__name__], regex: 'b.*', action: drop}]");
        let first = rig.read("a 1\nb 2\nc{x=\"y\"} 3\n");
        assert!(!first.warm && first.reshaped);
        assert_eq!(counts(&first), (3, 2, 0));
        assert_eq!(rig.series(), [r#"{__name__="a"} 1"#, r#"{__name__="c", x="y"} 3"#]);
        let second = rig.read("a 4\nb 5\nc{x=\"y\"} 6\n");
        assert!(second.warm && !second.reshaped);
        assert_eq!(counts(&second), (3, 2, 0));
        assert_eq!(rig.readings.values, [4.0, 6.0]);
    }

    #[test]
    fn first_of_equal_lines_wins() {
        let mut rig = Rig::new("");
        for warm in [false, true] {
            let ingested = rig.read("a 1\na 2\na{} 3\na 4\nb{x=\"1\",y=\"2\"} 5\nb{y=\"2\",x=\"1\"} 6\n");
            assert_eq!(ingested.warm, warm);
            assert_eq!(counts(&ingested), (6, 6, 2), "only repeated texts are counted");
            assert_eq!(rig.readings.values, [1.0, 5.0]);
        }
        rig.read("b{y=\"2\",x=\"1\"} 7\n");
        assert_eq!(rig.readings.values, [7.0], "what was a repeat is now the first");
    }

    #[test]
    fn report_series_cannot_be_spoofed() {
        let mut rig = Rig::new("");
        let ingested = rig.read("up 5\nup{job=\"other\"} 6\nscrape_series_added 7 123\na 1\n");
        assert_eq!(counts(&ingested), (4, 4, 2));
        assert_eq!(rig.series(), [r#"{__name__="up", exported_job="other"} 6"#, r#"{__name__="a"} 1"#]);
    }

    #[test]
    fn timestamps_are_kept_or_ignored() {
        let body = "a 1 5\nb 2\na 3 6\n";
        let mut rig = Rig::new("");
        rig.read(body);
        assert_eq!(rig.series(), [r#"{__name__="a"} 1 @5"#, r#"{__name__="b"} 2"#, r#"{__name__="a"} 3 @6"#]);
        let mut rig = Rig::new("honor_timestamps: false");
        for _ in 0..2 {
            rig.read(body);
            assert_eq!(rig.series(), [r#"{__name__="a"} 1"#, r#"{__name__="b"} 2"#]);
        }
    }

    #[test]
    fn refused_bodies_leave_what_is_known() {
        let mut rig = Rig::new("sample_limit: 3\nlabel_limit: 4");
        rig.read("a 1\nb 2\n");
        let check = |rig: &mut Rig, body: &str, reason, text: &str, samples| {
            let ingested = rig.read(body);
            let refusal = ingested.refusal.clone().unwrap_or_else(|| panic!("{body:?} was taken"));
            assert_eq!(
                (refusal.reason, samples),
                (reason, (ingested.samples_scraped, ingested.samples_post_relabel)),
                "{body:?}"
            );
            assert!(refusal.text.contains(text), "{refusal:?}");
            assert!(rig.read("a 3\nb 4\n").warm, "after {body:?}");
        };
        check(&mut rig, "a 1\nb 2\n7\n", Reason::Parse, "expected a valid start token", (2, 2));
        check(&mut rig, "7\n", Reason::Parse, "expected a valid start token", (0, 0));
        check(&mut rig, "a 1\nb 1\nc 1\nd 1\n", Reason::SampleLimit, "sample limit exceeded", (4, 4));
        check(
            &mut rig,
            "a 1\nc{d=\"1\",e=\"2\"} 1\nf 1\n",
            Reason::LabelLimit,
            "label_limit exceeded (metric: c",
            (2, 1),
        );
    }

    #[test]
    fn safe_mode_refuses_long_bodies_before_their_end() {
        let lines = |count: usize| (0..count).map(|i| format!("a{{i=\"{i}\"}} 1\n")).collect::<String>();
        let mut rig = Rig::new("");
        rig.read(&lines(20_000));
        rig.samples_max = 15_000;
        for body in [lines(20_000), lines(100_000)] {
            let ingested = rig.read(&body);
            let refusal = ingested.refusal.expect("it is too long");
            assert_eq!(refusal.reason, Reason::SafeMode);
            assert!(refusal.text.contains("no target may have more than 15000 samples"), "{}", refusal.text);
            assert!((15_001..20_000).contains(&ingested.samples_scraped), "{}", ingested.samples_scraped);
        }
        assert_eq!(rig.read(&lines(15_000)).refusal, None);
        rig.samples_max = u64::MAX;
        assert_eq!(rig.read(&lines(20_000)).refusal, None);
    }

    #[test]
    fn label_limit_shows_the_target_it_belongs_to() {
        let mut rig = Rig::new("metric_name_validation_scheme: legacy");
        let refusal = rig.read("{\"a.b\"} 1\n").refusal.unwrap();
        assert_eq!(refusal.text, r#"invalid metric name or label names: {__name__="a.b", instance="i", job="j"}"#);
        let mut rig = Rig::new("label_value_length_limit: 2");
        rig.reader.target_labels = Labels::from_pairs([("instance", "long")]);
        let refusal = rig.read("a 1\n").refusal.unwrap();
        assert!(refusal.text.contains("(metric: a, label name: instance, value: \"long\""), "{}", refusal.text);
        // A label that every line brings along is not the target's.
        let mut rig = Rig::new("label_value_length_limit: 2\nhonor_labels: true");
        rig.reader.target_labels = Labels::from_pairs([("instance", "long")]);
        assert_eq!(rig.read("a{instance=\"i\"} 1\nb{instance=\"i\"} 1\n").refusal, None);
        let refusal = rig.read("a{instance=\"i\"} 1\nb 1\n").refusal.unwrap();
        assert!(refusal.text.contains("(metric: b, label name: instance, value: \"long\""), "{}", refusal.text);
    }

    #[test]
    fn other_limits_keep_the_shape_and_other_rules_do_not() {
        let mut rig = Rig::new("");
        rig.read("a 1\n");
        let job = test_job("sample_limit: 10\nbody_size_limit: 1MB\nscrape_timeout: 5s");
        assert!(rig.reader.retarget(&mut rig.interner, &job).is_none());
        assert!(rig.read("a 2\n").warm);
        let job = test_job("honor_labels: true\nextra_scrape_metrics: true");
        assert_eq!(rig.reader.retarget(&mut rig.interner, &job).unwrap().len(), 8);
        assert!(!rig.read("a 3\n").warm);
    }

    #[test]
    fn neighbours_share_and_the_unused_is_forgotten() {
        let mut rig = Rig::new("");
        rig.read("a 1\nb 2\n");
        let other_target = Labels::from_pairs([("instance", "other"), ("job", "j")]);
        let mut other = Reader::new(&mut rig.interner, &test_job(""), &other_target);
        block_on(other.read(b"a 5\nb 6\n", u64::MAX, &mut rig.readings, async || {}));
        assert_eq!(rig.interner.sweep().0, 1);
        drop(other);
        assert_eq!(rig.interner.sweep().0, 1);
        rig.read("");
        assert_eq!(rig.interner.sweep(), (0, 0));
    }

    /// Groups of slots by address.
    fn groups(rig: &Rig) -> Vec<usize> {
        rig.reader.groups().iter().map(|group| Arc::as_ptr(group).addr()).collect()
    }

    /// A body of many lines, two of which are others in each generation.
    fn churning(generation: usize) -> String {
        let line = |i: usize| match i % 100 {
            50 => format!("a{{i=\"{i}\",generation=\"{generation}\"}} {generation}\n"),
            _ => format!("a{{i=\"{i}\"}} {generation}\n"),
        };
        (0..200).map(line).collect()
    }

    #[test]
    fn line_that_changes_costs_its_neighbours_nothing() {
        let mut rig = Rig::new("");
        for generation in 0..2 {
            assert!(rig.read(&churning(generation)).reshaped);
        }
        for generation in 2..6 {
            let before = groups(&rig);
            assert!(rig.read(&churning(generation)).reshaped);
            let new = groups(&rig).into_iter().filter(|group| !before.contains(group)).count();
            assert_eq!(new, 2);
            assert_eq!(rig.series().len(), 200);
            assert!(rig.series()[50].ends_with(&format!("generation=\"{generation}\", i=\"50\"}} {generation}")));
        }
        assert!(rig.read(&churning(5)).warm);
    }

    #[test]
    fn shape_that_was_cut_up_becomes_that_of_its_neighbours_again() {
        let mut rig = Rig::new("");
        rig.read(&churning(1));
        let at_first = groups(&rig);
        rig.read(&churning(2));
        rig.read(&churning(1));
        assert_ne!(groups(&rig), at_first);
        for _ in 0..WARM_BEFORE_REJOINING {
            assert!(rig.read(&churning(1)).warm);
        }
        assert!(rig.read(&churning(1)).reshaped);
        assert_eq!(groups(&rig).len(), at_first.len());
        for _ in 0..2 * WARM_BEFORE_REJOINING {
            assert!(rig.read(&churning(1)).warm, "it is as it is to be");
        }
    }

    #[test]
    fn lines_that_change_their_places_do_not_cut_a_shape_up() {
        // All over the body, and neighbours only: there nearly all lines are found one by one.
        let shuffled = |round: usize, i: usize| i * (round + 7) % 997;
        let swapped = |round: usize, i: usize| i ^ (round & 1);
        let places: [&dyn Fn(usize, usize) -> usize; 2] = [&shuffled, &swapped];
        for (case, place) in places.into_iter().enumerate() {
            let mut rig = Rig::new("");
            for round in 0..20 {
                let body: String = (0..996).map(|i| format!("a{{i=\"{}\"}} 1\n", place(round, i))).collect();
                rig.read(&body);
                assert_eq!(rig.series().len(), 996);
                assert!(groups(&rig).len() < 150, "case {case}, round {round}: {} groups", groups(&rig).len());
            }
        }
    }

    #[test]
    fn new_line_that_repeats_a_known_one_is_found() {
        let mut rig = Rig::new("");
        let body = |more: &str| churning(1).replace("a{i=\"120\"} 1\n", &format!("a{{i=\"120\"}} 1\n{more}"));
        rig.read(&body(""));
        for (more, samples) in [
            ("a{i=\"30\"} 7\n", 200),
            ("b 1\n", 201),
            ("b 1\nb 2\n", 201),
            ("scrape_samples_scraped 1\n", 200),
            ("b 1\nup 2\n", 201),
            ("", 200),
        ] {
            let scraped = rig.read(&body(more)).samples_scraped;
            assert_eq!(scraped, 200 + more.lines().count() as u64);
            let mut series = rig.series();
            assert_eq!(series.len(), samples, "{more:?}");
            series.iter_mut().for_each(|line| line.truncate(line.rfind(' ').unwrap()));
            series.sort();
            series.dedup();
            assert_eq!(series.len(), samples, "{more:?}");
            assert!(rig.read(&body(more)).warm || more.is_empty());
        }
    }

    #[test]
    fn metadata_of_the_last_good_body() {
        let mut rig = Rig::new("");
        rig.read("# HELP a Text.\n# TYPE a counter\na 1\n# TYPE b gauge\nb 1\n");
        let found = rig.reader.metadata(&mut MetadataCache::default());
        let found: Vec<_> = found.iter().map(|m| (m.metric.as_str(), m.kind.as_str(), m.help.as_str())).collect();
        assert_eq!(found, [("a", "counter", "Text."), ("b", "gauge", "")]);
    }
}
