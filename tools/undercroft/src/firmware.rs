//! Stage and paravisor: statically linked ELF files, split into segments of
//! whole pages with one set of rights each.

use crate::{Error, Input};
use loader::layout::{self, Range};
use loader::page_tables::{Access, Segment};
use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use std::path::PathBuf;

/// A loadable ELF.
#[derive(Debug)]
pub struct Firmware {
    /// Entry point.
    pub entry: u64,
    /// All segments, from the first page to the last.
    pub range: Range,
    /// Rights per segment, for the page tables.
    pub segments: Vec<Segment>,
    /// Content per segment in whole pages (bss as zeros), in order of `segments`.
    pub contents: Vec<Vec<u8>>,
}

impl Firmware {
    /// Checks an ELF whose segments must lie in `home`.
    pub fn parse(input: &Input, home: Range) -> Result<Firmware, Error> {
        parse(&input.bytes, home).map_err(|problem| Error::Firmware {
            name: input.name.clone(),
            problem,
        })
    }
}

fn parse(bytes: &[u8], home: Range) -> Result<Firmware, String> {
    let elf_error = |e: object::Error| format!("not a usable ELF file ({e}); build it again");
    let header = elf::FileHeader64::<LittleEndian>::parse(bytes).map_err(elf_error)?;
    let endian = header.endian().map_err(elf_error)?;
    if header.e_machine(endian) != elf::EM_X86_64 || header.e_type(endian) != elf::ET_EXEC {
        return Err(
            "not a statically linked x86-64 executable; build it for x86_64-unknown-none".into(),
        );
    }
    let mut loads: Vec<_> = header
        .program_headers(endian, bytes)
        .map_err(elf_error)?
        .iter()
        .filter(|p| p.p_type(endian) == elf::PT_LOAD && p.p_memsz(endian) != 0)
        .collect();
    loads.sort_by_key(|p| p.p_vaddr(endian));
    let mut firmware = Firmware {
        entry: header.e_entry(endian),
        range: Range {
            start: home.start,
            end: home.start,
        },
        segments: Vec::new(),
        contents: Vec::new(),
    };
    for load in loads {
        let start = load.p_vaddr(endian);
        let memory = load.p_memsz(endian);
        let data = load
            .data(endian, bytes)
            .map_err(|()| format!("segment at {start:#x} lies outside of the file"))?;
        let flags = load.p_flags(endian);
        let access = match (flags & elf::PF_W != 0, flags & elf::PF_X != 0) {
            (true, true) => {
                return Err(format!("segment at {start:#x} is writable and executable"));
            }
            (true, false) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (false, false) => Access::Read,
        };
        let end = start
            .checked_add(memory)
            .and_then(|end| end.checked_next_multiple_of(layout::PAGE))
            .filter(|end| *end <= home.end)
            .filter(|_| start >= home.start && data.len() as u64 <= memory)
            .ok_or_else(|| {
                format!(
                    "segment at {start:#x} with {memory:#x} bytes lies outside of its place {:#x}..{:#x}; check the linker script",
                    home.start, home.end
                )
            })?;
        if !start.is_multiple_of(layout::PAGE) {
            return Err(format!(
                "segment at {start:#x} does not begin on a page boundary; check the linker script"
            ));
        }
        if start < firmware.range.end {
            return Err(format!("segment at {start:#x} shares a page with another"));
        }
        if firmware.segments.is_empty() {
            firmware.range.start = start;
        }
        firmware.range.end = end;
        let mut content = data.to_vec();
        content.resize((end - start) as usize, 0);
        firmware.segments.push(Segment {
            range: Range { start, end },
            access,
        });
        firmware.contents.push(content);
    }
    let entry = firmware.entry;
    let executable = |s: &Segment| s.access == Access::ReadExecute && s.range.contains(entry);
    if !firmware.segments.iter().any(executable) {
        return Err(format!("its entry point {entry:#x} is in no code segment"));
    }
    Ok(firmware)
}

/// Environment variable with the directory of the firmware.
pub const FIRMWARE_ENV: &str = "UNDERCROFT_FIRMWARE";

/// Finds firmware which the user did not name: in the directory of
/// [`FIRMWARE_ENV`], beside this program, or in the target directory of the
/// workspace that built this program.
pub fn find(what: &'static str) -> Result<PathBuf, Error> {
    let mut looked = Vec::new();
    if let Some(directory) = std::env::var_os(FIRMWARE_ENV) {
        looked.push(PathBuf::from(directory).join(what));
    } else if let Ok(program) = std::env::current_exe()
        && let Some(directory) = program.parent()
    {
        looked.push(directory.join("firmware").join(what));
        // target/debug/undercroft and target/debug/deps/some-test.
        for target in directory.ancestors().skip(1).take(2) {
            looked.push(target.join("x86_64-unknown-none/firmware").join(what));
        }
    }
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::FirmwareMissing { what, looked }),
    }
}
