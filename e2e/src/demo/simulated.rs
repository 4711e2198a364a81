//! The demo without root: everything is real but KubeVirt and the guests, which the harness simulates.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::screen::Screen;
use super::tour::{DemoEnv, Tour};
use super::{Options, tools};
use crate::harness::test_env::TestEnv;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs it on the calling thread.
pub fn run(options: Options) -> Result<()> {
    tools::prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(super::unless_interrupted(show(options)))
}

async fn show(options: Options) -> Result<()> {
    let screen = Arc::new(Screen::new());
    screen.begin("starting a control plane, webhook, reconciler and a fake KubeVirt with simulated VMs");
    let env = TestEnv::start(1).await?;
    let reconciler = env.reconciler(true).await?;
    screen.say("the cluster is up");
    screen.show("");
    let demo = DemoEnv {
        control_plane: env.control_plane(),
        admin: env.control_plane().admin().await?,
        screen: Arc::clone(&screen),
        limit: LIMIT,
    };
    let tour = Tour::start(demo, options.replicas).await?;
    tour.up().await?;
    tour.show().await?;
    screen.begin("waiting for the finished Job's VM to go by itself");
    tour.job_released().await?;
    screen.show("");
    if options.keep {
        tour.keep(&[]).await?;
    }
    tour.end().await?;
    drop(tour);
    reconciler.stop().await?;
    env.stop().await?;
    super::say_done(&screen);
    Ok(())
}
