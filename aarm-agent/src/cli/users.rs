//! Names of users, read from `/etc/passwd` itself.
//!
//! The binary is static: the C library's lookups would load modules of another C library at run time. A user
//! known only to a directory service is shown by number.

use std::collections::HashMap;
use std::io::Read;

/// Most bytes read of the file.
const PASSWD_MAX: u64 = 4 << 20;

/// User names by id.
#[derive(Debug, Default)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// The host's users; none where the file cannot be read.
    pub fn of_host() -> Self {
        let mut bytes = Vec::new();
        match std::fs::File::open("/etc/passwd").map(|f| f.take(PASSWD_MAX).read_to_end(&mut bytes)) {
            Ok(Ok(_)) => Self::parse(&bytes),
            _ => Self::default(),
        }
    }

    fn parse(passwd: &[u8]) -> Self {
        let mut users = HashMap::new();
        for line in String::from_utf8_lossy(passwd).lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(_), Some(Ok(uid))) =
                (fields.next(), fields.next(), fields.next().map(str::parse))
                && !name.is_empty()
            {
                // The first line of an id is the one that the system's own tools show.
                users.entry(uid).or_insert_with(|| super::escape::value(name).into_owned());
            }
        }
        Self(users)
    }

    /// The user's name, or the number.
    pub fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let users = Users::parse(
            b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbad\n:x:5:\nx:y:z:\nu\x1b:x:7:7:::\n",
        );
        assert_eq!(users.name(0), "root");
        assert_eq!(users.name(5), "5");
        assert_eq!(users.name(7), "u\\u{1b}");
    }
}
