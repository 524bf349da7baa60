//! What rig and paravisor say on the record channel (`abi::record`).

use std::collections::BTreeMap;

use abi::record::HOST_BEAT;
use serde::{Deserialize, Serialize};

/// Most `log` lines that are kept.
const KEPT_LOG: usize = 500;

/// Counters of one sender: name, then key, then value.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// Everything that was recorded.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Records {
    /// By sender. A counter that is told again replaces what was told before.
    pub counts: BTreeMap<String, Counters>,
    /// By name: the launch digest, versions, the MAC address.
    pub texts: BTreeMap<String, String>,
    /// Seconds since the start of QEMU, by name.
    pub marks: BTreeMap<String, f64>,
    /// The newest of them.
    #[serde(skip)]
    pub last_mark: Option<String>,
    /// How the run ended; the first word counts, since what follows is fallout.
    pub outcome: Option<Ending>,
    /// The rig's counters at each [`HOST_BEAT`], with seconds.
    #[serde(skip)]
    pub beats: Vec<(f64, Counters)>,
    /// Rules that were broken, in the order of the first time.
    pub audit: Vec<Audit>,
    /// Log lines.
    pub log: Vec<String>,
    /// Lines that could not be read.
    pub unreadable: u64,
}

/// The `outcome` record.
#[derive(Clone, Debug, Serialize)]
pub struct Ending {
    /// Who said it.
    pub from: String,
    /// One of `abi::record::Outcome`'s names.
    pub name: String,
    /// In words.
    pub msg: String,
}

/// An `audit` record: one way in which a rule was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Its number in the paravisor.
    pub seq: u64,
    /// The first time, in 100 ns since the paravisor's clock began.
    pub time: u64,
    /// The last time.
    pub last: u64,
    /// How often.
    pub times: u64,
    /// On which VP.
    pub vp: u64,
    /// The host's number of the channel, if it was one.
    pub channel: Option<u64>,
    /// The rule's id.
    pub rule: String,
    /// Where in the message.
    pub offset: u64,
    /// What stood there.
    pub value: u64,
    /// What it leads to.
    pub reaction: String,
}

#[derive(Deserialize)]
struct Line {
    from: String,
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: serde_json::Value,
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

impl Records {
    /// Takes one line that came `seconds` after the start; returns what a person
    /// may want to read of it at once.
    pub fn line(&mut self, line: &str, seconds: f64) -> Option<String> {
        if line.trim().is_empty() {
            return None;
        }
        let Ok(record) = serde_json::from_str::<Line>(line) else {
            self.unreadable += 1;
            return None;
        };
        match record.kind.as_str() {
            "count" => {
                let value = record.value.as_u64().unwrap_or_default();
                let counters = self.counts.entry(record.from).or_default();
                counters
                    .entry(record.name)
                    .or_default()
                    .insert(record.key, value);
                None
            }
            "text" => {
                let value = record.value.as_str().unwrap_or_default().to_owned();
                self.texts.insert(record.name, value);
                None
            }
            "mark" if record.name == HOST_BEAT => {
                let counts = self.counts.get(&record.from).cloned().unwrap_or_default();
                self.beats.push((seconds, counts));
                None
            }
            "mark" => {
                let shown = format!("[{}] {}", record.from, record.name);
                self.last_mark = Some(record.name.clone());
                self.marks.insert(record.name, seconds);
                Some(shown)
            }
            "outcome" => {
                let shown = format!("[{}] outcome {}: {}", record.from, record.name, record.msg);
                if self.outcome.is_none() {
                    let (from, name, msg) = (record.from, record.name, record.msg);
                    self.outcome = Some(Ending { from, name, msg });
                }
                Some(shown)
            }
            "audit" => {
                match serde_json::from_str(line) {
                    Ok(entry) => self.audit.push(entry),
                    Err(_) => self.unreadable += 1,
                }
                None
            }
            "log" => {
                let text = format!("[{}] {}: {}", record.from, record.level, record.msg);
                if self.log.len() < KEPT_LOG {
                    self.log.push(text.clone());
                }
                (record.level != "debug").then_some(text)
            }
            _ => {
                self.unreadable += 1;
                None
            }
        }
    }

    /// The counter `name`: what the paravisor says, else what the rig says.
    pub fn counter(&self, name: &str) -> BTreeMap<String, u64> {
        ["paravisor", "rig"]
            .into_iter()
            .filter_map(|from| self.counts.get(from)?.get(name))
            .next()
            .cloned()
            .unwrap_or_default()
    }

    /// One value of a counter; zero if nobody counted.
    pub fn count(&self, name: &str, key: &str) -> u64 {
        self.counter(name).get(key).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_finds_its_place() {
        let mut records = Records::default();
        for line in [
            r#"{"from":"rig","kind":"text","name":"digest","value":"ab"}"#,
            r#"{"from":"paravisor","kind":"mark","name":"guest-start","us":12}"#,
            r#"{"from":"paravisor","kind":"count","name":"frame","key":"rx","value":3}"#,
            r#"{"from":"paravisor","kind":"count","name":"frame","key":"rx","value":5}"#,
            r#"{"from":"rig","kind":"count","name":"frame","key":"rx","value":99}"#,
            r#"{"from":"rig","kind":"mark","name":"host-beat","us":12}"#,
            r#"{"from":"rig","kind":"count","name":"frame","key":"rx","value":100}"#,
            r#"{"from":"rig","kind":"log","level":"warn","msg":"x"}"#,
            r#"{"from":"paravisor","kind":"outcome","name":"power-off","msg":"S5"}"#,
            r#"{"from":"rig","kind":"outcome","name":"reset","msg":"later"}"#,
            r#"{"from":"paravisor","kind":"audit","seq":0,"time":5,"last":9,"times":3,"vp":0,"channel":null,"rule":"SYN-06","offset":4,"value":255,"reaction":"drop"}"#,
            r#"{"from":"paravisor","kind":"audit","seq":1}"#,
            "garbage",
            "",
        ] {
            records.line(line, 1.5);
        }
        assert_eq!(records.texts["digest"], "ab");
        assert_eq!(records.marks["guest-start"], 1.5);
        assert_eq!(records.beats[0].1["frame"]["rx"], 99);
        assert_eq!(records.count("frame", "rx"), 5);
        assert_eq!(records.outcome.unwrap().name, "power-off");
        assert_eq!(records.log.len(), 1);
        assert_eq!(records.unreadable, 2);
        assert_eq!(records.audit.len(), 1);
        assert_eq!(
            (&*records.audit[0].rule, records.audit[0].times),
            ("SYN-06", 3)
        );
    }
}
