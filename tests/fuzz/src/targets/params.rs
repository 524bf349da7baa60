//! Pages that come with the boot: the host's memory map, the configuration.

use crate::{Digest, Input};
use loader::config::Config;
use loader::layout;
use paravisor_core::guest_boot::judge_memory_map;
use zerocopy::FromZeros;

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let mut digest = Digest::new();
    let map = input.slice(192);
    let mut config = Config::new_zeroed();
    config.memory_min = 256 << 20;
    config.memory_max = 2048 << 20;
    let judged = judge_memory_map(map, &config);
    digest.debug(&judged);
    if let Ok(memory) = judged {
        assert!(layout::memory_size_ok(memory));
        assert!((config.memory_min..=config.memory_max).contains(&memory));
    }
    let page = input.rest();
    let config = Config::from_page(page);
    digest.debug(&config);
    if let Ok(config) = config {
        assert!(config.memory_min <= config.memory_max && (32..=51).contains(&config.c_bit));
        digest.debug(&judge_memory_map(map, &config));
    }
    digest.value()
}
