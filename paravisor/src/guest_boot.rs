//! What the guest finds when it starts: its memory map, the rest of the zero
//! page, page tables, a GDT. And, before that, what the host says about memory,
//! judged.
//!
//! Sources: Linux `Documentation/arch/x86/boot.rst` ("64-bit boot protocol"),
//! `zero-page.rst`; `IGVM_VHS_MEMORY_MAP_ENTRY` of igvm_defs.

use abi::igvm::{MEMORY_MAP_ENTRIES_PER_PAGE, MemoryMapEntry, VP_COUNT_OFFSET, memory_type};
use abi::linux_boot::{
    BOOT_CS, BOOT_DS, BOOT_FLAG, BootParams, E820_RAM, E820_RESERVED, E820Entry, HEADER_MAGIC,
    LOADER_UNDEFINED,
};
use alloc::vec::Vec;
use loader::config::Config;
use loader::layout::{self, Range};
use memory::{GuestMemory, OutOfRange};
use platform::BootState;
use zerocopy::{FromBytes, IntoBytes};

/// What is wrong with the host's memory map or with the measured payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBoot {
    /// The host's map does not describe one piece of RAM from address 0.
    MapNotContiguous,
    /// It has an entry with undefined bits or of an unusable kind in the way.
    MapEntry,
    /// Its RAM has a size that the image does not allow.
    MemorySize(u64),
    /// It gives the VM no processor, or more than the image allows.
    Processors(u32),
    /// The zero page holds no bzImage header.
    NoKernelHeader,
    /// The command line with our additions is longer than the kernel takes.
    CommandLine,
    /// Guest memory could not be reached (a bug of ours).
    Memory,
}

impl From<OutOfRange> for BadBoot {
    fn from(_: OutOfRange) -> BadBoot {
        BadBoot::Memory
    }
}

/// Judges the host's memory map and returns the size of RAM. The map is input
/// from the host: it is believed only as far as it describes memory as the
/// layout needs it, and a lie is found by PVALIDATE.
pub fn judge_memory_map(page: &[u8], config: &Config) -> Result<u64, BadBoot> {
    let mut end = 0u64;
    for chunk in page
        .chunks_exact(size_of::<MemoryMapEntry>())
        .take(MEMORY_MAP_ENTRIES_PER_PAGE)
    {
        let entry = MemoryMapEntry::read_from_bytes(chunk).map_err(|_| BadBoot::MapEntry)?;
        let pages = entry.number_of_pages.get();
        if pages == 0 {
            break;
        }
        if entry.flags.get() != 0 || entry.reserved.get() != 0 {
            return Err(BadBoot::MapEntry);
        }
        match entry.entry_type.get() {
            memory_type::MEMORY | memory_type::VTL2_PROTECTABLE => {
                let start = entry.starting_gpa_page_number.get();
                if start.checked_mul(layout::PAGE) != Some(end) {
                    return Err(BadBoot::MapNotContiguous);
                }
                end = start
                    .checked_add(pages)
                    .and_then(|n| n.checked_mul(layout::PAGE))
                    .ok_or(BadBoot::MapNotContiguous)?;
            }
            // Reserved ranges must not lie in RAM; the contiguity of RAM says so for
            // those below its end.
            memory_type::PLATFORM_RESERVED => {}
            _ => return Err(BadBoot::MapEntry),
        }
    }
    if !layout::memory_size_ok(end) || end < config.memory_min || end > config.memory_max {
        return Err(BadBoot::MemorySize(end));
    }
    Ok(end)
}

/// Judges the host's number of virtual processors, from the same page. A host that
/// names more than it can start is found when they do not start.
pub fn judge_vp_count(page: &[u8], config: &Config) -> Result<u8, BadBoot> {
    let count = page
        .get(VP_COUNT_OFFSET..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    u8::try_from(count)
        .ok()
        .filter(|count| (1..=config.max_vps).contains(count))
        .ok_or(BadBoot::Processors(count))
}

fn whole_pages(start: u64, len: u64) -> Range {
    let end = start
        .saturating_add(len)
        .saturating_add(layout::PAGE.wrapping_sub(1));
    Range {
        start,
        end: end & !layout::PAGE.wrapping_sub(1),
    }
}

/// Ranges of guest RAM that came with the image (validated by the launch), in
/// ascending order.
pub fn payload(config: &Config) -> Vec<Range> {
    let mut ranges = Vec::new();
    ranges.push(layout::BOOT_PARAMS);
    ranges.push(layout::CMDLINE);
    ranges.push(whole_pages(config.kernel_load, config.kernel_size));
    if let Some(initrd) = config.initrd() {
        ranges.push(whole_pages(initrd.start, initrd.len()));
    }
    ranges
}

/// Ranges of guest RAM in a VM with `vps` processors (what is the paravisor's is not
/// part of it).
pub fn guest_ram(memory: u64, vps: u8) -> [Range; 2] {
    let own = layout::owned(vps.into());
    [
        Range {
            start: 0,
            end: own.start,
        },
        Range {
            start: own.end,
            end: memory,
        },
    ]
}

/// Guest RAM that is to be accepted: everything that did not come with the image.
pub fn fresh(memory: u64, vps: u8, config: &Config) -> Vec<Range> {
    let mut taken = payload(config);
    taken.push(layout::owned(vps.into()));
    taken.sort_unstable_by_key(|range| range.start);
    let mut ranges = Vec::new();
    let mut at = 0u64;
    for range in taken {
        if range.start > at {
            ranges.push(Range {
                start: at,
                end: range.start.min(memory),
            });
        }
        at = at.max(range.end);
    }
    if at < memory {
        ranges.push(Range {
            start: at,
            end: memory,
        });
    }
    ranges
}

/// The guest's memory map.
pub fn e820(memory: u64, vps: u8) -> [E820Entry; 5] {
    let own = layout::owned(vps.into());
    let entry = |start: u64, end: u64, kind| E820Entry::new(start, end.saturating_sub(start), kind);
    const LOW: u64 = 0xa_0000;
    const HIGH: u64 = 0x10_0000;
    [
        entry(0, LOW, E820_RAM),
        // The hole of a PC; the ACPI tables lie in it.
        entry(LOW, HIGH, E820_RESERVED),
        entry(HIGH, own.start, E820_RAM),
        entry(own.start, own.end, E820_RESERVED),
        entry(own.end, memory, E820_RAM),
    ]
}

/// Completes the zero page and the command line: memory map, initrd, ACPI and
/// what `extra` adds to the command line (with its leading space).
pub fn finish_boot_params(
    guest: &impl GuestMemory,
    config: &Config,
    memory: u64,
    vps: u8,
    rsdp: u64,
    extra: &str,
) -> Result<(), BadBoot> {
    let mut page = [0; size_of::<BootParams>()];
    guest.read(config.boot_params, &mut page)?;
    let mut params = BootParams::read_from_bytes(&page).map_err(|_| BadBoot::Memory)?;
    let header = &mut params.hdr;
    if header.boot_flag.get() != BOOT_FLAG || header.header.get() != HEADER_MAGIC {
        return Err(BadBoot::NoKernelHeader);
    }
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr.set(config.cmdline as u32);
    params.ext_cmd_line_ptr.set((config.cmdline >> 32) as u32);
    if let Some(initrd) = config.initrd() {
        header.ramdisk_image.set(initrd.start as u32);
        header.ramdisk_size.set(initrd.len() as u32);
        params.ext_ramdisk_image.set((initrd.start >> 32) as u32);
        params.ext_ramdisk_size.set((initrd.len() >> 32) as u32);
    }
    let limit = u64::from(header.cmdline_size.get()).min(layout::CMDLINE.len().wrapping_sub(1));
    params.acpi_rsdp_addr.set(rsdp);
    let map = e820(memory, vps);
    params.e820_entries = map.len() as u8;
    for (slot, entry) in params.e820_table.iter_mut().zip(map) {
        *slot = entry;
    }
    guest.write(config.boot_params, params.as_bytes())?;

    let total = config.cmdline_len.saturating_add(extra.len() as u64);
    if total > limit {
        return Err(BadBoot::CommandLine);
    }
    let end = config.cmdline.saturating_add(config.cmdline_len);
    guest.write(end, extra.as_bytes())?;
    guest.write(config.cmdline.saturating_add(total), &[0])?;
    Ok(())
}

/// Page tables and GDT for the 64-bit entry: 4 GiB identity by 2 MiB pages.
pub fn write_tables(guest: &impl GuestMemory, config: &Config) -> Result<BootState, BadBoot> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    /// Page directories, one per GiB.
    const DIRECTORIES: u64 = 4;
    let base = layout::GUEST_TABLES.start;
    let page = |n: u64| base.wrapping_add(n.wrapping_mul(layout::PAGE));
    let mut table = [0u64; 512];

    if let Some(first) = table.first_mut() {
        *first = page(1) | PRESENT_WRITABLE;
    }
    guest.write(page(0), table.as_bytes())?;

    table = [0; 512];
    for (slot, n) in table.iter_mut().zip(0..DIRECTORIES) {
        *slot = page(n.wrapping_add(2)) | PRESENT_WRITABLE;
    }
    guest.write(page(1), table.as_bytes())?;

    for n in 0..DIRECTORIES {
        let first = n.wrapping_shl(30);
        for (slot, i) in table.iter_mut().zip(0u64..) {
            *slot = first | i.wrapping_shl(21) | LARGE | PRESENT_WRITABLE;
        }
        guest.write(page(n.wrapping_add(2)), table.as_bytes())?;
    }

    // Null, unused, __BOOT_CS, __BOOT_DS.
    let gdt: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    let gdt_base = page(DIRECTORIES.wrapping_add(2));
    guest.write(gdt_base, gdt.as_bytes())?;
    Ok(BootState {
        rip: config.kernel_entry,
        rsi: config.boot_params,
        cr3: page(0),
        gdt_base,
        gdt_limit: 31,
        code_selector: BOOT_CS,
        data_selector: BOOT_DS,
    })
}

#[cfg(test)]
mod tests;
