//! `cargo xtask test`: fast checks first, then the suites inside VMs, one boot for each kernel.

use std::collections::VecDeque;
use std::fs::File;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, Built, Profile};
use crate::cache;
use crate::command::run as run_command;
use crate::cuts;
use crate::setup::MATRIX;
use crate::vm::{self, Root, Spec};

/// Arguments of `cargo xtask test`.
#[derive(Args)]
pub struct TestArgs {
    /// Only what runs without a VM.
    #[arg(long)]
    unit: bool,
    /// Only the VM suites.
    #[arg(long, conflicts_with = "unit")]
    vm: bool,
    /// Only this kernel.
    #[arg(long)]
    kernel: Option<String>,
    /// Holds so many decisions of the kernel against the reference evaluator (20,000 without it), and runs nothing else
    /// unless a filter is given.
    #[arg(long, value_name = "DECISIONS", requires = "vm", value_parser = clap::value_parser!(u64).range(1..))]
    differential: Option<u64>,
    /// Seed of the random policies and actions, as a run that failed has printed it; by default another one each time.
    #[arg(long, requires = "vm")]
    seed: Option<u64>,
    /// Only cases whose name contains this, or one of several between commas; topics that have a boot of their own, from the start.
    filter: Option<String>,
}

impl TestArgs {
    /// What the cases' names are to contain.
    fn filter(&self) -> Option<&str> {
        self.filter.as_deref().or(self.differential.map(|_| DIFFERENTIAL))
    }

    /// What the suites are told of which cases to run in a boot; none: it has none of those that are asked for.
    fn cases(&self, boot: Boot) -> Option<Vec<String>> {
        let apart = OWN_BOOT.iter().flat_map(|(_, _, topics)| *topics);
        let mut words = match boot {
            Boot::Plain => apart.flat_map(|t| ["--skip", *t]).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let Some(filter) = self.filter() else {
            words.extend((boot != Boot::Plain).then(|| topics(boot).join(",")));
            return Some(words);
        };
        let is_of = |name: &str, boot| topics(boot).iter().any(|t| name.starts_with(t.trim_end_matches(':')));
        let names = filter.split(',').filter(|name| match boot {
            // What no other boot has is here.
            Boot::Plain => OWN_BOOT.iter().all(|(apart, ..)| !is_of(name, *apart)),
            _ => is_of(name, boot),
        });
        words.push(names.collect::<Vec<_>>().join(","));
        words.last().is_some_and(|names| !names.is_empty()).then_some(words)
    }

    /// Variables for the suites, as words for `env`.
    fn variables(&self) -> Vec<String> {
        let set = |name: &str, value: Option<u64>| value.map(|value| format!("{name}={value}"));
        let given = SIZES.iter().map(|(name, ..)| set(name, size(name)));
        [set("AARM_DIFFERENTIAL", self.differential), set("AARM_SEED", self.seed)]
            .into_iter()
            .chain(given)
            .flatten()
            .collect()
    }

    /// How long one kernel may take.
    fn timeout(&self) -> Duration {
        let more = self.differential.unwrap_or(0).div_ceil(DECISIONS_A_SECOND);
        let took =
            |(name, seconds): &(&str, u64)| size(name).unwrap_or(0).saturating_mul(*seconds).div_ceil(1000);
        let larger: u64 = SIZES.iter().map(took).sum();
        SUITE + Duration::from_secs(more + larger)
    }
}

/// How much some cases do, if these are set: see where they are read. And the seconds in which a slow machine does a thousand of it.
const SIZES: &[(&str, u64)] = &[("AARM_STORM", 8000), ("AARM_TOCTOU", 4)];

/// How often each case of [`cuts`] cuts, if set: `AARM_CUTS=200 cargo xtask test --vm cuts::`.
const CUTS: &str = "AARM_CUTS";

/// The size that was asked for.
fn size(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The topic that `--differential` runs.
const DIFFERENTIAL: &str = "differential::";
/// Machines of two gigabytes at a time: what two cores and a small CI can bear.
const AT_ONCE: usize = 2;
/// How long the suites of one kernel may take.
const SUITE: Duration = Duration::from_secs(4200);
/// What a slow machine still holds against the evaluator.
const DECISIONS_A_SECOND: u64 = 30;

/// Result of one suite.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs what was asked for. The exit status.
pub fn run(args: &TestArgs) -> Result<u8> {
    crate::setup::run(false)?;
    if !args.vm {
        unit()?;
    }
    if args.unit {
        return Ok(0);
    }
    let built = build::all(Profile::Suites, false)?;
    let mut total = Tally::default();
    let kernels: Vec<_> =
        MATRIX.iter().map(|k| k.series).filter(|s| args.kernel.as_deref().is_none_or(|k| k == *s)).collect();
    anyhow::ensure!(!kernels.is_empty(), "there is no such kernel in the matrix");
    let plain = kernels.iter().filter(|_| args.cases(Boot::Plain).is_some()).map(|k| (Boot::Plain, *k));
    let apart =
        OWN_BOOT.iter().filter(|(boot, kernel, _)| kernels.contains(kernel) && args.cases(*boot).is_some());
    let mut waiting: VecDeque<_> = plain.chain(apart.map(|(boot, kernel, _)| (*boot, *kernel))).collect();
    let waiting = Mutex::new(&mut waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let total = Mutex::new(&mut total);
    // Each suite is a boot; the longest come first.
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((boot, kernel)) = next() {
                    let tally = suite(kernel, boot, args, &built).unwrap_or_else(|e| {
                        println!("kernel {kernel}: {e:#}");
                        Tally { passed: 0, failed: 1 }
                    });
                    total.lock().unwrap_or_else(PoisonError::into_inner).add(&tally);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("\nVM suites on {}:", kernels.join(", "));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(u8::from(total.failed > 0))
}

/// Formatting, lints, unit tests.
fn unit() -> Result<()> {
    let cargo = |args: &[&str]| {
        let mut c = Command::new("cargo");
        c.args(args).current_dir(cache::repository());
        c
    };
    run_command(&mut cargo(&["fmt", "--all", "--check"])).context("formatting: run `cargo fmt --all`")?;
    run_command(&mut cargo(&[
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    run_command(&mut cargo(&["test", "--quiet", "--locked", "--workspace"]))
}

/// What a machine is booted for: each has cases that only make sense there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    /// Most cases.
    Plain,
    /// Those of a kernel without `bpf` among its security modules.
    NoBpf,
    /// Those of a service under systemd.
    Debian,
    /// Those of a disk that loses its power, lies or fails.
    Cuts,
}

/// Topics that have a boot of their own, on one kernel.
const OWN_BOOT: &[(Boot, &str, &[&str])] = &[
    (Boot::NoBpf, "6.1", &["nobpf::"]),
    (Boot::Debian, "6.12", &["real::", "debian::"]),
    (Boot::Cuts, cuts::KERNEL, &["cuts::"]),
];

/// The topics of a boot of its own.
fn topics(boot: Boot) -> &'static [&'static str] {
    OWN_BOOT.iter().find(|(apart, ..)| *apart == boot).map_or(&[], |(.., topics)| topics)
}

/// What the escape corpus tries, and cases need, that a cloud kernel has as modules. Loaded by those.
const MODULES: &[&str] = &[
    "overlay",
    "libcrc32c",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "sctp",
    "dccp",
    "dccp_ipv4",
    "vsock",
    "af_alg",
    "binfmt_misc",
    "dummy",
    "loop",
];

/// Has disks lose their power, lie and fail.
fn cut(args: &TestArgs, built: &Built) -> Result<Tally> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = args.seed.unwrap_or(now.as_secs() % 1_000_000);
    let names = args.cases(Boot::Cuts).unwrap_or_default().join(",");
    let (passed, failed) = cuts::run(size(CUTS).unwrap_or(cuts::CUTS), seed, &names, built)?;
    Ok(Tally { passed, failed })
}

/// Boots one kernel and runs its cases.
fn suite(kernel: &str, boot: Boot, args: &TestArgs, built: &Built) -> Result<Tally> {
    let name = match boot {
        Boot::Plain => kernel.to_owned(),
        Boot::NoBpf => format!("{kernel}-nobpf"),
        Boot::Debian => format!("{kernel}-debian"),
        Boot::Cuts => return cut(args, built),
    };
    let log = cache::target().join(format!("vm-{name}.log"));
    let mut spec = Spec::new(kernel, &["/bin/busybox", "env"]);
    spec.command.extend(args.variables());
    spec.command.push("/usr/local/bin/aarm-vm-tests".to_owned());
    spec.command.extend(args.cases(boot).unwrap_or_default());
    spec.root = if boot == Boot::Debian { Root::Debian } else { Root::Busybox };
    spec.bpf = boot != Boot::NoBpf;
    spec.agent = false;
    spec.systemd = boot == Boot::Debian;
    spec.add = vec![(built.bin("aarm-vm-tests"), "/usr/local/bin/aarm-vm-tests".into())];
    spec.add.push((cache::repository().join("deploy"), "/usr/share/aarm/deploy".into()));
    // Elsewhere `/lib` may be a link, which a directory of ours would take the place of.
    if boot == Boot::Plain {
        for module in crate::setup::kernel(kernel)?.modules(MODULES) {
            let name = module.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            spec.add.push((module, format!("/lib/aarm-modules/{name}")));
        }
    }
    spec.timeout = args.timeout();
    spec.output = Some(File::create(&log)?);
    let began = Instant::now();
    let code = vm::run(&mut spec, built);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let code = code.with_context(|| format!("output so far:\n{text}"))?;
    crate::escapes::collect(kernel, &text)?;
    let tally = tally(&text).with_context(|| format!("no result line (status {code}):\n{text}"))?;
    println!(
        "kernel {name}: {} passed, {} failed in {} s",
        tally.passed,
        tally.failed,
        began.elapsed().as_secs()
    );
    if tally.failed > 0 || code != 0 {
        println!("{text}");
    }
    Ok(Tally { passed: tally.passed, failed: tally.failed.max(usize::from(code != 0)) })
}

/// The runner's closing line: `test result: ok. N passed; N failed; ...`.
fn tally(text: &str) -> Option<Tally> {
    let line = text.lines().rev().find(|l| l.starts_with("test result:"))?;
    let number =
        |word: &str| line.split([';', '.']).find_map(|p| p.trim().strip_suffix(word)?.trim().parse().ok());
    Some(Tally { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_boot_runs_what_it_has_of_what_is_asked_for() {
        let cases = |filter: Option<&str>, boot| {
            let filter = filter.map(str::to_owned);
            let args =
                TestArgs { unit: false, vm: true, kernel: None, differential: None, seed: None, filter };
            args.cases(boot).map(|words| words.join(" "))
        };
        let skipped = "--skip nobpf:: --skip real:: --skip debian:: --skip cuts::";
        assert_eq!(cases(None, Boot::Plain).as_deref(), Some(skipped));
        assert_eq!(cases(None, Boot::Debian).as_deref(), Some("real::,debian::"));
        assert_eq!(cases(Some("hold,real::git"), Boot::Plain), Some(format!("{skipped} hold")));
        assert_eq!(cases(Some("hold,real::git"), Boot::Debian).as_deref(), Some("real::git"));
        assert_eq!(cases(Some("hold,real::git"), Boot::NoBpf), None);
        assert_eq!(cases(Some("debian"), Boot::Plain), None);
        assert_eq!(cases(Some("cuts::"), Boot::Plain), None);
        assert!(cases(Some("cuts::"), Boot::Cuts).is_some() && cases(None, Boot::Cuts).is_some());
    }

    #[test]
    fn the_result_line_is_read() {
        let t = tally("x\ntest result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\r\n").unwrap();
        assert_eq!((t.passed, t.failed), (3, 2));
        assert!(tally("nothing").is_none());
    }
}
