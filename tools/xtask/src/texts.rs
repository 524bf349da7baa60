//! What the firmware does not hold: the rules' texts, which are for the catalogue (it has
//! the ids), and names of the builder's folders, which would give everybody another digest.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, SectionKind};
use serde::Deserialize;

use crate::firmware::Built;
use crate::setup::target::cargo_home;
use crate::{paths, process};

/// Shorter texts may be in there for another reason.
const LONG: usize = 40;
/// Texts that are looked for at least, and ids that are found: fewer, and the search
/// or the catalogue's form is wrong.
const ENOUGH: usize = 300;
/// Of the ids, those of structural rules need not be in there.
const ENOUGH_IDS: usize = 100;

#[derive(Deserialize)]
struct Rule {
    id: String,
    statement: Option<String>,
    danger: Option<String>,
    example: Option<String>,
    source: Option<String>,
}

/// Looks for the texts of all rules and for folders of this machine in what is loaded of
/// the paravisor and its stage.
pub fn test(built: &Built) -> Result<()> {
    let json = process::output(Command::new(&built.tool).args(["rules", "--json"]))?;
    let catalogue: Catalogue = serde_json::from_str(&json).context("not the catalogue")?;
    let loaded = loaded(&built.paravisor)?;
    let report = look(&loaded, &catalogue.rules)?;
    println!("paravisor: {report}");
    let folders = [cargo_home(), paths::root(), paths::target()];
    for (name, elf) in [("paravisor", &built.paravisor), ("stage", &built.stage)] {
        folder(&self::loaded(elf)?, &folders).with_context(|| name)?;
    }
    println!("paravisor, stage: no folder of this machine");
    Ok(())
}

#[derive(Deserialize)]
struct Catalogue {
    rules: Vec<Rule>,
}

/// What is in memory when the program runs, a section at a time.
fn loaded(elf: &Path) -> Result<Vec<u8>> {
    let raw = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(raw.as_slice())?;
    let mut out = Vec::new();
    for section in file.sections() {
        let kind = section.kind();
        let debug = matches!(kind, SectionKind::Debug | SectionKind::DebugString);
        if section.address() != 0 && !debug {
            out.extend_from_slice(section.data()?);
            out.push(0);
        }
    }
    Ok(out)
}

fn look(loaded: &[u8], rules: &[Rule]) -> Result<String> {
    let texts: BTreeSet<&str> = rules
        .iter()
        .flat_map(|rule| [&rule.statement, &rule.danger, &rule.example, &rule.source])
        .filter_map(|text| text.as_deref())
        .filter(|text| text.len() >= LONG)
        .collect();
    ensure!(texts.len() >= ENOUGH, "only {} texts of rules", texts.len());
    let windows: HashSet<&[u8]> = loaded.windows(LONG).collect();
    let inside = |text: &[u8]| windows.contains(text);
    if let Some(text) = texts.iter().find(|text| inside(&text.as_bytes()[..LONG])) {
        bail!("the firmware holds a rule's text: {text:?}");
    }
    // The control: what is meant to be in there is found by the same search.
    let ids: HashSet<&[u8]> = loaded.windows(6).collect();
    let found = rules
        .iter()
        .filter(|r| ids.contains(r.id.as_bytes()))
        .count();
    ensure!(found >= ENOUGH_IDS, "only {found} ids of rules are found");
    Ok(format!(
        "none of {} texts of rules, {found} ids",
        texts.len()
    ))
}

/// Looks for the name of a folder.
fn folder(loaded: &[u8], folders: &[PathBuf]) -> Result<()> {
    for folder in folders {
        let name = folder.as_os_str().as_encoded_bytes();
        ensure!(name.len() > 1, "a folder without a name");
        if loaded.windows(name.len()).any(|bytes| bytes == name) {
            bail!(
                "the firmware holds the name of a folder of this machine, {}: elsewhere \
                 its digest would be another one",
                folder.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<Rule> {
        let rule = |n: usize| Rule {
            id: format!("ABC{n:03}"),
            statement: Some(format!(
                "{n:03} is a statement that is long enough to look for"
            )),
            danger: None,
            example: None,
            source: Some("short".to_owned()),
        };
        (0..ENOUGH).map(rule).collect()
    }

    #[test]
    fn a_text_is_found_and_ids_are_needed() {
        let rules = rules();
        let ids: String = rules.iter().map(|rule| rule.id.as_str()).collect();
        assert!(look(ids.as_bytes(), &rules).is_ok());
        let with_text = format!("{ids}xx{}yy", rules[7].statement.as_ref().unwrap());
        let why = look(with_text.as_bytes(), &rules).unwrap_err().to_string();
        assert!(why.contains("007 is a statement"), "{why}");
        let why = look(&[b'x'; 100], &rules).unwrap_err().to_string();
        assert!(why.contains("ids"), "{why}");
        assert!(look(ids.as_bytes(), &rules[..9]).is_err());
    }

    #[test]
    fn a_folder_of_this_machine_is_found() {
        let folders = [PathBuf::from("/home/a"), PathBuf::from("/src/undercroft")];
        assert!(folder(b"paravisor/src/main.rs /crates/x-1.0.0/src", &folders).is_ok());
        let why = folder(b"/home/a/.cargo/registry", &folders).unwrap_err();
        assert!(why.to_string().contains("/home/a"), "{why}");
    }
}
