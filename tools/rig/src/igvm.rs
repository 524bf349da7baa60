//! Reads an IGVM file as a loader must: header, checksum, order of sections, and
//! every offset checked before it is used. No allocation, no panic: the file is
//! as untrusted as anything that a tenant uploads.
//!
//! [`File::parse`] checks the fixed header, the checksum, platform and
//! initialization sections; [`File::directives`] then yields the directives for
//! the SNP platform in file order, which is the order of measurement.
//! Source of the format: `igvm_defs` 0.5, see [`abi::igvm`].
// Tests may panic: it is how they fail.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

use abi::igvm::{
    FORMAT_VERSION_1, FixedHeader, GuestPolicy, MAGIC, PAGE_FLAG_2MB, PAGE_FLAG_SHARED,
    PAGE_FLAG_UNMEASURED, PAGE_SIZE, PageData, Parameter, ParameterArea, ParameterInsert,
    REQUIRED_MEMORY_VTL2_PROTECTABLE, RequiredMemory, SupportedPlatform, VariableHeader, VpContext,
    header_type, page_type, platform_type,
};
use core::fmt;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Bytes of a page.
pub const PAGE: usize = PAGE_SIZE as usize;
/// Content of a page.
pub type Page = [u8; PAGE];

/// What is wrong, and at which byte of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Offset in the file.
    pub offset: usize,
    /// What is wrong there.
    pub kind: ErrorKind,
}

/// What can be wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The file ends before the structure does.
    Truncated,
    /// It does not start with "IGVM".
    Magic,
    /// A format version other than 1.
    Version(u32),
    /// The header's idea of the file's size is another one.
    FileSize {
        /// What the header says.
        header: u32,
        /// What there is.
        actual: usize,
    },
    /// The variable headers lie outside of the file or are not aligned.
    HeaderRange,
    /// The checksum is another one.
    Checksum {
        /// In the file.
        header: u32,
        /// Computed.
        computed: u32,
    },
    /// A structure is shorter than its type demands or ends outside of the headers.
    StructureSize,
    /// A structure of an earlier section after one of a later section.
    Order,
    /// A structure of this type, which cannot be ignored.
    UnknownType(u32),
    /// No platform header for SEV-SNP, or more than one.
    NoSnpPlatform,
    /// A platform version that is not 1, or a compatibility mask without exactly
    /// one bit.
    Platform,
    /// No guest policy for SEV-SNP.
    NoPolicy,
    /// An address or size that is not a multiple of the page size, or beyond 2^52.
    Alignment,
    /// Content that lies outside of the file's data section.
    DataRange,
    /// A page flag or data type that this loader does not support.
    PageKind,
    /// A parameter area that does not exist, exists twice or is too small.
    Area(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IGVM file, byte {:#x}: {:?}", self.offset, self.kind)
    }
}

impl core::error::Error for Error {}

/// A page's kind, as the file gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// Ordinary data.
    Normal,
    /// The secrets page.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// The second CPUID page (extended state).
    CpuidExtended,
}

/// Flags of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFlags {
    /// The content does not enter the digest.
    pub unmeasured: bool,
    /// The page is shared with the host and not measured at all.
    pub shared: bool,
}

/// Something that the loader is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive<'a> {
    /// Memory that the image wants to be there.
    RequiredMemory {
        /// First byte.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// Lower layers can be kept out.
        protectable: bool,
    },
    /// An area of parameters begins to exist, in the loader's own memory.
    ParameterArea {
        /// Its name.
        index: u32,
        /// Its size; whole pages.
        size: u64,
        /// Its content before parameters are written, `None` = zeros.
        initial: Option<&'a [u8]>,
    },
    /// Write the memory map ([`abi::igvm::MemoryMapEntry`]) to an area.
    MemoryMap {
        /// Which area.
        index: u32,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// Write the number of virtual processors (u32) to an area.
    VpCount {
        /// Which area.
        index: u32,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// Write the host's command line to an area.
    CommandLine {
        /// Which area.
        index: u32,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// Another parameter which this reader knows by number only.
    OtherParameter {
        /// [`header_type`].
        kind: u32,
        /// Which area.
        index: u32,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// Place an area in memory; each of its pages is measured as UNMEASURED.
    ParameterInsert {
        /// Where.
        gpa: u64,
        /// Which area.
        index: u32,
    },
    /// Place a page.
    PageData {
        /// Where.
        gpa: u64,
        /// How.
        flags: PageFlags,
        /// As what.
        page_type: PageType,
        /// Content, `None` = zeros.
        data: Option<&'a Page>,
    },
    /// Place a VMSA and start a virtual processor on it.
    VpContext {
        /// Where.
        gpa: u64,
        /// Which processor.
        vp_index: u16,
        /// The VMSA.
        vmsa: &'a Page,
    },
}

/// The platform header for SEV-SNP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The bit that later structures name.
    pub mask: u32,
    /// Highest VTL that the image brings.
    pub highest_vtl: u8,
    /// The virtual top of memory of lower layers.
    pub shared_gpa_boundary: u64,
}

/// A file whose header, checksum and first two sections are sound.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    bytes: &'a [u8],
    /// Start and end of the variable headers.
    headers: (usize, usize),
    /// Offset of the first directive.
    directives: usize,
    /// The SNP platform.
    pub platform: Platform,
    /// The SNP guest policy.
    pub policy: u64,
}

impl<'a> File<'a> {
    /// Checks everything except the directives, which are checked while they are
    /// read.
    pub fn parse(bytes: &'a [u8]) -> Result<File<'a>, Error> {
        let headers = fixed_header(bytes)?;
        let mut platform = None;
        let mut policy = None;
        let mut at = headers.0;
        let mut section = 0;
        let directives = loop {
            if at == headers.1 {
                break at;
            }
            let raw = RawHeader::read(bytes, headers.1, at)?;
            let this = raw.section()?;
            if this < section {
                return Err(raw.error(ErrorKind::Order));
            }
            section = this;
            match raw.kind {
                header_type::SUPPORTED_PLATFORM => {
                    let info: SupportedPlatform = raw.structure()?;
                    let mask = info.compatibility_mask.get();
                    if info.platform_type == platform_type::SEV_SNP {
                        if platform.is_some() {
                            return Err(raw.error(ErrorKind::NoSnpPlatform));
                        }
                        if info.platform_version.get() != 1 || mask.count_ones() != 1 {
                            return Err(raw.error(ErrorKind::Platform));
                        }
                        platform = Some(Platform {
                            mask,
                            highest_vtl: info.highest_vtl,
                            shared_gpa_boundary: info.shared_gpa_boundary.get(),
                        });
                    }
                }
                header_type::GUEST_POLICY => {
                    let info: GuestPolicy = raw.structure()?;
                    let mask = platform.map_or(0, |p: Platform| p.mask);
                    if info.compatibility_mask.get() & mask != 0 {
                        policy = Some(info.policy.get());
                    }
                }
                _ if this == SECTION_DIRECTIVE => break at,
                _ if raw.optional => {}
                kind => return Err(raw.error(ErrorKind::UnknownType(kind))),
            }
            at = raw.next;
        };
        let end = |kind| Error { offset: at, kind };
        Ok(File {
            bytes,
            headers,
            directives,
            platform: platform.ok_or(end(ErrorKind::NoSnpPlatform))?,
            policy: policy.ok_or(end(ErrorKind::NoPolicy))?,
        })
    }

    /// The directives for SNP, in file order. The iterator ends after an error.
    pub fn directives(&self) -> Directives<'a> {
        Directives {
            file: *self,
            at: self.directives,
        }
    }

    /// Size of a parameter area in bytes. Each area is declared exactly once.
    pub fn parameter_area(&self, index: u32) -> Result<u64, Error> {
        let missing = Error {
            offset: self.directives,
            kind: ErrorKind::Area(index),
        };
        let mut found = None;
        for directive in self.directives() {
            if let Directive::ParameterArea { index: i, size, .. } = directive?
                && i == index
            {
                if found.is_some() {
                    return Err(missing);
                }
                found = Some(size);
            }
        }
        found.ok_or(missing)
    }

    /// A page of the data section. Offset 0 means none.
    fn page(&self, raw: &RawHeader<'_>, offset: u32) -> Result<Option<&'a Page>, Error> {
        match self.data(raw, offset, PAGE_SIZE)? {
            None => Ok(None),
            Some(data) => match data.first_chunk::<PAGE>() {
                Some(page) => Ok(Some(page)),
                None => Err(raw.error(ErrorKind::DataRange)),
            },
        }
    }

    fn data(&self, raw: &RawHeader<'_>, offset: u32, size: u64) -> Result<Option<&'a [u8]>, Error> {
        if offset == 0 {
            return Ok(None);
        }
        let start = offset as usize;
        let end = usize::try_from(size)
            .ok()
            .and_then(|s| start.checked_add(s));
        match end {
            Some(end) if start >= self.headers.1 => self
                .bytes
                .get(start..end)
                .map(Some)
                .ok_or(raw.error(ErrorKind::DataRange)),
            _ => Err(raw.error(ErrorKind::DataRange)),
        }
    }
}

/// Iterator over directives.
#[derive(Clone, Debug)]
pub struct Directives<'a> {
    file: File<'a>,
    at: usize,
}

impl<'a> Iterator for Directives<'a> {
    type Item = Result<Directive<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.file.headers.1;
        while self.at < end {
            match self.step() {
                Ok(Some(directive)) => return Some(Ok(directive)),
                Ok(None) => {}
                Err(error) => {
                    self.at = end;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl<'a> Directives<'a> {
    /// Reads one structure; `None` if it is not for this platform.
    fn step(&mut self) -> Result<Option<Directive<'a>>, Error> {
        let file = self.file;
        let raw = RawHeader::read(file.bytes, file.headers.1, self.at)?;
        // A structure takes at least its header, so this loop ends.
        self.at = raw.next;
        if raw.section()? != SECTION_DIRECTIVE {
            return Err(raw.error(ErrorKind::Order));
        }
        let mine = |mask: u32| mask & file.platform.mask != 0;
        let directive = match raw.kind {
            header_type::REQUIRED_MEMORY => {
                let info: RequiredMemory = raw.structure()?;
                if !mine(info.compatibility_mask.get()) {
                    return Ok(None);
                }
                Directive::RequiredMemory {
                    gpa: raw.aligned(info.gpa.get())?,
                    size: raw.aligned(info.number_of_bytes.get().into())?,
                    protectable: info.flags.get() & REQUIRED_MEMORY_VTL2_PROTECTABLE != 0,
                }
            }
            header_type::PARAMETER_AREA => {
                let info: ParameterArea = raw.structure()?;
                let size = raw.aligned(info.number_of_bytes.get())?;
                Directive::ParameterArea {
                    index: info.parameter_area_index.get(),
                    size,
                    initial: file.data(&raw, info.file_offset.get(), size)?,
                }
            }
            header_type::PARAMETER_INSERT => {
                let info: ParameterInsert = raw.structure()?;
                if !mine(info.compatibility_mask.get()) {
                    return Ok(None);
                }
                Directive::ParameterInsert {
                    gpa: raw.aligned(info.gpa.get())?,
                    index: info.parameter_area_index.get(),
                }
            }
            header_type::PAGE_DATA => {
                let info: PageData = raw.structure()?;
                if !mine(info.compatibility_mask.get()) {
                    return Ok(None);
                }
                let flags = info.flags.get();
                // 2 MiB pages are in the format but no builder that we know emits them.
                let supported = PAGE_FLAG_UNMEASURED | PAGE_FLAG_SHARED;
                if flags & PAGE_FLAG_2MB != 0 || flags & !supported != 0 {
                    return Err(raw.error(ErrorKind::PageKind));
                }
                Directive::PageData {
                    gpa: raw.aligned(info.gpa.get())?,
                    flags: PageFlags {
                        unmeasured: flags & PAGE_FLAG_UNMEASURED != 0,
                        shared: flags & PAGE_FLAG_SHARED != 0,
                    },
                    page_type: match info.data_type.get() {
                        page_type::NORMAL => PageType::Normal,
                        page_type::SECRETS => PageType::Secrets,
                        page_type::CPUID_DATA => PageType::Cpuid,
                        page_type::CPUID_XF => PageType::CpuidExtended,
                        _ => return Err(raw.error(ErrorKind::PageKind)),
                    },
                    data: file.page(&raw, info.file_offset.get())?,
                }
            }
            header_type::VP_CONTEXT => {
                let info: VpContext = raw.structure()?;
                if !mine(info.compatibility_mask.get()) {
                    return Ok(None);
                }
                Directive::VpContext {
                    gpa: raw.aligned(info.gpa.get())?,
                    vp_index: info.vp_index.get(),
                    vmsa: file
                        .page(&raw, info.file_offset.get())?
                        .ok_or(raw.error(ErrorKind::DataRange))?,
                }
            }
            // VP count, SRAT, MADT, MMIO ranges; memory map; command line, SLIT, PPTT.
            0x307..=0x30a | 0x30c | 0x30e..=0x310 => {
                let info: Parameter = raw.structure()?;
                let index = info.parameter_area_index.get();
                let offset = info.byte_offset.get();
                match raw.kind {
                    header_type::VP_COUNT => Directive::VpCount { index, offset },
                    header_type::MEMORY_MAP => Directive::MemoryMap { index, offset },
                    header_type::COMMAND_LINE => Directive::CommandLine { index, offset },
                    kind => Directive::OtherParameter {
                        kind,
                        index,
                        offset,
                    },
                }
            }
            _ if raw.optional => return Ok(None),
            kind => return Err(raw.error(ErrorKind::UnknownType(kind))),
        };
        Ok(Some(directive))
    }
}

const SECTION_PLATFORM: u8 = 0;
const SECTION_INIT: u8 = 1;
const SECTION_DIRECTIVE: u8 = 2;

/// One type-length-value structure.
struct RawHeader<'a> {
    at: usize,
    kind: u32,
    optional: bool,
    body: &'a [u8],
    next: usize,
}

impl<'a> RawHeader<'a> {
    fn read(bytes: &'a [u8], end: usize, at: usize) -> Result<RawHeader<'a>, Error> {
        let error = |kind| Error { offset: at, kind };
        let size = error(ErrorKind::StructureSize);
        let rest = bytes.get(at..end).ok_or(size)?;
        let (header, body) = VariableHeader::read_from_prefix(rest).map_err(|_| size)?;
        let length = header.length.get() as usize;
        let body = body.get(..length).ok_or(size)?;
        let next = length
            .checked_next_multiple_of(8)
            .and_then(|l| l.checked_add(size_of::<VariableHeader>()))
            .and_then(|l| at.checked_add(l))
            .filter(|next| *next <= end)
            .ok_or(size)?;
        let kind = header.kind.get();
        Ok(RawHeader {
            at,
            kind: kind & !header_type::OPTIONAL,
            optional: kind & header_type::OPTIONAL != 0,
            body,
            next,
        })
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error {
            offset: self.at,
            kind,
        }
    }

    fn section(&self) -> Result<u8, Error> {
        match self.kind {
            0x1..=0x100 => Ok(SECTION_PLATFORM),
            0x101..=0x200 => Ok(SECTION_INIT),
            0x301..=0x400 => Ok(SECTION_DIRECTIVE),
            kind => Err(self.error(ErrorKind::UnknownType(kind))),
        }
    }

    /// The structure; a longer body than expected is refused.
    fn structure<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, Error> {
        T::read_from_bytes(self.body).map_err(|_| self.error(ErrorKind::StructureSize))
    }

    fn aligned(&self, value: u64) -> Result<u64, Error> {
        if value.is_multiple_of(PAGE_SIZE) && value < 1 << 52 {
            Ok(value)
        } else {
            Err(self.error(ErrorKind::Alignment))
        }
    }
}

/// Checks the fixed header; returns start and end of the variable headers.
fn fixed_header(bytes: &[u8]) -> Result<(usize, usize), Error> {
    let error = |kind| Error { offset: 0, kind };
    let (header, _) =
        FixedHeader::read_from_prefix(bytes).map_err(|_| error(ErrorKind::Truncated))?;
    if header.magic.get() != MAGIC {
        return Err(error(ErrorKind::Magic));
    }
    if header.format_version.get() != FORMAT_VERSION_1 {
        return Err(error(ErrorKind::Version(header.format_version.get())));
    }
    if header.total_file_size.get() as usize != bytes.len() {
        return Err(error(ErrorKind::FileSize {
            header: header.total_file_size.get(),
            actual: bytes.len(),
        }));
    }
    let start = header.variable_header_offset.get() as usize;
    let end = start
        .checked_add(header.variable_header_size.get() as usize)
        .filter(|end| *end <= bytes.len() && start >= size_of::<FixedHeader>())
        .filter(|end| start.is_multiple_of(8) && end.is_multiple_of(8))
        .ok_or(error(ErrorKind::HeaderRange))?;
    // The checksum covers both headers, with its own field taken as zero.
    let checksum_at = core::mem::offset_of!(FixedHeader, checksum);
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(..checksum_at).unwrap_or_default());
    crc.update(&[0; 4]);
    crc.update(bytes.get(start..end).unwrap_or_default());
    let computed = crc.finalize();
    if computed != header.checksum.get() {
        return Err(error(ErrorKind::Checksum {
            header: header.checksum.get(),
            computed,
        }));
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests;
