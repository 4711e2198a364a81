//! The views of all objects of a kind, kept up to date by a [`watch`](super::watch).

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::{Identity, View};

/// A key, besides the name, under which the cache finds objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The object's UID.
    Uid(String),
    /// The namespace of the object.
    Namespace(String),
    /// The host that the object runs on.
    Host(String),
    /// A user name: the object's author, or the user that it serves.
    User(String),
}

/// A view, and the version of the object that it shows.
#[derive(Debug)]
pub struct Cached<V> {
    /// The version; 0 if it is not an integer.
    pub version: u64,
    /// The view.
    pub view: Arc<V>,
}

impl<V> Clone for Cached<V> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            view: self.view.clone(),
        }
    }
}

impl<V> Deref for Cached<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.view
    }
}

impl<V> Cached<V> {
    /// A view that was just read.
    #[must_use]
    pub fn new(identity: &Identity, view: V) -> Self {
        Self {
            // Versions are integers that grow (KEP-5504). One that is not an integer never counts as new enough.
            version: identity.resource_version.parse().unwrap_or(0),
            view: Arc::new(view),
        }
    }
}

/// The views of all objects of a kind. Clones share them.
#[derive(Debug)]
pub struct Cache<V> {
    state: Arc<RwLock<State<V>>>,
    filled: watch::Sender<bool>,
}

#[derive(Debug)]
struct State<V> {
    /// By path.
    objects: HashMap<Arc<str>, Cached<V>>,
    marked: HashMap<Mark, Marked>,
    /// Some namespace has more objects than the cache keeps of one.
    truncated: bool,
}

/// The objects that share a mark.
#[derive(Debug, Default)]
struct Marked {
    paths: HashSet<Arc<str>>,
    /// How many of them take one of the limited places for whole views.
    counted: usize,
}

/// The views of a list in progress. Objects beyond the limits are never held.
#[derive(Debug)]
pub struct Draft<V>(State<V>);

impl<V> Default for Draft<V> {
    fn default() -> Self {
        Self(State::default())
    }
}

impl<V: View> Draft<V> {
    /// Adds a page of the list.
    pub fn add_page(&mut self, items: impl IntoIterator<Item = (Identity, V)>) {
        for (identity, view) in items {
            self.0.place(&identity, view);
        }
    }
}

impl<V> Default for State<V> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            marked: HashMap::new(),
            truncated: false,
        }
    }
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            filled: self.filled.clone(),
        }
    }
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            filled: watch::Sender::new(false),
        }
    }
}

impl<V: View> Cache<V> {
    /// Resolves once everything was listed for the first time.
    pub async fn filled(&self) {
        let mut filled = self.filled.subscribe();
        // `self` owns the sender, so it is not dropped meanwhile.
        let _: Result<_, _> = filled.wait_for(|filled| *filled).await;
    }

    /// The object with this name; the namespace is empty for cluster-scoped objects.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Cached<V>> {
        let path = Identity::path_of(namespace, name);
        self.read().objects.get(path.as_str()).cloned()
    }

    /// All objects with this mark.
    #[must_use]
    pub fn marked(&self, mark: &Mark) -> Vec<Cached<V>> {
        let state = self.read();
        let paths = state
            .marked
            .get(mark)
            .into_iter()
            .flat_map(|marked| &marked.paths);
        paths
            .filter_map(|path| state.objects.get(path))
            .cloned()
            .collect()
    }

    /// All objects.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<V>> {
        let state = self.read();
        state.objects.values().map(|cached| cached.view.clone()).collect()
    }

    /// Whether one view stands for several objects whose number is no longer known.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.read().truncated
    }

    /// Stores an object; returns its view if that changed.
    pub fn apply(&self, identity: &Identity, view: V) -> Option<Arc<V>> {
        self.write().place(identity, view)
    }

    /// Removes an object; returns its last view.
    #[must_use]
    pub fn remove(&self, identity: &Identity) -> Option<Arc<V>> {
        let removed = self.write().take(&identity.path())?;
        Some(removed.view)
    }

    /// Replaces the contents with a complete list. Keeps the last known view of objects that exist but cannot be
    /// read.
    pub fn fill(&self, Draft(mut next): Draft<V>, unreadable: &[Identity]) {
        let mut state = self.write();
        for identity in unreadable {
            if let Some(known) = state.take(&identity.path()) {
                next.keep(identity, known);
            }
        }
        *state = next;
        drop(state);
        self.filled.send_replace(true);
    }

    fn read(&self) -> RwLockReadGuard<'_, State<V>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<V>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: View> State<V> {
    /// Stores an object under its own path or, if its namespace is full, under the path that all further objects of
    /// the namespace share. Returns the view if it changed.
    fn place(&mut self, identity: &Identity, view: V) -> Option<Arc<V>> {
        let (path, view) = match self.overflow_view(identity) {
            Some(rest) => (Identity::path_of(&identity.namespace, ""), rest),
            None => (identity.path(), view),
        };
        let before = self.take(&path);
        let view = if view.counts() && self.are_full(&view.marks()) {
            view.in_brief()
        } else {
            view
        };
        let cached = Cached::new(identity, view);
        let view = cached.view.clone();
        self.insert(path, cached);
        before.is_none_or(|before| before.view != view).then_some(view)
    }

    /// Keeps the last known view of an object.
    fn keep(&mut self, identity: &Identity, known: Cached<V>) {
        match self.overflow_view(identity) {
            Some(rest) => {
                let path = Identity::path_of(&identity.namespace, "");
                self.take(&path);
                self.insert(path, Cached::new(identity, rest));
            }
            None => self.insert(identity.path(), known),
        }
    }

    /// The view that stands for this object and others, if its namespace is full.
    fn overflow_view(&mut self, identity: &Identity) -> Option<V> {
        let (most, rest) = V::rest(&identity.namespace)?;
        let neighbours = self.marked.get(&Mark::Namespace(identity.namespace.clone()))?;
        if neighbours.paths.len() < most || self.objects.contains_key(identity.path().as_str()) {
            return None;
        }
        self.truncated = true;
        Some(rest)
    }

    /// Whether one of these marks has as many whole views as are kept.
    fn are_full(&self, marks: &[Mark]) -> bool {
        let mut marked = marks.iter().filter_map(|mark| self.marked.get(mark));
        marked.any(|marked| marked.counted >= V::MOST)
    }

    fn insert(&mut self, path: String, object: Cached<V>) {
        let path: Arc<str> = path.into();
        for mark in object.view.marks() {
            let marked = self.marked.entry(mark).or_default();
            marked.paths.insert(path.clone());
            marked.counted += usize::from(object.view.counts());
        }
        self.objects.insert(path, object);
    }

    fn take(&mut self, path: &str) -> Option<Cached<V>> {
        let object = self.objects.remove(path)?;
        for mark in object.view.marks() {
            if let Some(marked) = self.marked.get_mut(&mark) {
                marked.paths.remove(path);
                marked.counted -= usize::from(object.view.counts());
                if marked.paths.is_empty() {
                    self.marked.remove(&mark);
                }
            }
        }
        Some(object)
    }
}
