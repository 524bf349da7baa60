//! CPUID leaves and bits (TLFS section 2.4).

/// Leaf 1, ECX: a hypervisor is present.
pub const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// EAX = highest hypervisor leaf, EBX/ECX/EDX = vendor.
pub const LEAF_VENDOR: u32 = 0x4000_0000;
/// "Microsoft Hv" in EBX, ECX, EDX.
pub const VENDOR: [u32; 3] = [0x7263_694d, 0x666f_736f, 0x7648_2074];
/// EAX = interface signature.
pub const LEAF_INTERFACE: u32 = 0x4000_0001;
/// "Hv#1".
pub const INTERFACE_HV1: u32 = 0x3123_7648;
/// Build, version.
pub const LEAF_VERSION: u32 = 0x4000_0002;
/// Privileges (EAX, EBX) and features (EDX).
pub const LEAF_FEATURES: u32 = 0x4000_0003;
/// Recommendations.
pub const LEAF_ENLIGHTENMENTS: u32 = 0x4000_0004;
/// EAX = most VPs.
pub const LEAF_LIMITS: u32 = 0x4000_0005;
/// Isolation configuration.
pub const LEAF_ISOLATION: u32 = 0x4000_000C;

/// LEAF_FEATURES, EAX.
pub mod features_eax {
    /// VP run time MSR.
    pub const VP_RUNTIME: u32 = 1 << 0;
    /// Reference counter MSR.
    pub const REFERENCE_COUNTER: u32 = 1 << 1;
    /// SynIC MSRs.
    pub const SYNIC: u32 = 1 << 2;
    /// Synthetic timers.
    pub const STIMER: u32 = 1 << 3;
    /// EOI, ICR, TPR, VP assist page MSRs.
    pub const APIC_MSRS: u32 = 1 << 4;
    /// Guest OS id and hypercall MSRs.
    pub const HYPERCALL_MSRS: u32 = 1 << 5;
    /// VP index MSR.
    pub const VP_INDEX: u32 = 1 << 6;
    /// Reference TSC page.
    pub const REFERENCE_TSC: u32 = 1 << 9;
    /// TSC and APIC frequency MSRs.
    pub const FREQUENCY_MSRS: u32 = 1 << 11;
}
/// LEAF_FEATURES, EBX.
pub mod features_ebx {
    /// May post messages.
    pub const POST_MESSAGES: u32 = 1 << 4;
    /// May signal events.
    pub const SIGNAL_EVENTS: u32 = 1 << 5;
    /// May use virtual secure mode.
    pub const ACCESS_VSM: u32 = 1 << 16;
    /// May get and set VP registers.
    pub const ACCESS_VP_REGISTERS: u32 = 1 << 17;
    /// May start virtual processors.
    pub const START_VP: u32 = 1 << 21;
    /// The partition is isolated.
    pub const ISOLATION: u32 = 1 << 22;
}
/// LEAF_FEATURES, EDX.
pub mod features_edx {
    /// Frequency registers readable.
    pub const FREQUENCY_REGS: u32 = 1 << 8;
    /// SINT polling mode.
    pub const SINT_POLLING: u32 = 1 << 17;
    /// Direct-mode synthetic timers.
    pub const DIRECT_STIMERS: u32 = 1 << 19;
}
/// LEAF_ENLIGHTENMENTS, EAX: leave SINT auto-EOI clear.
pub const AUTO_EOI_DEPRECATED: u32 = 1 << 9;
/// LEAF_ISOLATION, EAX: a paravisor is present.
pub const ISOLATION_EAX_PARAVISOR: u32 = 1 << 0;
/// LEAF_ISOLATION, EBX 3:0: kind of isolation.
pub const ISOLATION_EBX_TYPE: u32 = 0xf;
/// LEAF_ISOLATION, EBX 3:0 = AMD SEV-SNP.
pub const ISOLATION_TYPE_SNP: u32 = 2;
/// LEAF_ISOLATION, EBX: bits 11:6 name the shared GPA boundary.
pub const ISOLATION_EBX_BOUNDARY_ACTIVE: u32 = 1 << 5;
/// LEAF_ISOLATION, EBX: first bit of the boundary field.
pub const ISOLATION_EBX_BOUNDARY_SHIFT: u32 = 6;
