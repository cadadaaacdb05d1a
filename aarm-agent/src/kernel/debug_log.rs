//! What kernel programs built with `debug-log` say, into the daemon's own log. Not in a release build.

use aya_log::EbpfLogger;

use super::error::KernelError;

/// Between looks at the programs' log.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Hands each line on.
struct Tracing;

impl log::Log for Tracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!("kernel program, {}: {}", record.module_path().unwrap_or_default(), record.args());
    }

    fn flush(&self) {}
}

/// Follows the log of a freshly loaded object on a thread of its own, for as long as the daemon lives.
pub fn follow(object: &mut aya::Ebpf) -> Result<(), KernelError> {
    let mut log = EbpfLogger::init_with_logger(object, Tracing)
        .map_err(|e| KernelError::io("cannot open the programs' log")(std::io::Error::other(e)))?;
    std::thread::Builder::new()
        .name("aarm-debug-log".into())
        .spawn(move || {
            loop {
                log.flush();
                std::thread::sleep(PAUSE);
            }
        })
        .map_err(KernelError::io("cannot follow the programs' log"))?;
    Ok(())
}
