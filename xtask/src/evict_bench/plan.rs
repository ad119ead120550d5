//! Which runs there are: the same workloads under every way out of the thread.

use super::image::Shape;

pub const POLICIES: [&str; 7] = [
    "nofail", "retry", "eagain", "skip", "pin", "reserve", "derive",
];
pub const FROM: [&str; 2] = ["direct", "evictor"];

/// What is done in the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// (a) files created, (b) walked, (e) deleted.
    Files,
    /// (c): open files grow while cold inodes are looked at.
    Growing,
    /// (d): the same on a device whose reads take 5 ms.
    Slow,
}

impl Workload {
    /// The letters by which it is asked for.
    pub fn letters(self) -> &'static [&'static str] {
        match self {
            Self::Files => &["a", "b", "e"],
            Self::Growing => &["c"],
            Self::Slow => &["d"],
        }
    }
}

/// One daemon's life (two, for `Files`: what is deleted is not in memory any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub workload: Workload,
    pub policy: &'static str,
    pub from: &'static str,
    /// The cap.
    pub mebibytes: u64,
}

impl Run {
    pub fn name(&self) -> String {
        format!(
            "({}) {} {} {}M",
            self.workload.letters().join(""),
            self.policy,
            self.from,
            self.mebibytes
        )
    }

    /// The one that shows whether the workload does what it is for.
    pub fn is_yardstick(&self) -> bool {
        *self
            == Self {
                workload: Workload::Growing,
                policy: "nofail",
                from: "direct",
                mebibytes: 12,
            }
    }

    fn answers_to(&self, word: &str) -> bool {
        self.workload.letters().contains(&word)
            || word == self.policy
            || word == self.from
            || word == self.mebibytes.to_string()
    }
}

/// All runs, in order, that every one of `only`'s kinds of words admits: a letter, a policy, who evicts, a cap in MiB.
pub fn runs(shape: Shape, only: &[String]) -> Result<Vec<Run>, String> {
    let all = all(shape);
    if let Some(word) = only
        .iter()
        .find(|word| !all.iter().any(|run| run.answers_to(word)))
    {
        return Err(format!(
            "nothing is called {word}; there are a to e, {}, {}, and caps of 12, 16, 32, 64 and 1024",
            POLICIES.join(", "),
            FROM.join(", ")
        ));
    }
    let kind = |word: &str| match word {
        "a" | "b" | "c" | "d" | "e" => 0,
        _ if POLICIES.contains(&word) => 1,
        _ if FROM.contains(&word) => 2,
        _ => 3,
    };
    let admitted = |run: &Run| {
        (0..4).all(|wanted| {
            let mut words = only.iter().filter(|word| kind(word) == wanted).peekable();
            words.peek().is_none() || words.any(|word| run.answers_to(word))
        })
    };
    Ok(all.into_iter().filter(admitted).collect())
}

fn all(shape: Shape) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut add = |workload, policy, from, mebibytes| {
        runs.push(Run {
            workload,
            policy,
            from,
            mebibytes,
        });
    };
    if shape == Shape::Small {
        for policy in POLICIES {
            add(Workload::Growing, policy, "direct", 12);
        }
        add(Workload::Growing, "derive", "evictor", 12);
        return runs;
    }
    for workload in [Workload::Growing, Workload::Slow] {
        for mebibytes in [12, 16] {
            for policy in POLICIES {
                for from in FROM {
                    add(workload, policy, from, mebibytes);
                }
            }
        }
        // What memory costs.
        add(workload, "derive", "evictor", 1024);
    }
    for policy in POLICIES {
        for from in FROM {
            add(Workload::Files, policy, from, 16);
        }
    }
    for mebibytes in [32, 64] {
        add(Workload::Files, "nofail", "direct", mebibytes);
        add(Workload::Files, "derive", "evictor", mebibytes);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(words: &[&str]) -> Vec<Run> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        runs(Shape::Large, &words).unwrap()
    }

    #[test]
    fn the_whole_is_what_was_promised() {
        let all = chosen(&[]);
        let count = |workload| all.iter().filter(|run| run.workload == workload).count();
        assert_eq!(count(Workload::Growing), 29);
        assert_eq!(count(Workload::Slow), 29);
        assert_eq!(count(Workload::Files), 18);
        assert_eq!(all.iter().filter(|run| run.is_yardstick()).count(), 1);
    }

    #[test]
    fn words_narrow_the_choice() {
        assert_eq!(chosen(&["c", "nofail"]).len(), 4);
        assert_eq!(chosen(&["c", "d", "12"]).len(), 28);
        assert_eq!(chosen(&["c", "derive", "pin", "evictor", "16"]).len(), 2);
        assert!(runs(Shape::Large, &["f".to_owned()]).is_err());
    }
}
