//! SYN: SynIC slots, event flags and hypercall results.

use super::rules;

rules! {
    SYN_01 {
        reaction: Structural,
        statement: "The whole 256-byte slot is copied once, before any field is read; every later read uses the copy",
        danger: "",
        example: "",
        source: "Linux `__vmbus_on_msg_dpc`; OpenVMM",
    }
    SYN_02 {
        reaction: Ignore,
        statement: "Channel messages are read from the slot of our SINT only",
        danger: "",
        example: "",
        source: "Linux VMBUS_MESSAGE_SINT; OpenVMM `VMBUS_SINT`",
    }
    SYN_03 {
        reaction: Ignore,
        statement: "Message type 0 is an empty slot: nothing is taken, no EOM is sent",
        danger: "",
        example: "",
        source: "Linux `__vmbus_on_msg_dpc`",
    }
    SYN_04 {
        reaction: Drop,
        statement: "Only message type 1 is a channel message; any other non-zero type is consumed and counted",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM's client",
    }
    SYN_05 {
        reaction: Drop,
        statement: "A timer message is refused: no message-mode timer is ever armed on our SINT",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
    SYN_06 {
        reaction: Drop,
        statement: "payload_size is at most 240",
        danger: "",
        example: "",
        source: "Linux `__vmbus_on_msg_dpc`; OpenVMM panics",
    }
    SYN_07 {
        reaction: Drop,
        statement: "payload_size is at least 8 (the channel message header)",
        danger: "",
        example: "",
        source: "OpenVMM `Message::parse`; Linux in part",
    }
    SYN_08 {
        reaction: Structural,
        statement: "Bytes at and beyond payload_size are zeroed in the private copy",
        danger: "",
        example: "",
        source: "own; Linux in part",
    }
    SYN_09 {
        reaction: Ignore,
        statement: "Only bit 0 of the slot's flags has a meaning",
        danger: "",
        example: "",
        source: "TLFS reserves bits 1 to 7",
    }
    SYN_10 {
        reaction: Structural,
        statement: "The slot is cleared by compare-exchange of the copied type to 0, then pending is read again; at most one EOM per consumed message",
        danger: "",
        example: "",
        source: "Linux `vmbus_signal_eom`; the bound is own",
    }
    SYN_11 {
        reaction: Throttle,
        statement: "A bounded number of messages is taken per wake-up",
        danger: "",
        example: "",
        source: "own; not in Linux, not in OpenVMM",
    }
    SYN_12 {
        reaction: Structural,
        statement: "Channel messages are read on the VP that INITIATE_CONTACT names and on no other",
        danger: "",
        example: "",
        source: "own; Linux drains every VP's page",
    }
    SYN_13 {
        reaction: Ignore,
        statement: "Only event flags 1..2047 of our SINT are scanned",
        danger: "",
        example: "",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_14 {
        reaction: Ignore,
        statement: "Event flag 0 is never a channel",
        danger: "",
        example: "",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_15 {
        reaction: Ignore,
        statement: "An event flag without a channel is cleared, counted and ignored",
        danger: "",
        example: "",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_16 {
        reaction: Ignore,
        statement: "An event flag of a channel that is not open does nothing",
        danger: "",
        example: "",
        source: "Linux `vmbus_chan_sched`; CVE-2024-55916",
    }
    SYN_17 {
        reaction: Structural,
        statement: "One atomic take per word of event flags and interrupt; never a loop until all are clear",
        danger: "",
        example: "",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_23 {
        reaction: Fail,
        statement: "Only known hypercall statuses are interpreted, retries are bounded with back-off, any other status is a failure",
        danger: "",
        example: "",
        source: "Linux `vmbus_post_msg`; OpenVMM panics",
    }
    SYN_25 {
        reaction: Structural,
        statement: "The posted payload is zero beyond its size",
        danger: "",
        example: "",
        source: "Linux `hv_post_message`",
    }
    SYN_32 {
        reaction: Structural,
        statement: "No monitor pages are given to the host, and none are read",
        danger: "",
        example: "",
        source: "Linux allocates both; reading is for sysfs only",
    }
    SYN_33 {
        reaction: Structural,
        statement: "Connection id and flag of SignalEvent come from the validated offer or from our own choice",
        danger: "",
        example: "",
        source: "own; not in Linux",
    }
}
