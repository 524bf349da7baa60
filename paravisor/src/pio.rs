//! Port I/O of the guest: plain accesses and INS/OUTS, the latter with the
//! guest's memory reached through its page tables.

use crate::walk::{self, WalkError};
use memory::GuestMemory;
use platform::{IoAccess, Reg, Registers, Seg, StringIo};

/// Elements of one REP INS/OUTS that are done per exit; the guest leaves again
/// for the rest, so interrupts and the host get their turn.
pub const MAX_ELEMENTS: u64 = 64;

const RFLAGS_DF: u64 = 1 << 10;

/// The ports.
pub trait Ports {
    /// IN of 1, 2 or 4 bytes.
    fn read(&mut self, port: u16, size: u8) -> u32;
    /// OUT.
    fn write(&mut self, port: u16, size: u8, value: u32);
}

fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    }
}

/// Executes the access and goes on behind it (or stays on it if a repeated one
/// is not finished). On an error nothing of the failing element has happened.
pub fn emulate(
    vp: &mut impl Registers,
    guest: &impl GuestMemory,
    access: &IoAccess,
    ports: &mut impl Ports,
) -> Result<(), WalkError> {
    match &access.string {
        None => plain(vp, access, ports),
        Some(string) => return repeated(vp, guest, access, string, ports),
    }
    vp.advance(vp.next_rip());
    Ok(())
}

fn plain(vp: &mut impl Registers, access: &IoAccess, ports: &mut impl Ports) {
    let rax = vp.get(Reg::Rax);
    let m = mask(access.size);
    if access.input {
        let value = u64::from(ports.read(access.port, access.size)) & m;
        // A 32-bit IN clears the upper half of RAX.
        let kept = if access.size == 4 { 0 } else { rax & !m };
        vp.set(Reg::Rax, kept | value);
    } else {
        ports.write(access.port, access.size, (rax & m) as u32);
    }
}

fn repeated(
    vp: &mut impl Registers,
    guest: &impl GuestMemory,
    access: &IoAccess,
    string: &StringIo,
    ports: &mut impl Ports,
) -> Result<(), WalkError> {
    let address_mask = match string.address_size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let part = |vp: &_, reg| Registers::get(vp, reg) & address_mask;
    let set_part = |vp: &mut _, reg, value: u64| {
        let old = Registers::get(vp, reg);
        // As for operands: a 32-bit write clears the upper half.
        let kept = if address_mask == 0xffff {
            old & !address_mask
        } else {
            0
        };
        Registers::set(vp, reg, kept | value & address_mask);
    };
    let (index, base) = if access.input {
        (Reg::Rdi, segment_base(vp, Seg::Es))
    } else {
        let seg = Seg::from_number(string.segment).unwrap_or(Seg::Ds);
        (Reg::Rsi, segment_base(vp, seg))
    };
    let down = vp.get(Reg::Rflags) & RFLAGS_DF != 0;
    let step = u64::from(access.size);
    let step = if down { step.wrapping_neg() } else { step };
    let mut left = if string.rep { part(vp, Reg::Rcx) } else { 1 };
    for _ in 0..left.min(MAX_ELEMENTS) {
        let address = base.wrapping_add(part(vp, index));
        let mut bytes = [0; 4];
        let piece = bytes.get_mut(..usize::from(access.size)).unwrap_or(&mut []);
        if access.input {
            walk::translate(vp, guest, address, walk::Purpose::Write)?;
            let value = ports.read(access.port, access.size).to_le_bytes();
            piece.copy_from_slice(value.get(..usize::from(access.size)).unwrap_or(&[]));
            walk::write(vp, guest, address, piece)?;
        } else {
            walk::read(vp, guest, address, piece)?;
            ports.write(access.port, access.size, u32::from_le_bytes(bytes));
        }
        let next = part(vp, index).wrapping_add(step);
        set_part(vp, index, next);
        left = left.wrapping_sub(1);
        if string.rep {
            set_part(vp, Reg::Rcx, left);
        }
    }
    if left == 0 {
        vp.advance(vp.next_rip());
    }
    Ok(())
}

/// In 64-bit code only FS and GS have a base.
fn segment_base(vp: &impl Registers, seg: Seg) -> u64 {
    let flat = vp.segment(Seg::Cs).long && !matches!(seg, Seg::Fs | Seg::Gs);
    if flat { 0 } else { vp.segment(seg).base }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeVp, identity_tables};
    use memory::doubles::VecGuest;

    #[derive(Default)]
    struct Log {
        next: u32,
        writes: Vec<(u16, u8, u32)>,
    }

    impl Ports for Log {
        fn read(&mut self, _: u16, _: u8) -> u32 {
            self.next = self.next.wrapping_add(1);
            0xaabb_cc00 | self.next
        }
        fn write(&mut self, port: u16, size: u8, value: u32) {
            self.writes.push((port, size, value));
        }
    }

    fn setup() -> (FakeVp, VecGuest) {
        let guest = VecGuest::new(0x20_0000);
        identity_tables(&guest, 0x1000);
        let mut vp = FakeVp::long_mode(0x1000);
        vp.set(Reg::Rip, 0x100);
        vp.next_rip = 0x102;
        (vp, guest)
    }

    fn access(size: u8, input: bool, rep: Option<bool>) -> IoAccess {
        let string = rep.map(|rep| StringIo {
            rep,
            address_size: 8,
            segment: 3,
        });
        IoAccess {
            port: 0x1f0,
            size,
            input,
            string,
        }
    }

    #[test]
    fn plain_in_changes_as_much_of_rax_as_the_processor_would() {
        for (size, want) in [
            (1, 0x1111_1111_1111_1101),
            (2, 0x1111_1111_1111_cc01),
            (4, 0xaabb_cc01),
        ] {
            let (mut vp, guest) = setup();
            vp.set(Reg::Rax, 0x1111_1111_1111_1111);
            emulate(
                &mut vp,
                &guest,
                &access(size, true, None),
                &mut Log::default(),
            )
            .unwrap();
            assert_eq!(vp.get(Reg::Rax), want);
            assert_eq!(vp.get(Reg::Rip), 0x102);
        }
    }

    #[test]
    fn outs_reads_memory_and_counts_down() {
        let (mut vp, guest) = setup();
        guest.write(0x5_0000, &[1, 2, 3, 4]).unwrap();
        vp.set(Reg::Rsi, 0x5_0000);
        vp.set(Reg::Rcx, 2);
        let mut log = Log::default();
        emulate(&mut vp, &guest, &access(2, false, Some(true)), &mut log).unwrap();
        assert_eq!(log.writes, [(0x1f0, 2, 0x201), (0x1f0, 2, 0x403)]);
        assert_eq!(
            (vp.get(Reg::Rsi), vp.get(Reg::Rcx), vp.get(Reg::Rip)),
            (0x5_0004, 0, 0x102)
        );
    }

    #[test]
    fn long_repetitions_come_back_for_the_rest() {
        let (mut vp, guest) = setup();
        vp.set(Reg::Rdi, 0x5_0000);
        vp.set(Reg::Rcx, 100);
        let mut log = Log::default();
        emulate(&mut vp, &guest, &access(1, true, Some(true)), &mut log).unwrap();
        assert_eq!((vp.get(Reg::Rcx), vp.get(Reg::Rip)), (36, 0x100));
        emulate(&mut vp, &guest, &access(1, true, Some(true)), &mut log).unwrap();
        assert_eq!((vp.get(Reg::Rcx), vp.get(Reg::Rip)), (0, 0x102));
        let mut last = [0];
        guest.read(0x5_0000 + 99, &mut last).unwrap();
        assert_eq!(last, [100]);
    }

    #[test]
    fn unmapped_memory_is_a_page_fault_before_the_port_is_touched() {
        let (mut vp, guest) = setup();
        vp.set(Reg::Rdi, 0x7f00_0000_0000);
        let mut log = Log::default();
        let result = emulate(&mut vp, &guest, &access(1, true, Some(false)), &mut log);
        assert_eq!(
            result,
            Err(WalkError::PageFault {
                code: 2,
                address: 0x7f00_0000_0000
            })
        );
        assert_eq!((log.next, vp.get(Reg::Rip)), (0, 0x100));
    }

    #[test]
    fn rep_with_zero_count_does_nothing() {
        let (mut vp, guest) = setup();
        let mut log = Log::default();
        emulate(&mut vp, &guest, &access(4, false, Some(true)), &mut log).unwrap();
        assert!(log.writes.is_empty());
        assert_eq!(vp.get(Reg::Rip), 0x102);
    }
}
