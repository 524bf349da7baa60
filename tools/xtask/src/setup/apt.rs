//! apt with a configuration of our own: own sources, own lists, own cache. What
//! the machine's administrator set up is read and left as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process};

/// One isolated configuration.
pub struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// A configuration called `name` whose sources are the deb822 text `sources`;
    /// fetches the package lists.
    pub fn new(name: &str, sources: &str) -> Result<Apt> {
        let home = paths::setup().join("apt").join(name);
        let list = home.join("list.sources");
        for dir in ["lists/partial", "cache/archives/partial", "preferences.d"] {
            std::fs::create_dir_all(home.join(dir))
                .with_context(|| format!("cannot create {}", home.display()))?;
        }
        std::fs::write(&list, sources).context("cannot write apt's sources")?;
        let option = |key: &str, value: &Path| format!("{key}={}", value.display());
        let options = vec![
            option("Dir::Etc::sourcelist", &list),
            option("Dir::Etc::sourceparts", &home.join("none")),
            option("Dir::Etc::preferences", &home.join("none")),
            option("Dir::Etc::preferencesparts", &home.join("preferences.d")),
            option("Dir::State::lists", &home.join("lists")),
            option("Dir::Cache", &home.join("cache")),
            // Our folders may be in a home that apt's own user cannot enter.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "APT::Get::List-Cleanup=false".to_owned(),
        ];
        let apt = Apt { options };
        process::output(apt.command("apt-get").args(["-q", "update"]))
            .context("cannot fetch Debian's package lists")?;
        Ok(apt)
    }

    /// `program` with our options and a plain environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The package that the metapackage `package` stands for: its dependency whose
    /// name starts with `prefix`.
    pub fn resolve(&self, package: &str, prefix: &str) -> Result<String> {
        let text = process::output(self.command("apt-cache").args(["depends", package]))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("package {package} names no {prefix}…"))
    }

    /// The newest version of `package` that the sources have.
    pub fn version(&self, package: &str) -> Result<String> {
        let mut command = self.command("apt-cache");
        let text = process::output(command.args(["show", "--no-all-versions", package]))?;
        text.lines()
            .find_map(|line| line.strip_prefix("Version: "))
            .map(str::to_owned)
            .with_context(|| format!("there is no package {package}"))
    }

    /// Fetches the newest version of `package` without installing it and unpacks
    /// it into `into`. Returns the version.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<String> {
        let partial = into.with_extension("partial");
        let _ = std::fs::remove_dir_all(&partial);
        std::fs::create_dir_all(&partial).context("cannot create a folder")?;
        process::output(
            self.command("apt-get")
                .args(["-q", "download", package])
                .current_dir(&partial),
        )?;
        let deb = only_deb(&partial)?;
        let version = process::output(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&deb)
                .arg("Version")
                .env("LC_ALL", "C"),
        )?;
        process::output(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&deb)
                .arg(&partial),
        )?;
        std::fs::remove_file(&deb).context("cannot remove a package file")?;
        let _ = std::fs::remove_dir_all(into);
        std::fs::rename(&partial, into).context("cannot move an unpacked package")?;
        Ok(version.trim().to_owned())
    }

    /// Installs `packages` from `suite` if that adds packages only. An upgrade or a
    /// removal of anything installed is refused, before anything is changed.
    pub fn install_only_new(
        &self,
        packages: &[&str],
        suite: &str,
        simulate: bool,
    ) -> Result<String> {
        let wanted: Vec<String> = packages.iter().map(|p| format!("{p}/{suite}")).collect();
        let plan = |wanted: &[String], from: Option<&str>| {
            let mut command = self.command("apt-get");
            command.args(["-q", "--no-install-recommends", "--simulate", "install"]);
            if let Some(suite) = from {
                command.args(["-t", suite]);
            }
            process::output(command.args(wanted))
        };
        // Backports of dependencies only where the release's own do not do.
        let (from, text) = match plan(&wanted, None) {
            Ok(text) => (None, text),
            Err(_) => (Some(suite), plan(&wanted, Some(suite))?),
        };
        let added = additions(&text)?;
        if simulate {
            return Ok(format!(
                "would add {} packages: {}",
                added.len(),
                added.join(" ")
            ));
        }
        let mut command = self.command("apt-get");
        command.args([
            "-q",
            "-y",
            "--no-install-recommends",
            "--no-upgrade",
            "--no-remove",
        ]);
        if let Some(suite) = from {
            command.args(["-t", suite]);
        }
        process::output(command.arg("install").args(&wanted))?;
        Ok(format!("{} packages added", added.len()))
    }
}

/// The names in the `Inst` lines of a simulation; an error if it would touch what
/// is there (`Inst name [old version] …`, `Remv`).
fn additions(simulation: &str) -> Result<Vec<String>> {
    let mut added = Vec::new();
    for line in simulation.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Remv") => bail!("apt would remove {}", words.next().unwrap_or("a package")),
            Some("Inst") => {
                let name = words.next().unwrap_or("a package");
                if words.next().is_some_and(|word| word.starts_with('[')) {
                    bail!("apt would upgrade {name}, which is installed");
                }
                added.push(name.to_owned());
            }
            _ => {}
        }
    }
    Ok(added)
}

fn only_deb(dir: &Path) -> Result<PathBuf> {
    std::fs::read_dir(dir)
        .context("cannot list a folder")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt-get download left no package file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_only_adds_is_taken() {
        let plan = "NOTE: x\nInst seabios (1.16 Debian:12 [all])\nInst qemu (1:10 D [amd64])\nConf qemu (1)\n";
        assert_eq!(additions(plan).unwrap(), ["seabios", "qemu"]);
    }

    #[test]
    fn a_plan_that_upgrades_or_removes_is_refused() {
        let upgrade = additions("Inst libc6 [2.36] (2.41 D [amd64])\n").unwrap_err();
        assert!(upgrade.to_string().contains("upgrade libc6"));
        assert!(
            additions("Remv foo [1]\n")
                .unwrap_err()
                .to_string()
                .contains("remove foo")
        );
    }
}
