//! Globs against paths, forwards.
//!
//! Written to be obviously right rather than fast, and on purpose by other means than the automaton: the two
//! are held against each other.

use crate::glob::{Atom, Component, Glob, Pattern, Start};

/// Whether a glob matches a path. A path that is not absolute (an abstract unix name) matches no glob.
pub(crate) fn matches(glob: &Glob, homes: &[Vec<u8>], path: &[u8]) -> bool {
    let Some(components) = split(path) else { return false };
    glob.patterns().iter().any(|pattern| pattern_matches(pattern, homes, &components))
}

/// Whether a glob can match something below this path, whose name the path is part of: whoever moves the
/// directory changes whether the glob matches. A glob that may start anywhere is about names below some
/// directory, so it counts only where its own components begin above or at the path's last one: wherever
/// `/a/b` goes, `**/x` will match what it matched below it.
pub(crate) fn is_above(glob: &Glob, homes: &[Vec<u8>], path: &[u8]) -> bool {
    let Some(components) = split(path) else { return false };
    glob.patterns().iter().any(|pattern| {
        let from = |start: usize| {
            let rest = &components[start..];
            (0..pattern.components.len()).any(|k| all_match(&pattern.components[..k], rest))
        };
        match pattern.start {
            Start::Root => from(0),
            Start::Anywhere => (0..components.len()).any(from),
            Start::Home => homes.iter().any(|home| {
                let home = if home.is_empty() { Some(Vec::new()) } else { split(home) };
                home.is_some_and(|home| {
                    home.len() > components.len() && home.starts_with(&components)
                        || components.starts_with(&home) && from(home.len())
                })
            }),
        }
    })
}

/// The components of an absolute path; the root has none.
fn split(path: &[u8]) -> Option<Vec<&[u8]>> {
    match path.split_first()? {
        (b'/', []) => Some(Vec::new()),
        (b'/', rest) => Some(rest.split(|b| *b == b'/').collect()),
        _ => None,
    }
}

fn pattern_matches(pattern: &Pattern, homes: &[Vec<u8>], path: &[&[u8]]) -> bool {
    match pattern.start {
        Start::Root => all_match(&pattern.components, path),
        Start::Anywhere => (0..=path.len()).any(|from| all_match(&pattern.components, &path[from..])),
        Start::Home => homes.iter().any(|home| {
            let home = if home.is_empty() { Some(Vec::new()) } else { split(home) };
            home.and_then(|home| path.strip_prefix(home.as_slice()))
                .is_some_and(|rest| all_match(&pattern.components, rest))
        }),
    }
}

/// Whether the components describe the path as a whole. `**` takes as few as possible, and one more each
/// time the rest does not fit; going back to the last one is enough.
fn all_match(pattern: &[Component], path: &[&[u8]]) -> bool {
    let (mut p, mut c) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(Component::Any) => {
                p += 1;
                retry = Some((p, c));
                continue;
            }
            Some(Component::Parts(parts)) if c < path.len() && component_matches(parts, path[c]) => {
                p += 1;
                c += 1;
                continue;
            }
            None if c == path.len() => return true,
            _ => {}
        }
        match retry {
            Some((after, from)) if from < path.len() => {
                retry = Some((after, from + 1));
                (p, c) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the parts describe the component as a whole; `*` as `**` above, on bytes.
fn component_matches(parts: &[Atom], name: &[u8]) -> bool {
    let (mut p, mut b) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let fits = match parts.get(p) {
            Some(Atom::Star) => {
                p += 1;
                retry = Some((p, b));
                continue;
            }
            Some(Atom::Byte(byte)) => name.get(b) == Some(byte),
            Some(Atom::Any) => b < name.len(),
            Some(Atom::Class(set)) => name.get(b).is_some_and(|byte| set.contains(*byte)),
            None if b == name.len() => return true,
            None => false,
        };
        if fits {
            p += 1;
            b += 1;
            continue;
        }
        match retry {
            Some((after, from)) if from < name.len() => {
                retry = Some((after, from + 1));
                (p, b) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(glob: &str, path: &str) -> bool {
        let homes = [b"/root".to_vec(), b"/home/u".to_vec()];
        matches(&Glob::parse(glob).unwrap_or_else(|e| panic!("{glob}: {e}")), &homes, path.as_bytes())
    }

    #[test]
    fn what_globs_mean() {
        for (glob, yes, no) in [
            ("/", &["/"][..], &["/a"][..]),
            ("/**", &["/", "/a", "/a/b"], &[]),
            ("**", &["/", "/a", "/a/b"], &["@abstract"]),
            ("/*", &["/a", "/.a"], &["/", "/a/b"]),
            ("/a/**", &["/a", "/a/b", "/a/b/c"], &["/", "/ab", "/b/a"]),
            ("**/.env", &["/.env", "/a/b/.env"], &["/a/x.env", "/a/.env/b", "/a/.envx"]),
            ("**/*.pem", &["/x.pem", "/a/.pem"], &["/a.pem/b"]),
            ("~/.ssh/**", &["/root/.ssh", "/home/u/.ssh/id"], &["/home/v/.ssh/id", "/x/root/.ssh"]),
            ("~", &["/root", "/home/u"], &["/root/x"]),
            ("/a/**/b", &["/a/b", "/a/x/b", "/a/b/b"], &["/a", "/a/bb"]),
            ("/a/**/b/**/c", &["/a/b/c", "/a/x/b/b/y/c"], &["/a/c", "/a/c/b"]),
            ("**/node_modules/**", &["/node_modules", "/a/node_modules/x/y"], &["/a/node_modulesx"]),
            ("/x?z", &["/xyz"], &["/xz", "/xyyz", "/x/z"]),
            ("/[a-c]*[!0-9]", &["/ax", "/b1y"], &["/dx", "/a1", "/a"]),
            ("/{etc,usr/lib}/*.so", &["/etc/a.so", "/usr/lib/a.so"], &["/usr/a.so"]),
            ("/a*b*c", &["/abc", "/axbxbxc"], &["/ab", "/abcd"]),
        ] {
            for path in yes {
                assert!(check(glob, path), "{glob} must match {path}");
            }
            for path in no {
                assert!(!check(glob, path), "{glob} must not match {path}");
            }
        }
    }

    #[test]
    fn hostile_globs_are_not_exponential() {
        let glob = Glob::parse(&format!("/{}b", "a*".repeat(250))).unwrap();
        assert!(!matches(&glob, &[], format!("/{}", "a".repeat(255)).as_bytes()));
        let glob = Glob::parse(&format!("/{}b", "**/a/".repeat(150))).unwrap();
        assert!(!matches(&glob, &[], "/a".repeat(2048).as_bytes()));
    }

    proptest! {
        /// Another implementation agrees on the syntax both have.
        #[test]
        fn agrees_with_globset(
            glob in "(/|\\*\\*/)([ab?*]|\\[ab\\]|\\{a,b\\}){1,4}(/(\\*\\*|[ab?*]{1,3})){0,4}",
            path in "(/[abc]{1,4}){1,6}",
        ) {
            // `**` inside a component is refused here and means something of its own there; a final `/**`
            // there does not match the directory itself. Relative on both sides: there a `*` may be the empty
            // component before the first `/`.
            if let Ok(ours) = Glob::parse(&glob) {
                let build = |g: &str| {
                    let g = g.strip_prefix('/').unwrap_or(g);
                    globset::GlobBuilder::new(g).literal_separator(true).build().unwrap().compile_matcher()
                };
                let relative = path.trim_start_matches('/');
                let theirs = build(&glob).is_match(relative)
                    || glob.ends_with("/**") && build(glob.trim_end_matches("/**")).is_match(relative);
                prop_assert_eq!(matches(&ours, &[], path.as_bytes()), theirs, "{} {}", glob, path);
            }
        }
    }
}
