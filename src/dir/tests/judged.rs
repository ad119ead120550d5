//! Deep and damaged indexes, directories in their inode, and what the kernel reads and writes.

use super::*;
use crate::dir::InlineSource;
use std::path::Path;

fn long(index: usize) -> Vec<u8> {
    format!("{index:0>230}").into_bytes()
}

/// Adds long names until one is refused, at most `count`.
fn fill(volume: &mut Volume, count: usize) -> usize {
    for index in 0..count {
        let before = volume.inode();
        if let Err(error) = volume.insert(&long(index)) {
            assert!(error.is_posix(Posix::NoSpc), "{error}");
            assert_eq!(volume.inode(), before);
            return index;
        }
    }
    count
}

fn levels(volume: &Volume) -> u8 {
    let command = Command::new("debugfs")
        .args(["-R", "htree_dump /d"])
        .arg(volume.image())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&command.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains("Indirect levels"))
        .expect("an index");
    line.trim().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_full_index_takes_no_more() {
    let mut volume = Volume::new(&["-b", "1024"], "128M");
    let count = fill(&mut volume, 60_000);
    assert!(count > 20_000 && count < 60_000, "{count}");
    assert!(volume.has(&long(count - 1)) && !volume.has(&long(count)));
    volume.check();
}

#[test]
fn large_dir_has_a_third_level() {
    let mut volume = Volume::new(&["-b", "1024", "-O", "large_dir"], "128M");
    assert_eq!(fill(&mut volume, 60_000), 60_000);
    volume.journal.quiesce(&mut || Ok(())).unwrap();
    assert_eq!(levels(&volume), 2);
    for index in (0..60_000).step_by(7) {
        assert!(volume.has(&long(index)));
    }
    volume.assert_complete(1000);
    for index in 0..1000 {
        volume.remove(&long(index * 3));
    }
    volume.check();
}

#[test]
fn a_damaged_index_is_passed_by() {
    let mut volume = Volume::new(&["-b", "1024", "-O", "^metadata_csum"], "16M");
    for index in 0..400 {
        volume.insert(&name(index)).unwrap();
    }
    let dirs = &volume.dirs;
    let inode = volume.inode();
    let root = super::super::blocks::Dir::new(dirs, volume.ino, &inode);
    let root = root.require(crate::ids::FileBlock::ZERO).unwrap();
    volume
        .change(|handle, _| {
            // info_length
            handle.write(&root)?[29] = 7;
            Ok(())
        })
        .unwrap();
    assert!(volume.has(&name(399)) && !volume.has(&name(400)));
    volume.assert_complete(33);
    volume.insert(&name(400)).unwrap();
    assert!(!volume.inode().has_flag(flag::INDEX));
    volume.assert_complete(33);
    volume.check();
}

/// Whatever an index says, every operation comes to an end, in an answer or in an error.
#[test]
fn hostile_indexes_end_in_errors() {
    let mut random = Random(11);
    let mut errors = 0;
    for round in 0..12 {
        let features = if round % 2 == 0 {
            "^metadata_csum"
        } else {
            "^metadata_csum,large_dir"
        };
        let mut volume = Volume::new(&["-b", "1024", "-O", features], "32M");
        fill(&mut volume, 900);
        for _ in 0..25 {
            damage(&volume, &mut random);
            let inode = volume.inode();
            let mut count = 0;
            let mut sink = |_: u64, _: Entry, _: &[u8]| {
                count += 1;
                true
            };
            errors += usize::from(volume.dirs.read(volume.ino, &inode, 0, &mut sink).is_err());
            assert!(count < 1_000_000, "{count}");
            let index = random.below(900);
            errors += usize::from(
                volume
                    .dirs
                    .lookup(volume.ino, &inode, &long(index))
                    .is_err(),
            );
            let (entry, ino, dirs) = (volume.entry(), volume.ino, &volume.dirs);
            let added = format!("{:x>250}", random.below(1 << 30)).into_bytes();
            let insert =
                volume.change(|handle, inode| dirs.insert(handle, ino, inode, &added, entry));
            let remove =
                volume.change(|handle, inode| dirs.remove(handle, ino, inode, &long(index)));
            errors += usize::from(insert.is_err()) + usize::from(remove.is_err());
        }
    }
    assert!(errors > 50, "{errors}");
}

/// Changes a byte near the start of some block, of the root every other time.
fn damage(volume: &Volume, random: &mut Random) {
    let inode = volume.inode();
    let dir = super::super::blocks::Dir::new(&volume.dirs, volume.ino, &inode);
    let blocks = usize::try_from(dir.blocks()).unwrap();
    let at = if random.below(2) == 0 {
        0
    } else {
        random.below(blocks)
    };
    let Ok(buffer) = dir.require(crate::ids::FileBlock::new(u32::try_from(at).unwrap())) else {
        return;
    };
    let (offset, value) = (random.below(120), random.below(256));
    volume
        .change(|handle, _| {
            handle.write(&buffer)?[offset] = u8::try_from(value).unwrap();
            Ok(())
        })
        .unwrap();
}

/// The image on a loop device under the kernel's ext4, until dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let status = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(image)
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success());
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let status = Command::new("sh")
            .args([
                "-c",
                "for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.3; done; exit 1",
            ])
            .arg(self.0)
            .status()
            .unwrap();
        assert!(status.success() || std::thread::panicking());
    }
}

fn listed(directory: &Path) -> BTreeSet<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect()
}

#[test]
fn the_kernel_and_we_see_the_same_names() {
    use std::os::unix::ffi::OsStringExt;
    let mut volume = Volume::new(&["-b", "1024"], "32M");
    for index in 0..4000 {
        volume.insert(&name(index)).unwrap();
    }
    let mut names = volume.names.clone();
    let directory = volume.check();
    let at = directory.path().join("mnt");
    let path = |bytes: Vec<u8>| at.join("d").join(std::ffi::OsString::from_vec(bytes));
    {
        let _mounted = Mounted::new(&directory.path().join("image"), &at);
        assert!(listed(&at.join("d")) == names);
        for index in 0..4000 {
            assert!(path(name(index)).exists());
        }
        for index in 0..1500 {
            std::fs::remove_file(path(name(index * 2))).unwrap();
            std::fs::hard_link(at.join("f"), path(name(10_000 + index))).unwrap();
            names.remove(&name(index * 2));
            names.insert(name(10_000 + index));
        }
    }
    let mut volume = Volume::open(directory);
    volume.names = names.clone();
    volume.assert_complete(100);
    assert!(names.iter().all(|name| volume.has(name)));
    for index in 0..1000 {
        volume.remove(&name(10_000 + index));
    }
    volume.check();
}

/// What debugfs says the attribute holds.
struct Debugfs(PathBuf);

impl InlineSource for Debugfs {
    fn system_data(&self, ino: InodeNumber, _: &Inode) -> Result<Vec<u8>> {
        let value = self.0.with_extension("value");
        let request = format!("ea_get -f {} <{ino}> system.data", value.display());
        Command::new("debugfs")
            .arg("-R")
            .arg(request)
            .arg(&self.0)
            .output()
            .unwrap();
        Ok(std::fs::read(value).unwrap())
    }
}

#[test]
fn entries_in_an_attribute_are_read() {
    let volume = Volume::new(&["-b", "4096", "-I", "512", "-O", "inline_data"], "16M");
    let directory = volume.check();
    let at = directory.path().join("mnt");
    let names: BTreeSet<Vec<u8>> = (0..9).map(name).collect();
    {
        let _mounted = Mounted::new(&directory.path().join("image"), &at);
        for name in &names {
            std::fs::hard_link(
                at.join("f"),
                at.join("d").join(std::str::from_utf8(name).unwrap()),
            )
            .unwrap();
        }
    }
    let source = Arc::new(Debugfs(directory.path().join("image")));
    let mut volume = Volume::open(directory);
    volume.dirs.inline = Some(source);
    assert!(volume.inode().has_flag(flag::INLINE_DATA) && volume.inode().size > 60);
    volume.names = names;
    for count in [1, 3, 20] {
        volume.assert_complete(count);
    }
    for index in 0..9 {
        assert!(volume.has(&name(index)));
    }
    assert!(!volume.has(b"absent"));
    assert!(!volume.dirs.is_empty(volume.ino, &volume.inode()).unwrap());
}
