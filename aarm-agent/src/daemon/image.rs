//! Changing what a new program gets, before its first instruction: its variables, its words, its limits.
//!
//! The image is stopped and has run nothing, so its stack is as the kernel has laid it out: the number of words, pointers to them,
//! pointers to the variables, what the kernel tells it (`auxv`), and the text of all of them above. Whatever is not so is an error, and the
//! caller must not let the image run. Must never: put a variable's value anywhere.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use aarm_policy::{Changed, FUEL, Modify, Resource, TooLong};

/// Most bytes of words and variables that are looked at; the kernel takes at most 6 MiB.
const TEXT_MAX: u64 = 8 << 20;
/// Most pointers on a stack.
const POINTERS_MAX: usize = 2 << 20;
/// Most pairs of what the kernel tells a program; it has some 20.
const AUX_MAX: usize = 128;
/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;

/// Why an image was not changed as a rule wants it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Its memory, or what is told of it, cannot be read or written.
    #[error("cannot change process {pid}: {what}: {source}")]
    Io {
        /// Which.
        pid: u32,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Its stack is not as the kernel makes it.
    #[error("cannot change process {0}: its stack is not that of a new program")]
    Stack(u32),
    /// A word is too short for what takes its place.
    #[error("argument {at} has {room} bytes, and what takes its place needs {needed}")]
    NoRoom {
        /// Its place in the command line.
        at: u64,
        /// Its length.
        room: usize,
        /// That of the new text.
        needed: usize,
    },
    /// It takes too long to tell.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// An image that has not run yet.
struct Image {
    pid: u32,
    memory: File,
    /// Bytes of a pointer.
    width: usize,
    /// Where the stack begins.
    start: u64,
}

/// Changes the program that `pid` has become.
pub fn change(pid: u32, rules: &[Modify]) -> Result<Changed, ImageError> {
    let mut changed = Changed::default();
    for modify in rules {
        limits(pid, modify, &mut changed)?;
    }
    if rules.iter().any(|m| !m.scrub_env.is_empty() || !m.args.is_empty()) {
        let image = Image::open(pid)?;
        image.rewrite(rules, &mut changed)?;
    }
    Ok(changed)
}

/// Lowers limits; never raises one.
fn limits(pid: u32, modify: &Modify, changed: &mut Changed) -> Result<(), ImageError> {
    for (resource, limit) in &modify.limits {
        let before = limit_of(pid, *resource, None)?;
        let lower =
            libc::rlimit { rlim_cur: before.rlim_cur.min(*limit), rlim_max: before.rlim_max.min(*limit) };
        if (lower.rlim_cur, lower.rlim_max) != (before.rlim_cur, before.rlim_max) {
            limit_of(pid, *resource, Some(lower))?;
            // What is in force; where that stays, how far it could have been raised.
            let (was, is) = match before.rlim_cur == lower.rlim_cur {
                true => (before.rlim_max, lower.rlim_max),
                false => (before.rlim_cur, lower.rlim_cur),
            };
            changed.limits.push((resource.name().to_owned(), was, is));
        }
    }
    Ok(())
}

/// A process's limit, which becomes another.
fn limit_of(pid: u32, resource: Resource, new: Option<libc::rlimit>) -> Result<libc::rlimit, ImageError> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both are null or valid.
    let failed = unsafe { libc::prlimit(pid as libc::pid_t, resource.number(), new, &raw mut old) } != 0;
    if failed {
        return Err(io(pid, "its limits")(std::io::Error::last_os_error()));
    }
    Ok(old)
}

/// Bytes of a program's pointers, by how the kernel told it the size of a page. Not by its file: that may be on a filesystem whose
/// server is the agent's and does not answer.
fn width(told: &[u8]) -> Option<usize> {
    const AT_PAGESZ: u64 = 6;
    [8, 4].into_iter().find(|width| {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let mut pairs = told.chunks_exact(2 * width).map(|pair| pair.split_at(*width));
        pairs.any(|(kind, value)| number(kind) == AT_PAGESZ && number(value) == 4096)
    })
}

fn io(pid: u32, what: &'static str) -> impl FnOnce(std::io::Error) -> ImageError {
    move |source| ImageError::Io { pid, what, source }
}

impl Image {
    fn open(pid: u32) -> Result<Self, ImageError> {
        let mut told = Vec::new();
        File::open(format!("/proc/{pid}/auxv"))
            .and_then(|file| file.take(4096).read_to_end(&mut told))
            .map_err(io(pid, "reading what the kernel told it"))?;
        let width = width(&told).ok_or(ImageError::Stack(pid))?;
        let mut stat = String::new();
        File::open(format!("/proc/{pid}/stat"))
            .and_then(|file| file.take(4096).read_to_string(&mut stat))
            .map_err(io(pid, "reading its state"))?;
        // Fields by their numbers in proc(5); a name in parentheses, which may have any text, ends before the third.
        let field = |n: usize| -> Option<u64> {
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.split(' ').nth(n - 3)?.trim_end().parse().ok()
        };
        let start = field(28).filter(|at| *at != 0).ok_or(ImageError::Stack(pid))?;
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(io(pid, "opening its memory"))?;
        Ok(Self { pid, memory, width, start })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), ImageError> {
        self.memory.write_all_at(bytes, at).map_err(io(self.pid, "writing its memory"))
    }

    /// Pointers from the stack's start up to the pair that ends what the kernel tells.
    fn pointers(&self) -> Result<Stack, ImageError> {
        let bad = || ImageError::Stack(self.pid);
        let mut words: Vec<u64> = Vec::new();
        let mut at = self.start;
        let mut stack = Stack::default();
        loop {
            let mut chunk = vec![0u8; CHUNK];
            // The stack may end within a page's reach.
            let n = self.memory.read_at(&mut chunk, at).map_err(io(self.pid, "reading its stack"))?;
            if n < self.width {
                return Err(bad());
            }
            let n = n / self.width * self.width;
            for word in chunk[..n].chunks_exact(self.width) {
                words.push(word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
            }
            at += n as u64;
            if words.len() > POINTERS_MAX {
                return Err(bad());
            }
            if stack.read(&words).ok_or_else(bad)? {
                stack.words = words;
                return Ok(stack);
            }
        }
    }

    /// The text that a pointer points to, without its NUL.
    fn text<'t>(&self, text: &'t Text, pointer: u64) -> Result<&'t [u8], ImageError> {
        let bad = || ImageError::Stack(self.pid);
        let at = pointer.checked_sub(text.start).ok_or_else(bad)?;
        let rest = usize::try_from(at).ok().and_then(|at| text.bytes.get(at..)).ok_or_else(bad)?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or_else(bad)?;
        Ok(&rest[..end])
    }

    fn rewrite(&self, rules: &[Modify], changed: &mut Changed) -> Result<(), ImageError> {
        let bad = || ImageError::Stack(self.pid);
        let mut stack = self.pointers()?;
        // All text lies above the pointers, in one piece that begins with the first word.
        let all = stack.words[stack.args.clone()].iter().chain(&stack.words[stack.env.clone()]);
        let (Some(first), Some(last)) = (all.clone().min().copied(), all.max().copied()) else {
            return Ok(());
        };
        if last - first > TEXT_MAX {
            return Err(bad());
        }
        let mut text = Text { start: first, bytes: Vec::new() };
        text.read(self, last)?;

        let mut fuel = FUEL;
        for (place, pointer) in stack.words[stack.args.clone()].iter().enumerate().skip(1) {
            let word = self.text(&text, *pointer)?;
            for modify in rules {
                let Some(with) = modify.replaces(word, &mut fuel)? else { continue };
                let (at, room) = (place as u64, word.len());
                if with.len() > room {
                    return Err(ImageError::NoRoom { at, room, needed: with.len() });
                }
                let mut bytes = with.as_bytes().to_vec();
                bytes.resize(room, 0);
                self.write(&bytes, *pointer)?;
                changed.args.push((at, String::from_utf8_lossy(word).into_owned(), with.to_owned()));
                break;
            }
        }
        let mut kept = Vec::new();
        let mut gone = Vec::new();
        // A program may be given very many, and each is told once.
        let mut told = HashSet::new();
        for pointer in &stack.words[stack.env.clone()] {
            let variable = self.text(&text, *pointer)?;
            let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
            let mut scrubbed = false;
            for modify in rules {
                scrubbed |= modify.scrubs(name, &mut fuel)?;
            }
            if scrubbed {
                gone.push((*pointer, variable.len()));
                if told.insert(name) {
                    changed.env.push(String::from_utf8_lossy(name).into_owned());
                }
            } else {
                kept.push(*pointer);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        for (pointer, len) in gone {
            self.write(&vec![0; len], pointer)?;
        }
        // What the kernel tells follows the variables, wherever these end.
        let after = stack.words.split_off(stack.env.end);
        let end = stack.told - stack.env.end;
        let mut words = kept;
        words.extend_from_slice(&after[..end]);
        words.resize(stack.env.len() + end, 0);
        let bytes: Vec<u8> =
            words.iter().flat_map(|word| word.to_le_bytes()[..self.width].to_vec()).collect();
        self.write(&bytes, self.start + (stack.env.start * self.width) as u64)
    }
}

/// The pointers of a new program, by their places in `words`.
#[derive(Default)]
struct Stack {
    words: Vec<u64>,
    args: std::ops::Range<usize>,
    /// Without the null that ends them.
    env: std::ops::Range<usize>,
    /// Where what the kernel tells ends.
    told: usize,
    /// How far was looked.
    looked: usize,
}

impl Stack {
    /// Finds the parts; `None`: there are none such, `Some(false)`: there is more to read.
    fn read(&mut self, words: &[u64]) -> Option<bool> {
        let args = usize::try_from(*words.first()?).ok().filter(|n| *n < POINTERS_MAX)?;
        self.args = 1..1 + args;
        let Some(null) = words.get(1 + args) else { return Some(false) };
        let begin = args + 2;
        // Once: there may be very many.
        if self.looked < begin && (*null != 0 || words[1..1 + args].contains(&0)) {
            return None;
        }
        self.looked = self.looked.max(begin);
        let Some(n) = words.get(self.looked..)?.iter().position(|word| *word == 0) else {
            self.looked = words.len();
            return Some(false);
        };
        self.env = begin..self.looked + n;
        // Looked at again when there is more.
        let pairs = words[self.env.end + 1..].chunks_exact(2);
        match pairs.take(AUX_MAX).position(|pair| pair[0] == 0) {
            Some(n) => {
                self.told = self.env.end + 1 + 2 * (n + 1);
                Some(true)
            }
            None if words.len() - self.env.end > 2 * AUX_MAX + 1 => None,
            None => {
                self.looked = self.env.end;
                Some(false)
            }
        }
    }
}

/// The text of words and variables.
struct Text {
    start: u64,
    bytes: Vec<u8>,
}

impl Text {
    /// Reads up to the end of the text that begins at `last`.
    fn read(&mut self, image: &Image, last: u64) -> Result<(), ImageError> {
        let bad = || ImageError::Stack(image.pid);
        loop {
            let mut chunk = vec![0u8; CHUNK];
            let at = self.start + self.bytes.len() as u64;
            let n = image.memory.read_at(&mut chunk, at).map_err(io(image.pid, "reading its words"))?;
            let from = self.bytes.len();
            self.bytes.extend_from_slice(&chunk[..n]);
            let last = (last - self.start) as usize;
            let ends = self.bytes.get(last.max(from)..).is_some_and(|rest| rest.contains(&0));
            if ends {
                return Ok(());
            }
            if n == 0 || self.bytes.len() as u64 > 2 * TEXT_MAX {
                return Err(bad());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_read_as_the_kernel_lays_it_out() {
        // argc, argv, NULL, envp, NULL, pairs.
        let words = [2, 100, 110, 0, 120, 130, 0, 6, 4096, 25, 7, 0, 0, 99];
        for n in 1..words.len() - 1 {
            let mut stack = Stack::default();
            let whole = stack.read(&words[..n]);
            // Whatever is there, what is missing is asked for, and nothing is made up.
            assert_eq!(whole, Some(n >= 13), "{n}");
        }
        let mut stack = Stack::default();
        assert_eq!(stack.read(&words), Some(true));
        assert_eq!((stack.args, stack.env, stack.told), (1..3, 4..6, 13));
        // In pieces as well.
        let mut stack = Stack::default();
        for n in [3, 5, 8, 12, 14] {
            stack.read(&words[..n]);
        }
        assert_eq!((stack.args, stack.env, stack.told), (1..3, 4..6, 13));
        for bad in [&[2, 100, 0, 0, 0][..], &[1, 100, 5, 0], &[u64::MAX, 1]] {
            assert_eq!(Stack::default().read(bad), None, "{bad:?}");
        }
        let mut endless = vec![0, 0, 0];
        endless.resize(2 * AUX_MAX + 8, 1);
        assert_eq!(Stack::default().read(&endless), None);
    }

    #[test]
    fn a_programs_width_is_known_by_what_the_kernel_told_it() {
        let told = |width: usize| -> Vec<u8> {
            let words = [33u64, 0x7fff_1234, 6, 4096, 0, 0];
            words.iter().flat_map(|w| w.to_le_bytes()[..width].to_vec()).collect()
        };
        assert_eq!(
            (width(&told(8)), width(&told(4)), width(&[]), width(&[6; 64])),
            (Some(8), Some(4), None, None)
        );
        assert_eq!(width(&std::fs::read("/proc/self/auxv").unwrap()), Some(size_of::<usize>()));
    }

    /// Becomes a program and stops before its first instruction, as the kernel lets a tracer have it; changes it, lets it run, and gives what
    /// it prints.
    fn changed(
        program: &str,
        args: &[&str],
        env: &[(String, String)],
        rules: &[Modify],
    ) -> (Changed, String) {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(program);
        command.args(args).env_clear().envs(env.iter().cloned()).stdout(std::process::Stdio::piped());
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap();
        let pid = child.id();
        let mut status = 0;
        // SAFETY: our child; it stops at its exec.
        let stopped = unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
        assert!(stopped == pid as i32 && libc::WIFSTOPPED(status), "{status:#x}");
        let result = change(pid, rules);
        // SAFETY: our child, which we trace.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) }, 0);
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{:?}", out.status);
        (result.unwrap(), String::from_utf8(out.stdout).unwrap())
    }

    fn rules(json: &str) -> Vec<Modify> {
        vec![serde_json::from_str(json).unwrap()]
    }

    #[test]
    fn a_program_of_the_host_finds_what_is_left_to_it() {
        let env = [("AWS_A", "hidden"), ("KEPT", "kept"), ("AWS_B", "hidden"), ("PATH", "/bin:/usr/bin")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let rules = rules(r#"{"scrub_env":["AWS_*"],"args":[{"replace":"secret","with":"public"}]}"#);
        // Dynamically linked where the host's are: what the kernel tells its loader is found after fewer variables.
        let (c, out) = changed(
            "/usr/bin/env",
            &["sh", "-c", "echo $1 $KEPT$AWS_A; env; tr '\\0' ' ' < /proc/self/environ", "x", "secret"],
            &env,
            &rules,
        );
        assert!(out.starts_with("public kept\n") && !out.contains("hidden") && !out.contains("AWS"), "{out}");
        assert_eq!((c.env, c.args.len()), (vec!["AWS_A".to_owned(), "AWS_B".to_owned()], 1));
    }

    /// That each name is told once took time in the square of their number, on the thread that records everything.
    #[test]
    fn very_many_variables_take_no_time_in_the_square_of_their_number() {
        let mut env: Vec<(String, String)> = (0..100_000).map(|n| (format!("A{n}"), String::new())).collect();
        env.push(("KEPT".into(), "kept".into()));
        let began = std::time::Instant::now();
        let (c, out) = changed("/usr/bin/env", &[], &env, &rules(r#"{"scrub_env":["A*"]}"#));
        assert_eq!((c.env.len(), out.as_str()), (100_000, "KEPT=kept\n"));
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
