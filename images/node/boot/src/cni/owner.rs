//! The owner of the one pod network: a file with the container's id, or none.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

/// On a tmpfs: a guest's owner does not outlive its boot.
const FOLDER: &str = "/run/marooned";

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The claimer owns the network, by this claim or by an earlier one.
    Ours,
    /// Another container owns it.
    Taken(String),
}

/// The container that owns the network.
pub(super) fn current() -> Result<Option<String>> {
    read(&file(Path::new(FOLDER))).context("reading who owns the pod network")
}

/// Makes the container the owner, unless there is one. Of several that claim at once, one succeeds.
pub(super) fn claim(container: &str) -> Result<Claim> {
    claim_in(Path::new(FOLDER), container).context("claiming the pod network")
}

/// Leaves the network without an owner.
pub(super) fn release() -> Result<()> {
    match fs::remove_file(file(Path::new(FOLDER))) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("owner")
}

fn read(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(owner) => Ok(Some(owner)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Exclusive as `O_EXCL` is, but the file has its content from the start: a plugin that is killed in between does
/// not leave an owner without a name, which no `DEL` could remove.
fn claim_in(folder: &Path, container: &str) -> io::Result<Claim> {
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!("owner.{}", process::id()));
    fs::write(&draft, container)?;
    let linked = fs::hard_link(&draft, file(folder));
    fs::remove_file(&draft)?;
    match linked {
        Ok(()) => Ok(Claim::Ours),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(match read(&file(folder))? {
            Some(owner) if owner == container => Claim::Ours,
            Some(owner) => Claim::Taken(owner),
            None => Claim::Taken("a pod that is just being removed".to_owned()),
        }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_claim_is_the_owner_and_may_claim_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(claim_in(folder.path(), "first").unwrap(), Claim::Ours);
        assert_eq!(
            claim_in(folder.path(), "second").unwrap(),
            Claim::Taken("first".to_owned())
        );
        assert_eq!(claim_in(folder.path(), "first").unwrap(), Claim::Ours);
        assert_eq!(read(&file(folder.path())).unwrap().as_deref(), Some("first"));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }
}
