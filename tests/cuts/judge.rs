//! Whether a cut image keeps what was promised: it is mounted, compared with the model, unmounted, and judged by our own
//! checker each time, by e2fsck on a sample. The two must agree.

use crate::checker::check;
use crate::form::{Form, mount, mount_image, options, scratch};
use crate::kernel;
use crate::model::Model;
use crate::tree::dump;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use uext4::device::record::{Event, Record};
use uext4::device::sim::{Disk, Image};
use uext4::error::Result;

/// The feature bit of a file system whose journal is to be replayed.
const RECOVER: u32 = 4;

/// What a run must keep.
pub struct Judge<'a> {
    pub form: &'static Form,
    pub model: &'a Model,
    /// Blocks of 512 bytes and inodes, used and free together.
    pub census: (u64, u64),
}

/// Turns a panic into its message.
pub fn caught<T>(
    work: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The blocks and inodes of a file system, used and free ones together: what neither says is lost.
pub fn census(image: Image) -> Result<(u64, u64)> {
    let (fs, _) = mount_image(image)?;
    let (tree, _, blocks) = dump(&fs)?;
    fs.sync_all()?;
    Ok(count(&fs, tree.nodes.len(), blocks))
}

fn count(fs: &uext4::fs::Fs, nodes: usize, blocks: u64) -> (u64, u64) {
    let space = fs.statfs();
    let free = space.free * u64::from(space.block_size) / 512;
    (free + blocks, space.free_files + nodes as u64)
}

impl Judge<'_> {
    /// Mounts an image that was cut in operation `op`, compares it, unmounts it; returns what that wrote and the image after.
    pub fn survives(
        &self,
        image: Image,
        op: usize,
    ) -> std::result::Result<(Vec<Event>, Image), String> {
        let disk = Disk::new(image);
        let record = Arc::new(Record::new(Arc::clone(&disk) as Arc<_>));
        let text = |error: uext4::error::Error| error.to_string();
        let (fs, _) = mount(Arc::clone(&record) as Arc<_>, options()).map_err(text)?;
        if fs.is_read_only() {
            return Err(format!("mounted read-only: {:?}", fs.notices()));
        }
        let (tree, contents, blocks) = dump(&fs).map_err(text)?;
        self.model.judge(op, &tree, &contents)?;
        fs.sync_all().map_err(text)?;
        let census = count(&fs, tree.nodes.len(), blocks);
        if census != self.census {
            return Err(format!(
                "blocks and inodes, used and free: {census:?}, not {:?}",
                self.census
            ));
        }
        fs.unmount().map_err(text)?;
        let after = disk.image();
        let mut incompat = [0; 4];
        after.read(1024 + 0x60, &mut incompat).map_err(text)?;
        if u32::from_le_bytes(incompat) & RECOVER != 0 {
            return Err("it asks for recovery after unmount".into());
        }
        checked(&after)?;
        Ok((record.take(), after))
    }

    /// A torn superblock: a backup takes its place, read-only, and everything can be read.
    pub fn survives_torn(&self, image: Image, op: usize) -> std::result::Result<(), String> {
        let text = |error: uext4::error::Error| error.to_string();
        let (fs, _) = mount_image(image).map_err(text)?;
        let (tree, contents, _) = dump(&fs).map_err(text)?;
        self.model.judge(op, &tree, &contents)
    }

    pub fn survives_in_the_kernel(
        &self,
        image: &Image,
        op: usize,
    ) -> std::result::Result<(), String> {
        let dir = scratch();
        let (path, at) = (dir.path().join("image"), dir.path().join("mounted"));
        save(image, &path).map_err(|e| e.to_string())?;
        std::fs::create_dir(&at).map_err(|e| e.to_string())?;
        let (tree, contents) = kernel::dump(&path, &at).map_err(|e| e.to_string())?;
        let judged = self.model.judge(op, &tree, &contents);
        judged.map_err(|wrong| format!("the kernel: {wrong}"))?;
        let after = std::fs::read(&path).map_err(|e| e.to_string())?;
        clean(&Image::new(&after)).map_err(|wrong| format!("after the kernel: {wrong}"))
    }

    /// Replayed by e2fsck instead of us.
    pub fn survives_replay_by_e2fsck(
        &self,
        image: &Image,
        op: usize,
    ) -> std::result::Result<(), String> {
        let replayed = replay_by_e2fsck(image)?;
        let done = self.survives(replayed, op);
        done.map(|_| ())
            .map_err(|wrong| format!("replayed by e2fsck: {wrong}"))
    }

    /// Our checker makes it whole without a question, orphans and all, before it is mounted.
    pub fn survives_preening(&self, image: &Image, op: usize) -> std::result::Result<(), String> {
        let disk = Disk::new(image.clone());
        let (status, found) = check(Arc::clone(&disk) as Arc<_>, fsck::Answer::Preen);
        if status > fsck::exit::CORRECTED {
            return Err(format!("fsck.uext4 -p: {status}: {}", found.join("; ")));
        }
        let done = self.survives(disk.image(), op);
        done.map(|_| ())
            .map_err(|wrong| format!("after fsck.uext4 -p: {wrong}"))
    }
}

fn save(image: &Image, path: &Path) -> std::io::Result<()> {
    image.save(&std::fs::File::create(path)?)
}

/// Runs e2fsck on a file of the image; how it ends, and the file.
fn e2fsck(arguments: &[&str], image: &Image) -> (Option<i32>, String, tempfile::TempDir) {
    let dir = scratch();
    let path = dir.path().join("image");
    save(image, &path).expect("the image");
    let output = Command::new("e2fsck")
        .args(arguments)
        .arg(&path)
        .output()
        .expect("e2fsck");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text, dir)
}

/// The same; what it made of the image.
pub fn e2fsck_repairs(arguments: &[&str], image: &Image) -> (Option<i32>, String, Image) {
    let (code, text, dir) = e2fsck(arguments, image);
    let after = std::fs::read(dir.path().join("image")).expect("the image");
    (code, text, Image::new(&after))
}

/// The image after e2fsck's replay of its journal; an error if it cannot.
pub fn replay_by_e2fsck(image: &Image) -> std::result::Result<Image, String> {
    match e2fsck_repairs(&["-fy", "-E", "journal_only"], image) {
        (Some(0 | 1), _, replayed) => Ok(replayed),
        (code, text, _) => Err(format!("e2fsck does not replay it: {code:?}: {text}")),
    }
}

/// Our own checker has nothing to say; if it has, so has e2fsck.
fn checked(image: &Image) -> std::result::Result<(), String> {
    let (status, found) = check(Disk::new(image.clone()), fsck::Answer::No);
    if status == fsck::exit::CLEAN {
        return Ok(());
    }
    let theirs = match e2fsck(&["-fn"], image) {
        (Some(0), ..) => "e2fsck -fn denies it".into(),
        (code, text, _) => format!("e2fsck -fn: {code:?}: {text}"),
    };
    Err(format!(
        "fsck.uext4: {status}: {}; {theirs}",
        found.join("; ")
    ))
}

/// e2fsck has nothing to say.
pub fn clean(image: &Image) -> std::result::Result<(), String> {
    let (code, text, _) = e2fsck(&["-fn"], image);
    match code {
        Some(0) => Ok(()),
        code => Err(format!("e2fsck -fn: {code:?}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::FORMS;

    /// A free block is marked as used in the bitmap of group 0.
    #[test]
    fn both_checkers_notice_a_lost_block() {
        for form in FORMS.iter().filter(|form| form.block == 1024) {
            let mut image = form.image();
            checked(&image).expect("new");
            clean(&image).expect("new");
            let mut place = [0; 4];
            image.read(2048, &mut place).expect("the descriptor");
            let place = u64::from(u32::from_le_bytes(place)) * 1024;
            let mut bitmap = [0; 1024];
            image.read(place, &mut bitmap).expect("the bitmap");
            let free = bitmap.iter().position(|&byte| byte == 0).expect("a block");
            image.write(place + free as u64, &[1]).expect("damage");
            let ours = checked(&image).expect_err(form.name);
            assert!(!ours.contains("denies"), "{}: {ours}", form.name);
            clean(&image).expect_err(form.name);
        }
    }
}
