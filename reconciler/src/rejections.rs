//! Owners whose pods are rejected by their kubelets wait longer and longer before they cost another VM.
//!
//! A controller replaces a failed pod at once, and each replacement costs a VM that boots for nothing. So each rejection
//! holds the owner's next VMs back, twice as long as the one before; then one pod may try, and the first of the owner's
//! pods that becomes ready ends it. This is kept in memory: the rejected pods themselves are gone a minute after their
//! VMs, and a process that takes over costs a persistent offender one more round of short pauses.

use std::collections::HashMap;

use jiff::SignedDuration;

use crate::plan::BackingOff;
use crate::sightings::Uptime;

const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(30);
/// Owners remembered at most; past it, the one whose pause ends first is forgotten.
const MOST_OWNERS: usize = 4096;

/// The owners that wait.
#[derive(Debug, Default)]
pub struct Rejections {
    owners: HashMap<String, Owner>,
}

#[derive(Debug)]
struct Owner {
    rejections: u32,
    reason: String,
    until: Uptime,
    /// The pod that may try: the first that asked after the pause.
    trying: Option<String>,
}

impl Rejections {
    /// A pod of this owner was rejected. Of several that were on their way together, the first counts.
    pub fn rejected(&mut self, owner: &str, pod_uid: &str, reason: &str, uptime: Uptime) {
        if let Some(known) = self.owners.get_mut(owner) {
            if known.trying.as_deref() == Some(pod_uid) || known.until <= uptime {
                known.rejections = known.rejections.saturating_add(1);
                reason.clone_into(&mut known.reason);
                known.begin_pause(uptime);
            }
            return;
        }
        self.make_room();
        let mut new = Owner {
            rejections: 1,
            reason: reason.to_owned(),
            until: uptime,
            trying: None,
        };
        new.begin_pause(uptime);
        self.owners.insert(owner.to_owned(), new);
    }

    /// A pod of this owner became ready.
    pub fn succeeded(&mut self, owner: &str) {
        self.owners.remove(owner);
    }

    /// Whether a pod that has no VM yet must wait. One that may go keeps the others of its owner waiting.
    pub fn holds(&mut self, owner: &str, pod_uid: &str, uptime: Uptime) -> Option<BackingOff> {
        let known = self.owners.get_mut(owner)?;
        if known.trying.as_deref() == Some(pod_uid) {
            return None;
        }
        if known.until <= uptime {
            known.begin_pause(uptime);
            known.trying = Some(pod_uid.to_owned());
            return None;
        }
        Some(BackingOff {
            remaining: known.until.saturating_sub(uptime),
            rejections: known.rejections,
            reason: known.reason.clone(),
        })
    }

    fn make_room(&mut self) {
        if self.owners.len() < MOST_OWNERS {
            return;
        }
        let first = self.owners.iter().min_by_key(|(_, owner)| owner.until);
        if let Some(first) = first.map(|(owner, _)| owner.clone()) {
            self.owners.remove(&first);
        }
    }
}

impl Owner {
    fn begin_pause(&mut self, uptime: Uptime) {
        let factor = 2_i32.saturating_pow(self.rejections.saturating_sub(1).min(16));
        let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
        self.until = uptime.saturating_add(pause);
        self.trying = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Uptime {
        SignedDuration::from_secs(seconds)
    }

    #[test]
    fn each_rejection_doubles_the_pause_and_one_pod_tries_at_a_time() {
        let mut all = Rejections::default();
        assert_eq!(all.holds("web", "b", at(0)), None);
        all.rejected("web", "a", "SysctlForbidden", at(0));
        let held = all.holds("web", "b", at(20)).unwrap();
        assert_eq!((held.remaining, held.rejections), (at(40), 1));
        assert_eq!(held.reason, "SysctlForbidden");
        assert_eq!(all.holds("other", "b", at(20)), None);

        assert_eq!(all.holds("web", "b", at(60)), None);
        assert_eq!(all.holds("web", "b", at(61)), None, "the same one asks again");
        assert!(all.holds("web", "c", at(61)).is_some(), "the others wait for it");
        all.rejected("web", "b", "SysctlForbidden", at(90));
        assert_eq!(all.holds("web", "c", at(90)).unwrap().remaining, at(120));
    }

    #[test]
    fn pods_that_were_on_their_way_together_count_once() {
        let mut all = Rejections::default();
        for pod in ["a", "b", "c"] {
            all.rejected("web", pod, "OutOfcpu", at(0));
        }
        assert_eq!(all.holds("web", "d", at(0)).unwrap().rejections, 1);
    }

    #[test]
    fn a_ready_pod_ends_it() {
        let mut all = Rejections::default();
        all.rejected("web", "a", "OutOfcpu", at(0));
        all.succeeded("web");
        assert_eq!(all.holds("web", "b", at(1)), None);
    }

    #[test]
    fn a_persistent_offender_tries_every_half_hour_and_all_are_bounded() {
        let mut all = Rejections::default();
        let (mut now, mut tries) = (0, 0);
        while now < 24 * 3600 {
            if all.holds("web", &tries.to_string(), at(now)).is_none() {
                all.rejected("web", &tries.to_string(), "OutOfcpu", at(now));
                tries += 1;
            }
            now += 10;
        }
        assert!((45..55).contains(&tries), "{tries} VMs in a day");
        for owner in 0..2 * MOST_OWNERS {
            all.rejected(&owner.to_string(), "a", "OutOfcpu", at(now));
        }
        assert_eq!(all.owners.len(), MOST_OWNERS);
    }
}
