//! Connections that misbehave, protocols, and the server's end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use maroonedpods_testing::{GIVE_UP, until};
use maroonedpods_webhook::Args;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod support;
use support::server::{Identity, Running, SecretVolume, connect, exchange, get_plain, mutate, post};
use support::{UID, creation, ordinary_pod, written};

#[tokio::test]
async fn a_stopped_webhook_is_unready_and_serves_until_the_delay_is_over() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let mut webhook = Running::start(Args {
        shutdown_delay: Duration::from_secs(5),
        ..volume.args()
    })
    .await;
    let addr = webhook.addr;
    assert!(
        get_plain(webhook.metrics_addr, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );

    webhook.stop();
    let metrics_addr = webhook.metrics_addr;
    until("/readyz says 503", async || {
        get_plain(metrics_addr, "/readyz")
            .await
            .starts_with("HTTP/1.1 503")
    })
    .await;
    let answer = mutate(addr, &identity).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(UID),
        "{answer}"
    );

    webhook.ended().await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_end() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let mut webhook = Running::start(volume.args()).await;
    let request = post(&written(&creation(&ordinary_pod())));
    let (first, rest) = request.split_at(request.len() - 10);
    let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    stream.write_all(first.as_bytes()).await.unwrap();
    let inflight = "maroonedpods_webhook_admission_inflight";
    until("the request is in flight", async || {
        webhook.metric(inflight).await > 0.5
    })
    .await;

    webhook.stop();
    let addr = webhook.addr;
    until("no connection is accepted", async || {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
    assert!(exchange(stream, rest).await.contains(UID));
    webhook.ended().await.unwrap();
}

#[tokio::test]
async fn dropping_the_future_ends_everything() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();

    webhook.task.abort();
    assert!(webhook.task.await.unwrap_err().is_cancelled());
    let mut rest = Vec::new();
    let read = tokio::time::timeout(GIVE_UP, stream.read_to_end(&mut rest)).await;
    read.expect("the connection outlives the webhook").ok();
    assert!(TcpStream::connect(webhook.addr).await.is_err());
    assert!(TcpStream::connect(webhook.metrics_addr).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_a_new_one() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(Args {
        max_connections: 1,
        ..volume.args()
    })
    .await;
    let mut first = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    assert!(mutate(webhook.addr, &identity).await.contains(UID));
    let read = tokio::time::timeout(GIVE_UP, first.read_to_end(&mut Vec::new())).await;
    assert!(read.is_ok(), "the idle one is still open");
    let shed = "maroonedpods_webhook_shed_connections_total";
    assert!(webhook.metric(shed).await > 0.5);
}

/// A server that speaks HTTP/2 sends its settings first.
#[tokio::test]
async fn the_plain_port_does_not_speak_http_2() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let stream = TcpStream::connect(webhook.metrics_addr).await.unwrap();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let answer = tokio::time::timeout(GIVE_UP, exchange(stream, preface))
        .await
        .unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer:?}"
    );
}

/// The server sends GOAWAY, so that the client sends no request into a connection that is about to close.
#[tokio::test]
async fn an_idle_http_2_connection_gets_goaway() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(Args {
        max_connections: 4,
        ..volume.args()
    })
    .await;
    let mut idle = connect(webhook.addr, &[&identity], &[&TLS13], &["h2"]).await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    // The server's settings have come: the connection speaks HTTP/2 by now.
    idle.read_exact(&mut [0; 9]).await.unwrap();
    let mut younger = Vec::new();
    for _ in 0..3 {
        younger.push(connect(webhook.addr, &[&identity], &[&TLS13], &[]).await);
    }
    assert!(mutate(webhook.addr, &identity).await.contains(UID));
    let mut heard = Vec::new();
    let mut goaway = |bytes: &[u8]| {
        heard.extend_from_slice(bytes);
        heard
            .windows(9)
            .any(|head| head[..3] == [0, 0, 8] && head[3] == 7)
    };
    let mut part = [0; 256];
    tokio::time::timeout(GIVE_UP, async {
        loop {
            let read = idle.read(&mut part).await.unwrap();
            assert!(read > 0, "closed without GOAWAY");
            if goaway(&part[..read]) {
                return;
            }
        }
    })
    .await
    .expect("no GOAWAY");
}

#[tokio::test]
async fn a_connection_that_stalls_is_closed() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(Args {
        idle_timeout: Duration::from_secs(1),
        ..volume.args()
    })
    .await;
    let closed = async |start: &'static str| {
        let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let read = tokio::time::timeout(GIVE_UP, stream.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "still open after {start:?}");
    };
    let handshake = async {
        let mut stream = TcpStream::connect(webhook.addr).await.unwrap();
        let read = tokio::time::timeout(GIVE_UP, stream.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "still open before the handshake");
    };
    // Silence; the beginning of an HTTP/2 preface; half a header.
    tokio::join!(
        handshake,
        closed(""),
        closed("PRI * HTTP"),
        closed("POST /mutate HTTP/1.1\r\nHost: localhost\r\nA:")
    );
}

/// The API server sends its next request on a connection that has been idle for up to 90 s: what closes meanwhile takes
/// the request with it.
#[tokio::test]
async fn an_idle_connection_outlives_what_a_handshake_may_take() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let unused = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    let mut used = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    let health = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    used.write_all(health).await.unwrap();
    assert!(used.read(&mut [0; 1024]).await.unwrap() > 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    for stream in [unused, used] {
        let answer = exchange(stream, &post(&written(&creation(&ordinary_pod())))).await;
        assert!(answer.contains(UID), "{answer}");
    }
}

#[tokio::test]
async fn a_large_body_is_answered_not_reset() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;
    let mut review = creation(&ordinary_pod());
    review["request"]["object"]["status"] = "x".repeat(20_000_000).into();
    let stream = connect(webhook.addr, &[&identity], &[&TLS13], &[]).await;
    let answer = exchange(stream, &post(&written(&review))).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(UID) && answer.contains("8 MiB"),
        "{answer}"
    );
}

#[tokio::test]
async fn http_2_and_tls_1_2_are_spoken() {
    let identity = Identity::new();
    let volume = SecretVolume::of(&identity);
    let webhook = Running::start(volume.args()).await;

    let mut stream = connect(webhook.addr, &[&identity], &[&TLS13], &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5); the server's come back.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 0x04);

    let stream = connect(webhook.addr, &[&identity], &[&TLS12], &[]).await;
    assert!(
        exchange(stream, &post(&written(&creation(&ordinary_pod()))))
            .await
            .contains(UID)
    );
}
