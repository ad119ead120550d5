//! What the bench prints and writes: a table for each workload, JSON, a chart.

use super::meter::{Latency, Meter};
use super::plan::{FROM, POLICIES, Run};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// One workload under one policy.
pub struct Row {
    pub letter: &'static str,
    pub run: Run,
    /// What there is more of when it is better, by name; the first is the row's throughput.
    pub rates: Vec<(&'static str, f64)>,
    /// Of requests, by name.
    pub latencies: Vec<(&'static str, Latency)>,
    pub counts: Counts,
    pub failures: u64,
    pub first_failure: Option<String>,
    /// KiB; over the daemon's life so far.
    pub high_water: Option<u64>,
    pub stats: Value,
}

/// What the daemon counted meanwhile.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Counts {
    pub seconds: f64,
    pub evicted: u64,
    pub swept: u64,
    pub with_preallocations: u64,
    /// Inside reclaim: buddies asked for, built, bitmaps read, allocations.
    pub buddy_loads: u64,
    pub buddy_builds: u64,
    pub bitmap_reads: u64,
    pub allocations: u64,
    pub put_back: u64,
    pub skipped: u64,
    /// For memory, at admission and in reclaim.
    pub waits: u64,
    pub longest_wait_us: u64,
    pub waits_in_reclaim: u64,
    pub longest_wait_in_reclaim_us: u64,
    pub private_bytes: u64,
    pub refused: u64,
    pub overdrafts: u64,
}

impl Counts {
    /// Between two answers of `uext4 stats`; what has no difference is the later one's.
    pub fn between(before: &Value, after: &Value, seconds: f64) -> Self {
        let read = |stats: &Value, place: &str| stats.pointer(place).and_then(Value::as_u64);
        let now = |place: &str| read(after, place).unwrap_or(0);
        let since = |place: &str| now(place).saturating_sub(read(before, place).unwrap_or(0));
        Self {
            seconds,
            evicted: since("/eviction/evicted"),
            swept: since("/eviction/swept"),
            with_preallocations: since("/eviction/with_preallocations"),
            buddy_loads: since("/eviction/buddy_loads"),
            buddy_builds: since("/eviction/buddy_builds"),
            bitmap_reads: since("/eviction/bitmap_reads"),
            allocations: since("/eviction/allocations"),
            put_back: since("/eviction/put_back"),
            skipped: since("/eviction/skipped"),
            waits: since("/memory/waits/count"),
            longest_wait_us: now("/memory/waits/max_us"),
            waits_in_reclaim: since("/memory/waits_in_reclaim/count"),
            longest_wait_in_reclaim_us: now("/memory/waits_in_reclaim/max_us"),
            private_bytes: now("/eviction/private_bytes"),
            refused: since("/memory/activity/refused"),
            overdrafts: since("/memory/activity/overdrafts"),
        }
    }

    pub fn evictions_per_second(&self) -> f64 {
        (self.evicted + self.swept) as f64 / self.seconds.max(0.001)
    }
}

impl Row {
    pub fn new(letter: &'static str, run: Run, counts: Counts, stats: Value) -> Self {
        Self {
            letter,
            run,
            rates: Vec::new(),
            latencies: Vec::new(),
            counts,
            failures: 0,
            first_failure: None,
            high_water: None,
            stats,
        }
    }

    pub fn add(&mut self, name: &'static str, meter: Meter) {
        self.failures += meter.failures;
        self.first_failure = self.first_failure.take().or(meter.first_failure.clone());
        self.latencies.push((name, meter.latency()));
    }

    fn latency(&self, name: &str) -> Option<Latency> {
        self.latencies
            .iter()
            .find(|(its, _)| *its == name)
            .map(|(_, latency)| *latency)
    }
}

/// All rows as Markdown, a table for each workload. Times in milliseconds: median/99 %/longest.
pub fn tables(rows: &[Row]) -> String {
    let mut out = String::new();
    for letter in ["a", "b", "c", "d", "e"] {
        let mine: Vec<&Row> = rows.iter().filter(|row| row.letter == letter).collect();
        if let Some(first) = mine.first() {
            out.push_str(&head(first));
            mine.iter().for_each(|row| out.push_str(&line(row)));
        }
    }
    out
}

fn head(row: &Row) -> String {
    let mut cells = vec![format!("({})", row.letter), "from".into(), "MiB".into()];
    cells.extend(row.rates.iter().map(|(name, _)| (*name).to_owned()));
    cells.extend(row.latencies.iter().map(|(name, _)| format!("{name} (ms)")));
    let counts = [
        "evictions/s",
        "with blocks set aside",
        "buddy loads in reclaim",
        "built",
        "bitmap reads",
        "allocations in reclaim",
        "waits (longest, ms)",
        "in reclaim (longest, ms)",
        "kept by the policy (KiB)",
        "failures",
        "VmHWM (KiB)",
    ];
    cells.extend(counts.map(str::to_owned));
    format!(
        "\n| {} |\n|{}\n",
        cells.join(" | "),
        "---|".repeat(cells.len())
    )
}

fn line(row: &Row) -> String {
    let counts = &row.counts;
    let run = &row.run;
    let mut cells = vec![
        run.policy.to_owned(),
        run.from.to_owned(),
        run.mebibytes.to_string(),
    ];
    cells.extend(row.rates.iter().map(|(_, rate)| short(*rate)));
    cells.extend(row.latencies.iter().map(|(_, latency)| {
        let all = [latency.p50_us, latency.p99_us, latency.max_us];
        all.map(|micros| short(f64::from(micros) / 1000.0))
            .join("/")
    }));
    let waits = |count: u64, micros: u64| format!("{count} ({})", short(micros as f64 / 1000.0));
    cells.extend([
        short(counts.evictions_per_second()),
        counts.with_preallocations.to_string(),
        counts.buddy_loads.to_string(),
        counts.buddy_builds.to_string(),
        counts.bitmap_reads.to_string(),
        counts.allocations.to_string(),
        waits(counts.waits, counts.longest_wait_us),
        waits(counts.waits_in_reclaim, counts.longest_wait_in_reclaim_us),
        counts.private_bytes.div_ceil(1024).to_string(),
        row.failures.to_string(),
        row.high_water
            .map_or_else(|| "-".to_owned(), |kib| kib.to_string()),
    ]);
    format!("| {} |\n", cells.join(" | "))
}

fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

pub fn json(rows: &[Row], notes: &[String]) -> Value {
    let named = |list: &[(&'static str, f64)]| -> serde_json::Map<String, Value> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect()
    };
    let rows = rows.iter().map(|row| {
        let latencies: serde_json::Map<String, Value> = row
            .latencies
            .iter()
            .map(|(name, latency)| ((*name).to_owned(), json!(latency)))
            .collect();
        json!({
            "workload": row.letter,
            "policy": row.run.policy,
            "from": row.run.from,
            "memory_mib": row.run.mebibytes,
            "rates": named(&row.rates),
            "latencies": latencies,
            "evictions_per_second": row.counts.evictions_per_second(),
            "counts": row.counts,
            "failures": row.failures,
            "first_failure": row.first_failure,
            "vm_hwm_kib": row.high_water,
            "stats": row.stats,
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "notes": notes })
}

/// Throughput and the longest append of (c) and (d) by policy.
pub fn chart(rows: &[Row], path: &Path) -> Result<(), String> {
    draw(rows, path).map_err(|e| format!("{}: {e}", path.display()))
}

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(rows: &[Row], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (1300, 1200)).into_drawing_area();
    area.fill(&WHITE)?;
    let panels = area.split_evenly((4, 1));
    let rate = |row: &Row| row.rates.first().map(|(_, rate)| *rate);
    let longest = |row: &Row| row.latency("append").map(|l| f64::from(l.max_us) / 1000.0);
    for (index, letter) in ["c", "d"].into_iter().enumerate() {
        let title = format!("({letter}) appended, MiB/s");
        panel(&panels[2 * index], rows, letter, &title, &rate)?;
        let title = format!("({letter}) longest append, ms");
        panel(&panels[2 * index + 1], rows, letter, &title, &longest)?;
    }
    area.present()?;
    Ok(())
}

fn panel(
    area: &Panel<'_>,
    rows: &[Row],
    letter: &str,
    title: &str,
    value: &dyn Fn(&Row) -> Option<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let ways: Vec<(&str, &str)> = POLICIES
        .iter()
        .flat_map(|policy| FROM.map(|from| (*policy, from)))
        .collect();
    let found = |way: (&str, &str), mebibytes: u64| {
        let is = |row: &&Row| {
            row.letter == letter
                && (row.run.policy, row.run.from) == way
                && row.run.mebibytes == mebibytes
        };
        rows.iter().find(is).and_then(value)
    };
    let caps = [(12, BLUE), (16, GREEN)];
    let all = ways
        .iter()
        .flat_map(|&way| caps.map(|(cap, _)| found(way, cap)))
        .flatten();
    let top = all.fold(1.0_f64, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..ways.len() as f64, 0.0..top)?;
    let label = |at: &f64| {
        let way = ways.get(*at as usize);
        way.map_or_else(String::new, |(policy, from)| format!("{policy}/{from}"))
    };
    chart
        .configure_mesh()
        .x_labels(ways.len() + 1)
        .x_label_formatter(&label)
        .x_label_offset(40)
        .disable_x_mesh()
        .draw()?;
    for (side, (cap, colour)) in caps.into_iter().enumerate() {
        let bars = ways.iter().enumerate().filter_map(|(index, &way)| {
            let left = index as f64 + 0.1 + 0.4 * side as f64;
            let corners = [(left, 0.0), (left + 0.38, found(way, cap)?)];
            Some(Rectangle::new(corners, colour.filled()))
        });
        chart
            .draw_series(bars)?
            .label(format!("{cap} MiB"))
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::plan::Workload;
    use super::*;

    fn row() -> Row {
        let stats = |builds: u64| {
            json!({ "eviction": { "buddy_builds": builds, "evicted": 40, "private_bytes": 2048 },
                    "memory": { "waits": { "count": 3, "max_us": 12_000 } } })
        };
        let counts = Counts::between(&stats(5), &stats(12), 2.0);
        let run = Run {
            workload: Workload::Growing,
            policy: "pin",
            from: "direct",
            mebibytes: 12,
        };
        let mut row = Row::new("c", run, counts, Value::Null);
        row.rates.push(("MiB/s", 37.5));
        row.add("append", Meter::default());
        row
    }

    #[test]
    fn counts_are_differences() {
        let counts = row().counts;
        assert_eq!(
            (counts.buddy_builds, counts.evicted, counts.waits),
            (7, 0, 0)
        );
        assert_eq!(
            (counts.longest_wait_us, counts.private_bytes),
            (12_000, 2048)
        );
    }

    #[test]
    fn every_form_shows_the_row() {
        let rows = [row()];
        let table = tables(&rows);
        assert!(
            table.contains("| pin | direct | 12 | 37.5 | 0.00/0.00/0.00 |"),
            "{table}"
        );
        assert_eq!(json(&rows, &[])["rows"][0]["counts"]["buddy_builds"], 7);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chart.svg");
        chart(&rows, &path).unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("pin/direct")
        );
    }
}
