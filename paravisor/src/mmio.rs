//! Instructions that touch device memory: decoded (iced-x86), judged against a
//! short list of forms, executed against a device.
//!
//! The list is what compilers and Linux's accessors (`readl`, `writel`,
//! `memcpy_fromio`, the APIC's `mov` and `xchg`) produce: moves with and without
//! extension, the two-operand arithmetic, exchange, one step of a string move or
//! store. Anything else is [`Refusal::Form`] and the guest gets #UD. A repeated
//! string instruction does one element per exit, so no exit takes long.

use crate::walk::{self, WalkError};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use memory::GuestMemory;
use platform::{Reg, Registers, Seg};

/// Device memory, as an instruction sees it. Sizes are 1, 2, 4 or 8.
pub trait Device {
    /// Reads `size` bytes, zero-extended.
    fn read(&mut self, gpa: u64, size: u8) -> u64;
    /// Writes the low `size` bytes.
    fn write(&mut self, gpa: u64, size: u8, value: u64);
}

/// Why an instruction was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Bytes that are no instruction, or one that is not on the list.
    Form,
    /// The guest's own page tables stop it.
    Walk(WalkError),
}

impl From<WalkError> for Refusal {
    fn from(error: WalkError) -> Refusal {
        Refusal::Walk(error)
    }
}

/// A general register, whole or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    reg: Reg,
    size: u8,
    /// AH, CH, DH, BH.
    high: bool,
}

impl Slot {
    fn new(register: Register) -> Option<Slot> {
        if !register.is_gpr() {
            return None;
        }
        let size = u8::try_from(register.size()).ok()?;
        let high = matches!(
            register,
            Register::AH | Register::CH | Register::DH | Register::BH
        );
        let reg = *Reg::GENERAL.get(register.full_register().number())?;
        Some(Slot { reg, size, high })
    }

    fn get(self, vp: &impl Registers) -> u64 {
        let value = vp.get(self.reg);
        if self.high {
            value >> 8 & 0xff
        } else {
            value & mask(self.size)
        }
    }

    /// Writes as the processor does: 32-bit results clear the upper half.
    fn set(self, vp: &mut impl Registers, value: u64) {
        let old = vp.get(self.reg);
        let new = match (self.size, self.high) {
            (1, true) => old & !0xff00 | (value & 0xff) << 8,
            (1 | 2, _) => old & !mask(self.size) | value & mask(self.size),
            (4, _) => value & 0xffff_ffff,
            _ => value,
        };
        vp.set(self.reg, new);
    }
}

fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn sign_extend(value: u64, size: u8) -> u64 {
    let unused = 64u32.saturating_sub(u32::from(size).saturating_mul(8));
    ((value.wrapping_shl(unused) as i64).wrapping_shr(unused)) as u64
}

/// Two-operand arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alu {
    Add,
    Or,
    And,
    Sub,
    Xor,
    /// Subtraction whose result is thrown away.
    Cmp,
    /// Conjunction whose result is thrown away.
    Test,
}

impl Alu {
    fn new(mnemonic: Mnemonic) -> Option<Alu> {
        Some(match mnemonic {
            Mnemonic::Add => Alu::Add,
            Mnemonic::Or => Alu::Or,
            Mnemonic::And => Alu::And,
            Mnemonic::Sub => Alu::Sub,
            Mnemonic::Xor => Alu::Xor,
            Mnemonic::Cmp => Alu::Cmp,
            Mnemonic::Test => Alu::Test,
            _ => return None,
        })
    }

    fn writes(self) -> bool {
        !matches!(self, Alu::Cmp | Alu::Test)
    }

    /// Result and the arithmetic flags (CF, PF, AF, ZF, SF, OF) of RFLAGS.
    fn execute(self, a: u64, b: u64, size: u8) -> (u64, u64) {
        let m = mask(size);
        let (a, b) = (a & m, b & m);
        let top = m & !(m >> 1);
        let (result, carry, overflow, adjust) = match self {
            Alu::Add => {
                let r = a.wrapping_add(b) & m;
                (
                    r,
                    r < a,
                    !(a ^ b) & (a ^ r) & top != 0,
                    (a ^ b ^ r) & 0x10 != 0,
                )
            }
            Alu::Sub | Alu::Cmp => {
                let r = a.wrapping_sub(b) & m;
                (
                    r,
                    a < b,
                    (a ^ b) & (a ^ r) & top != 0,
                    (a ^ b ^ r) & 0x10 != 0,
                )
            }
            Alu::Or => (a | b, false, false, false),
            Alu::And | Alu::Test => (a & b, false, false, false),
            Alu::Xor => (a ^ b, false, false, false),
        };
        let flag = |set: bool, bit: u32| u64::from(set) << bit;
        let flags = flag(carry, 0)
            | flag((result as u8).count_ones().is_multiple_of(2), 2)
            | flag(adjust, 4)
            | flag(result == 0, 6)
            | flag(result & top != 0, 7)
            | flag(overflow, 11);
        (result, flags)
    }
}

const ARITHMETIC_FLAGS: u64 = 0x8d5;
const RFLAGS_DF: u64 = 1 << 10;

fn set_flags(vp: &mut impl Registers, flags: u64) {
    let old = vp.get(Reg::Rflags);
    vp.set(Reg::Rflags, old & !ARITHMETIC_FLAGS | flags);
}

/// Instructions that were decoded before. A driver reaches its device from a handful
/// of places, and the decoder's tables are spread over memory that is cold after
/// each exit.
pub struct Decoded {
    slots: [Option<Known>; SLOTS],
}

/// One for each low RIP value that is likely to recur.
const SLOTS: usize = 16;

/// An instruction with all that its decoding depended on.
#[derive(Clone, Copy)]
struct Known {
    rip: u64,
    bytes: [u8; walk::MAX_INSTRUCTION],
    instruction: Instruction,
}

impl Default for Decoded {
    fn default() -> Self {
        Decoded::new()
    }
}

impl Decoded {
    /// Nothing was decoded yet.
    pub const fn new() -> Decoded {
        Decoded {
            slots: [None; SLOTS],
        }
    }

    /// The instruction that `bytes`, which were fetched at `rip`, start with.
    fn decode(&mut self, rip: u64, bytes: &[u8]) -> Option<Instruction> {
        let slot = self.slots.get_mut((rip ^ rip >> 4) as usize % SLOTS)?;
        if let Some(known) = slot
            && known.rip == rip
            && let Some(used) = known.bytes.get(..known.instruction.len())
            && bytes.starts_with(used)
        {
            return Some(known.instruction);
        }
        let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        let mut copy = [0; walk::MAX_INSTRUCTION];
        for (to, from) in copy.iter_mut().zip(bytes) {
            *to = *from;
        }
        *slot = Some(Known {
            rip,
            bytes: copy,
            instruction,
        });
        Some(instruction)
    }
}

/// Executes the instruction at RIP, whose memory operand lies in the page of
/// `gpa` (the fault's address; its low 12 bits are taken from the operand).
pub fn emulate(
    vp: &mut impl Registers,
    guest: &impl GuestMemory,
    gpa: u64,
    write: bool,
    device: &mut impl Device,
    decoded: &mut Decoded,
) -> Result<(), Refusal> {
    if !vp.segment(Seg::Cs).long {
        return Err(Refusal::Form);
    }
    let mut bytes = [0; walk::MAX_INSTRUCTION];
    let len = walk::fetch(vp, guest, &mut bytes)?;
    let instruction = decoded
        .decode(vp.get(Reg::Rip), bytes.get(..len).unwrap_or(&[]))
        .ok_or(Refusal::Form)?;
    if matches!(
        instruction.mnemonic(),
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq
    ) && instruction.is_string_instruction()
    {
        return string_move(vp, guest, gpa, write, device, &instruction);
    }
    if matches!(
        instruction.mnemonic(),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq
    ) {
        return string_store(vp, gpa, device, &instruction);
    }
    let linear = operand_address(vp, &instruction).ok_or(Refusal::Form)?;
    let gpa = gpa & !0xfff | linear & 0xfff;
    let size = u8::try_from(instruction.memory_size().size()).unwrap_or(0);
    if !matches!(size, 1 | 2 | 4 | 8) || instruction.op_count() != 2 {
        return Err(Refusal::Form);
    }
    execute(vp, gpa, size, device, &instruction).ok_or(Refusal::Form)?;
    vp.advance(instruction.next_ip());
    Ok(())
}

/// Everything but string instructions. `None`: not on the list, nothing done.
fn execute(
    vp: &mut impl Registers,
    gpa: u64,
    size: u8,
    device: &mut impl Device,
    instruction: &Instruction,
) -> Option<()> {
    let memory_first = instruction.op0_kind() == OpKind::Memory;
    let other = if memory_first { 1 } else { 0 };
    let slot = match instruction.op_kind(other) {
        OpKind::Register => Some(Slot::new(instruction.op_register(other))?),
        _ => None,
    };
    let immediate = || instruction.try_immediate(1).ok();
    let source = |vp: &_| match slot {
        Some(slot) => Some(slot.get(vp)),
        None => immediate(),
    };
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti if memory_first => {
            device.write(gpa, size, source(vp)? & mask(size));
        }
        Mnemonic::Mov => {
            let slot = slot?;
            slot.set(vp, device.read(gpa, size) & mask(size));
        }
        Mnemonic::Movzx => {
            let slot = slot?;
            slot.set(vp, device.read(gpa, size) & mask(size));
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let slot = slot?;
            slot.set(vp, sign_extend(device.read(gpa, size), size));
        }
        Mnemonic::Xchg => {
            let slot = slot?;
            let new = slot.get(vp);
            let old = device.read(gpa, size) & mask(size);
            device.write(gpa, size, new);
            slot.set(vp, old);
        }
        mnemonic => {
            let alu = Alu::new(mnemonic)?;
            let value = source(vp)?;
            let memory = device.read(gpa, size);
            let (a, b) = if memory_first {
                (memory, value)
            } else {
                (value, memory)
            };
            let (result, flags) = alu.execute(a, b, size);
            if alu.writes() {
                match slot {
                    Some(slot) if !memory_first => slot.set(vp, result),
                    _ => device.write(gpa, size, result),
                }
            }
            set_flags(vp, flags);
        }
    }
    Some(())
}

/// Linear address of the memory operand.
fn operand_address(vp: &impl Registers, instruction: &Instruction) -> Option<u64> {
    let operand =
        (0..instruction.op_count()).find(|n| instruction.op_kind(*n) == OpKind::Memory)?;
    instruction.virtual_address(operand, 0, |register, _, _| register_value(vp, register))
}

/// A register as part of an address: segment registers give their base.
fn register_value(vp: &impl Registers, register: Register) -> Option<u64> {
    match register {
        Register::FS => Some(vp.segment(Seg::Fs).base),
        Register::GS => Some(vp.segment(Seg::Gs).base),
        // Bases are zero in 64-bit mode.
        Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
        _ => Slot::new(register).map(|slot| slot.get(vp)),
    }
}

/// State of a string instruction: how far RSI and RDI move, and RCX.
struct Step {
    size: u8,
    delta: u64,
    rep: bool,
}

impl Step {
    /// 64-bit addresses only; other address sizes are [`Refusal::Form`].
    fn new(vp: &impl Registers, instruction: &Instruction) -> Option<Step> {
        let size = u8::try_from(instruction.memory_size().size()).ok()?;
        let wide = |n| {
            !matches!(
                instruction.op_kind(n),
                OpKind::MemorySegSI
                    | OpKind::MemorySegESI
                    | OpKind::MemoryESDI
                    | OpKind::MemoryESEDI
            )
        };
        if !matches!(size, 1 | 2 | 4 | 8) || !wide(0) || !wide(1) {
            return None;
        }
        let down = vp.get(Reg::Rflags) & RFLAGS_DF != 0;
        let delta = if down {
            u64::from(size).wrapping_neg()
        } else {
            u64::from(size)
        };
        Some(Step {
            size,
            delta,
            rep: instruction.has_rep_prefix(),
        })
    }

    /// Moves a pointer register.
    fn advance(&self, vp: &mut impl Registers, reg: Reg) {
        let value = vp.get(reg).wrapping_add(self.delta);
        vp.set(reg, value);
    }

    /// Counts an element; RIP moves on when there are no more.
    fn finish(&self, vp: &mut impl Registers, instruction: &Instruction) {
        if self.rep {
            let left = vp.get(Reg::Rcx).wrapping_sub(1);
            vp.set(Reg::Rcx, left);
            if left != 0 {
                return;
            }
        }
        vp.advance(instruction.next_ip());
    }
}

fn string_store(
    vp: &mut impl Registers,
    gpa: u64,
    device: &mut impl Device,
    instruction: &Instruction,
) -> Result<(), Refusal> {
    let step = Step::new(vp, instruction).ok_or(Refusal::Form)?;
    let gpa = gpa & !0xfff | vp.get(Reg::Rdi) & 0xfff;
    device.write(gpa, step.size, vp.get(Reg::Rax) & mask(step.size));
    step.advance(vp, Reg::Rdi);
    step.finish(vp, instruction);
    Ok(())
}

/// One element between a device and RAM. Both sides device memory is refused.
fn string_move(
    vp: &mut impl Registers,
    guest: &impl GuestMemory,
    gpa: u64,
    write: bool,
    device: &mut impl Device,
    instruction: &Instruction,
) -> Result<(), Refusal> {
    let step = Step::new(vp, instruction).ok_or(Refusal::Form)?;
    let segment = register_value(vp, instruction.memory_segment()).unwrap_or(0);
    let from = vp.get(Reg::Rsi).wrapping_add(segment);
    let to = vp.get(Reg::Rdi);
    let mut bytes = [0; 8];
    let part = bytes
        .get_mut(..usize::from(step.size))
        .ok_or(Refusal::Form)?;
    if write {
        walk::read(vp, guest, from, part)?;
        device.write(
            gpa & !0xfff | to & 0xfff,
            step.size,
            u64::from_le_bytes(bytes),
        );
    } else {
        // The way into RAM is looked up first: a device's register is read only if
        // its value has a place to go.
        walk::translate(vp, guest, to, walk::Purpose::Write)?;
        let value = device
            .read(gpa & !0xfff | from & 0xfff, step.size)
            .to_le_bytes();
        part.copy_from_slice(value.get(..usize::from(step.size)).ok_or(Refusal::Form)?);
        walk::write(vp, guest, to, part)?;
    }
    step.advance(vp, Reg::Rsi);
    step.advance(vp, Reg::Rdi);
    step.finish(vp, instruction);
    Ok(())
}

#[cfg(test)]
mod tests;
