//! A reference to one object.

/// A reference to one object; the context determines its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Namespace; empty for cluster-scoped objects, and for VMIs, which are all in the one namespace for VMs.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: the reference does not mean another object of that name.
    pub uid: String,
}

impl ObjectRef {
    /// A reference to an object whose namespace is known from its kind, or that has none.
    #[must_use]
    pub fn without_namespace(name: impl Into<String>, uid: impl Into<String>) -> Self {
        Self {
            namespace: String::new(),
            name: name.into(),
            uid: uid.into(),
        }
    }
}
