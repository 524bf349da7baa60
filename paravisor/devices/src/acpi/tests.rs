//! The tables as an operating system would check them (ACPI 6.5).

use super::*;
use crate::test_support;

const AT: u64 = 0xe_0000;

fn word<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value[..N].copy_from_slice(&bytes[offset..offset + N]);
    u64::from_le_bytes(value)
}

fn piece(tables: &Tables, address: u64) -> &[u8] {
    &tables
        .pieces
        .iter()
        .find(|(at, _)| *at == address)
        .unwrap()
        .1
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn find(tables: &Tables, signature: &[u8; 4]) -> Vec<u8> {
    tables
        .pieces
        .iter()
        .find(|(_, bytes)| bytes.starts_with(signature))
        .unwrap()
        .1
        .clone()
}

#[test]
fn acpi_5_2_5_rsdp_leads_to_every_table() {
    let tables = build(AT, &test_support::config());
    let rsdp = piece(&tables, tables.rsdp);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp), rsdp.len()), (0, 0, 36));
    let xsdt = piece(&tables, word::<8>(rsdp, 24));
    assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
    let entries: Vec<&[u8]> = xsdt[36..]
        .chunks(8)
        .map(|entry| piece(&tables, word::<8>(entry, 0)))
        .collect();
    assert_eq!(&entries[0][..4], b"FACP");
    assert_eq!(&entries[1][..4], b"APIC");
    for table in &entries {
        assert_eq!(sum(table), 0);
        assert_eq!(word::<4>(table, 4) as usize, table.len());
    }
    let dsdt = piece(&tables, word::<8>(entries[0], 140));
    assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
    assert_eq!(word::<4>(entries[0], 40), word::<8>(entries[0], 140));
    let facs = word::<4>(entries[0], 36);
    assert_eq!((&piece(&tables, facs)[..4], facs % 64), (&b"FACS"[..], 0));
}

#[test]
fn tables_do_not_overlap_and_fit_a_page() {
    let tables = build(AT, &test_support::config());
    let mut end = AT;
    let mut pieces = tables.pieces.clone();
    pieces.sort();
    for (at, bytes) in pieces {
        assert!(at >= end);
        end = at + bytes.len() as u64;
    }
    assert!(end <= tables.end && tables.end < AT + 0x1000);
}

#[test]
fn acpi_5_2_9_fadt_tells_what_is_missing() {
    let fadt = find(&build(AT, &test_support::config()), b"FACP");
    let architecture = word::<2>(&fadt, 109);
    assert_eq!(architecture & 0b10, 0, "no 8042");
    assert_eq!(architecture & 0b10_0000, 0, "CMOS clock present");
    assert_eq!(word::<4>(&fadt, 76), 0x608);
    assert_eq!(
        word::<4>(&fadt, 112) & (1 << 20 | 1 << 10),
        1 << 10,
        "reset register, full ACPI"
    );
    assert_eq!((word::<8>(&fadt, 120), fadt[128]), (0xcf9, 6));
    assert_eq!((word::<4>(&fadt, 56), fadt[88]), (0x600, 4));
    assert_eq!((word::<4>(&fadt, 64), fadt[89]), (0x604, 2));
    assert_eq!(
        word::<4>(&fadt, 48),
        0,
        "no SMI command: always in ACPI mode"
    );
}

#[test]
fn acpi_4_1_hardware_reduced_without_pm_timer() {
    let config = MachineConfig {
        advertise_pm_timer: false,
        ..test_support::config()
    };
    let fadt = find(&build(AT, &config), b"FACP");
    assert_eq!(sum(&fadt), 0);
    assert_eq!(
        word::<4>(&fadt, 112) & (1 << 20 | 1 << 10),
        1 << 20 | 1 << 10
    );
    // No fixed hardware: FACS, SCI, PM1 blocks, PM timer and their lengths.
    assert_eq!(word::<4>(&fadt, 36), 0);
    assert!(fadt[46..92].iter().all(|byte| *byte == 0));
    assert_eq!(word::<8>(&fadt, 208 + 4), 0);
    // Sleep control and status.
    assert_eq!(&fadt[244..248], &[1, 8, 0, 1]);
    assert_eq!(word::<8>(&fadt, 248), 0x60c);
    assert_eq!(&fadt[256..260], &[1, 8, 0, 1]);
    assert_eq!(word::<8>(&fadt, 260), 0x60d);
    assert_eq!((word::<8>(&fadt, 120), fadt[128]), (0xcf9, 6));
}

#[test]
fn acpi_5_2_12_madt_has_one_of_each_apic_and_no_8259() {
    let madt = find(&build(AT, &test_support::config()), b"APIC");
    assert_eq!(word::<4>(&madt, 36), 0xfee0_0000);
    assert_eq!(word::<4>(&madt, 40), 0);
    assert_eq!(&madt[44..52], &[0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(
        (&madt[52..54], word::<4>(&madt, 56)),
        (&[1, 12][..], 0xfec0_0000)
    );
    assert_eq!(madt.len(), 64);
}

#[test]
fn dsdt_has_the_devices() {
    let dsdt = find(&build(AT, &test_support::config()), b"DSDT");
    for name in [
        b"_SB_", b"PCI0", b"COM1", b"RTC0", b"_S5_", b"_PRT", b"_CRS",
    ] {
        assert!(
            dsdt.windows(4).any(|w| w == name),
            "{}",
            core::str::from_utf8(name).unwrap()
        );
    }
    // _S5: package of four, first element 5.
    let at = dsdt.windows(4).position(|w| w == b"_S5_").unwrap();
    assert_eq!(&dsdt[at + 4..at + 9], &[0x12, 0x07, 0x04, 0x0a, 0x05]);
}

/// Writes the tables where `iasl -d` can read them, if a directory is named.
#[test]
fn export_for_iasl() {
    let Ok(directory) = std::env::var("UNDERCROFT_ACPI_OUT") else {
        return;
    };
    let advertise_pm_timer = std::env::var("UNDERCROFT_ACPI_REDUCED").is_err();
    let config = MachineConfig {
        advertise_pm_timer,
        ..test_support::config()
    };
    for (_, bytes) in build(AT, &config).pieces {
        let name = core::str::from_utf8(&bytes[..4])
            .unwrap()
            .trim()
            .to_lowercase();
        std::fs::write(std::format!("{directory}/{name}.aml"), bytes).unwrap();
    }
}
