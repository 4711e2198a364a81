//! How objects are read: each separately, and of each only the parts that decisions need.
//!
//! Tenants and guests can write to every kind of object that we list or watch, and the API server stores more than
//! our types can hold. So an answer is split into objects first. Of each object, a [`View`] is read through its
//! [`sieve`]. An object that cannot be read is reported and skipped, without affecting others. Skipped does not mean
//! deleted: a cache keeps the last known view, a live read of that object is an error, and a list returns the
//! unreadable objects too.

pub mod cache;
mod calls;
mod kind;
pub mod sieve;
#[cfg(test)]
mod tests;
pub mod watch;

use maroonedpods_common::text;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use cache::{Cache, Cached, Draft, Mark};
pub use calls::{Listed, Pages, find, list, patch, whole};
pub use kind::Kind;
pub use sieve::Keep;

/// The part of an object that is kept for as long as the object exists.
pub trait View: PartialEq + Send + Sync + Sized + 'static {
    /// The kind, for logs and as the metric's label.
    const KIND: Kind;
    /// What of the object is read.
    const KEEP: Keep;
    /// How many are kept as they are of those that share a mark; `None` where all are.
    const BOUND: Option<Bound<Self>> = None;
    /// The type that the kept part has.
    type Object: DeserializeOwned;

    /// The view of an object; `None` for one that does not concern this program.
    fn read(object: Self::Object) -> Option<Self>;

    /// What the cache can look it up by, its name aside.
    fn marks(&self) -> Vec<Mark> {
        Vec::new()
    }
}

/// Bounds what a cache holds of objects that share a mark: tenants and guests can create them without end.
pub struct Bound<V> {
    /// How many are kept as they are.
    pub most: usize,
    /// Whether a view is kept as it is; what stands for one beyond `most` is not.
    pub counts: fn(&V) -> bool,
    /// What is kept of one beyond `most`.
    pub beyond: fn(&V) -> Beyond<V>,
}

/// What a cache keeps of an object beyond its [`Bound`].
pub enum Beyond<V> {
    /// A smaller view of that object.
    Brief(V),
    /// One view for all such objects of its namespace. How many there are is not known any more.
    Shared(V),
}

/// Which object it is, and which version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its namespace; empty for a cluster-scoped object.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Its resource version.
    #[serde(default)]
    pub resource_version: String,
}

impl Identity {
    const KEEP: Keep = Keep::Fields(&[(
        "metadata",
        Keep::Fields(&[
            ("namespace", Keep::All),
            ("name", Keep::All),
            ("uid", Keep::All),
            ("resourceVersion", Keep::All),
        ]),
    )]);

    /// Reads the identity of an object; `None` if it has no name.
    #[must_use]
    pub fn of(json: &str) -> Option<Self> {
        Self::deserialize(&Self::KEEP.sieve(json).ok()?["metadata"]).ok()
    }

    /// `<namespace>/<name>`, or the name.
    #[must_use]
    pub fn path(&self) -> String {
        Self::path_of(&self.namespace, &self.name)
    }

    fn path_of(namespace: &str, name: &str) -> String {
        if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        }
    }
}

/// An object that could not be read. It exists nonetheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its identity, if that can be read.
    pub identity: Option<Identity>,
    /// The reason, in few words.
    pub error: String,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.identity.as_ref().map(Identity::path);
        write!(
            f,
            "{} cannot be read: {}",
            text::value(path.as_deref().unwrap_or("an object without a name")),
            self.error
        )
    }
}

/// Reads one object: its identity, and its view if it is one of ours.
///
/// # Errors
/// The object cannot be read.
pub fn object<V: View>(json: &str) -> Result<(Identity, Option<V>), Unreadable> {
    let identity = Identity::of(json);
    match (identity, typed::<V::Object>(json, &V::KEEP)) {
        (Some(identity), Ok(object)) => Ok((identity, V::read(object))),
        (identity, read) => Err(Unreadable {
            identity,
            error: read.err().unwrap_or_else(|| "it has no name".to_owned()),
        }),
    }
}

/// The kept part of an object, as its type; or a short reason why it cannot be read. The reason is shortened because
/// an error may quote the object.
fn typed<T: DeserializeOwned>(json: &str, keep: &Keep) -> Result<T, String> {
    let kept = keep.sieve(json);
    let read = kept.and_then(|mut kept| {
        T::deserialize(&kept).or_else(|error| {
            // A guest writes a status through its kubelet. If the status cannot be read, all of it but the phase
            // counts as absent.
            let Some(status) = kept.get_mut("status") else {
                return Err(error);
            };
            let phase = status.get("phase").filter(|phase| phase.is_string()).cloned();
            *status = phase.map_or(Value::Null, |phase| serde_json::json!({"phase": phase}));
            T::deserialize(&kept)
        })
    });
    read.map_err(|error| text::value(&error.to_string()).into_owned())
}

/// The view of an object as the API server would send it.
#[cfg(test)]
pub(crate) fn view_of<V: View>(object: &impl serde::Serialize) -> Option<V> {
    object_of(&serde_json::to_string(object).unwrap())
}

#[cfg(test)]
fn object_of<V: View>(json: &str) -> Option<V> {
    object(json).unwrap().1
}
