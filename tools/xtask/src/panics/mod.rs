//! `cargo xtask panics`: which ways into the panic handler are left in the linked
//! firmware, and does each have its reason in `tools/xtask/panics.toml`.

mod elf;
mod find;
mod list;
mod place;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::firmware::{self, Built};
use find::Found;
use list::List;

/// What `panics` takes.
#[derive(Args)]
pub struct PanicsArgs {
    /// Print every path with its source lines and the functions it ends up in
    #[arg(long)]
    all: bool,
    /// Print docs/panics.md, which is made from the list; builds nothing
    #[arg(long, conflicts_with = "all")]
    markdown: bool,
}

/// The command.
pub fn panics(args: &PanicsArgs) -> Result<()> {
    let list = List::read()?;
    if args.markdown {
        print!("{}", list.markdown());
        return Ok(());
    }
    let (stage, paravisor) = firmware::in_image()?;
    let programs = [("paravisor", &*paravisor), ("stage", &*stage)];
    if args.all {
        for (program, elf) in programs {
            println!("{program}");
            for found in look(elf)? {
                println!("{found:#}");
            }
        }
    }
    check(programs, &list)
}

/// Compares the firmware with the list.
pub fn test(built: &Built) -> Result<()> {
    let programs = [("paravisor", &*built.paravisor), ("stage", &*built.stage)];
    check(programs, &List::read()?)
}

fn look(elf: &Path) -> Result<BTreeSet<Found>> {
    let raw = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    find::find(&raw).with_context(|| format!("cannot look into {}", elf.display()))
}

fn check(programs: [(&str, &Path); 2], list: &List) -> Result<()> {
    let mut problems = Vec::new();
    for (program, elf) in programs {
        let found = look(elf)?;
        let paths: usize = found.iter().map(Found::count).sum();
        println!(
            "{program}: {paths} ways to a panic are left, in {} groups",
            found.len()
        );
        problems.extend(list.compare(program, &found));
    }
    if problems.is_empty() {
        println!("each has its reason (docs/panics.md)");
        return Ok(());
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    bail!(
        "{} differences between the firmware and {}: remove the new ones from the code, \
         or say why nobody outside can reach them; take out what is gone",
        problems.len(),
        list::FILE
    )
}
