//! The command as people and scripts use it: exit codes, output, errors.

use loader::layout;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use undercroft::testkit::{tiny_bzimage, tiny_firmware};

/// A directory of its own per test, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn with_inputs(name: &str) -> Place {
        let place = Place::new(name);
        place.file("kernel", &tiny_bzimage(b"\xf4"));
        place.file("initrd", b"initrd");
        let stage = tiny_firmware(layout::STAGE.start, b"\xf4", b"", 0);
        place.file("stage", &stage);
        let paravisor = tiny_firmware(layout::PARAVISOR.start, b"\xf4", b"", 0);
        place.file("paravisor", &paravisor);
        place
    }

    /// Runs the command in this directory, which also has the firmware.
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_undercroft"))
            .args(args)
            .current_dir(&self.0)
            .env("UNDERCROFT_FIRMWARE", &self.0)
            .output()
            .unwrap()
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a failing call says; it fails with code 1 and prints nothing else.
    fn bad(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const BUILD: [&str; 9] = [
    "image",
    "--kernel",
    "kernel",
    "--initrd",
    "initrd",
    "--append",
    "a=b -- c",
    "-o",
    "guest.igvm",
];

#[test]
fn image_measure_and_inspect_tell_the_same_digest() {
    let place = Place::with_inputs("digest");
    let built = place.good(&BUILD);
    let digest = place.good(&["measure", "guest.igvm"]).trim().to_string();
    assert_eq!(digest.len(), 96);
    assert!(built.contains(&digest));
    assert!(place.good(&["inspect", "guest.igvm"]).contains(&digest));
    for command in ["measure", "inspect"] {
        let json: serde_json::Value =
            serde_json::from_str(&place.good(&[command, "--json", "guest.igvm"])).unwrap();
        assert_eq!(json["launch_digest"], digest.as_str());
        assert_eq!(json["platform"], "sev-snp");
    }
    let first = std::fs::read(place.0.join("guest.igvm")).unwrap();
    place.good(&BUILD);
    assert_eq!(first, std::fs::read(place.0.join("guest.igvm")).unwrap());
}

#[test]
fn a_debug_image_says_so() {
    let place = Place::with_inputs("debug");
    let mut args = BUILD.to_vec();
    args.push("--debug-console");
    let output = place.run(&args);
    assert!(String::from_utf8_lossy(&output.stderr).contains("in clear"));
    assert!(
        place
            .good(&["inspect", "guest.igvm"])
            .contains("debug console  ON")
    );
}

#[test]
fn doubted_rules_are_enforced_unless_the_image_says_otherwise() {
    let place = Place::with_inputs("doubted");
    let mut args = BUILD.to_vec();
    place.good(&args);
    let strict = place.good(&["inspect", "guest.igvm"]);
    assert!(strict.contains("doubted rules  enforced"), "{strict}");
    args.push("--count-unmeasured");
    place.good(&args);
    let counting = place.good(&["inspect", "guest.igvm"]);
    assert!(
        counting.contains("doubted rules  counted only"),
        "{counting}"
    );
}

#[test]
fn failures_name_the_file_and_leave_no_output() {
    let place = Place::with_inputs("failures");
    let missing = place.bad(&["measure", "nothing.igvm"]);
    assert!(missing.contains("nothing.igvm") && missing.contains("check the path"));
    place.file("kernel", b"#!/bin/sh\n");
    assert!(
        place
            .bad(&BUILD)
            .contains("kernel kernel: not a Linux bzImage")
    );
    assert!(!place.0.join("guest.igvm").exists());
    assert!(!place.0.join("guest.igvm.part").exists());
    std::fs::remove_file(place.0.join("paravisor")).unwrap();
    assert!(place.bad(&BUILD).contains("no paravisor found"));
    assert!(
        place
            .bad(&["inspect", "initrd"])
            .contains("initrd: byte 0x0")
    );
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let place = Place::new("usage");
    for args in [
        &["image"][..],
        &["image", "--kernel", "k", "-o", "o", "--platform", "vax"],
        &["image", "--kernel", "k", "-o", "o", "--mac", "1:2"],
        &["frobnicate"],
    ] {
        assert_eq!(place.run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn rules_are_listed_explained_and_counted() {
    let place = Place::new("rules");
    let all = place.good(&["rules"]);
    let total = all.lines().find(|line| line.starts_with("total ")).unwrap();
    assert!(
        total.split_whitespace().any(|word| word == "315"),
        "{total}"
    );
    let layer = place.good(&["rules", "ICS"]);
    assert!(layer.contains("ICS-14  not applicable"), "{layer}");

    let one = place.good(&["rules", "RND-16"]);
    for part in ["VMBus", "drop: ", "paravisor/validate/src/rndis", "rnd_16_"] {
        assert!(one.contains(part), "{part}: {one}");
    }
    assert!(!one.contains("RND-17"));

    let json: serde_json::Value = serde_json::from_str(&place.good(&["rules", "--json"])).unwrap();
    let rules = json["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 315);
    assert_eq!(json["counts"]["ids"], 315);
    for rule in rules {
        let done = rule["status"] != "not-done";
        for field in ["statement", "danger", "example", "reaction", "source"] {
            assert_eq!(rule[field].is_string(), done, "{rule}");
        }
        assert!(rule["enforced"].is_array() && rule["tests"].is_array());
    }

    let two: serde_json::Value =
        serde_json::from_str(&place.good(&["rules", "--json", "syn_06", "RND-16"])).unwrap();
    assert_eq!(two["rules"][0]["id"], "SYN-06");
    assert_eq!(two["rules"][1]["id"], "RND-16");
    assert!(place.good(&["rules", "--markdown"]).starts_with("# Rules"));
}

#[test]
fn unknown_rules_are_an_error_that_helps() {
    let place = Place::new("norules");
    for args in [
        &["rules", "RND-99"][..],
        &["rules", "--json", "SYN-06", "RND-99"],
    ] {
        let error = place.bad(args);
        assert!(error.contains("no rule RND-99") && error.contains("undercroft rules"));
    }
    assert_eq!(
        place.run(&["rules", "--markdown", "--json"]).status.code(),
        Some(2)
    );
}
