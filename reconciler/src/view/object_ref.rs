//! Which object is meant.

/// One object, of a kind that the context names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Namespace; empty for kinds without one, and for VMIs, which are all in the one namespace of ours.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: another object of the same name is not meant.
    pub uid: String,
}

impl ObjectRef {
    /// An object whose namespace is known from its kind, or that has none.
    #[must_use]
    pub fn without_namespace(name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self {
            namespace: String::new(),
            name: name.into(),
            uid: uid.into(),
        }
    }
}
