//! `selftest`: a VMPL0 payload of the rig's own, in place of an image. It checks
//! the emulated machine from inside, step by step, and ends by a termination
//! request: `power-off` if all went well, `panic` at the first surprise. Each
//! step writes its letter to the record channel as it begins, so that the last
//! letter tells what failed.

use crate::vm::end::End;
use crate::vm::load::{Loaded, Loader};
use crate::vm::{C_BIT, VTOM_BIT};
use abi::snp::{SevFeatures, Vmsa};
use abi::svm::{Segment, attrib, msr::EFER_SVME};
use zerocopy::{FromZeros, IntoBytes};

pub mod cores;
mod payload;

const PRIVATE: u64 = 1 << C_BIT;
/// Guest physical addresses of the payload's world.
pub mod at {
    /// VMSA of VMPL0.
    pub const VMSA: u64 = 0x1000;
    /// PML4, PDPTs, page directories.
    pub const TABLES: u64 = 0x2000;
    /// GDT, IDT, TSS.
    pub const SYSTEM: u64 = 0x8000;
    /// In the system page: GPA of the hypercall's output page.
    pub const OUTPUT: u64 = SYSTEM + 0xf00;
    /// Code of VMPL0.
    pub const CODE: u64 = 0x1_0000;
    /// Code of VMPL2.
    pub const LOWER_CODE: u64 = 0x1_4000;
    /// Page tables of VMPL2.
    pub const LOWER_TABLES: u64 = 0x1_5000;
    /// VMSA of VMPL2, complete but for what the payload does itself.
    pub const LOWER_VMSA: u64 = 0x1_9000;
    /// VMSA of the second VP, likewise.
    pub const SECOND_VMSA: u64 = 0x1_a000;
    /// Words by which VPs talk to one another.
    pub const DATA: u64 = 0x1_b000;
    /// Stack of the second VP, down from here.
    pub const SECOND_STACK_TOP: u64 = 0x1_e000;
    /// Stack of VMPL0, down from here.
    pub const STACK_TOP: u64 = 0x2_0000;
}
/// Where the second VP's TSS lies in the system page.
const SECOND_TSS: u64 = 0x100;
/// Virtual address of the shared view of memory.
const WINDOW_SLOT: u64 = 1;

/// What the payload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All steps.
    Steps,
    /// Hands the host a private page for a hypercall's output: the run must end
    /// with `private-access`.
    Leak,
    /// The steps of two VPs.
    Vps,
    /// The rig's cores, without a payload: see [`cores`].
    Cores,
}

/// The page that the payload shares with the host for a hypercall's output.
const SHARED_OUTPUT: u64 = 0x40_1000;

/// A payload's code; its entry and its handlers where they are linked.
struct Code {
    bytes: &'static [u8],
    entry: u64,
    vc: u64,
    unexpected: u64,
    interrupt: u64,
}

impl Code {
    /// Where a linked address lies in the VM.
    fn at(&self, symbol: u64) -> u64 {
        symbol - self.bytes.as_ptr() as u64 + at::CODE
    }
}

/// The bytes between two labels of one section.
#[allow(unsafe_code)]
fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both are labels of the same section, in this order.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Loads the payload and its tables.
pub fn load(loader: &mut Loader<'_>, kind: Kind) -> Result<Loaded, End> {
    let code = if kind == Kind::Vps {
        payload::vps()
    } else {
        payload::steps()
    };
    let mut pages = 0;
    let mut place = |gpa: u64, bytes: &[u8], vmsa: bool| -> Result<(), End> {
        for (i, chunk) in bytes.chunks(4096).enumerate() {
            let mut page = [0u8; 4096];
            page[..chunk.len()].copy_from_slice(chunk);
            loader.place(gpa + i as u64 * 4096, Some(&page), vmsa)?;
            pages += 1;
        }
        Ok(())
    };
    place(at::VMSA, upper_vmsa(code.at(code.entry)).as_bytes(), true)?;
    for (i, table) in upper_tables().iter().enumerate() {
        place(at::TABLES + i as u64 * 4096, table.as_bytes(), false)?;
    }
    let output = match kind {
        Kind::Steps | Kind::Vps | Kind::Cores => SHARED_OUTPUT,
        Kind::Leak => at::CODE,
    };
    place(at::SYSTEM, &system(&code, output), false)?;
    place(at::CODE, code.bytes, false)?;
    place(at::LOWER_CODE, payload::lower(), false)?;
    for (i, table) in lower_tables().iter().enumerate() {
        place(at::LOWER_TABLES + i as u64 * 4096, table.as_bytes(), false)?;
    }
    place(at::LOWER_VMSA, lower_vmsa().as_bytes(), false)?;
    place(at::STACK_TOP - 0x2000, &[0; 0x2000], false)?;
    if kind == Kind::Vps {
        let second = second_vmsa(code.at(payload::second()));
        place(at::SECOND_VMSA, second.as_bytes(), false)?;
        place(at::DATA, &[0; 0x1000], false)?;
        place(at::SECOND_STACK_TOP - 0x2000, &[0; 0x2000], false)?;
    }
    Ok(Loaded {
        vmsa_gfn: at::VMSA >> 12,
        digest: [0; 48],
        pages,
    })
}

/// Identity mapping of 1 GiB by 2 MiB pages, and the same, shared, at the second
/// slot of the top level.
fn upper_tables() -> [[u64; 512]; 5] {
    let mut t = [[0u64; 512]; 5];
    let link = |n: u64| (at::TABLES + n * 4096) | PRIVATE | 3;
    t[0][0] = link(1);
    t[1][0] = link(2);
    t[0][WINDOW_SLOT as usize] = link(3);
    t[3][0] = link(4);
    for i in 0..512u64 {
        t[2][i as usize] = (i << 21) | PRIVATE | 0x83;
        t[4][i as usize] = (i << 21) | 0x83;
    }
    t
}

fn lower_tables() -> [[u64; 512]; 3] {
    let mut t = [[0u64; 512]; 3];
    t[0][0] = (at::LOWER_TABLES + 4096) | 3;
    t[1][0] = (at::LOWER_TABLES + 8192) | 3;
    // The fourth GiB, where nothing is, as one page.
    t[1][3] = 0xc000_0000 | 0x83;
    for i in 0..512u64 {
        t[2][i as usize] = (i << 21) | 0x83;
    }
    t
}

fn vmsa(cr3: u64, rip: u64) -> Vmsa {
    let mut v = Vmsa::new_zeroed();
    let data = Segment {
        selector: 0x10,
        attrib: attrib::DATA,
        limit: u32::MAX,
        base: 0,
    };
    v.cs = Segment {
        selector: 8,
        attrib: attrib::CODE64,
        limit: u32::MAX,
        base: 0,
    };
    (v.ds, v.es, v.ss, v.fs, v.gs) = (data, data, data, data, data);
    v.gdtr = Segment {
        limit: 0x27,
        base: at::SYSTEM,
        ..Segment::default()
    };
    v.tr = Segment {
        selector: 0x18,
        attrib: attrib::TSS64_BUSY,
        limit: 0x67,
        base: at::SYSTEM + 0x40,
    };
    v.efer = EFER_SVME | 1 << 8 | 1 << 10;
    v.cr0 = 0x8001_0031;
    v.cr3 = cr3;
    v.cr4 = 0x20;
    v.dr6 = abi::snp::reset::DR6;
    v.dr7 = abi::snp::reset::DR7;
    v.pat = abi::snp::reset::PAT;
    v.xcr0 = 1;
    v.rflags = 2;
    v.rip = rip;
    v
}

fn upper_vmsa(rip: u64) -> Vmsa {
    let mut v = vmsa(at::TABLES | PRIVATE, rip);
    v.sev_features = SevFeatures::SNP.bits();
    v
}

fn second_vmsa(rip: u64) -> Vmsa {
    let mut v = upper_vmsa(rip);
    v.tr.base = at::SYSTEM + SECOND_TSS;
    v.rsp = at::SECOND_STACK_TOP;
    v
}

fn lower_vmsa() -> Vmsa {
    let mut v = vmsa(at::LOWER_TABLES, at::LOWER_CODE);
    v.vmpl = 2;
    v.virtual_tom = 1 << VTOM_BIT;
    v.sev_features = (SevFeatures::SNP
        | SevFeatures::VTOM
        | SevFeatures::REFLECT_VC
        | SevFeatures::ALTERNATE_INJECTION)
        .bits();
    v.idtr = Segment {
        limit: 0xfff,
        base: at::SYSTEM + 0x1000,
        ..Segment::default()
    };
    v
}

/// GDT, two TSSs with IST1 and two IDTs: VMPL0's at 0x400, VMPL2's a page later.
fn system(code: &Code, output: u64) -> [u8; 8192] {
    let mut page = [0u8; 8192];
    let mut put = |at: usize, value: u64| page[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put((at::OUTPUT - at::SYSTEM) as usize, output);
    put(8, 0x00af_9b00_0000_ffff);
    put(0x10, 0x00cf_9300_0000_ffff);
    let tss = at::SYSTEM + 0x40;
    put(0x18, 0x0000_8b00_0000_0067 | tss << 16);
    put(0x40 + 0x24, at::STACK_TOP - 0x1000);
    put(SECOND_TSS as usize + 0x24, at::SECOND_STACK_TOP - 0x1000);
    let mut gate = |idt: usize, vector: usize, handler: u64, ist: u64| {
        let low =
            (handler & 0xffff) | 8 << 16 | ist << 32 | 0x8e00 << 32 | (handler & 0xffff_0000) << 32;
        put(idt + vector * 16, low);
        put(idt + vector * 16 + 8, handler >> 32);
    };
    for vector in 0..32 {
        gate(0x400, vector, code.at(code.unexpected), 1);
    }
    gate(0x400, 29, code.at(code.vc), 1);
    gate(0x400, 0x50, code.at(code.interrupt), 0);
    let lower = payload::handler_lower() - payload::lower().as_ptr() as u64 + at::LOWER_CODE;
    for vector in 0..256 {
        gate(0x1000, vector, lower, 0);
    }
    page
}
