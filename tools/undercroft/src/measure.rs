//! The launch digest of an image, calculated here and by the `igvm` crate.
//!
//! Source of the calculation: SEV-SNP firmware ABI specification,
//! SNP_LAUNCH_UPDATE (`PAGE_INFO`). Both results must agree, else nothing is
//! reported.

use crate::error::hex;
use crate::{Error, Input, file};
use igvm::{IgvmDirectiveHeader, IgvmFile};
use igvm_defs::{IgvmPageDataType, PAGE_SIZE_4K};
use serde::Serialize;
use sha2::{Digest as _, Sha384};
use std::collections::BTreeMap;

/// A launch digest.
pub type Digest = [u8; 48];

/// Page types of `SNP_LAUNCH_UPDATE`.
mod page {
    pub const NORMAL: u8 = 1;
    pub const VMSA: u8 = 2;
    pub const UNMEASURED: u8 = 4;
    pub const SECRETS: u8 = 5;
    pub const CPUID: u8 = 6;
}

/// What `undercroft measure` reports.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which file.
    pub file: String,
    /// Always `sev-snp`.
    pub platform: &'static str,
    /// The launch digest in hex.
    pub launch_digest: String,
    /// The guest policy in hex. Not part of the digest; the attestation report
    /// shows it separately.
    pub guest_policy: String,
}

/// Measures a file.
pub fn measure(input: &Input) -> Result<Report, Error> {
    let (igvm, platform) = file::open(input)?;
    let digest = of_file(&igvm, &input.name)?;
    Ok(Report {
        file: input.name.clone(),
        platform: "sev-snp",
        launch_digest: hex(&digest),
        guest_policy: format!("{:#x}", platform.policy),
    })
}

/// Measures a parsed file in both ways.
pub fn of_file(file: &IgvmFile, name: &str) -> Result<Digest, Error> {
    let mask = file::snp_mask(file, name)?;
    let ours = own(file.directives(), mask, name)?;
    let theirs = igvm::measurement::generate_snp_measurement(
        file.initializations(),
        file.directives(),
        mask,
    )
    .map_err(|error| Error::Igvm {
        name: name.into(),
        offset: 0,
        problem: error.to_string(),
    })?;
    if ours != theirs {
        return Err(Error::DigestsDiffer {
            name: name.into(),
            ours: hex(&ours),
            theirs: hex(&theirs),
        });
    }
    Ok(ours)
}

/// One extension of the digest; `content` only for kinds that measure it.
fn extend(digest: Digest, kind: u8, gpa: u64, content: Option<&[u8]>) -> Digest {
    let mut info = Sha384::new();
    info.update(digest);
    match content {
        Some(content) => {
            let mut page = Sha384::new();
            page.update(content);
            page.update(vec![
                0;
                (PAGE_SIZE_4K as usize).saturating_sub(content.len())
            ]);
            info.update(page.finalize());
        }
        None => info.update([0; 48]),
    }
    info.update(0x70u16.to_le_bytes());
    info.update([kind, 0, 0, 0, 0, 0]);
    info.update(gpa.to_le_bytes());
    info.finalize().into()
}

/// Our own calculation over the directives in file order.
fn own(directives: &[IgvmDirectiveHeader], mask: u32, name: &str) -> Result<Digest, Error> {
    let mut areas = BTreeMap::new();
    let mut digest = [0; 48];
    for directive in directives {
        if directive
            .compatibility_mask()
            .is_some_and(|m| m & mask == 0)
        {
            continue;
        }
        match directive {
            IgvmDirectiveHeader::ParameterArea {
                number_of_bytes,
                parameter_area_index,
                ..
            } => {
                areas.insert(*parameter_area_index, *number_of_bytes);
            }
            IgvmDirectiveHeader::PageData {
                gpa,
                flags,
                data_type,
                data,
                ..
            } if !flags.shared() => {
                digest = match *data_type {
                    IgvmPageDataType::SECRETS => extend(digest, page::SECRETS, *gpa, None),
                    IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => {
                        extend(digest, page::CPUID, *gpa, None)
                    }
                    _ if flags.unmeasured() => extend(digest, page::UNMEASURED, *gpa, None),
                    _ => extend(digest, page::NORMAL, *gpa, Some(data)),
                };
            }
            IgvmDirectiveHeader::ParameterInsert(insert) => {
                let size = areas
                    .get(&insert.parameter_area_index)
                    .ok_or_else(|| Error::Igvm {
                        name: name.into(),
                        offset: 0,
                        problem: format!("no parameter area {}", insert.parameter_area_index),
                    })?;
                for page in 0..size / PAGE_SIZE_4K {
                    let gpa = insert.gpa.wrapping_add(page * PAGE_SIZE_4K);
                    digest = extend(digest, page::UNMEASURED, gpa, None);
                }
            }
            IgvmDirectiveHeader::SnpVpContext { gpa, vmsa, .. } => {
                let content = zerocopy::IntoBytes::as_bytes(vmsa.as_ref());
                digest = extend(digest, page::VMSA, *gpa, Some(content));
            }
            _ => {}
        }
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example_of_two_normal_pages() {
        let one = extend([0; 48], page::NORMAL, 0x1000, Some(&[]));
        assert_eq!(
            hex(&one),
            "e6e4d78904d9d6b33c0cbfd121998fd2d11744dae606b3aee35e2a45d6869b60b35c63928a9232bef72d6be386f48ec6"
        );
        let two = extend(one, page::NORMAL, 0x2000, Some(&[0xaa; 4096]));
        assert_eq!(
            hex(&two),
            "b5e0545e599673bbdf34b122863a42dca3a74fcfa631a713ef10fb35bee8eb2d0d7d91a89a09decb379984934916f6a9"
        );
    }
}
