//! The rows of the bench: names, units, goals; and the arithmetic of their figures.

use super::sides::Side;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    MebibytesPerSecond,
    PerSecond,
    Seconds,
    Extents,
    Times,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::MebibytesPerSecond => "MiB/s",
            Unit::PerSecond => "1/s",
            Unit::Seconds => "s",
            Unit::Extents => "extents",
            Unit::Times => "x",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Unit::MebibytesPerSecond | Unit::PerSecond)
    }
}

/// What a row is to reach, as a factor of a figure of the same run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    Ceiling(f64),
    Null(f64),
    /// The slower of null and raw.
    NullOrRaw(f64),
    Kernel(f64),
    /// Our own figure of another row.
    Row(&'static str, f64),
    /// Of null, and of fuse2fs.
    NullAndFuse2fs(f64, f64),
    /// Our figure itself, at most.
    AtMost(f64),
    None,
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub group: Group,
    pub unit: Unit,
    pub goal: Goal,
}

/// Rows of one group are measured together, each on what the one before has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Data,
    Append,
    Names,
    Tree,
    Interleave,
    Huge,
    Alloc,
}

pub const GROUPS: [Group; 7] = [
    Group::Data,
    Group::Append,
    Group::Names,
    Group::Tree,
    Group::Interleave,
    Group::Huge,
    Group::Alloc,
];

const fn row(name: &'static str, group: Group, unit: Unit, goal: Goal) -> Row {
    Row {
        name,
        group,
        unit,
        goal,
    }
}

pub const ROWS: [Row; 18] = {
    use Group::*;
    use Unit::*;
    [
        row(
            "seqwrite-1m",
            Data,
            MebibytesPerSecond,
            Goal::NullOrRaw(0.8),
        ),
        row("seqread-1m", Data, MebibytesPerSecond, Goal::NullOrRaw(0.8)),
        row("randread-4k-dio-qd1", Data, PerSecond, Goal::Ceiling(0.85)),
        row("randread-4k-dio-qd16", Data, PerSecond, Goal::Ceiling(0.85)),
        row("randwrite-4k-fsync", Data, PerSecond, Goal::None),
        row("randwrite-4k-dio-qd1", Data, PerSecond, Goal::Ceiling(0.85)),
        row("append-4k-fsync", Append, PerSecond, Goal::Ceiling(0.85)),
        row(
            "append-4k-fsync-8jobs",
            Append,
            PerSecond,
            Goal::Row("append-4k-fsync", 4.0),
        ),
        row("create-20k", Names, PerSecond, Goal::Null(0.85)),
        row("stat-20k-cold", Names, PerSecond, Goal::Null(0.7)),
        row("delete-20k", Names, PerSecond, Goal::Null(0.85)),
        row("untar-sync", Tree, Seconds, Goal::NullAndFuse2fs(0.8, 5.0)),
        row("find-cold", Tree, Seconds, Goal::Null(0.7)),
        row("tarread-cold", Tree, Seconds, Goal::Null(0.7)),
        row("rm-rf", Tree, Seconds, Goal::Null(0.85)),
        row(
            "interleave-8-append",
            Interleave,
            Extents,
            Goal::Kernel(1.0),
        ),
        row("mount-15t", Huge, Seconds, Goal::AtMost(0.1)),
        row("alloc-scale", Alloc, Times, Goal::AtMost(2.0)),
    ]
};

/// Every figure of a row, by side.
#[derive(Clone, Debug, Default)]
pub struct Figures(pub BTreeMap<Side, Vec<f64>>);

impl Figures {
    pub fn add(&mut self, side: Side, figure: f64) {
        self.0.entry(side).or_default().push(figure);
    }

    pub fn median(&self, side: Side) -> Option<f64> {
        let mut figures = self.0.get(&side)?.clone();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }

    /// Whether the kernel's figures lie further apart than 25 %.
    pub fn is_restless(&self) -> bool {
        let Some(figures) = self.0.get(&Side::Kernel) else {
            return false;
        };
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(0.0, f64::max);
        most > 1.25 * least
    }
}

impl Row {
    /// How many times faster than `other` uext4 is.
    pub fn ratio(&self, figures: &Figures, other: Side) -> Option<f64> {
        Some(self.faster(figures.median(Side::Uext4)?, figures.median(other)?))
    }

    fn faster(&self, ours: f64, theirs: f64) -> f64 {
        if self.unit.more_is_better() {
            ours / theirs
        } else {
            theirs / ours
        }
    }

    /// What can be had of a workload that must pass through FUSE and the device, one after the other.
    pub fn ceiling(&self, figures: &Figures) -> Option<f64> {
        let (null, raw) = (figures.median(Side::Null)?, figures.median(Side::Raw)?);
        if self.unit.more_is_better() {
            Some(1.0 / (1.0 / null + 1.0 / raw))
        } else {
            Some(null + raw)
        }
    }

    /// The goal in words, and our figure in parts of it: 1 and more is reached.
    pub fn reached(
        &self,
        figures: &Figures,
        row_median: impl Fn(&str) -> Option<f64>,
    ) -> Option<(String, f64)> {
        let ours = figures.median(Side::Uext4)?;
        let of = |side| figures.median(side).map(|theirs| self.faster(ours, theirs));
        match self.goal {
            Goal::Ceiling(factor) => {
                let reached = self.faster(ours, self.ceiling(figures)?);
                Some((format!("{factor} x ceiling"), reached / factor))
            }
            Goal::Null(factor) => Some((format!("{factor} x null"), of(Side::Null)? / factor)),
            Goal::NullOrRaw(factor) => {
                let reached = of(Side::Null)?.max(of(Side::Raw)?);
                Some((format!("{factor} x min(null, raw)"), reached / factor))
            }
            Goal::Kernel(factor) => {
                Some((format!("{factor} x kernel"), of(Side::Kernel)? / factor))
            }
            Goal::Row(other, factor) => {
                let reached = ours / row_median(other)?;
                Some((format!("{factor} x {other}"), reached / factor))
            }
            Goal::NullAndFuse2fs(null, fuse2fs) => {
                let reached = (of(Side::Null)? / null).min(of(Side::Fuse2fs)? / fuse2fs);
                Some((format!("{null} x null, {fuse2fs} x fuse2fs"), reached))
            }
            Goal::AtMost(limit) => Some((format!("{limit} {}", self.unit.name()), limit / ours)),
            Goal::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(all: &[(Side, &[f64])]) -> Figures {
        Figures(
            all.iter()
                .map(|(side, list)| (*side, list.to_vec()))
                .collect(),
        )
    }

    #[test]
    fn ratios_say_how_much_faster() {
        let seen = figures(&[(Side::Uext4, &[2.0, 9.0, 3.0]), (Side::Kernel, &[1.5])]);
        let find = ROWS.iter().find(|row| row.name == "find-cold").unwrap();
        let stat = ROWS.iter().find(|row| row.name == "stat-20k-cold").unwrap();
        assert_eq!(find.ratio(&seen, Side::Kernel), Some(0.5));
        assert_eq!(stat.ratio(&seen, Side::Kernel), Some(2.0));
        assert_eq!(stat.ratio(&seen, Side::Null), None);
    }

    #[test]
    fn the_ceiling_is_one_after_the_other() {
        let seen = figures(&[
            (Side::Uext4, &[17.0]),
            (Side::Null, &[60.0]),
            (Side::Raw, &[30.0]),
        ]);
        let row = ROWS
            .iter()
            .find(|row| row.name == "append-4k-fsync")
            .unwrap();
        assert!((row.ceiling(&seen).unwrap() - 20.0).abs() < 1e-9);
        let (_, reached) = row.reached(&seen, |_| None).unwrap();
        assert!((reached - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_restless_kernel_is_seen() {
        assert!(figures(&[(Side::Kernel, &[1.0, 1.3])]).is_restless());
        assert!(!figures(&[(Side::Kernel, &[1.0, 1.2])]).is_restless());
    }
}
