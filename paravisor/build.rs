//! Gives the firmware its linker script; other targets link as usual.

fn main() {
    println!("cargo::rerun-if-changed=paravisor.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{dir}/paravisor.ld");
    }
}
