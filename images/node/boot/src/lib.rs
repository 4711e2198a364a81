//! What a guest runs to become its pod's Node.
