//! Why the guest left, in terms that every backend can fill.

/// One access to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// Set for INS and OUTS.
    pub string: Option<StringIo>,
}

/// The rest of an INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// REP prefix: RCX counts.
    pub rep: bool,
    /// Address size in bytes: 2, 4 or 8.
    pub address_size: u8,
    /// Segment of the source for OUTS (INS always uses ES): 0 ES, 1 CS, 2 SS,
    /// 3 DS, 4 FS, 5 GS.
    pub segment: u8,
}

/// Why the guest left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// CPUID; leaf and sub-leaf in RAX and RCX.
    Cpuid,
    /// A port.
    Io(IoAccess),
    /// RDMSR; number in RCX.
    ReadMsr,
    /// WRMSR; number in RCX, value in RDX:RAX.
    WriteMsr,
    /// An access to an address that is not RAM of the guest.
    Mmio {
        /// Guest physical address (the low 12 bits may be missing on some parts).
        gpa: u64,
        /// A write.
        write: bool,
        /// An instruction fetch.
        fetch: bool,
    },
    /// HLT.
    Halt,
    /// The host has an interrupt for the paravisor.
    Interrupted,
    /// VMMCALL.
    Hypercall,
    /// A triple fault.
    Shutdown,
    /// XSETBV; register in RCX, value in RDX:RAX.
    Xsetbv,
    /// RDPMC.
    Rdpmc,
    /// WBINVD or INVD.
    CacheFlush,
    /// PAUSE or an instruction for which there is nothing to do but go on.
    Nothing,
    /// MONITOR, MWAIT, INVLPGB and other instructions that a guest is told not to
    /// have.
    Undefined,
    /// An exception of the guest that the host wants to know about (`#AC` and `#DB`, lest
    /// the guest keep the processor in a loop of them). It was not delivered.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, if it brings one.
        error: Option<u32>,
        /// The address of a page fault; CR2 is unchanged.
        address: u64,
    },
    /// The hardware refused to enter the guest.
    EntryRefused {
        /// The code it gave.
        code: u64,
    },
    /// Something else.
    Unknown {
        /// Exit code.
        code: u64,
        /// First detail.
        info1: u64,
        /// Second detail.
        info2: u64,
    },
}

impl Exit {
    /// Name in the records.
    pub fn name(&self) -> &'static str {
        match self {
            Exit::Cpuid => "cpuid",
            Exit::Io(_) => "ioio",
            Exit::ReadMsr | Exit::WriteMsr => "msr",
            Exit::Mmio { .. } => "npf",
            Exit::Halt => "hlt",
            Exit::Interrupted => "intr",
            Exit::Hypercall => "vmmcall",
            Exit::Shutdown => "shutdown",
            Exit::Xsetbv => "xsetbv",
            Exit::Rdpmc => "rdpmc",
            Exit::CacheFlush => "wbinvd",
            Exit::Nothing => "pause",
            Exit::Undefined => "undefined",
            Exit::Exception { .. } => "exception",
            Exit::EntryRefused { .. } => "refused",
            Exit::Unknown { .. } => "unknown",
        }
    }

    /// All names, in the order of [`Exit::index`].
    pub const NAMES: [&'static str; 16] = [
        "cpuid",
        "ioio",
        "msr",
        "npf",
        "hlt",
        "intr",
        "vmmcall",
        "shutdown",
        "xsetbv",
        "rdpmc",
        "wbinvd",
        "pause",
        "undefined",
        "refused",
        "unknown",
        "exception",
    ];

    /// Position of the name in [`Exit::NAMES`], for counters.
    pub fn index(&self) -> usize {
        match self {
            Exit::Cpuid => 0,
            Exit::Io(_) => 1,
            Exit::ReadMsr | Exit::WriteMsr => 2,
            Exit::Mmio { .. } => 3,
            Exit::Halt => 4,
            Exit::Interrupted => 5,
            Exit::Hypercall => 6,
            Exit::Shutdown => 7,
            Exit::Xsetbv => 8,
            Exit::Rdpmc => 9,
            Exit::CacheFlush => 10,
            Exit::Nothing => 11,
            Exit::Undefined => 12,
            Exit::EntryRefused { .. } => 13,
            Exit::Unknown { .. } => 14,
            Exit::Exception { .. } => 15,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_agree() {
        let some = [
            Exit::Cpuid,
            Exit::ReadMsr,
            Exit::Mmio {
                gpa: 0,
                write: false,
                fetch: false,
            },
            Exit::Xsetbv,
            Exit::Exception {
                vector: 1,
                error: None,
                address: 0,
            },
            Exit::Unknown {
                code: 0,
                info1: 0,
                info2: 0,
            },
        ];
        for exit in some {
            assert_eq!(Exit::NAMES.get(exit.index()), Some(&exit.name()));
        }
    }
}
