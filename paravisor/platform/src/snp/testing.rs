//! A scripted host and a plain page, for the tests of this backend.

use super::Machine;
use abi::snp::{SevStatus, Vmsa};
use memory::SharedMemory as _;
use memory::doubles::PlainShared;
use std::vec::Vec;

/// A page of "shared" memory that test and backend both hold.
pub type Plain = PlainShared;

pub fn page(gpa: u64) -> Plain {
    let page = PlainShared::new(1, gpa >> 12);
    page.copy_out(0, &[0xcc; 4096]).unwrap();
    page
}

/// What a test sees and changes of it.
pub trait Seen {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N];
    fn set_u64(&self, at: usize, value: u64);
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }
}

impl Seen for Plain {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.copy_in(at, &mut bytes).unwrap();
        bytes
    }
    fn set_u64(&self, at: usize, value: u64) {
        self.copy_out(at, &value.to_le_bytes()).unwrap();
    }
}

/// A host whose answers the test gives: a function from the MSR's value.
pub struct FakeHost<F> {
    pub answer: F,
    /// Every value written to the MSR.
    pub asked: Vec<u64>,
    /// PVALIDATE and RMPADJUST as `(name, gpa, large, argument)`.
    pub pages: Vec<(&'static str, u64, bool, u64)>,
    /// Return code and carry for a page.
    pub page_code: fn(u64, bool) -> (u32, bool),
}

impl<F: FnMut(u64) -> u64> FakeHost<F> {
    pub fn new(answer: F) -> Self {
        FakeHost {
            answer,
            asked: Vec::new(),
            pages: Vec::new(),
            page_code: |_, _| (0, false),
        }
    }
}

impl<F: FnMut(u64) -> u64> Machine for FakeHost<F> {
    fn vmgexit(&mut self, value: u64) -> u64 {
        self.asked.push(value);
        (self.answer)(value)
    }
    fn page_call(&mut self, gpa: u64) {
        self.asked.push(gpa);
        (self.answer)(gpa);
    }
    fn run(&mut self, value: u64, vmsa: &mut Vmsa) {
        self.asked.push(value);
        assert_eq!(vmsa.vintr_ctrl >> 63, 0, "BUSY at entry");
    }
    fn claim(&mut self, vmsa: &mut Vmsa) {
        vmsa.vintr_ctrl |= 1 << 63;
    }
    fn pvalidate(&mut self, gpa: u64, large: bool, validate: bool) -> (u32, bool) {
        self.pages.push(("pvalidate", gpa, large, validate.into()));
        (self.page_code)(gpa, large)
    }
    fn rmpadjust(&mut self, gpa: u64, large: bool, attributes: u64) -> u32 {
        self.pages.push(("rmpadjust", gpa, large, attributes));
        (self.page_code)(gpa, large).0
    }
    fn sev_status(&mut self) -> SevStatus {
        SevStatus::SEV | SevStatus::SEV_ES | SevStatus::SNP | SevStatus::DEBUG_SWAP
    }
    fn set_xcr0(&mut self, _: u64) {}
    fn wait(&mut self) {}
    fn take_interrupts(&mut self) {}
    fn stop(&mut self) {}
}
