//! The Debian root: a small system with systemd and the tools that a coding agent uses, as a compressed
//! initial RAM file system.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache;
use crate::command::{as_root, command};
use crate::image;

/// Raised whenever the list below changes.
const VERSION: u32 = 2;
const SUITE: &str = "bookworm";
const PACKAGES: &str = "systemd-sysv,dbus,git,python3,curl,ca-certificates,tcc,libc6-dev,make,netcat-openbsd,procps,iproute2,openssh-client,tmux,vim-tiny";

fn entry() -> String {
    format!("debian-{SUITE}-{VERSION}")
}

/// Where it is, if it is there.
pub fn present() -> Option<String> {
    let path = cache::dir().ok()?.join(entry());
    path.exists().then(|| path.display().to_string())
}

/// The archive, made if need be (some minutes, and root for debootstrap).
pub fn debian() -> Result<PathBuf> {
    let dir = cache::entry(&entry(), |dir| {
        let tree = dir.join("tree");
        let mut c = command("debootstrap", ["--variant=minbase"]);
        c.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(&tree);
        if let Ok(mirror) = super::apt::mirror_uri() {
            c.arg(mirror);
        }
        c.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        as_root(c)?;
        for waste in
            ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"]
        {
            as_root(command("rm", ["-rf".as_ref(), tree.join(waste).as_os_str()]))?;
        }
        image::compress_tree(&tree, &dir.join("root.cpio.gz"))?;
        as_root(command("rm", ["-rf".as_ref(), tree.as_os_str()]))
    })?;
    Ok(dir.join("root.cpio.gz"))
}
