//! The real `KubeVirt` on real nodes, and what it makes of VMIs in the reconciler's shape.
//!
//! Needs root, Debian's apt and a C compiler; what is skipped without root is named.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures)]

mod cases;
mod launchers;
mod lives;
mod rendered;
mod setup;
mod stand_in;
mod story;
mod variants;

use maroonedpods_common::names;
use maroonedpods_e2e::cluster::{ClusterOptions, provide, with_cluster};
use serde_json::json;

use self::launchers::launchers;
use self::lives::lived;
use self::rendered::every_configuration_is_taken;
use self::setup::{Images, Setup};
use self::variants::answers;

#[test]
fn real_guests() {
    let images = provide().unwrap().then(Images::new);
    let options = ClusterOptions {
        images: images.as_ref().map(Images::of_nodes),
        ..ClusterOptions::default()
    };
    with_cluster(options, async |cluster| {
        let setup = Setup::new(&cluster, images.as_ref().unwrap()).await;
        its_api_answers_as_the_table_says(&setup).await;
        every_configuration_is_taken(&setup.admin).await;
        its_launchers_are_as_the_table_says(&setup).await;
        tokio::join!(
            a_guest_finds_the_machine_of_its_vmi(&setup),
            a_disk_with_a_boot_sector_boots(&setup),
        );
        its_vms_live_as_the_table_says(&setup).await;
        drop(setup);
        cluster.stop().await.unwrap();
    })
    .unwrap();
}

async fn its_api_answers_as_the_table_says(setup: &Setup<'_>) {
    for answer in answers(&setup.admin, names::VM_NAMESPACE).await {
        let said = answer.said.as_deref();
        let same = said.is_some() == answer.wanted.is_some()
            && said
                .unwrap_or_default()
                .contains(answer.wanted.unwrap_or_default());
        assert!(same, "{}: {said:?}, not {:?}", answer.what, answer.wanted);
    }
}

async fn its_launchers_are_as_the_table_says(setup: &Setup<'_>) {
    for (found, wanted) in launchers(&setup.admin, names::VM_NAMESPACE).await {
        assert_eq!(found, wanted);
    }
}

async fn its_vms_live_as_the_table_says(setup: &Setup<'_>) {
    for (found, wanted) in lived(setup).await {
        assert_eq!(found, wanted);
    }
}

async fn a_guest_finds_the_machine_of_its_vmi(setup: &Setup<'_>) {
    let vmi = setup.launch("whole", &json!({})).await;
    let running = setup.reaches(&vmi, "Running").await;
    let vm = setup.vm(&vmi).await;
    let launcher = setup.pods.get(vm.launcher()).await.unwrap();
    let address = launcher.status.unwrap().pod_ip.unwrap();
    let status = &running.data["status"];
    assert_eq!(status["interfaces"][0]["name"], "default");
    assert_eq!(status["interfaces"][0]["ipAddress"], address);
    assert_eq!(status["nodeName"], "node-1");

    let console = setup.says(&vm, "stand-in: ready").await;
    let own = console.lines().filter(|line| line.starts_with("stand-in: "));
    println!(
        "$ kubectl logs {}\n{}",
        vm.launcher(),
        own.collect::<Vec<_>>().join("\n")
    );
    let uuid = running.data["spec"]["domain"]["firmware"]["uuid"]
        .as_str()
        .unwrap();
    for found in [
        &format!("uuid {uuid}"),
        "cpus 1",
        "disk root sectors 2048",
        // 3 GiB.
        "disk scratch sectors 6291456",
        "disk seed sectors",
        "watchdog",
        "label cidata",
        &format!("meta-data: {{\"instance-id\":\"{uuid}\",\"local-hostname\":\"whole\"}}"),
        "user-data: #cloud-config",
        "network-config: version: 2",
    ] {
        assert!(
            console.contains(&format!("stand-in: {found}")),
            "{found} in {console}"
        );
    }
    let mtu = vm.shell("cat /sys/class/net/eth0/mtu").await.unwrap();
    assert!(
        console.contains(&format!("stand-in: mtu {mtu}")),
        "{mtu} in {console}"
    );
    // QEMU runs with these rights at most, for the launcher's monitor starts it: to bind low ports.
    let rights = vm
        .shell("grep -E '^(Uid|CapBnd|NoNewPrivs)' /proc/1/status")
        .await
        .unwrap();
    let words: Vec<_> = rights.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "Uid:",
            "107",
            "107",
            "107",
            "107",
            "CapBnd:",
            "0000000000000400",
            "NoNewPrivs:",
            "1"
        ]
    );
    setup.is_ready(&vmi).await;

    // From a pod on the other node, whose address the guest sees.
    let answer = setup
        .get_from_client(&format!("http://{address}:8080/hello"))
        .await;
    assert_eq!(answer, "this is whole");
    let client = setup.client_address().await;
    setup.says(&vm, &format!("{client}:")).await;
    assert!(vm.console().await.unwrap().contains("asks for /hello"));

    vm.pause().await.unwrap();
    assert!(
        setup
            .try_get_from_client(&format!("http://{address}:8080/paused"))
            .await
            .is_err()
    );
    vm.resume().await.unwrap();
    assert_eq!(
        setup
            .get_from_client(&format!("http://{address}:8080/resumed"))
            .await,
        "this is whole"
    );

    setup.delete(&vmi).await;
}

async fn a_disk_with_a_boot_sector_boots(setup: &Setup<'_>) {
    let vmi = setup
        .launch("disk", &json!({"domain": {"firmware": {"kernelBoot": null}}}))
        .await;
    setup.reaches(&vmi, "Running").await;
    setup
        .says(&setup.vm(&vmi).await, stand_in::BOOT_SECTOR_SAYS)
        .await;
    setup.delete(&vmi).await;
}
