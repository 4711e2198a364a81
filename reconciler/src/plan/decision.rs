//! What to do next for one pod, as a value.

use jiff::Timestamp;

use super::{Note, Write};
use crate::view::PodView;

/// What to do now.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Writes, in order; the first that fails ends the pass.
    pub writes: Vec<Write>,
    /// The pod that `notes` are about.
    pub pod: Option<PodView>,
    /// Events for people, published once the writes went through.
    pub notes: Vec<Note>,
    /// Undoes the writes before [`Write::CreateVmi`] if that is refused.
    pub take_back: Option<Write>,
    /// When to look again though nothing changed.
    pub wake: Option<Timestamp>,
    /// The pod waits until its namespace may have one more VM.
    pub waits_for_place: bool,
    /// Nothing is left to do for this UID, ever.
    pub done: bool,
    /// What this plan takes for absent must be absent at the API server, not only in a cache.
    pub(super) absence_must_be_proven: bool,
}

impl Decision {
    /// Whether this must not be decided from a cache.
    #[must_use]
    pub fn needs_live_view(&self) -> bool {
        self.absence_must_be_proven || self.writes.iter().any(Write::needs_live_view)
    }

    pub(super) fn wait() -> Self {
        Self::default()
    }

    pub(super) fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    pub(super) fn writes(mut self, writes: impl IntoIterator<Item = Write>) -> Self {
        self.writes.extend(writes);
        self
    }

    pub(super) fn taken_back_by(mut self, write: Write) -> Self {
        self.take_back = Some(write);
        self
    }

    pub(super) fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }

    /// This plan and then the other's writes and notes.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.writes.extend(other.writes);
        self.notes.extend(other.notes);
        self
    }

    pub(super) fn insist_on_live_view(mut self) -> Self {
        self.absence_must_be_proven = true;
        self
    }

    pub(super) fn wake_at(mut self, at: Timestamp) -> Self {
        self.wake = Some(self.wake.map_or(at, |set| set.min(at)));
        self
    }
}
