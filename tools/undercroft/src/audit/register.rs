//! Synthetic registers: what the guest wrote, and whether what it reads is legal.

use abi::hyperv::msr;
use std::collections::HashMap;
use validate::Violation;

/// What the guest wrote last, by processor and register.
#[derive(Default)]
pub struct Registers {
    written: HashMap<(u32, u32), u64>,
}

impl Registers {
    /// The guest writes.
    pub fn write(&mut self, vp: u32, register: u32, value: u64) {
        self.written.insert((vp, register), value);
    }

    /// The last write faulted: it counts as not made.
    pub fn fault(&mut self, vp: u32, register: u32) {
        self.written.remove(&(vp, register));
    }

    /// The guest reads. The offset of a violation is that in the value.
    pub fn read(&self, vp: u32, register: u32, value: u64) -> Result<(), Violation> {
        let written = self.written.get(&(vp, register)).copied();
        validate::register::read(register, written, value)
            .map_err(|violation| Violation::new(violation.rule, 0, violation.value))
    }
}

/// For people.
pub fn name(register: u32) -> String {
    let name = match register {
        msr::VP_INDEX => "VP_INDEX",
        msr::SVERSION => "SVERSION",
        msr::SCONTROL => "SCONTROL",
        msr::SIMP => "SIMP",
        msr::SIEFP => "SIEFP",
        msr::TSC_FREQUENCY => "TSC_FREQUENCY",
        msr::SINT0..=msr::SINT15 => return format!("register SINT{}", register - msr::SINT0),
        other => return format!("register {other:#x}"),
    };
    format!("register {name}")
}
