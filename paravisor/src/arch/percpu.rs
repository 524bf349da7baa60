//! What each VP has for itself, reached through its GS base: the flags of its
//! interrupts, its GHCB page, its TSS and GDT.
//!
//! The first VP's lies in the image; the others' lie in their areas (`loader::layout`),
//! which is where the VMSA of their start lets GS point.
//!
//! `unsafe` because the GS base becomes a reference here.
#![allow(unsafe_code)]

use super::traps;
use core::arch::asm;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use loader::layout;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;
use x86_64::structures::gdt::GlobalDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// No vector has this value.
pub const NO_VECTOR: u16 = u16::MAX;
/// One exception stack. Handlers format a record, which takes about 1 KiB.
const STACK_SIZE: usize = 0x4000;

/// What a VP has for itself.
#[repr(C)]
pub struct PerVp {
    /// Its own address; must be first.
    me: AtomicU64,
    /// Its index.
    pub index: u8,
    /// Our SynIC source was raised.
    pub sint: AtomicBool,
    /// The timer of the guest's devices has expired.
    pub timer: AtomicBool,
    /// The timer of everything else has expired.
    pub watch: AtomicBool,
    /// Another VP has left something.
    pub kick: AtomicBool,
    /// The last vector that nobody asked for, or [`NO_VECTOR`].
    pub foreign: AtomicU16,
    /// See `platform::snp::Hardware`.
    pub page_in_msr: AtomicU64,
    /// Page number of the GHCB, 0 before it is registered.
    pub ghcb_pfn: AtomicU64,
    pub(super) tss: Once<TaskStateSegment>,
    pub(super) gdt: Once<GlobalDescriptorTable>,
}

const _: () = assert!(size_of::<PerVp>() as u64 <= layout::VP_DATA.len());
const _: () = assert!(layout::VP_TRAP_STACKS.len() >= (STACK_SIZE * traps::STACKS) as u64);

impl PerVp {
    /// For the VP with this index.
    pub const fn new(index: u8) -> PerVp {
        PerVp {
            me: AtomicU64::new(0),
            index,
            sint: AtomicBool::new(false),
            timer: AtomicBool::new(false),
            watch: AtomicBool::new(false),
            kick: AtomicBool::new(false),
            foreign: AtomicU16::new(NO_VECTOR),
            page_in_msr: AtomicU64::new(0),
            ghcb_pfn: AtomicU64::new(0),
            tss: Once::new(),
            gdt: Once::new(),
        }
    }

    /// End of the lowest of its exception stacks; the others follow at this distance.
    pub(super) fn trap_stack(&self, index: usize) -> VirtAddr {
        let first = match layout::vp_area(self.index.into()) {
            Some(area) => area.start.wrapping_add(layout::VP_TRAP_STACKS.start),
            None => addr_of!(STACKS) as u64,
        };
        let offset = index.wrapping_add(1).wrapping_mul(STACK_SIZE);
        VirtAddr::new_truncate(first.wrapping_add(offset as u64))
    }
}

#[repr(C, align(4096))]
struct Stack(#[allow(dead_code)] [u8; STACK_SIZE]);

/// Exception stacks of the first VP; each is used through its TSS entry only.
static mut STACKS: [Stack; traps::STACKS] = [const { Stack([0; STACK_SIZE]) }; traps::STACKS];

static FIRST: PerVp = PerVp::new(0);

/// Lets GS point to the first VP's.
pub(super) fn load_first() -> &'static PerVp {
    let address = (&raw const FIRST) as u64;
    FIRST.me.store(address, Ordering::Relaxed);
    GsBase::write(VirtAddr::new_truncate(address));
    &FIRST
}

/// Prepares the one of another VP in its area.
///
/// # Safety
/// `area` is the area of VP `index`: validated, zeroed, and used by nobody yet.
pub(super) unsafe fn prepare(area: layout::Range, index: u8) -> u64 {
    let address = area.start.wrapping_add(layout::VP_DATA.start);
    let own = PerVp::new(index);
    own.me.store(address, Ordering::Relaxed);
    // SAFETY: the page is ours alone, aligned, and large enough (asserted above).
    unsafe { (address as *mut PerVp).write(own) };
    address
}

/// That of the VP which asks.
pub fn this() -> &'static PerVp {
    let address: u64;
    // SAFETY: GS points to a `PerVp` from the first lines of each VP on, and that lives
    // as long as the VM does. Its first word is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address,
            options(nostack, preserves_flags, readonly, pure));
        &*(address as *const PerVp)
    }
}
