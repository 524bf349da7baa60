//! Writes the seeds that come from valid conversations:
//! `cargo run -p undercroft-fuzz --example seeds`. Seeds that fuzzing found
//! (named by their hash) stay as they are.

use std::fs;
use std::path::Path;

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (target, name, bytes) in undercroft_fuzz::seeds::valid() {
        let folder = seeds.join(target);
        fs::create_dir_all(&folder).expect("folder of seeds");
        fs::write(folder.join(name), bytes).expect("seed");
    }
}
