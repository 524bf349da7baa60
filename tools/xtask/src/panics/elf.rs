//! A linked program as functions of decoded instructions, with the `Location`s that
//! panics carry.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// Bits of the code.
const BITNESS: u32 = 64;
/// Longest path of a source file that is believed.
const MAX_FILE: usize = 512;

/// Where in the source a panic says that it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Path of the file, as the compiler had it.
    pub file: String,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// A function of the program.
pub struct Function {
    /// Its name, demangled, without hash.
    pub name: String,
    /// Its instructions in order.
    pub code: Vec<Instruction>,
}

/// A linked program.
pub struct Program {
    /// Functions by address.
    pub functions: BTreeMap<u64, Function>,
    /// Locations by address.
    pub locations: BTreeMap<u64, Location>,
    /// Words in the program's data that may be addresses of code.
    pub words: Vec<u64>,
}

struct Section<'a> {
    range: Range<u64>,
    data: &'a [u8],
}

impl Section<'_> {
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        let from = usize::try_from(range.start.checked_sub(self.range.start)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(self.range.start)?).ok()?;
        self.data.get(from..to)
    }
}

impl Program {
    /// Reads an ELF file.
    pub fn read(elf: &object::File<'_>) -> Result<Program> {
        let text = sections(elf, |kind| kind == SectionKind::Text)?;
        let data = sections(elf, |kind| {
            matches!(kind, SectionKind::ReadOnlyData | SectionKind::Data)
                || kind == SectionKind::ReadOnlyString
                || kind == SectionKind::ReadOnlyDataWithRel
        })?;
        let functions = functions(elf, &text)?;
        if functions.is_empty() {
            bail!("there are no functions in its symbol table");
        }
        let words: Vec<(u64, u64)> = data.iter().flat_map(words).collect();
        let locations = words
            .iter()
            .filter_map(|(at, _)| Some((*at, location(&data, *at)?)))
            .collect();
        Ok(Program {
            functions,
            locations,
            words: words.into_iter().map(|(_, word)| word).collect(),
        })
    }
}

fn sections<'a>(
    elf: &object::File<'a>,
    wanted: impl Fn(SectionKind) -> bool,
) -> Result<Vec<Section<'a>>> {
    let mut out = Vec::new();
    for section in elf.sections().filter(|s| wanted(s.kind())) {
        let data = section
            .data()
            .context("a section lies outside of the file")?;
        let start = section.address();
        out.push(Section {
            range: start..start + data.len() as u64,
            data,
        });
    }
    Ok(out)
}

fn functions(elf: &object::File<'_>, text: &[Section<'_>]) -> Result<BTreeMap<u64, Function>> {
    let mut symbols: Vec<(u64, u64, &str)> = elf
        .symbols()
        .filter(|s| matches!(s.kind(), SymbolKind::Text | SymbolKind::Label))
        .filter_map(|s| Some((s.address(), s.size(), s.name().ok()?)))
        .collect();
    symbols.sort_unstable_by_key(|(start, size, _)| (*start, std::cmp::Reverse(*size)));
    symbols.dedup_by_key(|(start, ..)| *start);
    let mut out = BTreeMap::new();
    for (n, (start, size, name)) in symbols.iter().enumerate() {
        let Some(section) = text.iter().find(|s| s.range.contains(start)) else {
            continue;
        };
        // Assembly may not say how long it is: it reaches to what follows.
        let next = symbols.get(n + 1).map_or(section.range.end, |(at, ..)| *at);
        let end = match size {
            0 => next.min(section.range.end),
            size => start + size,
        };
        let bytes = section
            .bytes(*start..end)
            .with_context(|| format!("{name} reaches out of its section"))?;
        out.insert(
            *start,
            Function {
                name: format!("{:#}", rustc_demangle::demangle(name)),
                code: Decoder::with_ip(BITNESS, bytes, *start, DecoderOptions::NONE)
                    .into_iter()
                    .collect(),
            },
        );
    }
    Ok(out)
}

fn words(section: &Section<'_>) -> Vec<(u64, u64)> {
    let start = section.range.start.next_multiple_of(8);
    (start..section.range.end)
        .step_by(8)
        .filter_map(|at| Some((at, word(section, at)?)))
        .collect()
}

fn word(section: &Section<'_>, at: u64) -> Option<u64> {
    let bytes = section.bytes(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A `core::panic::Location`: a file's name by address and length, line and column.
/// Nothing marks it but what it looks like.
fn location(data: &[Section<'_>], at: u64) -> Option<Location> {
    let section = data.iter().find(|s| s.range.contains(&at))?;
    let (name, len) = (word(section, at)?, word(section, at + 8)?);
    let place = word(section, at + 16)?;
    if !(4..MAX_FILE as u64).contains(&len) {
        return None;
    }
    let file = data
        .iter()
        .find_map(|s| s.bytes(name..name.checked_add(len)?))?;
    let file = std::str::from_utf8(file).ok()?.trim_end_matches('\0');
    let (line, column) = (place as u32, (place >> 32) as u32);
    let sound = file.ends_with(".rs") && !file.contains(['\0', '\n', ' ']) && line != 0;
    sound.then(|| Location {
        file: file.to_owned(),
        line,
        column,
    })
}

/// Where a direct call or jump goes.
pub fn target(instruction: &Instruction) -> Option<u64> {
    let near = matches!(
        instruction.op0_kind(),
        OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16
    );
    let flow = matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
    );
    (near && flow).then(|| instruction.near_branch_target())
}

/// Addresses that an instruction makes or reads, other than as the target of a jump.
pub fn addresses(instruction: &Instruction) -> impl Iterator<Item = u64> + '_ {
    (0..instruction.op_count()).filter_map(|n| match instruction.op_kind(n) {
        OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
            Some(instruction.ip_rel_memory_address())
        }
        OpKind::Memory
            if instruction.memory_base() == Register::None
                && instruction.memory_index() == Register::None =>
        {
            Some(instruction.memory_displacement64())
        }
        OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => {
            Some(instruction.immediate(n))
        }
        _ => None,
    })
}
