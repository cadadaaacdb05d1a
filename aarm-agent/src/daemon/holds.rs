//! What waits for an answer: the daemon's side of hold.
//!
//! Owns the requests, who may answer them, and their deadlines. Never lets anything go on by itself: what is over is
//! handed to the core, which writes the receipt first. No answer is ever made up from the lack of one: time that is over
//! refuses.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use aarm_common::Decision;
use aarm_common::event::Cause;
use aarm_common::hold::{Grant, GrantKey};
use aarm_common::limits::HOLDS_MAX;
use aarm_policy::{Approver, CASCADE, Hold, Modify, OnTimeout, Policy, RuleInfo};
use serde::{Deserialize, Serialize};

use super::resolve::dns::Learnt;
use super::webhooks::What;
use crate::api::approvals::{Approval, Asked};

/// Longest time that reading a program may take; what it would have been is refused then.
pub const READING_NS: u64 = 60_000_000_000;

/// Most programs that run on while they are read, because their policy only audits.
pub const AUDITED_MAX: usize = 1024;

/// What a rule, or a policy's defaults, say of waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Who may answer: `uid:N`, `user:NAME`, `gid:N`, `group:NAME`, `human`.
    pub approvers: Vec<String>,
    /// For how long it waits.
    pub timeout_ns: u64,
    /// When the time is over, people are asked, for as long again; otherwise it is refused.
    pub then_ask: bool,
    /// After so long these may answer as well.
    pub escalate: Option<(u64, Vec<String>)>,
    /// How much is at stake.
    pub risk: Option<String>,
    /// Who is asked before people are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolve: Vec<String>,
}

/// What a policy says of waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTerms {
    /// Of its rules, by the kernel's index.
    pub rules: Vec<Terms>,
    /// Where a default says STEP_UP.
    pub step_up: Terms,
    /// Where a default says DEFER, rules contradict each other, or what a rule asks for is unknown.
    pub defer: Terms,
    /// So much of one session is deferred at once at most.
    #[serde(default = "cascade")]
    pub cascade: u32,
}

fn cascade() -> u32 {
    CASCADE
}

impl Default for PolicyTerms {
    /// Those of a policy that nothing is known of.
    fn default() -> Self {
        let terms = |seconds: u64| Terms {
            approvers: vec!["uid:0".into()],
            timeout_ns: seconds * 1_000_000_000,
            then_ask: false,
            escalate: None,
            risk: None,
            resolve: Vec::new(),
        };
        Self { rules: Vec::new(), step_up: terms(600), defer: terms(30), cascade: CASCADE }
    }
}

impl From<Hold> for Terms {
    fn from(hold: Hold) -> Self {
        let words = |list: &[Approver]| list.iter().map(ToString::to_string).collect();
        Self {
            approvers: words(&hold.approvers),
            timeout_ns: hold.timeout.0,
            then_ask: hold.on_timeout == OnTimeout::StepUp,
            escalate: hold.escalate.map(|e| (e.after.0, words(&e.approvers))),
            risk: hold.risk.map(|risk| risk.name().to_owned()),
            resolve: hold.resolve,
        }
    }
}

impl PolicyTerms {
    /// Those of a policy and its compiled rules.
    pub fn new(policy: &Policy, rules: &[RuleInfo]) -> Self {
        let by_default = |decision| Terms::from(policy.hold(None, decision));
        let defer = by_default(Decision::Defer);
        Self {
            rules: rules.iter().map(|r| r.hold.clone().map_or_else(|| defer.clone(), Terms::from)).collect(),
            step_up: by_default(Decision::StepUp),
            defer,
            cascade: policy.cascade(),
        }
    }

    /// Those of a decision.
    pub fn of(&self, rule: Option<u16>, decision: Decision, cause: Cause) -> &Terms {
        let rule = rule.filter(|_| cause == Cause::Rule).and_then(|r| self.rules.get(r as usize));
        rule.unwrap_or(if decision == Decision::StepUp { &self.step_up } else { &self.defer })
    }
}

/// What waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// Its key in the kernel.
    pub key: u64,
    /// Since when, in boot-time nanoseconds.
    pub since_ns: u64,
    /// Session.
    pub session: u64,
    /// The same action of any thread.
    pub action: u64,
    /// The session's user.
    pub owner: u32,
    /// The event it began with, if known: CPU and number.
    pub seq: Option<(u32, u64)>,
    /// Group of who acts.
    pub gid: u32,
    /// Parent of who acts.
    pub ppid: u32,
    /// What asks and was not answered yet. None: nobody is to be asked, and it is over at the next look.
    pub asks: Vec<Ask>,
    /// The file that it is about: device, in the kernel's encoding, and inode.
    #[serde(default)]
    pub object: Option<(u32, u64)>,
    /// A resolver is trying. Not of the next daemon.
    #[serde(skip)]
    pub seeking: bool,
    /// Since when it waits for something to be said; 0: it does not. Not of the next daemon.
    #[serde(skip)]
    pub listens_ns: u64,
    /// Its program is being read, and what rules say of that is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Unread>,
    /// What is changed of it, should it happen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modify: Vec<Modify>,
    /// What the session did before, as JSON: read for who looks at this one, and not for lists.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub prior: Box<str>,
    /// What people see, but for what asks and for what was before.
    pub about: Approval,
}

/// A program that is about to run and that rules ask more of than its words.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Unread {
    /// Policy generation that decides.
    pub generation: u32,
    /// It runs already: the policy only audits.
    pub audit: bool,
    /// Its own session traces it, and may change it whenever it likes.
    #[serde(default)]
    pub traced: bool,
}

/// What asks about an action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ask {
    /// When it is over.
    pub deadline_ns: u64,
    /// What was agreed, but for what `chain` and `shown` have.
    pub terms: Terms,
    /// Resolvers that have not tried yet, and the one that does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// What people see.
    pub shown: Asked,
}

impl Waiting {
    /// All that people see.
    pub fn shown(&self) -> Approval {
        let prior = serde_json::from_str(&self.prior).unwrap_or_default();
        let mut asks = self.asks.iter().map(|ask| ask.shown.clone());
        Approval { prior, asked: asks.next().unwrap_or_default(), also: asks.collect(), ..self.about.clone() }
    }

    /// Writes what people see in a list, as JSON.
    fn written(&mut self, out: &mut Vec<u8>) {
        // What asks is shown at the top, and lent for that.
        let mut asks = self.asks.iter_mut();
        if let Some(first) = asks.next() {
            self.about.asked = std::mem::take(&mut first.shown);
        }
        self.about.also.extend(asks.map(|ask| std::mem::take(&mut ask.shown)));
        // Plain text and numbers: nothing that JSON could not have.
        let _ = serde_json::to_writer(&mut *out, &self.about);
        let lent = std::iter::once(std::mem::take(&mut self.about.asked)).chain(self.about.also.drain(..));
        self.asks.iter_mut().zip(lent).for_each(|(ask, shown)| ask.shown = shown);
    }

    /// What it has in common with others that are like it.
    pub fn like(&self) -> String {
        let rules = self.asks.iter().map(|ask| (&ask.shown.rule, &ask.shown.decision, &ask.shown.cause));
        let a = &self.about;
        let all = (&a.session, &a.uuid, &a.policy.hash, &a.operation, &a.exe, rules.collect::<Vec<_>>());
        let json = serde_json::to_vec(&all).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, &json);
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes out what somebody may answer.
    pub fn answered_by(&mut self, who: &Answerer) -> Vec<Ask> {
        let owner = self.owner;
        self.asks.extract_if(.., |ask| may_answer(ask, owner, who)).collect()
    }

    /// Whether somebody may see it.
    pub fn is_seen_by(&self, who: &Answerer) -> bool {
        who.key.is_none() && (who.uid == 0 || who.uid == self.owner) || self.may_answer(who)
    }

    /// Whether somebody may answer some of it.
    pub fn may_answer(&self, who: &Answerer) -> bool {
        self.asks.iter().any(|ask| may_answer(ask, self.owner, who))
    }

    /// Whether somebody may answer all of it, and nobody else has answered some.
    pub fn is_only_for(&self, who: &Answerer) -> bool {
        self.about.answered.is_empty() && self.asks.iter().all(|ask| may_answer(ask, self.owner, who))
    }
}

/// Who answers.
#[derive(Clone, Debug, Default)]
pub struct Answerer {
    /// User.
    pub uid: u32,
    /// Groups.
    pub gids: Vec<u32>,
    /// Who is who on this host.
    pub names: Names,
    /// The key that the answer is signed with; then who brings it does not matter.
    pub key: Option<String>,
}

impl Answerer {
    /// Nobody of this host.
    pub fn nobody() -> Self {
        Self { uid: u32::MAX, ..Self::default() }
    }

    /// As receipts name him.
    pub fn shown(&self) -> String {
        match &self.key {
            Some(key) => format!("key:{key}"),
            None => format!("uid:{}", self.uid),
        }
    }
}

/// Why an answer was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Nothing of that name waits.
    #[error("nothing waits under the name {0}: it was answered, its time was over, or it ended")]
    NotFound(String),
    /// Somebody else must answer.
    #[error("user {0} may not answer this")]
    NotYours(u32),
    /// Others have to answer as well.
    #[error("several have to answer for this action, so each answers for this once only")]
    OnlyOnce,
    /// The answer could not be recorded.
    #[error("the receipt log in {} has no room: an answer that cannot be recorded is not given", .0.display())]
    NoReceipt(PathBuf),
}

/// What an answer does, once it is on paper.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It happens.
    Allow,
    /// It does not.
    Deny,
    /// It is decided again, by what the session knows then.
    Anew(Learnt),
}

/// An answer that is on its way to paper.
#[derive(Clone, Debug)]
pub struct Given {
    /// The batch with its receipt.
    pub batch: u64,
    /// What waits.
    pub waiting: Waiting,
    /// The answer.
    pub effect: Effect,
    /// What else it is good for.
    pub grant: Option<(GrantKey, Grant)>,
}

/// All that waits.
#[derive(Debug, Default)]
pub struct Holds {
    /// In boxes: a tree has room to spare in its nodes.
    waiting: BTreeMap<u64, Box<Waiting>>,
    /// Answers whose receipts are not durable yet.
    pub given: VecDeque<Given>,
}

impl Holds {
    /// Whether this hold is known, answered or not.
    pub fn knows(&self, key: u64, since_ns: u64) -> bool {
        let is = |w: &Waiting| w.key == key && w.since_ns == since_ns;
        self.waiting.get(&key).is_some_and(|w| is(w)) || self.given.iter().any(|g| is(&g.waiting))
    }

    /// Adds one.
    pub fn add(&mut self, waiting: Waiting) {
        self.waiting.insert(waiting.key, Box::new(waiting));
        assert!(self.waiting.len() <= HOLDS_MAX as usize + AUDITED_MAX + 1, "the kernel holds no more");
    }

    /// Takes one out, to answer it.
    pub fn take(&mut self, key: u64) -> Option<Waiting> {
        self.waiting.remove(&key).map(|w| *w)
    }

    /// One by its name.
    pub fn named(&self, id: &str) -> Option<&Waiting> {
        let digits = id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let key = u64::from_str_radix(id, 16).ok().filter(|_| digits)?;
        self.get(key)
    }

    /// All, also those whose answer is on its way.
    pub fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values().map(|w| &**w).chain(self.given.iter().map(|g| &g.waiting))
    }

    /// One by the hash of its request.
    pub fn requested(&self, request: &str) -> Option<&Waiting> {
        self.waiting.values().map(|w| &**w).find(|w| w.about.request == request)
    }

    /// One by its key.
    pub fn get(&self, key: u64) -> Option<&Waiting> {
        self.waiting.get(&key).map(|w| &**w)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut Waiting> {
        self.waiting.get_mut(&key).map(|w| &mut **w)
    }

    /// How many programs run on while they are read.
    pub fn audited(&self) -> usize {
        self.waiting.values().filter(|w| w.unread.is_some_and(|u| u.audit)).count()
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Those that fulfil something.
    pub fn keys(&self, which: impl Fn(&Waiting) -> bool) -> Vec<u64> {
        self.waiting.values().filter(|w| which(w)).map(|w| w.key).collect()
    }

    /// Generations of policies by which programs are decided that are being read.
    pub fn reading(&self) -> Vec<u32> {
        self.waiting.values().filter_map(|w| w.unread.map(|unread| unread.generation)).collect()
    }

    /// What somebody may see, oldest first, as the JSON of a [`crate::api::approvals::ApprovalList`]: there may be very many, so nothing is
    /// copied but into it.
    pub fn list(&mut self, who: &Answerer) -> Vec<u8> {
        let seen = |w: &Waiting| w.unread.is_none() && w.is_seen_by(who);
        let mut keys: Vec<(u64, u64)> =
            self.waiting.values().filter(|w| seen(w)).map(|w| (w.since_ns, w.key)).collect();
        keys.sort_unstable();
        let mut out = b"{\"approvals\":[".to_vec();
        for (i, (_, key)) in keys.iter().enumerate() {
            let Some(w) = self.waiting.get_mut(key) else { continue };
            if i > 0 {
                out.push(b',');
            }
            w.written(&mut out);
        }
        out.extend_from_slice(b"]}");
        out
    }

    /// What time does: those whose time is over, and have to be refused, and those that are passed to people, or to more of them.
    pub fn tick(&mut self, now_ns: u64, shown: impl Fn(u64) -> String) -> (Vec<u64>, Vec<(u64, What)>) {
        let (mut over, mut passed) = (Vec::new(), Vec::new());
        for w in self.waiting.values_mut() {
            let waited = now_ns.saturating_sub(w.since_ns);
            // One that is over is over for all; and where nobody is left to be asked (the kernel did not take an answer), nothing waits.
            let mut what = None;
            if w.unread.is_some() {
                if waited >= READING_NS {
                    over.push(w.key);
                }
                continue;
            }
            if w.asks.is_empty()
                || w.asks.iter_mut().any(|ask| ask.is_over(now_ns, waited, &shown, &mut what))
            {
                over.push(w.key);
            } else if let Some(what) = what {
                passed.push((w.key, what));
            }
        }
        (over, passed)
    }
}

impl Ask {
    /// What time does to it: whether it has to be refused. Otherwise it may be passed to people, or to more of them.
    fn is_over(
        &mut self,
        now_ns: u64,
        waited: u64,
        shown: impl Fn(u64) -> String,
        what: &mut Option<What>,
    ) -> bool {
        if let Some((after, more)) = &self.terms.escalate
            && waited >= *after
            && !self.shown.escalated
        {
            self.shown.escalated = true;
            self.shown.approvers.extend(more.iter().cloned());
            *what = Some(What::Escalated);
        }
        if now_ns < self.deadline_ns {
            return false;
        }
        let asks = self.ask_people(now_ns, shown);
        if asks {
            *what = Some(What::Waiting);
        }
        !asks
    }

    /// Nothing has found it out: whether people are asked now, for as long again.
    pub fn ask_people(&mut self, now_ns: u64, shown: impl Fn(u64) -> String) -> bool {
        if !self.terms.then_ask {
            return false;
        }
        self.terms.then_ask = false;
        self.chain.clear();
        self.deadline_ns = now_ns.saturating_add(self.terms.timeout_ns);
        self.shown.deadline = shown(self.deadline_ns);
        self.shown.on_timeout = "DENY".into();
        true
    }
}

/// Numbers of users and groups by name.
#[derive(Clone, Debug, Default)]
pub struct Names {
    users: Vec<(String, u32)>,
    groups: Vec<(String, u32)>,
}

impl Names {
    /// Those of the host's own files. The binary is static: the C library's lookups would load modules of another one.
    pub fn of_host() -> Self {
        let read = |path| std::fs::read(path).unwrap_or_default();
        Self { users: ids(&read("/etc/passwd")), groups: ids(&read("/etc/group")) }
    }
}

/// Names and numbers in a file like `/etc/passwd`.
fn ids(file: &[u8]) -> Vec<(String, u32)> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = fields.nth(1)?.parse().ok()?;
        Some((name.to_owned(), id))
    };
    String::from_utf8_lossy(file).lines().filter_map(line).collect()
}

/// Whether somebody is among the approvers. The user whom the session acts for only if he is named himself: being in a group that
/// may answer is not enough to approve one's own agent.
fn may_answer(ask: &Ask, owner: u32, who: &Answerer) -> bool {
    let names = &who.names;
    let of = |list: &[(String, u32)], name: &str| list.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
    ask.shown.approvers.iter().any(|approver| {
        let (kind, name) = approver.split_once(':').unwrap_or((approver, ""));
        if let Some(key) = &who.key {
            return kind == "key" && name == key;
        }
        let group = |gid: Option<u32>| gid.is_some_and(|g| who.gids.contains(&g)) && who.uid != owner;
        match kind {
            "human" => who.uid == owner,
            "uid" => name.parse() == Ok(who.uid),
            "user" => of(&names.users, name) == Some(who.uid),
            "gid" => group(name.parse().ok()),
            "group" => group(of(&names.groups, name)),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(approvers: &[&str]) -> Ask {
        let list: Vec<String> = approvers.iter().map(|a| (*a).to_owned()).collect();
        Ask {
            deadline_ns: 2000,
            terms: Terms { approvers: list.clone(), timeout_ns: 1000, ..Terms::default() },
            chain: Vec::new(),
            shown: Asked { approvers: list, ..Asked::default() },
        }
    }

    fn waiting(approvers: &[&str]) -> Waiting {
        Waiting {
            key: 0xab,
            since_ns: 1000,
            session: 1,
            action: 2,
            owner: 1000,
            seq: Some((0, 1)),
            gid: 0,
            ppid: 1,
            asks: vec![ask(approvers)],
            modify: Vec::new(),
            object: None,
            seeking: false,
            listens_ns: 0,
            unread: None,
            prior: "".into(),
            about: Approval { id: "00000000000000ab".into(), ..Approval::default() },
        }
    }

    fn names() -> Names {
        Names {
            users: ids(b"root:x:0:0::/:/bin/sh\nmia:x:1001:1001::/:/bin/sh\n"),
            groups: ids(b"release:x:50:mia\n"),
        }
    }

    #[test]
    fn approvers_are_users_and_groups_of_the_host() {
        let who = |uid, gids: &[u32]| Answerer { uid, gids: gids.to_vec(), names: names(), key: None };
        let may = |list: &[&str], who: &Answerer| waiting(list).may_answer(who);
        assert!(may(&["uid:7"], &who(7, &[])) && !may(&["uid:7"], &who(8, &[])));
        assert!(may(&["user:mia"], &who(1001, &[])) && !may(&["user:eve"], &who(1001, &[])));
        assert!(
            may(&["group:release"], &who(1001, &[1001, 50])) && !may(&["group:release"], &who(1001, &[]))
        );
        assert!(may(&["gid:50"], &who(5, &[50])) && !may(&["gid:51"], &who(5, &[50])));
        assert!(!may(&[], &who(0, &[0])) && !may(&["nonsense", "uid:", "uid:x"], &who(0, &[0])));
    }

    #[test]
    fn the_human_answers_for_his_own_agent_only_if_the_policy_says_so() {
        let owner = Answerer { uid: 1000, gids: vec![50], names: names(), key: None };
        let may = |list: &[&str]| waiting(list).may_answer(&owner);
        assert!(!may(&["gid:50"]) && !may(&["group:release"]));
        assert!(may(&["human"]) && may(&["uid:1000"]));
    }

    #[test]
    fn what_several_rules_ask_about_is_for_each_of_them_to_answer() {
        let who = |uid| Answerer { uid, gids: Vec::new(), names: names(), key: None };
        let mut w = waiting(&["uid:7"]);
        w.asks.extend([ask(&["uid:8", "uid:7"]), ask(&["uid:9"])]);
        assert!(w.may_answer(&who(8)) && w.may_answer(&who(9)) && !w.may_answer(&who(6)));
        assert!(!w.is_only_for(&who(7)));
        assert_eq!(w.answered_by(&who(7)).len(), 2);
        assert_eq!(w.shown().asked.approvers, ["uid:9"]);
        assert!(!w.may_answer(&who(8)) && w.is_only_for(&who(9)));
        // The shortest time counts.
        let mut holds = Holds::default();
        let mut w = waiting(&["uid:7"]);
        w.asks.push(Ask { deadline_ns: 1500, ..ask(&["uid:8"]) });
        holds.add(w);
        assert!(holds.tick(1499, |_| String::new()).0.is_empty());
        assert_eq!(holds.tick(1500, |_| String::new()).0, [0xab]);
    }

    #[test]
    fn a_list_says_what_asks_and_takes_nothing_away() {
        let mut holds = Holds::default();
        let mut w = waiting(&["uid:0"]);
        w.asks.push(ask(&["uid:8"]));
        holds.add(w);
        holds.add(Waiting { key: 1, since_ns: 5, ..waiting(&["uid:0"]) });
        holds.add(Waiting {
            key: 2,
            unread: Some(Unread { generation: 1, audit: false, traced: false }),
            ..waiting(&[])
        });
        let root = Answerer { uid: 0, ..Answerer::default() };
        let read = |holds: &mut Holds, who: &Answerer| -> crate::api::approvals::ApprovalList {
            serde_json::from_slice(&holds.list(who)).unwrap()
        };
        let first = read(&mut holds, &root);
        let approvers = |a: &Approval| (a.asked.approvers.clone(), a.also.len());
        // The oldest first, and not what nobody is asked about yet.
        let all: Vec<_> = first.approvals.iter().map(approvers).collect();
        assert_eq!(all, [(vec!["uid:0".to_owned()], 0), (vec!["uid:0".to_owned()], 1)]);
        assert_eq!(read(&mut holds, &root), first);
        assert_eq!(holds.get(0xab).unwrap().shown().also[0].approvers, ["uid:8"]);
        assert!(read(&mut holds, &Answerer::nobody()).approvals.is_empty());
    }

    #[test]
    fn what_nobody_can_answer_does_not_wait_for_ever() {
        let mut holds = Holds::default();
        holds.add(Waiting { asks: Vec::new(), ..waiting(&[]) });
        assert_eq!(holds.tick(1001, |_| String::new()).0, [0xab]);
    }

    #[test]
    fn time_that_is_over_refuses_after_everybody_was_asked() {
        let mut holds = Holds::default();
        let mut w = waiting(&["uid:0"]);
        w.asks[0].terms.then_ask = true;
        w.asks[0].terms.escalate = Some((1500, vec!["gid:50".into()]));
        holds.add(w);
        assert_eq!(holds.tick(1999, |_| String::new()), (vec![], vec![]));
        let asked = (vec![], vec![(0xab, What::Waiting)]);
        assert_eq!(holds.tick(2000, |_| String::new()), asked, "a deferral: now people are asked");
        let asked = |holds: &Holds| holds.named("00000000000000ab").unwrap().shown().asked.approvers;
        assert_eq!(asked(&holds), ["uid:0"]);
        assert!(holds.tick(2600, |_| String::new()).0.is_empty());
        assert_eq!(asked(&holds), ["uid:0", "gid:50"]);
        assert_eq!(holds.tick(3000, |_| String::new()).0, [0xab]);
        for id in ["ab", "00000000000000AB", "+0000000000000ab", "00000000000000ac"] {
            assert!(holds.named(id).is_none(), "{id}");
        }
    }
}
