//! Which VMs have ended, as their launchers see it: a launcher ends with its domain.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Whether each VM's domain has ended, by the UID of its VMI.
#[derive(Clone, Default)]
pub(super) struct Domains(Arc<Mutex<HashMap<String, watch::Sender<bool>>>>);

impl Domains {
    /// The domain of this VMI is no more.
    pub(super) fn end(&self, vmi: &str) {
        self.of(vmi).send_replace(true);
    }

    /// Resolves when the domain of this VMI has ended.
    pub(super) async fn ended(&self, vmi: &str) {
        let domain = self.of(vmi);
        let mut ended = domain.subscribe();
        // The sender lives until then.
        let _: Result<_, _> = ended.wait_for(|ended| *ended).await;
    }

    fn of(&self, vmi: &str) -> watch::Sender<bool> {
        let mut domains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        domains.entry(vmi.to_owned()).or_default().clone()
    }
}
