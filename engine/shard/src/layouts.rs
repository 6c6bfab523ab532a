//! Layouts of the last run: the templates of each target's payload, so that the first scrapes after a start are walked along
//! them and not parsed.
//!
//! Each core keeps one file. It is read in place: nothing of it is parsed, and only what a target of this run needs is
//! copied. It holds no outcome of relabelling and no label of a target, so it may be from a run with other settings or
//! another number of cores.
//!
//! Invariants:
//!   * a layout is a hint: a walk compares every byte of a body with it, and what its lines become is decided anew
//!   * a file that is damaged, or of another version, is not used; without one, first scrapes are parsed as ever

use crate::ingest::{Layout, LayoutContext, Reader, ResolvedTemplate};
use ahash::AHashMap;
use exposition::Template;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use targets::TargetId;
use xxhash_rust::xxh3::xxh3_64;

/// Begins a file, with the version of what follows: whatever changes the archived form of a template raises it.
const MAGIC: &[u8; 8] = b"rslayo01";
/// The magic and the hash of the archive.
const HEADER_BYTES: usize = 16;
/// Text of the templates in one file. Targets beyond it are parsed at their first scrape.
const TEXT_BYTES_MAX: usize = 32 << 20;
/// A file that is larger was not written by us: the lines of a template take 8 bytes each, of at least 2 bytes of text.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Files that are looked at: one for each core of the last run.
const FILES_MAX: usize = 4096;

/// What one core knows. Places are indices into the lists.
#[derive(Default, rkyv::Archive, rkyv::Serialize)]
pub struct Layouts {
    templates: Vec<Template>,
    /// Places of templates, in the order of a payload.
    layouts: Vec<Box<[u32]>>,
    /// The place of each target's layout, by target.
    targets: Vec<(u64, u32)>,
}

/// Gathers the layouts of the targets of a core.
#[derive(Default)]
pub struct LayoutCollector {
    gathered: Layouts,
    text_bytes: usize,
    /// Places of stanzas, which are kept alive so that no other one gets the address.
    stanzas: AHashMap<*const ResolvedTemplate, (u32, Rc<ResolvedTemplate>)>,
    layouts: AHashMap<Box<[u32]>, u32>,
}

impl LayoutCollector {
    /// Adds a target, if there is something to know of it and room for it.
    pub fn add(&mut self, id: TargetId, reader: &Reader) {
        let Some(shape) = reader.shape() else { return };
        let mut layout = Vec::new();
        for stanza in shape {
            let place = match self.stanzas.get(&Rc::as_ptr(stanza)) {
                Some((place, _)) => *place,
                None => {
                    let template = stanza.template();
                    self.text_bytes += template.heap_bytes();
                    if self.text_bytes > TEXT_BYTES_MAX {
                        self.text_bytes -= template.heap_bytes();
                        return;
                    }
                    let place = self.gathered.templates.len() as u32;
                    self.gathered.templates.push(template.clone());
                    self.stanzas.insert(Rc::as_ptr(stanza), (place, stanza.clone()));
                    place
                }
            };
            layout.push(place);
        }
        let layout = layout.into_boxed_slice();
        let next = self.gathered.layouts.len() as u32;
        let place = *self.layouts.entry(layout).or_insert_with_key(|layout| {
            self.gathered.layouts.push(layout.clone());
            next
        });
        self.gathered.targets.push((id.0, place));
    }

    pub fn finish(mut self) -> Layouts {
        self.gathered.targets.sort_unstable();
        self.gathered
    }
}

/// Where layouts are kept; None without a data folder.
pub fn folder(store: Option<&tsdb::Store>, agent: Option<&tsdb::AgentStore>) -> Option<PathBuf> {
    let folder = store.map(tsdb::Store::folder).or_else(|| agent.map(tsdb::AgentStore::folder))?;
    Some(folder.join("layouts"))
}

fn file_name(core: usize) -> String {
    format!("core-{core}")
}

fn core_of(name: &str) -> Option<usize> {
    name.strip_prefix("core-")?.parse().ok()
}

impl Layouts {
    /// Replaces the file of a core; the first core also removes those of cores that are no more. Nothing is synced: a file
    /// that a power cut has damaged is not used.
    pub fn write(&self, folder: &Path, core: usize, cores: usize) -> io::Result<()> {
        let archive = rkyv::to_bytes::<rancor::Error>(self).map_err(io::Error::other)?;
        std::fs::create_dir_all(folder)?;
        let unfinished = folder.join(format!("{}.tmp", file_name(core)));
        let written = (|| {
            let mut file = File::create(&unfinished)?;
            file.write_all(MAGIC)?;
            file.write_all(&xxh3_64(&archive).to_le_bytes())?;
            file.write_all(&archive)?;
            std::fs::rename(&unfinished, folder.join(file_name(core)))
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        if core == 0 {
            for entry in std::fs::read_dir(folder)?.take(FILES_MAX) {
                let entry = entry?;
                if entry.file_name().to_str().and_then(core_of).is_some_and(|core| core >= cores) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        written
    }
}

type View<'a> = &'a ArchivedLayouts;

self_cell::self_cell!(
    /// The layouts of one file, checked.
    pub struct LayoutFile {
        owner: AlignedVec,
        #[covariant]
        dependent: View,
    }
);

impl LayoutFile {
    fn open(path: &Path) -> io::Result<LayoutFile> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        if !std::fs::symlink_metadata(path)?.is_file() {
            // To open a pipe would wait for a writer.
            return Err(invalid("it is no file"));
        }
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        if !(HEADER_BYTES as u64..FILE_BYTES_MAX).contains(&bytes) {
            return Err(invalid("its size cannot be"));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header)?;
        let (magic, hash) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(invalid("it is of another version"));
        }
        let mut archive = AlignedVec::with_capacity(bytes as usize - HEADER_BYTES);
        archive.resize(bytes as usize - HEADER_BYTES, 0);
        file.read_exact(&mut archive)?;
        if xxh3_64(&archive).to_le_bytes() != *hash {
            return Err(invalid("its hash is another"));
        }
        LayoutFile::try_new(archive, |archive| rkyv::access::<ArchivedLayouts, rancor::Error>(archive))
            .map_err(io::Error::other)
    }

    /// The place of a target's layout.
    fn layout_of(&self, id: TargetId) -> Option<u32> {
        let targets = &self.borrow_dependent().targets;
        let place = targets.binary_search_by_key(&id.0, |target| target.0.to_native()).ok()?;
        Some(targets[place].1.to_native())
    }

    /// The templates of a layout; None for one that is not sound.
    fn templates(&self, layout: u32) -> impl Iterator<Item = Option<Template>> {
        let view = self.borrow_dependent();
        let places = view.layouts.get(layout as usize).into_iter().flat_map(|layout| layout.iter());
        places.map(|place| Template::restore(view.templates.get(place.to_native() as usize)?))
    }
}

/// Opens the files of the last run. What cannot be used is told of and left out.
pub fn open(folder: &Path) -> Arc<[LayoutFile]> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Arc::default() };
    let names = entries.take(FILES_MAX).flatten().map(|entry| entry.path());
    let is_layouts = |path: &PathBuf| path.file_name().and_then(|name| core_of(name.to_str()?)).is_some();
    let open = |path: PathBuf| match LayoutFile::open(&path) {
        Ok(file) => Some(file),
        Err(error) => {
            let file = path.display();
            tracing::warn!(%file, %error, "layouts of the last run are not used; first scrapes are parsed");
            None
        }
    };
    let files: Vec<LayoutFile> = names.filter(is_layouts).filter_map(open).collect();
    if !files.is_empty() {
        let sum =
            |of: fn(&ArchivedLayouts) -> usize| files.iter().map(|file| of(file.borrow_dependent())).sum::<usize>();
        let (targets, templates) = (sum(|layouts| layouts.targets.len()), sum(|layouts| layouts.templates.len()));
        tracing::info!(targets, templates, "layouts of the last run are known");
    }
    files.into()
}

/// The address of a context, and a layout of a file.
type Key = ((usize, usize), usize, u32);
/// A layout that was looked at; None if it is of no use. The context keeps its address.
type KnownLayout = (LayoutContext, Option<Rc<Layout>>);

/// What a core knows of the last run.
pub struct Remembered {
    files: Arc<[LayoutFile]>,
    layouts: RefCell<AHashMap<Key, KnownLayout>>,
}

impl Remembered {
    /// None if there is nothing.
    pub fn new(files: Arc<[LayoutFile]>) -> Option<Remembered> {
        (!files.is_empty()).then(|| Remembered { files, layouts: RefCell::default() })
    }

    /// Gives a reader what the payload of its target looked like.
    pub fn apply_to(&self, id: TargetId, reader: &mut Reader) {
        let found = self.files.iter().enumerate().find_map(|(at, file)| Some((at, file, file.layout_of(id)?)));
        let Some((at, file, layout)) = found else { return };
        let context = reader.layout_context();
        let key = (context.address(), at, layout);
        let mut layouts = self.layouts.borrow_mut();
        let (_, layout) =
            layouts.entry(key).or_insert_with(|| (context, reader.layout(file.templates(layout)).map(Rc::new)));
        if let Some(layout) = layout.clone() {
            reader.remember(&layout);
        }
    }
}

#[cfg(test)]
mod tests;
