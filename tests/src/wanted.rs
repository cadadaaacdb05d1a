//! What a run was asked for: numbers from the environment.

use anyhow::{Context, Result};

/// Seed of what is random.
const SEED: &str = "AARM_SEED";

/// A number from the environment.
pub fn number(name: &str) -> Result<Option<u64>> {
    let text = std::env::var(name).ok();
    text.map(|t| t.parse().with_context(|| format!("{name} is not a number: {t}"))).transpose()
}

/// The seed that was asked for, else another one each time.
pub fn seed() -> Result<u64> {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(match number(SEED)? {
        Some(seed) => seed,
        None => now()?.as_nanos() as u64 % 1_000_000,
    })
}
