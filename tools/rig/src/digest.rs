//! The SEV-SNP launch digest, page by page as the firmware extends it.
//!
//! LD starts as zeros; each page replaces it by SHA-384 of a `PAGE_INFO` of 112
//! bytes: LD, SHA-384 of the content (zeros if the content is not measured),
//! length 70h, page type, IMI bit, VMPL permissions, GPA.
//! Source: SEV-SNP firmware ABI specification, 8.17.2 (SNP_LAUNCH_UPDATE,
//! "PAGE_INFO"); the worked example is in the tests.

use crate::igvm::{Directive, Error, ErrorKind, File, Page, PageType};
use abi::igvm::PAGE_SIZE;
use sha2::{Digest, Sha384};

/// A digest.
pub type LaunchDigest = [u8; 48];

/// `PAGE_TYPE` of `SNP_LAUNCH_UPDATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MeasuredAs {
    /// Content is measured.
    Normal = 1,
    /// Content (a VMSA) is measured.
    Vmsa = 2,
    /// A page of zeros which the firmware makes.
    Zero = 3,
    /// The host's content, not measured.
    Unmeasured = 4,
    /// Filled by the firmware.
    Secrets = 5,
    /// Checked by the firmware.
    Cpuid = 6,
}

/// A launch digest in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch(LaunchDigest);

impl Launch {
    /// Nothing loaded yet.
    pub const fn new() -> Self {
        Launch([0; 48])
    }

    /// Extends by one page at `gpa`. `content` counts for
    /// [`MeasuredAs::Normal`] and [`MeasuredAs::Vmsa`] only; `None` are zeros.
    pub fn page(&mut self, kind: MeasuredAs, gpa: u64, content: Option<&Page>) {
        static ZEROS: Page = [0; crate::igvm::PAGE];
        let mut info = Sha384::new();
        info.update(self.0);
        match kind {
            MeasuredAs::Normal | MeasuredAs::Vmsa => {
                info.update(Sha384::digest(content.unwrap_or(&ZEROS)));
            }
            _ => info.update([0; 48]),
        }
        info.update(0x70u16.to_le_bytes());
        info.update([kind as u8, 0]);
        info.update([0; 4]);
        info.update(gpa.to_le_bytes());
        self.0 = info.finalize().into();
    }

    /// Extends by what a directive loads; directives that load nothing change
    /// nothing. `file` resolves parameter areas. Shared pages are not measured.
    pub fn directive(&mut self, file: &File<'_>, directive: &Directive<'_>) -> Result<(), Error> {
        match *directive {
            Directive::PageData {
                gpa,
                flags,
                page_type,
                data,
            } if !flags.shared => {
                let kind = match page_type {
                    PageType::Normal if flags.unmeasured => MeasuredAs::Unmeasured,
                    PageType::Normal => MeasuredAs::Normal,
                    PageType::Secrets => MeasuredAs::Secrets,
                    PageType::Cpuid | PageType::CpuidExtended => MeasuredAs::Cpuid,
                };
                self.page(kind, gpa, data);
            }
            Directive::VpContext { gpa, vmsa, .. } => self.page(MeasuredAs::Vmsa, gpa, Some(vmsa)),
            Directive::ParameterInsert { gpa, index } => {
                let size = file.parameter_area(index)?;
                // Both are multiples of the page size below 2^52.
                let pages = size.checked_div(PAGE_SIZE).unwrap_or(0);
                if pages > MAX_AREA_PAGES {
                    return Err(Error {
                        offset: 0,
                        kind: ErrorKind::Area(index),
                    });
                }
                for page in 0..pages {
                    let gpa = gpa.wrapping_add(page.wrapping_mul(PAGE_SIZE));
                    self.page(MeasuredAs::Unmeasured, gpa, None);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The digest so far.
    pub const fn digest(&self) -> &LaunchDigest {
        &self.0
    }
}

impl Default for Launch {
    fn default() -> Self {
        Launch::new()
    }
}

/// Largest parameter area that is loaded (64 KiB pages = 256 MiB): a bound for
/// the loop, far above what any image declares.
const MAX_AREA_PAGES: u64 = 0x1_0000;

/// The digest of a whole file.
pub fn measure(file: &File<'_>) -> Result<LaunchDigest, Error> {
    let mut launch = Launch::new();
    for directive in file.directives() {
        launch.directive(file, &directive?)?;
    }
    Ok(*launch.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn worked_example_of_two_normal_pages() {
        // Equal to Python's hashlib, the igvm crate and SVSM's igvmmeasure.
        let mut launch = Launch::new();
        launch.page(MeasuredAs::Normal, 0x1000, None);
        assert_eq!(
            hex(launch.digest()),
            "e6e4d78904d9d6b33c0cbfd121998fd2d11744dae606b3aee35e2a45d6869b60b35c63928a9232bef72d6be386f48ec6"
        );
        launch.page(MeasuredAs::Normal, 0x2000, Some(&[0xaa; 4096]));
        assert_eq!(
            hex(launch.digest()),
            "b5e0545e599673bbdf34b122863a42dca3a74fcfa631a713ef10fb35bee8eb2d0d7d91a89a09decb379984934916f6a9"
        );
    }

    #[test]
    fn content_of_firmware_pages_does_not_count_but_their_kind_and_place_do() {
        let one = |kind, gpa, content: Option<&Page>| {
            let mut launch = Launch::new();
            launch.page(kind, gpa, content);
            *launch.digest()
        };
        for kind in [
            MeasuredAs::Zero,
            MeasuredAs::Unmeasured,
            MeasuredAs::Secrets,
            MeasuredAs::Cpuid,
        ] {
            assert_eq!(one(kind, 0, None), one(kind, 0, Some(&[1; 4096])));
            assert_ne!(one(kind, 0, None), one(kind, 0x1000, None));
            assert_ne!(one(kind, 0, None), one(MeasuredAs::Normal, 0, None));
        }
        assert_ne!(
            one(MeasuredAs::Vmsa, 0, None),
            one(MeasuredAs::Vmsa, 0, Some(&[1; 4096]))
        );
    }
}
