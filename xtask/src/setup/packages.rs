//! Programs that come as packages of the machine's own distribution.

use anyhow::Result;

use crate::command::{as_root, command, exists, quiet};

/// `(program, package)`.
pub const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("debootstrap", "debootstrap"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("cc", "gcc"),
    ("openssl", "openssl"),
    (PYTHON, "python3-cryptography"),
];

/// Python with a package that the script needs which checks proofs (`docs/verify-proof.py`).
const PYTHON: &str = "python3 with cryptography";

/// Whether there is such a Python; the one that comes first need not be the distribution's.
fn has_python() -> bool {
    let has = |python| quiet(&mut command(python, ["-c", "import cryptography"])).is_ok();
    ["python3", "/usr/bin/python3"].into_iter().any(has)
}

/// Where a program is found.
pub fn found(program: &str) -> Option<String> {
    // Not every PATH has sbin, where debootstrap is.
    let here = if program == PYTHON { has_python() } else { exists(program) }
        || std::path::Path::new("/usr/sbin").join(program).is_file();
    here.then(|| match program {
        "qemu-system-x86_64" => quiet(command(program, ["--version"]).env("LC_ALL", "C"))
            .ok()
            .and_then(|v| v.lines().next().map(str::to_owned))
            .unwrap_or_else(|| "installed".into()),
        _ => "installed".into(),
    })
}

/// Installs a package, without what it merely recommends.
pub fn install(program: &str, package: &str) -> Result<String> {
    as_root(command("apt-get", ["-q", "update"]))?;
    let mut c = command("apt-get", ["-q", "-y", "--no-install-recommends", "install", package]);
    if program == "qemu-system-x86_64"
        && let Some(newer) = super::apt::from_backports(package)?
    {
        // A newer QEMU emulates the SHA extensions that servers have had for years: measurements need them.
        c = newer;
    }
    c.env("DEBIAN_FRONTEND", "noninteractive");
    as_root(c)?;
    Ok(found(program).unwrap_or_else(|| "installed".into()))
}
