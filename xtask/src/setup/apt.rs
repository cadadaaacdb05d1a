//! Packages from Debian suites other than the machine's own, without touching the machine's own lists.
//!
//! The mirror and the key come from the machine's apt configuration; only the suite is changed. Nothing is
//! installed from here: packages are downloaded and unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::command::{command, quiet};

/// Where Debian packages come from: one mirror and what signs it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    uri: String,
    signed_by: Option<String>,
}

/// The first Debian archive that the machine's apt uses.
fn mirror() -> Result<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|e| e.path()));
    }
    files.sort();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let deb822 = file.extension().is_some_and(|e| e == "sources");
        if let Some(m) = if deb822 { parse_deb822(&text) } else { parse_list(&text) } {
            return Ok(m);
        }
    }
    bail!("apt on this machine has no Debian archive configured")
}

/// The mirror's address, for debootstrap.
pub fn mirror_uri() -> Result<String> {
    mirror().map(|m| m.uri)
}

/// Whether a URI is a main Debian archive: its path is `/debian`.
fn is_archive(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("/debian")
}

fn parse_deb822(text: &str) -> Option<Mirror> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|l| {
                l.split_once(':')
                    .filter(|(k, _)| k.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.trim().to_owned())
            })
        };
        let uri = field("URIs")?.split_whitespace().find(|u| is_archive(u))?.to_owned();
        Some(Mirror { uri, signed_by: field("Signed-By") })
    })
}

fn parse_list(text: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(r) => r.split_once(']')?,
            None => ("", rest),
        };
        let uri = rest.split_whitespace().next().filter(|u| is_archive(u))?.to_owned();
        let signed_by =
            options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
        Some(Mirror { uri, signed_by })
    })
}

/// One suite with package lists of its own.
pub struct Suite {
    dir: PathBuf,
}

impl Suite {
    /// Prepares a suite's lists, fetching them.
    pub fn open(name: &str) -> Result<Self> {
        let mirror = mirror()?;
        let dir = cache::dir()?.join("apt").join(name);
        std::fs::create_dir_all(dir.join("lists/partial"))?;
        std::fs::create_dir_all(dir.join("sources"))?;
        let mut text = format!("Types: deb\nURIs: {}\nSuites: {name}\nComponents: main\n", mirror.uri);
        if let Some(key) = &mirror.signed_by {
            text.push_str(&format!("Signed-By: {key}\n"));
        }
        std::fs::write(dir.join("sources/suite.sources"), text)?;
        let suite = Self { dir };
        quiet(suite.apt("apt-get").args(["-q", "update"]))
            .with_context(|| format!("package lists of {name}"))?;
        Ok(suite)
    }

    fn apt(&self, program: &str) -> Command {
        let mut c = command(program, ["-o", "Dir::Etc::sourcelist=/dev/null"]);
        c.arg("-o").arg(format!("Dir::Etc::sourceparts={}", self.dir.join("sources").display()));
        c.arg("-o").arg(format!("Dir::State::lists={}", self.dir.join("lists").display()));
        c
    }

    /// Names of packages that match a regular expression, sorted as versions.
    pub fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let out = quiet(self.apt("apt-cache").args(["search", "--names-only", pattern]))?;
        let mut names: Vec<String> =
            out.lines().filter_map(|l| l.split_whitespace().next().map(str::to_owned)).collect();
        names.sort_by_key(|n| version_key(n));
        Ok(names)
    }

    /// Downloads packages and unpacks them into `into`.
    pub fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        unpack(|| self.apt("apt-get"), packages, into)
    }
}

/// The code name of the running Debian.
fn codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")).map(|v| v.trim_matches('"').to_owned())
}

/// A command that installs a package from the running Debian's backports, the machine's own sources beside
/// them for what it depends on. `None` if there are no backports of it.
pub fn from_backports(package: &str) -> Result<Option<Command>> {
    let Some(codename) = codename() else { return Ok(None) };
    let name = format!("{codename}-backports");
    let Ok(suite) = Suite::open(&name) else { return Ok(None) };
    if suite.search(&format!("^{package}$"))?.is_empty() {
        return Ok(None);
    }
    let both = cache::dir()?.join("apt").join(format!("{name}-and-own"));
    std::fs::create_dir_all(both.join("lists/partial"))?;
    std::fs::create_dir_all(both.join("sources"))?;
    std::fs::copy(suite.dir.join("sources/suite.sources"), both.join("sources/backports.sources"))?;
    if Path::new("/etc/apt/sources.list").exists() {
        std::fs::copy("/etc/apt/sources.list", both.join("sources/own.list"))?;
    }
    for file in std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        std::fs::copy(file.path(), both.join("sources").join(file.file_name()))?;
    }
    let both = Suite { dir: both };
    // A foreign source that cannot be reached is no reason to give up: what matters is tried next.
    let _ = quiet(both.apt("apt-get").args(["-q", "update"]));
    let mut c = both.apt("apt-get");
    c.args(["-q", "-y", "--no-install-recommends", "-t", &name, "install", package]);
    Ok(Some(c))
}

/// Downloads packages of the machine's own suites and unpacks them into `into`.
pub fn unpack_own(packages: &[&str], into: &Path) -> Result<()> {
    unpack(|| Command::new("apt-get"), packages, into)
}

fn unpack(apt: impl Fn() -> Command, packages: &[&str], into: &Path) -> Result<()> {
    let downloads = tempfile::tempdir()?;
    quiet(apt().args(["-q", "download"]).args(packages).current_dir(downloads.path()))
        .with_context(|| format!("downloading {}", packages.join(", ")))?;
    for deb in std::fs::read_dir(downloads.path())? {
        quiet(command("dpkg-deb", ["-x"]).arg(deb?.path()).arg(into))?;
    }
    Ok(())
}

/// Numbers inside a name compare as numbers.
fn version_key(name: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            key.push((rest[..digits].parse().unwrap_or(u64::MAX), String::new()));
            rest = &rest[digits..];
        } else {
            let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            key.push((0, rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_source_formats_are_read() {
        let expected = Mirror { uri: "http://mirror.test/debian".into(), signed_by: Some("/k.gpg".into()) };
        let deb822 = "Types: deb\nURIs: http://mirror.test/debian-security\nSuites: x-security\n\n\
                      Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: x\nSigned-By: /k.gpg\n";
        assert_eq!(
            parse_deb822(deb822),
            Some(Mirror { uri: expected.uri.clone(), signed_by: Some("/k.gpg".into()) })
        );
        let list = "# deb http://no.test/debian x main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian x main\n";
        assert_eq!(parse_list(list), Some(expected));
        assert_eq!(parse_list("deb http://other.test/apt x main"), None);
    }

    #[test]
    fn versions_sort_as_numbers() {
        let mut v = vec!["linux-image-6.12.107", "linux-image-6.12.9", "linux-image-6.12.117"];
        v.sort_by_key(|n| version_key(n));
        assert_eq!(v, ["linux-image-6.12.9", "linux-image-6.12.107", "linux-image-6.12.117"]);
    }
}
