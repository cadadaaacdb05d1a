//! More events than anybody reads: actions are refused, none is lost.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::host::{Host, ME, policy};

pub const CASES: &[Case] = &[("a_flood_is_refused_not_lost", flood)];

/// Opens in all: far more than the ring holds.
const OPENS: u64 = 120_000;

fn flood() -> Result<()> {
    let h = Host::start(&policy(""))?;
    let before = h.metric("aarm_events_received_total")?;
    // Nobody reads while the flood runs.
    let script = format!(
        "echo started; {ME} actor flood /etc/passwd {} & {ME} actor flood /etc/passwd {}; wait",
        OPENS / 2,
        OPENS / 2
    );
    let mut child = Command::new("/usr/local/bin/aarm")
        .args(["run", "--", "/bin/sh", "-c", &format!("sleep 1; {script}")])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(600));
    h.signal(libc::SIGSTOP);
    let mut text = String::new();
    let mut out = child.stdout.take().context("piped above")?;
    // The ring fills while the daemon is stopped; then it goes on.
    std::thread::sleep(std::time::Duration::from_secs(20));
    h.signal(libc::SIGCONT);
    std::io::Read::read_to_string(&mut out, &mut text)?;
    ensure!(child.wait()?.success(), "{text}\n{}", h.log());
    let refused: u64 = text.lines().filter_map(|l| l.strip_prefix("refused ")?.parse::<u64>().ok()).sum();
    ensure!(refused > 0, "the ring was never full: {text}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let received = h.metric("aarm_events_received_total")? - before;
        if received >= (OPENS - refused) as f64 {
            break;
        }
        let late = std::time::Instant::now() > deadline;
        ensure!(!late, "{received} received, {refused} of {OPENS} refused");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    ensure!(h.metric("aarm_events_lost_total")? == 0.0, "events were lost");
    h.verified()
}
