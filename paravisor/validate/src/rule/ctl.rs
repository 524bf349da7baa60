//! CTL: channel messages of the control plane.

use super::rules;

rules! { Ctl
    CTL_01 = 1, Drop,
        "An unknown message type is dropped",
        "Linux CHANNELMSG_COUNT; OpenVMM panics";
    CTL_02 = 2, Drop,
        "A guest-to-host message type received from the host is dropped",
        "Linux NULL handlers; OpenVMM panics";
    CTL_03 = 3, Drop,
        "payload_size is at least the fixed size of the type",
        "Linux min_payload_len; OpenVMM MessageTooSmall";
    CTL_04 = 4, Structural,
        "A message that is longer than its structure is accepted; the rest is never looked at and never selects a layout",
        "own; OpenVMM selects by size";
    CTL_05 = 5, Structural,
        "header.padding is ignored on receipt and zero when sent",
        "own";
    CTL_06 = 6, Drop,
        "A type is accepted only if the negotiated version and features define it",
        "OpenVMM; not in Linux";
    CTL_07 = 7, Drop,
        "While connecting only VERSION_RESPONSE is accepted; offers only after REQUEST_OFFERS",
        "own; OpenVMM panics, not in Linux";
    CTL_08 = 8, Drop,
        "VERSION_RESPONSE is accepted only while one INITIATE_CONTACT is outstanding",
        "OpenVMM; Linux in part";
    CTL_09 = 9, Fatal,
        "version_supported is 0 or 1",
        "own; not in Linux, not in OpenVMM";
    CTL_10 = 10, Fatal,
        "connection_state is 0 if the version is supported, and never above 2",
        "OpenVMM; not in Linux";
    CTL_11 = 11, Fatal,
        "The returned message connection id is one that we know for this target",
        "own; not in Linux, not in OpenVMM";
    CTL_12 = 12, Fatal,
        "Negotiation never goes below version 5.2",
        "Linux `vmbus_connect` for isolated guests";
    CTL_13 = 13, Fatal,
        "After a timeout the connection is given up; no other version is tried, because answers carry no version",
        "own";
    CTL_14 = 14, Fatal,
        "The features of the answer are a part of those that were requested",
        "own; not in OpenVMM";
    CTL_15 = 15, Structural,
        "Monitor pages of the server are never requested and never looked at",
        "OpenVMM ignores them";
    CTL_16 = 16, Drop,
        "An offer with confidential flags (0x2, 0x4) is refused: the host cannot make memory confidential",
        "OpenVMM relay strips them; Linux rejects";
    CTL_17 = 17, Drop,
        "An offer with flag 0x4 but not 0x2 is refused and leaves nothing behind",
        "Linux `vmbus_onoffer`";
    CTL_18 = 18, Drop,
        "Only network cards are accepted; the relid of any other class is released",
        "Linux `vmbus_is_valid_offer`";
    CTL_19 = 19, Drop,
        "The hv_sock flag (0x2000) is refused and never bypasses the class list",
        "own; not in Linux";
    CTL_20 = 20, Drop,
        "The instance GUID is not zero",
        "own; Linux uses it as a key";
    CTL_21 = 21, Fatal,
        "relid is at most 2047",
        "Linux warns and goes on";
    CTL_22 = 22, Drop,
        "relid is not 0",
        "own; not in Linux";
    CTL_23 = 23, Fatal,
        "relid is not in use: offered, open, or rescinded and not yet released",
        "own; Linux overwrites, OpenVMM panics";
    CTL_24 = 24, Fatal,
        "No second primary offer for a live instance",
        "own; not in Linux";
    CTL_25 = 25, Drop,
        "A sub-channel needs an open primary of the same class and instance",
        "own; not in Linux";
    CTL_27 = 27, Drop,
        "Sub-channels are accepted only while a request for them is outstanding; none ever is",
        "own; not in Linux";
    CTL_28 = 28, Drop,
        "The number of live channels and of refused offers is bounded; refused offers beyond the bound end the connection",
        "own; not in Linux, not in OpenVMM";
    CTL_29 = 29, Drop,
        "After the boot-time set is sealed an offer is refused unless the configuration allows it",
        "own";
    CTL_30 = 30, Drop,
        "ALLOFFERS_DELIVERED is accepted once, after REQUEST_OFFERS",
        "OpenVMM; not in Linux";
    CTL_31 = 31, Fatal,
        "ALLOFFERS_DELIVERED arrives within its deadline",
        "Linux `vmbus_request_offers` waits 60 s";
    CTL_32 = 32, Structural,
        "The monitor id is never used",
        "own; not in Linux";
    CTL_33 = 33, Drop,
        "is_dedicated is 1",
        "OpenVMM relay warns";
    CTL_34 = 34, Drop,
        "The offer's connection id is not 0, has 24 bits, is no message, event or monitor connection and no other channel's",
        "own; not in Linux";
    CTL_35 = 35, Drop,
        "A network card asks for no MMIO space",
        "own";
    CTL_36 = 36, Drop,
        "A network card has neither the named-pipe flag nor unknown flags",
        "own";
    CTL_37 = 37, Structural,
        "The offer's user-defined bytes are never looked at",
        "own";
    CTL_38 = 38, Drop,
        "A rescind of an unknown relid is dropped",
        "Linux; OpenVMM panics";
    CTL_39 = 39, Drop,
        "A second rescind of the same channel is dropped",
        "Linux; OpenVMM panics";
    CTL_42 = 42, Structural,
        "After a rescind the channel is neither opened nor signalled any more",
        "Linux `hv_ringbuffer_write`";
    CTL_43 = 43, Structural,
        "RELID_RELEASED is sent once, after the rescind, the owner's close and every outstanding GPADL answer",
        "OpenVMM `try_release`";
    CTL_44 = 44, Drop,
        "After a rescind, answers to GPADL requests are accepted, OPEN_RESULT is not",
        "OpenVMM; Linux comment";
    CTL_45 = 45, Structural,
        "Offers and rescinds are handled in order of arrival in one queue",
        "Linux offer_in_progress";
    CTL_46 = 46, Drop,
        "OPEN_RESULT names the relid and open id of the outstanding open",
        "Linux `vmbus_onopen_result`; OpenVMM in part";
    CTL_47 = 47, Structural,
        "The open id counts attempts and is never used twice",
        "own; not in Linux, not in OpenVMM";
    CTL_48 = 48, Fail,
        "An open that the host refuses: the ring GPADL is torn down, the channel stays closed",
        "Linux `__vmbus_open`; OpenVMM";
    CTL_49 = 49, Drop,
        "A second OPEN_RESULT is dropped",
        "Linux; OpenVMM warns";
    CTL_50 = 50, Reset,
        "An open or a GPADL request is answered within its deadline, or its channel has failed",
        "own; not in Linux, not in OpenVMM";
    CTL_51 = 51, Drop,
        "MODIFYCHANNEL_RESPONSE matches one outstanding request; none ever is",
        "Linux; OpenVMM panics";
    CTL_53 = 53, Drop,
        "UNLOAD_RESPONSE only after UNLOAD",
        "Linux; gap in OpenVMM";
    CTL_54 = 54, Leak,
        "The wait for UNLOAD_RESPONSE is bounded; without it all shared pages stay shared",
        "Linux in part";
    CTL_55 = 55, Drop,
        "CLOSE_RESERVED_RESPONSE is dropped; no reserved channel is ever opened",
        "Linux; OpenVMM panics";
    CTL_56 = 56, Drop,
        "TL_CONNECT_RESULT is dropped; hv_sock is never used",
        "Linux";
    CTL_59 = 59, Fatal,
        "Queues that the host can fill are bounded; overflow ends the connection",
        "own; not in Linux";
    CTL_60 = 60, Structural,
        "All checks of a message run before any state changes",
        "own";
    CTL_61 = 61, Structural,
        "Numbers of the host (relid, connection id, GPADL id) are not what the layers above name a channel by",
        "OpenVMM relay";
    CTL_62 = 62, Fatal,
        "The fields of an offer are frozen when it is accepted",
        "own; not in Linux";
}
