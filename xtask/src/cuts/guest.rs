//! The machine that writes receipts, and a disk for it to begin with.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use super::{DISK, KERNEL};
use crate::build::Built;
use crate::command::run as run_command;
use crate::vm::{self, Machine, Spec};

/// How long it takes at most to go.
const LEAVING: Duration = Duration::from_secs(60);

/// A machine and its disks.
pub struct Guest {
    pub machine: Machine,
    pub stage: Stage,
    /// What its program prints.
    output: PathBuf,
    _dir: tempfile::TempDir,
}

impl Guest {
    /// Boots one, and waits until it asks what to do.
    pub fn boot(seed: u64, built: &Built) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let stage = Stage::new(dir.path(), DISK)?;
        let output = dir.path().join("output");
        let mut spec = Spec::new(KERNEL, &["/usr/local/bin/aarm-vm-tests", "cuts", &seed.to_string()]);
        spec.agent = false;
        spec.add = vec![(built.bin("aarm-vm-tests"), "/usr/local/bin/aarm-vm-tests".into())];
        for module in crate::setup::kernel(KERNEL)?.modules(&["virtio_blk"]) {
            let name = module.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            spec.add.push((module, format!("/lib/aarm-modules/{name}")));
        }
        spec.disks.clone_from(&stage.sockets);
        spec.output = Some(File::create(&output)?);
        let machine = vm::boot(&mut spec, built)?;
        let mut guest = Self { machine, stage, output, _dir: dir };
        guest.asks().with_context(|| guest.printed())?;
        Ok(guest)
    }

    /// Waits until it asks for a task.
    pub fn asks(&mut self) -> Result<()> {
        self.stage.until_asked(&mut self.machine)
    }

    /// What its program has printed.
    pub fn printed(&self) -> String {
        format!("its output:\n{}", std::fs::read_to_string(&self.output).unwrap_or_default())
    }

    /// Sends it home, when it asks for a task.
    pub fn end(mut self) -> Result<()> {
        self.stage.answer("end");
        let code = self.machine.ended(LEAVING).with_context(|| self.printed())?;
        ensure!(code == 0, "status {code}\n{}", self.printed());
        Ok(())
    }
}

/// A disk with an empty file system.
pub fn empty_disk() -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(DISK as u64)?;
    let mut mke2fs = Command::new("mke2fs");
    // Blocks are those of a large disk, and nothing is left for the kernel to make later.
    let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    mke2fs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(options).arg(file.path());
    run_command(&mut mke2fs).context("mke2fs: run `cargo xtask setup`")?;
    Ok(std::fs::read(file.path())?)
}
