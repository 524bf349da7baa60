//! The virtio NIC under a driver that begins as a kernel does and then writes
//! what it likes: rings, descriptors, registers, while the device is at work.

use crate::memory::{GuestRam, Race};
use crate::{Digest, Input};
use abi::virtio::feature;
use devices::test_support::{HostCpu, NetDriver, Ram, config};
use devices::{Machine, MachineConfig};
use memory::{GuestMemory, Parcel};
use validate::frame::{Arrived, FlowHash, HashKind, HashKinds};

/// Where the driver puts its rings.
const BASE: u64 = 0x1_0000;
/// Pages of RAM, for one queue pair and for two with their control queue.
const PAGES: [usize; 2] = [0x240, 0x440];
/// The doorbell of the first queue in the registers, and the distance to the next.
const DOORBELL: u64 = 0x3000;
const STRIDE: u64 = 4;
/// Accesses to guest memory for one frame: a chain of a queue's length with
/// three reads a descriptor and its data.
const PER_FRAME: u64 = 4096;

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let shape = input.u8();
    let several = shape & 4 != 0;
    let hashes = shape & 0x40 != 0;
    let (pairs, pages) = if several {
        (2, PAGES[1])
    } else {
        (1, PAGES[0])
    };
    let first = Machine::new(
        &MachineConfig {
            processors: pairs as u8,
            queue_pairs: pairs,
            hash: HashKinds::of(|_| hashes),
            ..config()
        },
        &HostCpu,
    );
    let second = first.processor(1);
    let mut machines: Vec<Machine> = [first].into_iter().chain(second).collect();
    let wanted = if shape & 1 == 0 {
        u64::MAX
    } else {
        input.u64()
    };
    // The driver of the test double works on its own RAM; the rings it makes are
    // empty, so that ours starts with the same bytes.
    let small = Ram::new(pages * 4096);
    let driver = NetDriver::start_pairs(&mut machines[0], &small, BASE, wanted, pairs);
    let agreed = driver.features & feature::NET_HASH_REPORT != 0;
    let queues = 2 * pairs + u16::from(several || agreed);
    let ram = GuestRam::new(pages);
    ram.spoil(shape & 2 != 0);
    let mut buffer = vec![0; validate::frame::MAX_SEGMENTED];
    let mut avail = [0_u16; 5];
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        // The last one is the control queue.
        let queue = u16::from(input.u8()) % queues;
        let control = queue == 2 * pairs;
        let machine = &mut machines[usize::from(if control { 0 } else { queue / 2 })];
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
            7 if control => {
                let bell = driver.bar() + DOORBELL + STRIDE * u64::from(queue);
                machine.mmio_write(bell, 2, queue.into(), 0);
                machine.serve_nic(&ram);
                let in_use = machine.queue_pairs_in_use();
                assert!((1..=pairs).contains(&in_use));
                digest.number(in_use.into());
                let asked = machine.hash_request();
                assert!(agreed || asked.is_none());
                digest.debug(&asked);
            }
            7 => {
                let taken = machine.take_frame(&ram, &mut buffer);
                if let Some((len, _)) = taken {
                    assert!((14..=buffer.len()).contains(&len));
                    digest.bytes(&buffer[..len]);
                }
                digest.debug(&taken);
                // A burst of any length.
                if input.flag() {
                    machine.publish(&ram);
                }
            }
            8 => {
                let frame = vec![0x5a; 14 + input.below(1505)];
                let hash = hashes.then(|| FlowHash {
                    value: input.word(),
                    kind: HashKind::ALL[input.below(6)],
                });
                let arrived = Arrived::default().with_hash(hash);
                let mut parcel = Parcel::private(&frame);
                digest.debug(&machine.deliver(&ram, &mut parcel, arrived));
                machine.publish(&ram);
            }
            9 => {
                let offset = u64::from(input.u8() & 0x3f);
                driver.write(machine, offset, 1 << (input.u8() % 4), input.word().into());
                digest.number(driver.read(machine, offset, 4));
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
    digest.debug(&machines[0].counters());
    digest.value()
}
