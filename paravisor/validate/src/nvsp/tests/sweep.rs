//! Each message cut anywhere and with each byte bent, held against each state.

use super::*;
use std::vec::Vec;

extern crate std;

/// What the host may say, with what may stand behind it.
fn messages() -> Vec<Vec<u8>> {
    let sections = SendSendBufferComplete {
        message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
        status: status::SUCCESS.into(),
        section_size: 6144.into(),
    };
    let sent = SendRndisPacketComplete {
        message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
        status: status::SUCCESS.into(),
    };
    let vf = SendVfAssociation {
        message_type: message::SEND_VF_ASSOCIATION.into(),
        allocated: 1.into(),
        serial: 7.into(),
    };
    let data = rndis(message::SEND_RNDIS_PACKET, 0);
    let mut all: Vec<Vec<u8>> = std::vec![
        init(1).as_bytes().to_vec(),
        good_section().as_bytes().to_vec(),
        sections.as_bytes().to_vec(),
        sent.as_bytes().to_vec(),
        vf.as_bytes().to_vec(),
        data.as_bytes().to_vec(),
        table(16, 12, 3).to_vec(),
        table(16, 16, 0).to_vec(),
    ];
    for kind in [0, 1, 100, 125, 129, 130, 133, 134, u32::MAX] {
        all.push([kind.to_le_bytes(), [0; 4]].concat());
    }
    for message in &mut all {
        message.resize((message.len() + 8).next_multiple_of(8), 0xEE);
    }
    all
}

const AWAITED: [Awaited; 6] = [
    Awaited::Init,
    RECEIVE,
    SEND,
    Awaited::Rndis,
    Awaited::Nothing,
    ASKED,
];
const PHASES: [ReceivePhase; 3] = [
    ReceivePhase::NotReady,
    ReceivePhase::Open,
    ReceivePhase::Revoked,
];
const CONTEXTS: [InBandContext; 3] = [
    ALONE,
    FOUR,
    InBandContext {
        primary: false,
        channels: 4,
    },
];

/// What every judge in every state says; also looks at what passed.
fn verdicts(bytes: &[u8]) -> Vec<Result<std::string::String, Violation>> {
    let mut all = Vec::new();
    for awaited in AWAITED {
        let judged = completion(bytes, awaited);
        match judged.map(|judged| judged.value) {
            Ok(Completion::ReceiveBuffer(g)) => {
                assert!((MIN_SLOT..=MAX_SLOT).contains(&g.slot_size));
                assert!((1..=MAX_SLOTS).contains(&g.slot_count));
                assert!(u64::from(g.slot_size) * u64::from(g.slot_count) <= u64::from(BUFFER));
            }
            Ok(Completion::SendBuffer(g)) => {
                assert!(g.section_size >= MIN_SECTION);
                assert!((1..=MAX_SECTIONS).contains(&g.section_count));
                assert!(g.section_size * g.section_count <= 1 << 20);
            }
            _ => {}
        }
        all.push(judged.map(|judged| std::format!("{judged:?}")));
    }
    let carriers = PHASES.iter().map(|phase| carrier(bytes, *phase));
    all.extend(carriers.map(|judged| judged.map(|carrier| std::format!("{carrier:?}"))));
    for context in CONTEXTS {
        let judged = in_band(bytes, &context);
        if let Ok(InBand::IndirectionTable(table)) = judged {
            assert!(table.iter().all(|entry| *entry < context.channels));
        }
        all.push(judged.map(|message| std::format!("{message:?}")));
    }
    all
}

/// No length makes a judge panic; a judge that takes a message takes every longer
/// one to the same effect, and every verdict is the same the second time (SYS_10).
#[test]
fn sys_10_each_message_cut_anywhere_in_each_state() {
    let mut passed = 0;
    for message in messages() {
        let whole = verdicts(&message);
        let mut before = verdicts(&[]);
        for cut in 1..=message.len() {
            let now = verdicts(&message[..cut]);
            assert_eq!(now, verdicts(&message[..cut]));
            for (at, (before, now)) in before.iter().zip(&now).enumerate() {
                // An empty completion is one of its own.
                if before.is_ok() && cut > 1 {
                    assert_eq!(now, before, "{message:x?} to {cut}");
                    assert_eq!(now, &whole[at]);
                }
                passed += usize::from(now.is_ok());
            }
            before = now;
        }
    }
    assert!(passed > 500, "{passed}");
}

#[test]
fn sys_10_each_byte_of_each_message_bent_in_each_state() {
    let mut refused = 0;
    for message in messages() {
        for at in 0..message.len() {
            let old = message[at];
            let mut bent = message.clone();
            for value in [0, 1, 2, 0x7F, 0x80, 0xFF, old ^ 1, old.wrapping_add(1)] {
                bent[at] = value;
                let now = verdicts(&bent);
                refused += now.iter().filter(|judged| judged.is_err()).count();
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
}
