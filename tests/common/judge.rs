//! Who judges an image: e2fsck and the kernel's own ext4, which are not ours, and our checker, which must agree.

use super::{Image, args, checker, command};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// `e2fsck -fn` has nothing to say, and neither has our checker.
pub fn clean(image: &Image) {
    clean_at(image.path());
}

pub fn clean_at(path: &Path) {
    verdict(path).unwrap_or_else(|said| panic!("{}: {said}", path.display()));
}

/// As `clean`, for an image that e2fsck takes longer for.
pub fn clean_within(limit: Duration, image: &Image) {
    let path = image.path();
    verdict_within(limit, path).unwrap_or_else(|said| panic!("{}: {said}", path.display()));
}

/// What e2fsck, then our checker, has to say.
pub fn verdict(path: &Path) -> Result<(), String> {
    verdict_within(LIMIT, path)
}

fn verdict_within(limit: Duration, path: &Path) -> Result<(), String> {
    let outcome = command::attempt(limit, "e2fsck", &args!["-fn", path]);
    if !outcome.ok() {
        return Err(format!("e2fsck -fn: {}", outcome.describe()));
    }
    checker::finds_nothing(path)
}
