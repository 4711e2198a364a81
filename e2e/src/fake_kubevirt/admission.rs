//! What a kubelet's own admission says to a pod that is bound to its Node.

use maroonedpods_common::sizing::Request;

/// What a Node can give to pods: its allocatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
    pub(super) pods: u64,
}

/// Why a pod is not run. It goes to phase Failed and is never tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) message: String,
}

/// `None` when a pod that asks for `request` fits beside those that are there (`predicate.go` in the kubelet).
pub(super) fn refusal(request: Request, present: &[Request], room: Room) -> Option<Refusal> {
    let used = |amount: fn(&Request) -> u64| present.iter().map(amount).sum::<u64>();
    let resources = [
        ("OutOfpods", "pods", 1, present.len() as u64, room.pods),
        (
            "OutOfcpu",
            "cpu",
            request.cpu_milli,
            used(|r| r.cpu_milli),
            room.cpu_milli,
        ),
        (
            "OutOfmemory",
            "memory",
            request.memory_bytes,
            used(|r| r.memory_bytes),
            room.memory_bytes,
        ),
    ];
    resources
        .into_iter()
        .find(|(_, _, requested, used, capacity)| *requested > 0 && requested + used > *capacity)
        .map(|(reason, resource, requested, used, capacity)| Refusal {
            reason: reason.to_owned(),
            message: format!(
                "Pod was rejected: Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, \
                 capacity: {capacity}"
            ),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        cpu_milli: 1000,
        memory_bytes: 100,
        pods: 2,
    };

    fn request(cpu_milli: u64, memory_bytes: u64) -> Request {
        Request {
            cpu_milli,
            memory_bytes,
            ..Request::default()
        }
    }

    #[test]
    fn what_fits_is_run() {
        assert_eq!(refusal(request(1000, 100), &[], ROOM), None);
        assert_eq!(refusal(request(500, 0), &[request(500, 100)], ROOM), None);
        // A pod that asks for nothing of a resource fits where there is none left.
        assert_eq!(refusal(request(0, 0), &[request(2000, 200)], ROOM), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_resource() {
        let reason = |request, present: &[Request]| refusal(request, present, ROOM).map(|r| r.reason);
        assert_eq!(reason(request(1001, 0), &[]).as_deref(), Some("OutOfcpu"));
        assert_eq!(
            reason(request(0, 1), &[request(0, 100)]).as_deref(),
            Some("OutOfmemory")
        );
        assert_eq!(
            reason(request(0, 0), &[request(0, 0); 2]).as_deref(),
            Some("OutOfpods")
        );
    }
}
