//! Which guests the demo runs: decided from what was asked for and what is in the way.

use anyhow::{Result, bail};
use clap::ValueEnum;

/// What the pods' machines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guests {
    /// QEMU guests on real nodes.
    Real,
    /// Simulated by the harness.
    Simulated,
}

/// The guests to run, when `obstacles` keep real ones from running; without a wish, real ones where they can run.
///
/// # Errors
/// Real ones are wanted, and cannot be.
pub fn choose(wanted: Option<Guests>, obstacles: &[String]) -> Result<Guests> {
    match (wanted, obstacles) {
        (Some(Guests::Simulated), _) => Ok(Guests::Simulated),
        (_, []) => Ok(Guests::Real),
        (None, _) => Ok(Guests::Simulated),
        (Some(Guests::Real), _) => bail!("no real guests here: {}", obstacles.join("; ")),
    }
}

/// How many nodes carry so many VMs of one processor each, on a machine of so many processors: at least two. Each
/// node offers all of the machine's, and our programs take a part of one.
pub fn nodes_for(vms: u32, processors: usize) -> u8 {
    let on_each = u32::try_from(processors.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .max(1);
    u8::try_from(vms.div_ceil(on_each)).unwrap_or(u8::MAX).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_guests_unless_something_is_in_the_way() {
        let root = ["no root".to_owned()];
        assert_eq!(choose(None, &[]).unwrap(), Guests::Real);
        assert_eq!(choose(None, &root).unwrap(), Guests::Simulated);
        assert_eq!(choose(Some(Guests::Simulated), &[]).unwrap(), Guests::Simulated);
        assert_eq!(choose(Some(Guests::Real), &[]).unwrap(), Guests::Real);
        let refused = choose(Some(Guests::Real), &root).unwrap_err();
        assert_eq!(refused.to_string(), "no real guests here: no root");
    }

    #[test]
    fn vms_have_room() {
        assert_eq!(nodes_for(3, 1), 3);
        assert_eq!(nodes_for(3, 2), 3);
        assert_eq!(nodes_for(3, 4), 2);
        assert_eq!(nodes_for(9, 4), 3);
        assert_eq!(nodes_for(1, 64), 2);
    }
}
