//! See the module of the same name in `checks`.
#![no_main]

#[path = "../checks/index.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
