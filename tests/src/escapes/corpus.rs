//! What a line of the corpus is.

use std::any::Any;
use std::io;

use super::sys::{cannot, ok};
use super::{Dirs, INHERITED};

/// What a set-up leaves running until the attempt is over.
pub type Keep = Box<dyn Any>;
/// Prepares something outside of any session.
type Setup = fn(&Dirs) -> io::Result<Keep>;

/// What is to become of a technique under supervision.
#[derive(Clone, Copy)]
pub enum Expect {
    /// Refused, with a receipt of this operation by this rule, or for this cause.
    Contained { operation: &'static str, rule: &'static str },
    /// No effect, by something that is not a rule.
    Harmless(&'static str),
    /// It has its effect. The reason.
    Open(&'static str),
    /// It cannot be tried here. The reason.
    Absent(&'static str),
    /// Another case tries it.
    Elsewhere(&'static str),
}

/// One line of the corpus.
#[derive(Clone, Copy)]
pub struct Technique {
    /// Unique in its family.
    pub name: &'static str,
    /// As in the table.
    pub what: &'static str,
    /// Ends well if it had its effect.
    pub attempt: fn(&Dirs) -> io::Result<()>,
    /// Before the policy is loaded.
    pub before: Option<Setup>,
    /// Before the session begins.
    pub setup: Option<Setup>,
    /// What the corpus says.
    pub expect: Expect,
    /// Where a kernel differs.
    pub on: &'static [(&'static str, Expect)],
    /// Its effect comes after its end: whether it came, asked outside of the session.
    pub later: Option<fn(&Dirs) -> io::Result<()>>,
}

fn never(_: &Dirs) -> io::Result<()> {
    Err(cannot("not a technique that runs here"))
}

impl Technique {
    pub const fn new(
        name: &'static str,
        what: &'static str,
        attempt: fn(&Dirs) -> io::Result<()>,
        expect: Expect,
    ) -> Self {
        Self { name, what, attempt, before: None, setup: None, expect, on: &[], later: None }
    }

    pub const fn before(self, setup: Setup) -> Self {
        Self { before: Some(setup), ..self }
    }

    pub const fn setup(self, setup: Setup) -> Self {
        Self { setup: Some(setup), ..self }
    }

    pub const fn later(self, later: fn(&Dirs) -> io::Result<()>) -> Self {
        Self { later: Some(later), ..self }
    }

    pub const fn on(self, kernels: &'static [(&'static str, Expect)]) -> Self {
        Self { on: kernels, ..self }
    }

    pub fn expected(&self, kernel: &str) -> Expect {
        let differs = self
            .on
            .iter()
            .find(|(series, _)| kernel.strip_prefix(series).is_some_and(|r| r.starts_with('.')));
        differs.map_or(self.expect, |(_, e)| *e)
    }
}

pub const fn contained(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    operation: &'static str,
    rule: &'static str,
) -> Technique {
    Technique::new(name, what, attempt, Expect::Contained { operation, rule })
}

pub const fn open(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    why: &'static str,
) -> Technique {
    Technique::new(name, what, attempt, Expect::Open(why))
}

pub const fn absent(name: &'static str, what: &'static str, why: &'static str) -> Technique {
    Technique::new(name, what, never, Expect::Absent(why))
}

pub const fn elsewhere(name: &'static str, what: &'static str, case: &'static str) -> Technique {
    Technique::new(name, what, never, Expect::Elsewhere(case))
}

/// Techniques that one policy is to contain.
pub struct Family {
    pub name: &'static str,
    /// Rules of its policy.
    pub rules: &'static str,
    /// Decision where no network rule matches.
    pub network: &'static str,
    /// Techniques are proved against a daemon: without one there is nothing to attack.
    pub daemon_first: bool,
    pub techniques: &'static [&'static [Technique]],
}

impl Family {
    pub fn all(&self) -> impl Iterator<Item = &'static Technique> {
        self.techniques.iter().flat_map(|t| t.iter())
    }

    pub fn policy(&self) -> String {
        crate::host::policy(self.rules).replace("network: ALLOW", &format!("network: {}", self.network))
    }
}

/// A descriptor under the inherited number, closed when dropped.
struct Inherited;

impl Drop for Inherited {
    fn drop(&mut self) {
        // SAFETY: a number that only set-ups use.
        unsafe { libc::close(INHERITED) };
    }
}

/// Hands a descriptor to whatever is started next.
pub fn inherit(fd: impl std::os::fd::IntoRawFd) -> io::Result<Keep> {
    let fd = fd.into_raw_fd();
    // SAFETY: our own descriptor, and a number that only set-ups use. The copy is not closed on exec.
    unsafe {
        ok(libc::dup2(fd, INHERITED).into())?;
        libc::close(fd);
    }
    Ok(Box::new(Inherited))
}

/// A change of what must not be written, by the rule that all families have for it.
pub const fn write(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    operation: &'static str,
) -> Technique {
    contained(name, what, attempt, operation, "no-etc")
}
