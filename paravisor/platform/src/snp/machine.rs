//! The instructions that only SEV-SNP has, as a trait: real in the firmware, a
//! fake host in the tests.

use abi::snp::{SevStatus, Vmsa};

/// What the backend asks of the processor.
pub trait Machine {
    /// A request of the MSR protocol: writes the GHCB MSR, executes VMGEXIT, reads
    /// the MSR.
    fn vmgexit(&mut self, value: u64) -> u64;
    /// A request that lies in the GHCB page at `gpa`: VMGEXIT with the page's
    /// address in the MSR.
    fn page_call(&mut self, gpa: u64);
    /// The same for the request that runs the guest, which changes `vmsa`.
    fn run(&mut self, gpa: u64, vmsa: &mut Vmsa);
    /// Sets the VMSA's BUSY bit atomically, so that the host cannot enter the
    /// guest behind our back while we look at its state.
    fn claim(&mut self, vmsa: &mut Vmsa);
    /// PVALIDATE: return code and carry ("nothing changed").
    fn pvalidate(&mut self, gpa: u64, large: bool, validate: bool) -> (u32, bool);
    /// RMPADJUST: return code.
    fn rmpadjust(&mut self, gpa: u64, large: bool, attributes: u64) -> u32;
    /// The MSR that names the SEV features which are on.
    fn sev_status(&mut self) -> SevStatus;
    /// XSETBV of register 0 with a value that was judged.
    fn set_xcr0(&mut self, value: u64);
    /// STI; HLT; CLI.
    fn wait(&mut self);
    /// STI; NOP; CLI.
    fn take_interrupts(&mut self);
    /// CLI; HLT.
    fn stop(&mut self);
}
