//! Steps 1, 2 and 4: the record, the credentials, the VMI, the Node. An object that is there already must be ours; else it
//! is an error.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::api::{Api, ListParams, PostParams};
use kube::core::{DynamicObject, Request, Resource, ResourceExt};
use maroonedpods_common::api::{MaroonedNode, MaroonedNodeSpec};
use maroonedpods_common::names;

use crate::api::{CallError, Cluster, call, get};
use crate::objects::{identity, record, seed, token, vmi};
use crate::own_writes::OwnWrites;
use crate::params;

/// ConfigMap that kube-controller-manager publishes in every namespace, and the key of the CA in it.
const ROOT_CA: (&str, &str) = ("kube-root-ca.crt", "ca.crt");

/// The limit is checked against a live count, which is exact unless another reconciler makes records meanwhile.
pub(super) async fn record(
    cluster: &Cluster,
    spec: &MaroonedNodeSpec,
    at_most: Option<u32>,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    is_gating(cluster).await?;
    let new = record::new(spec.clone());
    let records = cluster.all::<MaroonedNode>();
    if let Some(most) = at_most {
        has_place(&records, &new.spec.pod_ref.namespace, most).await?;
    }
    match call(records.create(&params::create(), &new)).await {
        Err(error) if error.is_conflict() => {
            let found = get(&records, &new.name_any()).await?;
            // A rule of the CRD ties name and podRef.uid together, so this cannot differ. If it does, the record is not
            // ours.
            if found.spec.pod_ref.uid != new.spec.pod_ref.uid {
                let message = format!("MaroonedNode {} belongs to another pod", new.name_any());
                return Err(CallError::Unexpected(message));
            }
            own_writes.note(&found);
            Ok(())
        }
        created => {
            own_writes.note(&created?);
            Ok(())
        }
    }
}

/// An uninstallation deletes the webhook's configuration, and then waits until all records are gone: no new one may
/// appear, even for a pod that was created with the gate.
async fn is_gating(cluster: &Cluster) -> Result<(), CallError> {
    let webhooks = cluster.all::<MutatingWebhookConfiguration>();
    let found = call(webhooks.get_metadata_opt(names::WEBHOOK_CONFIGURATION)).await?;
    if found.is_some() {
        Ok(())
    } else {
        let name = names::WEBHOOK_CONFIGURATION;
        let message = format!(
            "no VM is started without the MutatingWebhookConfiguration {name}: install the chart again, or delete the pod"
        );
        Err(CallError::Unexpected(message))
    }
}

async fn has_place(records: &Api<MaroonedNode>, namespace: &str, most: u32) -> Result<(), CallError> {
    let theirs = ListParams::default().labels(&format!("{}={namespace}", names::POD_NAMESPACE_LABEL));
    let found = call(records.list_metadata(&theirs)).await?.items.len();
    if u32::try_from(found).is_ok_and(|found| found < most) {
        Ok(())
    } else {
        let message = format!("namespace {namespace} has {found} of at most {most} VMs");
        Err(CallError::Precondition(message))
    }
}

/// The token's Secret is created first, and read back where it exists, so that seed and token agree even if two
/// reconcilers created them.
pub(super) async fn credentials(
    cluster: &Cluster,
    record: &MaroonedNode,
    attempt: u32,
    lifetime_seconds: i64,
) -> Result<(), CallError> {
    let ca = server_ca(cluster, record).await?;
    let id = identity::token_id(record, attempt);
    let secret_half = random_token_secret()?;
    let expires = Timestamp::now()
        .saturating_add(SignedDuration::from_secs(lifetime_seconds))
        .unwrap_or(Timestamp::MAX);
    let new = token::secret(record, &id, &secret_half, expires);
    let tokens = cluster.within::<Secret>(names::TOKEN_NAMESPACE);
    let (stored, fresh) = match call(tokens.create(&params::create(), &new)).await {
        Err(error) if error.is_conflict() => (get(&tokens, &new.name_any()).await?, false),
        created => (created?, true),
    };
    let token = token::read(&stored, record, &id).ok_or_else(|| {
        CallError::Unexpected(format!(
            "Secret {} is not this record's bootstrap token",
            new.name_any()
        ))
    })?;
    let seed = seed::secret(
        record,
        attempt,
        &cluster.vm_namespace,
        &seed::join_info(record, token, ca),
    )
    .map_err(|error| CallError::Unexpected(format!("cannot write join-info.yaml: {error}")))?;
    create_seed(&cluster.within::<Secret>(&cluster.vm_namespace), &seed, fresh).await
}

/// A seed that is there already carries this token, unless the token is new or the seed is a former record's: then
/// it is replaced. No VM has read it yet, for VMIs are made after their seeds.
async fn create_seed(seeds: &Api<Secret>, seed: &Secret, token_is_new: bool) -> Result<(), CallError> {
    match call(seeds.create(&params::create(), seed)).await {
        Err(error) if error.is_conflict() => {}
        created => return created.map(drop),
    }
    let found = get(seeds, &seed.name_any()).await?;
    if !token_is_new && owner_uid(&found) == owner_uid(seed) {
        return Ok(());
    }
    super::delete(seeds, &found.name_any(), &found.uid().unwrap_or_default()).await?;
    call(seeds.create(&params::create(), seed)).await.map(drop)
}

fn random_token_secret() -> Result<String, CallError> {
    let mut bytes = [0; identity::TOKEN_SECRET_LENGTH];
    getrandom::fill(&mut bytes)
        .map_err(|error| CallError::Unexpected(format!("no randomness from the system: {error}")))?;
    Ok(identity::token_text(&bytes))
}

async fn server_ca(cluster: &Cluster, record: &MaroonedNode) -> Result<String, CallError> {
    if let Some(bundle) = &record.spec.vm.join.ca_bundle {
        return Ok(bundle.clone());
    }
    let (name, key) = ROOT_CA;
    let published = get(&cluster.within::<ConfigMap>(&cluster.vm_namespace), name).await?;
    published
        .data
        .and_then(|mut data| data.remove(key))
        .ok_or_else(|| {
            let namespace = &cluster.vm_namespace;
            CallError::Unexpected(format!(
                "ConfigMap {namespace}/{name} has no {key}: set spec.join.caBundle"
            ))
        })
}

pub(super) async fn node(
    cluster: &Cluster,
    node: &Node,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    match call(cluster.all::<Node>().create(&params::create(), node)).await {
        Err(error) if error.is_conflict() => {
            let found = get(&cluster.nodes(), &node.name_any()).await?;
            if owner_uid(&found) != owner_uid(node) {
                let message = format!("Node {} has another owner: delete it", node.name_any());
                return Err(CallError::Unexpected(message));
            }
            own_writes.note(&found);
            Ok(())
        }
        created => {
            own_writes.note(&created?);
            Ok(())
        }
    }
}

/// A dry run: quota, policies and KubeVirt are asked, nothing is made.
pub(super) async fn try_vmi(cluster: &Cluster, record: &MaroonedNode, attempt: u32) -> Result<(), CallError> {
    match post_vmi(cluster, record, attempt, &params::dry_run()).await {
        Err(error) if error.is_conflict() => Ok(()),
        tried => tried.map(drop),
    }
}

pub(super) async fn vmi(
    cluster: &Cluster,
    record: &MaroonedNode,
    attempt: u32,
    own_writes: &mut OwnWrites,
) -> Result<(), CallError> {
    match post_vmi(cluster, record, attempt, &params::create()).await {
        Err(error) if error.is_conflict() => Ok(()),
        created => {
            own_writes.note_dynamic(&created?);
            Ok(())
        }
    }
}

/// Strict, so that a field which this KubeVirt does not know is an error and not silently dropped.
pub(crate) async fn post_vmi(
    cluster: &Cluster,
    record: &MaroonedNode,
    attempt: u32,
    params: &PostParams,
) -> Result<DynamicObject, CallError> {
    let new = vmi::new(record, attempt, &cluster.vm_namespace);
    let body = serde_json::to_vec(&new).map_err(kube::Error::SerdeError)?;
    let url = DynamicObject::url_path(&vmi::api_resource(), Some(&cluster.vm_namespace));
    let mut request = Request::new(url)
        .create(params, body)
        .map_err(kube::Error::BuildRequest)?;
    let strict = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = strict
        .parse()
        .map_err(|_| CallError::Unexpected(format!("bad URL {strict}")))?;
    call(cluster.client.request::<DynamicObject>(request)).await
}

fn owner_uid<K: ResourceExt>(object: &K) -> Option<&str> {
    object.owner_references().first().map(|owner| owner.uid.as_str())
}
