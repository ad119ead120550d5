//! stub
/// Something that can give memory back.
pub trait Shrinker: Send + Sync {
    /// Frees up to `frames` frames without waiting; returns how many it freed. Takes locks with try_lock only.
    fn shrink(&self, frames: usize) -> usize;
}
