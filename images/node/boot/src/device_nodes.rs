//! Device nodes by whose use the kernel loads the module behind them, as udev makes them on other nodes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::utsname::uname;

use crate::modules;

/// What depmod(8) lists them in, in the folder of a kernel's modules.
const LIST: &str = "modules.devname";
/// Those that everybody may open, by udev's rules.
const FOR_ALL: [&str; 2] = ["fuse", "net/tun"];

#[derive(Debug, PartialEq, Eq)]
struct Node<'a> {
    /// Path below `/dev`.
    name: &'a str,
    kind: SFlag,
    major: u64,
    minor: u64,
}

/// Makes all that the image has modules for.
pub fn make() -> Result<()> {
    let kernel = uname().context("the kernel does not say which it is")?;
    let list = Path::new(modules::FOLDER).join(kernel.release()).join(LIST);
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    for node in nodes(&text) {
        make_one(&node).with_context(|| format!("cannot make /dev/{}", node.name))?;
    }
    Ok(())
}

fn make_one(node: &Node<'_>) -> Result<()> {
    let path = Path::new("/dev").join(node.name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match mknod(&path, node.kind, Mode::empty(), makedev(node.major, node.minor)) {
        // The module is there already, and the kernel made it.
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mode = if FOR_ALL.contains(&node.name) {
        0o666
    } else {
        0o600
    };
    Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
}

/// Reads lines such as `fuse fuse c10:229`: the module, the name, `b` or `c`, the numbers.
fn nodes(list: &str) -> impl Iterator<Item = Node<'_>> {
    list.lines().filter_map(|line| {
        let [_module, name, device] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let kind = match device.get(..1)? {
            "b" => SFlag::S_IFBLK,
            "c" => SFlag::S_IFCHR,
            _ => return None,
        };
        let (major, minor) = device.get(1..)?.split_once(':')?;
        Some(Node {
            name,
            kind,
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_depmod_writes_them() {
        let list = "# Device nodes to trigger on-demand module loading.\nfuse fuse c10:229\ntun net/tun c10:200\n\
                    loop b7:0\nx é é\nnbd nbd b43:0\n";
        let node = |name, kind, major, minor| Node {
            name,
            kind,
            major,
            minor,
        };
        assert_eq!(
            nodes(list).collect::<Vec<_>>(),
            [
                node("fuse", SFlag::S_IFCHR, 10, 229),
                node("net/tun", SFlag::S_IFCHR, 10, 200),
                node("nbd", SFlag::S_IFBLK, 43, 0),
            ]
        );
    }
}
