//! Loading kernel modules, in an order that was worked out when the image was built.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// Folder of the modules and of the file `order`, which names them one a line.
pub const FOLDER: &str = "/lib/modules";

/// Loads all modules of an image.
pub fn load() -> Result<()> {
    let order = Path::new(FOLDER).join("order");
    let names = fs::read_to_string(&order).with_context(|| format!("cannot read {}", order.display()))?;
    for name in names.split_whitespace() {
        load_one(&Path::new(FOLDER).join(name)).with_context(|| format!("cannot load module {name}"))?;
    }
    Ok(())
}

fn load_one(path: &Path) -> Result<()> {
    let module = File::open(path)?;
    match finit_module(&module, c"", ModuleInitFlags::empty()) {
        // The initrd loaded it already.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
