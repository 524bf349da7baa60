//! What the test guest says on its console: lines with `@@uc` in them.

use std::collections::BTreeMap;

use serde::Serialize;

/// The guest's story, with seconds since the virtual machine was started.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Marks {
    /// When the first process ran.
    pub init: Option<f64>,
    /// When DHCP gave an address.
    pub lease: Option<f64>,
    /// The address.
    pub address: Option<String>,
    /// When the file was there and its sum computed.
    pub fetched: Option<f64>,
    /// Whether the sum was right.
    pub fetch_ok: Option<bool>,
    /// Seconds the download took by the guest's clock.
    pub fetch_seconds: Option<f64>,
    /// When the upload was answered.
    pub uploaded: Option<f64>,
    /// Whether the server liked it.
    pub upload_ok: Option<bool>,
    /// Seconds the upload took by the guest's clock.
    pub upload_seconds: Option<f64>,
    /// When the guest had said everything.
    pub end: Option<f64>,
    /// What the guest sees of its machine.
    pub sees: BTreeMap<String, String>,
    /// What became of the link and of each fetch while a scenario was played, in the
    /// guest's words and with seconds.
    pub story: Vec<(f64, String)>,
    /// What a guest under load said of it, with seconds.
    #[serde(skip)]
    pub soak: Vec<(f64, String)>,
    /// What went wrong in the guest's own words.
    pub errors: Vec<String>,
}

impl Marks {
    /// Takes one console line that came `seconds` after the start.
    pub fn line(&mut self, line: &str, seconds: f64) {
        // The kernel may have written to the same line before.
        let Some(at) = line.find("@@uc ") else { return };
        let mut words = line[at + 5..].split_whitespace();
        let Some(what) = words.next() else { return };
        let rest: Vec<&str> = words.collect();
        let word = |n: usize| rest.get(n).copied().unwrap_or_default();
        match what {
            "init" => self.init = Some(seconds),
            "lease" => {
                self.lease = Some(seconds);
                self.address = Some(word(0).to_owned());
            }
            "link" => self.story.push((seconds, format!("link {}", word(0)))),
            "fetch" if matches!(word(1), "more" | "enough" | "") => {
                let text = format!("fetch {} {}", word(0), word(1));
                self.story.push((seconds, text.trim_end().to_owned()));
            }
            "fetch" => {
                self.fetched = Some(seconds);
                self.fetch_ok = Some(word(0) == "ok");
                self.fetch_seconds = word(2).parse().ok();
            }
            "upload" => {
                self.uploaded = Some(seconds);
                self.upload_ok = Some(word(0) == "ok");
                self.upload_seconds = word(1).parse().ok();
            }
            "see" => {
                let value = rest.get(1..).unwrap_or_default().join(" ");
                self.sees.insert(word(0).to_owned(), value);
            }
            "soak" => self.soak.push((seconds, rest.join(" "))),
            "error" => self.errors.push(rest.join(" ")),
            "end" => self.end = Some(seconds),
            _ => {}
        }
    }

    /// What is missing for a full success, as a sentence; `None` if nothing is.
    pub fn missing(&self) -> Option<String> {
        let said = match self.errors.first() {
            Some(error) => format!(" (the guest said: {error})"),
            None => String::new(),
        };
        let what = if self.init.is_none() {
            "the guest never reached its init"
        } else if self.lease.is_none() {
            "the guest got no DHCP lease"
        } else if self.fetch_ok != Some(true) {
            "the guest did not fetch the file intact"
        } else if self.upload_ok != Some(true) {
            "the guest's upload did not arrive intact"
        } else if self.end.is_none() {
            "the guest stopped before its end"
        } else {
            return None;
        };
        Some(format!("{what}{said}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_run_misses_nothing() {
        let mut marks = Marks::default();
        assert_eq!(marks.missing().unwrap(), "the guest never reached its init");
        for (n, line) in [
            "[    1.0] noise @@uc init",
            "@@uc lease 10.0.2.15",
            "@@uc fetch ok abc 0.25",
            "@@uc upload ok 0.5",
            "@@uc see hypervisor-detected none",
            "@@uc end",
        ]
        .into_iter()
        .enumerate()
        {
            marks.line(line, n as f64);
        }
        assert_eq!(marks.missing(), None);
        assert_eq!(marks.address.as_deref(), Some("10.0.2.15"));
        assert_eq!(marks.fetch_seconds, Some(0.25));
        assert_eq!(marks.sees["hypervisor-detected"], "none");
    }

    #[test]
    fn the_guests_own_error_is_quoted() {
        let mut marks = Marks::default();
        marks.line("@@uc init", 1.0);
        marks.line("@@uc error no eth0", 2.0);
        assert_eq!(
            marks.missing().unwrap(),
            "the guest got no DHCP lease (the guest said: no eth0)"
        );
    }
}
