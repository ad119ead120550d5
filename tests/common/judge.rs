//! Who judges an image: e2fsck and the kernel's own ext4, which are not ours, and our checker, which must agree.

use super::{Image, attempt, checker};
use std::path::Path;

/// `e2fsck -fn` has nothing to say, and neither has our checker.
pub fn clean(image: &Image) {
    clean_at(image.path());
}

pub fn clean_at(path: &Path) {
    verdict(path).unwrap_or_else(|said| panic!("{}: {said}", path.display()));
}

/// What e2fsck, then our checker, has to say.
pub fn verdict(path: &Path) -> Result<(), String> {
    let outcome = attempt!("e2fsck", "-fn", path);
    if !outcome.ok() {
        return Err(format!("e2fsck -fn: {}", outcome.describe()));
    }
    checker::finds_nothing(path)
}
