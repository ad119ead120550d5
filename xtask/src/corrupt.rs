//! `cargo xtask corrupt`: damages one field of a modern image at a time, and compares our checker with e2fsck.
//!
//! Source: the kernel's ext4 documentation for the structures; the judge is e2fsck.
//! Invariants: a case follows from its seed and the base images, which differ a little from run to run (`--keep`).

mod excuses;
mod images;
mod places;

use clap::Args;
use images::Base;
use places::Place;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use uext4::device::sim::Rng;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Cases; the long form has 2000.
    #[arg(long, default_value_t = 100)]
    cases: u64,
    /// Seed of the first case; the others count on from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use this checker instead of building one.
    #[arg(long)]
    fsck: Option<PathBuf>,
    /// Say which cases were damage to us alone, and why that is no failure.
    #[arg(long)]
    excused: bool,
    /// Keep the images of cases that fail in this directory.
    #[arg(long)]
    keep: Option<PathBuf>,
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let fsck = match &options.fsck {
        Some(path) => path.clone(),
        None => build(root)?,
    };
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bases = images::make(dir.path())?;
    let mut session = Session {
        fsck,
        dir: dir.path().to_owned(),
        keep: options.keep.clone(),
        say_excused: options.excused,
        damaged: 0,
        excused: 0,
        refused: 0,
    };
    let mut failures = 0;
    for seed in options.seed..options.seed.saturating_add(options.cases) {
        if let Err(text) = session.case(seed, &bases) {
            failures += 1;
            println!("seed {seed}: {text}");
        }
    }
    println!(
        "{} cases, {} of them damage to e2fsck, {} only to us, {} beyond repair for both; {failures} failures",
        options.cases, session.damaged, session.excused, session.refused
    );
    if failures == 0 {
        Ok(())
    } else {
        Err(format!("{failures} cases failed"))
    }
}

/// What CI runs.
pub fn short(root: &Path) -> Result<(), String> {
    let options = Options {
        cases: 40,
        seed: 1,
        fsck: None,
        excused: false,
        keep: None,
    };
    run(root, &options)
}

fn build(root: &Path) -> Result<PathBuf, String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    // As the workspace's tests build it.
    cmd!(shell, "cargo build -p uext4-fsck --features uext4/faults")
        .run()
        .map_err(|e| e.to_string())?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(target.join("debug/fsck-uext4"))
}

struct Session {
    fsck: PathBuf,
    dir: PathBuf,
    keep: Option<PathBuf>,
    say_excused: bool,
    /// Cases in which e2fsck found something.
    damaged: u64,
    /// Cases in which only what e2fsck passes over was found.
    excused: u64,
    /// Cases that neither can repair, left as they are.
    refused: u64,
}

impl Session {
    fn case(&mut self, seed: u64, bases: &[Base]) -> Result<(), String> {
        let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let base = rng.pick(bases).ok_or("no images")?;
        let place = rng.pick(&base.places).ok_or("no places")?;
        let mut bytes = base.bytes.clone();
        let how = damage(&mut bytes, place, &mut rng);
        let stamped = rng.below(10) < 7;
        if stamped {
            place.stamp(&mut bytes, &base.geo);
        }
        let image = self.dir.join("case");
        std::fs::write(&image, &bytes).map_err(|e| e.to_string())?;
        let damaged = excuses::Damaged {
            base: base.name,
            place: &place.name,
        };
        self.judge(&damaged, &image, &bytes).map_err(|text| {
            if let Some(keep) = &self.keep {
                // Only for a person who looks into it.
                let _ = std::fs::write(keep.join(format!("seed-{seed}.img")), &bytes);
            }
            let checksum = if stamped { "stamped" } else { "not stamped" };
            format!("{}, {}, {how}, {checksum}: {text}", base.name, place.name)
        })
    }

    fn judge(
        &mut self,
        damaged: &excuses::Damaged<'_>,
        image: &Path,
        bytes: &[u8],
    ) -> Result<(), String> {
        let theirs = run_checker(Path::new("e2fsck"), &["-fn"], image)?;
        let ours = run_checker(&self.fsck, &["-fn"], image)?;
        self.damaged += u64::from(theirs != 0);
        let length = bytes.len() as u64;
        let read = || match std::fs::metadata(image).map(|meta| meta.len()) {
            Ok(found) if found == length => std::fs::read(image).map_err(|e| e.to_string()),
            Ok(found) => Err(format!("the image has {found} bytes now")),
            Err(error) => Err(error.to_string()),
        };
        if read()? != bytes {
            return Err("-n has written".into());
        }
        if ours != 0 && theirs == 0 && damaged.is_excused(&self.fsck, image)? {
            self.excused += 1;
            if self.say_excused {
                println!("excused: {}, {}", damaged.base, damaged.place);
            }
        } else if (ours != 0) != (theirs != 0) {
            return Err(format!("we exit {ours}, e2fsck {theirs}"));
        }
        let repaired = run_checker(&self.fsck, &["-fy"], image)?;
        let after = read()?;
        std::fs::write(image, bytes).map_err(|e| e.to_string())?;
        let by_them = run_checker(Path::new("e2fsck"), &["-fy"], image)?;
        // An inode that it has just emptied may make it write far behind the end.
        let file = std::fs::File::options().write(true).open(image);
        file.and_then(|file| file.set_len(length))
            .map_err(|e| e.to_string())?;
        let theirs_after = read()?;
        let kept_by_them = inodes_in_use(&theirs_after);
        std::fs::write(image, &after).map_err(|e| e.to_string())?;
        if ours == 0 {
            // Totals and states of the superblock are corrected in passing, by both.
            let touched = after != bytes || repaired != 0;
            return match touched && by_them == 0 && theirs_after == bytes {
                true => Err(format!("a clean image was changed, exit {repaired}")),
                false => Ok(()),
            };
        }
        if repaired & 8 != 0 && by_them & 8 != 0 && after == bytes {
            self.refused += 1;
            return Ok(());
        }
        if repaired > 1 {
            return Err(format!("-fy exits {repaired}"));
        }
        let again = run_checker(&self.fsck, &["-fn"], image)?;
        if again != 0 {
            return Err(format!("a second run exits {again}"));
        }
        let judged = run_checker(Path::new("e2fsck"), &["-fn"], image)?;
        if judged != 0 {
            return Err(format!("e2fsck exits {judged} after our repair"));
        }
        let kept = inodes_in_use(&after);
        if kept < kept_by_them {
            return Err(format!(
                "{kept} inodes in use after our repair, {kept_by_them} after e2fsck's"
            ));
        }
        Ok(())
    }
}

/// The exit code. A signal or more than 20 seconds is an error.
fn run_checker(program: &Path, args: &[&str], image: &Path) -> Result<i32, String> {
    let status = Command::new("timeout")
        .arg("20")
        .arg(program)
        .args(args)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    match status.code() {
        Some(code) if code < 64 => Ok(code),
        _ => Err(format!("{} {args:?}: {status}", program.display())),
    }
}

fn inodes_in_use(image: &[u8]) -> u32 {
    let word = |at: usize| {
        let bytes = image.get(1024 + at..1024 + at + 4);
        bytes.map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    word(0).saturating_sub(word(0x10))
}

/// Changes the place; says how.
fn damage(bytes: &mut [u8], place: &Place, rng: &mut Rng) -> String {
    let Some(field) = bytes.get_mut(place.at..place.at + place.len) else {
        return "outside".into();
    };
    let before = field.to_vec();
    for _ in 0..16 {
        let bit = rng.below(field.len() as u64 * 8) as usize;
        match rng.below(6) {
            0 | 1 => field[bit / 8] ^= 1 << (bit % 8),
            2 => field.fill(0),
            3 => field.fill(0xff),
            4 => field.iter_mut().for_each(|byte| *byte = rng.draw() as u8),
            _ => field[0] = field[0].wrapping_add(1),
        }
        if field != before {
            break;
        }
    }
    format!("{before:02x?} to {field:02x?} at byte {}", place.at)
}
