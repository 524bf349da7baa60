//! Scenarios: what a hostile host does, in a small text format, and what must come
//! of it. The same file plays in process and in the rig. `docs/scenarios.md` has
//! the format.
//!
//! [`parse`] reads a file, a [`Player`] in [`Faults`](crate::fault::Faults) plays
//! it, [`judge`] compares what was seen with what was expected.
pub mod names;
mod parse;
mod perform;
mod player;
mod verdict;

#[cfg(test)]
mod tests;

pub use parse::{ParseError, parse};
pub(crate) use perform::turn;
pub use player::Player;
pub use verdict::{Observed, judge};

use abi::vmbus::Guid;
use alloc::string::String;
use alloc::vec::Vec;
use names::{Field, Kind};

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scenario {
    /// What it shows, in words.
    pub about: String,
    /// Start of the dice.
    pub seed: u64,
    /// What happens.
    pub lines: Vec<Line>,
    /// What must come of it, with line numbers.
    pub expect: Vec<(u32, Expect)>,
    /// Why it is played in process only, if it is.
    pub in_process_only: Option<String>,
}

impl Scenario {
    /// The line that makes the host hold the most bytes at once, and how many: for a
    /// host with little memory.
    pub fn largest_burst(&self) -> (u32, u64) {
        let lines = self.lines.iter().map(|line| {
            let bytes = line.changes.iter().map(Change::held);
            (line.number, bytes.fold(0, u64::saturating_add))
        });
        lines.max_by_key(|(_, bytes)| *bytes).unwrap_or((0, 0))
    }
}

/// One `when … do …`.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its number in the file.
    pub number: u32,
    /// Which occurrences; `None` for a line that happens once, after its step.
    pub of: Option<(Which, Kind)>,
    /// Before that, it sleeps.
    pub after: Option<(Step, u64)>,
    /// What is done.
    pub changes: Vec<Change>,
}

/// Which occurrences of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    Each,
    /// The n-th.
    Nth(u64),
    /// The first n.
    First(u64),
    /// Every n-th.
    Every(u64),
    /// By dice: `n` of `m`.
    Chance(u64, u64),
}

/// A point that a run reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A message of this kind has passed.
    Passed(Kind),
    /// The guest has set a packet filter: frames flow.
    LinkUp,
    /// The guest has sent so many frames.
    Frame(u64),
    /// The machine is as old as this (100 ns).
    Time(u64),
}

/// A number that is known when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Known now.
    Number(u64),
    /// Relid of the NIC's channel.
    NicRelid,
    /// A device class.
    Class(Guid),
}

/// A message or packet that the scenario makes up.
#[derive(Clone, Debug, PartialEq)]
pub struct Invented {
    /// What it is.
    pub kind: Kind,
    /// Its bytes, if they are given; else a message of the kind, zeroed.
    pub raw: Option<Vec<u8>>,
    /// What is set in it.
    pub fields: Vec<(Field, Value)>,
    /// How often it is sent.
    pub times: u32,
}

/// One of the two rings, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Host to guest.
    Incoming,
    /// Guest to host.
    Outgoing,
}

/// What a line does.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Sets a field of the message.
    Set(Field, Value),
    /// Cuts the message.
    Truncate(usize),
    /// Appends zeros.
    Extend(usize),
    /// Does not send it.
    Drop,
    /// Sends it so often.
    Repeat(u32),
    /// Sends it later (100 ns).
    Delay(u64),
    /// Sends it now and once more later (100 ns).
    Again(u64),
    /// Answers a hypercall with this result, or a register with this value,
    /// without doing what was asked for.
    Return(u64),
    /// Does something of its own accord.
    Act(Action),
}

/// What the host keeps of a message beside its bytes.
const KEPT: u64 = 256;

impl Change {
    /// Bytes that it makes the host hold, about.
    fn held(&self) -> u64 {
        let (times, bytes) = match self {
            Change::Repeat(times) => (u64::from(*times), 2048),
            Change::Extend(bytes) => (1, *bytes as u64),
            Change::Act(Action::Send(made)) => {
                let raw = made.raw.as_ref().map_or(0, Vec::len);
                (u64::from(made.times), raw as u64)
            }
            _ => (1, 0),
        };
        times.saturating_mul(bytes.saturating_add(KEPT))
    }
}

/// What the host does of its own accord.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Takes the NIC's offer back.
    Rescind,
    /// Offers the NIC anew, with another address if one is given.
    OfferNic(Option<[u8; 6]>),
    /// Offers a sub-channel of the NIC, granted or not.
    OfferSub(u16),
    /// Offers a device of a class.
    Offer(Guid),
    /// Sends something that was made up.
    Send(Invented),
    /// Writes to a ring's control page: ring, offset, value.
    Poke(Ring, usize, u32),
    /// Sets an event flag.
    Flag(u16),
    /// Sets every event flag.
    AllFlags,
    /// Interrupts without a cause, for so long (100 ns).
    Storm(u64),
    /// The NIC does nothing for so long.
    SilentNic(u64),
    /// The bus takes no message for so long.
    SilentBus(u64),
    /// No interrupt of any kind for so long: of messages, channels and timers.
    NoInterrupts(u64),
    /// An interrupt on a vector that nobody gave.
    Vector(u8),
}

/// How the guest stands at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Its link was never lost, and it works.
    Up,
    /// Its link was lost and works again.
    Back,
    /// It lives without a link.
    Lost,
    /// It never started.
    Absent,
}

impl Guest {
    /// As in the format.
    pub const fn name(self) -> &'static str {
        match self {
            Guest::Up => "guest up",
            Guest::Back => "link back",
            Guest::Lost => "link lost",
            Guest::Absent => "no guest",
        }
    }
}

/// What must come of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// One of these rules is named.
    Rule(Vec<String>),
    /// No rule is named.
    NoRule,
    /// The guest's state.
    Guest(Guest),
    /// Name of the outcome.
    Outcome(String),
}
