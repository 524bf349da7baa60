//! Properties of the construction, seen from the host's side.

use super::*;

/// One proposal, of 6.1 and nothing below ("NVS-07", "NVS-09"), and no capability
/// but those that let link speeds be told and tags travel beside frames ("NVS-10"). A refusal ends it.
#[test]
fn nvs_07_nvs_09_nvs_10_what_is_proposed() {
    for accepted in [1, 0, 2, u32::MAX] {
        let mut peer = Peer::new();
        peer.nic.start(peer.now);
        let first = peer.heard();
        peer.complete(first[0].id, messages::init_complete(accepted).as_bytes());
        peer.settle();
        let inits: Vec<_> = (peer.log.iter())
            .filter(|sent| sent.kind == 6 && sent.nvsp() == message::INIT)
            .map(|sent| (sent.word(4), sent.word(8)))
            .collect();
        assert_eq!(inits, [(nvsp::version::V61, nvsp::version::V61)]);
        assert_eq!(peer.nic.is_ready(), accepted == 1);
        for config in (peer.log.iter()).filter(|sent| sent.kind == 6 && sent.nvsp() == 125) {
            assert_eq!(
                (config.word(12), config.word(16)),
                (
                    (nvsp::capability::TEAMING | nvsp::capability::IEEE_8021Q) as u32,
                    0
                )
            );
        }
    }
}

/// A second answer about the receive buffer, in-band and as a completion: refused
/// ("NVS-04", "PKT-15"), and ranges are still judged by the first ("NVS-19").
#[test]
fn nvs_19_geometry_stays_as_it_was_accepted() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    peer.settle();
    let mut other = messages::receive_buffer_complete();
    other.section.sub_allocation_size = (2 * SLOT as u32).into();
    other.section.sub_allocation_count = 2.into();
    let share = peer.log.iter().find(|sent| sent.nvsp() == 101).unwrap().id;
    peer.in_band(0, 0, other.as_bytes());
    peer.complete(share, other.as_bytes());
    peer.settle();
    assert_eq!(counted(&peer, Rule::NVS_04), 1);
    assert_eq!(counted(&peer, Rule::PKT_15), 1);
    peer.transfer(1, 0, &[(SLOT as u32 + 1, 0)]);
    let last = (SLOT * (SLOTS - 1)) as u32;
    let bytes = packet(&frame(60, 1));
    peer.receive.copy_out(last as usize, &bytes).unwrap();
    peer.transfer(2, 0, &[(bytes.len() as u32, last)]);
    peer.settle();
    assert_eq!((counted(&peer, Rule::NVS_24), peer.frames.len()), (1, 1));
}

/// The section that comes back is the one that our table holds ("NVS-22"): the
/// completion of the second frame frees the second's, though the host names others.
#[test]
fn nvs_22_completion_frees_the_section_of_its_request() {
    let mut peer = Peer::ready();
    let send = |peer: &mut Peer, tag| {
        let out = frame(60, tag);
        peer.nic
            .transmit_plain(&mut peer.channel, &out, peer.now)
            .unwrap();
        peer.heard().pop().unwrap()
    };
    let (first, second) = (send(&mut peer, 1), send(&mut peer, 2));
    let mut payload = messages::transmitted(1).as_bytes().to_vec();
    payload.extend_from_slice(&first.word(8).to_le_bytes());
    peer.complete(second.id, &payload);
    let _ = peer.poll();
    let third = send(&mut peer, 3);
    assert_eq!(third.word(8), second.word(8));
    assert_ne!(third.word(8), first.word(8));
    // The first frame still stands in its section.
    assert_eq!(peer.rndis(&first)[44..], frame(60, 1));
}

/// Memory that changes after the first read of any byte: the frame and the
/// information before it come whole, out of one copy ("NVS-27", "RND-23").
#[test]
fn nvs_27_rnd_23_a_range_is_read_once() {
    let mut peer = Peer::ready();
    let message = packet(&frame(1514, 5));
    let range = peer.slot(&message);
    peer.transfer(1, 0, &[range]);
    peer.settle();
    assert_eq!(peer.frames, [frame(1514, 5)]);
    // The double has done its work: each byte of the range was read, and changed.
    let mut now = alloc::vec![0; message.len()];
    peer.receive.copy_in(range.1 as usize, &mut now).unwrap();
    assert!(now.iter().zip(&message).all(|(now, then)| now != then));
}

/// What the host says about checksums changes no frame ("RND-25"), and goes on only
/// where it is trusted and does not call another sum wrong.
#[test]
fn rnd_25_claims_about_checksums_go_no_further_than_policy() {
    use rndis::checksum::{RX_IP_FAILED, RX_TCP_SUCCEEDED, RX_UDP_SUCCEEDED};
    for trust_checksums in [true, false] {
        let mut peer = Peer::with(Config {
            trust_checksums,
            ..config()
        });
        peer.nic.start(peer.now);
        peer.settle();
        for (claim, good) in [
            (0, false),
            (RX_TCP_SUCCEEDED, true),
            (RX_UDP_SUCCEEDED, true),
            (RX_TCP_SUCCEEDED | RX_IP_FAILED, false),
            (u32::MAX, false),
        ] {
            let mut message = packet(&frame(100, 5));
            message[56..60].copy_from_slice(&claim.to_le_bytes());
            let range = peer.slot(&message);
            peer.transfer(1, 0, &[range]);
            peer.settle();
            assert_eq!(peer.frames.pop(), Some(frame(100, 5)));
            let passed = good && trust_checksums;
            assert_eq!(peer.vouched.pop(), Some(passed), "RND_25, {claim:#x}");
        }
        assert_eq!(counted(&peer, Rule::RND_24), 1);
    }
}

/// A tag beside a frame reaches the guest in it ("RND-26" says which are taken).
#[test]
fn rnd_26_a_tag_goes_back_into_its_frame() {
    for whole in [false, true] {
        let mut peer = Peer::ready();
        peer.whole = whole;
        let plain = frame(200, 5);
        // Where there is no room for it behind other information.
        for data_at in [60u32, 256] {
            let mut message = alloc::vec![0; data_at as usize];
            let head = rndis::Packet {
                header: messages::header(rndis::message::PACKET, data_at as usize + 200),
                data_offset: (data_at - 8).into(),
                data_length: 200.into(),
                ppi_offset: 36.into(),
                ppi_length: 16.into(),
                ..Default::default()
            };
            message[..44].copy_from_slice(head.as_bytes());
            let element = [16, rndis::ppi::IEEE_8021Q, 12, 0x5D];
            for (to, from) in message[44..60].chunks_mut(4).zip(element) {
                to.copy_from_slice(&from.to_le_bytes());
            }
            message.extend(&plain);
            // The guest has no room at first: the tag is put in once all the same.
            peer.room = 0;
            let range = peer.slot(&message);
            peer.transfer(1, 0, &[range]);
            let _ = peer.poll();
            let _ = peer.poll();
            peer.room = usize::MAX;
            peer.settle();
            let mut tagged = plain.clone();
            tagged.splice(12..12, [0x81, 0x00, 0xB0, 0x05]);
            assert_eq!(peer.frames.pop(), Some(tagged));
        }
        assert_eq!(counted(&peer, Rule::RND_26), 0);
    }
}

/// Two identical answers in one packet: the first retires the request ("RND-38"),
/// the second answers nothing ("RND-36").
#[test]
fn rnd_38_second_answer_finds_no_request() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    let request = loop {
        let sent = peer.heard();
        if let Some(sent) = sent
            .iter()
            .find(|sent| sent.kind == 6 && sent.nvsp() == 107)
        {
            break sent.clone();
        }
        sent.iter().for_each(|sent| peer.serve(sent));
    };
    let rndis = peer.rndis(&request);
    let id = u32::from_le_bytes(rndis[8..12].try_into().unwrap());
    let answer = messages::initialize_complete(id);
    let ranges = [peer.slot(answer.as_bytes()), peer.slot(answer.as_bytes())];
    peer.complete(request.id, messages::transmitted(1).as_bytes());
    peer.transfer(1, 1, &ranges);
    peer.settle();
    assert_eq!(counted(&peer, Rule::RND_36), 1);
    assert!(peer.nic.is_ready());
}

/// In-band messages and completions are all that ever leaves ("SYS-09").
#[test]
fn sys_09_no_packet_names_an_address() {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    peer.settle();
    for len in [14, 60, 1514, 1518] {
        let out = frame(len, 1);
        peer.nic
            .transmit_plain(&mut peer.channel, &out, peer.now)
            .unwrap();
        let range = peer.slot(&packet(&out));
        peer.transfer(1, 0, &[range]);
        peer.settle();
    }
    peer.nic.stop(peer.now);
    peer.settle();
    assert!(peer.log.len() > 25);
    assert!(peer.log.iter().all(|sent| matches!(sent.kind, 6 | 11)));
}
