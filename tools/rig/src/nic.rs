//! The far end of the VM's network: QEMU's virtio-net-pci, driven with the
//! `virtio-drivers` crate. Addresses are physical = virtual below 4 GiB, which
//! is how the rig maps its own memory; buffers come from its heap.
//!
//! Interrupts: INTx, level-triggered. The owner lets the PCI lines through its
//! I/O APIC and calls [`Nic::handle_interrupt`], which makes the device drop its
//! line. Without interrupts everything works by polling.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use hostkit::backend::Backend;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, InterruptStatus};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use x86_64::instructions::port::Port;

/// Descriptors per queue; QEMU's default.
const QUEUE: usize = 256;
/// Receive buffers given to the device.
const RECEIVE_BUFFERS: usize = 192;
/// Size of every buffer: virtio header and one frame of up to 1522 bytes.
const BUFFER: usize = 2048;
/// Bytes of the virtio header in front of a frame (virtio 1.x).
const HEADER: usize = 12;
/// Frames that wait when the device's queue is full; more are dropped.
const BACKLOG: usize = 1024;
/// Sent buffers are taken back when this many are out. Taking them back late
/// keeps the device from interrupting for each.
const RECLAIM_AT: usize = QUEUE / 2;
/// Where BARs go that the firmware left empty or above 4 GiB: a hole of q35's
/// 32-bit PCI window that it does not use itself.
pub(crate) const BAR_WINDOW: u64 = 0xE000_0000;

/// Why there is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicError {
    /// No virtio network device on bus 0 (`-device virtio-net-pci,disable-legacy=on`).
    NotFound,
    /// Its BARs make no sense.
    Bars,
    /// The device refused to start.
    Device,
}

impl core::fmt::Display for NicError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            NicError::NotFound => "no virtio-net-pci device",
            NicError::Bars => "virtio-net-pci has unusable BARs",
            NicError::Device => "virtio-net-pci does not start",
        })
    }
}

/// DMA memory is heap memory: physical = virtual.
pub(crate) struct Identity;

// SAFETY: `dma_alloc` hands out zeroed, page-aligned memory of the global
// allocator that nobody else has; on the rig all memory below 4 GiB is mapped at
// its physical address, so MMIO and buffers need no translation.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let none = (0, NonNull::dangling());
        let Ok(layout) = Layout::from_size_align(pages.saturating_mul(PAGE_SIZE), PAGE_SIZE) else {
            return none;
        };
        if pages == 0 {
            return none;
        }
        // SAFETY: the layout is not of size zero.
        let memory = unsafe { alloc::alloc::alloc_zeroed(layout) };
        NonNull::new(memory).map_or(none, |p| (p.as_ptr() as PhysAddr, p))
    }

    unsafe fn dma_dealloc(_: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        let Ok(layout) = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE) else {
            return -1;
        };
        // SAFETY: allocated above with the same layout, as the caller promises.
        unsafe { alloc::alloc::dealloc(vaddr.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(paddr as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// PCI configuration space through ports CF8 and CFC.
pub(crate) struct Ports;

impl Ports {
    fn select(function: DeviceFunction, offset: u8) {
        let address = 1 << 31
            | u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(offset & !3);
        // SAFETY: selecting a configuration register changes nothing else; the
        // rig has one CPU that does this.
        unsafe { Port::new(0xCF8).write(address) }
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        Ports::select(function, offset);
        // SAFETY: reads the register selected above.
        unsafe { Port::new(0xCFC).read() }
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        Ports::select(function, offset);
        // SAFETY: `PciRoot` writes BARs and the command register only; the
        // addresses that this module gives to BARs are free.
        unsafe { Port::new(0xCFC).write(data) }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Ports
    }
}

/// What went through the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed to the device.
    pub sent: u64,
    /// Frames that wait for a descriptor.
    pub waiting: u64,
    /// Frames taken from it.
    pub received: u64,
    /// Frames that had no room.
    pub dropped: u64,
    /// Interrupts that the device had raised.
    pub interrupts: u64,
}

/// QEMU's NIC.
pub struct Nic {
    // Dropped first: it takes the queues away from the device before the buffers go.
    net: VirtIONetRaw<Identity, PciTransport, QUEUE>,
    /// Buffers of the device by token.
    receiving: Vec<Option<Box<[u8]>>>,
    sending: Vec<Option<Box<[u8]>>>,
    in_flight: usize,
    spare: Vec<Box<[u8]>>,
    /// Filled buffers (with their lengths) that wait for a descriptor.
    backlog: VecDeque<(Box<[u8]>, usize)>,
    counters: Counters,
}

/// Finds the device on bus 0 and starts it with all receive buffers given out.
pub fn init() -> Result<Nic, NicError> {
    let mut root = PciRoot::new(Ports);
    let (function, _) = root
        .enumerate_bus(0)
        .find(|(_, info)| virtio_device_type(info) == Some(DeviceType::Network))
        .ok_or(NicError::NotFound)?;
    place_bars(&mut root, function, BAR_WINDOW)?;
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
    let transport =
        PciTransport::new::<Identity, Ports>(&mut root, function).map_err(|_| NicError::Device)?;
    let net = VirtIONetRaw::new(transport).map_err(|_| NicError::Device)?;
    let mut nic = Nic {
        net,
        receiving: (0..QUEUE).map(|_| None).collect(),
        sending: (0..QUEUE).map(|_| None).collect(),
        in_flight: 0,
        spare: Vec::new(),
        backlog: VecDeque::new(),
        counters: Counters::default(),
    };
    for _ in 0..RECEIVE_BUFFERS {
        nic.offer(new_buffer());
    }
    Ok(nic)
}

fn new_buffer() -> Box<[u8]> {
    alloc::vec![0; BUFFER].into_boxed_slice()
}

/// Moves memory BARs that the rig cannot reach to `window` in the 32-bit hole.
pub(crate) fn place_bars(
    root: &mut PciRoot<Ports>,
    function: DeviceFunction,
    window: u64,
) -> Result<(), NicError> {
    let bars = root.bars(function).map_err(|_| NicError::Bars)?;
    let mut next = window;
    for (index, bar) in (0u8..).zip(bars) {
        let Some(bar @ BarInfo::Memory { .. }) = bar else {
            continue;
        };
        let wide = bar.takes_two_entries();
        let Some((address, size)) = bar.memory_address_size() else {
            continue;
        };
        if size == 0 || address != 0 && address.saturating_add(size) <= 1 << 32 {
            continue;
        }
        let place = next.next_multiple_of(size.max(PAGE_SIZE as u64));
        next = place + size;
        if wide {
            root.set_bar_64(function, index, place);
        } else {
            root.set_bar_32(function, index, place as u32);
        }
    }
    Ok(())
}

impl Nic {
    /// Gives the device a receive buffer.
    fn offer(&mut self, mut buffer: Box<[u8]>) {
        // SAFETY: the buffer stays in `receiving`, untouched, until the device
        // has given its token back.
        match unsafe { self.net.receive_begin(&mut buffer) } {
            Ok(token) => {
                if let Some(place) = self.receiving.get_mut(usize::from(token)) {
                    *place = Some(buffer);
                } else {
                    // The device may still write to it.
                    Box::leak(buffer);
                }
            }
            Err(_) => self.spare.push(buffer),
        }
    }

    /// Takes sent buffers back.
    fn reclaim(&mut self) {
        while let Some(token) = self.net.poll_transmit() {
            let Some(buffer) = self
                .sending
                .get_mut(usize::from(token))
                .and_then(Option::take)
            else {
                return;
            };
            let length = frame_length(&buffer);
            // SAFETY: this is the slice that `transmit_begin` got for this token.
            if unsafe {
                self.net
                    .transmit_complete(token, buffer.get(..length).unwrap_or_default())
            }
            .is_err()
            {
                Box::leak(buffer);
                return;
            }
            self.in_flight -= 1;
            self.spare.push(buffer);
        }
    }

    /// Hands waiting frames to the device.
    fn flush(&mut self) {
        if self.in_flight >= RECLAIM_AT || !self.backlog.is_empty() {
            self.reclaim();
        }
        while let Some((mut buffer, length)) = self.backlog.pop_front() {
            // The length is kept behind the frame, so that completion finds the same slice.
            set_frame_length(&mut buffer, length);
            // SAFETY: the buffer stays in `sending`, untouched, until `reclaim`.
            match unsafe {
                self.net
                    .transmit_begin(buffer.get(..length).unwrap_or_default())
            } {
                Ok(token) => {
                    self.counters.sent += 1;
                    self.in_flight += 1;
                    match self.sending.get_mut(usize::from(token)) {
                        Some(place) => *place = Some(buffer),
                        None => {
                            Box::leak(buffer);
                        }
                    }
                }
                Err(_) => {
                    self.backlog.push_front((buffer, length));
                    return;
                }
            }
        }
    }

    /// Makes the device drop its interrupt line. `true` if it had raised it: then
    /// frames may wait.
    pub fn handle_interrupt(&mut self) -> bool {
        let raised = self.net.ack_interrupt() != InterruptStatus::empty();
        self.counters.interrupts += u64::from(raised);
        self.flush();
        raised
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        Counters {
            waiting: self.backlog.len() as u64,
            ..self.counters
        }
    }
}

/// Length of the slice that a send buffer was given to the device with; its last
/// two bytes hold it (frames end before them).
fn frame_length(buffer: &[u8]) -> usize {
    buffer
        .last_chunk::<2>()
        .map_or(0, |b| usize::from(u16::from_le_bytes(*b)))
}

fn set_frame_length(buffer: &mut [u8], length: usize) {
    if let Some(place) = buffer.last_chunk_mut::<2>() {
        *place = (length as u16).to_le_bytes();
    }
}

impl Backend for Nic {
    fn mac(&self) -> [u8; 6] {
        self.net.mac_address()
    }

    fn send(&mut self, frame: &[u8]) {
        let length = HEADER + frame.len();
        if length > BUFFER - 2 || self.backlog.len() >= BACKLOG {
            self.counters.dropped += 1;
            return;
        }
        let mut buffer = self.spare.pop().unwrap_or_else(new_buffer);
        if let Some(head) = buffer.get_mut(..HEADER) {
            head.fill(0);
        }
        if let Some(place) = buffer.get_mut(HEADER..length) {
            place.copy_from_slice(frame);
        }
        self.backlog.push_back((buffer, length));
        self.flush();
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        if !self.backlog.is_empty() {
            self.flush();
        }
        let Some(token) = self.net.poll_receive() else {
            return false;
        };
        let Some(mut buffer) = self
            .receiving
            .get_mut(usize::from(token))
            .and_then(Option::take)
        else {
            return false;
        };
        // SAFETY: this is the buffer that `receive_begin` got for this token.
        let done = unsafe { self.net.receive_complete(token, &mut buffer) };
        let bytes = done
            .ok()
            .and_then(|(head, len)| buffer.get(head..head.checked_add(len)?));
        let there = match bytes {
            Some(bytes) => {
                frame.clear();
                frame.extend_from_slice(bytes);
                self.counters.received += 1;
                true
            }
            None => false,
        };
        self.offer(buffer);
        there
    }
}
