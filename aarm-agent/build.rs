//! Embeds the kernel objects that `cargo xtask build` made; without them (plain `cargo check` and unit
//! tests) embeds empty ones, and the daemon refuses to start with a clear text.

use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (variable, file) in [("AARM_BPF_OBJECT", "aarm.bpf.o"), ("AARM_BPF_FLOOR", "floor.bpf.o")] {
        println!("cargo::rerun-if-env-changed={variable}");
        let object = match std::env::var_os(variable) {
            Some(path) => {
                println!("cargo::rerun-if-changed={}", PathBuf::from(&path).display());
                std::fs::read(&path).unwrap_or_else(|e| panic!("{variable}: {}: {e}", path.display()))
            }
            None => Vec::new(),
        };
        std::fs::write(out.join(file), object).expect("OUT_DIR is writable");
    }
}
