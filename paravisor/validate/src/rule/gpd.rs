//! GPD: GPADLs and shared memory.

use super::rules;

rules! {
    GPD_01 {
        reaction: Structural,
        statement: "GPADL ids come from a counter of the connection and are never used twice",
        danger: "",
        example: "",
        source: "Linux next_gpadl_handle",
    }
    GPD_02 {
        reaction: Drop,
        statement: "GPADL_CREATED matches relid and id of one outstanding create",
        danger: "",
        example: "",
        source: "Linux `vmbus_ongpadl_created`; OpenVMM panics",
    }
    GPD_03 {
        reaction: Fail,
        statement: "A GPADL with non-zero creation status is never used",
        danger: "",
        example: "",
        source: "Linux `__vmbus_establish_gpadl`; OpenVMM",
    }
    GPD_04 {
        reaction: Drop,
        statement: "A second GPADL_CREATED is dropped",
        danger: "",
        example: "",
        source: "Linux; OpenVMM panics",
    }
    GPD_05 {
        reaction: Drop,
        statement: "GPADL_TORNDOWN matches one outstanding teardown",
        danger: "",
        example: "",
        source: "Linux in part; OpenVMM panics",
    }
    GPD_06 {
        reaction: Leak,
        statement: "Without GPADL_TORNDOWN the pages stay shared and are never used again",
        danger: "",
        example: "",
        source: "CVE-2024-36912, CVE-2024-36909",
    }
    GPD_07 {
        reaction: Leak,
        statement: "Pages whose conversion between private and shared failed are never used again",
        danger: "",
        example: "",
        source: "CVE-2024-36909, CVE-2024-36910, CVE-2024-36911, CVE-2024-36913",
    }
    GPD_08 {
        reaction: Structural,
        statement: "Shared buffers are whole pages of one owner",
        danger: "",
        example: "",
        source: "own; Linux vzalloc",
    }
    GPD_09 {
        reaction: Structural,
        statement: "Pages are zeroed when they have become shared and before anyone uses them",
        danger: "",
        example: "",
        source: "Linux `hv_ringbuffer_init`",
    }
    GPD_10 {
        reaction: Structural,
        statement: "No page belongs to two buffers",
        danger: "",
        example: "",
        source: "own",
    }
    GPD_12 {
        reaction: Fail,
        statement: "A range has at most 8190 page numbers; header and bodies carry 26 + 28 n",
        danger: "",
        example: "",
        source: "own; OpenVMM panics",
    }
    GPD_13 {
        reaction: Structural,
        statement: "Ring content is untrusted from the moment in which the GPADL is sent",
        danger: "",
        example: "",
        source: "own",
    }
}
