use super::*;
use crate::testing::{FakeVp, identity_tables};
use memory::doubles::VecGuest;

const CODE: u64 = 0x1_0000;
const MMIO: u64 = 0xfee0_0000;

/// Remembers accesses; reads give a fixed value.
#[derive(Default)]
struct Log {
    value: u64,
    reads: Vec<(u64, u8)>,
    writes: Vec<(u64, u8, u64)>,
}

impl Device for Log {
    fn read(&mut self, gpa: u64, size: u8) -> u64 {
        self.reads.push((gpa, size));
        self.value
    }
    fn write(&mut self, gpa: u64, size: u8, value: u64) {
        self.writes.push((gpa, size, value));
    }
}

fn setup(code: &[u8]) -> (FakeVp, VecGuest) {
    let guest = VecGuest::new(0x20_0000);
    identity_tables(&guest, 0x1000);
    guest.write(CODE, code).unwrap();
    let mut vp = FakeVp::long_mode(0x1000);
    vp.set(Reg::Rip, CODE);
    vp.shadow = true;
    (vp, guest)
}

/// Runs `code` with RBX = a device register at offset 0x80; checks that RIP moved.
fn run(code: &[u8], value: u64, prepare: impl FnOnce(&mut FakeVp)) -> (FakeVp, Log) {
    let (mut vp, guest) = setup(code);
    vp.set(Reg::Rbx, 0xffff_ffff_ff5f_d080);
    prepare(&mut vp);
    let mut log = Log {
        value,
        ..Log::default()
    };
    emulate(&mut vp, &guest, MMIO, true, &mut log, &mut Decoded::new()).unwrap();
    assert_eq!(vp.get(Reg::Rip), CODE + code.len() as u64);
    assert!(!vp.shadow);
    (vp, log)
}

#[test]
fn store_of_a_register_takes_the_offset_from_the_operand() {
    let (_, log) = run(&[0x89, 0x43, 0x30], 0, |vp| vp.set(Reg::Rax, 0x1_1234_5678));
    assert_eq!(log.writes, [(MMIO + 0xb0, 4, 0x1234_5678)]);
    assert!(log.reads.is_empty());
}

#[test]
fn store_of_an_immediate_and_through_an_absolute_address() {
    // mov dword ptr [rbx], 0x55
    let (_, log) = run(&[0xc7, 0x03, 0x55, 0, 0, 0], 0, |_| ());
    assert_eq!(log.writes, [(MMIO + 0x80, 4, 0x55)]);
    // mov dword ptr [0xffffffffff5fd0b0], edi (disp32)
    let (_, log) = run(&[0x89, 0x3c, 0x25, 0xb0, 0xd0, 0x5f, 0xff], 0, |vp| {
        vp.set(Reg::Rdi, 7);
    });
    assert_eq!(log.writes, [(MMIO + 0xb0, 4, 7)]);
    // mov qword ptr [rbx], -1
    let (_, log) = run(&[0x48, 0xc7, 0x03, 0xff, 0xff, 0xff, 0xff], 0, |_| ());
    assert_eq!(log.writes, [(MMIO + 0x80, 8, u64::MAX)]);
}

#[test]
fn load_of_32_bits_clears_the_upper_half_and_of_8_keeps_the_rest() {
    let (vp, log) = run(&[0x8b, 0x0b], 0x8000_0001, |vp| vp.set(Reg::Rcx, u64::MAX));
    assert_eq!(vp.get(Reg::Rcx), 0x8000_0001);
    assert_eq!(log.reads, [(MMIO + 0x80, 4)]);
    // mov cl, [rbx]; mov ch, [rbx]
    let (vp, _) = run(&[0x8a, 0x0b], 0x42, |vp| vp.set(Reg::Rcx, 0x1111));
    assert_eq!(vp.get(Reg::Rcx), 0x1142);
    let (vp, _) = run(&[0x8a, 0x2b], 0x42, |vp| vp.set(Reg::Rcx, 0x1111));
    assert_eq!(vp.get(Reg::Rcx), 0x4211);
    // mov r9w, [rbx]
    let (vp, _) = run(&[0x66, 0x44, 0x8b, 0x0b], 0x4242, |vp| {
        vp.set(Reg::R9, 0x11_1111)
    });
    assert_eq!(vp.get(Reg::R9), 0x11_4242);
}

#[test]
fn extending_loads() {
    // movzx eax, byte; movsx rax, byte; movsxd rax, dword; movsx ax, byte
    let (vp, log) = run(&[0x0f, 0xb6, 0x03], 0x80, |vp| vp.set(Reg::Rax, u64::MAX));
    assert_eq!((vp.get(Reg::Rax), log.reads[0].1), (0x80, 1));
    let (vp, _) = run(&[0x48, 0x0f, 0xbe, 0x03], 0x80, |_| ());
    assert_eq!(vp.get(Reg::Rax), 0xffff_ffff_ffff_ff80);
    let (vp, _) = run(&[0x48, 0x63, 0x03], 0x8000_0000, |_| ());
    assert_eq!(vp.get(Reg::Rax), 0xffff_ffff_8000_0000);
    let (vp, _) = run(&[0x66, 0x0f, 0xbe, 0x03], 0x80, |_| ());
    assert_eq!(vp.get(Reg::Rax), 0xff80);
}

#[test]
fn exchange_writes_the_old_register() {
    let (vp, log) = run(&[0x87, 0x0b], 9, |vp| vp.set(Reg::Rcx, 5));
    assert_eq!(vp.get(Reg::Rcx), 9);
    assert_eq!(log.writes, [(MMIO + 0x80, 4, 5)]);
}

#[test]
fn arithmetic_reads_writes_and_sets_flags() {
    // or dword ptr [rbx], 0x10
    let (vp, log) = run(&[0x83, 0x0b, 0x10], 1, |_| ());
    assert_eq!(log.writes, [(MMIO + 0x80, 4, 0x11)]);
    assert_eq!(vp.get(Reg::Rflags), 2 | 4);
    // and dword ptr [rbx], ~1 (sign-extended immediate)
    let (_, log) = run(&[0x83, 0x23, 0xfe], 0xf, |_| ());
    assert_eq!(log.writes, [(MMIO + 0x80, 4, 0xe)]);
    // test dword ptr [rbx], 0x1000
    let (vp, log) = run(&[0xf7, 0x03, 0, 0x10, 0, 0], 0xfff, |_| ());
    assert!(log.writes.is_empty());
    assert_eq!(vp.get(Reg::Rflags) & 0x40, 0x40);
    // cmp eax, [rbx]: 1 - 2 borrows
    let (vp, log) = run(&[0x3b, 0x03], 2, |vp| vp.set(Reg::Rax, 1));
    assert!(log.writes.is_empty());
    assert_eq!(vp.get(Reg::Rflags) & 0x8d5, 0x1 | 0x4 | 0x10 | 0x80);
    // add rax, [rbx] goes to the register
    let (vp, log) = run(&[0x48, 0x03, 0x03], 2, |vp| vp.set(Reg::Rax, u64::MAX));
    assert!(log.writes.is_empty());
    assert_eq!((vp.get(Reg::Rax), vp.get(Reg::Rflags) & 1), (1, 1));
}

#[test]
fn overflow_is_signed() {
    let (_, flags) = Alu::Add.execute(0x7f, 1, 1);
    assert_eq!(flags & 0x800, 0x800);
    let (_, flags) = Alu::Sub.execute(0x80, 1, 1);
    assert_eq!(flags & 0x800, 0x800);
    let (_, flags) = Alu::Add.execute(0xff, 1, 1);
    assert_eq!(flags & 0x801, 1);
}

#[test]
fn repeated_moves_do_one_element_per_exit() {
    // rep movsd, from the device to RAM
    let (mut vp, guest) = setup(&[0xf3, 0xa5]);
    vp.set(Reg::Rsi, 0xffff_ffff_ff5f_d020);
    vp.set(Reg::Rdi, 0x5_0000);
    vp.set(Reg::Rcx, 2);
    let mut log = Log {
        value: 0x0102_0304,
        ..Log::default()
    };
    emulate(&mut vp, &guest, MMIO, false, &mut log, &mut Decoded::new()).unwrap();
    assert_eq!((vp.get(Reg::Rip), vp.get(Reg::Rcx)), (CODE, 1));
    emulate(&mut vp, &guest, MMIO, false, &mut log, &mut Decoded::new()).unwrap();
    assert_eq!((vp.get(Reg::Rip), vp.get(Reg::Rcx)), (CODE + 2, 0));
    assert_eq!(log.reads, [(MMIO + 0x20, 4), (MMIO + 0x24, 4)]);
    let mut back = [0; 8];
    guest.read(0x5_0000, &mut back).unwrap();
    assert_eq!(back, [4, 3, 2, 1, 4, 3, 2, 1]);
    assert_eq!(vp.get(Reg::Rdi), 0x5_0008);
    // movsb the other way, downwards
    let (mut vp, guest) = setup(&[0xa4]);
    guest.write(0x5_0000, &[0x77]).unwrap();
    vp.set(Reg::Rsi, 0x5_0000);
    vp.set(Reg::Rdi, 0xffff_ffff_ff5f_d021);
    vp.set(Reg::Rflags, 2 | RFLAGS_DF);
    let mut log = Log::default();
    emulate(&mut vp, &guest, MMIO, true, &mut log, &mut Decoded::new()).unwrap();
    assert_eq!(log.writes, [(MMIO + 0x21, 1, 0x77)]);
    assert_eq!(vp.get(Reg::Rsi), 0x4_ffff);
    assert_eq!(vp.get(Reg::Rip), CODE + 1);
}

#[test]
fn string_store_writes_rax() {
    let (mut vp, guest) = setup(&[0xf3, 0xab]);
    vp.set(Reg::Rdi, 0xffff_ffff_ff5f_d020);
    vp.set(Reg::Rax, 0xab);
    vp.set(Reg::Rcx, 1);
    let mut log = Log::default();
    emulate(&mut vp, &guest, MMIO, true, &mut log, &mut Decoded::new()).unwrap();
    assert_eq!(log.writes, [(MMIO + 0x20, 4, 0xab)]);
    assert_eq!(vp.get(Reg::Rip), CODE + 2);
}

#[test]
fn device_is_not_read_if_the_value_has_no_place() {
    let (mut vp, guest) = setup(&[0xa4]);
    vp.set(Reg::Rsi, 0xffff_ffff_ff5f_d020);
    vp.set(Reg::Rdi, 0x7fff_0000_0000);
    let mut log = Log::default();
    let result = emulate(&mut vp, &guest, MMIO, false, &mut log, &mut Decoded::new());
    assert!(matches!(
        result,
        Err(Refusal::Walk(WalkError::PageFault { code: 2, .. }))
    ));
    assert!(log.reads.is_empty());
    assert_eq!(vp.get(Reg::Rip), CODE);
}

#[test]
fn other_forms_are_refused_and_do_nothing() {
    for code in [
        &[0x0f, 0x28, 0x03][..],   // movaps xmm0, [rbx]
        &[0xf0, 0x0f, 0xc1, 0x03], // lock xadd [rbx], eax
        &[0xff, 0x23],             // jmp [rbx]
        &[0x0f, 0x0b],             // ud2
        &[0x90],                   // nop
        &[0x8f, 0x03],             // pop [rbx]
        &[0x8e, 0x1b],             // mov ds, [rbx]
        &[0x67, 0xa4],             // movsb with 32-bit addresses
        &[0xff],                   // cut
    ] {
        let (mut vp, guest) = setup(code);
        let mut log = Log::default();
        let result = emulate(&mut vp, &guest, MMIO, true, &mut log, &mut Decoded::new());
        assert_eq!(result, Err(Refusal::Form), "{code:x?}");
        assert!(log.reads.is_empty() && log.writes.is_empty());
        assert_eq!(vp.get(Reg::Rip), CODE);
    }
}

#[test]
fn decoded_instruction_is_used_only_for_the_same_bytes_at_the_same_place() {
    let (mut vp, guest) = setup(&[0x89, 0x03]);
    vp.set(Reg::Rbx, 0xffff_ffff_ff5f_d080);
    vp.set(Reg::Rax, 1);
    vp.set(Reg::Rcx, 2);
    let mut decoded = Decoded::new();
    let mut log = Log::default();
    emulate(&mut vp, &guest, MMIO, true, &mut log, &mut decoded).unwrap();
    vp.set(Reg::Rip, CODE);
    emulate(&mut vp, &guest, MMIO, true, &mut log, &mut decoded).unwrap();
    // The guest patches itself: mov [rbx], ecx.
    guest.write(CODE, &[0x89, 0x0b]).unwrap();
    vp.set(Reg::Rip, CODE);
    emulate(&mut vp, &guest, MMIO, true, &mut log, &mut decoded).unwrap();
    let values: Vec<u64> = log.writes.iter().map(|write| write.2).collect();
    assert_eq!(values, [1, 1, 2]);
    // RIP-relative operands: the same bytes elsewhere are another address.
    guest.write(CODE, &[0x89, 0x05, 0x10, 0, 0, 0]).unwrap();
    guest
        .write(CODE + 0x100, &[0x89, 0x05, 0x10, 0, 0, 0])
        .unwrap();
    for at in [CODE, CODE + 0x100] {
        vp.set(Reg::Rip, at);
        emulate(&mut vp, &guest, MMIO, true, &mut log, &mut decoded).unwrap();
    }
    let places: Vec<u64> = log
        .writes
        .iter()
        .skip(3)
        .map(|write| write.0 & 0xfff)
        .collect();
    assert_eq!(places, [0x16, 0x116]);
}

/// Every opcode of every map with every ModRM byte, with SIB bytes where there are
/// some: the decoder's tables and sums hold for all of them, overflow checks on. What
/// the firmware still has of panics in the decoder is in `docs/panics.md`.
#[test]
fn wall_5_no_instruction_overflows_the_decoder() {
    const LEGACY: [&[u8]; 8] = [
        &[],
        &[0x66],
        &[0x67],
        &[0xF0],
        &[0xF2],
        &[0xF3],
        &[0x64],
        &[0x66, 0x67],
    ];
    const REX: [&[u8]; 6] = [&[], &[0x48], &[0x41], &[0x42], &[0x44], &[0x4F]];
    const MAPS: [&[u8]; 4] = [&[], &[0x0F], &[0x0F, 0x38], &[0x0F, 0x3A]];
    const SIB: [u8; 3] = [0x00, 0x25, 0xFF];
    let mut decoded = 0_u64;
    for (legacy, rex) in LEGACY.iter().flat_map(|l| REX.iter().map(move |r| (l, r))) {
        for (map, opcode) in MAPS.iter().flat_map(|m| (0..=255_u8).map(move |o| (m, o))) {
            let mut bytes = [0xFF_u8; 15];
            let mut len = 0;
            for part in [*legacy, *rex, *map, &[opcode]] {
                bytes[len..len + part.len()].copy_from_slice(part);
                len += part.len();
            }
            for modrm in 0..=255_u8 {
                bytes[len] = modrm;
                let has_sib = modrm & 7 == 4 && modrm >> 6 != 3;
                let sibs = if has_sib { &SIB[..] } else { &SIB[2..] };
                for sib in sibs {
                    bytes[len + 1] = *sib;
                    // As `mmio` calls it, at an address whose sums wrap around.
                    let mut decoder =
                        Decoder::with_ip(64, &bytes, u64::MAX - 3, DecoderOptions::NONE);
                    decoded += u64::from(!decoder.decode().is_invalid());
                }
            }
        }
    }
    assert!(decoded > 5_000_000, "{decoded}");
}
