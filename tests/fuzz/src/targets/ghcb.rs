//! The SNP backend over a machine whose every answer comes from the input: replies of
//! the MSR protocol, what the host leaves in the GHCB page (which also changes between
//! two reads), exits of the guest, results of the page instructions.

use crate::memory::{Arena, Race};
use crate::{Digest, Input};
use abi::ghcb::{self as wire, Usage, features, msr, offset};
use abi::hyperv::{CallResult, Control, status};
use abi::snp::{RmpAttr, SevStatus, Vmsa, event, exit, vintr};
use platform::snp::{Machine, Snp, check_host, decode, write_last_words};
use platform::{Access, BootState, Error, Exit, Platform, Reg, Registers, Seg};
use std::ops::Range;
use std::rc::Rc;
use zerocopy::FromZeros;

const GHCB_PFN: u64 = 0x8800;
const GHCB: u64 = GHCB_PFN << 12;
const VMSA: u64 = 0x0820_1000;
const C_BIT: u32 = 51;
/// Calls of the host that one request without elements may cost.
const PER_REQUEST: u64 = 80;
/// Where a request or our reading of an answer may change the page, beside the input
/// of a hypercall.
const OURS: [Range<usize>; 7] = [
    offset::TARGET_VTL..offset::TARGET_VTL + 1,
    offset::RAX..offset::RAX + 8,
    offset::RCX..offset::RDX + 8,
    offset::SW_EXIT_CODE..offset::SW_EXIT_INFO2 + 8,
    offset::VALID_BITMAP..offset::VALID_BITMAP + 16,
    wire::HYPERCALL_OUTPUT_GPA_OFFSET..wire::HYPERCALL_CONTROL_OFFSET + 8,
    offset::PROTOCOL_VERSION..offset::USAGE + 4,
];

/// What the host left in the page at the last call.
#[derive(Clone, Copy, Default)]
struct Answer {
    control: u64,
    code: u32,
    rax: u64,
    rdx: u64,
    /// Nothing is written between our reads of it.
    quiet: bool,
}

/// A page instruction as it was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PageCall {
    gpa: u64,
    large: bool,
    done: bool,
}

struct Host<'a> {
    input: Input<'a>,
    arena: Rc<Arena>,
    digest: Digest,
    calls: u64,
    answer: Answer,
    /// The page as the host left it, if nothing came between since.
    left: Option<Vec<u8>>,
    /// Input of the hypercall that is under way; `None`: the backend makes it itself.
    sent: Option<Vec<u8>>,
    pages: Vec<PageCall>,
    /// The guest has run.
    entered: bool,
    /// What an event that was interrupted makes of the next entry.
    interrupted: Option<u64>,
}

impl Host<'_> {
    fn word(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        self.arena.peek(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn page(&self) -> Vec<u8> {
        let mut page = vec![0; wire::PAGE_SIZE];
        self.arena.peek(0, &mut page);
        page
    }

    fn honest(&self, value: u64) -> u64 {
        match msr::info(value) {
            msr::SEV_INFO_REQUEST => msr::sev_info(2, 1, C_BIT as u8),
            msr::FEATURES_REQUEST => features::SNP << 12 | msr::FEATURES_RESPONSE,
            msr::PSC_REQUEST => msr::PSC_RESPONSE,
            msr::REGISTER_REQUEST => msr::registered(value),
            other => panic!("request {other:#x}"),
        }
    }

    /// What is asked is what the protocol has, and nothing else left the VM.
    fn look(&self) {
        // Otherwise the host has written into the request while it was made.
        if !self.answer.quiet {
            return;
        }
        let page = self.page();
        let usage = self.arena.peek_u32(offset::USAGE);
        assert!(usage <= Usage::VTL_RETURN.0, "usage {usage:#x}");
        let version = self.arena.peek_u32(offset::PROTOCOL_VERSION) as u16;
        assert_eq!(version, wire::PROTOCOL_VERSION);
        let Some(sent) = &self.sent else { return };
        if usage == Usage::HYPERCALL.0 {
            assert!(page.starts_with(sent), "input differs");
            assert_eq!(self.word(wire::HYPERCALL_OUTPUT_GPA_OFFSET), 0);
        }
        let Some(left) = &self.left else { return };
        for (at, (now, before)) in page.iter().zip(left).enumerate() {
            let ours = at < sent.len() || OURS.iter().any(|range| range.contains(&at));
            assert!(ours || now == before, "byte {at:#x} left the VM");
        }
    }

    /// Fills the page as the input says.
    fn reply(&mut self) {
        let usage = self.arena.peek_u32(offset::USAGE);
        let how = self.input.u8();
        if usage == Usage::HYPERCALL.0 {
            let count = Control(self.word(wire::HYPERCALL_CONTROL_OFFSET)).rep_count();
            let start = Control(self.word(wire::HYPERCALL_CONTROL_OFFSET)).rep_start();
            let result = match how {
                0..=127 => CallResult::new(status::SUCCESS, count).0,
                128..=175 => {
                    let more = u16::from(self.input.u8());
                    CallResult::new(status::TIMEOUT, start.saturating_add(more).min(count)).0
                }
                176..=207 => CallResult::new(self.input.u8().into(), self.input.u16()).0,
                208..=223 => CallResult::new(self.input.u16(), count).0,
                _ => self.input.u64(),
            };
            let at = wire::HYPERCALL_CONTROL_OFFSET;
            self.arena.poke(at, &result.to_le_bytes());
        } else {
            let code = match how {
                0..=207 => 0,
                _ => self.input.word(),
            };
            // The upper half means nothing.
            let code = u64::from(code) | u64::from(how) << 32;
            for (at, value) in [
                (offset::SW_EXIT_INFO1, code),
                (offset::RAX, self.input.u64()),
                (offset::RDX, self.input.u64()),
            ] {
                self.arena.poke(at, &value.to_le_bytes());
            }
        }
        match self.input.u8() % 8 {
            0 => {
                let at = self.input.below(wire::PAGE_SIZE);
                let bytes = self.input.run();
                let room = bytes.len().min(wire::PAGE_SIZE - at);
                self.arena.poke(at, &bytes[..room]);
            }
            1 => self.arena.race(Race {
                after: u32::from(self.input.u8() % 8),
                offset: self.input.below(wire::PAGE_SIZE),
                value: self.input.word(),
            }),
            _ => {}
        }
        let quiet = self.arena.is_quiet();
        self.answer = Answer {
            control: self.word(wire::HYPERCALL_CONTROL_OFFSET),
            code: self.word(offset::SW_EXIT_INFO1) as u32,
            rax: self.word(offset::RAX),
            rdx: self.word(offset::RDX),
            quiet,
        };
        self.left = quiet.then(|| self.page());
    }

    fn page_result(&mut self, gpa: u64, large: bool) -> (u32, bool) {
        let (code, carry) = match self.input.u8() {
            0..=239 => (0, false),
            240..=247 => (6, false),
            _ => (self.input.word(), self.input.flag()),
        };
        let done = code == 0 && !carry;
        self.pages.push(PageCall { gpa, large, done });
        (code, carry)
    }
}

impl Machine for Host<'_> {
    fn vmgexit(&mut self, value: u64) -> u64 {
        self.calls += 1;
        let honest = self.honest(value);
        let reply = match self.input.u8() {
            0..=223 => honest,
            224..=239 => msr::info(honest) | self.input.u64() << 12,
            240..=247 => honest ^ 1 << (self.input.u8() & 63),
            _ => self.input.u64(),
        };
        self.digest.number(reply);
        reply
    }
    fn page_call(&mut self, gpa: u64) {
        assert_eq!(gpa, GHCB);
        self.calls += 1;
        self.look();
        self.reply();
    }
    fn run(&mut self, gpa: u64, vmsa: &mut Vmsa) {
        assert_eq!(gpa, GHCB);
        self.calls += 1;
        self.look();
        let usage = self.arena.peek_u32(offset::USAGE);
        assert!(!self.answer.quiet || usage == Usage::VTL_RETURN.0);
        assert_eq!(vmsa.vintr_ctrl & vintr::BUSY, 0, "BUSY at entry");
        // Before the first entry there was no exit.
        assert!(
            !self.entered || vmsa.guest_exitcode == exit::INTR,
            "an exit stands"
        );
        self.entered = true;
        assert_eq!(vmsa.guest_exitintinfo, 0);
        if let Some(before) = self.interrupted.take() {
            let (now, kind) = (vmsa.event_inj, event::VECTOR_MASK | event::TYPE_MASK);
            let reserved = !(kind | event::ERROR_CODE_VALID | event::VALID) & 0xffff_ffff;
            assert_eq!(now & reserved, 0);
            assert!(
                now == 0 || before & event::VALID != 0,
                "an event of nothing"
            );
            assert!(now == 0 || now & kind == before & kind, "another event");
        }
        vmsa.event_inj = 0;
        vmsa.guest_exitcode = match self.input.u8() {
            0..=159 => u64::from(self.input.u8() % 0xa8),
            160..=223 => exit::NPF + u64::from(self.input.u8() & 7),
            224..=231 => exit::INVALID,
            232..=239 => exit::BUSY,
            _ => self.input.u64(),
        };
        vmsa.guest_exitinfo1 = self.input.u64();
        vmsa.guest_exitinfo2 = self.input.u64();
        vmsa.guest_nrip = self.input.u64();
        vmsa.vintr_ctrl = self.input.u64();
        if self.input.flag() {
            vmsa.guest_exitintinfo = self.input.u64();
        }
        self.interrupted = Some(vmsa.guest_exitintinfo);
        self.digest.number(vmsa.guest_exitcode);
        self.reply();
    }
    fn claim(&mut self, vmsa: &mut Vmsa) {
        vmsa.vintr_ctrl |= vintr::BUSY;
    }
    fn pvalidate(&mut self, gpa: u64, large: bool, _: bool) -> (u32, bool) {
        self.page_result(gpa, large)
    }
    fn rmpadjust(&mut self, gpa: u64, large: bool, attributes: u64) -> u32 {
        let vmsa = RmpAttr::VMSA.bits() | 1;
        assert!(
            attributes == vmsa || attributes & 0xff == 2,
            "{attributes:#x}"
        );
        let (code, carry) = self.page_result(gpa, large);
        // This instruction tells nothing by carry.
        if let (Some(last), true) = (self.pages.last_mut(), carry) {
            last.done = code == 0;
        }
        code
    }
    fn sev_status(&mut self) -> SevStatus {
        SevStatus::from_bits_truncate(self.input.u64())
    }
    fn set_xcr0(&mut self, value: u64) {
        self.digest.number(value);
    }
    fn wait(&mut self) {}
    fn take_interrupts(&mut self) {}
    fn stop(&mut self) {}
}

type Backend<'a> = Snp<'a, Host<'a>, crate::memory::Region>;

pub fn body(data: &[u8]) -> u64 {
    let arena = Arena::new(2, GHCB_PFN);
    arena.share(0, 1);
    let mut host = Host {
        input: Input::new(data),
        arena: arena.clone(),
        digest: Digest::new(),
        calls: 0,
        answer: Answer {
            quiet: true,
            ..Answer::default()
        },
        left: None,
        sent: Some(Vec::new()),
        pages: Vec::new(),
        entered: false,
        interrupted: None,
    };
    let checked = check_host(&mut host, C_BIT);
    host.digest.debug(&checked);
    let mut digest = host.digest;
    let mut vmsa = Box::new(Vmsa::new_zeroed());
    let mut snp = match Snp::new(host, arena.region(0, 1, &[]), &mut vmsa, VMSA) {
        Ok(snp) => snp,
        Err(error) => {
            digest.debug(&error);
            return digest.value();
        }
    };
    for _ in 0..96 {
        let host = snp.machine();
        if host.input.is_empty() {
            break;
        }
        host.pages.clear();
        let before = host.calls;
        let bound = step(&mut snp);
        let host = snp.machine();
        assert!(
            host.calls - before <= bound,
            "{} calls",
            host.calls - before
        );
        assert_eq!(arena.outside(), 0);
        if host.answer.quiet {
            // A stray exit finds no request.
            assert_eq!(arena.peek_u32(offset::USAGE), Usage::INVALID.0);
        }
    }
    let counts: Vec<(u16, u64)> = snp.hypercall_counts().to_vec();
    let mut digest = snp.machine().digest;
    digest.debug(&counts);
    digest.value()
}

/// One request; how many calls of the host it may have cost.
fn step(snp: &mut Backend<'_>) -> u64 {
    let host = snp.machine();
    host.sent = Some(Vec::new());
    match host.input.u8() % 12 {
        0 | 1 => {
            let result = snp.read_register(0x4000_0000);
            let host = snp.machine();
            host.digest.debug(&result);
            let answer = host.answer;
            if answer.quiet {
                let value = answer.rax & 0xffff_ffff | answer.rdx << 32;
                assert_eq!(result, accepted(answer, "register read").map(|()| value));
            }
            1
        }
        2 => {
            let value = host.input.u64();
            let result = snp.write_register(0x4000_0083, value);
            written(snp.machine(), result, "register write");
            1
        }
        3..=5 => hypercall(snp),
        6 | 7 => {
            let exit = snp.enter();
            judge(&exit, None);
            snp.machine().digest.debug(&exit);
            registers(snp);
            1
        }
        8 => {
            let start = u64::from(host.input.u16() & 0xfff) << 12;
            let pages = u64::from(host.input.u16() % 1100);
            let end = start + (pages << 12);
            let result = match host.input.u8() % 3 {
                0 => snp.accept(start, end),
                1 => snp.protect(start, end, Access::All),
                _ => snp.protect(start, end, Access::None),
            };
            covered(snp.machine(), result, start, end);
            0
        }
        9 => {
            let gpa = (host.input.u64() & 0xf_ffff_ffff) << 12;
            let result = match host.input.flag() {
                true => snp.share(gpa),
                false => snp.unshare(gpa),
            };
            snp.machine().digest.debug(&result);
            1
        }
        10 => {
            let boot = BootState {
                rip: host.input.u64(),
                rsi: 0x1_0000,
                cr3: 0x3_1000,
                gdt_base: 0x3_0000,
                gdt_limit: 31,
                code_selector: 0x10,
                data_selector: 0x18,
            };
            host.sent = None;
            host.interrupted = None;
            let result = snp.start(&boot);
            snp.machine().left = None;
            snp.machine().digest.debug(&result);
            PER_REQUEST
        }
        _ => {
            let (code, info1, info2) = (host.input.u64(), host.input.u64(), host.input.u64());
            let exit = decode(code, info1, info2);
            judge(&exit, Some((code, info1, info2)));
            host.digest.debug(&exit);
            let port = host.input.u8().into();
            let result = if host.input.flag() {
                let page = host.arena.region(0, 1, &[]);
                host.left = None;
                write_last_words(snp.machine(), page, port, b"?")
            } else {
                snp.write_port(port, b'!')
            };
            written(snp.machine(), result, "port write");
            1
        }
    }
}

/// What the host's code makes of a request with an exit code.
fn accepted(answer: Answer, request: &'static str) -> Result<(), Error> {
    match answer.code {
        0 => Ok(()),
        code => Err(Error::Refused {
            request,
            status: code.into(),
        }),
    }
}

fn written(host: &mut Host<'_>, result: Result<(), Error>, request: &'static str) {
    host.digest.debug(&result);
    if host.answer.quiet {
        assert_eq!(result, accepted(host.answer, request));
    }
}

fn hypercall(snp: &mut Backend<'_>) -> u64 {
    let host = snp.machine();
    let count = match host.input.u8() {
        0..=127 => 0,
        few @ 128..=247 => u16::from(few & 15),
        _ => host.input.u16() & 0xfff,
    };
    let control = match count {
        0 => Control::simple(host.input.u8().into()),
        count => Control::rep(host.input.u8().into(), count),
    };
    let len = match host.input.u8() {
        len @ 0..=253 => usize::from(len),
        254 => wire::HYPERCALL_DATA_SIZE,
        _ => wire::HYPERCALL_DATA_SIZE + 1,
    };
    let input: Vec<u8> = (0..len).map(|at| at as u8 ^ 0xa5).collect();
    host.sent = Some(input.clone());
    let before = host.calls;
    let result = snp.hypercall(control, &input);
    let host = snp.machine();
    host.digest.debug(&result);
    let (answer, calls) = (host.answer, host.calls - before);
    match result {
        Err(Error::Input { .. }) => assert!(len > wire::HYPERCALL_DATA_SIZE && calls == 0),
        _ if !answer.quiet => {}
        Ok(result) => {
            assert_eq!(result.0, answer.control);
            assert_eq!(result.0 & 0xffff_f000_ffff_0000, 0, "reserved bits");
            assert!(result.reps() <= count);
            assert!(result.status() != status::SUCCESS || result.reps() == count);
            assert_ne!(result.status(), status::TIMEOUT);
        }
        Err(Error::Malformed { value, .. }) => assert_eq!(value, answer.control),
        Err(Error::Refused { status, .. }) => {
            assert_eq!(status, answer.control);
            assert!(calls > 1 && CallResult(status).status() == status::TIMEOUT);
        }
        Err(other) => panic!("{other}"),
    }
    PER_REQUEST * (1 + u64::from(count))
}

/// What every decoded exit keeps to, and one of this code with its details.
fn judge(exit: &Exit, of: Option<(u64, u64, u64)>) {
    assert_eq!(Exit::NAMES[exit.index()], exit.name());
    match *exit {
        Exit::Io(access) => {
            assert!(matches!(access.size, 1 | 2 | 4));
            let string = access.string.into_iter();
            string.for_each(|s| assert!(matches!(s.address_size, 2 | 4 | 8) && s.segment < 8));
            assert!(of.is_none_or(|(_, info1, _)| access.port == (info1 >> 16) as u16));
        }
        Exit::Mmio { gpa, .. } => assert!(of.is_none_or(|(_, _, info2)| gpa == info2)),
        Exit::Unknown { code, info1, info2 } => {
            assert!(of.is_none_or(|of| of == (code, info1, info2)));
        }
        _ => {}
    }
}

/// What the loop does with the guest's registers after an exit.
fn registers(snp: &mut Backend<'_>) {
    let (what, vector) = (snp.machine().input.u8(), snp.machine().input.u8());
    let value = snp.machine().input.u64();
    let vp = snp.vp();
    assert!(vp.cpl() < 4);
    let pending = vp.event_pending();
    match what % 8 {
        0 => vp.offer_interrupt(Some(vector)),
        1 => vp.offer_interrupt(None),
        2 => vp.inject_nmi(),
        3 => vp.raise(vector & 31, (vector & 32 != 0).then_some(value as u32)),
        4 => vp.clear_interrupt_shadow(),
        5 => {
            vp.set(Reg::Efer, value);
            assert_eq!(vp.get(Reg::Efer), value & !(1 << 12), "SVME shows");
        }
        6 => vp.set(Reg::Xcr0, value),
        _ => vp.set(Reg::Rflags, value),
    }
    if what % 8 < 2 {
        assert_eq!(vp.interrupt_offered(), what % 8 == 0);
    }
    assert!(!pending || vp.event_pending(), "an event is lost");
    let seen = (vp.next_rip(), vp.segment(Seg::Cs), vp.interrupts_enabled());
    let raised = what % 8 == 3 || what % 8 == 2;
    let host = snp.machine();
    host.digest.debug(&seen);
    if raised {
        host.interrupted = None;
    }
}

/// Every page of a range was done once if all went well, and none beyond it ever.
fn covered(host: &mut Host<'_>, result: Result<(), Error>, start: u64, end: u64) {
    host.digest.debug(&result);
    let mut next = start;
    for call in &host.pages {
        let size = if call.large { 0x20_0000 } else { 0x1000 };
        assert_eq!(call.gpa, next, "a page is left out");
        assert!(call.gpa % size == 0 && call.gpa + size <= end);
        next += if call.done { size } else { 0 };
    }
    assert_eq!(result.is_ok(), next == end || start >= end);
}
