//! Makers of pods that are rejected by their kubelets wait longer and longer before they get another VM.
//!
//! A controller replaces a failed pod at once, and each replacement costs a VM that boots for nothing. So each
//! rejection delays the maker's next VMs, twice as long as the one before. Then one pod may try, and the delays end
//! with the maker's first pod that becomes ready. A guest can fake a rejection; that delays only pods of the same
//! maker.
//!
//! This state is kept in memory: the rejected pods themselves are gone a minute after their VMs. After a take-over, a
//! persistent offender gets one more round of short pauses.
//!
//! The watch of pods counts outcomes, not the workers: the API server reports a rejection before it reports the
//! replacement, while the worker of the rejected pod may run after the worker of the replacement.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::SignedDuration;

use crate::sightings::Uptime;
use crate::view::BackingOff;
use crate::view::{Maker, PodView};
use maroonedpods_common::PodUid;

const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(30);
/// The most makers that are remembered; beyond that, the one whose pause ends first is forgotten.
const MOST_MAKERS: usize = 4096;

/// The makers whose next VM is delayed.
#[derive(Debug, Default)]
pub struct Rejections {
    makers: HashMap<Maker, Wait>,
    /// UIDs of the pods whose outcome is known: each counts once.
    settled: HashSet<PodUid>,
}

#[derive(Debug)]
struct Wait {
    rejections: u32,
    reason: String,
    until: Uptime,
    /// The pod that may try: the first that asked after the pause.
    trying: Option<PodUid>,
}

impl Rejections {
    /// Counts a pod's outcome on its node: it is ready, or its kubelet rejected it. Only the first outcome counts.
    pub fn see(&mut self, pod: &PodView, uptime: Uptime) {
        let settled = pod.ready || pod.rejected.is_some();
        if !settled || !pod.lifted() || !self.settled.insert(pod.uid.clone()) {
            return;
        }
        match &pod.rejected {
            Some(reason) => self.rejected(&pod.maker, &pod.uid, reason, uptime),
            None => self.succeeded(&pod.maker),
        }
    }

    /// Forgets a pod that is gone.
    pub fn forget(&mut self, pod_uid: &PodUid) {
        self.settled.remove(pod_uid);
    }

    /// Forgets all pods but these.
    pub fn retain(&mut self, pods: &[Arc<PodView>]) {
        let there: HashSet<&PodUid> = pods.iter().map(|pod| &pod.uid).collect();
        self.settled.retain(|uid| there.contains(uid));
    }

    /// A pod of this maker was rejected. Of several pods that were started together, only the first one counts.
    fn rejected(&mut self, maker: &Maker, pod_uid: &PodUid, reason: &str, uptime: Uptime) {
        if let Some(known) = self.makers.get_mut(maker) {
            if known.trying.as_ref() == Some(pod_uid) || known.until <= uptime {
                known.rejections = known.rejections.saturating_add(1);
                reason.clone_into(&mut known.reason);
                known.begin_pause(uptime);
            }
            return;
        }
        self.make_room();
        let mut new = Wait {
            rejections: 1,
            reason: reason.to_owned(),
            until: uptime,
            trying: None,
        };
        new.begin_pause(uptime);
        self.makers.insert(maker.clone(), new);
    }

    /// A pod of this maker became ready.
    fn succeeded(&mut self, maker: &Maker) {
        self.makers.remove(maker);
    }

    /// Whether a pod without a VM must wait. A pod that may try makes the maker's other pods wait.
    pub fn holds(&mut self, maker: &Maker, pod_uid: &PodUid, uptime: Uptime) -> Option<BackingOff> {
        let known = self.makers.get_mut(maker)?;
        if known.trying.as_ref() == Some(pod_uid) {
            return None;
        }
        if known.until <= uptime {
            known.begin_pause(uptime);
            known.trying = Some(pod_uid.clone());
            return None;
        }
        Some(BackingOff {
            remaining: known.until.saturating_sub(uptime),
            rejections: known.rejections,
            reason: known.reason.clone(),
        })
    }

    fn make_room(&mut self) {
        if self.makers.len() < MOST_MAKERS {
            return;
        }
        let first = self.makers.iter().min_by_key(|(_, wait)| wait.until);
        if let Some(first) = first.map(|(maker, _)| maker.clone()) {
            self.makers.remove(&first);
        }
    }
}

impl Wait {
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
    use k8s_openapi::api::core::v1::Pod;

    /// The maker of a bare pod.
    fn maker(name: &str) -> Maker {
        Maker::of(&Pod::default(), "here", name)
    }

    fn at(seconds: i64) -> Uptime {
        SignedDuration::from_secs(seconds)
    }

    #[test]
    fn each_rejection_doubles_the_pause_and_one_pod_tries_at_a_time() {
        let mut all = Rejections::default();
        assert_eq!(all.holds(&maker("web"), &"b".into(), at(0)), None);
        all.rejected(&maker("web"), &"a".into(), "SysctlForbidden", at(0));
        let held = all.holds(&maker("web"), &"b".into(), at(20)).unwrap();
        assert_eq!((held.remaining, held.rejections), (at(40), 1));
        assert_eq!(held.reason, "SysctlForbidden");
        assert_eq!(all.holds(&maker("other"), &"b".into(), at(20)), None);

        assert_eq!(all.holds(&maker("web"), &"b".into(), at(60)), None);
        assert_eq!(
            all.holds(&maker("web"), &"b".into(), at(61)),
            None,
            "the same one asks again"
        );
        assert!(
            all.holds(&maker("web"), &"c".into(), at(61)).is_some(),
            "the others wait for it"
        );
        all.rejected(&maker("web"), &"b".into(), "SysctlForbidden", at(90));
        assert_eq!(
            all.holds(&maker("web"), &"c".into(), at(90)).unwrap().remaining,
            at(120)
        );
    }

    #[test]
    fn rejections_of_pods_started_together_count_once() {
        let mut all = Rejections::default();
        for pod in ["a", "b", "c"] {
            all.rejected(&maker("web"), &pod.into(), "OutOfcpu", at(0));
        }
        assert_eq!(
            all.holds(&maker("web"), &"d".into(), at(0)).unwrap().rejections,
            1
        );
    }

    #[test]
    fn a_ready_pod_ends_the_delay() {
        let mut all = Rejections::default();
        all.rejected(&maker("web"), &"a".into(), "OutOfcpu", at(0));
        all.succeeded(&maker("web"));
        assert_eq!(all.holds(&maker("web"), &"b".into(), at(1)), None);
    }

    #[test]
    fn a_persistent_offender_tries_every_half_hour_and_all_are_bounded() {
        let mut all = Rejections::default();
        let (mut now, mut tries) = (0, 0);
        while now < 24 * 3600 {
            if all
                .holds(&maker("web"), &tries.to_string().into(), at(now))
                .is_none()
            {
                all.rejected(&maker("web"), &tries.to_string().into(), "OutOfcpu", at(now));
                tries += 1;
            }
            now += 10;
        }
        assert!((45..55).contains(&tries), "{tries} VMs in a day");
        for name in 0..2 * MOST_MAKERS {
            all.rejected(&maker(&name.to_string()), &"a".into(), "OutOfcpu", at(now));
        }
        assert_eq!(all.makers.len(), MOST_MAKERS);
    }

    #[test]
    fn repeated_rejections_delay_no_other_makers_pods() {
        let mut all = Rejections::default();
        for n in 0..6 {
            all.rejected(&maker("guest"), &n.to_string().into(), "OutOfcpu", at(n * 3600));
        }
        let now = at(5 * 3600);
        assert!(all.holds(&maker("guest"), &"again".into(), now).is_some());
        let neighbours = [maker("neighbour"), Maker::of(&Pod::default(), "there", "guest")];
        assert!(
            neighbours
                .iter()
                .all(|other| all.holds(other, &"p".into(), now).is_none())
        );
    }
}
