//! The user's command: build an image, measure it, look into it, ask for its rules.

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use undercroft::image::{self, NicModel, Options, VmbusTarget};
use undercroft::{Error, Input, audit, firmware, inspect, measure, rules};

/// Build, measure and inspect Undercroft images.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build an IGVM image from a kernel, an initrd and a command line.
    Image(ImageArgs),
    /// Print the launch digest of an image.
    Measure(FileArgs),
    /// Describe an image: platform, configuration, start state, pages, digest.
    Inspect(FileArgs),
    /// Print the rules that host messages must pass: what each says, where the
    /// code enforces it, which tests prove it.
    Rules(RulesArgs),
    /// Replay a recorded run and judge every message of the host in it.
    Audit(AuditArgs),
}

#[derive(Args)]
struct ImageArgs {
    /// Platform to build for.
    #[arg(long, value_enum, default_value_t = PlatformArg::Snp)]
    platform: PlatformArg,
    /// Guest kernel (bzImage).
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Guest initrd.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Guest kernel command line.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    append: String,
    /// Let the guest's console leave the VM in clear, on COM1. For debugging
    /// only; the launch digest shows it.
    #[arg(long)]
    debug_console: bool,
    /// Count, but do not enforce, the rules for which no public source says that
    /// every host keeps them (NVS-25, NVS-26, RND-10, RND-45). For a first run on a
    /// host that nobody has measured.
    #[arg(long)]
    count_unmeasured: bool,
    /// Position of the C bit: 51 on SEV-SNP parts, 47 in the rig.
    #[arg(long, value_name = "BIT", default_value_t = loader::layout::C_BIT_DEFAULT)]
    c_bit: u32,
    /// Fixed MAC address of the guest's NIC (default: the host's offer decides).
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    mac: Option<[u8; 6]>,
    /// How the paravisor reaches the host's VMBus.
    #[arg(long, value_enum, default_value_t = VmbusArg::Redirect)]
    vmbus: VmbusArg,
    /// The network card that the guest sees.
    #[arg(long, value_enum, default_value_t = NicArg::Virtio)]
    nic: NicArg,
    /// Most virtual processors with which the image runs (1 to 64). How many there are
    /// is the host's choice; the digest shows this limit.
    #[arg(long, value_name = "COUNT", default_value_t = loader::layout::MAX_VPS as u8)]
    max_vps: u8,
    /// First stage (default: found beside this program).
    #[arg(long, value_name = "ELF")]
    stage: Option<PathBuf>,
    /// Paravisor (default: found beside this program).
    #[arg(long, value_name = "ELF")]
    paravisor: Option<PathBuf>,
    /// Where the image goes.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
struct FileArgs {
    /// IGVM file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RulesArgs {
    /// Rules to explain, for example RND-16 (default: list all).
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Print JSON, ids that are not enforced yet among them.
    #[arg(long)]
    json: bool,
    /// Print the whole catalogue as docs/rules.md has it.
    #[arg(long, conflicts_with_all = ["json", "ids"])]
    markdown: bool,
}

#[derive(Args)]
struct AuditArgs {
    /// Trace, as `cargo xtask run --trace FILE` writes it.
    file: PathBuf,
    /// List every message, not only those that break a rule.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a report as one HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the Ethernet frames both ways for Wireshark.
    #[arg(long, value_name = "FILE")]
    pcapng: Option<PathBuf>,
    /// Enforce the rules too that images only count.
    #[arg(long)]
    enforce_all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlatformArg {
    /// AMD SEV-SNP.
    Snp,
}

#[derive(Clone, Copy, ValueEnum)]
enum VmbusArg {
    /// Client in VTL2 with redirection, as in a confidential VM with a paravisor.
    Redirect,
    /// Plain client.
    Plain,
}

#[derive(Clone, Copy, ValueEnum)]
enum NicArg {
    /// virtio-net over PCI, the fast one.
    Virtio,
    /// Intel 82574L, for guests without a virtio driver.
    E1000e,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Our messages name their causes already.
            eprintln!("undercroft: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Audit(args) => return audit_file(&args),
        Command::Image(args) => build(args),
        Command::Measure(args) => {
            let report = measure::measure(&Input::read("image", &args.file)?)?;
            if args.json {
                print(&serde_json::to_string_pretty(&report)?)
            } else {
                print(&report.launch_digest)
            }
        }
        Command::Inspect(args) => {
            let report = inspect::inspect(&Input::read("image", &args.file)?)?;
            if args.json {
                print(&serde_json::to_string_pretty(&report)?)
            } else {
                print(report.to_string().trim_end())
            }
        }
        Command::Rules(args) => explain(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn build(args: ImageArgs) -> Result<()> {
    let PlatformArg::Snp = args.platform;
    let firmware = |what, given: Option<PathBuf>| -> Result<Input, Error> {
        let path = given.map_or_else(|| firmware::find(what), Ok)?;
        Input::read(what, &path)
    };
    let options = Options {
        kernel: Input::read("kernel", &args.kernel)?,
        initrd: args
            .initrd
            .as_deref()
            .map(|path| Input::read("initrd", path))
            .transpose()?,
        stage: firmware("stage", args.stage)?,
        paravisor: firmware("paravisor", args.paravisor)?,
        command_line: args.append,
        debug_console: args.debug_console,
        count_unmeasured: args.count_unmeasured,
        c_bit: args.c_bit,
        mac: args.mac,
        vmbus_target: match args.vmbus {
            VmbusArg::Redirect => VmbusTarget::Redirect,
            VmbusArg::Plain => VmbusTarget::Plain,
        },
        nic: match args.nic {
            NicArg::Virtio => NicModel::Virtio,
            NicArg::E1000e => NicModel::E1000e,
        },
        max_vps: args.max_vps,
    };
    let image = image::build(&options)?;
    write(&args.output, &image.bytes)?;
    if options.debug_console {
        eprintln!("warning: debug image, the guest's console leaves the VM in clear");
    }
    print(&format!(
        "{}: {} bytes, at least {} MiB of memory\nlaunch digest {}",
        args.output.display(),
        image.bytes.len(),
        image.config.memory_min >> 20,
        undercroft::error::hex(&image.digest)
    ))
}

/// Status 0: nothing is wrong. 1: a rule was broken. 2: the trace is broken or
/// records are missing.
fn audit_file(args: &AuditArgs) -> Result<ExitCode> {
    let input = Input::read("trace", &args.file)?;
    let options = audit::Options {
        all: args.all,
        frames: args.pcapng.is_some(),
        enforce_all: args.enforce_all,
    };
    let found = audit::audit(&input.bytes, options);
    if let Some(path) = &args.html {
        let name = args.file.file_name().unwrap_or_default().to_string_lossy();
        write(path, audit::html(&found, &name).as_bytes())?;
    }
    if let Some(path) = &args.pcapng {
        write(path, &audit::pcapng(&found))?;
    }
    if args.json {
        print(&serde_json::to_string_pretty(&found)?)?;
    } else {
        print(audit::text(&found).trim_end())?;
    }
    if let Some(broken) = &found.broken {
        eprintln!("undercroft: {}: {broken}", args.file.display());
    }
    Ok(match &found {
        f if f.broken.is_some() || f.dropped > 0 => ExitCode::from(2),
        f if !f.violations.is_empty() => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    })
}

fn explain(args: &RulesArgs) -> Result<()> {
    let mut catalogue = rules::catalogue();
    if args.markdown {
        return print(rules::markdown(&catalogue).trim_end());
    }
    if !args.ids.is_empty() {
        catalogue.choose(&args.ids)?;
    }
    if args.json {
        print(&serde_json::to_string_pretty(&catalogue)?)
    } else if args.ids.is_empty() {
        print(rules::list(&catalogue).trim_end())
    } else {
        let texts: Vec<String> = catalogue.rules.iter().map(rules::explain).collect();
        print(texts.join("\n").trim_end())
    }
}

/// Writes beside the target and renames, so that a full disk leaves no half image.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let error = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    // Never replace a device or a pipe.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, bytes).map_err(error);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    std::fs::write(&part, bytes)
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|source| {
            let _ = std::fs::remove_file(&part);
            error(source)
        })
}

/// Prints a line; a closed pipe ends the program quietly.
fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = parts
            .next()
            .filter(|part| part.len() == 2)
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or("six hex bytes with colons are expected, for example 02:00:00:00:00:01")?;
    }
    match parts.next() {
        None => Ok(mac),
        Some(_) => Err("more than six bytes".into()),
    }
}
