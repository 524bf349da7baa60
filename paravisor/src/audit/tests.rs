use super::*;
use abi::record::MAX_LINE;

fn finding(rule: Rule, offset: usize, value: u64) -> Finding {
    Finding {
        vp: 0,
        channel: Some(7),
        violation: Violation::new(rule, offset, value),
        times: 1,
    }
}

fn open() -> Audit {
    let mut audit = Audit::new();
    audit.open();
    audit
}

fn text(line: &Line) -> &str {
    core::str::from_utf8(line.as_bytes()).unwrap()
}

#[test]
fn repetitions_are_counted_in_one_record() {
    let mut audit = open();
    for time in 10..1010 {
        audit.add(time, finding(Rule::SYN_06, 4, 255));
    }
    let all: Vec<_> = audit.iter().collect();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].time, all[0].last), (10, 1009));
    assert_eq!(all[0].finding.times, 1000);
    assert_eq!(audit.overwritten(), 0);
}

#[test]
fn flood_of_one_rule_washes_out_only_itself() {
    let mut audit = open();
    audit.add(1, finding(Rule::CTL_23, 8, 5));
    for value in 0..1_000_000 {
        audit.add(2 + value, finding(Rule::CTL_01, 0, value));
    }
    audit.add(3_000_000, finding(Rule::SYN_06, 4, 255));
    let seen: Vec<_> = audit
        .iter()
        .map(|entry| (entry.finding.violation.rule, entry.finding.violation.value))
        .collect();
    assert_eq!(
        seen,
        [
            (Rule::CTL_23, 5),
            // The first of the flood, and its end.
            (Rule::CTL_01, 0),
            (Rule::CTL_01, 999_997),
            (Rule::CTL_01, 999_998),
            (Rule::CTL_01, 999_999),
            (Rule::SYN_06, 255),
        ]
    );
    assert_eq!(audit.overwritten(), 1_000_000 - 4);
}

#[test]
fn all_rules_together_have_room() {
    let mut audit = open();
    for (time, rule) in Rule::all().enumerate() {
        for value in 0..10 {
            audit.add(time as u64, finding(rule, 0, value));
        }
    }
    assert_eq!(audit.iter().count(), Rule::all().count() * PER_RULE);
}

#[test]
fn without_memory_it_only_counts() {
    let mut audit = Audit::new();
    audit.add(1, finding(Rule::SYN_06, 4, 255));
    assert_eq!((audit.iter().count(), audit.overwritten()), (0, 1));
}

#[test]
fn json_lines_fit_with_the_longest_numbers() {
    let entry = Entry {
        number: 3,
        time: 10,
        last: 20,
        finding: Finding {
            times: 2,
            channel: None,
            ..finding(Rule::SYN_06, 4, 255)
        },
    };
    assert_eq!(
        text(&entry.line()),
        r#"{"from":"paravisor","kind":"audit","seq":3,"time":10,"last":20,"times":2,"vp":0,"channel":null,"rule":"SYN-06","offset":4,"value":255,"reaction":"drop"}"#
    );
    let structural = Rule::all()
        .find(|rule| rule.reaction().name() == "structural")
        .unwrap();
    let entry = Entry {
        // A hundred days of a million violations a second.
        number: 9_999_999_999_999,
        time: u64::MAX / 100,
        last: u64::MAX / 100,
        finding: Finding {
            vp: 255,
            channel: Some(2047),
            violation: Violation::new(structural, usize::MAX, u64::MAX),
            times: u32::MAX,
        },
    };
    let line = entry.line();
    assert!(text(&line).ends_with("\"reaction\":\"structural\"}"));
    assert!(line.as_bytes().len() <= MAX_LINE);
}

/// Writes a request and reads the whole answer in pieces of `step` bytes.
fn ask(port: &mut Port, audit: &Audit, request: &str, step: usize) -> Vec<String> {
    port.write(request.as_bytes());
    let mut all = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        let count = port.read(audit, &mut buffer);
        all.extend_from_slice(&buffer[..count]);
        if count == 0 {
            break;
        }
    }
    let text = String::from_utf8(all).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn port_answers_in_pages() {
    let mut audit = open();
    for (time, rule) in Rule::all().take(20).enumerate() {
        audit.add(time as u64, finding(rule, 0, 1));
    }
    let mut port = Port::new();
    let first = ask(&mut port, &audit, "audit\n", 7);
    assert_eq!(first.len(), 17);
    assert_eq!(
        first[16],
        r#"{"from":"paravisor","kind":"audit-end","next":16,"more":1,"overwritten":0}"#
    );
    assert!(first.iter().map(|line| line.len() + 1).sum::<usize>() < 4096);
    let second = ask(&mut port, &audit, "audit 16\r\n", 1);
    assert_eq!(second.len(), 5);
    assert!(second[0].contains("\"seq\":16,"));
    assert!(second[4].contains("\"next\":20,\"more\":0"));
    assert!(!port.is_answering());
}

#[test]
fn port_tells_counters_as_they_were_when_it_was_asked() {
    let audit = open();
    let mut port = Port::new();
    assert!(port.wanted().is_none());
    port.write(b"counters\n");
    let account = port.wanted().unwrap();
    for value in 0..20 {
        account.add("relay", "rx_frames", value);
    }
    // Until it is asked again.
    assert!(port.wanted().is_none());
    let first = ask(&mut port, &audit, "", 7);
    assert_eq!(first.len(), 17);
    assert_eq!(
        first[1],
        r#"{"from":"paravisor","kind":"count","value":1,"name":"relay","key":"rx_frames"}"#
    );
    assert_eq!(
        first[16],
        r#"{"from":"paravisor","kind":"counters-end","next":16,"more":1}"#
    );
    let second = ask(&mut port, &audit, "counters 16\n", 16);
    assert!(port.wanted().is_none());
    assert_eq!(second.len(), 5);
    assert!(second[3].contains("\"value\":19,"));
    assert!(second[4].contains("\"next\":20,\"more\":0"));
    let none = ask(&mut port, &audit, "counters 18446744073709551615\n", 16);
    assert_eq!(none.len(), 1);
}

#[test]
fn port_is_silent_about_anything_else() {
    let audit = open();
    let mut port = Port::new();
    let echo = ask(&mut port, &audit, "audit\n", 16).join("\n");
    for request in [
        "\n",
        "help\n",
        "audit x\n",
        "audit -1\n",
        "audit 1 2\n",
        "audit 99999999999999999999999\n",
        "audit                                        \n",
        "\u{fffd}\n",
        &format!("{echo}\n"),
        &"x".repeat(100_000),
    ] {
        assert_eq!(ask(&mut port, &audit, request, 16).len(), 0, "{request:?}");
    }
    // The long line above still has no end.
    assert_eq!(ask(&mut port, &audit, "audit\n", 16).len(), 0);
    assert_eq!(ask(&mut port, &audit, "audit\n", 16).len(), 1);
    assert_eq!(
        ask(&mut port, &audit, "audit 18446744073709551615\n", 16).len(),
        1
    );
}

#[test]
fn new_request_ends_the_old_answer_at_a_line() {
    let mut audit = open();
    audit.add(1, finding(Rule::SYN_06, 4, 255));
    let mut port = Port::new();
    port.write(b"audit\n");
    let mut begun = [0; 10];
    assert_eq!(port.read(&audit, &mut begun), 10);
    let rest = ask(&mut port, &audit, "audit\n", 16);
    assert_eq!(rest.len(), 3);
    assert_eq!(rest[0], "");
    assert!(rest[1].starts_with("{\"from\""));
}
