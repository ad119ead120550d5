//! Judges that are not ours: e2fsck, and the kernel's own ext4.

use super::{Image, attempt};
use std::path::Path;

/// `e2fsck -fn` has nothing to say.
pub fn clean(image: &Image) {
    clean_at(image.path());
}

pub fn clean_at(path: &Path) {
    let outcome = attempt!("e2fsck", "-fn", path);
    assert!(
        outcome.ok(),
        "e2fsck -fn {}: {}",
        path.display(),
        outcome.describe()
    );
}
