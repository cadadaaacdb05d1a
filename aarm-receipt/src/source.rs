//! Where a log is read from: a directory, or whatever else has its files under their names.
//!
//! Names are those of the log's layout, with `/` between them. Must never: be believed; who reads checks what it gets.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Something that has the files of a log. Several threads read at once.
pub trait Source: Sync {
    /// Names of the files right below a directory of the log; of the log itself below `""`.
    fn names(&self, below: &str) -> io::Result<Vec<String>>;

    /// Opens a file. One that is not there is an error of the kind `NotFound`, and no other is.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// What people call a file.
    fn path(&self, name: &str) -> PathBuf;

    /// All of a file that has at most so many bytes.
    fn read(&self, name: &str, max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {max} bytes")));
        }
        Ok(bytes)
    }

    /// The same of many: where each takes a while, at once.
    fn read_all(&self, names: &[String], max: usize) -> Vec<io::Result<Vec<u8>>> {
        names.iter().map(|name| self.read(name, max)).collect()
    }

    /// What kept something from being read, other than that it is not there: then what was read tells nothing about the log.
    fn failure(&self) -> Option<String> {
        None
    }
}

impl Source for Path {
    fn names(&self, below: &str) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(self.join(below))?.map(|entry| Ok(entry?.file_name().into_string()));
        // A name that is no text is none of a log.
        names.filter_map(|name| name.map(Result::ok).transpose()).collect()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.join(name))?))
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.to_path_buf() } else { self.join(name) }
    }
}

impl Source for PathBuf {
    fn names(&self, below: &str) -> io::Result<Vec<String>> {
        self.as_path().names(below)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.as_path().open(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.as_path().path(name)
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn names(&self, below: &str) -> io::Result<Vec<String>> {
        (**self).names(below)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        (**self).open(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        (**self).path(name)
    }

    fn read_all(&self, names: &[String], max: usize) -> Vec<io::Result<Vec<u8>>> {
        (**self).read_all(names, max)
    }

    fn failure(&self) -> Option<String> {
        (**self).failure()
    }
}
