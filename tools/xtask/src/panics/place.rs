//! Where code comes from: debug information, with the functions that were inlined.

use std::path::Path;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, RunTimeEndian, SectionId};
use anyhow::{Context as _, Result, bail};
use object::{Object, ObjectSection};

use crate::paths;

type Reader<'a> = EndianSlice<'a, RunTimeEndian>;

/// The program's debug information.
pub struct Places<'a>(Context<Reader<'a>>);

/// A function and a line in it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// File, as [`short`] has it.
    pub file: String,
    /// Name without generic arguments.
    pub function: String,
    /// Line, 0 if the compiler knows none.
    pub line: u32,
}

impl<'a> Places<'a> {
    /// Reads line tables and inlined functions.
    pub fn read(elf: &object::File<'a>) -> Result<Places<'a>> {
        let load = |id: SectionId| -> Result<Reader<'a>> {
            let section = elf.section_by_name(id.name());
            let data = section.map_or(Ok(&[][..]), |section| section.data())?;
            Ok(Reader::new(data, RunTimeEndian::Little))
        };
        let dwarf = Dwarf::load(load)?;
        if elf.section_by_name(".debug_line").is_none() {
            bail!("it has no line tables: the firmware's profile sets them");
        }
        Ok(Places(
            Context::from_dwarf(dwarf).context("its debug information is damaged")?,
        ))
    }

    /// The functions that the instruction at `address` belongs to, innermost first.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let mut out = Vec::new();
        let Ok(mut frames) = self.0.find_frames(address).skip_all_loads() else {
            return out;
        };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|f| f.raw_name().ok());
            let place = frame.location.as_ref();
            out.push(Frame {
                file: short(place.and_then(|l| l.file).unwrap_or("?")),
                function: plain(&name.unwrap_or_default()),
                line: place.and_then(|l| l.line).unwrap_or(0),
            });
        }
        out
    }
}

/// A source path that is the same on every machine: `paravisor/src/main.rs` for our
/// own, `crate/src/lib.rs` for those of others, `core/src/lib.rs` for the library's.
pub fn short(path: &str) -> String {
    let root = paths::root();
    if let Ok(ours) = Path::new(path).strip_prefix(root)
        && !path.contains("/registry/")
    {
        return ours.to_string_lossy().into_owned();
    }
    if let Some(at) = path.find("/library/")
        && !path.contains("/registry/")
    {
        return path[at + "/library/".len()..].to_owned();
    }
    // A folder with a version in its name is an unpacked crate.
    let parts: Vec<&str> = path.split('/').collect();
    for (n, part) in parts.iter().enumerate().rev() {
        if let Some((name, version)) = part.rsplit_once('-')
            && version.split('.').count() >= 3
            && version.starts_with(|c: char| c.is_ascii_digit())
        {
            return [&[name], &parts[n + 1..]].concat().join("/");
        }
    }
    path.to_owned()
}

/// A function's name without its generic arguments.
fn plain(name: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(name));
    match name.find('<') {
        Some(at) if at > 0 => name[..at].to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_same_everywhere() {
        for (path, expected) in [
            (
                "/home/a/.cargo/registry/src/x-0123/iced-x86-1.22.0/src/code.rs",
                "iced-x86/src/code.rs",
            ),
            (
                "/rustc/abc/library/core/src/num/mod.rs",
                "core/src/num/mod.rs",
            ),
            ("paravisor/src/main.rs", "paravisor/src/main.rs"),
        ] {
            assert_eq!(short(path), expected);
        }
        let own = paths::root().join("loader/src/lib.rs");
        assert_eq!(short(&own.to_string_lossy()), "loader/src/lib.rs");
    }

    #[test]
    fn generic_arguments_do_not_count() {
        assert_eq!(plain("emulate<a::B, c::D>"), "emulate");
        assert_eq!(plain("{closure#0}"), "{closure#0}");
    }
}
