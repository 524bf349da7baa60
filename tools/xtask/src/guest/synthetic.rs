//! Kernels of a few bytes that misbehave on purpose: a real bzImage header (Linux
//! x86 boot protocol 2.15) and, at the 64-bit entry, one bad instruction.

/// What the tiny kernel does at its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// Takes an exception with an empty interrupt table.
    TripleFault,
    /// Leaves for a reason that the paravisor has no answer for (`ICEBP`, SVM exit 0x88).
    UnknownExit,
}

const SECTOR: usize = 512;
const SETUP_SECTORS: usize = 1;
const PROTECTED_MODE: usize = (1 + SETUP_SECTORS) * SECTOR;
const ENTRY_64: usize = 0x200;
const LENGTH: usize = PROTECTED_MODE + 4096;

/// `lidt [rip+2]; ud2;` and the ten zero bytes of an empty descriptor.
const TRIPLE_FAULT: [u8; 19] = [
    0x0f, 0x01, 0x1d, 0x02, 0, 0, 0, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// `icebp; hlt; jmp to the hlt`.
const UNKNOWN_EXIT: [u8; 4] = [0xf1, 0xf4, 0xeb, 0xfd];

/// The file.
pub fn kernel(misdeed: Misdeed) -> Vec<u8> {
    let mut file = vec![0u8; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let paragraphs = ((LENGTH - PROTECTED_MODE) / 16) as u32;
    put(0x1f1, &[SETUP_SECTORS as u8]);
    put(0x1f4, &paragraphs.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]); // jump over the header, which ends at 0x268
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[0x01]); // loaded high
    put(0x214, &0x0010_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // highest initrd address
    put(0x230, &0x0020_0000_u32.to_le_bytes()); // alignment
    put(0x234, &[1, 21]); // relocatable, least alignment 2^21
    put(0x236, &0x0003_u16.to_le_bytes()); // 64-bit entry, loadable above 4 GiB
    put(0x238, &2047_u32.to_le_bytes()); // longest command line
    put(0x258, &0x0100_0000_u64.to_le_bytes()); // preferred address
    put(0x260, &0x0010_0000_u32.to_le_bytes()); // memory it needs
    put(PROTECTED_MODE, &[0xf4]); // the 32-bit entry is not for us
    let code: &[u8] = match misdeed {
        Misdeed::TripleFault => &TRIPLE_FAULT,
        Misdeed::UnknownExit => &UNKNOWN_EXIT,
    };
    put(PROTECTED_MODE + ENTRY_64, code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_says_bzimage_with_a_64_bit_entry() {
        let file = kernel(Misdeed::TripleFault);
        assert_eq!(&file[0x1fe..0x200], &[0x55, 0xaa]);
        assert_eq!(&file[0x202..0x206], b"HdrS");
        assert_eq!(file[0x236] & 1, 1);
        assert_eq!(file[PROTECTED_MODE + ENTRY_64], 0x0f);
        assert_eq!(
            kernel(Misdeed::UnknownExit)[PROTECTED_MODE + ENTRY_64],
            0xf1
        );
    }
}
