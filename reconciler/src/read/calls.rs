//! Reads single objects and lists as views. kube's own calls decode an answer as a whole; where they cannot, they
//! write it to the log.

use axum::http;
use futures::AsyncReadExt;
use kube::Client;
use kube::api::{Api, GetParams, ListParams, Patch, PatchParams};
use kube::core::{Request, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Identity, Unreadable, View, object, sieve, typed};
use crate::api::{CallError, call};

/// Objects in the first page of a list. An object may be 1.5 MB and more.
const FIRST_PAGE: usize = 10;
/// The most objects in a page.
const LARGEST_PAGE: usize = 500;
/// The most bytes that a page should hold, estimated from the page before it.
const PAGE_BYTES: usize = 4 << 20;

/// The view of the object with this name, and its identity; `None` if the API server reports that it does not exist,
/// or if it is not one of ours.
///
/// # Errors
/// Any other answer. An object that cannot be read is an error too, because it exists.
pub async fn find<V: View, K: Clone + Resource>(
    api: &Api<K>,
    name: &str,
) -> Result<Option<(Identity, V)>, CallError> {
    let Some(json) = get(api, name).await? else {
        return Ok(None);
    };
    let (identity, view) = object::<V>(&json).map_err(|unreadable| unexpected::<V>(&unreadable))?;
    Ok(view.map(|view| (identity, view)))
}

/// The object of this name, whole except for its managed fields; `None` if the API server reports that it does not
/// exist.
///
/// # Errors
/// Any other answer, and an object that cannot be read.
pub async fn whole<K: Clone + Resource + DeserializeOwned>(
    api: &Api<K>,
    name: &str,
) -> Result<Option<K>, CallError> {
    let Some(json) = get(api, name).await? else {
        return Ok(None);
    };
    let read = typed(&json, &sieve::WHOLE);
    read.map(Some)
        .map_err(|error| CallError::Unexpected(format!("{name} cannot be read: {error}")))
}

/// Patches an object. Returns the patched object, and its view if there is one and it can be read.
///
/// # Errors
/// The patch was refused.
pub async fn patch<V: View, K: Clone + Resource + DeserializeOwned>(
    api: &Api<K>,
    name: &str,
    params: &PatchParams,
    patch: &Patch<()>,
) -> Result<(K, Option<V>), CallError> {
    let request = Request::new(api.resource_url()).patch(name, params, patch);
    let json = text(&client(api), request.map_err(kube::Error::BuildRequest)?).await?;
    let written = serde_json::from_str(&json).map_err(kube::Error::SerdeError)?;
    let view = object::<V>(&json).ok().and_then(|(_, view)| view);
    Ok((written, view))
}

/// The result of a list.
#[derive(Debug)]
pub struct Listed<V> {
    /// The objects that could be read.
    pub items: Vec<(Identity, V)>,
    /// The objects that exist but could not be read.
    pub unreadable: Vec<Unreadable>,
    /// The version of the list.
    pub resource_version: String,
}

/// Lists all objects of a kind, each read separately.
///
/// # Errors
/// The first page that cannot be read.
pub async fn list<V: View, K: Clone + Resource>(
    api: &Api<K>,
    params: &ListParams,
) -> Result<Listed<V>, CallError> {
    let (mut pages, mut listed) = (Pages::new(api, params), Listed::default());
    while let Some(page) = pages.next::<V>().await? {
        listed.items.extend(page.items);
        listed.unreadable.extend(page.unreadable);
        listed.resource_version = page.resource_version;
    }
    Ok(listed)
}

/// A list, page by page, so that a large cluster is never in memory as a whole. All pages show the same moment.
pub struct Pages {
    client: Client,
    request: Request,
    /// Parameters of the next page; `None` after the last.
    params: Option<ListParams>,
    limit: usize,
}

impl Pages {
    /// Prepares the list; sends no request yet.
    #[must_use]
    pub fn new<K: Clone + Resource>(api: &Api<K>, params: &ListParams) -> Self {
        Self {
            client: client(api),
            request: Request::new(api.resource_url()),
            params: Some(params.clone()),
            limit: FIRST_PAGE,
        }
    }

    /// The next page; `None` after the last. Its version is the list's.
    ///
    /// # Errors
    /// The page cannot be read.
    pub async fn next<V: View>(&mut self) -> Result<Option<Listed<V>>, CallError> {
        let Some(params) = &mut self.params else {
            return Ok(None);
        };
        params.limit = u32::try_from(self.limit).ok();
        let request = self.request.list(params).map_err(kube::Error::BuildRequest)?;
        let json = text(&self.client, request).await?;
        let mut page = Listed::default();
        let (meta, items) = page.add_page(&json)?;
        self.limit = next_page(self.limit, items, json.len());
        page.resource_version = meta.resource_version;
        match meta.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => self.params = None,
        }
        Ok(Some(page))
    }
}

impl<V: View> Listed<V> {
    /// Adds a page; returns its metadata and the number of objects in it.
    pub(super) fn add_page(&mut self, json: &str) -> Result<(PageMeta, usize), CallError> {
        let page: Page = serde_json::from_str(json)
            .map_err(|error| CallError::Unexpected(format!("not a list: {error}")))?;
        let items = page.items.unwrap_or_default();
        for item in &items {
            match object(item.get()) {
                Ok((identity, Some(view))) => self.items.push((identity, view)),
                Ok((_, None)) => {}
                Err(unreadable) => self.unreadable.push(unreadable),
            }
        }
        Ok((page.metadata, items.len()))
    }
}

impl<V> Default for Listed<V> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            unreadable: Vec::new(),
            resource_version: String::new(),
        }
    }
}

/// How many objects to request next, after a page of `items` objects in `bytes` bytes.
fn next_page(limit: usize, items: usize, bytes: usize) -> usize {
    let fit = PAGE_BYTES.saturating_mul(items) / bytes.max(1);
    fit.clamp(1, limit.saturating_mul(4)).min(LARGEST_PAGE)
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(rename = "continue")]
    continue_: Option<String>,
}

pub(super) fn client<K: Clone + Resource>(api: &Api<K>) -> Client {
    api.clone().into_client()
}

async fn get<K: Clone + Resource>(api: &Api<K>, name: &str) -> Result<Option<String>, CallError> {
    let request = Request::new(api.resource_url()).get(name, &GetParams::default());
    match text(&client(api), request.map_err(kube::Error::BuildRequest)?).await {
        Err(error) if error.is_gone() => Ok(None),
        answer => answer.map(Some),
    }
}

/// The answer's text. Bytes that are not UTF-8 become replacement characters, so that they harm one object at most.
async fn text(client: &Client, request: http::Request<Vec<u8>>) -> Result<String, CallError> {
    call(async {
        let mut answer = std::pin::pin!(client.request_stream(request).await?);
        let mut body = Vec::new();
        answer
            .read_to_end(&mut body)
            .await
            .map_err(kube::Error::ReadEvents)?;
        Ok(lossless_or_marked(body))
    })
    .await
}

fn lossless_or_marked(body: Vec<u8>) -> String {
    String::from_utf8(body).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn unexpected<V: View>(unreadable: &Unreadable) -> CallError {
    CallError::Unexpected(format!("{}: {unreadable}", V::KIND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_follows_the_size_of_objects() {
        // Pods of 1.15 MB: few at a time. Small objects: soon many.
        assert_eq!(next_page(FIRST_PAGE, 10, 11_500_000), 3);
        assert_eq!(next_page(3, 3, 3_450_000), 3);
        assert_eq!(next_page(10, 10, 30_000), 40);
        assert_eq!(next_page(400, 400, 1_200_000), 500);
        assert_eq!(next_page(10, 0, 100), 1);
    }

    #[test]
    fn invalid_utf8_does_not_spoil_the_whole_answer() {
        let body = b"{\"items\": [{\"a\": \"\xff\"}, {\"b\": 1}]}".to_vec();
        let text = lossless_or_marked(body);
        let page: Page = serde_json::from_str(&text).unwrap();
        assert_eq!(page.items.unwrap().len(), 2);
    }
}
