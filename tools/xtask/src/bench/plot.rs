//! Bars beside each other, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, IntoFont, RGBColor, Rectangle, SVGBackend, Text,
    WHITE,
};

/// One thing that was measured in two ways.
pub struct Bar {
    /// What it is called.
    pub name: String,
    /// The two figures.
    pub values: [f64; 2],
}

const COLOURS: [RGBColor; 2] = [RGBColor(0x1f, 0x77, 0xb4), RGBColor(0xbb, 0xbb, 0xbb)];
/// Height of one thing with its two bars.
const ROW: u32 = 44;

/// Draws `bars` into `file`, the first at the top. `names` says what is what.
pub fn bars(file: &Path, title: &str, names: [&str; 2], bars: &[Bar]) -> Result<()> {
    if bars.is_empty() {
        return Ok(());
    }
    draw(file, title, names, bars).map_err(|why| anyhow!("cannot draw {}: {why}", file.display()))
}

fn draw(
    file: &Path,
    title: &str,
    names: [&str; 2],
    bars: &[Bar],
) -> Result<(), Box<dyn std::error::Error>> {
    let height = ROW * u32::try_from(bars.len())? + 90;
    let root = SVGBackend::new(file, (960, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let largest = bars.iter().flat_map(|bar| bar.values).fold(1.0, f64::max);
    let rows = bars.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("{title}: {} (blue), {} (grey)", names[0], names[1]),
            ("sans-serif", 18),
        )
        .margin(8)
        .x_label_area_size(28)
        // Names stand left of the axis.
        .y_label_area_size(250)
        .build_cartesian_2d(0.0..largest * 1.12, 0.0..rows)?;
    chart.configure_mesh().disable_y_mesh().y_labels(0).draw()?;
    for (at, bar) in bars.iter().enumerate() {
        let top = rows - at as f64;
        for (way, (value, colour)) in bar.values.iter().zip(COLOURS).enumerate() {
            let upper = top - 0.1 - 0.4 * way as f64;
            let corners = [(0.0, upper - 0.38), (*value, upper)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            let label = ("sans-serif", 12).into_font().color(&BLACK);
            let place = (*value + largest * 0.005, upper - 0.05);
            chart.draw_series([Text::new(format!("{value:.1}"), place, label)])?;
        }
        let (x, y) = chart.backend_coord(&(0.0, top - 0.35));
        let label = ("sans-serif", 14).into_font().color(&BLACK);
        root.draw(&Text::new(bar.name.as_str(), (x - 245, y), label))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_every_name_and_figure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bars.svg");
        let all = ["one path", "another"].map(|name| Bar {
            name: name.to_owned(),
            values: [12.5, 3.0],
        });
        bars(&file, "ns", ["path", "memcpy"], &all).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for wanted in ["one path", "another", "12.5", "3.0", "<svg"] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
