//! RND: RNDIS. Receive coalescing, receive scaling and offloads (RND-29 to
//! RND-34, RND-57 to RND-60) are not asked for and have no code.

use super::rules;

rules! { Rnd
    RND_01 = 1, Drop,
        "A range holds an RNDIS header",
        "Linux `rndis_filter_receive`";
    RND_02 = 2, Drop,
        "The message's length is at least its header's and at most the range's",
        "Linux; the buffer of INDICATE_STATUS is bounded by the range instead";
    RND_03 = 3, Structural,
        "One message per range: what follows it is not looked at",
        "Linux";
    RND_04 = 4, Drop,
        "Only messages that a device sends are taken",
        "Linux switch";
    RND_05 = 5, Drop,
        "A PACKET holds its header",
        "Linux tests the range instead";
    RND_06 = 6, Drop,
        "The frame lies behind the PACKET header",
        "DPDK RNDIS_PACKET_MSG_OFFSET_MIN; not in Linux";
    RND_07 = 7, Drop,
        "The frame lies inside the message",
        "Linux uses the range";
    RND_08 = 8, Drop,
        "A frame has an Ethernet header",
        "DPDK; not in Linux";
    RND_09 = 9, Drop,
        "A frame is no longer than the MTU with Ethernet header and tag",
        "own; not in Linux";
    RND_10 = 10, Drop,
        "There is no out-of-band data",
        "own; Linux ignores it";
    RND_11 = 11, Structural,
        "Virtual connection and reserved word are not looked at",
        "own";
    RND_12 = 12, Drop,
        "Per-packet information has an offset; length 0 means none",
        "Linux in part";
    RND_13 = 13, Drop,
        "Per-packet information lies behind the PACKET header, aligned, in the message",
        "DPDK; Linux in part";
    RND_14 = 14, Drop,
        "The area of per-packet information holds an element and ends in the message",
        "Linux 44144185951a";
    RND_15 = 15, Drop,
        "Per-packet information and frame do not overlap",
        "own; not in Linux";
    RND_16 = 16, Drop,
        "An element of per-packet information is at least as large as its header",
        "own; not in Linux `rndis_get_ppi`";
    RND_17 = 17, Drop,
        "An element of per-packet information ends inside its area",
        "own; not in Linux `rndis_get_ppi`";
    RND_18 = 18, Drop,
        "An element's size is a multiple of 4",
        "DPDK; not in Linux";
    RND_19 = 19, Drop,
        "An element's value lies behind its header and inside it",
        "Linux, upper bound";
    RND_20 = 20, Drop,
        "A packet has at most 16 elements",
        "own; not in Linux";
    RND_21 = 21, Drop,
        "No element type comes twice",
        "own; Linux and DPDK differ";
    RND_22 = 22, Structural,
        "Unknown elements are skipped; the internal bit separates name spaces",
        "Linux";
    RND_23 = 23, Structural,
        "Per-packet information is copied once and walked once",
        "own; not in Linux";
    RND_24 = 24, Clamp,
        "A checksum both failed and succeeded counts as not verified",
        "own; not in Linux";
    RND_25 = 25, Structural,
        "The host's word on a checksum is not passed on as verified",
        "own; Linux sets CHECKSUM_UNNECESSARY";
    RND_26 = 26, Drop,
        "A tag comes only if 802.1Q was agreed on, with an id below 4095 and no reserved bits",
        "own; not in Linux";
    RND_27 = 27, Structural,
        "A hash is a hint, never an index",
        "Linux skb_set_hash";
    RND_28 = 28, Drop,
        "No fragment of a coalesced packet, since coalescing was not agreed on",
        "own; not in Linux";
    RND_35 = 35, Drop,
        "No frame before the device is initialised and its filter set",
        "Linux in part";
    RND_36 = 36, Drop,
        "A response has the id of the outstanding request",
        "Linux `rndis_filter_receive_response`";
    RND_37 = 37, Drop,
        "A response's type is the request's with the completion bit",
        "own; not in Linux";
    RND_38 = 38, Structural,
        "A request is retired by its first response",
        "own; not in Linux";
    RND_39 = 39, Drop,
        "A response is no longer than the longest that was asked for",
        "Linux RNDIS_EXT_LEN";
    RND_40 = 40, Fail,
        "A response holds the fields of its type",
        "Linux for QUERY";
    RND_41 = 41, Fail,
        "A response's value counts only with status 0",
        "own; Linux in part";
    RND_42 = 42, Fail,
        "A query's value lies behind its header and inside the message",
        "Linux";
    RND_43 = 43, Fail,
        "A value has the length of its OID",
        "Linux for the MTU";
    RND_44 = 44, Fail,
        "The RNDIS version is 1.0",
        "own; not in Linux";
    RND_45 = 45, Fail,
        "The medium is 802.3 and connectionless",
        "own; not in Linux";
    RND_46 = 46, Clamp,
        "The alignment factor is at most 7",
        "own; Linux shifts by it";
    RND_47 = 47, Clamp,
        "Between 1 and 8 packets per transfer",
        "own; not in Linux";
    RND_48 = 48, Clamp,
        "The largest transfer holds a frame with its headers",
        "own; not in Linux";
    RND_49 = 49, Fail,
        "The address is unicast, not zero, and the one already fixed",
        "own; not in Linux";
    RND_50 = 50, Clamp,
        "The MTU is between 1280 and the configured one",
        "Linux lowers without floor";
    RND_51 = 51, Clamp,
        "The link query says 0 or 1",
        "Linux tests for non-zero";
    RND_52 = 52, Clamp,
        "The link speed is plausible; it is shown, nothing more",
        "own; Linux divides it";
    RND_53 = 53, Drop,
        "An event holds its header, and its buffer lies behind that and inside the range",
        "Linux `netvsc_linkstatus_callback`";
    RND_54 = 54, Ignore,
        "Only events of link and network are acted on",
        "Linux switch";
    RND_55 = 55, Throttle,
        "Link events are coalesced and limited in rate",
        "own; a burst was reported on linux-hyperv, April 2024";
    RND_56 = 56, Throttle,
        "Network changes are reported once per interval at most",
        "own";
    RND_62 = 62, Fail,
        "The packet filter counts as set only with status 0",
        "own; not in Linux";
    RND_63 = 63, Drop,
        "Requests that only a guest makes are refused from the host",
        "Linux default";
    RND_64 = 64, Drop,
        "A KEEPALIVE holds its request id and is answered once, at a limited rate",
        "own; Linux does not answer";
    RND_65 = 65, Reset,
        "Every RNDIS request has a deadline",
        "own; not in Linux";
    RND_66 = 66, Drop,
        "Responses and events come on the primary channel",
        "own; not in Linux";
    RND_67 = 67, Drop,
        "A unicast frame is for our address unless all frames are wanted",
        "own";
    RND_68 = 68, Drop,
        "A frame has no tag of its own beside a tag in its information",
        "own";
}
