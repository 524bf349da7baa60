//! How a boot ends before the loop: in which chapter, and what happened.

use crate::arch::{log as out, percpu};
use abi::record::Outcome;
use core::convert::Infallible;
use core::fmt;
use paravisor_core::audit::Finding;
use paravisor_core::guest_boot::BadBoot;
use paravisor_core::run::End;
use paravisor_core::synic::SynicError;

/// Why the boot ended.
pub struct Stop {
    pub outcome: Outcome,
    pub what: &'static str,
    pub why: Option<Cause>,
}

/// Ends the run of a VP whose story ended.
pub fn finish(story: Result<Infallible, Stop>) -> ! {
    match story {
        Ok(never) => match never {},
        Err(Stop { outcome, what, why }) => match why.inspect(Cause::found) {
            Some(why) => out::end(outcome, format_args!("{what}: {why}")),
            None => out::end(outcome, format_args!("{what}")),
        },
    }
}

/// What happened.
pub enum Cause {
    Platform(platform::Error),
    Synic(SynicError),
    Boot(BadBoot),
    Config(loader::config::ConfigError),
    End(End),
    Rule(validate::Violation),
}

impl Cause {
    /// Puts a rule that ended the boot into the audit. Those of the uplink are
    /// there already.
    fn found(&self) {
        if let Cause::Synic(error) = self {
            let violation = error.violation();
            out::found(violation.map(|violation| Finding {
                vp: percpu::this().index,
                channel: None,
                violation,
                times: 1,
            }));
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Platform(error) => error.fmt(f),
            Cause::Synic(error) => error.fmt(f),
            Cause::Boot(error) => write!(f, "{error:?}"),
            Cause::Config(error) => write!(f, "{error:?}"),
            Cause::End(end) => end.why.fmt(f),
            Cause::Rule(violation) => violation.fmt(f),
        }
    }
}

/// Names the chapter in which something went wrong.
pub trait Chapter<T> {
    fn chapter(self, what: &'static str) -> Result<T, Stop>;
}

macro_rules! chapters {
    ($($error:ty => |$e:ident| $outcome:expr, $cause:expr;)+) => {$(
        impl<T> Chapter<T> for Result<T, $error> {
            fn chapter(self, what: &'static str) -> Result<T, Stop> {
                self.map_err(|$e| Stop { outcome: $outcome, what, why: Some($cause) })
            }
        }
    )+};
}
chapters! {
    platform::Error => |e| e.outcome(), Cause::Platform(e);
    SynicError => |e| match e {
        SynicError::Platform(below) => below.outcome(),
        SynicError::Judged { .. } => Outcome::HostFailure,
        SynicError::NoFrame => Outcome::Panic,
    }, Cause::Synic(e);
    BadBoot => |e| Outcome::BadConfig, Cause::Boot(e);
    loader::config::ConfigError => |e| Outcome::BadConfig, Cause::Config(e);
    End => |e| e.outcome, Cause::End(e);
    validate::Violation => |e| Outcome::HostFailure, Cause::Rule(e);
}

/// A chapter that failed without anything to say beyond its name.
pub fn stop(outcome: Outcome, what: &'static str) -> Stop {
    Stop {
        outcome,
        what,
        why: None,
    }
}

/// What can only be a fault of our own.
pub fn bug(what: &'static str) -> Stop {
    stop(Outcome::Panic, what)
}
