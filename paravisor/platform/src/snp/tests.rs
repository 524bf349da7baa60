use super::testing::{FakeHost, Plain, Seen as _, page};
use super::*;
use crate::{IoAccess, Reg, Registers, StringIo};
use abi::ghcb::{offset, valid};
use abi::hyperv::{call, status};
use abi::snp::{event, exit, npf, vintr};
use std::boxed::Box;
use zerocopy::FromZeros;

const GHCB: u64 = 0x0880_0000;
const VMSA: u64 = 0x0820_1000;

/// A host that grants sharing and registration and leaves the rest to `page`.
fn polite(mut page: impl FnMut() -> u64) -> impl FnMut(u64) -> u64 {
    move |value| match msr::info(value) {
        msr::PSC_REQUEST => msr::PSC_RESPONSE,
        msr::REGISTER_REQUEST => msr::registered(value),
        0 => page(),
        _ => 0,
    }
}

type Backend<F> = Snp<'static, FakeHost<F>, Plain>;

fn backend<F: FnMut(u64) -> u64>(page: &Plain, answer: F) -> Result<Backend<F>, Error> {
    let vmsa = Box::leak(Box::new(Vmsa::new_zeroed()));
    Snp::new(FakeHost::new(answer), page.clone(), vmsa, VMSA)
}

#[test]
fn ghcb_page_is_shared_then_zeroed_then_registered() {
    let page = page(GHCB);
    let mut snp = backend(&page, polite(|| 0)).unwrap();
    assert_eq!(
        snp.machine().asked,
        [msr::psc(GHCB, wire::PSC_SHARED), msr::register(GHCB)]
    );
    assert_eq!(page.bytes(0), [0; 0xff0]);
    assert_eq!(page.u32(offset::USAGE), u32::MAX);
}

#[test]
fn psc_reply_is_exactly_the_code_with_no_error() {
    for (reply, refused) in [
        (0x15 | 5 << 32, true),
        (0x15 | 1 << 12, false),
        (0x14, false),
    ] {
        let e = backend(&page(GHCB), |_| reply).err().unwrap();
        assert_eq!(
            matches!(e, Error::Refused { .. }),
            refused,
            "{reply:#x}: {e}"
        );
    }
}

#[test]
fn registration_reply_names_the_same_page() {
    for (reply, refused) in [
        (msr::NO_FRAME << 12 | msr::REGISTER_RESPONSE, true),
        (msr::registered(GHCB + 0x1000), true),
        (msr::register(GHCB), false),
    ] {
        let answer = move |v| {
            if msr::info(v) == msr::PSC_REQUEST {
                msr::PSC_RESPONSE
            } else {
                reply
            }
        };
        let e = backend(&page(GHCB), answer).err().unwrap();
        assert_eq!(
            matches!(e, Error::Refused { .. }),
            refused,
            "{reply:#x}: {e}"
        );
    }
}

#[test]
fn host_of_another_version_or_c_bit_is_refused() {
    let check = |info: u64, features: u64| {
        let mut host = FakeHost::new(move |v| match msr::info(v) {
            msr::SEV_INFO_REQUEST => info,
            _ => features,
        });
        check_host(&mut host, 51)
    };
    let snp = 1 << 12 | msr::FEATURES_RESPONSE;
    assert_eq!(check(msr::sev_info(2, 1, 51), snp), Ok(()));
    assert!(check(msr::sev_info(1, 1, 51), snp).is_err());
    assert!(check(msr::sev_info(4, 3, 51), snp).is_err());
    assert!(check(msr::sev_info(2, 1, 47), snp).is_err());
    assert!(check(msr::sev_info(2, 1, 51), msr::FEATURES_RESPONSE).is_err());
    assert!(check(0, snp).is_err());
}

#[test]
fn register_write_and_read_name_their_valid_fields() {
    let page = page(GHCB);
    let host = page.clone();
    let mut step = 0;
    let answer = polite(move || {
        step += 1;
        assert_eq!(host.u32(offset::USAGE), 0);
        assert_eq!(host.u64(offset::USAGE - 4) >> 16 & 0xffff, 2);
        assert_eq!(host.u64(offset::SW_EXIT_CODE), exit::MSR);
        assert_eq!(host.u64(offset::RCX), 0x4000_0083);
        let word1 = valid::EVERY_CALL_WORD1 | 1 << (valid::RCX - 64);
        if step == 1 {
            assert_eq!(host.u64(offset::SW_EXIT_INFO1), 1);
            assert_eq!(host.u64(offset::RAX), 0x0880_1001);
            assert_eq!(host.u64(offset::RDX), 0x1234);
            assert_eq!(host.u64(offset::VALID_BITMAP), 1 << valid::RAX);
            assert_eq!(
                host.u64(offset::VALID_BITMAP + 8),
                word1 | 1 << (valid::RDX - 64)
            );
        } else {
            assert_eq!(host.u64(offset::VALID_BITMAP), 0);
            assert_eq!(host.u64(offset::VALID_BITMAP + 8), word1);
            host.set_u64(offset::RAX, 0xffff_ffff_0000_0007);
            host.set_u64(offset::RDX, 9);
        }
        host.set_u64(offset::SW_EXIT_INFO1, 0);
        0
    });
    let mut snp = backend(&page, answer).unwrap();
    snp.write_register(0x4000_0083, 0x1234_0880_1001).unwrap();
    assert_eq!(snp.read_register(0x4000_0083), Ok(0x9_0000_0007));
    assert_eq!(page.u32(offset::USAGE), u32::MAX);
}

#[test]
fn error_reply_of_a_page_request_is_a_refusal() {
    let page = page(GHCB);
    let host = page.clone();
    let mut snp = backend(
        &page,
        polite(move || {
            host.set_u64(offset::SW_EXIT_INFO1, 2);
            0
        }),
    )
    .unwrap();
    assert!(matches!(
        snp.read_register(1),
        Err(Error::Refused { status: 2, .. })
    ));
}

/// Runs one hypercall against a host that answers with `results` in turn.
fn call_with(control: Control, results: &[u64]) -> (Result<CallResult, Error>, Vec<u64>) {
    let page = page(GHCB);
    let host = page.clone();
    let asked = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = asked.clone();
    let results = results.to_vec();
    let answer = polite(move || {
        let turn = log.borrow().len();
        log.borrow_mut()
            .push(host.u64(wire::HYPERCALL_CONTROL_OFFSET));
        assert_eq!(host.u32(offset::USAGE), 1);
        let result = results.get(turn).or(results.last()).unwrap();
        host.set_u64(wire::HYPERCALL_CONTROL_OFFSET, *result);
        0
    });
    let mut snp = backend(&page, answer).unwrap();
    let result = snp.hypercall(control, &[1, 2, 3]);
    assert_eq!(page.bytes(0), [1, 2, 3]);
    let asked = asked.borrow().clone();
    (result, asked)
}

#[test]
fn syn_23_unknown_status_is_a_failure() {
    let post = Control::simple(call::POST_MESSAGE);
    assert!(call_with(post, &[0]).0.is_ok());
    let busy = call_with(post, &[status::INSUFFICIENT_BUFFERS.into()])
        .0
        .unwrap();
    assert_eq!(busy.status(), status::INSUFFICIENT_BUFFERS);
    assert!(matches!(
        call_with(post, &[0xbeef]).0,
        Err(Error::Malformed { .. })
    ));
    for reserved in [1 << 16, 1 << 31, 1 << 44, 1 << 63] {
        assert!(matches!(
            call_with(post, &[reserved]).0,
            Err(Error::Malformed { .. })
        ));
    }
}

#[test]
fn syn_24_elements_processed_stay_within_the_request_and_grow() {
    let set = Control::rep(call::SET_VP_REGISTERS, 2);
    let r = |status, reps| CallResult::new(status, reps).0;
    assert!(call_with(set, &[r(0, 2)]).0.is_ok());
    assert!(call_with(set, &[r(0, 1)]).0.is_err());
    assert!(call_with(set, &[r(0, 3)]).0.is_err());
    assert!(call_with(set, &[r(status::TIMEOUT, 1), r(0, 0)]).0.is_err());
    let (result, asked) = call_with(set, &[r(status::TIMEOUT, 1), r(0, 2)]);
    assert!(result.is_ok());
    assert_eq!(asked, [set.0, set.with_rep_start(1).0]);
    // Whatever the status: more than was asked for, or less than was done ("SYN-24"),
    // ends the call there.
    for results in [
        &[r(status::TIMEOUT, 3)][..],
        &[r(status::INVALID_PARAMETER, 3)],
        &[r(status::TIMEOUT, 1), r(status::TIMEOUT, 0)],
        &[r(status::TIMEOUT, 1), r(status::INVALID_PARAMETER, 0)],
    ] {
        let (result, asked) = call_with(set, results);
        assert!(
            matches!(result, Err(Error::Malformed { .. })),
            "{results:x?}"
        );
        assert_eq!(asked.len(), results.len());
    }
    // Stopping at the element that was wrong is an honest answer.
    assert!(call_with(set, &[r(status::INVALID_PARAMETER, 1)]).0.is_ok());
}

#[test]
fn hypercall_that_never_gets_on_is_given_up() {
    let set = Control::rep(call::SET_VP_REGISTERS, 2);
    let (result, asked) = call_with(set, &[status::TIMEOUT.into()]);
    assert!(matches!(result, Err(Error::Refused { .. })));
    assert!(asked.len() < 100);
}

#[test]
fn input_longer_than_the_page_is_our_own_error() {
    let page = page(GHCB);
    let mut snp = backend(&page, polite(|| 0)).unwrap();
    let result = snp.hypercall(Control::simple(1), &[0; 4073]);
    assert!(matches!(result, Err(Error::Input { .. })));
}

#[test]
fn ranges_go_by_large_pages_and_fall_back_to_small_ones() {
    let page = page(GHCB);
    let mut snp = backend(&page, polite(|| 0)).unwrap();
    snp.accept(0x1f_f000, 0x60_1000).unwrap();
    let sizes: Vec<_> = snp.machine().pages.iter().map(|p| (p.1, p.2)).collect();
    assert_eq!(
        sizes,
        [
            (0x1f_f000, false),
            (0x20_0000, true),
            (0x40_0000, true),
            (0x60_0000, false)
        ]
    );
    snp.machine().pages.clear();
    snp.machine().page_code = |gpa, large| (if large && gpa == 0x20_0000 { 6 } else { 0 }, false);
    snp.protect(0x20_0000, 0x60_0000, Access::All).unwrap();
    assert_eq!(snp.machine().pages.len(), 1 + 512 + 1);
    assert_eq!(
        snp.machine().pages[1],
        ("rmpadjust", 0x20_0000, false, 0xf02)
    );
    assert_eq!(snp.machine().pages[513].1, 0x40_0000);
}

#[test]
fn page_that_was_validated_before_is_a_replay() {
    let page = page(GHCB);
    let mut snp = backend(&page, polite(|| 0)).unwrap();
    snp.machine().page_code = |_, _| (0, true);
    assert_eq!(
        snp.accept(0x1000, 0x2000),
        Err(Error::Replayed { gpa: 0x1000 })
    );
    snp.machine().page_code = |_, _| (1, false);
    assert!(matches!(
        snp.accept(0x1000, 0x2000),
        Err(Error::Page { code: 1, .. })
    ));
}

#[test]
fn guest_starts_in_the_64_bit_boot_protocol_state() {
    let page = page(GHCB);
    let host = page.clone();
    let answer = polite(move || {
        assert_eq!(host.u64(8), 0x10_ffff_fffe, "calling VP, target VTL 0");
        assert_eq!(host.u64(16), u64::from(reg::SEV_CONTROL));
        assert_eq!(host.u64(32), VMSA | 1);
        host.set_u64(wire::HYPERCALL_CONTROL_OFFSET, CallResult::new(0, 1).0);
        0
    });
    let mut snp = backend(&page, answer).unwrap();
    let boot = BootState {
        rip: 0x100_0200,
        rsi: 0x1_0000,
        cr3: 0x3_1000,
        gdt_base: 0x3_0000,
        gdt_limit: 31,
        code_selector: 0x10,
        data_selector: 0x18,
    };
    snp.start(&boot).unwrap();
    assert_eq!(snp.machine().pages, [("rmpadjust", VMSA, false, 0x1_0001)]);
    let vmsa = snp.guest.page();
    assert_eq!(
        (vmsa.rip, vmsa.rsi, vmsa.cr3, vmsa.rflags),
        (0x100_0200, 0x1_0000, 0x3_1000, 2)
    );
    assert_eq!(vmsa.vmpl, 2);
    assert_eq!(vmsa.sev_features, 0b11_0111);
    // No address of 51 bits is shared, and the boundary is one that exists.
    assert!(vmsa.virtual_tom > 1 << 51 && vmsa.virtual_tom < 1 << 52);
    assert!(vmsa.virtual_tom.is_multiple_of(2 << 20));
    assert_eq!(vmsa.efer & 1 << 12, 1 << 12);
    assert_eq!(snp.vp().get(Reg::Efer) & 1 << 12, 0, "SVME is hidden");
}

/// What the rig's processor, and hardware, want of the first state of a VP at VMPL0.
#[test]
fn another_vp_is_started_with_a_state_of_ours() {
    const OTHER: u64 = 0x0901_2000;
    let page = page(GHCB);
    let host = page.clone();
    let answer = polite(move || {
        let call = host.u64(wire::HYPERCALL_CONTROL_OFFSET);
        assert_eq!(call, u64::from(call::START_VIRTUAL_PROCESSOR));
        assert_eq!(host.u64(0), abi::hyperv::PARTITION_ID_SELF);
        assert_eq!(host.u64(8), 2 << 32 | 3, "VP 3, VTL 2");
        assert_eq!(host.u64(16), OTHER | 1);
        assert_eq!(host.bytes(24), [0; 216]);
        host.set_u64(wire::HYPERCALL_CONTROL_OFFSET, 0);
        0
    });
    let mut snp = backend(&page, answer).unwrap();
    let state = UpperState {
        rip: 0x804_1000,
        rsp: 0x901_1000,
        rdi: 3,
        gs_base: 0x901_1000,
        cr0: 0x8001_0031,
        cr3: 0x800_8000 | 1 << 51,
        cr4: 0x30_06b0,
        gdt_base: 0x800_7000,
        gdt_limit: 31,
        code_selector: 8,
        data_selector: 0x10,
    };
    let mut vmsa = Vmsa::new_zeroed();
    vmsa.rax = 5;
    snp.start_vp(3, &mut vmsa, OTHER, &state).unwrap();
    assert_eq!(snp.machine().pages, [("rmpadjust", OTHER, false, 0x1_0001)]);
    assert_eq!((vmsa.rax, vmsa.rdi, vmsa.rflags), (0, 3, 2));
    assert_eq!((vmsa.rip, vmsa.rsp), (state.rip, state.rsp));
    assert_eq!((vmsa.gs.base, vmsa.fs.base), (state.gs_base, 0));
    assert_eq!(
        (vmsa.cr3, vmsa.cr4, vmsa.cr0),
        (state.cr3, state.cr4, state.cr0)
    );
    assert_eq!((vmsa.vmpl, vmsa.virtual_tom, vmsa.efer), (0, 0, 0x1d00));
    // Those of the first VP: SNP and debug swap, nothing that is the guest's.
    assert_eq!(vmsa.sev_features, 0b10_0001);
    assert_eq!(vmsa.vintr_ctrl, 0);
}

#[test]
fn host_that_does_not_start_a_vp_is_believed() {
    let page = page(GHCB);
    let host = page.clone();
    let answer = polite(move || {
        let refused = u64::from(status::OPERATION_DENIED);
        host.set_u64(wire::HYPERCALL_CONTROL_OFFSET, refused);
        0
    });
    let mut snp = backend(&page, answer).unwrap();
    let state = UpperState {
        rip: 0,
        rsp: 0,
        rdi: 0,
        gs_base: 0,
        cr0: 0,
        cr3: 0,
        cr4: 0,
        gdt_base: 0,
        gdt_limit: 0,
        code_selector: 0,
        data_selector: 0,
    };
    let mut vmsa = Vmsa::new_zeroed();
    let error = snp.start_vp(1, &mut vmsa, 0x3000, &state).unwrap_err();
    assert_eq!(error.outcome(), Outcome::HostFailure);
}

#[test]
fn guest_after_a_sipi_is_in_real_mode_and_its_page_is_introduced_once() {
    let page = page(GHCB);
    let host = page.clone();
    let calls = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = calls.clone();
    let answer = polite(move || {
        counted.set(counted.get() + 1);
        host.set_u64(wire::HYPERCALL_CONTROL_OFFSET, CallResult::new(0, 1).0);
        0
    });
    let vmsa = Box::leak(Box::new(Vmsa::new_zeroed()));
    // Another VP's page is shared already.
    let mut snp: Backend<_> = Snp::adopt(FakeHost::new(answer), page.clone(), vmsa, VMSA).unwrap();
    assert_eq!(snp.machine().asked, [msr::register(GHCB)]);
    for start in [0u8, 0x9a, 0x9b] {
        snp.vp().set(Reg::Rax, 7);
        snp.start_at(start).unwrap();
        let vmsa = snp.guest.page();
        let code = (
            vmsa.cs.selector,
            vmsa.cs.base,
            vmsa.cs.limit,
            vmsa.cs.attrib,
        );
        let start = u64::from(start);
        assert_eq!(code, ((start << 8) as u16, start << 12, 0xffff, 0x9b));
        assert_eq!(
            (vmsa.ss.base, vmsa.ss.limit, vmsa.ss.attrib),
            (0, 0xffff, 0x93)
        );
        assert_eq!((vmsa.rip, vmsa.rax, vmsa.rflags, vmsa.cr0), (0, 0, 2, 0x10));
        assert_eq!((vmsa.efer, vmsa.cr3, vmsa.cr4), (0x1000, 0, 0));
        assert_eq!((vmsa.vmpl, vmsa.sev_features), (2, 0b11_0111));
        assert_eq!(vmsa.vintr_ctrl, vintr::BUSY);
    }
    assert_eq!(snp.machine().pages, [("rmpadjust", VMSA, false, 0x1_0001)]);
    assert_eq!(calls.get(), 1);
}

#[test]
fn kick_names_the_vp_and_the_vector() {
    let page = page(GHCB);
    let host = page.clone();
    let answer = polite(move || {
        assert_eq!(host.u64(offset::RCX), u64::from(abi::hyperv::msr::ICR));
        assert_eq!(
            (host.u64(offset::RAX), host.u64(offset::RDX)),
            (0x30, 5 << 24)
        );
        host.set_u64(offset::SW_EXIT_INFO1, 0);
        0
    });
    backend(&page, answer).unwrap().kick(5, 0x30).unwrap();
}

fn exit_with(change: impl FnOnce(&mut Vmsa)) -> (Exit, Box<Vmsa>) {
    let mut vmsa = Box::new(Vmsa::new_zeroed());
    let mut state = VmplState::new(&mut vmsa);
    change(state.page());
    let exit = state.after_exit();
    (exit, vmsa)
}

#[test]
fn exits_are_decoded() {
    let decode = vmsa::decode;
    assert_eq!(decode(exit::CPUID, 0, 0), Exit::Cpuid);
    assert_eq!(
        decode(exit::IOIO, 0x03f8_0010, 0),
        Exit::Io(IoAccess {
            port: 0x3f8,
            size: 1,
            input: false,
            string: None
        })
    );
    assert_eq!(
        decode(exit::IOIO, 0x01f0_0e2d, 0),
        Exit::Io(IoAccess {
            port: 0x1f0,
            size: 2,
            input: true,
            string: Some(StringIo {
                rep: true,
                address_size: 8,
                segment: 3
            })
        })
    );
    assert!(matches!(
        decode(exit::IOIO, 0x01f0_0070, 0),
        Exit::Unknown { .. }
    ));
    assert_eq!(decode(exit::MSR, 1, 0), Exit::WriteMsr);
    assert_eq!(
        decode(exit::NPF, npf::RESERVED | npf::WRITE, 0xfee0_00b0),
        Exit::Mmio {
            gpa: 0xfee0_00b0,
            write: true,
            fetch: false
        }
    );
    assert!(matches!(
        decode(exit::NPF, npf::NOT_RESTARTABLE, 0),
        Exit::Unknown { .. }
    ));
    assert_eq!(decode(exit::INTR, 0, 0), Exit::Interrupted);
    assert_eq!(
        decode(exit::BUSY, 0, 0),
        Exit::EntryRefused { code: exit::BUSY }
    );
    assert_eq!(
        decode(0x777, 1, 2),
        Exit::Unknown {
            code: 0x777,
            info1: 1,
            info2: 2
        }
    );
}

#[test]
fn exit_is_not_seen_twice() {
    let (exit, vmsa) = exit_with(|v| v.guest_exitcode = exit::HLT);
    assert_eq!(exit, Exit::Halt);
    assert_eq!(vmsa.guest_exitcode, exit::INTR);
}

#[test]
fn interrupted_delivery_is_injected_again() {
    let (_, vmsa) = exit_with(|v| v.guest_exitintinfo = event::interrupt(0x31) | 0x7000);
    assert_eq!(vmsa.event_inj, event::interrupt(0x31));
    assert_eq!(vmsa.guest_exitintinfo, 0);
    let fault = event::exception_with_code(14, 2);
    let (_, vmsa) = exit_with(|v| v.guest_exitintinfo = fault);
    assert_eq!(vmsa.event_inj, fault);
    for by_instruction in [
        event::VALID | event::TYPE_SOFTWARE | 0x80,
        event::exception(3),
    ] {
        let (_, vmsa) = exit_with(|v| v.guest_exitintinfo = by_instruction);
        assert_eq!(vmsa.event_inj, 0);
    }
    // Stale low bits without the valid bit mean nothing.
    let (_, vmsa) = exit_with(|v| v.guest_exitintinfo = 0x31);
    assert_eq!(vmsa.event_inj, 0);
}

#[test]
fn offered_interrupt_is_open_until_the_processor_takes_it() {
    let mut page = Box::new(Vmsa::new_zeroed());
    let mut state = VmplState::new(&mut page);
    state.offer_interrupt(Some(0xec));
    assert!(state.interrupt_offered());
    let word = state.page().vintr_ctrl;
    assert_eq!(vintr::vector(word), 0xec);
    assert_eq!(word & vintr::PRIORITY_MASK, 0xe << 16);
    state.page().vintr_ctrl &= !vintr::V_IRQ;
    assert!(!state.interrupt_offered());
    state.offer_interrupt(None);
    assert_eq!(state.page().vintr_ctrl, 0);
}

#[test]
fn exceptions_that_the_host_intercepts_are_decoded() {
    let exception = |vector, error, address| Exit::Exception {
        vector,
        error,
        address,
    };
    let decode = |vector: u64| vmsa::decode(exit::EXCEPTION + vector, 0x1_0000_0003, 0x7000);
    assert_eq!(decode(1), exception(1, None, 0x7000));
    assert_eq!(decode(14), exception(14, Some(3), 0x7000));
    assert_eq!(decode(17), exception(17, Some(3), 0x7000));
    // What cannot be injected: #BP, #OF. Nothing of a guest's own: NMI, #MC, #HV, #VC,
    // #SX and what is reserved.
    for vector in [3, 4, 2, 9, 15, 18, 20, 22, 27, 28, 29, 30, 31] {
        assert!(matches!(decode(vector), Exit::Unknown { .. }), "{vector}");
    }
}

#[test]
fn task_priority_is_the_guests_own_and_holds_an_offer_back() {
    let mut vmsa = Box::new(Vmsa::new_zeroed());
    let mut state = VmplState::new(&mut vmsa);
    state.set_task_priority(0x15);
    assert_eq!(state.task_priority(), 5);
    state.offer_interrupt(Some(0x61));
    let word = state.page().vintr_ctrl;
    assert_eq!(word & (vintr::TPR_MASK | vintr::IGNORE_TPR), 5);
    assert_eq!(vintr::vector(word), 0x61);
    assert_eq!((word & vintr::PRIORITY_MASK) >> vintr::PRIORITY_SHIFT, 6);
    state.offer_interrupt(None);
    assert_eq!(state.task_priority(), 5);
}
