//! A block device that a virtual machine reaches over a Unix socket: as much of the NBD protocol as QEMU's client speaks to a plain disk.
//!
//! One client, one export; the fixed newstyle handshake, simple replies; reads, writes and flushes, each answered before the next is read. Must
//! never: say that something is done before the device says so, or take a length or a place from the client that the device does not have.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result, bail, ensure};

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
/// The handshake is the fixed one, and needs no zeros at its end.
const HANDSHAKE: u16 = 1 | 2;
const OPTION_GO: u32 = 7;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 1 << 31 | 1;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// Flags are there; flushes are understood.
const EXPORT: u16 = 1 | 4;
/// Longest option, and most of them.
const OPTION_MAX: u32 = 4096;
const OPTIONS: usize = 32;
/// Longest read or write.
const REQUEST_MAX: u32 = 4 << 20;
/// Bytes of a sector: what is written whole or not at all.
pub const SECTOR: usize = 512;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// Why the device has not done something, as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is broken.
    Io = 5,
    /// It has no such place.
    Invalid = 22,
}

/// What is served. Places and lengths are whole sectors within its size.
pub trait Device {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads what is at a place.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Refused>;
    /// Writes.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Refused>;
    /// Makes durable what was written.
    fn flush(&self) -> Result<(), Refused>;
}

fn number<const N: usize>(from: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Serves a device until its client leaves.
pub fn serve<S>(mut stream: S, device: &impl Device) -> Result<()>
where
    S: Read + Write,
{
    if !negotiate(&mut stream, device.size()).context("handshake")? {
        return Ok(());
    }
    let mut bytes = Vec::new();
    loop {
        let mut magic = [0; 4];
        match stream.read_exact(&mut magic) {
            // A machine that is switched off does not say good-bye.
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            read => read?,
        }
        ensure!(u32::from_be_bytes(magic) == REQUEST, "not a request");
        let (flags, kind) =
            (u16::from_be_bytes(number(&mut stream)?), u16::from_be_bytes(number(&mut stream)?));
        let cookie: [u8; 8] = number(&mut stream)?;
        let at = u64::from_be_bytes(number(&mut stream)?);
        let length = u32::from_be_bytes(number(&mut stream)?);
        if kind == DISCONNECT {
            return Ok(());
        }
        ensure!(length <= REQUEST_MAX, "a request of {length} bytes");
        ensure!(flags == 0, "flags {flags:#x}, which were not offered");
        bytes.clear();
        if kind == READ || kind == WRITE {
            bytes.resize(length as usize, 0);
        }
        if kind == WRITE {
            stream.read_exact(&mut bytes)?;
        }
        let is_whole = at.is_multiple_of(SECTOR as u64) && length.is_multiple_of(SECTOR as u32);
        let is_inside = at.checked_add(length.into()).is_some_and(|end| end <= device.size());
        let done = match kind {
            READ | WRITE if length == 0 || !is_whole || !is_inside => Err(Refused::Invalid),
            READ => device.read(at, &mut bytes),
            WRITE => device.write(at, &bytes),
            FLUSH => device.flush(),
            _ => Err(Refused::Invalid),
        };
        let mut reply = REPLY.to_be_bytes().to_vec();
        reply.extend_from_slice(&done.map_or_else(|refused| refused as u32, |()| 0).to_be_bytes());
        reply.extend_from_slice(&cookie);
        if kind == READ && done.is_ok() {
            reply.extend_from_slice(&bytes);
        }
        stream.write_all(&reply)?;
    }
}

/// Agrees with the client on what is served. False: it has changed its mind.
fn negotiate(stream: &mut (impl Read + Write), size: u64) -> Result<bool> {
    let mut hello = Vec::new();
    hello.extend_from_slice(&NBD_MAGIC.to_be_bytes());
    hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    hello.extend_from_slice(&HANDSHAKE.to_be_bytes());
    stream.write_all(&hello)?;
    let flags = u32::from_be_bytes(number(stream)?);
    ensure!(flags & !u32::from(HANDSHAKE) == 0 && flags & 1 == 1, "client flags {flags:#x}");
    for _ in 0..OPTIONS {
        ensure!(u64::from_be_bytes(number(stream)?) == OPTION_MAGIC, "not an option");
        let option = u32::from_be_bytes(number(stream)?);
        let length = u32::from_be_bytes(number(stream)?);
        ensure!(length <= OPTION_MAX, "an option of {length} bytes");
        let mut content = vec![0; length as usize];
        stream.read_exact(&mut content)?;
        let mut answer = |kind: u32, content: &[u8]| {
            let mut reply = OPTION_REPLY.to_be_bytes().to_vec();
            for word in [option, kind, content.len() as u32] {
                reply.extend_from_slice(&word.to_be_bytes());
            }
            reply.extend_from_slice(content);
            stream.write_all(&reply)
        };
        match option {
            OPTION_GO => {
                let mut export = INFO_EXPORT.to_be_bytes().to_vec();
                export.extend_from_slice(&size.to_be_bytes());
                export.extend_from_slice(&EXPORT.to_be_bytes());
                answer(INFO, &export)?;
                let mut blocks = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                for bytes in [SECTOR as u32, 4096, REQUEST_MAX] {
                    blocks.extend_from_slice(&bytes.to_be_bytes());
                }
                answer(INFO, &blocks)?;
                answer(ACK, &[])?;
                return Ok(true);
            }
            // Abort.
            2 => {
                answer(ACK, &[])?;
                return Ok(false);
            }
            _ => answer(UNSUPPORTED, &[])?,
        }
    }
    bail!("more than {OPTIONS} options")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::io::Cursor;

    struct Memory(RefCell<Vec<u8>>);

    impl Device for Memory {
        fn size(&self) -> u64 {
            self.0.borrow().len() as u64
        }
        fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Refused> {
            into.copy_from_slice(&self.0.borrow()[at as usize..][..into.len()]);
            Ok(())
        }
        fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Refused> {
            self.0.borrow_mut()[at as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
        fn flush(&self) -> Result<(), Refused> {
            Err(Refused::Io)
        }
    }

    /// What a client says, and what is answered.
    struct Talk(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Talk {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }

    impl Write for Talk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn option(kind: u32, content: &[u8]) -> Vec<u8> {
        let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(content.len() as u32).to_be_bytes());
        out.extend_from_slice(content);
        out
    }

    fn request(kind: u16, at: u64, length: u32, content: &[u8]) -> Vec<u8> {
        let mut out = REQUEST.to_be_bytes().to_vec();
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&7u64.to_be_bytes());
        out.extend_from_slice(&at.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(content);
        out
    }

    /// The handshake as QEMU does it.
    fn hello() -> Vec<u8> {
        [&3u32.to_be_bytes()[..], &option(8, &[]), &option(OPTION_GO, &[0; 6])].concat()
    }

    fn serve_all(said: Vec<u8>, memory: &Memory) -> (Result<()>, Vec<u8>) {
        let mut talk = Talk(Cursor::new(said), Vec::new());
        let done = serve(&mut talk, memory);
        (done, talk.1)
    }

    #[test]
    fn a_client_reads_what_it_wrote_and_is_told_what_failed() {
        let memory = Memory(RefCell::new(vec![0; 4096]));
        let said = [
            hello(),
            request(WRITE, 1024, 512, &[7; 512]),
            request(READ, 512, 1024, &[]),
            request(FLUSH, 0, 0, &[]),
            request(READ, 4096, 512, &[]),
            request(READ, u64::MAX - 511, 512, &[]),
            request(READ, 1, 512, &[]),
            request(READ, 0, 0, &[]),
            request(9, 0, 512, &[]),
            request(DISCONNECT, 0, 0, &[]),
        ];
        let (done, answers) = serve_all(said.concat(), &memory);
        done.unwrap();
        let plain =
            |error: u32| [&REPLY.to_be_bytes()[..], &error.to_be_bytes(), &7u64.to_be_bytes()].concat();
        let mut expected = [plain(0), plain(0)].concat();
        expected.extend_from_slice(&[0; 512]);
        expected.extend_from_slice(&[7; 512]);
        for error in [5, 22, 22, 22, 22, 22] {
            expected.extend(plain(error));
        }
        assert!(answers.ends_with(&expected));
        // Greeting, one option that is not understood, and two pieces of information before the last word.
        assert_eq!(answers.len() - expected.len(), 18 + 20 + (20 + 12) + (20 + 14) + 20);
        assert_eq!(memory.0.borrow()[1023..1026], [0, 7, 7]);
    }

    #[test]
    fn what_is_not_the_protocol_ends_it() {
        let memory = || Memory(RefCell::new(vec![0; 4096]));
        let with = |more: Vec<u8>| serve_all([hello(), more].concat(), &memory()).0;
        assert!(with(Vec::new()).is_ok(), "a machine that was switched off");
        let mut flagged = request(FLUSH, 0, 0, &[]);
        flagged[5] = 1;
        assert!(with(flagged).is_err(), "a flag that was not offered");
        assert!(with(request(WRITE, 0, REQUEST_MAX + 1, &[])).is_err());
        assert!(with(request(WRITE, 0, 512, &[7; 511])).is_err(), "it ends within a write");
        assert!(with(vec![0; 28]).is_err());
        let alone = |said: Vec<u8>| serve_all(said, &memory()).0;
        assert!(alone(0u32.to_be_bytes().to_vec()).is_err(), "not the fixed handshake");
        let long = [&3u32.to_be_bytes()[..], &option(3, &vec![0; OPTION_MAX as usize + 1])].concat();
        assert!(alone(long).is_err());
        let endless = [3u32.to_be_bytes().to_vec(), option(3, &[]).repeat(OPTIONS + 1)].concat();
        assert!(alone(endless).is_err());
        let abort = [&3u32.to_be_bytes()[..], &option(2, &[])].concat();
        assert!(alone(abort).is_ok());
    }
}
