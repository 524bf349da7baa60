//! Describes an image: platform, policy, start registers, what lies where, the
//! measured configuration, and the launch digest.

use crate::error::hex;
use crate::{Error, Input, file, measure};
use igvm::IgvmDirectiveHeader;
use igvm_defs::IgvmPageDataType;
use loader::config::{self, Config};
use loader::layout::{self, Range};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What `undercroft inspect` reports. Addresses are numbers in JSON and hex in
/// the text.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which file.
    pub file: String,
    /// Its size in bytes.
    pub size: usize,
    /// IGVM format version.
    pub format_version: u32,
    /// Always `sev-snp`.
    pub platform: &'static str,
    /// Highest VTL that the image brings.
    pub highest_vtl: u8,
    /// Virtual top of memory of lower layers.
    pub shared_gpa_boundary: u64,
    /// Guest policy.
    pub guest_policy: u64,
    /// Start state of the first processor.
    pub vmsa: Option<Vmsa>,
    /// Ranges that the image wants to be memory.
    pub required_memory: Vec<Memory>,
    /// What is loaded, in the order of measurement, neighbours merged.
    pub pages: Vec<Run>,
    /// The configuration page, if the image has a sound one.
    pub config: Option<Configuration>,
    /// The launch digest in hex.
    pub launch_digest: String,
}

/// The registers that have a value at start.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Vmsa {
    pub gpa: u64,
    pub vp_index: u16,
    pub vmpl: u8,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
    pub xcr0: u64,
    pub cs: u16,
    pub ss: u16,
    pub gdtr_base: u64,
    pub gdtr_limit: u32,
    pub sev_features: u64,
    pub virtual_tom: u64,
}

/// A range of required memory.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// Lower layers can be kept out.
    pub protectable: bool,
}

/// Neighbouring pages of one kind and purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// Number of pages.
    pub pages: u64,
    /// How the pages enter the digest.
    pub kind: &'static str,
    /// What they are for.
    pub purpose: &'static str,
}

/// The measured configuration in words.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// The guest's console leaves the VM in clear.
    pub debug_console: bool,
    /// Rules that no public source vouches for are enforced, not only counted.
    pub enforce_unmeasured: bool,
    /// Number of the C bit.
    pub c_bit: u32,
    /// Least memory in bytes.
    pub memory_min: u64,
    /// Most memory in bytes.
    pub memory_max: u64,
    /// Entry point of the paravisor.
    pub paravisor_entry: u64,
    /// 64-bit entry of the guest kernel.
    pub kernel_entry: u64,
    /// Its size in bytes.
    pub kernel_size: u64,
    /// Size of the initrd in bytes.
    pub initrd_size: u64,
    /// The guest's command line.
    pub command_line: String,
    /// The NIC's address, if the image fixes it.
    pub mac: Option<String>,
    /// `redirect` or `plain`.
    pub vmbus_target: &'static str,
    /// The guest's network card: `virtio` or `e1000e`.
    pub nic: &'static str,
    /// Most virtual processors.
    pub max_vps: u8,
}

/// Purposes by address.
const PURPOSES: [(Range, &str); 14] = [
    (layout::BOOT_PARAMS, "guest zero page"),
    (layout::CMDLINE, "guest command line"),
    (layout::KERNEL, "guest kernel"),
    (layout::INITRD, "guest initrd"),
    (layout::BOOT_VMSA, "boot VMSA"),
    (layout::CPUID_PAGE, "CPUID page"),
    (layout::CPUID_PAGE_2, "second CPUID page"),
    (layout::SECRETS_PAGE, "secrets page"),
    (layout::PARAMETER_PAGE, "host parameters"),
    (layout::CONFIG_PAGE, "configuration"),
    (layout::BOOT_GDT, "boot GDT"),
    (layout::PAGE_TABLES, "page tables"),
    (layout::STAGE, "loader stage"),
    (layout::PARAVISOR, "paravisor"),
];

fn purpose(gpa: u64) -> &'static str {
    PURPOSES
        .iter()
        .find(|(range, _)| range.contains(gpa))
        .map_or("unknown", |(_, name)| name)
}

/// Looks into a file.
pub fn inspect(input: &Input) -> Result<Report, Error> {
    let (igvm, platform) = file::open(input)?;
    let digest = measure::of_file(&igvm, &input.name)?;
    let mut report = Report {
        file: input.name.clone(),
        size: input.bytes.len(),
        format_version: abi::igvm::FORMAT_VERSION_1,
        platform: "sev-snp",
        highest_vtl: platform.highest_vtl,
        shared_gpa_boundary: platform.shared_gpa_boundary,
        guest_policy: platform.policy,
        vmsa: None,
        required_memory: Vec::new(),
        pages: Vec::new(),
        config: None,
        launch_digest: hex(&digest),
    };
    let mut areas = BTreeMap::new();
    let mut contents = BTreeMap::new();
    for directive in igvm.directives() {
        match directive {
            IgvmDirectiveHeader::RequiredMemory {
                gpa,
                number_of_bytes,
                vtl2_protectable,
                ..
            } => report.required_memory.push(Memory {
                start: *gpa,
                end: gpa.saturating_add(u64::from(*number_of_bytes)),
                protectable: *vtl2_protectable,
            }),
            IgvmDirectiveHeader::ParameterArea {
                number_of_bytes,
                parameter_area_index,
                ..
            } => {
                areas.insert(*parameter_area_index, *number_of_bytes);
            }
            IgvmDirectiveHeader::ParameterInsert(insert) => {
                let size = areas.get(&insert.parameter_area_index).copied();
                report.add(insert.gpa, size.unwrap_or(0), "unmeasured");
            }
            IgvmDirectiveHeader::SnpVpContext {
                gpa,
                vp_index,
                vmsa,
                ..
            } => {
                report.add(*gpa, layout::PAGE, "VMSA");
                report.vmsa.get_or_insert(Vmsa {
                    gpa: *gpa,
                    vp_index: *vp_index,
                    vmpl: vmsa.vmpl,
                    rip: vmsa.rip,
                    rsp: vmsa.rsp,
                    rflags: vmsa.rflags,
                    cr0: vmsa.cr0,
                    cr3: vmsa.cr3,
                    cr4: vmsa.cr4,
                    efer: vmsa.efer,
                    pat: vmsa.pat,
                    xcr0: vmsa.xcr0,
                    cs: vmsa.cs.selector,
                    ss: vmsa.ss.selector,
                    gdtr_base: vmsa.gdtr.base,
                    gdtr_limit: vmsa.gdtr.limit,
                    sev_features: vmsa.sev_features.into(),
                    virtual_tom: vmsa.virtual_tom,
                });
            }
            IgvmDirectiveHeader::PageData {
                gpa,
                flags,
                data_type,
                data,
                ..
            } => {
                let kind = match *data_type {
                    _ if flags.shared() => "shared",
                    IgvmPageDataType::SECRETS => "secrets",
                    IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => "CPUID",
                    _ if flags.unmeasured() => "unmeasured",
                    _ => "measured",
                };
                report.add(*gpa, layout::PAGE, kind);
                if kind == "measured" {
                    contents.insert(*gpa, data.as_slice());
                }
            }
            _ => {}
        }
    }
    report.config = configuration(&contents);
    Ok(report)
}

fn configuration(contents: &BTreeMap<u64, &[u8]>) -> Option<Configuration> {
    let config = Config::from_page(contents.get(&layout::CONFIG_PAGE.start)?).ok()?;
    let command_line = contents.get(&config.cmdline).copied().unwrap_or_default();
    let command_line = command_line
        .split(|b| *b == 0)
        .next()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .unwrap_or_default();
    Some(Configuration {
        debug_console: config.debug_console(),
        enforce_unmeasured: config.enforce_unmeasured(),
        c_bit: config.c_bit,
        memory_min: config.memory_min,
        memory_max: config.memory_max,
        paravisor_entry: config.paravisor_entry,
        kernel_entry: config.kernel_entry,
        kernel_size: config.kernel_size,
        initrd_size: config.initrd_len,
        command_line,
        mac: config
            .fixed_mac()
            .map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
        vmbus_target: if config.vmbus_target == config::VMBUS_PLAIN {
            "plain"
        } else {
            "redirect"
        },
        nic: if config.nic == config::NIC_E1000E {
            "e1000e"
        } else {
            "virtio"
        },
        max_vps: config.max_vps,
    })
}

impl Report {
    /// Adds pages, to the last run if they continue it.
    fn add(&mut self, start: u64, size: u64, kind: &'static str) {
        let purpose = purpose(start);
        let end = start.saturating_add(size);
        let pages = size / layout::PAGE;
        match self.pages.last_mut() {
            Some(run) if run.end == start && run.kind == kind && run.purpose == purpose => {
                run.end = end;
                run.pages += pages;
            }
            _ => self.pages.push(Run {
                start,
                end,
                pages,
                kind,
                purpose,
            }),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} bytes", self.file, self.size)?;
        writeln!(
            f,
            "  IGVM version {}, AMD SEV-SNP, highest VTL {}, shared addresses from {:#x}",
            self.format_version, self.highest_vtl, self.shared_gpa_boundary
        )?;
        writeln!(
            f,
            "  guest policy   {:#x}{}",
            self.guest_policy,
            if self.guest_policy & 1 << 19 != 0 {
                "  DEBUGGING BY THE HOST ALLOWED"
            } else {
                ""
            }
        )?;
        writeln!(f, "  launch digest  {}", self.launch_digest)?;
        if let Some(config) = &self.config {
            writeln!(f, "\nConfiguration (measured)")?;
            writeln!(
                f,
                "  debug console  {}",
                if config.debug_console {
                    "ON: the guest's console leaves the VM in clear"
                } else {
                    "off"
                }
            )?;
            writeln!(
                f,
                "  doubted rules  {}",
                if config.enforce_unmeasured {
                    "enforced"
                } else {
                    "counted only"
                }
            )?;
            writeln!(f, "  C bit          {}", config.c_bit)?;
            writeln!(
                f,
                "  memory         {} to {} MiB",
                config.memory_min >> 20,
                config.memory_max >> 20
            )?;
            writeln!(f, "  paravisor      entry {:#x}", config.paravisor_entry)?;
            writeln!(
                f,
                "  kernel         {} bytes, entry {:#x}",
                config.kernel_size, config.kernel_entry
            )?;
            writeln!(f, "  initrd         {} bytes", config.initrd_size)?;
            writeln!(
                f,
                "  command line   {}",
                config.command_line.escape_default()
            )?;
            let mac = config.mac.as_deref().unwrap_or("given by the host");
            writeln!(f, "  MAC address    {mac}")?;
            writeln!(f, "  VMBus target   {}", config.vmbus_target)?;
            writeln!(f, "  network card   {}", config.nic)?;
            writeln!(f, "  processors     at most {}", config.max_vps)?;
        }
        if let Some(v) = &self.vmsa {
            writeln!(f, "\nStart of processor {} at VMPL{}", v.vp_index, v.vmpl)?;
            writeln!(
                f,
                "  RIP {:#x}  RSP {:#x}  RFLAGS {:#x}",
                v.rip, v.rsp, v.rflags
            )?;
            writeln!(
                f,
                "  CR0 {:#x}  CR3 {:#x}  CR4 {:#x}  EFER {:#x}",
                v.cr0, v.cr3, v.cr4, v.efer
            )?;
            writeln!(
                f,
                "  CS {:#x}  SS {:#x}  GDT {:#x}+{:#x}  PAT {:#x}  XCR0 {:#x}",
                v.cs, v.ss, v.gdtr_base, v.gdtr_limit, v.pat, v.xcr0
            )?;
            writeln!(
                f,
                "  SEV features {:#x}  virtual top of memory {:#x}",
                v.sev_features, v.virtual_tom
            )?;
        }
        writeln!(f, "\nRequired memory")?;
        for m in &self.required_memory {
            let note = if m.protectable {
                "  kept from the guest"
            } else {
                ""
            };
            writeln!(f, "  {:#012x}..{:#012x}{note}", m.start, m.end)?;
        }
        writeln!(f, "\nLoaded pages, in order of measurement")?;
        for run in &self.pages {
            writeln!(
                f,
                "  {:#012x}..{:#012x}  {:>6}  {:10}  {}",
                run.start, run.end, run.pages, run.kind, run.purpose
            )?;
        }
        Ok(())
    }
}
