//! The synthetic interrupt controller of one VP: message page, event flags,
//! SINTs, and the little of a local APIC that decides when a vector may go in.
//! TLFS chapter 11; OpenVMM `hv1_emulator/src/synic.rs`.
use crate::fault::Slot;
use crate::mem::{MemoryFault, VmMemory};
use abi::hyperv::{self, OverlayPage, SCONTROL_ENABLE, SINT_COUNT, Sint, TimerMessage};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// 256 vectors as bits.
#[derive(Clone, Copy, Debug, Default)]
struct VectorSet([u64; 4]);

impl VectorSet {
    fn set(&mut self, v: u8) {
        self.0[usize::from(v) / 64] |= 1 << (v % 64);
    }
    fn clear(&mut self, v: u8) {
        self.0[usize::from(v) / 64] &= !(1 << (v % 64));
    }
    fn has(&self, v: u8) -> bool {
        self.0[usize::from(v) / 64] & 1 << (v % 64) != 0
    }
    fn highest(&self) -> Option<u8> {
        (0..4u8).rev().find_map(|i| {
            let w = self.0[usize::from(i)];
            (w != 0).then(|| i * 64 + 63 - w.leading_zeros() as u8)
        })
    }
}

/// A message on its way into a slot.
#[derive(Clone, Debug)]
pub(super) enum Queued {
    /// From a port.
    Message {
        message_type: u32,
        origin: u64,
        payload: Vec<u8>,
        slot: Slot,
    },
    /// From timer `index`; the delivery time is filled in when it is written.
    Timer { index: u32, expiration: u64 },
}

/// What became of a signalled event flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The flag was clear; the interrupt was raised unless it is polled.
    New,
    /// The flag was set already; no interrupt.
    AlreadySet,
    /// SynIC, SIEF page or SINT is off; no bit was set.
    Off,
    /// The event-flags page cannot be written.
    Fault(MemoryFault),
}

/// SynIC of one VP.
#[derive(Debug)]
pub(super) struct Synic {
    pub scontrol: u64,
    pub siefp: OverlayPage,
    pub simp: OverlayPage,
    pub sint: [Sint; SINT_COUNT],
    queue: [VecDeque<Queued>; SINT_COUNT],
    requested: VectorSet,
    in_service: VectorSet,
    auto_eoi: VectorSet,
    /// Vector that the CPU may take by itself at any time, without an exit.
    offered: Option<u8>,
    /// It was requested again since: whether the CPU has taken it before or after,
    /// nobody can tell.
    offered_again: bool,
    pub memory_faults: u64,
    pub messages_delivered: u64,
    pub interrupts_requested: u64,
}

impl Synic {
    pub fn new() -> Self {
        Synic {
            scontrol: 0,
            siefp: OverlayPage(0),
            simp: OverlayPage(0),
            sint: [Sint::RESET; SINT_COUNT],
            queue: Default::default(),
            requested: VectorSet::default(),
            in_service: VectorSet::default(),
            auto_eoi: VectorSet::default(),
            offered: None,
            offered_again: false,
            memory_faults: 0,
            messages_delivered: 0,
            interrupts_requested: 0,
        }
    }

    fn enabled(&self) -> bool {
        self.scontrol & SCONTROL_ENABLE != 0
    }

    /// Puts an edge interrupt into the request register.
    pub fn request(&mut self, vector: u8, auto_eoi: bool) {
        self.requested.set(vector);
        self.offered_again |= self.offered == Some(vector);
        if auto_eoi {
            self.auto_eoi.set(vector);
        } else {
            self.auto_eoi.clear(vector);
        }
        self.interrupts_requested += 1;
    }

    pub fn is_requested(&self, vector: u8) -> bool {
        self.requested.has(vector)
    }

    /// Highest requested vector whose priority class is above the one in service.
    pub fn pending_vector(&self) -> Option<u8> {
        let v = self.requested.highest()?;
        match self.in_service.highest() {
            Some(s) if s >> 4 >= v >> 4 => None,
            _ => Some(v),
        }
    }

    /// The CPU took `vector`.
    pub fn accept(&mut self, vector: u8) {
        self.requested.clear(vector);
        if self.offered == Some(vector) && self.offered_again {
            self.requested.set(vector);
        }
        self.offer(None);
        if !self.auto_eoi.has(vector) {
            self.in_service.set(vector);
        }
    }

    /// From now on the CPU may take `vector`, which [`accept`](Self::accept) tells later.
    pub fn offer(&mut self, vector: Option<u8>) {
        self.offered = vector;
        self.offered_again = false;
    }

    /// Ends the highest interrupt in service.
    pub fn eoi(&mut self) {
        if let Some(v) = self.in_service.highest() {
            self.in_service.clear(v);
        }
    }

    fn raise(&mut self, sint: usize) {
        let s = self.sint[sint];
        if !s.masked() && !s.polling() {
            self.request(s.vector(), s.auto_eoi());
        }
    }

    /// Whether `sint` waits for its slot, and with how many messages.
    pub fn queued(&self, sint: usize) -> usize {
        self.queue.get(sint).map_or(0, VecDeque::len)
    }

    /// Whether timer `index` waits for a slot.
    pub fn timer_queued(&self, index: u32) -> bool {
        self.queue
            .iter()
            .flatten()
            .any(|q| matches!(q, Queued::Timer { index: i, .. } if *i == index))
    }

    /// Queues a message for `sint` and tries to write it.
    pub fn push(&mut self, mem: &dyn VmMemory, now: u64, sint: usize, message: Queued) {
        self.queue[sint].push_back(message);
        self.rescan(mem, now, sint);
    }

    /// Moves messages of all SINTs into free slots (EOM, EOI, pages switched on).
    pub fn rescan_all(&mut self, mem: &dyn VmMemory, now: u64) {
        for sint in 0..SINT_COUNT {
            self.rescan(mem, now, sint);
        }
    }

    /// Slot empty: the first message goes in and the SINT is raised (a masked
    /// SINT loses the interrupt, as TLFS has it; EOM polls). Slot full: the
    /// pending flag is set.
    fn rescan(&mut self, mem: &dyn VmMemory, now: u64, sint: usize) {
        if self.queue[sint].is_empty() || !self.enabled() || !self.simp.enabled() {
            return;
        }
        let slot = self.simp.gpa() + (sint * hyperv::MESSAGE_SLOT) as u64;
        match self.fill_slot(mem, now, sint, slot) {
            Ok(true) => {
                self.messages_delivered += 1;
                self.raise(sint);
            }
            Ok(false) => {}
            Err(_) => self.memory_faults += 1,
        }
    }

    fn fill_slot(
        &mut self,
        mem: &dyn VmMemory,
        now: u64,
        sint: usize,
        slot: u64,
    ) -> Result<bool, MemoryFault> {
        // Flags are byte 5, so bit 8 of the word at 4.
        let pending_bit = u32::from(hyperv::MESSAGE_FLAG_PENDING) << 8;
        if mem.load_u32(slot)? != hyperv::MESSAGE_TYPE_NONE {
            mem.fetch_or_u32(slot + 4, pending_bit)?;
            mem.fence();
            // The guest may have emptied the slot between look and mark.
            if mem.load_u32(slot)? != hyperv::MESSAGE_TYPE_NONE {
                return Ok(false);
            }
        }
        let Some(front) = self.queue[sint].front() else {
            return Ok(false);
        };
        let (message_type, origin, payload, head) = match front {
            Queued::Message {
                message_type,
                origin,
                payload,
                slot,
            } => (*message_type, *origin, payload.clone(), *slot),
            Queued::Timer { index, expiration } => {
                let m = TimerMessage {
                    timer_index: *index,
                    reserved: 0,
                    expiration: *expiration,
                    delivery: now,
                };
                let kind = hyperv::MESSAGE_TYPE_TIMER_EXPIRED;
                (kind, 0, m.as_bytes().to_vec(), Slot::default())
            }
        };
        let more = self.queue[sint].len() > 1;
        mem.write(slot + 16, &payload)?;
        mem.write(slot + 8, &origin.to_le_bytes())?;
        mem.store_u32(
            slot + 4,
            u32::from(head.size.unwrap_or(payload.len() as u8))
                | u32::from(head.flags) << 8
                | if more { pending_bit } else { 0 },
        )?;
        mem.store_u32(slot, message_type)?;
        self.queue[sint].pop_front();
        Ok(true)
    }

    /// Sets event flag `flag` of `sint`.
    pub fn signal(&mut self, mem: &dyn VmMemory, sint: usize, flag: u16) -> Signalled {
        let usable = self.enabled() && self.siefp.enabled() && !self.sint[sint].masked();
        if !usable || usize::from(flag) >= hyperv::EVENT_FLAGS {
            return Signalled::Off;
        }
        let at =
            self.siefp.gpa() + (sint * hyperv::EVENT_FLAGS_AREA) as u64 + u64::from(flag / 32) * 4;
        match mem.fetch_or_u32(at, 1 << (flag % 32)) {
            Ok(old) if old & 1 << (flag % 32) != 0 => Signalled::AlreadySet,
            Ok(_) => {
                self.raise(sint);
                Signalled::New
            }
            Err(fault) => {
                self.memory_faults += 1;
                Signalled::Fault(fault)
            }
        }
    }
}
