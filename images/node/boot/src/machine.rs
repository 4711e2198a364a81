//! This machine's names, and the kernel's settings.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::sethostname;

use crate::paths;

/// The firmware's UUID of this machine, which the reconciler chose.
const FIRMWARE_UUID: &str = "/sys/class/dmi/id/product_uuid";

/// Settings below `/proc/sys`, and why each.
const SETTINGS: [(&str, &str); 2] = [
    // The pod's packets go from link to link.
    ("net/ipv4/ip_forward", "1"),
    // The default for a small guest, 4,096, is soon used up: every connection of the pod has an entry.
    ("net/netfilter/nf_conntrack_max", "65536"),
];

/// Makes the kernel's settings.
pub fn settings() -> Result<()> {
    for (name, value) in SETTINGS {
        fs::write(format!("/proc/sys/{name}"), value)
            .with_context(|| format!("cannot set {name} to {value}"))?;
    }
    Ok(())
}

/// Gives the machine its name, and the identity that its firmware has.
pub fn identity(name: &str) -> Result<()> {
    sethostname(name).with_context(|| format!("cannot set the host's name to {name}"))?;
    let uuid = fs::read_to_string(FIRMWARE_UUID).with_context(|| format!("cannot read {FIRMWARE_UUID}"))?;
    fs::write(paths::MACHINE_ID, machine_id(&uuid))
        .with_context(|| format!("cannot write {}", paths::MACHINE_ID))
}

/// A UUID as machine-id(5) writes it.
fn machine_id(uuid: &str) -> String {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    digits.to_ascii_lowercase() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_the_firmwares_uuid() {
        let uuid = "0D2F7A3E-5B1C-4C58-9D0E-3F6A1B2C4D5E\n";
        assert_eq!(machine_id(uuid), "0d2f7a3e5b1c4c589d0e3f6a1b2c4d5e\n");
    }
}
