//! The virtio NIC under a driver that begins as a kernel does and then writes
//! what it likes: rings, descriptors, registers, while the device is at work.

use crate::memory::{GuestRam, Race};
use crate::{Digest, Input};
use devices::Machine;
use devices::test_support::{HostCpu, NetDriver, Ram, config};
use memory::GuestMemory;

/// Where the driver puts its rings.
const BASE: u64 = 0x1_0000;
/// Pages of RAM.
const PAGES: usize = 0x240;
/// Accesses to guest memory for one frame: a chain of a queue's length with
/// three reads a descriptor and its data.
const PER_FRAME: u64 = 4096;

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let mut machine = Machine::new(&config(), &HostCpu);
    let shape = input.u8();
    let wanted = if shape & 1 == 0 {
        u64::MAX
    } else {
        input.u64()
    };
    // The driver of the test double works on its own RAM; the rings it makes are
    // empty, so that ours starts with the same bytes.
    let small = Ram::new(PAGES * 4096);
    let driver = NetDriver::start(&mut machine, &small, BASE, wanted);
    let ram = GuestRam::new(PAGES);
    ram.spoil(shape & 2 != 0);
    let mut buffer = vec![0; validate::frame::MAX_SEGMENTED];
    let mut avail = [0_u16; 2];
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let queue = u16::from(input.u8() & 1);
        let (desc, ring, used) = driver.rings(queue);
        let before = ram.arena().accesses();
        match input.u8() % 12 {
            // A descriptor: address, length, flags, next.
            0..=2 => {
                let at = desc + 16 * u64::from(input.u8());
                let address = match input.u8() {
                    0..=200 => 0x20_0000 + u64::from(input.u16()),
                    201..=220 => u64::from(input.word()),
                    _ => input.u64(),
                };
                let mut bytes = address.to_le_bytes().to_vec();
                bytes.extend(input.word().to_le_bytes());
                bytes.extend(u16::from(input.u8() & 7).to_le_bytes());
                bytes.extend(u16::from(input.u8()).to_le_bytes());
                let _ = ram.write(at, &bytes);
            }
            // An entry of the available ring, and the index behind it.
            3..=5 => {
                let next = &mut avail[usize::from(queue)];
                let slot = u64::from(*next % 256);
                let head = u16::from(input.u8());
                let _ = ram.write(ring + 4 + 2 * slot, &head.to_le_bytes());
                *next = next.wrapping_add(1);
                let index = if input.u8() > 240 { input.u16() } else { *next };
                let _ = ram.write(ring + 2, &index.to_le_bytes());
            }
            6 => {
                let at = [desc, ring, used][input.below(3)] + u64::from(input.u16() & 0xfff);
                let _ = ram.write(at, input.run());
            }
            7 => {
                let taken = machine.take_frame(&ram, &mut buffer);
                if let Some((len, _)) = taken {
                    assert!((14..=buffer.len()).contains(&len));
                    digest.bytes(&buffer[..len]);
                }
                digest.debug(&taken);
            }
            8 => {
                let frame = vec![0x5a; 14 + input.below(1505)];
                digest.debug(&machine.deliver_rx(&ram, &frame));
            }
            9 => {
                let offset = u64::from(input.u8() & 0x3f);
                driver.write(
                    &mut machine,
                    offset,
                    1 << (input.u8() % 4),
                    input.word().into(),
                );
                digest.number(driver.read(&mut machine, offset, 4));
            }
            10 => ram.arena().race(Race {
                after: input.u8().into(),
                offset: ([desc, ring, used][input.below(3)] + u64::from(input.u16() & 0xfff))
                    as usize,
                value: input.word(),
            }),
            _ => {
                let gpa = driver.bar() + u64::from(input.u16() & 0x3fff);
                machine.mmio_write(gpa, 1 << (input.u8() % 4), input.word().into(), 0);
                digest.debug(&machine.take_nic_events());
                machine.set_link(input.flag());
                if let Some(pending) = machine.pending_interrupt() {
                    machine.accept_interrupt(pending.vector);
                    machine.mmio_write(0xfee0_00b0, 4, 0, 0);
                }
            }
        }
        let cost = ram.arena().accesses() - before;
        assert!(cost <= PER_FRAME, "{cost} accesses for one frame");
    }
    digest.debug(&machine.counters());
    digest.value()
}
