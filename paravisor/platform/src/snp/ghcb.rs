//! Requests through the GHCB page: what is written into it, and which answers
//! are taken. The page is shared; every word of an answer is read once.

use super::machine::Machine;
use crate::Error;
use abi::ghcb::{self as wire, Usage, exit, ioio, offset, reply, valid};
use abi::hyperv::{
    CallResult, Control, PARTITION_ID_SELF, RegisterAssignment, RegisterValue, TARGET_VTL_VALID,
    VP_INDEX_SELF, VpRegistersHeader, status,
};
use memory::{OutOfRange, SharedMemory};
use zerocopy::{Immutable, IntoBytes};

/// How often a hypercall is repeated that the host cuts short (status TIMEOUT)
/// or answers with a passing shortage without any progress in between. A long
/// rep call makes progress each time, so this bounds silence, not work.
const MAX_REPEATS: u32 = 64;

/// Bits of a hypercall's result that mean nothing: 31:16 and 63:44 (TLFS 3.8).
const RESULT_RESERVED: u64 = 0xffff_f000_ffff_0000;

/// The registered page.
pub(super) struct GhcbPage<S> {
    page: S,
    gpa: u64,
}

/// Arguments of a request with an exit code.
struct Request {
    name: &'static str,
    code: u64,
    info1: u64,
    rax: Option<u64>,
    rcx: Option<u64>,
    rdx: Option<u64>,
}

/// SetVpRegisters with one register of the calling VP.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct SetRegister {
    header: VpRegistersHeader,
    assignment: RegisterAssignment,
}

/// Sets the 64-bit register `name` of this VP's level `vtl`.
pub(super) fn set_register(name: u32, value: u64, vtl: u8) -> SetRegister {
    SetRegister {
        header: VpRegistersHeader {
            partition_id: PARTITION_ID_SELF,
            vp_index: VP_INDEX_SELF,
            target_vtl: TARGET_VTL_VALID | vtl & 0xf,
            reserved: [0; 3],
        },
        assignment: RegisterAssignment {
            name,
            pad: [0; 3],
            value: RegisterValue {
                low: value,
                high: 0,
            },
        },
    }
}

/// Statuses of a hypercall that have a meaning (SYN-23: any other is a failure
/// without one).
fn status_known(value: u16) -> bool {
    matches!(
        value,
        status::SUCCESS
            | status::INVALID_HYPERCALL_CODE
            | status::INVALID_HYPERCALL_INPUT
            | status::INVALID_ALIGNMENT
            | status::INVALID_PARAMETER
            | status::ACCESS_DENIED
            | status::OPERATION_DENIED
            | status::INSUFFICIENT_MEMORY
            | status::INVALID_PARTITION_ID
            | status::INVALID_VP_INDEX
            | status::INVALID_PORT_ID
            | status::INVALID_CONNECTION_ID
            | status::INSUFFICIENT_BUFFERS
            | status::INVALID_SYNIC_STATE
            | status::TIMEOUT
    )
}

impl<S: SharedMemory> GhcbPage<S> {
    /// Takes a shared page and zeroes it.
    pub(super) fn new(page: S, gpa: u64) -> Result<Self, Error> {
        let this = GhcbPage { page, gpa };
        this.page
            .zero(0, wire::PAGE_SIZE)
            .map_err(|_| Error::Input {
                request: "GHCB page",
            })?;
        this.release();
        Ok(this)
    }

    /// Its address.
    pub(super) fn gpa(&self) -> u64 {
        self.gpa
    }

    fn put(&self, at: usize, value: u64) -> Result<(), OutOfRange> {
        self.page.copy_out(at, &value.to_le_bytes())
    }

    fn take(&self, at: usize) -> Result<u64, OutOfRange> {
        let mut bytes = [0; 8];
        self.page.copy_in(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes version and usage, the last words of every request.
    fn arm(&self, usage: Usage) -> Result<(), OutOfRange> {
        self.page.copy_out(
            offset::PROTOCOL_VERSION,
            &wire::PROTOCOL_VERSION.to_le_bytes(),
        )?;
        self.page.copy_out(offset::USAGE, &usage.0.to_le_bytes())
    }

    /// Makes a stray VMGEXIT an error: no usage that exists.
    pub(super) fn release(&self) {
        // Cannot fail: the page has 4096 bytes, checked by `new`'s zeroing.
        let _ = self
            .page
            .copy_out(offset::USAGE, &Usage::INVALID.0.to_le_bytes());
    }

    /// Fills the page for running the guest.
    pub(super) fn prepare_run(&self, vtl: u8) -> Result<(), OutOfRange> {
        self.page.copy_out(offset::TARGET_VTL, &[vtl])?;
        self.arm(Usage::VTL_RETURN)
    }

    /// A request with an exit code; returns `(rax, rdx)`.
    fn request<M: Machine>(&self, machine: &mut M, request: Request) -> Result<(u64, u64), Error> {
        let name = request.name;
        let out_of_range = |_| Error::Input { request: name };
        let mut word0 = 0u64;
        let mut word1 = valid::EVERY_CALL_WORD1;
        let write = || -> Result<(), OutOfRange> {
            if let Some(rax) = request.rax {
                self.put(offset::RAX, rax)?;
                word0 |= 1 << valid::RAX;
            }
            if let Some(rcx) = request.rcx {
                self.put(offset::RCX, rcx)?;
                word1 |= 1 << (valid::RCX & 63);
            }
            if let Some(rdx) = request.rdx {
                self.put(offset::RDX, rdx)?;
                word1 |= 1 << (valid::RDX & 63);
            }
            self.put(offset::SW_EXIT_CODE, request.code)?;
            self.put(offset::SW_EXIT_INFO1, request.info1)?;
            self.put(offset::SW_EXIT_INFO2, 0)?;
            self.put(offset::VALID_BITMAP, word0)?;
            self.put(offset::VALID_BITMAP.wrapping_add(8), word1)?;
            self.arm(Usage::BASE)
        };
        let mut write = write;
        write().map_err(out_of_range)?;
        machine.page_call(self.gpa);
        self.release();
        // Hyper-V kills the VM rather than answer with an error (snp, GHCB); any
        // non-zero reply code is a refusal.
        let code = self.take(offset::SW_EXIT_INFO1).map_err(out_of_range)? as u32;
        if code != reply::OK {
            return Err(Error::Refused {
                request: name,
                status: code.into(),
            });
        }
        let rax = self.take(offset::RAX).map_err(out_of_range)?;
        let rdx = self.take(offset::RDX).map_err(out_of_range)?;
        Ok((rax, rdx))
    }

    pub(super) fn read_msr<M: Machine>(&self, machine: &mut M, msr: u32) -> Result<u64, Error> {
        let (rax, rdx) = self.request(
            machine,
            Request {
                name: "register read",
                code: exit::MSR,
                info1: wire::MSR_READ,
                rax: None,
                rcx: Some(msr.into()),
                rdx: None,
            },
        )?;
        Ok(rax & 0xffff_ffff | (rdx & 0xffff_ffff) << 32)
    }

    pub(super) fn write_msr<M: Machine>(
        &self,
        machine: &mut M,
        msr: u32,
        value: u64,
    ) -> Result<(), Error> {
        self.request(
            machine,
            Request {
                name: "register write",
                code: exit::MSR,
                info1: wire::MSR_WRITE,
                rax: Some(value & 0xffff_ffff),
                rcx: Some(msr.into()),
                rdx: Some(value >> 32),
            },
        )?;
        Ok(())
    }

    pub(super) fn write_port<M: Machine>(
        &self,
        machine: &mut M,
        port: u16,
        value: u8,
    ) -> Result<(), Error> {
        self.request(
            machine,
            Request {
                name: "port write",
                code: exit::IOIO,
                info1: ioio::info1(port, 1, false),
                rax: Some(value.into()),
                rcx: None,
                rdx: None,
            },
        )?;
        Ok(())
    }

    /// A hypercall, input inline. Returns the host's result; a rep call is
    /// repeated until all elements are done or the host reports an error.
    /// Everything in the page beyond the input stays what earlier requests, which
    /// the host saw, have left.
    pub(super) fn hypercall<M: Machine>(
        &self,
        machine: &mut M,
        control: Control,
        input: &[u8],
    ) -> Result<CallResult, Error> {
        const NAME: &str = "hypercall";
        let too_long = |_| Error::Input { request: NAME };
        if input.len() > wire::HYPERCALL_DATA_SIZE {
            return Err(Error::Input { request: NAME });
        }
        let count = control.rep_count();
        let mut done = 0u16;
        let mut silent = 0u32;
        loop {
            let write = || -> Result<(), OutOfRange> {
                self.page.copy_out(0, input)?;
                self.put(wire::HYPERCALL_OUTPUT_GPA_OFFSET, 0)?;
                self.put(
                    wire::HYPERCALL_CONTROL_OFFSET,
                    control.with_rep_start(done).0,
                )?;
                self.arm(Usage::HYPERCALL)
            };
            write().map_err(too_long)?;
            machine.page_call(self.gpa);
            self.release();
            let result = CallResult(
                self.take(wire::HYPERCALL_CONTROL_OFFSET)
                    .map_err(too_long)?,
            );
            if !status_known(result.status()) || result.0 & RESULT_RESERVED != 0 {
                // SYN-23: an unknown status or a reserved bit is a failure.
                return Err(Error::Malformed {
                    request: NAME,
                    value: result.0,
                });
            }
            let reps = result.reps();
            if reps > count || (count != 0 && reps < done) {
                // SYN-24: elements processed never exceed the request and only grow.
                return Err(Error::Malformed {
                    request: NAME,
                    value: result.0,
                });
            }
            match result.status() {
                status::SUCCESS if count == 0 || reps == count => return Ok(result),
                status::SUCCESS => {
                    return Err(Error::Malformed {
                        request: NAME,
                        value: result.0,
                    });
                }
                status::TIMEOUT => {
                    silent = if reps > done {
                        0
                    } else {
                        silent.wrapping_add(1)
                    };
                    if silent > MAX_REPEATS {
                        return Err(Error::Refused {
                            request: NAME,
                            status: result.0,
                        });
                    }
                    done = reps;
                }
                _ => return Ok(result),
            }
        }
    }
}
