//! Conditions as the API conventions demand: one of each type, with a transition time that moves only with the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use maroonedpods_common::text;

/// Bytes of a message: several sentences, each of them short.
const LONGEST_MESSAGE: usize = 4 * text::LONGEST;

/// The new content of a condition.
#[derive(Clone, Copy, Debug)]
pub struct ConditionUpdate<'a> {
    /// True or False; never Unknown.
    pub holds: bool,
    /// Machine-readable reason.
    pub reason: &'a str,
    /// One sentence for users.
    pub message: &'a str,
}

/// The condition of a type, if it is there.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Sets the condition of a type, in its place if it is there.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    says: ConditionUpdate<'_>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if says.holds { "True" } else { "False" };
    let since = find(conditions, type_)
        .filter(|c| c.status == status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: says.reason.to_owned(),
        message: text::shortened(says.message, LONGEST_MESSAGE).into_owned(),
        last_transition_time: since,
        observed_generation: generation,
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(said) => *said = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut conditions = Vec::new();
        let says = |holds, reason| ConditionUpdate {
            holds,
            reason,
            message: "",
        };
        set(&mut conditions, "Launched", says(true, "A"), None, first);
        set(&mut conditions, "Launched", says(true, "B"), None, later);
        let said = find(&conditions, "Launched").unwrap();
        assert_eq!((said.last_transition_time.0, said.reason.as_str()), (first, "B"));
        set(&mut conditions, "Launched", says(false, "C"), None, later);
        assert_eq!(
            find(&conditions, "Launched").unwrap().last_transition_time.0,
            later
        );
        assert_eq!(conditions.len(), 1);
    }
}
