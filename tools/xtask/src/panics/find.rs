//! Ways into the panic handler, read from the machine code.
//!
//! What cannot return and ends in the handler, and is part of Rust's own library, is
//! the machinery of panics; everything else that calls or jumps to it is a way in.
//! `Location`s tell apart what the linker's merging of equal code has put together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use iced_x86::FlowControl;

use super::elf::{self, Function, Location, Program};
use super::place::{Frame, Places, short};

/// Crates of Rust's own library.
const LIBRARY: [&str; 4] = ["core/", "alloc/", "std/", "compiler_builtins/"];
/// How far the call may be from the instruction that loads its `Location`.
const REACH: usize = 64;

/// Ways into the handler, of one kind and in one function.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Where and what: `FILE FUNCTION: KIND`.
    pub key: String,
    /// Lines (and columns, where a panic has them).
    pub lines: BTreeSet<(u32, u32)>,
    /// Functions of the machine code that they are part of.
    pub homes: BTreeSet<String>,
}

impl Found {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.key, self.count())?;
        if f.alternate() {
            let lines: Vec<_> = self
                .lines
                .iter()
                .map(|(line, column)| format!("{line}:{column}"))
                .collect();
            write!(f, "\n    lines {}", lines.join(", "))?;
            for home in &self.homes {
                write!(f, "\n    in {home}")?;
            }
        }
        Ok(())
    }
}

/// Looks through a linked program.
pub fn find(raw: &[u8]) -> Result<BTreeSet<Found>> {
    let elf = object::File::parse(raw)?;
    let program = Program::read(&elf)?;
    let places = Places::read(&elf)?;
    let machinery = machinery(&program);
    let mut sites = Vec::new();
    for (at, function) in &program.functions {
        if !machinery.contains_key(at) {
            sites.extend(look(function, &program, &machinery));
        }
    }
    // A function that is told where it was called may only want to log it.
    let panicking: BTreeSet<String> = sites
        .iter()
        .filter(|site| site.location.is_none())
        .map(|site| site.home.clone())
        .collect();
    sites.retain(|site| match &site.told {
        Some(name) => panicking.contains(name),
        None => true,
    });
    // Panics that are called by address: nothing tells when.
    for word in &program.words {
        if let Some(kind) = machinery.get(word)
            && !handler(&program.functions[word].name)
        {
            sites.push(Site {
                ip: *word,
                kind: format!("address of {kind} in data"),
                location: None,
                told: None,
                home: String::new(),
            });
        }
    }
    Ok(group(sites, &places))
}

struct Site {
    ip: u64,
    kind: String,
    location: Option<Location>,
    /// The function that gets the location, if it is none of the machinery.
    told: Option<String>,
    /// The function of the machine code.
    home: String,
}

/// The handler itself, and what calls it for want of memory.
fn handler(name: &str) -> bool {
    name.ends_with("rust_begin_unwind") || name.contains("rust_alloc_error_handler")
}

/// The machinery of panics by address, with what each part says.
fn machinery(program: &Program) -> BTreeMap<u64, String> {
    let mut out = BTreeMap::new();
    for (at, function) in &program.functions {
        if handler(&function.name) || function.name.starts_with("core::panicking::") {
            out.insert(*at, kind(&function.name));
        }
    }
    loop {
        let before = out.len();
        for (at, function) in &program.functions {
            let library = ["core::", "<core::", "alloc::", "__rustc::"]
                .iter()
                .any(|name| function.name.starts_with(name));
            if library && !out.contains_key(at) && never_returns(function, *at, &out) {
                out.insert(*at, kind(&function.name));
            }
            // What makes a vector or a text longer returns, or not: who calls it counts.
            let grows = ["alloc::", "<alloc::"]
                .iter()
                .any(|name| function.name.starts_with(name));
            if grows && !out.contains_key(at) && calls(function, &out) {
                out.insert(*at, kind(&function.name));
            }
        }
        if out.len() == before {
            return out;
        }
    }
}

/// Whether a function calls a part of the machinery.
fn calls(function: &Function, machinery: &BTreeMap<u64, String>) -> bool {
    let mut targets = function.code.iter().filter_map(elf::target);
    targets.any(|to| machinery.contains_key(&to))
}

/// Whether a function's only ends are in the machinery.
fn never_returns(function: &Function, at: u64, machinery: &BTreeMap<u64, String>) -> bool {
    let Some(last) = function.code.last() else {
        return false;
    };
    let inside = at..last.next_ip();
    let mut ends = false;
    for instruction in &function.code {
        match instruction.flow_control() {
            FlowControl::Return | FlowControl::IndirectBranch => return false,
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                let Some(target) = elf::target(instruction) else {
                    return false;
                };
                if machinery.contains_key(&target) {
                    ends = true;
                } else if !inside.contains(&target) {
                    return false;
                }
            }
            FlowControl::Call => {
                ends |= elf::target(instruction).is_some_and(|to| machinery.contains_key(&to));
            }
            _ => {}
        }
    }
    ends
}

/// What a part of the machinery is called for, in words.
fn kind(name: &str) -> String {
    let plain = name.split("::<").next().unwrap_or(name);
    let plain = plain.split('<').next().unwrap_or(plain);
    let last = plain.rsplit("::").next().unwrap_or(plain);
    if let Some(what) = last.strip_prefix("panic_const_") {
        return what.replace('_', " ");
    }
    let alloc = name.starts_with("alloc::") || name.starts_with("<alloc::");
    if alloc && last != "capacity_overflow" {
        return "out of memory".to_owned();
    }
    let words = match plain {
        "core::option::unwrap_failed" => "unwrap of None",
        "core::option::expect_failed" => "expect of None",
        "core::result::unwrap_failed" => "unwrap of Err",
        "core::panicking::panic_bounds_check" => "index out of bounds",
        "core::slice::index::slice_index_fail" => "slice out of bounds",
        "core::str::slice_error_fail" => "text out of bounds",
        "core::panicking::panic" | "core::panicking::panic_fmt" => "panic",
        "core::panicking::assert_failed" | "core::panicking::assert_failed_inner" => "assert",
        "alloc::raw_vec::capacity_overflow" => "capacity overflow",
        _ => return last.to_owned(),
    };
    words.to_owned()
}

/// The ways into the machinery from one function.
fn look(function: &Function, program: &Program, machinery: &BTreeMap<u64, String>) -> Vec<Site> {
    let code = &function.code;
    let call = |n: usize| machinery.get(&elf::target(code.get(n)?)?);
    let site = |n: usize, kind: &str| Site {
        ip: code[n].ip(),
        kind: kind.to_owned(),
        location: None,
        told: None,
        home: function.name.clone(),
    };
    let mut out = Vec::new();
    let mut explained = BTreeSet::new();
    for (n, instruction) in code.iter().enumerate() {
        for address in elf::addresses(instruction) {
            if let Some(kind) = machinery.get(&address) {
                out.push(site(n, &format!("address of {kind}")));
            }
            let Some(location) = program.locations.get(&address) else {
                continue;
            };
            let (kind, told) = match destination(function, n + 1, program, machinery) {
                Some(Destination::Machinery(at)) => {
                    explained.insert(at);
                    (call(at).cloned(), None)
                }
                Some(Destination::Function(name)) => (None, Some(name)),
                None => (None, None),
            };
            out.push(Site {
                location: Some(location.clone()),
                told,
                ..site(n, kind.as_deref().unwrap_or("panic"))
            });
        }
    }
    let calls = (0..code.len()).filter(|n| !explained.contains(n));
    out.extend(calls.filter_map(|n| Some(site(n, call(n)?))));
    out
}

enum Destination {
    /// A call of the machinery, by its index in the function.
    Machinery(usize),
    /// A function that is told where it was called.
    Function(String),
}

/// Where a `Location` that was loaded before instruction `n` goes: to the next call.
fn destination(
    function: &Function,
    mut n: usize,
    program: &Program,
    machinery: &BTreeMap<u64, String>,
) -> Option<Destination> {
    for _ in 0..REACH {
        let instruction = function.code.get(n)?;
        let target = elf::target(instruction);
        if target.is_some_and(|to| machinery.contains_key(&to)) {
            return Some(Destination::Machinery(n));
        }
        n = match instruction.flow_control() {
            FlowControl::Call => {
                let name = &program.functions.get(&target?)?.name;
                return Some(Destination::Function(name.clone()));
            }
            FlowControl::UnconditionalBranch => {
                let to = target?;
                match function.code.binary_search_by_key(&to, |i| i.ip()) {
                    Ok(n) => n,
                    Err(_) => {
                        let name = &program.functions.get(&to)?.name;
                        return Some(Destination::Function(name.clone()));
                    }
                }
            }
            FlowControl::Return | FlowControl::IndirectBranch => return None,
            _ => n + 1,
        };
    }
    None
}

fn group(sites: Vec<Site>, places: &Places<'_>) -> BTreeSet<Found> {
    let mut groups: BTreeMap<String, Found> = BTreeMap::new();
    for site in sites {
        let frames = places.frames(site.ip);
        let own = site.location.as_ref().map(|l| short(&l.file));
        let (file, function, line) = match choose(&frames, own.as_deref()) {
            Some(frame) => {
                // A place in the library says nothing about ours.
                let here = site.location.filter(|_| own.as_ref() == Some(&frame.file));
                let line = here.map_or((frame.line, 0), |l| (l.line, l.column));
                (frame.file.clone(), frame.function.as_str(), line)
            }
            None => ("?".to_owned(), "", (0, 0)),
        };
        let function = match function {
            "" => &site.home,
            name => name,
        };
        let key = format!("{file} {function}: {}", site.kind);
        let found = groups.entry(key.clone()).or_insert_with(|| Found {
            key,
            lines: BTreeSet::new(),
            homes: BTreeSet::new(),
        });
        found.lines.insert(line);
        found.homes.insert(site.home);
    }
    groups.into_values().collect()
}

/// The function in which a panic is written: the innermost that is not of Rust's
/// library, of the panic's own file if that is one of them.
fn choose<'a>(frames: &'a [Frame], file: Option<&str>) -> Option<&'a Frame> {
    let outside = |frame: &&Frame| !LIBRARY.iter().any(|name| frame.file.starts_with(name));
    let same = |frame: &&Frame| Some(&*frame.file) == file && outside(frame);
    frames
        .iter()
        .find(same)
        .or_else(|| frames.iter().find(outside))
        .or_else(|| frames.first())
}
