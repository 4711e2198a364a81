//! The webhook is attacked from the API server's own address, while pods are created: none of them fails.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use maroonedpods_e2e::check::eventually;
use maroonedpods_e2e::load::Load;
use maroonedpods_e2e::logs::logs;
use maroonedpods_e2e::world::World;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

#[path = "../../webhook/tests/support/attack.rs"]
#[allow(dead_code)]
mod attack;
use attack::Attack;

const RATE: u32 = 200;
const LASTS: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn creates_go_on_under_attack() {
    logs();
    let world = World::start(0).await.unwrap();
    let authority = CertificateDer::from_pem_slice(world.plane().ca_pem().as_bytes()).unwrap();
    let attack = Attack::on(world.webhook_address(), "127.0.0.1", authority)
        .with_idle(1100)
        .with_unfinished_bodies(40)
        .with_unfinished_old_bodies(20)
        .with_unfinished_headers(20);
    eventually("all attackers to have been there", SOON, || async {
        Ok((attack.connected() >= 1180).then_some(()))
    })
    .await
    .unwrap();
    let admin = world.plane().admin().await.unwrap();
    let load = Load::start(&admin, RATE).await.unwrap();
    tokio::time::sleep(LASTS).await;
    let outcome = load.stop().await.unwrap();
    println!("{outcome}; attackers connected {} times", attack.connected());
    outcome.check().unwrap();
    drop(attack);
    world.stop().await.unwrap();
}
