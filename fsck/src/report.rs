//! Where findings go: text for a person, records for programs, and the answers to questions.
//!
//! Source: e2fsck(8), `-n -p -y`.
//! Invariants: a problem is counted as fixed only when the answer was yes and something will be written.

use crate::problem::{At, Problem};
use crate::spill::Spill;
use crate::{Answer, Result, Stop};
use std::sync::Arc;

/// One problem as it was met.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    pub code: u32,
    pub name: &'static str,
    pub text: String,
    #[serde(flatten)]
    pub at: At,
    /// What is to be done about it.
    pub action: &'static str,
    pub done: bool,
}

/// Who hears about the run.
pub trait Listener {
    fn finding(&mut self, finding: &Finding);
    /// Something that is no problem.
    fn note(&mut self, _text: &str) {}
    /// Pass number and how far it is (of 1000).
    fn progress(&mut self, _pass: u8, _done: u64, _all: u64) {}
    /// Asked with `Answer::Ask`; `None` to stop.
    fn ask(&mut self, _question: &str, default: bool) -> Option<bool> {
        Some(default)
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// Keeps what was found.
#[derive(Default)]
pub struct Collect(pub Vec<Finding>);

impl Listener for Collect {
    fn finding(&mut self, finding: &Finding) {
        self.0.push(finding.clone());
    }
}

pub struct Reporter<'a> {
    answer: Answer,
    listener: &'a mut dyn Listener,
    pub found: u64,
    pub fixed: u64,
    /// Yes to everything from now on.
    all: bool,
    /// After its failure nothing more may be found.
    spill: Option<Arc<Spill>>,
}

impl<'a> Reporter<'a> {
    pub fn new(answer: Answer, listener: &'a mut dyn Listener) -> Self {
        Self {
            answer,
            listener,
            found: 0,
            fixed: 0,
            all: false,
            spill: None,
        }
    }

    pub(crate) fn watch(&mut self, spill: &Arc<Spill>) {
        self.spill = Some(Arc::clone(spill));
    }

    fn may_go_on(&self) -> Result<()> {
        if self.listener.cancelled() {
            return Err(Stop::Cancelled);
        }
        self.spill.as_ref().map_or(Ok(()), |spill| spill.check())
    }

    pub fn answer(&self) -> Answer {
        self.answer
    }

    /// Reports a problem. True when the caller shall repair it: with `-n`, too, since its repairs stay in memory.
    pub fn fix(&mut self, problem: Problem, at: At) -> Result<bool> {
        let entry = problem.entry();
        self.may_go_on()?;
        let text = entry.message(&at);
        let yes = match self.answer {
            Answer::No | Answer::Yes => true,
            Answer::Preen => entry.preen,
            Answer::Ask if self.all => true,
            Answer::Ask => {
                let question = format!("{text} {}?", entry.action.question());
                match self.listener.ask(&question, entry.default) {
                    Some(yes) => yes,
                    None => return Err(Stop::Cancelled),
                }
            }
        };
        self.found += 1;
        let done = yes && self.answer != Answer::No;
        self.fixed += u64::from(done);
        self.listener.finding(&Finding {
            code: entry.code,
            name: entry.name,
            text,
            at,
            action: entry.action.question(),
            done,
        });
        if self.answer == Answer::Preen && !yes {
            return Err(Stop::Undecided);
        }
        Ok(yes)
    }

    /// Reports a number that nobody relies on, which is corrected in passing: with `-n` it is no damage.
    pub fn hint(&mut self, problem: Problem, at: At) -> Result<bool> {
        let before = self.found;
        let yes = self.fix(problem, at)?;
        if self.answer == Answer::No {
            self.found = before;
        }
        Ok(yes)
    }

    pub fn note(&mut self, text: &str) {
        self.listener.note(text);
    }

    pub fn progress(&mut self, pass: u8, done: u64, all: u64) -> Result<()> {
        self.may_go_on()?;
        self.listener.progress(pass, done, all);
        Ok(())
    }

    pub fn yes_to_all(&mut self) {
        self.all = true;
    }
}
