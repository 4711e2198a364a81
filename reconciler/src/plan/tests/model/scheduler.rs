//! The cluster's scheduler, as far as it has a say.

use super::World;
use crate::view::PodView;

impl World {
    /// The pod keeps the cluster's scheduler, as it does if it came past the webhook.
    pub fn is_left_to_the_scheduler(&mut self) -> bool {
        let spec = self.objects.pod.as_mut().and_then(|p| p.spec.as_mut());
        spec.and_then(|spec| spec.scheduler_name.take()).is_some()
    }

    /// The cluster's scheduler binds a lifted pod of its own to the pod's Node.
    pub fn scheduler_binds(&mut self) -> bool {
        let open = self.node().is_some_and(|n| n.ready) && self.taints_in_the_way().is_empty();
        let waits = |p: &PodView| p.lifted() && !p.terminal && !p.ours_to_bind;
        let pod = self.pod().filter(waits);
        open && pod.is_some_and(|pod| self.bind(pod.uid.as_str()).is_ok())
    }
}
