//! What the bench prints and writes: a table, JSON, a chart.

use super::rows::{Figures, ROWS, Row};
use super::sides::{SIDES, Side};
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// All rows that were measured.
pub type Results = BTreeMap<&'static str, Figures>;

const COLUMNS: [Side; 6] = [
    Side::Uext4,
    Side::Kernel,
    Side::Fuse2fs,
    Side::Null,
    Side::Raw,
    Side::NullOnRaw,
];

const LEGEND: &str = "Ratios: how many times faster uext4 is. Ceiling = 1/(1/null + 1/raw). Not durable: fuse2fs (no \
     journal, no flush reaches the disk) and null (stores nothing). null+raw: null that reads, writes and syncs the raw file and \
     does nothing else. Medians; extents are the mean of eight files.";

fn measured(results: &Results) -> impl Iterator<Item = (&'static Row, &Figures)> {
    let found = |row: &'static Row| results.get(row.name).map(|figures| (row, figures));
    ROWS.iter().filter_map(found)
}

fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) if value >= 0.1 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

/// As Markdown. Ratios say how many times faster uext4 is.
pub fn table(results: &Results) -> String {
    let mut lines = vec![
        "| workload | unit | uext4 | kernel | fuse2fs | null | raw | null+raw | ceiling | / kernel | / fuse2fs | / null | / raw | / null+raw | goal | reached |".to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for (row, figures) in measured(results) {
        let mut cells = vec![row.name.to_owned(), row.unit.name().to_owned()];
        cells.extend(COLUMNS.map(|side| figure(figures.median(side))));
        cells.push(figure(row.ceiling(figures)));
        cells.extend(
            COLUMNS[1..]
                .iter()
                .map(|&side| ratio(row.ratio(figures, side))),
        );
        cells.extend(goal(row, figures, results));
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    lines.extend([String::new(), LEGEND.to_owned()]);
    lines.join("\n")
}

/// What a reader wants to know of it: medians, and uext4 beside kernel, fuse2fs, null and its goal.
pub fn short_table(results: &Results) -> String {
    let mut lines = vec![
        "| workload | unit | uext4 | kernel | fuse2fs | null | raw | null+raw | / kernel | / fuse2fs | / null | / null+raw | goal | reached |".to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for (row, figures) in measured(results) {
        let mut cells = vec![format!("`{}`", row.name), row.unit.name().to_owned()];
        cells.extend(COLUMNS.map(|side| figure(figures.median(side))));
        let beside = [Side::Kernel, Side::Fuse2fs, Side::Null, Side::NullOnRaw];
        cells.extend(beside.map(|side| ratio(row.ratio(figures, side))));
        cells.extend(goal(row, figures, results));
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    lines.extend([String::new(), LEGEND.to_owned()]);
    lines.join("\n")
}

/// The goal, and whether it is reached.
fn goal(row: &Row, figures: &Figures, results: &Results) -> [String; 2] {
    let median = |name: &str| results.get(name)?.median(Side::Uext4);
    match row.reached(figures, median) {
        Some((goal, reached)) => {
            let mark = if reached >= 1.0 { "yes" } else { "no" };
            [goal, format!("{mark} ({reached:.2})")]
        }
        None => ["-".to_owned(), "-".to_owned()],
    }
}

pub fn json(results: &Results, notes: &[String]) -> serde_json::Value {
    let median = |name: &str| results.get(name)?.median(Side::Uext4);
    let rows = measured(results).map(|(row, figures)| {
        let sides = SIDES.iter().filter_map(|side| {
            let all = figures.0.get(side)?;
            let report = serde_json::json!({ "median": figures.median(*side), "all": all });
            Some((side.name().to_owned(), report))
        });
        let ratios = COLUMNS[1..].iter().filter_map(|&side| {
            let ratio = row.ratio(figures, side)?;
            Some((side.name().to_owned(), serde_json::json!(ratio)))
        });
        serde_json::json!({
            "workload": row.name,
            "unit": row.unit.name(),
            "sides": sides.collect::<serde_json::Map<_, _>>(),
            "ceiling": row.ceiling(figures),
            "times_faster_than": ratios.collect::<serde_json::Map<_, _>>(),
            "goal": row.reached(figures, median).map(|(goal, _)| goal),
            "reached": row.reached(figures, median).map(|(_, reached)| reached),
        })
    });
    serde_json::json!({ "rows": rows.collect::<Vec<_>>(), "notes": notes })
}

/// Bars: how many times faster uext4 is, on a logarithmic axis.
pub fn chart(results: &Results, path: &Path) -> Result<(), String> {
    draw(results, path).map_err(|e| format!("{}: {e}", path.display()))
}

fn draw(results: &Results, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let others = [
        (Side::Kernel, BLUE),
        (Side::Fuse2fs, RED),
        (Side::Null, GREEN),
        (Side::Raw, MAGENTA),
    ];
    let rows: Vec<_> = measured(results).collect();
    let size = (1100, 80 + 44 * u32::try_from(rows.len())?);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    let count = rows.len();
    let mut chart = ChartBuilder::on(&area)
        .caption("uext4: times faster than", ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(190)
        .build_cartesian_2d((0.02..50.0_f64).log_scale(), 0.0..count as f64)?;
    let label = |at: &f64| {
        let from_top = count.checked_sub(1 + *at as usize);
        let row = from_top.and_then(|index| rows.get(index));
        row.map_or_else(String::new, |(row, _)| row.name.to_owned())
    };
    chart
        .configure_mesh()
        .y_labels(count.max(1))
        .y_label_formatter(&label)
        .disable_y_mesh()
        .draw()?;
    for (number, (side, colour)) in others.into_iter().enumerate() {
        let bars = rows
            .iter()
            .enumerate()
            .filter_map(|(index, (row, figures))| {
                let ratio = row.ratio(figures, side)?.clamp(0.02, 50.0);
                let low = (count - 1 - index) as f64 + 0.1 + 0.2 * (3 - number) as f64;
                let corners = [(1.0, low), (ratio, low + 0.18)];
                Some(Rectangle::new(corners, colour.filled()))
            });
        chart
            .draw_series(bars)?
            .label(side.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .position(SeriesLabelPosition::LowerRight)
        .draw()?;
    area.present()?;
    Ok(())
}
