//! Rules for people at a console.

use std::fmt::Write;

use super::{Catalogue, Entry, Place, Status};

/// All declared rules by layer, and how many are missing.
pub fn list(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    let mut layer = "";
    for rule in &catalogue.rules {
        let Some(said) = &rule.declaration else {
            continue;
        };
        if layer != rule.layer {
            layer = rule.layer;
            let _ = writeln!(text, "{layer}: {}\n", about_layer(layer));
        }
        let _ = writeln!(text, "{}  {}: {}", rule.id, said.reaction, said.statement);
        let _ = writeln!(text, "        source    {}", said.source);
        places(&mut text, "        code      ", &rule.enforced);
        places(&mut text, "        noted at  ", &rule.noted);
        places(&mut text, "        test      ", &rule.tests);
        text.push('\n');
    }
    let counts = &catalogue.counts;
    let _ = writeln!(
        text,
        "{} of {} rules declared, {} of them properties of the construction; {} have tests \
         named after them ({} tests); {} not done",
        counts.declared,
        counts.ids,
        counts.structural,
        counts.tested,
        counts.tests,
        counts.not_done
    );
    text
}

fn places(text: &mut String, head: &str, places: &[Place]) {
    for place in places {
        let _ = writeln!(text, "{head}{place}");
    }
}

/// One rule for somebody who has never seen VMBus.
pub fn explain(rule: &Entry) -> String {
    let mut text = format!("{}  {}\n\n", rule.id, about_status(rule.status));
    if let Some(said) = &rule.declaration {
        let _ = writeln!(text, "The rule\n  {}.\n", said.statement);
    }
    let _ = writeln!(text, "Where it stands\n{}", wrapped(WORLD));
    let layer = format!("Layer {}: {}", rule.layer, about_layer(rule.layer));
    let _ = writeln!(text, "{}", wrapped(&layer));
    if let Some(said) = &rule.declaration {
        let _ = writeln!(
            text,
            "What happens when the host breaks it\n{}",
            wrapped(&format!(
                "{}: {}",
                said.reaction,
                about_reaction(said.reaction)
            ))
        );
        let _ = writeln!(text, "Where it comes from\n{}", wrapped(said.source));
    }
    section(&mut text, "Code", &rule.enforced, "none names it");
    if !rule.noted.is_empty() {
        section(&mut text, "Comments in the code", &rule.noted, "");
    }
    section(&mut text, "Tests", &rule.tests, "none is named after it");
    if !rule.tests.is_empty() {
        let name = rule.id.to_ascii_lowercase().replace('-', "_");
        let _ = writeln!(text, "Run them\n  cargo test {name}");
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
    let mut line = String::from(" ");
    for word in text.split_whitespace() {
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
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::catalogue;
    use validate::{Layer, Reaction, Rule};

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
    fn the_list_has_every_declared_rule_once() {
        let text = list(&catalogue());
        for rule in Rule::all() {
            let head = format!("{rule}  {}: ", rule.reaction().name());
            assert_eq!(text.matches(&head).count(), 1, "{rule}");
        }
    }

    #[test]
    fn explanations_fit_a_console_and_say_what_is_missing() {
        for rule in catalogue().rules {
            let text = explain(&rule);
            assert!(text.contains("VMBus"));
            let done = rule.status != Status::NotDone;
            assert_eq!(text.contains("What happens when"), done, "{}", rule.id);
            assert_eq!(text.contains("not done"), !done, "{}", rule.id);
        }
        assert!(wrapped(WORLD).lines().all(|line| line.len() <= 78));
    }
}
