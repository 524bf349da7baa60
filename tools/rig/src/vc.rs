//! Delivery of an exception with an error code in software.
//!
//! QEMU's TCG does not push the error code of `#VC` on event injection, so the
//! rig reads the gate and the stack from the guest's memory and writes the frame
//! itself (AMD64 APM volume 2, 8.9, long mode).

/// An interrupt gate in long mode, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Handler.
    pub offset: u64,
    /// Code selector.
    pub selector: u16,
    /// Stack from the TSS, 0 = none.
    pub ist: u8,
    /// Interrupt gate (clears IF); else a trap gate.
    pub interrupt: bool,
}

/// Reads a gate; `None` if it is not present or no 64-bit interrupt or trap gate.
pub fn gate(raw: &[u8; 16]) -> Option<Gate> {
    let kind = raw[5];
    if kind & 0x80 == 0 || !matches!(kind & 0x1f, 0xe | 0xf) {
        return None;
    }
    let low = u64::from(u16::from_le_bytes([raw[0], raw[1]]));
    let mid = u64::from(u16::from_le_bytes([raw[6], raw[7]]));
    let high = u64::from(u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]));
    Some(Gate {
        offset: low | mid << 16 | high << 32,
        selector: u16::from_le_bytes([raw[2], raw[3]]),
        ist: raw[4] & 7,
        interrupt: kind & 0x1f == 0xe,
    })
}

/// Offset of an IST entry in the 64-bit TSS.
pub fn ist_offset(ist: u8) -> u64 {
    0x24 + 8 * (u64::from(ist) - 1)
}

/// What delivery reads from the interrupted context.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// RIP of the faulting instruction.
    pub rip: u64,
    /// Code selector.
    pub cs: u16,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u16,
}

/// Size of a frame with an error code.
pub const FRAME_LEN: usize = 48;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_NT: u64 = 1 << 14;
const RFLAGS_RF: u64 = 1 << 16;

/// The frame to write at the returned RSP, and the flags of the handler.
pub fn frame(
    gate: Gate,
    stack: u64,
    at: Interrupted,
    error_code: u64,
) -> ([u8; FRAME_LEN], u64, u64) {
    let rsp = (stack & !0xf).wrapping_sub(FRAME_LEN as u64);
    let words = [
        error_code,
        at.rip,
        u64::from(at.cs),
        at.rflags,
        at.rsp,
        u64::from(at.ss),
    ];
    let mut bytes = [0; FRAME_LEN];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let mut rflags = at.rflags & !(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF);
    if gate.interrupt {
        rflags &= !RFLAGS_IF;
    }
    (bytes, rsp, rflags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: u8, ist: u8) -> [u8; 16] {
        let mut g = [0; 16];
        g[0..2].copy_from_slice(&0x5678u16.to_le_bytes());
        g[2..4].copy_from_slice(&8u16.to_le_bytes());
        g[4] = ist;
        g[5] = kind;
        g[6..8].copy_from_slice(&0x1234u16.to_le_bytes());
        g[8..12].copy_from_slice(&0xffff_8000u32.to_le_bytes());
        g
    }

    #[test]
    fn a_gate_is_read() {
        let g = gate(&raw(0x8e, 1)).unwrap();
        assert_eq!(
            g,
            Gate {
                offset: 0xffff_8000_1234_5678,
                selector: 8,
                ist: 1,
                interrupt: true
            }
        );
        assert!(!gate(&raw(0x8f, 0)).unwrap().interrupt);
        assert_eq!(gate(&raw(0x0e, 0)), None);
        assert_eq!(gate(&raw(0x85, 0)), None);
        assert_eq!(gate(&[0; 16]), None);
    }

    #[test]
    fn the_frame_has_the_error_code_lowest() {
        let g = gate(&raw(0x8e, 1)).unwrap();
        let at = Interrupted {
            rip: 0x1111,
            cs: 8,
            rflags: 0x10302,
            rsp: 0x9999,
            ss: 0x10,
        };
        let (bytes, rsp, rflags) = frame(g, 0x1_0008, at, 0x72);
        assert_eq!(rsp, 0x1_0000 - 48);
        assert_eq!(rflags, 0x2);
        assert_eq!(bytes[..8], 0x72u64.to_le_bytes());
        assert_eq!(bytes[8..16], 0x1111u64.to_le_bytes());
        assert_eq!(bytes[24..32], 0x10302u64.to_le_bytes());
        assert_eq!(bytes[32..40], 0x9999u64.to_le_bytes());
        assert_eq!(ist_offset(1), 0x24);
        assert_eq!(ist_offset(7), 0x54);
    }
}
