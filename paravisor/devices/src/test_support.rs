//! The other side, for tests here and in rooms above: a guest's RAM, a processor,
//! and a virtio-net driver that works the machine through its ports and registers
//! as a kernel does. Nothing here is part of the product.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test double may panic, in crates that are not tests themselves, too"
)]

pub mod e1000e;

use crate::{CpuidSource, Machine, MachineConfig};
use abi::pci::{capability, header, msix};
use abi::virtio::pci::{self, common};
use abi::virtio::{feature, net, queue, status};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use memory::{GuestMemory, OutOfRange, SharedMemory};
use validate::frame::HashKinds;

/// A processor of AMD's family 0x17, as QEMU's `-cpu EPYC` shows it.
pub struct HostCpu;

impl CpuidSource for HostCpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        Some(match (leaf, subleaf) {
            (0, _) => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            (1, _) => [0x0080_0f12, 0x0000_0800, 0xfed8_3203, 0x078b_fbff],
            (7, 0) => [0, 0x209c_01a9, 0, 0],
            (0xd, 0) => [7, 576, 832, 0],
            (0xd, 1) => [0xf, 832, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (0x8000_0000, _) => [0x8000_001e, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            (0x8000_0001, _) => [0x0080_0f12, 0, 0x0040_03f7, 0x2fd3_fbff],
            (0x8000_0008, _) => [0x3030, 0x0000_1005, 0, 0],
            (0x8000_000a, _) => [1, 16, 0, 1],
            (0x8000_001f, _) => [7, 0x240, 0, 0],
            _ => return None,
        })
    }
}

/// A configuration to test with: 512 MiB, MTU 1500, link up.
pub fn config() -> MachineConfig {
    MachineConfig {
        memory_size: 512 << 20,
        tsc_hz: 2_000_000_000,
        mac: [0x02, 0, 0, 0xaa, 0xbb, 0xcc],
        mtu: 1500,
        link_up: true,
        processors: 1,
        queue_pairs: 1,
        hash: HashKinds::empty(),
        epoch_seconds: 1_700_000_000,
        advertise_pm_timer: true,
    }
}

/// A guest's RAM from address 0, for several processors: an access is whole.
pub struct Ram(spin::Mutex<Vec<u8>>, [AtomicU64; 2]);

impl Ram {
    /// `size` bytes of zeros.
    pub fn new(size: usize) -> Ram {
        Ram(spin::Mutex::new(vec![0; size]), Default::default())
    }

    /// Bytes copied from here into private memory, and from private memory to here.
    pub fn copied(&self) -> [u64; 2] {
        self.1.each_ref().map(|count| count.load(Relaxed))
    }

    /// Reads a little-endian number of `N` bytes.
    pub fn get<const N: usize>(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes[..N]).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Writes a little-endian number of `N` bytes.
    pub fn set<const N: usize>(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes()[..N]).unwrap();
    }

    fn range(&self, gpa: u64, len: usize) -> Result<core::ops::Range<usize>, OutOfRange> {
        let start = usize::try_from(gpa).map_err(|_| OutOfRange)?;
        let end = start.checked_add(len).ok_or(OutOfRange)?;
        if end > self.0.lock().len() {
            Err(OutOfRange)
        } else {
            Ok(start..end)
        }
    }
}

impl GuestMemory for Ram {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let range = self.range(gpa, dst.len())?;
        self.1[0].fetch_add(dst.len() as u64, Relaxed);
        dst.copy_from_slice(&self.0.lock()[range]);
        Ok(())
    }

    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        let range = self.range(gpa, src.len())?;
        self.1[1].fetch_add(src.len() as u64, Relaxed);
        self.0.lock()[range].copy_from_slice(src);
        Ok(())
    }

    /// In one go, as in the firmware.
    fn write_shared(
        &self,
        gpa: u64,
        from: &dyn SharedMemory,
        offset: usize,
        len: usize,
    ) -> Result<(), OutOfRange> {
        let range = self.range(gpa, len)?;
        from.copy_in(offset, &mut self.0.lock()[range])
    }
}

/// The card's owner hears that there is something to send, and takes exactly `sent`.
pub fn take_all(machine: &mut Machine, ram: &Ram, sent: &[Vec<u8>]) {
    assert!(machine.take_nic_events().tx_kicked);
    let mut buf = [0; 1600];
    for frame in sent {
        assert_eq!(machine.take_tx(ram, &mut buf), Some(frame.len()));
        assert_eq!(&buf[..frame.len()], frame);
    }
    assert_eq!(machine.take_tx(ram, &mut buf), None);
}

/// Bytes of RAM that the driver uses from its base on, for each queue pair.
pub const DRIVER_RAM: u64 = 0x20_0000;
/// Bytes of each buffer that the driver posts.
const BUFFER: u64 = 2048;
/// Vectors of the interrupts: configuration, receive, transmit. Further queues have
/// those that follow; those of a pair go to the processor with its number.
pub const VECTORS: [u8; 3] = [0x40, 0x41, 0x42];

/// One virtqueue as a driver keeps it: descriptor `i` always owns buffer `i`.
#[derive(Clone)]
struct DriverQueue {
    index: u16,
    size: u16,
    /// Descriptors, available ring, used ring, buffers.
    desc: u64,
    avail: u64,
    used: u64,
    buffers: u64,
    next_avail: u16,
    next_used: u16,
    free: Vec<u16>,
}

/// A virtio-net driver: found by PCI enumeration, interrupts by MSI-X.
pub struct NetDriver {
    bar: u64,
    common: u64,
    isr: u64,
    device: u64,
    notify: u64,
    msix_table: u64,
    msix_capability: u8,
    /// Vectors of the card.
    vectors: u16,
    /// Features that were agreed on.
    pub features: u64,
    event_idx: bool,
    queues: Vec<DriverQueue>,
}

/// Reads a configuration register of the NIC through the ports.
pub fn config_read(machine: &mut Machine, offset: u8, size: u8) -> u32 {
    machine.io_write(0xcf8, 4, 0x8000_0800 | u32::from(offset & 0xfc), 0);
    machine.io_read(0xcfc + u16::from(offset & 3), size, 0)
}

/// Writes a configuration register of the NIC.
pub fn config_write(machine: &mut Machine, offset: u8, size: u8, value: u32) {
    machine.io_write(0xcf8, 4, 0x8000_0800 | u32::from(offset & 0xfc), 0);
    machine.io_write(0xcfc + u16::from(offset & 3), size, value, 0);
}

impl NetDriver {
    /// Finds the NIC, takes it over with the `wanted` features and rings at `base`
    /// of RAM, and says DRIVER_OK. The local APIC is turned on.
    pub fn start(machine: &mut Machine, ram: &Ram, base: u64, wanted: u64) -> NetDriver {
        NetDriver::start_pairs(machine, ram, base, wanted, 1)
    }

    /// As `start`, with the queues of so many pairs, and the control queue if there are
    /// several or hashes were agreed on. Of those, one is in use so far.
    pub fn start_pairs(
        machine: &mut Machine,
        ram: &Ram,
        base: u64,
        wanted: u64,
        pairs: u16,
    ) -> NetDriver {
        machine.mmio_write(0xfee0_00f0, 4, 0x1ff, 0);
        let mut driver = NetDriver::probe(machine);
        driver.negotiate(machine, wanted);
        let most = driver.device_config(machine, net::CONFIG_MAX_PAIRS, 2) as u16;
        let hashes = driver.features & feature::NET_HASH_REPORT != 0;
        let control = (pairs > 1 || hashes).then_some(2 * most);
        for index in (0..2 * pairs).chain(control) {
            // The control queue lies behind the queues of all pairs.
            let place = u64::from(index.min(2 * pairs));
            driver.set_up_queue(machine, ram, index, base + place * DRIVER_RAM / 2);
        }
        driver.add_status(machine, status::DRIVER_OK);
        driver
    }

    /// The driver's half that works one pair. From then on the pair is that half's.
    pub fn pair(&self, pair: u16) -> NetDriver {
        let first = 2 * usize::from(pair);
        NetDriver {
            queues: self.queues[first..first + 2].to_vec(),
            ..*self
        }
    }

    /// Sends a command of these bytes by the control queue.
    pub fn command(&mut self, machine: &mut Machine, ram: &Ram, bytes: &[u8]) {
        let (last, notify) = (self.queues.len() - 1, self.notify);
        let queue = &mut self.queues[last];
        ram.write(queue.buffers, bytes).unwrap();
        ram.set::<1>(queue.buffers + BUFFER, 0xaa);
        for (at, len, flags, next) in [
            (0, bytes.len() as u64, queue::DESC_NEXT, 1),
            (1, 1, queue::DESC_WRITE, 0),
        ] {
            ram.set::<8>(queue.desc + 16 * at, queue.buffers + BUFFER * at);
            ram.set::<4>(queue.desc + 16 * at + 8, len);
            ram.set::<2>(queue.desc + 16 * at + 12, flags.into());
            ram.set::<2>(queue.desc + 16 * at + 14, next);
        }
        let slot = u64::from(queue.next_avail % queue.size);
        ram.set::<2>(queue.avail + queue::RING_OFFSET + 2 * slot, 0);
        queue.next_avail = queue.next_avail.wrapping_add(1);
        ram.set::<2>(queue.avail + queue::IDX_OFFSET, queue.next_avail.into());
        machine.mmio_write(notify + 4 * u64::from(queue.index), 2, 0, 0);
    }

    /// The answer to the last command, if it has come.
    pub fn answer(&mut self, ram: &Ram) -> Option<u8> {
        let last = self.queues.len() - 1;
        let queue = &mut self.queues[last];
        let used = ram.get::<2>(queue.used + queue::IDX_OFFSET) as u16;
        if used == queue.next_used {
            return None;
        }
        queue.next_used = queue.next_used.wrapping_add(1);
        assert_eq!(used, queue.next_used);
        Some(ram.get::<1>(queue.buffers + BUFFER) as u8)
    }

    /// Has the card use so many pairs; whether it took them.
    pub fn use_pairs(&mut self, machine: &mut Machine, ram: &Ram, count: u16) -> bool {
        let [low, high] = count.to_le_bytes();
        let command = [net::CTRL_MQ, net::CTRL_MQ_PAIRS_SET, low, high];
        self.command(machine, ram, &command);
        machine.serve_nic(ram);
        self.answer(ram) == Some(net::CTRL_OK)
    }

    /// Enumeration: identity, BARs, capabilities, bus mastering.
    pub fn probe(machine: &mut Machine) -> NetDriver {
        assert_eq!(config_read(machine, 0, 4), 0x1041_1af4);
        let bar_of = |machine: &mut Machine, index: u8| {
            u64::from(config_read(machine, header::BAR0 as u8 + 4 * index, 4) & !0xf)
        };
        config_write(machine, header::COMMAND as u8, 2, 0x6);
        let mut driver = NetDriver {
            bar: 0,
            common: 0,
            isr: 0,
            device: 0,
            notify: 0,
            msix_table: 0,
            msix_capability: 0,
            vectors: 0,
            features: 0,
            event_idx: false,
            queues: Vec::new(),
        };
        let mut at = config_read(machine, header::CAPABILITIES as u8, 1) as u8;
        while at != 0 {
            let id = config_read(machine, at, 1) as u8;
            if id == capability::MSIX {
                let table = config_read(machine, at + msix::TABLE as u8, 4);
                driver.msix_table = bar_of(machine, (table & 7) as u8) + u64::from(table & !7);
                driver.msix_capability = at;
                let last = config_read(machine, at + msix::CONTROL as u8, 2) & 0x7ff;
                driver.vectors = last as u16 + 1;
            } else {
                let kind = config_read(machine, at + pci::cap::CFG_TYPE as u8, 1) as u8;
                let bar = config_read(machine, at + pci::cap::BAR as u8, 1) as u8;
                let offset = config_read(machine, at + pci::cap::OFFSET as u8, 4);
                let address = bar_of(machine, bar) + u64::from(offset);
                match kind {
                    pci::CAP_COMMON => {
                        driver.bar = bar_of(machine, bar);
                        driver.common = address;
                    }
                    pci::CAP_ISR => driver.isr = address,
                    pci::CAP_DEVICE => driver.device = address,
                    pci::CAP_NOTIFY => {
                        assert_eq!(config_read(machine, at + pci::cap::EXTRA as u8, 4), 4);
                        driver.notify = address;
                    }
                    _ => {}
                }
            }
            at = config_read(machine, at + 1, 1) as u8;
        }
        driver
    }

    fn negotiate(&mut self, machine: &mut Machine, wanted: u64) {
        self.write(machine, common::DEVICE_STATUS, 1, 0);
        // Another processor may be at the queues of before; it ends with its frame.
        let mut polls = (0..1_000_000).map(|_| self.read(machine, common::DEVICE_STATUS, 1));
        assert!(polls.any(|status| status == 0));
        self.add_status(machine, status::ACKNOWLEDGE | status::DRIVER);
        let mut offered = 0;
        for half in 0..2u32 {
            self.write(machine, common::DEVICE_FEATURE_SELECT, 4, u64::from(half));
            offered |= self.read(machine, common::DEVICE_FEATURE, 4) << (32 * half);
        }
        self.features = offered & (wanted | feature::VERSION_1);
        self.event_idx = self.features & feature::EVENT_IDX != 0;
        for half in 0..2u32 {
            self.write(machine, common::DRIVER_FEATURE_SELECT, 4, u64::from(half));
            let bits = self.features >> (32 * half) & 0xffff_ffff;
            self.write(machine, common::DRIVER_FEATURE, 4, bits);
        }
        self.add_status(machine, status::FEATURES_OK);
        let now = self.read(machine, common::DEVICE_STATUS, 1) as u8;
        assert_eq!(now & status::FEATURES_OK, status::FEATURES_OK);
        for index in 0..u64::from(self.vectors) {
            let entry = self.msix_table + 16 * index;
            let queue = index.saturating_sub(1);
            let behind = index + 1 == self.vectors.into() && self.vectors > 3;
            let processor = if behind { 0 } else { queue / 2 };
            machine.mmio_write(entry, 4, 0xfee0_0000 | processor << 12, 0);
            machine.mmio_write(entry + 4, 4, 0, 0);
            machine.mmio_write(entry + 8, 4, u64::from(VECTORS[0]) + index, 0);
            machine.mmio_write(entry + 12, 4, 0, 0);
        }
        let control = u32::from(msix::ENABLE);
        config_write(
            machine,
            self.msix_capability + msix::CONTROL as u8,
            2,
            control,
        );
        self.write(machine, common::CONFIG_MSIX_VECTOR, 2, 0);
        assert_eq!(self.read(machine, common::CONFIG_MSIX_VECTOR, 2), 0);
    }

    fn set_up_queue(&mut self, machine: &mut Machine, ram: &Ram, index: u16, base: u64) {
        self.write(machine, common::QUEUE_SELECT, 2, u64::from(index));
        let size = self.read(machine, common::QUEUE_SIZE, 2) as u16;
        assert!(size.is_power_of_two());
        let made = DriverQueue {
            index,
            size,
            desc: base,
            avail: base + 0x2000,
            used: base + 0x3000,
            buffers: base + 0x1_0000,
            next_avail: 0,
            next_used: 0,
            free: (0..size).rev().collect(),
        };
        ram.set::<4>(made.avail, 0);
        ram.set::<4>(made.used, 0);
        for (offset, address) in [
            (common::QUEUE_DESC, made.desc),
            (common::QUEUE_DRIVER, made.avail),
            (common::QUEUE_DEVICE, made.used),
        ] {
            self.write(machine, offset, 4, address & 0xffff_ffff);
            self.write(machine, offset + 4, 4, address >> 32);
        }
        self.write(machine, common::QUEUE_MSIX_VECTOR, 2, u64::from(index) + 1);
        self.write(machine, common::QUEUE_ENABLE, 2, 1);
        assert_eq!(self.read(machine, common::QUEUE_ENABLE, 2), 1);
        self.queues.push(made);
    }

    /// Reads a register of the common configuration.
    pub fn read(&self, machine: &mut Machine, offset: u64, size: u8) -> u64 {
        machine.mmio_read(self.common + offset, size, 0)
    }

    /// Writes a register of the common configuration.
    pub fn write(&self, machine: &mut Machine, offset: u64, size: u8, value: u64) {
        machine.mmio_write(self.common + offset, size, value, 0);
    }

    /// Reads device-specific configuration.
    pub fn device_config(&self, machine: &mut Machine, offset: u64, size: u8) -> u64 {
        machine.mmio_read(self.device + offset, size, 0)
    }

    /// Reads (and clears) the ISR status.
    pub fn isr(&self, machine: &mut Machine) -> u64 {
        machine.mmio_read(self.isr, 1, 0)
    }

    /// Device status.
    pub fn status(&self, machine: &mut Machine) -> u8 {
        self.read(machine, common::DEVICE_STATUS, 1) as u8
    }

    fn add_status(&self, machine: &mut Machine, bits: u8) {
        let now = self.status(machine);
        self.write(machine, common::DEVICE_STATUS, 1, u64::from(now | bits));
    }

    /// First address of the registers' BAR.
    pub fn bar(&self) -> u64 {
        self.bar
    }

    /// Offset of the MSI-X capability in configuration space.
    pub fn msix_capability(&self) -> u8 {
        self.msix_capability
    }

    /// Addresses of a queue's descriptors, available ring and used ring.
    pub fn rings(&self, queue: u16) -> (u64, u64, u64) {
        let queue = &self.queues[usize::from(queue)];
        (queue.desc, queue.avail, queue.used)
    }

    /// Makes a buffer of one descriptor available; the buffer's address.
    fn post(&mut self, machine: &mut Machine, ram: &Ram, which: u16, len: u64, flags: u16) -> bool {
        let event_idx = self.event_idx;
        let notify = self.notify;
        let queue = &mut self.queues[usize::from(which)];
        let Some(id) = queue.free.pop() else {
            return false;
        };
        let desc = queue.desc + 16 * u64::from(id);
        ram.set::<8>(desc, queue.buffers + BUFFER * u64::from(id));
        ram.set::<4>(desc + 8, len);
        ram.set::<2>(desc + 12, u64::from(flags));
        let slot = u64::from(queue.next_avail % queue.size);
        ram.set::<2>(queue.avail + queue::RING_OFFSET + 2 * slot, u64::from(id));
        let old = queue.next_avail;
        queue.next_avail = old.wrapping_add(1);
        ram.set::<2>(queue.avail + queue::IDX_OFFSET, u64::from(queue.next_avail));
        let ring = if event_idx {
            let event = queue.used + queue::RING_OFFSET + 8 * u64::from(queue.size);
            ram.get::<2>(event) as u16 == old
        } else {
            ram.get::<2>(queue.used) as u16 & queue::USED_NO_NOTIFY == 0
        };
        if ring {
            machine.mmio_write(
                notify + 4 * u64::from(queue.index),
                2,
                u64::from(queue.index),
                0,
            );
        }
        true
    }

    /// Posts receive buffers until none is left; how many.
    pub fn fill_rx(&mut self, machine: &mut Machine, ram: &Ram) -> usize {
        let mut count = 0;
        while self.post(machine, ram, net::QUEUE_RX, BUFFER, queue::DESC_WRITE) {
            count += 1;
        }
        count
    }

    /// Length of the header in front of a frame.
    pub fn header_len(&self) -> usize {
        match self.features & feature::NET_HASH_REPORT {
            0 => net::HEADER_LEN,
            _ => net::HASH_HEADER_LEN,
        }
    }

    /// Sends a frame; `false` if the queue is full.
    pub fn send(&mut self, machine: &mut Machine, ram: &Ram, frame: &[u8]) -> bool {
        let header = &[0; net::HASH_HEADER_LEN][..self.header_len()];
        self.send_with(machine, ram, header, frame)
    }

    /// As `send`, with a header of its own.
    pub fn send_with(
        &mut self,
        machine: &mut Machine,
        ram: &Ram,
        header: &[u8],
        frame: &[u8],
    ) -> bool {
        let tx = &self.queues[usize::from(net::QUEUE_TX)];
        let Some(id) = tx.free.last() else {
            return false;
        };
        let at = tx.buffers + BUFFER * u64::from(*id);
        ram.write(at, header).unwrap();
        ram.write(at + header.len() as u64, frame).unwrap();
        let whole = (header.len() + frame.len()) as u64;
        self.post(machine, ram, net::QUEUE_TX, whole, 0)
    }

    /// Takes back one used buffer of a queue: its ID and the length written.
    fn reap(&mut self, ram: &Ram, which: u16) -> Option<(u16, u32)> {
        let event_idx = self.event_idx;
        let queue = &mut self.queues[usize::from(which)];
        if ram.get::<2>(queue.used + queue::IDX_OFFSET) as u16 == queue.next_used {
            return None;
        }
        let slot = u64::from(queue.next_used % queue.size);
        let entry = queue.used + queue::RING_OFFSET + 8 * slot;
        let (id, len) = (ram.get::<4>(entry) as u16, ram.get::<4>(entry + 4) as u32);
        queue.next_used = queue.next_used.wrapping_add(1);
        if event_idx {
            let event = queue.avail + queue::RING_OFFSET + 2 * u64::from(queue.size);
            ram.set::<2>(event, u64::from(queue.next_used));
        }
        queue.free.push(id);
        Some((id, len))
    }

    /// Takes back all sent buffers; how many.
    pub fn reap_tx(&mut self, ram: &Ram) -> usize {
        core::iter::from_fn(|| self.reap(ram, net::QUEUE_TX)).count()
    }

    /// The next received frame.
    pub fn receive(&mut self, ram: &Ram) -> Option<Vec<u8>> {
        let (id, len) = self.reap(ram, net::QUEUE_RX)?;
        let rx = &self.queues[usize::from(net::QUEUE_RX)];
        let at = rx.buffers + BUFFER * u64::from(id);
        assert_eq!(ram.get::<2>(at + net::HEADER_NUM_BUFFERS as u64), 1);
        let header = self.header_len();
        let mut frame = vec![0; len as usize - header];
        ram.read(at + header as u64, &mut frame).unwrap();
        Some(frame)
    }

    /// The next received frame with its header, in as many buffers as that says, but for
    /// a hash.
    pub fn receive_all(&mut self, ram: &Ram) -> Option<([u8; net::HEADER_LEN], Vec<u8>)> {
        let (header, _, frame) = self.receive_with_hash(ram)?;
        Some((header, frame))
    }

    /// The same, and the hash's fields: value and report.
    #[expect(clippy::type_complexity, reason = "three parts of one frame")]
    pub fn receive_with_hash(
        &mut self,
        ram: &Ram,
    ) -> Option<([u8; net::HEADER_LEN], Option<(u32, u16)>, Vec<u8>)> {
        let mut header = [0; net::HEADER_LEN];
        let (mut bytes, mut left) = (Vec::new(), 1);
        while left != 0 {
            let (id, len) = self.reap(ram, net::QUEUE_RX)?;
            let rx = &self.queues[usize::from(net::QUEUE_RX)];
            let mut part = vec![0; len as usize];
            let at = rx.buffers + BUFFER * u64::from(id);
            ram.read(at, &mut part).unwrap();
            if bytes.is_empty() {
                header.copy_from_slice(&part[..net::HEADER_LEN]);
                let [.., low, high] = header;
                left = u16::from_le_bytes([low, high]);
            }
            bytes.extend(part);
            left -= 1;
        }
        let frame = bytes.split_off(self.header_len());
        let mut hash = None;
        if let [v0, v1, v2, v3, r0, r1, reserved @ ..] = &bytes[net::HEADER_LEN..] {
            assert_eq!(reserved, [0; 2]);
            let value = u32::from_le_bytes([*v0, *v1, *v2, *v3]);
            hash = Some((value, u16::from_le_bytes([*r0, *r1])));
        }
        Some((header, hash, frame))
    }

    /// Takes the pending interrupt and ends it; its vector.
    pub fn take_interrupt(&self, machine: &mut Machine) -> Option<u8> {
        let vector = machine.pending_interrupt()?.vector;
        machine.accept_interrupt(vector);
        machine.mmio_write(0xfee0_00b0, 4, 0, 0);
        Some(vector)
    }
}
