//! GPD: GPADLs and shared memory.

use super::rules;

rules! { Gpd
    GPD_01 = 1, Structural,
        "GPADL ids come from a counter of the connection and are never used twice",
        "Linux next_gpadl_handle";
    GPD_02 = 2, Drop,
        "GPADL_CREATED matches relid and id of one outstanding create",
        "Linux `vmbus_ongpadl_created`; OpenVMM panics";
    GPD_03 = 3, Fail,
        "A GPADL with non-zero creation status is never used",
        "Linux `__vmbus_establish_gpadl`; OpenVMM";
    GPD_04 = 4, Drop,
        "A second GPADL_CREATED is dropped",
        "Linux; OpenVMM panics";
    GPD_05 = 5, Drop,
        "GPADL_TORNDOWN matches one outstanding teardown",
        "Linux in part; OpenVMM panics";
    GPD_06 = 6, Leak,
        "Without GPADL_TORNDOWN the pages stay shared and are never used again",
        "CVE-2024-36912, CVE-2024-36909";
    GPD_07 = 7, Leak,
        "Pages whose conversion between private and shared failed are never used again",
        "CVE-2024-36909, CVE-2024-36910, CVE-2024-36911, CVE-2024-36913";
    GPD_08 = 8, Structural,
        "Shared buffers are whole pages of one owner",
        "own; Linux vzalloc";
    GPD_09 = 9, Structural,
        "Pages are zeroed when they have become shared and before anyone uses them",
        "Linux `hv_ringbuffer_init`";
    GPD_10 = 10, Structural,
        "No page belongs to two buffers",
        "own";
    GPD_12 = 12, Fail,
        "A range has at most 8190 page numbers; header and bodies carry 26 + 28 n",
        "own; OpenVMM panics";
    GPD_13 = 13, Structural,
        "Ring content is untrusted from the moment in which the GPADL is sent",
        "own";
}
