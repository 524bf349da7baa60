//! Instructions of the guest that touch device memory: fetched through page
//! tables that the guest wrote, decoded, executed.

use crate::memory::GuestRam;
use crate::vp::FakeVp;
use crate::{Digest, Input};
use memory::GuestMemory;
use paravisor_core::mmio::{Decoded, Device, emulate};
use paravisor_core::walk::{Purpose, translate};
use platform::{Reg, Registers};

/// A device that remembers.
#[derive(Default)]
struct Log(Digest, u32);

impl Device for Log {
    fn read(&mut self, gpa: u64, size: u8) -> u64 {
        assert!([1, 2, 4, 8].contains(&size));
        self.1 += 1;
        self.0.number(gpa);
        0x8877_6655_4433_2211 >> (64 - 8 * u32::from(size))
    }
    fn write(&mut self, gpa: u64, size: u8, value: u64) {
        assert!([1, 2, 4, 8].contains(&size));
        assert!(
            size == 8 || value >> (8 * size) == 0,
            "more than was written"
        );
        self.1 += 1;
        self.0.number(gpa ^ value);
    }
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let ram = GuestRam::new(16);
    // Identity map of the first GiB by large pages, tables at 0x1000.
    for (at, entry) in [(0x1000_u64, 0x2007_u64), (0x2000, 0x3007)] {
        let _ = ram.write(at, &entry.to_le_bytes());
    }
    for index in 0..512_u64 {
        let _ = ram.write(0x3000 + 8 * index, &(index << 21 | 0x87).to_le_bytes());
    }
    let mut vp = FakeVp::new(0x1000);
    let flags = input.u8();
    vp.cpl = if flags & 1 == 0 { 0 } else { 3 };
    vp.long = flags & 2 == 0;
    vp.set(Reg::Rip, 0x8000 + u64::from(flags >> 4) * 0xff);
    let code = input.array::<15>();
    let _ = ram.write(vp.get(Reg::Rip), &code);
    for reg in Reg::GENERAL {
        vp.set(
            reg,
            if flags & 4 == 0 {
                input.word().into()
            } else {
                input.u64()
            },
        );
    }
    // The guest changes its tables.
    for _ in 0..input.u8() & 3 {
        let at = 0x1000 + u64::from((input.u16() % 0x3000) & !7);
        let _ = ram.write(at, &input.u64().to_le_bytes());
    }
    let gpa = input.u64();
    let (mut log, mut decoded) = (Log::default(), Decoded::default());
    let before = ram.arena().accesses();
    let rip = vp.get(Reg::Rip);
    let result = emulate(&mut vp, &ram, gpa, flags & 8 != 0, &mut log, &mut decoded);
    assert!(ram.arena().accesses() - before < 128 && log.1 <= 2);
    if result.is_err() {
        assert_eq!(vp.get(Reg::Rip), rip, "a refused instruction moved on");
    }
    log.0.debug(&result);
    log.0.debug(&vp);
    let address = input.u64();
    for purpose in [Purpose::Read, Purpose::Write, Purpose::Fetch] {
        log.0.debug(&translate(&vp, &ram, address, purpose));
    }
    log.0.value()
}
