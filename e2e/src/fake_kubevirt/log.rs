//! What happened inside the guests, and what is to be found there, for tests to read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::system::pki::Pair;

/// Something that happened to a guest, as the guest saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// Its kernel started, with this boot id.
    Booted(String),
    /// Its seed could not be read, for this reason: it does nothing more.
    SeedRefused(String),
    /// It filed a request for its client certificate.
    ClientRequestFiled,
    /// A request for its client certificate was denied, for this reason.
    ClientRequestDenied(String),
    /// It has its client certificate.
    Joined,
    /// It has a new client certificate, and goes on with that alone.
    Renewed,
    /// It stopped trying to join.
    GaveUp,
    /// Its second request, with another key, was denied for this reason.
    SecondRequestDenied(String),
    /// Its second request was granted.
    SecondRequestGranted,
    /// After it had joined, the token still filed a request.
    TokenStillGood,
    /// A request that it filed with the token after it had joined was denied, for this reason.
    ReusedRequestDenied(String),
    /// A request that it filed with the token after it had joined was granted.
    ReusedRequestGranted,
    /// The API server does not know the token (any more).
    TokenRefused,
    /// It has its serving certificate.
    ServingCertificate,
    /// Its request for a serving certificate was denied, for this reason.
    ServingRequestDenied(String),
    /// It hangs: its kubelet says and does nothing any more.
    FellSilent,
    /// Its kubelet refused to run a pod that is bound to its Node.
    PodRejected {
        /// `namespace/name`.
        pod: String,
        /// Such as `OutOfcpu`.
        reason: String,
    },
    /// The API server forbade something that a kubelet does.
    Forbidden {
        /// What the kubelet tried.
        what: String,
        /// What the API server said.
        message: String,
    },
}

/// What root finds in a guest that has joined.
#[derive(Clone, Debug)]
pub struct StolenCredentials {
    /// The bootstrap token of its seed.
    pub token: String,
    /// Its kubelet's client certificate.
    pub identity: Pair,
}

/// What happened to each guest, by its host name, which is its Node's name. Guests of later attempts go on in the
/// same list.
#[derive(Clone, Debug, Default)]
pub struct GuestLog {
    events: Arc<Mutex<HashMap<String, Vec<GuestEvent>>>>,
    stolen: Arc<Mutex<HashMap<String, StolenCredentials>>>,
    /// Guests that do what the API server should refuse.
    attackers: Arc<Mutex<HashSet<String>>>,
}

/// What the API server forbade to honest kubelets of any log in this process, by node. Tests of one pod have no log at
/// hand, and the names of marooned nodes are unique.
static REFUSALS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// What the API server forbade to the honest kubelet of this node: whatever it was, a marooned pod would miss it.
#[must_use]
pub fn refusals_of(node: &str) -> Vec<String> {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    let of_node = refusals.iter().filter(|(refused, _)| refused == node);
    of_node.map(|(_, what)| what.clone()).collect()
}

impl GuestLog {
    /// What happened to the guests of this Node so far, in order.
    #[must_use]
    pub fn of(&self, node: &str) -> Vec<GuestEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.get(node).cloned().unwrap_or_default()
    }

    /// What root finds in the guest of this Node, once it has joined.
    #[must_use]
    pub fn stolen_credentials(&self, node: &str) -> Option<StolenCredentials> {
        let stolen = self.stolen.lock().unwrap_or_else(PoisonError::into_inner);
        stolen.get(node).cloned()
    }

    /// What the API server forbade to honest kubelets, those of hosts among them, one line each.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let attackers = self.attackers.lock().unwrap_or_else(PoisonError::into_inner);
        let honest = events.iter().filter(|(node, _)| !attackers.contains(*node));
        honest
            .flat_map(|(node, events)| events.iter().map(move |event| (node, event)))
            .filter(|(_, event)| matches!(event, GuestEvent::Forbidden { .. }))
            .map(|(node, event)| format!("{node}: {event:?}"))
            .collect()
    }

    fn is_attacker(&self, node: &str) -> bool {
        let attackers = self.attackers.lock().unwrap_or_else(PoisonError::into_inner);
        attackers.contains(node)
    }

    /// Refusals are what this node's guest is there for.
    pub(super) fn note_attacker(&self, node: &str) {
        let mut attackers = self.attackers.lock().unwrap_or_else(PoisonError::into_inner);
        attackers.insert(node.to_owned());
    }

    pub(super) fn keep(&self, node: &str, found: StolenCredentials) {
        let mut stolen = self.stolen.lock().unwrap_or_else(PoisonError::into_inner);
        stolen.insert(node.to_owned(), found);
    }

    pub(super) fn note(&self, node: &str, event: GuestEvent) {
        tracing::debug!(node, ?event, "guest");
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.entry(node.to_owned()).or_default().push(event);
    }

    /// Notes a refusal for want of a right, once for each thing tried: a client that is refused tries again and again.
    pub(super) fn note_if_forbidden(&self, node: &str, what: &str, error: &kube::Error) {
        let kube::Error::Api(status) = error else { return };
        let event = GuestEvent::Forbidden {
            what: what.to_owned(),
            message: status.message.clone(),
        };
        if !matches!(status.code, 403 | 422) || self.of(node).contains(&event) {
            return;
        }
        if !self.is_attacker(node) {
            let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.push((node.to_owned(), format!("{what}: {}", status.message)));
        }
        self.note(node, event);
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_is_forbidden_to_an_honest_kubelet_is_told_apart() {
        let log = GuestLog::default();
        log.note_attacker("attacker");
        let error = |code| kube::Error::Api(Status::failure("no", "Forbidden").with_code(code).boxed());
        for node in ["attacker", "honest"] {
            log.note_if_forbidden(node, "a write", &error(403));
            log.note_if_forbidden(node, "a write", &error(403));
            log.note_if_forbidden(node, "a lost race", &error(409));
        }
        assert_eq!(refusals_of("honest"), ["a write: no"]);
        assert_eq!(refusals_of("attacker"), [""; 0]);
        assert_eq!(log.refusals().len(), 1, "{:?}", log.refusals());
        assert_eq!(log.of("attacker").len(), 1);
    }
}
