//! Moves a context between its VMSA page and what a VMCB without SEV-ES holds.
//!
//! x87, SSE and extended state, DR0 to DR3 and TSC_AUX are left in the processor:
//! VMPL0 and the rig itself are built without floating point, so the guest's
//! state survives there.

use abi::snp::{SevFeatures, Vmsa, vintr};
use abi::svm::{Save, msr::EFER_SVME};

/// The general registers which VMRUN does not switch, in the order of the
/// assembly loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Regs {
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// Why VMRUN refuses a VMSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// EFER.SVME is clear.
    NoSvme,
    /// `SEV_FEATURES` is not what the context must have.
    Features(u64),
    /// The VMPL byte is not the context's.
    Vmpl(u8),
    /// `BUSY` is set: VMEXIT_BUSY.
    Busy,
    /// `VIRTUAL_TOM` is not what the machine supports.
    VirtualTom(u64),
    /// `EVENTINJ` holds a software interrupt or exception 3 or 4.
    Event(u64),
}

/// Checks what VMRUN checks on the VMSA of VMPL0.
pub fn check_vmpl0(v: &Vmsa) -> Result<(), Refused> {
    if v.efer & EFER_SVME == 0 {
        return Err(Refused::NoSvme);
    }
    let features = SevFeatures::from_bits_retain(v.sev_features);
    let never = SevFeatures::VTOM
        | SevFeatures::REFLECT_VC
        | SevFeatures::ALTERNATE_INJECTION
        | SevFeatures::RESTRICTED_INJECTION
        | SevFeatures::SECURE_AVIC
        | SevFeatures::VMSA_REG_PROT;
    if !features.contains(SevFeatures::SNP) || features.intersects(never) {
        return Err(Refused::Features(v.sev_features));
    }
    if v.vmpl != 0 {
        return Err(Refused::Vmpl(v.vmpl));
    }
    if v.virtual_tom != 0 {
        return Err(Refused::VirtualTom(v.virtual_tom));
    }
    Ok(())
}

/// Checks the VMSA of VMPL2, which reflects and injects through itself.
/// `shared` is the least address from which on pages can be shared. A VMSA may name a
/// higher one (whole 2 MiB): then no address is.
pub fn check_vmpl2(v: &Vmsa, shared: u64) -> Result<(), Refused> {
    if v.efer & EFER_SVME == 0 {
        return Err(Refused::NoSvme);
    }
    let features = SevFeatures::from_bits_retain(v.sev_features);
    let needed = SevFeatures::SNP
        | SevFeatures::VTOM
        | SevFeatures::REFLECT_VC
        | SevFeatures::ALTERNATE_INJECTION;
    let never = SevFeatures::RESTRICTED_INJECTION
        | SevFeatures::SECURE_AVIC
        | SevFeatures::VMSA_REG_PROT
        | SevFeatures::GUEST_INTERCEPT_CTL;
    if !features.contains(needed) || features.intersects(never) {
        return Err(Refused::Features(v.sev_features));
    }
    if v.vmpl != 2 {
        return Err(Refused::Vmpl(v.vmpl));
    }
    if v.virtual_tom < shared || !v.virtual_tom.is_multiple_of(2 << 20) {
        return Err(Refused::VirtualTom(v.virtual_tom));
    }
    if v.vintr_ctrl & vintr::BUSY != 0 {
        return Err(Refused::Busy);
    }
    if v.event_inj & abi::snp::event::VALID != 0 {
        let vector = v.event_inj & abi::snp::event::VECTOR_MASK;
        match v.event_inj & abi::snp::event::TYPE_MASK {
            abi::snp::event::TYPE_SOFTWARE => return Err(Refused::Event(v.event_inj)),
            abi::snp::event::TYPE_EXCEPTION if matches!(vector, 3 | 4) => {
                return Err(Refused::Event(v.event_inj));
            }
            _ => {}
        }
    }
    Ok(())
}

macro_rules! move_all {
    ($from:expr => $to:expr) => {
        $to.es = $from.es;
        $to.cs = $from.cs;
        $to.ss = $from.ss;
        $to.ds = $from.ds;
        $to.fs = $from.fs;
        $to.gs = $from.gs;
        $to.gdtr = $from.gdtr;
        $to.ldtr = $from.ldtr;
        $to.idtr = $from.idtr;
        $to.tr = $from.tr;
        $to.cpl = $from.cpl;
        $to.efer = $from.efer;
        $to.cr4 = $from.cr4;
        $to.cr3 = $from.cr3;
        $to.cr0 = $from.cr0;
        $to.dr7 = $from.dr7;
        $to.dr6 = $from.dr6;
        $to.rflags = $from.rflags;
        $to.rip = $from.rip;
        $to.rsp = $from.rsp;
        $to.rax = $from.rax;
        $to.star = $from.star;
        $to.lstar = $from.lstar;
        $to.cstar = $from.cstar;
        $to.sfmask = $from.sfmask;
        $to.kernel_gs_base = $from.kernel_gs_base;
        $to.sysenter_cs = $from.sysenter_cs;
        $to.sysenter_esp = $from.sysenter_esp;
        $to.sysenter_eip = $from.sysenter_eip;
        $to.cr2 = $from.cr2;
        $to.pat = $from.pat;
    };
}

macro_rules! move_regs {
    ($from:expr => $to:expr) => {
        $to.rbx = $from.rbx;
        $to.rcx = $from.rcx;
        $to.rdx = $from.rdx;
        $to.rsi = $from.rsi;
        $to.rdi = $from.rdi;
        $to.rbp = $from.rbp;
        $to.r8 = $from.r8;
        $to.r9 = $from.r9;
        $to.r10 = $from.r10;
        $to.r11 = $from.r11;
        $to.r12 = $from.r12;
        $to.r13 = $from.r13;
        $to.r14 = $from.r14;
        $to.r15 = $from.r15;
    };
}

/// Registers from the VMSA to the processor's side.
pub fn load(v: &Vmsa, save: &mut Save, regs: &mut Regs) {
    move_all!(v => save);
    move_regs!(v => regs);
    // Bit 1 always reads as one; an image may leave it clear.
    save.rflags |= 2;
}

/// Registers back into the VMSA.
pub fn store(save: &Save, regs: &Regs, v: &mut Vmsa) {
    move_all!(save => v);
    move_regs!(regs => v);
}

/// The exit that VMPL0 finds in a lower VMSA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, see [`abi::snp::exit`].
    pub code: u64,
    /// Exit information 1.
    pub info1: u64,
    /// Exit information 2.
    pub info2: u64,
    /// An event whose delivery was interrupted.
    pub int_info: u64,
    /// RIP of the next instruction, 0 where it is not known.
    pub next_rip: u64,
}

/// Writes an exit and marks the VMSA busy.
pub fn store_exit(exit: Exit, v: &mut Vmsa) {
    v.guest_exitcode = exit.code;
    v.guest_exitinfo1 = exit.info1;
    v.guest_exitinfo2 = exit.info2;
    v.guest_exitintinfo = exit.int_info;
    v.guest_nrip = exit.next_rip;
    v.vintr_ctrl |= vintr::BUSY;
    // Hardware writes an id that is not zero.
    v.pcpu_id = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const TOM: u64 = 1 << 46;

    fn lower() -> Vmsa {
        let mut v = Vmsa::new_zeroed();
        v.efer = EFER_SVME;
        v.vmpl = 2;
        v.virtual_tom = TOM;
        v.sev_features = (SevFeatures::SNP
            | SevFeatures::VTOM
            | SevFeatures::REFLECT_VC
            | SevFeatures::ALTERNATE_INJECTION)
            .bits();
        v
    }

    #[test]
    fn registers_survive_the_round_trip() {
        let mut v = Vmsa::new_zeroed();
        v.rax = 1;
        v.r15 = 2;
        v.cs.base = 3;
        v.kernel_gs_base = 4;
        v.pat = 5;
        let mut save = Save::new_zeroed();
        let mut regs = Regs::default();
        load(&v, &mut save, &mut regs);
        assert_eq!(save.rflags, 2);
        let mut back = Vmsa::new_zeroed();
        store(&save, &regs, &mut back);
        assert_eq!(
            (
                back.rax,
                back.r15,
                back.cs.base,
                back.kernel_gs_base,
                back.pat
            ),
            (1, 2, 3, 4, 5)
        );
    }

    #[test]
    fn a_lower_vmsa_must_reflect_and_not_be_busy() {
        assert_eq!(check_vmpl2(&lower(), TOM), Ok(()));
        let mut v = lower();
        v.vintr_ctrl = vintr::BUSY;
        assert_eq!(check_vmpl2(&v, TOM), Err(Refused::Busy));
        let mut v = lower();
        v.efer = 0;
        assert_eq!(check_vmpl2(&v, TOM), Err(Refused::NoSvme));
        let mut v = lower();
        v.sev_features = 1;
        assert_eq!(check_vmpl2(&v, TOM), Err(Refused::Features(1)));
        let mut v = lower();
        v.vmpl = 1;
        assert_eq!(check_vmpl2(&v, TOM), Err(Refused::Vmpl(1)));
        let mut v = lower();
        v.event_inj = 0x8000_0480;
        assert_eq!(check_vmpl2(&v, TOM), Err(Refused::Event(0x8000_0480)));
        v.event_inj = 0x8000_0303;
        assert_eq!(check_vmpl2(&v, TOM), Err(Refused::Event(0x8000_0303)));
        v.event_inj = 0x8000_0b0d;
        assert_eq!(check_vmpl2(&v, TOM), Ok(()));
    }

    #[test]
    fn vmpl0_must_have_snp_and_no_reflection() {
        let mut v = Vmsa::new_zeroed();
        v.efer = EFER_SVME;
        assert_eq!(check_vmpl0(&v), Err(Refused::Features(0)));
        v.sev_features = (SevFeatures::SNP | SevFeatures::DEBUG_SWAP).bits();
        assert_eq!(check_vmpl0(&v), Ok(()));
        v.sev_features |= SevFeatures::REFLECT_VC.bits();
        assert!(check_vmpl0(&v).is_err());
    }

    #[test]
    fn an_exit_marks_the_vmsa_busy() {
        let mut v = lower();
        store_exit(
            Exit {
                code: 0x72,
                next_rip: 0x10,
                ..Exit::default()
            },
            &mut v,
        );
        assert_eq!((v.guest_exitcode, v.guest_nrip), (0x72, 0x10));
        assert_ne!(v.vintr_ctrl & vintr::BUSY, 0);
        assert_ne!(v.pcpu_id, 0);
    }
}
