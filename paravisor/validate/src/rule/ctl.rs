//! CTL: channel messages of the control plane.

use super::rules;

rules! {
    CTL_01 {
        reaction: Drop,
        statement: "An unknown message type is dropped",
        danger: "",
        example: "",
        source: "Linux CHANNELMSG_COUNT; OpenVMM panics",
    }
    CTL_02 {
        reaction: Drop,
        statement: "A guest-to-host message type received from the host is dropped",
        danger: "",
        example: "",
        source: "Linux NULL handlers; OpenVMM panics",
    }
    CTL_03 {
        reaction: Drop,
        statement: "payload_size is at least the fixed size of the type",
        danger: "",
        example: "",
        source: "Linux min_payload_len; OpenVMM MessageTooSmall",
    }
    CTL_04 {
        reaction: Structural,
        statement: "A message that is longer than its structure is accepted; the rest is never looked at and never selects a layout",
        danger: "",
        example: "",
        source: "own; OpenVMM selects by size",
    }
    CTL_05 {
        reaction: Structural,
        statement: "header.padding is ignored on receipt and zero when sent",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_06 {
        reaction: Drop,
        statement: "A type is accepted only if the negotiated version and features define it",
        danger: "",
        example: "",
        source: "OpenVMM; not in Linux",
    }
    CTL_07 {
        reaction: Drop,
        statement: "While connecting only VERSION_RESPONSE is accepted; offers only after REQUEST_OFFERS",
        danger: "",
        example: "",
        source: "own; OpenVMM panics, not in Linux",
    }
    CTL_08 {
        reaction: Drop,
        statement: "VERSION_RESPONSE is accepted only while one INITIATE_CONTACT is outstanding",
        danger: "",
        example: "",
        source: "OpenVMM; Linux in part",
    }
    CTL_09 {
        reaction: Fatal,
        statement: "version_supported is 0 or 1",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    CTL_10 {
        reaction: Fatal,
        statement: "connection_state is 0 if the version is supported, and never above 2",
        danger: "",
        example: "",
        source: "OpenVMM; not in Linux",
    }
    CTL_11 {
        reaction: Fatal,
        statement: "The returned message connection id is one that we know for this target",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    CTL_12 {
        reaction: Fatal,
        statement: "Negotiation never goes below version 5.2",
        danger: "",
        example: "",
        source: "Linux `vmbus_connect` for isolated guests",
    }
    CTL_13 {
        reaction: Fatal,
        statement: "After a timeout the connection is given up; no other version is tried, because answers carry no version",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_14 {
        reaction: Fatal,
        statement: "The features of the answer are a part of those that were requested",
        danger: "",
        example: "",
        source: "own; not in OpenVMM",
    }
    CTL_15 {
        reaction: Structural,
        statement: "Monitor pages of the server are never requested and never looked at",
        danger: "",
        example: "",
        source: "OpenVMM ignores them",
    }
    CTL_16 {
        reaction: Drop,
        statement: "An offer with confidential flags (0x2, 0x4) is refused: the host cannot make memory confidential",
        danger: "",
        example: "",
        source: "OpenVMM relay strips them; Linux rejects",
    }
    CTL_17 {
        reaction: Drop,
        statement: "An offer with flag 0x4 but not 0x2 is refused and leaves nothing behind",
        danger: "",
        example: "",
        source: "Linux `vmbus_onoffer`",
    }
    CTL_18 {
        reaction: Drop,
        statement: "Only network cards are accepted; the relid of any other class is released",
        danger: "",
        example: "",
        source: "Linux `vmbus_is_valid_offer`",
    }
    CTL_19 {
        reaction: Drop,
        statement: "The hv_sock flag (0x2000) is refused and never bypasses the class list",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_20 {
        reaction: Drop,
        statement: "The instance GUID is not zero",
        danger: "",
        example: "",
        source: "own; Linux uses it as a key",
    }
    CTL_21 {
        reaction: Fatal,
        statement: "relid is at most 2047",
        danger: "",
        example: "",
        source: "Linux warns and goes on",
    }
    CTL_22 {
        reaction: Drop,
        statement: "relid is not 0",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_23 {
        reaction: Fatal,
        statement: "relid is not in use: offered, open, or rescinded and not yet released",
        danger: "",
        example: "",
        source: "own; Linux overwrites, OpenVMM panics",
    }
    CTL_24 {
        reaction: Fatal,
        statement: "No second primary offer for a live instance",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_25 {
        reaction: Drop,
        statement: "A sub-channel needs an open primary of the same class and instance",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_27 {
        reaction: Drop,
        statement: "Sub-channels are accepted only while a request for them is outstanding; none ever is",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_28 {
        reaction: Drop,
        statement: "The number of live channels and of refused offers is bounded; refused offers beyond the bound end the connection",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    CTL_29 {
        reaction: Drop,
        statement: "After the boot-time set is sealed an offer is refused unless the configuration allows it",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_30 {
        reaction: Drop,
        statement: "ALLOFFERS_DELIVERED is accepted once, after REQUEST_OFFERS",
        danger: "",
        example: "",
        source: "OpenVMM; not in Linux",
    }
    CTL_31 {
        reaction: Fatal,
        statement: "ALLOFFERS_DELIVERED arrives within its deadline",
        danger: "",
        example: "",
        source: "Linux `vmbus_request_offers` waits 60 s",
    }
    CTL_32 {
        reaction: Structural,
        statement: "The monitor id is never used",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_33 {
        reaction: Drop,
        statement: "is_dedicated is 1",
        danger: "",
        example: "",
        source: "OpenVMM relay warns",
    }
    CTL_34 {
        reaction: Drop,
        statement: "The offer's connection id is not 0, has 24 bits, is no message, event or monitor connection and no other channel's",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_35 {
        reaction: Drop,
        statement: "A network card asks for no MMIO space",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_36 {
        reaction: Drop,
        statement: "A network card has neither the named-pipe flag nor unknown flags",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_37 {
        reaction: Structural,
        statement: "The offer's user-defined bytes are never looked at",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_38 {
        reaction: Drop,
        statement: "A rescind of an unknown relid is dropped",
        danger: "",
        example: "",
        source: "Linux; OpenVMM panics",
    }
    CTL_39 {
        reaction: Drop,
        statement: "A second rescind of the same channel is dropped",
        danger: "",
        example: "",
        source: "Linux; OpenVMM panics",
    }
    CTL_42 {
        reaction: Structural,
        statement: "After a rescind the channel is neither opened nor signalled any more",
        danger: "",
        example: "",
        source: "Linux `hv_ringbuffer_write`",
    }
    CTL_43 {
        reaction: Structural,
        statement: "RELID_RELEASED is sent once, after the rescind, the owner's close and every outstanding GPADL answer",
        danger: "",
        example: "",
        source: "OpenVMM `try_release`",
    }
    CTL_44 {
        reaction: Drop,
        statement: "After a rescind, answers to GPADL requests are accepted, OPEN_RESULT is not",
        danger: "",
        example: "",
        source: "OpenVMM; Linux comment",
    }
    CTL_45 {
        reaction: Structural,
        statement: "Offers and rescinds are handled in order of arrival in one queue",
        danger: "",
        example: "",
        source: "Linux offer_in_progress",
    }
    CTL_46 {
        reaction: Drop,
        statement: "OPEN_RESULT names the relid and open id of the outstanding open",
        danger: "",
        example: "",
        source: "Linux `vmbus_onopen_result`; OpenVMM in part",
    }
    CTL_47 {
        reaction: Structural,
        statement: "The open id counts attempts and is never used twice",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    CTL_48 {
        reaction: Fail,
        statement: "An open that the host refuses: the ring GPADL is torn down, the channel stays closed",
        danger: "",
        example: "",
        source: "Linux `__vmbus_open`; OpenVMM",
    }
    CTL_49 {
        reaction: Drop,
        statement: "A second OPEN_RESULT is dropped",
        danger: "",
        example: "",
        source: "Linux; OpenVMM warns",
    }
    CTL_50 {
        reaction: Reset,
        statement: "An open or a GPADL request is answered within its deadline, or its channel has failed",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    CTL_51 {
        reaction: Drop,
        statement: "MODIFYCHANNEL_RESPONSE matches one outstanding request; none ever is",
        danger: "",
        example: "",
        source: "Linux; OpenVMM panics",
    }
    CTL_53 {
        reaction: Drop,
        statement: "UNLOAD_RESPONSE only after UNLOAD",
        danger: "",
        example: "",
        source: "Linux; gap in OpenVMM",
    }
    CTL_54 {
        reaction: Leak,
        statement: "The wait for UNLOAD_RESPONSE is bounded; without it all shared pages stay shared",
        danger: "",
        example: "",
        source: "Linux in part",
    }
    CTL_55 {
        reaction: Drop,
        statement: "CLOSE_RESERVED_RESPONSE is dropped; no reserved channel is ever opened",
        danger: "",
        example: "",
        source: "Linux; OpenVMM panics",
    }
    CTL_56 {
        reaction: Drop,
        statement: "TL_CONNECT_RESULT is dropped; hv_sock is never used",
        danger: "",
        example: "",
        source: "Linux",
    }
    CTL_59 {
        reaction: Fatal,
        statement: "Queues that the host can fill are bounded; overflow ends the connection",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    CTL_60 {
        reaction: Structural,
        statement: "All checks of a message run before any state changes",
        danger: "",
        example: "",
        source: "own",
    }
    CTL_61 {
        reaction: Structural,
        statement: "Numbers of the host (relid, connection id, GPADL id) are not what the layers above name a channel by",
        danger: "",
        example: "",
        source: "OpenVMM relay",
    }
    CTL_62 {
        reaction: Fatal,
        statement: "The fields of an offer are frozen when it is accepted",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
}
