//! What becomes of VMs, from their VMIs' creation until these are gone. One table for the real `KubeVirt` and for the
//! stand-in.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, EvictParams, ListParams};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::read::{self, vmis};
use maroonedpods_e2e::control_plane::ControlPlane;
use serde_json::{Value, json};

use crate::story::{Story, condition, conditions, entered, is_final};
use crate::variants::{put, vmi};

/// An emulated guest boots in 3 s on an idle machine.
pub const SOON: Duration = Duration::from_secs(120);
const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// The grace of the deaf guest.
pub const GRACE: u64 = 3;

/// What is done to a VM once its guest is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Its guest powers off.
    PowerOff,
    /// Its guest's kernel panics, and resets the machine.
    Panic,
    /// QEMU is killed.
    Kill,
    /// Its launcher is deleted, with the grace that it has.
    DeleteLauncher,
    /// Its launcher is deleted without grace, as of a host that is lost.
    DropLauncher,
    /// Its launcher is evicted, as by a drain of its host.
    Evict,
    /// Nothing.
    Nothing,
}

/// How each side does what the table says.
pub trait World {
    /// The image of the VMs' disk and kernel.
    const IMAGE: &'static str;
    /// How many VMs there is room for.
    const ROOM: usize;

    fn control_plane(&self) -> &ControlPlane;

    /// Readies what the VMI needs so that its guest will do this, or will be deaf to the power button.
    async fn prepare(&self, vmi: &mut Value, deed: Deed, deaf: bool);

    /// Waits until the guest has started so many times.
    async fn is_up(&self, vmi: &str, times: usize);

    /// Has the guest power off or panic, or kills QEMU, unless that was prepared for.
    async fn does(&self, vmi: &DynamicObject, deed: Deed);
}

/// A VMI that differs from [`vmi`] at some places of its spec; what is done to it, and what must come of that. In the end
/// every VMI is deleted.
struct Life {
    name: &'static str,
    spec: Vec<(&'static str, Value)>,
    deaf: bool,
    deed: Deed,
    /// What is seen of it after the deed, before the VMI is deleted.
    then: Value,
    /// The final phase, and the reason why the VMI is not ready; none where that differs from time to time.
    end: (&'static str, Option<&'static str>),
}

impl Life {
    /// One that goes on until its VMI is deleted.
    fn goes_on(name: &'static str, deed: Deed, end: &'static str) -> Self {
        Self {
            name,
            spec: Vec::new(),
            deaf: false,
            deed,
            then: json!({"phase": "Running", "launcher": "Running", "held": true}),
            end: (end, Some("PodTerminating")),
        }
    }

    /// One that the deed ends. Its launcher ends with it, and stays until the VMI is deleted.
    fn ends(name: &'static str, deed: Deed, end: &'static str) -> Self {
        Self {
            then: json!({"phase": end, "launcher": "Succeeded", "held": true}),
            ..Self::goes_on(name, deed, end)
        }
    }

    /// One that ends because its launcher goes. Nothing holds its VMI then.
    fn loses_launcher(name: &'static str, deed: Deed, end: &'static str) -> Self {
        Self {
            then: json!({"phase": end, "launcher": null, "held": false}),
            end: (end, Some("PodNotExists")),
            ..Self::goes_on(name, deed, end)
        }
    }

    fn with(mut self, at: &'static str, value: Value) -> Self {
        self.spec.push((at, value));
        self
    }
}

fn lives() -> Vec<Life> {
    let mut deaf = Life::goes_on("deaf", Deed::Nothing, "Failed")
        .with("/terminationGracePeriodSeconds", json!(GRACE))
        .with(
            "/domain/firmware/kernelBoot/kernelArgs",
            json!("console=ttyS0 panic=1 no_timer_check deaf"),
        );
    deaf.deaf = true;
    let mut nowhere = Life::goes_on("nowhere", Deed::Nothing, "Failed")
        .with("/nodeSelector", json!({"example.com/pool": "none"}));
    nowhere.then = json!({"phase": "Scheduling", "launcher": "Pending", "held": true,
        "blocked": "PodScheduled: Unschedulable"});
    nowhere.end.1 = None;
    let mut refused =
        Life::goes_on("refused", Deed::Nothing, "Failed").with("/priorityClassName", json!("none"));
    refused.then = json!({"phase": "Pending", "launcher": null, "held": true,
        "blocked": "Synchronized: FailedCreate"});
    refused.end.1 = Some("PodNotExists");
    vec![
        Life::ends("off", Deed::PowerOff, "Succeeded"),
        Life::ends("panics", Deed::Panic, "Succeeded"),
        Life::goes_on("reboots", Deed::Panic, "Succeeded").with("/domain/rebootPolicy", Value::Null),
        Life::ends("killed", Deed::Kill, "Failed"),
        Life::loses_launcher("told", Deed::DeleteLauncher, "Succeeded"),
        Life::loses_launcher("lost", Deed::DropLauncher, "Failed"),
        // Far beyond what this test waits for its end.
        Life::goes_on("heeds", Deed::Evict, "Succeeded").with("/terminationGracePeriodSeconds", json!(600)),
        deaf,
        nowhere,
        refused,
    ]
}

/// What must be seen of this life, in one object.
fn wanted(life: &Life) -> Value {
    let not_ready = |reason: &str| {
        let why = match reason {
            "PodTerminating" => "virt-launcher pod is terminating",
            "PodNotExists" => "virt-launcher pod has not yet been scheduled",
            _ => "Guest VM is not reported as running",
        };
        format!("False {reason} {why}")
    };
    let migratable =
        |ready: String| json!({"Ready": ready, "LiveMigratable": "True", "StorageLiveMigratable": "True"});
    let ran = life.then["blocked"].is_null();
    let mut phases = vec!["Pending"];
    if life.name != "refused" {
        phases.push("Scheduling");
    }
    if ran {
        phases.extend(["Scheduled", "Running"]);
    }
    // KubeVirt does not note when a VM failed whose launcher was gone all at once.
    if life.deed != Deed::DropLauncher {
        phases.push(life.end.0);
    }
    let mut said = Value::Null;
    let mut end = match life.end.1.map(not_ready) {
        Some(ready) if ran => migratable(ready),
        Some(ready) => json!({"Ready": ready}),
        None => json!({"PodScheduled": "False Unschedulable"}),
    };
    if life.deed == Deed::Evict {
        end["EvictionRequested"] = json!("True EvictionRequested VMI is marked for eviction");
        let denied =
            "admission webhook \"virt-launcher-eviction-interceptor.kubevirt.io\" denied the request: ";
        let evacuates = format!(
            "Eviction triggered evacuation of VMI \"{}/{}\"",
            names::VM_NAMESPACE,
            life.name
        );
        said = json!([
            {"code": 429, "says": format!("{denied}{evacuates}"), "marked": false},
            {"code": 429, "says": format!("{denied}{evacuates}"), "marked": true},
            {"code": 429, "says": format!("{denied}Evacuation in progress: {evacuates}"), "marked": true},
        ]);
    }
    let before = ran.then(|| {
        json!({
            "Pending": {},
            "Scheduling": {"Ready": not_ready("GuestNotRunning")},
            "Scheduled": migratable(not_ready("GuestNotRunning")),
            "Running": migratable("True".to_owned()),
        })
    });
    json!({
        "life": life.name,
        "phases": phases,
        "before": before,
        "said": said,
        "then": life.then,
        "end": {
            "phase": life.end.0,
            "conditions": end,
            // Of a VM whose end nobody on its host saw.
            "address": life.deed == Deed::DropLauncher,
        },
        "grace was waited for": life.deaf,
    })
}

/// Lives of VMs; what was seen of each one, and what should be.
pub async fn lived<W: World>(world: &W) -> Vec<(Value, Value)> {
    let lives = stream::iter(lives()).map(async |life| (live(world, &life).await, wanted(&life)));
    lives.buffer_unordered(W::ROOM).collect().await
}

async fn live<W: World>(world: &W, life: &Life) -> Value {
    let admin = world.control_plane().admin().await.unwrap();
    let story = Story::begin(&admin, life.name).await;
    let vmi = create(world, &admin, life).await;
    story.becomes("there", |_| true).await;
    let launchers: Api<Pod> = Api::namespaced(admin.clone(), names::VM_NAMESPACE);
    let own = ListParams::default().labels(&format!("kubevirt.io/created-by={}", vmi.uid().unwrap()));

    let ran = life.then["blocked"].is_null();
    let mut said = Value::Null;
    if ran {
        let ready = story.becomes("ready", |vmi| condition(vmi, "Ready")["status"] == "True");
        let up = ready.await;
        world.is_up(life.name, 1).await;
        let launcher = launchers.list(&own).await.unwrap().items.remove(0);
        let address = launcher.status.as_ref().and_then(|status| status.pod_ip.clone());
        assert_eq!(up.data["status"]["interfaces"][0]["ipAddress"], json!(address));
        assert_eq!(up.data["status"]["nodeName"], json!(read::node(&launcher)));
        let launcher = launcher.name_any();
        match life.deed {
            Deed::DeleteLauncher | Deed::DropLauncher => {
                let mut params = DeleteParams::default();
                if life.deed == Deed::DropLauncher {
                    params = params.grace_period(0);
                }
                launchers.delete(&launcher, &params).await.unwrap();
            }
            Deed::Evict => said = evict(world, &story, &launcher).await,
            Deed::PowerOff | Deed::Panic | Deed::Kill => world.does(&up, life.deed).await,
            Deed::Nothing => {}
        }
    }

    let then = async || {
        let vmi = story.last();
        let launcher = launchers.list(&own).await?.items.pop();
        let blocked = ["PodScheduled", "Synchronized"].map(|type_| condition(&vmi, type_));
        let blocked = blocked.iter().find(|condition| condition["status"] == "False");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut then = json!({
            "phase": vmi.data["status"]["phase"],
            "launcher": launcher.as_ref().map(read::phase),
            "held": vmi.finalizers() == [FINALIZER],
        });
        if let Some(blocked) = blocked {
            then["blocked"] = json!(format!(
                "{}: {}",
                text(&blocked["type"]),
                text(&blocked["reason"])
            ));
        }
        anyhow::Ok(then)
    };
    let settled = eventually("what comes then", SOON, || async {
        let then = then().await?;
        anyhow::ensure!(then == life.then, "{then}");
        Ok(Some(()))
    });
    if let Err(error) = settled.await {
        println!("{}: {error:#}", life.name);
    }
    if life.deed == Deed::Panic && life.then["phase"] == "Running" {
        world.is_up(life.name, 2).await;
    }
    let then = then().await.unwrap();

    let deleted = Instant::now();
    let vmis = vmis(&admin);
    vmis.delete(life.name, &DeleteParams::default()).await.unwrap();
    story.becomes("at its end", is_final).await;
    let took = deleted.elapsed();
    eventually("the VMI to be gone", SOON, || async {
        Ok(story.is_over().then_some(()))
    })
    .await
    .unwrap();
    let left = launchers.list(&own).await.unwrap().items;
    assert!(left.is_empty(), "{}: its launcher is left", life.name);

    let last = story.last();
    let mut end = conditions(&last);
    if life.end.1.is_none() {
        end.as_object_mut().unwrap().remove("Ready");
    }
    json!({
        "life": life.name,
        "phases": entered(&last),
        "before": ran.then(|| story.before()),
        "said": said,
        "then": then,
        "end": {
            "phase": last.data["status"]["phase"],
            "conditions": end,
            "address": last.data["status"]["interfaces"][0]["ipAddress"].is_string(),
        },
        // It counts from the whole second that the deletion is stamped with.
        "grace was waited for": took > Duration::from_secs(GRACE - 1) && life.deaf,
    })
}

async fn create<W: World>(world: &W, admin: &Client, life: &Life) -> DynamicObject {
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), names::VM_NAMESPACE);
    let secret = json!({
        "metadata": {"name": format!("{}-join", life.name)},
        "stringData": {"userdata": "#cloud-config\nwrite_files: []\n", "networkdata": "version: 2\n"},
    });
    accepts(&secrets, &serde_json::from_value(secret).unwrap())
        .await
        .unwrap();
    let mut object = vmi(life.name, W::IMAGE);
    for (at, value) in &life.spec {
        put(&mut object["spec"], at, value.clone());
    }
    world.prepare(&mut object, life.deed, life.deaf).await;
    accepts(&vmis(admin), &serde_json::from_value(object).unwrap())
        .await
        .unwrap()
}

/// Asks for an eviction three times, the first time as a dry run: what is said, and whether the VMI is marked afterwards.
async fn evict<W: World>(world: &W, story: &Story, launcher: &str) -> Value {
    let admin = world.control_plane().impatient_admin().await.unwrap();
    let launchers: Api<Pod> = Api::namespaced(admin, names::VM_NAMESPACE);
    let is_marked = |vmi: &DynamicObject| {
        let status = &vmi.data["status"];
        status["evacuationNodeName"].is_string() && status["evacuationNodeName"] == status["nodeName"]
    };
    let mut said = Vec::new();
    for dry_run in [true, false, false] {
        let mut params = EvictParams::default();
        params.post_options.dry_run = dry_run;
        let refused = launchers.evict(launcher, &params).await.unwrap_err();
        let kube::Error::Api(status) = refused else {
            panic!("{refused}")
        };
        if !dry_run {
            story.becomes("marked", is_marked).await;
        }
        said.push(json!({"code": status.code, "says": status.message, "marked": is_marked(&story.last())}));
    }
    json!(said)
}
