//! RND: RNDIS. Receive coalescing, receive scaling and offloads (RND-29 to
//! RND-34, RND-57 to RND-60) are not asked for and have no code.

use super::rules;

rules! {
    RND_01 {
        reaction: Drop,
        statement: "A range holds an RNDIS header",
        danger: "",
        example: "",
        source: "Linux `rndis_filter_receive`",
    }
    RND_02 {
        reaction: Drop,
        statement: "The message's length is at least its header's and at most the range's",
        danger: "",
        example: "",
        source: "Linux; the buffer of INDICATE_STATUS is bounded by the range instead",
    }
    RND_03 {
        reaction: Structural,
        statement: "One message per range: what follows it is not looked at",
        danger: "",
        example: "",
        source: "Linux",
    }
    RND_04 {
        reaction: Drop,
        statement: "Only messages that a device sends are taken",
        danger: "",
        example: "",
        source: "Linux switch",
    }
    RND_05 {
        reaction: Drop,
        statement: "A PACKET holds its header",
        danger: "",
        example: "",
        source: "Linux tests the range instead",
    }
    RND_06 {
        reaction: Drop,
        statement: "The frame lies behind the PACKET header",
        danger: "",
        example: "",
        source: "DPDK RNDIS_PACKET_MSG_OFFSET_MIN; not in Linux",
    }
    RND_07 {
        reaction: Drop,
        statement: "The frame lies inside the message",
        danger: "",
        example: "",
        source: "Linux uses the range",
    }
    RND_08 {
        reaction: Drop,
        statement: "A frame has an Ethernet header",
        danger: "",
        example: "",
        source: "DPDK; not in Linux",
    }
    RND_09 {
        reaction: Drop,
        statement: "A frame is no longer than the MTU with Ethernet header and tag",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_10 {
        reaction: Drop,
        statement: "There is no out-of-band data",
        danger: "",
        example: "",
        source: "own; Linux ignores it",
    }
    RND_11 {
        reaction: Structural,
        statement: "Virtual connection and reserved word are not looked at",
        danger: "",
        example: "",
        source: "own",
    }
    RND_12 {
        reaction: Drop,
        statement: "Per-packet information has an offset; length 0 means none",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    RND_13 {
        reaction: Drop,
        statement: "Per-packet information lies behind the PACKET header, aligned, in the message",
        danger: "",
        example: "",
        source: "DPDK; Linux in part",
    }
    RND_14 {
        reaction: Drop,
        statement: "The area of per-packet information holds an element and ends in the message",
        danger: "",
        example: "",
        source: "Linux 44144185951a",
    }
    RND_15 {
        reaction: Drop,
        statement: "Per-packet information and frame do not overlap",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_16 {
        reaction: Drop,
        statement: "An element of per-packet information is at least as large as its header",
        danger: "",
        example: "",
        source: "own; not in Linux `rndis_get_ppi`",
    }
    RND_17 {
        reaction: Drop,
        statement: "An element of per-packet information ends inside its area",
        danger: "",
        example: "",
        source: "own; not in Linux `rndis_get_ppi`",
    }
    RND_18 {
        reaction: Drop,
        statement: "An element's size is a multiple of 4",
        danger: "",
        example: "",
        source: "DPDK; not in Linux",
    }
    RND_19 {
        reaction: Drop,
        statement: "An element's value lies behind its header and inside it",
        danger: "",
        example: "",
        source: "Linux, upper bound",
    }
    RND_20 {
        reaction: Drop,
        statement: "A packet has at most 16 elements",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_21 {
        reaction: Drop,
        statement: "No element type comes twice",
        danger: "",
        example: "",
        source: "own; Linux and DPDK differ",
    }
    RND_22 {
        reaction: Structural,
        statement: "Unknown elements are skipped; the internal bit separates name spaces",
        danger: "",
        example: "",
        source: "Linux",
    }
    RND_23 {
        reaction: Structural,
        statement: "Per-packet information is copied once and walked once",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_24 {
        reaction: Clamp,
        statement: "A checksum both failed and succeeded counts as not verified",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_25 {
        reaction: Structural,
        statement: "The host's word on a checksum is not passed on as verified",
        danger: "",
        example: "",
        source: "own; Linux sets CHECKSUM_UNNECESSARY",
    }
    RND_26 {
        reaction: Drop,
        statement: "A tag comes only if 802.1Q was agreed on, with an id below 4095 and no reserved bits",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_27 {
        reaction: Structural,
        statement: "A hash is a hint, never an index",
        danger: "",
        example: "",
        source: "Linux skb_set_hash",
    }
    RND_28 {
        reaction: Drop,
        statement: "No fragment of a coalesced packet, since coalescing was not agreed on",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_35 {
        reaction: Drop,
        statement: "No frame before the device is initialised and its filter set",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    RND_36 {
        reaction: Drop,
        statement: "A response has the id of the outstanding request",
        danger: "",
        example: "",
        source: "Linux `rndis_filter_receive_response`",
    }
    RND_37 {
        reaction: Drop,
        statement: "A response's type is the request's with the completion bit",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_38 {
        reaction: Structural,
        statement: "A request is retired by its first response",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_39 {
        reaction: Drop,
        statement: "A response is no longer than the longest that was asked for",
        danger: "",
        example: "",
        source: "Linux RNDIS_EXT_LEN",
    }
    RND_40 {
        reaction: Fail,
        statement: "A response holds the fields of its type",
        danger: "",
        example: "",
        source: "Linux for QUERY",
    }
    RND_41 {
        reaction: Fail,
        statement: "A response's value counts only with status 0",
        danger: "",
        example: "",
        source: "own; Linux in part",
    }
    RND_42 {
        reaction: Fail,
        statement: "A query's value lies behind its header and inside the message",
        danger: "",
        example: "",
        source: "Linux",
    }
    RND_43 {
        reaction: Fail,
        statement: "A value has the length of its OID",
        danger: "",
        example: "",
        source: "Linux for the MTU",
    }
    RND_44 {
        reaction: Fail,
        statement: "The RNDIS version is 1.0",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_45 {
        reaction: Fail,
        statement: "The medium is 802.3 and connectionless",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_46 {
        reaction: Clamp,
        statement: "The alignment factor is at most 7",
        danger: "",
        example: "",
        source: "own; Linux shifts by it",
    }
    RND_47 {
        reaction: Clamp,
        statement: "Between 1 and 8 packets per transfer",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_48 {
        reaction: Clamp,
        statement: "The largest transfer holds a frame with its headers",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_49 {
        reaction: Fail,
        statement: "The address is unicast, not zero, and the one already fixed",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_50 {
        reaction: Clamp,
        statement: "The MTU is between 1280 and the configured one",
        danger: "",
        example: "",
        source: "Linux lowers without floor",
    }
    RND_51 {
        reaction: Clamp,
        statement: "The link query says 0 or 1",
        danger: "",
        example: "",
        source: "Linux tests for non-zero",
    }
    RND_52 {
        reaction: Clamp,
        statement: "The link speed is plausible; it is shown, nothing more",
        danger: "",
        example: "",
        source: "own; Linux divides it",
    }
    RND_53 {
        reaction: Drop,
        statement: "An event holds its header, and its buffer lies behind that and inside the range",
        danger: "",
        example: "",
        source: "Linux `netvsc_linkstatus_callback`",
    }
    RND_54 {
        reaction: Ignore,
        statement: "Only events of link and network are acted on",
        danger: "",
        example: "",
        source: "Linux switch",
    }
    RND_55 {
        reaction: Throttle,
        statement: "Link events are coalesced and limited in rate",
        danger: "",
        example: "",
        source: "own; a burst was reported on linux-hyperv, April 2024",
    }
    RND_56 {
        reaction: Throttle,
        statement: "Network changes are reported once per interval at most",
        danger: "",
        example: "",
        source: "own",
    }
    RND_62 {
        reaction: Fail,
        statement: "The packet filter counts as set only with status 0",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_63 {
        reaction: Drop,
        statement: "Requests that only a guest makes are refused from the host",
        danger: "",
        example: "",
        source: "Linux default",
    }
    RND_64 {
        reaction: Drop,
        statement: "A KEEPALIVE holds its request id and is answered once, at a limited rate",
        danger: "",
        example: "",
        source: "own; Linux does not answer",
    }
    RND_65 {
        reaction: Reset,
        statement: "Every RNDIS request has a deadline",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_66 {
        reaction: Drop,
        statement: "Responses and events come on the primary channel",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    RND_67 {
        reaction: Drop,
        statement: "A unicast frame is for our address unless all frames are wanted",
        danger: "",
        example: "",
        source: "own",
    }
    RND_68 {
        reaction: Drop,
        statement: "A frame has no tag of its own beside a tag in its information",
        danger: "",
        example: "",
        source: "own",
    }
}
