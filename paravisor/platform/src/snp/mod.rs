//! SEV-SNP: the paravisor runs at VMPL0, the guest at VMPL2 with its exits
//! reflected into its VMSA, the host is reached through the GHCB.
//!
//! The order in which a host trusts nothing and is trusted with nothing:
//! [`Snp::new`] asks for the protocol versions by MSR, makes the GHCB page
//! shared, zeroes it, registers it. Only then are page requests possible.

mod ghcb;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod hardware;
mod machine;
mod pages;
mod vmsa;

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub use hardware::Hardware;
pub use machine::Machine;
pub use vmsa::{UpperState, VmplState, decode};

use crate::{Access, BootState, Error, Exit, Platform};
use abi::ghcb::{self as wire, features, msr};
use abi::hyperv::{CallResult, Control, PARTITION_ID_SELF, StartVpHeader, reg};
use abi::record::{Outcome, TERMINATE_SET};
use abi::snp::{RmpAttr, Vmsa};
use ghcb::GhcbPage;
use memory::SharedMemory;

/// VMPL of the guest.
pub const GUEST_VMPL: u8 = 2;
/// Hyper-V's name of the guest's level.
pub const GUEST_VTL: u8 = 0;
/// Hyper-V's name of the paravisor's level.
const PARAVISOR_VTL: u8 = 2;

/// StartVirtualProcessor with its context.
#[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct StartVp {
    header: StartVpHeader,
    vmsa: u64,
    rest: [u64; 27],
}
const _: () = assert!(size_of::<StartVp>() == abi::hyperv::START_VP_INPUT);

/// Asks the host by the MSR protocol whether it speaks our version and has
/// SEV-SNP at all. No page is needed and nothing of ours is shown.
pub fn check_host<M: Machine>(machine: &mut M, c_bit: u32) -> Result<(), Error> {
    const INFO: &str = "SEV information";
    const FEATURES: &str = "hypervisor features";
    let reply = machine.vmgexit(msr::SEV_INFO_REQUEST);
    if msr::info(reply) != msr::SEV_INFO_RESPONSE {
        return Err(Error::Malformed {
            request: INFO,
            value: reply,
        });
    }
    let (highest, lowest, bit) = msr::sev_info_fields(reply);
    let ours = wire::PROTOCOL_VERSION;
    // The C bit in use is the measured one; a host that names another describes
    // a machine on which our page tables are wrong.
    if ours < lowest || ours > highest || u32::from(bit) != c_bit {
        return Err(Error::Unsupported {
            request: INFO,
            value: reply,
        });
    }
    let reply = machine.vmgexit(msr::FEATURES_REQUEST);
    if msr::info(reply) != msr::FEATURES_RESPONSE {
        return Err(Error::Malformed {
            request: FEATURES,
            value: reply,
        });
    }
    if msr::frame(reply) & features::SNP == 0 {
        return Err(Error::Unsupported {
            request: FEATURES,
            value: reply,
        });
    }
    Ok(())
}

/// Changes the state of one page by the MSR protocol. The reply must be exactly
/// the response code with no error.
pub fn change_page_state<M: Machine>(
    machine: &mut M,
    gpa: u64,
    operation: u8,
) -> Result<(), Error> {
    const REQUEST: &str = "page state change";
    let reply = machine.vmgexit(msr::psc(gpa, operation));
    if reply == msr::PSC_RESPONSE {
        return Ok(());
    }
    if msr::info(reply) == msr::PSC_RESPONSE && reply >> 32 != 0 {
        return Err(Error::Refused {
            request: REQUEST,
            status: reply >> 32,
        });
    }
    Err(Error::Malformed {
        request: REQUEST,
        value: reply,
    })
}

/// Stops the VM. A host that runs us on gets nothing but halts.
pub fn terminate<M: Machine>(machine: &mut M, outcome: Outcome) -> ! {
    machine.vmgexit(msr::terminate(TERMINATE_SET, outcome as u8));
    loop {
        machine.stop();
    }
}

/// Writes bytes to a port through a page that is registered already, for code
/// that has no [`Snp`] at hand because it ends the VM.
pub fn write_last_words<M: Machine, S: SharedMemory>(
    machine: &mut M,
    page: S,
    port: u16,
    bytes: &[u8],
) -> Result<(), Error> {
    let request = "last words";
    let gpa = page
        .pfn(0)
        .ok_or(Error::Input { request })?
        .wrapping_shl(12);
    let page = GhcbPage::new(page, gpa)?;
    bytes
        .iter()
        .try_for_each(|byte| page.write_port(machine, port, *byte))
}

const REGISTER: &str = "GHCB registration";

/// The platform on SEV-SNP.
pub struct Snp<'a, M, S> {
    machine: M,
    ghcb: GhcbPage<S>,
    guest: VmplState<'a>,
    guest_vmsa_gpa: u64,
    /// The host knows the guest's VMSA, and the page is one.
    guest_known: bool,
    /// XCR0 as the processor has it (1 after reset).
    xcr0: u64,
    counts: Counts,
}

/// Hypercalls by code. The image makes a handful of different ones.
#[derive(Default)]
struct Counts {
    slots: [(u16, u64); 8],
    used: usize,
}

impl Counts {
    fn add(&mut self, code: u16) {
        let known = (0..self.used)
            .zip(&self.slots)
            .find(|(_, slot)| slot.0 == code)
            .map(|(at, _)| at);
        let at = known.unwrap_or(self.used);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.0 = code;
            slot.1 = slot.1.saturating_add(1);
            self.used = self.used.max(at.saturating_add(1));
        }
    }
}

impl<'a, M: Machine, S: SharedMemory> Snp<'a, M, S> {
    /// Takes the GHCB into use: `page` is one page of the pool that no one uses
    /// yet; `vmsa` is a private page at `vmsa_gpa`, not 2 MiB aligned.
    pub fn new(mut machine: M, page: S, vmsa: &'a mut Vmsa, vmsa_gpa: u64) -> Result<Self, Error> {
        let pfn = page.pfn(0).ok_or(Error::Input { request: REGISTER })?;
        change_page_state(&mut machine, pfn.wrapping_shl(12), wire::PSC_SHARED)?;
        Self::adopt(machine, page, vmsa, vmsa_gpa)
    }

    /// The same for another VP, with a page that is shared already.
    pub fn adopt(
        mut machine: M,
        page: S,
        vmsa: &'a mut Vmsa,
        vmsa_gpa: u64,
    ) -> Result<Self, Error> {
        let pfn = page.pfn(0).ok_or(Error::Input { request: REGISTER })?;
        let gpa = pfn.wrapping_shl(12);
        let ghcb = GhcbPage::new(page, gpa)?;
        let reply = machine.vmgexit(msr::register(gpa));
        if reply != msr::registered(gpa) {
            return Err(if msr::info(reply) == msr::REGISTER_RESPONSE {
                Error::Refused {
                    request: REGISTER,
                    status: msr::frame(reply),
                }
            } else {
                Error::Malformed {
                    request: REGISTER,
                    value: reply,
                }
            });
        }
        Ok(Snp {
            machine,
            ghcb,
            guest: VmplState::new(vmsa),
            guest_vmsa_gpa: vmsa_gpa,
            guest_known: false,
            xcr0: abi::snp::reset::XCR0,
            counts: Counts::default(),
        })
    }

    /// Starts another VP of the paravisor's: `vmsa`, a private page of zeros at `gpa`
    /// that is not 2 MiB aligned, becomes its first state.
    pub fn start_vp(
        &mut self,
        vp: u8,
        vmsa: &mut Vmsa,
        gpa: u64,
        state: &UpperState,
    ) -> Result<(), Error> {
        const REQUEST: &str = "start of a VP";
        state.fill(vmsa, self.machine.sev_status());
        pages::make_vmsa(&mut self.machine, gpa)?;
        // The first word of the context names the page (Linux `hv_snp_boot_ap`).
        let start = StartVp {
            header: StartVpHeader {
                partition_id: PARTITION_ID_SELF,
                vp_index: vp.into(),
                target_vtl: PARAVISOR_VTL,
                reserved: [0; 3],
            },
            vmsa: gpa | 1,
            rest: [0; 27],
        };
        let control = Control::simple(abi::hyperv::call::START_VIRTUAL_PROCESSOR);
        let result = self.hypercall(control, zerocopy::IntoBytes::as_bytes(&start))?;
        match result.status() {
            abi::hyperv::status::SUCCESS => Ok(()),
            status => Err(Error::Refused {
                request: REQUEST,
                status: status.into(),
            }),
        }
    }

    /// Tells the host of the guest's VMSA and makes the page one: the order of
    /// `mshv_configure_vmsa_page` (OpenHCL kernel). Once; the page stays one.
    fn introduce_guest(&mut self) -> Result<(), Error> {
        if self.guest_known {
            return Ok(());
        }
        let assignment = ghcb::set_register(reg::SEV_CONTROL, self.guest_vmsa_gpa | 1, GUEST_VTL);
        self.hypercall(
            Control::rep(abi::hyperv::call::SET_VP_REGISTERS, 1),
            zerocopy::IntoBytes::as_bytes(&assignment),
        )?;
        pages::make_vmsa(&mut self.machine, self.guest_vmsa_gpa)?;
        self.guest_known = true;
        Ok(())
    }

    /// The machine, for code that stops the VM.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }
}

impl<'a, M: Machine, S: SharedMemory> Platform for Snp<'a, M, S> {
    type Vp = VmplState<'a>;

    fn enter(&mut self) -> Exit {
        if self.ghcb.prepare_run(GUEST_VTL).is_err() {
            return Exit::EntryRefused { code: 0 };
        }
        let gpa = self.ghcb.gpa();
        // The processor takes XCR0 from the VMSA. Where VMPL0 and VMPL2 share the
        // extended state (the rig), it must be told; elsewhere it does not matter,
        // because nothing of ours uses that state.
        let xcr0 = self.guest.page().xcr0;
        if xcr0 != self.xcr0 {
            self.machine.set_xcr0(xcr0);
            self.xcr0 = xcr0;
        }
        self.guest.before_entry();
        self.machine.run(gpa, self.guest.page());
        self.ghcb.release();
        self.machine.claim(self.guest.page());
        self.guest.after_exit()
    }

    fn vp(&mut self) -> &mut Self::Vp {
        &mut self.guest
    }

    fn start(&mut self, state: &BootState) -> Result<(), Error> {
        let status = self.machine.sev_status();
        self.guest.reset(state, status);
        self.introduce_guest()
    }

    fn start_at(&mut self, page: u8) -> Result<(), Error> {
        let status = self.machine.sev_status();
        self.guest.reset_to_real_mode(page, status);
        self.introduce_guest()
    }

    fn hypercall(&mut self, control: Control, input: &[u8]) -> Result<CallResult, Error> {
        self.counts.add(control.code());
        self.ghcb.hypercall(&mut self.machine, control, input)
    }

    fn hypercall_counts(&self) -> &[(u16, u64)] {
        self.counts.slots.get(..self.counts.used).unwrap_or(&[])
    }

    fn read_register(&mut self, msr: u32) -> Result<u64, Error> {
        self.ghcb.read_msr(&mut self.machine, msr)
    }

    fn write_register(&mut self, msr: u32, value: u64) -> Result<(), Error> {
        self.ghcb.write_msr(&mut self.machine, msr, value)
    }

    fn write_port(&mut self, port: u16, value: u8) -> Result<(), Error> {
        self.ghcb.write_port(&mut self.machine, port, value)
    }

    fn share(&mut self, gpa: u64) -> Result<(), Error> {
        change_page_state(&mut self.machine, gpa, wire::PSC_SHARED)
    }

    fn unshare(&mut self, gpa: u64) -> Result<(), Error> {
        change_page_state(&mut self.machine, gpa, wire::PSC_PRIVATE)
    }

    fn accept(&mut self, start: u64, end: u64) -> Result<(), Error> {
        pages::validate(&mut self.machine, start, end)
    }

    fn protect(&mut self, start: u64, end: u64, access: Access) -> Result<(), Error> {
        let attr = match access {
            Access::None => RmpAttr::empty(),
            Access::All => RmpAttr::RWX,
        };
        pages::adjust(&mut self.machine, start, end, attr)
    }

    fn wait(&mut self) {
        self.machine.wait();
    }

    fn take_interrupts(&mut self) {
        self.machine.take_interrupts();
    }

    fn terminate(&mut self, outcome: Outcome) -> ! {
        terminate(&mut self.machine, outcome)
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
