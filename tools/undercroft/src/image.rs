//! Builds the IGVM file for SEV-SNP.
//!
//! Order of directives, which is the order of measurement: required memory,
//! parameter area and its two parameters, VMSA, parameter insert, then page data
//! by ascending address. Nothing depends on time, paths or hash order.

use crate::firmware::Firmware;
use crate::kernel::{self, Kernel};
use crate::measure::{self, Digest};
use crate::{Error, Input, vmsa};
use igvm::snp_defs::SevVmsa;
use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader};
use igvm_defs::{
    IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT,
    IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType,
};
use loader::config::{self, Config};
use loader::layout::{self, Range};
use loader::page_tables;
use std::collections::BTreeMap;
use zerocopy::{FromBytes, IntoBytes};

/// The only platform in the file has the first bit.
pub const COMPATIBILITY_MASK: u32 = 1;
/// Guest policy: SMT allowed, the bit that must be one, ABI 0.31; no debugging,
/// no migration.
pub const GUEST_POLICY: u64 = 0x3001f;
/// The paravisor takes the place of VTL2.
const HIGHEST_VTL: u8 = 2;
/// The one parameter area.
const MEMORY_MAP_AREA: u32 = 0;

/// Which host interface the paravisor's VMBus client uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmbusTarget {
    /// Client in VTL2 with redirection.
    #[default]
    Redirect,
    /// Plain client.
    Plain,
}

/// Which network card the guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicModel {
    /// virtio-net over PCI.
    #[default]
    Virtio,
    /// Intel 82574L.
    E1000e,
}

/// All inputs of an image.
#[derive(Clone, Debug)]
pub struct Options {
    /// First stage (ELF).
    pub stage: Input,
    /// Paravisor (ELF).
    pub paravisor: Input,
    /// Guest kernel (bzImage).
    pub kernel: Input,
    /// Guest initrd.
    pub initrd: Option<Input>,
    /// Guest command line.
    pub command_line: String,
    /// Guest console to COM1 in clear; changes the digest.
    pub debug_console: bool,
    /// Count the rules that no public source vouches for, do not enforce them.
    pub count_unmeasured: bool,
    /// C bit of the machine that shall run the image.
    pub c_bit: u32,
    /// NIC address in place of the host's.
    pub mac: Option<[u8; 6]>,
    /// VMBus client mode.
    pub vmbus_target: VmbusTarget,
    /// The guest's network card.
    pub nic: NicModel,
    /// Most virtual processors of the VM, 1 to 64.
    pub max_vps: u8,
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The IGVM file.
    pub bytes: Vec<u8>,
    /// Its launch digest.
    pub digest: Digest,
    /// The measured configuration.
    pub config: Config,
}

/// Builds an image.
pub fn build(options: &Options) -> Result<Image, Error> {
    check_options(options)?;
    let kernel = Kernel::parse(&options.kernel)?;
    let initrd = options
        .initrd
        .as_ref()
        .map(|initrd| kernel::place_initrd(&kernel, initrd))
        .transpose()?;
    let stage = Firmware::parse(&options.stage, layout::STAGE)?;
    let paravisor = Firmware::parse(&options.paravisor, layout::PARAVISOR)?;
    let config = configuration(options, &paravisor, &kernel, initrd)?;

    let mut pages = Pages::default();
    let params = kernel.boot_params(initrd);
    pages.normal(layout::BOOT_PARAMS.start, params.as_bytes())?;
    let command_line = kernel::command_line_page(&kernel, &options.command_line)?;
    pages.normal(layout::CMDLINE.start, &command_line)?;
    pages.normal(layout::KERNEL_LOAD, kernel.code)?;
    let segments = [stage.segments.as_slice(), &paravisor.segments].concat();
    let tables = page_tables::build(options.c_bit, &segments)
        .map_err(|e| Error::Internal(format!("page tables: {e:x?}")))?;
    pages.add(
        layout::CPUID_PAGE.start,
        IgvmPageDataType::CPUID_DATA,
        vmsa::cpuid_request().as_bytes(),
    )?;
    pages.add(layout::SECRETS_PAGE.start, IgvmPageDataType::SECRETS, &[0])?;
    pages.normal(layout::CONFIG_PAGE.start, config.as_bytes())?;
    pages.normal(layout::BOOT_GDT.start, layout::BOOT_GDT_ENTRIES.as_bytes())?;
    pages.normal(layout::PAGE_TABLES.start, tables.as_bytes())?;
    for firmware in [&stage, &paravisor] {
        for (segment, content) in firmware.segments.iter().zip(&firmware.contents) {
            pages.normal(segment.range.start, content)?;
        }
    }
    if let (Some(place), Some(input)) = (initrd, &options.initrd) {
        pages.normal(place.start, &input.bytes)?;
    }

    let mut directives = required_memory(config.memory_min, options.max_vps);
    directives.push(IgvmDirectiveHeader::ParameterArea {
        number_of_bytes: layout::PARAMETER_PAGE.len(),
        parameter_area_index: MEMORY_MAP_AREA,
        initial_data: Vec::new(),
    });
    directives.push(IgvmDirectiveHeader::MemoryMap(IGVM_VHS_PARAMETER {
        parameter_area_index: MEMORY_MAP_AREA,
        byte_offset: 0,
    }));
    directives.push(IgvmDirectiveHeader::VpCount(IGVM_VHS_PARAMETER {
        parameter_area_index: MEMORY_MAP_AREA,
        byte_offset: abi::igvm::VP_COUNT_OFFSET as u32,
    }));
    let boot_vmsa = vmsa::boot_vmsa(options.c_bit, stage.entry);
    directives.push(IgvmDirectiveHeader::SnpVpContext {
        gpa: layout::BOOT_VMSA.start,
        compatibility_mask: COMPATIBILITY_MASK,
        vp_index: 0,
        vmsa: Box::new(
            SevVmsa::read_from_bytes(boot_vmsa.as_bytes())
                .map_err(|e| Error::Internal(format!("VMSA: {e}")))?,
        ),
    });
    directives.push(IgvmDirectiveHeader::ParameterInsert(
        IGVM_VHS_PARAMETER_INSERT {
            gpa: layout::PARAMETER_PAGE.start,
            compatibility_mask: COMPATIBILITY_MASK,
            parameter_area_index: MEMORY_MAP_AREA,
        },
    ));
    directives.extend(pages.directives());

    let file = IgvmFile::new(
        igvm::IgvmRevision::V1,
        vec![IgvmPlatformHeader::SupportedPlatform(
            IGVM_VHS_SUPPORTED_PLATFORM {
                compatibility_mask: COMPATIBILITY_MASK,
                highest_vtl: HIGHEST_VTL,
                platform_type: IgvmPlatformType::SEV_SNP,
                platform_version: IGVM_SEV_SNP_PLATFORM_VERSION,
                shared_gpa_boundary: 1 << layout::VTOM_BIT,
            },
        )],
        vec![IgvmInitializationHeader::GuestPolicy {
            policy: GUEST_POLICY,
            compatibility_mask: COMPATIBILITY_MASK,
        }],
        directives,
    )
    .map_err(internal)?;
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).map_err(internal)?;
    let digest = measure::of_file(&file, "the new image")?;
    Ok(Image {
        bytes,
        digest,
        config,
    })
}

fn internal(error: igvm::Error) -> Error {
    Error::Internal(format!("IGVM: {error}"))
}

fn check_options(options: &Options) -> Result<(), Error> {
    let wrong = |option, problem: &str| {
        Err(Error::Option {
            option,
            problem: problem.into(),
        })
    };
    // Above the addresses of the layout and VMPL2's virtual top of memory, and
    // an address bit of a page table entry.
    if !(layout::VTOM_BIT + 1..=51).contains(&options.c_bit) {
        return wrong(
            "--c-bit",
            "the C bit must be between 47 and 51 (51 on SEV-SNP parts, 47 for the rig)",
        );
    }
    if let Some(mac) = options.mac
        && (mac == [0; 6] || mac[0] & 1 != 0)
    {
        return wrong(
            "--mac",
            "not a unicast address; use one whose first byte is even, for example 02:00:00:00:00:01",
        );
    }
    if !(1..=layout::MAX_VPS).contains(&u32::from(options.max_vps)) {
        return wrong("--max-vps", "the VM must have 1 to 64 virtual processors");
    }
    Ok(())
}

fn configuration(
    options: &Options,
    paravisor: &Firmware,
    kernel: &Kernel<'_>,
    initrd: Option<Range>,
) -> Result<Config, Error> {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let config = Config {
        magic: config::MAGIC,
        version: config::VERSION,
        size: size_of::<Config>() as u32,
        flags: flag(options.debug_console, config::FLAG_DEBUG_CONSOLE)
            | flag(options.mac.is_some(), config::FLAG_FIXED_MAC)
            | flag(options.count_unmeasured, config::FLAG_COUNT_UNMEASURED),
        c_bit: options.c_bit,
        memory_min: kernel::memory_min(initrd),
        memory_max: layout::MEMORY_MAX,
        paravisor_entry: paravisor.entry,
        paravisor_start: paravisor.range.start,
        paravisor_end: paravisor.range.end,
        kernel_entry: layout::KERNEL_LOAD + abi::linux_boot::ENTRY_64_OFFSET,
        kernel_load: layout::KERNEL_LOAD,
        kernel_size: kernel.code.len() as u64,
        kernel_init_size: kernel.init_size(),
        boot_params: layout::BOOT_PARAMS.start,
        cmdline: layout::CMDLINE.start,
        cmdline_len: options.command_line.len() as u64,
        initrd: initrd.map_or(0, |r| r.start),
        initrd_len: initrd.map_or(0, |r| r.len()),
        vmbus_target: match options.vmbus_target {
            VmbusTarget::Redirect => config::VMBUS_REDIRECT,
            VmbusTarget::Plain => config::VMBUS_PLAIN,
        },
        mac: options.mac.unwrap_or_default(),
        nic: match options.nic {
            NicModel::Virtio => config::NIC_VIRTIO,
            NicModel::E1000e => config::NIC_E1000E,
        },
        max_vps: options.max_vps,
        reserved: [0; 4],
    };
    // Reports a command line that is too long in its own words.
    kernel::command_line_page(kernel, &options.command_line)?;
    config
        .check()
        .map_err(|e| Error::Internal(format!("configuration: {e:?}")))?;
    Ok(config)
}

/// Below what is the paravisor's, that itself, and what the payload needs above it.
fn required_memory(memory_min: u64, max_vps: u8) -> Vec<IgvmDirectiveHeader> {
    let own = layout::owned(max_vps.into());
    [
        (0, own.start, false),
        (own.start, own.end, true),
        (own.end, memory_min, false),
    ]
    .map(
        |(start, end, vtl2_protectable)| IgvmDirectiveHeader::RequiredMemory {
            gpa: start,
            compatibility_mask: COMPATIBILITY_MASK,
            // Below 2 GiB as the whole layout.
            number_of_bytes: (end - start) as u32,
            vtl2_protectable,
        },
    )
    .into()
}

/// Pages of the image by address.
#[derive(Default)]
struct Pages(BTreeMap<u64, (IgvmPageDataType, Vec<u8>)>);

impl Pages {
    fn normal(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        self.add(gpa, IgvmPageDataType::NORMAL, bytes)
    }

    /// Adds whole pages from `gpa`, the last one filled up with zeros.
    fn add(&mut self, gpa: u64, kind: IgvmPageDataType, bytes: &[u8]) -> Result<(), Error> {
        for (gpa, chunk) in (gpa..)
            .step_by(layout::PAGE as usize)
            .zip(bytes.chunks(layout::PAGE as usize))
        {
            // A page of zeros needs no bytes in the file and measures the same.
            let data = if chunk.iter().all(|b| *b == 0) {
                Vec::new()
            } else {
                let mut page = chunk.to_vec();
                page.resize(layout::PAGE as usize, 0);
                page
            };
            if self.0.insert(gpa, (kind, data)).is_some() {
                return Err(Error::Internal(format!("two contents for page {gpa:#x}")));
            }
        }
        Ok(())
    }

    fn directives(self) -> impl Iterator<Item = IgvmDirectiveHeader> {
        self.0
            .into_iter()
            .map(|(gpa, (data_type, data))| IgvmDirectiveHeader::PageData {
                gpa,
                compatibility_mask: COMPATIBILITY_MASK,
                flags: IgvmPageDataFlags::new(),
                data_type,
                data,
            })
    }
}
