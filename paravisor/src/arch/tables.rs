//! GDT, TSS and IDT. Exceptions that can hit at any moment, or because the stack
//! itself is bad (#DF, NMI, #VC, #PF, #MC), have stacks of their own.
//!
//! `unsafe` because loading the tables changes how the processor sees everything.
#![allow(unsafe_code)]

use super::traps;
use core::ptr::addr_of;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// One exception stack. Handlers format a record, which takes about 1 KiB.
const STACK_SIZE: usize = 0x4000;

#[repr(C, align(4096))]
struct Stack(#[allow(dead_code)] [u8; STACK_SIZE]);

/// Stacks by IST index; each is used through its TSS entry only.
static mut STACKS: [Stack; traps::STACKS] = [const { Stack([0; STACK_SIZE]) }; traps::STACKS];
static TSS: Once<TaskStateSegment> = Once::new();
static GDT: Once<GlobalDescriptorTable> = Once::new();

/// Loads all three tables. From here on exceptions end in a record, and the
/// host's interrupts are counted.
pub fn load() {
    let tss = TSS.call_once(|| {
        let mut tss = TaskStateSegment::new();
        // The TSS is packed: its table is filled as a copy.
        let mut table = tss.interrupt_stack_table;
        for (index, slot) in table.iter_mut().take(traps::STACKS).enumerate() {
            // SAFETY: only the address of the static is taken; `index` is below its
            // length, and a stack's end is at most the static's.
            let end = unsafe { addr_of!(STACKS).cast::<Stack>().add(index).add(1) };
            *slot = VirtAddr::from_ptr(end);
        }
        tss.interrupt_stack_table = table;
        tss
    });
    let mut selectors = None;
    let gdt = GDT.call_once(|| {
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
