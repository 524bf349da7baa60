//! GDT, TSS and IDT. Exceptions that can hit at any moment, or because the stack
//! itself is bad (#DF, NMI, #VC, #PF, #MC), have stacks of their own, on each VP.
//!
//! `unsafe` because loading the tables changes how the processor sees everything.
#![allow(unsafe_code)]

use super::percpu::{self, PerVp};
use super::traps;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// On the first VP, before anything else: all three tables. From here on exceptions end
/// in a record, and the host's interrupts are counted.
pub fn load_first() {
    load(percpu::load_first());
}

/// The same on another VP, whose GS base is set.
pub fn load_this() {
    load(percpu::this());
}

fn load(own: &'static PerVp) {
    let tss = own.tss.call_once(|| {
        let mut tss = TaskStateSegment::new();
        // The TSS is packed: its table is filled as a copy.
        let mut table = tss.interrupt_stack_table;
        for (index, slot) in table.iter_mut().take(traps::STACKS).enumerate() {
            *slot = own.trap_stack(index);
        }
        tss.interrupt_stack_table = table;
        tss
    });
    let mut selectors = None;
    let gdt = own.gdt.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let task = gdt.append(Descriptor::tss_segment(tss));
        selectors = Some((code, data, task));
        gdt
    });
    gdt.load();
    if let Some((code, data, task)) = selectors {
        // SAFETY: the selectors are those of the table that was just loaded: flat
        // 64-bit code, flat data, the TSS.
        unsafe {
            CS::set_reg(code);
            SS::set_reg(data);
            DS::set_reg(data);
            ES::set_reg(data);
            load_tss(task);
        }
    }
    traps::load_idt();
}
