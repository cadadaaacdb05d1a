//! Hold: actions that wait for their decision.
//!
//! A system call that must wait is stopped before it has had an effect, and begun anew by the kernel when it may go on. So a
//! held action is asked about twice or more often: the hook knows it again by its key, a keyed hash over who acts and all that
//! the action is. What differs in anything is another action.
//!
//! `HOLDS` (written by the programs, by key) says what waits. `VERDICTS` (written by the daemon, by the same key) says what
//! became of it; the hook takes both away. `GRANTS` (by session and action) answers before anything waits.

use crate::event::Cause;
use crate::limits::{MAX_RULES, SYSCALLS};
use crate::op::{Decision, OPERATIONS, Operation};
use crate::policy::Bits;
use crate::state::ObjectId;

/// The thread was told to stop: whoever decides must let it go on. Without it, it looks for the answer by itself.
pub const HOLD_STOPPED: u32 = 1;

/// Most rules, besides the one that decides, that ask about one action. An action that more ask about is refused at once.
pub const ALSO: usize = 4;

/// What asks about an action: an action may do several things at once, and each of them may be for somebody else to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asks {
    /// The rule; of a default, none.
    pub rule: Option<u16>,
    /// STEP_UP or DEFER.
    pub decision: Decision,
    /// Rule, default, conflict or unknown.
    pub cause: Cause,
}

impl Asks {
    const DEFER: u16 = 1 << 9;
    const CAUSE: u32 = 10;
    const USED: u16 = 1 << 15;

    /// As a number, from numbers; `rule` is only looked at where the cause has one. Never 0.
    #[inline(always)]
    pub const fn bits(rule: u16, decision: u8, cause: u8) -> u16 {
        let cause = if cause == Cause::Rule as u8 {
            0
        } else if cause == Cause::Default as u8 {
            1
        } else if cause == Cause::Conflict as u8 {
            2
        } else {
            3
        };
        let rule = if cause == 1 { 0 } else { rule & (MAX_RULES as u16 - 1) };
        let defer = if decision == Decision::Defer as u8 { Self::DEFER } else { 0 };
        rule | defer | cause << Self::CAUSE | Self::USED
    }

    /// From a number.
    pub fn from_bits(bits: u16) -> Option<Self> {
        let cause = [Cause::Rule, Cause::Default, Cause::Conflict, Cause::Unknown];
        let cause = cause[(bits >> Self::CAUSE & 3) as usize];
        let rule = Some(bits & (MAX_RULES as u16 - 1)).filter(|_| cause != Cause::Default);
        let decision = if bits & Self::DEFER != 0 { Decision::Defer } else { Decision::StepUp };
        let found = Self { rule, decision, cause };
        // What has more than one form has none.
        let again = Self::bits(rule.unwrap_or(0), decision as u8, cause as u8);
        (bits == again).then_some(found)
    }
}

const _: () = assert!(MAX_RULES == 512, "a rule has nine bits");

/// What waits (`HOLDS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hold {
    /// Boot-time nanoseconds at which it began to wait: with its key, the name of this hold.
    pub since_ns: u64,
    /// Session.
    pub session: u64,
    /// The same action, whichever thread of the session does it, asked about by the same rules: see [`GrantKey`].
    pub action: u64,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Policy generation that decided.
    pub policy: u32,
    /// `HOLD_*`.
    pub flags: u32,
    /// Rule that decided, or `NO_RULE`.
    pub rule: u16,
    /// [`Operation`].
    pub op: u8,
    /// STEP_UP or DEFER, as [`crate::Decision`].
    pub decision: u8,
    /// How often it was stopped.
    pub stops: u32,
}

/// What became of it (`VERDICTS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// [`Hold::since_ns`] of the hold that is meant.
    pub since_ns: u64,
    /// ALLOW or DENY, as [`crate::Decision`].
    pub decision: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of `GRANTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GrantKey {
    /// Session.
    pub session: u64,
    /// Keyed hash over all that the action is (operation, object, names, address), and over what asked about it: another
    /// rule, or another policy, asks anew.
    pub action: u64,
}

/// An answer that is good for more than one action (`GRANTS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Grant {
    /// Boot-time nanoseconds until which it holds.
    pub expires_ns: u64,
    /// Actions that it is still good for.
    pub uses: u64,
}

/// Programs that one exec asks for at most whose command line decides: a script, its interpreter, and the interpreter of that.
pub const LINE_ROUNDS: usize = 3;

/// What the kernel found of an exec whose command line decides (`LINES`, by [`Hold::action`]): of each program that was asked for, in
/// turn, the rules on running it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Lines {
    /// How many programs.
    pub rounds: u32,
    /// History conditions of the policy that held when the last of them was asked for, as in its event.
    pub conditions: u32,
    /// Subject conditions, likewise.
    pub subjects: u32,
    /// Zero.
    pub reserved: u32,
    /// Labels of the session, likewise.
    pub labels: u64,
    /// Rules whose other predicates and conditions hold.
    pub matched: [Bits; LINE_ROUNDS],
    /// Of those, the rules that something unknown makes refuse.
    pub unsure: [Bits; LINE_ROUNDS],
    /// The files of the programs.
    pub objects: [ObjectId; LINE_ROUNDS],
}

/// System calls, as bits.
pub type Syscalls = [u64; SYSCALLS / 64];

/// Numbers (x86-64) of the system calls in which an action of an operation can wait: those that leave nothing behind when the hook
/// refuses, and hand its error through, so that the kernel begins them anew.
/// Source: `arch/x86/entry/syscalls/syscall_64.tbl`, and the callers of the hooks, in Linux 6.1 to 7.2.
pub const fn syscalls(op: Operation) -> &'static [u16] {
    match op {
        Operation::Exec => &[59, 322],
        Operation::MmapExec => &[9],
        Operation::MprotectExec => &[10, 329],
        // Opening, also of the program by exec; and reading and writing through a descriptor from before the session.
        Operation::OpenRead | Operation::OpenWrite | Operation::RawMemory | Operation::SysctlWrite => {
            &[0, 1, 2, 9, 17, 18, 19, 20, 59, 78, 85, 217, 257, 295, 296, 304, 322, 327, 328, 437]
        }
        Operation::Create | Operation::Mknod => &[2, 49, 85, 133, 257, 259, 437],
        Operation::Mkdir => &[83, 258],
        Operation::Symlink => &[88, 266],
        Operation::Link => &[86, 265],
        Operation::Rename => &[82, 264, 316],
        Operation::Unlink => &[87, 263],
        Operation::Rmdir => &[84, 263],
        Operation::Truncate => &[2, 76, 77, 85, 257, 437],
        Operation::Chmod => &[90, 91, 268, 452],
        Operation::Chown => &[92, 93, 94, 260],
        Operation::Setxattr => &[188, 189, 190, 197, 198, 199, 463, 466],
        Operation::IoctlWrite => &[16],
        Operation::Socket => &[41, 53, 54],
        Operation::Connect => &[42],
        Operation::Send => &[1, 20, 44, 46, 307],
        Operation::Bind => &[49],
        Operation::Listen => &[50],
        Operation::Accept => &[43, 288],
        Operation::UnixConnect => &[42],
        Operation::UnixSend => &[1, 20, 42, 44, 46, 307],
        Operation::Prlimit => &[160, 302],
        Operation::Shm => &[30],
        // A message that may not be received is passed over: only sending can wait.
        Operation::Mqueue => &[69],
        Operation::Mount => &[165, 429],
        Operation::Umount => &[166],
        Operation::Chroot => &[155, 161],
        // Not setfsuid and setfsgid, which know no error.
        Operation::Setuid => &[59, 105, 106, 113, 114, 117, 119, 322],
        Operation::Capset => &[126],
        Operation::Userns => &[56, 272, 435],
        Operation::Bpf => &[321],
        Operation::Perf => &[298],
        // Not where the kernel asks for a module by itself: it goes on without.
        Operation::Module => &[175, 313],
        Operation::Kexec => &[246, 320],
        Operation::ExecArgs
        | Operation::ReceiveFd
        | Operation::Signal
        | Operation::Ptrace
        | Operation::Key
        | Operation::UringCmd => &[],
    }
}

/// [`syscalls`] of every operation, as bits.
pub const fn table() -> [Syscalls; OPERATIONS] {
    let mut table = [[0; SYSCALLS / 64]; OPERATIONS];
    let mut i = 0;
    while i < Operation::ALL.len() {
        let op = Operation::ALL[i];
        let numbers = syscalls(op);
        let mut n = 0;
        while n < numbers.len() {
            let number = numbers[n] as usize;
            assert!(number < SYSCALLS);
            table[op as usize][number / 64] |= 1 << (number % 64);
            n += 1;
        }
        i += 1;
    }
    table
}

const _: () = assert!(size_of::<Hold>() == 48);
const _: () = assert!(size_of::<Verdict>() == 16 && size_of::<GrantKey>() == 16 && size_of::<Grant>() == 16);
const _: () =
    assert!(size_of::<Lines>() == 24 + LINE_ROUNDS * (2 * size_of::<Bits>() + size_of::<ObjectId>()));

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, without padding (sizes asserted above).
    unsafe impl aya::Pod for super::Hold {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Verdict {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::GrantKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Grant {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Lines {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_comes_back_and_has_one_form() {
        let causes = [Cause::Rule, Cause::Default, Cause::Conflict, Cause::Unknown];
        for cause in causes {
            for decision in [Decision::StepUp, Decision::Defer] {
                for rule in [0, 1, 255, 511] {
                    let bits = Asks::bits(rule, decision as u8, cause as u8);
                    let rule = Some(rule).filter(|_| cause != Cause::Default);
                    assert_eq!(Asks::from_bits(bits), Some(Asks { rule, decision, cause }));
                }
            }
        }
        let forms = (0..=u16::MAX).filter(|bits| Asks::from_bits(*bits).is_some()).count();
        assert_eq!(forms, 2 * (3 * 512 + 1));
        assert_eq!(Asks::from_bits(0), None);
    }

    #[test]
    fn an_operation_can_wait_exactly_if_it_has_system_calls() {
        for op in Operation::ALL {
            if op.is_decided() {
                assert_eq!(syscalls(*op).is_empty(), !op.cannot_wait().is_empty(), "{op:?}");
            }
            let bits: u32 = table()[*op as usize].iter().map(|w| w.count_ones()).sum();
            assert_eq!(bits as usize, syscalls(*op).len(), "{op:?}: each number once");
        }
    }
}
