//! `cargo xtask size`: how big the trusted part is, in bytes, memory, crates and
//! unsafe blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSegment};
use serde::Serialize;

use crate::firmware::{self, Payload};
use crate::guest::synthetic::{self, Misdeed};
use crate::nic::Nic;
use crate::setup::target::TRIPLE;
use crate::ui::bytes;
use crate::unsafe_scan::{self, Unsafe};
use crate::{paths, process};

/// Crates of ours that run in the VM, with their folders.
const FIRMWARE: [(&str, &str); 10] = [
    ("abi", "abi"),
    ("loader", "loader"),
    ("memory", "paravisor/memory"),
    ("validate", "paravisor/validate"),
    ("vmbus", "paravisor/vmbus"),
    ("netvsc", "paravisor/netvsc"),
    ("devices", "paravisor/devices"),
    ("platform", "paravisor/platform"),
    ("relay", "paravisor/relay"),
    ("paravisor", "paravisor"),
];
/// Crates of ours that never run in the VM.
const OUTSIDE: [(&str, &str); 4] = [
    ("hostkit", "tools/hostkit"),
    ("rig", "tools/rig"),
    ("undercroft", "tools/undercroft"),
    ("xtask", "tools/xtask"),
];
const PAGE: u64 = 4096;

/// The figures.
#[derive(Debug, Serialize)]
pub struct Size {
    /// An image with a guest of one page, less that page.
    image: Image,
    /// Loaded bytes of the two programs.
    programs: BTreeMap<&'static str, Program>,
    /// Memory of the VM that the guest does not get.
    memory: Memory,
    /// Crates in the firmware's dependency tree.
    crates: Crates,
    /// `unsafe` in our own crates that run in the VM.
    unsafe_firmware: BTreeMap<&'static str, Unsafe>,
    /// And in those that do not.
    unsafe_outside: BTreeMap<&'static str, Unsafe>,
}

#[derive(Debug, Serialize)]
struct Image {
    file_bytes: u64,
    payload_bytes: u64,
    without_payload_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Program {
    /// Bytes that are in the image.
    file: u64,
    /// Bytes in memory, with what starts as zero.
    memory: u64,
}

#[derive(Debug, Serialize)]
struct Memory {
    region_bytes: u64,
    pool_bytes: u64,
    private_bytes: u64,
    /// Area of each VP but the first, which lies in the region.
    vp_bytes: u64,
    /// Of it, what is validated and not the guest's; the rest is never touched.
    vp_private_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Crates {
    ours: BTreeSet<String>,
    others: BTreeSet<String>,
}

/// Builds and measures.
pub fn measure() -> Result<Size> {
    let built = firmware::build()?;
    let programs = BTreeMap::from([
        ("stage", program(&built.stage)?),
        ("paravisor", program(&built.paravisor)?),
    ]);
    Ok(Size {
        image: image(&built)?,
        programs,
        memory: Memory {
            region_bytes: loader::layout::SIZE,
            pool_bytes: loader::layout::POOL.len(),
            private_bytes: loader::layout::SIZE - loader::layout::POOL.len(),
            vp_bytes: loader::layout::VP_AREA,
            vp_private_bytes: loader::layout::VP_USED.len(),
        },
        crates: crates()?,
        unsafe_firmware: scan(&FIRMWARE)?,
        unsafe_outside: scan(&OUTSIDE)?,
    })
}

/// Builds, measures, prints.
pub fn size(json: bool) -> Result<()> {
    let size = measure()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&size)?);
    } else {
        print!("{}", size.text());
    }
    Ok(())
}

impl Size {
    /// The image without its guest.
    pub fn image_bytes(&self) -> u64 {
        self.image.without_payload_bytes
    }

    /// Private memory of a VM with one processor.
    pub fn private_bytes(&self) -> u64 {
        self.memory.private_bytes
    }

    /// As a table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<29} {value}");
        };
        row(
            "image without guest payload",
            bytes(self.image.without_payload_bytes),
        );
        for (name, program) in &self.programs {
            let (file, memory) = (bytes(program.file), bytes(program.memory));
            row(
                &format!("  {name}"),
                format!("{file} in the image, {memory} in memory"),
            );
        }
        row(
            "memory kept from the guest",
            bytes(self.memory.region_bytes),
        );
        row("  private", bytes(self.memory.private_bytes));
        row("  pool that becomes shared", bytes(self.memory.pool_bytes));
        row(
            "  for each further VP",
            format!(
                "{}, {} of it validated",
                bytes(self.memory.vp_bytes),
                bytes(self.memory.vp_private_bytes)
            ),
        );
        let (ours, others) = (&self.crates.ours, &self.crates.others);
        row(
            "crates in the firmware",
            (ours.len() + others.len()).to_string(),
        );
        row("  ours", ours.len().to_string());
        let names: Vec<_> = others.iter().map(String::as_str).collect();
        row(
            "  others",
            format!("{} ({})", others.len(), names.join(", ")),
        );
        for (what, table) in [
            ("in the firmware", &self.unsafe_firmware),
            ("outside of it", &self.unsafe_outside),
        ] {
            let sum: usize = table.values().map(|count| count.blocks).sum();
            row(&format!("unsafe blocks {what:<15}"), sum.to_string());
            for (name, count) in table {
                row(
                    &format!("  {name}"),
                    format!(
                        "{} blocks, {} functions, {} impls, {} attributes",
                        count.blocks, count.functions, count.impls, count.attributes
                    ),
                );
            }
        }
        text
    }
}

fn program(elf: &Path) -> Result<Program> {
    let raw = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(raw.as_slice()).context("not an ELF file")?;
    let mut sizes = Program { file: 0, memory: 0 };
    for segment in file.segments() {
        sizes.file += segment.file_range().1;
        sizes.memory += segment.size();
    }
    Ok(sizes)
}

/// An image around the smallest guest: one page of kernel, no initrd.
fn image(built: &firmware::Built) -> Result<Image> {
    let dir = tempfile::tempdir().context("cannot create a temporary folder")?;
    let (kernel, out) = (dir.path().join("kernel"), dir.path().join("size.igvm"));
    let bzimage = synthetic::kernel(Misdeed::TripleFault);
    std::fs::write(&kernel, bzimage).context("cannot write a kernel")?;
    let payload = Payload {
        kernel: &kernel,
        initrd: None,
        append: "",
        nic: Nic::default(),
    };
    built.image(&payload, &out)?;
    let file_bytes = std::fs::metadata(&out)
        .context("the image tool left no image")?
        .len();
    let payload_bytes = PAGE;
    Ok(Image {
        file_bytes,
        payload_bytes,
        without_payload_bytes: file_bytes - payload_bytes,
    })
}

fn crates() -> Result<Crates> {
    let mut command = firmware::cargo();
    command.args([
        "tree",
        "--quiet",
        "-p",
        "paravisor",
        "-p",
        "undercroft-loader",
    ]);
    command.args(["--target", TRIPLE, "--edges", "normal,no-proc-macro"]);
    command.args(["--prefix", "none", "--format", "{p}"]);
    let text = process::output(&mut command)?;
    let mut crates = Crates {
        ours: BTreeSet::new(),
        others: BTreeSet::new(),
    };
    for line in text.lines() {
        let Some(name) = line.split_whitespace().next() else {
            continue;
        };
        // Crates of the workspace are printed with their folder.
        let set = if line.contains("(/") {
            &mut crates.ours
        } else {
            &mut crates.others
        };
        set.insert(name.to_owned());
    }
    Ok(crates)
}

fn scan(crates: &[(&'static str, &str)]) -> Result<BTreeMap<&'static str, Unsafe>> {
    crates
        .iter()
        .map(|(name, dir)| Ok((*name, unsafe_scan::scan_crate(&paths::root().join(dir))?)))
        .collect()
}
