//! A recorded conversation between client and fake host, audited: the replay
//! reaches the verdicts that the client reached live.

#[path = "netvsc_bringup/stack.rs"]
#[allow(dead_code)]
mod stack;

use abi::vmbus::MessageType;
use hostkit::MachineConfig;
use hostkit::backend::Loopback;
use hostkit::fault::{Layer as FaultLayer, OutgoingMessage};
use hostkit::trace::{Recorder, Sink, VecSink};
use stack::Stack;
use undercroft::audit::{self, Audit, Options};
use validate::{Layer, Rule};
use vmbus::Target;

const ALL: Options = Options {
    all: true,
    frames: true,
    // The stack's NIC enforces all rules.
    enforce_all: true,
};

fn recorded() -> (Stack, VecSink) {
    let config = MachineConfig::default();
    let mut stack = Stack::new(config, Loopback::default(), Target::REDIRECTED);
    let sink = VecSink::default();
    let recorder = Recorder::new(Box::new(sink.clone()), "test", 0);
    stack.host.record(recorder);
    (stack, sink)
}

/// Ends the recording and audits it.
fn finish(stack: &mut Stack, sink: &VecSink) -> Audit {
    stack.host.end_recording();
    audit::audit(&sink.bytes(), ALL)
}

/// Messages that the client has judged, by layer.
fn judged(stack: &Stack) -> Vec<(&'static str, u64)> {
    let mut all = stack.client.counters().clone();
    all.add(stack.channel.counters());
    if let Some(nic) = &stack.nic {
        all.add(&nic.counters().validation);
    }
    let layers = [
        Layer::Synic,
        Layer::Control,
        Layer::Packet,
        Layer::Nvsp,
        Layer::Rndis,
    ];
    layers
        .map(|layer| (layer.name(), all.messages(layer)))
        .to_vec()
}

fn counts(audit: &Audit) -> Vec<(&'static str, u64)> {
    let names = ["synic", "control", "packet", "nvsp", "rndis"];
    names
        .map(|name| (name, audit.judged.get(name).copied().unwrap_or(0)))
        .to_vec()
}

#[test]
fn an_honest_conversation_is_clean() {
    let (mut stack, sink) = recorded();
    stack.bring_up();
    let mac = stack.nic().mac().unwrap();
    let frames: Vec<Vec<u8>> = (0..300_usize)
        .map(|n| {
            let mut frame = vec![n as u8; 60 + n * 4];
            frame[..6].copy_from_slice(&mac);
            frame
        })
        .collect();
    for frame in &frames {
        while stack.transmit(frame).is_err() {
            stack.turn();
        }
    }
    stack.turns(50);
    assert_eq!(stack.frames.len(), frames.len());

    let audit = finish(&mut stack, &sink);
    assert_eq!(audit.broken, None);
    assert!(audit.is_clean(), "{}", audit::text(&audit));
    assert_eq!(counts(&audit), judged(&stack));
    assert_eq!(audit.not_taken, Default::default());
    assert_eq!(audit.private_refused, 0);
    for way in [audit::Way::Out, audit::Way::In] {
        let seen: Vec<_> = audit.frames.iter().filter(|f| f.way == way).collect();
        assert_eq!(seen.len(), frames.len(), "{way:?}");
        assert!(seen.iter().zip(&frames).all(|(a, b)| a.bytes == *b));
    }
    assert!(
        audit
            .messages
            .iter()
            .all(|m| m.accepted && m.finding.is_none())
    );
    println!(
        "{}",
        audit::text(&audit)
            .lines()
            .rev()
            .take(5)
            .collect::<Vec<_>>()
            .join("\n")
    );
}

/// What the client has counted, once `change` had its way with one message.
fn hostile(
    change: impl FnMut(&mut OutgoingMessage) + 'static,
    after: impl FnOnce(&mut Stack),
) -> (Vec<(&'static str, u32)>, Audit) {
    let (mut stack, sink) = recorded();
    stack.bring_up();
    stack.host.faults.set_hook(change);
    after(&mut stack);
    stack.turns(20);
    let live = stack.violations();
    let live = live.into_iter().map(|(rule, n)| (rule.id(), n)).collect();
    (live, finish(&mut stack, &sink))
}

fn same(live: &[(&'static str, u32)], audit: &Audit, rule: Rule) {
    let replayed: Vec<_> = audit
        .violations
        .iter()
        .map(|(rule, n)| (*rule, *n as u32))
        .collect();
    assert_eq!(live, replayed, "{}", audit::text(audit));
    assert!(
        replayed.iter().any(|(id, _)| *id == rule.id()),
        "{rule}: {replayed:?}"
    );
    let text = audit::text(audit);
    assert!(
        text.contains(rule.id()) && text.contains("REFUSED"),
        "{text}"
    );
}

/// The page is whole, says which rule was broken and needs nothing from elsewhere.
#[test]
fn page_stands_alone() {
    let (_, audit) = hostile(
        |m| {
            if m.layer == FaultLayer::ReceiveBuffer {
                m.bytes[12..16].copy_from_slice(&0xffff_u32.to_le_bytes());
            }
        },
        frame_for,
    );
    let page = audit::html(&audit, "a <trace> & more");
    // To be looked at in a browser.
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/audit.html"), &page).unwrap();
    for foreign in [
        "http:", "https:", "src=", "url(", "@import", "<script", "<link",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("id=\"RND-07\"") && page.contains("href=\"#RND-07\""));
    assert!(page.contains("<mark>ff</mark> <mark>ff</mark> <mark>00</mark>"));
    assert!(page.contains("a &lt;trace&gt; &amp; more"));
    // Every element is closed in its order.
    let mut open = Vec::new();
    for tag in page
        .split('<')
        .skip(2)
        .filter_map(|rest| rest.split('>').next())
    {
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0]);
}

/// Wireshark's reader finds the frames, where it is installed.
#[test]
fn frames_open_in_tshark() {
    let (mut stack, sink) = recorded();
    stack.bring_up();
    for n in 0..20_u8 {
        frame_for(&mut stack);
        stack.transmit(&[n; 64]).unwrap();
        stack.turns(3);
    }
    let audit = finish(&mut stack, &sink);
    assert!(audit.frames.len() >= 40);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("frames.pcapng");
    std::fs::write(&file, audit::pcapng(&audit)).unwrap();
    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.time_epoch",
        "-e",
        "frame.len",
        "-e",
        "frame.packet_flags_direction",
    ];
    let out = std::process::Command::new("tshark")
        .arg("-r")
        .arg(&file)
        .args(fields)
        .output();
    let Ok(out) = out else {
        println!("tshark is not installed: not tried");
        return;
    };
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let lines: Vec<String> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(String::from)
        .collect();
    assert_eq!(lines.len(), audit.frames.len());
    for (line, frame) in lines.iter().zip(&audit.frames) {
        let words: Vec<&str> = line.split('\t').collect();
        let time: f64 = words[0].parse().unwrap();
        assert!((time - frame.time as f64 / 1e7).abs() < 1e-6, "{line}");
        assert_eq!(words[1], frame.bytes.len().to_string());
        let way = u32::from_str_radix(words[2].trim_start_matches("0x"), 16).unwrap();
        assert_eq!(
            way,
            if frame.way == audit::Way::In { 1 } else { 2 },
            "{line}"
        );
    }
}

fn frame_for(stack: &mut Stack) {
    let mac = stack.nic().mac().unwrap();
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&mac);
    stack.host.backend.to_guest.push_back(frame);
}

#[test]
fn rndis_lie_is_named() {
    let (live, audit) = hostile(
        |m| {
            if m.layer == FaultLayer::ReceiveBuffer {
                m.bytes[12..16].copy_from_slice(&0xffff_u32.to_le_bytes());
            }
        },
        frame_for,
    );
    same(&live, &audit, Rule::RND_07);
}

#[test]
fn packet_lie_is_named() {
    let (live, audit) = hostile(
        |m| {
            if m.layer == FaultLayer::Packet && m.bytes[0] == 7 {
                m.bytes[6] = 0x82;
            }
        },
        frame_for,
    );
    same(&live, &audit, Rule::PKT_05);
}

#[test]
fn nvsp_lie_is_named() {
    let (live, audit) = hostile(
        |m| {
            if m.layer == FaultLayer::Packet && m.bytes[0] == 7 {
                let payload = usize::from(m.bytes[2]) * 8;
                m.bytes[payload] = 101;
            }
        },
        frame_for,
    );
    same(&live, &audit, Rule::NVS_32);
}

#[test]
fn completion_that_comes_twice_is_named() {
    let (live, audit) = hostile(
        |m| {
            if m.layer == FaultLayer::Packet && m.bytes[0] == 11 {
                m.copies = 2;
            }
        },
        |stack| stack.transmit(&[0x33; 60]).unwrap(),
    );
    same(&live, &audit, Rule::PKT_15);
}

#[test]
fn control_lie_is_named() {
    let (live, audit) = hostile(
        |m| {
            if m.layer == FaultLayer::Control {
                m.bytes[8..12].copy_from_slice(&77_u32.to_le_bytes());
            }
        },
        |stack| stack.host.rescind_nic(),
    );
    same(&live, &audit, Rule::CTL_38);
}

#[test]
fn offer_of_another_class_is_named() {
    let (mut stack, sink) = recorded();
    stack.host.faults.set_hook(|m| {
        if m.layer == FaultLayer::Control
            && m.bytes
                .starts_with(&MessageType::OFFER_CHANNEL.0.to_le_bytes())
        {
            m.bytes[8] ^= 1;
        }
    });
    stack.client.start(0).unwrap();
    stack.turns(30);
    let live: Vec<_> = stack
        .violations()
        .iter()
        .map(|(r, n)| (r.id(), *n))
        .collect();
    let audit = finish(&mut stack, &sink);
    same(&live, &audit, Rule::CTL_18);
}

/// What lies behind the protocol, at memory itself, is in the trace too.
#[test]
fn index_beyond_the_ring_is_named() {
    let (mut stack, sink) = recorded();
    stack.bring_up();
    let gpa = 0x1_0000 + 17 * 4096;
    hostkit::VmMemory::store_u32(&stack.host.mem, gpa, 0xffff_fff8).unwrap();
    stack.turns(5);
    let live: Vec<_> = stack
        .violations()
        .iter()
        .map(|(r, n)| (r.id(), *n))
        .collect();
    let audit = finish(&mut stack, &sink);
    same(&live, &audit, Rule::RNG_02);
}

fn small() -> Vec<u8> {
    let (mut stack, sink) = recorded();
    stack.bring_up();
    stack.host.end_recording();
    sink.bytes()
}

#[test]
fn a_cut_trace_says_where_it_ends() {
    let whole = small();
    assert!(audit::audit(&whole, ALL).broken.is_none());
    let total = audit::audit(&whole, ALL).records;
    for end in 0..whole.len() {
        // Every byte of the first records, then a sample: each try reads all before it.
        if end > 4096 && end % 251 != 0 && end + 200 < whole.len() {
            continue;
        }
        let audit = audit::audit(&whole[..end], ALL);
        let broken = audit
            .broken
            .unwrap_or_else(|| panic!("{end} of {}", whole.len()));
        assert!(broken.offset <= end as u64, "{end}: {broken}");
        assert!(audit.records < total);
    }
}

#[test]
fn a_flipped_bit_is_found() {
    let whole = small();
    for at in 0..whole.len() {
        if at > 4096 && at % 251 != 0 {
            continue;
        }
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        let audit = audit::audit(&bad, ALL);
        let broken = audit
            .broken
            .unwrap_or_else(|| panic!("byte {at} was not missed"));
        // The head or the record that holds the byte is the one that is named.
        let named = broken.offset;
        assert!(
            if at < 64 {
                named < 64
            } else {
                named <= at as u64 + 32
            },
            "{at}: {broken}"
        );
    }
}

/// Takes a record now and then.
struct Narrow(VecSink, u32);

impl Sink for Narrow {
    fn put(&mut self, bytes: &[u8]) -> bool {
        self.1 += 1;
        (self.1 <= 20 || self.1.is_multiple_of(3)) && self.0.put(bytes)
    }
}

#[test]
fn lost_records_are_told() {
    let mut stack = Stack::new(
        MachineConfig::default(),
        Loopback::default(),
        Target::REDIRECTED,
    );
    let sink = VecSink::default();
    let recorder = Recorder::new(Box::new(Narrow(sink.clone(), 0)), "narrow", 0);
    stack.host.record(recorder);
    stack.bring_up();
    let audit = finish(&mut stack, &sink);
    assert!(audit.dropped > 100, "{}", audit::text(&audit));
    assert!(!audit.is_clean());
}
