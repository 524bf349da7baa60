//! Each NVSP and each RNDIS message, cut anywhere, at each step of a live NIC. The
//! same over every byte is done where the rules are (`validate`), which is quick; here
//! a NIC is brought up to each step once, and again when it has ended or moved on.

use super::*;

/// Steps of the bring-up that a NIC can stand at: INIT, receive buffer, send buffer,
/// ten RNDIS requests, ready.
const STEPS: usize = 14;
/// Polls that a NIC stays at a step, so that neither the budget of in-band messages
/// nor the deadline of a request comes in between.
const POLLS: u64 = 80;

/// A NIC that stands at a step.
struct Stand {
    step: usize,
    peer: Peer,
    /// Id of the request that waits.
    waits: u64,
    polls: u64,
    /// NICs that were brought up.
    made: usize,
}

impl Stand {
    fn at(step: usize) -> Stand {
        let mut stand = Stand {
            step,
            peer: Peer::new(),
            waits: 0,
            polls: 0,
            made: 0,
        };
        stand.again();
        stand
    }

    fn again(&mut self) {
        self.peer = Peer::new();
        self.peer.nic.start(self.peer.now);
        self.waits = 0x77;
        self.polls = 0;
        self.made += 1;
        for step in 0..=self.step {
            self.peer.now += 100;
            let sent = self.peer.heard();
            for sent in &sent {
                if sent.flags == 1 {
                    self.waits = sent.id;
                }
                if step < self.step {
                    self.peer.serve(sent);
                }
            }
        }
        assert!(failed(&self.peer).is_none());
        assert_eq!(self.peer.nic.is_ready(), self.step + 1 >= STEPS);
    }

    /// Lets the host say something, looks at what comes of it, and makes sure that
    /// the NIC stands where it stood.
    fn say(&mut self, say: impl FnOnce(&mut Peer, u64)) -> Option<Rule> {
        let phase = self.peer.nic.phase;
        say(&mut self.peer, self.waits);
        self.peer.now += 100;
        let _ = self.peer.poll();
        let heard = self.peer.heard();
        self.polls += 1;
        for frame in self.peer.frames.drain(..) {
            assert!((14..=1518).contains(&frame.len()));
            assert!(frame[0] & 1 != 0 || frame[..6] == MAC);
            assert!(self.step + 1 >= STEPS, "a frame at step {}", self.step);
        }
        let rule = failed(&self.peer);
        let moved = self.peer.nic.phase != phase || heard.iter().any(|sent| sent.kind == 6);
        if moved || rule.is_some() || self.polls >= POLLS {
            self.again();
        }
        rule
    }
}

/// Payloads of ring packets are multiples of 8 bytes: so are the cuts.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..=len).step_by(8)
}

#[test]
fn sys_01_each_nvsp_message_cut_anywhere_at_each_step() {
    let mut messages: Vec<Vec<u8>> = alloc::vec![
        messages::init_complete(1).as_bytes().to_vec(),
        messages::receive_buffer_complete().as_bytes().to_vec(),
        messages::send_buffer_complete().as_bytes().to_vec(),
        messages::transmitted(1).as_bytes().to_vec(),
    ];
    for kind in [0, 100, 107, 128, 129, 133, 134, u32::MAX] {
        let mut bytes = alloc::vec![0; 24];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        messages.push(bytes);
    }
    let (mut ended, mut said) = (0, 0);
    for step in 0..STEPS {
        let mut stand = Stand::at(step);
        for message in &messages {
            for cut in cuts(message.len()) {
                let part = &message[..cut];
                let answers = stand.say(|peer, waits| peer.complete(waits, part));
                let in_band = stand.say(|peer, _| peer.in_band(1, 9, part));
                // Whatever it is, in-band it is dropped at most.
                assert_eq!(in_band, None, "{part:x?} at step {step}");
                ended += usize::from(answers.is_some());
                said += 2;
            }
        }
    }
    assert!(ended > 100 && said > 900, "{ended} of {said}");
}

#[test]
fn sys_01_each_rndis_message_cut_anywhere_at_each_step() {
    let keepalive = rndis::Keepalive {
        header: messages::header(rndis::message::KEEPALIVE, 12),
        request_id: 5.into(),
    };
    let event = rndis::IndicateStatus {
        header: messages::header(rndis::message::INDICATE_STATUS, 20),
        status: rndis::status::MEDIA_CONNECT.into(),
        ..Default::default()
    };
    let id = config().seed as u32 | 1;
    let messages = [
        packet(&frame(60, 1)),
        event.as_bytes().to_vec(),
        keepalive.as_bytes().to_vec(),
        messages::initialize_complete(id).as_bytes().to_vec(),
        messages::query_complete(id + 1, 0, &MAC),
        messages::set_complete(id + 8, 0).as_bytes().to_vec(),
    ];
    let mut ended = 0;
    for step in 0..STEPS {
        let mut stand = Stand::at(step);
        for message in &messages {
            for carrier in [0, 1, 2] {
                // On the wrong carrier nothing but the carrier is looked at.
                let right = (message[0] == 1) == (carrier == 0);
                let stride = if right && carrier != 2 { 1 } else { 16 };
                for cut in (0..=message.len()).step_by(stride) {
                    let rule = stand.say(|peer, id| {
                        let range = peer.slot(&message[..cut]);
                        peer.transfer(id, carrier, &[range]);
                    });
                    let early = step < 2;
                    assert!(!early || rule == Some(Rule::NVS_31), "{rule:?} at {step}");
                    ended += usize::from(rule.is_some());
                }
            }
        }
    }
    assert!(ended > 100, "{ended}");
}
