//! ACPI tables of the platform (ACPI 6.5): what tells an operating system of the
//! devices in [`crate::layout`]. There is no 8259, no 8254, no HPET and no
//! keyboard controller, and the tables say so.

use crate::{MachineConfig, layout, rtc};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use alloc::vec;
use alloc::vec::Vec;

const OEM: [u8; 6] = *b"UNDCFT";
const TABLE: [u8; 8] = *b"UNDCROFT";
const REVISION: u32 = 1;
/// IAPC_BOOT_ARCH (5.2.9.3): there are devices on the ISA bus (the serial port);
/// do not look for VGA. No 8042: bit 1 is clear. There is a CMOS clock: bit 5 is clear.
const BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 2;
/// C2 and C3 latencies that mean "there is none" (5.2.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// Tables start at multiples of this; the FACS needs 64.
const ALIGNMENT: u64 = 64;

/// Tables ready to be written into guest memory.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Where each piece goes and its bytes.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Address of the RSDP (for `boot_params.acpi_rsdp_addr`): the `gpa` given.
    pub rsdp: u64,
    /// First byte behind the tables.
    pub end: u64,
}

impl Tables {
    /// Appends a table and returns its address.
    fn place(&mut self, table: &dyn Aml) -> u64 {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.place_bytes(bytes)
    }

    fn place_bytes(&mut self, bytes: Vec<u8>) -> u64 {
        let at = self.end;
        let mask = ALIGNMENT.wrapping_sub(1);
        self.end = at.saturating_add(bytes.len() as u64).saturating_add(mask) & !mask;
        self.pieces.push((at, bytes));
        at
    }
}

/// Builds RSDP, XSDT, FADT, FACS, MADT and DSDT for guest-physical address `gpa`, a
/// multiple of 64 below 4 GiB with 4 KiB of room. The RSDP comes first.
pub fn build(gpa: u64, config: &MachineConfig) -> Tables {
    build_with(gpa, config, &[])
}

/// The same with `devices`, AML for `\_SB`, behind those of the platform.
pub fn build_with(gpa: u64, config: &MachineConfig, devices: &[u8]) -> Tables {
    let mut tables = Tables {
        pieces: Vec::new(),
        rsdp: gpa,
        end: gpa.saturating_add(ALIGNMENT),
    };
    let dsdt = tables.place_bytes(dsdt(devices));
    let facs = tables.place(&FACS::new());
    let fadt = tables.place(&fadt(dsdt, facs, config).finalize());
    let madt = tables.place(&madt(config.processors));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.place(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    tables.pieces.insert(0, (gpa, rsdp));
    tables
}

/// The local APICs, whose IDs are the processors' indices, and one I/O APIC. The flag for an 8259 (PCAT_COMPAT) stays clear.
fn madt(processors: u8) -> MADT {
    let local = LocalInterruptController::Address(layout::LAPIC_BASE as u32);
    let mut madt = MADT::new(OEM, TABLE, REVISION, local);
    for index in 0..processors.max(1) {
        madt.add_structure(ProcessorLocalApic::new(
            index,
            index,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC_BASE as u32, 0));
    madt
}

/// The FADT: with fixed hardware and a PM timer, or hardware-reduced.
fn fadt(dsdt: u64, facs: u64, config: &MachineConfig) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .preferred_pm_profile(PmProfile::Unspecified)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // Neither button nor clock alarm is fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    // Both forms of the address: the builder would keep only one.
    fadt.dsdt = (dsdt as u32).into();
    fadt = if config.advertise_pm_timer {
        fixed_hardware(fadt.firmware_ctrl_32(facs as u32))
    } else {
        hardware_reduced(fadt)
    };
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(8, AccessSize::ByteAccess, layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt
}

/// A register in I/O space.
fn port(bits: u8, access: AccessSize, port: u16) -> GAS {
    GAS::new(Space::SystemIo, bits, 0, access, u64::from(port))
}

fn fixed_hardware(fadt: FADTBuilder) -> FADTBuilder {
    let mut fadt = fadt.flag(Flags::TmrValExt);
    fadt.sci_int = u16::from(layout::SCI_PIN).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM1_EVENT_BASE).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, layout::PM1_EVENT_BASE);
    fadt.pm1a_cnt_blk = u32::from(layout::PM1_CONTROL_BASE).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, layout::PM1_CONTROL_BASE);
    fadt.pm_tmr_blk = u32::from(layout::PM_TIMER_BASE).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(32, AccessSize::DwordAccess, layout::PM_TIMER_BASE);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt
}

/// No fixed hardware, no SCI, no PM timer (4.1): S5 by the sleep control register.
fn hardware_reduced(fadt: FADTBuilder) -> FADTBuilder {
    let mut fadt = fadt.flag(Flags::HwReducedAcpi);
    fadt.sleep_control_reg = port(8, AccessSize::ByteAccess, layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(8, AccessSize::ByteAccess, layout::SLEEP_STATUS);
    fadt
}

/// AML that is made already.
struct Raw(Vec<u8>);

impl Raw {
    fn of(object: &dyn Aml) -> Raw {
        let mut bytes = Vec::new();
        object.to_aml_bytes(&mut bytes);
        Raw(bytes)
    }
}

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// A device with a hardware ID, resources and perhaps more.
fn device(name: &str, id: &str, resources: Vec<&dyn Aml>, more: &[&dyn Aml]) -> Vec<u8> {
    let id = Name::new(Path::new("_HID"), &EISAName::new(id));
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    let mut children: Vec<&dyn Aml> = vec![&id, &resources];
    children.extend_from_slice(more);
    Raw::of(&Device::new(Path::new(name), children)).0
}

/// The DSDT: PCI root, serial port, CMOS clock, reserved ports, `more`, and S5.
fn dsdt(more: &[u8]) -> Vec<u8> {
    // INTA of the NIC goes straight to its pin (6.2.13).
    let address = u32::from(layout::NIC_DEVICE) << 16 | 0xffff;
    let route = Package::new(vec![&address, &aml::ZERO, &aml::ZERO, &layout::NIC_PIN]);
    let routes = Name::new(Path::new("_PRT"), &Package::new(vec![&route]));
    let first = Name::new(Path::new("_UID"), &aml::ZERO);
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_MMIO_BASE as u32,
        layout::PCI_MMIO_END.wrapping_sub(1) as u32,
        None,
    );
    let config = layout::PCI_CONFIG_ADDRESS;
    let mut body = device(
        "PCI0",
        "PNP0A03",
        vec![
            &AddressSpace::new_bus_number(0u16, 0u16),
            &IO::new(config, config, 1, 8),
            &AddressSpace::new_io(0xc000u16, 0xffffu16, None),
            &window,
        ],
        &[&first, &routes],
    );
    for (name, uart, pin, number) in [
        ("COM1", layout::UART_BASE, layout::UART_PIN, 1u8),
        ("COM2", layout::AUDIT_UART_BASE, layout::AUDIT_UART_PIN, 2),
    ] {
        body.extend(device(
            name,
            "PNP0501",
            vec![
                &IO::new(uart, uart, 1, 8),
                &Interrupt::new(true, true, false, false, u32::from(pin)),
            ],
            &[&Name::new(Path::new("_UID"), &number)],
        ));
    }
    // No interrupt: the clock has no alarm.
    let clock = layout::RTC_BASE;
    body.extend(device(
        "RTC0",
        "PNP0B00",
        vec![&IO::new(clock, clock, 1, 2)],
        &[],
    ));
    let power = layout::PM1_EVENT_BASE;
    body.extend(device(
        "MBRD",
        "PNP0C02",
        vec![&IO::new(power, power, 1, 14)],
        &[],
    ));

    body.extend_from_slice(more);

    let kind = layout::SLEEP_TYPE_S5;
    let sleep = Package::new(vec![&kind, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&Scope::raw(Path::new("\\_SB_"), body));
    table.append_slice(&Raw::of(&Name::new(Path::new("_S5_"), &sleep)).0);
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests;
