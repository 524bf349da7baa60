#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| undercroft_fuzz::fuzz("e1000e", data));
