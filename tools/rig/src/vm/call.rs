//! VMGEXIT of VMPL0: the GHCB's MSR and page protocols as Hyper-V answers them.

use super::end::{End, end};
use super::{C_BIT, Life, Turn, UPPER, VpPublic, cpu};
use crate::metal::{clock, serial};
use abi::ghcb::{self, PSC_MAX_ENTRIES, PSC_PRIVATE, PSC_SHARED, PscEntry, PscHeader, msr, offset};
use abi::hyperv::{CallResult, Control, RegisterValue, call, reg, status};
use abi::record::{CONSOLE_PORT, Outcome, RECORD_PORT};
use abi::svm::event;
use core::cell::RefCell;
use hostkit::VmMemory;
use hostkit::hv::RegisterHook;
use rig::ghcb::{Call, Page, Reply, is_run_lower, parse, reply};
use rig::rmp::{REGION_FRAMES, Rmp};
use zerocopy::{FromBytes, IntoBytes};

/// UART registers behind a base port.
const UART_PORTS: u16 = 8;
/// UART line status: transmitter empty.
const UART_LSR: u16 = 5;
const UART_IDLE: u8 = 0x60;
const GP: u8 = 13;
/// Level in which VPs are started: that of VMPL0.
const PARAVISOR_VTL: u8 = 2;
/// `INFO1` of a reply that asks the guest to raise an event.
const RAISE: u64 = ghcb::reply::EVENT as u64;

/// SevControl of VMPL2 and the start of VPs: everything else in this call goes to the
/// partition.
struct Registers<'a> {
    vps: &'a mut [VpPublic],
    rmp: &'a RefCell<Rmp>,
    memory: u64,
    /// The VP that was started, and its VMSA's frame.
    started: Option<(usize, u64)>,
}

impl Registers<'_> {
    fn vp(&mut self, vp: u32) -> Result<&mut VpPublic, u16> {
        let vp = self.vps.get_mut(vp as usize);
        vp.ok_or(status::INVALID_VP_INDEX)
    }
}

impl RegisterHook for Registers<'_> {
    fn get(&mut self, vp: u32, vtl: Option<u8>, name: u32) -> Result<RegisterValue, u16> {
        match (name, vtl) {
            (reg::SEV_CONTROL, Some(0)) => {
                let low = self.vp(vp)?.lower_vmsa.map_or(0, |gfn| gfn << 12 | 1);
                Ok(RegisterValue { low, high: 0 })
            }
            _ => Err(status::INVALID_PARAMETER),
        }
    }

    fn set(
        &mut self,
        vp: u32,
        vtl: Option<u8>,
        name: u32,
        value: RegisterValue,
    ) -> Result<(), u16> {
        match (name, vtl) {
            (reg::SEV_CONTROL, Some(0)) => {
                let gpa = value.low & !0xfff;
                if value.high != 0 || value.low & 0xffe != 0 || gpa >= self.memory {
                    return Err(status::INVALID_PARAMETER);
                }
                self.vp(vp)?.lower_vmsa = (value.low & 1 != 0).then_some(gpa >> 12);
                Ok(())
            }
            _ => Err(status::INVALID_PARAMETER),
        }
    }

    /// Of the initial context only the first word counts: where the VMSA is, which the
    /// guest has written and marked itself (Linux `hv_snp_boot_ap`).
    fn start_vp(&mut self, vp: u32, vtl: u8, context: &[u8]) -> Result<(), u16> {
        let word = context.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let gfn = word >> 12;
        let mut rmp = self.rmp.borrow_mut();
        let sound = vtl == PARAVISOR_VTL
            && word & 0xfff == 1
            && !gfn.is_multiple_of(REGION_FRAMES)
            && rmp.is_vmsa(gfn)
            && !rmp.is_in_use(gfn);
        let Some(public) = self.vps.get_mut(vp as usize) else {
            return Err(status::INVALID_VP_INDEX);
        };
        if public.life != Life::Off {
            return Err(status::INVALID_VP_STATE);
        }
        if !sound {
            return Err(status::INVALID_PARAMETER);
        }
        rmp.set_in_use(gfn, true);
        public.life = Life::Starting(gfn);
        self.started = Some((vp as usize, gfn));
        Ok(())
    }
}

impl Turn<'_> {
    pub(super) fn vmgexit(&mut self) -> Result<(), End> {
        let value = self.vp.ctx[UPPER].ghcb_msr;
        let answer = match msr::info(value) {
            0 => return self.page_call(value),
            msr::SEV_INFO_REQUEST => msr::sev_info(ghcb::PROTOCOL_VERSION, 1, C_BIT as u8),
            msr::PREFERRED_GPA_REQUEST => msr::NO_FRAME << 12 | msr::PREFERRED_GPA_RESPONSE,
            msr::REGISTER_REQUEST => self.register(value)?,
            msr::PSC_REQUEST => {
                let gpa = msr::psc_gpa(value);
                let failed = self.change_owner(gpa >> 12, msr::psc_operation(value), false)?;
                u64::from(failed) << 32 | msr::PSC_RESPONSE
            }
            msr::FEATURES_REQUEST => ghcb::features::SNP << 12 | msr::FEATURES_RESPONSE,
            msr::TERMINATE_REQUEST => return self.terminate(value),
            _ => return end!(Outcome::VmKilled, "GHCB MSR request {value:#x}"),
        };
        self.vp.ctx[UPPER].ghcb_msr = answer;
        Ok(())
    }

    fn terminate(&self, value: u64) -> Result<(), End> {
        let (set, reason) = msr::terminate_reason(value);
        match Outcome::from_code(reason) {
            Some(outcome) if set == abi::record::TERMINATE_SET => {
                end!(outcome, "asked for by the guest")
            }
            _ => end!(
                Outcome::VmKilled,
                "guest terminated: set {set} reason {reason:#x}"
            ),
        }
    }

    fn register(&mut self, value: u64) -> Result<u64, End> {
        let gfn = msr::frame(value);
        let wanted = (gfn != 0).then_some(gfn);
        let own = self.vp.index;
        let mut others = self.vm.vps.iter().enumerate();
        if wanted.is_some() && others.any(|(vp, public)| vp != own && public.ghcb_gfn == wanted) {
            return end!(
                Outcome::VmKilled,
                "VP {own} registers GHCB {:#x}, which is another VP's",
                gfn << 12
            );
        }
        if wanted.is_some() && !self.vm.rmp.borrow().is_shared(gfn) {
            return Ok(msr::NO_FRAME << 12 | msr::REGISTER_RESPONSE);
        }
        self.vm.vps[own].ghcb_gfn = wanted;
        Ok(gfn << 12 | msr::REGISTER_RESPONSE)
    }

    /// Page state change; returns 0 or the error that the guest gets.
    fn change_owner(&mut self, gfn: u64, operation: u8, large: bool) -> Result<u32, End> {
        let to_guest = match operation {
            PSC_PRIVATE => true,
            PSC_SHARED => false,
            other => {
                return end!(
                    Outcome::VmKilled,
                    "page state change to {other}, page {gfn:#x}"
                );
            }
        };
        let frames = if large { rig::rmp::REGION_FRAMES } else { 1 };
        let code = {
            let mut rmp = self.vm.rmp.borrow_mut();
            if large {
                rmp.update_large(gfn, to_guest)
            } else {
                rmp.update(gfn, to_guest)
            }
        };
        if code != 0 {
            return Ok(u32::from(status::INVALID_PARAMETER));
        }
        let seed = clock::tsc();
        for vp in &mut self.vm.vps {
            vp.ghcb_gfn
                .take_if(|ghcb| to_guest && (gfn..gfn + frames).contains(ghcb));
        }
        // Before anybody may write there again under the new owner.
        self.forget(gfn, frames)?;
        for gfn in gfn..gfn + frames {
            self.vm.ram.scramble(gfn, seed);
        }
        self.stats().page_state_changes += frames;
        Ok(0)
    }

    fn page_call(&mut self, gpa: u64) -> Result<(), End> {
        if self.vm.vps[self.vp.index].ghcb_gfn != Some(gpa >> 12) {
            return end!(
                Outcome::VmKilled,
                "VMGEXIT with GHCB {gpa:#x} which is not registered"
            );
        }
        // Running the lower level is most of all calls and needs little of the page.
        let mut tail = [0; 8];
        let mut vtl = [0; 1];
        let short = self
            .vm
            .memory
            .read(gpa + 4096 - tail.len() as u64, &mut tail)
            .and_then(|()| {
                self.vm
                    .memory
                    .read(gpa + offset::TARGET_VTL as u64, &mut vtl)
            });
        if short.is_ok() && vtl == [0] && is_run_lower(tail) {
            return self.enter_lower();
        }
        let mut page: Page = [0; 4096];
        let read = self.vm.memory.read(gpa, &mut page);
        self.check_host()?;
        if read.is_err() {
            return end!(Outcome::VmKilled, "GHCB {gpa:#x} cannot be read");
        }
        let call = match parse(&page) {
            Ok(call) => call,
            Err(why) => return end!(Outcome::VmKilled, "malformed GHCB call: {why:?}"),
        };
        let answer = match call {
            Call::RunLower { vtl: 0 } => return self.enter_lower(),
            Call::RunLower { vtl } => return end!(Outcome::VmKilled, "run VTL {vtl}"),
            Call::Hypercall {
                control,
                output_gpa,
            } => {
                return self.hypercall(gpa, &page, control, output_gpa);
            }
            Call::Io { port, width, write } => self.port(port, width, write),
            Call::Msr { index, write } => self.synthetic_msr(index, write),
            Call::PageStateChange { scratch } => self.page_state_change(gpa, scratch)?,
        };
        reply(&mut page, answer);
        for (from, len) in [
            (offset::RAX, 8),
            (offset::RDX, 8),
            (offset::SW_EXIT_INFO1, 16),
            (offset::VALID_BITMAP, 16),
        ] {
            let bytes = page.get(from..from + len).unwrap_or_default();
            let _ = self.vm.memory.write(gpa + from as u64, bytes);
        }
        self.check_host()
    }

    fn port(&mut self, port: u16, width: u8, write: Option<u32>) -> Reply {
        let uart = |base: u16| (base..base + UART_PORTS).contains(&port);
        match write {
            Some(value) if port == CONSOLE_PORT => serial::console(value as u8),
            Some(value) if port == RECORD_PORT => {
                self.vm.vps[self.vp.index].record.byte(value as u8)
            }
            Some(_) => {}
            None => {
                let value = if port == CONSOLE_PORT + UART_LSR || port == RECORD_PORT + UART_LSR {
                    u32::from(UART_IDLE)
                } else if uart(CONSOLE_PORT) || uart(RECORD_PORT) {
                    0
                } else {
                    u32::MAX >> (32 - 8 * u32::from(width))
                };
                return Reply {
                    rax: Some(u64::from(value)),
                    ..Reply::default()
                };
            }
        }
        Reply::default()
    }

    fn synthetic_msr(&mut self, index: u32, write: Option<u64>) -> Reply {
        let vp = self.vp.index;
        let now = self.vm.clock.now();
        let result = match write {
            None => self.vm.host.msr_read(now, vp, index),
            Some(value) => self.vm.host.msr_write(now, vp, index, value).map(|()| 0),
        };
        match (result, write) {
            (Ok(value), None) => Reply {
                rax: Some(value & 0xffff_ffff),
                rdx: Some(value >> 32),
                ..Reply::default()
            },
            (Ok(_), Some(_)) => Reply::default(),
            (Err(_), _) => Reply {
                info1: RAISE,
                info2: event::exception_with_code(GP, 0),
                ..Reply::default()
            },
        }
    }

    fn hypercall(
        &mut self,
        gpa: u64,
        page: &Page,
        control: u64,
        output_gpa: u64,
    ) -> Result<(), End> {
        let mut output = [0u8; 4096];
        let vm = &mut *self.vm;
        let mut hook = Registers {
            vps: &mut vm.vps,
            rmp: &vm.rmp,
            memory: vm.ram.size(),
            started: None,
        };
        let input = page.get(..ghcb::HYPERCALL_DATA_SIZE).unwrap_or_default();
        let (now, vp) = (vm.clock.now(), self.vp.index);
        let result = vm
            .host
            .hypercall(now, vp, &mut hook, control, input, &mut output);
        if let Some((vp, gfn)) = hook.started {
            // In use now: nobody writes there any more.
            self.forget(gfn, 1)?;
            cpu::kick(vp);
        }
        // Of the calls known here only this one puts something out.
        if Control(control).code() == call::GET_VP_REGISTERS && output_gpa != 0 {
            let len = usize::from(CallResult(result).reps()) * size_of::<RegisterValue>();
            let bytes = output.get(..len).unwrap_or_default();
            let _ = self.vm.memory.write(output_gpa, bytes);
        }
        let at = gpa + ghcb::HYPERCALL_CONTROL_OFFSET as u64;
        let _ = self.vm.memory.write(at, &result.to_le_bytes());
        self.check_host()
    }

    /// The list form. Entries before an error are done and the cursor says so.
    fn page_state_change(&mut self, ghcb: u64, scratch: u64) -> Result<Reply, End> {
        // Hyper-V accepts the buffer inside of the GHCB only.
        let buffer = ghcb + offset::SHARED_BUFFER as u64;
        let end = buffer + ghcb::SHARED_BUFFER_SIZE as u64;
        if scratch < buffer || scratch >= end || !scratch.is_multiple_of(8) {
            return end!(Outcome::VmKilled, "page state change list at {scratch:#x}");
        }
        let read8 = |turn: &Turn<'_>, at: u64| -> Result<[u8; 8], End> {
            let mut bytes = [0; 8];
            match (at + 8 <= end).then(|| turn.vm.memory.read(at, &mut bytes)) {
                Some(Ok(())) => Ok(bytes),
                _ => end!(Outcome::VmKilled, "page state change list ends at {at:#x}"),
            }
        };
        let mut header = match PscHeader::read_from_bytes(&read8(self, scratch)?) {
            Ok(h) => h,
            Err(_) => return end!(Outcome::VmKilled, "page state change list without header"),
        };
        if header.end_entry as usize >= PSC_MAX_ENTRIES || header.cur_entry > header.end_entry {
            return end!(Outcome::VmKilled, "page state change list {header:?}");
        }
        while header.cur_entry <= header.end_entry {
            let at = scratch + 8 + 8 * u64::from(header.cur_entry);
            let entry = PscEntry(u64::from_le_bytes(read8(self, at)?));
            let failed = self.change_owner(entry.gfn(), entry.operation(), entry.large())?;
            if failed != 0 {
                return Ok(Reply {
                    info2: u64::from(failed) << 32,
                    ..Reply::default()
                });
            }
            header.cur_entry += 1;
            let _ = self.vm.memory.write(scratch, header.as_bytes());
        }
        Ok(Reply::default())
    }
}
