//! A scripted host and a plain page, for the tests of this backend.

use super::Machine;
use abi::snp::{SevStatus, Vmsa};
use memory::{OutOfRange, SharedMemory};
use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

/// Some pages of "shared" memory that test and backend both hold.
#[derive(Clone)]
pub struct Plain {
    pub bytes: Rc<RefCell<Vec<u8>>>,
    pub gpa: u64,
}

impl Plain {
    pub fn page(gpa: u64) -> Plain {
        Plain {
            bytes: Rc::new(RefCell::new(vec![0xcc; 4096])),
            gpa,
        }
    }
    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes.borrow()[at..at + 8].try_into().unwrap())
    }
    pub fn set_u64(&self, at: usize, value: u64) {
        self.bytes.borrow_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    pub fn u32(&self, at: usize) -> u32 {
        self.u64(at & !7).to_le_bytes()[at & 7..][..4]
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u32::from(*b))
    }
}

impl SharedMemory for Plain {
    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        (index * 4096 < self.len()).then(|| (self.gpa >> 12) + index as u64)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        let bytes = self.bytes.borrow();
        dst.copy_from_slice(bytes.get(offset..offset + dst.len()).ok_or(OutOfRange)?);
        Ok(())
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        let mut bytes = self.bytes.borrow_mut();
        bytes
            .get_mut(offset..offset + src.len())
            .ok_or(OutOfRange)?
            .copy_from_slice(src);
        Ok(())
    }
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        self.copy_out(offset, &vec![0; len])
    }
    fn load_u32(&self, _: usize) -> Result<u32, OutOfRange> {
        Err(OutOfRange)
    }
    fn store_u32(&self, _: usize, _: u32) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn compare_exchange_u32(&self, _: usize, _: u32, _: u32) -> Result<bool, OutOfRange> {
        Err(OutOfRange)
    }
    fn take_u64(&self, _: usize) -> Result<u64, OutOfRange> {
        Err(OutOfRange)
    }
    fn fence(&self) {}
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
