//! `aarm-vm-tests [--list] [--skip NAME] [FILTER]`: runs the cases one after the other, as root in a VM.
//! `aarm-vm-tests actor NAME ARG...`: one technique; exits with its errno.
//! `aarm-vm-tests cuts SEED`: writes receipts to disks that lose their power, lie or fail.
//! `aarm-vm-tests escape FAMILY NAME DIR`: one technique of the escape corpus.

use std::process::ExitCode;

use aarm_vm_tests::{actor, cases, cuts, escapes};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "actor") {
        return ExitCode::from(actor::run(&args[2..]));
    }
    if args.get(1).is_some_and(|a| a == "escape") {
        return ExitCode::from(escapes::attempt(&args[2..]));
    }
    if args.get(1).is_some_and(|a| a == "cuts") {
        return match cuts::run(&args[2..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                println!("{e:?}");
                ExitCode::FAILURE
            }
        };
    }
    let mut options = libtest_mimic::Arguments::from_args();
    // The kernel side is one for the whole machine, so cases take turns.
    options.test_threads = Some(1);
    if !options.list && !std::path::Path::new("/etc/aarm-vm/config").exists() {
        eprintln!("aarm-vm-tests: these suites run inside a VM: cargo xtask test --vm");
        return ExitCode::from(2);
    }
    let mut all = cases::all();
    // Of several names, between `,`, any.
    if let Some(names) = options.filter.take_if(|names| names.contains(',')) {
        all.retain(|case| names.split(',').any(|name| case.name().contains(name)));
    }
    libtest_mimic::run(&options, all).exit_code()
}
