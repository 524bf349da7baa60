//! ICS: integration services: time, shutdown, heartbeat and their like. The
//! client refuses the offers of all of them (ICS-01); the other rules say what a
//! client that opened one would have to check.

use super::rules;

rules! {
    ICS_01 {
        reaction: Drop,
        statement: "Channels of integration services (time, shutdown, heartbeat, key-value pairs, snapshots, file copy) are not opened",
        danger: "The host sets the guest's clock, switches it off, or writes files into it",
        example: "An offer of the time service",
        source: "Linux lets time, heartbeat and shutdown into isolated guests; the stricter rule is own reasoning",
    }
    ICS_02 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "A packet of a service holds its two headers, 28 bytes",
        danger: "Fields are read from whatever lies behind a short packet",
        example: "A packet of 10 bytes",
        source: "Linux `hv_util.c`",
    }
    ICS_03 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "The pipe header's size is the payload without that header",
        danger: "Two lengths of one message disagree, and code that takes the wrong one reads too far",
        example: "A pipe header with size 0xFFFFFFFF",
        source: "own reasoning",
    }
    ICS_04 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "The service header's size covers the body of its type and stays inside the payload",
        danger: "A body that is not there is read",
        example: "A body size of 1 for a time message",
        source: "own reasoning; Linux uses the received length",
    }
    ICS_05 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "A version negotiation lists at most 100 versions of each kind, all inside the packet",
        danger: "The walk over the list leaves the packet",
        example: "A negotiation that claims 0xFFFF versions",
        source: "Linux `vmbus_prep_negotiate_resp`",
    }
    ICS_06 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "A service takes the message types of its own service only",
        danger: "A message is read with the layout of another service",
        example: "Message type 7 on the time channel",
        source: "Linux `hv_util.c`",
    }
    ICS_07 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "Only requests are answered",
        danger: "Two sides answer each other's answers for ever",
        example: "A message with the response flag set",
        source: "own reasoning",
    }
    ICS_08 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "A time message holds its body",
        danger: "The clock is set from bytes that were never sent",
        example: "A time message of 8 bytes",
        source: "Linux `hv_util.c`",
    }
    ICS_09 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "The guest's clock is never set back, and never by more than a limit",
        danger: "Expired certificates become valid again, logs lose their order",
        example: "A time message with time 0",
        source: "own reasoning",
    }
    ICS_10 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "The conversion of the host's time is checked for underflow",
        danger: "A time before 1970 becomes a time in the far future",
        example: "A time message with time 1",
        source: "own reasoning",
    }
    ICS_11 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "A shutdown request has one of the six known flag values, and policy allows what it asks for",
        danger: "The host makes the guest hibernate, which writes its memory to a disk",
        example: "A shutdown request with flags 0xFF",
        source: "Linux `hv_util.c`",
    }
    ICS_12 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "The text of a shutdown request is not looked at",
        danger: "Control characters or a text without an end reach a log",
        example: "2048 letters A without an end",
        source: "Linux `hv_util.c`",
    }
    ICS_13 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "A heartbeat's number wraps around",
        danger: "The addition overflows and stops the program",
        example: "A heartbeat with the number 0xFFFFFFFFFFFFFFFF",
        source: "own reasoning",
    }
    ICS_14 {
        not_applicable { refused_by: ICS_01, why: "No channel of an integration service is ever opened, so none of its packets is read" },
        statement: "Messages per wake-up are bounded",
        danger: "The guest's processor never leaves the loop",
        example: "A service that sends without a pause",
        source: "own reasoning",
    }
}
