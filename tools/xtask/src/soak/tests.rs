//! What the checks find in reports that were tampered with.

use std::collections::BTreeMap;
use std::time::Duration;

use super::blocks::STEPS;
use super::judge::{Evidence, Verdict, judge};
use super::told::{Moment, Told};
use crate::nic::Nic;
use crate::records::Counters;

/// A run without fault, as programs would tell it.
#[derive(Clone)]
struct Case {
    nic: Nic,
    vps: u32,
    told: Told,
    came: BTreeMap<u32, Option<String>>,
    pauses: [Duration; 2],
    beats: Vec<(f64, Counters)>,
    host: Counters,
    paravisor: Counters,
}

fn counters(words: &str) -> Counters {
    let mut counters = Counters::new();
    for (name, value) in Moment::parse(words).values {
        let (name, key) = name.split_once('.').unwrap();
        let keys = counters.entry(name.to_owned()).or_default();
        keys.insert(key.to_owned(), value);
    }
    counters
}

/// 1000 frames to the guest, of which 3 are 10 that were joined, and 500 from it, of
/// which 10 are cut into 40, with a loss wherever one is counted.
const HOST: &str = "card.received=1019 card.sent=525 card.waiting=1 card.dropped=4 \
    frame.rx=1017 frame.tx=530 frame_bytes.rx=900378 frame_given.=1004 frame_waiting.=2 \
    frame_dropped.filter=1 frame_dropped.size=1 frame_dropped.queue-full=3 \
    frame_dropped.channel-closed=1 frame_message.=500 offload.large-send=10 \
    offload.segment=40 offload.joined=10 offload.coalesced=3 offload.bytes-saved=378";
const PARAVISOR: &str = "frame.rx=1002 frame.tx=500 frame_bytes.rx=900000 \
    netvsc.rx_refused=1 netvsc.rx_not_ready=1 netvsc.tx_messages=500 netvsc.tx_errors=0 \
    relay.rx_frames=998 relay.rx_dropped_unplugged=1 relay.rx_dropped_no_buffer=2 \
    relay.rx_dropped_link_down=1 relay.tx_frames=500 relay.tx_held=1 \
    relay.tx_dropped_length=1 relay.tx_dropped_no_nic=1 relay.tx_dropped_reset=1 \
    device.rx_frames=996 device.rx_dropped=1 device.rx_filtered=1 device.tx_frames=504 \
    device.tx_dropped=2 device.nic_broken=0 nic_restart.=0 record_lost.=0 rules_broken.=0 \
    heap_used.=300000 heap_peak.=310000 shared_page.ring=34 shared_page.send-buffer=256";
const KERNEL: &str = "after.rx_packets=996 after.tx_packets=506 after.rx_errors=0 \
    after.tx_errors=0 after.tx_dropped=0 memory.MemTotal=400000 memory.MemAvailable=360000";

fn moment(seconds: u64) -> Moment {
    let bytes = seconds << 20;
    let words = format!(
        "seconds={seconds} after.rx_bytes={bytes} after.tx_bytes={bytes} {KERNEL} {PARAVISOR}"
    );
    Moment::parse(&words)
}

fn sums() -> Vec<String> {
    (0..STEPS).map(|n| format!("sum-{n}")).collect()
}

fn good() -> Case {
    let lines =
        (1..=70).flat_map(|n| [format!("down {n} sum-{}", n % STEPS), format!("up {n} ok")]);
    let mut lines: Vec<_> = lines.collect();
    lines.extend(["downs 70", "ups 70", "ping 9 9"].map(str::to_owned));
    let mut told = Told::parse(lines.iter().map(String::as_str));
    told.beats = [30, 60, 90, 120, 150].map(moment).into();
    told.end = Some(moment(180));
    Case {
        nic: Nic::Virtio,
        vps: 1,
        told,
        came: (1..=70).map(|n| (n, None)).collect(),
        pauses: [Duration::from_secs(60); 2],
        beats: vec![(40.0, counters(HOST)), (70.0, counters(HOST))],
        host: counters(HOST),
        paravisor: counters(PARAVISOR),
    }
}

fn judged(case: &Case) -> Verdict {
    judge(&Evidence {
        nic: case.nic,
        vps: case.vps,
        told: &case.told,
        sums: &sums(),
        came: &case.came,
        pauses: case.pauses,
        beats: &case.beats,
        host: &case.host,
        paravisor: &case.paravisor,
    })
}

/// What is wrong with a run after `tamper`, which must be something that says `words`.
#[track_caller]
fn found(words: &[&str], tamper: impl FnOnce(&mut Case)) {
    let mut case = good();
    tamper(&mut case);
    let wrong = judged(&case).wrong;
    for word in words {
        assert!(wrong.iter().any(|w| w.contains(word)), "{word}: {wrong:?}");
    }
}

fn add(counters: &mut Counters, name: &str, by: i64) {
    let (name, key) = name.split_once('.').unwrap();
    let value = counters.get_mut(name).unwrap().get_mut(key).unwrap();
    *value = value.checked_add_signed(by).unwrap();
}

#[test]
fn a_run_without_fault_has_none() {
    let verdict = judged(&good());
    assert_eq!(verdict.wrong, Vec::<String>::new());
    assert_eq!((verdict.blocks_down, verdict.blocks_up), (70, 70));
    assert_eq!(verdict.hops.len(), 12);
    assert!(verdict.hops.iter().all(|hop| hop.unaccounted() == 0));
    // In the order of the way: what one takes the next gives.
    for pair in verdict.hops.windows(2) {
        let other = ["messages", "host, joined"];
        let same = !other.iter().any(|name| pair[1].name.starts_with(name));
        if pair[0].way == pair[1].way && same {
            assert_eq!(
                pair[0].taken, pair[1].given,
                "{} {}",
                pair[0].name, pair[1].name
            );
        }
    }
    let text = verdict.text();
    assert!(text.contains("2 by relay.rx_dropped_no_buffer"), "{text}");
}

#[test]
fn one_frame_more_or_less_anywhere_is_found() {
    let flows = [
        "card.received",
        "card.sent",
        "frame.rx",
        "frame.tx",
        "frame_given.",
        "frame_message.",
    ];
    let losses = [
        "card.dropped",
        "card.waiting",
        "frame_waiting.",
        "frame_dropped.filter",
        "frame_dropped.queue-full",
    ];
    for name in flows.into_iter().chain(losses) {
        for by in [1, -1] {
            found(&["(", "counted as dropped"], |case| {
                add(&mut case.host, name, by)
            });
        }
    }
    for name in [
        "frame.rx",
        "frame.tx",
        "netvsc.rx_refused",
        "netvsc.tx_messages",
        "relay.rx_frames",
        "relay.tx_frames",
        "relay.rx_dropped_no_buffer",
        "relay.tx_held",
        "device.rx_frames",
        "device.tx_frames",
        "device.rx_dropped",
        "relay.tx_dropped_no_nic",
    ] {
        for by in [1, -1] {
            found(&["counted as dropped"], |case| {
                add(&mut case.paravisor, name, by)
            });
        }
    }
    found(
        &[
            "to the guest, device → guest's kernel: 1 frames are lost without a count (996 given, 995 taken, 0 counted",
        ],
        |case| {
            let end = case.told.end.as_mut().unwrap();
            end.values.insert("after.rx_packets".to_owned(), 995);
        },
    );
    found(
        &["from the guest, guest's kernel → device: 1 frames came from nowhere"],
        |case| {
            let end = case.told.end.as_mut().unwrap();
            end.values.insert("after.tx_packets".to_owned(), 505);
        },
    );
    found(&["the host gave 900001 bytes"], |case| {
        add(&mut case.host, "frame_bytes.rx", 1)
    });
}

#[test]
fn a_counter_that_is_not_told_is_no_zero() {
    let names = Moment::parse(PARAVISOR).values.into_keys();
    let elsewhere = ["heap", "shared", "device.tx_dropped"];
    for name in names.filter(|n| !elsewhere.iter().any(|e| n.starts_with(e))) {
        let (table, key) = name.split_once('.').unwrap();
        found(&[&format!("the paravisor did not tell {name}")], |case| {
            case.paravisor.get_mut(table).unwrap().remove(key);
        });
    }
    found(&["the rig did not tell card.sent"], |case| {
        case.host.get_mut("card").unwrap().remove("sent");
    });
    found(&["the guest did not tell after.rx_packets"], |case| {
        case.told
            .end
            .as_mut()
            .unwrap()
            .values
            .remove("after.rx_packets");
    });
}

#[test]
fn under_load_each_has_its_accounts_in_order() {
    found(
        &["after 90 s of load, to the guest, netvsc → relay"],
        |case| {
            case.told.beats[2]
                .values
                .insert("relay.rx_frames".to_owned(), 997);
        },
    );
    found(
        &["70 s after the start, from the guest, host → card"],
        |case| {
            add(&mut case.beats[1].1, "card.sent", -1);
        },
    );
    found(&["the rig told no counters"], |case| case.beats.clear());
    found(&["told no counters under load"], |case| {
        case.told.beats.clear()
    });
    found(&["told no counters at rest"], |case| case.told.end = None);
    for (way, words) in ["to the guest", "from the guest"].into_iter().enumerate() {
        found(
            &[&format!("for 61 s nothing came through {words}")],
            |case| {
                case.pauses[way] = Duration::from_secs(61);
            },
        );
    }
}

#[test]
fn memory_that_grows_by_a_byte_is_found() {
    for name in ["heap_used.", "heap_peak.", "shared_page.ring"] {
        found(&["after 60 s of load and", "after 180 s"], |case| {
            *case
                .told
                .end
                .as_mut()
                .unwrap()
                .values
                .get_mut(name)
                .unwrap() += 1;
        });
        // Before the first minute is over it may.
        let mut case = good();
        *case.told.beats[0].values.get_mut(name).unwrap() -= 1;
        assert_eq!(judged(&case).wrong, Vec::<String>::new());
        // And not in between, nor may it go away.
        found(&["after 120 s"], |case| {
            *case.told.beats[3].values.get_mut(name).unwrap() -= 1;
        });
        found(&["nothing after 150 s"], |case| {
            case.told.beats[4].values.remove(name);
        });
    }
    found(&["the guest used 40000 KiB"], |case| {
        let end = case.told.end.as_mut().unwrap();
        end.values.insert("memory.MemAvailable".to_owned(), 300_000);
    });
}

#[test]
fn contents_are_checked_at_the_other_end() {
    found(&["block 7 to the guest came with a wrong sum"], |case| {
        case.told.downs.insert(7, "sum-8".to_owned());
    });
    found(&["block 7 from the guest: byte 9 is wrong"], |case| {
        case.came.insert(7, Some("byte 9 is wrong".to_owned()));
    });
    found(&["block 7 from the guest never came"], |case| {
        case.came.remove(&7);
    });
    found(&["the guest heard \"bad\""], |case| {
        case.told.ups.insert(7, "bad".to_owned());
    });
    found(&["69 blocks of 70 that it fetched"], |case| {
        case.told.downs.remove(&7);
    });
    found(
        &["never came to the end of the blocks that it sent"],
        |case| {
            case.told.ups_in_all = None;
        },
    );
    found(&["of 9 pings 8 came back"], |case| {
        case.told.ping = Some((9, 8))
    });
    found(&["no pings"], |case| case.told.ping = None);
}

#[test]
fn faults_that_were_counted_are_faults() {
    for name in [
        "netvsc.tx_errors",
        "nic_restart.",
        "device.nic_broken",
        "record_lost.",
        "rules_broken.",
    ] {
        found(&[": 1"], |case| add(&mut case.paravisor, name, 1));
    }
    found(&["the host found faults: completion-unknown 2"], |case| {
        case.host.insert(
            "guest_error".to_owned(),
            [("completion-unknown".to_owned(), 2)].into(),
        );
    });
    for name in ["rx_errors", "tx_errors", "tx_dropped"] {
        found(&["the guest's kernel counts 3"], |case| {
            let end = case.told.end.as_mut().unwrap();
            end.values.insert(format!("after.{name}"), 3);
        });
    }
}

/// An 82574L counts the frames on the wire.
#[test]
fn a_card_that_cuts_by_itself_is_measured_at_the_wire() {
    let mut case = good();
    case.nic = Nic::E1000e;
    let end = case.told.end.as_mut().unwrap();
    end.values.insert("after.tx_packets".to_owned(), 532);
    assert_eq!(judged(&case).wrong, Vec::<String>::new());
    add(&mut case.host, "frame.tx", 1);
    assert!(
        judged(&case)
            .wrong
            .iter()
            .any(|w| w.contains("guest's card → host"))
    );
}
