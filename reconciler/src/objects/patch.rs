//! Operations of a JSON Patch (RFC 6902), each at the path that its tokens name. Tokens are escaped as JSON Pointers
//! demand (RFC 6901), so a key may hold any character.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use serde_json::Value;

/// A place behind the last item of a list.
pub const END: &str = "-";

/// Refuses the whole patch unless the value at `path` is this one. The API server answers 422 then.
pub fn test(path: &[&str], value: impl Into<Value>) -> PatchOperation {
    let (path, value) = (pointer(path), value.into());
    PatchOperation::Test(TestOperation { path, value })
}

/// Refuses the whole patch unless the object is this one.
pub fn test_uid(uid: &str) -> PatchOperation {
    test(&["metadata", "uid"], uid)
}

/// Adds a member or an item, or replaces the member that is there. What it is added to must exist.
pub fn add(path: &[&str], value: impl Into<Value>) -> PatchOperation {
    let (path, value) = (pointer(path), value.into());
    PatchOperation::Add(AddOperation { path, value })
}

/// Replaces a value that must exist.
pub fn replace(path: &[&str], value: impl Into<Value>) -> PatchOperation {
    let (path, value) = (pointer(path), value.into());
    PatchOperation::Replace(ReplaceOperation { path, value })
}

/// Removes a value that must exist.
pub fn remove(path: &[&str]) -> PatchOperation {
    let path = pointer(path);
    PatchOperation::Remove(RemoveOperation { path })
}

fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_escaped() {
        let operation = add(&["metadata", "labels", "a.example/b~c"], "d");
        assert_eq!(
            serde_json::to_value(operation).unwrap(),
            json!({"op": "add", "path": "/metadata/labels/a.example~1b~0c", "value": "d"})
        );
    }
}
