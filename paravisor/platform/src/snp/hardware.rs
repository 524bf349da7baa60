//! The instructions themselves. `unsafe` because each of them acts on the whole
//! machine; everything that decides *whether* to execute them lies elsewhere.
#![allow(unsafe_code)]

use super::machine::Machine;
use abi::ghcb::MSR_GHCB;
use abi::snp::{MSR_SEV_STATUS, SevStatus, Vmsa};
use abi::svm::vintr;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// The processor on which this runs, with VMPL0's view of memory: every page of
/// guest RAM and of the paravisor at the virtual address that equals its GPA.
pub struct Hardware {
    /// What the GHCB MSR of this processor was last written with, if it is a page's
    /// address; else 0. A page request leaves the MSR alone (GHCB specification 2.3.1),
    /// so it need not be written again, which matters where the write itself is an exit
    /// (an emulator). A host that changes the MSR behind our back only misleads itself:
    /// it can read no page but shared ones.
    page_in_msr: &'static AtomicU64,
}

impl Hardware {
    /// Takes the processor. `page_in_msr` is a word that belongs to this processor, 0 at
    /// first, and the same one whenever it is taken again.
    ///
    /// # Safety
    /// The caller runs at VMPL0 of an SEV-SNP VM with the identity mapping of
    /// `loader::layout`, an IDT for the interrupts that the host may raise, and
    /// uses no other means to write the GHCB MSR.
    pub unsafe fn new(page_in_msr: &'static AtomicU64) -> Hardware {
        Hardware { page_in_msr }
    }

    /// Makes the MSR name the page at `gpa`.
    fn name_page(&self, gpa: u64) {
        if self.page_in_msr.swap(gpa, Ordering::Relaxed) != gpa {
            // SAFETY: an address of a page; nothing happens before VMGEXIT.
            unsafe { wrmsr(MSR_GHCB, gpa) };
        }
    }
}

/// Writes an MSR that belongs to the processor itself.
///
/// # Safety
/// The value must be one that leaves Rust's view of memory and control alone.
unsafe fn wrmsr(number: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") number,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
}

fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: both numbers used here (GHCB, SEV_STATUS) exist on every SNP part
    // and reading them changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

impl Machine for Hardware {
    fn vmgexit(&mut self, value: u64) -> u64 {
        self.page_in_msr.store(0, Ordering::Relaxed);
        // SAFETY: control goes to the host and back; the host can change shared
        // memory only, which is reached by volatile or atomic copies. REP VMMCALL is
        // VMGEXIT (APM volume 3).
        unsafe {
            wrmsr(MSR_GHCB, value);
            asm!("rep vmmcall");
        }
        rdmsr(MSR_GHCB)
    }

    fn page_call(&mut self, gpa: u64) {
        self.name_page(gpa);
        // SAFETY: as for `vmgexit`.
        unsafe { asm!("rep vmmcall") };
    }

    fn run(&mut self, gpa: u64, vmsa: &mut Vmsa) {
        self.name_page(gpa);
        // SAFETY: as above; besides, the processor rewrites the VMSA and the guest
        // runs. The page's address is an operand, so that the compiler takes it
        // for changed; the guest has no rights on any other memory of ours.
        unsafe { asm!("rep vmmcall", in("rax") core::ptr::from_mut(vmsa)) };
    }

    fn claim(&mut self, vmsa: &mut Vmsa) {
        // SAFETY: the field is an aligned u64 (offset 3B8h of a page) that we have
        // exclusive access to as far as Rust goes; the processor of a host that
        // re-enters the guest is the other party, hence the atomic.
        let word = unsafe { AtomicU64::from_ptr(&raw mut vmsa.vintr_ctrl) };
        word.fetch_or(vintr::BUSY, Ordering::SeqCst);
    }

    fn pvalidate(&mut self, gpa: u64, large: bool, validate: bool) -> (u32, bool) {
        let (code, carry): (u64, u8);
        // SAFETY: validation changes the RMP, not our memory's contents; callers
        // pass pages that nothing of ours lives in. F2 0F 01 FF is PVALIDATE.
        unsafe {
            asm!(
                ".byte 0xf2, 0x0f, 0x01, 0xff",
                "setc {carry}",
                carry = out(reg_byte) carry,
                inout("rax") gpa => code,
                in("ecx") u32::from(large),
                in("edx") u32::from(validate),
                options(nostack),
            );
        }
        (code as u32, carry != 0)
    }

    fn rmpadjust(&mut self, gpa: u64, large: bool, attributes: u64) -> u32 {
        let code: u64;
        // SAFETY: changes the rights of lower levels on the page only.
        // F3 0F 01 FE is RMPADJUST.
        unsafe {
            asm!(
                ".byte 0xf3, 0x0f, 0x01, 0xfe",
                inout("rax") gpa => code,
                in("rcx") u64::from(large),
                in("rdx") attributes,
                options(nostack),
            );
        }
        code as u32
    }

    fn sev_status(&mut self) -> SevStatus {
        SevStatus::from_bits_retain(rdmsr(MSR_SEV_STATUS))
    }

    fn set_xcr0(&mut self, value: u64) {
        // SAFETY: our own code uses no extended state; CR4.OSXSAVE is set by the
        // image before the guest runs; the value passed the guest's CPUID.
        unsafe {
            asm!(
                "xsetbv",
                in("ecx") 0,
                in("eax") value as u32,
                in("edx") (value >> 32) as u32,
                options(nostack),
            );
        }
    }

    fn wait(&mut self) {
        // SAFETY: interrupts are taken between STI's successor and CLI; their
        // handlers save all registers. STI's shadow closes the race with HLT.
        unsafe { asm!("sti", "hlt", "cli") };
    }

    fn take_interrupts(&mut self) {
        // SAFETY: as for `wait`. Two instructions, because STI holds back
        // interrupts for one.
        unsafe { asm!("sti", "nop", "nop", "cli") };
    }

    fn stop(&mut self) {
        // SAFETY: nothing runs after it.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
