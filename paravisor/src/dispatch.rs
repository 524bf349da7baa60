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
mod tests;
