//! Where this machine's administrator gets Debian from. We name no server of our
//! own: we read the configured sources (one-line and deb822 format, see
//! sources.list(5)), pick the Debian archive among them, and ask the same place,
//! with the same keys, for the other suites we need.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One configured source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Base addresses, as configured.
    pub uris: Vec<String>,
    /// Suites, for example `bookworm` and `bookworm-updates`.
    pub suites: Vec<String>,
    /// Components, for example `main`.
    pub components: Vec<String>,
    /// Key file or keys; empty if the system's default keys are meant.
    pub signed_by: String,
}

/// Reads `sources.list` and `sources.list.d` below `etc_apt`.
pub fn read(etc_apt: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(dir) = std::fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut parts: Vec<_> = dir.flatten().map(|entry| entry.path()).collect();
        parts.sort();
        files.append(&mut parts);
    }
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(deb822(&text)),
            _ => {}
        }
    }
    Ok(sources)
}

/// `deb [signed-by=/a/key arch=amd64] https://host/debian bookworm main contrib`
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let mut rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let mut source = Source::default();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        for option in options.split_whitespace() {
            if let Some(keys) = option.strip_prefix("signed-by=") {
                source.signed_by = keys.replace(',', " ");
            }
        }
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    source.uris.push(words.next()?);
    source.suites.push(words.next()?);
    source.components = words.collect();
    Some(source)
}

/// Stanzas of `Name: value` with continuation lines.
fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: &[(String, String)]) -> Option<Source> {
    let get = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .unwrap_or("")
    };
    let list = |name: &str| {
        get(name)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let disabled = matches!(
        get("enabled").to_ascii_lowercase().as_str(),
        "no" | "false" | "0"
    );
    if disabled || !list("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uris: list("uris"),
        suites: list("suites"),
        components: list("components"),
        signed_by: get("signed-by").to_owned(),
    })
}

/// The Debian archive proper and the security archive of one release.
#[derive(Clone, Debug)]
pub struct Archive {
    main: Source,
    security: Option<Source>,
    codename: String,
}

impl Archive {
    /// Finds the archive of `codename` among `sources`. Third parties use the same
    /// suite names, so a source that also offers `-updates`, ends in `/debian` or
    /// is signed by Debian's keys is preferred.
    pub fn find(sources: &[Source], codename: &str) -> Result<Archive> {
        let offers = |source: &Source, suite: &str| {
            source.suites.iter().any(|s| s == suite)
                && source.components.iter().any(|c| c == "main")
        };
        let updates = format!("{codename}-updates");
        let likely = |source: &&Source| {
            let also_updates = sources
                .iter()
                .any(|other| other.uris == source.uris && other.suites.contains(&updates));
            let path = source
                .uris
                .iter()
                .any(|uri| uri.trim_end_matches('/').ends_with("/debian"));
            let keys = source.signed_by.contains("debian-archive");
            4 * u32::from(also_updates) + 2 * u32::from(keys) + u32::from(path)
        };
        let Some(main) = sources
            .iter()
            .filter(|source| offers(source, codename))
            .rev() // max_by_key takes the last of equals; the first is meant
            .max_by_key(likely)
        else {
            bail!("apt has no source for Debian {codename} main: add one to /etc/apt/sources.list");
        };
        let security = format!("{codename}-security");
        let security = sources
            .iter()
            .find(|source| offers(source, &security))
            .cloned();
        Ok(Archive {
            main: main.clone(),
            security,
            codename: codename.to_owned(),
        })
    }

    /// A deb822 file for the release itself with its updates and security fixes.
    pub fn stable(&self) -> String {
        let updates = format!("{}-updates", self.codename);
        let mut text = stanza_text(&self.main, &[&self.codename, &updates]);
        if let Some(security) = &self.security {
            text += &stanza_text(security, &[&format!("{}-security", self.codename)]);
        }
        text
    }

    /// A deb822 file for one other suite from the same place.
    pub fn suite(&self, suite: &str) -> String {
        stanza_text(&self.main, &[suite])
    }

    /// The release's codename.
    pub fn codename(&self) -> &str {
        &self.codename
    }
}

fn stanza_text(source: &Source, suites: &[&str]) -> String {
    let mut text = format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: amd64\n",
        source.uris.join(" "),
        suites.join(" ")
    );
    if !source.signed_by.is_empty() {
        let _ = writeln!(text, "Signed-By: {}", source.signed_by);
    }
    text.push('\n');
    text
}

/// A field of `/etc/os-release`, without quotes.
pub fn os_release(field: &str) -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix('='))
        .unwrap_or("")
        .trim_matches('"')
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_format_with_and_without_options() {
        let plain = one_line("deb mirror+file:/etc/m.list bookworm main contrib # x").unwrap();
        assert_eq!(plain.uris, ["mirror+file:/etc/m.list"]);
        assert_eq!(plain.components, ["main", "contrib"]);
        let signed =
            one_line("deb [ arch=amd64 signed-by=/k.gpg ] http://m/debian s main").unwrap();
        assert_eq!(signed.signed_by, "/k.gpg");
        assert_eq!(one_line("deb-src http://m/debian s main"), None);
        assert_eq!(one_line("# deb http://m/debian s main"), None);
    }

    #[test]
    fn deb822_keeps_multi_line_keys_and_skips_what_is_off() {
        let text = "Types: deb deb-src\nURIs: http://m/debian\nSuites: s s-updates\n\
                    Components: main\nSigned-By:\n -----BEGIN\n .\n abc\n\n\
                    # a remark\nTypes: deb\nEnabled: no\nURIs: http://n\nSuites: s\nComponents: main\n";
        let sources = deb822(text);
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].suites, ["s", "s-updates"]);
        assert!(sources[0].signed_by.ends_with("\n -----BEGIN\n .\n abc"));
    }

    #[test]
    fn debian_is_told_from_others_with_the_same_suite_name() {
        let sources: Vec<_> = [
            "deb http://vendor/tools/12 bookworm main",
            "deb http://mirror/debian bookworm main",
            "deb http://mirror/debian bookworm-updates main",
            "deb [signed-by=/d.gpg] http://mirror/debian-security bookworm-security main",
            "deb http://other/debian bookworm main",
        ]
        .into_iter()
        .filter_map(one_line)
        .collect();
        let archive = Archive::find(&sources, "bookworm").unwrap();
        let stable = archive.stable();
        assert!(stable.contains("URIs: http://mirror/debian\nSuites: bookworm bookworm-updates"));
        assert!(stable.contains("Suites: bookworm-security"));
        assert!(stable.contains("Signed-By: /d.gpg"));
        assert!(
            archive
                .suite("bookworm-backports")
                .contains("Suites: bookworm-backports")
        );
        assert!(Archive::find(&sources, "sid").is_err());
    }
}
