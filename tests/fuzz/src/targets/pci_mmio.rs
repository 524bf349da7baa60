//! The guest's accesses: any port, address, register and width, in any order.

use crate::memory::GuestRam;
use crate::{Digest, Input};
use devices::test_support::{HostCpu, config};
use devices::{CpuidState, Machine};
use memory::GuestMemory;

/// Where devices live; the rest of an address comes from the input.
const BASES: [u64; 6] = [
    0xfee0_0000,
    0xfec0_0000,
    0xe000_0000,
    0xfeb0_0000,
    0xc000_0000,
    0,
];

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let mut machine = Machine::new(&config(), &HostCpu);
    let ram = GuestRam::new(64);
    let mut now = 0;
    let mut buffer = [0; 9018];
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 16 {
            0 => {
                let (port, size) = (port(&mut input), 1 << (input.u8() % 3));
                let value = machine.io_read(port, size, now);
                assert!(
                    size == 4 || value >> (8 * size) == 0,
                    "more than was asked for"
                );
                digest.number(value.into());
            }
            1 => {
                let (port, size) = (port(&mut input), 1 << (input.u8() % 3));
                machine.io_write(port, size, input.word(), now);
            }
            // Configuration space of the NIC, so that its BARs can be moved.
            2 | 3 => {
                let offset = u32::from(input.u8());
                machine.io_write(0xcf8, 4, 0x8000_0800 | offset & 0xfc, now);
                let (port, size) = (0xcfc + (offset & 3) as u16, 1 << (input.u8() % 3));
                if input.flag() {
                    machine.io_write(port, size, input.word(), now);
                }
                digest.number(machine.io_read(port, size, now).into());
            }
            4 | 5 => {
                let (gpa, size) = (address(&mut input, &mut machine), 1 << (input.u8() % 4));
                let value = machine.mmio_read(gpa, size, now);
                assert!(
                    size == 8 || value >> (8 * size) == 0,
                    "more than was asked for"
                );
                digest.number(value);
            }
            6..=8 => {
                let (gpa, size) = (address(&mut input, &mut machine), 1 << (input.u8() % 4));
                let value = u64::from(input.word()) | u64::from(input.u8()) << 56;
                machine.mmio_write(gpa, size, value, now);
            }
            9 => digest.debug(&machine.rdmsr(msr(&mut input), now)),
            10 => {
                let (index, value) = (msr(&mut input), input.u64());
                digest.debug(&machine.wrmsr(index, value, now));
            }
            11 => {
                let state = CpuidState {
                    cr4: input.u64(),
                    xcr0: input.u8().into(),
                };
                digest.debug(&machine.cpuid(input.word(), input.word(), state));
                digest.debug(&machine.check_xsetbv(input.u8() as u32 & 3, input.u64()));
            }
            12 => {
                now += u64::from(input.word());
                machine.advance(now);
                assert!(
                    machine.next_deadline().is_none_or(|at| at > now),
                    "a deadline in the past"
                );
            }
            13 => {
                if let Some(pending) = machine.pending_interrupt() {
                    assert!(pending.vector >= 16 && pending.priority == pending.vector >> 4);
                    machine.accept_interrupt(pending.vector);
                    digest.number(pending.vector.into());
                }
                digest.debug(&machine.take_nmi());
            }
            14 => {
                let _ = ram.write(u64::from(input.u16()) * 4, input.run());
                let before = ram.arena().accesses();
                if let Some(len) = machine.take_tx(&ram, &mut buffer) {
                    assert!((14..=buffer.len()).contains(&len));
                    digest.bytes(&buffer[..len]);
                }
                digest.debug(&machine.deliver_rx(&ram, &[0xff; 60]));
                let cost = ram.arena().accesses() - before;
                assert!(cost < 8192, "{cost} accesses for two frames");
            }
            _ => {
                machine.set_link(input.flag());
                digest.debug(&machine.take_nic_events());
                digest.debug(&machine.take_power_event());
                machine.drain_console(|bytes| digest.bytes(bytes));
                machine.put_console(input.run());
            }
        }
    }
    digest.debug(&machine.counters());
    digest.value()
}

fn port(input: &mut Input<'_>) -> u16 {
    match input.u8() {
        low @ 0..=31 => 0xcf8 + u16::from(low & 7),
        low @ 32..=63 => 0x3f8 + u16::from(low & 7),
        low @ 64..=79 => 0x70 + u16::from(low & 1),
        low @ 80..=127 => 0x600 + u16::from(low),
        _ => input.u16(),
    }
}

fn msr(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        low @ 0..=63 => 0x800 + u32::from(low),
        64..=127 => 0xc000_0080 + u32::from(input.u8()),
        128..=191 => 0x200 + u32::from(input.u8()),
        _ => input.u32(),
    }
}

/// An address in or near a device: bases that are fixed, and the NIC's BARs.
fn address(input: &mut Input<'_>, machine: &mut Machine) -> u64 {
    let base = match input.u8() {
        0..=127 => {
            let bar = 4 * u32::from(input.u8() % 6);
            machine.io_write(0xcf8, 4, 0x8000_0810 + bar, 0);
            u64::from(machine.io_read(0xcfc, 4, 0) & !15)
        }
        128..=250 => BASES[input.below(BASES.len())],
        _ => input.u64(),
    };
    base.wrapping_add(u64::from(input.u16() & 0x7fff))
}
