//! `cargo xtask run`: a guest above the paravisor in the rig.

use std::path::PathBuf;
use std::time::Duration;

use abi::record::Outcome;
use anyhow::{Context, Result, bail};

use crate::faults::{self, Fault};
use crate::firmware::{self, Built, Payload};
use crate::guest::{Errand, synthetic};
use crate::machine::{self, Boot, Extras, Ran};
use crate::nic::Nic;
use crate::plain::{Own, TestGuest};
use crate::report::Report;
use crate::setup::{self, KernelVersion};
use crate::soak::{self, Load};
use crate::ui::{Step, bytes};

/// What the rig needs beside the VM's memory: itself, the image, its tables.
pub const RIG_MEMORY: u32 = 192;
/// What the rig may take longer than its limit before QEMU is killed.
pub const GRACE: Duration = Duration::from_secs(10);
/// What the paravisor's layout allows (MiB).
const MEMORY: std::ops::RangeInclusive<u32> = 256..=2048;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The user's own kernel, initrd and words.
    pub own: Own,
    /// Debian's kernel, if not the user's.
    pub version: KernelVersion,
    /// The guest's network card.
    pub nic: Nic,
    /// Memory of the VM in MiB.
    pub memory: u32,
    /// When to give up.
    pub timeout: Duration,
    /// What goes wrong on purpose.
    pub faults: Vec<String>,
    /// Where the trace goes.
    pub trace: Option<PathBuf>,
    /// Virtual processors.
    pub vps: u32,
    /// Words for the rig.
    pub rig_append: String,
    /// Without rig and paravisor.
    pub plain: bool,
    /// Without paravisor: the guest is an ordinary Hyper-V guest of the rig.
    pub enlightened: bool,
    /// Whether the console is shown.
    pub show: bool,
    /// Where a copy of the image goes.
    pub keep_image: Option<PathBuf>,
    /// Minutes of load after the first transfers.
    pub load: Option<Load>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            own: Own::default(),
            version: KernelVersion::V6_1,
            nic: Nic::default(),
            memory: 512,
            timeout: Duration::from_secs(120),
            faults: Vec::new(),
            trace: None,
            vps: 1,
            rig_append: String::new(),
            plain: false,
            enlightened: false,
            show: true,
            keep_image: None,
            load: None,
        }
    }
}

/// Runs it; the report says what came of it, also when nothing good did.
pub fn run(plan: &Plan) -> Report {
    let mut report = Report::new(match (plan.plain, plan.enlightened) {
        (true, _) => "plain",
        (_, true) => "enlightened",
        _ => "paravisor",
    });
    report.memory_mib = plan.memory;
    report.faults = plan.faults.clone();
    match carry_out(plan, &mut report) {
        Ok(()) => report.ok = true,
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    report
}

fn carry_out(plan: &Plan, report: &mut Report) -> Result<()> {
    if !MEMORY.contains(&plan.memory) || !plan.memory.is_multiple_of(2) {
        bail!(
            "--memory must be an even number of MiB from {} to {}",
            MEMORY.start(),
            MEMORY.end()
        );
    }
    let faults: Vec<Fault> = plan
        .faults
        .iter()
        .map(|name| Fault::parse(name))
        .collect::<Result<_, _>>()?;
    // First what may be impossible: without QEMU nothing else is worth fetching.
    setup::qemu()?;
    let errand = if plan.enlightened {
        Errand::Enlightened
    } else {
        Errand::Transfer
    };
    let mut guest = TestGuest::new(plan.version, &plan.own, errand, plan.nic)?;
    if let Some(load) = &plan.load {
        guest.append = format!("{} {}", guest.append, load.append());
    }
    for fault in &faults {
        if let Fault::Guest(misdeed) = fault {
            let file = guest.dir().join("kernel");
            std::fs::write(&file, synthetic::kernel(*misdeed)).context("cannot write a kernel")?;
            guest.kernel = file;
            guest.name = format!("a few bytes ({misdeed:?})");
            guest.server = None;
        }
    }
    report.guest_kernel = guest.name.clone();
    report.guest_command_line = guest.append.clone();
    let ran = if plan.plain {
        guest.boot_plain(plan.memory, plan.timeout, plan.show)?
    } else {
        boot_above(plan, &faults, &guest, report)?
    };
    let served = guest
        .server
        .as_ref()
        .map(|server| server.take())
        .unwrap_or_default();
    if let (Some(_), Some(server)) = (&plan.load, &guest.server) {
        // Without counters the run has ended badly; that is judged below.
        report.soak = soak::verdict(plan, &ran, &served, server).ok();
    }
    report.fill(&ran, served);
    if plan.plain {
        judge_plain(&ran)?;
    } else {
        judge(&ran, report)?;
    }
    if guest.server.is_some() {
        let (driver, expected) = if plan.enlightened {
            ("hv_netvsc", &ENLIGHTENED)
        } else {
            (plan.nic.driver(), &ORDINARY)
        };
        judge_guest(report, driver, expected)?;
    }
    match (&plan.load, &report.soak) {
        (None, _) => Ok(()),
        (Some(_), None) => bail!("rig or paravisor told no counters"),
        (Some(_), Some(verdict)) if verdict.wrong.is_empty() => Ok(()),
        (Some(_), Some(verdict)) => bail!("under load: {}", verdict.wrong.join("; ")),
    }
}

fn boot_above(
    plan: &Plan,
    faults: &[Fault],
    guest: &TestGuest,
    report: &mut Report,
) -> Result<Ran> {
    let qemu = setup::qemu()?;
    let built = firmware::build()?;
    let image = guest.dir().join("guest.igvm");
    report.digest_tool = Some(make_image(&built, guest, &image)?);
    faults::spoil(&image, faults)?;
    if let Some(copy) = &plan.keep_image {
        std::fs::copy(&image, copy).context("cannot copy the image")?;
    }
    // The rig ends the run itself, with all it knows; we only if it cannot.
    let digest = report.digest_tool.clone().unwrap_or_default();
    let mut append = format!(
        "memory={}M limit={} digest={digest}",
        plan.memory,
        plan.timeout.as_secs()
    );
    for fault in faults {
        if let Fault::Host(name) = fault {
            append = format!("{append} fault={name}");
        }
    }
    if let Some(load) = &plan.load {
        append = format!("{append} beat={}", load.beat);
    }
    if plan.trace.is_some() {
        append.push_str(" trace");
    }
    if plan.enlightened {
        append = format!("{append} enlightened");
    }
    if plan.vps > 1 {
        append = format!("{append} vps={}", plan.vps);
    }
    if !plan.rig_append.is_empty() {
        append = format!("{append} {}", plan.rig_append);
    }
    machine::boot(&Boot {
        qemu,
        kernel: built.rig,
        initrd: Some(image),
        append,
        memory: plan.memory + RIG_MEMORY,
        trace: plan.trace.clone(),
        rig: true,
        timeout: plan.timeout + GRACE,
        show: plan.show,
        extras: Extras {
            cpus: plan.vps,
            on_soak: plan.load.map(|_| soak::progress()),
            ..Extras::default()
        },
    })
}

/// The rig's own test of the machine that it emulates, then of several cores: no
/// image, no guest.
pub fn selftest(show: bool) -> Result<()> {
    let qemu = setup::qemu()?;
    let kernel = firmware::rig()?;
    let memory = *MEMORY.start();
    let cores = |count: u32| (format!("selftest=cores vps={count}"), count);
    let one = ("selftest".to_owned(), 1);
    let two = ("selftest=vps vps=2".to_owned(), 2);
    for (words, cpus) in [one, two, cores(1), cores(2), cores(4)] {
        let ran = machine::boot(&Boot {
            qemu: qemu.clone(),
            kernel: kernel.clone(),
            initrd: None,
            append: format!("memory={memory}M {words}"),
            memory: memory + RIG_MEMORY,
            trace: None,
            rig: true,
            timeout: Duration::from_secs(60),
            show,
            extras: Extras {
                cpus,
                ..Extras::default()
            },
        })?;
        judge_end(&ran).with_context(|| words)?;
    }
    Ok(())
}

/// Makes and measures the image; returns its digest.
pub fn make_image(built: &Built, guest: &TestGuest, image: &std::path::Path) -> Result<String> {
    let step = Step::new("making and measuring the image");
    let payload = Payload {
        kernel: &guest.kernel,
        initrd: guest.initrd.as_deref(),
        append: &guest.append,
        nic: guest.nic(),
    };
    built.image(&payload, image)?;
    let digest = built.measure(image)?;
    let size = std::fs::metadata(image)
        .context("the image tool left no image")?
        .len();
    step.done(&format!("{}, digest {}…", bytes(size), &digest[..16]));
    Ok(digest)
}

/// Whether rig and paravisor did what they should.
fn judge(ran: &Ran, report: &Report) -> Result<()> {
    if let (Some(rig), Some(tool)) = (&report.digest_rig, &report.digest_tool)
        && rig != tool
    {
        bail!(
            "the image that was loaded is not the one that was measured: digest {rig} by the rig, \
             {tool} expected"
        );
    }
    if report.private_accesses_refused > 0 {
        bail!(
            "the host's side reached for {} private pages",
            report.private_accesses_refused
        );
    }
    judge_end(ran)?;
    if report.digest_rig.is_none() {
        bail!("the rig told no digest");
    }
    if report.faults.is_empty() && !report.violations.is_empty() {
        let rules: Vec<_> = report.violations.keys().map(String::as_str).collect();
        bail!("an honest host broke rules: {}", rules.join(", "));
    }
    Ok(())
}

/// Whether the run ended by itself, and by the guest's own wish.
pub fn judge_end(ran: &Ran) -> Result<()> {
    if ran.timed_out {
        bail!(
            "no end within the time limit of {:.0} s{}",
            ran.seconds,
            last_words(ran)
        );
    }
    let Some(end) = &ran.records.outcome else {
        let complaint = ran.complaint.trim();
        let by_status = ran.status.and_then(|status| u8::try_from(status / 2).ok());
        let hint = match by_status.and_then(Outcome::from_code) {
            Some(outcome) => format!(", which would be {}", outcome.name()),
            None => String::new(),
        };
        bail!(
            "QEMU ended ({:?}{hint}) before rig or paravisor said why: {complaint}{}",
            ran.status,
            last_words(ran)
        );
    };
    if end.name != Outcome::PowerOff.name() {
        bail!(
            "the run ended with {} ({}: {})",
            end.name,
            end.from,
            end.msg
        );
    }
    Ok(())
}

fn judge_plain(ran: &Ran) -> Result<()> {
    if ran.timed_out {
        bail!(
            "no end within the time limit of {:.0} s{}",
            ran.seconds,
            last_words(ran)
        );
    }
    if ran.status != Some(0) {
        bail!("QEMU ended with {:?}: {}", ran.status, ran.complaint.trim());
    }
    Ok(())
}

/// What a guest sees above a paravisor or in plain QEMU.
const ORDINARY: [(&str, &str); 3] = [
    ("hypervisor-detected", "none"),
    ("memory-encryption", "none"),
    ("acpi-vmbus-devices", "0"),
];
/// What an ordinary Hyper-V guest sees.
const ENLIGHTENED: [(&str, &str); 3] = [
    ("hypervisor-detected", "Microsoft Hyper-V"),
    ("memory-encryption", "none"),
    ("acpi-vmbus-devices", "1"),
];

/// What the default initrd must have achieved and seen.
fn judge_guest(report: &Report, driver: &str, expected: &[(&str, &str)]) -> Result<()> {
    if let Some(missing) = report.guest.missing() {
        bail!("{missing}");
    }
    if report.served.downloads == 0 || report.served.uploads_ok == 0 {
        bail!("the web server did not see what the guest says it did");
    }
    if report.mode == "paravisor" {
        let audit = report.guest.sees.get("audit");
        if !audit.is_some_and(|seen| seen.contains(" records") && !seen.contains("broken")) {
            bail!(
                "the guest cannot read the audit from its COM2: {}",
                audit.map(String::as_str).unwrap_or("it said nothing")
            );
        }
    }
    for &(name, value) in [("nic-driver", driver)].iter().chain(expected) {
        let seen = report
            .guest
            .sees
            .get(name)
            .map(String::as_str)
            .unwrap_or("nothing");
        if seen != value {
            bail!("the guest sees {name} = {seen}, and it should be {value}");
        }
    }
    Ok(())
}

fn last_words(ran: &Ran) -> String {
    let console = ran.tail();
    let log = ran
        .records
        .log
        .last()
        .map(String::as_str)
        .unwrap_or("nothing");
    let console = if console.is_empty() {
        "nothing".to_owned()
    } else {
        format!("\n{console}")
    };
    format!("; last record: {log}; last on the console: {console}")
}
