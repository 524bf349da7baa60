//! Everything that a guest can do to this card, by counting through it. The property:
//! an answer no wider than was asked for, a bounded number of accesses to memory, no
//! frame of an impossible length, and a card that works again after a reset.

use crate::test_support::e1000e::{DRIVER_RAM, E1000eDriver, RxShape};
use crate::test_support::{HostCpu, Ram, config};
use crate::{Machine, NicModel, layout};
use abi::e1000e::{RFCTL_EXTEN, rctl, reg, tx};
use core::cell::Cell;
use memory::{GuestMemory, OutOfRange};
use validate::frame::{MAX_SEGMENTED, TaskKind};

/// Values that registers are written with.
const VALUES: [u64; 5] = [
    0,
    u64::MAX,
    0x0101_0101_0101_0101,
    0xfee0_0000_8000_0001,
    0x0800_0402_0c21_0002,
];
/// Descriptors that one call works off at most, with three accesses each.
const ACCESSES: u32 = 256 * 3;

/// RAM that counts how often it is reached.
struct Counted<'a> {
    ram: &'a Ram,
    accesses: Cell<u32>,
}

impl<'a> Counted<'a> {
    fn new(ram: &'a Ram) -> Counted<'a> {
        Counted {
            ram,
            accesses: Cell::new(0),
        }
    }
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

fn machine() -> Machine {
    Machine::with_nic(&config(), &HostCpu, NicModel::E1000e)
}

/// Takes interrupts and events as the owner of a machine does.
fn take_all(machine: &mut Machine) {
    machine.take_nic_events();
    machine.take_nmi();
    if let Some(pending) = machine.pending_interrupt() {
        assert!(pending.vector >= 16);
        machine.accept_interrupt(pending.vector);
        machine.mmio_write(0xfee0_00b0, 4, 0, 0);
    }
}

/// What must hold of a call in each direction, whatever the registers say.
fn exercise(machine: &mut Machine, ram: &Ram, buf: &mut [u8]) {
    let guest = Counted::new(ram);
    if let Some((len, task)) = machine.take_frame(&guest, buf) {
        let on_wire = match task.kind() {
            TaskKind::Segments(headers, size) => headers.payload_at() + usize::from(size),
            _ => len,
        };
        assert!(len <= MAX_SEGMENTED);
        assert!((14..=1518).contains(&on_wire), "{on_wire}");
    }
    assert!(guest.accesses.take() <= ACCESSES);
    let _ = machine.deliver_rx(&guest, &[0xff; 1514]);
    // Buffers have 256 bytes at least where they are not split, else 128 (one of
    // which, without any other, makes 12 descriptors); eight or so accesses each.
    assert!(guest.accesses.take() <= 12 * 14);
    take_all(machine);
}

/// A card that a driver takes over again works.
fn assert_works(machine: &mut Machine, ram: &Ram, buf: &mut [u8]) {
    let mut driver = E1000eDriver::start(machine, ram, 0, RxShape::Extended);
    let mut sent = [0x5a; 64];
    sent[..6].copy_from_slice(&driver.mac);
    assert!(driver.send(machine, ram, &sent));
    assert_eq!(machine.take_tx(ram, buf), Some(64));
    driver.fill_rx(machine, ram);
    assert_eq!(machine.deliver_rx(ram, &sent), Ok(()));
    assert_eq!(driver.receive(ram), Some((sent.to_vec(), None)));
}

/// Each byte of the registers, and of the MSI-X table and what is around it, in all
/// widths from one to eight bytes.
#[test]
fn sweep_of_all_registers() {
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut buf = [0; 1600];
    let mut machine = machine();
    let mut driver = E1000eDriver::start(&mut machine, &ram, 0, RxShape::Extended);
    driver.fill_rx(&mut machine, &ram);
    let base = layout::PCI_MMIO_BASE;
    let mut cases = 0u32;
    for window in [base..base + 0xc000, base + 0x1_fff0..base + 0x2_2100] {
        for gpa in window {
            for size in 1..=8 {
                let now = u64::from(cases) * 100;
                let value = machine.mmio_read(gpa, size, now);
                let spare = 64 - 8 * u32::from(size);
                assert_eq!(value << spare >> spare, value, "{gpa:#x} {size}");
                let value = VALUES[cases as usize % VALUES.len()];
                machine.mmio_write(gpa, size, value, now);
                cases += 1;
            }
            if gpa % 16 == 0 {
                exercise(&mut machine, &ram, &mut buf);
            }
        }
    }
    assert!(cases > 400_000, "{cases}");
    assert_works(&mut machine, &ram, &mut buf);
}

/// Each register alone, with a driver at work: values at which something can go wrong.
#[test]
fn sweep_of_registers_under_a_driver() {
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut buf = [0; 1600];
    let mut machine = machine();
    let values = [0, 1, 0x7f, 0x80, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX];
    let rings = [reg::RDBAL, reg::TDBAL].map(|first| first..first + 0x30);
    let all = (0..0x110)
        .chain(reg::TCTL..reg::TCTL + 8)
        .chain(reg::PSRCTL..reg::PSRCTL + 4)
        .chain(reg::RXCSUM..reg::RFCTL + 4)
        .chain(rings.into_iter().flatten());
    for register in all.step_by(4) {
        for value in values {
            let mut driver = E1000eDriver::start(&mut machine, &ram, 0, RxShape::Extended);
            driver.fill_rx(&mut machine, &ram);
            for _ in 0..3 {
                driver.send(&mut machine, &ram, &[0x11; 100]);
            }
            driver.write(&mut machine, register, value);
            exercise(&mut machine, &ram, &mut buf);
            exercise(&mut machine, &ram, &mut buf);
            machine.advance(u64::MAX >> 1);
        }
        assert_works(&mut machine, &ram, &mut buf);
    }
}

/// Descriptors to send out of every address, length, kind and offload at which
/// something can go wrong, behind every context of the kind.
#[test]
fn sweep_of_transmit_descriptors() {
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut buf = [0; 1600];
    let mut machine = machine();
    let end = DRIVER_RAM;
    let addresses = [0, 0x3_0000, end - 1, end, u64::MAX, u64::MAX - 59];
    let lengths = [0, 1, 13, 60, 1519, 0xffff, 0xf_ffff];
    let commands = [
        0,
        tx::EOP,
        tx::EOP | tx::RS,
        tx::EOP | tx::IC | 0xff << 16,
        tx::EOP | tx::VLE,
        tx::DEXT,
        tx::DEXT | tx::EOP,
        tx::DEXT | 1 << tx::KIND_SHIFT | tx::EOP,
        tx::DEXT | 1 << tx::KIND_SHIFT | tx::EOP | tx::TSE,
        tx::DEXT | 1 << tx::KIND_SHIFT | tx::TSE,
        tx::DEXT | 0xf << tx::KIND_SHIFT | tx::EOP | tx::RS,
        0xff00_0000,
    ];
    let words = [0, 0x0101_0101, 0x0022_120e, u32::MAX];
    let mut cases = 0u32;
    let mut sent = 0;
    let mut broken = 0;
    let mut driver = E1000eDriver::start(&mut machine, &ram, 0, RxShape::Extended);
    for command in commands {
        for address in addresses {
            for length in lengths {
                for word in words {
                    for cut in [0, 0x0001_0100, 0x05b4_3600] {
                        driver.push_context(&ram, word, word >> 8, word & 0xff00_0000, cut);
                        driver.push(&ram, address, command | length, word);
                        driver.push(&ram, 0x3_0000, tx::EOP | tx::RS | 60, 0);
                        driver.ring_tx(&mut machine);
                        let guest = Counted::new(&ram);
                        // The frames of a packet that is cut into the smallest
                        // pieces are too many to fetch all of them here.
                        for _ in 0..4 {
                            let Some(len) = machine.take_tx(&guest, &mut buf) else {
                                break;
                            };
                            assert!((14..=1518).contains(&len), "{len}");
                            sent += 1;
                        }
                        assert!(guest.accesses.take() <= 12, "{command:#x} {address:#x}");
                        take_all(&mut machine);
                        cases += 1;
                        if machine.counters().nic_broken != broken || cases.is_multiple_of(64) {
                            broken = machine.counters().nic_broken;
                            driver.reopen(&mut machine, &ram);
                        }
                    }
                }
            }
        }
        assert_works(&mut machine, &ram, &mut buf);
        driver = E1000eDriver::start(&mut machine, &ram, 0, RxShape::Extended);
    }
    assert_eq!(cases, 12 * 6 * 7 * 4 * 3);
    assert!(sent > 1000 && broken > 100, "{sent} {broken}");
}

/// Rings of nothing but descriptors without an end, and of nothing but packets that
/// cannot be sent: each call ends, and the owner is asked to come again.
#[test]
fn sweep_of_endless_packets() {
    let ram = Ram::new(0x20_0000);
    let mut buf = [0; 1600];
    for lower in [
        0,
        1,
        0xffff,
        tx::DEXT,
        tx::EOP,
        tx::EOP | 13,
        tx::DEXT | tx::RS,
    ] {
        let mut machine = machine();
        let driver = E1000eDriver::start(&mut machine, &ram, 0, RxShape::Extended);
        // 4096 descriptors.
        for index in 0..4096u64 {
            ram.set::<8>(0x10_0000 + 16 * index, 0x1000);
            ram.set::<8>(0x10_0008 + 16 * index, u64::from(lower));
        }
        driver.write(&mut machine, reg::TDBAL, 0x10_0000);
        driver.write(&mut machine, reg::TDLEN, 0x1_0000);
        driver.write(&mut machine, reg::TDT, 4095);
        let mut calls = 0;
        while machine.take_nic_events().tx_kicked {
            let guest = Counted::new(&ram);
            assert_eq!(machine.take_tx(&guest, &mut buf), None);
            assert!(guest.accesses.take() <= ACCESSES);
            calls += 1;
            assert!(calls <= 17);
        }
        assert_eq!(driver.read(&mut machine, reg::TDH), 4095, "{lower:#x}");
        assert_works(&mut machine, &ram, &mut buf);
    }
}

/// Shapes of receive descriptors, sizes and addresses of buffers.
#[test]
fn sweep_of_receive_buffers() {
    let ram = Ram::new(DRIVER_RAM as usize);
    let mut buf = [0; 1600];
    let mut machine = machine();
    let end = DRIVER_RAM;
    let addresses = [0, 0x3_0000, end - 60, end, u64::MAX, u64::MAX - 59];
    let sizes = (0..4).map(|code| code << rctl::BSIZE_SHIFT).chain([
        rctl::BSEX | 3 << rctl::BSIZE_SHIFT,
        15 << rctl::FLXBUF_SHIFT,
    ]);
    let mut cases = 0;
    let mut taken = 0;
    for size in sizes {
        for mode in [0, rctl::DTYP_PS, rctl::LPE, rctl::SECRC] {
            for filter in [0, RFCTL_EXTEN] {
                for split in [0, 1, 0x0100, 0x0101_0102, u32::MAX] {
                    for address in addresses {
                        let shape = RxShape::Extended;
                        let driver = E1000eDriver::start(&mut machine, &ram, 0, shape);
                        driver.write(&mut machine, reg::RFCTL, filter);
                        driver.write(&mut machine, reg::PSRCTL, split);
                        let control = rctl::EN | rctl::MPE | size | mode;
                        driver.write(&mut machine, reg::RCTL, control);
                        for word in 0..512 {
                            ram.set::<8>(0x1_0000 + 8 * word, address);
                        }
                        driver.write(&mut machine, reg::RDT, 100);
                        let guest = Counted::new(&ram);
                        for len in [0, 13, 14, 60, 1514, 1518] {
                            if machine.deliver_rx(&guest, &vec![0xff; len]).is_ok() {
                                taken += 1;
                            }
                            assert!(guest.accesses.take() <= 12 * 14);
                            take_all(&mut machine);
                        }
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 6 * 4 * 2 * 5 * 6);
    assert!(taken > 1000, "{taken}");
    assert_works(&mut machine, &ram, &mut buf);
}
