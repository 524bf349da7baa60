//! One exit of the guest, answered. No I/O: registers, guest memory and the
//! machine's devices go in, what the loop has to do comes out.

use crate::mmio::{self, Decoded, Refusal};
use crate::pio;
use crate::walk::WalkError;
use abi::snp::exit as exit_code;
use devices::{CpuidState, Machine};
use memory::GuestMemory;
use platform::{Exit, Reg, Registers};

const UD: u8 = 6;
const GP: u8 = 13;
const PF: u8 = 14;
/// Nested page fault, for the record of one that nobody can answer.
const NPF: u64 = exit_code::NPF;
const EXCEPTION_BP: u64 = exit_code::EXCEPTION + 3;
const EXCEPTION_OF: u64 = exit_code::EXCEPTION + 4;

/// What the loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Run,
    /// The guest waits for an interrupt.
    Halted,
    /// Triple fault.
    TripleFault,
    /// The guest cannot go on.
    Unknown {
        /// Exit code.
        code: u64,
        /// First detail.
        info1: u64,
        /// Second detail.
        info2: u64,
    },
}

/// The devices at one moment, as an instruction sees them.
struct Bus<'a> {
    machine: &'a mut Machine,
    now: u64,
}

impl pio::Ports for Bus<'_> {
    fn read(&mut self, port: u16, size: u8) -> u32 {
        self.machine.io_read(port, size, self.now)
    }
    fn write(&mut self, port: u16, size: u8, value: u32) {
        self.machine.io_write(port, size, value, self.now);
    }
}

impl mmio::Device for Bus<'_> {
    fn read(&mut self, gpa: u64, size: u8) -> u64 {
        self.machine.mmio_read(gpa, size, self.now)
    }
    fn write(&mut self, gpa: u64, size: u8, value: u64) {
        self.machine.mmio_write(gpa, size, value, self.now);
    }
}

/// Answers `exit`. `now` is nanoseconds of the loop's clock.
pub fn dispatch(
    exit: &Exit,
    vp: &mut impl Registers,
    guest: &impl GuestMemory,
    machine: &mut Machine,
    decoded: &mut Decoded,
    now: u64,
) -> Next {
    match exit {
        Exit::Interrupted => {}
        Exit::Nothing | Exit::CacheFlush => skip(exit, vp),
        Exit::Cpuid => cpuid(vp, machine),
        Exit::Io(access) => {
            let done = pio::emulate(vp, guest, access, &mut Bus { machine, now });
            if let Err(error) = done {
                raise(vp, error);
            }
        }
        Exit::ReadMsr => read_msr(vp, machine, now),
        Exit::WriteMsr => write_msr(vp, machine, now),
        // RAM of the guest: the host has taken the page away for a while, or says that
        // it did. Emulated as a device's, the access would lose writes and read ones,
        // at the host's will; so it is simply tried again.
        Exit::Mmio { gpa, .. } if is_ram(guest, *gpa) => {}
        // A fault while an event is delivered is of a stack or a table in no memory:
        // the instruction at RIP has nothing to do with it.
        Exit::Mmio { gpa, .. } if vp.event_pending() => {
            return Next::Unknown {
                code: NPF,
                info1: 0,
                info2: *gpa,
            };
        }
        Exit::Mmio { fetch: true, .. } => {
            // Code in device memory, or in ours: nothing to execute there.
            vp.raise(GP, Some(0));
        }
        Exit::Mmio { gpa, write, .. } => {
            let done = mmio::emulate(vp, guest, *gpa, *write, &mut Bus { machine, now }, decoded);
            match done {
                Ok(()) => {}
                Err(Refusal::Form) => vp.raise(UD, None),
                Err(Refusal::Walk(error)) => raise(vp, error),
            }
        }
        Exit::Halt => {
            // STI's shadow ends with the HLT that it protected.
            vp.clear_interrupt_shadow();
            return Next::Halted;
        }
        // No hypervisor is there for the guest.
        Exit::Hypercall | Exit::Undefined => vp.raise(UD, None),
        Exit::Rdpmc => vp.raise(GP, Some(0)),
        Exit::Xsetbv => xsetbv(vp, machine),
        Exit::Shutdown => return Next::TripleFault,
        Exit::EntryRefused { code } => {
            return Next::Unknown {
                code: *code,
                info1: 0,
                info2: 0,
            };
        }
        // While another event is delivered: the guest's stack or tables are of no use,
        // and which of both events counts is beyond what can be told from here.
        Exit::Exception { vector, .. } if vp.event_pending() => {
            return Next::Unknown {
                code: exit_code::EXCEPTION.wrapping_add(u64::from(*vector)),
                info1: 0,
                info2: 0,
            };
        }
        Exit::Exception {
            vector,
            error,
            address,
        } => exception(vp, *vector, *error, *address),
        // A host that intercepts an instruction which needs no privilege (INT1, RDTSC,
        // SIDT): a program of the guest's must not be able to end its VM by it.
        Exit::Unknown { code, .. }
            if vp.cpl() == 3 && !vp.event_pending() && of_an_instruction(*code) =>
        {
            vp.raise(UD, None);
        }
        Exit::Unknown { code, info1, info2 } => {
            return Next::Unknown {
                code: *code,
                info1: *info1,
                info2: *info2,
            };
        }
    }
    Next::Run
}

/// Whether an exit is of an instruction that the guest was about to execute, and not
/// of something that came from outside.
fn of_an_instruction(code: u64) -> bool {
    matches!(
        code,
        exit_code::CR_READ..exit_code::EXCEPTION
            | EXCEPTION_BP
            | EXCEPTION_OF
            | exit_code::CR0_SEL_WRITE..exit_code::TASK_SWITCH
            | exit_code::VMRUN..=exit_code::RDPRU
            | exit_code::INVLPGB..=exit_code::TLBSYNC
    )
}

/// Delivers an exception that the host has held up.
fn exception(vp: &mut impl Registers, vector: u8, error: Option<u32>, address: u64) {
    if vector == PF {
        vp.set(Reg::Cr2, address);
    }
    vp.raise(vector, error);
}

/// Whether the guest's own memory lies at `gpa`.
fn is_ram(guest: &impl GuestMemory, gpa: u64) -> bool {
    guest.read(gpa, &mut [0]).is_ok()
}

fn raise(vp: &mut impl Registers, error: WalkError) {
    match error {
        WalkError::PageFault { code, address } => {
            vp.set(Reg::Cr2, address);
            vp.raise(PF, Some(code));
        }
        WalkError::Unsupported => vp.raise(GP, Some(0)),
    }
}

/// Goes on behind an instruction that needs nothing done. PAUSE leaves with RIP
/// already behind it.
fn skip(exit: &Exit, vp: &mut impl Registers) {
    if *exit != Exit::Nothing {
        let next = vp.next_rip();
        vp.advance(next);
    }
}

fn cpuid(vp: &mut impl Registers, machine: &Machine) {
    let leaf = vp.get(Reg::Rax) as u32;
    let subleaf = vp.get(Reg::Rcx) as u32;
    let state = CpuidState {
        cr4: vp.get(Reg::Cr4),
        xcr0: vp.get(Reg::Xcr0),
    };
    let [a, b, c, d] = machine.cpuid(leaf, subleaf, state);
    for (reg, value) in [(Reg::Rax, a), (Reg::Rbx, b), (Reg::Rcx, c), (Reg::Rdx, d)] {
        vp.set(reg, value.into());
    }
    let next = vp.next_rip();
    vp.advance(next);
}

fn read_msr(vp: &mut impl Registers, machine: &mut Machine, now: u64) {
    match machine.rdmsr(vp.get(Reg::Rcx) as u32, now) {
        Ok(value) => {
            vp.set(Reg::Rax, value & 0xffff_ffff);
            vp.set(Reg::Rdx, value >> 32);
            let next = vp.next_rip();
            vp.advance(next);
        }
        Err(devices::Fault) => vp.raise(GP, Some(0)),
    }
}

fn edx_eax(vp: &impl Registers) -> u64 {
    vp.get(Reg::Rax) & 0xffff_ffff | vp.get(Reg::Rdx) << 32
}

fn write_msr(vp: &mut impl Registers, machine: &mut Machine, now: u64) {
    match machine.wrmsr(vp.get(Reg::Rcx) as u32, edx_eax(vp), now) {
        Ok(()) => {
            let next = vp.next_rip();
            vp.advance(next);
        }
        Err(devices::Fault) => vp.raise(GP, Some(0)),
    }
}

fn xsetbv(vp: &mut impl Registers, machine: &Machine) {
    let value = edx_eax(vp);
    if vp.cpl() != 0
        || machine
            .check_xsetbv(vp.get(Reg::Rcx) as u32, value)
            .is_err()
    {
        vp.raise(GP, Some(0));
        return;
    }
    vp.set(Reg::Xcr0, value);
    let next = vp.next_rip();
    vp.advance(next);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeVp, identity_tables};
    use devices::{CpuidSource, MachineConfig};
    use memory::doubles::VecGuest;
    use platform::IoAccess;

    struct NoLeaves;
    impl CpuidSource for NoLeaves {
        fn cpuid(&self, _: u32, _: u32) -> Option<[u32; 4]> {
            None
        }
    }

    fn world() -> (FakeVp, VecGuest, Machine) {
        let guest = VecGuest::new(0x20_0000);
        identity_tables(&guest, 0x1000);
        let mut vp = FakeVp::long_mode(0x1000);
        vp.set(Reg::Rip, 0x8000);
        vp.next_rip = 0x8002;
        let config = MachineConfig {
            memory_size: 0x2000_0000,
            tsc_hz: 2_000_000_000,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_up: false,
            processors: 1,
            queue_pairs: 1,
            epoch_seconds: 0,
            advertise_pm_timer: false,
        };
        (vp, guest, Machine::new(&config, &NoLeaves))
    }

    #[test]
    fn guest_cannot_reach_a_hypervisor() {
        let (mut vp, guest, mut machine) = world();
        assert_eq!(
            dispatch(
                &Exit::Hypercall,
                &mut vp,
                &guest,
                &mut machine,
                &mut Decoded::new(),
                0
            ),
            Next::Run
        );
        assert_eq!(vp.raised, Some((UD, None)));
        assert_eq!(vp.get(Reg::Rip), 0x8000);
        let (mut vp, guest, mut machine) = world();
        vp.set(Reg::Rcx, 0x4000_0000);
        assert_eq!(
            dispatch(
                &Exit::ReadMsr,
                &mut vp,
                &guest,
                &mut machine,
                &mut Decoded::new(),
                0
            ),
            Next::Run
        );
        assert_eq!(vp.raised, Some((GP, Some(0))));
    }

    #[test]
    fn cpuid_fills_four_registers_and_goes_on() {
        let (mut vp, guest, mut machine) = world();
        vp.set(Reg::Rax, 0xffff_ffff_4000_0000);
        vp.set(Reg::Rbx, u64::MAX);
        dispatch(
            &Exit::Cpuid,
            &mut vp,
            &guest,
            &mut machine,
            &mut Decoded::new(),
            0,
        );
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
        dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
            let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
        let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
        assert!(matches!(next, Next::Unknown { code: 0x400, .. }));
        assert_eq!(vp.get(Reg::Rip), 0x8000);
    }

    #[test]
    fn shadow_of_sti_ends_with_hlt() {
        let (mut vp, guest, mut machine) = world();
        vp.shadow = true;
        let next = dispatch(
            &Exit::Halt,
            &mut vp,
            &guest,
            &mut machine,
            &mut Decoded::new(),
            0,
        );
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
        dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
        assert_eq!(vp.raised, Some((UD, None)));
    }

    #[test]
    fn refused_xsetbv_leaves_xcr0_alone() {
        let (mut vp, guest, mut machine) = world();
        vp.set(Reg::Rcx, 1);
        vp.set(Reg::Rax, 7);
        dispatch(
            &Exit::Xsetbv,
            &mut vp,
            &guest,
            &mut machine,
            &mut Decoded::new(),
            0,
        );
        assert_eq!((vp.raised, vp.get(Reg::Xcr0)), (Some((GP, Some(0))), 0));
    }

    #[test]
    fn ends_of_a_run_are_told() {
        let (mut vp, guest, mut machine) = world();
        let mut run = |exit| dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
        let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
            let mut run =
                |vp: &mut _| dispatch(&exit, vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
            let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
            let next = dispatch(&exit, &mut vp, &guest, &mut machine, &mut Decoded::new(), 0);
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
        dispatch(
            &Exit::Io(access),
            &mut vp,
            &guest,
            &mut machine,
            &mut Decoded::new(),
            0,
        );
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
}
