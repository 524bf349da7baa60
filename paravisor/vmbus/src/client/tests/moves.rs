//! MODIFYCHANNEL.

use super::*;

fn running() -> (Run, ChannelId, GpadlId) {
    let (mut run, channel, gpadl) = Run::open();
    run.tell(&words(4, &[]));
    assert_eq!(run.event(), Event::OffersDelivered);
    (run, channel, gpadl)
}

#[test]
fn a_channel_moves() {
    let (mut run, channel, _) = running();
    run.client.modify(channel, 3, run.now).unwrap();
    assert_eq!(run.client.target_vp(channel), Some(0));
    let twice = run.client.modify(channel, 2, run.now);
    assert_eq!(twice, Err(RequestError::State));
    let message = run.sent(22);
    assert_eq!((word(&message, 8), word(&message, 12)), (7, 3));
    run.tell(&words(24, &[7, 0]));
    let sure = true;
    assert_eq!(
        run.event(),
        Event::Moved {
            channel,
            vp: 3,
            sure
        }
    );
    assert_eq!(run.client.target_vp(channel), Some(3));
    run.silent();
}

/// The client says nothing of an answer that it did not ask for, or not yet, or
/// that it has already.
#[test]
fn ctl_51_answers_to_nothing() {
    let (mut run, channel, _) = running();
    run.tell(&words(24, &[7, 0]));
    run.client.modify(channel, 3, run.now).unwrap();
    run.tell(&words(24, &[7, 0]));
    run.sent(22);
    run.tell(&words(24, &[8, 0]));
    assert_eq!(run.count(Rule::CTL_51), 3);
    run.tell(&words(24, &[7, 0]));
    run.tell(&words(24, &[7, 0]));
    assert_eq!(run.count(Rule::CTL_51), 4);
    assert!(matches!(run.event(), Event::Moved { .. }));
    run.silent();
}

#[test]
fn ctl_52_a_refusal_leaves_the_old_processor() {
    let (mut run, channel, _) = running();
    run.client.modify(channel, 3, run.now).unwrap();
    run.sent(22);
    run.tell(&words(24, &[7, 1]));
    assert!(matches!(run.event(), Event::MoveFailed { violation, .. }
        if violation.rule == Rule::CTL_52 && violation.value == 1));
    assert_eq!(run.count(Rule::CTL_52), 1);
    assert_eq!(run.client.target_vp(channel), Some(0));
    run.client.modify(channel, 2, run.now).unwrap();
    run.sent(22);
    run.silent();
}

#[test]
fn ctl_50_no_answer_to_a_move() {
    let (mut run, channel, _) = running();
    run.client.modify(channel, 3, run.now).unwrap();
    run.sent(22);
    run.wait(REQUEST_DEADLINE);
    run.client.poll(run.now);
    assert!(matches!(run.event(), Event::MoveFailed { violation, .. }
        if violation.rule == Rule::CTL_50));
    run.tell(&words(24, &[7, 0]));
    assert_eq!((run.count(Rule::CTL_50), run.count(Rule::CTL_51)), (1, 1));
    assert_eq!(run.client.target_vp(channel), Some(0));
    run.silent();
}

/// Before 5.3 hosts do not answer: what they do say is not known.
#[test]
fn ctl_06_moves_before_5_3_are_not_answered() {
    let mut run = Run::new(Config::new(Target::PLAIN));
    for _ in 0..2 {
        run.sent(14);
        run.tell(&words(15, &[0, 0]));
    }
    assert_eq!(word(&run.sent(14), 8), Version::V5_2.0);
    run.tell(&words(15, &[1, 4]));
    run.sent(3);
    run.event();
    let channel = run.card(7);
    let (_, open) = run.opening(channel, 32, 1);
    assert_eq!(word(&open, 20), 1);
    run.answer_open(&open);
    run.event();
    run.client.modify(channel, 3, run.now).unwrap();
    let sure = false;
    assert_eq!(
        run.event(),
        Event::Moved {
            channel,
            vp: 3,
            sure
        }
    );
    run.sent(22);
    run.tell(&words(24, &[7, 0]));
    assert_eq!(run.count(Rule::CTL_06), 1);
    assert_eq!(run.client.target_vp(channel), Some(3));
    run.silent();
}

/// An end of the channel waits for the answer (CTL-43), which an honest host gives
/// even after a rescind (CTL-44).
#[test]
fn ctl_43_ctl_44_a_move_and_the_end_of_the_channel() {
    for rescind in [true, false] {
        let (mut run, channel, gpadl) = running();
        run.client.modify(channel, 3, run.now).unwrap();
        run.sent(22);
        if rescind {
            run.tell(&words(2, &[7]));
            assert_eq!(run.event(), Event::Rescinded { channel });
        }
        run.client.close(channel, run.now).unwrap();
        run.sent(7);
        run.sent(11);
        run.tell(&words(12, &[gpadl.number()]));
        assert_eq!(run.event(), Event::MemoryReleased { gpadl });
        run.silent();
        run.tell(&words(24, &[7, 0xc000_0001]));
        let end = match rescind {
            true => Event::Released { channel },
            false => Event::Closed { channel },
        };
        assert_eq!(run.event(), end, "CTL_43, CTL_44");
        assert_eq!(run.count(Rule::CTL_51), 0);
        if rescind {
            run.sent(13);
        }
        run.silent();
    }
    // What was not said is not waited for.
    let (mut run, channel, gpadl) = running();
    run.client.modify(channel, 3, run.now).unwrap();
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.tell(&words(12, &[gpadl.number()]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl });
    assert_eq!(run.event(), Event::Closed { channel });
    run.silent();
}
