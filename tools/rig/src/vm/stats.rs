//! What was counted, so that time can be explained.

use crate::metal::clock::{Clock, tsc};
use crate::record::count;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt::LowerHex;

/// Where the processor's time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// VMPL0 runs.
    Upper,
    /// VMPL2 runs.
    Lower,
    /// The rig works.
    Rig,
    /// Nobody has anything to do.
    Idle,
    /// The core waits for another to let go of the lock.
    Lock,
}

/// Counters of the machine.
pub struct Stats {
    exits: [BTreeMap<u64, u64>; 2],
    msrs: BTreeMap<u32, u64>,
    ports: BTreeMap<u16, u64>,
    registers: BTreeMap<u64, u64>,
    /// VMPL0 to VMPL2 and back.
    pub switches: u64,
    /// Nested tables filled.
    pub fills: u64,
    /// PVALIDATE, RMPADJUST, RMPQUERY.
    pub rmp_instructions: [u64; 3],
    /// Pages whose owner changed.
    pub page_state_changes: u64,
    time: [u64; 5],
    phase: Phase,
    since: u64,
}

/// Name of an exit in records.
pub fn name(code: u64) -> &'static str {
    use abi::svm::exit;
    match code {
        exit::INTR => "intr",
        exit::NMI => "nmi",
        exit::VINTR => "vintr",
        exit::RDPMC => "rdpmc",
        exit::CPUID => "cpuid",
        exit::INVD => "invd",
        exit::HLT => "hlt",
        exit::IOIO => "ioio",
        exit::MSR => "msr",
        exit::SHUTDOWN => "shutdown",
        exit::VMMCALL => "vmmcall",
        exit::WBINVD => "wbinvd",
        exit::MONITOR => "monitor",
        exit::MWAIT => "mwait",
        exit::NPF => "npf",
        exit::EXCEPTION_UD => "ud",
        exit::INVALID => "invalid",
        _ => "other",
    }
}

/// Addresses of registers that are counted one by one.
const REGISTERS: usize = 1024;
/// Entries of a table that are told.
const TOLD: usize = 12;

/// Records the entries of a table with the largest counts.
fn top<K: Copy + LowerHex>(counter: &str, map: &BTreeMap<K, u64>) {
    let mut all: Vec<_> = map.iter().collect();
    all.sort_by_key(|(_, n)| Reverse(**n));
    for (key, n) in all.into_iter().take(TOLD) {
        count(counter, format_args!("{key:#x}"), *n);
    }
}

impl Stats {
    /// All zero, the rig at work.
    pub fn new() -> Stats {
        Stats {
            exits: [BTreeMap::new(), BTreeMap::new()],
            msrs: BTreeMap::new(),
            ports: BTreeMap::new(),
            registers: BTreeMap::new(),
            switches: 0,
            fills: 0,
            rmp_instructions: [0; 3],
            page_state_changes: 0,
            time: [0; 5],
            phase: Phase::Rig,
            since: tsc(),
        }
    }

    /// Time goes elsewhere from now on.
    pub fn phase(&mut self, phase: Phase) {
        self.phase_at(phase, tsc());
    }

    /// Time went elsewhere at `now`.
    pub fn phase_at(&mut self, phase: Phase, now: u64) {
        self.time[self.phase as usize] += now.wrapping_sub(self.since);
        self.since = now;
        self.phase = phase;
    }

    /// An exit of a context (0 = VMPL0, 1 = VMPL2).
    pub fn exit(&mut self, context: usize, code: u64) {
        *self.exits[context].entry(code).or_default() += 1;
    }

    /// An MSR exit of VMPL2.
    pub fn msr(&mut self, index: u32) {
        *self.msrs.entry(index).or_default() += 1;
    }

    /// An I/O exit of VMPL2.
    pub fn port(&mut self, port: u16) {
        *self.ports.entry(port).or_default() += 1;
    }

    /// VMPL2 reached for an address that is not memory. The guest chooses it, so only
    /// the first [`REGISTERS`] of them are told apart.
    pub fn register(&mut self, gpa: u64) {
        let known = self.registers.contains_key(&gpa) || self.registers.len() < REGISTERS;
        *self
            .registers
            .entry(if known { gpa } else { u64::MAX })
            .or_default() += 1;
    }

    /// Takes another VP's counters in, up to now.
    pub fn add(&mut self, other: &mut Stats) {
        other.phase(Phase::Rig);
        for (to, from) in self.exits.iter_mut().zip(&other.exits) {
            for (code, n) in from {
                *to.entry(*code).or_default() += n;
            }
        }
        for (msr, n) in &other.msrs {
            *self.msrs.entry(*msr).or_default() += n;
        }
        for (port, n) in &other.ports {
            *self.ports.entry(*port).or_default() += n;
        }
        for (gpa, n) in &other.registers {
            *self.registers.entry(*gpa).or_default() += n;
        }
        self.switches += other.switches;
        self.fills += other.fills;
        for (to, from) in self.rmp_instructions.iter_mut().zip(other.rmp_instructions) {
            *to += from;
        }
        self.page_state_changes += other.page_state_changes;
        for (to, from) in self.time.iter_mut().zip(other.time) {
            *to += from;
        }
    }

    /// Writes all counters as records.
    pub fn report(&mut self, clock: &Clock) {
        self.phase(Phase::Rig);
        for (exits, counter) in self.exits.iter().zip(["vmpl0_exit", "guest_exit"]) {
            for (code, n) in exits {
                match name(*code) {
                    "other" => count(counter, format_args!("{code:#x}"), *n),
                    name => count(counter, format_args!("{name}"), *n),
                }
            }
        }
        top("guest_msr", &self.msrs);
        top("guest_port", &self.ports);
        top("guest_register", &self.registers);
        count("vmpl_switch", format_args!(""), self.switches);
        count("npt_fill", format_args!(""), self.fills);
        count(
            "page_state_change",
            format_args!(""),
            self.page_state_changes,
        );
        for (n, name) in self
            .rmp_instructions
            .iter()
            .zip(["pvalidate", "rmpadjust", "rmpquery"])
        {
            count("rmp_instruction", format_args!("{name}"), *n);
        }
        for (ticks, name) in self
            .time
            .iter()
            .zip(["vmpl0", "vmpl2", "rig", "idle", "lock"])
        {
            let us = u128::from(*ticks) * 1_000_000 / u128::from(clock.tsc_hz);
            count("time_us", format_args!("{name}"), us as u64);
        }
    }
}
