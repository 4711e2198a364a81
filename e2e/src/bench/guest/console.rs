//! What a guest's console says, and when: `kubectl logs --timestamps`.

use jiff::Timestamp;

/// When the stages of a boot were reached: name, and moment that the console's line came to the launcher.
pub type Stages = Vec<(&'static str, Timestamp)>;

/// The boot program's phases, in order.
pub const OURS: [(&str, &str); 6] = [
    ("initrd", "marooned: phase=initrd "),
    ("init", "marooned: phase=init "),
    ("seed", "marooned: phase=seed "),
    ("network", "marooned: phase=network "),
    ("containerd", "marooned: phase=containerd "),
    ("kubelet", "marooned: phase=kubelet "),
];
/// What Debian's initrd, systemd and our program say at the same points. The network is there before cloud-init has
/// read the seed to its end, which is what our unit waits for.
pub const STOCK: [(&str, &str); 5] = [
    ("initrd", "Loading, please wait..."),
    ("init", "Welcome to "),
    ("network", "Reached target network-online.target"),
    ("seed", "marooned: phase=seed "),
    ("containerd", "marooned: phase=containerd "),
];

/// When each of `markers` first was on the console.
#[must_use]
pub fn stages(log: &str, markers: &[(&'static str, &str)]) -> Stages {
    let first = |&(name, marker): &(&'static str, &str)| {
        let mut lines = log.lines().filter_map(|line| line.split_once(' '));
        let (moment, _) = lines.find(|(_, said)| plain(said).contains(marker))?;
        Some((name, moment.parse().ok()?))
    };
    markers.iter().filter_map(first).collect()
}

/// Without what sets a terminal's colours: `ESC [ … m`.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |said, part| {
        let rest = part.split_once('m').map_or(part, |(_, rest)| rest);
        said + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_found_with_their_moments() {
        let log = "2026-01-01T00:00:01.5Z [    0.1] Linux\r\n\
                   2026-01-01T00:00:02.25Z marooned: phase=initrd elapsed=1.250\r\n\
                   2026-01-01T00:00:09Z marooned: phase=initrd elapsed=9.000\r\n\
                   odd marooned: phase=init elapsed=2.000\r\nodd";
        let moment: Timestamp = "2026-01-01T00:00:02.25Z".parse().unwrap();
        assert_eq!(stages(log, &OURS), [("initrd", moment)]);
    }

    #[test]
    fn colours_do_not_hide_what_systemd_says() {
        let log = "2026-01-01T00:00:03Z [\u{1b}[0;32m  OK  \u{1b}[0m] Reached target \u{1b}[0;1;39mnetwork-online.target\u{1b}[0m.\r\n";
        let found = stages(log, &STOCK);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "network");
    }
}
