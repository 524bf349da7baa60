//! Opens an IGVM file. The `igvm` crate trusts the numbers in the headers more
//! than a file from anywhere deserves, so all sizes and offsets are checked
//! before it sees the file.

use crate::{Error, Input};
use abi::igvm::{
    FORMAT_VERSION_1, FixedHeader, MAGIC, PAGE_SIZE, PageData, ParameterArea, VariableHeader,
    VpContext, header_type,
};
use igvm::{IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader};
use igvm_defs::IgvmPlatformType;
use zerocopy::FromBytes;

/// What the SNP part of a file says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Bit of later structures.
    pub mask: u32,
    /// Highest VTL that the image brings.
    pub highest_vtl: u8,
    /// Virtual top of memory of lower layers.
    pub shared_gpa_boundary: u64,
    /// Guest policy.
    pub policy: u64,
}

/// Checks and parses a file for SEV-SNP.
pub fn open(input: &Input) -> Result<(IgvmFile, Platform), Error> {
    let damaged = |(offset, problem)| Error::Igvm {
        name: input.name.clone(),
        offset,
        problem,
    };
    check(&input.bytes).map_err(damaged)?;
    let file = IgvmFile::new_from_binary(&input.bytes, Some(igvm::IsolationType::Snp)).map_err(
        |error| match error {
            igvm::Error::InvalidChecksum {
                expected,
                header_value,
            } => damaged((
                std::mem::offset_of!(FixedHeader, checksum),
                format!(
                    "checksum {header_value:#010x} in the file, {expected:#010x} computed; the file is damaged, build or copy it again"
                ),
            )),
            error => damaged((0, format!("{error}; the file is damaged or not for SEV-SNP"))),
        },
    )?;
    let mask = snp_mask(&file, &input.name)?;
    let policy = file
        .initializations()
        .iter()
        .find_map(|header| match header {
            IgvmInitializationHeader::GuestPolicy {
                policy,
                compatibility_mask,
            } if compatibility_mask & mask != 0 => Some(*policy),
            _ => None,
        })
        .ok_or_else(|| damaged((0, "no guest policy for SEV-SNP".into())))?;
    let IgvmPlatformHeader::SupportedPlatform(info) = snp_platform(&file, &input.name)?;
    let platform = Platform {
        mask,
        highest_vtl: info.highest_vtl,
        shared_gpa_boundary: info.shared_gpa_boundary,
        policy,
    };
    Ok((file, platform))
}

fn snp_platform<'a>(file: &'a IgvmFile, name: &str) -> Result<&'a IgvmPlatformHeader, Error> {
    let kind = |header: &IgvmPlatformHeader| {
        let IgvmPlatformHeader::SupportedPlatform(info) = header;
        info.platform_type
    };
    file.platforms()
        .iter()
        .find(|header| kind(header) == IgvmPlatformType::SEV_SNP)
        .ok_or_else(|| Error::Platform {
            name: name.into(),
            problem: format!(
                "made for {:?}",
                file.platforms().iter().map(kind).collect::<Vec<_>>()
            ),
        })
}

/// The compatibility mask of SEV-SNP in a file.
pub fn snp_mask(file: &IgvmFile, name: &str) -> Result<u32, Error> {
    let IgvmPlatformHeader::SupportedPlatform(info) = snp_platform(file, name)?;
    Ok(info.compatibility_mask)
}

type Damage = (usize, String);

/// Checks the fixed header and each variable header's bounds and file offset.
fn check(bytes: &[u8]) -> Result<(), Damage> {
    let at_start = |problem: String| (0, problem);
    let (header, _) = FixedHeader::read_from_prefix(bytes)
        .map_err(|_| at_start(format!("truncated: {} bytes are no header", bytes.len())))?;
    if header.magic.get() != MAGIC {
        return Err(at_start(
            "not an IGVM file (it does not start with \"IGVM\"); give the output of `undercroft image`"
                .into(),
        ));
    }
    if header.format_version.get() != FORMAT_VERSION_1 {
        return Err((
            4,
            format!(
                "IGVM format version {}, this tool reads version 1",
                header.format_version
            ),
        ));
    }
    let total = header.total_file_size.get() as usize;
    if total != bytes.len() {
        return Err((
            16,
            format!(
                "truncated or extended: the header says {total} bytes, the file has {}; build or copy it again",
                bytes.len()
            ),
        ));
    }
    let start = header.variable_header_offset.get() as usize;
    let end = start.saturating_add(header.variable_header_size.get() as usize);
    if start < size_of::<FixedHeader>()
        || !start.is_multiple_of(8)
        || !end.is_multiple_of(8)
        || end > total
    {
        return Err((
            8,
            format!("variable headers at {start:#x}..{end:#x} lie outside of the file"),
        ));
    }
    if end == total {
        // The `igvm` crate wants a data section, and each image for SNP has one.
        return Err((
            8,
            "no data section: nothing to load in this file".to_string(),
        ));
    }
    let mut at = start;
    while at < end {
        at = check_structure(bytes, at, end).map_err(|problem| (at, problem))?;
    }
    Ok(())
}

/// Checks one structure; returns where the next one begins.
fn check_structure(bytes: &[u8], at: usize, end: usize) -> Result<usize, String> {
    let outside = || "a structure ends outside of the variable headers".to_string();
    let rest = bytes.get(at..end).ok_or_else(outside)?;
    let (header, body) = VariableHeader::read_from_prefix(rest).map_err(|_| outside())?;
    let length = header.length.get() as usize;
    let body = body.get(..length).ok_or_else(outside)?;
    let next = length
        .checked_next_multiple_of(8)
        .and_then(|padded| at.checked_add(padded + size_of::<VariableHeader>()))
        .filter(|next| *next <= end)
        .ok_or_else(outside)?;
    let short = || format!("a structure of type {:#x} is too short", header.kind.get());
    let kind = header.kind.get();
    if !matches!(kind, 0x1..=0x100 | 0x101..=0x200 | 0x301..=0x400) {
        return Err(format!("a structure of unknown type {kind:#x}"));
    }
    // (file offset, bytes there); offset 0 means none.
    let data = match kind {
        header_type::PAGE_DATA => {
            let info = PageData::read_from_bytes(body).map_err(|_| short())?;
            aligned(info.gpa.get())?;
            Some((info.file_offset.get(), PAGE_SIZE))
        }
        header_type::VP_CONTEXT => {
            let info = VpContext::read_from_bytes(body).map_err(|_| short())?;
            aligned(info.gpa.get())?;
            // Absent content would be read from before the data section.
            Some((info.file_offset.get().max(1), PAGE_SIZE))
        }
        header_type::PARAMETER_AREA => {
            let info = ParameterArea::read_from_bytes(body).map_err(|_| short())?;
            let size = info.number_of_bytes.get();
            // More than any machine has; keeps loops over its pages short.
            if !size.is_multiple_of(PAGE_SIZE) || size > 1 << 30 {
                return Err(format!("a parameter area of {size:#x} bytes"));
            }
            Some((info.file_offset.get(), size))
        }
        // CoRIM document and signature: mask, offset, size, reserved.
        0x104 | 0x105 => {
            let word = |n: usize| {
                body.get(n * 4..)
                    .and_then(|b| b.first_chunk::<4>())
                    .map(|b| u32::from_le_bytes(*b))
                    .ok_or_else(short)
            };
            Some((word(1)?.max(1), u64::from(word(2)?)))
        }
        _ => None,
    };
    if let Some((offset, size)) = data
        && offset != 0
    {
        let inside = offset as usize >= end && u64::from(offset) + size <= bytes.len() as u64;
        if !inside {
            return Err(format!(
                "content at {offset:#x} with {size:#x} bytes lies outside of the data section {end:#x}..{:#x}",
                bytes.len()
            ));
        }
    }
    Ok(next)
}

fn aligned(gpa: u64) -> Result<(), String> {
    if gpa.is_multiple_of(PAGE_SIZE) && gpa < 1 << 52 {
        Ok(())
    } else {
        Err(format!(
            "guest address {gpa:#x} is not the address of a page"
        ))
    }
}
