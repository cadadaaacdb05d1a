//! A service that is asked: a POST of JSON, signed if there is a secret, and its answer as JSON.

use super::{Answer, REPLY_MAX, reply};
use crate::daemon::config::Resolver;
use crate::daemon::post::{Poster, address, secret};

/// Asks it.
pub(super) async fn resolve(url: &str, resolver: &Resolver, question: Vec<u8>) -> Answer {
    let asked = async {
        let secret = resolver.secret.as_deref().map(secret).transpose()?;
        let to = address(url)?;
        Poster::to(&to)?.post(&to, question, secret.as_deref(), REPLY_MAX).await
    };
    match asked.await {
        Ok(body) => reply(&body),
        Err(e) => Answer::failed(e),
    }
}
