//! Kernel modules: which files a driver needs, in the order in which they load.
//! A package that was only unpacked has no `modules.dep`, so the dependencies
//! come from the modules themselves (section `.modinfo`, key `depends`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::process;

/// One module, ready for `insmod`.
pub struct Module {
    /// Its name with underscores.
    pub name: String,
    /// The uncompressed ELF file.
    pub data: Vec<u8>,
}

/// The modules of one kernel: files and what is built in.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    busybox: PathBuf,
}

impl Modules {
    /// Reads `lib/modules/<release>`; `busybox` unpacks compressed modules.
    pub fn open(dir: &Path, busybox: &Path) -> Result<Modules> {
        let mut files = BTreeMap::new();
        collect(&dir.join("kernel"), &mut files)
            .with_context(|| format!("cannot list the kernel modules in {}", dir.display()))?;
        let builtin = std::fs::read_to_string(dir.join("modules.builtin"))
            .context("cannot read modules.builtin")?
            .lines()
            .filter_map(module_name)
            .collect();
        Ok(Modules {
            files,
            builtin,
            busybox: busybox.to_owned(),
        })
    }

    /// The modules which `wanted` need, dependencies first, built-in ones left out.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        for name in wanted {
            self.visit(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("the kernel has no module {name}, built in or as a file");
        };
        let data = self.read(file)?;
        for dependency in depends(&data).with_context(|| format!("in module {name}"))? {
            self.visit(&dependency, seen, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            data,
        });
        Ok(())
    }

    fn read(&self, file: &Path) -> Result<Vec<u8>> {
        let unpack = match file.extension().and_then(|e| e.to_str()) {
            Some("xz") => "xzcat",
            Some("gz") => "zcat",
            Some("ko") => {
                return std::fs::read(file)
                    .with_context(|| format!("cannot read {}", file.display()));
            }
            _ => bail!("do not know how to unpack {}", file.display()),
        };
        process::output_bytes(Command::new(&self.busybox).arg(unpack).arg(file))
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(module_name)
        {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/net/virtio-net.ko.xz` is module `virtio_net`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, _) = file.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

/// The modules that `elf` names in `.modinfo` as needed.
fn depends(elf: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(elf).context("not an ELF file")?;
    let section = file
        .section_by_name(".modinfo")
        .context("no .modinfo section")?;
    let info = section.data().context("unreadable .modinfo section")?;
    Ok(info
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_folders_suffixes_and_dashes() {
        assert_eq!(
            module_name("kernel/a/virtio-net.ko.xz").as_deref(),
            Some("virtio_net")
        );
        assert_eq!(
            module_name("net_failover.ko").as_deref(),
            Some("net_failover")
        );
        assert_eq!(module_name("modules.order"), None);
    }
}
