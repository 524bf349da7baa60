//! Exits that a guest can choose, counted through: ports with all their forms,
//! register accesses by instructions of every length near the end of memory. Below,
//! `devices` sweeps its own registers; here it is about the instruction.

use crate::dispatch::{Next, dispatch};
use crate::mmio::Decoded;
use crate::pio::MAX_ELEMENTS;
use crate::testing::{FakeVp, identity_tables, machine};
use core::cell::Cell;
use memory::doubles::VecGuest;
use memory::{GuestMemory, OutOfRange};
use platform::{Exit, IoAccess, Reg, Registers, StringIo};

const RAM: u64 = 0x20_0000;

/// Memory that counts how often it is reached.
struct Counted {
    ram: VecGuest,
    accesses: Cell<u64>,
}

impl Counted {
    fn new() -> Counted {
        let ram = VecGuest::new(RAM as usize);
        identity_tables(&ram, 0x1000);
        Counted {
            ram,
            accesses: Cell::new(0),
        }
    }
}

impl GuestMemory for Counted {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.accesses.set(self.accesses.get() + 1);
        self.ram.read(gpa, dst)
    }
    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        self.accesses.set(self.accesses.get() + 1);
        self.ram.write(gpa, src)
    }
}

/// Accesses to memory per element of a string: two walks of four levels, with their
/// marks, for a place that lies on two pages.
const PER_ELEMENT: u64 = 40;

/// IN and OUT of all ports in all widths: as much of RAX changes as the processor
/// would change, and memory is left alone.
#[test]
fn sweep_of_port_instructions() {
    const RAX: u64 = 0x1122_3344_5566_7788;
    let guest = Counted::new();
    let mut machine = machine();
    let mut vp = FakeVp::long_mode(0x1000);
    let mut decoded = Decoded::new();
    vp.next_rip = 0x8002;
    for port in 0..=u16::MAX {
        for size in [1u8, 2, 4] {
            for input in [true, false] {
                vp.set(Reg::Rax, RAX);
                vp.set(Reg::Rip, 0x8000);
                let exit = Exit::Io(IoAccess {
                    port,
                    size,
                    input,
                    string: None,
                });
                let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut decoded, 0);
                assert_eq!((next, vp.raised), (Next::Run, None), "{exit:?}");
                let changed = match (input, size) {
                    (false, _) => 0,
                    (true, 1) => 0xff,
                    (true, 2) => 0xffff,
                    // A 32-bit result clears the upper half.
                    (true, _) => u64::MAX,
                };
                let rax = vp.get(Reg::Rax);
                assert_eq!(rax & !changed, RAX & !changed, "{exit:?}");
                assert!(changed != u64::MAX || rax >> 32 == 0, "{exit:?}");
                assert_eq!(vp.get(Reg::Rip), 0x8002);
            }
        }
        machine.drain_console(|_| ());
        machine.take_audit(&mut [0; 64]);
        machine.take_power_event();
    }
    assert_eq!(guest.accesses.get(), 0);
}

/// INS and OUTS of all ports, with and without REP, in all address sizes, forwards
/// and backwards, with counts and places at which something can go wrong.
#[test]
fn sweep_of_string_instructions() {
    let guest = Counted::new();
    let mut machine = machine();
    let mut vp = FakeVp::long_mode(0x1000);
    let mut decoded = Decoded::new();
    vp.next_rip = 0x8002;
    // Long ones now and then: each of their elements walks the page tables.
    let short = [0, 1, 2];
    let long = [65, 0xffff, 0x1_0000, 0xffff_ffff, 1 << 32, u64::MAX];
    let places = [
        0x9000,
        0x9fff,
        RAM - 1,
        RAM,
        0,
        0xffff,
        0xffff_fffe,
        0x7fff_ffff_fffe,
        1 << 47,
        u64::MAX - 1,
    ];
    let mut faults = 0u32;
    let mut done = 0u32;
    let mut case = 0usize;
    for port in 0..=u16::MAX {
        for input in [true, false] {
            case += 1;
            let count = match case % 16 {
                0 => long[case / 16 % long.len()],
                few => short[few % short.len()],
            };
            vp.set(Reg::Rcx, count);
            vp.set(Reg::Rsi, places[case / 3 % places.len()]);
            vp.set(Reg::Rdi, places[case / 5 % places.len()]);
            vp.set(Reg::Rflags, 2 | (case as u64 / 7 % 2) << 10);
            vp.set(Reg::Rip, 0x8000);
            vp.cpl = if case.is_multiple_of(11) { 3 } else { 0 };
            vp.raised = None;
            let rep = !case.is_multiple_of(4);
            let exit = Exit::Io(IoAccess {
                port,
                size: [1, 2, 4][case / 2 % 3],
                input,
                string: Some(StringIo {
                    rep,
                    address_size: [2, 4, 8][case / 13 % 3],
                    segment: (case / 17 % 8) as u8,
                }),
            });
            guest.accesses.set(0);
            let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut decoded, 0);
            assert_eq!(next, Next::Run, "{exit:?}");
            let elements = if rep { count.min(MAX_ELEMENTS) } else { 1 };
            assert!(
                guest.accesses.get() <= elements * PER_ELEMENT,
                "{exit:?}: {} accesses",
                guest.accesses.get()
            );
            faults += u32::from(vp.raised.is_some());
            done += u32::from(vp.get(Reg::Rip) == 0x8002);
        }
        machine.drain_console(|_| ());
        machine.take_audit(&mut [0; 256]);
        machine.take_power_event();
    }
    assert!(faults > 1000 && done > 1000, "{faults} {done}");
}

/// Every one- and two-byte opcode, with every form of its operand that names memory,
/// as an access to a register page: done, refused as undefined, or a fault of the
/// guest; memory is reached a bounded number of times.
#[test]
fn sweep_of_opcodes_at_registers() {
    let guest = Counted::new();
    let mut machine = machine();
    let mut vp = FakeVp::long_mode(0x1000);
    let mut done = 0u32;
    let prefixes: [&[u8]; 8] = [
        &[],
        &[0x48],
        &[0x66],
        &[0xf3],
        &[0xf2],
        &[0x0f],
        &[0x66, 0x0f],
        &[0x0f, 0x38],
    ];
    for prefix in prefixes {
        for opcode in 0..=255u8 {
            // [rbx], all eight registers or sub-opcodes, with SIB and displacement.
            for form in (0..8u8).map(|reg| reg << 3 | 3).chain([0x84, 0x04, 0x05]) {
                let mut code = [0u8; 15];
                let bytes = prefix.iter().copied().chain([opcode, form, 0x23]);
                code.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                guest.ram.write(0x8000, &code).unwrap();
                for reg in Reg::GENERAL {
                    vp.set(reg, 0x9000);
                }
                vp.set(Reg::Rbx, 0xfee0_0080);
                vp.set(Reg::Rcx, u64::MAX);
                vp.set(Reg::Rip, 0x8000);
                vp.raised = None;
                let exit = Exit::Mmio {
                    gpa: 0xfee0_0080,
                    write: opcode & 2 == 0,
                    fetch: false,
                };
                guest.accesses.set(0);
                let mut decoded = Decoded::new();
                let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut decoded, 0);
                assert_eq!(next, Next::Run, "{code:x?}");
                let accesses = guest.accesses.get();
                assert!(
                    accesses <= MAX_ELEMENTS * PER_ELEMENT,
                    "{code:x?} {accesses}"
                );
                let went_on = vp.get(Reg::Rip) != 0x8000;
                assert!(!(went_on && vp.raised.is_some()), "{code:x?}");
                done += u32::from(went_on);
                machine.take_power_event();
            }
        }
    }
    assert!(done > 300, "{done}");
}
