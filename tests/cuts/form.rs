//! The images that runs begin with, and what is done to them before the first cut: the disk filled but for a little, the log
//! brought to where it soon goes round.

use crate::op::{FILLER, ino};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use uext4::device::sim::{Disk, Image, Rng, Ticks};
use uext4::error::Result;
use uext4::evict::{From, PolicyName, Settings};
use uext4::file::Fallocate;
use uext4::fs::{Caller, Fs, NewNode, Options, SetAttr, WriteMode};
use uext4::memory::{Need, Token};

/// A form of image, small.
pub struct Form {
    pub name: &'static str,
    mke2fs: &'static str,
    size: &'static str,
    pub block: usize,
    /// Files have extents.
    pub extents: bool,
    /// A torn superblock shows, and there is a backup where one is looked for.
    pub backup: bool,
}

pub const FORMS: [Form; 7] = [
    form(
        "4k",
        "-t ext4 -b 4096 -g 1024 -J size=4 -O orphan_file",
        "12M",
        4096,
    ),
    Form {
        backup: true,
        ..form("1k", "-t ext4 -b 1024 -J size=1 -O orphan_file", "9M", 1024)
    },
    form(
        "1k,^metadata_csum",
        "-t ext4 -b 1024 -J size=1 -O ^metadata_csum",
        "5M",
        1024,
    ),
    form(
        "2k,^orphan_file",
        "-t ext4 -b 2048 -g 2048 -J size=2 -I 128 -O ^orphan_file",
        "7M",
        2048,
    ),
    form(
        "1k,^64bit",
        "-t ext4 -b 1024 -J size=1 -O ^64bit,^metadata_csum,uninit_bg,orphan_file",
        "9M",
        1024,
    ),
    Form {
        extents: false,
        ..form("ext3", "-t ext3 -b 1024 -J size=1", "5M", 1024)
    },
    form(
        "1k,groups",
        "-t ext4 -b 1024 -g 1024 -J size=1 -O orphan_file",
        "8M",
        1024,
    ),
];

pub const NO_JOURNAL: Form = form(
    "^has_journal",
    "-t ext4 -b 1024 -O ^has_journal",
    "4M",
    1024,
);

/// Where eviction is tried: little memory for the size.
pub const EVICTED: Form = form(
    "1k,64M",
    "-t ext4 -b 1024 -J size=1 -O orphan_file",
    "64M",
    1024,
);

const fn form(name: &'static str, mke2fs: &'static str, size: &'static str, block: usize) -> Form {
    Form {
        name,
        mke2fs,
        size,
        block,
        extents: true,
        backup: false,
    }
}

/// The same hashes in every run, and the same times.
const ID: &str = "c0ffee00-1234-4321-8888-0123456789ab";
const TIME: &str = "1750000000";

impl Form {
    pub fn named(name: &str) -> &'static Form {
        let mut all = FORMS.iter().chain(const { &[NO_JOURNAL, EVICTED] });
        all.find(|form| form.name == name).expect("a form")
    }

    /// As mke2fs makes it; the same bytes each time.
    pub fn image(&self) -> Image {
        static MADE: Mutex<BTreeMap<&str, Image>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().expect("no panic while making images");
        made.entry(self.name).or_insert_with(|| self.make()).clone()
    }

    fn make(&self) -> Image {
        let dir = scratch();
        let path = dir.path().join("image");
        let output = Command::new("mke2fs")
            .env("E2FSPROGS_FAKE_TIME", TIME)
            .args(["-q", "-F", "-N", "128", "-U", ID, "-E"])
            .arg(format!("lazy_itable_init=0,hash_seed={ID}"))
            .args(self.mke2fs.split(' '))
            .arg(&path)
            .arg(self.size)
            .output()
            .expect("mke2fs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}", self.name);
        Image::new(&std::fs::read(&path).expect("the image"))
    }
}

pub fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(dir).expect("a scratch directory")
}

impl Setup {
    /// How the run itself mounts.
    pub fn options(&self) -> Options {
        let all = options();
        let floor = uext4::memory::sizes::floor(1, self.form().block as u64, all.max_write);
        Options {
            memory: self.pressed.map_or(all.memory, |_| floor),
            discard: self.discard,
            evict: Settings {
                policy: PolicyName::parse(&self.evict).expect("a policy"),
                from: if self.direct {
                    From::Direct
                } else {
                    From::Evictor
                },
                ..Settings::default()
            },
            ..all
        }
    }

    /// Takes so much memory away that only that is left.
    pub fn press(&self, fs: &Fs) -> Option<Token> {
        let memory = fs.memory();
        let snapshot = memory.snapshot();
        let left = u64::from(self.pressed?) * snapshot.frame_cost;
        let free = snapshot.cap.saturating_sub(snapshot.promised + left);
        let frames = u32::try_from(free / snapshot.frame_cost).unwrap_or(0);
        (frames > 0).then(|| memory.admit_private(Need::frames(frames)))
    }
}

pub fn options() -> Options {
    Options {
        memory: 16 << 20,
        max_write: 128 << 10,
        // What a thread has for itself is the same however many there are.
        threads: 1,
        ..Options::default()
    }
}

/// What kind of operations a run is rich in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    General,
    /// Directories that grow, go and leave their blocks to files.
    Recycle,
    /// Data, holes and unwritten space.
    Space,
    /// Names and links.
    Names,
    /// Files with preallocations that are evicted.
    Eviction,
    /// Commits alone, never a round of the committer: the log stays full, and its tail moves when it must.
    Full,
}

/// Everything that a run depends on but its operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    pub form: String,
    pub seed: u64,
    pub profile: Profile,
    /// Blocks that are left free; `None`: all that there are.
    pub spare: Option<u64>,
    /// The run begins with the log's head this far from its end; `None`: at its beginning.
    pub room: Option<u32>,
    /// After this many commits before the run, the log is emptied once.
    pub clean_after: u32,
    /// The policy of eviction.
    #[serde(default = "derive")]
    pub evict: String,
    /// Whoever wants memory evicts.
    #[serde(default)]
    pub direct: bool,
    /// The cap is at its floor, and this many blocks of it are left to begin with.
    #[serde(default)]
    pub pressed: Option<u32>,
    /// The disk is told what was freed.
    #[serde(default)]
    pub discard: bool,
}

fn derive() -> String {
    PolicyName::default().name().into()
}

impl Setup {
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x0005_e704);
        let form = &FORMS[rng.below(FORMS.len() as u64) as usize];
        let profile = match rng.below(6) {
            0 | 1 => Profile::General,
            2 | 3 => Profile::Recycle,
            4 => Profile::Space,
            _ => Profile::Names,
        };
        let policy = PolicyName::ALL[rng.below(7) as usize];
        let more = Self {
            evict: policy.name().into(),
            direct: rng.below(2) == 0,
            pressed: (rng.below(3) == 0).then(|| 240 + rng.below(160) as u32),
            discard: rng.below(3) == 0,
            ..Self::full(seed, form.name, 10 + rng.below(60) as u32)
        };
        if seed % 6 == 5 {
            return more;
        }
        Self {
            form: form.name.into(),
            seed,
            profile,
            spare: (rng.below(2) == 0).then(|| 40 + rng.below(200)),
            room: (rng.below(4) > 0).then(|| 10 + rng.below(200) as u32),
            clean_after: if rng.below(2) == 0 {
                0
            } else {
                rng.below(150) as u32
            },
            ..more
        }
    }

    /// A cap at its floor, and all that one policy of eviction does under it.
    pub fn of_eviction(seed: u64, policy: PolicyName) -> Self {
        let more = Self::of_seed(seed);
        Self {
            form: EVICTED.name.into(),
            profile: Profile::Eviction,
            spare: None,
            evict: policy.name().into(),
            direct: seed % 2 == 0,
            pressed: Some(240 + (seed % 3) as u32 * 20),
            ..more
        }
    }

    /// Nothing special but a log that is full but for a little.
    pub fn full(seed: u64, form: &str, room: u32) -> Self {
        Self {
            form: form.into(),
            seed,
            profile: Profile::Full,
            spare: None,
            room: Some(room),
            clean_after: 0,
            evict: derive(),
            direct: false,
            pressed: None,
            discard: false,
        }
    }

    pub fn form(&self) -> &'static Form {
        Form::named(&self.form)
    }

    /// Brings a new file system to where the run begins.
    pub fn prepare(&self, fs: &Fs) -> Result<()> {
        if let Some(spare) = self.spare {
            self.fill(fs, spare)?;
        }
        let Some(room) = self.room else {
            return fs.sync_all();
        };
        for round in 0..4000_u16 {
            if fs.log_room().is_none_or(|(_, end)| end <= room) {
                break;
            }
            let mode = Some(0o700 | (round & 0o77));
            fs.setattr(
                WHO,
                ino(2),
                &SetAttr {
                    mode,
                    ..SetAttr::default()
                },
            )?;
            fs.sync_all()?;
            if u32::from(round) + 1 == self.clean_after {
                fs.mark_clean()?;
            }
        }
        Ok(())
    }

    fn fill(&self, fs: &Fs, spare: u64) -> Result<()> {
        let new = NewNode::File { mode: 0o600 };
        let filler = fs.create(WHO, ino(2), FILLER.as_bytes(), new, 0)?.ino;
        let block = self.form().block as u64;
        let length = fs.statfs().free.saturating_sub(spare) * block;
        if self.form().extents {
            fs.fallocate(WHO, filler, Fallocate::Allocate, 0, length, false)?;
        } else {
            let piece = vec![1; 64 << 10];
            for offset in (0..length).step_by(piece.len()) {
                // The map takes space, too.
                if fs
                    .write(filler, offset, &piece, WriteMode::default())
                    .is_err()
                {
                    break;
                }
            }
        }
        fs.sync_all()
    }
}

pub const WHO: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
};

/// Mounts a disk under a clock of its own, so that a seed repeats exactly.
pub fn mount(
    disk: Arc<dyn uext4::device::Device>,
    options: Options,
) -> Result<(Arc<Fs>, Arc<Ticks>)> {
    let clock = Arc::new(Ticks::default());
    let fs = Fs::mount_at(disk, options, Arc::clone(&clock) as Arc<_>)?;
    Ok((fs, clock))
}

/// The same for an image.
pub fn mount_image(image: Image) -> Result<(Arc<Fs>, Arc<Disk>)> {
    let disk = Disk::new(image);
    let (fs, _) = mount(Arc::clone(&disk) as Arc<_>, options())?;
    Ok((fs, disk))
}
