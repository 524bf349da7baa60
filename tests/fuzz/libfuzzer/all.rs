//! All targets in one program, which is quicker to build than one each: for a look of
//! seconds at each. `UNDERCROFT_FUZZ_TARGET` names the one to run.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<String> = LazyLock::new(|| {
    std::env::var("UNDERCROFT_FUZZ_TARGET").expect("UNDERCROFT_FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| undercroft_fuzz::fuzz(&TARGET, data));
