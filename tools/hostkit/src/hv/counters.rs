//! What a partition counts.
use super::synic::Signalled;
use alloc::collections::BTreeMap;

/// Counts since the partition was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HvCounters {
    /// Hypercalls by code.
    pub hypercalls: BTreeMap<u16, u64>,
    /// Hypercalls that did not end with success, by code and status.
    pub hypercall_failures: BTreeMap<(u16, u16), u64>,
    /// Synthetic MSR accesses that faulted, by MSR.
    pub msr_faults: BTreeMap<u32, u64>,
    /// Synthetic MSR accesses.
    pub msr_accesses: u64,
    /// EOM writes.
    pub eom: u64,
    /// Messages written into slots.
    pub messages_delivered: u64,
    /// Event flags set that were clear before.
    pub flags_new: u64,
    /// Event flags that were set already.
    pub flags_again: u64,
    /// Event flags lost because the target was off.
    pub flags_off: u64,
    /// Interrupt requests by SINTs and direct timers.
    pub interrupts_requested: u64,
    /// Expired synthetic timers.
    pub timer_expiries: u64,
    /// Accesses of the hypervisor to SynIC pages that the memory refused.
    pub memory_faults: u64,
}

impl HvCounters {
    pub(super) fn count_flag(&mut self, result: Signalled) {
        match result {
            Signalled::New => self.flags_new += 1,
            Signalled::AlreadySet => self.flags_again += 1,
            Signalled::Off | Signalled::Fault(_) => self.flags_off += 1,
        }
    }
}
