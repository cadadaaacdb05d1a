//! `aarm doctor`: what this host can enforce, what is missing, and the line that fixes it.
//!
//! The facts come from [`crate::kernel::probe`]; this file turns them into advice. It changes nothing.

use std::fmt::Write as _;

use aarm_common::{Family, Operation};
use serde::Serialize;

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::{Output, style};
use super::{Global, escape};
use crate::api::types::Status;
use crate::kernel::preempt::Preemption;
use crate::kernel::probe::{self, Probe};

/// Say what can be enforced here, and how to fix what cannot
///
/// Looks at the kernel and, as root, really loads and attaches a program. Works without a daemon and changes
/// nothing. Exits with 0 if aarm can enforce here, with 2 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm doctor
  sudo aarm doctor --json | jq '.checks[] | select(.state == \"missing\")'")]
pub struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// In order.
    Ok,
    /// Not there, and needed.
    Missing,
    /// Not there, and only some policies need it.
    Partial,
    /// Could not be found out.
    Unknown,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do, line by line; commands stand on lines of their own and begin with `sudo`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fix: Vec<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: Vec::new() }
    }

    fn not(state: State, name: &'static str, found: impl Into<String>, fix: Vec<String>) -> Self {
        Self { name, state, found: found.into(), fix }
    }
}

/// An operation of the policy language, and whether its hook is there.
#[derive(Debug, Serialize)]
struct Enforceable {
    operation: &'static str,
    family: &'static str,
    hook: &'static str,
    enforceable: bool,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Report {
    can_enforce: bool,
    kernel: String,
    checks: Vec<Check>,
    operations: Vec<Enforceable>,
    /// The daemon's version, if one answers.
    daemon: Option<String>,
}

/// What the advice depends on besides the kernel.
#[derive(Debug, Default)]
struct Distribution {
    /// `ID` and `ID_LIKE` of os-release.
    ids: Vec<String>,
}

impl Distribution {
    fn of_host() -> Self {
        let read = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"));
        Self::parse(&read.unwrap_or_default())
    }

    fn parse(os_release: &str) -> Self {
        let ids = os_release
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
            .flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace())
            .map(str::to_owned)
            .collect();
        Self { ids }
    }

    fn is(&self, names: &[&str]) -> bool {
        self.ids.iter().any(|id| names.contains(&id.as_str()))
    }

    /// Commands that set or change `lsm=` on the kernel command line.
    fn set_lsm(&self, old: Option<&str>, new: &str) -> Vec<String> {
        if self.is(&["fedora", "rhel", "centos", "amzn"]) {
            return vec![
                format!("sudo grubby --update-kernel=ALL --args=\"lsm={new}\""),
                "sudo reboot".into(),
            ];
        }
        let update = if self.is(&["debian", "ubuntu"]) {
            "sudo update-grub"
        } else if self.is(&["suse", "opensuse", "sles"]) {
            "sudo grub2-mkconfig -o /boot/grub2/grub.cfg"
        } else {
            "sudo grub-mkconfig -o /boot/grub/grub.cfg"
        };
        let edit = match old {
            Some(old) => format!("sudo sed -i 's/lsm={old}/lsm={new}/' /etc/default/grub"),
            None => format!("sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&lsm={new} /' /etc/default/grub"),
        };
        vec![edit, update.into(), "sudo reboot".into()]
    }
}

/// Runs it.
pub fn run(args: &DoctorArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let daemon: Result<Status, _> =
        block_on(async { Client::connect(&global.socket).await?.get("/v1/status").await });
    let report = report(&probe::probe(), &Distribution::of_host(), daemon.ok().map(|s| s.version));
    if args.json {
        out.json(&report)?
    } else {
        print(&report, out)?
    }
    Ok(if report.can_enforce { Exit::OK } else { Exit::CANNOT })
}

fn report(probe: &Probe, distribution: &Distribution, daemon: Option<String>) -> Report {
    let built = lsm_built(probe);
    let checks = vec![
        root(probe),
        btf(probe, distribution),
        lsm(probe, distribution, built),
        hooks(probe, built),
        members(probe),
        preemption(probe),
        bpffs(probe),
        attach(probe),
        cgroup2(probe),
    ];
    let operations = Operation::ALL
        .iter()
        .filter(|op| op.is_decided())
        .map(|op| Enforceable {
            operation: op.name(),
            family: op.family().name(),
            hook: op.hook(),
            enforceable: probe.can_enforce() && !probe.missing_hooks.iter().any(|h| h == op.hook()),
        })
        .collect();
    Report { can_enforce: probe.can_enforce(), kernel: probe.kernel.clone(), checks, operations, daemon }
}

/// Whether the kernel was built with BPF security programs; unknown without type information.
fn lsm_built(probe: &Probe) -> Option<bool> {
    // A hook as old as BPF-LSM itself.
    probe.btf.then(|| !probe.missing_hooks.iter().any(|h| h == "file_open"))
}

fn root(probe: &Probe) -> Check {
    if probe.root {
        return Check::ok("root", "running as root");
    }
    let fix = vec![
        "only root may load programs into the kernel, and only root can find out for sure:".into(),
        "sudo aarm doctor".into(),
    ];
    Check::not(State::Missing, "root", "not running as root", fix)
}

fn btf(probe: &Probe, distribution: &Distribution) -> Check {
    const NAME: &str = "type information";
    if probe.btf {
        return Check::ok(NAME, "/sys/kernel/btf/vmlinux can be read");
    }
    let mut fix = vec!["the kernel must be built with CONFIG_DEBUG_INFO_BTF=y; /sys must be mounted".into()];
    if distribution.is(&["debian"]) {
        fix.push("Debian's kernels have it from version 12 on:".into());
        fix.push("sudo apt-get install linux-image-amd64 && sudo reboot".into());
    } else if distribution.is(&["ubuntu"]) {
        fix.push("Ubuntu's kernels have it from version 20.10 on:".into());
        fix.push("sudo apt-get install linux-generic && sudo reboot".into());
    } else if distribution.is(&["fedora", "rhel", "centos"]) {
        fix.push("the distribution's kernels have it (Fedora 31, RHEL 8.2 and later):".into());
        fix.push("sudo dnf upgrade kernel && sudo reboot".into());
    } else if distribution.is(&["amzn"]) {
        fix.push("Amazon Linux 2023 has it, Amazon Linux 2 has not".into());
    } else {
        fix.push("use a kernel of the distribution that has it".into());
    }
    Check::not(State::Missing, NAME, "/sys/kernel/btf/vmlinux is not there or cannot be read", fix)
}

/// Whether a list of security modules is what it looks like: it goes into a command for a root shell.
fn sane(list: &str) -> bool {
    !list.is_empty()
        && list.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b',' || b == b'_')
}

fn lsm(probe: &Probe, distribution: &Distribution, built: Option<bool>) -> Check {
    const NAME: &str = "BPF security module";
    let Some(active) = &probe.lsm else {
        let fix = vec![
            "the list of active modules is in securityfs, which is not mounted (in a container: look on the host):".into(),
            "sudo mount -t securityfs securityfs /sys/kernel/security".into(),
        ];
        return Check::not(State::Unknown, NAME, "cannot tell which security modules are active", fix);
    };
    let present = active.join(",");
    if active.iter().any(|m| m == "bpf") {
        return Check::ok(NAME, format!("active: {present}"));
    }
    let found = format!("`bpf` is not among the active security modules: {present}");
    if built == Some(false) {
        let fix = vec![
            "this kernel was built without CONFIG_BPF_LSM; no setting helps, it takes another kernel".into(),
            "(Debian 12, Ubuntu 20.10, Fedora, RHEL 9 and Amazon Linux 2023 and later have it)".into(),
        ];
        return Check::not(State::Missing, NAME, found, fix);
    }
    let old = probe.lsm_parameter.as_deref();
    let base = old.unwrap_or(&present);
    let new = if base.is_empty() { "bpf".to_owned() } else { format!("{base},bpf") };
    let mut fix = vec![match old {
        Some(old) => format!("on the kernel command line, change lsm={old} to lsm={new}"),
        None => format!("add to the kernel command line: lsm={new}"),
    }];
    if sane(&new) {
        fix[0].push_str("; with GRUB:");
        fix.extend(distribution.set_lsm(old, &new));
    }
    Check::not(State::Missing, NAME, found, fix)
}

fn hooks(probe: &Probe, built: Option<bool>) -> Check {
    const NAME: &str = "hooks";
    match built {
        None => Check::not(State::Unknown, NAME, "cannot tell without type information", Vec::new()),
        Some(false) => {
            Check::not(State::Missing, NAME, "the kernel has no hooks for BPF programs", Vec::new())
        }
        Some(true) if probe.missing_hooks.is_empty() => Check::ok(NAME, "all there"),
        Some(true) => {
            let found = format!("this kernel lacks: {}", probe.missing_hooks.join(", "));
            Check::not(State::Missing, NAME, found, vec![newer_kernel()])
        }
    }
}

fn members(probe: &Probe) -> Check {
    const NAME: &str = "kernel structures";
    if !probe.btf {
        return Check::not(State::Unknown, NAME, "cannot tell without type information", Vec::new());
    }
    if probe.missing_members.is_empty() {
        return Check::ok(NAME, "known");
    }
    Check::not(State::Missing, NAME, probe.missing_members.join("; "), vec![newer_kernel()])
}

fn preemption(probe: &Probe) -> Check {
    const NAME: &str = "preemption";
    let fix = || {
        vec![
            "before Linux 6.2, full preemption may hide a supervised task: add to the kernel command line: preempt=voluntary".to_owned(),
            "or use a kernel from 6.2 on".into(),
        ]
    };
    match probe.preemption {
        Preemption::Harmless => Check::ok(NAME, "hides no task"),
        Preemption::Unknown => {
            let found = "cannot tell how this kernel is preempted (it is older than 6.2)";
            Check::not(State::Unknown, NAME, found, fix())
        }
        Preemption::Hides => {
            let found = "this kernel is older than 6.2 and fully preemptible";
            Check::not(State::Missing, NAME, found, fix())
        }
    }
}

fn newer_kernel() -> String {
    "aarm is tested on Linux 6.1, 6.12 and 7.2: use a kernel from 6.1 on, or report this one".into()
}

fn bpffs(probe: &Probe) -> Check {
    const NAME: &str = "BPF filesystem";
    if probe.bpffs {
        return Check::ok(NAME, "mounted at /sys/fs/bpf");
    }
    let fix = vec![
        "now, and at every start (systemd does the latter by itself):".into(),
        "sudo mount -t bpf bpf /sys/fs/bpf".into(),
        "sudo sh -c 'echo \"bpf /sys/fs/bpf bpf mode=0700 0 0\" >> /etc/fstab'".into(),
    ];
    Check::not(State::Missing, NAME, "not mounted at /sys/fs/bpf", fix)
}

fn attach(probe: &Probe) -> Check {
    const NAME: &str = "attaching a program";
    match &probe.attach {
        Some(Ok(())) => Check::ok(NAME, "tried, works"),
        Some(Err(e)) => {
            let fix = vec![
                "inside a container this takes the host's own capabilities: run it on the host; \
                 on a host, see whether lockdown or the virtual machine's owner forbids it (dmesg)"
                    .into(),
            ];
            Check::not(State::Missing, NAME, format!("tried, failed: {e}"), fix)
        }
        None if crate::object::FLOOR.is_empty() => {
            let fix = vec![
                "this build has no kernel programs in it: build it with `cargo xtask build --release`".into(),
            ];
            Check::not(State::Missing, NAME, "could not be tried", fix)
        }
        None => Check::not(
            State::Unknown,
            NAME,
            "could not be tried: it takes root and type information",
            Vec::new(),
        ),
    }
}

fn cgroup2(probe: &Probe) -> Check {
    const NAME: &str = "cgroup v2";
    if probe.cgroup2 {
        return Check::ok(NAME, "mounted at /sys/fs/cgroup");
    }
    let fix = vec![
        "only policies that choose agents by cgroup need it; for the unified hierarchy add to the kernel \
         command line: systemd.unified_cgroup_hierarchy=1"
            .into(),
    ];
    Check::not(State::Partial, NAME, "not mounted at /sys/fs/cgroup", fix)
}

fn print(report: &Report, out: &mut Output) -> std::io::Result<()> {
    out.line(&format!("Linux {}", escape::value(&report.kernel)))?;
    for check in &report.checks {
        let (word, how) = match check.state {
            State::Ok => ("ok", style::GOOD),
            State::Missing => ("MISSING", style::BAD),
            State::Partial => ("partial", style::WARN),
            State::Unknown => ("unknown", style::WARN),
        };
        let word = out.paint(how, &format!("{word:<7}"));
        out.line(&format!("  {word}  {:<20} {}", check.name, escape::text(&check.found)))?;
        for line in &check.fix {
            let line = escape::text(line);
            let line =
                if line.starts_with("sudo ") { out.paint(style::HELP, &line) } else { line.into_owned() };
            out.line(&format!("             {line}"))?;
        }
    }
    let daemon = match &report.daemon {
        Some(version) => format!("  daemon: running, version {}", escape::value(version)),
        None => "  daemon: does not answer; start it with `sudo systemctl start aarm-agent`".into(),
    };
    out.line(&daemon)?;
    out.line("")?;
    if !report.can_enforce {
        let verdict = out.paint(style::BAD, "aarm cannot enforce here, or cannot tell");
        return out.line(&format!("{verdict}: see what is not ok above"));
    }
    let verdict = out.paint(style::GOOD, "aarm can enforce here");
    out.line(&format!("{verdict}:"))?;
    for family in Family::ALL {
        let mut names = String::new();
        for op in report.operations.iter().filter(|op| op.family == family.name() && op.enforceable) {
            // Writing into a string cannot fail.
            let _ = write!(names, " {}", op.operation);
        }
        if !names.is_empty() {
            out.line(&format!("  {:<8}{names}", family.name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Probe {
        Probe {
            kernel: "6.1.0".into(),
            root: true,
            btf: true,
            lsm: Some(vec!["capability".into(), "landlock".into(), "bpf".into()]),
            lsm_parameter: None,
            bpffs: true,
            cgroup2: true,
            missing_members: Vec::new(),
            missing_hooks: Vec::new(),
            preemption: Preemption::Harmless,
            attach: Some(Ok(())),
        }
    }

    #[test]
    fn a_kernel_that_hides_tasks_cannot_enforce_and_one_that_may_not_can() {
        let hides = Probe { preemption: Preemption::Hides, ..good() };
        assert!(fixes(&hides, "").contains("preempt=voluntary"));
        assert!(Probe { preemption: Preemption::Unknown, ..good() }.can_enforce());
    }

    fn fixes(probe: &Probe, os_release: &str) -> String {
        let report = report(probe, &Distribution::parse(os_release), None);
        assert!(!report.can_enforce);
        assert!(report.operations.iter().all(|op| !op.enforceable));
        report
            .checks
            .into_iter()
            .filter(|c| c.state != State::Ok)
            .flat_map(|c| c.fix)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_good_host_can_enforce_everything() {
        let report = report(&good(), &Distribution::default(), None);
        assert!(report.can_enforce && report.checks.iter().all(|c| c.state == State::Ok));
        assert!(report.operations.iter().all(|op| op.enforceable && !op.hook.is_empty()));
        let (mut out, bytes) = Output::memory(false);
        print(&report, &mut out).unwrap();
        let text = String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
        assert!(text.contains("can enforce here:\n  exec     exec mmap_exec mprotect_exec\n"), "{text}");
    }

    #[test]
    fn the_present_list_is_kept() {
        let lsm = Some(["lockdown", "capability", "yama", "apparmor"].map(str::to_owned).to_vec());
        let probe = Probe { lsm, ..good() };
        let text = fixes(&probe, "ID=ubuntu\nID_LIKE=debian\n");
        assert!(
            text.contains("'s/^GRUB_CMDLINE_LINUX=\"/&lsm=lockdown,capability,yama,apparmor,bpf /'"),
            "{text}"
        );
        assert!(text.contains("sudo update-grub"));
        let text = fixes(&probe, "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n");
        assert!(
            text.contains("grubby --update-kernel=ALL --args=\"lsm=lockdown,capability,yama,apparmor,bpf\""),
            "{text}"
        );
    }

    #[test]
    fn a_parameter_that_is_there_is_changed() {
        let probe = Probe { lsm: Some(vec!["yama".into()]), lsm_parameter: Some("yama".into()), ..good() };
        assert!(fixes(&probe, "ID=debian").contains("'s/lsm=yama/lsm=yama,bpf/'"));
    }

    #[test]
    fn nothing_strange_gets_into_a_command() {
        let probe = Probe { lsm: Some(vec!["x'; rm -rf /; '".into()]), ..good() };
        assert!(!fixes(&probe, "ID=debian").contains("sudo"));
    }

    #[test]
    fn what_cannot_be_set_is_not_advised() {
        let probe =
            Probe { lsm: Some(vec!["yama".into()]), missing_hooks: vec!["file_open".into()], ..good() };
        let text = fixes(&probe, "ID=debian");
        assert!(text.contains("CONFIG_BPF_LSM") && !text.contains("sed"), "{text}");
    }

    #[test]
    fn each_lack_has_its_line() {
        for (probe, line) in [
            (Probe { root: false, attach: None, ..good() }, "sudo aarm doctor"),
            (Probe { btf: false, attach: None, ..good() }, "CONFIG_DEBUG_INFO_BTF"),
            (Probe { lsm: None, ..good() }, "mount -t securityfs"),
            (Probe { bpffs: false, ..good() }, "sudo mount -t bpf bpf /sys/fs/bpf"),
            (Probe { missing_members: vec!["file.f_path".into()], ..good() }, "6.1"),
            (Probe { missing_hooks: vec!["path_chown".into()], ..good() }, "6.1"),
            (Probe { attach: Some(Err("EPERM".into())), ..good() }, "container"),
        ] {
            let text = fixes(&probe, "ID=debian");
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
