//! SYN: SynIC slots, event flags and hypercall results.

use super::rules;

rules! {
    SYN_01 {
        reaction: Structural,
        statement: "The whole 256-byte slot is copied once, before any field is read; every later read uses the copy",
        danger: "The host changes a length after it was checked and before it is used",
        example: "payload_size goes from 20 to 255 while the message is being read",
        source: "Linux `__vmbus_on_msg_dpc`; OpenVMM",
    }
    SYN_02 {
        reaction: Structural,
        statement: "Channel messages are read from the slot of our SINT only",
        danger: "Messages meant for other ears, such as intercepts, are taken for channel messages",
        example: "The bytes of a valid offer in slot 0",
        source: "Linux VMBUS_MESSAGE_SINT; OpenVMM `VMBUS_SINT`",
    }
    SYN_03 {
        reaction: Structural,
        statement: "Message type 0 is an empty slot: nothing is taken, no EOM is sent",
        danger: "Bytes left over from an earlier message are taken for a new one",
        example: "Type 0 in front of an old offer",
        source: "Linux `__vmbus_on_msg_dpc`",
    }
    SYN_04 {
        reaction: Drop,
        statement: "Only message type 1 is a channel message; any other non-zero type is consumed and counted",
        danger: "A message of the hypervisor is read as one of a device: same bytes, another meaning",
        example: "Type 0x80000000 in front of the bytes of an offer",
        source: "own reasoning",
    }
    SYN_05 {
        reaction: Drop,
        statement: "A timer message is refused: no message-mode timer is ever armed on our SINT",
        danger: "Code for an expired timer runs at moments that the host chooses",
        example: "Type 0x80000010 although no timer was set",
        source: "own reasoning",
    }
    SYN_06 {
        reaction: Drop,
        statement: "payload_size is at most 240",
        danger: "The reader runs past the slot into the memory behind it",
        example: "payload_size 255",
        source: "Linux `__vmbus_on_msg_dpc`",
    }
    SYN_07 {
        reaction: Drop,
        statement: "payload_size is at least 8 (the channel message header)",
        danger: "The type is taken from bytes that an earlier message left behind",
        example: "payload_size 3, first byte 1",
        source: "OpenVMM `Message::parse`",
    }
    SYN_08 {
        reaction: Structural,
        statement: "Bytes at and beyond payload_size are zeroed in the private copy",
        danger: "The tail of an old message completes a message that was sent too short",
        example: "A 12-byte OPEN_RESULT after a successful one of 20 bytes",
        source: "own reasoning",
    }
    SYN_09 {
        reaction: Structural,
        statement: "Only bit 0 of the slot's flags has a meaning",
        danger: "Flag bits that mean nothing today steer the code tomorrow",
        example: "Flags 0xFE",
        source: "TLFS reserves bits 1 to 7",
    }
    SYN_10 {
        reaction: Structural,
        statement: "The slot is cleared by compare-exchange of the copied type to 0, then pending is read again; at most one EOM per consumed message",
        danger: "A message is lost between reading and clearing, or the host keeps the reader busy with acknowledgements",
        example: "The pending flag stays set for ever",
        source: "Linux `vmbus_signal_eom`; the bound is own reasoning",
    }
    SYN_11 {
        reaction: Throttle,
        statement: "A bounded number of messages is taken per wake-up",
        danger: "The processor never leaves the loop that reads messages",
        example: "The slot is full again after each acknowledgement",
        source: "own reasoning",
    }
    SYN_12 {
        reaction: Structural,
        statement: "Channel messages are read on the VP that INITIATE_CONTACT names and on no other",
        danger: "The host reorders an offer and its withdrawal by sending them to two processors",
        example: "A rescind on processor 3, its offer on processor 0",
        source: "own reasoning",
    }
    SYN_13 {
        reaction: Ignore,
        statement: "Only event flags 1..2047 of our SINT are scanned",
        danger: "Time is spent on flags that no channel has",
        example: "All 2048 flags are set",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_14 {
        reaction: Ignore,
        statement: "Event flag 0 is never a channel",
        danger: "Code runs for a channel 0 that does not exist",
        example: "Flag 0 with every interrupt",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_15 {
        reaction: Ignore,
        statement: "An event flag without a channel is cleared, counted and ignored",
        danger: "A lookup finds nothing and the code goes on with it",
        example: "Flag 1999, never offered",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_16 {
        reaction: Ignore,
        statement: "An event flag of a channel that is not open does nothing",
        danger: "The ring of a channel is touched before it is set up or after it is gone",
        example: "The flag of a channel right after its offer",
        source: "Linux `vmbus_chan_sched`; CVE-2024-55916",
    }
    SYN_17 {
        reaction: Structural,
        statement: "One atomic take per word of event flags and interrupt; never a loop until all are clear",
        danger: "The host sets flags as fast as they are cleared, and the scan never ends",
        example: "A second host thread sets flag 5 all the time",
        source: "Linux `vmbus_chan_sched`",
    }
    SYN_18 {
        reaction: Throttle,
        statement: "Events of a channel that move nothing in its rings put it under timed polling; a storm that lasts resets it",
        danger: "An interrupt storm keeps the processor busy with looks at an empty ring",
        example: "A million signals a second with an empty ring",
        source: "own reasoning",
    }
    SYN_19 {
        reaction: Ignore,
        statement: "Only the vectors that we programmed are acted on; an interrupt on any other is counted and ignored",
        danger: "The host chooses which handler runs, and when",
        example: "Vector 0x80 is injected while the paravisor works",
        source: "own reasoning",
    }
    SYN_20 {
        reaction: Fatal,
        statement: "The message and event flag pages read back as our own shared pages, enabled",
        danger: "Messages are read from, or written to, a page that the host chose",
        example: "SIMP reads back with the address of private page tables",
        source: "Linux `hv_synic_enable_regs` maps what it reads under a paravisor",
    }
    SYN_21 {
        reaction: Structural,
        statement: "SynIC pages are shared, then zeroed, then enabled, and the switch comes last",
        danger: "Old private bytes are shown to the host, or messages that were put there before are taken",
        example: "A page with an offer in its slot before the SynIC is on",
        source: "Linux `hv_synic_alloc`; CVE-2024-36913",
    }
    SYN_22 {
        reaction: Fatal,
        statement: "SVERSION reads 1; SCONTROL and the SINT of our messages read back as set",
        danger: "We rely on an interrupt controller that we do not understand",
        example: "SVERSION reads 0",
        source: "own reasoning",
    }
    SYN_23 {
        reaction: Fail,
        statement: "Only known hypercall statuses are interpreted, retries are bounded with back-off, any other status is a failure",
        danger: "The caller repeats for ever, or stops the program, on a status that the host chose",
        example: "PostMessage answers 0xBEEF, or for ever 0x12",
        source: "Linux `vmbus_post_msg`",
    }
    SYN_24 {
        reaction: Fatal,
        statement: "elements_processed is at most what was asked for and only grows; a result with other bits set is a failure, whatever its status says",
        danger: "A loop over repetitions runs past its end",
        example: "4095 repetitions done of a call that has none",
        source: "own reasoning",
    }
    SYN_25 {
        reaction: Structural,
        statement: "The posted payload is zero beyond its size",
        danger: "Bytes of private memory leave with the message",
        example: "A short message is posted after a long one; its tail must be zero",
        source: "Linux `hv_post_message`",
    }
    SYN_26 {
        reaction: Fatal,
        statement: "VP_INDEX is the index as which the VP was started",
        danger: "An index beyond our tables, or messages on another VP",
        example: "VP_INDEX reads 0xffffffff",
        source: "own; Linux `hv_common_cpu_init` records what it reads",
    }
    SYN_27 {
        not_applicable { refused_by: SYN_28, why: "The reference TSC page is neither enabled nor read: the host's rate and counter are read as registers, and time comes from the TSC alone" },
        statement: "The retry loop over the sequence of the reference TSC page is bounded, and sequence 0 falls back to our own clock",
        danger: "The guest's processor never leaves the loop that reads the time",
        example: "A sequence number that changes at every look",
        source: "Linux `hv_read_tsc_page` retries; the bound is own reasoning",
    }
    SYN_28 {
        reaction: Fatal,
        statement: "The host's clock is read once; a TSC rate that no processor has is refused, and from then on the TSC alone counts",
        danger: "Deadlines never come, or all at once",
        example: "A TSC frequency of 0",
        source: "own reasoning",
    }
    SYN_29 {
        reaction: Clamp,
        statement: "The reference counter neither falls behind its first value nor departs from the TSC; what it says is clamped, and our time only grows",
        danger: "Time goes backwards, and deadlines never come",
        example: "The counter reads 0 after it has read 10^9",
        source: "own",
    }
    SYN_30 {
        reaction: Structural,
        statement: "No hypervisor leaf of CPUID is read, and none is shown to the guest: which features are used is the measured image's choice, and the host refuses what it does not have",
        danger: "Feature bits that the host sets steer us onto roads that nobody has tested",
        example: "Leaf 0x40000003 offers a hypercall that we must not use",
        source: "own reasoning",
    }
    SYN_31 {
        reaction: Fatal,
        statement: "The kind of isolation comes from the processor and from the measured image: without SEV-SNP the paravisor does not start, whatever the host says",
        danger: "Checks and private memory are silently off, because the host said that they are not needed",
        example: "Isolation type 0 (none) in the host's leaf 0x4000000C",
        source: "own reasoning",
    }
    SYN_32 {
        reaction: Structural,
        statement: "No monitor pages are given to the host, and none are read",
        danger: "Numbers that the host writes decide when it is told of work",
        example: "A pending mask of 0xFFFFFFFF in a monitor page",
        source: "own reasoning; Linux shares both pages",
    }
    SYN_33 {
        reaction: Structural,
        statement: "Connection id and flag of SignalEvent come from the validated offer or from our own choice",
        danger: "The host makes the client signal a port of its choice",
        example: "An offer with connection id 0xFFFFFFFF",
        source: "own reasoning",
    }
    SYN_34 {
        reaction: Ignore,
        statement: "A timer interrupt that nothing was due for does no harm and is counted",
        danger: "Timers run early, or an endless row of them holds a VP",
        example: "The timer's vector every 10 microseconds",
        source: "own reasoning",
    }
}
