//! Whether a pod has claims, read without holding any of them.

use serde::de::{Deserialize, Deserializer, IgnoredAny};

use super::fold::fold;
use super::object;

/// Of `spec.volumes`: one of them is a claim, or makes one.
#[derive(Debug, Default)]
pub(super) struct AnyClaim(pub(super) bool);

/// Of `spec.resourceClaims`: there is one.
#[derive(Debug, Default)]
pub(super) struct AnyItem(pub(super) bool);

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    #[serde(default, deserialize_with = "object")]
    persistent_volume_claim: Option<Present>,
    #[serde(default, deserialize_with = "object")]
    ephemeral: Option<Present>,
}

/// An object, whatever is in it.
#[derive(serde::Deserialize)]
struct Present {}

impl<'de> Deserialize<'de> for AnyClaim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let add = |any: &mut bool, volume: Volume| {
            *any |= volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
        };
        fold(deserializer, add).map(Self)
    }
}

impl<'de> Deserialize<'de> for AnyItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fold(deserializer, |any: &mut bool, _: IgnoredAny| *any = true).map(Self)
    }
}
