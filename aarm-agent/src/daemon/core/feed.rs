//! What agents say of themselves, and deferred actions that wait for it.

use aarm_receipt::{Body, Common};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::sync::oneshot;

use super::Core;
use super::command::Taken;
use crate::api::feed::{Said, What};
use crate::daemon::batch::{Kind, Whose};
use crate::daemon::resolve::{Attempted, FACT_MAX, Found, INTENT};
use crate::kernel::KernelError;

/// So long what is said of a tool counts for what is done.
const HOLDS_NS: u64 = 60_000_000_000;
/// So long a deferred action waits for something to be said.
const LISTENS_NS: u64 = 10_000_000_000;

impl Core {
    /// Somebody says something of the session that he is in; which that is, and when it is on paper.
    pub(super) fn said(&mut self, pidfd: &OwnedFd, said: Said) -> Result<Option<Taken>, KernelError> {
        let Some(id) = self.p.kernel.session_of(pidfd.as_fd())? else { return Ok(None) };
        let now = crate::kernel::boot_ns();
        let Some(session) = self.sessions.get_mut(id) else { return Ok(None) };
        session.statements.note(now, &said);
        let common = Common {
            time_ns: self.clock.unix(now),
            boot_ns: now,
            host: &self.p.host,
            session: Some(Cow::Borrowed(&session.encoded)),
            seq: None,
        };
        let body = Body::Statement { what: said.what.name(), name: &said.name, text: said.text.as_bytes() };
        let uid = session.uid;
        let whose = Whose::of(Some(session), id, &self.policies);
        self.batch.push(whose, now, 0, Kind::Session, |out| aarm_receipt::encode(&common, &body, out));
        self.note_untold(uid, id, now);
        let (told, durable) = oneshot::channel();
        self.batch.waiters.push(told);
        // Somebody may have waited for it.
        self.seek_all();
        Ok(Some(Taken { session: id, durable }))
    }

    /// Looks whether what a deferred action waits for was said; after a while it does not wait any more.
    pub(super) fn listen(&mut self, key: u64, resolver: &str) {
        let now = crate::kernel::boot_ns();
        let Some(w) = self.holds.get_mut(key) else { return };
        if w.listens_ns == 0 {
            w.listens_ns = now;
        }
        let (began, since_ns, session) = (w.listens_ns, w.since_ns, w.session);
        let session = self.sessions.get(session);
        let heard = session.and_then(|s| match resolver {
            INTENT if !s.intent.is_empty() => Some(s.intent.clone()),
            INTENT => s.statements.last(What::Intent, 0),
            _ => s.statements.last(What::Tool, now.saturating_sub(HOLDS_NS)),
        });
        let waited = now.saturating_sub(began);
        let (found, detail) = match &heard {
            Some(_) => (Found::Known, String::new()),
            None if waited < LISTENS_NS => return,
            None => (Found::Failed, format!("nothing was said within {} s", LISTENS_NS / 1_000_000_000)),
        };
        let fact = heard.map(|mut text| {
            text.truncate(text.floor_char_boundary(FACT_MAX));
            (resolver.to_owned(), text)
        });
        if let Some(w) = self.holds.get_mut(key) {
            w.seeking = true;
            w.listens_ns = 0;
        }
        self.attempted(Attempted {
            key,
            since_ns,
            resolver: resolver.to_owned(),
            found,
            detail,
            facts: fact.into_iter().collect::<BTreeMap<_, _>>(),
            learnt: None,
            took: Duration::from_nanos(waited),
        });
    }
}
