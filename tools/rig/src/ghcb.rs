//! Reads a request from a copy of the GHCB page, as strictly as Hyper-V: what
//! it does not like kills the VM.

use abi::ghcb::{
    HYPERCALL_CONTROL_OFFSET, HYPERCALL_OUTPUT_GPA_OFFSET, Usage, exit, offset, valid,
};

/// What the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Port access; `write` holds the value of an OUT.
    Io {
        /// Port.
        port: u16,
        /// 1, 2 or 4 bytes.
        width: u8,
        /// Value to write.
        write: Option<u32>,
    },
    /// MSR access; `write` holds the value of a WRMSR.
    Msr {
        /// MSR number.
        index: u32,
        /// Value to write.
        write: Option<u64>,
    },
    /// Page state change list at this GPA.
    PageStateChange {
        /// GPA of the header.
        scratch: u64,
    },
    /// Hypercall with its input in the page.
    Hypercall {
        /// Control word.
        control: u64,
        /// GPA of the output page.
        output_gpa: u64,
    },
    /// Run a lower privilege level.
    RunLower {
        /// Target VTL.
        vtl: u8,
    },
}

/// Why the page is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Usage is none of 0, 1, 2 (all ones: left there by the last call).
    Usage(u32),
    /// Protocol version is not 1 or 2.
    Version(u16),
    /// A field that the call needs is not marked valid; the bit number.
    Missing(u32),
    /// Exit code that the host does not implement.
    ExitCode(u64),
    /// String I/O or a width that is not 1, 2 or 4.
    Io(u64),
    /// MSR exit with INFO1 not 0 or 1.
    Msr(u64),
}

/// Bytes of the page, at most read once before from the guest.
pub type Page = [u8; abi::ghcb::PAGE_SIZE];

fn word(page: &Page, at: usize) -> u64 {
    page.get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn put(page: &mut Page, at: usize, value: u64) {
    if let Some(b) = page.get_mut(at..at + 8) {
        b.copy_from_slice(&value.to_le_bytes());
    }
}

fn is_valid(page: &Page, bit: u32) -> bool {
    word(page, offset::VALID_BITMAP + (bit / 64) as usize * 8) >> (bit % 64) & 1 != 0
}

fn need(page: &Page, bits: &[u32]) -> Result<(), Malformed> {
    match bits.iter().find(|b| !is_valid(page, **b)) {
        Some(bit) => Err(Malformed::Missing(*bit)),
        None => Ok(()),
    }
}

/// Whether the last 8 bytes of a page are those of a sound request to run a
/// lower level, for which nothing else but byte 0 counts.
pub fn is_run_lower(tail: [u8; 8]) -> bool {
    let tail = u64::from_le_bytes(tail);
    let version = (tail >> 16) as u16;
    tail >> 32 == u64::from(Usage::VTL_RETURN.0)
        && (1..=abi::ghcb::PROTOCOL_VERSION).contains(&version)
}

/// Decodes the request in a page.
pub fn parse(page: &Page) -> Result<Call, Malformed> {
    let tail = word(page, offset::PROTOCOL_VERSION - 2);
    let version = (tail >> 16) as u16;
    let usage = Usage((tail >> 32) as u32);
    if !matches!(usage, Usage::BASE | Usage::HYPERCALL | Usage::VTL_RETURN) {
        return Err(Malformed::Usage(usage.0));
    }
    if !(1..=abi::ghcb::PROTOCOL_VERSION).contains(&version) {
        return Err(Malformed::Version(version));
    }
    match usage {
        Usage::HYPERCALL => Ok(Call::Hypercall {
            control: word(page, HYPERCALL_CONTROL_OFFSET),
            output_gpa: word(page, HYPERCALL_OUTPUT_GPA_OFFSET),
        }),
        Usage::VTL_RETURN => Ok(Call::RunLower {
            vtl: page[offset::TARGET_VTL],
        }),
        _ => base(page),
    }
}

fn base(page: &Page) -> Result<Call, Malformed> {
    need(
        page,
        &[
            valid::SW_EXIT_CODE,
            valid::SW_EXIT_INFO1,
            valid::SW_EXIT_INFO2,
        ],
    )?;
    let info1 = word(page, offset::SW_EXIT_INFO1);
    match word(page, offset::SW_EXIT_CODE) {
        exit::IOIO => {
            let width = abi::svm::ioio::width(info1);
            let refused = abi::ghcb::ioio::STRING | abi::ghcb::ioio::REP;
            if info1 & refused != 0 || width == 0 {
                return Err(Malformed::Io(info1));
            }
            let write = if info1 & abi::ghcb::ioio::IN == 0 {
                need(page, &[valid::RAX])?;
                let mask = u64::MAX >> (64 - 8 * u32::from(width));
                Some((word(page, offset::RAX) & mask) as u32)
            } else {
                None
            };
            Ok(Call::Io {
                port: abi::svm::ioio::port(info1),
                width,
                write,
            })
        }
        exit::MSR => {
            need(page, &[valid::RCX])?;
            let index = word(page, offset::RCX) as u32;
            let write = match info1 {
                abi::ghcb::MSR_READ => None,
                abi::ghcb::MSR_WRITE => {
                    need(page, &[valid::RAX, valid::RDX])?;
                    let low = word(page, offset::RAX) & 0xffff_ffff;
                    Some(low | word(page, offset::RDX) << 32)
                }
                other => return Err(Malformed::Msr(other)),
            };
            Ok(Call::Msr { index, write })
        }
        exit::PAGE_STATE_CHANGE => {
            need(page, &[valid::SW_SCRATCH])?;
            Ok(Call::PageStateChange {
                scratch: word(page, offset::SW_SCRATCH),
            })
        }
        code => Err(Malformed::ExitCode(code)),
    }
}

/// What goes back into the page: `(offset, value)` pairs, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// RAX, marked valid.
    pub rax: Option<u64>,
    /// RDX, marked valid.
    pub rdx: Option<u64>,
    /// SW_EXITINFO1.
    pub info1: u64,
    /// SW_EXITINFO2.
    pub info2: u64,
}

/// Writes a reply to a usage 0 call into the copy of its page.
pub fn reply(page: &mut Page, reply: Reply) {
    put(page, offset::SW_EXIT_INFO1, reply.info1);
    put(page, offset::SW_EXIT_INFO2, reply.info2);
    let mut bitmap = [0u64; 2];
    bitmap[1] = valid::EVERY_CALL_WORD1;
    if let Some(rax) = reply.rax {
        put(page, offset::RAX, rax);
        bitmap[(valid::RAX / 64) as usize] |= 1 << (valid::RAX % 64);
    }
    if let Some(rdx) = reply.rdx {
        put(page, offset::RDX, rdx);
        bitmap[(valid::RDX / 64) as usize] |= 1 << (valid::RDX % 64);
    }
    put(page, offset::VALID_BITMAP, bitmap[0]);
    put(page, offset::VALID_BITMAP + 8, bitmap[1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(usage: u32, code: u64, info1: u64, bits: &[u32]) -> Page {
        let mut p = [0u8; 4096];
        p[offset::USAGE..].copy_from_slice(&usage.to_le_bytes());
        p[offset::PROTOCOL_VERSION..offset::USAGE].copy_from_slice(&2u16.to_le_bytes());
        put(&mut p, offset::SW_EXIT_CODE, code);
        put(&mut p, offset::SW_EXIT_INFO1, info1);
        let mut map = [0, valid::EVERY_CALL_WORD1];
        for b in bits {
            map[(b / 64) as usize] |= 1u64 << (b % 64);
        }
        put(&mut p, offset::VALID_BITMAP, map[0]);
        put(&mut p, offset::VALID_BITMAP + 8, map[1]);
        p
    }

    #[test]
    fn out_of_one_byte_takes_al_only() {
        let mut p = page(0, 0x7b, 0x02f8_0010, &[valid::RAX]);
        put(&mut p, offset::RAX, 0xffff_ff41);
        assert_eq!(
            parse(&p),
            Ok(Call::Io {
                port: 0x2f8,
                width: 1,
                write: Some(0x41)
            })
        );
        let p = page(0, 0x7b, 0x02f8_0010, &[]);
        assert_eq!(parse(&p), Err(Malformed::Missing(valid::RAX)));
    }

    #[test]
    fn string_io_and_odd_widths_are_refused() {
        assert_eq!(
            parse(&page(0, 0x7b, 0x64_0015, &[])),
            Err(Malformed::Io(0x64_0015))
        );
        assert_eq!(
            parse(&page(0, 0x7b, 0x64_0031, &[])),
            Err(Malformed::Io(0x64_0031))
        );
        assert_eq!(
            parse(&page(0, 0x7b, 0x64_0041, &[])),
            Ok(Call::Io {
                port: 0x64,
                width: 4,
                write: None
            })
        );
    }

    #[test]
    fn msr_halves_are_joined() {
        let mut p = page(0, 0x7c, 1, &[valid::RAX, valid::RCX, valid::RDX]);
        put(&mut p, offset::RCX, 0x4000_0080);
        put(&mut p, offset::RAX, 0x1_0000_0001);
        put(&mut p, offset::RDX, 2);
        assert_eq!(
            parse(&p),
            Ok(Call::Msr {
                index: 0x4000_0080,
                write: Some(0x2_0000_0001)
            })
        );
        assert_eq!(
            parse(&page(0, 0x7c, 2, &[valid::RCX])),
            Err(Malformed::Msr(2))
        );
        assert_eq!(
            parse(&page(0, 0x7c, 0, &[])),
            Err(Malformed::Missing(valid::RCX))
        );
    }

    #[test]
    fn usage_version_and_code_are_judged() {
        assert_eq!(
            parse(&page(u32::MAX, 0x7b, 0, &[])),
            Err(Malformed::Usage(u32::MAX))
        );
        assert_eq!(parse(&page(3, 0x7b, 0, &[])), Err(Malformed::Usage(3)));
        assert_eq!(
            parse(&page(0, 0x99, 0, &[])),
            Err(Malformed::ExitCode(0x99))
        );
        let mut p = page(0, 0x7b, 0, &[]);
        p[offset::PROTOCOL_VERSION] = 3;
        assert_eq!(parse(&p), Err(Malformed::Version(3)));
    }

    #[test]
    fn hyper_v_usages() {
        let mut p = page(1, 0, 0, &[]);
        put(&mut p, HYPERCALL_CONTROL_OFFSET, 0x1005c);
        put(&mut p, HYPERCALL_OUTPUT_GPA_OFFSET, 0x2000);
        assert_eq!(
            parse(&p),
            Ok(Call::Hypercall {
                control: 0x1005c,
                output_gpa: 0x2000
            })
        );
        let mut p = page(2, 0, 0, &[]);
        p[0] = 7;
        assert_eq!(parse(&p), Ok(Call::RunLower { vtl: 7 }));
        let tail = p[4088..].try_into().unwrap();
        assert!(is_run_lower(tail));
        assert!(!is_run_lower([0; 8]));
    }

    #[test]
    fn a_reply_marks_what_it_holds() {
        let mut p = page(0, 0x7c, 0, &[valid::RCX]);
        reply(
            &mut p,
            Reply {
                rax: Some(5),
                rdx: Some(6),
                ..Reply::default()
            },
        );
        assert_eq!((word(&p, offset::RAX), word(&p, offset::RDX)), (5, 6));
        assert!(is_valid(&p, valid::RAX) && is_valid(&p, valid::RDX));
        assert!(!is_valid(&p, valid::RCX));
    }
}
