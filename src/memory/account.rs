//! Who pays on this thread: the tokens that were admitted on it, and the reserves it may draw on.
//!
//! Source: the design's section on memory (token, else reserve, else a counted overdraft).
//! Invariants: what an account holds is promised to it alone and counted in the ledger until it is spent or given
//! back; the newest token pays first; an account whose token is gone pays nothing.

use super::reserves::Reserve;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What one token still has.
#[derive(Default)]
pub(super) struct Account {
    pub(super) frames: AtomicU32,
    /// Frames for blocks that are read.
    pub(super) fills: AtomicU32,
    pub(super) bytes: AtomicU64,
    /// The token is gone.
    closed: AtomicBool,
}

impl Account {
    /// Spends up to `count` frames; returns how many there were.
    pub(super) fn spend_frames(&self, count: u32) -> u32 {
        let spent = self
            .frames
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left - left.min(count))
            });
        spent.map_or(0, |before| before.min(count))
    }

    /// Spends all of `count` bytes or nothing.
    pub(super) fn spend_bytes(&self, count: u64) -> bool {
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(count)
            })
            .is_ok()
    }

    pub(super) fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_frames(&self, count: u32) {
        self.frames.fetch_add(count, Ordering::Relaxed);
    }

    /// Frames that were taken out of it and not used; returns those that it cannot keep, since its token is gone.
    pub(super) fn return_frames(&self, count: u32) -> u32 {
        if self.closed.load(Ordering::SeqCst) {
            return count;
        }
        self.frames.fetch_add(count, Ordering::SeqCst);
        // One of the two sees the other.
        if self.closed.load(Ordering::SeqCst) {
            self.frames.swap(0, Ordering::SeqCst)
        } else {
            0
        }
    }

    /// Takes out all frames, those for blocks that are read too, and all bytes, for good.
    pub(super) fn close(&self) -> (u32, u64) {
        self.closed.store(true, Ordering::SeqCst);
        let frames = self.frames.swap(0, Ordering::SeqCst);
        let fills = self.fills.swap(0, Ordering::Relaxed);
        (frames + fills, self.bytes.swap(0, Ordering::Relaxed))
    }
}

enum Payer {
    Token(Arc<Account>),
    Reserve(Reserve),
}

thread_local! {
    /// With the budget that each belongs to.
    static PAYERS: RefCell<Vec<(usize, Payer)>> = const { RefCell::new(Vec::new()) };
}

/// The token pays on this thread from now on.
pub(super) fn enter(budget: usize, account: &Arc<Account>) {
    PAYERS.with_borrow_mut(|payers| {
        // A token that was dropped on another thread left its account behind.
        payers.retain(
            |(_, payer)| !matches!(payer, Payer::Token(old) if Arc::strong_count(old) == 1),
        );
        payers.push((budget, Payer::Token(Arc::clone(account))));
    });
}

pub(super) fn leave(account: &Arc<Account>) {
    // While a thread ends its list may be gone already.
    let _ = PAYERS.try_with(|payers| {
        payers.borrow_mut().retain(
            |(_, payer)| !matches!(payer, Payer::Token(held) if Arc::ptr_eq(held, account)),
        );
    });
}

/// Whether a token of this budget is held here.
pub(super) fn has_token(budget: usize) -> bool {
    PAYERS.with_borrow(|payers| {
        payers.iter().any(|(owner, payer)| {
            *owner == budget
                && matches!(payer, Payer::Token(account) if Arc::strong_count(account) > 1)
        })
    })
}

/// One of this thread's tokens pays a frame for a block that is read; false when none has one.
pub(super) fn pay_fill(budget: usize) -> bool {
    any_token(budget, |account| {
        let spend = |left: u32| left.checked_sub(1);
        account
            .fills
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
    })
}

/// The same for bytes.
pub(super) fn pay_bytes(budget: usize, bytes: u64) -> bool {
    any_token(budget, |account| account.spend_bytes(bytes))
}

fn any_token(budget: usize, pay: impl Fn(&Account) -> bool) -> bool {
    PAYERS.with_borrow(|payers| {
        payers.iter().rev().any(|(owner, payer)| match payer {
            Payer::Token(account) => *owner == budget && pay(account),
            Payer::Reserve(_) => false,
        })
    })
}

/// The reserve that this thread may draw on.
pub(super) fn reserve(budget: usize) -> Option<Reserve> {
    PAYERS.with_borrow(|payers| {
        payers.iter().rev().find_map(|(owner, payer)| match payer {
            Payer::Reserve(reserve) if *owner == budget => Some(*reserve),
            _ => None,
        })
    })
}

/// This thread may draw on a reserve until dropped.
pub struct Draw {
    budget: usize,
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Draw {
    pub(super) fn new(budget: usize, reserve: Reserve) -> Self {
        PAYERS.with_borrow_mut(|payers| payers.push((budget, Payer::Reserve(reserve))));
        Self {
            budget,
            _not_send: std::marker::PhantomData,
        }
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        let _ = PAYERS.try_with(|payers| {
            let mut payers = payers.borrow_mut();
            let newest = payers.iter().rposition(|(owner, payer)| {
                *owner == self.budget && matches!(payer, Payer::Reserve(_))
            });
            if let Some(newest) = newest {
                payers.remove(newest);
            }
        });
    }
}
