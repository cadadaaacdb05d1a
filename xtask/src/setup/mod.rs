//! `cargo xtask setup`: what is needed beyond a Rust toolchain, found or installed.

mod apt;
mod crates;
mod kernels;
mod packages;
mod roots;
mod toolchain;

use anyhow::Result;

pub use crates::{DENY, FUZZ, LINKER};
pub use kernels::{MATRIX, kernel};
pub use roots::debian as debian_root;
pub use toolchain::find as toolchain;

/// Finds or installs the compiler of libFuzzer, which is C++.
pub fn cxx() -> Result<()> {
    if packages::found("c++").is_none() {
        packages::install("c++", "g++")?;
    }
    Ok(())
}

/// Does everything, or with `check` only reports. The exit status.
pub fn run(check: bool) -> Result<u8> {
    let mut missing = 0;
    let mut step = |what: &str, found: Option<String>, make: &dyn Fn() -> Result<String>| -> Result<()> {
        match found {
            Some(how) => println!("  ok       {what}: {how}"),
            None if check => {
                missing += 1;
                println!("  missing  {what}");
            }
            None => {
                println!("  getting  {what} ...");
                println!("  ok       {what}: {}", make()?);
            }
        }
        Ok(())
    };
    for (program, package) in packages::NEEDED {
        step(program, packages::found(program), &|| packages::install(program, package))?;
    }
    step("compiler for kernel programs", toolchain::present(), &|| toolchain::find().map(|t| t.describe()))?;
    step("bpf-linker", LINKER.present(), &|| LINKER.bin().map(|p| p.display().to_string()))?;
    for k in MATRIX {
        step(&format!("kernel {}", k.series), kernels::present(k), &|| {
            kernels::kernel(k.series).map(|p| p.image.display().to_string())
        })?;
    }
    step("Debian root for demo and service tests", roots::present(), &|| {
        roots::debian().map(|p| p.display().to_string())
    })?;
    if missing > 0 {
        println!("{missing} missing: run `cargo xtask setup`");
        return Ok(1);
    }
    Ok(0)
}
