//! Writes down where each rule is enforced and which tests are named after it.
//! The sources are read when the command is built; it needs none to print them.

use std::fmt::Write;
use std::path::Path;

#[allow(dead_code)]
#[path = "src/rules/scan.rs"]
mod scan;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/rules/scan.rs");
    println!("cargo::rerun-if-changed=src/rules/tokens.rs");
    for folder in scan::FOLDERS {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
    }
    let found = match scan::scan(&root) {
        Ok(found) => found,
        Err(error) => {
            println!("cargo::error=cannot read the sources of the rules: {error}");
            return;
        }
    };
    let mut text = String::new();
    let lists = [
        ("USES", &found.uses),
        ("NOTES", &found.notes),
        ("TESTS", &found.tests),
        ("CHECKS", &found.checks),
    ];
    for (name, list) in lists {
        let _ = writeln!(text, "const {name}: &[(&str, &str, usize, &str)] = &[");
        for f in list {
            let _ = writeln!(
                text,
                "    ({:?}, {:?}, {}, {:?}),",
                f.id, f.file, f.line, f.item
            );
        }
        let _ = writeln!(text, "];");
    }
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    if let Err(error) = std::fs::write(Path::new(&out).join("rules.rs"), text) {
        println!("cargo::error=cannot write the places of the rules: {error}");
    }
}
