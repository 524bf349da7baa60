//! Links the first stage by its own script; says nothing for other targets.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=stage.ld");
    let firmware = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    let stage = env::var_os("CARGO_FEATURE_STAGE").is_some();
    if firmware && stage {
        let home = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
        println!("cargo:rustc-link-arg-bin=stage=-T{home}/stage.ld");
        println!("cargo:rustc-link-arg-bin=stage=-znoexecstack");
    }
}
