//! RND: RNDIS.

use super::rules;

rules! {
    RND_01 {
        reaction: Drop,
        statement: "A range holds an RNDIS header",
        danger: "A header is read that is not there",
        example: "A range of 4 bytes",
        source: "Linux `rndis_filter_receive`",
    }
    RND_02 {
        reaction: Drop,
        statement: "The message's length is at least its header's and at most the range's",
        danger: "The reader leaves the range",
        example: "A message length of 0xFFFFFFFF",
        source: "Linux `rndis_filter_receive`; the buffer of INDICATE_STATUS is bounded by the range instead",
    }
    RND_03 {
        reaction: Structural,
        statement: "One message per range: what follows it is not looked at",
        danger: "A second message gets past the checks of the first",
        example: "Two messages in one range",
        source: "Linux `rndis_filter_receive`",
    }
    RND_04 {
        reaction: Drop,
        statement: "Only messages that a device sends are taken",
        danger: "Handlers for requests of a guest are reached",
        example: "Type 0x80000006 out of the blue",
        source: "Linux `rndis_filter_receive`",
    }
    RND_05 {
        reaction: Drop,
        statement: "A PACKET holds its header",
        danger: "The offsets of the frame are read from old bytes",
        example: "A PACKET of 12 bytes in a range of 2000",
        source: "own reasoning; DPDK",
    }
    RND_06 {
        reaction: Drop,
        statement: "The frame lies behind the PACKET header",
        danger: "The header of the message is delivered as a frame",
        example: "A frame at offset 0",
        source: "DPDK RNDIS_PACKET_MSG_OFFSET_MIN",
    }
    RND_07 {
        reaction: Drop,
        statement: "The frame lies inside the message",
        danger: "Bytes behind the message are delivered as a frame",
        example: "Offset 0xFFFFFFFC, length 16",
        source: "own reasoning; Linux bounds it by the range",
    }
    RND_08 {
        reaction: Drop,
        statement: "A frame has an Ethernet header",
        danger: "The addresses of a frame are read from behind it",
        example: "A frame of 1 byte",
        source: "DPDK",
    }
    RND_09 {
        reaction: Drop,
        statement: "A frame is no longer than the MTU with Ethernet header and tag",
        danger: "A guest buffer overflows",
        example: "60000 bytes with an MTU of 1500",
        source: "own reasoning",
    }
    RND_10 {
        reaction: Drop,
        statement: "There is no out-of-band data",
        danger: "A part of the message is never judged",
        example: "One element of out-of-band data",
        source: "own reasoning",
    }
    RND_11 {
        reaction: Structural,
        statement: "Virtual connection and reserved word are not looked at",
        danger: "Words without meaning become inputs",
        example: "0xFFFFFFFF in both",
        source: "own reasoning",
    }
    RND_12 {
        reaction: Drop,
        statement: "Per-packet information has an offset; length 0 means none",
        danger: "The header is read as information about the packet",
        example: "Offset 0, length 64",
        source: "own reasoning",
    }
    RND_13 {
        reaction: Drop,
        statement: "Per-packet information lies behind the PACKET header, aligned, in the message",
        danger: "Header bytes are read as information about the packet",
        example: "Offset 37",
        source: "DPDK; Linux `rndis_get_ppi`",
    }
    RND_14 {
        reaction: Drop,
        statement: "The area of per-packet information holds an element and ends in the message",
        danger: "The reader leaves the message",
        example: "A length of 8",
        source: "Linux 44144185951a",
    }
    RND_15 {
        reaction: Drop,
        statement: "Per-packet information and frame do not overlap",
        danger: "Bytes of the frame are notes about the frame at the same time",
        example: "The notes start where the frame does",
        source: "own reasoning",
    }
    RND_16 {
        reaction: Drop,
        statement: "An element of per-packet information is at least as large as its header",
        danger: "The walk over the elements takes a step of nothing and never ends",
        example: "An element of size 0",
        source: "own reasoning; DPDK",
    }
    RND_17 {
        reaction: Drop,
        statement: "An element of per-packet information ends inside its area",
        danger: "The walk leaves its area",
        example: "An element of size 0x1000 with 64 bytes left",
        source: "own reasoning",
    }
    RND_18 {
        reaction: Drop,
        statement: "An element's size is a multiple of 4",
        danger: "The next element's header is read from an odd place",
        example: "An element of size 13",
        source: "DPDK",
    }
    RND_19 {
        reaction: Drop,
        statement: "An element's value lies behind its header and inside it",
        danger: "The value is read from the element's own header",
        example: "A value at offset 0",
        source: "Linux `rndis_get_ppi`",
    }
    RND_20 {
        reaction: Drop,
        statement: "A packet has at most 16 elements",
        danger: "The host chooses how long a walk takes",
        example: "140 elements of 12 bytes",
        source: "own reasoning",
    }
    RND_21 {
        reaction: Drop,
        statement: "No element type comes twice",
        danger: "Two readers take two different values from one packet",
        example: "Two VLAN elements",
        source: "own reasoning",
    }
    RND_22 {
        reaction: Structural,
        statement: "Unknown elements are skipped; the internal bit separates name spaces",
        danger: "An element is read with the layout of another",
        example: "Type 0x80000063",
        source: "Linux `rndis_get_ppi`",
    }
    RND_23 {
        reaction: Structural,
        statement: "Per-packet information is copied once and walked once",
        danger: "Two looks at one element give two values",
        example: "The element changes between the look for the tag and that for the checksum",
        source: "own reasoning",
    }
    RND_24 {
        reaction: Clamp,
        statement: "A checksum both failed and succeeded counts as not verified",
        danger: "A broken frame passes as sound",
        example: "A checksum value of 0x09",
        source: "own reasoning",
    }
    RND_25 {
        reaction: Drop,
        statement: "The host's word that a checksum is right goes on only where policy trusts it, to a guest that has agreed to such words, and never beside a word that one is wrong; a coalesced packet without such a word is dropped",
        danger: "The guest accepts segments that were damaged on the way",
        example: "A wrong TCP sum, declared right",
        source: "own reasoning; Linux `netvsc_alloc_recv_skb` believes the host",
    }
    RND_26 {
        reaction: Drop,
        statement: "A tag comes only if 802.1Q was agreed on, with an id below 4095 and no reserved bits",
        danger: "A frame reaches a network that it is not meant for",
        example: "VLAN 4095",
        source: "own reasoning",
    }
    RND_27 {
        reaction: Structural,
        statement: "A hash is a hint, never an index; what it was made of counts only where that was asked for and the frame is of that version of IP",
        danger: "A number of the host picks a queue beyond the last",
        example: "A hash of 0xFFFFFFFF, of IPv6 beside a frame of IPv4",
        source: "Linux skb_set_hash",
    }
    RND_28 {
        reaction: Drop,
        statement: "No fragment of a coalesced packet unless coalescing was agreed on",
        danger: "Code that joins fragments is reached though nobody asked for it",
        example: "A fragment although coalescing is off",
        source: "own reasoning",
    }
    RND_29 {
        reaction: Drop,
        statement: "Fragments come in order: a first, those between, a last",
        danger: "Old fragments are joined with new ones",
        example: "A middle fragment without a first",
        source: "Linux `rndis_filter_receive_data`",
    }
    RND_30 {
        reaction: Drop,
        statement: "A coalesced packet has at most 562 fragments",
        danger: "The list of fragments overflows",
        example: "600 fragments",
        source: "Linux NVSP_RSC_MAX",
    }
    RND_31 {
        reaction: Drop,
        statement: "A coalesced packet is TCP with its headers in the first fragment, as long as these say, and no longer than 65535 bytes with its header",
        danger: "A frame of a megabyte is built and delivered",
        example: "562 fragments of 1700 bytes",
        source: "own reasoning",
    }
    RND_32 {
        reaction: Drop,
        statement: "All fragments carry the id of one packet",
        danger: "Fragments of two packets are joined",
        example: "Fragments with ids 1 and 2",
        source: "own reasoning",
    }
    RND_33 {
        reaction: Drop,
        statement: "What was collected is thrown away after any error and at a packet's end, and nothing is joined any more in a packet of which something was refused",
        danger: "Slots are read that were given back",
        example: "A bad range after a first fragment",
        source: "Linux 12bc8dfb83b5",
    }
    RND_34 {
        reaction: Drop,
        statement: "Each byte of a fragment is read once, and what is judged of it is a private copy: its information lies in front of its data",
        danger: "A fragment changes before it is joined",
        example: "The first fragment is edited while the second is parsed",
        source: "own reasoning",
    }
    RND_35 {
        reaction: Drop,
        statement: "No frame before the device is initialised and its filter set",
        danger: "Frames arrive in a device that is half built",
        example: "A frame right after the receive buffer",
        source: "own reasoning",
    }
    RND_36 {
        reaction: Drop,
        statement: "A response has the id of the outstanding request",
        danger: "Another waiter gets the answer",
        example: "Request id 0",
        source: "Linux `rndis_filter_receive_response`",
    }
    RND_37 {
        reaction: Drop,
        statement: "A response's type is the request's with the completion bit; a host that breaks this again and again has its channel reset",
        danger: "The answer to a set is read as that to a query",
        example: "A SET answer to a QUERY",
        source: "own reasoning",
    }
    RND_38 {
        reaction: Structural,
        statement: "A request is retired by its first response",
        danger: "The second answer is written into a request that is gone",
        example: "Two equal answers in one batch",
        source: "own reasoning",
    }
    RND_39 {
        reaction: Drop,
        statement: "A response is no longer than the longest that was asked for",
        danger: "The private copy overflows",
        example: "An answer of 5000 bytes",
        source: "Linux RNDIS_EXT_LEN",
    }
    RND_40 {
        reaction: Fail,
        statement: "A response holds the fields of its type",
        danger: "An old status counts as success",
        example: "A SET answer of 12 bytes",
        source: "own reasoning; Linux for QUERY",
    }
    RND_41 {
        reaction: Fail,
        statement: "A response's value counts only with status 0",
        danger: "What a failed query left in its buffer is believed",
        example: "A query's answer with status 0xC00000BB and 6 bytes",
        source: "own reasoning",
    }
    RND_42 {
        reaction: Fail,
        statement: "A query's value lies behind its header and inside the message",
        danger: "Bytes outside the answer are taken as the value",
        example: "A value at offset 4",
        source: "Linux `rndis_filter_query_device`",
    }
    RND_43 {
        reaction: Fail,
        statement: "A value has the length of its OID",
        danger: "Half of an address stays zero",
        example: "An address of 3 bytes",
        source: "own reasoning; Linux for the MTU",
    }
    RND_44 {
        reaction: Fail,
        statement: "The RNDIS version is 1.0",
        danger: "Messages are laid out by rules that nobody knows",
        example: "Version 9",
        source: "own reasoning",
    }
    RND_45 {
        reaction: Fail,
        statement: "The medium is 802.3 and connectionless",
        danger: "Frames are laid out by rules of another network",
        example: "Medium 5",
        source: "own reasoning",
    }
    RND_46 {
        reaction: Clamp,
        statement: "The alignment factor is at most 7",
        danger: "A shift by more bits than a word has, or padding without end",
        example: "A factor of 63",
        source: "own reasoning",
    }
    RND_47 {
        reaction: Clamp,
        statement: "Between 1 and 8 packets per transfer",
        danger: "A batch of nothing",
        example: "0 packets",
        source: "own reasoning",
    }
    RND_48 {
        reaction: Clamp,
        statement: "The largest transfer holds a frame with its headers",
        danger: "Nothing can be sent, or more than fits",
        example: "0 bytes",
        source: "own reasoning",
    }
    RND_49 {
        reaction: Fail,
        statement: "The address is unicast, not zero, and the one already fixed",
        danger: "The guest's card changes its identity, or sends with a group address",
        example: "ff:ff:ff:ff:ff:ff",
        source: "own reasoning",
    }
    RND_50 {
        reaction: Clamp,
        statement: "The MTU is between 1280 and the configured one",
        danger: "The guest's network stack stands still",
        example: "An MTU of 0",
        source: "own reasoning",
    }
    RND_51 {
        reaction: Clamp,
        statement: "The link query says 0 or 1",
        danger: "The link is neither up nor down",
        example: "0x80000000",
        source: "own reasoning",
    }
    RND_52 {
        reaction: Clamp,
        statement: "The link speed is plausible; it is shown, nothing more",
        danger: "A division by zero or an overflow",
        example: "A speed of 0",
        source: "own reasoning",
    }
    RND_53 {
        reaction: Drop,
        statement: "An event holds its header, and its buffer lies behind that and inside the range",
        danger: "The reader leaves the range",
        example: "A buffer at 0xFFFFFFF0",
        source: "Linux `netvsc_linkstatus_callback`",
    }
    RND_54 {
        reaction: Ignore,
        statement: "Only events of link and network are acted on",
        danger: "The host changes the guest's settings with news that nobody expects",
        example: "Event 0xC0010018",
        source: "Linux `rndis_filter_receive`",
    }
    RND_55 {
        reaction: Throttle,
        statement: "Link events are coalesced and limited in rate",
        danger: "Events queue up without end, and the guest is busy with its link",
        example: "A million link changes",
        source: "own reasoning; a burst was reported on linux-hyperv, April 2024",
    }
    RND_56 {
        reaction: Throttle,
        statement: "Network changes are reported once per interval at most",
        danger: "The guest asks for its address again and again and stays offline",
        example: "A network change every millisecond",
        source: "own reasoning",
    }
    RND_57 {
        reaction: Fail,
        statement: "The offload answer has a known header and lies inside its message",
        danger: "Capabilities are read from behind the answer",
        example: "A size of 0xFFFF",
        source: "Linux `rndis_query_hwcaps`",
    }
    RND_58 {
        reaction: Clamp,
        statement: "Offloads are those of the host and of ours together; a large send holds two frames or more, 64 KiB at most, and wants no more than two segments",
        danger: "Segments of nothing, or of more than fits",
        example: "A largest segment of 1 byte",
        source: "own reasoning",
    }
    RND_59 {
        reaction: Structural,
        statement: "A short offload answer is completed with zeros",
        danger: "Capabilities of an earlier answer count",
        example: "An answer of 20 bytes",
        source: "Linux `rndis_query_hwcaps`",
    }
    RND_60 {
        reaction: Fail,
        statement: "The receive-scaling answer has a known header; queues and table are bounded",
        danger: "The host chooses how many queues are built",
        example: "0xFFFFFFFF queues",
        source: "Linux `rndis_filter_device_add`",
    }
    RND_61 {
        not_applicable { refused_by: RND_36, why: "The client never asks for the name: an answer to a request that was never made is refused" },
        statement: "The card's friendly name is not asked for, or bounded and cleaned",
        danger: "Control characters reach a log or a terminal",
        example: "A name full of control characters",
        source: "own reasoning",
    }
    RND_62 {
        reaction: Fail,
        statement: "The packet filter counts as set only with status 0",
        danger: "A filter counts as off that is on",
        example: "A filter answered with status 0xC0000001",
        source: "own reasoning",
    }
    RND_63 {
        reaction: Drop,
        statement: "Requests that only a guest makes are refused from the host",
        danger: "Handlers of the other role are reached",
        example: "A QUERY from the host",
        source: "Linux `rndis_filter_receive`",
    }
    RND_64 {
        reaction: Drop,
        statement: "A KEEPALIVE holds its request id and is answered once, at a limited rate",
        danger: "One small message of the host makes a larger answer, without bound",
        example: "100000 KEEPALIVEs",
        source: "own reasoning",
    }
    RND_65 {
        reaction: Reset,
        statement: "Every RNDIS request has a deadline",
        danger: "The start of the card hangs",
        example: "A query that is never answered",
        source: "own reasoning",
    }
    RND_66 {
        reaction: Drop,
        statement: "Responses and events come on the primary channel",
        danger: "Answers are forged on another queue",
        example: "A SET answer on queue 3",
        source: "own reasoning",
    }
    RND_67 {
        reaction: Drop,
        statement: "A unicast frame is for our address unless all frames are wanted",
        danger: "Traffic for others is fed to the guest",
        example: "A frame to 02:00:00:00:00:99",
        source: "own reasoning",
    }
    RND_68 {
        reaction: Drop,
        statement: "A frame has no tag of its own beside a tag in its information",
        danger: "A frame crosses from one network into another with two tags",
        example: "A tag in the frame beside one in its notes",
        source: "own reasoning",
    }
    RND_69 {
        reaction: Structural,
        statement: "A PACKET that is sent has a header of our own making, and per-packet information that follows from our own walk over the private copy of the frame",
        danger: "Offsets and segment sizes that a guest forged reach the host, or bytes beside the frame do",
        example: "A guest's virtio header with a segment size of 0 and a checksum start behind the frame",
        source: "own reasoning",
    }
}
