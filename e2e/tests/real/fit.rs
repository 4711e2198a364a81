//! Pods that fit on their nodes.

use serde_json::json;

use crate::sizes::Size;
use crate::user::{Setup, User, shell};

/// Pods that do nothing but ask for more than the other tests' pods.
pub async fn a_pod_fits(setup: &Setup<'_>, size: Size) {
    let _room = setup.room_for(1).await;
    let user = User::new(setup, "sizes").await;
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [shell("main", "sleep 3600")],
    });
    user.runs("fits", size, spec).await.ends().await.unwrap();
    user.leaves().await;
}
