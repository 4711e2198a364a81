//! Volumes from an NFS server, which the guest's kubelet mounts as any node's does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::DeleteParams;
use maroonedpods_e2e::api::check::{accepts, becomes};
use maroonedpods_e2e::api::read;
use maroonedpods_e2e::cluster::REAL_LABEL;
use maroonedpods_e2e::harness::real_env::RUNS;
use maroonedpods_e2e::system::debian;
use maroonedpods_image_build::apt::Apt;
use maroonedpods_image_build::oci::{Files, Image};
use serde_json::{Value, json};

use crate::sizes::Size;
use crate::user::{Setup, User, shell_with};

/// The server's image on the nodes.
const IMAGE: &str = "localhost/nfs-server:1";
/// The server, of one program: no port mapper, no other daemon.
const PACKAGES: [&str; 2] = ["libc-bin", "nfs-ganesha-vfs"];
/// What it needs not of what its package depends on.
const LEFT_OUT: [&str; 4] = [
    "./usr/lib/python3*",
    "./usr/lib/x86_64-linux-gnu/perl*",
    "./usr/share/perl*",
    "./usr/lib/x86_64-linux-gnu/libpython*",
];
/// Version 4 alone, and no wait for clients of an earlier run.
const CONFIGURATION: &str = r"
NFS_Core_Param { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Graceless = true; RecoveryBackend = fs; }
EXPORT {
  Export_Id = 1; Path = /export; Pseudo = /export; Protocols = 4; Transports = TCP;
  Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  FSAL { Name = VFS; }
}
LOG { Default_Log_Level = WARN; }
";

/// Makes the server's image, in an archive in `folder`. Call it outside of a cluster's network. Blocks.
pub fn image(apt: &Apt, folder: &Path) -> PathBuf {
    let root = folder.join("nfs");
    debian::lay_out(&root).unwrap();
    debian::unpack(apt, &PACKAGES, &LEFT_OUT, &root).unwrap();
    for made in [
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "var/lib/nfs/ganesha",
        "export",
    ] {
        fs::create_dir_all(root.join(made)).unwrap();
    }
    for (file, content) in [
        ("ganesha.conf", CONFIGURATION),
        ("passwd", "root:x:0:0::/:/bin/sh\n"),
    ] {
        fs::write(root.join("etc").join(file), content).unwrap();
    }
    symlink("/proc/self/mounts", root.join("etc/mtab")).unwrap();
    debian::find_libraries(&root).unwrap();
    let mut files = Files::default();
    files.tree(&root).unwrap();
    let server = "/usr/bin/ganesha.nfsd -F -f /etc/ganesha.conf -L /dev/stdout -p /run/ganesha.pid";
    let image = Image {
        name: IMAGE.to_owned(),
        files,
        entrypoint: server.split(' ').map(str::to_owned).collect(),
        user: "0:0".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let archive = folder.join("nfs.tar");
    fs::write(&archive, image.archive().unwrap().bytes).unwrap();
    archive
}

/// A marooned pod and its successor, by a volume of the pod's and by a claim: what the one wrote, the other reads.
pub async fn is_mounted(setup: &Setup<'_>, image: &Path) {
    let _room = setup.room_for(1).await;
    setup.env.cluster().import(image).await.unwrap();
    let user = User::new(setup, "nfs").await;
    let server = serves(&user).await;
    let nfs = json!({"server": server, "path": "/export"});
    let script = |script: &str| format!("{script}; trap 'exit 0' TERM; sleep 3600 & wait");
    let with = |volume: Value, command: &str| {
        json!({
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [shell_with("main", &script(command), json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}))],
            "volumes": [volume],
        })
    };
    let writes = "echo written > /data/file && chown 1000:1000 /data/file";
    let writer = user
        .runs(
            "writer",
            Size("130m", "140Mi"),
            with(json!({"name": "data", "nfs": nfs}), writes),
        )
        .await;
    let mounted = user
        .shell("writer", "grep /data /proc/mounts; ls -ln /data")
        .await;
    assert!(
        mounted.contains(" nfs4 rw,") && mounted.contains("1000     1000"),
        "{mounted}"
    );
    writer.ends().await.unwrap();

    let volumes: Api<PersistentVolume> = Api::all(setup.env.admin.clone());
    let volume = json!({
        "metadata": {"name": user.namespace},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "", "nfs": nfs,
            "mountOptions": ["nfsvers=4.1", "proto=tcp"],
            "claimRef": {"namespace": user.namespace, "name": "data"}, "persistentVolumeReclaimPolicy": "Retain",
        },
    });
    accepts(&volumes, &serde_json::from_value(volume).unwrap())
        .await
        .unwrap();
    let _: PersistentVolumeClaim = user
        .applies(json!({
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": user.namespace,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }))
        .await;
    let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
    let reader = user
        .runs("reader", Size("140m", "150Mi"), with(claim, "true"))
        .await;
    assert_eq!(user.shell("reader", "cat /data/file").await, "written\n");
    let mounted = user.shell("reader", "grep /data /proc/mounts").await;
    assert!(mounted.contains("vers=4.1"), "{mounted}");
    reader.ends().await.unwrap();
    let volume = user.namespace.clone();
    user.leaves().await;
    volumes.delete(&volume, &DeleteParams::default()).await.unwrap();
}

/// Runs the server in an ordinary pod on a host, and returns the address.
async fn serves(user: &User<'_>) -> String {
    let pods: Api<Pod> = user.api();
    let pod = json!({
        "metadata": {"name": "server"},
        "spec": {
            "nodeSelector": {REAL_LABEL: "true"},
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "server", "image": IMAGE, "imagePullPolicy": "Never",
                "securityContext": {"privileged": true},
                "readinessProbe": {"tcpSocket": {"port": 2049}, "periodSeconds": 1},
                "volumeMounts": [{"name": "export", "mountPath": "/export"}],
            }],
            "volumes": [{"name": "export", "emptyDir": {}}],
        },
    });
    accepts(&pods, &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let server = becomes(&pods, "server", "an NFS server", RUNS, read::runs)
        .await
        .unwrap();
    server.status.unwrap().pod_ip.unwrap()
}
