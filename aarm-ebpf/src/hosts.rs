//! By which names an address is known to a session.
//!
//! A session's socket that has been allowed to talk to a resolver which its policy trusts is watched ([`watch`]): what is asked
//! through it is noted, and an answer that comes from there, to a question that was asked, teaches the session the name of
//! each address in it ([`aarm_learn`]). That happens before the answer reaches the socket, so the very next connect knows
//! the name ([`aarm_hosts`]).
//!
//! Promises: no event, no name; a name holds as long as the resolver says, within bounds; and an address has a name only for
//! the session that asked, in the network namespace in which it asked. Must never: believe an answer that nobody asked for,
//! or a record's own name (see `aarm_common::dns`).

use aarm_common::dns::{ADDRESSES_MAX, Found, Header, Kind as Dns53, MESSAGE_MAX, Message, NAME_MAX};
use aarm_common::dns::{PORT, QUESTION_STEPS, Question, RECORD_STEPS, Records, Step};
use aarm_common::event::Kind;
use aarm_common::limits::{HOST_NAMES, HOST_SECONDS_MAX, HOST_SECONDS_MIN, QUERIES, RESOLVERS};
use aarm_common::policy::{AF_INET, AF_INET6, Policy};
use aarm_common::state::{HostKey, HostName, Hosts, Query, Resolving, session_generation, session_slot};
use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_skb_load_bytes};
use core::ffi::c_void;

use crate::emit;
use crate::kernel::*;
use crate::maps::{HOSTS, POLICIES, RESOLVING, SCRATCH, SESSIONS};
use crate::names;
use crate::scratch::{self, END, Scratch, copy, no_hits, zero};
use crate::session::Frame;
use crate::walk;

const IPPROTO_UDP: u8 = 17;
/// Bytes 8 to 11 of a mapped IPv4 address, as the low half of a word.
const MAPPED: u64 = 0xffff_0000;
/// Where the text of the question is put in the buffer: after the message.
const TEXT: usize = MESSAGE_MAX;
/// Where a value of `HOSTS` is put together: beyond the event.
const VALUE: usize = END;
const _: () = assert!(VALUE.is_multiple_of(8) && TEXT.is_multiple_of(8) && MESSAGE_MAX.is_power_of_two());
const _: () = assert!(TEXT + NAME_MAX + ADDRESSES_MAX * 16 + NAME_MAX < END && size_of::<Hosts>() < END);

/// The working state, in a scratch buffer.
#[repr(C)]
pub struct Dns {
    /// The address looked at, with session and namespace.
    pub key: HostKey,
    /// Who answered, or is asked.
    resolver: [u64; 2],
    question: Question,
    records: Records,
    /// Bytes of the message.
    len: u32,
    /// Addresses found.
    found: u32,
    /// The message's number.
    id: u32,
    /// Answer records that the header announces; then whether the question was read.
    status: u32,
    addresses: [[u64; 2]; ADDRESSES_MAX],
    seconds: [u32; ADDRESSES_MAX],
}

/// What the callbacks of `bpf_loop` need; on the stack, because that is the only context they may have.
#[repr(C)]
struct Ctx {
    s: *mut Scratch,
    p: *const Policy,
}

/// The message in the scratch buffer.
struct InBuffer(*const Scratch);

impl Message for InBuffer {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a valid map value.
        unsafe { (*self.0).dns.len }
    }

    #[inline(always)]
    fn byte(&self, at: u32) -> u8 {
        // SAFETY: a valid map value; the mask keeps the index inside.
        unsafe { (*self.0).buf[at as usize & (MESSAGE_MAX - 1)] }
    }
}

const READING: u32 = 0;
const READ: u32 = 1;
const BAD: u32 = 2;

/// Whether a policy believes a resolver.
#[inline(always)]
unsafe fn trusts(p: *const Policy, resolver: [u64; 2]) -> bool {
    let (high, low) = (u64::from_be(resolver[0]), u64::from_be(resolver[1]));
    let mut i = 0;
    while i < RESOLVERS {
        // SAFETY: a valid map value; the index is inside.
        unsafe {
            if i as u32 >= (*p).resolver_count {
                return false;
            }
            let net = &raw const (*p).resolvers[i];
            if high & (*net).mask[0] == (*net).addr[0] && low & (*net).mask[1] == (*net).addr[1] {
                return true;
            }
        }
        i += 1;
    }
    false
}

/// Network namespace of a typed `struct sock *`.
#[inline(always)]
unsafe fn namespace(sk: *const c_void) -> u64 {
    // SAFETY: typed by contract, and so is what it points to.
    unsafe {
        let net: *const c_void = typed(sk, &OFF_SOCK_SKC_NET);
        if net.is_null() { 0 } else { typed::<u32>(net, &OFF_NET_INUM) as u64 }
    }
}

/// Watches a socket through which a resolver may be asked from now on, if its answers are believed.
#[inline(always)]
pub unsafe fn watch(f: &Frame, sk: *mut c_void) {
    // SAFETY: the frame's pointers are valid map values, `sk` is typed.
    unsafe {
        let h = &raw const (*f.s).head;
        if (*f.policy).resolver_count == 0 || (*h).port != PORT || (*h).protocol != IPPROTO_UDP {
            return;
        }
        if sk.is_null() {
            return;
        }
        let socket = RESOLVING.get_or_create(sk);
        if socket.is_null() {
            // Its answers teach nothing.
            return;
        }
        (*socket).netns = namespace(sk);
        (*socket).session = (*f.task).session;
    }
}

/// Puts the rules into `Scratch::object` that the names of the address in the event's header satisfy, and the names into the
/// event.
#[inline(always)]
pub unsafe fn satisfied(f: &Frame, sk: *const c_void) {
    // SAFETY: the frame's pointers are valid map values, `sk` is typed.
    unsafe {
        if (*f.policy).resolver_count == 0 || sk.is_null() {
            names::pathless(f.s, f.policy);
            return;
        }
        let key = &raw mut (*f.s).dns.key;
        let addr = (&raw const (*f.s).head.addr).cast::<[u64; 2]>();
        let family = (*f.s).head.family;
        (*key).addr = match family {
            AF_INET => [0, MAPPED | (*addr)[0] << 32],
            AF_INET6 => *addr,
            // Never a key.
            _ => [0; 2],
        };
        (*key).session = (*f.task).session;
        (*key).netns = namespace(sk);
        aarm_hosts(f.scratch, f.slot);
    }
}

/// [`satisfied`] for the key in the scratch buffer. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_hosts(scratch: u32, slot: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        no_hits(s);
        (*s).dns.found = 0;
        let key: &HostKey = &*(&raw const (*s).dns.key);
        if let Some(known) = HOSTS.get_ptr(key) {
            let value = (&raw mut (*s).buf).cast::<u8>().add(VALUE).cast::<Hosts>();
            copy(known, value);
            // After the names: whoever writes another address's value over this one begins with the key.
            if same(&raw const (*value).key, key) && same(&raw const (*known).key, key) {
                let mut ctx = Ctx { s, p };
                bpf_loop(HOST_NAMES as u32, spell as *mut c_void, (&raw mut ctx).cast(), 0);
            }
        }
        (*s).head.args_len = (END as u32).wrapping_sub((*s).pos) as u16;
        if (*s).dns.found == 0 {
            walk::add_hits(s, p, (*p).host_unknown);
        }
        names::satisfied(s, p, false);
        0
    }
}

#[inline(always)]
unsafe fn same(one: *const HostKey, other: *const HostKey) -> bool {
    // SAFETY: both are in valid map values.
    unsafe {
        let read = |w: usize| {
            core::ptr::read_volatile(one.cast::<u64>().add(w))
                ^ core::ptr::read_volatile(other.cast::<u64>().add(w))
        };
        read(0) | read(1) | read(2) | read(3) == 0
    }
}

/// One name: into the event, and through the automaton.
#[inline(never)]
extern "C" fn spell(index: u32, ctx: *mut Ctx) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values; masks keep indices inside.
    unsafe {
        let (s, p) = ((*ctx).s, (*ctx).p);
        if s.is_null() || p.is_null() || index >= HOST_NAMES as u32 {
            return 1;
        }
        let buf = (&raw mut (*s).buf).cast::<u8>();
        let value = buf.add(VALUE).cast::<Hosts>();
        let name = &raw const (*value).names[index as usize % HOST_NAMES];
        let len = opaque((*name).len);
        if (*name).expires_ns <= (*s).head.time_ns || len == 0 || len > NAME_MAX as u64 {
            return 0;
        }
        let len = len as u32;
        let at = opaque((*s).pos.wrapping_sub(len + 1) as u64 & 16383) as usize;
        if at > END {
            return 1;
        }
        let from = (&raw const (*name).text).cast::<c_void>();
        if bpf_probe_read_kernel(buf.add(at).cast(), len, from) != 0 {
            return 1;
        }
        *buf.add((at + len as usize) & 16383) = 0;
        (*s).pos = at as u32;
        (*s).dns.found += 1;
        walk::spell(s, p, at as u32, len);
        0
    }
}

/// A UDP packet of IP: who sends or gets it at the resolver's port, and where its payload begins.
struct Packet {
    resolver: [u64; 2],
    payload: u32,
}

/// Looks whether a packet is DNS over UDP. Most packets are not: this is what they pay.
#[inline(always)]
unsafe fn packet(skb: *mut __sk_buff, answer: bool) -> Option<Packet> {
    // SAFETY: the verifier checks each access against `end`.
    unsafe {
        let data = (*skb).data as usize as *const u8;
        let end = (*skb).data_end as usize as *const u8;
        if data.add(28) > end {
            return None;
        }
        let port = PORT.to_be();
        // Source address and port of an answer, destination of a query. Options and extension headers have no place in
        // what a resolver sends.
        match *data {
            0x45 => {
                let fragment = *data.add(6).cast::<u16>() & 0x3fff_u16.to_be();
                if *data.add(9) != IPPROTO_UDP || fragment != 0 {
                    return None;
                }
                let (at, address) = if answer { (20, 12) } else { (22, 16) };
                if *data.add(at).cast::<u16>() != port {
                    return None;
                }
                let v4 = *data.add(address).cast::<u32>() as u64;
                Some(Packet { resolver: [0, MAPPED | v4 << 32], payload: 28 })
            }
            version if version >> 4 == 6 => {
                if data.add(48) > end || *data.add(6) != IPPROTO_UDP {
                    return None;
                }
                let (at, address) = if answer { (40, 8) } else { (42, 24) };
                if *data.add(at).cast::<u16>() != port {
                    return None;
                }
                let word = |at: usize| {
                    let word = data.add(at).cast::<u32>();
                    *word as u64 | (*word.add(1) as u64) << 32
                };
                Some(Packet { resolver: [word(address), word(address + 8)], payload: 48 })
            }
            _ => None,
        }
    }
}

/// Looks at a packet on its way to or from a socket.
#[inline(always)]
pub fn observe(skb: *mut __sk_buff, answer: bool) {
    // SAFETY: the verifier checks accesses to the packet; map values are checked for null before use.
    unsafe {
        let Some(packet) = packet(skb, answer) else { return };
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let socket = RESOLVING.get(sk.cast());
        if socket.is_null() {
            return;
        }
        let id = (*socket).session;
        let Some(session) = SESSIONS.get_ptr(session_slot(id)) else { return };
        if (*session).generation != session_generation(id) {
            return;
        }
        let slot = (*session).policy;
        let Some(p) = POLICIES.get_ptr(slot) else { return };
        if !trusts(p, packet.resolver) {
            return;
        }
        let Some((s, scratch)) = scratch::take() else { return };
        (*s).head.time_ns = emit::now();
        (*s).head.policy = (*p).generation;
        (*s).dns.resolver = packet.resolver;
        (*s).dns.key.session = id;
        (*s).dns.key.netns = (*socket).netns;
        if load(skb, s, packet.payload) && aarm_question(scratch, answer as u32) == READ {
            if !answer {
                ask(s, socket);
            } else if asked(s, socket) {
                aarm_learn(scratch);
            }
        }
        scratch::give(s);
    }
}

/// Copies the message into the buffer.
#[inline(always)]
unsafe fn load(skb: *mut __sk_buff, s: *mut Scratch, payload: u32) -> bool {
    // SAFETY: `s` is a valid map value; the helper checks the packet.
    unsafe {
        let len = opaque((*skb).len.wrapping_sub(payload) as u64);
        if len > MESSAGE_MAX as u64 {
            return false;
        }
        // Before 6.8 the verifier learns that it is not 0 from an order only, and two checks in one tell it nothing.
        let len = opaque(len);
        if len < 12 {
            return false;
        }
        (*s).dns.len = len as u32;
        bpf_skb_load_bytes(skb.cast(), payload, (&raw mut (*s).buf).cast(), len as u32) == 0
    }
}

/// Notes a query.
#[inline(always)]
unsafe fn ask(s: *const Scratch, socket: *mut Resolving) {
    // SAFETY: both are valid map values; the mask keeps the index inside.
    unsafe {
        let at = (*socket).count as usize & (QUERIES - 1);
        (*socket).count += 1;
        let d = &raw const (*s).dns;
        let query = Query {
            resolver: (*d).resolver,
            question: (*d).question.hash,
            id: (*d).id | 1 << 16,
            reserved: 0,
        };
        core::ptr::write_volatile(&raw mut (*socket).queries[at], query);
    }
}

/// Whether an answer is to a query that waits; it waits no longer then.
#[inline(always)]
unsafe fn asked(s: *const Scratch, socket: *mut Resolving) -> bool {
    let mut i = 0;
    while i < QUERIES {
        // SAFETY: both are valid map values; the index is inside.
        unsafe {
            let d = &raw const (*s).dns;
            let query = &raw mut (*socket).queries[i];
            if (*query).id == (*d).id | 1 << 16
                && (*query).question == (*d).question.hash
                && (*query).resolver[0] == (*d).resolver[0]
                && (*query).resolver[1] == (*d).resolver[1]
            {
                (*query).id = 0;
                return true;
            }
        }
        i += 1;
    }
    false
}

/// Reads header and question of the message in the scratch buffer: [`READ`], or it is none that matters. Takes numbers only, see
/// `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_question(scratch: u32, answer: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return BAD };
    // SAFETY: a valid map value.
    unsafe {
        let Some(header) = Header::read(&InBuffer(s)) else { return BAD };
        if (header.kind == Dns53::Answer) as u32 != answer {
            return BAD;
        }
        (*s).dns.id = header.id as u32;
        (*s).dns.question = Question::start();
        (*s).dns.status = READING;
        let mut ctx = Ctx { s, p: core::ptr::null() };
        bpf_loop(QUESTION_STEPS, read_question as *mut c_void, (&raw mut ctx).cast(), 0);
        (*s).dns.records = Records { at: (*s).dns.question.at, left: header.answers as u32 };
        (*s).dns.status
    }
}

#[inline(never)]
extern "C" fn read_question(_index: u32, ctx: *mut Ctx) -> i64 {
    // SAFETY: the context is the caller's; masks keep indices inside.
    unsafe {
        let s = (*ctx).s;
        if s.is_null() {
            return 1;
        }
        let mut question = (*s).dns.question;
        let step = question.step(&InBuffer(s));
        (*s).dns.question = question;
        match step {
            Step::More => 0,
            Step::Text(byte) => {
                let at = TEXT + (question.len.wrapping_sub(1) as usize & 255);
                *(&raw mut (*s).buf).cast::<u8>().add(at) = byte;
                0
            }
            Step::Done => {
                (*s).dns.status = READ;
                1
            }
            Step::Bad => {
                (*s).dns.status = BAD;
                1
            }
        }
    }
}

/// Reads the addresses of the answer in the scratch buffer, reports them, and then gives them their name. Takes a number only, see
/// `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_learn(scratch: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    // SAFETY: a valid map value; masks keep indices inside.
    unsafe {
        (*s).dns.found = 0;
        let mut ctx = Ctx { s, p: core::ptr::null() };
        bpf_loop(RECORD_STEPS, read_record as *mut c_void, (&raw mut ctx).cast(), 0);
        let found = opaque((*s).dns.found as u64);
        if found == 0 || found > ADDRESSES_MAX as u64 {
            return 1;
        }
        let found = found as u32;
        let len = opaque((*s).dns.question.len as u64);
        if len == 0 || len > NAME_MAX as u64 {
            return 1;
        }
        let len = len as u32;
        let buf = (&raw mut (*s).buf).cast::<u8>();
        let args = opaque((END as u32 - found * 16) as u64) as usize;
        if args > END
            || bpf_probe_read_kernel(buf.add(args).cast(), found * 16, (&raw const (*s).dns.addresses).cast())
                != 0
        {
            return 1;
        }
        let path = opaque((args as u32).wrapping_sub(len) as u64 & 16383) as usize;
        if path > END || bpf_probe_read_kernel(buf.add(path).cast(), len, buf.add(TEXT).cast()) != 0 {
            return 1;
        }
        (*s).pos = path as u32;
        let h = &raw mut (*s).head;
        (*h).path_len = len as u16;
        (*h).args_len = (found * 16) as u16;
        (*h).arg = lifetime((*s).dns.seconds[0]) as u64;
        *(&raw mut (*h).addr).cast::<[u64; 2]>() = (*s).dns.resolver;
        (*h).family = AF_INET6;
        if !emit::told(s, scratch, Kind::Name, (*s).dns.key.session) {
            return 1;
        }
        bpf_loop(found, learn as *mut c_void, (&raw mut ctx).cast(), 0);
        0
    }
}

/// Seconds for which a name is believed.
#[inline(always)]
fn lifetime(ttl: u32) -> u32 {
    if ttl < HOST_SECONDS_MIN {
        HOST_SECONDS_MIN
    } else if ttl > HOST_SECONDS_MAX {
        HOST_SECONDS_MAX
    } else {
        ttl
    }
}

#[inline(never)]
extern "C" fn read_record(_index: u32, ctx: *mut Ctx) -> i64 {
    // SAFETY: the context is the caller's; masks keep indices inside.
    unsafe {
        let s = (*ctx).s;
        if s.is_null() {
            return 1;
        }
        let mut records = (*s).dns.records;
        let found = records.step(&InBuffer(s));
        (*s).dns.records = records;
        match found {
            Found::More => 0,
            Found::Address { at, len, ttl } => {
                let n = (*s).dns.found as usize & (ADDRESSES_MAX - 1);
                let to = (&raw mut (*s).dns.addresses[n]).cast::<u8>();
                let m = InBuffer(s);
                let mut i = 0;
                while i < 16 {
                    let byte = if len == 16 {
                        m.byte(at + i)
                    } else if i >= 12 {
                        m.byte(at + i - 12)
                    } else if i >= 10 {
                        0xff
                    } else {
                        0
                    };
                    core::ptr::write_volatile(to.add(i as usize), byte);
                    i += 1;
                }
                (*s).dns.seconds[n] = ttl;
                (*s).dns.found += 1;
                ((*s).dns.found >= ADDRESSES_MAX as u32) as i64
            }
            Found::Done | Found::Bad => 1,
        }
    }
}

/// Gives one address its name. An entry is replaced as a whole, so that no reader sees half of one; of two answers at the same
/// time one may be lost, and with it the name.
#[inline(never)]
extern "C" fn learn(index: u32, ctx: *mut Ctx) -> i64 {
    // SAFETY: the context is the caller's; masks keep indices inside.
    unsafe {
        let s = (*ctx).s;
        if s.is_null() {
            return 1;
        }
        let n = index as usize & (ADDRESSES_MAX - 1);
        (*s).dns.key.addr = (*s).dns.addresses[n];
        let key: &HostKey = &*(&raw const (*s).dns.key);
        let buf = (&raw mut (*s).buf).cast::<u8>();
        let value = buf.add(VALUE).cast::<Hosts>();
        let known = HOSTS.get_ptr(key);
        match known {
            Some(known) => copy(known, value),
            None => zero(value),
        }
        if !same(&raw const (*value).key, key) {
            zero(value);
        }
        copy(key, &raw mut (*value).key);
        let (hash, len) = ((*s).dns.question.hash, (*s).dns.question.len as u64);
        // Its own place, or that of the name that expires first.
        let (mut at, mut first) = (0, u64::MAX);
        let mut i = 0;
        while i < HOST_NAMES {
            let name = &raw const (*value).names[i];
            let own = (*name).hash == hash && (*name).len == len;
            let expires = if own { 0 } else { (*name).expires_ns };
            if expires < first || own {
                (at, first) = (i, expires);
            }
            if own {
                break;
            }
            i += 1;
        }
        let name: *mut HostName = &raw mut (*value).names[at % HOST_NAMES];
        (*name).expires_ns = (*s).head.time_ns + lifetime((*s).dns.seconds[n]) as u64 * 1_000_000_000;
        (*name).hash = hash;
        (*name).len = len;
        copy(buf.add(TEXT).cast::<[u64; NAME_MAX / 8]>(), &raw mut (*name).text);
        let value: &Hosts = &*value;
        let _ = HOSTS.insert(key, value, BPF_ANY as u64);
        0
    }
}
