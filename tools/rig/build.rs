//! Links the bare-metal binary at its fixed address.

fn main() {
    println!("cargo::rerun-if-changed=rig.ld");
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target == "none" {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-T{dir}/rig.ld");
    }
}
