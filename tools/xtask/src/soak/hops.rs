//! Frames at every hop between the rig's card and the guest's kernel: what one side
//! has given, the other has taken, dropped with a count, or still holds with a count.
//! Anything else is a loss that nobody accounts for.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::nic::Nic;

/// Counters of one moment: `name.key` and the value.
pub type Values = BTreeMap<String, u64>;

/// One hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// `to the guest` or `from the guest`.
    pub way: &'static str,
    /// From where to where.
    pub name: &'static str,
    /// Frames (or messages) that were given.
    pub given: u64,
    /// That were taken.
    pub taken: u64,
    /// That were dropped, by counter.
    pub lost: Values,
    /// That wait.
    pub waiting: u64,
}

const DOWN: &str = "to the guest";
const UP: &str = "from the guest";

impl Hop {
    /// Frames given, less those that are accounted for.
    pub fn unaccounted(&self) -> i128 {
        let lost: u64 = self.lost.values().sum();
        i128::from(self.given) - i128::from(self.taken) - i128::from(lost + self.waiting)
    }

    /// What is wrong, if anything is.
    pub fn wrong(&self) -> Option<String> {
        let Hop {
            way,
            name,
            given,
            taken,
            ..
        } = self;
        let told = self.lost.values().sum::<u64>() + self.waiting;
        let words = match self.unaccounted() {
            0 => return None,
            n if n > 0 => format!("{n} frames are lost without a count"),
            n => format!("{} frames came from nowhere", -n),
        };
        Some(format!(
            "{way}, {name}: {words} ({given} given, {taken} taken, {told} counted as dropped or waiting)"
        ))
    }
}

/// Reads counters; remembers which were not told.
pub struct Reader<'a> {
    values: &'a Values,
    whose: &'a str,
    /// What is missing, in words.
    pub missing: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Of `whose` counters.
    pub fn new(whose: &'a str, values: &'a Values) -> Reader<'a> {
        Reader {
            values,
            whose,
            missing: Vec::new(),
        }
    }

    /// One that must be there.
    pub fn get(&mut self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or_else(|| {
            self.missing
                .push(format!("{} did not tell {name}", self.whose));
            0
        })
    }

    /// Those that must be there, without the zeros.
    fn lost(&mut self, names: &[&str]) -> Values {
        let rows = names.iter().map(|name| (name.to_string(), self.get(name)));
        rows.filter(|(_, n)| *n != 0).collect()
    }

    /// Reasons that are only told if there were any.
    fn reasons(&self, names: &[&str]) -> Values {
        let row = |name: &&str| Some((name.to_string(), *self.values.get(*name)?));
        names.iter().filter_map(row).collect()
    }
}

/// Inside of the rig's host.
pub fn in_host(host: &mut Reader<'_>) -> Vec<Hop> {
    let cut = host.get("offload.large-send");
    let whole = host.get("frame_message.").saturating_sub(cut);
    // Segments that were joined go on as one frame.
    let alone = (host.get("frame.rx")).saturating_sub(host.get("offload.joined"));
    vec![
        Hop {
            way: DOWN,
            name: "card of the rig → its host",
            given: host.get("card.received"),
            taken: host.get("frame.rx"),
            lost: host.reasons(&["frame_dropped.filter", "frame_dropped.size"]),
            waiting: 0,
        },
        Hop {
            way: DOWN,
            name: "host, joined → rings",
            given: alone + host.get("offload.coalesced"),
            taken: host.get("frame_given."),
            lost: host.reasons(&["frame_dropped.queue-full", "frame_dropped.channel-closed"]),
            waiting: host.get("frame_waiting."),
        },
        Hop {
            way: UP,
            name: "messages, cut → host",
            given: whole + host.get("offload.segment"),
            taken: host.get("frame.tx"),
            ..Hop::default()
        },
        Hop {
            way: UP,
            name: "host → card of the rig",
            given: host.get("frame.tx"),
            taken: host.get("card.sent"),
            lost: host.lost(&["card.dropped"]),
            waiting: host.get("card.waiting"),
        },
    ]
}

/// Inside of the paravisor.
pub fn in_paravisor(paravisor: &mut Reader<'_>) -> Vec<Hop> {
    vec![
        Hop {
            way: DOWN,
            name: "netvsc → relay",
            given: paravisor.get("frame.rx"),
            taken: paravisor.get("relay.rx_frames"),
            lost: paravisor.lost(&[
                "relay.rx_dropped_unplugged",
                "relay.rx_dropped_no_buffer",
                "relay.rx_dropped_link_down",
            ]),
            waiting: 0,
        },
        Hop {
            way: DOWN,
            name: "relay → device",
            given: paravisor.get("relay.rx_frames"),
            taken: paravisor.get("device.rx_frames"),
            lost: paravisor.lost(&["device.rx_dropped", "device.rx_filtered"]),
            waiting: 0,
        },
        Hop {
            way: UP,
            name: "device → relay",
            given: paravisor.get("device.tx_frames"),
            taken: paravisor.get("relay.tx_frames"),
            lost: paravisor.lost(&[
                "relay.tx_dropped_length",
                "relay.tx_dropped_no_nic",
                "relay.tx_dropped_reset",
            ]),
            waiting: paravisor.get("relay.tx_held"),
        },
        Hop {
            way: UP,
            name: "relay → netvsc",
            given: paravisor.get("relay.tx_frames"),
            taken: paravisor.get("frame.tx"),
            ..Hop::default()
        },
    ]
}

/// Between the two, when both have come to an end.
pub fn across_the_rings(paravisor: &mut Reader<'_>, host: &mut Reader<'_>) -> Vec<Hop> {
    vec![
        Hop {
            way: DOWN,
            name: "rings → netvsc",
            given: host.get("frame_given."),
            taken: paravisor.get("frame.rx"),
            lost: paravisor.lost(&["netvsc.rx_refused", "netvsc.rx_not_ready"]),
            waiting: 0,
        },
        Hop {
            way: UP,
            name: "netvsc → messages",
            given: paravisor.get("netvsc.tx_messages"),
            taken: host.get("frame_message."),
            ..Hop::default()
        },
    ]
}

/// Between the device and the guest's kernel. `moment` has both, at rest.
pub fn in_guest(nic: Nic, moment: &mut Reader<'_>, host: &mut Reader<'_>) -> Vec<Hop> {
    let received = Hop {
        way: DOWN,
        name: "device → guest's kernel",
        given: moment.get("device.rx_frames"),
        taken: moment.get("after.rx_packets"),
        ..Hop::default()
    };
    let lost = moment.lost(&["device.tx_dropped"]);
    let given = moment.get("after.tx_packets");
    let sent = match nic {
        Nic::Virtio => Hop {
            way: UP,
            name: "guest's kernel → device",
            given,
            taken: moment.get("device.tx_frames"),
            lost,
            waiting: 0,
        },
        // The card's own register, which counts the frames on the wire.
        Nic::E1000e => Hop {
            way: UP,
            name: "guest's card → host",
            given,
            taken: host.get("frame.tx"),
            lost,
            waiting: 0,
        },
    };
    vec![received, sent]
}
