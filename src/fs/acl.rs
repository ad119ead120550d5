//! What POSIX_ACL and DONT_MASK leave to us: umask, inherited ACLs, the mode that goes with an ACL.
//!
//! Source: acl(5), "Object creation and default ACLs", "Changes to file mode bits".
//! Invariants: the umask counts only where the parent has no default ACL; mode and access ACL never contradict each other.

use crate::error::{Posix, Result};
use crate::format::acl;
use crate::format::inode::{Inode, mode};
use crate::fs::Fs;
use crate::ids::InodeNumber;
use crate::journal::Handle;
use crate::xattr::SetMode;

pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The mode and ACLs that a new inode begins with.
pub(crate) struct Inherited {
    permissions: u16,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Inherited {
    /// The type of `wanted` with the inherited permissions.
    pub(crate) fn mode(&self, wanted: u16) -> u16 {
        (wanted & !0o777) | self.permissions
    }

    pub(crate) fn has_acls(&self) -> bool {
        self.access.is_some() || self.default.is_some()
    }

    pub(crate) fn acls(&self) -> impl Iterator<Item = (&'static [u8], &[u8])> {
        let access = self.access.as_deref().map(|value| (ACCESS, value));
        access
            .into_iter()
            .chain(self.default.as_deref().map(|value| (DEFAULT, value)))
    }
}

impl Fs {
    /// What a child of `dir` with the full mode `wanted` begins with.
    pub(crate) fn inherit(
        &self,
        parent: InodeNumber,
        dir: &Inode,
        wanted: u16,
        umask: u16,
    ) -> Result<Inherited> {
        let plain = |permissions| Inherited {
            permissions,
            access: None,
            default: None,
        };
        if wanted & mode::FMT == mode::LNK {
            return Ok(plain(0o777));
        }
        let default = if self.options.acl {
            self.acl_of(parent, dir, DEFAULT)?
        } else {
            None
        };
        let Some(default) = default else {
            return Ok(plain(wanted & 0o777 & !umask));
        };
        let (permissions, access) = acl::inherit(&default, wanted & 0o777)?;
        let is_dir = wanted & mode::FMT == mode::DIR;
        Ok(Inherited {
            permissions,
            access,
            default: is_dir.then_some(default),
        })
    }

    /// After a chmod: the access ACL, if there is one, says the same as the new mode.
    pub(crate) fn chmod_acl(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
    ) -> Result<()> {
        if inode.is_symlink() || !self.options.acl {
            return Ok(());
        }
        if let Some(old) = self.acl_of(ino, inode, ACCESS)? {
            let new = acl::chmod(&old, inode.mode & 0o777)?;
            self.xattrs
                .set(handle, ino, inode, ACCESS, Some(&new), SetMode::Any)?;
        }
        Ok(())
    }

    /// An ACL in its xattr form, or nothing.
    pub(crate) fn acl_of(
        &self,
        ino: InodeNumber,
        inode: &Inode,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        match self.xattrs.get(ino, inode, name) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_posix(Posix::NoData) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
