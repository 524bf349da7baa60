//! From text to a [`Scenario`]. Errors name line, column and what was expected.
use super::names::{self, Base, Field, Kind, SlotField};
use super::{Action, Change, Expect, Guest, Invented, Line, Ring, Scenario, Step, Value, Which};
use abi::record::Outcome;
use abi::vmbus::{
    RING_FEATURE_BITS, RING_INTERRUPT_MASK, RING_PENDING_SEND_SIZE, RING_READ_INDEX,
    RING_WRITE_INDEX,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Longest file.
const MAX_FILE: usize = 64 << 10;
/// Most copies of one message.
const MAX_TIMES: u64 = 100_000;
/// Most bytes that a message is made longer by, and longest raw message.
const MAX_BYTES: u64 = 16 << 10;
/// Longest time, in 100 ns: an hour.
const MAX_TIME: u64 = 3600 * 10_000_000;

/// Why a file is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What should stand there, and what does.
    pub what: String,
}

impl core::fmt::Display for ParseError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// A number: decimal, or hexadecimal with `0x`; `_` may separate digits.
pub(super) fn number(word: &str) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (word, 10),
    };
    if !digits.as_bytes().first()?.is_ascii_hexdigit() {
        return None;
    }
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    u64::from_str_radix(&plain, radix).ok()
}

/// `1st`, `2nd`, `3rd`, `4th`.
fn ordinal(word: &str) -> Option<u64> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let suffix = word.strip_prefix(digits)?;
    number(digits).filter(|n| *n > 0 && matches!(suffix, "st" | "nd" | "rd" | "th"))
}

/// The words of a line.
struct Words<'a> {
    line: u32,
    words: Vec<(u32, &'a str)>,
    at: usize,
    /// Column behind the last word.
    end: u32,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Words<'a> {
    fn new(line: u32, text: &'a str) -> Words<'a> {
        let text = text.split('#').next().unwrap_or_default();
        let mut words = Vec::new();
        let mut from = None;
        for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
            match (c.is_whitespace(), from) {
                (false, None) => from = Some(at),
                (true, Some(start)) => {
                    words.push((start as u32 + 1, text.get(start..at).unwrap_or_default()));
                    from = None;
                }
                _ => {}
            }
        }
        let end = text.trim_end().len() as u32 + 1;
        Words {
            line,
            words,
            at: 0,
            end,
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(|(_, word)| *word)
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(word);
        self.at += usize::from(there);
        there
    }

    /// An error at the word that comes next.
    fn expected(&self, what: &str) -> ParseError {
        let (column, found) = match self.words.get(self.at) {
            Some((column, word)) => (*column, format!("found '{word}'")),
            None => (self.end, "found the end of the line".to_string()),
        };
        ParseError {
            line: self.line,
            column,
            what: format!("expected {what}, {found}"),
        }
    }

    fn must(&mut self, word: &str) -> Parsed<()> {
        if self.take(word) {
            Ok(())
        } else {
            Err(self.expected(&format!("'{word}'")))
        }
    }

    /// The next word as `f` reads it.
    fn read<T>(&mut self, what: &str, f: impl FnOnce(&'a str) -> Option<T>) -> Parsed<T> {
        match self.peek().and_then(f) {
            Some(value) => {
                self.at += 1;
                Ok(value)
            }
            None => Err(self.expected(what)),
        }
    }

    fn number(&mut self, most: u64) -> Parsed<u64> {
        self.read(&format!("a number up to {most}"), |word| {
            number(word).filter(|n| *n <= most)
        })
    }

    /// `300 us`, `5 ms`, `2 s`, in 100 ns.
    fn time(&mut self) -> Parsed<u64> {
        let n = self.number(MAX_TIME / 10)?;
        let unit = self.read("a unit of time: us, ms or s", |word| match word {
            "us" => Some(10),
            "ms" => Some(10_000),
            "s" => Some(10_000_000),
            _ => None,
        })?;
        n.checked_mul(unit)
            .filter(|t| *t <= MAX_TIME)
            .ok_or_else(|| self.expected("an hour at most"))
    }

    fn kind(&mut self) -> Parsed<Kind> {
        let Some(word) = self.peek() else {
            return Err(self.expected(names::GROUPS));
        };
        match names::kind(word) {
            Ok(kind) => {
                self.at += 1;
                Ok(kind)
            }
            Err(None) => Err(self.expected(names::GROUPS)),
            Err(Some(group)) => {
                Err(self.expected(&format!("a name of {group}: {}", names::names_of(group))))
            }
        }
    }

    fn done(&self) -> Parsed<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the line")),
        }
    }
}

/// Reads a whole file. It must have words about it, something to do and something
/// to expect.
pub fn parse(text: &str) -> Result<Scenario, ParseError> {
    let mut scenario = Scenario {
        seed: 1,
        ..Scenario::default()
    };
    let fail = |line, what: &str| ParseError {
        line,
        column: 1,
        what: what.to_string(),
    };
    if text.len() > MAX_FILE {
        return Err(fail(1, "the file is longer than 64 KiB"));
    }
    let mut last = 0;
    for (line, number) in text.lines().zip(1..) {
        last = number;
        let mut words = Words::new(number, line);
        match words.peek() {
            None => continue,
            Some("about") => {
                // The rest is for people, '#' too.
                let rest = line.trim_start().strip_prefix("about").unwrap_or_default();
                if !scenario.about.is_empty() {
                    scenario.about.push(' ');
                }
                scenario.about.push_str(rest.trim());
                continue;
            }
            Some("play") => {
                words.at = 1;
                words.must("in-process-only")?;
                // The rest is for people: why.
                let why: Vec<&str> = words.words.iter().skip(2).map(|(_, w)| *w).collect();
                if why.is_empty() {
                    return Err(words.expected("the reason"));
                }
                scenario.in_process_only = Some(why.join(" "));
                continue;
            }
            Some("seed") => {
                words.at = 1;
                scenario.seed = words.number(u64::MAX)?;
            }
            Some("when") => {
                words.at = 1;
                scenario.lines.push(when(&mut words)?);
            }
            Some("expect") => {
                words.at = 1;
                scenario.expect.push((number, expect(&mut words)?));
            }
            Some(_) => return Err(words.expected("about, play, seed, when or expect")),
        }
        words.done()?;
    }
    if scenario.about.is_empty() {
        return Err(fail(last + 1, "expected a line 'about …' with words"));
    }
    if scenario.lines.is_empty() {
        return Err(fail(last + 1, "expected a line 'when … do …'"));
    }
    let guest = |(_, e): &(u32, Expect)| matches!(e, Expect::Guest(_));
    if !scenario.expect.iter().any(guest) {
        return Err(fail(
            last + 1,
            "expected one of 'expect guest up', 'expect link back', 'expect link lost', \
             'expect no guest'",
        ));
    }
    Ok(scenario)
}

fn when(words: &mut Words<'_>) -> Parsed<Line> {
    let number = words.line;
    let of = if words.peek() == Some("after") {
        None
    } else {
        Some((which(words)?, words.kind()?))
    };
    if let Some((_, kind)) = of
        && kind.is_guests()
    {
        words.at -= 1;
        return Err(
            words.expected("a message of the host (the guest's can only come after 'after')")
        );
    }
    let after = if words.take("after") {
        Some(step(words)?)
    } else {
        None
    };
    words.must("do")?;
    let kind = of.map(|(_, kind)| kind);
    let mut changes = alloc::vec![change(words, kind)?];
    while words.take("and") {
        changes.push(change(words, kind)?);
    }
    Ok(Line {
        number,
        of,
        after,
        changes,
    })
}

fn which(words: &mut Words<'_>) -> Parsed<Which> {
    const WHAT: &str = "'each', '1st', 'first N', 'every Nth', 'N in M' or 'after'";
    let positive = |word: &str| number(word).filter(|n| *n > 0);
    if words.take("each") {
        return Ok(Which::Each);
    }
    if words.take("first") {
        return words.read("a number above 0", positive).map(Which::First);
    }
    if words.take("every") {
        return words
            .read("an ordinal such as 5th", ordinal)
            .map(Which::Every);
    }
    if let Some(n) = words.peek().and_then(number) {
        words.at += 1;
        words.must("in")?;
        let of = words.read("a number above 0", positive)?;
        return Ok(Which::Chance(n, of));
    }
    words.read(WHAT, ordinal).map(Which::Nth)
}

fn step(words: &mut Words<'_>) -> Parsed<(Step, u64)> {
    let step = match words.peek() {
        Some("link-up") => {
            words.at += 1;
            Step::LinkUp
        }
        Some("frame") => {
            words.at += 1;
            Step::Frame(words.number(u64::MAX)?)
        }
        Some(word) if number(word).is_some() => Step::Time(words.time()?),
        Some(word) if word.contains('.') => Step::Passed(words.kind()?),
        _ => {
            return Err(
                words.expected("a step: link-up, frame N, a time, or the name of a message")
            );
        }
    };
    let plus = if words.take("+") { words.time()? } else { 0 };
    Ok((step, plus))
}

fn field(words: &mut Words<'_>, kind: Kind, word: &str) -> Parsed<Field> {
    if let Some(place) = word.strip_prefix('@') {
        let parts = place.split_once(':').and_then(|(at, width)| {
            let at = number(at).filter(|n| *n < MAX_BYTES)? as usize;
            let width = number(width).filter(|w| matches!(w, 1 | 2 | 4 | 8))? as usize;
            Some((at, width))
        });
        return match parts {
            Some((at, width)) => Ok(Field {
                name: "@",
                base: Base::Start,
                at,
                width,
            }),
            None => Err(words.expected("@OFFSET:WIDTH with a width of 1, 2, 4 or 8")),
        };
    }
    names::field(kind, word).ok_or_else(|| {
        let all: Vec<&str> = names::field_names(kind).collect();
        words.expected(&format!(
            "a field ({}) or @OFFSET:WIDTH",
            if all.is_empty() {
                "it has none".to_string()
            } else {
                all.join(", ")
            }
        ))
    })
}

fn value(words: &Words<'_>, field: Field, word: &str) -> Parsed<Value> {
    if field.width == 16 {
        return match word {
            "zero" => Ok(Value::Class(abi::vmbus::Guid([0; 16]))),
            _ => names::device_class(word).map(Value::Class).ok_or_else(|| {
                let all: Vec<&str> = names::device_classes().collect();
                words.expected(&format!("zero or a device class: {}", all.join(", ")))
            }),
        };
    }
    let bits = match field.base {
        Base::Slot(SlotField::Type) => 32,
        Base::Slot(_) => 8,
        _ => field.width as u32 * 8,
    };
    let most = u64::MAX >> (64 - bits);
    match word {
        "nic" => Ok(Value::NicRelid),
        _ => number(word)
            .filter(|n| *n <= most)
            .map(Value::Number)
            .ok_or_else(|| words.expected(&format!("a number up to {most:#x}, or nic"))),
    }
}

fn change(words: &mut Words<'_>, kind: Option<Kind>) -> Parsed<Change> {
    use Kind::{Hypercall, Nvsp, Packet, Register, Rndis, Signal, Vmbus};
    let word = words.peek().unwrap_or_default();
    let is_message = matches!(kind, Some(Vmbus(_) | Packet(_) | Nvsp(_) | Rndis(_)));
    let is_sent = is_message || kind == Some(Signal);
    words.at += 1;
    match (word, kind) {
        ("set", Some(kind)) if is_message => {
            let name = words.peek().unwrap_or_default();
            let field = field(words, kind, name)?;
            words.at += 1;
            let text = words.peek().unwrap_or_default();
            let value = value(words, field, text)?;
            words.at += 1;
            Ok(Change::Set(field, value))
        }
        ("truncate", _) if is_message => Ok(Change::Truncate(words.number(MAX_BYTES)? as usize)),
        ("extend", _) if is_message => Ok(Change::Extend(words.number(MAX_BYTES)? as usize)),
        ("drop", _) if is_sent => Ok(Change::Drop),
        ("repeat", _) if is_message => Ok(Change::Repeat(words.number(MAX_TIMES)? as u32)),
        ("delay", _) if is_sent => Ok(Change::Delay(words.time()?)),
        ("again", _) if is_message => {
            words.must("after")?;
            Ok(Change::Again(words.time()?))
        }
        ("return", Some(Hypercall(_) | Register(_))) => Ok(Change::Return(words.number(u64::MAX)?)),
        ("rescind", _) => Ok(Change::Act(Action::Rescind)),
        ("offer", _) => {
            if words.take("again") {
                let mac = if words.take("mac") {
                    Some(words.read("an address such as 02:15:5d:00:00:07", mac)?)
                } else {
                    None
                };
                return Ok(Change::Act(Action::OfferNic(mac)));
            }
            if words.take("sub-channel") {
                let index = words.number(0xffff)? as u16;
                return Ok(Change::Act(Action::OfferSub(index)));
            }
            let all: Vec<&str> = names::device_classes().collect();
            let what = format!(
                "'again', 'sub-channel' or a device class: {}",
                all.join(", ")
            );
            words
                .read(&what, names::device_class)
                .map(|class| Change::Act(Action::Offer(class)))
        }
        ("send", _) => Ok(Change::Act(Action::Send(invented(words)?))),
        ("poke", _) => poke(words).map(Change::Act),
        ("flag", _) => Ok(Change::Act(Action::Flag(words.number(0xffff)? as u16))),
        ("all-flags", _) => Ok(Change::Act(Action::AllFlags)),
        ("storm", _) => Ok(Change::Act(Action::Storm(words.time()?))),
        ("vector", _) => Ok(Change::Act(Action::Vector(words.number(255)? as u8))),
        ("silence", _) => {
            if words.take("nic") {
                Ok(Change::Act(Action::SilentNic(words.time()?)))
            } else if words.take("bus") {
                Ok(Change::Act(Action::SilentBus(words.time()?)))
            } else if words.take("interrupts") {
                Ok(Change::Act(Action::NoInterrupts(words.time()?)))
            } else {
                Err(words.expected("nic, bus or interrupts"))
            }
        }
        _ => {
            words.at -= 1;
            let own = match kind {
                _ if is_message => "set, truncate, extend, drop, repeat, delay, again, ",
                Some(Signal) => "drop, delay, ",
                Some(Hypercall(_) | Register(_)) => "return, ",
                _ => "",
            };
            Err(words.expected(&format!(
                "something to do: {own}rescind, offer, send, poke, flag, all-flags, storm, silence, \
                 vector"
            )))
        }
    }
}

fn invented(words: &mut Words<'_>) -> Parsed<Invented> {
    let kind = words.kind()?;
    if !matches!(
        kind,
        Kind::Vmbus(_) | Kind::Packet(_) | Kind::Nvsp(_) | Kind::Rndis(_)
    ) {
        words.at -= 1;
        return Err(words.expected("a message: vmbus, packet, nvsp or rndis"));
    }
    let raw = if words.take("raw") {
        Some(words.read("an even number of hex digits", hex)?)
    } else {
        None
    };
    let mut fields = Vec::new();
    while let Some((name, text)) = words.peek().and_then(|word| word.split_once('=')) {
        let field = field(words, kind, name)?;
        fields.push((field, value(words, field, text)?));
        words.at += 1;
    }
    let mut times = 1;
    if words.peek().and_then(number).is_some() {
        times = words.number(MAX_TIMES)? as u32;
        words.must("times")?;
    }
    Ok(Invented {
        kind,
        raw,
        fields,
        times,
    })
}

fn hex(word: &str) -> Option<Vec<u8>> {
    if !word.len().is_multiple_of(2) || word.len() as u64 > 2 * MAX_BYTES {
        return None;
    }
    (0..word.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(word.get(at..at + 2)?, 16).ok())
        .collect()
}

/// Six bytes in hex with colons between them.
fn mac(word: &str) -> Option<[u8; 6]> {
    let mut bytes = word.split(':').map(|part| {
        let two = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(part, 16).ok().filter(|_| two)
    });
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

fn poke(words: &mut Words<'_>) -> Parsed<Action> {
    let ring = words.read("incoming or outgoing", |word| match word {
        "incoming" => Some(Ring::Incoming),
        "outgoing" => Some(Ring::Outgoing),
        _ => None,
    })?;
    let what = "write-index, read-index, interrupt-mask, pending-send-size or feature-bits";
    let at = words.read(what, |word| match word {
        "write-index" => Some(RING_WRITE_INDEX),
        "read-index" => Some(RING_READ_INDEX),
        "interrupt-mask" => Some(RING_INTERRUPT_MASK),
        "pending-send-size" => Some(RING_PENDING_SEND_SIZE),
        "feature-bits" => Some(RING_FEATURE_BITS),
        _ => None,
    })?;
    let value = words.number(u32::MAX.into())? as u32;
    Ok(Action::Poke(ring, at, value))
}

fn expect(words: &mut Words<'_>) -> Parsed<Expect> {
    let rule = |word: &str| {
        let (prefix, number) = word.split_once('-')?;
        let good = prefix.len() == 3
            && prefix.bytes().all(|b| b.is_ascii_uppercase())
            && number.len() == 2
            && number.bytes().all(|b| b.is_ascii_digit());
        good.then(|| word.to_string())
    };
    const RULE: &str = "a rule such as RND-16";
    match words.peek() {
        Some("rule") => {
            words.at += 1;
            let mut any = alloc::vec![words.read(RULE, rule)?];
            while words.take("or") {
                any.push(words.read(RULE, rule)?);
            }
            Ok(Expect::Rule(any))
        }
        Some("outcome") => {
            words.at += 1;
            let known = |word: &str| {
                let outcome = (0..=u8::MAX).filter_map(Outcome::from_code);
                outcome.map(Outcome::name).find(|name| *name == word)
            };
            words
                .read("the name of an outcome such as power-off", known)
                .map(|name| Expect::Outcome(name.to_string()))
        }
        Some("no") => {
            words.at += 1;
            words.read("rule or guest", |word| match word {
                "rule" => Some(Expect::NoRule),
                "guest" => Some(Expect::Guest(Guest::Absent)),
                _ => None,
            })
        }
        Some("guest") => {
            words.at += 1;
            words.must("up").map(|()| Expect::Guest(Guest::Up))
        }
        Some("link") => {
            words.at += 1;
            words.read("back or lost", |word| match word {
                "back" => Some(Expect::Guest(Guest::Back)),
                "lost" => Some(Expect::Guest(Guest::Lost)),
                _ => None,
            })
        }
        _ => {
            Err(words
                .expected("rule, no rule, guest up, link back, link lost, no guest or outcome"))
        }
    }
}
