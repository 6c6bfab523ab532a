//! Moving in and out: the head that Prometheus left in the folder becomes blocks, and so does all that is in chunks.

use super::{BlockKeeper, new_ulid, open_blocks};
use blocks::head::{HeadImport, IMPORTED_DIR, ImportOptions, has_head, import_head};
use blocks::{BlockError, CHUNK_BYTES_MAX, Meta};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Damages of an import that are logged one by one.
const DAMAGES_LOGGED_MAX: usize = 10;

impl BlockKeeper {
    /// Imports the head that Prometheus left in the folder, if there is one, and opens the blocks that it became.
    ///
    /// # Errors
    /// If files could not be read or written; the folder is as before, and the next call begins anew.
    pub fn import_prometheus_head(&self) -> Result<Option<HeadImport>, BlockError> {
        let _writing = self.writing.lock().expect("no panic while held");
        let folder = self.dir.folder();
        let io_error = |error: io::Error| BlockError::from_io(folder, &error);
        if !has_head(folder).map_err(io_error)? {
            return Ok(None);
        }
        tracing::info!("importing Prometheus' head");
        let begun = Instant::now();
        let options = ImportOptions { range_ms: self.settings.block_ms, chunk_bytes_max: CHUNK_BYTES_MAX };
        let imported = import_head(folder, &options, new_ulid, self.dir.stop_flag())?;
        // Also those of an import that was interrupted when its blocks were durable.
        let (opened, _) = open_blocks(folder).map_err(io_error)?;
        let known: Vec<String> = self.open_blocks().iter().map(|block| block.meta().ulid.clone()).collect();
        {
            let mut blocks = self.blocks.write().expect("no panic while held");
            blocks.extend(opened.into_iter().filter(|block| !known.contains(&block.meta().ulid)));
            blocks.sort_by_key(|block| block.meta().min_time);
        }
        if let Some(import) = &imported {
            self.log_import(import, begun);
        }
        Ok(imported)
    }

    fn log_import(&self, import: &HeadImport, begun: Instant) {
        self.stats.damages.fetch_add(import.damage_count, Ordering::Relaxed);
        for error in import.damages.iter().take(DAMAGES_LOGGED_MAX) {
            tracing::error!(%error, "a part of Prometheus' head could not be read; the rest was imported");
        }
        tracing::info!(
            blocks = import.blocks.len(),
            series = import.series,
            samples = import.samples,
            mapped_chunks = import.mapped_chunks,
            segments = import.segments,
            from_ms = import.blocks.iter().map(|meta| meta.min_time).min(),
            to_ms = import.blocks.iter().map(|meta| meta.max_time - 1).max(),
            deletions = import.deletions,
            samples_known = import.samples_known,
            samples_out_of_order = import.samples_out_of_order,
            samples_without_series = import.samples_without_series,
            exemplars_left_out = import.exemplars,
            metadata_left_out = import.metadata,
            unknown_left_out = import.unknown,
            damages = import.damage_count,
            torn_bytes = import.torn_bytes,
            seconds = begun.elapsed().as_secs_f64(),
            files_moved_to = IMPORTED_DIR,
            "Prometheus' head was imported"
        );
    }

    /// Makes blocks of all that is in chunks; returns them, oldest first. Where one cannot be written its chunks stay, and the
    /// others are written.
    ///
    /// # Errors
    /// The first failure.
    pub fn export_to_blocks(&self) -> io::Result<Vec<Meta>> {
        let _writing = self.writing.lock().expect("no panic while held");
        let before: Vec<String> = self.open_blocks().iter().map(|block| block.meta().ulid.clone()).collect();
        let mut outcome = Ok(());
        for range in self.chunks.ranges() {
            outcome = outcome.and(self.compact_range(range));
        }
        outcome?;
        let blocks = self.open_blocks();
        let new = blocks.iter().map(|block| block.meta()).filter(|meta| !before.contains(&meta.ulid));
        Ok(new.cloned().collect())
    }
}
