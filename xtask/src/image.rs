//! Initial RAM file systems for the VMs, in the kernel's own archive format (cpio, newc).
//!
//! A VM's root is one or two archives one after the other: optionally a compressed tree made once, then what
//! this run adds. The kernel unpacks them in order, later ones over earlier ones.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cpio::newc::Builder;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive being written.
pub struct Image<W: Write> {
    out: W,
    inode: u32,
    made: BTreeSet<PathBuf>,
}

impl<W: Write> Image<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, made: BTreeSet::new() }
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = path.to_str().context("file names in images are UTF-8")?.trim_start_matches('/');
        let size = u32::try_from(content.len()).context("file too large for an image")?;
        let mut w = Builder::new(name).ino(self.inode).mode(mode).nlink(1).write(&mut self.out, size);
        w.write_all(content)?;
        w.finish()?;
        Ok(())
    }

    /// A directory and those above it.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = PathBuf::from(path.trim_start_matches('/'));
        let mut above: Vec<_> =
            path.ancestors().filter(|p| !p.as_os_str().is_empty()).map(PathBuf::from).collect();
        above.reverse();
        for dir in above {
            if self.made.insert(dir.clone()) {
                self.entry(&dir, DIRECTORY | 0o755, &[])?;
            }
        }
        Ok(())
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => self.directory(parent),
            _ => Ok(()),
        }
    }

    /// A file from bytes.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(Path::new(path), FILE | mode, content)
    }

    /// A copy of a host's file, or of a directory with all in it.
    pub fn add(&mut self, from: &Path, to: &str) -> Result<()> {
        let meta = std::fs::metadata(from).with_context(|| format!("cannot add {}", from.display()))?;
        if meta.is_dir() {
            self.directory(to)?;
            let mut entries: Vec<_> = std::fs::read_dir(from)?.collect::<std::io::Result<_>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for e in entries {
                let name = e.file_name();
                self.add(&e.path(), &format!("{}/{}", to.trim_end_matches('/'), name.to_string_lossy()))?;
            }
            return Ok(());
        }
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
        self.file(to, mode, &content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parent(path)?;
        self.entry(Path::new(path), LINK | 0o777, Path::new(target).as_os_str().as_bytes())
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W> {
        Ok(cpio::newc::trailer(self.out)?)
    }
}

/// A whole tree as a compressed archive, with owners and device nodes: made by the machine's own tools,
/// because reading it needs root.
pub fn compress_tree(tree: &Path, out: &Path) -> Result<()> {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let script = "cd \"$1\" && find . -xdev -print0 | busybox cpio -o -H newc -0 2>/dev/null | gzip -6";
    let mut c = if root { Command::new("sh") } else { Command::new("sudo") };
    if !root {
        c.arg("sh");
    }
    let status = c
        .args(["-c", script, "sh"])
        .arg(tree)
        .stdout(Stdio::from(std::fs::File::create(out)?))
        .status()
        .context("packing the tree")?;
    if !status.success() {
        bail!("packing {} failed", tree.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_every_parent_once() {
        let mut image = Image::new(Vec::new());
        image.file("/etc/a/b", 0o644, b"x").unwrap();
        image.file("/etc/a/c", 0o755, b"yy").unwrap();
        image.link("/bin", "usr/bin").unwrap();
        let bytes = image.finish().unwrap();
        let mut rest = &bytes[..];
        let mut names = Vec::new();
        loop {
            let r = cpio::newc::Reader::new(rest).unwrap();
            if r.entry().is_trailer() {
                break;
            }
            names.push((r.entry().name().to_owned(), r.entry().mode(), r.entry().file_size()));
            rest = r.finish().unwrap();
        }
        let names: Vec<_> = names.iter().map(|(n, m, s)| (n.as_str(), *m, *s)).collect();
        assert_eq!(
            names,
            [
                ("etc", 0o40755, 0),
                ("etc/a", 0o40755, 0),
                ("etc/a/b", 0o100644, 1),
                ("etc/a/c", 0o100755, 2),
                ("bin", 0o120777, 7)
            ]
        );
    }
}
