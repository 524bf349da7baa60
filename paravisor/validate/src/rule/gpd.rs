//! GPD: GPADLs and shared memory.

use super::rules;

rules! {
    GPD_01 {
        reaction: Structural,
        statement: "GPADL ids come from a counter of the connection and are never used twice",
        danger: "An answer meant for an old request fits a new one",
        example: "The counter wraps while a request is outstanding",
        source: "Linux next_gpadl_handle",
    }
    GPD_02 {
        reaction: Drop,
        statement: "GPADL_CREATED matches relid and id of one outstanding create",
        danger: "Another request counts as done",
        example: "GPADL_CREATED for an id never used",
        source: "Linux `vmbus_ongpadl_created`",
    }
    GPD_03 {
        reaction: Fail,
        statement: "A GPADL with non-zero creation status is never used",
        danger: "The client uses a buffer that the host has not mapped",
        example: "GPADL_CREATED with status 0xC000009A",
        source: "Linux `__vmbus_establish_gpadl`; OpenVMM",
    }
    GPD_04 {
        reaction: Drop,
        statement: "A second GPADL_CREATED is dropped",
        danger: "A step goes back in time",
        example: "Two GPADL_CREATED",
        source: "Linux `vmbus_ongpadl_created`",
    }
    GPD_05 {
        reaction: Drop,
        statement: "GPADL_TORNDOWN matches one outstanding teardown",
        danger: "Pages are used again that the host still has mapped",
        example: "GPADL_TORNDOWN before the teardown was asked for",
        source: "Linux `vmbus_ongpadl_torndown`",
    }
    GPD_06 {
        reaction: Leak,
        statement: "Without GPADL_TORNDOWN the pages stay shared and are never used again",
        danger: "The host writes into memory that is private again and in use",
        example: "GPADL_TORNDOWN never comes",
        source: "CVE-2024-36912, CVE-2024-36909",
    }
    GPD_07 {
        reaction: Leak,
        statement: "Pages whose conversion between private and shared failed are never used again",
        danger: "Pages that the host can still read and write return to the allocator",
        example: "The host fails the change of a page's state",
        source: "CVE-2024-36909, CVE-2024-36910, CVE-2024-36911, CVE-2024-36913",
    }
    GPD_08 {
        reaction: Structural,
        statement: "Shared buffers are whole pages of one owner",
        danger: "Private data that shares a page with a buffer is exposed",
        example: "A buffer that starts in the middle of a page",
        source: "own reasoning; Linux vzalloc",
    }
    GPD_09 {
        reaction: Structural,
        statement: "Pages are zeroed when they have become shared and before anyone uses them",
        danger: "Private data leaves with the page, or what the host wrote earlier is taken for our own",
        example: "A page full of the host's bytes, right after it was shared",
        source: "Linux `hv_ringbuffer_init`",
    }
    GPD_10 {
        reaction: Structural,
        statement: "No page belongs to two buffers",
        danger: "Two parties write to the same bytes",
        example: "Two buffers that overlap",
        source: "own reasoning",
    }
    GPD_11 {
        reaction: Fatal,
        statement: "Every page number told to the host lies in the pool of shared pages",
        danger: "The host is told an address of private memory",
        example: "A GPADL over a private page",
        source: "own reasoning",
    }
    GPD_12 {
        reaction: Fail,
        statement: "A shared buffer is described by at most 8190 page numbers: 26 in the first message about it, 28 in each that follows",
        danger: "The length is cut off, and the host maps fewer pages than the client uses",
        example: "A buffer of 33 MiB in one request",
        source: "own reasoning",
    }
    GPD_13 {
        reaction: Structural,
        statement: "Ring content is untrusted from the moment in which the GPADL is sent",
        danger: "Indices that the host wrote early are taken for the initial ones",
        example: "A write index of 64 before the open is answered",
        source: "own reasoning",
    }
    GPD_14 {
        reaction: Structural,
        statement: "The memory of a GPADL goes back to the pool only after CLOSECHANNEL was sent and GPADL_TORNDOWN came",
        danger: "The host writes late into memory that is in other use",
        example: "A transfer-page packet during teardown",
        source: "Linux `netvsc_device_remove`",
    }
}
