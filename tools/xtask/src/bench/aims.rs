//! What is aimed at, beside what was measured.

use std::fmt::Write;

use serde::Serialize;

/// On which side of the aim a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// At least so much.
    Least(f64),
    /// At most so much.
    Most(f64),
}

/// One aim.
#[derive(Debug, Serialize)]
pub struct Aim {
    what: String,
    aim: Bound,
    measured: Option<f64>,
    reached: Option<bool>,
    note: &'static str,
}

impl Aim {
    /// `measured` is `None` if nothing was.
    pub fn new(what: impl Into<String>, aim: Bound, measured: Option<f64>) -> Aim {
        let measured = measured.filter(|measured| measured.is_finite());
        Aim {
            what: what.into(),
            aim,
            measured,
            reached: measured.map(|measured| match aim {
                Bound::Least(least) => measured >= least,
                Bound::Most(most) => measured <= most,
            }),
            note: "",
        }
    }

    /// With a word to go with it.
    pub fn note(self, note: &'static str) -> Aim {
        Aim { note, ..self }
    }

    fn verdict(&self) -> &'static str {
        match self.reached {
            None => "not measured",
            Some(true) => "reached",
            Some(false) => "not reached",
        }
    }
}

/// All of them as a table.
pub fn table(aims: &[Aim]) -> String {
    let mut text = format!("{:<44} {:>10} {:>10}\n", "aims", "aim", "measured");
    for aim in aims {
        let bound = match aim.aim {
            Bound::Least(least) => format!("≥ {}", figure(least)),
            Bound::Most(most) => format!("≤ {}", figure(most)),
        };
        let measured = aim.measured.map_or("-".to_owned(), figure);
        let note = match aim.note {
            "" => String::new(),
            note => format!(" ({note})"),
        };
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "{:<44} {bound:>10} {measured:>10}  {}{note}",
            aim.what,
            aim.verdict()
        );
    }
    text
}

/// Whole numbers as such, small ones with what matters of them.
fn figure(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value.abs() < 1.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_reached_from_its_side() {
        let verdict = |bound, measured| Aim::new("x", bound, measured).verdict();
        assert_eq!(verdict(Bound::Least(1.0), Some(1.0)), "reached");
        assert_eq!(verdict(Bound::Least(1.0), Some(0.9)), "not reached");
        assert_eq!(verdict(Bound::Most(0.05), Some(0.9)), "not reached");
        assert_eq!(verdict(Bound::Most(0.05), Some(0.01)), "reached");
        assert_eq!(verdict(Bound::Most(0.05), None), "not measured");
        assert_eq!(verdict(Bound::Most(0.05), Some(f64::NAN)), "not measured");
    }

    #[test]
    fn the_table_has_aim_figure_and_verdict() {
        let aim = Aim::new("frames", Bound::Least(22.5), Some(8.213)).note("a word");
        let text = table(&[aim]);
        for wanted in ["frames", "≥ 22.50", "8.21", "not reached (a word)"] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
