//! A service that is asked: a POST of JSON, signed if there is a secret, and its answer as JSON.

use std::io::Read;
use std::path::Path;

use super::{Answer, REPLY_MAX, reply};
use crate::daemon::config::Resolver;
use crate::daemon::post::{Poster, address};

/// Longest secret, in bytes.
const SECRET_MAX: u64 = 4096;

/// The secret in a file, without the end of its line.
pub(super) fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("secret {}: {why}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    let end = bytes.trim_ascii_end().len();
    bytes.truncate(end);
    match bytes.len() as u64 {
        16..=SECRET_MAX => Ok(bytes),
        n => Err(failed(&format!("it has {n} bytes; from 16 to {SECRET_MAX} are needed"))),
    }
}

/// Asks it.
pub(super) async fn resolve(url: &str, resolver: &Resolver, question: Vec<u8>) -> Answer {
    let secret = match resolver.secret.as_deref().map(secret).transpose() {
        Ok(secret) => secret,
        Err(why) => return Answer::failed(why),
    };
    let asked = async {
        let to = address(url)?;
        Poster::new()?.post(&to, question, secret.as_deref(), REPLY_MAX).await
    };
    match asked.await {
        Ok(body) => reply(&body),
        Err(e) => Answer::failed(e),
    }
}
