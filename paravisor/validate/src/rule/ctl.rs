//! CTL: channel messages of the control plane.

use super::rules;

rules! {
    CTL_01 {
        reaction: Drop,
        statement: "An unknown message type is dropped",
        danger: "A number from the host picks a handler beyond the end of a table",
        example: "Message type 0xFFFFFFFF",
        source: "Linux CHANNELMSG_COUNT",
    }
    CTL_02 {
        reaction: Drop,
        statement: "A guest-to-host message type received from the host is dropped",
        danger: "The layout of a request is read as an answer",
        example: "OPENCHANNEL, sent by the host",
        source: "Linux `channel_message_table`",
    }
    CTL_03 {
        reaction: Drop,
        statement: "payload_size is at least the fixed size of the type",
        danger: "Fields are read from bytes that the message does not have",
        example: "An offer of 100 bytes",
        source: "Linux min_payload_len; OpenVMM MessageTooSmall",
    }
    CTL_04 {
        reaction: Structural,
        statement: "A message that is longer than its structure is accepted; the rest is never looked at and never selects a layout",
        danger: "The length of a message selects a layout that nobody agreed on",
        example: "A VERSION_RESPONSE of 40 bytes where 16 were agreed on",
        source: "own reasoning",
    }
    CTL_05 {
        reaction: Structural,
        statement: "header.padding is ignored on receipt and zero when sent",
        danger: "Private bytes leave in the gap, or the gap becomes an input",
        example: "Padding 0xDEADBEEF",
        source: "own reasoning",
    }
    CTL_06 {
        reaction: Drop,
        statement: "A type is accepted only if the negotiated version and features define it",
        danger: "A message of a feature that was never agreed on reaches its handler",
        example: "MODIFYCHANNEL_RESPONSE on a connection of version 5.2",
        source: "OpenVMM",
    }
    CTL_07 {
        reaction: Drop,
        statement: "While connecting only VERSION_RESPONSE is accepted; offers only after REQUEST_OFFERS",
        danger: "Devices appear before it is known which are allowed",
        example: "An offer before VERSION_RESPONSE",
        source: "own reasoning",
    }
    CTL_08 {
        reaction: Drop,
        statement: "VERSION_RESPONSE is accepted only while one INITIATE_CONTACT is outstanding",
        danger: "A connection that stands is negotiated again",
        example: "A second VERSION_RESPONSE",
        source: "OpenVMM",
    }
    CTL_09 {
        reaction: Fatal,
        statement: "version_supported is 0 or 1",
        danger: "A value between yes and no means something else in each place that reads it",
        example: "version_supported 0x80",
        source: "own reasoning",
    }
    CTL_10 {
        reaction: Fatal,
        statement: "connection_state is 0 if the version is supported, and never above 2",
        danger: "A connection that failed is taken for one that works",
        example: "Supported, with connection state 1",
        source: "OpenVMM",
    }
    CTL_11 {
        reaction: Fatal,
        statement: "The returned message connection id is one that we know for this target",
        danger: "All later messages go to a port that the host picked",
        example: "Message connection id 0x00FFFFFF",
        source: "own reasoning",
    }
    CTL_12 {
        reaction: Fatal,
        statement: "Negotiation never goes below version 5.2",
        danger: "The host brings the guest down to a protocol from before it was hardened",
        example: "Versions 6.0 to 5.2 are refused, 4.0 would do",
        source: "Linux `vmbus_connect` for isolated guests",
    }
    CTL_13 {
        reaction: Fatal,
        statement: "After a timeout the connection is given up; no other version is tried, because answers carry no version",
        danger: "A late answer to one version counts for the next, and both sides speak different ones",
        example: "The answer to 6.0 is held back until 5.3 was proposed",
        source: "own reasoning",
    }
    CTL_14 {
        reaction: Fatal,
        statement: "The features of the answer are a part of those that were requested",
        danger: "A feature that nobody asked for changes the layout of messages",
        example: "Features 0xFFFFFFFF",
        source: "own reasoning",
    }
    CTL_15 {
        reaction: Structural,
        statement: "Monitor pages of the server are never requested and never looked at",
        danger: "The client writes notification bits to an address of the host's choice, private memory among them",
        example: "A monitor page at the address of a page table",
        source: "own reasoning; OpenVMM ignores the pages",
    }
    CTL_16 {
        reaction: Drop,
        statement: "An offer with confidential flags (0x2, 0x4) is refused: the host cannot make memory confidential",
        danger: "The guest puts data in clear where it believes memory to be private",
        example: "An offer with flags 0x6",
        source: "Linux `vmbus_onoffer`; OpenVMM relay",
    }
    CTL_17 {
        reaction: Drop,
        statement: "An offer with flag 0x4 but not 0x2 is refused and leaves nothing behind",
        danger: "A half-made offer leaves counters behind that later messages wait for",
        example: "An offer with flag 0x4 alone, then a rescind of another device",
        source: "Linux `vmbus_onoffer`",
    }
    CTL_18 {
        reaction: Drop,
        statement: "Only network cards are accepted; the relid of any other class is released",
        danger: "Every driver that knows a class can be reached by the host",
        example: "An offer of a keyboard",
        source: "Linux `vmbus_is_valid_offer`",
    }
    CTL_19 {
        reaction: Drop,
        statement: "The hv_sock flag (0x2000) is refused and never bypasses the class list",
        danger: "One bit takes any class past the list of allowed ones",
        example: "A keyboard with flag 0x2000",
        source: "own reasoning",
    }
    CTL_20 {
        reaction: Drop,
        statement: "The instance GUID is not zero",
        danger: "Two devices share one identity",
        example: "An instance of sixteen zero bytes",
        source: "own reasoning; Linux uses it as a key",
    }
    CTL_21 {
        reaction: Fatal,
        statement: "relid is at most 2047",
        danger: "The number is an index beyond the table of channels",
        example: "relid 0x01000000",
        source: "own reasoning",
    }
    CTL_22 {
        reaction: Drop,
        statement: "relid is not 0",
        danger: "A channel that can never be signalled, and whose flag has another meaning",
        example: "relid 0",
        source: "own reasoning",
    }
    CTL_23 {
        reaction: Fatal,
        statement: "relid is not in use: offered, open, or rescinded and not yet released",
        danger: "Signals and withdrawals reach the wrong channel, or one that is gone",
        example: "Two offers with relid 7",
        source: "own reasoning",
    }
    CTL_24 {
        reaction: Fatal,
        statement: "No second primary offer for a live instance",
        danger: "A live channel gets another number and state under its feet",
        example: "The same card again with relid 9",
        source: "own reasoning",
    }
    CTL_25 {
        reaction: Drop,
        statement: "A sub-channel needs an open primary of the same class and instance",
        danger: "A channel without a device is started as if it were one",
        example: "Sub-channel 3 of an unknown card",
        source: "own reasoning",
    }
    CTL_26 {
        reaction: Drop,
        statement: "A sub-channel's index is one that was granted, each index once for a request",
        danger: "Two channels share one queue, and both use its memory",
        example: "Index 2 offered twice",
        source: "Linux `netvsc_sc_open` checks the upper bound; the rest is own reasoning",
    }
    CTL_27 {
        reaction: Drop,
        statement: "Sub-channels are accepted only between the request for them and its end: all have come, or the time for it is over",
        danger: "The host adds queues that nobody asked for",
        example: "A sub-channel before the card was set up",
        source: "own reasoning",
    }
    CTL_28 {
        reaction: Drop,
        statement: "The numbers of live channels and, in an hour, of late offers and of refused offers are bounded; refused offers beyond the bound end the connection",
        danger: "Memory runs out, or the client is kept busy for ever",
        example: "100000 offers of random devices",
        source: "own reasoning",
    }
    CTL_29 {
        reaction: Drop,
        statement: "Once the boot-time set is complete an offer is refused, unless it is a card of that set that was taken back, or the configuration allows more",
        danger: "A device appears in a running guest that did not start with it",
        example: "A new card an hour after boot",
        source: "own reasoning",
    }
    CTL_30 {
        reaction: Drop,
        statement: "ALLOFFERS_DELIVERED is accepted once, after REQUEST_OFFERS",
        danger: "A step of the start is done twice",
        example: "ALLOFFERS_DELIVERED twice",
        source: "OpenVMM",
    }
    CTL_31 {
        reaction: Fatal,
        statement: "ALLOFFERS_DELIVERED arrives within its deadline",
        danger: "The boot waits for ever",
        example: "ALLOFFERS_DELIVERED never comes",
        source: "Linux `vmbus_request_offers` waits 60 s",
    }
    CTL_32 {
        reaction: Structural,
        statement: "The monitor id is never used",
        danger: "A number from the host is an index into a page",
        example: "Monitor id 255",
        source: "own reasoning",
    }
    CTL_33 {
        reaction: Drop,
        statement: "is_dedicated is 1",
        danger: "The client writes a flag into a page of old interrupts, at a place of the host's choice",
        example: "is_dedicated 0",
        source: "own reasoning; OpenVMM relay logs it",
    }
    CTL_34 {
        reaction: Drop,
        statement: "The offer's connection id is not 0, has 24 bits, is no message, event or monitor connection and no other channel's",
        danger: "Signals go to another port, or two channels share one",
        example: "Connection id 1",
        source: "own reasoning",
    }
    CTL_35 {
        reaction: Drop,
        statement: "A network card asks for no MMIO space",
        danger: "Address space is reserved because the host asks",
        example: "A card that asks for 65535 MiB",
        source: "own reasoning",
    }
    CTL_36 {
        reaction: Drop,
        statement: "A network card has neither the named-pipe flag nor unknown flags",
        danger: "Packets get another frame than the one that is judged",
        example: "A card with flag 0x10",
        source: "own reasoning",
    }
    CTL_37 {
        reaction: Structural,
        statement: "The offer's user-defined bytes are never looked at",
        danger: "Hidden parameters change how the channel works",
        example: "0xFFFFFFFF in the user-defined bytes",
        source: "own reasoning",
    }
    CTL_38 {
        reaction: Drop,
        statement: "A rescind of an unknown relid is dropped",
        danger: "A lookup finds nothing and the code goes on with it",
        example: "A rescind of relid 2000",
        source: "Linux `vmbus_onoffer_rescind`",
    }
    CTL_39 {
        reaction: Drop,
        statement: "A second rescind of the same channel is dropped",
        danger: "A channel is taken down twice and its memory freed twice",
        example: "Two rescinds of relid 7",
        source: "Linux `vmbus_onoffer_rescind`",
    }
    CTL_40 {
        reaction: Structural,
        statement: "A rescind ends every wait for an answer about the channel, except for the answers about GPADLs, which have a deadline",
        danger: "A request waits for ever for a device that is gone",
        example: "RESCIND while an OPENCHANNEL is outstanding",
        source: "Linux in part, `vmbus_rescind_cleanup`",
    }
    CTL_41 {
        reaction: Structural,
        statement: "When a primary channel is rescinded its sub-channels go first",
        danger: "A sub-channel keeps a pointer to a primary that is gone",
        example: "A rescind of the primary only",
        source: "Linux `vmbus_onoffer_rescind`, `vmbus_close`",
    }
    CTL_42 {
        reaction: Structural,
        statement: "After a rescind the channel is neither opened nor signalled any more",
        danger: "A ring is used that no longer belongs to anybody",
        example: "Event flags of a channel after its rescind",
        source: "Linux `hv_ringbuffer_write`",
    }
    CTL_43 {
        reaction: Structural,
        statement: "RELID_RELEASED is sent once, after the rescind, the owner's close and every outstanding GPADL answer",
        danger: "The host gives the number to another device while answers for the first are under way",
        example: "A rescind while a GPADL is being created",
        source: "OpenVMM `try_release`",
    }
    CTL_44 {
        reaction: Drop,
        statement: "After a rescind, answers to GPADL requests are accepted, OPEN_RESULT is not",
        danger: "A request waits for ever, or a dead channel is opened",
        example: "OPEN_RESULT after the rescind",
        source: "Linux `__vmbus_on_msg_dpc`; OpenVMM",
    }
    CTL_45 {
        reaction: Structural,
        statement: "Offers and rescinds are handled in order of arrival in one queue",
        danger: "A withdrawal overtakes its offer, and the channel lives for ever",
        example: "Offer and rescind of relid 7 back to back",
        source: "Linux offer_in_progress",
    }
    CTL_46 {
        reaction: Drop,
        statement: "OPEN_RESULT names the relid and open id of the outstanding open",
        danger: "A channel counts as open that the host never opened",
        example: "The right relid with open id 0x1234",
        source: "Linux `vmbus_onopen_result`",
    }
    CTL_47 {
        reaction: Structural,
        statement: "The open id counts attempts and is never used twice",
        danger: "The answer to an attempt that was given up counts for the next",
        example: "The success of attempt 1 again during attempt 2",
        source: "own reasoning",
    }
    CTL_48 {
        reaction: Fail,
        statement: "An open that the host refuses: the ring GPADL is torn down, the channel stays closed; the next try comes after a pause",
        danger: "A ring is used that the host refused",
        example: "OPEN_RESULT with status 0xC0000001",
        source: "Linux `__vmbus_open`; OpenVMM",
    }
    CTL_49 {
        reaction: Drop,
        statement: "A second OPEN_RESULT is dropped",
        danger: "What follows an open is done twice",
        example: "Two OPEN_RESULTs",
        source: "Linux `vmbus_onopen_result`",
    }
    CTL_50 {
        reaction: Reset,
        statement: "An open or a GPADL request is answered within its deadline, or its channel has failed",
        danger: "A step waits for ever",
        example: "An open that is never answered",
        source: "own reasoning",
    }
    CTL_51 {
        reaction: Drop,
        statement: "MODIFYCHANNEL_RESPONSE matches one outstanding request",
        danger: "The state of another channel changes",
        example: "A MODIFYCHANNEL_RESPONSE that nobody asked for",
        source: "Linux `vmbus_onmodifychannel_response`",
    }
    CTL_52 {
        reaction: Fail,
        statement: "An answer that refuses the move of a channel leaves the old processor in place",
        danger: "Interrupts are expected on a processor that does not get them",
        example: "An answer with status 1",
        source: "Linux `vmbus_send_modifychannel`",
    }
    CTL_53 {
        reaction: Drop,
        statement: "UNLOAD_RESPONSE only after UNLOAD",
        danger: "The connection is forgotten while it is in use",
        example: "UNLOAD_RESPONSE while connected",
        source: "Linux `vmbus_unload_response`",
    }
    CTL_54 {
        reaction: Leak,
        statement: "The wait for UNLOAD_RESPONSE is bounded; without it all shared pages stay shared",
        danger: "Pages are used again that the host can still write",
        example: "UNLOAD is never answered",
        source: "own reasoning; Linux waits 100 s in its crash path",
    }
    CTL_55 {
        reaction: Drop,
        statement: "CLOSE_RESERVED_RESPONSE is dropped; no reserved channel is ever opened",
        danger: "A handler runs for something that was never started",
        example: "CLOSE_RESERVED_RESPONSE out of the blue",
        source: "Linux `channel_message_table`",
    }
    CTL_56 {
        reaction: Drop,
        statement: "TL_CONNECT_RESULT is dropped; hv_sock is never used",
        danger: "A wait ends that has another reason",
        example: "TL_CONNECT_RESULT out of the blue",
        source: "Linux `channel_message_table`",
    }
    CTL_57 {
        reaction: Drop,
        statement: "MODIFY_CONNECTION_RESPONSE is dropped: no such request is ever outstanding",
        danger: "The state of the connection is changed by an answer to nothing",
        example: "MODIFY_CONNECTION_RESPONSE out of the blue",
        source: "OpenVMM",
    }
    CTL_58 {
        reaction: Drop,
        statement: "PAUSE_RESPONSE is dropped: no PAUSE is ever outstanding",
        danger: "The message pump stops and later messages are ignored",
        example: "PAUSE_RESPONSE out of the blue",
        source: "own reasoning; OpenVMM",
    }
    CTL_59 {
        reaction: Fatal,
        statement: "Queues that the host can fill are bounded; overflow ends the connection",
        danger: "Memory runs out",
        example: "A million rescinds in a row",
        source: "own reasoning",
    }
    CTL_60 {
        reaction: Structural,
        statement: "All checks of a message run before any state changes",
        danger: "A message that is refused half way leaves counters or locks behind",
        example: "Any refused offer; all counters must be as before",
        source: "own reasoning",
    }
    CTL_61 {
        reaction: Structural,
        statement: "Numbers of the host (relid, connection id, GPADL id) are not what the layers above name a channel by",
        danger: "The host steers names and addresses in the guest",
        example: "Other relids for the same cards; the guest must see no difference",
        source: "OpenVMM relay",
    }
    CTL_62 {
        reaction: Fatal,
        statement: "The fields of an offer are frozen when it is accepted",
        danger: "Signals of a live channel go elsewhere from one moment to the next",
        example: "The same offer again with another connection id",
        source: "own reasoning",
    }
}
