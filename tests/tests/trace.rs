//! A recorded conversation between client and fake host, audited: the replay
//! reaches the verdicts that the client reached live.

#[path = "netvsc_bringup/stack.rs"]
#[allow(dead_code)]
mod stack;

use abi::hyperv::msr;
use abi::trace::{FileHeader, Kind, RecordHead};
use abi::vmbus::MessageType;
use hostkit::MachineConfig;
use hostkit::backend::Loopback;
use hostkit::fault::{Layer as FaultLayer, OutgoingMessage};
use hostkit::scenario::{self, Player};
use hostkit::trace::{Recorder, Sink, VecSink};
use stack::Stack;
use undercroft::audit::{self, Audit, Options};
use validate::{Layer, Rule};
use vmbus::Target;
use zerocopy::FromBytes;

const ALL: Options = Options {
    all: true,
    frames: true,
    // The stack's NIC enforces all rules.
    enforce_all: true,
};

fn recorded() -> (Stack, VecSink) {
    recorded_with(MachineConfig::default())
}

fn recorded_with(config: MachineConfig) -> (Stack, VecSink) {
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

/// Rules that the client has counted.
fn live(stack: &Stack) -> Vec<(&'static str, u32)> {
    let all = stack.violations();
    all.into_iter().map(|(rule, n)| (rule.id(), n)).collect()
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
    (live(&stack), finish(&mut stack, &sink))
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
    let (_, audit) = hostile(long_data, frame_for);
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

/// What is changed in which message, by what the host does, and the rule.
type Lie = (Rule, fn(&mut OutgoingMessage), fn(&mut Stack));

const LIES: [Lie; 5] = [
    (Rule::RND_07, long_data, frame_for),
    (
        Rule::PKT_05,
        |m| {
            if m.layer == FaultLayer::Packet && m.bytes[0] == 7 {
                m.bytes[6] = 0x82;
            }
        },
        frame_for,
    ),
    (
        Rule::NVS_32,
        |m| {
            if m.layer == FaultLayer::Packet && m.bytes[0] == 7 {
                let payload = usize::from(m.bytes[2]) * 8;
                m.bytes[payload] = 101;
            }
        },
        frame_for,
    ),
    (
        Rule::PKT_15,
        |m| {
            if m.layer == FaultLayer::Packet && m.bytes[0] == 11 {
                m.copies = 2;
            }
        },
        |stack| stack.transmit(&[0x33; 60]).unwrap(),
    ),
    (
        Rule::CTL_38,
        |m| {
            if m.layer == FaultLayer::Control {
                m.bytes[8..12].copy_from_slice(&77_u32.to_le_bytes());
            }
        },
        |stack| stack.host.rescind_nic(),
    ),
];

/// A frame whose data is said to be longer than its message.
fn long_data(m: &mut OutgoingMessage) {
    if m.layer == FaultLayer::ReceiveBuffer {
        m.bytes[12..16].copy_from_slice(&0xffff_u32.to_le_bytes());
    }
}

#[test]
fn each_lie_is_named() {
    for (rule, change, act) in LIES {
        let (live, audit) = hostile(change, act);
        same(&live, &audit, rule);
    }
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
    let live = live(&stack);
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
    let live = live(&stack);
    let audit = finish(&mut stack, &sink);
    same(&live, &audit, Rule::RNG_02);
}

/// What a register reads is judged too: SYN-20, SYN-22, SYN-26, SYN-28.
#[test]
fn registers_that_lie_are_named() {
    let lies = [
        ("simp", "0x12345001", msr::SIMP, Rule::SYN_20),
        ("siefp", "0", msr::SIEFP, Rule::SYN_20),
        ("scontrol", "0", msr::SCONTROL, Rule::SYN_22),
        ("sversion", "0", msr::SVERSION, Rule::SYN_22),
        ("vp-index", "0xffffffff", msr::VP_INDEX, Rule::SYN_26),
        ("tsc-frequency", "1", msr::TSC_FREQUENCY, Rule::SYN_28),
    ];
    for (name, value, register, rule) in lies {
        let mut config = MachineConfig::default();
        config.partition.tsc_hz = 2_000_000_000;
        let (mut stack, sink) = recorded_with(config);
        let honest = stack.host.msr_read(0, register).unwrap();
        if register == msr::SCONTROL {
            // Written before the recording began.
            stack.host.msr_write(0, register, 1).unwrap();
        }
        let text = format!(
            "about A register lies.\nwhen each register.{name} do return {value}\n\
             expect rule {rule}\nexpect outcome host-failure\nexpect no guest\n"
        );
        let scenario = scenario::parse(&text).unwrap_or_else(|why| panic!("{text}{why}"));
        stack.host.faults.play(Player::new(&scenario));
        let lie = stack.host.msr_read(0, register).unwrap();
        assert_ne!(honest, lie, "{name}");
        let audit = finish(&mut stack, &sink);
        let seen: Vec<_> = audit.violations.iter().map(|(id, n)| (*id, *n)).collect();
        assert_eq!(seen, [(rule.id(), 1)], "{}", audit::text(&audit));
        assert_eq!(audit.looked_at.get("register"), Some(&2));
        let shown = audit.messages.iter().find(|m| m.finding.is_some()).unwrap();
        assert_eq!(shown.bytes, lie.to_le_bytes());
    }
}

fn small() -> Vec<u8> {
    let (mut stack, sink) = recorded();
    stack.bring_up();
    stack.host.end_recording();
    sink.bytes()
}

/// Where each record starts, the end last.
fn records(trace: &[u8]) -> Vec<usize> {
    let mut starts = vec![size_of::<FileHeader>()];
    while let Ok((head, _)) = RecordHead::read_from_prefix(&trace[*starts.last().unwrap()..]) {
        let length = size_of::<RecordHead>() + head.length.get() as usize;
        starts.push(starts.last().unwrap() + length);
    }
    assert_eq!(starts.last(), Some(&trace.len()));
    starts
}

/// Offsets worth a try: each byte of the first kilobyte, those around the start of
/// each record, and a sample of the rest.
fn tries(trace: &[u8]) -> Vec<usize> {
    let starts = records(trace);
    let near = |at: usize| starts.iter().any(|start| at.abs_diff(*start) <= 1);
    (0..trace.len())
        .filter(|at| *at < 1024 || at % 499 == 0 || near(*at))
        .collect()
}

#[test]
fn a_cut_trace_says_where_it_ends() {
    let whole = small();
    let audit = audit::audit(&whole, ALL);
    assert_eq!(audit.broken, None);
    let starts = records(&whole);
    for end in tries(&whole) {
        let cut = audit::audit(&whole[..end], ALL);
        let broken = cut.broken.unwrap_or_else(|| panic!("{end}: not missed"));
        // In the record that is not whole.
        let start = starts.iter().rev().find(|start| **start <= end);
        let named = broken.offset as usize;
        assert!(
            (start.copied().unwrap_or(0)..=end).contains(&named),
            "{end}: {broken}"
        );
        assert!(cut.records < audit.records);
    }
}

#[test]
fn a_flipped_bit_is_found() {
    let whole = small();
    let starts = records(&whole);
    for at in tries(&whole) {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        let broken = audit::audit(&bad, ALL).broken;
        let broken = broken.unwrap_or_else(|| panic!("byte {at} was not missed"));
        // The head or the record that holds the byte is the one that is named.
        let next = starts.iter().position(|start| at < *start).unwrap();
        let record = next.checked_sub(1).map_or(0, |n| starts[n]);
        let named = broken.offset as usize;
        assert!((record..starts[next]).contains(&named), "{at}: {broken}");
    }
}

/// Whoever writes a trace can say anything in it, with the right sums: the reader
/// must bear every content.
#[test]
fn traces_made_up_by_an_enemy_do_no_harm() {
    let whole = small();
    let starts = records(&whole);
    let mut numbers = 0x1234_5678_9abc_def0_u64;
    let mut below = |limit: usize| {
        numbers = numbers
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (numbers >> 33) as usize % limit
    };
    let edges = [
        0,
        1,
        7,
        8,
        0xfff,
        0x1000,
        u64::from(u32::MAX),
        u64::MAX - 7,
        u64::MAX,
    ];
    let mut refused = 0;
    for _ in 0..150 {
        let mut bad = whole.clone();
        for _ in 0..1 + below(8) {
            let n = below(starts.len() - 2);
            let (start, end) = (starts[n], starts[n + 1]);
            let payload = start + size_of::<RecordHead>();
            match below(4) {
                // Another kind of record, another processor, another word in it.
                0 => {
                    let kind = Kind::ALL[below(Kind::ALL.len())].0;
                    bad[start + 4..start + 6].copy_from_slice(&kind.0.to_le_bytes());
                }
                1 => bad[start + 24 + below(4)] = below(256) as u8,
                2 if end - payload >= 8 => {
                    let at = payload + below((end - payload) / 8) * 8;
                    let edge = edges[below(edges.len())].to_le_bytes();
                    bad[at..at + 8].copy_from_slice(&edge);
                }
                _ if end > payload => bad[payload + below(end - payload)] ^= 1 << below(8),
                _ => {}
            }
            let sum = crc32fast::hash(&[&bad[start..start + 28], &bad[payload..end]].concat());
            bad[start + 28..start + 32].copy_from_slice(&sum.to_le_bytes());
        }
        let audit = audit::audit(&bad, ALL);
        refused += u32::from(!audit.is_clean());
        let _ = (
            audit::text(&audit),
            audit::html(&audit, "bad"),
            audit::pcapng(&audit),
        );
    }
    assert!(refused > 50, "{refused}");
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
