//! SYN: SynIC slots, event flags and hypercall results.

use super::rules;

rules! { Syn
    SYN_01 = 1, Structural,
        "The whole 256-byte slot is copied once, before any field is read; every later read uses the copy",
        "Linux `__vmbus_on_msg_dpc`; OpenVMM";
    SYN_02 = 2, Ignore,
        "Channel messages are read from the slot of our SINT only",
        "Linux VMBUS_MESSAGE_SINT; OpenVMM `VMBUS_SINT`";
    SYN_03 = 3, Ignore,
        "Message type 0 is an empty slot: nothing is taken, no EOM is sent",
        "Linux `__vmbus_on_msg_dpc`";
    SYN_04 = 4, Drop,
        "Only message type 1 is a channel message; any other non-zero type is consumed and counted",
        "own; not in Linux, not in OpenVMM's client";
    SYN_05 = 5, Drop,
        "A timer message is refused: no message-mode timer is ever armed on our SINT",
        "own; not in Linux";
    SYN_06 = 6, Drop,
        "payload_size is at most 240",
        "Linux `__vmbus_on_msg_dpc`; OpenVMM panics";
    SYN_07 = 7, Drop,
        "payload_size is at least 8 (the channel message header)",
        "OpenVMM `Message::parse`; Linux in part";
    SYN_08 = 8, Structural,
        "Bytes at and beyond payload_size are zeroed in the private copy",
        "own; Linux in part";
    SYN_09 = 9, Ignore,
        "Only bit 0 of the slot's flags has a meaning",
        "TLFS reserves bits 1 to 7";
    SYN_10 = 10, Structural,
        "The slot is cleared by compare-exchange of the copied type to 0, then pending is read again; at most one EOM per consumed message",
        "Linux `vmbus_signal_eom`; the bound is own";
    SYN_11 = 11, Throttle,
        "A bounded number of messages is taken per wake-up",
        "own; not in Linux, not in OpenVMM";
    SYN_12 = 12, Structural,
        "Channel messages are read on the VP that INITIATE_CONTACT names and on no other",
        "own; Linux drains every VP's page";
    SYN_13 = 13, Ignore,
        "Only event flags 1..2047 of our SINT are scanned",
        "Linux `vmbus_chan_sched`";
    SYN_14 = 14, Ignore,
        "Event flag 0 is never a channel",
        "Linux `vmbus_chan_sched`";
    SYN_15 = 15, Ignore,
        "An event flag without a channel is cleared, counted and ignored",
        "Linux `vmbus_chan_sched`";
    SYN_16 = 16, Ignore,
        "An event flag of a channel that is not open does nothing",
        "Linux `vmbus_chan_sched`; CVE-2024-55916";
    SYN_17 = 17, Structural,
        "One atomic take per word of event flags and interrupt; never a loop until all are clear",
        "Linux `vmbus_chan_sched`";
    SYN_23 = 23, Fail,
        "Only known hypercall statuses are interpreted, retries are bounded with back-off, any other status is a failure",
        "Linux `vmbus_post_msg`; OpenVMM panics";
    SYN_25 = 25, Structural,
        "The posted payload is zero beyond its size",
        "Linux `hv_post_message`";
    SYN_32 = 32, Structural,
        "No monitor pages are given to the host, and none are read",
        "Linux allocates both; reading is for sysfs only";
    SYN_33 = 33, Structural,
        "Connection id and flag of SignalEvent come from the validated offer or from our own choice",
        "own; not in Linux";
}
