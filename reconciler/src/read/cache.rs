//! The views of all objects of a kind, kept up to date by a [`watch`](super::watch).
//!
//! A cache holds no more of the objects that share a mark than the view's [`Bound`](super::Bound) allows.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use maroonedpods_common::PodUid;
use tokio::sync::watch;

use super::{Beyond, Identity, View};

/// A key, besides the name, under which the cache finds objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The pod's UID.
    Pod(PodUid),
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
    /// One view stands for several objects: their number is not known any more.
    truncated: bool,
}

/// The objects that share a mark.
#[derive(Debug, Default)]
struct Marked {
    paths: HashSet<Arc<str>>,
    /// How many of them count against the bound.
    counted: usize,
}

/// The views of a list in progress. Objects beyond the bound are never held.
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
    /// Adds or replaces an object; the view that changed by it, if one did.
    fn place(&mut self, identity: &Identity, view: V) -> Option<Arc<V>> {
        let path = identity.path();
        let before = self.take(&path);
        let (before, kept) = match self.beyond(&view) {
            None => (before, self.insert(path, Cached::new(identity, view))),
            Some(Beyond::Brief(brief)) => (before, self.insert(path, Cached::new(identity, brief))),
            Some(Beyond::Shared(shared)) => self.share(identity, shared),
        };
        before.is_none_or(|before| before.view != kept).then_some(kept)
    }

    /// Keeps the earlier view of an object.
    fn keep(&mut self, identity: &Identity, known: Cached<V>) {
        match self.beyond(&known) {
            None => self.insert(identity.path(), known),
            Some(Beyond::Brief(brief)) => {
                let version = known.version;
                let view = Arc::new(brief);
                self.insert(identity.path(), Cached { version, view })
            }
            Some(Beyond::Shared(shared)) => self.share(identity, shared).1,
        };
    }

    /// What is kept of a view instead of itself, where as many as are kept share one of its marks.
    fn beyond(&self, view: &V) -> Option<Beyond<V>> {
        let bound = V::BOUND.filter(|bound| (bound.counts)(view))?;
        let marks = view.marks();
        let mut marked = marks.iter().filter_map(|mark| self.marked.get(mark));
        marked
            .any(|marked| marked.counted >= bound.most)
            .then(|| (bound.beyond)(view))
    }

    /// Puts a view in the place that all beyond the bound of a namespace share; what was there before, and what is there
    /// now.
    fn share(&mut self, identity: &Identity, shared: V) -> (Option<Cached<V>>, Arc<V>) {
        self.truncated = true;
        let path = Identity::path_of(&identity.namespace, "");
        let before = self.take(&path);
        (before, self.insert(path, Cached::new(identity, shared)))
    }

    fn insert(&mut self, path: String, object: Cached<V>) -> Arc<V> {
        let path: Arc<str> = path.into();
        let counted = usize::from(counts(&*object));
        for mark in object.view.marks() {
            let marked = self.marked.entry(mark).or_default();
            marked.paths.insert(path.clone());
            marked.counted += counted;
        }
        let view = object.view.clone();
        self.objects.insert(path, object);
        view
    }

    fn take(&mut self, path: &str) -> Option<Cached<V>> {
        let object = self.objects.remove(path)?;
        let counted = usize::from(counts(&*object));
        for mark in object.view.marks() {
            if let Some(marked) = self.marked.get_mut(&mark) {
                marked.paths.remove(path);
                marked.counted -= counted;
                if marked.paths.is_empty() {
                    self.marked.remove(&mark);
                }
            }
        }
        Some(object)
    }
}

fn counts<V: View>(view: &V) -> bool {
    V::BOUND.is_some_and(|bound| (bound.counts)(view))
}
