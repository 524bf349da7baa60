use super::*;
use alloc::format;
use alloc::string::ToString;

const GOOD: &str = "about A test # of nothing\n\
    when 2nd vmbus.offer-channel after vmbus.version-response + 5 ms do set relid 0x1_0 and repeat 2\n\
    when after frame 20 do send rndis.keepalive request=7 200 times and rescind\n\
    expect rule RND-64 or RND-36\nexpect link back # words\n";

#[test]
fn a_file_is_read_as_it_is_written() {
    let s = parse(GOOD).unwrap();
    assert_eq!(s.about, "A test # of nothing");
    assert_eq!(s.lines.len(), 2);
    assert_eq!(s.lines[0].number, 2);
    assert_eq!(s.lines[0].of, Some((Which::Nth(2), Kind::Vmbus(Some(1)))));
    assert_eq!(
        s.lines[0].after,
        Some((Step::Passed(Kind::Vmbus(Some(15))), 50_000))
    );
    assert_eq!(s.lines[0].changes[1], Change::Repeat(2));
    assert!(matches!(&s.lines[0].changes[0], Change::Set(f, Value::Number(16)) if f.at == 184));
    assert!(
        matches!(&s.lines[1].changes[0], Change::Act(Action::Send(i)) if i.times == 200 && i.fields.len() == 1)
    );
    assert_eq!(s.expect.len(), 2);
    assert_eq!(s.expect[1], (5, Expect::Guest(Guest::Back)));
}

#[test]
fn the_nic_may_come_back_with_another_address() {
    let text = "about x\nwhen after 1 s do offer again and offer again mac 02:15:5D:00:00:07\n\
                expect guest up\n";
    let offers = [None, Some([2, 0x15, 0x5d, 0, 0, 7])];
    let offers = offers.map(|mac| Change::Act(Action::OfferNic(mac)));
    assert_eq!(parse(text).unwrap().lines[0].changes, offers);
}

fn refused(line: &str) -> String {
    let text = format!("about x\n{line}\nexpect guest up\n");
    parse(&text).unwrap_err().to_string()
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    for (line, at, words) in [
        (
            "when 1st vmbus.offer-chanel do drop",
            "2:10:",
            "offer-channel",
        ),
        (
            "when 1st vmbus.offer-channel do set relit 1",
            "2:37:",
            "relid",
        ),
        (
            "when 1st vmbus.offer-channel do set relid",
            "2:42:",
            "end of the line",
        ),
        (
            "when 1st vmbus.offer-channel do set flags 0x10000",
            "2:43:",
            "0xffff",
        ),
        ("when 1st rndis.packet do delay 5", "2:33:", "us, ms or s"),
        ("when 1st signal do truncate 5", "2:20:", "drop, delay"),
        (
            "when 1st vmbus.open-channel do drop",
            "2:10:",
            "message of the host",
        ),
        ("when after rain do drop", "2:12:", "link-up"),
        (
            "when each rndis.packet do drop now",
            "2:32:",
            "end of the line",
        ),
        (
            "wenn each rndis.packet do drop",
            "2:1:",
            "about, play, seed, when or expect",
        ),
        (
            "when after 0 us do offer again mac 02:15:5d:00:00",
            "2:36:",
            "02:15:5d:00:00:07",
        ),
        (
            "when after 0 us do offer again mac 2:15:5d:0:0:7",
            "2:36:",
            "02:15:5d:00:00:07",
        ),
        (
            "when after 0 us do silence all 2 s",
            "2:28:",
            "nic, bus or interrupts",
        ),
        ("expect rule RND16", "2:13:", "RND-16"),
        ("expect outcome bliss", "2:16:", "power-off"),
    ] {
        let error = refused(line);
        assert!(error.starts_with(at), "{line}: {error}");
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn what_is_missing_is_said() {
    for (text, words) in [
        ("when each signal do drop\nexpect guest up", "about"),
        ("about x\nexpect guest up", "when"),
        (
            "about x\nwhen each signal do drop\nexpect no rule",
            "expect guest up",
        ),
    ] {
        assert!(parse(text).unwrap_err().what.contains(words));
    }
}

#[test]
fn fields_are_set_cut_and_repeated() {
    let s = parse(GOOD).unwrap();
    let mut player = Player::new(&s);
    let mut faults = crate::fault::OutgoingMessage::new(
        crate::fault::Layer::Control,
        0,
        [&[15u8, 0, 0, 0][..], &[0; 12]].concat(),
    );
    player.message(&mut faults);
    player.tick(60_000, 1, false, 0);
    let offer = [&[1u8, 0, 0, 0][..], &[0; 192]].concat();
    let mut copies = Vec::new();
    for _ in 0..3 {
        let layer = crate::fault::Layer::Control;
        let mut m = crate::fault::OutgoingMessage::new(layer, 1, offer.clone());
        player.message(&mut m);
        copies.push((m.copies, m.bytes[184]));
    }
    assert_eq!(copies, [(1, 0), (2, 16), (1, 0)]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_line_of_known_words_makes_it_panic(
        words in proptest::collection::vec(proptest::sample::select(&[
            "about", "when", "expect", "do", "and", "after", "each", "1st", "first", "every", "in",
            "5th", "3", "0x10", "+", "ms", "us", "vmbus.offer-channel", "rndis.packet", "nvsp.*",
            "packet.7", "signal", "hypercall.post-message", "register.simp", "set", "relid",
            "@8:4", "@8", "truncate", "extend", "repeat", "delay", "again", "return", "send",
            "raw", "0a0b", "0a0", "status=1", "times", "poke", "incoming", "write-index", "flag",
            "storm", "silence", "nic", "bus", "offer", "sub-channel", "kvp", "rescind", "rule", "RND-16", "or",
            "link", "back", "guest", "up", "no", "outcome", "power-off", "é", "\n",
        ][..]), 0..24)
    ) {
        let _ = parse(&words.join(" "));
    }

    #[test]
    fn no_message_makes_the_player_panic(
        bytes in proptest::collection::vec(0u8..=255, 0..80),
        layer in 0..3usize,
        at in 0..100usize,
    ) {
        let text = format!("about x\nwhen each vmbus.* do set @{at}:8 1 and truncate 9 and extend 3\n\
            when each nvsp.* do set type 9\nwhen each packet.* do set packet.type 1\n\
            when 1 in 2 rndis.* do again after 1 ms and set length 4\nexpect guest up");
        let mut player = Player::new(&parse(&text).unwrap());
        use crate::fault::Layer::{Control, Packet, ReceiveBuffer};
        let layer = [Control, Packet, ReceiveBuffer][layer];
        let mut m = crate::fault::OutgoingMessage::new(layer, 1, bytes);
        player.message(&mut m);
        let _ = player.tick(1, 1, true, 1);
    }
}

#[test]
fn a_scenario_may_stay_out_of_the_rig_with_a_reason() {
    let with = |line: &str| {
        parse(&format!(
            "about x\n{line}\nwhen 1st signal do drop\nexpect guest up\n"
        ))
    };
    let scenario = with("play in-process-only the rig has # one NIC").unwrap();
    assert_eq!(scenario.in_process_only.as_deref(), Some("the rig has"));
    assert_eq!(with("seed 4").unwrap().in_process_only, None);
    let error = with("play in-process-only").unwrap_err();
    assert!(error.to_string().starts_with("2:21: expected the reason"));
    let error = with("play nowhere").unwrap_err();
    assert!(error.to_string().contains("in-process-only"));
}

#[test]
fn what_a_host_must_hold_at_once_is_told() {
    let text = "about x\nwhen 1st signal do drop\n\
        when after link-up do send vmbus.unload 1000 times and send packet.9 raw 00ff 10 times\n\
        expect guest up\n";
    let (line, bytes) = parse(text).unwrap().largest_burst();
    assert_eq!(line, 3);
    assert_eq!(bytes, 1000 * 256 + 10 * 258);
}
