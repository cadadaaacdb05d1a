//! Whether this kernel can hide a supervised task from the programs.
//!
//! Until Linux 6.2, looking for a task's storage gives nothing where another task on the same CPU is in the middle of the same
//! (`bpf_task_storage_trylock`), and a hook cannot tell that from a task that is in no session. One task can only be in the middle of it while another
//! runs if the kernel may be preempted there: with `preempt=full`, or when it was built to be. Such a kernel cannot enforce.

use serde::Serialize;

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preemption {
    /// It hides none: it is newer, or is not preempted.
    Harmless,
    /// It is older, and how it is preempted cannot be found out.
    Unknown,
    /// It may hide some.
    Hides,
}

/// First version that waits for its turn instead.
const MENDED: (u32, u32) = (6, 2);

/// Of this host.
pub fn of_host() -> Preemption {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let (version, command_line) = (read("/proc/sys/kernel/version"), read("/proc/cmdline"));
    let (chosen, config) =
        (read("/sys/kernel/debug/sched/preempt"), read(&format!("/boot/config-{release}")));
    let facts = Facts {
        release,
        version: &version.unwrap_or_default(),
        command_line: &command_line.unwrap_or_default(),
        chosen: chosen.as_deref(),
        config: config.as_deref(),
    };
    facts.preemption()
}

/// What is to be read of it.
#[derive(Clone, Copy)]
struct Facts<'a> {
    release: &'a str,
    /// `uname -v`.
    version: &'a str,
    command_line: &'a str,
    /// The model among those that there are, in parentheses.
    chosen: Option<&'a str>,
    config: Option<&'a str>,
}

impl Facts<'_> {
    fn preemption(self) -> Preemption {
        if version(self.release).is_some_and(|version| version >= MENDED) {
            return Preemption::Harmless;
        }
        match self.is_full() {
            Some(true) => Preemption::Hides,
            Some(false) => Preemption::Harmless,
            None => Preemption::Unknown,
        }
    }

    /// Whether it is preempted everywhere.
    fn is_full(self) -> Option<bool> {
        if let Some(chosen) = self.chosen {
            return Some(chosen.contains("(full)") || chosen.contains("(lazy)"));
        }
        match self.version.split_whitespace().find(|word| word.starts_with("PREEMPT")) {
            None => Some(false),
            // It is chosen at boot.
            Some("PREEMPT_DYNAMIC") => {
                let mut asked =
                    self.command_line.split_whitespace().filter_map(|w| w.strip_prefix("preempt="));
                match asked.next_back() {
                    Some("full" | "lazy") => Some(true),
                    Some("none" | "voluntary") => Some(false),
                    _ => {
                        let config = self.config?;
                        Some(config.lines().any(|line| line == "CONFIG_PREEMPT=y"))
                    }
                }
            }
            Some(_) => Some(true),
        }
    }
}

/// Major and minor version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::Preemption::{Harmless, Hides, Unknown};
    use super::*;

    const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-1 (2026-05-01)\n";

    fn facts<'a>(release: &'a str, version: &'a str, command_line: &'a str) -> Facts<'a> {
        Facts { release, version, command_line, chosen: None, config: None }
    }

    #[test]
    fn what_older_kernels_are() {
        for (version, command_line, expected) in [
            ("#1 SMP Debian", "quiet", Harmless),
            ("#1 SMP PREEMPT Fri", "quiet", Hides),
            ("#1 SMP PREEMPT_RT Fri", "quiet", Hides),
            (DYNAMIC, "quiet preempt=full x", Hides),
            (DYNAMIC, "preempt=full preempt=voluntary", Harmless),
            (DYNAMIC, "preempt=none", Harmless),
            (DYNAMIC, "quiet", Unknown),
            (DYNAMIC, "preempt=nonsense", Unknown),
        ] {
            assert_eq!(
                facts("6.1.0-50-cloud-amd64", version, command_line).preemption(),
                expected,
                "{version} {command_line}"
            );
            // Newer ones wait for their turn.
            assert_eq!(facts("6.2.0", version, command_line).preemption(), Harmless);
            assert_eq!(facts("6.12.9+deb13", version, command_line).preemption(), Harmless);
        }
    }

    #[test]
    fn what_was_chosen_says_more_than_what_was_asked_for() {
        let dynamic = facts("6.1.0", DYNAMIC, "preempt=full");
        assert_eq!(Facts { chosen: Some("none (voluntary) full\n"), ..dynamic }.preemption(), Harmless);
        let dynamic = facts("6.1.0", DYNAMIC, "quiet");
        assert_eq!(Facts { chosen: Some("none voluntary (full)\n"), ..dynamic }.preemption(), Hides);
        let built = |config| Facts { config: Some(config), ..dynamic }.preemption();
        assert_eq!(
            built("CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_VOLUNTARY=y\n# CONFIG_PREEMPT is not set\n"),
            Harmless
        );
        assert_eq!(built("CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT=y\n"), Hides);
    }

    #[test]
    fn what_is_no_version_is_taken_for_an_old_one() {
        assert_eq!(version("6.1.0-50-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("6.12+x"), Some((6, 12)));
        assert_eq!((version("x"), version("6"), version("")), (None, None, None));
        assert_eq!(facts("x", "#1 SMP PREEMPT", "").preemption(), Hides);
    }
}
