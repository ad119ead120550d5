//! Which inodes have delayed data, the oldest first.
//!
//! Source: the design's section on delayed allocation.
//! Invariants: an inode with delayed data is listed, or being flushed by somebody who lists it again, so it stays in memory;
//! one that is being flushed can still be found here.

use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::sync::{Mutex, Rank};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The list.
pub struct DirtyInodes {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// In the order of their first delayed block.
    waiting: BTreeMap<u64, (Duration, NodeRef)>,
    /// Taken out by flushers, with how many of these there are.
    busy: HashMap<InodeNumber, (NodeRef, u32)>,
}

impl Default for DirtyInodes {
    fn default() -> Self {
        Self {
            state: Mutex::new(Rank::Shard, State::default()),
        }
    }
}

impl DirtyInodes {
    /// Lists an inode that has delayed data since `now`, unless it is listed.
    pub(super) fn add(&self, node: &NodeRef, now: Duration) {
        let mut state = self.state.lock();
        if node.delayed.lock().set_queued(true) {
            let at = state.next;
            state.next += 1;
            state.waiting.insert(at, (now, NodeRef::clone(node)));
        }
    }

    /// Takes the oldest out, if it is so old that `is_due`; `done` gives it back.
    pub(super) fn take(&self, is_due: impl FnOnce(Duration) -> bool) -> Option<NodeRef> {
        let mut state = self.state.lock();
        let (_, (since, _)) = state.waiting.first_key_value()?;
        if !is_due(*since) {
            return None;
        }
        let (_, (_, node)) = state.waiting.pop_first()?;
        node.delayed.lock().set_queued(false);
        let busy = state.busy.entry(node.ino);
        busy.or_insert_with(|| (NodeRef::clone(&node), 0)).1 += 1;
        Some(node)
    }

    /// The inode has been flushed; what is left of its data makes it as old as `now`.
    pub(super) fn done(&self, node: &NodeRef, now: Duration) {
        let left = {
            let delayed = node.delayed.lock();
            !delayed.is_clean() && delayed.error().is_none()
        };
        if left {
            self.add(node, now);
        }
        let mut state = self.state.lock();
        if let Some((_, count)) = state.busy.get_mut(&node.ino) {
            *count -= 1;
            if *count == 0 && !node.delayed.lock().is_clean() && !left {
                // Its data can be written no more, but still be read.
                return;
            }
            if *count == 0 {
                state.busy.remove(&node.ino);
            }
        }
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<NodeRef> {
        let state = self.state.lock();
        let busy = state.busy.values().map(|(node, _)| node);
        let waiting = state.waiting.values().map(|(_, node)| node);
        busy.chain(waiting).map(NodeRef::clone).collect()
    }
}
