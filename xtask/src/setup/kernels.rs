//! The kernels of the matrix, as Debian packages them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::Suite;
use crate::cache;

/// One row of the matrix.
pub struct Row {
    /// The series, as users name it.
    pub series: &'static str,
    /// The Debian suite that has it.
    suite: &'static str,
    /// What the package's name begins with; the image may be in `linux-image-` or `linux-binary-`.
    packages: &'static [&'static str],
}

/// Every kernel the suites run on.
pub const MATRIX: &[Row] = &[
    Row { series: "6.1", suite: "bookworm", packages: &["linux-image-6.1.0-"] },
    Row { series: "6.12", suite: "trixie", packages: &["linux-image-6.12."] },
    Row { series: "7.2", suite: "sid", packages: &["linux-binary-7.2.", "linux-image-7.2."] },
];

/// A kernel ready to boot.
pub struct Kernel {
    /// The compressed image.
    pub image: PathBuf,
    dir: PathBuf,
}

impl Kernel {
    /// The files of these modules, as far as its package has them.
    pub fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for root in ["lib/modules", "usr/lib/modules"] {
            find(&self.dir.join(root), names, DEEPEST, &mut found);
        }
        found
    }
}

/// Levels below the directory of all modules.
const DEEPEST: usize = 12;

fn find(dir: &Path, names: &[&str], levels: usize, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if levels > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            find(&path, names, levels - 1, found);
        } else if name.to_str().and_then(|n| n.split_once(".ko")).is_some_and(|(n, _)| names.contains(&n)) {
            found.push(path);
        }
    }
}

fn entry(row: &Row) -> String {
    format!("kernel-{}", row.series)
}

fn image(dir: &Path) -> Option<PathBuf> {
    let named = |dir: PathBuf| {
        std::fs::read_dir(dir)
            .ok()?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")))
    };
    named(dir.join("boot")).or_else(|| {
        std::fs::read_dir(dir.join("usr/lib/modules")).ok()?.flatten().find_map(|e| named(e.path()))
    })
}

/// The package it came from, if it is there.
pub fn present(row: &Row) -> Option<String> {
    let dir = cache::dir().ok()?.join(entry(row));
    image(&dir)?;
    std::fs::read_to_string(dir.join("package")).ok()
}

/// A kernel of the matrix, downloaded if need be.
pub fn kernel(series: &str) -> Result<Kernel> {
    let Some(row) = MATRIX.iter().find(|k| k.series == series) else {
        let known: Vec<_> = MATRIX.iter().map(|k| k.series).collect();
        bail!("there is no kernel {series}: choose one of {}", known.join(", "));
    };
    let dir = cache::entry(&entry(row), |dir| {
        let suite = Suite::open(row.suite)?;
        for prefix in row.packages {
            let pattern = format!("^{}.*cloud-amd64$", prefix.replace('.', r"\."));
            let Some(package) = suite.search(&pattern)?.pop() else { continue };
            suite.unpack(&[&package], dir)?;
            if image(dir).is_some() {
                std::fs::write(dir.join("package"), package)?;
                // Debug data and headers are not needed; modules stay for those who need one.
                return Ok(());
            }
        }
        bail!("the {} suite has no kernel {}", row.suite, row.series)
    })?;
    let image = image(&dir).with_context(|| format!("{} has no kernel image: remove it", dir.display()))?;
    Ok(Kernel { image, dir })
}
