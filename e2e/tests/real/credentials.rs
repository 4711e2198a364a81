//! What a guest joins with, as the administrator sees it: a bootstrap token, and the seed that tells it to the guest.

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{eventually, gone};
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};

use crate::user::User;

/// The two Secrets of a pod's VM.
pub struct Credentials {
    pub seed: Secret,
    pub token: Secret,
    seeds: Api<Secret>,
    tokens: Api<Secret>,
}

impl Credentials {
    /// Waits until both are there, which they are until the guest has joined.
    pub async fn of(user: &User<'_>, pod: &MaroonedPod) -> Self {
        let secrets = |namespace| Api::<Secret>::namespaced(user.setup.env.admin.clone(), namespace);
        let (seeds, tokens) = (secrets(names::VM_NAMESPACE), secrets(names::TOKEN_NAMESPACE));
        let of_pod = ListParams::default().labels(&format!("{}={}", names::POD_UID_LABEL, pod.uid));
        let found = eventually("the Secrets that a guest joins with", SOON, || async {
            let (seeds, tokens) = tokio::try_join!(seeds.list(&of_pod), tokens.list(&of_pod))?;
            Ok(seeds
                .items
                .into_iter()
                .next()
                .zip(tokens.items.into_iter().next()))
        });
        let (seed, token) = found.await.unwrap();
        Self {
            seed,
            token,
            seeds,
            tokens,
        }
    }

    /// The bootstrap token, as a client sends it.
    pub fn token(&self) -> String {
        let data = self.token.data.as_ref().unwrap();
        ["token-id", "token-secret"]
            .map(|part| String::from_utf8(data[part].0.clone()).unwrap())
            .join(".")
    }

    /// Both are still the ones that they were.
    pub async fn are_there(&self) {
        for (api, secret) in [(&self.seeds, &self.seed), (&self.tokens, &self.token)] {
            let now = api.get(&secret.name_any()).await.unwrap();
            assert_eq!((now.uid(), &now.data), (secret.uid(), &secret.data));
        }
    }

    /// Waits until none of them is to be found.
    pub async fn are_revoked(&self) {
        for (api, secret) in [(&self.seeds, &self.seed), (&self.tokens, &self.token)] {
            gone(api, &secret.name_any(), SOON).await.unwrap();
        }
    }
}
