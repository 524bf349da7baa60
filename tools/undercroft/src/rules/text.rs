//! Rules for people at a console.

use std::fmt::Write;

use super::{Catalogue, Counts, Entry, Place, Status};
use validate::Layer;

/// How many rules there are of each kind, layer by layer, and how to go on.
pub fn list(catalogue: &Catalogue) -> String {
    let mut text = String::from(
        "layer      ids  enforced  structural  not applicable  rejected  not done  tests\n",
    );
    let mut row = |name: &str, c: &Counts| {
        let enforced = c.declared - c.structural - c.not_applicable - c.rejected;
        let _ = writeln!(
            text,
            "{name:<8} {:>5} {enforced:>9} {:>11} {:>15} {:>9} {:>9} {:>6}",
            c.ids, c.structural, c.not_applicable, c.rejected, c.not_done, c.tests
        );
    };
    for layer in Layer::ALL {
        let rules = catalogue.rules.iter().filter(|r| r.layer == layer.name());
        row(layer.name(), &Counts::of(rules));
    }
    row("total", &catalogue.counts);
    text.push('\n');
    for (name, about) in [
        (
            "enforced",
            "code judges the host's bytes and refuses what breaks the rule",
        ),
        (
            "structural",
            "the code is built so that the rule cannot be broken",
        ),
        (
            "not applicable",
            "the feature is not used, and another rule refuses it",
        ),
        (
            "rejected",
            "not done on purpose, for a reason that is given",
        ),
        ("not done", "known, and open"),
    ] {
        let _ = writeln!(text, "{name:<15} {about}");
    }
    let open: Vec<&str> = with(catalogue, Status::NotDone);
    if !open.is_empty() {
        let _ = write!(text, "\nNot done\n{}", wrapped(&open.join(", ")));
    }
    text.push_str(
        "\nOne rule:   undercroft rules RND-16\n\
         A layer:    undercroft rules RND\n\
         Everything: undercroft rules --json, or docs/rules.md\n",
    );
    text
}

fn with(catalogue: &Catalogue, status: Status) -> Vec<&'static str> {
    let rules = catalogue.rules.iter().filter(|r| r.status == status);
    rules.map(|r| r.id).collect()
}

fn places(text: &mut String, head: &str, places: &[Place]) {
    for place in places {
        let _ = writeln!(text, "{head}{place}");
    }
}

/// One rule for somebody who has never seen VMBus.
pub fn explain(rule: &Entry) -> String {
    let mut text = format!("{}  {}\n\n", rule.id, about_status(rule.status));
    let mut part = |title: &str, body: &str| {
        let _ = writeln!(text, "{title}\n{}", wrapped(body));
    };
    if let Some(said) = &rule.declaration {
        part("The rule", &format!("{}.", said.statement));
    }
    part("Where it stands", WORLD);
    let about = about_layer(rule.layer);
    part(
        "Where the bytes come from",
        &format!("Layer {}: {about}.", rule.layer),
    );
    if let Some(said) = &rule.declaration {
        part("What goes wrong without it", &format!("{}.", said.danger));
        part(
            "What a malicious host would send",
            &format!("{}.", said.example),
        );
        if let Some(why) = rule.why {
            let title = match rule.status {
                Status::Structural => "Why no test can show it",
                Status::Rejected => "Why it was rejected",
                _ => "Why it does not apply",
            };
            part(title, &format!("{why}."));
        }
        if let Some(by) = rule.refused_by {
            part(
                "Refused by",
                &format!("{by} (see `undercroft rules {by}`)."),
            );
        }
        let words = super::words::words_of(rule);
        if !words.is_empty() {
            let words = words
                .iter()
                .map(|(word, means)| format!("{word}: {means}."));
            part("Words", &words.collect::<Vec<_>>().join("\n"));
        }
        let about = about_reaction(said.reaction);
        part("What happens then", &format!("{}: {about}.", said.reaction));
        part("Where the rule comes from", &format!("{}.", said.source));
    }
    if let (Status::NotApplicable, Some(by)) = (rule.status, rule.refused_by) {
        section(
            &mut text,
            &format!("Tests of {by}"),
            &rule.refusal_tests,
            "none",
        );
        return text;
    }
    if rule.status == Status::Rejected {
        return text;
    }
    section(&mut text, "Code", &rule.enforced, "none names it");
    if !rule.noted.is_empty() {
        section(&mut text, "Comments in the code", &rule.noted, "");
    }
    section(&mut text, "Tests", &rule.tests, "none is named after it");
    if !rule.tests.is_empty() {
        let name = rule.id.to_ascii_lowercase().replace('-', "_");
        let _ = writeln!(text, "Run them\n  cargo test {name}");
        let others = rule.tests.iter().filter(|test| !test.item.contains(&name));
        let mut seen = std::collections::BTreeSet::new();
        for test in others.filter(|test| seen.insert(test.item)) {
            let _ = writeln!(text, "  cargo test {}", test.item);
        }
    }
    text
}

fn section(text: &mut String, title: &str, list: &[Place], none: &str) {
    let _ = writeln!(text, "{title}");
    places(text, "  ", list);
    if list.is_empty() {
        let _ = writeln!(text, "  {none}");
    }
    text.push('\n');
}

/// What every rule has in common.
const WORLD: &str = "A confidential VM must not trust the machine that runs it. On Hyper-V the \
    VM's network card is a conversation with the host over VMBus: messages, and memory that both \
    sides can write. Undercroft holds that conversation for the guest. It copies each host byte \
    once into memory that the host cannot reach and judges the copy by rules like this one; \
    nothing that breaks a rule is used.";

fn about_status(status: Status) -> &'static str {
    match status {
        Status::Enforced => "enforced",
        Status::Structural => "structural: the construction holds it",
        Status::NotApplicable => "not applicable: another rule refuses what it speaks of",
        Status::Rejected => "rejected: not done on purpose",
        Status::Uncounted => "held by the code, but nothing counts a violation",
        Status::NotDone => "not done: an id of the catalogue that the code does not have yet",
    }
}

/// What the layer is, in a sentence.
pub(super) fn about_layer(layer: &str) -> &'static str {
    match layer {
        "synic" => {
            "the mailbox: pages in which the host leaves one message at a time and one bit for \
             each channel that wants attention"
        }
        "control" => {
            "the switchboard: messages by which the host offers devices, opens channels to them \
             and takes them back"
        }
        "gpadl" => {
            "lists of memory pages that the VM shares with the host, and how they become private \
             again"
        }
        "ring" => {
            "a circular buffer in shared memory, one for each direction; each side tells by an \
             index how far it has written or read"
        }
        "packet" => {
            "a piece of the ring: a header with lengths, type and request id, then the content"
        }
        "nvsp" => {
            "the network card's own protocol in these packets: version, buffers, and which parts \
             of a buffer hold received data"
        }
        "rndis" => {
            "messages inside the card's buffers: an Ethernet frame with notes about it, answers \
             to questions, and news such as the state of the link"
        }
        "ic" => "small services between host and VM: shutdown, time, heartbeat",
        "system" => "what must hold for the whole, over all layers",
        _ => "",
    }
}

/// What the reaction is, in a sentence.
pub(super) fn about_reaction(reaction: &str) -> &'static str {
    match reaction {
        "ignore" => "nothing changes; the byte has no effect",
        "drop" => "this message or packet is thrown away and counted; the connection goes on",
        "clamp" => "a safe value is used in place of the host's",
        "fail" => "the request, or the start of the device, fails; the guest has no link",
        "throttle" => "the work is bounded: the rest waits for its turn or is put together",
        "leak" => "the pages concerned are never used again, since the host may still have them",
        "reset" => "the channel counts as dead and is closed; the guest sees its link go down",
        "fatal" => "the whole connection to the host ends; the guest sees its link go down",
        "none" => "nothing: the rule was rejected",
        "structural" => {
            "there is no such moment: the code is built so that it cannot happen, which a review \
             and tests of the property confirm"
        }
        _ => "",
    }
}

/// Lines of at most 78 columns, indented by two.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.lines() {
        let mut line = String::from(" ");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > 78 {
                out.push_str(&line);
                out.push('\n');
                line = String::from(" ");
            }
            line.push(' ');
            line.push_str(word);
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::catalogue;
    use validate::{Reaction, Rule};

    #[test]
    fn every_layer_and_reaction_has_its_sentence() {
        for layer in Layer::ALL {
            assert!(!about_layer(layer.name()).is_empty(), "{layer:?}");
        }
        for rule in Rule::all() {
            assert!(!about_reaction(rule.reaction().name()).is_empty(), "{rule}");
        }
        assert!(!about_reaction(Reaction::Leak.name()).is_empty());
    }

    #[test]
    fn the_list_adds_up() {
        let catalogue = catalogue();
        let text = list(&catalogue);
        let rows = text.lines().skip(1).take(Layer::ALL.len() + 1);
        let rows: Vec<Vec<usize>> = rows
            .map(|row| {
                row.split_whitespace()
                    .skip(1)
                    .flat_map(str::parse)
                    .collect()
            })
            .collect();
        let (total, layers) = rows.split_last().expect("rows");
        assert_eq!(total.first(), Some(&Rule::COUNT));
        for (column, sum) in total.iter().enumerate() {
            let of_layers: usize = layers.iter().map(|row| row[column]).sum();
            assert_eq!(of_layers, *sum, "column {column}");
        }
        for row in &rows {
            assert_eq!(row.len(), 7);
            assert_eq!(row[0], row[1..6].iter().sum::<usize>());
        }
    }

    #[test]
    fn explanations_fit_a_console_and_say_what_is_missing() {
        for rule in catalogue().rules {
            let text = explain(&rule);
            assert!(text.contains("VMBus"));
            let done = rule.status != Status::NotDone;
            assert_eq!(text.contains("What happens then"), done, "{}", rule.id);
            assert_eq!(text.contains("  not done: "), !done, "{}", rule.id);
            let long = text.lines().filter(|line| !line.contains('/'));
            assert!(
                long.map(|l| l.chars().count()).all(|n| n <= 78),
                "{}",
                rule.id
            );
            for title in ["goes wrong without", "malicious host would send"] {
                assert_eq!(text.contains(title), done, "{}", rule.id);
            }
            let elsewhere = rule.status == Status::NotApplicable;
            assert_eq!(text.contains("Refused by\n"), elsewhere, "{}", rule.id);
        }
        assert!(wrapped(WORLD).lines().all(|line| line.len() <= 78));
    }
}
