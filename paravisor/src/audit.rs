//! The audit: which rules a neighbour broke, when, and what stood there. No bytes
//! of a guest, no words of a host: numbers of the protocol only.
//!
//! Room is kept **per rule**, so that a host that breaks one rule a million times
//! washes out nothing but its own repetitions:
//!
//! * a violation that was recorded already (same channel, offset and value) is
//!   counted in its record, with the time of the last one;
//! * a rule has [`PER_RULE`] records. Its first violation stays for ever, the
//!   others are the latest; what gave way is counted.
//!
//! All memory is taken at the start.

use crate::account::Account;
use crate::record::Line;
use alloc::vec;
use alloc::vec::Vec;
use validate::{Rule, Violation};

/// Records of one rule: its first violation and the latest three. With 315 rules
/// this is some 80 KiB, taken once.
pub const PER_RULE: usize = 4;

/// What broke a rule, on its way to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The VP on which it was found.
    pub vp: u8,
    /// The host's number of the channel, if it was one.
    pub channel: Option<u16>,
    /// The rule, where and what.
    pub violation: Violation,
    /// How often since the last look.
    pub times: u32,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number; they rise with the time of the first violation.
    pub number: u64,
    /// When, in 100 ns since the paravisor's clock began.
    pub time: u64,
    /// When it happened last.
    pub last: u64,
    /// The violation; `times` counts all of them.
    pub finding: Finding,
}

/// The audit. Without memory ([`Audit::open`]) it only counts.
pub struct Audit {
    /// [`PER_RULE`] places a rule, by [`Rule::index`].
    places: Vec<Option<Entry>>,
    next: u64,
    overwritten: u64,
}

impl Audit {
    /// An audit without memory.
    pub const fn new() -> Audit {
        Audit {
            places: Vec::new(),
            next: 0,
            overwritten: 0,
        }
    }

    /// Takes memory.
    pub fn open(&mut self) {
        if self.places.is_empty() {
            self.places = vec![None; Rule::COUNT.saturating_mul(PER_RULE)];
        }
    }

    /// Records a finding at `time` (100 ns since the clock began).
    pub fn add(&mut self, time: u64, finding: Finding) {
        let first = finding.violation.rule.index().saturating_mul(PER_RULE);
        let places = self
            .places
            .get_mut(first..first.saturating_add(PER_RULE))
            .unwrap_or(&mut []);
        let same = places.iter_mut().flatten().find(|entry| {
            let known = &entry.finding;
            (known.vp, known.channel, known.violation)
                == (finding.vp, finding.channel, finding.violation)
        });
        if let Some(entry) = same {
            entry.finding.times = entry.finding.times.saturating_add(finding.times);
            entry.last = time;
            return;
        }
        // The first record of the rule is not among those that may give way.
        let room = match places.iter().position(Option::is_none) {
            Some(free) => places.get_mut(free),
            None => places
                .iter_mut()
                .skip(1)
                .min_by_key(|place| place.map(|entry| entry.number)),
        };
        match room {
            None => self.overwritten = self.overwritten.saturating_add(1),
            Some(place) => {
                if place.is_some() {
                    self.overwritten = self.overwritten.saturating_add(1);
                }
                *place = Some(Entry {
                    number: self.next,
                    time,
                    last: time,
                    finding,
                });
                self.next = self.next.saturating_add(1);
            }
        }
    }

    /// The oldest record whose number is `from` or higher.
    pub fn at_or_after(&self, from: u64) -> Option<&Entry> {
        if from >= self.next {
            return None;
        }
        let entries = self.places.iter().flatten();
        entries
            .filter(|entry| entry.number >= from)
            .min_by_key(|entry| entry.number)
    }

    /// All records, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        let mut next = Some(0u64);
        core::iter::from_fn(move || {
            let entry = self.at_or_after(next?)?;
            next = entry.number.checked_add(1);
            Some(entry)
        })
    }

    /// Records that gave way to later ones.
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }
}

impl Default for Audit {
    fn default() -> Self {
        Audit::new()
    }
}

impl Entry {
    /// The record as a line (`abi::record`).
    pub fn line(&self) -> Line {
        Line::audit(self)
    }
}

/// Longest request; longer ones are none.
const REQUEST: usize = 32;
/// Lines for one request: the answer stays below the 4096 bytes that Linux keeps
/// of a serial line's input (N_TTY_BUF_SIZE), so a slow reader loses nothing.
const PAGE: u8 = 16;

/// The other end of the guest's audit port. The guest writes a line:
///
/// * `audit`: the first records;
/// * `audit N`: records from number N on;
/// * `counters`: the first rows of the [`Account`], as it is now;
/// * `counters N`: rows from number N on, as they were then.
///
/// The answer is at most [`PAGE`] records or rows, one JSON object a line, and then a
/// line of kind `audit-end` or `counters-end` that says from where to ask on. Anything else has no answer
/// (a terminal that echoes our own lines back must not start a conversation), and
/// a new request takes the place of one that is being answered.
#[derive(Default)]
pub struct Port {
    request: [u8; REQUEST],
    /// Bytes of the line so far; beyond [`REQUEST`] it is no request any more.
    length: usize,
    answer: Option<Answer>,
    account: Account,
    /// The guest has asked for the account as it is now.
    due: bool,
}

/// What the guest may ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Audit,
    Counters,
}

struct Answer {
    subject: Subject,
    next: u64,
    left: u8,
    line: Option<Line>,
    /// Bytes of `line` that are out; one more is the newline.
    out: usize,
    ended: bool,
}

impl Port {
    /// A port that nobody has used.
    pub fn new() -> Port {
        Port::default()
    }

    /// Takes what the guest wrote.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                let line = self.request.get(..self.length);
                if let Some((subject, from)) = line.and_then(parse) {
                    self.due |= subject == Subject::Counters && from.is_none();
                    // The rest of an answer that nobody waits for ends where it is.
                    let cut = self.answer.as_ref().is_some_and(|answer| answer.out != 0);
                    self.answer = Some(Answer {
                        subject,
                        next: from.unwrap_or(0),
                        left: PAGE,
                        line: cut.then(Line::empty),
                        out: 0,
                        ended: false,
                    });
                }
                self.length = 0;
                continue;
            }
            if let Some(slot) = self.request.get_mut(self.length) {
                *slot = *byte;
            }
            self.length = self.length.saturating_add(1);
        }
    }

    /// The account, if it must be filled in before anything is read.
    pub fn wanted(&mut self) -> Option<&mut Account> {
        if !core::mem::take(&mut self.due) {
            return None;
        }
        self.account.clear();
        Some(&mut self.account)
    }

    /// Whether there is something to read.
    pub fn is_answering(&self) -> bool {
        self.answer.is_some()
    }

    /// Moves the next bytes of the answer into `buffer`; how many.
    pub fn read(&mut self, audit: &Audit, buffer: &mut [u8]) -> usize {
        let mut count = 0usize;
        for slot in buffer {
            let Some(byte) = self.next_byte(audit) else {
                break;
            };
            *slot = byte;
            count = count.saturating_add(1);
        }
        count
    }

    fn next_byte(&mut self, audit: &Audit) -> Option<u8> {
        let answer = self.answer.as_mut()?;
        let line = match &answer.line {
            Some(line) => line,
            None if answer.ended => {
                self.answer = None;
                return None;
            }
            None => {
                let line = answer.next_line(audit, &self.account);
                answer.line.insert(line)
            }
        };
        let byte = line.as_bytes().get(answer.out).copied();
        answer.out = answer.out.saturating_add(1);
        if byte.is_none() {
            answer.line = None;
            answer.out = 0;
        }
        Some(byte.unwrap_or(b'\n'))
    }
}

impl Answer {
    fn next_line(&mut self, audit: &Audit, account: &Account) -> Line {
        if self.subject == Subject::Counters {
            return self.next_row(account);
        }
        let entry = audit.at_or_after(self.next);
        match entry {
            Some(entry) if self.left > 0 => {
                self.left = self.left.saturating_sub(1);
                self.next = entry.number.saturating_add(1);
                entry.line()
            }
            rest => {
                self.ended = true;
                Line::audit_end(self.next, rest.is_some(), audit.overwritten)
            }
        }
    }

    fn next_row(&mut self, account: &Account) -> Line {
        let at = usize::try_from(self.next).unwrap_or(usize::MAX);
        match account.rows().get(at) {
            Some((name, key, value)) if self.left > 0 => {
                self.left = self.left.saturating_sub(1);
                self.next = self.next.saturating_add(1);
                Line::count(name, format_args!("{key}"), *value)
            }
            rest => {
                self.ended = true;
                Line::counters_end(self.next, rest.is_some())
            }
        }
    }
}

/// What is asked for, and from which number on.
fn parse(line: &[u8]) -> Option<(Subject, Option<u64>)> {
    let line = core::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let subject = match words.next()? {
        "audit" => Subject::Audit,
        "counters" => Subject::Counters,
        _ => return None,
    };
    let from = match words.next() {
        None => None,
        Some(number) => Some(number.parse().ok()?),
    };
    words.next().is_none().then_some((subject, from))
}

#[cfg(test)]
mod tests;
