//! Where downloads and tools live: outside the checkout, so that every clone shares them.
//!
//! `$AARM_CACHE`, else `$XDG_CACHE_HOME/aarm`, else `~/.cache/aarm`. Entries carry name and version, and are
//! made under a temporary name and renamed, so that one that is there is whole.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache directory, created.
pub fn dir() -> Result<PathBuf> {
    let dir = if let Some(dir) = std::env::var_os("AARM_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(dir).join("aarm")
    } else {
        PathBuf::from(std::env::var_os("HOME").context("neither AARM_CACHE nor HOME is set")?)
            .join(".cache/aarm")
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `target/` of this checkout, or wherever cargo was told to put it.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Makes the entry `name` if it is not there: `make` fills a temporary directory beside it.
pub fn entry(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = dir()?;
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    let temporary = tempfile::Builder::new().prefix(".making-").tempdir_in(&dir)?;
    make(temporary.path())?;
    let made = temporary.keep();
    // Readable by all, as a directory made by hand would be.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&made, mode)?;
    std::fs::rename(&made, &path).with_context(|| format!("cannot place {}", path.display()))?;
    Ok(path)
}
