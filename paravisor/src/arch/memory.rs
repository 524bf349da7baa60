//! Windows to memory that no Rust object owns: the measured and the host's pages,
//! the guest's RAM, the pool of shared pages.
//!
//! `unsafe` because addresses become pointers here. What makes each of them sound
//! is the layout (`loader::layout`, measured page tables): guest RAM is identity
//! mapped and holds no object of ours outside of the region; the pool is mapped in
//! the shared window only.
#![allow(unsafe_code)]

use super::percpu::{self, this};
use abi::snp::{CpuidPage, Vmsa};
use core::ptr::NonNull;
use loader::layout::{self, Range};
use memory::{Backing, GuestMemory, GuestPlace, OutOfRange, RawShared, ShareFailed, SharedMemory};
use platform::snp::{Hardware, UpperState, change_page_state};

/// A copy of one page of the region that the launch has filled.
///
/// # Safety
/// `page` is a page of the region which the image maps readable and nothing
/// writes while this runs.
unsafe fn copy_page(page: Range) -> [u8; 4096] {
    // A volatile read of an array becomes a load for each byte: 60 KiB of code for
    // a page. A plain one is a copy, and nothing changes the page after the launch.
    // SAFETY: as the caller promises; any bytes are valid.
    unsafe { core::ptr::read(page.start as *const [u8; 4096]) }
}

/// The measured configuration page.
pub fn config_page() -> [u8; 4096] {
    // SAFETY: mapped read-only, loaded with the image.
    unsafe { copy_page(layout::CONFIG_PAGE) }
}

/// The page of host parameters. It lies in private memory: the host wrote it
/// before the launch and cannot change it any more.
pub fn parameter_page() -> [u8; 4096] {
    // SAFETY: mapped, loaded with the image.
    unsafe { copy_page(layout::PARAMETER_PAGE) }
}

/// The CPUID page, which the SNP firmware has checked.
pub fn cpuid_page() -> &'static CpuidPage {
    // SAFETY: mapped read-only, page aligned, never written after the launch, and
    // every byte pattern is a `CpuidPage`.
    unsafe { &*(layout::CPUID_PAGE.start as *const CpuidPage) }
}

/// Memory for the guest's VMSA: a page of its own, not at the start of a 2 MiB
/// page. `None` if it was taken before.
pub fn guest_vmsa() -> Option<(&'static mut Vmsa, u64)> {
    use core::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    #[repr(C, align(4096))]
    struct Page(Vmsa);
    static mut PAGE: core::mem::MaybeUninit<Page> = core::mem::MaybeUninit::zeroed();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    let page = (&raw mut PAGE).cast::<Vmsa>();
    // SAFETY: zeroed, aligned, and handed out once.
    Some((unsafe { &mut *page }, page as u64))
}

/// An area of a VP other than the first, made ready by [`prepare_area`].
pub struct VpArea {
    area: Range,
    /// What the VP starts with.
    pub state: UpperState,
}

impl VpArea {
    /// The page for the state with which VMPL0 starts there, and its address.
    pub fn start_vmsa(&mut self) -> (&mut Vmsa, u64) {
        let gpa = self.area.start.wrapping_add(layout::VP_VMSA.start);
        // SAFETY: validated and zeroed; this object is the only one for the area, and
        // nothing else in this VP names the page.
        (unsafe { &mut *(gpa as *mut Vmsa) }, gpa)
    }
}

/// Makes the area of VP `index` ready, after its pages were validated (a page that is
/// not ends the run): zeros, what the VP has for itself, its first state. `None` if
/// there is no such area, or if it was made ready before.
pub fn prepare_area(index: u8) -> Option<VpArea> {
    use core::sync::atomic::{AtomicU64, Ordering};
    use x86_64::registers::control::{Cr0, Cr3, Cr4};
    static DONE: AtomicU64 = AtomicU64::new(0);
    let area = layout::vp_area(index.into())?;
    let bit = 1u64.wrapping_shl(index.into());
    if DONE.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        return None;
    }
    let used = area.start.wrapping_add(layout::VP_USED.start);
    // SAFETY: the layout gives the range to this VP alone, which has not started;
    // identity mapped and writable.
    unsafe { core::ptr::write_bytes(used as *mut u8, 0, layout::VP_USED.len() as usize) };
    // SAFETY: as above, and zeroed.
    let gs_base = unsafe { percpu::prepare(area, index) };
    let (frame, flags) = Cr3::read_raw();
    let state = UpperState {
        rip: super::entry::another(),
        rsp: area.start.wrapping_add(layout::VP_STACK.end),
        rdi: index.into(),
        gs_base,
        cr0: Cr0::read_raw(),
        cr3: frame.start_address().as_u64() | u64::from(flags),
        cr4: Cr4::read_raw(),
        gdt_base: layout::BOOT_GDT.start,
        gdt_limit: (size_of_val(&layout::BOOT_GDT_ENTRIES) as u16).wrapping_sub(1),
        code_selector: layout::BOOT_CODE_SELECTOR,
        data_selector: layout::BOOT_DATA_SELECTOR,
    };
    Some(VpArea { area, state })
}

/// Memory for the VMSA of the guest on this VP, which is not the first. To be called
/// once per VP.
pub fn area_guest_vmsa() -> Option<(&'static mut Vmsa, u64)> {
    let area = layout::vp_area(this().index.into())?;
    let gpa = area.start.wrapping_add(layout::VP_GUEST_VMSA.start);
    // SAFETY: validated and zeroed before this VP was started, and in its own area.
    Some((unsafe { &mut *(gpa as *mut Vmsa) }, gpa))
}

/// The guest's RAM: everything below its end but what is the paravisor's.
#[derive(Clone, Copy, Debug)]
pub struct GuestRam {
    end: u64,
    own: Range,
}

impl GuestRam {
    fn check(&self, gpa: u64, len: usize) -> Result<(), OutOfRange> {
        let end = gpa.checked_add(len as u64).ok_or(OutOfRange)?;
        let range = Range { start: gpa, end };
        if end > self.end || range.overlaps(self.own) {
            return Err(OutOfRange);
        }
        Ok(())
    }
}

/// RAM of `end` bytes in a VM with `vps` processors. Everything below 4 GiB is identity
/// mapped and nothing of ours lies outside of what is cut out, so reaching RAM that is not validated costs a
/// #VC and no soundness.
pub fn guest_ram(end: u64, vps: u8) -> GuestRam {
    GuestRam {
        end: end.min(layout::MEMORY_MAX),
        own: layout::owned(vps.into()),
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, gpa: u64, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.check(gpa, dst.len())?;
        // SAFETY: the range is guest RAM, identity mapped; no reference
        // to it exists; `dst` is ours. Page 0 is as good as any other.
        unsafe { memory::copy::copy(gpa as *const u8, dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    fn write(&self, gpa: u64, src: &[u8]) -> Result<(), OutOfRange> {
        self.check(gpa, src.len())?;
        // SAFETY: as above.
        unsafe { memory::copy::copy(src.as_ptr(), gpa as *mut u8, src.len()) };
        Ok(())
    }

    fn write_shared(
        &self,
        gpa: u64,
        from: &dyn SharedMemory,
        offset: usize,
        len: usize,
    ) -> Result<(), OutOfRange> {
        self.check(gpa, len)?;
        let done = match NonNull::new(gpa as *mut u8) {
            // SAFETY: the range is guest RAM, identity mapped; no reference to it exists.
            Some(start) => from.copy_to_guest(offset, &unsafe { GuestPlace::new(start, len) })?,
            None => false,
        };
        if done {
            return Ok(());
        }
        memory::bounce(self, gpa, from, offset, len)
    }
}

/// The processor. `None` if it was taken before.
pub fn take_machine() -> Option<Hardware> {
    use core::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: the image is linked for and entered at VMPL0 only, with the identity
    // mapping of the layout; `tables::load` came first.
    (!TAKEN.swap(true, Ordering::SeqCst)).then(|| unsafe { Hardware::new(&this().page_in_msr) })
}

/// The processor of a VP other than the first. To be called once per VP.
pub fn take_another() -> Hardware {
    // SAFETY: as above; the word is this VP's.
    unsafe { Hardware::new(&this().page_in_msr) }
}

/// Lets XSETBV be executed (CR4.OSXSAVE), for guests that share the processor's
/// extended state with VMPL0.
pub fn allow_extended_state() {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    // SAFETY: the flag makes XSETBV and XGETBV legal and changes nothing else.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE)) };
}

/// First page of the pool: the GHCB, outside of the pool's accounts because the
/// pool needs it to share the others.
pub const GHCB_PFN: u64 = layout::POOL.start >> 12;
/// First page that the pool hands out.
pub const POOL_PFN: u64 = GHCB_PFN + 1;
/// Pages that the pool hands out.
pub const POOL_PAGES: usize = (layout::POOL.len() >> 12) as usize - 1;

/// The shared mapping of `pages` pages from `first_pfn`, all in the pool.
fn window(first_pfn: u64, pages: usize) -> Option<RawShared> {
    let gpa = first_pfn.checked_mul(layout::PAGE)?;
    let len = pages.checked_mul(4096)?;
    let range = Range {
        start: gpa,
        end: gpa.checked_add(len as u64)?,
    };
    if !layout::POOL.contains_range(range) {
        return None;
    }
    let base = NonNull::new(layout::SHARED_WINDOW.checked_add(gpa)? as *mut u8)?;
    // SAFETY: the pool is mapped there, C bit clear, frame for frame, and belongs
    // to no allocation; callers hand out each page once.
    unsafe { RawShared::new(base, len, first_pfn) }
}

/// The window of one shared page: a GHCB. To be called once per use of the page: at the
/// start of its VP, and by the panic handler, which nothing follows.
pub fn shared_page(pfn: u64) -> Option<RawShared> {
    window(pfn, 1)
}

/// Shares pages of the pool by the GHCB MSR protocol.
pub struct PoolBacking {
    hardware: Hardware,
}

/// The way in which the pool shares its pages. It talks to the host by the MSR
/// protocol, between requests of the platform and never during one: both belong
/// to the one loop of the first VP.
pub fn pool_backing() -> PoolBacking {
    // SAFETY: VMPL0 with the tables of `arch::tables`; see above for the MSR.
    let hardware = unsafe { Hardware::new(&this().page_in_msr) };
    PoolBacking { hardware }
}

impl Backing for PoolBacking {
    type Region = RawShared;

    fn share(&mut self, first_pfn: u64, pages: usize) -> Result<(), ShareFailed> {
        for page in 0..pages as u64 {
            let pfn = first_pfn.checked_add(page).ok_or(ShareFailed)?;
            let gpa = pfn.checked_mul(layout::PAGE).ok_or(ShareFailed)?;
            change_page_state(&mut self.hardware, gpa, abi::ghcb::PSC_SHARED).map_err(|error| {
                log::error!("{error}");
                ShareFailed
            })?;
        }
        Ok(())
    }

    fn region(&mut self, first_pfn: u64, pages: usize) -> Option<RawShared> {
        window(first_pfn, pages)
    }
}
