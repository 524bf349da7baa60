//! Launch: what host loader and security processor do together. Places pages
//! from the IGVM file in file order, extends the digest, fills the pages that the
//! firmware owns.

use super::end::{End, end};
use super::ram::Ram;
use abi::igvm::{MemoryMapEntry, memory_type};
use abi::record::Outcome;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use rig::digest::Launch;
use rig::igvm::{Directive, File, PAGE, Page, PageType};
use rig::rmp::Rmp;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U64};

/// What the loader found.
pub struct Loaded {
    /// Guest frame of VMPL0's VMSA.
    pub vmsa_gfn: u64,
    /// The launch digest.
    pub digest: [u8; 48],
    /// Pages placed.
    pub pages: u64,
}

/// Where pages go.
pub struct Loader<'a> {
    /// The VM's memory.
    pub ram: Ram,
    /// Its owners.
    pub rmp: &'a mut Rmp,
    /// Content of the CPUID page.
    pub cpuid: &'a Page,
    /// Content of the secrets page.
    pub secrets: &'a Page,
    /// Number of VPs, as the image is told.
    pub vps: u32,
}

/// Largest parameter area, bytes.
const MAX_AREA: u64 = 1 << 20;

fn rejected<E: core::fmt::Display>(error: E) -> End {
    End {
        outcome: Outcome::ImageRejected,
        message: alloc::format!("{error}"),
    }
}

impl Loader<'_> {
    /// Places one page. `vmsa` marks it in the RMP.
    pub fn place(&mut self, gpa: u64, content: Option<&[u8]>, vmsa: bool) -> Result<(), End> {
        static ZEROS: Page = [0; PAGE];
        if gpa >= self.ram.size() {
            return end!(
                Outcome::ImageRejected,
                "page at {gpa:#x} lies outside of the VM's memory"
            );
        }
        if !self.rmp.launch(gpa >> 12, vmsa) {
            return end!(Outcome::ImageRejected, "page at {gpa:#x} is loaded twice");
        }
        self.ram.write(gpa, content.unwrap_or(&ZEROS));
        Ok(())
    }

    /// Loads a file.
    pub fn file(&mut self, bytes: &[u8]) -> Result<Loaded, End> {
        let file = File::parse(bytes).map_err(rejected)?;
        let mut launch = Launch::new();
        let mut areas: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut vmsa_gfn = None;
        let mut pages = 0;
        for directive in file.directives() {
            let directive = directive.map_err(rejected)?;
            launch.directive(&file, &directive).map_err(rejected)?;
            match directive {
                Directive::RequiredMemory { gpa, size, .. } => {
                    if gpa.checked_add(size).is_none_or(|e| e > self.ram.size()) {
                        return end!(
                            Outcome::ImageRejected,
                            "the image needs memory {gpa:#x}+{size:#x}, the VM has {:#x} bytes",
                            self.ram.size()
                        );
                    }
                }
                Directive::ParameterArea {
                    index,
                    size,
                    initial,
                } => {
                    if size > MAX_AREA {
                        return end!(
                            Outcome::ImageRejected,
                            "parameter area {index} has {size:#x} bytes"
                        );
                    }
                    let mut area = alloc::vec![0; size as usize];
                    if let Some(initial) = initial {
                        area.copy_from_slice(initial);
                    }
                    areas.insert(index, area);
                }
                Directive::MemoryMap { index, offset } => {
                    let map = self.memory_map();
                    parameter(&mut areas, index, offset, map.as_bytes())?;
                }
                Directive::VpCount { index, offset } => {
                    parameter(&mut areas, index, offset, &self.vps.to_le_bytes())?;
                }
                Directive::CommandLine { index, offset } => {
                    parameter(&mut areas, index, offset, &[0])?;
                }
                Directive::OtherParameter { .. } => {}
                Directive::ParameterInsert { gpa, index } => {
                    let Some(area) = areas.get(&index) else {
                        return end!(
                            Outcome::ImageRejected,
                            "parameter area {index} does not exist"
                        );
                    };
                    for (page, content) in area.chunks_exact(PAGE).enumerate() {
                        self.place(
                            gpa.saturating_add((page * PAGE) as u64),
                            Some(content),
                            false,
                        )?;
                        pages += 1;
                    }
                }
                Directive::PageData {
                    gpa,
                    flags,
                    page_type,
                    data,
                } => {
                    let content = match page_type {
                        PageType::Normal => data,
                        PageType::Secrets => Some(self.secrets),
                        PageType::Cpuid => Some(self.cpuid),
                        PageType::CpuidExtended => None,
                    };
                    self.place(gpa, content.map(|c| &c[..]), false)?;
                    if flags.shared {
                        self.rmp.update(gpa >> 12, false);
                    }
                    pages += 1;
                }
                Directive::VpContext {
                    gpa,
                    vp_index,
                    vmsa,
                } => {
                    if vp_index != 0 || vmsa_gfn.is_some() {
                        return end!(
                            Outcome::ImageRejected,
                            "the rig takes one VMSA from the image, that of VP 0; this one is for {vp_index}"
                        );
                    }
                    if gpa.is_multiple_of(0x20_0000) {
                        return end!(
                            Outcome::ImageRejected,
                            "VMSA at {gpa:#x} is aligned to 2 MiB"
                        );
                    }
                    self.place(gpa, Some(vmsa), true)?;
                    vmsa_gfn = Some(gpa >> 12);
                    pages += 1;
                }
            }
        }
        let Some(vmsa_gfn) = vmsa_gfn else {
            return end!(Outcome::ImageRejected, "the image has no VMSA");
        };
        Ok(Loaded {
            vmsa_gfn,
            digest: *launch.digest(),
            pages,
        })
    }

    fn memory_map(&self) -> [MemoryMapEntry; 2] {
        let ram = MemoryMapEntry {
            starting_gpa_page_number: U64::new(0),
            number_of_pages: U64::new(self.ram.size() >> 12),
            entry_type: U16::new(memory_type::MEMORY),
            ..MemoryMapEntry::default()
        };
        [ram, MemoryMapEntry::default()]
    }
}

fn parameter(
    areas: &mut BTreeMap<u32, Vec<u8>>,
    index: u32,
    offset: u32,
    value: &[u8],
) -> Result<(), End> {
    let start = offset as usize;
    let place = start
        .checked_add(value.len())
        .and_then(|end| areas.get_mut(&index)?.get_mut(start..end));
    match place {
        Some(place) => {
            place.copy_from_slice(value);
            Ok(())
        }
        None => end!(
            Outcome::ImageRejected,
            "parameter does not fit into area {index} at {offset:#x}"
        ),
    }
}
