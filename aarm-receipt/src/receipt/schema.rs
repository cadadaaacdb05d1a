//! The members of each kind of receipt: one table, which the reader ([`super::parse`]), `docs/receipts.md` and
//! `docs/receipt.schema.json` come from.

use crate::redact::Classes;

/// When a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Always; it may be empty.
    Always,
    /// Always, and never empty.
    Filled,
    /// Left out when it would be empty, or 0.
    IfAny,
    /// Left out when it is not known, or does not apply.
    IfKnown,
}

/// What a member's value is.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// Text; bytes that are none are percent-encoded, see [`crate::canonical`].
    Text,
    /// An integer; from 2^53 on as text.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Of an address family: its name, or its number if it has none here.
    Family,
    /// A list of texts.
    Texts,
    /// Members of its own.
    Object(&'static [Member]),
    /// A list of objects.
    Objects(&'static [Member]),
    /// Numbers by names of operations.
    Counts,
}

/// A member of a receipt.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// When it is there.
    pub presence: Presence,
    /// Where it comes from.
    pub source: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// By what it is redacted, if it can be.
    pub class: Classes,
}

impl Member {
    /// The same, which can be redacted.
    const fn as_one_of(self, class: Classes) -> Self {
        Self { class, ..self }
    }
}

/// Which receipts of a kind weigh: they have a signature of their own, besides that of the tree that they are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// None.
    Never,
    /// All.
    Always,
    /// Of actions those that are not simply allowed; not that a program is asked about, whose answer tells what became of it.
    Decided,
    /// All but that a policy lets a program run.
    Answered,
}

/// A kind of receipt.
#[derive(Clone, Copy, Debug)]
pub struct KindOf {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub meaning: &'static str,
    /// Which of them have a signature of their own.
    pub signed: Signed,
    /// Its members, sorted; those that all kinds have are among [`COMMON`].
    pub members: &'static [Member],
}

use Presence::{Always, Filled, IfAny, IfKnown};
use Type::{Boolean, Counts, Family, Number, Object, Objects, Text, Texts};

const fn m(
    name: &'static str,
    ty: Type,
    presence: Presence,
    source: &'static str,
    meaning: &'static str,
) -> Member {
    Member { name, ty, presence, source, meaning, class: Classes::NONE }
}

const KERNEL: &str = "kernel event";
const DAEMON: &str = "daemon";
const CLAIM: &str = "registration; a claim";
const POLICY: &str = "policy";
const LOG: &str = "log writer";

const SEQ: &[Member] = &[
    m("cpu", Number, Always, KERNEL, "the CPU it happened on"),
    m("n", Number, Always, KERNEL, "the event's number there; none is left out"),
];

const POLICY_REF: &[Member] = &[
    m("hash", Text, Always, POLICY, "SHA-256 of its canonical form, hexadecimal"),
    m("name", Text, Always, POLICY, "its name"),
    m("version", Text, Always, POLICY, "its version"),
];

/// Members that every kind has, sorted.
pub const COMMON: &[Member] = &[
    m("boot_ns", Number, Always, KERNEL, "nanoseconds since boot"),
    m("host", Text, Always, DAEMON, "host and boot"),
    m("kind", Text, Filled, DAEMON, "which of the kinds below"),
    m(
        "prev",
        Text,
        IfKnown,
        LOG,
        "of a session's receipt: leaf hash of the session's receipt before, in base64; zeros: it is the first",
    ),
    m("seq", Object(SEQ), IfKnown, KERNEL, "the event, of what the kernel told"),
    m(
        "session",
        Object(&[
            m("id", Text, Filled, KERNEL, "id in the kernel, 16 hexadecimal digits"),
            m("uuid", Text, Always, DAEMON, "id for ever"),
        ]),
        IfKnown,
        KERNEL,
        "the session it belongs to",
    ),
    m("time", Text, Filled, KERNEL, "the same instant: RFC 3339, UTC, nanoseconds"),
    m("v", Number, Always, DAEMON, "version of this schema"),
];

const IDENTITY: Member = m(
    "identity",
    Object(&[
        m("agent", Text, IfAny, KERNEL, "the session's first program").as_one_of(Classes::PATHS),
        m(
            "cgroup",
            Text,
            IfAny,
            KERNEL,
            "path of its cgroup when it was born or last ran a program, unless that is the root",
        )
        .as_one_of(Classes::PATHS),
        m("comm", Text, Always, KERNEL, "name of the thread; it may have given it itself")
            .as_one_of(Classes::PATHS),
        m("exe", Text, IfAny, KERNEL, "its program").as_one_of(Classes::PATHS),
        m("gid", Number, Always, KERNEL, "real group id"),
        m("human", Text, IfAny, CLAIM, "on whose behalf").as_one_of(Classes::HUMAN),
        m("pid", Number, Always, KERNEL, "process"),
        m("ppid", Number, Always, KERNEL, "parent process"),
        m("tid", Number, IfKnown, KERNEL, "thread, where it is not the process's first"),
        m("uid", Number, Always, KERNEL, "real user id"),
    ]),
    Always,
    KERNEL,
    "who acted",
);

const ACTION: &[Member] = &[
    m(
        "action",
        Object(&[
            m("arg", Number, Always, KERNEL, "flags, mode or owner, by operation"),
            m("argv", Texts, IfAny, KERNEL, "arguments of a program that they decide")
                .as_one_of(Classes::ARGUMENTS),
            m("flags", Texts, IfAny, KERNEL, "what else is to say: `also_read`, `exchange`, ..."),
            m(
                "network",
                Object(&[
                    m("addr", Text, IfAny, KERNEL, "IP address").as_one_of(Classes::HOSTS),
                    m("family", Family, Always, KERNEL, "address family (`AF_*`)"),
                    m(
                        "hosts",
                        Texts,
                        IfAny,
                        "resolvers' answers",
                        "names by which the session knew the address",
                    )
                    .as_one_of(Classes::HOSTS),
                    m("port", Number, Always, KERNEL, "port"),
                    m("protocol", Number, Always, KERNEL, "`IPPROTO_*`"),
                    m("type", Number, Always, KERNEL, "`SOCK_*`"),
                ]),
                IfKnown,
                KERNEL,
                "of a socket: its side of the action",
            ),
            m(
                "object",
                Object(&[
                    m("dev", Number, Always, KERNEL, "device"),
                    m("ino", Number, Always, KERNEL, "inode"),
                    m("mode", Number, Always, KERNEL, "type and permissions"),
                ]),
                Always,
                KERNEL,
                "the file; all 0 without one",
            ),
            m("operation", Text, Filled, KERNEL, "what was attempted, see operations.md"),
            m("path", Text, IfAny, KERNEL, "the object, by the name that was used").as_one_of(Classes::PATHS),
            m(
                "path2",
                Text,
                IfAny,
                KERNEL,
                "the other end of a rename or link; otherwise the object's path on the host",
            )
            .as_one_of(Classes::PATHS),
            m("target", Text, IfAny, KERNEL, "text of a symbolic link").as_one_of(Classes::PATHS),
            m("tool", Text, Filled, KERNEL, "the operation's family"),
        ]),
        Always,
        KERNEL,
        "what was attempted",
    ),
    m(
        "context",
        Object(&[
            m("adds", Texts, IfAny, POLICY, "labels that the action adds"),
            m(
                "conditions",
                Number,
                IfAny,
                KERNEL,
                "conditions on history that held, a bit each, in the policy's order",
            ),
            m("labels", Texts, IfAny, KERNEL, "labels that the session had"),
            m("subjects", Number, IfAny, KERNEL, "conditions on who acts that held, likewise"),
            m("unknown", Number, IfAny, KERNEL, "conditions on who acts that could not be told, likewise"),
        ]),
        IfAny,
        KERNEL,
        "what the session had seen when it was decided",
    ),
    m(
        "decision",
        Object(&[
            m("cause", Text, Filled, KERNEL, "why: `rule`, `default`, `answered`, or what failed closed"),
            m(
                "facet",
                Text,
                IfAny,
                KERNEL,
                "the operation that decided, where that is another part of the same action",
            ),
            m(
                "hold",
                Text,
                IfAny,
                KERNEL,
                "the hold that it waits in, or that was answered: 16 hexadecimal digits",
            ),
            m("mode", Text, Filled, POLICY, "`enforce`, or `audit`: only recorded"),
            m(
                "modified",
                Object(&[m("redirect", Text, Filled, POLICY, "where to it was redirected")]),
                IfAny,
                POLICY,
                "of MODIFY: what was changed",
            ),
            m("policy", Object(POLICY_REF), Always, POLICY, "the policy that decided"),
            m("reason", Text, IfAny, POLICY, "the rule's reason"),
            m("result", Text, Filled, KERNEL, "`ALLOW`, `DENY`, `MODIFY`, `STEP_UP` or `DEFER`"),
            m("rule", Text, IfAny, POLICY, "the rule that decided; none: a default"),
            m("took_ns", Number, Always, KERNEL, "nanoseconds that the decision took"),
        ]),
        Always,
        KERNEL,
        "what was decided",
    ),
    IDENTITY,
];

const CHANGES: Type = Object(&[
    m(
        "args",
        Objects(&[
            m("after", Text, Always, POLICY, "the word as it is now").as_one_of(Classes::ARGUMENTS),
            m("at", Number, Always, POLICY, "its place"),
            m("before", Text, Always, "the image's stack", "the word as it was")
                .as_one_of(Classes::ARGUMENTS),
        ]),
        IfAny,
        DAEMON,
        "words that were replaced",
    ),
    m("env", Texts, IfAny, DAEMON, "names of variables that were taken away; never a value"),
    m(
        "limits",
        Objects(&[
            m("after", Number, Always, POLICY, "the limit as it is now"),
            m("before", Number, Always, "kernel", "the limit as it was"),
            m("name", Text, Filled, POLICY, "which"),
        ]),
        IfAny,
        DAEMON,
        "limits that were lowered",
    ),
    m("more", Number, IfAny, DAEMON, "so many changes are not listed"),
]);

/// Every kind, sorted by name.
pub const SCHEMAS: &[KindOf] = &[
    KindOf { name: "action", meaning: "a decided action", signed: Signed::Decided, members: ACTION },
    KindOf {
        name: "attempt",
        meaning: "somebody other than people was asked how to decide what waits",
        signed: Signed::Never,
        members: &[m(
            "detail",
            Object(&[
                m(
                    "facts",
                    Objects(&[
                        m("fact", Text, Always, "resolver", "what it is").as_one_of(Classes::TEXTS),
                        m("name", Text, Always, "resolver", "of what"),
                    ]),
                    IfAny,
                    "resolver",
                    "what was found out",
                ),
                m(
                    "found",
                    Text,
                    Filled,
                    "resolver",
                    "`ALLOW`, `DENY`, `unknown`, `failed`, or `known` of what rules decide by",
                ),
                m("hold", Text, Filled, KERNEL, "the hold"),
                m("resolver", Text, Filled, POLICY, "who was asked"),
                m("text", Text, IfAny, "resolver", "what is to say of it").as_one_of(Classes::TEXTS),
                m("took_ns", Number, Always, DAEMON, "nanoseconds that it took"),
            ]),
            Always,
            DAEMON,
            "the attempt",
        )],
    },
    KindOf {
        name: "erasure",
        meaning: "what was redacted of a session is erased: its receipts stay, and nobody can tell any more what they have committed to",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[
                m("by", Text, Filled, "socket's peer", "who asked for it"),
                m("session", Text, Filled, DAEMON, "the session's UUID"),
                m("values", Number, Always, DAEMON, "how many values"),
            ]),
            Always,
            DAEMON,
            "what was erased",
        )],
    },
    KindOf {
        name: "gap",
        meaning: "events that have no receipt",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[
                m("cpu", Number, IfKnown, KERNEL, "on which CPU"),
                m("found", Text, IfAny, KERNEL, "what was found instead"),
                m("missing", Number, Always, DAEMON, "how many"),
                m("why", Text, Filled, DAEMON, "why, as far as it is known"),
            ]),
            Always,
            DAEMON,
            "what is missing",
        )],
    },
    KindOf {
        name: "keys",
        meaning: "the log's keys are exchanged for others, which are for the receipts after this one",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[
                m("checkpoint", Text, Filled, LOG, "verifier key of checkpoints"),
                m("receipt", Text, Filled, LOG, "verifier key of single receipts"),
            ]),
            Always,
            LOG,
            "the new keys",
        )],
    },
    KindOf {
        name: "name",
        meaning: "a resolver told the session the addresses of a name",
        signed: Signed::Never,
        members: &[m(
            "detail",
            Object(&[
                m("addresses", Texts, Filled, "resolver's answer", "the addresses").as_one_of(Classes::HOSTS),
                m("name", Text, Always, "resolver's answer", "the name").as_one_of(Classes::HOSTS),
                m("resolver", Text, Filled, KERNEL, "who told"),
                m("seconds", Number, Always, "resolver's answer", "for how long the first of them holds"),
            ]),
            Always,
            KERNEL,
            "what was told",
        )],
    },
    KindOf {
        name: "outcome",
        meaning: "what became of an action, as far as it was observed",
        signed: Signed::Never,
        members: &[
            m(
                "detail",
                Object(&[
                    m("argv", Texts, Always, KERNEL, "arguments; the first ones of many")
                        .as_one_of(Classes::ARGUMENTS),
                    m("argv_len", Number, Always, KERNEL, "bytes of all arguments"),
                    m(
                        "argv_sha256",
                        Text,
                        Filled,
                        DAEMON,
                        "SHA-256 of the arguments that are here, each ended by NUL",
                    )
                    .as_one_of(Classes::ARGUMENTS),
                    m("cut", Boolean, Always, KERNEL, "some arguments are not here"),
                    m("cwd", Text, IfAny, KERNEL, "working directory").as_one_of(Classes::PATHS),
                    m("of", Object(SEQ), IfKnown, DAEMON, "the action's event"),
                ]),
                Always,
                KERNEL,
                "what was observed",
            ),
            IDENTITY,
            m("outcome", Text, Filled, KERNEL, "`executed`"),
        ],
    },
    KindOf {
        name: "policy",
        meaning: "a policy was loaded",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[
                m("file", Text, Always, DAEMON, "from where"),
                m("mode", Text, Filled, POLICY, "`enforce` or `audit`"),
                m("policy", Object(POLICY_REF), Always, POLICY, "which"),
                m("rules", Number, Always, POLICY, "how many rules it has"),
            ]),
            Always,
            DAEMON,
            "the policy",
        )],
    },
    KindOf {
        name: "process",
        meaning: "a process came or went",
        signed: Signed::Never,
        members: &[
            m(
                "detail",
                Object(&[
                    m("child", Number, IfKnown, KERNEL, "the child of a fork"),
                    m("status", Number, IfKnown, KERNEL, "the wait status of an exit"),
                    m("what", Text, Filled, KERNEL, "`fork` or `exit`"),
                ]),
                Always,
                KERNEL,
                "what happened",
            ),
            IDENTITY,
        ],
    },
    KindOf {
        name: "prune",
        meaning: "the oldest receipts are about to be taken out of the log, because they are older, or more, than are to be kept",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[
                m("before", Number, Always, LOG, "number of the first receipt that stays"),
                m("bytes", Number, Always, LOG, "bytes of the segments that go"),
                m("segments", Number, Always, LOG, "how many segments go"),
                m("why", Text, Filled, LOG, "`age` or `size`"),
            ]),
            Always,
            LOG,
            "what goes",
        )],
    },
    KindOf {
        name: "recovery",
        meaning: "a torn end of the log, beyond everything signed, was cut off",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[m("bytes_cut", Number, Always, LOG, "how much"), m("why", Text, Filled, LOG, "why")]),
            Always,
            LOG,
            "what was done",
        )],
    },
    KindOf {
        name: "resolution",
        meaning: "what became of something that waited",
        signed: Signed::Answered,
        members: &[
            m(
                "detail",
                Object(&[
                    m(
                        "answer",
                        Text,
                        Filled,
                        DAEMON,
                        "`ALLOW`, `MODIFY`, `DENY`, or `ANEW`: it is decided again by what was found out",
                    ),
                    m("approver", Text, IfAny, "socket's peer, or a signature", "who answered"),
                    m("comment", Text, IfAny, "approver", "what was said with it").as_one_of(Classes::TEXTS),
                    m("hold", Text, Filled, KERNEL, "the hold"),
                    m(
                        "left",
                        Number,
                        IfAny,
                        DAEMON,
                        "so many other rules are still to be answered before it happens",
                    ),
                    m(
                        "method",
                        Text,
                        Filled,
                        DAEMON,
                        "how: `approval`, `policy`, `timeout`, `gone`, `restart`, `cascade`, or a resolver",
                    ),
                    m(
                        "modified",
                        CHANGES,
                        IfAny,
                        DAEMON,
                        "what was changed of a program before its first instruction",
                    ),
                    m("of", Object(SEQ), IfKnown, KERNEL, "the event that it began with"),
                    m("rule", Text, IfAny, POLICY, "the rule that asked, or decided; none: a default"),
                    m(
                        "scope",
                        Text,
                        IfAny,
                        "approver",
                        "what it is good for: `once`, `like`, `session`, or until when",
                    ),
                    m("waited_ns", Number, Always, KERNEL, "nanoseconds that it waited"),
                ]),
                Always,
                DAEMON,
                "the answer",
            ),
            IDENTITY,
        ],
    },
    KindOf {
        name: "session_close",
        meaning: "a session ended",
        signed: Signed::Never,
        members: &[m(
            "detail",
            Object(&[
                m("allowed", Number, Always, DAEMON, "actions allowed"),
                m("audited", Number, Always, DAEMON, "actions that would have been denied"),
                m("denied", Number, Always, DAEMON, "actions denied"),
                m("refused", Number, Always, KERNEL, "actions refused for want of room, without receipts"),
            ]),
            Always,
            DAEMON,
            "its totals",
        )],
    },
    KindOf {
        name: "session_open",
        meaning: "a session began",
        signed: Signed::Never,
        members: &[
            m(
                "detail",
                Object(&[
                    m("how", Text, Filled, DAEMON, "`run`, `agent` or `adopted`"),
                    m("intent", Text, IfAny, CLAIM, "what it is for").as_one_of(Classes::TEXTS),
                    m("mode", Text, Filled, POLICY, "`enforce` or `audit`"),
                    m("policy", Object(POLICY_REF), Always, POLICY, "its policy"),
                    m("program", Text, IfAny, KERNEL, "its first program").as_one_of(Classes::PATHS),
                ]),
                Always,
                DAEMON,
                "how it began",
            ),
            IDENTITY,
        ],
    },
    KindOf {
        name: "start",
        meaning: "the daemon started",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[
                m(
                    "adopted",
                    Boolean,
                    Always,
                    DAEMON,
                    "it took over what a former daemon had loaded; otherwise numbers of events begin anew",
                ),
                m("kernel", Text, Always, "kernel", "the kernel's release"),
                m("version", Text, Filled, DAEMON, "its version"),
            ]),
            Always,
            DAEMON,
            "the start",
        )],
    },
    KindOf {
        name: "statement",
        meaning: "what an agent said of itself, as it was said: nothing vouches for it",
        signed: Signed::Never,
        members: &[m(
            "detail",
            Object(&[
                m("name", Text, IfAny, "agent", "the tool"),
                m("text", Text, Filled, "agent", "what was said; the beginning of a long text")
                    .as_one_of(Classes::TEXTS),
                m("what", Text, Filled, "agent", "`intent` or `tool`"),
            ]),
            Always,
            "agent",
            "the statement",
        )],
    },
    KindOf {
        name: "stop",
        meaning: "the daemon ended in good order",
        signed: Signed::Always,
        members: &[m(
            "detail",
            Object(&[m("version", Text, Filled, DAEMON, "its version")]),
            Always,
            DAEMON,
            "the end",
        )],
    },
    KindOf {
        name: "summary",
        meaning: "allowed actions that are only counted, since the session began: the last one of a session has them all",
        signed: Signed::Never,
        members: &[m(
            "detail",
            Object(&[
                m("counts", Counts, Always, KERNEL, "how many, by operation"),
                m("policy", Object(POLICY_REF), Always, POLICY, "the session's policy"),
            ]),
            Always,
            KERNEL,
            "the counts",
        )],
    },
];
