//! `hash`: what the program is that an action is about: the one that would run, otherwise the one that acts.
//!
//! Reads the very file that the kernel decided about: what has its name by now may be another one, and is not looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use super::{Answer, Job};
use crate::daemon::program;

/// Finds it out.
pub(super) fn resolve(job: &Job) -> Answer {
    let about = &job.about;
    let found = match job.object.as_ref().filter(|_| about.operation == "exec") {
        Some(object) => match program::opened(about.pid, about.path.as_bytes()) {
            Some((file, path)) if program::is_the_same(&file, about.pid, object) => Ok((file, path)),
            _ => Err(format!("{}: what has its name is another file by now, or none", about.path)),
        },
        None => {
            let path = format!("/proc/{}/exe", about.pid);
            File::open(&path)
                .map(|file| (file, PathBuf::from(&about.exe)))
                .map_err(|e| format!("{path}: {e}"))
        }
    };
    let hashed = found.and_then(|(file, path)| Ok((program::hash(&file)?, file, path)));
    let (hash, file, path) = match hashed {
        Ok(found) => found,
        Err(why) => return Answer::failed(why),
    };
    let package = program::package(std::path::Path::new("/"), &file, &path);
    let detail = match &package {
        Some(package) => format!("sha256 {hash}, of package {package}"),
        None => format!("sha256 {hash}, of no package"),
    };
    let mut facts = BTreeMap::from([("sha256".to_owned(), hash.to_string())]);
    facts.extend(package.map(|package| ("package".to_owned(), package)));
    Answer { detail, facts, ..Answer::default() }
}
