//! Where the devices of the platform sit. ACPI tells the guest; nothing else
//! may repeat these numbers.

/// First byte of the window from which PCI BARs are assigned.
pub const PCI_MMIO_BASE: u64 = 0xe000_0000;
/// First byte behind that window.
pub const PCI_MMIO_END: u64 = 0xf000_0000;
/// I/O APIC registers (one page).
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Local APIC registers (one page).
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Everything from here to 4 GiB is devices; RAM must end below.
pub const MMIO_HOLE_BASE: u64 = 0xc000_0000;

/// COM1, eight ports.
pub const UART_BASE: u16 = 0x3f8;
/// COM1's I/O APIC pin.
pub const UART_PIN: u8 = 4;
/// COM2, eight ports: the audit.
pub const AUDIT_UART_BASE: u16 = 0x2f8;
/// COM2's I/O APIC pin.
pub const AUDIT_UART_PIN: u8 = 3;
/// First port of the interval timer that this platform does not have.
pub const PIT_FIRST: u16 = 0x40;
/// Its last port.
pub const PIT_LAST: u16 = 0x43;
/// CMOS index port; the data port is the next one.
pub const RTC_BASE: u16 = 0x70;
/// ACPI PM1a event block: status and enable, two bytes each.
pub const PM1_EVENT_BASE: u16 = 0x600;
/// ACPI PM1a control block, two bytes.
pub const PM1_CONTROL_BASE: u16 = 0x604;
/// ACPI PM timer, four bytes.
pub const PM_TIMER_BASE: u16 = 0x608;
/// ACPI sleep control register of the hardware-reduced platform, one byte.
pub const SLEEP_CONTROL: u16 = 0x60c;
/// ACPI sleep status register, one byte.
pub const SLEEP_STATUS: u16 = 0x60d;
/// Reset control register.
pub const RESET_PORT: u16 = 0xcf9;
/// Value that resets the machine when written to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 0x06;
/// SLP_TYP of the soft-off state S5.
pub const SLEEP_TYPE_S5: u8 = 5;
/// I/O APIC pin of the ACPI system control interrupt.
pub const SCI_PIN: u8 = 9;
/// PCI configuration address port.
pub const PCI_CONFIG_ADDRESS: u16 = 0xcf8;
/// PCI configuration data port.
pub const PCI_CONFIG_DATA: u16 = 0xcfc;
/// Device number of the NIC on bus 0.
pub const NIC_DEVICE: u8 = 1;
/// I/O APIC pin of the NIC's INTA.
pub const NIC_PIN: u8 = 16;
