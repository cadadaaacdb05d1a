//! Where a member is in a kernel structure, from the running kernel's BTF.
//!
//! Owns a strict reader for the little that is needed: structures, unions, their members, functions' names.
//! The format is the kernel's `Documentation/bpf/btf.rst`. Input is the kernel's own, yet parsed as hostile:
//! every offset is checked, nothing recurses without a bound. (No maintained crate under a permissive
//! licence reads it; aya keeps its reader private.)

use std::collections::HashMap;

/// Largest BTF accepted: ten times what distribution kernels have.
const BTF_MAX: usize = 64 << 20;
const MAGIC: u16 = 0xeb9f;
/// How deeply anonymous members may nest.
const NESTING_MAX: u32 = 8;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const KIND_LAST: u32 = KIND_ENUM64;

/// Why the kernel's type information could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// This kernel has no type information ({path}): it must be built with CONFIG_DEBUG_INFO_BTF=y
    #[error("this kernel has no type information ({path}): it must be built with CONFIG_DEBUG_INFO_BTF=y")]
    Missing {
        /// Where it was looked for.
        path: String,
    },
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not BTF.
    #[error("the kernel's type information is malformed at byte {0}")]
    Malformed(usize),
    /// A structure or member is not there.
    #[error("this kernel's `struct {structure}` has no member `{member}`: aarm cannot run on it")]
    NoMember {
        /// The structure.
        structure: &'static str,
        /// The member.
        member: &'static str,
    },
    /// A layout is not the one the programs rely on.
    #[error("this kernel's layout of `{0}` is not one that aarm knows")]
    Layout(&'static str),
}

/// Parsed BTF: an index over its bytes.
pub struct Btf {
    data: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Byte offset of each type, from id 1.
    types: Vec<u32>,
    structs: HashMap<Vec<u8>, u32>,
    functions: std::collections::HashSet<Vec<u8>>,
}

impl Btf {
    /// Reads the running kernel's.
    pub fn of_kernel() -> Result<Self, BtfError> {
        const PATH: &str = "/sys/kernel/btf/vmlinux";
        match std::fs::read(PATH) {
            Ok(data) => Self::parse(data),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(BtfError::Missing { path: PATH.into() })
            }
            Err(source) => Err(BtfError::Read { path: PATH.into(), source }),
        }
    }

    /// Parses BTF of the machine's byte order.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        if data.len() > BTF_MAX {
            return Err(BtfError::Malformed(BTF_MAX));
        }
        let mut btf = Self {
            data,
            strings: 0..0,
            types: Vec::new(),
            structs: HashMap::new(),
            functions: Default::default(),
        };
        let magic = btf.u32(0)? as u16;
        if magic != MAGIC {
            return Err(BtfError::Malformed(0));
        }
        let header = btf.u32(4)? as usize;
        let (type_off, type_len) = (btf.u32(8)? as usize, btf.u32(12)? as usize);
        let (str_off, str_len) = (btf.u32(16)? as usize, btf.u32(20)? as usize);
        let end = btf.data.len();
        let types = header.checked_add(type_off).filter(|o| *o <= end).ok_or(BtfError::Malformed(8))?;
        let types_end = types.checked_add(type_len).filter(|o| *o <= end).ok_or(BtfError::Malformed(12))?;
        let strings = header.checked_add(str_off).filter(|o| *o <= end).ok_or(BtfError::Malformed(16))?;
        let strings_end =
            strings.checked_add(str_len).filter(|o| *o <= end).ok_or(BtfError::Malformed(20))?;
        btf.strings = strings..strings_end;
        let mut at = types;
        while at < types_end {
            let id = btf.types.len() as u32 + 1;
            btf.types.push(at as u32);
            let (name, info) = (btf.u32(at)?, btf.u32(at + 4)?);
            let (kind, vlen) = (info >> 24 & 31, (info & 0xffff) as usize);
            match kind {
                KIND_STRUCT => {
                    let name = btf.string(name)?.to_vec();
                    if !name.is_empty() {
                        btf.structs.entry(name).or_insert(id);
                    }
                }
                KIND_FUNC => {
                    let name = btf.string(name)?.to_vec();
                    btf.functions.insert(name);
                }
                _ => {}
            }
            let extra = match kind {
                0 => return Err(BtfError::Malformed(at)),
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * vlen,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * vlen,
                k if k <= KIND_LAST => 0,
                _ => return Err(BtfError::Malformed(at)),
            };
            at += 12 + extra;
        }
        if at == types_end { Ok(btf) } else { Err(BtfError::Malformed(at)) }
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.data.get(at..at + 4).ok_or(BtfError::Malformed(at))?;
        Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| BtfError::Malformed(at))?))
    }

    fn string(&self, offset: u32) -> Result<&[u8], BtfError> {
        let start = self.strings.start + offset as usize;
        if start >= self.strings.end {
            return Err(BtfError::Malformed(start));
        }
        let rest = &self.data[start..self.strings.end];
        let end = rest.iter().position(|b| *b == 0).ok_or(BtfError::Malformed(start))?;
        Ok(&rest[..end])
    }

    /// Whether the kernel has a function of this name with type information.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions.contains(name.as_bytes())
    }

    /// Byte offset of `member` in `struct structure`, through anonymous members.
    pub fn offset(&self, structure: &'static str, member: &'static str) -> Result<u32, BtfError> {
        let missing = BtfError::NoMember { structure, member };
        let Some(id) = self.structs.get(structure.as_bytes()) else { return Err(missing) };
        self.member(*id, member.as_bytes(), 0)?.ok_or(missing)
    }

    fn member(&self, id: u32, wanted: &[u8], depth: u32) -> Result<Option<u32>, BtfError> {
        let Some(at) = (id as usize).checked_sub(1).and_then(|i| self.types.get(i)) else { return Ok(None) };
        let at = *at as usize;
        let info = self.u32(at + 4)?;
        let kind = info >> 24 & 31;
        match kind {
            KIND_TYPEDEF | KIND_CONST | KIND_VOLATILE | KIND_RESTRICT | KIND_TYPE_TAG
                if depth < NESTING_MAX =>
            {
                return self.member(self.u32(at + 8)?, wanted, depth + 1);
            }
            KIND_STRUCT | KIND_UNION => {}
            _ => return Ok(None),
        }
        let bitfields = info >> 31 == 1;
        for i in 0..(info & 0xffff) as usize {
            let m = at + 12 + 12 * i;
            let (name, of, bits) = (self.u32(m)?, self.u32(m + 4)?, self.u32(m + 8)?);
            let bits = if bitfields { bits & 0xff_ffff } else { bits };
            let name = self.string(name)?;
            if name == wanted {
                return Ok(Some(bits / 8));
            }
            if name.is_empty()
                && depth < NESTING_MAX
                && let Some(inner) = self.member(of, wanted, depth + 1)?
            {
                return Ok(Some(bits / 8 + inner));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { int a; union { int b; struct { int c; int d; }; }; }`, built by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0b\0c\0d\0";
        let mut types: Vec<u32> = vec![1, KIND_INT << 24, 4, 32];
        types.extend([0, KIND_STRUCT << 24 | 2, 8, 11, 1, 0, 13, 1, 32]);
        types.extend([0, KIND_UNION << 24 | 2, 8, 9, 1, 0, 0, 2, 0]);
        types.extend([5, KIND_STRUCT << 24 | 2, 12, 7, 1, 0, 0, 3, 32]);
        let types: Vec<u8> = types.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out: Vec<u8> = (MAGIC as u32 | 1 << 16).to_ne_bytes().to_vec();
        for w in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn members_are_found_through_anonymous_ones() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("s", "a").unwrap(), 0);
        assert_eq!(btf.offset("s", "b").unwrap(), 4);
        assert_eq!(btf.offset("s", "d").unwrap(), 8);
        let e = btf.offset("s", "x").unwrap_err();
        assert!(e.to_string().contains("`struct s` has no member `x`"), "{e}");
    }

    #[test]
    fn no_truncation_or_flip_panics() {
        let whole = sample();
        for n in 0..whole.len() {
            let _ = Btf::parse(whole[..n].to_vec());
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[n] ^= 1 << bit;
                if let Ok(btf) = Btf::parse(bytes) {
                    let _ = btf.offset("s", "d");
                }
            }
        }
    }
}
