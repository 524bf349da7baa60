//! Words of the trade, for the explanation of a rule.

use super::Entry;

/// A word, the layer in which it means that (or all), and what it means.
type Word = (&'static str, Option<&'static str>, &'static str);

const WORDS: &[Word] = &[
    (
        "channel",
        None,
        "a road for packets between the VM and one device of the host",
    ),
    (
        "completion",
        None,
        "a packet that answers an earlier one and repeats its id",
    ),
    (
        "connection id",
        None,
        "the number by which a hypercall says whom a message or signal is for",
    ),
    (
        "EOM",
        None,
        "end of message: the VM tells that a message slot is free again",
    ),
    (
        "event flag",
        None,
        "a bit that the host sets when a channel wants attention; its number is the channel's",
    ),
    (
        "feature",
        Some("control"),
        "an ability that both sides agree on together with the version",
    ),
    ("fragment", None, "a part of a frame that arrives in pieces"),
    (
        "GPADL",
        None,
        "a numbered list of memory pages that the VM has told the host; it describes a shared buffer",
    ),
    (
        "GPA-direct",
        None,
        "a packet that names pages of memory by their address in place of carrying data",
    ),
    (
        "hv_sock",
        None,
        "sockets between host and VM, by channels of their own",
    ),
    ("hypercall", None, "a request of the VM to the hypervisor"),
    (
        "indirection table",
        None,
        "says which queue a received frame belongs to",
    ),
    (
        "interrupt mask",
        None,
        "a word in a ring by which its reader asks not to be interrupted",
    ),
    (
        "monitor page",
        None,
        "an old way of signalling by bits in a page, which the host polls",
    ),
    (
        "NVSP",
        None,
        "the protocol between a VM and its Hyper-V network card: version, buffers, which data is where",
    ),
    (
        "offer",
        None,
        "the host's message that announces a device and its channel",
    ),
    (
        "pending send size",
        None,
        "a word in a ring by which its writer says how much room he waits for",
    ),
    (
        "per-packet information",
        None,
        "notes of the host about a frame: checksums, a VLAN tag, a hash; a list of elements in front of it",
    ),
    (
        "element",
        Some("rndis"),
        "one note in the per-packet information of a frame",
    ),
    (
        "primary",
        None,
        "the first channel of a device; more of them are sub-channels",
    ),
    (
        "range",
        Some("packet"),
        "offset and length of a piece of the receive buffer, named by a packet",
    ),
    (
        "range",
        Some("nvsp"),
        "offset and length of a piece of the receive buffer, named by a packet",
    ),
    ("read index", None, "how far the reader of a ring has come"),
    (
        "receive buffer",
        None,
        "shared memory in which the host puts received frames, in slots of one size",
    ),
    (
        "relid",
        None,
        "the number by which both sides name a channel",
    ),
    (
        "rescind",
        None,
        "the host's message that takes an offer back",
    ),
    (
        "RNDIS",
        None,
        "the protocol of frames, questions and news inside the network card's buffers",
    ),
    (
        "section",
        None,
        "a part of the send buffer that holds one outgoing message",
    ),
    (
        "send buffer",
        None,
        "shared memory in which the VM puts frames for the host, in sections of one size",
    ),
    (
        "SIMP",
        None,
        "the register that says where the page with message slots is",
    ),
    (
        "SINT",
        None,
        "one of 16 numbered sources of synthetic interrupts; each has a message slot and event flags of its own",
    ),
    (
        "slot",
        Some("synic"),
        "the place for one message of 256 bytes, with its type and size in front",
    ),
    (
        "slot",
        Some("nvsp"),
        "one part of the receive buffer; all are of one size",
    ),
    (
        "slot",
        Some("packet"),
        "one part of the receive buffer; all are of one size",
    ),
    (
        "SR-IOV",
        None,
        "a part of a real network card given to the VM, past the software switch",
    ),
    (
        "sub-channel",
        None,
        "a further channel of a device, for more queues",
    ),
    (
        "SynIC",
        None,
        "synthetic interrupt controller: message slots, event flags and interrupts of a processor",
    ),
    (
        "teardown",
        None,
        "the VM takes a shared buffer (a GPADL) back from the host",
    ),
    ("trailer", None, "the 8 bytes behind each packet in a ring"),
    (
        "transaction id",
        None,
        "the number by which an answer says what it answers",
    ),
    (
        "transfer-page packet",
        None,
        "a packet that tells which ranges of the receive buffer hold new data",
    ),
    (
        "TSC",
        None,
        "the processor's own counter of time, out of the host's reach",
    ),
    (
        "unload",
        None,
        "the end of the whole connection, asked for by the VM",
    ),
    ("VP", None, "virtual processor"),
    ("write index", None, "how far the writer of a ring has come"),
];

/// Whether `text` has `word` as a word, or its plural.
fn has(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(&word).any(|(at, _)| {
        let behind = &text[at + word.len()..];
        let behind = behind.strip_prefix('s').unwrap_or(behind);
        !text[..at].ends_with(letter) && !behind.starts_with(letter)
    })
}

/// The words in the texts of a rule that a newcomer may not know.
pub(super) fn words_of(rule: &Entry) -> Vec<(&'static str, &'static str)> {
    let Some(said) = &rule.declaration else {
        return Vec::new();
    };
    let texts = [
        said.statement,
        said.danger,
        said.example,
        rule.why.unwrap_or_default(),
    ];
    let meant = |(word, layer, _): &&Word| {
        layer.is_none_or(|layer| layer == rule.layer) && texts.iter().any(|text| has(text, word))
    };
    WORDS
        .iter()
        .filter(meant)
        .map(|(word, _, means)| (*word, *means))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_words() {
        assert!(has("Relids of the host", "relid"));
        assert!(has("an offer, again", "offer"));
        assert!(!has("offered twice", "offer"));
        assert!(!has("a sub-relids_x", "relid"));
        assert!(!has("TSCs2", "TSC"));
    }

    #[test]
    fn every_word_is_used_by_a_rule() {
        let catalogue = crate::rules::catalogue();
        let used: std::collections::BTreeSet<_> =
            catalogue.rules.iter().flat_map(words_of).collect();
        let idle: Vec<_> = WORDS
            .iter()
            .map(|(word, _, means)| (*word, *means))
            .filter(|word| !used.contains(word))
            .collect();
        assert!(idle.is_empty(), "{idle:?}");
    }
}
