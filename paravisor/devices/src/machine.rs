//! The whole machine: routes accesses to devices and interrupts to the processors.
//!
//! What a processor has for itself (local APIC, MSRs) lies in its [`Machine`] and is
//! reached without a lock. The devices that all processors share are one `Devices`
//! behind one lock, which is held for one access, never across one.

use crate::cpuid::{Cpuid, Place};
use crate::interrupt::apics::Apics;
use crate::interrupt::post::{Post, Wake};
use crate::interrupt::{Deliver, Message, ioapic::IoApic, lapic::Lapic};
use crate::layout;
use crate::msr::{self, Msrs};
use crate::nic::Nic;
use crate::pci::{self, ConfigAddress, ConfigSpace};
use crate::power::Power;
use crate::rtc::Rtc;
use crate::uart::Uart;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use memory::{GuestMemory, Parcel};
use spin::Mutex;
use validate::frame::{Arrived, Task};

const PCI_CONFIG_DATA_FIRST: u16 = layout::PCI_CONFIG_DATA;
const PCI_CONFIG_DATA_LAST: u16 = layout::PCI_CONFIG_DATA + 3;
const UART_FIRST: u16 = layout::UART_BASE;
const UART_LAST: u16 = layout::UART_BASE + 7;
const AUDIT_FIRST: u16 = layout::AUDIT_UART_BASE;
const AUDIT_LAST: u16 = layout::AUDIT_UART_BASE + 7;
const RTC_DATA: u16 = layout::RTC_BASE + 1;

/// CPUID leaves of the real processor, as far as the platform vouches for them
/// (SEV-SNP: the CPUID page that the firmware checked).
pub trait CpuidSource {
    /// EAX, EBX, ECX, EDX of a leaf; `None` if the platform has no such leaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]>;
}

/// Most processors of a machine: one bit each in a word.
pub const MAX_PROCESSORS: u8 = 64;

/// What the machine is made of.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Bytes of RAM from guest-physical address 0.
    pub memory_size: u64,
    /// Rate of the guest's TSC in Hz.
    pub tsc_hz: u64,
    /// MAC address of the NIC.
    pub mac: [u8; 6],
    /// MTU of the NIC (payload of an Ethernet frame), 1280 to 9000.
    pub mtu: u16,
    /// Whether the NIC starts with its link up.
    pub link_up: bool,
    /// Processors of the guest, 1 to [`MAX_PROCESSORS`].
    pub processors: u8,
    /// Seconds since 1970 (UTC) at clock 0, for the CMOS clock.
    pub epoch_seconds: u64,
    /// Whether ACPI tells the guest of the PM timer, which is right only where
    /// three port reads take less than 20 µs. If not, ACPI is hardware-reduced and
    /// the guest needs [`crate::boot::clock_parameters`] (see the head of the crate).
    pub advertise_pm_timer: bool,
}

/// The network cards that a machine can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicModel {
    /// virtio-net over PCI.
    #[default]
    Virtio,
    /// Intel 82574L, for guests that have no virtio driver.
    E1000e,
}

/// The access ends in an exception: `#GP(0)` is to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The NIC has no receive buffer posted by the guest; try again after
/// [`NicEvents::rx_refilled`] or drop the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBuffer;

/// What the guest did to its machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// ACPI S5.
    PowerOff,
    /// Reset register.
    Reset,
}

/// An interrupt that the local APIC wants to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingInterrupt {
    /// Vector, 16 to 255.
    pub vector: u8,
    /// Priority class (vector / 16), for V_INTR_PRIO.
    pub priority: u8,
}

/// Registers of the guest on which CPUID depends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidState {
    /// CR4 (OSXSAVE is bit 18).
    pub cr4: u64,
    /// XCR0 (for the size in leaf 0xd; 1 if not known).
    pub xcr0: u64,
}

/// What happened at the NIC since the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicEvents {
    /// The guest rang the transmit queue: call [`Machine::take_tx`] until `None`.
    pub tx_kicked: bool,
    /// The guest posted receive buffers.
    pub rx_refilled: bool,
    /// The driver reset the device (a new driver comes, or none).
    pub reset: bool,
}

/// Things that an ordinary guest does not do, and traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Port accesses that no device answered.
    pub unknown_port: u64,
    /// MMIO accesses that no device answered.
    pub unknown_mmio: u64,
    /// MSR accesses that ended in #GP.
    pub unknown_msr: u64,
    /// Frames taken from the guest.
    pub tx_frames: u64,
    /// Frames given to the guest.
    pub rx_frames: u64,
    /// Frames of the guest that could not be used (malformed chains, too long).
    pub tx_dropped: u64,
    /// Frames for the guest that did not fit its buffers.
    pub rx_dropped: u64,
    /// Frames for the guest that its filters did not want.
    pub rx_filtered: u64,
    /// Times the NIC stopped until a reset because its driver broke a rule.
    pub nic_broken: u64,
    /// Console bytes lost because nobody drained them.
    pub console_lost: u64,
    /// Interrupt messages that no processor took.
    pub ignored_interrupts: u64,
}

/// What another processor did to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// INIT: it is to be reset and then to wait; `start` came after it.
    pub init: bool,
    /// SIPI: it is to start at this page number, if it waits for that.
    pub start: Option<u8>,
}

/// The machine as one of its processors sees it, which is the one that owns this.
pub struct Machine {
    place: Place,
    cpuid: Arc<Cpuid>,
    msrs: Msrs,
    lapic: Lapic,
    board: Arc<Board>,
    /// Processors that must be woken to see what was left for them.
    kicks: u64,
    unknown_msr: u64,
}

/// What all processors share.
struct Board {
    devices: Mutex<Devices>,
    /// One per processor.
    posts: Vec<Post>,
    /// The devices have something for the processor that serves them.
    attention: AtomicBool,
    /// Processors which only another one can wake, by bits.
    resting: AtomicU64,
    /// When the NIC has to be looked at, at the latest; [`NEVER`] if it need not be.
    nic_deadline: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// The devices.
struct Devices {
    ioapic: IoApic,
    uart: Uart,
    /// COM2, behind which the owner answers questions about its audit.
    audit: Uart,
    audit_touched: bool,
    rtc: Rtc,
    power: Power,
    config_address: ConfigAddress,
    host_bridge: ConfigSpace,
    nic: Nic,
    unknown_port: u64,
    unknown_mmio: u64,
}

impl Machine {
    /// A machine after power-on, at clock 0 or later, as its first processor sees it.
    pub fn new(config: &MachineConfig, host: &dyn CpuidSource) -> Machine {
        Machine::with_nic(config, host, NicModel::Virtio)
    }

    /// The same with a network card of that model.
    pub fn with_nic(config: &MachineConfig, host: &dyn CpuidSource, nic: NicModel) -> Machine {
        let count = config.processors.clamp(1, MAX_PROCESSORS);
        let devices = Devices {
            ioapic: IoApic::new(),
            uart: Uart::new(),
            audit: Uart::new(),
            audit_touched: false,
            rtc: Rtc::new(config.epoch_seconds),
            power: Power::default(),
            config_address: ConfigAddress::default(),
            host_bridge: pci::host_bridge(),
            nic: Nic::new(config, nic),
            unknown_port: 0,
            unknown_mmio: 0,
        };
        let machine = Machine {
            place: Place { id: 0, count },
            cpuid: Arc::new(Cpuid::new(host)),
            msrs: Msrs::new(true, config.tsc_hz, config.memory_size),
            lapic: Lapic::new(0),
            board: Arc::new(Board {
                devices: Mutex::new(devices),
                posts: (0..count).map(|_| Post::new()).collect(),
                attention: AtomicBool::new(true),
                resting: AtomicU64::new(0),
                nic_deadline: AtomicU64::new(NEVER),
            }),
            kicks: 0,
            unknown_msr: 0,
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
            board: self.board.clone(),
            kicks: 0,
            unknown_msr: 0,
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

    /// Whether the devices may have something for the processor that serves them
    /// (the first): console output, questions at the audit port, power events, work of
    /// the NIC. Asking takes the hint.
    pub fn take_attention(&self) -> bool {
        // Nearly always there is none, and then nothing is written.
        self.board.attention.load(SeqCst) && self.board.attention.swap(false, SeqCst)
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
            ..
        } = self;
        let mut apics = Apics {
            own: lapic,
            posts: &board.posts,
            kicks,
        };
        let mut devices = board.devices.lock();
        let value = act(&mut devices, &mut apics);
        devices.update_lines(&mut apics);
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
        let (value, chores) = self.with_devices(|devices, apics| {
            let value = act(devices, apics);
            (value, !first && devices.take_chores())
        });
        self.board.attention.store(true, SeqCst);
        if chores || !first && self.board.nic_deadline.load(SeqCst) < deadline {
            let first = self.board.posts.first();
            if first.is_some_and(|post| post.call() == Wake::Kick) {
                self.kicks |= 1;
            }
        }
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
        match gpa & !0xfff {
            layout::LAPIC_BASE if self.lapic.hardware_enabled() => {
                self.lapic_write(gpa & 0xfff, value as u32, now);
            }
            _ => self.access(|devices, apics| devices.mmio_write(gpa, size, value, now, apics)),
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
        self.lapic.advance(now);
        if self.place.id == 0 && self.board.nic_deadline.load(SeqCst) <= now {
            self.with_devices(|devices, _| devices.nic.advance(now));
        }
    }

    /// Moves bytes that the guest sent to its serial port into `buf`; how many.
    pub fn take_console(&mut self, buf: &mut [u8]) -> usize {
        self.board.devices.lock().uart.take_output(buf)
    }

    /// Types bytes into the guest's serial port; how many found room.
    pub fn put_console(&mut self, bytes: &[u8]) -> usize {
        self.with_devices(|devices, _| devices.uart.put_input(bytes))
    }

    /// Moves bytes that the guest sent to its audit port into `buf`; how many.
    pub fn take_audit(&mut self, buf: &mut [u8]) -> usize {
        self.board.devices.lock().audit.take_output(buf)
    }

    /// How many bytes [`Machine::put_audit`] has room for.
    pub fn audit_room(&self) -> usize {
        self.board.devices.lock().audit.input_room()
    }

    /// Sends bytes to the guest's audit port; how many found room.
    pub fn put_audit(&mut self, bytes: &[u8]) -> usize {
        self.with_devices(|devices, _| devices.audit.put_input(bytes))
    }

    /// The guest switched itself off or reset itself; asking takes the event.
    pub fn take_power_event(&mut self) -> Option<PowerEvent> {
        self.board.devices.lock().power.take_event()
    }

    /// What happened at the NIC; asking takes the events.
    pub fn take_nic_events(&mut self) -> NicEvents {
        self.board.devices.lock().nic.take_events()
    }

    /// The next frame that the guest sends, copied into `buf` without the
    /// card's header: its length, and what the guest leaves to its card. Frames that do not
    /// fit `buf` or ask for what cannot be are dropped and counted. `None`: nothing
    /// to send now; the guest will ring (`tx_kicked`) when there is.
    pub fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        self.with_devices(|devices, _| devices.nic.take_frame(guest, buf))
    }

    /// [`Machine::take_frame`] for a guest that leaves nothing to its card.
    pub fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        self.take_frame(guest, buf).map(|(len, _)| len)
    }

    /// Gives a frame (from the destination MAC on, without FCS) to the guest, written
    /// straight into its buffers. Frames longer than MTU + 18 bytes, and those for
    /// which the guest's next buffer is too small, are dropped and counted. After
    /// `NoBuffer` nothing of the parcel has been written.
    pub fn deliver(
        &mut self,
        guest: &impl GuestMemory,
        parcel: &mut Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), NoBuffer> {
        self.with_devices(|devices, _| devices.nic.deliver(guest, parcel, arrived))
    }

    /// Whether the card writes frames to the guest piece by piece; else
    /// [`Machine::deliver`] wants them private and whole.
    pub fn takes_pieces(&self) -> bool {
        self.board.devices.lock().nic.takes_pieces()
    }

    /// [`Machine::deliver`] for a frame that is private and of which nothing is known.
    pub fn deliver_rx(&mut self, guest: &impl GuestMemory, frame: &[u8]) -> Result<(), NoBuffer> {
        self.deliver(guest, &mut Parcel::private(frame), Arrived::default())
    }

    /// Tells the guest that the link went up or down.
    pub fn set_link(&mut self, up: bool) {
        self.with_devices(|devices, _| devices.nic.set_link(up));
    }

    /// Counters since start: the devices' and this processor's.
    pub fn counters(&self) -> Counters {
        let devices = self.board.devices.lock();
        let traffic = devices.nic.traffic();
        Counters {
            unknown_port: devices.unknown_port,
            unknown_mmio: devices.unknown_mmio,
            unknown_msr: self.unknown_msr,
            tx_frames: traffic.tx_frames,
            rx_frames: traffic.rx_frames,
            tx_dropped: traffic.tx_dropped,
            rx_dropped: traffic.rx_dropped,
            rx_filtered: traffic.rx_filtered,
            nic_broken: traffic.broken,
            console_lost: devices.uart.lost,
            ignored_interrupts: self.lapic.ignored_messages,
        }
    }
}

impl Devices {
    fn io_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
        let value = match port {
            layout::PCI_CONFIG_ADDRESS if size == 4 => self.config_address.read(),
            PCI_CONFIG_DATA_FIRST..=PCI_CONFIG_DATA_LAST => self.pci_read(port, size),
            _ => {
                // Everything else is made of byte registers.
                let mut value = 0u32;
                for index in (0..u16::from(size.min(4))).rev() {
                    let at = port.wrapping_add(index);
                    value = value << 8 | u32::from(self.port_read(at, now));
                }
                value
            }
        };
        value & low_bytes(size)
    }

    fn io_write(&mut self, port: u16, size: u8, value: u32) {
        match port {
            layout::PCI_CONFIG_ADDRESS if size == 4 => self.config_address.write(value),
            PCI_CONFIG_DATA_FIRST..=PCI_CONFIG_DATA_LAST => self.pci_write(port, size, value),
            _ => {
                for (index, byte) in (0..u16::from(size.min(4))).zip(value.to_le_bytes()) {
                    self.port_write(port.wrapping_add(index), byte);
                }
            }
        }
    }

    fn port_read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            UART_FIRST..=UART_LAST => self.uart.read(port),
            AUDIT_FIRST..=AUDIT_LAST => {
                self.audit_touched = true;
                self.audit.read(port)
            }
            RTC_DATA => self.rtc.read(now),
            // No 8254. Linux takes an endless row of 0xff from its data ports for the
            // high byte of a counter that runs, and reads on 100 000 times before it
            // gives up (`quick_pit_calibrate`); a counter that stands at zero ends it
            // after two reads.
            layout::PIT_FIRST..=layout::PIT_LAST => {
                self.unknown_port = self.unknown_port.saturating_add(1);
                0
            }
            _ => self.power.read(port, now).unwrap_or_else(|| {
                self.unknown_port = self.unknown_port.saturating_add(1);
                0xff
            }),
        }
    }

    fn port_write(&mut self, port: u16, value: u8) {
        match port {
            UART_FIRST..=UART_LAST => self.uart.write(port, value),
            AUDIT_FIRST..=AUDIT_LAST => {
                self.audit_touched = true;
                self.audit.write(port, value);
            }
            layout::RTC_BASE => self.rtc.select(value),
            RTC_DATA => self.rtc.write(value),
            // Port 0x80: Linux writes it to pass a microsecond.
            0x80 => {}
            _ => {
                if !self.power.write(port, value) {
                    self.unknown_port = self.unknown_port.saturating_add(1);
                }
            }
        }
    }

    /// The register and size of an access to the configuration data port; an
    /// access that leaves the port's four bytes is none.
    fn pci_target(&self, port: u16, size: u8) -> Option<(u8, usize)> {
        let byte = port.wrapping_sub(layout::PCI_CONFIG_DATA) as u8;
        let selected = self.config_address.selected()?;
        (matches!(size, 1 | 2 | 4) && byte.saturating_add(size) <= 4)
            .then(|| (selected.device, usize::from(selected.register | byte)))
    }

    fn pci_read(&mut self, port: u16, size: u8) -> u32 {
        match self.pci_target(port, size) {
            Some((0, offset)) => self.host_bridge.read(offset, size),
            Some((layout::NIC_DEVICE, offset)) => self.nic.config_read(offset, size),
            // Nobody answers: a master abort reads all ones.
            _ => u32::MAX,
        }
    }

    fn pci_write(&mut self, port: u16, size: u8, value: u32) {
        match self.pci_target(port, size) {
            Some((0, offset)) => self.host_bridge.write(offset, size, value),
            Some((layout::NIC_DEVICE, offset)) => {
                self.nic.config_write(offset, size, value);
            }
            _ => {}
        }
    }

    fn mmio_read(&mut self, gpa: u64, size: u8, now: u64) -> u64 {
        match gpa & !0xfff {
            layout::IOAPIC_BASE => u64::from(self.ioapic.read(gpa & 0xfff)),
            _ => match self.nic.decode(gpa) {
                Some((bar, offset)) => self.nic.bar_read(bar, offset, size, now),
                None => {
                    self.unknown_mmio = self.unknown_mmio.saturating_add(1);
                    u64::MAX
                }
            },
        }
    }

    fn mmio_write(&mut self, gpa: u64, size: u8, value: u64, now: u64, apics: &mut Apics<'_>) {
        match gpa & !0xfff {
            layout::IOAPIC_BASE => self.ioapic.write(gpa & 0xfff, value as u32, apics),
            _ => match self.nic.decode(gpa) {
                Some((bar, offset)) => self.nic.bar_write(bar, offset, size, value, now),
                None => self.unknown_mmio = self.unknown_mmio.saturating_add(1),
            },
        }
    }

    /// Whether there is something that only the processor which serves the devices
    /// can do.
    fn take_chores(&mut self) -> bool {
        core::mem::take(&mut self.audit_touched) || self.nic.has_events()
    }

    /// Carries interrupts from the devices to the APICs.
    fn update_lines(&mut self, apics: &mut Apics<'_>) {
        while let Some((address, data)) = self.nic.next_message() {
            if let Some(message) = Message::from_msi(address, data) {
                apics.deliver(message);
            }
        }
        let intx = self.nic.intx();
        self.ioapic.set_line(layout::NIC_PIN, intx, apics);
        self.ioapic
            .set_line(layout::UART_PIN, self.uart.line(), apics);
        self.ioapic
            .set_line(layout::AUDIT_UART_PIN, self.audit.line(), apics);
    }
}

/// A mask of `size` bytes, at most four.
fn low_bytes(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects
)]
mod processors;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects
)]
mod tests;
