//! What a guest without paravisor is told of Hyper-V: CPUID leaves, the hypercall
//! page, and the ACPI devices to which a VMBus driver binds.
//!
//! Sources: TLFS section 2.4; Linux `ms_hyperv_platform`, `ms_hyperv_init_platform`,
//! `vmbus_acpi_add` and `vmbus_walk_resources`.

use abi::hyperv::cpuid::{self, features_eax, features_ebx, features_edx};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, Name, Path, ResourceTemplate, ZERO,
};
use alloc::vec::Vec;

/// Rate of the guest's local APIC timer: `devices` counts nanoseconds at divisor 1.
pub const APIC_HZ: u64 = 1_000_000_000;

/// VMMCALL, RET: what a caller of the hypercall page executes on AMD parts.
pub const HYPERCALL_PAGE: [u8; 4] = [0x0f, 0x01, 0xd9, 0xc3];

/// MMIO that VMBus devices may take, below the I/O APIC and above PCI's window.
pub const MMIO_FIRST: u32 = 0xf800_0000;
/// Last byte of it.
pub const MMIO_LAST: u32 = 0xfdff_ffff;

/// Highest hypervisor leaf. Linux wants at least the limits.
const LAST_LEAF: u32 = 0x4000_0006;
/// EDX of the feature leaf: crash registers (TLFS: guest crash MSRs available).
const CRASH_MSRS: u32 = 1 << 10;
/// Windows Server 2022's build and version, which is what speaks VMBus 5.3.
const BUILD: u32 = 20348;
const VERSION: u32 = 10 << 16;

/// The hypervisor's leaves; `None` where there is none.
pub fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    let [b, c, d] = cpuid::VENDOR;
    Some(match leaf {
        cpuid::LEAF_VENDOR => [LAST_LEAF, b, c, d],
        cpuid::LEAF_INTERFACE => [cpuid::INTERFACE_HV1, 0, 0, 0],
        cpuid::LEAF_VERSION => [BUILD, VERSION, 0, 0],
        cpuid::LEAF_FEATURES => [
            features_eax::REFERENCE_COUNTER
                | features_eax::SYNIC
                | features_eax::STIMER
                | features_eax::HYPERCALL_MSRS
                | features_eax::VP_INDEX
                | features_eax::REFERENCE_TSC
                | features_eax::FREQUENCY_MSRS,
            features_ebx::POST_MESSAGES | features_ebx::SIGNAL_EVENTS,
            0,
            features_edx::FREQUENCY_REGS | CRASH_MSRS | features_edx::DIRECT_STIMERS,
        ],
        // The guest writes EOI, as it does for every other interrupt.
        cpuid::LEAF_ENLIGHTENMENTS => [cpuid::AUTO_EOI_DEPRECATED, 0, 0, 0],
        cpuid::LEAF_LIMITS => [1, 1, 0, 0],
        LAST_LEAF => [0; 4],
        _ => return None,
    })
}

/// AML of the module device, whose `_CRS` is the MMIO that VMBus devices share,
/// and below it the VMBus device itself.
pub fn vmbus_devices() -> Vec<u8> {
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        MMIO_FIRST,
        MMIO_LAST,
        None,
    );
    let number = Name::new(Path::new("_UID"), &ZERO);
    let id = Name::new(Path::new("_HID"), &"VMBus");
    let present = Name::new(Path::new("_STA"), &0xfu8);
    let bus = Device::new(Path::new("VMBS"), alloc::vec![&id, &number, &present]);
    let mut bytes = Vec::new();
    Device::new(
        Path::new("VMOD"),
        alloc::vec![
            &Name::new(Path::new("_HID"), &"ACPI0004"),
            &number,
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(alloc::vec![&window])
            ),
            &bus,
        ],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux `ms_hyperv_platform` asks before it believes in a hypervisor.
    #[test]
    fn linux_would_detect_it() {
        let [max, b, c, d] = cpuid(0x4000_0000).unwrap();
        assert!((0x4000_0005..=0x4000_ffff).contains(&max));
        let name: Vec<u8> = [b, c, d].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(name, b"Microsoft Hv");
        let [eax, ebx, _, _] = cpuid(0x4000_0003).unwrap();
        assert_eq!(
            eax & (1 << 5 | 1 << 6),
            1 << 5 | 1 << 6,
            "hypercalls, VP index"
        );
        assert_eq!(ebx & 1 << 22, 0, "not isolated");
        assert_eq!(cpuid(max + 1), None);
        assert_eq!(cpuid(0), None);
    }

    #[test]
    fn acpi_names_the_bus_below_a_device_with_memory() {
        let aml = vmbus_devices();
        let find = |what: &[u8]| aml.windows(what.len()).position(|w| w == what);
        let module = find(b"ACPI0004").unwrap();
        let bus = find(b"VMBus").unwrap();
        assert!(module < bus);
        let first = find(&MMIO_FIRST.to_le_bytes()).unwrap();
        assert!(module < first && first < bus);
    }
}
