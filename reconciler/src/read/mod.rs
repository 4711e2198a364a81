//! How objects are read: each by itself, and of each only what decisions need.
//!
//! Everything that we list or watch can be written to by a tenant or a guest, and what the API server stores is more than
//! our types can hold. So an answer is taken apart into objects first. Of each object a [`View`] is read through its
//! [`sieve`]; one that cannot be read is reported and skipped, and costs its neighbours nothing. Skipped is not gone: a
//! cache keeps what it knew, a live read of that object is an error, and a list says what it could not read.

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

/// What is kept of an object of one kind, for as long as it exists.
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
    /// Its namespace; empty where it has none.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// Its version, as the API server counts.
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

    /// The identity of any object that is one.
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

/// An object that could not be read. It exists all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Which it is, if that much can be read.
    pub identity: Option<Identity>,
    /// Why, in few words.
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

/// One object as read: which it is, and the view of it if it is one of ours.
///
/// # Errors
/// It cannot be read.
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

/// What is kept of an object, as its type; or why it cannot be had, in few words: an error may quote what it met.
fn typed<T: DeserializeOwned>(json: &str, keep: &Keep) -> Result<T, String> {
    let kept = keep.sieve(json);
    let read = kept.and_then(|mut kept| {
        T::deserialize(&kept).or_else(|error| {
            // What a kubelet writes is a guest's. What cannot be read of it counts as absent, but for the phase.
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

/// The view that the API server's text of this object gives.
#[cfg(test)]
pub(crate) fn view_of<V: View>(object: &impl serde::Serialize) -> Option<V> {
    object_of(&serde_json::to_string(object).unwrap())
}

#[cfg(test)]
fn object_of<V: View>(json: &str) -> Option<V> {
    object(json).unwrap().1
}
