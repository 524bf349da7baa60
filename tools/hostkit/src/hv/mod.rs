//! One partition as the hypervisor sees it: synthetic MSRs, a SynIC and timers
//! per VP, reference time, hypercalls. It knows ports by number only; what is
//! posted or signalled waits in an inbox for the VMBus server.
//!
//! There is one SynIC per VP: that of the level which owns the real one (VTL2,
//! or VTL0 of a plain guest). Registers of other levels go to [`RegisterHook`].
mod call;
mod counters;
mod msr;
mod stimer;
mod synic;
#[cfg(test)]
mod tests;

pub use call::{NoHook, RegisterHook};
pub use counters::HvCounters;
pub use msr::MsrFault;
pub use synic::Signalled;

use crate::fault::Slot;
use crate::mem::VmMemory;
use abi::hyperv::{OverlayPage, STIMER_COUNT};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use stimer::Stimer;
use synic::{Queued, Synic};

/// Messages of the guest that may wait (TLFS: 16 buffers per port).
pub const PORT_BUFFERS: usize = 16;
/// Messages for one SINT that may wait before guest posts are pushed back, so
/// that a guest which never empties its slot cannot fill the host's memory.
pub const SINT_BACKLOG: usize = 256;

/// Fixed facts of a partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionConfig {
    /// Number of VPs, at least 1.
    pub vp_count: u32,
    /// TSC frequency in Hz; 0 leaves the reference TSC page invalid.
    pub tsc_hz: u64,
    /// TSC value at which reference time was 0.
    pub tsc_at_start: u64,
    /// What the APIC frequency MSR reads, Hz.
    pub apic_hz: u64,
    /// Level whose SynIC this is; registers of others go to the hook.
    pub vtl: u8,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        PartitionConfig {
            vp_count: 1,
            tsc_hz: 0,
            tsc_at_start: 0,
            apic_hz: 200_000_000,
            vtl: 2,
        }
    }
}

/// What a connection id leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// PostMessage arrives in the inbox.
    Message,
    /// SignalEvent arrives in the inbox.
    Event,
}

/// Something that the guest sent through a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// PostMessage.
    Message {
        /// Connection it was posted to.
        connection: u32,
        /// VP that posted it.
        vp: u32,
        /// Message type.
        message_type: u32,
        /// 0..=240 bytes.
        payload: Vec<u8>,
    },
    /// SignalEvent.
    Event {
        /// Connection that was signalled.
        connection: u32,
    },
}

/// One virtual processor.
#[derive(Debug)]
pub(crate) struct Vp {
    synic: Synic,
    stimers: [Stimer; STIMER_COUNT],
    vp_assist: OverlayPage,
}

/// One partition.
#[derive(Debug)]
pub struct Partition {
    config: PartitionConfig,
    vps: Vec<Vp>,
    now: u64,
    guest_os_id: u64,
    hypercall_page: u64,
    reference_tsc: OverlayPage,
    tsc_sequence: u32,
    crash: [u64; 5],
    crashed: bool,
    ports: BTreeMap<u32, Port>,
    inbox: VecDeque<Inbound>,
    counters: HvCounters,
}

impl Partition {
    /// A partition at reference time 0, every SynIC off.
    pub fn new(config: PartitionConfig) -> Self {
        let vps = (0..config.vp_count.max(1))
            .map(|_| Vp {
                synic: Synic::new(),
                stimers: [Stimer::new(); STIMER_COUNT],
                vp_assist: OverlayPage(0),
            })
            .collect();
        Partition {
            config,
            vps,
            now: 0,
            guest_os_id: 0,
            hypercall_page: 0,
            reference_tsc: OverlayPage(0),
            tsc_sequence: 0,
            crash: [0; 5],
            crashed: false,
            ports: BTreeMap::new(),
            inbox: VecDeque::new(),
            counters: HvCounters::default(),
        }
    }

    /// Number of VPs.
    pub fn vp_count(&self) -> u32 {
        self.vps.len() as u32
    }

    fn vp(&mut self, vp: u32) -> Option<&mut Vp> {
        self.vps.get_mut(usize::try_from(vp).ok()?)
    }

    /// Reference time, 100 ns, as of the last [`set_time`](Self::set_time).
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Moves reference time forward (it never goes back). Call it before MSR
    /// accesses and hypercalls, so that the counter reads right.
    pub fn set_time(&mut self, now_100ns: u64) {
        self.now = self.now.max(now_100ns);
    }

    /// Guest OS id; 0 = not set.
    pub fn guest_os_id(&self) -> u64 {
        self.guest_os_id
    }

    /// Crash parameters P0..P4 once the guest wrote the crash control register.
    pub fn crash(&self) -> Option<[u64; 5]> {
        self.crashed.then_some(self.crash)
    }

    /// VP assist page of `vp`, if it is on.
    pub fn vp_assist_page(&self, vp: u32) -> Option<u64> {
        let page = self.vps.get(usize::try_from(vp).ok()?)?.vp_assist;
        page.enabled().then(|| page.gpa())
    }

    /// Lets `connection` lead somewhere.
    pub fn connect_port(&mut self, connection: u32, port: Port) {
        self.ports.insert(connection, port);
    }

    /// Takes a connection away.
    pub fn disconnect_port(&mut self, connection: u32) {
        self.ports.remove(&connection);
    }

    /// Next thing that the guest sent.
    pub fn take_inbound(&mut self) -> Option<Inbound> {
        self.inbox.pop_front()
    }

    /// Sends a message to `sint` of `vp`: into the slot if it is empty, else it
    /// waits. `false` if there is no such VP or SINT, or the payload is longer
    /// than 240 bytes. The message waits as well while the SynIC is off.
    pub fn send_message(
        &mut self,
        mem: &dyn VmMemory,
        vp: u32,
        sint: u8,
        message_type: u32,
        origin: u64,
        payload: &[u8],
    ) -> bool {
        let slot = Slot::default();
        self.send_message_as(mem, vp, sint, message_type, origin, payload, slot)
    }

    /// The same with a slot whose head may lie.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn send_message_as(
        &mut self,
        mem: &dyn VmMemory,
        vp: u32,
        sint: u8,
        message_type: u32,
        origin: u64,
        payload: &[u8],
        slot: Slot,
    ) -> bool {
        let now = self.now;
        let Some(v) = self.vp(vp) else { return false };
        if payload.len() > abi::hyperv::MESSAGE_PAYLOAD
            || usize::from(sint) >= abi::hyperv::SINT_COUNT
        {
            return false;
        }
        let message = Queued::Message {
            message_type,
            origin,
            payload: payload.to_vec(),
            slot,
        };
        v.synic.push(mem, now, usize::from(sint), message);
        true
    }

    /// Messages that wait for the slot of `sint` on `vp`.
    pub fn queued_messages(&self, vp: u32, sint: u8) -> usize {
        let vp = usize::try_from(vp).unwrap_or(usize::MAX);
        self.vps
            .get(vp)
            .map_or(0, |v| v.synic.queued(usize::from(sint)))
    }

    /// Sets an event flag on `sint` of `vp` and raises the interrupt if it was clear.
    pub fn signal_event_flag(
        &mut self,
        mem: &dyn VmMemory,
        vp: u32,
        sint: u8,
        flag: u16,
    ) -> Signalled {
        let result = match self.vp(vp) {
            Some(v) if usize::from(sint) < abi::hyperv::SINT_COUNT => {
                v.synic.signal(mem, usize::from(sint), flag)
            }
            _ => Signalled::Off,
        };
        self.counters.count_flag(result);
        result
    }

    /// Vector that may be injected into `vp` now (if its interrupts are on).
    pub fn pending_vector(&self, vp: u32) -> Option<u8> {
        self.vps
            .get(usize::try_from(vp).ok()?)?
            .synic
            .pending_vector()
    }

    /// Requests a vector that no SINT has; it ends by itself.
    pub(crate) fn inject_vector(&mut self, vp: u32, vector: u8) {
        if let Some(v) = self.vp(vp) {
            v.synic.request(vector, true);
        }
    }

    /// An interrupt command of `vp`, in the xAPIC's layout. Fixed delivery alone, to one
    /// APIC id (here the VP's index), to the sender, to all, or to all others: the level
    /// that owns the SynIC needs no more to wake its processors. The interrupt ends by
    /// [`msr::EOI`](abi::hyperv::msr::EOI).
    pub(crate) fn send_interrupt(&mut self, vp: u32, command: u64) -> Result<(), MsrFault> {
        /// Delivery mode and logical destination; a vector below 16 does not exist.
        const UNKNOWN: u64 = 7 << 8 | 1 << 11;
        let vector = command as u8;
        if command & UNKNOWN != 0 || vector < 16 {
            return Err(MsrFault);
        }
        let to = (command >> 56) as u32;
        for (index, other) in (0..).zip(&mut self.vps) {
            let meant = match command >> 18 & 3 {
                0 => index == to || to == 0xff,
                1 => index == vp,
                2 => true,
                _ => index != vp,
            };
            if meant {
                other.synic.request(vector, false);
            }
        }
        Ok(())
    }

    /// `vp` took `vector`; it is in service until EOI, unless its SINT ends
    /// interrupts by itself.
    pub fn accept_vector(&mut self, vp: u32, vector: u8) {
        if let Some(v) = self.vp(vp) {
            v.synic.accept(vector);
        }
    }

    /// `vp` may take `vector` by itself from now on, while others go on to request
    /// interrupts. [`accept_vector`](Self::accept_vector) tells that it did; a request of
    /// the same vector in between is not lost. `None`: it no longer may.
    pub fn offer_vector(&mut self, vp: u32, vector: Option<u8>) {
        if let Some(v) = self.vp(vp) {
            v.synic.offer(vector);
        }
    }

    /// Expires timers. Call it whenever [`next_deadline`](Self::next_deadline)
    /// has passed; more often does no harm.
    pub fn poll(&mut self, mem: &dyn VmMemory, now_100ns: u64) {
        self.set_time(now_100ns);
        let now = self.now;
        for vp in &mut self.vps {
            for (index, timer) in vp.stimers.iter_mut().enumerate() {
                if timer.poll(mem, now, index as u32, &mut vp.synic) {
                    self.counters.timer_expiries += 1;
                }
            }
        }
    }

    /// Reference time at which [`poll`](Self::poll) has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        let timers = |vp: &Vp| {
            let synic = &vp.synic;
            let due = vp.stimers.iter().enumerate();
            due.filter_map(|(i, t)| t.deadline(i as u32, synic)).min()
        };
        self.vps.iter().filter_map(timers).min()
    }

    /// What was counted so far.
    pub fn counters(&self) -> HvCounters {
        let mut c = self.counters.clone();
        for vp in &self.vps {
            c.memory_faults += vp.synic.memory_faults;
            c.messages_delivered += vp.synic.messages_delivered;
            c.interrupts_requested += vp.synic.interrupts_requested;
        }
        c
    }
}
