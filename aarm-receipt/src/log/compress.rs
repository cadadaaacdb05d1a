//! Segments that are not written any more, compressed: by whoever has the time, and placed by the writer.
//!
//! Must never: take a segment away before its compressed form is durable, or bring one back that was pruned meanwhile.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::files::{RENEWING, io, sync_dir};
use super::{LogError, LogWriter};
use crate::placing;
use crate::segment;

/// What is being written.
const TEMPORARY: &str = "compressing.new";

/// A segment that was compressed, and is not in its place yet.
#[derive(Debug)]
pub struct Compressed {
    from: PathBuf,
    bytes: u64,
}

/// Compresses a segment beside it. Takes a second or so, and may be done while the log is written: by one at a time.
pub fn compress(from: &Path) -> std::io::Result<Compressed> {
    let temporary = from.with_file_name(TEMPORARY);
    let read = File::open(from)?;
    let written = read.metadata()?.modified()?;
    let mut encoder = zstd::Encoder::new(File::create(&temporary)?, segment::LEVEL)?;
    encoder.include_checksum(true)?;
    std::io::copy(&mut BufReader::with_capacity(1 << 18, read), &mut encoder)?;
    let file = encoder.finish()?;
    // Its age is that of its receipts.
    file.set_modified(written)?;
    placing::sync_all(&file)?;
    Ok(Compressed { from: from.to_owned(), bytes: file.metadata()?.len() })
}

/// Takes away what a crash has left of compressing, and of copying.
pub(super) fn tidy(dir: &Path, segments: &[(u64, String)]) -> Result<(), LogError> {
    let plain = segments.iter().filter(|(_, name)| !segment::is_compressed(name));
    let unfinished = plain.map(|(number, _)| dir.join(segment::compressed_name(*number)));
    for path in unfinished.chain([dir.join(TEMPORARY), dir.join(RENEWING)]) {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&path)(e)),
            _ => {}
        }
    }
    Ok(())
}

impl LogWriter {
    /// The oldest segment that may be compressed: all of it is under a checkpoint.
    pub fn compressible(&self) -> Option<&Path> {
        let signed = self.sealed.iter().take_while(|segment| segment.next <= self.signed);
        signed.map(|segment| segment.path.as_path()).find(|path| !segment::is_compressed(path))
    }

    /// Puts a compressed segment in the place of the other, unless that was pruned. Bytes saved.
    pub fn place_compressed(&mut self, compressed: &Compressed) -> Result<u64, LogError> {
        let temporary = self.dir.join(TEMPORARY);
        let Some(segment) = self.sealed.iter_mut().find(|segment| segment.path == compressed.from) else {
            std::fs::remove_file(&temporary).map_err(io(&temporary))?;
            return Ok(0);
        };
        let to = self.dir.join(segment::compressed_name(segment.number));
        std::fs::rename(&temporary, &to).map_err(io(&to))?;
        sync_dir(&self.dir)?;
        let before = std::mem::replace(&mut segment.bytes, compressed.bytes);
        segment.path = to;
        std::fs::remove_file(&compressed.from).map_err(io(&compressed.from))?;
        sync_dir(&self.dir)?;
        Ok(before.saturating_sub(compressed.bytes))
    }
}
