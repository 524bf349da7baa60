//! Instructions that QEMU's SVM reports without a length or a name: told apart
//! and measured from the bytes at RIP.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};

/// Longest x86 instruction.
pub const MAX_LEN: usize = 15;

/// The instructions of SEV-SNP, which the processor below does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snp {
    /// `F2 0F 01 FF`.
    Pvalidate,
    /// `F3 0F 01 FE`.
    Rmpadjust,
    /// `F3 0F 01 FD`.
    Rmpquery,
}

/// Length of each of them.
pub const SNP_LEN: u64 = 4;

/// Which SNP instruction these bytes are; everything else stays undefined.
pub fn snp(bytes: &[u8]) -> Option<Snp> {
    match bytes {
        [0xf2, 0x0f, 0x01, 0xff, ..] => Some(Snp::Pvalidate),
        [0xf3, 0x0f, 0x01, 0xfe, ..] => Some(Snp::Rmpadjust),
        [0xf3, 0x0f, 0x01, 0xfd, ..] => Some(Snp::Rmpquery),
        _ => None,
    }
}

/// VMMCALL in its two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmmcall {
    /// `F3 0F 01 D9` (or with F2): VMGEXIT, 4 bytes.
    Vmgexit,
    /// `0F 01 D9`.
    Plain,
}

/// Tells VMGEXIT from VMMCALL.
pub fn vmmcall(bytes: &[u8]) -> Option<Vmmcall> {
    match bytes {
        [0xf2 | 0xf3, 0x0f, 0x01, 0xd9, ..] => Some(Vmmcall::Vmgexit),
        [0x0f, 0x01, 0xd9, ..] => Some(Vmmcall::Plain),
        _ => None,
    }
}

/// Decodes one instruction; `bits` is 16, 32 or 64. `None` if the bytes are no
/// whole instruction.
pub fn decode(bytes: &[u8], bits: u32, rip: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    (insn.code() != Code::INVALID).then_some(insn)
}

/// Length in bytes of the instruction.
pub fn length(bytes: &[u8], bits: u32) -> Option<u64> {
    decode(bytes, bits, 0).map(|i| i.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snp_instructions_by_their_bytes() {
        assert_eq!(snp(&[0xf2, 0x0f, 0x01, 0xff, 0x90]), Some(Snp::Pvalidate));
        assert_eq!(snp(&[0xf3, 0x0f, 0x01, 0xfe]), Some(Snp::Rmpadjust));
        assert_eq!(snp(&[0xf3, 0x0f, 0x01, 0xfd]), Some(Snp::Rmpquery));
        // PSMASH, RMPUPDATE, UD2, cut off.
        assert_eq!(snp(&[0xf3, 0x0f, 0x01, 0xff]), None);
        assert_eq!(snp(&[0xf2, 0x0f, 0x01, 0xfe]), None);
        assert_eq!(snp(&[0x0f, 0x0b]), None);
        assert_eq!(snp(&[0xf2, 0x0f, 0x01]), None);
    }

    #[test]
    fn vmgexit_is_vmmcall_with_a_prefix() {
        assert_eq!(vmmcall(&[0xf3, 0x0f, 0x01, 0xd9]), Some(Vmmcall::Vmgexit));
        assert_eq!(vmmcall(&[0x0f, 0x01, 0xd9]), Some(Vmmcall::Plain));
        assert_eq!(vmmcall(&[0x90]), None);
    }

    #[test]
    fn lengths() {
        assert_eq!(length(&[0x0f, 0xa2], 64), Some(2)); // cpuid
        assert_eq!(length(&[0x0f, 0x30], 64), Some(2)); // wrmsr
        assert_eq!(length(&[0xf4], 64), Some(1)); // hlt
        assert_eq!(length(&[0x2e, 0x0f, 0xa2], 64), Some(3));
        assert_eq!(length(&[0x0f], 64), None);
    }
}
