use super::*;
use crate::testing::{FakeVp, identity_tables, machine};
use memory::doubles::VecGuest;
use platform::IoAccess;

fn world() -> (FakeVp, VecGuest, Machine) {
    let guest = VecGuest::new(0x20_0000);
    identity_tables(&guest, 0x1000);
    let mut vp = FakeVp::long_mode(0x1000);
    vp.set(Reg::Rip, 0x8000);
    vp.next_rip = 0x8002;
    (vp, guest, machine())
}

/// The guest leaves, at time 0, by an instruction that was never seen.
fn leaves(exit: &Exit, vp: &mut FakeVp, guest: &VecGuest, machine: &mut Machine) -> Next {
    dispatch(exit, vp, guest, machine, &mut Decoded::new(), 0)
}

#[test]
fn guest_cannot_reach_a_hypervisor() {
    let (mut vp, guest, mut machine) = world();
    assert_eq!(
        leaves(&Exit::Hypercall, &mut vp, &guest, &mut machine),
        Next::Run
    );
    assert_eq!(vp.raised, Some((UD, None)));
    assert_eq!(vp.get(Reg::Rip), 0x8000);
    let (mut vp, guest, mut machine) = world();
    vp.set(Reg::Rcx, 0x4000_0000);
    assert_eq!(
        leaves(&Exit::ReadMsr, &mut vp, &guest, &mut machine),
        Next::Run
    );
    assert_eq!(vp.raised, Some((GP, Some(0))));
}

#[test]
fn cpuid_fills_four_registers_and_goes_on() {
    let (mut vp, guest, mut machine) = world();
    vp.set(Reg::Rax, 0xffff_ffff_4000_0000);
    vp.set(Reg::Rbx, u64::MAX);
    leaves(&Exit::Cpuid, &mut vp, &guest, &mut machine);
    assert_eq!(vp.get(Reg::Rbx) >> 32, 0);
    assert_eq!(vp.get(Reg::Rip), 0x8002);
}

#[test]
fn code_in_device_memory_is_a_protection_fault() {
    let (mut vp, guest, mut machine) = world();
    let exit = Exit::Mmio {
        gpa: 0x0804_0000,
        write: false,
        fetch: true,
    };
    leaves(&exit, &mut vp, &guest, &mut machine);
    assert_eq!(vp.raised, Some((GP, Some(0))));
}

#[test]
fn host_cannot_turn_ram_into_a_device() {
    let (mut vp, guest, mut machine) = world();
    // mov [rbx], eax
    guest.write(0x8000, &[0x89, 0x03]).unwrap();
    vp.set(Reg::Rbx, 0x9000);
    for (write, fetch) in [(true, false), (false, false), (false, true)] {
        let exit = Exit::Mmio {
            gpa: 0x9000,
            write,
            fetch,
        };
        let next = leaves(&exit, &mut vp, &guest, &mut machine);
        assert_eq!(
            (next, vp.raised, vp.get(Reg::Rip)),
            (Next::Run, None, 0x8000)
        );
    }
    assert_eq!(machine.counters().unknown_mmio, 0);
}

#[test]
fn fault_while_an_event_is_delivered_is_not_emulated() {
    let (mut vp, guest, mut machine) = world();
    guest.write(0x8000, &[0x89, 0x03]).unwrap();
    vp.raised = Some((14, Some(0)));
    let exit = Exit::Mmio {
        gpa: 0xd000_0000,
        write: true,
        fetch: false,
    };
    let next = leaves(&exit, &mut vp, &guest, &mut machine);
    assert!(matches!(next, Next::Unknown { code: 0x400, .. }));
    assert_eq!(vp.get(Reg::Rip), 0x8000);
}

#[test]
fn shadow_of_sti_ends_with_hlt() {
    let (mut vp, guest, mut machine) = world();
    vp.shadow = true;
    let next = leaves(&Exit::Halt, &mut vp, &guest, &mut machine);
    assert_eq!((next, vp.shadow), (Next::Halted, false));
}

#[test]
fn instruction_that_is_not_emulated_is_undefined() {
    let (mut vp, guest, mut machine) = world();
    guest.write(0x8000, &[0x0f, 0x28, 0x03]).unwrap();
    let exit = Exit::Mmio {
        gpa: 0xfee0_0000,
        write: false,
        fetch: false,
    };
    leaves(&exit, &mut vp, &guest, &mut machine);
    assert_eq!(vp.raised, Some((UD, None)));
}

#[test]
fn refused_xsetbv_leaves_xcr0_alone() {
    let (mut vp, guest, mut machine) = world();
    vp.set(Reg::Rcx, 1);
    vp.set(Reg::Rax, 7);
    leaves(&Exit::Xsetbv, &mut vp, &guest, &mut machine);
    assert_eq!((vp.raised, vp.get(Reg::Xcr0)), (Some((GP, Some(0))), 0));
}

#[test]
fn ends_of_a_run_are_told() {
    let (mut vp, guest, mut machine) = world();
    let mut run = |exit| leaves(&exit, &mut vp, &guest, &mut machine);
    assert_eq!(run(Exit::Shutdown), Next::TripleFault);
    assert_eq!(run(Exit::Halt), Next::Halted);
    let unknown = Exit::Unknown {
        code: 0x77,
        info1: 1,
        info2: 2,
    };
    assert_eq!(
        run(unknown),
        Next::Unknown {
            code: 0x77,
            info1: 1,
            info2: 2
        }
    );
}

#[test]
fn program_of_the_guest_cannot_end_the_vm_by_int1() {
    let (mut vp, guest, mut machine) = world();
    let exit = Exit::Unknown {
        code: 0x88,
        info1: 0,
        info2: 0,
    };
    vp.cpl = 3;
    let next = leaves(&exit, &mut vp, &guest, &mut machine);
    assert_eq!((next, vp.raised), (Next::Run, Some((UD, None))));
}

#[test]
fn exceptions_that_a_host_intercepts_reach_the_guest() {
    for (vector, error, rip, cr2) in [
        (1, None, 0x8000, 0),
        (14, Some(2), 0x8000, 0x7000),
        (17, Some(0), 0x8000, 0),
    ] {
        let (mut vp, guest, mut machine) = world();
        let exit = Exit::Exception {
            vector,
            error,
            address: 0x7000,
        };
        let mut run = |vp: &mut _| leaves(&exit, vp, &guest, &mut machine);
        assert_eq!(run(&mut vp), Next::Run);
        assert_eq!(vp.raised, Some((vector, error)));
        assert_eq!((vp.get(Reg::Rip), vp.get(Reg::Cr2)), (rip, cr2));
        // A second one while the first is delivered.
        assert!(matches!(run(&mut vp), Next::Unknown { .. }));
    }
}

#[test]
fn program_of_the_guest_cannot_end_the_vm_by_any_instruction() {
    for code in (0..0x40)
        .chain([0x43, 0x44])
        .chain(0x65..0x7d)
        .chain(0x80..=0x8e)
        .chain([0xa2])
    {
        let (mut vp, guest, mut machine) = world();
        vp.cpl = 3;
        let exit = Exit::Unknown {
            code,
            info1: 0,
            info2: 0,
        };
        let next = leaves(&exit, &mut vp, &guest, &mut machine);
        assert_eq!(
            (next, vp.raised),
            (Next::Run, Some((UD, None))),
            "{code:#x}"
        );
    }
    // Not the program's doing: SMI, INIT, a write trap, a bus lock.
    for code in [0x62, 0x63, 0x8f, 0x90, 0xa5, 0x401] {
        let (mut vp, guest, mut machine) = world();
        vp.cpl = 3;
        let exit = Exit::Unknown {
            code,
            info1: 0,
            info2: 0,
        };
        let next = leaves(&exit, &mut vp, &guest, &mut machine);
        assert!(matches!(next, Next::Unknown { .. }), "{code:#x}");
    }
}

#[test]
fn port_without_a_device_reads_all_ones() {
    let (mut vp, guest, mut machine) = world();
    let access = IoAccess {
        port: 0x1234,
        size: 1,
        input: true,
        string: None,
    };
    leaves(&Exit::Io(access), &mut vp, &guest, &mut machine);
    assert_eq!(vp.get(Reg::Rax), 0xff);
    assert_eq!(vp.get(Reg::Rip), 0x8002);
}

/// Every exit with every register and instruction a guest can come up with: the
/// answer is a value, in bounded work (wall 5).
#[test]
fn wall_5_no_guest_bytes_panic() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut roll = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    };
    let (mut vp, guest, mut machine) = world();
    let mut decoded = Decoded::new();
    let mut emulated = 0u32;
    for _ in 0..60_000 {
        for reg in Reg::GENERAL {
            let value = match roll() % 5 {
                0 => 0xfee0_0000 + roll() % 0x400,
                1 => 0xe000_0000 + roll() % 0x5000,
                2 => 0x1f_fff0 + roll() % 0x20,
                3 => 0u64.wrapping_sub(roll() % 0x20),
                _ => roll() << (roll() % 32),
            };
            vp.set(reg, value);
        }
        let rip = if roll() % 16 == 0 { 0x1f_fff8 } else { 0x8000 };
        vp.set(Reg::Rip, rip);
        vp.set(Reg::Rflags, 2 | roll() & 0x400);
        vp.next_rip = rip + 2;
        vp.cpl = if roll() % 2 == 0 { 0 } else { 3 };
        vp.raised = None;
        let mut code = [0u8; 8];
        // Prefixes and opcodes of moves, arithmetic and string instructions.
        let likely = [
            0x48, 0x66, 0xf3, 0x67, 0x65, 0x8b, 0x89, 0xa4, 0xa5, 0xab, 0x0f,
        ];
        for byte in &mut code {
            let random = roll();
            let known = likely.get((random >> 8) as usize % likely.len());
            *byte = if random % 2 == 0 {
                random as u8
            } else {
                *known.unwrap()
            };
        }
        guest.write(rip, &code).unwrap();
        let info1 = roll();
        let exit = match roll() % 8 {
            0 => Exit::Cpuid,
            1 => Exit::ReadMsr,
            2 => Exit::WriteMsr,
            3 => Exit::Xsetbv,
            4 => Exit::Io(IoAccess {
                port: info1 as u16,
                size: 1 << (roll() % 3),
                input: roll() % 2 == 0,
                string: (roll() % 2 == 0).then(|| platform::StringIo {
                    rep: info1 & 1 != 0,
                    address_size: 2 << (info1 >> 1 & 3),
                    segment: (info1 >> 4) as u8 & 7,
                }),
            }),
            _ => Exit::Mmio {
                gpa: vp.get(Reg::GENERAL[roll() as usize % 16]),
                write: roll() % 2 == 0,
                fetch: roll() % 16 == 0,
            },
        };
        let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut decoded, roll());
        assert_eq!(next, Next::Run, "{exit:?}");
        let mmio = matches!(exit, Exit::Mmio { .. });
        emulated += u32::from(mmio && vp.raised.is_none() && vp.get(Reg::Rip) != rip);
        machine.take_power_event();
    }
    assert!(emulated > 1000, "{emulated}");
}
