//! The image as its users rely on it: reproducible, measured alike by three
//! calculations, sensitive to every measured byte, robust when damaged.

use loader::layout;
use undercroft::image::{NicModel, Options, VmbusTarget, build};
use undercroft::testkit::{tiny_bzimage, tiny_firmware, tiny_options};
use undercroft::{Error, Input, inspect, measure};

fn digest(bytes: Vec<u8>) -> String {
    measure::measure(&Input::new("test.igvm", bytes))
        .expect("a sound image")
        .launch_digest
}

/// The digest as the rig computes it while it loads: own reader, own hashing.
fn rigs_digest(bytes: &[u8]) -> String {
    let file = rig::igvm::File::parse(bytes).expect("the rig reads it");
    undercroft::error::hex(&rig::digest::measure(&file).expect("the rig measures it"))
}

fn refused(change: impl FnOnce(&mut Options)) -> String {
    let mut options = tiny_options();
    change(&mut options);
    let result = build(&options).map(|_| ());
    result.expect_err("must be refused").to_string()
}

fn patched_kernel(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut kernel = tiny_bzimage(b"\xf4");
    kernel[at..at + bytes.len()].copy_from_slice(bytes);
    kernel
}

#[test]
fn same_inputs_give_the_same_bytes() {
    let mut options = tiny_options();
    let first = build(&options).unwrap();
    // Names of files are no input.
    options.kernel.name = "elsewhere".into();
    let second = build(&options).unwrap();
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(first.digest, second.digest);
}

#[test]
fn three_calculations_of_the_digest_agree() {
    for debug_console in [false, true] {
        let mut options = tiny_options();
        options.debug_console = debug_console;
        let image = build(&options).unwrap();
        // Our calculation and the igvm crate's are compared inside.
        let ours = digest(image.bytes.clone());
        assert_eq!(ours, undercroft::error::hex(&image.digest));
        assert_eq!(ours, rigs_digest(&image.bytes));
    }
}

#[test]
fn every_option_that_matters_changes_the_digest() {
    type Change = fn(&mut Options);
    let changes: [Change; 12] = [
        |_| {},
        |o| o.debug_console = true,
        |o| o.count_unmeasured = true,
        |o| o.c_bit = layout::C_BIT_RIG,
        |o| o.mac = Some([2, 0, 0, 0, 0, 1]),
        |o| o.vmbus_target = VmbusTarget::Plain,
        |o| o.nic = NicModel::E1000e,
        |o| o.max_vps = 63,
        |o| o.command_line.push('x'),
        |o| o.initrd = None,
        |o| o.kernel.bytes = tiny_bzimage(b"\xeb\xfe"),
        |o| o.paravisor.bytes = tiny_firmware(layout::PARAVISOR.start, b"\xf4", b"", 0),
    ];
    let digests: std::collections::BTreeSet<_> = changes
        .iter()
        .map(|change| {
            let mut options = tiny_options();
            change(&mut options);
            build(&options).unwrap().digest
        })
        .collect();
    assert_eq!(digests.len(), changes.len());
}

#[test]
fn a_flipped_byte_in_measured_content_changes_the_digest() {
    let image = build(&tiny_options()).unwrap();
    let good = digest(image.bytes.clone());
    let data = u32::from_le_bytes(image.bytes[8..12].try_into().unwrap())
        + u32::from_le_bytes(image.bytes[12..16].try_into().unwrap());
    let cpuid = cpuid_page_offset(&image.bytes);
    for page in (data as usize..image.bytes.len()).step_by(4096) {
        let mut bytes = image.bytes.clone();
        bytes[page + 77] ^= 0x10;
        assert_eq!(rigs_digest(&bytes), digest(bytes.clone()));
        if page == cpuid {
            assert_eq!(
                digest(bytes),
                good,
                "the CPUID page's content is not measured"
            );
        } else {
            assert_ne!(digest(bytes), good, "page at {page:#x}");
        }
    }
}

fn cpuid_page_offset(bytes: &[u8]) -> usize {
    let file = rig::igvm::File::parse(bytes).unwrap();
    file.directives()
        .find_map(|d| match d.unwrap() {
            rig::igvm::Directive::PageData {
                page_type: rig::igvm::PageType::Cpuid,
                data: Some(page),
                ..
            } => Some(page.as_ptr() as usize - bytes.as_ptr() as usize),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_damaged_header_is_an_error_and_never_a_panic() {
    let good = build(&tiny_options()).unwrap().bytes;
    let headers = 24 + u32::from_le_bytes(good[12..16].try_into().unwrap()) as usize;
    // All of the different structures, then a sample of the many alike.
    for at in (0..0x180).chain((0x180..headers).step_by(11)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x81;
        assert!(
            inspect::inspect(&Input::new("x", bytes.clone())).is_err(),
            "byte {at:#x}"
        );
        assert!(rig::igvm::File::parse(&bytes).is_err());
        // With a checksum that fits: any answer, no panic, and none without reason.
        bytes[20..24].fill(0);
        let sum = crc32fast::hash(&bytes[..headers]);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        let ours = measure::measure(&Input::new("x", bytes.clone())).map(|r| r.launch_digest);
        let rigs = rig::igvm::File::parse(&bytes).and_then(|f| rig::digest::measure(&f));
        if let (Ok(ours), Ok(rigs)) = (ours, rigs) {
            assert_eq!(ours, undercroft::error::hex(&rigs), "byte {at:#x}");
        }
    }
}

#[test]
fn a_truncated_file_is_an_error_and_never_a_panic() {
    let bytes = build(&tiny_options()).unwrap().bytes;
    for end in (0..bytes.len()).step_by(997).chain(0..64) {
        let cut = Input::new("cut.igvm", bytes[..end].to_vec());
        let message = measure::measure(&cut).expect_err("truncated").to_string();
        assert!(
            message.contains("cut.igvm") && message.contains("truncated"),
            "{message}"
        );
        assert!(inspect::inspect(&cut).is_err());
        assert!(rig::igvm::File::parse(&bytes[..end]).is_err());
    }
}

#[test]
fn files_for_others_are_told_apart() {
    let other = |bytes: Vec<u8>| {
        measure::measure(&Input::new("other", bytes))
            .expect_err("not ours")
            .to_string()
    };
    assert!(other(b"\x7fELF and then some more bytes".to_vec()).contains("not an IGVM file"));
    // The same file with platform TDX (type 3) in its platform header.
    let mut bytes = build(&tiny_options()).unwrap().bytes;
    let headers = 24 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    assert_eq!(bytes[24 + 8 + 5], 2);
    bytes[24 + 8 + 5] = 3;
    bytes[20..24].fill(0);
    let sum = crc32fast::hash(&bytes[..headers]);
    bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    let message = other(bytes);
    assert!(message.contains("SEV-SNP"), "{message}");
}

#[test]
fn inspect_names_everything_in_the_image() {
    let mut options = tiny_options();
    options.mac = Some([2, 0, 0, 0, 0, 1]);
    options.nic = NicModel::E1000e;
    let image = build(&options).unwrap();
    let report = inspect::inspect(&Input::new("tiny.igvm", image.bytes.clone())).unwrap();
    assert_eq!(report.guest_policy, 0x3001f);
    assert_eq!(
        (report.highest_vtl, report.shared_gpa_boundary),
        (2, 1 << 46)
    );
    assert_eq!(report.launch_digest, undercroft::error::hex(&image.digest));
    let runs: Vec<_> = report
        .pages
        .iter()
        .map(|run| (run.purpose, run.kind, run.start, run.pages))
        .collect();
    assert_eq!(
        runs,
        [
            ("boot VMSA", "VMSA", 0x0800_1000, 1),
            ("host parameters", "unmeasured", 0x0800_5000, 1),
            ("guest zero page", "measured", 0x1_0000, 1),
            ("guest command line", "measured", 0x2_0000, 1),
            ("guest kernel", "measured", 0x0100_0000, 1),
            ("CPUID page", "CPUID", 0x0800_2000, 1),
            ("secrets page", "secrets", 0x0800_4000, 1),
            ("configuration", "measured", 0x0800_6000, 1),
            ("boot GDT", "measured", 0x0800_7000, 1),
            ("page tables", "measured", 0x0800_8000, 12),
            ("loader stage", "measured", 0x0802_0000, 5),
            ("paravisor", "measured", 0x0804_0000, 6),
            ("guest initrd", "measured", 0x0a00_0000, 3),
        ]
    );
    let vmsa = report.vmsa.as_ref().unwrap();
    assert_eq!(vmsa.rip, layout::STAGE.start);
    assert_eq!((vmsa.rsp, vmsa.rflags, vmsa.vmpl), (0, 0, 0));
    assert_eq!(vmsa.cr3, 1 << 51 | layout::PAGE_TABLES.start);
    let config = report.config.as_ref().unwrap();
    assert_eq!(config.command_line, "console=ttyS0");
    assert_eq!(config.mac.as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(config.nic, "e1000e");
    assert!(!config.debug_console && config.enforce_unmeasured);
    let text = report.to_string();
    for word in [
        "0x3001f",
        "console=ttyS0",
        "paravisor",
        &report.launch_digest,
    ] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["config"]["c_bit"], 51);
}

#[test]
fn the_zero_page_is_the_kernels_header_and_our_places() {
    use abi::linux_boot::BootParams;
    use zerocopy::FromBytes;
    let image = build(&tiny_options()).unwrap();
    let file = rig::igvm::File::parse(&image.bytes).unwrap();
    let page = file
        .directives()
        .find_map(|d| match d.unwrap() {
            rig::igvm::Directive::PageData {
                gpa: 0x1_0000,
                data,
                ..
            } => data,
            _ => None,
        })
        .unwrap();
    let params = BootParams::read_from_bytes(page.as_slice()).unwrap();
    assert_eq!(params.hdr.version.get(), 0x020f);
    assert_eq!(params.hdr.type_of_loader, 0xff);
    assert_eq!(params.hdr.cmd_line_ptr.get(), 0x2_0000);
    assert_eq!(params.hdr.ramdisk_image.get(), 0x0a00_0000);
    assert_eq!(params.hdr.ramdisk_size.get(), 10_000);
    assert_eq!((params.sentinel, params.e820_entries), (0, 0));
}

#[test]
fn a_large_initrd_asks_for_more_memory() {
    let min = |size| {
        undercroft::kernel::memory_min(Some(layout::Range {
            start: layout::INITRD_LOAD,
            end: layout::INITRD_LOAD + size,
        }))
    };
    assert_eq!(min(1), layout::MEMORY_MIN);
    assert_eq!(min(100 << 20), layout::INITRD_LOAD + (164 << 20));
    assert_eq!(min((100 << 20) + 1), layout::INITRD_LOAD + (166 << 20));
}

#[test]
fn kernels_that_cannot_start_are_refused_with_a_reason() {
    let cases: [(Vec<u8>, &str); 9] = [
        (vec![], "not a Linux bzImage"),
        (b"\x7fELF".repeat(1000), "not a Linux bzImage"),
        (patched_kernel(0x1fe, &[0, 0]), "not a Linux bzImage"),
        (patched_kernel(0x206, &[0x0b, 2]), "boot protocol 2.11"),
        (patched_kernel(0x236, &[0, 0]), "no 64-bit entry"),
        (patched_kernel(0x211, &[0]), "zImage"),
        (patched_kernel(0x1f4, &[0xff, 0xff, 0, 0]), "truncated"),
        (patched_kernel(0x260, &[0, 0, 0, 8]), "init_size 0x8000000"),
        (patched_kernel(0x258, &[0, 0, 0, 8]), "init_size"),
    ];
    for (bytes, expected) in cases {
        let message = refused(|o| o.kernel = Input::new("k.img", bytes));
        assert!(
            message.starts_with("kernel k.img: ") && message.contains(expected),
            "{message}"
        );
    }
    let message = refused(|o| {
        // Not relocatable, and made for 32 MiB.
        o.kernel.bytes = patched_kernel(0x234, &[0]);
        o.kernel.bytes[0x258..0x260].copy_from_slice(&0x200_0000u64.to_le_bytes());
    });
    assert!(message.contains("not relocatable"), "{message}");
}

#[test]
fn inputs_that_do_not_fit_are_refused_with_a_reason() {
    let message = refused(|o| o.command_line = "x".repeat(2048));
    assert!(
        message.contains("2048 bytes") && message.contains("2047"),
        "{message}"
    );
    let message = refused(|o| o.command_line = "a\0b".into());
    assert!(message.contains("NUL"), "{message}");
    let message = refused(|o| o.initrd = Some(Input::new("i", vec![])));
    assert!(message.contains("empty"), "{message}");
    let message = refused(|o| {
        o.kernel.bytes = patched_kernel(0x22c, &0x0a00_0fffu32.to_le_bytes());
        o.initrd = Some(Input::new("i", vec![0; 5000]));
    });
    assert!(message.contains("room for"), "{message}");
    let message = refused(|o| o.c_bit = 46);
    assert!(message.contains("--c-bit"), "{message}");
    let message = refused(|o| o.mac = Some([1, 0, 0, 0, 0, 0]));
    assert!(message.contains("unicast"), "{message}");
}

#[test]
fn firmware_that_cannot_be_placed_is_refused_with_a_reason() {
    let stage = layout::STAGE.start;
    let good = tiny_firmware(stage, b"\xf4", b"d", 0);
    // Program header 1 starts at 64 + 56: flags at +4, address at +16.
    let patched = |at: usize, bytes: &[u8]| {
        let mut elf = good.clone();
        elf[at..at + bytes.len()].copy_from_slice(bytes);
        elf
    };
    let cases: [(Vec<u8>, &str); 8] = [
        (b"hello".to_vec(), "not a usable ELF"),
        (patched(16, &[3, 0]), "not a statically linked"),
        (patched(64 + 56 + 4, &[7]), "writable and executable"),
        (patched(64 + 56 + 16, &[1]), "page boundary"),
        (patched(64 + 56 + 16, &stage.to_le_bytes()), "shares a page"),
        (patched(24, &[0x00, 0x10, 0x02]), "in no code segment"),
        (
            tiny_firmware(stage, b"\xf4", b"", 0x2_0000),
            "outside of its place",
        ),
        (
            tiny_firmware(0x10_0000, b"\xf4", b"", 0),
            "outside of its place",
        ),
    ];
    for (bytes, expected) in cases {
        let message = refused(|o| o.stage = Input::new("s.elf", bytes));
        assert!(
            message.starts_with("firmware s.elf: ") && message.contains(expected),
            "{expected}: {message}"
        );
    }
    // Every truncation of a good one is an error or places less, never a panic.
    for end in (0..good.len()).step_by(97) {
        let mut options = tiny_options();
        options.stage.bytes = good[..end].to_vec();
        assert!(
            matches!(build(&options), Err(Error::Firmware { .. })),
            "{end:#x}"
        );
    }
}
