//! The whole machine: routes accesses to devices and interrupts to the processors.
//!
//! What a processor has for itself (local APIC, MSRs) lies in its [`Machine`] and is
//! reached without a lock, and so is its queue pair of the network card. The devices
//! that all processors share are one `Devices` behind one lock, which is held for one
//! access, never across one.

mod devices;
mod nic;
mod types;

use crate::cpuid::{Cpuid, Place};
use crate::interrupt::apics::Apics;
use crate::interrupt::post::{Post, Wake};
use crate::interrupt::{Message, lapic::Lapic};
use crate::layout;
use crate::msr::{self, Msrs};
use crate::virtio::net::Pair;
use crate::virtio::share::Share;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use devices::{Devices, left};
use spin::{Mutex, MutexGuard};

pub use types::*;

/// The machine as one of its processors sees it, which is the one that owns this.
pub struct Machine {
    place: Place,
    cpuid: Arc<Cpuid>,
    msrs: Msrs,
    lapic: Lapic,
    /// Its queues of the network card.
    pair: Option<Pair>,
    /// The control queue was rung, and nobody has served it.
    control_due: bool,
    config: Arc<MachineConfig>,
    board: Arc<Board>,
    /// Processors that must be woken to see what was left for them.
    kicks: u64,
    unknown_msr: u64,
    registers: Registers,
    /// The time that was told last.
    now: u64,
}

/// What all processors share.
struct Board {
    devices: Mutex<Devices>,
    /// The console's way out, held from taking bytes until they are written: two
    /// processors that have some must not pass each other.
    console: Mutex<()>,
    /// What is seen of a card whose queues have owners.
    card: Option<Arc<Share>>,
    /// One per processor.
    posts: Vec<Post>,
    /// The devices have something for the processor that serves them.
    attention: AtomicBool,
    /// What there is to take from the devices, by bits of [`left`]: how it was when they
    /// were unlocked last. Asked for at each doorbell, so without the lock.
    left: AtomicU32,
    /// Processors which only another one can wake, by bits.
    resting: AtomicU64,
    /// When the NIC has to be looked at, at the latest; [`NEVER`] if it need not be.
    nic_deadline: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// Console bytes that [`Machine::drain_console`] moves at a time.
const CONSOLE_BYTES: usize = 256;

impl Board {
    fn lock(&self) -> MutexGuard<'_, Devices> {
        count_lock();
        self.devices.lock()
    }

    /// Says what is left, with the devices still locked.
    fn note_left(&self, devices: &Devices) {
        let now = devices.left();
        if self.left.load(SeqCst) != now {
            self.left.store(now, SeqCst);
        }
    }

    /// Takes something of the devices, if there is any.
    fn take_left<T: Default>(&self, what: u32, take: impl FnOnce(&mut Devices) -> T) -> T {
        if self.left.load(SeqCst) & what == 0 {
            return T::default();
        }
        let mut devices = self.lock();
        let taken = take(&mut devices);
        self.note_left(&devices);
        taken
    }
}

#[cfg(test)]
std::thread_local! {
    /// Locks that this thread has taken.
    static LOCKS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// A lock is taken: tests count it.
pub(crate) fn count_lock() {
    #[cfg(test)]
    LOCKS.with(|locks| locks.set(locks.get().wrapping_add(1)));
}

impl Machine {
    /// A machine after power-on, at clock 0 or later, as its first processor sees it.
    pub fn new(config: &MachineConfig, host: &dyn CpuidSource) -> Machine {
        Machine::with_nic(config, host, NicModel::Virtio)
    }

    /// The same with a network card of that model.
    pub fn with_nic(config: &MachineConfig, host: &dyn CpuidSource, nic: NicModel) -> Machine {
        let count = config.processors.clamp(1, MAX_PROCESSORS);
        let devices = Devices::new(config, nic);
        let card = devices.nic.share().cloned();
        let machine = Machine {
            place: Place { id: 0, count },
            cpuid: Arc::new(Cpuid::new(host)),
            msrs: Msrs::new(true, config.tsc_hz, config.memory_size),
            lapic: Lapic::new(0),
            pair: card.as_ref().and_then(|card| Pair::claim(card, 0, config)),
            control_due: false,
            config: Arc::new(config.clone()),
            board: Arc::new(Board {
                devices: Mutex::new(devices),
                console: Mutex::new(()),
                card,
                posts: (0..count).map(|_| Post::new()).collect(),
                attention: AtomicBool::new(true),
                left: AtomicU32::new(0),
                resting: AtomicU64::new(0),
                nic_deadline: AtomicU64::new(NEVER),
            }),
            kicks: 0,
            unknown_msr: 0,
            registers: Registers::default(),
            now: 0,
        };
        machine.publish_route();
        machine
    }

    /// The same machine as its processor `index` sees it, from 1 on; to be asked for
    /// once each, before the guest runs. `None`: there is no such processor.
    pub fn processor(&self, index: u8) -> Option<Machine> {
        if index == 0 || index >= self.place.count {
            return None;
        }
        let machine = Machine {
            place: Place {
                id: index,
                ..self.place
            },
            cpuid: self.cpuid.clone(),
            msrs: self.msrs.of_another(),
            lapic: Lapic::new(index),
            pair: self
                .board
                .card
                .as_ref()
                .and_then(|card| Pair::claim(card, index.into(), &self.config)),
            control_due: false,
            config: self.config.clone(),
            board: self.board.clone(),
            kicks: 0,
            unknown_msr: 0,
            registers: Registers::default(),
            now: 0,
        };
        machine.publish_route();
        Some(machine)
    }

    /// Index of the processor that this is, which is its APIC ID.
    pub fn index(&self) -> u8 {
        self.place.id
    }

    /// Processors of the machine.
    pub fn processors(&self) -> u8 {
        self.place.count
    }

    /// Processors for which something was left and which must be woken by an
    /// interrupt, by bits; asking takes them.
    pub fn take_kicks(&mut self) -> u64 {
        core::mem::take(&mut self.kicks)
    }

    /// The processor is about to enter its guest or to sleep. `false`: others have left
    /// something for it, and [`Machine::take_signals`] comes first.
    pub fn leave(&self) -> bool {
        self.post().is_none_or(Post::leave)
    }

    /// The processor is back from its guest or its sleep.
    pub fn back(&self) {
        if let Some(post) = self.post() {
            post.back();
        }
    }

    /// Takes what others have left: interrupts go to the local APIC, and INIT and SIPI
    /// are told. INIT has reset the local APIC.
    pub fn take_signals(&mut self) -> Signals {
        let notes = self.board.posts.get(usize::from(self.place.id));
        let Some(notes) = notes.and_then(Post::take) else {
            return Signals::default();
        };
        if notes.init {
            self.lapic.init();
            self.publish_route();
        } else {
            self.lapic.take_notes(&notes);
        }
        Signals {
            init: notes.init,
            start: notes.start,
        }
    }

    /// Wakes all other processors, wherever they are: see [`Machine::take_kicks`].
    pub fn call_all(&mut self) {
        for (index, post) in (0..MAX_PROCESSORS).zip(&self.board.posts) {
            if index != self.place.id && post.call() == Wake::Kick {
                self.kicks |= 1u64.wrapping_shl(u32::from(index));
            }
        }
    }

    /// Wakes one other processor, for a note that is not the machine's own.
    pub fn call(&mut self, index: u8) {
        self.call_those(1u64.checked_shl(u32::from(index)).unwrap_or(0));
    }

    /// Wakes these others, by bits.
    fn call_those(&mut self, which: u64) {
        if which & !1u64.wrapping_shl(u32::from(self.place.id)) == 0 {
            return;
        }
        for (index, post) in (0..MAX_PROCESSORS).zip(&self.board.posts) {
            let bit = 1u64.wrapping_shl(u32::from(index));
            if which & bit != 0 && index != self.place.id && post.call() == Wake::Kick {
                self.kicks |= bit;
            }
        }
    }

    /// Whether the devices may have something for this processor: for every one, events
    /// of its queue pair; for the first, which serves the devices, also console output,
    /// questions at the audit port, power events, work of a NIC without queue pairs.
    /// Asking takes the hint, but not the queue pair's events.
    pub fn take_attention(&self) -> bool {
        // Nearly always there is none, and then nothing is written.
        let hint = self.place.id == 0
            && self.board.attention.load(SeqCst)
            && self.board.attention.swap(false, SeqCst);
        hint || self.pair.as_ref().is_some_and(Pair::has_events)
    }

    /// Nothing but another processor can wake this one. `true`: the others rest as well
    /// and nothing was left for anybody, so that nobody will ever wake.
    pub fn rest(&self) -> bool {
        let own = 1u64.wrapping_shl(u32::from(self.place.id));
        let resting = self.board.resting.fetch_or(own, SeqCst) | own;
        resting.count_ones() >= u32::from(self.place.count)
            && !self.board.posts.iter().any(Post::has_notes)
    }

    /// It was woken.
    pub fn revive(&self) {
        let own = 1u64.wrapping_shl(u32::from(self.place.id));
        if self.board.resting.load(SeqCst) & own != 0 {
            self.board.resting.fetch_and(!own, SeqCst);
        }
    }

    fn post(&self) -> Option<&Post> {
        if self.place.count == 1 {
            // Nobody else is there to leave notes.
            return None;
        }
        self.board.posts.get(usize::from(self.place.id))
    }

    fn publish_route(&self) {
        if let Some(post) = self.board.posts.get(usize::from(self.place.id)) {
            post.set_route(self.lapic.route());
        }
    }

    /// Works on the devices and carries their interrupts to the APICs afterwards.
    fn with_devices<T>(&mut self, act: impl FnOnce(&mut Devices, &mut Apics<'_>) -> T) -> T {
        let Machine {
            lapic,
            board,
            kicks,
            now,
            ..
        } = self;
        let mut apics = Apics {
            own: lapic,
            posts: &board.posts,
            kicks,
        };
        let mut devices = board.lock();
        devices.nic.advance(*now);
        let value = act(&mut devices, &mut apics);
        devices.update_lines(&mut apics);
        board.note_left(&devices);
        let deadline = devices.nic.next_deadline().unwrap_or(NEVER);
        if board.nic_deadline.load(SeqCst) != deadline {
            board.nic_deadline.store(deadline, SeqCst);
        }
        if devices.nic.has_events() {
            board.attention.store(true, SeqCst);
        }
        value
    }

    /// The same for an access of the guest's, which may leave something to do for the
    /// processor that serves the devices.
    fn access<T>(&mut self, act: impl FnOnce(&mut Devices, &mut Apics<'_>) -> T) -> T {
        let first = self.place.id == 0;
        let deadline = self.board.nic_deadline.load(SeqCst);
        let (value, mut calls) = self.with_devices(|devices, apics| {
            let value = act(devices, apics);
            (value, devices.take_calls())
        });
        self.board.attention.store(true, SeqCst);
        if !first && self.board.nic_deadline.load(SeqCst) < deadline {
            calls |= 1;
        }
        self.call_those(calls);
        value
    }

    /// `IN`: `size` is 1, 2 or 4 bytes. Ports without a device read all ones.
    pub fn io_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
        self.access(|devices, _| devices.io_read(port, size, now))
    }

    /// `OUT`.
    pub fn io_write(&mut self, port: u16, size: u8, value: u32, _now: u64) {
        self.access(|devices, _| devices.io_write(port, size, value));
    }

    /// A read of `size` (1, 2, 4, 8) bytes from an address that is not RAM.
    pub fn mmio_read(&mut self, gpa: u64, size: u8, now: u64) -> u64 {
        self.registers.count(gpa);
        let offset = gpa & 0xfff;
        let value = match gpa & !0xfff {
            // APICs know 32-bit accesses only; a wider one is padded, a narrower cut.
            layout::LAPIC_BASE if self.lapic.hardware_enabled() => {
                u64::from(self.lapic.read(offset, now))
            }
            _ => self.access(|devices, _| devices.mmio_read(gpa, size, now)),
        };
        // No more bits than the access has, whatever its width is.
        let unused = 64u32.saturating_sub(u32::from(size).saturating_mul(8));
        value & u64::MAX.checked_shr(unused).unwrap_or(0)
    }

    /// A write to an address that is not RAM. Needs no guest memory: a doorbell
    /// is only noted (see [`Machine::take_nic_events`]).
    pub fn mmio_write(&mut self, gpa: u64, size: u8, value: u64, now: u64) {
        self.registers.count(gpa);
        match gpa & !0xfff {
            layout::LAPIC_BASE if self.lapic.hardware_enabled() => {
                self.lapic_write(gpa & 0xfff, value as u32, now);
            }
            _ => {
                let card = self.board.card.as_ref();
                match card.and_then(|card| card.doorbell(gpa)) {
                    Some(offset) => self.ring(offset),
                    None => self.access(|devices, apics| {
                        devices.mmio_write(gpa, size, value, now, apics);
                    }),
                }
            }
        }
    }

    fn lapic_write(&mut self, offset: u64, value: u32, now: u64) {
        let before = self.lapic.route();
        let ended = self.lapic.write(offset, value, now);
        if let Some(ipi) = self.lapic.take_ipi() {
            let taken = Apics {
                own: &mut self.lapic,
                posts: &self.board.posts,
                kicks: &mut self.kicks,
            }
            .send(ipi);
            if taken == 0 && !ipi.to_all_others {
                self.lapic.ignored_messages = self.lapic.ignored_messages.saturating_add(1);
            }
        }
        if let Some(vector) = ended {
            self.with_devices(|devices, apics| devices.ioapic.end_of_interrupt(vector, apics));
        }
        if self.lapic.route() != before {
            self.publish_route();
            // A level that nobody took until now.
            self.with_devices(|_, _| {});
        }
    }

    /// CPUID as the guest sees it: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: CpuidState) -> [u32; 4] {
        self.cpuid.get_at(leaf, subleaf, state, self.place)
    }

    /// RDMSR of an MSR that the processor does not keep by itself.
    pub fn rdmsr(&mut self, msr: u32, now: u64) -> Result<u64, Fault> {
        let value = self.msrs.read(msr, self.lapic.hardware_enabled(), now);
        self.count_fault(value)
    }

    /// WRMSR.
    pub fn wrmsr(&mut self, msr: u32, value: u64, _now: u64) -> Result<(), Fault> {
        let outcome = if msr == msr::APIC_BASE {
            // The page stays where it is and x2APIC does not exist.
            let fixed = msr::APIC_ENABLE | layout::LAPIC_BASE | 1 << 8;
            if value & !fixed != 0 || value & layout::LAPIC_BASE != layout::LAPIC_BASE {
                Err(Fault)
            } else {
                self.lapic
                    .set_hardware_enabled(value & msr::APIC_ENABLE != 0);
                self.publish_route();
                Ok(())
            }
        } else {
            self.msrs.write(msr, value)
        };
        self.count_fault(outcome)
    }

    fn count_fault<T>(&mut self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.inspect_err(|Fault| self.unknown_msr = self.unknown_msr.saturating_add(1))
    }

    /// Whether XSETBV with this register number (ECX) and value may be executed
    /// for the guest.
    pub fn check_xsetbv(&self, index: u32, value: u64) -> Result<(), Fault> {
        if index == 0 && self.cpuid.xcr0_allowed(value) {
            Ok(())
        } else {
            Err(Fault)
        }
    }

    /// Edge of an interrupt that comes from outside of this machine's devices, such
    /// as a hypervisor's own. Lost while the local APIC is off.
    pub fn raise_interrupt(&mut self, vector: u8) {
        self.lapic.receive(Message {
            destination: 0xff,
            logical: false,
            mode: crate::interrupt::mode::FIXED,
            vector,
            level: false,
        });
    }

    /// The interrupt to deliver next, if the task priority lets one through.
    /// Asking changes nothing. An interrupt that was offered to the guest and not
    /// taken may be replaced by a more urgent one.
    pub fn pending_interrupt(&self) -> Option<PendingInterrupt> {
        self.lapic.pending()
    }

    /// The most urgent interrupt above those in service, whatever the task priority:
    /// for a processor that compares with the task priority by itself.
    pub fn requested_interrupt(&self) -> Option<PendingInterrupt> {
        self.lapic.requested()
    }

    /// Class of vectors that the task priority holds back, as in CR8.
    pub fn task_priority(&self) -> u8 {
        self.lapic.task_priority()
    }

    /// The guest has written CR8, which is the same register.
    pub fn set_task_priority(&mut self, class: u8) {
        self.lapic.set_task_priority(class);
    }

    /// The guest has taken (or will surely take) this interrupt: it moves from
    /// requested to in service.
    pub fn accept_interrupt(&mut self, vector: u8) {
        self.lapic.accept(vector);
    }

    /// Whether an NMI waits.
    pub fn has_nmi(&self) -> bool {
        self.lapic.has_nmi()
    }

    /// Whether the guest sent itself an NMI; asking takes it.
    pub fn take_nmi(&mut self) -> bool {
        self.lapic.take_nmi()
    }

    /// When [`Machine::advance`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        let own = self.lapic.next_deadline();
        if self.place.id != 0 {
            return own;
        }
        // The first processor serves the devices.
        let nic = self.board.nic_deadline.load(SeqCst);
        own.into_iter().chain((nic != NEVER).then_some(nic)).min()
    }

    /// Lets timers expire that are due at `now`. May be called at any time.
    pub fn advance(&mut self, now: u64) {
        self.now = now;
        self.lapic.advance(now);
        if self.place.id == 0 && self.board.nic_deadline.load(SeqCst) <= now {
            self.with_devices(|_, _| ());
        }
    }

    /// Has `write` write the next bytes that the guest sent to its serial port, at most
    /// 256 of them, in the order in which the guest sent them: while one
    /// processor writes, others that have bytes wait. `write` must not come back here.
    pub fn drain_console(&mut self, write: impl FnOnce(&[u8])) {
        if self.board.left.load(SeqCst) & left::CONSOLE == 0 {
            return;
        }
        count_lock();
        let order = self.board.console.lock();
        let mut bytes = [0; CONSOLE_BYTES];
        let take = |devices: &mut Devices| devices.uart.take_output(&mut bytes);
        let count = self.board.take_left(left::CONSOLE, take);
        if let Some(bytes @ [_, ..]) = bytes.get(..count) {
            write(bytes);
        }
        drop(order);
    }

    /// Types bytes into the guest's serial port; how many found room.
    pub fn put_console(&mut self, bytes: &[u8]) -> usize {
        self.with_devices(|devices, _| devices.uart.put_input(bytes))
    }

    /// Moves bytes that the guest sent to its audit port into `buf`; how many.
    pub fn take_audit(&mut self, buf: &mut [u8]) -> usize {
        let take = |devices: &mut Devices| devices.audit.take_output(buf);
        self.board.take_left(left::AUDIT, take)
    }

    /// How many bytes [`Machine::put_audit`] has room for.
    pub fn audit_room(&self) -> usize {
        self.board.lock().audit.input_room()
    }

    /// Sends bytes to the guest's audit port; how many found room.
    pub fn put_audit(&mut self, bytes: &[u8]) -> usize {
        self.with_devices(|devices, _| devices.audit.put_input(bytes))
    }

    /// The guest switched itself off or reset itself; asking takes the event.
    pub fn take_power_event(&mut self) -> Option<PowerEvent> {
        let take = |devices: &mut Devices| devices.power.take_event();
        self.board.take_left(left::POWER, take)
    }
}

#[cfg(test)]
mod pairs;
#[cfg(test)]
mod processors;
#[cfg(test)]
mod tests;
