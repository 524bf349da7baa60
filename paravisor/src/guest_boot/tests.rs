use super::*;
use crate::testing::FakeVp;
use crate::walk::{Purpose, translate};
use loader::config::{MAGIC, VERSION};
use memory::doubles::VecGuest;
use platform::{Reg, Registers};

fn config() -> Config {
    let config = Config {
        magic: MAGIC,
        version: VERSION,
        size: size_of::<Config>() as u32,
        flags: 0,
        c_bit: 47,
        memory_min: layout::MEMORY_MIN,
        memory_max: layout::MEMORY_MAX,
        paravisor_entry: layout::PARAVISOR.start,
        paravisor_start: layout::PARAVISOR.start,
        paravisor_end: layout::PARAVISOR.start + 0x1000,
        kernel_entry: layout::KERNEL_LOAD + 0x200,
        kernel_load: layout::KERNEL_LOAD,
        kernel_size: 0x20_0801,
        kernel_init_size: 0x100_0000,
        boot_params: layout::BOOT_PARAMS.start,
        cmdline: layout::CMDLINE.start,
        cmdline_len: 5,
        initrd: layout::INITRD_LOAD,
        initrd_len: 0x1234,
        vmbus_target: 0,
        mac: [0; 6],
        nic: 0,
        max_vps: 64,
        reserved: [0; 4],
    };
    config.check().unwrap();
    config
}

fn map(entries: &[(u64, u64, u16)]) -> Vec<u8> {
    let mut page = vec![0; 4096];
    for (slot, (start, pages, kind)) in page.chunks_exact_mut(24).zip(entries) {
        let entry = MemoryMapEntry {
            starting_gpa_page_number: (*start).into(),
            number_of_pages: (*pages).into(),
            entry_type: (*kind).into(),
            ..Default::default()
        };
        slot.copy_from_slice(entry.as_bytes());
    }
    page
}

#[test]
fn memory_map_is_one_piece_from_zero() {
    let judge = |entries: &[(u64, u64, u16)]| judge_memory_map(&map(entries), &config());
    assert_eq!(judge(&[(0, 0x2_0000, 0)]), Ok(0x2000_0000));
    let pieces = [(0, 0x8000, 0), (0x8000, 0x1000, 3), (0x9000, 0x1_7000, 0)];
    assert_eq!(judge(&pieces), Ok(0x2000_0000));
    assert_eq!(
        judge(&[(0, 0x2_0000, 0), (0xf_0000, 1, 1)]),
        Ok(0x2000_0000)
    );
    assert_eq!(judge(&[(1, 0x2_0000, 0)]), Err(BadBoot::MapNotContiguous));
    assert_eq!(
        judge(&[(0, 0x1_0000, 0), (0xffff, 0x1_0000, 0)]),
        Err(BadBoot::MapNotContiguous)
    );
    assert_eq!(judge(&[(0, u64::MAX, 0)]), Err(BadBoot::MapNotContiguous));
    assert_eq!(
        judge(&[(0, 0x2_0001, 0)]),
        Err(BadBoot::MemorySize(0x2000_1000))
    );
    assert_eq!(judge(&[(0, 0x2_0000, 2)]), Err(BadBoot::MapEntry));
    assert_eq!(judge(&[]), Err(BadBoot::MemorySize(0)));
    let mut flagged = map(&[(0, 0x2_0000, 0)]);
    flagged[18] = 1;
    assert_eq!(
        judge_memory_map(&flagged, &config()),
        Err(BadBoot::MapEntry)
    );
}

#[test]
fn fresh_memory_and_payload_and_our_own_make_up_everything() {
    let memory = 0x2000_0000;
    for vps in [1, 2, 9, 64] {
        let fresh = fresh(memory, vps, &config());
        let mut all = payload(&config());
        all.push(layout::owned(vps.into()));
        all.extend(&fresh);
        all.sort_unstable_by_key(|r| r.start);
        let mut at = 0;
        for range in all {
            assert_eq!(range.start, at);
            assert!(!range.is_empty() && range.start.is_multiple_of(4096));
            at = range.end;
        }
        assert_eq!(at, memory);
        // The kernel's last, partly filled page came with the image.
        assert!(
            !fresh
                .iter()
                .any(|r| r.contains(layout::KERNEL_LOAD + 0x20_0801))
        );
        // No area of a VP is the guest's.
        for vp in 1..u32::from(vps) {
            let area = layout::vp_area(vp).unwrap();
            assert!(layout::owned(vps.into()).contains_range(area));
        }
    }
}

#[test]
fn number_of_processors_is_one_that_the_image_allows() {
    let few = Config {
        max_vps: 4,
        ..config()
    };
    for (count, config, expected) in [
        (1, config(), Ok(1)),
        (64, config(), Ok(64)),
        (0, config(), Err(BadBoot::Processors(0))),
        (65, config(), Err(BadBoot::Processors(65))),
        (0x101, config(), Err(BadBoot::Processors(0x101))),
        (u32::MAX, config(), Err(BadBoot::Processors(u32::MAX))),
        (4, few, Ok(4)),
        (5, few, Err(BadBoot::Processors(5))),
    ] {
        let mut page = vec![0xff; 4096];
        page[4080..4084].copy_from_slice(&u32::to_le_bytes(count));
        assert_eq!(judge_vp_count(&page, &config), expected);
    }
    assert_eq!(
        judge_vp_count(&[0; 100], &config()),
        Err(BadBoot::Processors(0))
    );
}

#[test]
fn e820_covers_ram_and_hides_the_region() {
    let map = e820(0x2000_0000, 1);
    let mut at = 0;
    for entry in map {
        assert_eq!(entry.addr.get(), at);
        at += entry.size.get();
    }
    assert_eq!(at, 0x2000_0000);
    let region = map.iter().find(|e| e.addr.get() == layout::BASE).unwrap();
    assert_eq!(
        (region.size.get(), region.kind.get()),
        (layout::SIZE, E820_RESERVED)
    );
    // With more processors the hole is longer, in whole large pages.
    for (vps, size) in [
        (2, 0x120_0000),
        (9, 0x120_0000),
        (10, 0x140_0000),
        (64, 0x200_0000),
    ] {
        let map = e820(0x2000_0000, vps);
        assert_eq!(map[3].size.get(), size);
        assert_eq!(map[4].addr.get(), layout::BASE + size);
    }
    assert_eq!(map[1].kind.get(), E820_RESERVED);
    assert!(map[1].addr.get() <= layout::ACPI.start);
    assert!(map[1].addr.get() + map[1].size.get() >= layout::ACPI.end);
}

fn guest_with_header() -> VecGuest {
    let guest = VecGuest::new(0x10_0000);
    let mut page = [0; 4096];
    let (params, _) = BootParams::mut_from_prefix(&mut page).unwrap();
    params.hdr.boot_flag.set(BOOT_FLAG);
    params.hdr.header.set(HEADER_MAGIC);
    params.hdr.cmdline_size.set(255);
    guest.write(layout::BOOT_PARAMS.start, &page).unwrap();
    guest.write(layout::CMDLINE.start, b"quiet\0").unwrap();
    guest
}

#[test]
fn zero_page_and_command_line_are_completed() {
    let guest = guest_with_header();
    finish_boot_params(&guest, &config(), 0x2000_0000, 1, 0xe_0000, " tsc=reliable").unwrap();
    let mut page = [0; 4096];
    guest.read(layout::BOOT_PARAMS.start, &mut page).unwrap();
    let params = BootParams::read_from_bytes(&page).unwrap();
    assert_eq!(params.e820_entries, 5);
    assert_eq!(params.acpi_rsdp_addr.get(), 0xe_0000);
    assert_eq!(params.hdr.ramdisk_image.get(), layout::INITRD_LOAD as u32);
    assert_eq!(params.hdr.ramdisk_size.get(), 0x1234);
    assert_eq!(params.hdr.type_of_loader, 0xff);
    assert_eq!(params.hdr.cmd_line_ptr.get(), layout::CMDLINE.start as u32);
    let mut line = [0; 19];
    guest.read(layout::CMDLINE.start, &mut line).unwrap();
    assert_eq!(&line, b"quiet tsc=reliable\0");
}

#[test]
fn command_line_longer_than_the_kernel_takes_is_refused() {
    let guest = guest_with_header();
    let extra = "x".repeat(251);
    assert_eq!(
        finish_boot_params(&guest, &config(), 0x2000_0000, 1, 0, &extra),
        Err(BadBoot::CommandLine)
    );
}

#[test]
fn zero_page_without_a_kernel_is_refused() {
    let guest = VecGuest::new(0x10_0000);
    assert_eq!(
        finish_boot_params(&guest, &config(), 0x2000_0000, 1, 0, ""),
        Err(BadBoot::NoKernelHeader)
    );
}

#[test]
fn guest_tables_map_four_gib_to_themselves() {
    let guest = VecGuest::new(0x10_0000);
    let state = write_tables(&guest, &config()).unwrap();
    assert_eq!(state.rip, layout::KERNEL_LOAD + 0x200);
    let mut vp = FakeVp::long_mode(state.cr3);
    vp.set(Reg::Rsi, state.rsi);
    for address in [0, 0x1234_5678, 0xfee0_0030, 0xffff_ffff] {
        assert_eq!(translate(&vp, &guest, address, Purpose::Write), Ok(address));
    }
    assert!(translate(&vp, &guest, 0x1_0000_0000, Purpose::Read).is_err());
    let tables_end = state.gdt_base + u64::from(state.gdt_limit);
    assert!(tables_end < layout::GUEST_TABLES.end);
}
