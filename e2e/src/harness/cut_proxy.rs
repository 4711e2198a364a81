//! A proxy to the API server that cuts the connection after a number of writes, so that a test can kill a program at each
//! of them.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

const MAX_BODY: usize = 8 << 20;

/// The proxy. To the API server, every program behind it is the proxy's own client.
///
/// The last write reaches the API server and its answer does not reach the program; nothing passes after that. A request
/// that the API server refuses does not count as a write: a repeated one is answered "exists already" or "not found".
/// Writes for people to read (events, counts on the configuration) pass uncounted: a crash after them loses nothing.
pub struct CutProxy {
    /// A kubeconfig whose server is the proxy.
    pub kubeconfig: PathBuf,
    state: Arc<ProxyState>,
    serving: JoinHandle<()>,
}

struct ProxyState {
    client: Client,
    writes_left: Mutex<u32>,
    cut: watch::Sender<bool>,
}

impl CutProxy {
    /// Starts a proxy that passes `writes` writes (at least 1), with its kubeconfig in `folder`.
    pub async fn open(client: Client, folder: &Path, writes: u32) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let kubeconfig = folder.join(format!("proxy-{}.kubeconfig", address.port()));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        let state = Arc::new(ProxyState {
            client,
            writes_left: Mutex::new(writes),
            cut: watch::Sender::new(false),
        });
        let app = Router::new().fallback(carry).with_state(state.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "a proxy failed");
            }
        });
        Ok(Self {
            kubeconfig,
            state,
            serving,
        })
    }

    /// Resolves when the last write was made.
    pub async fn cut(&self) {
        // The sender lives as long as the proxy.
        let _: Result<_, _> = self.state.cut.subscribe().wait_for(|cut| *cut).await;
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.state.cut.send_replace(true);
        self.serving.abort();
    }
}

async fn carry(State(state): State<Arc<ProxyState>>, request: Request) -> Result<Response<Body>, Infallible> {
    let answer = if is_write(&request) {
        // One write at a time. The last one never releases the lock, so later writes wait for ever.
        let mut writes_left = state.writes_left.lock().await;
        let answer = forward(&state.client, request).await;
        if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            *writes_left -= 1;
        }
        if *writes_left == 0 {
            state.cut.send_replace(true);
            return std::future::pending().await;
        }
        answer
    } else {
        forward(&state.client, request).await
    };
    if *state.cut.borrow() {
        return std::future::pending().await;
    }
    Ok(answer.unwrap_or_else(|error| {
        let mut bad = Response::new(Body::from(format!("{error:#}")));
        *bad.status_mut() = StatusCode::BAD_GATEWAY;
        bad
    }))
}

fn is_write(request: &Request) -> bool {
    let path = request.uri().path();
    let is_tried = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("dryRun=All"));
    let stores_nothing = is_tried || path.starts_with("/apis/authorization.k8s.io/");
    let for_people = path.contains("/events") || path.contains("/maroonedpodsconfigs/");
    request.method() != Method::GET && !stores_nothing && !for_people
}

async fn forward(client: &Client, request: Request) -> Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut onward = http::Request::builder().method(parts.method).uri(target);
    if let Some(headers) = onward.headers_mut() {
        *headers = end_to_end(parts.headers);
    }
    let body = to_bytes(body, MAX_BODY).await?;
    let (mut parts, body) = client.send(onward.body(body.into())?).await?.into_parts();
    parts.headers = end_to_end(parts.headers);
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// The headers without those that belong to one connection, or to the message's form on it.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for hop in [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(hop);
    }
    headers
}
