//! The configuration page: what the image builder decided and the paravisor
//! needs to know. Measured, so whoever checks the launch digest checks this too.

use crate::layout::{self, Range};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of the page.
pub const MAGIC: [u8; 8] = *b"UNDRCRFT";
/// Version of [`Config`]; a stage or paravisor takes no other.
pub const VERSION: u32 = 2;

/// [`Config::flags`]: the guest's console goes to COM1 in clear. Debugging only.
pub const FLAG_DEBUG_CONSOLE: u32 = 1 << 0;
/// [`Config::flags`]: [`Config::mac`] is the NIC's address in place of the host's.
pub const FLAG_FIXED_MAC: u32 = 1 << 1;
/// [`Config::flags`]: rules for which no public source says that every host keeps
/// them (NVS-25, NVS-26, RND-10, RND-45) are counted and nothing more. For hosts that
/// have not been measured yet.
pub const FLAG_COUNT_UNMEASURED: u32 = 1 << 2;
/// All flags that have a meaning.
pub const FLAGS_KNOWN: u32 = FLAG_DEBUG_CONSOLE | FLAG_FIXED_MAC | FLAG_COUNT_UNMEASURED;

/// [`Config::nic`]: virtio-net over PCI.
pub const NIC_VIRTIO: u8 = 0;
/// [`Config::nic`]: Intel 82574L, which Linux drives with e1000e.
pub const NIC_E1000E: u8 = 1;

/// [`Config::vmbus_target`]: VTL2 client with redirection (connection 0x800074,
/// answers on SINT 7).
pub const VMBUS_REDIRECT: u32 = 0;
/// [`Config::vmbus_target`]: plain client (connection 4, SINT 2).
pub const VMBUS_PLAIN: u32 = 1;

/// Content of [`layout::CONFIG_PAGE`]; the rest of the page is zero. Little
/// endian; addresses are GPAs and sizes bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Config {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// `size_of::<Config>()`.
    pub size: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Number of the C bit in VMPL0's page table entries.
    pub c_bit: u32,
    /// Least guest RAM with which this image may run (the initrd must fit).
    pub memory_min: u64,
    /// Most guest RAM with which this image may run.
    pub memory_max: u64,
    /// Entry point of the paravisor.
    pub paravisor_entry: u64,
    /// First byte of the paravisor's ELF in memory (page aligned).
    pub paravisor_start: u64,
    /// First byte after it, bss included (page aligned).
    pub paravisor_end: u64,
    /// 64-bit entry of the kernel.
    pub kernel_entry: u64,
    /// Where the protected-mode part of the kernel was placed.
    pub kernel_load: u64,
    /// Its size.
    pub kernel_size: u64,
    /// What the kernel may use from `kernel_load` on before it knows its memory map.
    pub kernel_init_size: u64,
    /// The zero page.
    pub boot_params: u64,
    /// The command line.
    pub cmdline: u64,
    /// Its length without the NUL.
    pub cmdline_len: u64,
    /// The initrd, 0 if there is none.
    pub initrd: u64,
    /// Its length, 0 if there is none.
    pub initrd_len: u64,
    /// [`VMBUS_REDIRECT`] or [`VMBUS_PLAIN`].
    pub vmbus_target: u32,
    /// The NIC's address if [`FLAG_FIXED_MAC`] is set, else zero.
    pub mac: [u8; 6],
    /// The network card that the guest sees: [`NIC_VIRTIO`] or [`NIC_E1000E`].
    pub nic: u8,
    /// Most virtual processors with which this image may run, 1 to
    /// [`layout::MAX_VPS`].
    pub max_vps: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<Config>() == 152 && size_of::<Config>() <= 4096);
const _: () = assert!(
    cfg!(target_endian = "little"),
    "the configuration page is built for a little-endian machine"
);

/// Why a configuration page was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The page is shorter than [`Config`].
    Short,
    /// It does not start with [`MAGIC`].
    Magic,
    /// Another version or size of the structure.
    Version,
    /// Unknown flags, an unknown VMBus target or network card, or a set reserved byte.
    Unknown,
    /// The C bit cannot be one.
    CBit,
    /// Memory limits outside of what the layout supports.
    Memory,
    /// An address or size outside of the range that the layout gives it.
    Range,
    /// No virtual processor, or more than the layout has room for.
    Processors,
    /// A fixed MAC address which is zero or a group address.
    Mac,
}

impl Config {
    /// Reads and checks a configuration page.
    pub fn from_page(page: &[u8]) -> Result<Config, ConfigError> {
        let (config, _) = Config::read_from_prefix(page).map_err(|_| ConfigError::Short)?;
        config.check()?;
        Ok(config)
    }

    /// Checks every member against [`layout`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let ensure = |ok: bool, error| if ok { Ok(()) } else { Err(error) };
        ensure(self.magic == MAGIC, ConfigError::Magic)?;
        ensure(
            self.version == VERSION && self.size as usize == size_of::<Config>(),
            ConfigError::Version,
        )?;
        ensure(
            self.flags & !FLAGS_KNOWN == 0
                && self.vmbus_target <= VMBUS_PLAIN
                && self.nic <= NIC_E1000E
                && self.reserved == [0; 4],
            ConfigError::Unknown,
        )?;
        ensure((32..=51).contains(&self.c_bit), ConfigError::CBit)?;
        ensure(
            (1..=layout::MAX_VPS).contains(&u32::from(self.max_vps)),
            ConfigError::Processors,
        )?;
        ensure(
            layout::memory_size_ok(self.memory_min)
                && layout::memory_size_ok(self.memory_max)
                && self.memory_min <= self.memory_max,
            ConfigError::Memory,
        )?;
        let paravisor = Range {
            start: self.paravisor_start,
            end: self.paravisor_end,
        };
        let kernel = Range {
            start: self.kernel_load,
            end: self.kernel_load.saturating_add(self.kernel_size),
        };
        let kernel_init = Range {
            start: self.kernel_load,
            end: self.kernel_load.saturating_add(self.kernel_init_size),
        };
        ensure(
            layout::PARAVISOR.contains_range(paravisor)
                && paravisor.contains(self.paravisor_entry)
                && layout::KERNEL.contains_range(kernel)
                && layout::KERNEL.contains_range(kernel_init)
                && kernel.contains(self.kernel_entry)
                && self.boot_params == layout::BOOT_PARAMS.start
                && self.cmdline == layout::CMDLINE.start
                && self.cmdline_len < layout::CMDLINE.len(),
            ConfigError::Range,
        )?;
        match self.initrd() {
            Some(initrd) => ensure(
                initrd.start == layout::INITRD_LOAD
                    && !initrd.is_empty()
                    && initrd.end <= self.memory_min,
                ConfigError::Range,
            )?,
            None => ensure(self.initrd_len == 0, ConfigError::Range)?,
        }
        match self.fixed_mac() {
            Some(mac) => ensure(mac != [0; 6] && mac[0] & 1 == 0, ConfigError::Mac),
            None => ensure(self.mac == [0; 6], ConfigError::Mac),
        }
    }

    /// Whether the guest's console goes to COM1.
    pub const fn debug_console(&self) -> bool {
        self.flags & FLAG_DEBUG_CONSOLE != 0
    }

    /// Whether a message that breaks one of the doubted rules is refused
    /// ([`FLAG_COUNT_UNMEASURED`]).
    pub const fn enforce_unmeasured(&self) -> bool {
        self.flags & FLAG_COUNT_UNMEASURED == 0
    }

    /// The NIC's address if the image fixes it.
    pub const fn fixed_mac(&self) -> Option<[u8; 6]> {
        if self.flags & FLAG_FIXED_MAC != 0 {
            Some(self.mac)
        } else {
            None
        }
    }

    /// Where the initrd lies, if there is one.
    pub const fn initrd(&self) -> Option<Range> {
        if self.initrd == 0 {
            None
        } else {
            Some(Range {
                start: self.initrd,
                end: self.initrd.saturating_add(self.initrd_len),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config {
            magic: MAGIC,
            version: VERSION,
            size: size_of::<Config>() as u32,
            flags: 0,
            c_bit: layout::C_BIT_DEFAULT,
            memory_min: layout::MEMORY_MIN,
            memory_max: layout::MEMORY_MAX,
            paravisor_entry: layout::PARAVISOR.start,
            paravisor_start: layout::PARAVISOR.start,
            paravisor_end: layout::PARAVISOR.start + layout::PAGE,
            kernel_entry: layout::KERNEL_LOAD + 0x200,
            kernel_load: layout::KERNEL_LOAD,
            kernel_size: 0x1000,
            kernel_init_size: 0x2000,
            boot_params: layout::BOOT_PARAMS.start,
            cmdline: layout::CMDLINE.start,
            cmdline_len: 0,
            initrd: 0,
            initrd_len: 0,
            vmbus_target: VMBUS_REDIRECT,
            mac: [0; 6],
            nic: NIC_VIRTIO,
            max_vps: 64,
            reserved: [0; 4],
        }
    }

    #[test]
    fn a_good_page_is_read_back() {
        let mut page = [0u8; 4096];
        let config = good();
        page[..size_of::<Config>()].copy_from_slice(config.as_bytes());
        assert_eq!(Config::from_page(&page), Ok(config));
        assert!(config.enforce_unmeasured());
        let counting = Config {
            flags: FLAG_COUNT_UNMEASURED,
            ..config
        };
        assert!(counting.check().is_ok() && !counting.enforce_unmeasured());
        assert_eq!(Config::from_page(&page[..100]), Err(ConfigError::Short));
        assert_eq!(Config::from_page(&[0; 4096]), Err(ConfigError::Magic));
    }

    #[test]
    fn each_member_is_judged() {
        type Change = fn(&mut Config);
        let cases: [(Change, ConfigError); 17] = [
            (|c| c.magic[0] = 0, ConfigError::Magic),
            (|c| c.version = 1, ConfigError::Version),
            (|c| c.size -= 8, ConfigError::Version),
            (|c| c.flags = 8, ConfigError::Unknown),
            (|c| c.reserved[3] = 1, ConfigError::Unknown),
            (|c| c.vmbus_target = 2, ConfigError::Unknown),
            (|c| c.nic = 2, ConfigError::Unknown),
            (|c| c.c_bit = 52, ConfigError::CBit),
            (|c| c.max_vps = 0, ConfigError::Processors),
            (|c| c.max_vps = 65, ConfigError::Processors),
            (|c| c.memory_min -= 4096, ConfigError::Memory),
            (|c| c.paravisor_entry = 0x1000, ConfigError::Range),
            (|c| c.kernel_init_size = u64::MAX, ConfigError::Range),
            (|c| c.cmdline_len = 4096, ConfigError::Range),
            (|c| c.initrd_len = 1, ConfigError::Range),
            (|c| c.mac[5] = 1, ConfigError::Mac),
            (|c| c.flags = FLAG_FIXED_MAC, ConfigError::Mac),
        ];
        for (n, (change, error)) in cases.into_iter().enumerate() {
            let mut config = good();
            change(&mut config);
            assert_eq!(config.check(), Err(error), "case {n}");
        }
    }
}
