//! Kernel modules that some techniques need, where the machine was given them.

use std::io;
use std::os::fd::AsRawFd;

use super::corpus::{Expect, Keep};
use super::sys::{c, cannot, ok};

/// Where `xtask` puts them.
const DIR: &str = "/lib/aarm-modules";
/// `MODULE_INIT_COMPRESSED_FILE`.
const COMPRESSED: libc::c_int = 4;

/// Expected on a kernel whose modules are not part of the set-up.
pub const fn lacks(module: &'static str) -> Expect {
    match module.as_bytes() {
        b"overlay" => Expect::Absent("the overlay module is not part of this kernel's set-up"),
        b"binfmt_misc" => Expect::Absent("the binfmt_misc module is not part of this kernel's set-up"),
        _ => Expect::Absent("its module is not part of this kernel's set-up"),
    }
}

/// Loads modules, in this order.
pub fn loaded(names: &[&str]) -> io::Result<Keep> {
    for name in names {
        load(name)?;
    }
    Ok(Box::new(()))
}

/// Loads one, unless it is built in, or loaded.
pub fn load(name: &str) -> io::Result<()> {
    let found = [("ko", 0), ("ko.xz", COMPRESSED)].into_iter().find_map(|(ending, flags)| {
        Some((std::fs::File::open(format!("{DIR}/{name}.{ending}")).ok()?, flags))
    });
    let Some((file, flags)) = found else {
        // Built in, or not needed by this kernel.
        return Ok(());
    };
    // SAFETY: the parameters end in NUL.
    match ok(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c("").as_ptr(), flags) }) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => Err(cannot(&format!("module {name}: {e}"))),
        _ => Ok(()),
    }
}
