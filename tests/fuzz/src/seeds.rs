//! Inputs that are valid conversations: where fuzzing starts from.

/// Little-endian words.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A run of bytes as [`crate::Input::run`] takes it.
fn run(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![bytes.len() as u8];
    out.extend(bytes);
    out
}

fn packet(kind: u16, offset8: u16, flags: u16, behind: &[u8]) -> Vec<u8> {
    let length8 = (16 + behind.len()).div_ceil(8) as u16;
    let mut out: Vec<u8> = [kind, offset8, length8, flags]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    out.extend(7_u64.to_le_bytes());
    out.extend(behind);
    out.resize(usize::from(length8) * 8, 0);
    out
}

/// A frame in a PACKET message.
fn frame_message() -> Vec<u8> {
    let frame = [0xff; 60];
    let mut out = words(&[1, 44 + 60, 36, 60, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(frame);
    out
}

/// (target, file, bytes)
pub fn valid() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |target, name, parts: &[&[u8]]| all.push((target, name, parts.concat()));

    // One message with another behind it, then flags.
    let slot = [&[0, 1, 8, 1][..], &run(&words(&[4, 0]))].concat();
    add("synic", "one-message", &[&[2], &slot, &[2, 16, 0]]);
    add("synic", "flood", &[&[2], &slot, &[2, 64, 255]]);
    add(
        "synic",
        "flags",
        &[&[7, 1, 0, 23], &[0x11; 16], &[4, 11, 0xff, 7]],
    );

    // Contact, offer and open, each request answered.
    let open = [8, 0];
    let answer = [0, 0, 1, 1, 0];
    let bring_up: Vec<u8> = [&open[..], &answer, &answer, &[9, 0, 1], &answer].concat();
    add("control", "open", &[&[0], &bring_up]);
    add("control", "open-plain", &[&[1], &bring_up]);
    add(
        "control",
        "close",
        &[&[0], &bring_up, &[10, 0], &answer, &answer],
    );
    add(
        "control",
        "rescind",
        &[&[0], &bring_up, &[5, 5, 0, 10, 0], &answer],
    );
    add("control", "unload", &[&[0], &bring_up, &[14, 1], &answer]);

    let host = [&[0, 6][..], &[7; 8], &run(&[0x77; 24]), &[2, 0]].concat();
    add(
        "ring",
        "host-to-guest",
        &[&[0], &host, &host, &[11, 11, 11, 14]],
    );
    add(
        "ring",
        "guest-to-host",
        &[&[0, 8, 2, 40, 8, 0, 9, 1, 3, 0, 0, 10, 4]],
    );
    let send = [8, 2, 255, 0xff, 7];
    add(
        "ring",
        "full",
        &[&[0], &send.repeat(2), &[10], &send, &[4], &send, &[10, 4]],
    );

    let limits = [0, 0, 0];
    add(
        "packet",
        "in-band",
        &[&limits, &packet(6, 2, 1, &words(&[107, 0]))],
    );
    add(
        "packet",
        "completion",
        &[&limits, &packet(11, 2, 0, &words(&[108, 1]))],
    );
    let ranges = [
        &0xcafe_u16.to_le_bytes()[..],
        &[0, 0],
        &words(&[1, 64, 0, 107, 0]),
    ]
    .concat();
    add(
        "packet",
        "transfer-pages",
        &[&limits, &packet(7, 4, 1, &ranges)],
    );

    let geometry = run(&words(&[102, 1, 1, 0, 2048, 1024, 2 << 20]));
    let range = [1, 0, 1, 0, 0, 0, 0, 100, 0];
    add(
        "nvsp",
        "receive-buffer",
        &[&[0, 1], &geometry, &range, &range, &[0, 0], &range],
    );
    add(
        "nvsp",
        "init",
        &[&[0, 0], &run(&words(&[2, 0x6_0001, 34, 1]))],
    );
    add(
        "nvsp",
        "send-buffer",
        &[&[0, 2], &run(&words(&[105, 1, 6144]))],
    );
    add(
        "nvsp",
        "carrier",
        &[&[0, 5, 1], &words(&[107, 0, u32::MAX, 0])],
    );

    add("rndis", "frame", &[&[0, 0, 0], &frame_message()]);
    add(
        "rndis",
        "link-up",
        &[&[1, 0, 0], &words(&[7, 20, 0x4001_000b, 0, 0])],
    );
    add("rndis", "keepalive", &[&[1, 0, 0], &words(&[8, 12, 5])]);
    let complete = words(&[0x8000_0002, 52, 7, 0, 1, 0, 1, 0, 8, 0x4000, 3, 0, 0]);
    add("rndis", "initialize", &[&[1, 0, 0], &complete]);
    let query = [
        &words(&[0x8000_0004, 30, 7, 0, 6, 16])[..],
        &[2, 0x15, 0x5d, 0, 0, 1],
    ]
    .concat();
    add("rndis", "address", &[&[1, 0, 1], &query]);

    // Frames each way; a response of one request lied about; a stop; a new start.
    let to_guest = [7, 2, 46, 0, 1, 200, 1, 2, 0, 4, 3, 9];
    let to_host = [9, 2, 60, 1, 0, 2, 200, 0, 3, 234, 5];
    add(
        "nic",
        "frames",
        &[&[0, 0], &to_guest, &to_host, &[15, 4], &to_guest],
    );
    add(
        "nic",
        "from-the-start",
        &[&[0, 1, 15, 15, 15, 15, 15, 15], &to_guest],
    );
    // Hashes of TCP over IPv4, of another kind, and none.
    let asks = |bits: u8| [&[15, 0x8a | bits][..], &to_guest, &[15, 4]].concat();
    add("nic", "hash", &[&[0, 0], &asks(0), &asks(0x40), &to_guest]);
    add("nic", "lie", &[&[0, 1, 15, 2, 3, 4, 4, 9, 15, 15]]);
    add(
        "nic",
        "stop",
        &[
            &[0, 0],
            &to_host,
            &[12, 15, 3, 13, 15, 15, 15, 15],
            &to_guest,
        ],
    );
    add(
        "nic",
        "no-room",
        &[&[0, 0, 10, 1], &to_guest, &[15, 2, 10, 9, 15, 1]],
    );
    add(
        "nic",
        "link",
        &[
            &[0, 0, 8],
            &run(&words(&[7, 20, 0x4001_000c, 0, 0])),
            &[1, 15, 3],
        ],
    );

    // Four fragments over each version of IP, then one of them says it is the first.
    let joined = |v6, lie: &[u8]| {
        let sizes = [160, 5, 160, 5, 160, 5, 9, 0];
        [
            &[7, 1, 0, v6, 7, 3],
            &sizes[..],
            &[0x34, 0x12],
            lie,
            &[6, 15, 2],
        ]
        .concat()
    };
    let apart = joined(0, &[161, 2, 3]);
    add(
        "nic",
        "joined",
        &[
            &[0x88, 0, 15, 4],
            &joined(0, &[0]),
            &joined(1, &[0]),
            &apart,
        ],
    );

    let frames = [5, 3, 60, 0, 1, 200, 0, 2, 255, 3, 3, 16, 0, 4];
    add("client", "frames", &[&[0], &frames, &frames]);
    add(
        "client",
        "rescind",
        &[&[0], &frames, &[9, 0, 9, 1, 15, 255, 15]],
    );
    add(
        "client",
        "from-the-start",
        &[&[1, 15, 255, 15, 15, 255, 15], &frames],
    );
    let lie = [0, 1, 1, 4, 4, 0, 8];
    add("client", "lie", &[&[0], &lie, &frames, &[15, 255, 15]]);
    add(
        "client",
        "keepalive",
        &[&[0, 11], &run(&words(&[8, 12, 5])), &[15, 255, 4]],
    );

    // Both MSR requests of the check, sharing and registration are granted.
    let granted = [0; 4];
    let page_reply = [0; 18];
    add(
        "ghcb",
        "registers",
        &[
            &granted,
            &[0],
            &page_reply,
            &[2],
            &7_u64.to_le_bytes(),
            &page_reply,
        ],
    );
    // Ten elements: the host stops after three, goes on, is done.
    let cut_short = [3, 0x8a, 0x51, 40, 128, 3, 7, 128, 4, 7, 0, 7];
    add(
        "ghcb",
        "hypercall",
        &[&granted, &[3, 0, 0x5c, 200, 0, 7], &cut_short, &cut_short],
    );
    let exit = |code: u8, info1: u64, info2: u64| {
        let details: Vec<u8> = [info1, info2, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        [
            &[6, 0, code][..],
            &details,
            &[0],
            &page_reply,
            &[0, 0xec],
            &[0; 8],
        ]
        .concat()
    };
    add(
        "ghcb",
        "exits",
        &[
            &granted,
            &exit(0x72, 0, 0),
            &exit(0x7b, 0x03f8_0010, 0),
            &exit(0x7c, 1, 0),
            &exit(0x78, 0, 0),
        ],
    );
    // Two large pages and a small one at each end.
    let range = [&[8][..], &0x01ff_u16.to_le_bytes(), &1026_u16.to_le_bytes()].concat();
    add(
        "ghcb",
        "pages",
        &[&granted, &range, &[0; 5], &range, &[1, 0, 240]],
    );

    // A chain of one descriptor for transmission.
    let describe = [1, 0, 0, 0, 0, 0, 100, 0, 0, 0];
    let offer = [1, 3, 0, 0];
    add(
        "virtio",
        "transmit",
        &[&[0], &describe, &offer, &[1, 7, 1, 7]],
    );
    let write = [0, 0, 0, 0, 0, 0, 0, 8, 2, 0];
    add(
        "virtio",
        "receive",
        &[&[0], &write, &[0, 3, 0, 0], &[0, 8, 60, 0]],
    );

    // With two pairs, the first descriptor of the control queue: nothing but room for an
    // answer. Then a frame on the second pair, which is not in use.
    let answer = [4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0];
    let on_second = [2, 0, 0, 0, 0, 0, 0, 8, 2, 0, 2, 3, 0, 0, 2, 8, 60, 0];
    add(
        "virtio",
        "control",
        &[&[4], &answer, &[4, 3, 0, 0, 4, 7], &on_second],
    );

    // A frame of 100 bytes; the same with checksums; one of 1000 bytes cut by 200.
    let legacy = [0, 0, 0, 0, 0, 0, 100, 0, 0x0b, 11, 0, 0];
    add("e1000e", "legacy", &[&[0], &legacy, &[4, 32, 7, 7]]);
    let context = |at: u8, command: u8, segment: u16| {
        let [low, high] = segment.to_le_bytes();
        [0, at, 1, 0, 0, command, low, high, 54, 33]
    };
    let data = |at: u8, command: u8, len: u16| {
        let [low, high] = len.to_le_bytes();
        [0, at, 2, command, 3, 0, 0, 0, 0, 0, low, high]
    };
    let sums = [&context(0, 3, 0)[..], &data(1, 0x0b, 100), &[4, 33, 7, 7]].concat();
    add("e1000e", "checksum", &[&[0], &sums]);
    let cut = [&context(0, 7, 200)[..], &data(1, 0x0f, 1000), &[4, 33]].concat();
    add("e1000e", "segments", &[&[4], &cut, &[7; 8]]);
    let post = [3, 0, 0, 0, 0, 0, 5, 33];
    let arrive = [8, 46, 0, 1, 0];
    for (name, shape) in [("extended", 0), ("plain", 2), ("split", 3)] {
        add("e1000e", name, &[&[shape], &post, &arrive, &arrive]);
    }
    let registers: Vec<u8> = (0..24)
        .flat_map(|index| [6, index, 11, 0x5a, 0xa5])
        .collect();
    add(
        "e1000e",
        "registers",
        &[&[0], &registers, &arrive, &[4, 40, 7]],
    );

    add(
        "pci_mmio",
        "configuration",
        &[&[2, 0, 2, 0, 2, 16, 2, 0, 2, 20, 2, 1, 8, 2]],
    );
    add("pci_mmio", "uart", &[&[0, 37, 0, 1, 32, 0, 65, 15, 1, 0]]);
    add(
        "pci_mmio",
        "apic",
        &[&[6, 128, 0, 0xf0, 0, 2, 11, 0xff, 1, 0, 4, 128, 0, 0x20, 0, 2]],
    );

    // mov %eax,(%rdi); mov (%rdi),%eax; movsb; xchg.
    for (name, code) in [
        ("store", &[0x89, 0x07][..]),
        ("load", &[0x8b, 0x07]),
        ("string", &[0xf3, 0xa4]),
        ("exchange", &[0x87, 0x07]),
        ("extend", &[0x0f, 0xb6, 0x07]),
    ] {
        let mut bytes = vec![if name == "load" || name == "extend" {
            0
        } else {
            8
        }];
        bytes.extend(code);
        bytes.resize(16, 0x90);
        bytes.extend([9; 16]);
        add("decode", name, &[&bytes]);
    }

    let entry = [
        &0_u64.to_le_bytes()[..],
        &0x2_0000_u64.to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    add("params", "one-entry", &[&entry]);
    all
}
