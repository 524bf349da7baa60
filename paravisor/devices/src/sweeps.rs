//! Everything that a guest can do to its machine, by counting through it: ports,
//! configuration space, registers, MSRs, CPUID, chains of descriptors. The guest is
//! taken for an enemy like the host, so the property is the same: an answer, no
//! wider than was asked for, after a bounded number of accesses. (A machine has no
//! way to the host at all: nothing that it is given leads there.)

use crate::test_support::{DRIVER_RAM, HostCpu, NetDriver, Ram, config, config_read, config_write};
use crate::{CpuidState, Machine, layout};
use abi::virtio::net;
use abi::virtio::queue::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE};
use core::cell::Cell;
use memory::{GuestMemory, OutOfRange};

/// Values that registers are written with.
const VALUES: [u64; 4] = [0, u64::MAX, 0x0101_0101_0101_0101, 0xfee0_0000_8000_0001];

fn machine() -> Machine {
    Machine::new(&config(), &HostCpu)
}

/// Whether `value` has no bits beyond `size` bytes.
fn fits(value: u64, size: u8) -> bool {
    size >= 8 || value >> (8 * u32::from(size)) == 0
}

/// Takes what the owner of a machine takes in each turn of its loop.
fn take_all(machine: &mut Machine) {
    machine.drain_console(|_| ());
    machine.take_audit(&mut [0; 256]);
    machine.take_power_event();
    machine.take_nic_events();
    machine.take_nmi();
    if let Some(pending) = machine.pending_interrupt() {
        assert!(pending.vector >= 16);
        machine.accept_interrupt(pending.vector);
    }
}

/// 65536 ports, three widths, both directions, four values.
#[test]
fn sweep_of_all_ports() {
    let mut machine = machine();
    let mut cases = 0u32;
    for port in 0..=u16::MAX {
        for size in [1, 2, 4] {
            let now = u64::from(cases);
            let value = u64::from(machine.io_read(port, size, now));
            assert!(fits(value, size), "{port:#x} {size}");
            machine.io_write(port, size, VALUES[cases as usize % 4] as u32, now);
            cases += 2;
        }
        take_all(&mut machine);
    }
    assert_eq!(cases, 65536 * 3 * 2);
    // The console is what it was: a byte goes in and comes out.
    machine.io_write(0x3fb, 1, 3, 0);
    machine.io_write(0x3f8, 1, 0x55, 0);
    let mut out = Vec::new();
    machine.drain_console(|bytes| out.extend_from_slice(bytes));
    assert_eq!(out, [0x55]);
}

/// Every function of every bus by mechanism 1. Two of them exist; each of their
/// registers is read and written in every width.
#[test]
fn sweep_of_configuration_space() {
    let mut machine = machine();
    let mut found = std::vec::Vec::new();
    for function in 0..=u16::MAX {
        for register in [0u32, 0xfc] {
            let address = 0x8000_0000 | u32::from(function) << 8 | register;
            machine.io_write(0xcf8, 4, address, 0);
            for port in 0..4u16 {
                for size in [1u8, 2, 4] {
                    let value = machine.io_read(0xcfc + port, size, 0);
                    assert!(fits(value.into(), size));
                    if register == 0 && port == 0 && size == 4 && value != u32::MAX {
                        found.push((function, value));
                    }
                }
            }
        }
    }
    assert_eq!(found.len(), 2, "{found:x?}");
    for (function, identity) in found {
        for value in VALUES {
            for register in 0..256u32 {
                let address = 0x8000_0000 | u32::from(function) << 8 | register & 0xfc;
                for size in [1u8, 2, 4] {
                    machine.io_write(0xcf8, 4, address, 0);
                    let port = 0xcfc + (register & 3) as u16;
                    machine.io_write(port, size, value as u32, 0);
                    let read = machine.io_read(port, size, 0);
                    assert!(fits(read.into(), size));
                    take_all(&mut machine);
                }
            }
        }
        machine.io_write(0xcf8, 4, 0x8000_0000 | u32::from(function) << 8, 0);
        assert_eq!(machine.io_read(0xcfc, 4, 0), identity);
    }
}

/// Each byte of every window of registers, and the eight before it, in all widths
/// from one to eight bytes, so that accesses straddle registers and windows. The NIC
/// is once as it came and once with a driver that has taken it over.
#[test]
fn sweep_of_all_registers() {
    let bars = layout::PCI_MMIO_BASE..layout::PCI_MMIO_BASE + 0x5000 + 8;
    let apic = layout::LAPIC_BASE..layout::LAPIC_BASE + 0x1000 + 8;
    let io = layout::IOAPIC_BASE..layout::IOAPIC_BASE + 0x1000 + 8;
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut cases = 0u32;
    for with_driver in [false, true] {
        let mut machine = machine();
        if with_driver {
            NetDriver::start(&mut machine, &ram, 0, 0);
        }
        for window in [&bars, &apic, &io] {
            for gpa in window.start - 8..window.end {
                for size in 1..=8 {
                    let now = u64::from(cases) * 1000;
                    let value = machine.mmio_read(gpa, size, now);
                    assert!(fits(value, size), "{gpa:#x} {size}: {value:#x}");
                    let value = VALUES[(cases / 2) as usize % 4];
                    machine.mmio_write(gpa, size, value, now);
                    cases += 2;
                }
                take_all(&mut machine);
            }
        }
        machine.advance(u64::MAX);
    }
    assert!(cases > 900_000, "{cases}");
}

/// Addresses where there is nothing, and the ends of the address space.
#[test]
fn sweep_of_addresses_without_a_device() {
    let mut machine = machine();
    for bit in 0..64u32 {
        for near in 0..16u64 {
            let gpa = (1u64 << bit).wrapping_sub(8).wrapping_add(near);
            for size in 1..=8 {
                let value = machine.mmio_read(gpa, size, 0);
                assert!(fits(value, size), "{gpa:#x} {size}: {value:#x}");
                machine.mmio_write(gpa, size, u64::MAX, 0);
            }
        }
    }
    assert!(machine.counters().unknown_mmio > 10_000);
}

/// The ranges in which MSRs lie, and a hundred thousand numbers of no range.
#[test]
fn sweep_of_all_msrs() {
    let mut machine = machine();
    let mut known = std::vec::Vec::new();
    let mut random = 0x1234_5678_9abc_def1u64;
    let others = core::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u32
    });
    let ranges = [0, 0x4000_0000, 0xc000_0000, 0xc001_0000, 0xfffff000];
    let numbers = ranges.into_iter().flat_map(|first| first..=first + 0xfff);
    for number in numbers.chain(others.take(100_000)) {
        let read = machine.rdmsr(number, 7);
        for value in VALUES.into_iter().chain([1 << 11, 0xfee0_0900]) {
            let written = machine.wrmsr(number, value, 7);
            // What a hypervisor would have: none is there (wall 8).
            let synthetic = number >> 28 == 4;
            assert!(
                !synthetic || read.is_err() && written.is_err(),
                "{number:#x}"
            );
        }
        if read.is_ok() {
            known.push(number);
        }
    }
    known.sort_unstable();
    known.dedup();
    assert!((10..200).contains(&known.len()), "{known:x?}");
}

/// Leaves of all three kinds with sub-leaves, for every state of the processor on
/// which they depend: the same question has the same answer, and no leaf speaks of a
/// hypervisor or of encrypted memory.
#[test]
fn sweep_of_cpuid() {
    let machine = machine();
    for (cr4, xcr0) in [(0, 1), (u64::MAX, u64::MAX), (1 << 18, 7), (0, 0)] {
        let state = CpuidState { cr4, xcr0 };
        for first in [0, 0x4000_0000, 0x8000_0000, 0xc000_0000, 0xffff_ff00] {
            for leaf in first..=first + 0xff {
                for subleaf in (0..70).chain([u32::MAX, 1 << 31]) {
                    let answer = machine.cpuid(leaf, subleaf, state);
                    assert_eq!(answer, machine.cpuid(leaf, subleaf, state));
                    if leaf >> 28 == 4 || leaf == 0x8000_001f {
                        assert_eq!(answer, [0; 4], "{leaf:#x}");
                    }
                }
            }
        }
        assert_eq!(machine.cpuid(1, 0, state)[2] >> 31, 0);
    }
}

/// RAM that counts how often it is reached.
struct Counted<'a> {
    ram: &'a Ram,
    accesses: Cell<u32>,
}

impl GuestMemory for Counted<'_> {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.accesses.set(self.accesses.get() + 1);
        self.ram.read(gpa, dst)
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        self.accesses.set(self.accesses.get() + 1);
        self.ram.write(gpa, src)
    }
}

/// Descriptors per queue of the NIC.
const SIZE: u32 = 256;
/// Accesses for one frame: each descriptor once, with two copies each, and the rings.
const ACCESSES: u32 = SIZE * 3 + 16;

/// Rings of a queue with one chain of `shape` in it; the index says how many.
fn offer(ram: &Ram, (desc, avail, _): (u64, u64, u64), shape: &[(u64, u64, u16, u16)], idx: u64) {
    for (at, (address, len, flags, next)) in shape.iter().enumerate() {
        let at = desc + 16 * at as u64;
        ram.set::<8>(at, *address);
        ram.set::<4>(at + 8, *len);
        ram.set::<2>(at + 12, u64::from(*flags));
        ram.set::<2>(at + 14, u64::from(*next));
    }
    for slot in 0..u64::from(SIZE) {
        ram.set::<2>(avail + 4 + 2 * slot, 0);
    }
    ram.set::<2>(avail + 2, idx);
}

/// Chains of one and two descriptors out of every address, length, flag and link at
/// which something can go wrong, in both queues, with indices that promise from one
/// chain to more than there can be.
#[test]
fn sweep_of_descriptor_chains() {
    let ram = Ram::new(DRIVER_RAM as usize);
    let end = DRIVER_RAM;
    let addresses = [0, 0x1_0000, end - 1, end, u64::MAX, u64::MAX - 11];
    let lengths = [
        0,
        1,
        11,
        12,
        13,
        26,
        60,
        1530,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
    ];
    let links = [
        (0, 0),
        (DESC_NEXT, 0),
        (DESC_NEXT, 1),
        (DESC_NEXT, 255),
        (DESC_NEXT, 256),
        (DESC_NEXT, u16::MAX),
        (DESC_INDIRECT, 0),
        (DESC_INDIRECT | DESC_NEXT, 1),
        (0xfff8, 0),
    ];
    let mut frame = [0; 9100];
    let mut cases = 0u32;
    let mut sent = 0;
    for (flags, next) in links {
        for address in addresses {
            for len in lengths {
                for second in [0, 1, 2, 3] {
                    let mut machine = machine();
                    let mut driver = NetDriver::start(&mut machine, &ram, 0, 0);
                    let write = if second & 1 != 0 { DESC_WRITE } else { 0 };
                    let shape = [
                        (address, len, flags | write, next),
                        (0x1_0000, lengths[cases as usize % lengths.len()], write, 0),
                    ];
                    let idx = [1, 2, 256, 257][(cases % 4) as usize];
                    for queue in [net::QUEUE_RX, net::QUEUE_TX] {
                        offer(&ram, driver.rings(queue), &shape, idx);
                    }
                    let guest = Counted {
                        ram: &ram,
                        accesses: Cell::new(0),
                    };
                    if let Some(len) = machine.take_tx(&guest, &mut frame) {
                        assert!((14..=frame.len()).contains(&len));
                        sent += 1;
                    }
                    // Chains that cannot be sent are gone through a queue's length at
                    // a time; the device stops at the first that breaks a rule.
                    let limit = ACCESSES * SIZE.min(idx as u32);
                    assert!(guest.accesses.take() <= limit, "{shape:x?}");
                    let _ = machine.deliver_rx(&guest, &frame[..60]);
                    assert!(guest.accesses.take() <= ACCESSES, "{shape:x?}");
                    take_all(&mut machine);
                    // Whatever it was, a reset brings the device back.
                    driver = NetDriver::start(&mut machine, &ram, 0, 0);
                    if cases.is_multiple_of(64) {
                        assert!(driver.send(&mut machine, &ram, &[0x5a; 64]));
                        assert_eq!(machine.take_tx(&ram, &mut frame), Some(64));
                    }
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 9 * 6 * 11 * 4);
    assert!(sent > 20, "{sent}");
}

/// Loops of every length, and chains of every length up to more than the queue.
#[test]
fn sweep_of_loops() {
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut frame = [0; 2048];
    for length in 1..=SIZE {
        for back in [
            None,
            Some(0),
            Some(length as u16 - 1),
            Some(length as u16 / 2),
        ] {
            let mut machine = machine();
            let driver = NetDriver::start(&mut machine, &ram, 0, 0);
            let shape: std::vec::Vec<_> = (0..length)
                .map(|at| match back {
                    _ if at + 1 < length => (0x1_0000, 1, DESC_NEXT, at as u16 + 1),
                    Some(to) => (0x1_0000, 1, DESC_NEXT, to),
                    None => (0x1_0000, 1, 0, 0),
                })
                .collect();
            offer(&ram, driver.rings(net::QUEUE_TX), &shape, 1);
            let guest = Counted {
                ram: &ram,
                accesses: Cell::new(0),
            };
            let sent = machine.take_tx(&guest, &mut frame);
            assert!(guest.accesses.take() <= ACCESSES);
            // 12 bytes of header and at least 14 of frame, one to a descriptor.
            let whole = back.is_none() && length >= 26;
            assert_eq!(sent, whole.then(|| length as usize - 12), "{length}");
            assert_eq!(machine.counters().nic_broken, u64::from(back.is_some()));
        }
    }
}

/// Rings at every place where they do not fit, of every size that can be written.
#[test]
fn sweep_of_queue_registers() {
    use abi::virtio::pci::common;
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut frame = [0; 2048];
    let mut enabled = 0;
    let addresses = [0, 0x1000, DRIVER_RAM - 16, DRIVER_RAM, !15, 1 << 63, 0x1001];
    for size in (0..=17u32)
        .map(|bit| ((1u32 << bit) >> 1) as u16)
        .chain([3, 255, 257, u16::MAX])
    {
        for desc in addresses {
            for avail in addresses {
                let mut machine = machine();
                let driver = NetDriver::start(&mut machine, &ram, 0, 0);
                // Again from a reset, up to the queue's registers.
                driver.write(&mut machine, common::DEVICE_STATUS, 1, 0);
                driver.write(&mut machine, common::DEVICE_STATUS, 1, 3);
                driver.write(&mut machine, common::DRIVER_FEATURE_SELECT, 4, 1);
                driver.write(&mut machine, common::DRIVER_FEATURE, 4, 1);
                driver.write(&mut machine, common::DEVICE_STATUS, 1, 0xb);
                driver.write(&mut machine, common::QUEUE_SELECT, 2, 1);
                driver.write(&mut machine, common::QUEUE_SIZE, 2, size.into());
                let used = desc;
                for (at, address) in [
                    (common::QUEUE_DESC, desc),
                    (common::QUEUE_DRIVER, avail),
                    (common::QUEUE_DEVICE, used),
                ] {
                    driver.write(&mut machine, at, 4, address & 0xffff_ffff);
                    driver.write(&mut machine, at + 4, 4, address >> 32);
                }
                driver.write(&mut machine, common::QUEUE_ENABLE, 2, 1);
                enabled += driver.read(&mut machine, common::QUEUE_ENABLE, 2);
                driver.write(&mut machine, common::DEVICE_STATUS, 1, 0xf);
                let guest = Counted {
                    ram: &ram,
                    accesses: Cell::new(0),
                };
                machine.take_tx(&guest, &mut frame);
                let _ = machine.deliver_rx(&guest, &frame[..60]);
                assert!(guest.accesses.take() <= ACCESSES * SIZE);
            }
        }
    }
    assert!(enabled > 100, "{enabled}");
}

/// The window into the BARs that configuration space has (virtio 1.2, 4.1.4.9):
/// every BAR, length and place.
#[test]
fn sweep_of_the_window_in_configuration_space() {
    let mut machine = machine();
    let mut at = config_read(&mut machine, 0x34, 1) as u8;
    while config_read(&mut machine, at, 1) != 9 || config_read(&mut machine, at + 3, 1) != 5 {
        at = config_read(&mut machine, at + 1, 1) as u8;
        assert_ne!(at, 0, "no window");
    }
    for bar in [0, 1, 2, 5, 6, 255] {
        for offset in (0..0x5008)
            .step_by(13)
            .chain([u32::MAX, 1 << 31, u32::MAX - 3])
        {
            for length in [0, 1, 2, 3, 4, 8, u32::MAX] {
                config_write(&mut machine, at + 4, 1, bar);
                config_write(&mut machine, at + 8, 4, offset);
                config_write(&mut machine, at + 12, 4, length);
                config_read(&mut machine, at + 16, 4);
                config_write(&mut machine, at + 16, 4, u32::MAX);
            }
        }
        take_all(&mut machine);
    }
    assert_eq!(config_read(&mut machine, 0, 4), 0x1041_1af4);
}
