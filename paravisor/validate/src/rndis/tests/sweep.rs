//! Each message cut anywhere and with each byte bent, held against each state.

use super::*;
use std::string::String;

/// What the host may say, with what may stand behind it in its range.
fn messages() -> Vec<Vec<u8>> {
    let elements = [
        element(ppi::CHECKSUM, checksum::RX_TCP_SUCCEEDED),
        element(ppi::HASH_VALUE, 9),
        element(ppi::PACKET_ID, 1),
    ];
    let keepalive = [kind::KEEPALIVE, 12, 5].map(u32::to_le_bytes).concat();
    let mut all = std::vec![
        packet(|_| ()),
        with_ppi(&elements.concat()),
        with_ppi(&element(ppi::IEEE_8021Q, 16)),
        indicate(status::LINK_SPEED_CHANGE, 4, 12, &5000u32.to_le_bytes()),
        indicate(status::MEDIA_CONNECT, 0, 0, &[]),
        keepalive,
        initialize_complete(|_| ()),
        query_complete(&MAC, |_| ()),
        query_complete(&1u32.to_le_bytes(), |_| ()),
        set_complete(0, 7),
    ];
    for message in &mut all {
        message.extend_from_slice(&[0xEE; 4]);
    }
    all
}

const REQUESTS: [Option<Request>; 6] = [
    None,
    Some(Request::Initialize),
    Some(Request::Query(oid::CURRENT_ADDRESS)),
    Some(Request::Query(oid::LINK_SPEED)),
    Some(Request::Query(oid::MAXIMUM_FRAME_SIZE)),
    Some(Request::Set(oid::CURRENT_PACKET_FILTER)),
];

/// Every state: what waits, whether frames are wanted, which channel, 802.1Q or not.
fn contexts() -> Vec<Context> {
    let mut all = Vec::new();
    for request in REQUESTS {
        for state in 0..8 {
            let mut context = context();
            context.awaited = request.and_then(awaited);
            context.primary = state & 1 != 0;
            context.ready = state & 2 != 0;
            context.packet.vlan = state & 4 != 0;
            context.packet.refuse_oob = state & 4 == 0;
            all.push(context);
        }
    }
    all
}

/// What is said in every state; also looks at what passed.
fn verdicts(bytes: &[u8], contexts: &[Context]) -> Vec<Result<String, Violation>> {
    let mut all = Vec::new();
    for context in contexts {
        for carrier in [Carrier::Data, Carrier::Control] {
            let judged = message(bytes, carrier, context);
            if let Ok(judged) = &judged {
                match judged.value {
                    Message::Packet(packet) => {
                        let frame = packet.frame();
                        assert!((14..=1518).contains(&frame.len()));
                        assert!(frame[0] & 1 != 0 || frame[..6] == MAC);
                        assert!(bytes.as_ptr_range().contains(&frame.as_ptr()));
                        assert!(context.ready && carrier == Carrier::Data);
                    }
                    Message::Response(response) => {
                        assert!(context.awaited.is_some() && context.primary);
                        if let Response::Value(Value::Mtu(mtu)) = response {
                            assert!((1280..=1500).contains(&mtu));
                        }
                    }
                    _ => assert!(context.primary && carrier == Carrier::Control),
                }
            }
            all.push(judged.map(|judged| std::format!("{judged:?}")));
        }
    }
    all
}

/// A range that is cut, and a length in the header that says so or does not. Nothing
/// of a message that is not all there passes, and what follows a whole one changes
/// nothing (RND_02, RND_03). Each verdict is the same the second time (SYS_10).
#[test]
fn rnd_02_rnd_03_sys_10_each_message_cut_anywhere_in_each_state() {
    let contexts = contexts();
    let mut passed = 0;
    for message in messages() {
        let length = message.len() - 4;
        let whole = verdicts(&message, &contexts);
        for cut in 0..message.len() {
            let now = verdicts(&message[..cut], &contexts);
            assert_eq!(now, verdicts(&message[..cut], &contexts));
            if cut >= length {
                assert_eq!(now, whole, "{message:x?} to {cut}");
                passed += now.iter().filter(|judged| judged.is_ok()).count();
                continue;
            }
            let rule = if cut < 8 { Rule::RND_01 } else { Rule::RND_02 };
            for judged in now {
                assert_eq!(judged.unwrap_err().rule, rule, "{message:x?} to {cut}");
            }
            if cut >= 8 {
                let mut honest = message[..cut].to_vec();
                honest[4..8].copy_from_slice(&(cut as u32).to_le_bytes());
                verdicts(&honest, &contexts);
            }
        }
    }
    assert!(passed > 400, "{passed}");
}

#[test]
fn sys_10_each_byte_of_each_message_bent_in_each_state() {
    let contexts: Vec<Context> = contexts().into_iter().filter(|c| c.primary).collect();
    let mut passed = 0;
    for message in messages() {
        // The frame's own bytes are nobody's business.
        for at in 0..message.len().min(108) {
            let old = message[at];
            let mut bent = message.clone();
            for value in [0, 1, 0x7F, 0x80, 0xFF, old ^ 1] {
                bent[at] = value;
                let now = verdicts(&bent, &contexts);
                passed += now.iter().filter(|judged| judged.is_ok()).count();
            }
        }
    }
    assert!(passed > 1000, "{passed}");
}
