//! The owner stops the NIC, and the host falls silent or breaks the rules, at each
//! step of bring-up and of the way back: the NIC ends, once, and gives its buffers back.

use super::*;

/// Honest turns from the start until the NIC has been ready for a while and has been
/// stopped again.
const READY_AT: usize = 13;
const LIFE: usize = 21;

/// A NIC after so many honest turns, in traffic from [`READY_AT`] on.
fn after(turns: usize) -> Peer {
    let mut peer = Peer::new();
    peer.nic.start(peer.now);
    for turn in 0..turns {
        peer.now += 100;
        for sent in peer.heard() {
            peer.serve(&sent);
        }
        if peer.nic.is_ready() {
            let out = frame(60, turn as u8);
            let _ = peer.nic.transmit_plain(&mut peer.channel, &out, peer.now);
            let range = peer.slot(&packet(&out));
            peer.transfer(1000 + turn as u64, 0, &[range]);
        }
        if turn == READY_AT {
            assert!(peer.nic.is_ready(), "{:?}", peer.nic.phase);
        }
        if turn == READY_AT + 3 {
            peer.nic.stop(peer.now);
        }
    }
    peer
}

/// Ends seen so far.
fn ends(peer: &Peer) -> usize {
    let end = |event: &&Event| matches!(event, Event::Stopped | Event::Failed(_));
    peer.events.iter().filter(end).count()
}

/// It has ended once, wants nothing more, does nothing more, and both its buffers
/// come back.
fn over(mut peer: Peer) {
    let _ = peer.poll();
    assert_eq!(ends(&peer), 1, "{:?}", peer.events);
    assert_eq!(peer.nic.next_deadline(), None);
    let frames = peer.frames.len();
    let range = peer.slot(&packet(&frame(60, 1)));
    peer.transfer(9, 0, &[range]);
    peer.nic.stop(peer.now);
    let polled = peer.poll();
    assert_eq!((polled.packets, peer.frames.len()), (0, frames));
    assert_eq!(ends(&peer), 1);
    let out = peer
        .nic
        .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now);
    assert_eq!(out, Err(TransmitError::NotReady));
    let (receive, send) = peer.nic.into_buffers();
    assert!(
        receive.len() >= SLOT * SLOTS && send.len() >= 16 * SECTION,
        "SYS_13"
    );
}

#[test]
fn sys_13_stopped_at_each_step() {
    for turns in 0..LIFE {
        let mut peer = after(turns);
        peer.nic.stop(peer.now);
        peer.settle();
        peer.now += limits::DRAIN + 1;
        peer.settle();
        assert_eq!(failed(&peer), None, "{turns}");
        over(peer);
    }
}

/// Every wait has its deadline, wherever the host stops answering ("CTL_40"). A NIC
/// that is up and waits for nothing lives on, so it is given a frame to send.
#[test]
fn ctl_40_sys_13_host_that_falls_silent_at_each_step() {
    for turns in 0..LIFE {
        let mut peer = after(turns);
        peer.mute = true;
        let start = peer.now;
        while ends(&peer) == 0 {
            if peer.nic.is_ready() && peer.nic.outstanding() == 0 {
                let _ = peer
                    .nic
                    .transmit_plain(&mut peer.channel, &frame(60, 0), peer.now);
            }
            peer.now += SECOND;
            peer.settle();
            assert!(peer.now < start + 60 * SECOND, "hangs at {turns}");
        }
        over(peer);
    }
}

/// A ring that is corrupt from one turn to the next.
#[test]
fn sys_13_ring_that_breaks_at_each_step() {
    for turns in 0..LIFE {
        let mut peer = after(turns);
        peer.put(9, 0, 1, &[], &[0; 8]);
        let _ = peer.poll();
        let rule = failed(&peer);
        // A NIC that has stopped reads no ring.
        assert!(
            rule == Some(Rule::PKT_04) || ends(&peer) == 1,
            "{turns}: {rule:?}"
        );
        over(peer);
    }
}
