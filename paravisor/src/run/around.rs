//! What the loop of a VP has around it: the image, the network, and how a run ends.

use crate::account::Account;
use crate::audit::{Audit, Finding};
use abi::record::Outcome;
use alloc::vec::Vec;
use devices::Machine;
use memory::GuestMemory;
use platform::{Error, Exit};

/// Interrupts of the host since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Messages or event flags may wait.
    pub sint: bool,
    /// The timer of the guest's devices has expired.
    pub timer: bool,
    /// The timer of everything else has expired.
    pub watch: bool,
    /// Another VP has left something.
    pub kick: bool,
    /// The last vector that nobody asked for (SYN-19).
    pub foreign: Option<u8>,
}

/// What the loop needs of the image around it.
pub trait Surroundings<P> {
    /// Time stamp counter.
    fn tsc(&self) -> u64;
    /// Takes the interrupt flags.
    fn pending(&mut self) -> Pending;
    /// Whether [`Surroundings::pending`] would take one.
    fn raised(&self) -> bool;
    /// Takes the console output of the guest.
    fn console(&mut self, platform: &mut P, bytes: &[u8]);
    /// The audit.
    fn audit<T>(&mut self, act: impl FnOnce(&mut Audit) -> T) -> T;
    /// Adds the memory in use to the account.
    fn memory(&self, _: &mut Account) {}
    /// Writes up to `budget` bytes of waiting records.
    fn records(&mut self, platform: &mut P, budget: usize);
    /// How another VP has ended the run, if one has.
    fn ended(&self) -> Option<End> {
        None
    }
}

/// What a turn of the network leaves to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// A budget ended it: there is more to do at once.
    pub more: bool,
    /// When it must have a turn at the latest, in reference time.
    pub deadline: Option<u64>,
}

/// Why the network gets a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The SynIC source was raised.
    pub sint: bool,
    /// The guest rang the NIC or gave it buffers.
    pub guest: bool,
    /// The guest's driver reset the NIC.
    pub reset: bool,
    /// The guest's driver wants other hashes with its frames, or none.
    pub hash: bool,
}

/// The way from the guest's NIC to the host.
pub trait Network<P> {
    /// Moves what is to be moved, within budgets. `now` is reference time.
    fn poll(
        &mut self,
        platform: &mut P,
        machine: &mut Machine,
        guest: &impl GuestMemory,
        reason: Reason,
        now: u64,
    ) -> Result<Polled, End>;

    /// Takes the rules that did not hold since the last call.
    fn take_findings(&mut self) -> Vec<Finding>;

    /// Whether another VP has left something for this part of it.
    fn is_called(&self) -> bool {
        false
    }

    /// Whether queues of the guest's card are this VP's.
    fn has_queues(&self) -> bool {
        true
    }

    /// Adds what it has counted to the account.
    fn account(&self, _: &mut Account) {}
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The outcome.
    pub outcome: Outcome,
    /// What led to it.
    pub why: Why,
}

/// What led to the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Told in one word.
    Told(&'static str),
    /// A request below failed.
    Platform(Error),
    /// An exit that nobody knows.
    Exit {
        /// Its code.
        code: u64,
        /// First detail.
        info1: u64,
        /// Second detail.
        info2: u64,
        /// Where the guest was.
        rip: u64,
    },
}

impl core::fmt::Display for Why {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Why::Told(text) => f.write_str(text),
            Why::Platform(error) => error.fmt(f),
            // Wall 8: the host learns which exit it was, and no address or value of
            // the guest's. An image for debugging tells the rest.
            Why::Exit { code, .. } => write!(f, "exit {code:#x}"),
        }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End {
            outcome: error.outcome(),
            why: Why::Platform(error),
        }
    }
}

/// Counters of the loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Guest exits by [`Exit::index`].
    pub exits: [u64; Exit::NAMES.len()],
    /// Timer interrupts that nothing was due for (SYN-34).
    pub early_timers: u64,
    /// Interrupts of our SynIC source.
    pub sints: u64,
    /// Interrupts of other VPs.
    pub kicks: u64,
}

impl Stats {
    /// Adds those of another VP.
    pub fn add(&mut self, other: &Stats) {
        let exits = self.exits.iter_mut().zip(other.exits);
        for (sum, count) in exits.chain([
            (&mut self.early_timers, other.early_timers),
            (&mut self.sints, other.sints),
            (&mut self.kicks, other.kicks),
        ]) {
            *sum = sum.saturating_add(count);
        }
    }
}
