//! Whose the files will be.
//!
//! Source: none; `--owner-map` is ours.
//! Invariants: an id without a rule stays.

use crate::args::{Args, invalid};
use std::collections::HashMap;
use uext4::make::{MakeError, Plan};

#[derive(Default)]
pub struct Owners {
    users: Map,
    groups: Map,
}

#[derive(Default)]
struct Map {
    ids: HashMap<u32, u32>,
    /// For all others.
    others: Option<u32>,
}

impl Owners {
    /// The rules of the map; without one and without privileges, what is the caller's becomes the root's owner's.
    pub fn read(args: &Args, plan: &Plan) -> Result<Self, MakeError> {
        let mut owners = Self::default();
        let Some(path) = &args.owner_map else {
            let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
            if !uid.is_root() {
                let (root_uid, root_gid) = plan.options.root_owner;
                owners.users.ids.insert(uid.as_raw(), root_uid);
                owners.groups.ids.insert(gid.as_raw(), root_gid);
            }
            return Ok(owners);
        };
        let text = std::fs::read_to_string(path).map_err(|source| MakeError::File {
            path: path.display().to_string(),
            source,
        })?;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("").trim();
            if !line.is_empty() {
                owners.add(line)?;
            }
        }
        Ok(owners)
    }

    /// `u FROM TO` or `g FROM TO`; FROM may be `*`.
    fn add(&mut self, line: &str) -> Result<(), MakeError> {
        let fail = || invalid("owner map line", line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[kind, from, to] = words.as_slice() else {
            return Err(fail());
        };
        let map = match kind {
            "u" => &mut self.users,
            "g" => &mut self.groups,
            _ => return Err(fail()),
        };
        let to = to.parse().map_err(|_| fail())?;
        if from == "*" {
            map.others = Some(to);
        } else {
            map.ids.insert(from.parse().map_err(|_| fail())?, to);
        }
        Ok(())
    }

    pub fn map(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.users.map(uid), self.groups.map(gid))
    }
}

impl Map {
    fn map(&self, id: u32) -> u32 {
        self.ids.get(&id).copied().or(self.others).unwrap_or(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_goes_before_the_rule_for_all_others() {
        let mut owners = Owners::default();
        owners.add("u 1000 5").unwrap();
        owners.add("u * 7").unwrap();
        assert_eq!(owners.map(1000, 1000), (5, 1000));
        assert_eq!(owners.map(1, 1), (7, 1));
        assert!(owners.add("x 1 2").is_err() && owners.add("u 1").is_err());
    }
}
