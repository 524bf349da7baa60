//! The 82574L under a driver that begins as Linux does and then writes what it
//! likes: descriptors of every kind, rings, registers of any width, while the card
//! is at work.

use crate::memory::{GuestRam, Race};
use crate::{Digest, Input};
use abi::e1000e::{REGISTERS_SIZE, reg, tx};
use devices::test_support::e1000e::{E1000eDriver, RxShape};
use devices::test_support::{HostCpu, Ram, config};
use devices::{Machine, NicModel};
use memory::GuestMemory;
use validate::frame::{MAX_SEGMENTED, TaskKind};

/// Where the driver puts its rings.
const BASE: u64 = 0x1_0000;
/// Pages of RAM.
const PAGES: usize = 0x240;
/// Bytes of both rings, which lie side by side.
const RINGS: u64 = 0x1_2000;
/// Accesses to guest memory of one call: 256 descriptors, each read, followed to
/// its data and written back.
const PER_CALL: u64 = 4096;

/// Registers that decide what a frame goes through.
const REGISTERS: [u32; 24] = [
    reg::CTRL,
    reg::CTRL_EXT,
    reg::RCTL,
    reg::TCTL,
    reg::PSRCTL,
    reg::RFCTL,
    reg::RXCSUM,
    reg::VET,
    reg::IVAR,
    reg::EIAC,
    reg::IAM,
    reg::IMS,
    reg::IMC,
    reg::ICS,
    reg::ITR,
    reg::EITR,
    reg::RDBAL,
    reg::RDLEN,
    reg::RDH,
    reg::TDBAL,
    reg::TDLEN,
    reg::TDH,
    reg::MDIC,
    reg::EERD,
];

fn address(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        0..=200 => 0x20_0000 + u64::from(input.u16()),
        201..=220 => u64::from(input.word()),
        _ => input.u64(),
    }
}

/// A transmit descriptor: a context, data of a packet to be cut, or anything.
fn descriptor(input: &mut Input<'_>) -> Vec<u8> {
    let (low, lower, upper) = match input.u8() & 3 {
        0 => (
            address(input),
            u32::from(input.u16()) | u32::from(input.u8()) << 24,
            input.word(),
        ),
        1 => {
            // Ethernet, IPv4 and TCP without options; a byte of it may be off.
            let plain = 0x0000_3222_0021_180e_u64;
            let off = u64::from(input.u8()) << (input.u8() & 63);
            let kind = tx::DEXT | u32::from(input.u8()) << 24;
            let cut = u32::from(input.u16()) << 16 | u32::from(input.u8()) << 8;
            (plain ^ off, kind | input.word() & 0xf_ffff, cut)
        }
        2 => {
            let kind = tx::DEXT | tx::KIND_DATA << tx::KIND_SHIFT;
            let command = u32::from(input.u8()) << 24;
            let upper = u32::from(input.u8()) << 8 | u32::from(input.u16()) << 16;
            (
                address(input),
                kind | command | u32::from(input.u16()),
                upper,
            )
        }
        _ => (input.u64(), input.word(), input.word()),
    };
    let mut bytes = low.to_le_bytes().to_vec();
    bytes.extend(lower.to_le_bytes());
    bytes.extend(upper.to_le_bytes());
    bytes
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let mut machine = Machine::with_nic(&config(), &HostCpu, NicModel::E1000e);
    let start = input.u8();
    let shape = match start & 3 {
        0 | 1 => RxShape::Extended,
        2 => RxShape::Legacy,
        _ => RxShape::Split,
    };
    // As for virtio: the rings that it makes are empty, ours starts with the same.
    let small = Ram::new(PAGES * 4096);
    let driver = E1000eDriver::start(&mut machine, &small, BASE, shape);
    let (tx_ring, rx_ring) = driver.ring_addresses();
    let ram = GuestRam::new(PAGES);
    ram.spoil(start & 4 != 0);
    let mut buffer = vec![0; MAX_SEGMENTED];
    let mut now = 0u64;
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let before = ram.arena().accesses();
        match input.u8() % 12 {
            0..=2 => {
                let at = tx_ring + 16 * u64::from(input.u8());
                let _ = ram.write(at, &descriptor(&mut input));
            }
            3 => {
                let at = rx_ring + 8 * u64::from(input.u16() & 0x3ff);
                let _ = ram.write(at, &address(&mut input).to_le_bytes());
            }
            4 => driver.write(&mut machine, reg::TDT, input.word()),
            5 => driver.write(&mut machine, reg::RDT, input.word()),
            6 => {
                let register = REGISTERS[input.below(REGISTERS.len())];
                driver.write(&mut machine, register, input.word());
                digest.number(driver.read(&mut machine, register).into());
            }
            7 => {
                let taken = machine.take_frame(&ram, &mut buffer);
                if let Some((len, task)) = taken {
                    let on_wire = match task.kind() {
                        TaskKind::Segments(headers, size) => {
                            assert!(headers.payload_at() < len);
                            headers.payload_at() + usize::from(size)
                        }
                        _ => len,
                    };
                    assert!((14..=1518).contains(&on_wire));
                    digest.bytes(&buffer[..len]);
                }
                digest.debug(&taken);
            }
            8 => {
                let mut frame = vec![0x5a; 14 + input.below(1505)];
                frame[..6].copy_from_slice(&[[0xff; 6], driver.mac][input.below(2)]);
                if input.flag() {
                    frame[12..14].copy_from_slice(&[0x81, 0]);
                }
                digest.debug(&machine.deliver_rx(&ram, &frame));
            }
            9 => {
                let at = BASE + u64::from(input.u32()) % RINGS;
                let _ = ram.write(at, input.run());
            }
            10 => ram.arena().race(Race {
                after: input.u8().into(),
                offset: (BASE + u64::from(input.u32()) % RINGS) as usize,
                value: input.word(),
            }),
            _ => {
                // Some of it behind the card's registers: its vectors, and nothing.
                let at = u64::from(input.u32()) % (u64::from(REGISTERS_SIZE) + 0x5000);
                let size = 1 << (input.u8() % 4);
                let gpa = driver.bar() + at;
                machine.mmio_write(gpa, size, u64::from(input.word()) << (at & 31), now);
                digest.number(machine.mmio_read(gpa, size, now));
                digest.debug(&machine.take_nic_events());
                machine.set_link(input.flag());
                now += u64::from(input.u16());
                machine.advance(now);
                digest.debug(&machine.next_deadline());
                if let Some(pending) = machine.pending_interrupt() {
                    machine.accept_interrupt(pending.vector);
                    machine.mmio_write(0xfee0_00b0, 4, 0, now);
                }
            }
        }
        let cost = ram.arena().accesses() - before;
        assert!(cost <= PER_CALL, "{cost} accesses for one call");
    }
    digest.debug(&machine.counters());
    digest.value()
}
