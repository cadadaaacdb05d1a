//! Small files that are replaced: under their name is all of what was written, or what was there before.
//!
//! Must never: leave half a file under a name.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

fn temporary(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Writes a file that need not outlive a loss of power.
pub(crate) fn whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// Writes a file that is there, under its name, whatever happens after this returns.
pub(crate) fn durable(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
