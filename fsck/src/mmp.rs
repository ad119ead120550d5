//! Multi-mount protection: a file system that another host has mounted is left alone, and others see that it is
//! being checked.
//!
//! Source: the kernel's ext4 documentation, "Multiple Mount Protection".
//! Invariants: the block is written by this file only, and says "clean" again at the end of every run that wrote it.

use crate::problem::{At, Problem};
use crate::report::Reporter;
use crate::superblock::Opened;
use crate::{Result, Stop};
use std::sync::Arc;
use std::time::Duration;
use uext4::device::Device;
use uext4::error::Error;
use uext4::format::features::incompat;
use uext4::format::mmp::{Mmp, SEQ_CLEAN, SEQ_FSCK, SEQ_MAX};

/// The longest interval of updates that is waited for, in seconds.
const INTERVAL_MAX: u64 = 300;

pub struct Guard {
    device: Arc<dyn Device>,
    offset: u64,
    mmp: Mmp,
    opened: uext4::format::geometry::Geometry,
}

/// Takes the file system for this run; `None` where there is no protection.
pub fn claim(
    device: &Arc<dyn Device>,
    opened: &Opened,
    now: u64,
    report: &mut Reporter<'_>,
) -> Result<Option<Guard>> {
    if !opened.geo.features.has_incompat(incompat::MMP) {
        return Ok(None);
    }
    let block = opened.sb.s_mmp_block();
    if !crate::map::in_volume(&opened.geo, block, 1) {
        report.fix(Problem::MmpPlace, At::new().block(block))?;
        return Ok(None);
    }
    let offset = block * u64::from(opened.geo.block_size);
    let mut mmp = match read(device, opened, offset) {
        Ok(mmp) => mmp,
        Err(Error::Io(error)) => return Err(Error::Io(error).into()),
        Err(error) => {
            if !report.fix(
                Problem::MmpBlock,
                At::new().block(block).label(error.to_string()),
            )? {
                return Ok(None);
            }
            fresh(opened)
        }
    };
    if mmp.seq == SEQ_FSCK {
        return Err(Stop::Unusable(
            "another check of this file system runs, or was killed (MMP)".to_owned(),
        ));
    }
    if mmp.seq != SEQ_CLEAN && mmp.seq <= SEQ_MAX {
        wait(device, opened, offset, &mmp, report)?;
    }
    mmp.seq = SEQ_FSCK;
    mmp.time = now;
    let guard = Guard {
        device: Arc::clone(device),
        offset,
        mmp,
        opened: opened.geo.clone(),
    };
    guard.store()?;
    Ok(Some(guard))
}

fn read(device: &Arc<dyn Device>, opened: &Opened, offset: u64) -> Result<Mmp, Error> {
    let mut bytes = [0; 1024];
    device.read_at(offset, &mut bytes)?;
    Mmp::parse(&bytes, &opened.geo)
}

fn fresh(opened: &Opened) -> Mmp {
    Mmp {
        seq: SEQ_CLEAN,
        time: 0,
        nodename: [0; 64],
        bdevname: [0; 32],
        check_interval: opened.sb.s_mmp_update_interval().max(5),
    }
}

/// Whoever has it mounted changes the block within twice its interval.
fn wait(
    device: &Arc<dyn Device>,
    opened: &Opened,
    offset: u64,
    before: &Mmp,
    report: &mut Reporter<'_>,
) -> Result<()> {
    let interval = u64::from(before.check_interval.max(opened.sb.s_mmp_update_interval()));
    let seconds =
        (interval.clamp(5, INTERVAL_MAX) * 2 + 1).min(interval.clamp(5, INTERVAL_MAX) + 60);
    report.note(&format!(
        "waiting {seconds} s for another host that may have it mounted (MMP)"
    ));
    std::thread::sleep(Duration::from_secs(seconds));
    let after = read(device, opened, offset)?;
    if after.seq != before.seq {
        let host = String::from_utf8_lossy(&after.nodename);
        let host = host.trim_end_matches('\0');
        return Err(Stop::Unusable(format!(
            "the file system is in use by host {host} (MMP)"
        )));
    }
    Ok(())
}

impl Guard {
    fn store(&self) -> Result<()> {
        let mut bytes = [0; 1024];
        self.device.read_at(self.offset, &mut bytes)?;
        self.mmp.write_to(&mut bytes, &self.opened);
        self.device.write_at(self.offset, &bytes)?;
        self.device.sync()?;
        Ok(())
    }

    /// The run is over.
    pub fn release(mut self) -> Result<()> {
        self.mmp.seq = SEQ_CLEAN;
        self.store()
    }
}
