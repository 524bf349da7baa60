//! The whole chain in QEMU, through the command that a user types: `cargo xtask
//! run`. These tests need QEMU and kernels, so a bare `cargo test` leaves them out;
//! `cargo xtask test` sets up what they need and names itself in
//! `UNDERCROFT_XTASK`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

/// When a run is given up, in seconds of the virtual machine: for runs that are stuck. A
/// good one takes a tenth of it on a quiet machine, and on one that shares its two
/// processors among a dozen builds one has taken more than 120.
const LIMIT: &str = "300";
/// What building, imaging and measuring may take on top.
const OVERHEAD: Duration = Duration::from_secs(120);

/// Two machines with one processor run side by side; what keeps two real processors busy
/// by itself runs alone.
const SEATS: usize = 2;
static FREE: Mutex<usize> = Mutex::new(SEATS);
static LEFT: Condvar = Condvar::new();

/// Seats that are taken until this goes.
struct Seats(usize);

impl Seats {
    fn take(count: usize) -> Seats {
        let mut free = LEFT
            .wait_while(Seats::free(), |free| *free < count)
            .unwrap();
        *free -= count;
        Seats(count)
    }

    /// A test that failed has given its seats back all the same.
    fn free() -> MutexGuard<'static, usize> {
        FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        *Seats::free() += self.0;
        LEFT.notify_all();
    }
}

struct Run {
    ok: bool,
    error: String,
    report: Value,
}

fn xtask() -> Command {
    let program = std::env::var_os("UNDERCROFT_XTASK")
        .expect("UNDERCROFT_XTASK is not set: start these tests with `cargo xtask test`");
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a guest; checks that the end came in time and that status, last line and
/// report agree with each other.
fn run(args: &[&str]) -> Run {
    let limit = Duration::from_secs(LIMIT.parse().unwrap()) + OVERHEAD;
    run_within(1, args, limit)
}

/// The same on so many seats, with another time limit.
fn run_within(seats: usize, args: &[&str], limit: Duration) -> Run {
    let _seats = Seats::take(seats);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let started = Instant::now();
    let out = xtask()
        .args(["run", "--quiet", "--timeout", LIMIT, "--report"])
        .arg(&file)
        .args(args)
        .output()
        .unwrap();
    assert!(
        started.elapsed() < limit,
        "{args:?} took {:?}",
        started.elapsed()
    );

    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let error = report["error"].as_str().unwrap_or_default().to_owned();
    println!("{args:?}: {}", if error.is_empty() { "ok" } else { &error });
    assert_eq!(
        out.status.success(),
        report["ok"].as_bool().unwrap(),
        "{stderr}"
    );
    assert_eq!(out.status.success(), error.is_empty(), "{stderr}");
    assert!(
        error.is_empty() || stderr.contains(&error),
        "the error was not shown: {stderr}"
    );
    Run {
        ok: out.status.success(),
        error,
        report,
    }
}

/// A run that must fail, with an error that says `words`.
fn refused(args: &[&str], words: &[&str]) -> Value {
    let run = run(args);
    assert!(!run.ok, "{args:?} should have failed");
    for word in words {
        assert!(
            run.error.contains(word),
            "{:?} does not say {word:?}",
            run.error
        );
    }
    assert_eq!(run.report["private_accesses_refused"], 0);
    run.report
}

fn above_zero(report: &Value, table: &str, key: &str) {
    let value = &report[table][key];
    assert!(
        value.as_u64().is_some_and(|n| n > 0),
        "{table}.{key} is {value}"
    );
}

/// The trace of the run, judged again, agrees with what the paravisor has counted.
fn audited_as_judged(trace: &[u8], report: &Value) {
    let audit = undercroft::audit::audit(trace, undercroft::audit::Options::default());
    println!("{}", undercroft::audit::text(&audit));
    assert!(audit.is_clean());
    for layer in ["synic", "control", "packet", "nvsp", "rndis"] {
        let all = audit.judged[layer];
        // What came after the paravisor's last look is in the trace only.
        let left = audit.not_taken.get(layer).copied().unwrap_or(0);
        let live = report["messages_judged"][layer].as_u64().unwrap();
        assert!(
            (all - left..=all).contains(&live),
            "{layer}: {live} live, {all} replayed"
        );
    }
}

/// DHCP, 8 MiB down, 8 MiB up, and everything that a good run must show.
fn linux_uses_the_network(version: &str) {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let run = run(&[
        "--kernel-version",
        version,
        "--trace",
        trace.to_str().unwrap(),
    ]);
    assert!(run.ok, "{}", run.error);
    audited_as_judged(&std::fs::read(&trace).unwrap(), &run.report);
    whole_and_clean(&run.report, "virtio_net");
    // The host makes hashes, so the card offers them, and Linux takes them.
    assert_eq!(run.report["guest"]["sees"]["nic-hash-report"], "yes");
}

fn whole_and_clean(report: &Value, driver: &str) {
    assert_eq!(report["outcome"], "power-off");
    assert_eq!(report["guest"]["fetch_ok"], true);
    assert_eq!(report["guest"]["upload_ok"], true);
    assert_eq!(report["served"]["uploads_ok"], 1);
    assert_eq!(report["digest_tool"], report["digest_rig"]);
    assert_eq!(report["digest_tool"].as_str().unwrap().len(), 96);
    assert_eq!(report["private_accesses_refused"], 0);
    assert_eq!(report["violations"], serde_json::json!({}));

    // The guest drove an ordinary NIC and saw no Hyper-V and no encrypted memory.
    let sees = &report["guest"]["sees"];
    assert_eq!(sees["nic-driver"], driver);
    assert_eq!(sees["hypervisor-detected"], "none");
    assert_eq!(sees["acpi-vmbus-devices"], "0");
    assert_eq!(sees["memory-encryption"], "none");
    assert_eq!(sees["kernel-warnings"], "0");
    assert!(
        sees["vmbus-driver"]
            .as_str()
            .unwrap()
            .starts_with("refused")
    );

    // And the bytes did come over VMBus: 8 MiB cannot pass in fewer.
    for way in ["rx", "tx"] {
        above_zero(report, "frames", way);
        assert!(report["frame_bytes"][way].as_u64().unwrap() > 8 << 20);
    }
    // The rig hears of frames by its card's interrupts, not only by looking.
    above_zero(&report["counts"]["rig"], "card", "interrupts");
    above_zero(report, "hypercalls", "0x5c");
    above_zero(report, "guest_exits", "npf");
    above_zero(report, "messages_judged", "rndis");
    above_zero(report, "shared_pages", "ring");
    above_zero(report, "host_signals", "sent");
    let signals = |key: &str| report["host_signals"][key].as_u64().unwrap();
    // One signal for each time the ring went from empty to non-empty; the watchdog's
    // reminders to a host that was slow are the only others.
    assert!((signals("needed")..=signals("needed") + 5).contains(&signals("sent")));
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn debian_6_1_fetches_and_uploads() {
    linux_uses_the_network("6.1");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn debian_6_12_fetches_and_uploads() {
    linux_uses_the_network("6.12");
}

/// A guest without virtio: Debian's generic kernel with Intel's driver.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn debian_6_1_drives_an_82574l() {
    let run = run(&["--nic", "e1000e"]);
    assert!(run.ok, "{}", run.error);
    whole_and_clean(&run.report, "e1000e");
    let sees = &run.report["guest"]["sees"];
    assert_eq!(sees["nic-pci"], "0x8086:0x10d3");
    // Receive, transmit, all else: the driver found MSI-X to its taste.
    assert_eq!(sees["nic-msix-vectors"], "3");
    assert_eq!(sees["nic-hash-report"], "no");
}

/// Several processors: each has its queue of the card, its lane and its channel, and
/// frames go on each of them.
fn several_processors_share_the_card(vps: u64) {
    // Each of them is a thread of the emulator's: with fewer real ones they are slow.
    let limit = Duration::from_secs(LIMIT.parse().unwrap()) + OVERHEAD;
    let run = run_within(SEATS, &["--vps", &vps.to_string()], limit);
    assert!(run.ok, "{}", run.error);
    whole_and_clean(&run.report, "virtio_net");
    let sees = &run.report["guest"]["sees"];
    let all = vps.to_string();
    assert_eq!(sees["processors"], *all);
    assert_eq!(sees["nic-queues"], *all);
    assert_eq!(sees["crowd"], format!("{0} of {0}", 6 * vps));
    // The last processor was away: its VP served its lane all the same.
    let (off, on) = (&sees["hotplug-off"], &sees["hotplug-on"]);
    let all: Vec<_> = off.as_str().unwrap().split(' ').collect();
    assert_eq!(*off, format!("{0} of {0} with {1}", all[2], vps - 1));
    assert_eq!(*on, format!("2 of 2 with {vps}"));
    assert_ne!(sees["hotplug-interrupts"], "0");
    let counts = &run.report["counts"]["paravisor"];
    let frames = |lane: u64, way| counts["lane_frame"][format!("{lane}.{way}")].as_u64();
    // What a processor sends leaves on its own channel. Where a connection's frames
    // come in, the host decides by its ports.
    let (mut rx, mut tx, mut receiving) = (0, 0, 0);
    for lane in 0..vps {
        assert!(frames(lane, "tx").unwrap() >= 6, "{counts}");
        rx += frames(lane, "rx").unwrap();
        tx += frames(lane, "tx").unwrap();
        receiving += u64::from(frames(lane, "rx") > Some(0));
    }
    assert!(receiving >= 2, "{counts}");
    let sums = &run.report["frames"];
    assert_eq!(
        (sums["rx"].as_u64(), sums["tx"].as_u64()),
        (Some(rx), Some(tx))
    );
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn two_processors_share_the_card() {
    several_processors_share_the_card(2);
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn four_processors_share_the_card() {
    several_processors_share_the_card(4);
}

/// Both directions at the same time: what `cargo xtask soak` does for minutes, for some
/// seconds.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn debian_6_1_under_load_loses_nothing_without_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let _seats = Seats::take(SEATS);
    let out = xtask()
        .args(["soak", "--seconds", "12", "--beat", "4", "--report"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    println!("{}", String::from_utf8_lossy(&out.stdout));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let soak = &report["soak"];
    assert_eq!(soak["wrong"], serde_json::json!([]));
    assert_eq!(soak["beats"].as_array().unwrap().len(), 2);
    let hops = soak["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 12);
    for hop in hops {
        // 8 MiB each way came before the load, in segments of 64 KiB at most.
        assert!(hop["taken"].as_u64().unwrap() > 128, "{hop}");
    }
    for way in ["blocks_down", "blocks_up"] {
        assert!(soak[way].as_u64().unwrap() > 0, "{way}");
    }
    whole_and_clean(&report, "virtio_net");
}

/// No paravisor: Linux's own VMBus and NIC drivers judge the fake host.
fn linux_drives_the_fake_host_itself(version: &str) {
    let run = run(&["--enlightened", "--kernel-version", version]);
    assert!(run.ok, "{}", run.error);
    let report = &run.report;
    assert_eq!(report["mode"], "enlightened");
    assert_eq!(report["outcome"], "power-off");
    assert_eq!(report["guest"]["fetch_ok"], true);
    assert_eq!(report["guest"]["upload_ok"], true);
    let sees = &report["guest"]["sees"];
    assert_eq!(sees["nic-driver"], "hv_netvsc");
    assert_eq!(sees["hypervisor-detected"], "Microsoft Hyper-V");
    assert_eq!(sees["kernel-warnings"], "0");
    // The driver and the host found no fault with each other.
    let said = sees.as_object().unwrap();
    let said = |words: &str| said.values().any(|v| v.as_str().unwrap().contains(words));
    assert!(said("Vmbus version:5.3"));
    assert!(!said("error") && !said("failed") && !said("invalid"));
    let host = &report["counts"]["rig"];
    assert_eq!(host["guest_error"], Value::Null);
    assert_eq!(host["hypercall_failed"], Value::Null);
    assert!(host["event_flag_new"][""].as_u64().unwrap() > 0);
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn debian_6_1_drives_the_fake_host_with_hv_netvsc() {
    linux_drives_the_fake_host_itself("6.1");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn debian_6_12_drives_the_fake_host_with_hv_netvsc() {
    linux_drives_the_fake_host_itself("6.12");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn the_emulated_machine_passes_its_own_test() {
    let _seats = Seats::take(1);
    let out = xtask().arg("selftest").output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn plain_boot_of_the_same_guest_works() {
    let run = run(&["--plain", "--kernel-version", "6.12"]);
    assert!(run.ok, "{}", run.error);
    assert_eq!(run.report["mode"], "plain");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn truncated_image_is_rejected() {
    let report = refused(&["--fault", "image-truncated"], &["image-rejected"]);
    assert_eq!(report["outcome"], "image-rejected");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn flipped_measured_byte_changes_the_digest() {
    let report = refused(&["--fault", "image-flipped"], &["digest"]);
    assert_eq!(report["outcome"], "image-rejected");
    assert_ne!(report["digest_tool"], report["digest_rig"]);
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn missing_kernel_is_named() {
    let report = refused(
        &["--kernel", "/nonexistent/vmlinuz"],
        &["/nonexistent/vmlinuz"],
    );
    assert_eq!(report["outcome"], "not-started");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn kernel_that_is_no_bzimage_is_refused() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert!(Path::new(own).is_file());
    let report = refused(&["--kernel", own], &["bzImage"]);
    assert_eq!(report["outcome"], "not-started");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn guest_that_triple_faults_ends_the_run() {
    let report = refused(&["--fault", "guest-triple-fault"], &["triple-fault"]);
    assert_eq!(report["outcome"], "triple-fault");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn guest_with_an_unknown_exit_ends_the_run() {
    let report = refused(&["--fault", "guest-unknown-exit"], &["unknown-exit"]);
    assert_eq!(report["outcome"], "unknown-exit");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn host_that_never_answers_the_version_request_is_given_up() {
    let report = refused(&["--fault", "never-answer-version"], &["host-failure"]);
    assert_eq!(report["outcome"], "host-failure");
}

/// The scenarios that come with the project.
const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");

/// A hostile host against a live guest: each scenario ends as it says, and none of
/// them costs more than a link.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn scenarios_of_a_hostile_host_end_as_they_say() {
    let run = run_within(
        SEATS,
        &["--scenario", SCENARIOS, "--jobs", "2"],
        Duration::from_secs(1800),
    );
    let played = run.report["played"].as_array().unwrap();
    for one in played {
        println!(
            "{:<36} {:<24} {:<10} {:>5.1} s  {}",
            one["name"].as_str().unwrap(),
            words(&one["named"]).join(" "),
            one["guest"].as_str().unwrap(),
            one["seconds"].as_f64().unwrap(),
            words(&one["wrong"]).join("; "),
        );
        assert_eq!(one["report"]["private_accesses_refused"], 0);
        assert!(one["alive"] == true || one["guest"] == "no guest");
    }
    assert!(run.ok, "{}", run.error);
    assert!(played.len() >= 40, "{} scenarios", played.len());
    let layers = [
        "synic", "control", "gpadl", "ring", "packet", "nvsp", "rndis", "system", "rescind",
    ];
    for layer in layers {
        let of = |one: &&Value| one["name"].as_str().unwrap().starts_with(layer);
        assert!(played.iter().any(|one| of(&one)), "none of {layer}");
    }
    // The link comes back when the host behaves again, and the guest uses it.
    for (name, fetched) in [
        ("rescind-and-offer-again", true),
        ("rescind-for-good", false),
    ] {
        let one = played.iter().find(|one| one["name"] == name).unwrap();
        let story = one["report"]["guest"]["story"].as_array().unwrap();
        let said: Vec<&str> = story.iter().map(|s| s[1].as_str().unwrap()).collect();
        let down = said.iter().rposition(|s| *s == "link down");
        let after = said.get(down.unwrap_or(0)..).unwrap_or_default();
        assert_eq!(
            after.contains(&"fetch ok enough"),
            fetched,
            "{name}: {said:?}"
        );
    }
}

fn words(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

/// Who judges the trace afterwards names the rules that the paravisor named.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn scenario_and_the_audit_of_its_trace_name_the_same_rules() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let file = format!("{SCENARIOS}/system-every-layer.scenario");
    let run = run(&["--scenario", &file, "--trace", trace.to_str().unwrap()]);
    assert!(run.ok, "{}", run.error);
    let live = &run.report["played"][0]["report"];
    let audit = undercroft::audit::audit(
        &std::fs::read(&trace).unwrap(),
        undercroft::audit::Options::default(),
    );
    assert_eq!(audit.broken, None);
    assert_eq!(audit.private_refused, 0);
    let replayed: Vec<(String, u64)> = audit
        .violations
        .iter()
        .map(|(rule, times)| ((*rule).to_owned(), *times))
        .collect();
    let counted: Vec<(String, u64)> = live["violations"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(rule, times)| (rule.clone(), times.as_u64().unwrap()))
        .collect();
    println!("{replayed:?}");
    assert!(counted.len() >= 7, "{counted:?}");
    assert_eq!(replayed, counted, "{}", undercroft::audit::text(&audit));
}

/// What cannot be played is refused with a name, by whoever sees it first.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn scenario_that_cannot_be_played_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |text: &str, words: &[&str]| {
        let file = dir.path().join("bad.scenario");
        std::fs::write(&file, text).unwrap();
        let run = run(&["--scenario", file.to_str().unwrap()]);
        assert!(!run.ok);
        for word in words {
            assert!(run.error.contains(word), "{:?}: {word}", run.error);
        }
        run.report
    };
    let line = "when 1st rndis.packt do drop";
    refused(
        &format!("about x\n{line}\nexpect guest up\n"),
        &["bad.scenario:2:10:", "packet"],
    );
    let good = "about x\nwhen 1st signal do drop\nexpect guest up\n";
    refused(
        &format!("{good}play in-process-only it says so\n"),
        &["bad is played", "it says so"],
    );
    // The rig's own word: more than its memory holds.
    let flood = "about x\nwhen after link-up do send vmbus.unload 100000 times\nexpect guest up\n";
    let report = refused(flood, &["bad"]);
    let played = &report["played"][0];
    assert_eq!(played["outcome"], "rig-failure");
    assert!(words(&played["wrong"]).join("; ").contains("scenario:2:"));
}

/// Not even the timer that the paravisor asks for: its deadlines hold all the same.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn host_that_raises_no_interrupt_is_given_up() {
    let report = refused(&["--fault", "never-interrupt"], &["host-failure", "CTL-13"]);
    assert_eq!(report["outcome"], "host-failure");
}

/// Ctrl-C on the command ends QEMU too.
#[test]
#[ignore = "needs QEMU: cargo xtask test"]
fn interrupt_takes_qemu_along() {
    let _seats = Seats::take(1);
    let mut child = xtask()
        .args(["run", "--plain", "--quiet", "--append", "uc.url="])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let deadline = Instant::now() + OVERHEAD;
    let qemu = loop {
        let running = qemu_of(pid);
        if let Some(pid) = running {
            break pid;
        }
        assert!(Instant::now() < deadline, "QEMU did not start");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it was interrupted"
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    let sent = Command::new("kill")
        .args(["-INT", &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(
        !Path::new(&format!("/proc/{qemu}")).exists(),
        "QEMU {qemu} is still there"
    );
}

/// The machine that process `parent` has started, if it is there. (QEMU is also
/// started to tell its version.)
fn qemu_of(parent: u32) -> Option<u32> {
    let parent = format!("PPid:\t{parent}");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let ours = status.lines().any(|line| line == parent);
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (ours && command.contains("qemu-system") && command.contains("-netdev")).then_some(pid)
        })
}
