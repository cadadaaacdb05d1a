//! Tells the service manager how the daemon is doing, if one asks (`NOTIFY_SOCKET`).

use std::time::Duration;

use sd_notify::NotifyState;

/// Longest that the kernel verifies one program, with room for a machine that is emulated and busy.
const ONE_PROGRAM: Duration = Duration::from_secs(300);

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Everything is in force and recorded from now on.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Programs are being loaded: this is progress, so the service manager waits on.
pub fn loading(done: usize, of: usize, name: &str) {
    tracing::debug!(done, of, name, "loading");
    let status = format!("loading programs: {done} of {of}, now {name}");
    send(&[NotifyState::Status(&status), NotifyState::ExtendTimeoutUsec(ONE_PROGRAM.as_micros() as u32)]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// Shutting down.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Alive.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called, if at all: half of what the service manager waits.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}
