//! How our writes present themselves to the API server, and what each of them demands: the one place that makes the
//! parameters of a write.
//!
//! | write | refused unless |
//! |---|---|
//! | create | nothing has the name; what has it counts as ours only if its owner is our record |
//! | JSON patch | its `test` operations hold: UID, version, or the very value that is replaced |
//! | JSON patch of the record's status | the version that it sets is the stored one |
//! | merge patch | the version in its body is the stored one |
//! | patch of a pod's status | the UID in its body is the stored one |
//! | replace (the lease) | the version in its body is the stored one |
//! | delete, evict | the UID is the stored one |
//! | apply (our CRDs) | no condition: what is applied is the whole of what this program needs, whatever was there |
//! | events | nothing has the name, which is their own |

use kube::api::{DeleteParams, PatchParams, PostParams, Preconditions};

/// Owner of the fields that we write, in `managedFields`.
const FIELD_MANAGER: &str = "maroonedpods-reconciler";
/// How audit logs know us.
pub(crate) const USER_AGENT: &str = concat!("maroonedpods-reconciler/", env!("CARGO_PKG_VERSION"));

/// For a create, and for a replace of an object that carries its version.
pub(crate) fn create() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// For a create that stores nothing.
pub(crate) fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..create()
    }
}

/// For a patch that carries its own precondition.
pub(crate) fn patch() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// For a server-side apply of an object that is entirely ours. It takes over fields that others set, as helm does at
/// the first install.
pub(crate) fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

/// For the deletion of this very object. The verb takes no field manager.
pub(crate) fn delete(uid: &str) -> DeleteParams {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        ..Preconditions::default()
    };
    DeleteParams::background().preconditions(preconditions)
}
